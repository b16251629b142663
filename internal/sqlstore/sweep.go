// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"panal/internal/plat"
)

// SweepOrg deletes every row of an organization from every table that has a column
// org_id, except its tokens and users (deleted with the organization's own row) and
// its audit, which outlives it. Domains purge what they know before; this finds what
// a domain forgot, so that a table that is added is never left behind. Rows that
// others refer to go after those, and with what only refers to them; ErrConflict names
// a table that can't be emptied.
func SweepOrg(ctx context.Context, db *DB, org plat.OrgID) error {
	tables, err := orgTables(ctx, db)
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	for len(tables) > 0 {
		var stuck []string
		for _, t := range tables {
			refs, err := references(ctx, db, t)
			if err != nil {
				return fmt.Errorf("list what refers to %s: %w", t, err)
			}
			err = db.Write(ctx, func(tx *Tx) error {
				for _, stmt := range append(refs, `DELETE FROM `+t+` WHERE org_id = $1`) {
					if _, err := tx.ExecContext(ctx, stmt, string(org)); err != nil {
						return err
					}
				}
				return nil
			})
			switch {
			case errors.Is(err, plat.ErrConflict):
				stuck = append(stuck, t)
			case err != nil:
				return fmt.Errorf("sweep %s: %w", t, err)
			}
		}
		if len(stuck) == len(tables) {
			return plat.Errorf(plat.ErrConflict, "rows of organization %s in %s are still referred to", org, strings.Join(stuck, ", "))
		}
		tables = stuck
	}
	return nil
}

// references returns statements that delete what refers to an organization's rows of
// a table and does not say itself whose it is (a link between two records). $1 is the
// organization.
func references(ctx context.Context, db *DB, table string) ([]string, error) {
	query := `SELECT m.name, fk."from", fk."to" FROM sqlite_master m JOIN pragma_foreign_key_list(m.name) fk
		WHERE m.type = 'table' AND '"' || fk."table" || '"' = $1
		AND NOT EXISTS (SELECT 1 FROM pragma_table_info(m.name) c WHERE c.name = 'org_id') ORDER BY m.name`
	if db.dialect.Name == "postgres" {
		query = `SELECT child.relname, f.attname, t.attname FROM pg_constraint k
			JOIN pg_class child ON child.oid = k.conrelid
			JOIN pg_attribute f ON f.attrelid = k.conrelid AND f.attnum = k.conkey[1]
			JOIN pg_attribute t ON t.attrelid = k.confrelid AND t.attnum = k.confkey[1]
			WHERE k.contype = 'f' AND cardinality(k.conkey) = 1 AND k.confrelid = $1::regclass
			AND NOT EXISTS (SELECT 1 FROM pg_attribute o WHERE o.attrelid = k.conrelid AND o.attname = 'org_id' AND NOT o.attisdropped)
			ORDER BY child.relname`
	}
	return scanAll(ctx, db, db.Read(), func(r interface{ Scan(...any) error }) (string, error) {
		var child, from, to string
		err := r.Scan(&child, &from, &to)
		return fmt.Sprintf(`DELETE FROM "%s" WHERE "%s" IN (SELECT "%s" FROM %s WHERE org_id = $1)`, child, from, to, table), err
	}, query, table)
}

// orgTables lists the tables that SweepOrg empties. Their names are the migrations'.
func orgTables(ctx context.Context, db *DB) ([]string, error) {
	query := `SELECT m.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' AND c.name = 'org_id' ORDER BY m.name`
	if db.dialect.Name == "postgres" {
		query = `SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
			WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
			AND a.attname = 'org_id' AND NOT a.attisdropped ORDER BY c.relname`
	}
	all, err := scanAll(ctx, db, db.Read(), func(r interface{ Scan(...any) error }) (string, error) {
		var name string
		err := r.Scan(&name)
		return name, err
	}, query)
	if err != nil {
		return nil, err
	}
	kept := map[string]bool{"audit": true, "person": true, "token": true}
	out := all[:0]
	for _, name := range all {
		if !kept[name] {
			out = append(out, `"`+name+`"`)
		}
	}
	return out, nil
}
