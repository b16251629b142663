// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"time"

	"panal/internal/authn"
	"panal/internal/org"
	"panal/internal/plat"
)

var (
	_ org.DatasourceStore = (*Orgs)(nil)
	_ org.IPRuleStore     = (*Orgs)(nil)
)

const datasourceColumns = `d.id, d.org_id, d.display_name, d.sealed, d.key_id, d.created_at, d.updated_at`

func scanDatasource(r interface{ Scan(...any) error }) (org.Datasource, error) {
	var d org.Datasource
	var created, updated int64
	err := r.Scan(&d.ID, &d.Org, &d.DisplayName, &d.Sealed, &d.KeyID, &created, &updated)
	d.CreatedAt, d.UpdatedAt = fromMicros(created), fromMicros(updated)
	return d, err
}

func (db *DB) datasource(ctx context.Context, q Querier, o plat.OrgID, id plat.DatasourceID) (org.Datasource, error) {
	return first(scanAll(ctx, db, q, scanDatasource,
		`SELECT `+datasourceColumns+` FROM datasource d WHERE d.id = $1 AND d.org_id = $2`, string(id), string(o)))("datasource", id)
}

// linksOf returns the channels of a datasource in byte order: authz searches them.
func (s *Orgs) linksOf(ctx context.Context, id plat.DatasourceID) ([]plat.ChannelID, error) {
	return scanAll(ctx, s.db, s.db.Read(), func(r interface{ Scan(...any) error }) (c plat.ChannelID, err error) {
		err = r.Scan(&c)
		return c, err
	}, `SELECT channel_id FROM datasource_link WHERE datasource_id = $1 ORDER BY channel_id`, string(id))
}

// CreateDatasource implements org.DatasourceStore.
func (s *Orgs) CreateDatasource(ctx context.Context, d org.Datasource, hash string) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO datasource (id, org_id, display_name, sealed, key_id, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			string(d.ID), string(d.Org), d.DisplayName, d.Sealed, d.KeyID, micros(d.CreatedAt), micros(d.UpdatedAt))
		if err != nil {
			return err
		}
		return tx.createToken(ctx, authn.Token{Hash: hash, Kind: authn.KindDatasource, Org: d.Org, Datasource: d.ID, CreatedAt: d.CreatedAt})
	})
}

// Datasource implements org.DatasourceStore.
func (s *Orgs) Datasource(ctx context.Context, o plat.OrgID, id plat.DatasourceID) (org.Datasource, error) {
	return s.db.datasource(ctx, s.db.Read(), o, id)
}

// Datasources implements org.DatasourceStore.
func (s *Orgs) Datasources(ctx context.Context, o plat.OrgID, c plat.ChannelID, p org.Page) ([]org.Datasource, error) {
	if c == "" {
		return scanAll(ctx, s.db, s.db.Read(), scanDatasource,
			`SELECT `+datasourceColumns+` FROM datasource d WHERE d.org_id = $1 ORDER BY d.created_at, d.id LIMIT $2 OFFSET $3`, string(o), p.Limit, p.Offset)
	}
	return scanAll(ctx, s.db, s.db.Read(), scanDatasource,
		`SELECT `+datasourceColumns+` FROM datasource_link l JOIN datasource d ON d.id = l.datasource_id
		 WHERE l.channel_id = $1 AND d.org_id = $2 ORDER BY d.created_at, d.id LIMIT $3 OFFSET $4`, string(c), string(o), p.Limit, p.Offset)
}

// RenameDatasource implements org.DatasourceStore.
func (s *Orgs) RenameDatasource(ctx context.Context, o plat.OrgID, id plat.DatasourceID, name string, at time.Time) (d org.Datasource, err error) {
	err = s.db.Write(ctx, func(tx *Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE datasource SET display_name = $1, updated_at = $2 WHERE id = $3 AND org_id = $4`, name, micros(at), string(id), string(o)); err != nil {
			return err
		}
		d, err = s.db.datasource(ctx, tx, o, id)
		return err
	})
	return d, err
}

// DeleteDatasource implements org.DatasourceStore.
func (s *Orgs) DeleteDatasource(ctx context.Context, o plat.OrgID, id plat.DatasourceID) (d org.Datasource, err error) {
	err = s.db.Write(ctx, func(tx *Tx) error {
		// A link that another transaction is making holds the row, or waits for this.
		if d, err = tx.holdDatasource(ctx, o, id); err != nil {
			return err
		}
		for _, stmt := range []string{
			`DELETE FROM token WHERE datasource_id = $1 AND kind = 'datasource'`,
			`DELETE FROM datasource_link WHERE datasource_id = $1`,
			`DELETE FROM datasource WHERE id = $1`,
		} {
			if _, err := tx.ExecContext(ctx, stmt, string(id)); err != nil {
				return err
			}
		}
		return nil
	})
	return d, err
}

// holdDatasource reads a datasource and keeps others from changing it until the
// transaction ends.
func (tx *Tx) holdDatasource(ctx context.Context, o plat.OrgID, id plat.DatasourceID) (org.Datasource, error) {
	if _, err := tx.ExecContext(ctx, `UPDATE datasource SET updated_at = updated_at WHERE id = $1 AND org_id = $2`, string(id), string(o)); err != nil {
		return org.Datasource{}, err
	}
	return tx.db.datasource(ctx, tx, o, id)
}

// Link implements org.DatasourceStore.
func (s *Orgs) Link(ctx context.Context, o plat.OrgID, c plat.ChannelID, id plat.DatasourceID, at time.Time) (d org.Datasource, err error) {
	err = s.db.Write(ctx, func(tx *Tx) error {
		if d, err = tx.holdDatasource(ctx, o, id); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO datasource_link (channel_id, datasource_id, created_at) VALUES ($1, $2, $3)`, string(c), string(id), micros(at))
		return err
	})
	return d, err
}

// Unlink implements org.DatasourceStore.
func (s *Orgs) Unlink(ctx context.Context, o plat.OrgID, c plat.ChannelID, id plat.DatasourceID) (d org.Datasource, err error) {
	err = s.db.Write(ctx, func(tx *Tx) error {
		if d, err = tx.holdDatasource(ctx, o, id); err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `DELETE FROM datasource_link WHERE channel_id = $1 AND datasource_id = $2`, string(c), string(id))
		if err != nil {
			return err
		}
		return mustAffect(res, "link of datasource "+string(id)+" to channel", c)
	})
	return d, err
}

// DatasourcesNotSealedBy implements org.DatasourceStore.
func (s *Orgs) DatasourcesNotSealedBy(ctx context.Context, key string, after plat.DatasourceID, limit int) ([]org.Datasource, error) {
	return scanAll(ctx, s.db, s.db.Read(), scanDatasource,
		`SELECT `+datasourceColumns+` FROM datasource d WHERE d.id > $1 AND d.key_id <> $2 ORDER BY d.id LIMIT $3`, string(after), key, limit)
}

// ResealDatasource implements org.DatasourceStore.
func (s *Orgs) ResealDatasource(ctx context.Context, d org.Datasource, sealed []byte, key string) (done bool, err error) {
	err = s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE datasource SET sealed = $1, key_id = $2 WHERE id = $3 AND sealed = $4`, sealed, key, string(d.ID), d.Sealed)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		done = n == 1
		return err
	})
	return done, err
}

// DatasourceKeys implements org.DatasourceStore.
func (s *Orgs) DatasourceKeys(ctx context.Context) (map[string]int, error) {
	return countBy[string](ctx, s.db, `SELECT key_id, COUNT(*) FROM datasource GROUP BY key_id`)
}
