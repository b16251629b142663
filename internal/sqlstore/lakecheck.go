// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"

	"panal/internal/lake"
	"panal/internal/plat"
)

// CheckCounts implements journal.Index.
func (s *Lake) CheckCounts(ctx context.Context, channel plat.ChannelID) (rows, sums lake.Usage, err error) {
	num, err := s.channelNum(ctx, s.db.Read(), channel)
	if err != nil {
		return rows, sums, err
	}
	// One statement: both are of one moment.
	err = s.db.Read().QueryRowContext(ctx,
		`SELECT CAST(f.n AS BIGINT), CAST(f.b AS BIGINT), CAST(d.n AS BIGINT), CAST(d.b AS BIGINT)
		 FROM (SELECT COUNT(*) AS n, COALESCE(SUM(size), 0) AS b FROM file WHERE channel = $1) f
		 CROSS JOIN (SELECT COALESCE(SUM(files), 0) AS n, COALESCE(SUM(bytes), 0) AS b FROM file_delta WHERE channel = $1) d`, num).
		Scan(&rows.Files, &rows.Bytes, &sums.Files, &sums.Bytes)
	return rows, sums, s.db.translate(err)
}

// Recount implements journal.Index. It adds the difference, so that changes that are
// under way keep theirs.
func (s *Lake) Recount(ctx context.Context, channel plat.ChannelID) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		num, err := s.channelNum(ctx, tx, channel)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx,
			`INSERT INTO file_delta (channel, files, bytes)
			 SELECT $1, CAST(f.n - d.n AS BIGINT), CAST(f.b - d.b AS BIGINT)
			 FROM (SELECT COUNT(*) AS n, COALESCE(SUM(size), 0) AS b FROM file WHERE channel = $1) f
			 CROSS JOIN (SELECT COALESCE(SUM(files), 0) AS n, COALESCE(SUM(bytes), 0) AS b FROM file_delta WHERE channel = $1) d`, num)
		return err
	})
}

// posting is a row of the index.
type posting struct {
	key, token string
	at         int64
	whole      bool
	expires    int64
}

func scanPosting(r interface{ Scan(...any) error }) (p posting, err error) {
	err = r.Scan(&p.key, &p.token, &p.at, &p.whole, &p.expires)
	return p, err
}

// CheckTerms implements journal.Index.
func (s *Lake) CheckTerms(ctx context.Context, channel plat.ChannelID, files []lake.File) ([]plat.FileID, error) {
	num, err := s.channelNum(ctx, s.db.Read(), channel)
	if err != nil {
		return nil, err
	}
	late, err := s.lateOf(ctx, s.db.Read(), channel, num) // those that have none yet are no mistake
	if err != nil {
		return nil, err
	}
	var bad []plat.FileID
	for _, f := range files {
		if slices.ContainsFunc(late, func(l lake.File) bool { return l.UploadedAt.Equal(f.UploadedAt) }) {
			continue
		}
		terms := lake.Terms(f.ContentType, f.Metadata)
		want := lake.Signature(terms)
		for _, t := range terms {
			var whole bool
			var expires, sig int64
			err := s.db.Read().QueryRowContext(ctx,
				`SELECT whole, expires_at, sig FROM posting WHERE channel = $1 AND key = $2 AND token = $3 AND at = $4`,
				num, t.Key, t.Token, micros(f.UploadedAt)).Scan(&whole, &expires, &sig)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return nil, s.db.translate(err)
			}
			if err != nil || whole != t.Whole || expires != micros(f.ExpiresAt) || sig&want != want {
				bad = append(bad, f.ID)
				break
			}
		}
	}
	return bad, nil
}

// StrayTerms implements journal.Index.
func (s *Lake) StrayTerms(ctx context.Context, channel plat.ChannelID, remove bool) (int64, error) {
	num, err := s.channelNum(ctx, s.db.Read(), channel)
	if err != nil {
		return 0, err
	}
	const page = 500
	total := int64(0)
	after := posting{at: -1}
	for {
		all, err := scanAll(ctx, s.db, s.db.Read(), scanPosting,
			`SELECT key, token, at, whole, expires_at FROM posting WHERE channel = $1 AND (key, token, at) > ($2, $3, $4)
			 ORDER BY key, token, at LIMIT $5`, num, after.key, after.token, after.at, page)
		if err != nil {
			return total, err
		}
		stray, err := s.strays(ctx, s.db.Read(), channel, num, all)
		if err != nil {
			return total, err
		}
		if len(stray) > 0 {
			// Looked at again in one transaction with its row: a change may have passed between.
			err := s.db.Write(ctx, func(tx *Tx) error {
				var err error
				if stray, err = s.strays(ctx, tx, channel, num, stray); err != nil || !remove {
					return err
				}
				for _, p := range stray {
					if _, err := tx.ExecContext(ctx, `DELETE FROM posting WHERE channel = $1 AND key = $2 AND token = $3 AND at = $4`, num, p.key, p.token, p.at); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return total, err
			}
			total += int64(len(stray))
		}
		if len(all) < page {
			return total, nil
		}
		after = all[page-1]
	}
}

// strays returns those postings that are there and that no row has.
func (s *Lake) strays(ctx context.Context, q Querier, channel plat.ChannelID, num int64, all []posting) ([]posting, error) {
	terms := map[int64][]lake.Term{}
	for chunk := range slices.Chunk(all, 500) {
		var a sqlArgs
		var stmt strings.Builder
		stmt.WriteString(`SELECT ` + fileColumns + ` FROM file f WHERE f.channel = ` + a.add(num) + ` AND f.at IN (`)
		for i, p := range chunk {
			if i > 0 {
				stmt.WriteByte(',')
			}
			stmt.WriteString(a.add(p.at))
		}
		files, err := scanAll(ctx, s.db, q, scanFile(channel), stmt.String()+`)`, a.list...)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			terms[micros(f.UploadedAt)] = lake.Terms(f.ContentType, f.Metadata)
		}
	}
	var out []posting
	for _, p := range all {
		if slices.ContainsFunc(terms[p.at], func(t lake.Term) bool { return t.Key == p.key && t.Token == p.token }) {
			continue
		}
		var there int
		if err := q.QueryRowContext(ctx, `SELECT COUNT(*) FROM posting WHERE channel = $1 AND key = $2 AND token = $3 AND at = $4`,
			num, p.key, p.token, p.at).Scan(&there); err != nil {
			return nil, s.db.translate(err)
		}
		if there > 0 {
			out = append(out, p)
		}
	}
	return out, nil
}

// RepairTerms implements journal.Index.
func (s *Lake) RepairTerms(ctx context.Context, channel plat.ChannelID, ids []plat.FileID) error {
	for _, id := range ids {
		err := s.db.Write(ctx, func(tx *Tx) error {
			if err := tx.postLate(ctx); err != nil {
				return err
			}
			num, err := s.channelNum(ctx, tx, channel)
			if err != nil {
				return err
			}
			f, err := scanFile(channel)(tx.QueryRowContext(ctx,
				`UPDATE file SET size = size WHERE channel = $1 AND id = $2 RETURNING `+returning, num, string(id)))
			if errors.Is(err, sql.ErrNoRows) {
				return nil
			}
			if err != nil {
				return err
			}
			at, terms := micros(f.UploadedAt), lake.Terms(f.ContentType, f.Metadata)
			if err := deletePostings(ctx, tx, num, at, terms); err != nil {
				return err
			}
			return insertPostings(ctx, tx, appendPostings(nil, num, at, micros(f.ExpiresAt), terms))
		})
		if err != nil {
			return err
		}
	}
	return nil
}
