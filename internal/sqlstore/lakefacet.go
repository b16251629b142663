// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"slices"
	"strings"
	"time"

	"panal/internal/lake"
)

// Facets implements lake.Store. A query that matches few files, or that the index
// can't decide, is answered from the rows; any other by one pass over the key's part
// of the index, whose entries for whole values stand together.
func (s *Lake) Facets(ctx context.Context, in lake.Filter, field string, limit int, now time.Time) ([]lake.Facet, bool, error) {
	q, err := s.newSearch(ctx, in, now)
	if err != nil {
		return nil, false, err
	}
	var all []lake.Facet
	if !q.exact || q.cost() < joinFrom {
		all, err = q.facetsOfRows(ctx, field)
	} else {
		all, err = q.facetsOfIndex(ctx, field, limit+1)
	}
	if err != nil || len(all) <= limit {
		return all, false, err
	}
	return all[:limit], true, nil
}

// facetsOfRows counts the values of all matches.
func (q *search) facetsOfRows(ctx context.Context, field string) ([]lake.Facet, error) {
	counts := map[string]int64{}
	err := q.each(ctx, span{limit: 1000}, func(f lake.File) bool {
		if v, ok := lake.FacetValue(f, field); ok {
			counts[v]++
		}
		return true
	})
	all := make([]lake.Facet, 0, len(counts))
	for v, n := range counts {
		all = append(all, lake.Facet{Value: v, Count: n})
	}
	slices.SortFunc(all, lake.CompareFacets)
	return all, err
}

// facetsOfIndex groups the index entries of the key. The files that are joined show
// the values which the index holds as a hash.
func (q *search) facetsOfIndex(ctx context.Context, field string, limit int) ([]lake.Facet, error) {
	q.fence = "" // the whole key is read: joins are worth it
	key := lake.KeyContentType
	if field != lake.FieldContentType {
		if key = lake.TermKey(lake.FieldKey(field)); key == lake.KeyContentType {
			return nil, nil // no metadata name is empty
		}
	}
	var a sqlArgs
	var where strings.Builder
	where.WriteString("d.channel = " + a.add(q.num) + " AND d.key = " + a.add(key) + " AND d.whole AND " + live("d", a.add(q.now)))
	if q.from != 0 {
		where.WriteString(" AND d.at >= " + a.add(q.from))
	}
	if q.to != 0 {
		where.WriteString(" AND d.at < " + a.add(q.to))
	}
	if q.f.Query != nil {
		where.WriteString(" AND " + q.predicate(&a, "d", q.f.Query, true))
	}
	// The order of lake.CompareFacets. Tokens compare by bytes on both engines.
	order := func(g string) string {
		hashed := "substr(" + g + ".token, 1, 1) = '~' OR substr(" + g + ".token, 1, 2) = '=~'"
		return g + ".n DESC, CASE WHEN " + hashed + " THEN 1 ELSE 0 END, CASE WHEN " + hashed + " THEN " + g + ".token WHEN substr(" + g +
			".token, 1, 1) = '=' THEN substr(" + g + ".token, 2) ELSE " + g + ".token END"
	}
	type group struct {
		token string
		n     int64
		file  lake.File
	}
	scan := func(r interface{ Scan(...any) error }) (g group, err error) {
		var meta string
		if err = r.Scan(&g.token, &g.n, &g.file.ContentType, &meta); err != nil || !lake.HashedToken(g.token) {
			return g, err
		}
		return g, fromJSON(meta, &g.file.Metadata)
	}
	groups, err := scanAll(ctx, q.lake.db, q.lake.db.Read(), scan,
		"SELECT g.token, g.n, f.content_type, f.metadata FROM (SELECT t.token, t.n, t.at FROM (SELECT d.token AS token, COUNT(*) AS n, MIN(d.at) AS at FROM posting d WHERE "+
			where.String()+" GROUP BY d.token) t ORDER BY "+order("t")+" LIMIT "+a.add(limit)+") g JOIN file f ON f.channel = "+a.add(q.num)+" AND f.at = g.at ORDER BY "+order("g"), a.list...)
	if err != nil {
		return nil, err
	}
	all := make([]lake.Facet, len(groups))
	for i, g := range groups {
		all[i] = lake.Facet{Value: strings.TrimPrefix(g.token, "="), Count: g.n}
		if lake.HashedToken(g.token) {
			all[i].Value, _ = lake.FacetValue(g.file, field)
		}
	}
	return all, nil
}
