// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/jackc/pgx/v5/stdlib"
)

// copyIn is Dialect's Copy. COPY writes the rows of a page with one entry of the log, and its
// binary form costs neither side a parser: 15 index entries of a file take half the time
// that INSERT … SELECT FROM unnest needs. It is written here, as pgx's own copying boxes
// each value.
func copyIn(ctx context.Context, raw any, into string, cols []any) error {
	c, ok := raw.(*stdlib.Conn)
	if !ok {
		return fmt.Errorf("copy: connection is a %T", raw)
	}
	body, err := copyBody(cols)
	if err != nil {
		return err
	}
	_, err = c.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(body), "COPY "+into+" FROM STDIN (FORMAT binary)")
	return err
}

// copyBody writes columns in COPY's binary format: a header, for each row its number of
// fields, each with its length before it, and -1 at the end.
func copyBody(cols []any) ([]byte, error) {
	rows, size := -1, 0
	for _, col := range cols {
		n := 0
		switch col := col.(type) {
		case []int64:
			n, size = len(col), size+len(col)*12
		case []bool:
			n, size = len(col), size+len(col)*5
		case []string:
			n = len(col)
			for _, s := range col {
				size += 4 + len(s)
			}
		default:
			return nil, fmt.Errorf("copy: column is a %T", col)
		}
		if rows >= 0 && n != rows {
			return nil, fmt.Errorf("copy: columns of %d and %d rows", rows, n)
		}
		rows = n
	}
	const header = "PGCOPY\n\377\r\n\000" + "\000\000\000\000" + "\000\000\000\000"
	out := append(make([]byte, 0, len(header)+2*rows+size+2), header...)
	for i := range rows {
		out = binary.BigEndian.AppendUint16(out, uint16(len(cols)))
		for _, col := range cols {
			switch col := col.(type) {
			case []int64:
				out = binary.BigEndian.AppendUint32(out, 8)
				out = binary.BigEndian.AppendUint64(out, uint64(col[i]))
			case []bool:
				out = append(out, 0, 0, 0, 1, 0)
				if col[i] {
					out[len(out)-1] = 1
				}
			case []string:
				out = binary.BigEndian.AppendUint32(out, uint32(len(col[i])))
				out = append(out, col[i]...)
			}
		}
	}
	return append(out, 0xff, 0xff), nil
}
