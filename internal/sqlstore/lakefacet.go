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
func (s *Lake) Facets(ctx context.Context, f lake.Filter, key string, limit int, now time.Time) (out lake.Facets, err error) {
	if !s.db.dialect.Late {
		return s.facets(ctx, s.db.Read(), f, key, limit, now)
	}
	err = s.db.snapshot(ctx, func(read Querier) error {
		out, err = s.facets(ctx, read, f, key, limit, now)
		return err
	})
	return out, err
}

func (s *Lake) facets(ctx context.Context, read Querier, f lake.Filter, key string, limit int, now time.Time) (lake.Facets, error) {
	q, err := s.newSearch(ctx, read, f, now)
	if err != nil {
		return lake.Facets{}, err
	}
	if !q.exact {
		return q.countFacets(ctx, key, limit)
	}
	if f.Query == nil { // postings are read, not the file table
		if err := q.findLate(ctx, func(lake.File) bool { return true }); err != nil {
			return lake.Facets{}, err
		}
	}
	var a sqlArgs
	where := `v.channel = ` + a.add(q.num) + ` AND v.key = ` + a.add(lake.FacetKey(key)) + ` AND v.whole AND ` + live("v", a.add(q.now)) + q.late.without(&a, "v")
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
	from := `posting v WHERE ` + where
	if values := q.late.values(&a, lake.FacetKey(key)); values != "" {
		from = `(SELECT v.token, v.at FROM ` + from + ` UNION ALL VALUES ` + values + `) AS v`
	}
	type row struct {
		token           string
		files, first    int64
		distinct, total int64
	}
	rows, err := scanAll(ctx, s.db, read, func(r interface{ Scan(...any) error }) (x row, err error) {
		err = r.Scan(&x.token, &x.files, &x.first, &x.distinct, &x.total)
		return x, err
	}, `SELECT v.token, COUNT(*) AS n, MIN(v.at), COUNT(*) OVER (), CAST(SUM(COUNT(*)) OVER () AS BIGINT) FROM `+from+`
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
			file, err := scanAll(ctx, s.db, read, scanFile(f.Channel), `SELECT `+fileColumns+` FROM file f WHERE f.channel = $1 AND f.at = $2`, q.num, r.first)
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
