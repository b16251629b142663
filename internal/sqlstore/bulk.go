// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"strconv"
	"strings"
)

// insert adds rows of width values each to a table, with as few statements as
// pay. into names the table and its columns; lead is SQL before the placeholders
// of each row. Row counts are powers of two, so that there are few different
// texts for the engine to prepare. Where the engine takes arrays there is one text for
// any number of rows.
func (tx *Tx) insert(ctx context.Context, into, lead string, width int, args []any) error {
	if tx.db.dialect.Unnest && len(args) > width {
		if cols, names := columns(width, args); cols != nil {
			return tx.insertColumns(ctx, into, lead, names, len(args)/width, cols)
		}
	}
	return inPowers(args, width, func(rows int, args []any) error {
		_, err := tx.exec(ctx, "INSERT INTO "+into+" VALUES "+tx.db.dialect.values(lead, rows, width), args...)
		return err
	})
}

// delete removes the rows of a table whose key, columns of it, is one of those given.
func (tx *Tx) delete(ctx context.Context, from, key string, width int, args []any) error {
	return inPowers(args, width, func(rows int, args []any) error {
		_, err := tx.exec(ctx, "DELETE FROM "+from+" WHERE ("+key+") IN (VALUES "+tx.db.dialect.values("", rows, width)+")", args...)
		return err
	})
}

// inPowers calls do with rows of width values each, a power of two of them at a time, so
// that there are few different texts.
func inPowers(args []any, width int, do func(rows int, args []any) error) error {
	for rows := 256; len(args) > 0; rows /= 2 {
		for n := rows * width; len(args) >= n; args = args[n:] {
			if err := do(rows, args[:n]); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyFrom is the number of rows from which copying them is faster than one statement.
const copyFrom = 64

// insertColumns is insert of n rows as one array for each column; names are the arrays'
// placeholders with their types.
func (tx *Tx) insertColumns(ctx context.Context, into, lead, names string, n int, cols []any) error {
	if tx.db.dialect.Copy != nil && lead == "" && n >= copyFrom {
		return tx.conn.Raw(func(raw any) error { return tx.db.dialect.Copy(ctx, raw, into, cols) })
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO "+into+" SELECT "+lead+"u.* FROM unnest("+names+") AS u", cols...)
	return err
}

// columns turns rows into one array for each column, and writes their placeholders;
// nil when a column is of another type than number, text or truth, or of several.
func columns(width int, args []any) (cols []any, placeholders string) {
	var b strings.Builder
	for i := range width {
		var col any
		var typ string
		switch args[i].(type) {
		case int64:
			col, typ = column[int64](i, width, args), "bigint[]"
		case string:
			col, typ = column[string](i, width, args), "text[]"
		case bool:
			col, typ = column[bool](i, width, args), "boolean[]"
		}
		if col == nil {
			return nil, ""
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("$" + strconv.Itoa(i+1) + "::" + typ)
		cols = append(cols, col)
	}
	return cols, b.String()
}

// column returns the i-th value of each row, or nil when one is no T.
func column[T any](i, width int, args []any) any {
	out := make([]T, 0, len(args)/width)
	for ; i < len(args); i += width {
		v, ok := args[i].(T)
		if !ok {
			return nil
		}
		out = append(out, v)
	}
	return out
}

// values writes "(lead $1, $2), (lead $3, $4)".
func (d *Dialect) values(lead string, rows, width int) string {
	var b strings.Builder
	for i := range rows {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('(')
		b.WriteString(lead)
		for j := range width {
			if j > 0 {
				b.WriteByte(',')
			}
			if d.Positional {
				b.WriteByte('?')
			} else {
				b.WriteByte('$')
				b.WriteString(strconv.Itoa(i*width + j + 1))
			}
		}
		b.WriteByte(')')
	}
	return b.String()
}

// sqlArgs gathers the arguments of a statement that is written piece by piece.
type sqlArgs struct{ list []any }

// add returns the placeholder of v.
func (a *sqlArgs) add(v any) string {
	a.list = append(a.list, v)
	return "$" + strconv.Itoa(len(a.list))
}

// probe writes what comes behind FROM so that a statement has the rows of table whose
// column is one of values, as alias; within ("channel = $1") and the column are what an
// index has. Where the engine takes arrays each value is looked up on its own whatever
// its statistics say: of a channel that was empty when they were gathered it would
// rather read all rows than look up a few hundred.
func (a *sqlArgs) probe(d *Dialect, table, alias, within, column string, values []string) string {
	if d.Unnest {
		return `unnest(` + a.add(values) + `::text[]) AS probe(value) CROSS JOIN LATERAL
			(SELECT * FROM ` + table + ` WHERE ` + within + ` AND ` + column + ` = probe.value OFFSET 0) AS ` + alias
	}
	marks := make([]string, len(values))
	for i, v := range values {
		marks[i] = a.add(v)
	}
	return `(SELECT * FROM ` + table + ` WHERE ` + within + ` AND ` + column + ` IN (` + strings.Join(marks, ",") + `)) AS ` + alias
}
