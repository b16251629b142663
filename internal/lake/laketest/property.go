// SPDX-License-Identifier: Apache-2.0

package laketest

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"panal/internal/lake"
	"panal/internal/lake/query"
	"panal/internal/plat"
)

// The vocabularies are small, so that random queries hit random files often, and
// hold what is awkward: case, runs, escapes good and bad, wildcards, other
// scripts, the empty text.
var (
	names  = []string{"label", "split", "file%20name", "%E3%83%86", "bad%zz", "content_type", "x-abeja-meta-label", "~k"}
	values = []string{
		"cat", "Cat", "CAT", "black cat", "cat-1.jpg", "category", "black%20cat", "black%2", "%ff", "100%", "", "-", "*", "a*b",
		"train", "test", "7", "07", "猫", "%E7%8C%AB", "猫 cat", `say "hi"`, `back\slash`, "cat black", "black black cat", "~x", "=cat", "O'Brien; --", "_%",
	}
	types  = []string{"image/png", "image/jpeg", "text/plain; charset=utf-8", "weird"}
	fields = []string{
		"label", "LABEL", "split", "file%20name", "x-abeja-meta-label", "テ", "%e3%83%86", "bad%zz", "content_type", "x-abeja-meta-content_type",
		"x-abeja-meta-x-abeja-meta-label", "file_id", "uploaded_at", "~k", "missing", "x-abeja-meta-",
	}
	words = []string{
		"cat", "Cat", "cat-1", "black-cat", "blackcat", "jpg", "train", "7", "猫", "ca*", "*cat", "*a?*", "?at", "black*cat", "*-1.jpg", "cat-1*", "*", "-", "=cat",
		"image/png", "image", "utf-8", "t?xt*", "2024", "2024-03-15", "100%", "x", "_%", "20240315T081502", "20240315T0815*", "%E7%8C%AB",
	}
	quotes = []string{"cat", "black cat", "", "-", "*", "猫", "100%", "image/png", "text/plain; charset=utf-8", `say "hi"`, `back\slash`, "2024-03-15T08:15:02+00:00", "black%2"}
)

// Most draws come from these few, so that queries and files meet: combinations
// find the faults, and those are rare among all the odd ones.
var (
	commonNames  = []string{"label", "split"}
	commonValues = []string{"cat", "Cat", "black cat", "cat black", "black black cat", "black%20cat", "cat-1.jpg"}
	commonFields = []string{"label", "x-abeja-meta-split"}
	commonWords  = []string{"cat", "black-cat", "cat-black", "black*", "*cat", "cat-1"}
)

func draw(t *rapid.T, what string, common, all []string) string {
	if rapid.IntRange(0, 3).Draw(t, "odd "+what) > 0 {
		return rapid.SampledFrom(common).Draw(t, what)
	}
	return rapid.SampledFrom(all).Draw(t, what)
}

// DrawMetadata draws metadata of awkward names and values.
func DrawMetadata(t *rapid.T) lake.Metadata {
	m := lake.Metadata{}
	for range rapid.IntRange(0, 4).Draw(t, "keys") {
		m[draw(t, "name", commonNames, names)] = draw(t, "value", commonValues, values)
	}
	return m
}

func drawClause(files []lake.File) func(*rapid.T) query.Node {
	return func(t *rapid.T) query.Node {
		c := query.Clause{Field: draw(t, "field", commonFields, fields)}
		if c.Field == lake.FieldFileID && rapid.Bool().Draw(t, "real id") {
			c.Value = string(rapid.SampledFrom(files).Draw(t, "file").ID)
			if rapid.Bool().Draw(t, "part") {
				c.Value = c.Value[:rapid.SampledFrom([]int{15, 24, 29, 20}).Draw(t, "length")]
			}
		} else if rapid.IntRange(0, 2).Draw(t, "quoted") == 0 {
			c.Kind, c.Value = query.Quoted, draw(t, "text", commonValues, quotes)
			return c
		} else {
			c.Value = draw(t, "word", commonWords, words)
		}
		// As the parser would read it; a time that is none becomes one.
		n, err := lake.ParseQuery(c.Field + ":" + c.Value)
		if err != nil {
			c.Value = "2024-03"
			return c
		}
		return n
	}
}

// DrawQuery draws queries that often find some of the files.
func DrawQuery(files []lake.File, depth int) *rapid.Generator[query.Node] {
	clause := rapid.Custom(drawClause(files))
	if depth == 0 {
		return clause
	}
	inner := DrawQuery(files, depth-1)
	return rapid.Custom(func(t *rapid.T) query.Node {
		switch rapid.IntRange(0, 4).Draw(t, "shape") {
		case 0:
			return query.And(rapid.SliceOfN(inner, 2, 3).Draw(t, "and"))
		case 1:
			return query.Or(rapid.SliceOfN(inner, 2, 3).Draw(t, "or"))
		case 2:
			return query.Not{X: inner.Draw(t, "not")}
		}
		return clause.Draw(t, "clause")
	})
}

// queryProperty: for random files and queries, listing in any direction and page
// size, and counting, give what lake.Match gives file by file.
func queryProperty(w *world) {
	rapid.Check(w.T, func(t *rapid.T) {
		channel := w.newChannel("property", false)
		n := rapid.IntRange(1, 40).Draw(t, "files")
		batch := make([]lake.NewFile, n)
		for i := range batch {
			batch[i] = w.file()
			batch[i].Channel = channel
			batch[i].ContentType = rapid.SampledFrom(types).Draw(t, "type")
			batch[i].Metadata = DrawMetadata(t)
			if rapid.IntRange(0, 9).Draw(t, "short") == 0 {
				batch[i].Lifetime = "1day"
			}
		}
		files := w.stored(batch...)
		now := w.clock.now()
		if rapid.Bool().Draw(t, "expire") {
			now = now.Add(30 * 24 * 3600e9)
		}
		for range rapid.IntRange(0, 3).Draw(t, "changes") {
			i := rapid.IntRange(0, len(files)-1).Draw(t, "which")
			if !files[i].Live(now) {
				continue
			}
			f, err := w.SetMetadata(w.Context(), channel, files[i].ID, DrawMetadata(t), now)
			if err != nil {
				t.Fatal(err)
			}
			files[i] = f
		}
		for range 4 {
			q := DrawQuery(files, 3).Draw(t, "query")
			text := q.String()
			var want []lake.File
			for _, f := range files {
				if f.Live(now) && lake.Match(q, f) {
					want = append(want, f)
				}
			}
			s := lake.Search{Filter: lake.Filter{Channel: channel, Query: q}, Limit: rapid.IntRange(1, 12).Draw(t, "limit")}
			if rapid.Bool().Draw(t, "descending") {
				s.Sort = []lake.SortKey{{Field: lake.FieldUploadedAt, Desc: true}}
				slices.Reverse(want)
			}
			checkFacets(t, w, s.Filter, want, now)
			count, err := w.Count(w.Context(), s.Filter, now)
			if err != nil {
				t.Fatalf("count %s: %v", text, err)
			}
			var got []plat.FileID
			for pages := 0; ; pages++ {
				page, more, err := w.Files(w.Context(), s, now)
				if err != nil {
					t.Fatalf("list %s: %v", text, err)
				}
				for _, f := range page {
					got = append(got, f.ID)
				}
				if !more {
					break
				}
				if len(page) == 0 || pages > n {
					t.Fatalf("list %s: an empty page says that more follow", text)
				}
				s.After = lake.PositionOf(page[len(page)-1], s.Sort)
			}
			if d := cmp.Diff(describe(files, idsOf(want)), describe(files, got)); d != "" || count != int64(len(want)) {
				t.Fatalf("%s: counted %d, want %d: %s", text, count, len(want), d)
			}
		}
	})
}

// checkFacets compares the facets of a filter with those of the files that match it.
func checkFacets(t *rapid.T, w *world, f lake.Filter, files []lake.File, now time.Time) {
	key := rapid.SampledFrom([]string{"label", "x-abeja-meta-split", "テ", "bad%zz", "content_type", "~k", "missing"}).Draw(t, "facet")
	limit := rapid.IntRange(1, 6).Draw(t, "facet limit")
	counts := map[string]int64{}
	for _, file := range files {
		if value, ok := lake.FacetValue(file, key); ok {
			counts[value]++
		}
	}
	got, err := w.Facets(w.Context(), f, key, limit, now)
	if err != nil {
		t.Fatalf("facets of %s: %v", key, err)
	}
	if d := cmp.Diff(lake.TopFacets(counts, limit), got); d != "" {
		t.Fatalf("facets of %s: %s", key, d)
	}
}

func idsOf(files []lake.File) (all []plat.FileID) {
	for _, f := range files {
		all = append(all, f.ID)
	}
	return all
}

// describe makes a difference readable.
func describe(files []lake.File, ids []plat.FileID) []string {
	out := []string{}
	for _, id := range ids {
		i := slices.IndexFunc(files, func(f lake.File) bool { return f.ID == id })
		out = append(out, fmt.Sprintf("%d %s %v", i, files[i].ContentType, files[i].Metadata))
	}
	return out
}
