// SPDX-License-Identifier: Apache-2.0

package laketest

import (
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/lake"
	"panal/internal/lake/query"
	"panal/internal/plat"
)

func facets(w *world) {
	long := strings.Repeat("long value ", 20)
	short := w.file("label", "cat")
	short.Lifetime = "1day"
	f := w.stored(w.file("label", "cat"), w.file("label", "Cat"), w.file("label", long), w.file("label", long), w.file("label", "~odd"),
		w.file("other", "cat"), w.file("label", "=eq"), short)
	check := func(what string, filter lake.Filter, key string, limit int, want lake.Facets) {
		w.Helper()
		filter.Channel = w.channel
		got, err := w.other.Facets(w.Context(), filter, key, limit, w.clock.now())
		if w.ok(err); !cmp.Equal(want, got) {
			w.Errorf("%s: %s", what, cmp.Diff(want, got))
		}
	}
	one := func(all ...lake.Facet) []lake.Facet { return all }
	all := one(lake.Facet{Value: "cat", Files: 2}, lake.Facet{Value: long, Files: 2}, lake.Facet{Value: "=eq", Files: 1}, lake.Facet{Value: "Cat", Files: 1}, lake.Facet{Value: "~odd", Files: 1})
	check("all", lake.Filter{}, "label", 10, lake.Facets{Top: all, Distinct: 5, Files: 7})
	check("by its full name", lake.Filter{}, "X-Abeja-Meta-Label", 10, lake.Facets{Top: all, Distinct: 5, Files: 7})
	check("the first", lake.Filter{}, "label", 1, lake.Facets{Top: all[:1], Distinct: 5, Files: 7})
	check("a key that nobody has", lake.Filter{}, "none", 10, lake.Facets{Top: []lake.Facet{}})
	check("content type", lake.Filter{}, "content_type", 10, lake.Facets{Top: one(lake.Facet{Value: "image/png", Files: 8}), Distinct: 1, Files: 8})
	check("of a query", lake.Filter{Query: query.Clause{Field: "label", Value: "cat"}}, "label", 10,
		lake.Facets{Top: one(lake.Facet{Value: "cat", Files: 2}, lake.Facet{Value: "Cat", Files: 1}), Distinct: 2, Files: 3})
	check("of a glob", lake.Filter{Query: query.Clause{Field: "label", Kind: query.Glob, Value: "c*"}}, "label", 10,
		lake.Facets{Top: one(lake.Facet{Value: "cat", Files: 2}, lake.Facet{Value: "Cat", Files: 1}), Distinct: 2, Files: 3})
	check("of a time", lake.Filter{From: f[5].UploadedAt}, "label", 10,
		lake.Facets{Top: one(lake.Facet{Value: "=eq", Files: 1}, lake.Facet{Value: "cat", Files: 1}), Distinct: 2, Files: 2})

	w.clock.add(25 * time.Hour)
	_, err := w.SetMetadata(w.Context(), w.channel, f[1].ID, lake.Metadata{"label": "cat"}, w.clock.now())
	w.ok(err)
	_, err = w.DeleteFile(w.Context(), w.channel, f[2].ID, w.clock.now())
	w.ok(err)
	check("after changes", lake.Filter{}, "label", 2, lake.Facets{
		Top: one(lake.Facet{Value: "cat", Files: 2}, lake.Facet{Value: "=eq", Files: 1}), Distinct: 4, Files: 5,
	})
	_, err = w.Facets(w.Context(), lake.Filter{Channel: plat.ChannelID("nope")}, "label", 1, w.clock.now())
	is(w, "Facets of an unknown channel", err, plat.ErrNotFound)
}
