// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"strings"
	"time"

	"panal/internal/lake"
	"panal/internal/plat"
)

// maxFacetValues bounds the values that are counted in memory, for queries that the
// index can't decide alone.
const maxFacetValues = 100_000

// Facets implements lake.Store. A key's values are its whole postings, so the index
// alone answers wherever it decides the query.
func (s *Lake) Facets(ctx context.Context, f lake.Filter, key string, limit int, now time.Time) (lake.Facets, error) {
	if err := s.settle(ctx); err != nil {
		return lake.Facets{}, err
	}
	q, err := s.newSearch(ctx, s.db.Read(), f, now)
	if err != nil {
		return lake.Facets{}, err
	}
	if !q.exact {
		return q.countFacets(ctx, key, limit)
	}
	var a sqlArgs
	where := `v.channel = ` + a.add(q.num) + ` AND v.key = ` + a.add(lake.FacetKey(key)) + ` AND v.whole AND ` + live("v", a.add(q.now))
	if q.from != 0 {
		where += ` AND v.at >= ` + a.add(q.from)
	}
	if q.to != 0 {
		where += ` AND v.at < ` + a.add(q.to)
	}
	if f.Query != nil {
		q.join()
		parts := make([]string, len(q.arms))
		for i, m := range q.arms {
			parts[i] = q.armSQL(&a, m, false, span{})
		}
		where += ` AND v.at IN (` + strings.Join(parts, " UNION ") + `)`
	}
	type row struct {
		token           string
		files, first    int64
		distinct, total int64
	}
	rows, err := scanAll(ctx, s.db, s.db.Read(), func(r interface{ Scan(...any) error }) (x row, err error) {
		err = r.Scan(&x.token, &x.files, &x.first, &x.distinct, &x.total)
		return x, err
	}, `SELECT v.token, COUNT(*) AS n, MIN(v.at), COUNT(*) OVER (), CAST(SUM(COUNT(*)) OVER () AS BIGINT) FROM posting v WHERE `+where+`
	    GROUP BY v.token ORDER BY n DESC, CASE WHEN SUBSTR(v.token, 1, 1) = '=' THEN SUBSTR(v.token, 2) ELSE v.token END LIMIT `+a.add(limit), a.list...)
	if err != nil {
		return lake.Facets{}, err
	}
	out := lake.Facets{Top: make([]lake.Facet, 0, len(rows))}
	for _, r := range rows {
		out.Distinct, out.Files = r.distinct, r.total
		value, ok := lake.TokenValue(r.token)
		if !ok {
			// Long values stand in the index by their hash: one of the files has it.
			file, err := scanAll(ctx, s.db, s.db.Read(), scanFile(f.Channel), `SELECT `+fileColumns+` FROM file f WHERE f.channel = $1 AND f.at = $2`, q.num, r.first)
			if err != nil {
				return lake.Facets{}, err
			}
			if len(file) == 0 { // deleted meanwhile
				continue
			}
			value, _ = lake.FacetValue(file[0], key)
		}
		out.Top = append(out.Top, lake.Facet{Value: value, Files: r.files})
	}
	lake.SortFacets(out.Top)
	return out, nil
}

// countFacets reads every match.
func (q *search) countFacets(ctx context.Context, key string, limit int) (lake.Facets, error) {
	counts := map[string]int64{}
	err := q.each(ctx, span{limit: 1000}, func(f lake.File) bool {
		if value, ok := lake.FacetValue(f, key); ok {
			counts[value]++
		}
		return len(counts) <= maxFacetValues
	})
	if err != nil {
		return lake.Facets{}, err
	}
	if len(counts) > maxFacetValues {
		return lake.Facets{}, plat.InvalidField("q", "finds more than %d values, and it has phrases or globs, for which they are counted one by one; narrow it", maxFacetValues)
	}
	return lake.TopFacets(counts, limit), nil
}
