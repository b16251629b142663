// SPDX-License-Identifier: Apache-2.0

package journal_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"panal/internal/lake"
	"panal/internal/lake/journal"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
)

// answers is what readers can ask of a channel.
func answers(t *rapid.T, tt *testing.T, s lake.Store, channel plat.ChannelID, now time.Time) string {
	c, err := s.Channel(tt.Context(), channel)
	out := fmt.Sprintf("%+v %v\n", c, err)
	if c.Description != nil {
		out = fmt.Sprintf("%s %v %v\n", *c.Description, c.Name, c.Archived)
	}
	for _, q := range []string{"", "n:1", "n:2 OR label:cat", "NOT n:3", "content_type:plain"} {
		n, err := lake.ParseQuery(q)
		if err != nil {
			t.Fatal(err)
		}
		for _, sort := range []string{"", "-uploaded_at", "x-abeja-meta-n", "-file_id"} {
			keys, err := lake.ParseSort(sort)
			if err != nil {
				t.Fatal(err)
			}
			files, _, err := s.Files(tt.Context(), lake.Search{Filter: lake.Filter{Channel: channel, Query: n}, Sort: keys, Limit: 1000}, now)
			out += fmt.Sprintf("%s by %s: %v\n", q, sort, err)
			for _, f := range files {
				out += fmt.Sprintf("  %+v\n", f)
			}
		}
		count, err := s.Count(tt.Context(), lake.Filter{Channel: channel, Query: n}, now)
		out += fmt.Sprintf("count %s: %d %v\n", q, count, err)
	}
	u, err := s.Usage(tt.Context(), channel, now)
	return out + fmt.Sprintf("%+v %v\n", u, err)
}

// TestRebuildGivesTheSameAnswers: after a random history the index that is made from
// storage alone answers as the one before it, also when the journal was compacted at
// any moment (design 6.1).
func TestRebuildGivesTheSameAnswers(t *testing.T) {
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		rebuilt := empty(t, db, plat.SystemClock)
		rapid.Check(t, func(rt *rapid.T) {
			w := newWorld(t, db)
			channels := []lake.Channel{w.channel(t), w.channel(t)}
			files := []lake.File{}
			draw := func(what string, n int) int { return rapid.IntRange(0, n-1).Draw(rt, what) }
			meta := func() lake.Metadata {
				m := lake.Metadata{"n": fmt.Sprint(draw("n", 4))}
				if draw("labelled", 2) == 0 {
					m["label"] = "black%20cat"
				}
				return m
			}
			for range rapid.IntRange(5, 30).Draw(rt, "steps") {
				w.now = w.now.Add(time.Duration(draw("hours", 12)) * time.Hour)
				op := draw("op", 12)
				if op < 5 || len(files) == 0 {
					f, err := w.put(t, channels[draw("channel", 2)].ID, meta(), []lake.Lifetime{"", "1day", "1week"}[draw("life", 3)])
					if err == nil {
						files = append(files, f)
					}
					continue
				}
				f := files[draw("file", len(files))]
				switch op { // what is gone already answers so
				case 5:
					_, _ = w.store.SetMetadata(t.Context(), f.Channel, f.ID, meta(), w.now)
				case 6:
					v := "3"
					_, _ = w.store.PatchMetadata(t.Context(), f.Channel, f.ID, lake.Patch{"n": &v, "label": nil}, lake.Limits{}, w.now)
				case 7:
					_, _ = w.store.SetLifetime(t.Context(), f.Channel, f.ID, []lake.Lifetime{"", "1day", "1month"}[draw("life", 3)], w.now)
				case 8:
					_, _ = w.store.DeleteFile(t.Context(), f.Channel, f.ID, w.now)
				case 9:
					if _, err := w.store.DeleteExpired(t.Context(), w.now, 10); err != nil {
						rt.Fatal(err)
					}
				case 10:
					c := &channels[draw("channel", 2)]
					text := fmt.Sprint("now ", w.now)
					c.Name, c.Description, c.UpdatedAt, c.Archived = "renamed", &text, w.now, draw("archived", 4) == 0
					_ = w.store.UpdateChannel(t.Context(), *c)
					if draw("deleted", 8) == 0 {
						_ = w.store.DropChannel(t.Context(), c.ID, w.now)
					}
				case 11:
					if _, err := w.j.Compact(t.Context(), true); err != nil {
						rt.Fatal(err)
					}
				}
			}
			if _, err := journal.Rebuild(t.Context(), w.blobs, rebuilt, true, nil); err != nil {
				rt.Fatal(err)
			}
			for _, c := range channels {
				if d := cmp.Diff(answers(rt, t, w.store, c.ID, w.now), answers(rt, t, rebuilt, c.ID, w.now)); d != "" {
					rt.Fatal(d)
				}
			}
		})
	})
}

// TestCompaction: thousands of objects become few, nothing is lost, and what ended long
// ago is forgotten.
func TestCompaction(t *testing.T) {
	w := newWorld(t, sqlstoretest.SQLite(t))
	c := w.channel(t)
	for i := range 10 {
		for range 80 {
			if err := w.j.Append(t.Context(), journal.Entry{Org: org, Channel: c.ID, File: plat.NewFileID(w.now), At: 1, Size: 1, Gone: int64(i % 2)}); err != nil {
				t.Fatal(err)
			}
		}
		w.now = w.now.Add(2 * time.Minute)
		if _, err := w.j.Compact(t.Context(), false); err != nil {
			t.Fatal(err)
		}
	}
	infos, _, err := w.blobs.List(t.Context(), journal.Prefix, "", 1000)
	if err != nil || len(infos) > 12 {
		t.Errorf("%d objects are left, %v", len(infos), err)
	}
	got, err := journal.Rebuild(t.Context(), w.blobs, empty(t, sqlstoretest.SQLite(t), w.clock), false, nil)
	if err != nil || got.Channels != 1 || got.Missing != 400 { // there are no objects
		t.Errorf("rebuilt %+v, %v", got, err)
	}
}
