// SPDX-License-Identifier: Apache-2.0

package journal_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"panal/internal/blob"
	"panal/internal/blob/memblob"
	"panal/internal/blob/s3blob"
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
	for _, dir := range []string{"", "dir/"} {
		page, more, err := s.Entries(tt.Context(), lake.Directory{Bucket: channel, Prefix: dir, Limit: 10}, now)
		out += fmt.Sprintln(dir, more, err)
		for _, e := range page {
			out += fmt.Sprintf("  %s %+v\n", e.Path, e.File)
		}
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
			storage := blob.Driver(memblob.New())
			if db.Dialect().Name == "postgres" && rapid.IntRange(0, 4).Draw(rt, "on S3") == 0 {
				storage = s3(t)
			}
			w := newWorldOn(t, db, storage)
			channels := []lake.Channel{w.channel(t), w.bucket(t)}
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
					c, path := channels[draw("channel", 2)], ""
					if c.Storage == lake.StorageBucket {
						path = []string{"a", "dir/b", "dir/c"}[draw("path", 3)]
					}
					f, err := w.put(t, c.ID, meta(), []lake.Lifetime{"", "1day", "1week"}[draw("life", 3)], path)
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

// s3 is a part of its own of the bucket that scripts/with-s3 made.
func s3(t *testing.T) blob.Driver {
	t.Helper()
	u, err := url.Parse(os.Getenv("PANAL_TEST_S3"))
	if err != nil || u.Scheme != "s3" {
		if os.Getenv("CI") == "" {
			t.Skip("PANAL_TEST_S3 is not set: scripts/with-s3 go test … starts a server")
		}
		t.Fatal("PANAL_TEST_S3 is not set: run the tests under scripts/with-s3 (make test does)")
	}
	d, err := s3blob.Open(t.Context(), s3blob.Options{
		Bucket: u.Host, Prefix: "rebuild-" + strings.ToLower(rand.Text()) + "/", Endpoint: u.Query().Get("endpoint"), Region: u.Query().Get("region"),
		AccessKey: os.Getenv("PANAL_S3_ACCESS_KEY"), SecretKey: os.Getenv("PANAL_S3_SECRET_KEY"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func (w *world) bucket(t testing.TB) lake.Channel {
	c := lake.Channel{ID: plat.ChannelID(plat.NewDecimalID()), Org: org, Storage: lake.StorageBucket, CreatedAt: w.now, UpdatedAt: w.now}
	if err := w.store.CreateChannel(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestRebuildOfAPath: a writer dies between a row that took a path and its journal; the
// file that was answered before is the bucket's after a rebuild, until a server healed
// it. Where two files with one path are left in the journal, the later one holds.
func TestRebuildOfAPath(t *testing.T) {
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		w := newWorld(t, db)
		c := w.bucket(t)
		rebuilt := func() (string, journal.Rebuilt) {
			to := empty(t, db, w.clock)
			got, err := journal.Rebuild(t.Context(), w.blobs, to, false, nil)
			if err != nil {
				t.Fatal(err)
			}
			f, err := to.PathFile(t.Context(), c.ID, "a/b", w.now)
			if err != nil {
				t.Fatal(err)
			}
			u, err := to.Usage(t.Context(), c.ID, w.now)
			if err != nil || u.Files != 1 {
				t.Errorf("usage %+v, %v", u, err)
			}
			return string(f.ID), got
		}
		first, err := w.put(t, c.ID, lake.Metadata{}, "", "a/b")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.j.Tend(t.Context(), w.index, true); err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(time.Second)
		store := w.store
		w.store = journal.NewStore(w.index, journal.New(blob.New(memblob.New()), w.clock)) // its journal is lost with it
		second, err := w.put(t, c.ID, lake.Metadata{}, "", "a/b")
		if err != nil {
			t.Fatal(err)
		}
		w.store = store
		if id, got := rebuilt(); id != string(first.ID) || got.Unknown != 1 {
			t.Errorf("before the healing: %s, %+v, want %s", id, got, first.ID)
		}
		// Both are in the journal, without an end.
		if err := w.j.Append(t.Context(), journal.Entry{
			Org: org, Channel: c.ID, File: second.ID, At: second.UploadedAt.UnixMicro(), Size: 4, Path: "a/b",
		}); err != nil {
			t.Fatal(err)
		}
		if id, _ := rebuilt(); id != string(second.ID) {
			t.Errorf("of two: %s, want the later one, %s", id, second.ID)
		}
		w.now = w.now.Add(time.Hour)
		if err := journal.New(w.blobs, w.clock).Tend(t.Context(), w.index, true); err != nil {
			t.Fatal(err)
		}
		if id, got := rebuilt(); id != string(second.ID) || got.Files != 1 {
			t.Errorf("healed: %s, %+v", id, got)
		}
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

// TestCompactionInParts: what is merged at once is bounded by its length, not by how many entries
// there are.
func TestCompactionInParts(t *testing.T) {
	w := newWorld(t, sqlstoretest.SQLite(t))
	c := w.channel(t)
	const files = 5 << 20 / (15 << 10)
	for range files {
		e := journal.Entry{Org: org, Channel: c.ID, File: plat.NewFileID(w.now), At: 1, Size: 1, Metadata: lake.Metadata{"k": strings.Repeat("v", 15<<10)}}
		if err := w.j.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.j.Compact(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	infos, _, err := w.blobs.List(t.Context(), journal.Prefix+"segment/", "", 1000)
	if err != nil || len(infos) != 3 {
		t.Errorf("5 MiB were merged into %d segments, %v; want 3", len(infos), err)
	}
	got, err := journal.Rebuild(t.Context(), w.blobs, empty(t, sqlstoretest.SQLite(t), w.clock), false, nil)
	if err != nil || got.Missing != files { // there are no objects
		t.Errorf("rebuilt %+v, %v", got, err)
	}
}

// slowCompaction is a storage from which batches that are merged already are taken away
// one by one: the first that a listing names is gone when it is read.
type slowCompaction struct {
	blob.Driver
	begun bool
}

func (s *slowCompaction) List(ctx context.Context, prefix, after string, limit int) ([]blob.Info, bool, error) {
	infos, more, err := s.Driver.List(ctx, prefix, after, limit)
	if s.begun && err == nil && strings.HasPrefix(prefix, journal.Prefix+"batch/") && len(infos) > 0 {
		err = s.Delete(ctx, infos[0].Key)
	}
	return infos, more, err
}

// TestReadBesideCompaction: the journal is read while a compaction takes its batches away,
// however long that takes.
func TestReadBesideCompaction(t *testing.T) {
	storage := &slowCompaction{Driver: memblob.New()}
	w := newWorldOn(t, sqlstoretest.SQLite(t), storage)
	c := w.channel(t)
	for range 30 {
		if _, err := w.put(t, c.ID, nil, ""); err != nil {
			t.Fatal(err)
		}
	}
	batches, _, err := w.blobs.List(t.Context(), journal.Prefix+"batch/", "", 1000)
	if err != nil || len(batches) < 30 {
		t.Fatalf("%d batches, %v", len(batches), err)
	}
	kept := map[string][]byte{}
	for _, b := range batches {
		rc, _, err := w.blobs.Open(t.Context(), b.Key, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if kept[b.Key], err = io.ReadAll(rc); err != nil {
			t.Fatal(err)
		}
		_ = rc.Close()
	}
	if _, err := w.j.Compact(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	for key, raw := range kept {
		if _, err := w.blobs.Put(t.Context(), key, bytes.NewReader(raw), int64(len(raw)), blob.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	storage.begun = true
	r, err := w.j.Verify(t.Context(), w.index, c, journal.VerifyOptions{})
	if err != nil || r.Files != 30 || len(r.Findings) > 0 {
		t.Errorf("verify = %+v, %v", r, err)
	}
}

// TestCollectKeepsWhatTheIndexLost: a server that is started on an empty index, or an
// older one, deletes no file's bytes; what was deleted, has expired or was never a file
// goes, and so does all when its channel was deleted.
func TestCollectKeepsWhatTheIndexLost(t *testing.T) {
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		w := newWorld(t, db)
		w.now = plat.SystemClock() // objects have the machine's time
		c := w.channel(t)
		var keys []string
		for _, life := range []lake.Lifetime{"", "", "1day"} {
			f, err := w.put(t, c.ID, nil, life)
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, lake.BlobKey(org, c.ID, f.ID))
			if len(keys) == 2 {
				if err := w.j.Append(t.Context(), journal.Entry{Org: org, Channel: c.ID, File: f.ID, Gone: 1}); err != nil {
					t.Fatal(err)
				}
			}
		}
		stray := lake.BlobKey(org, c.ID, plat.NewFileID(w.now))
		if _, err := w.blobs.Put(t.Context(), stray, strings.NewReader("body"), 4, blob.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(2 * lake.Grace)
		lost := lake.NewService(empty(t, db, w.clock), w.blobs, w.clock)
		lost.RecordedBy(w.j)
		for _, want := range []int{3, 0} {
			if n, err := lost.Collect(t.Context(), lake.Grace); n != want || err == nil || !strings.Contains(err.Error(), "1 files have bytes") {
				t.Errorf("collected %d of a lost index, want %d; %v", n, want, err)
			}
		}
		if _, err := w.blobs.Stat(t.Context(), keys[0]); err != nil {
			t.Errorf("a file's bytes: %v", err)
		}
		if err := w.j.Append(t.Context(), journal.Entry{Org: org, Channel: c.ID, Gone: 1}); err != nil {
			t.Fatal(err)
		}
		if n, err := lost.Collect(t.Context(), lake.Grace); n != 1 || err != nil {
			t.Errorf("collected %d of a deleted channel, %v", n, err)
		}
	})
}
