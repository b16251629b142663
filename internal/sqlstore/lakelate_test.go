// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"panal/internal/lake"
	"panal/internal/lake/query"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlite"
	"panal/internal/sqlstore/sqlstoretest"
)

// lateWorld is a channel in an embedded lake, where postings of small commits come later.
type lateWorld struct {
	*testing.T
	path string
	db   *sqlstore.DB
	lake *sqlstore.Lake
}

const lateChannel plat.ChannelID = "1"

func newLateWorld(t *testing.T) *lateWorld {
	w := &lateWorld{T: t, path: filepath.Join(t.TempDir(), "lake.db")}
	w.open()
	w.createChannel()
	t.Cleanup(func() { _ = w.db.Close() })
	return w
}

func (w *lateWorld) createChannel() {
	w.Helper()
	if err := w.lake.CreateChannel(w.Context(), lake.Channel{ID: lateChannel, CreatedAt: plat.SystemClock()}); err != nil {
		w.Fatal(err)
	}
}

func (w *lateWorld) open() {
	w.Helper()
	db, err := sqlite.Open(context.WithoutCancel(w.Context()), w.path, sqlstoretest.Concerns()...)
	if err != nil {
		w.Fatal(err)
	}
	w.db, w.lake = db, sqlstore.NewLake(db, plat.SystemClock)
}

func (w *lateWorld) commit(n int) []lake.File {
	w.Helper()
	files := make([]lake.NewFile, n)
	for i := range files {
		files[i].File = lake.File{ID: plat.NewFileID(plat.SystemClock()), Channel: lateChannel, Size: 1, ETag: "e", ContentType: "image/png", Metadata: lake.Metadata{"split": "train"}}
	}
	out, err := w.lake.Commit(w.Context(), files)
	if err != nil {
		w.Fatal(err)
	}
	done := make([]lake.File, n)
	for i := range out {
		done[i] = out[i].File
	}
	return done
}

func (w *lateWorld) count(q string) int64 {
	w.Helper()
	parsed, err := query.Parse(q)
	if err != nil {
		w.Fatal(err)
	}
	n, err := w.lake.Count(w.Context(), lake.Filter{Channel: lateChannel, Query: parsed}, plat.SystemClock())
	if err != nil {
		w.Fatal(err)
	}
	return n
}

// rows counts a table's rows.
func (w *lateWorld) rows(table string) (n int) {
	w.Helper()
	if err := w.db.Read().QueryRowContext(w.Context(), `SELECT COUNT(*) FROM `+table).Scan(&n); err != nil {
		w.Fatal(err)
	}
	return n
}

// sound holds the index to the files: nothing is missing, nothing is too much, before
// and after the late postings are made.
func (w *lateWorld) sound(files []lake.File) {
	w.Helper()
	w.checked(lateChannel, files)
	if err := w.lake.PostLate(w.Context()); err != nil {
		w.Error(err)
	}
	if n := w.rows("file_late"); n > 0 {
		w.Errorf("%d files are late when their postings are made", n)
	}
	w.checked(lateChannel, files)
}

func (w *lateWorld) checked(channel plat.ChannelID, files []lake.File) {
	w.Helper()
	bad, err := w.lake.CheckTerms(w.Context(), channel, files)
	if err != nil || len(bad) > 0 {
		w.Errorf("without their postings: %v, %v", bad, err)
	}
	if n, err := w.lake.StrayTerms(w.Context(), channel, false); err != nil || n > 0 {
		w.Errorf("%d stray postings, %v", n, err)
	}
}

func TestLatePostings(t *testing.T) {
	t.Run("a search does without them", func(t *testing.T) {
		w := newLateWorld(t)
		files := slices.Concat(w.commit(1), w.commit(3))
		if n := w.count("split:train"); n != 4 {
			t.Errorf("found %d, want 4", n)
		}
		if late, postings := w.rows("file_late"), w.rows("posting"); late != 4 || postings != 0 {
			t.Errorf("%d late files and %d postings after the search, want 4 and 0", late, postings)
		}
		w.sound(files)
	})
	t.Run("many make them at once", func(t *testing.T) {
		w := newLateWorld(t)
		files := w.commit(200)
		if late := w.rows("file_late"); late != 0 {
			t.Errorf("%d of a large commit are late", late)
		}
		for range 6 {
			files = append(files, w.commit(100)...)
		}
		if late := w.rows("file_late"); late != 0 {
			t.Errorf("%d are late after 600, want none: the commit that passed the bound makes them", late)
		}
		w.sound(files)
	})
	t.Run("a restart", func(t *testing.T) {
		w := newLateWorld(t)
		files := w.commit(2)
		if err := w.db.Close(); err != nil {
			t.Fatal(err)
		}
		w.open()
		if n := w.count("NOT split:train"); n != 0 {
			t.Errorf("found %d without the value, want 0", n)
		}
		w.sound(files)
	})
	t.Run("a part with each commit", func(t *testing.T) {
		w := newLateWorld(t)
		files := w.commit(200) // at once
		each := w.rows("posting") / 200
		for w.rows("file_late") < 512 {
			files = append(files, w.commit(4)...)
		}
		for parts := 1; parts <= 10; parts++ {
			made := w.rows("posting")/each - 200
			if late := w.rows("file_late"); late != len(files)-200 || made < 32*parts || made > 48*parts {
				t.Fatalf("after %d parts %d of %d files are late, and there are the postings of %d", parts, late, len(files)-200, made)
			}
			if n := w.count("split:train"); n != int64(len(files)) {
				t.Fatalf("found %d of %d", n, len(files))
			}
			files = append(files, w.commit(4)...)
		}
		for range 8 {
			files = append(files, w.commit(4)...)
		}
		if late := w.rows("file_late"); late >= 128 {
			t.Errorf("%d are late after the round, want those that came meanwhile", late)
		}
		w.sound(files)
	})
	t.Run("a restart amid a round", func(t *testing.T) {
		w := newLateWorld(t)
		files := w.commit(40)
		if err := w.lake.PostPart(t.Context(), 20, nil); err != nil {
			t.Fatal(err)
		}
		made := w.rows("posting")
		if err := w.db.Close(); err != nil {
			t.Fatal(err)
		}
		w.open()
		if _, err := w.lake.DeleteFile(t.Context(), lateChannel, files[0].ID, plat.SystemClock()); err != nil {
			t.Fatal(err)
		}
		if n := w.count("split:train"); n != 39 {
			t.Errorf("found %d, want 39", n)
		}
		w.sound(files[1:])
		if all := w.rows("posting"); made == 0 || made >= all {
			t.Errorf("%d postings of %d were made before the restart, want some", made, all)
		}
	})
	t.Run("changes", func(t *testing.T) {
		w := newLateWorld(t)
		files := w.commit(4)
		now := plat.SystemClock()
		var err error
		if files[0], err = w.lake.SetMetadata(t.Context(), lateChannel, files[0].ID, lake.Metadata{"split": "test"}, now); err != nil {
			t.Fatal(err)
		}
		files = append(files, w.commit(2)...)
		if files[1], err = w.lake.SetLifetime(t.Context(), lateChannel, files[1].ID, lake.Lifetime("1day"), now); err != nil {
			t.Fatal(err)
		}
		files = append(files, w.commit(2)...)
		if _, err = w.lake.DeleteFile(t.Context(), lateChannel, files[7].ID, now); err != nil {
			t.Fatal(err)
		}
		if train, test := w.count("split:train"), w.count("split:test"); train != 6 || test != 1 {
			t.Errorf("train %d, test %d; want 6 and 1", train, test)
		}
		w.sound(files[:7])
	})
	t.Run("a deleted channel", func(t *testing.T) {
		w := newLateWorld(t)
		w.commit(5)
		if err := w.lake.DropChannel(t.Context(), lateChannel, plat.SystemClock()); err != nil {
			t.Fatal(err)
		}
		for clean := false; !clean; {
			var err error
			if clean, err = w.lake.Sweep(t.Context(), lateChannel, 7); err != nil {
				t.Fatal(err)
			}
		}
		for _, table := range []string{"file", "posting", "file_late"} {
			if n := w.rows(table); n > 0 {
				t.Errorf("%d rows of %s are left", n, table)
			}
		}
	})
}

// TestSearchBesideUploads: a search beside uploads finds at least what was answered
// before it began, and never what does not match.
func TestSearchBesideUploads(t *testing.T) {
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		w := &lateWorld{T: t, db: db, lake: sqlstore.NewLake(db, plat.SystemClock)}
		w.createChannel()
		searchBesideUploads(w)
	})
}

func searchBesideUploads(w *lateWorld) {
	var answered atomic.Int64
	var uploads sync.WaitGroup
	for range 4 {
		uploads.Go(func() {
			for n := range 60 {
				w.commit(1 + n%3)
				answered.Add(int64(1 + n%3))
			}
		})
	}
	done := make(chan struct{})
	go func() { uploads.Wait(); close(done) }()
	for searches := 0; ; searches++ {
		before := answered.Load()
		if n := w.count("split:train"); n < before {
			w.Fatalf("search %d found %d, but %d uploads were answered before it", searches, n, before)
		}
		for _, q := range []string{"NOT split:train", "split:train AND NOT content_type:png", fmt.Sprintf("NOT (split:train OR split:%d)", searches)} {
			if n := w.count(q); n != 0 {
				w.Fatalf("search %d, %s: found %d, want none", searches, q, n)
			}
		}
		select {
		case <-done:
			if n := w.count("split:train"); n != answered.Load() {
				w.Errorf("found %d at the end, want %d", n, answered.Load())
			}
			return
		default:
		}
	}
}
