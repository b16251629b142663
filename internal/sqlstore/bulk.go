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
// texts for the engine to prepare.
func (tx *Tx) insert(ctx context.Context, into, lead string, width int, args []any) error {
	for rows := 256; len(args) > 0; rows /= 2 {
		for n := rows * width; len(args) >= n; args = args[n:] {
			stmt := "INSERT INTO " + into + " VALUES " + tx.db.dialect.values(lead, rows, width)
			if _, err := tx.exec(ctx, stmt, args[:n]...); err != nil {
				return err
			}
		}
	}
	return nil
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
