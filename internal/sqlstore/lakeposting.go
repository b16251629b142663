// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"panal/internal/lake"
)

// postingRow is a row of the table posting.
type postingRow struct {
	channel    int64
	key, token string
	at         int64
	whole      bool
	expires    int64
	sig        int64
}

func appendPostings(rows []postingRow, num, at, expires int64, terms []lake.Term) []postingRow {
	sig := lake.Signature(terms)
	rows = slices.Grow(rows, len(terms))
	for _, t := range terms {
		rows = append(rows, postingRow{num, t.Key, t.Token, at, t.Whole, expires, sig})
	}
	return rows
}

// inOrder returns the rows in the order of the index: neighbours land on one page.
func inOrder(rows []postingRow) []*postingRow {
	out := make([]*postingRow, len(rows)) // to sort the rows themselves would move them, often
	for i := range rows {
		out[i] = &rows[i]
	}
	slices.SortFunc(out, func(a, b *postingRow) int {
		if c := cmp.Compare(a.channel, b.channel); c != 0 {
			return c
		}
		if c := strings.Compare(a.key, b.key); c != 0 {
			return c
		}
		if c := strings.Compare(a.token, b.token); c != 0 {
			return c
		}
		return cmp.Compare(a.at, b.at)
	})
	return out
}

func insertPostings(ctx context.Context, tx *Tx, rows []postingRow) error {
	return insertSorted(ctx, tx, inOrder(rows))
}

// insertSorted is insertPostings of rows that are in order.
func insertSorted(ctx context.Context, tx *Tx, rows []*postingRow) error {
	const table, width = "posting (channel, key, token, at, whole, expires_at, sig)", 7
	if tx.db.dialect.Unnest {
		return tx.insertColumns(ctx, table, "", "$1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::boolean[], $6::bigint[], $7::bigint[]", len(rows), []any{
			each(rows, func(r *postingRow) int64 { return r.channel }), each(rows, func(r *postingRow) string { return r.key }),
			each(rows, func(r *postingRow) string { return r.token }), each(rows, func(r *postingRow) int64 { return r.at }),
			each(rows, func(r *postingRow) bool { return r.whole }), each(rows, func(r *postingRow) int64 { return r.expires }),
			each(rows, func(r *postingRow) int64 { return r.sig }),
		})
	}
	args := make([]any, 0, width*len(rows))
	for _, r := range rows {
		args = append(args, r.channel, r.key, r.token, r.at, r.whole, r.expires, r.sig)
	}
	return tx.insert(ctx, table, "", width, args)
}

// each returns a column of rows.
func each[T any](rows []*postingRow, of func(*postingRow) T) []T {
	out := make([]T, len(rows))
	for i, r := range rows {
		out[i] = of(r)
	}
	return out
}

func deletePostings(ctx context.Context, tx *Tx, num, at int64, terms []lake.Term) error {
	if err := tx.endRound(ctx); err != nil {
		return err
	}
	for _, t := range terms {
		if _, err := tx.ExecContext(ctx, `DELETE FROM posting WHERE channel = $1 AND key = $2 AND token = $3 AND at = $4`, num, t.Key, t.Token, at); err != nil {
			return err
		}
	}
	return nil
}

// deletePostingRows is deletePostings of many files.
func deletePostingRows(ctx context.Context, tx *Tx, all []postingRow) error {
	rows := inOrder(all)
	if len(rows) == 0 {
		return nil
	}
	if err := tx.endRound(ctx); err != nil {
		return err
	}
	if tx.db.dialect.Unnest {
		// Each is looked up on its own (see probe), then deleted where it is: nobody moves
		// the entries of a file whose row this transaction has.
		_, err := tx.ExecContext(ctx, `DELETE FROM posting WHERE ctid = ANY (ARRAY(
			SELECT p.ctid FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[]) AS u(channel, key, token, at) CROSS JOIN LATERAL
			 (SELECT ctid FROM posting WHERE channel = u.channel AND key = u.key AND token = u.token AND at = u.at OFFSET 0) AS p))`,
			each(rows, func(r *postingRow) int64 { return r.channel }), each(rows, func(r *postingRow) string { return r.key }),
			each(rows, func(r *postingRow) string { return r.token }), each(rows, func(r *postingRow) int64 { return r.at }))
		return err
	}
	args := make([]any, 0, 4*len(rows))
	for _, r := range rows {
		args = append(args, r.channel, r.key, r.token, r.at)
	}
	return tx.delete(ctx, "posting", "channel, key, token, at", 4, args)
}
