// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"panal/internal/lake"
	"panal/internal/logs"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlite"
	"panal/internal/sqlstore/sqlstoretest"
)

// frozen is a database whose writers count what they have begun and what was answered.
type frozen struct {
	db    *sqlstore.DB
	store *sqlstore.Lake
}

func openFrozen(t *testing.T, dir, name string) frozen {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(dir, name), sqlstoretest.Concerns()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	f := frozen{db: db, store: sqlstore.NewLake(db, plat.SystemClock)}
	if err := f.store.CreateChannel(t.Context(), lake.Channel{ID: "1", Org: "2", CreatedAt: plat.SystemClock()}); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f frozen) commit(ctx context.Context, id plat.FileID) error {
	_, err := f.store.Commit(ctx, []lake.NewFile{{File: lake.File{ID: id, Channel: "1", ContentType: "text/plain", Metadata: lake.Metadata{}}}})
	return err
}

// TestFreeze: while two databases are written, the second after the first, snapshots of
// both are of one moment: what was answered before is in them, what was begun after is
// not, and none is in the second that is not in the first. Commits go on while the
// snapshots are held and copied.
func TestFreeze(t *testing.T) {
	dir := t.TempDir()
	dbs := []frozen{openFrozen(t, dir, "first.db"), openFrozen(t, dir, "second.db")}
	var mu sync.Mutex
	begun, answered := []plat.FileID{}, []plat.FileID{}
	seen := func() (b, a []plat.FileID) {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(begun), slices.Clone(answered)
	}
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	defer writers.Wait()
	defer stop()
	for range 4 {
		writers.Go(func() {
			for ctx.Err() == nil {
				id := plat.NewFileID(plat.SystemClock())
				mu.Lock()
				begun = append(begun, id)
				mu.Unlock()
				for _, f := range dbs {
					if err := f.commit(context.WithoutCancel(ctx), id); err != nil {
						t.Error(err)
						return
					}
				}
				mu.Lock()
				answered = append(answered, id)
				mu.Unlock()
			}
		})
	}
	goesOn := func(what string) {
		t.Helper()
		_, before := seen()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
			if _, now := seen(); len(now) > len(before)+10 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("no commit %s", what)
			}
		}
	}
	for round := range 5 {
		goesOn("before the snapshots")
		_, before := seen()
		snaps, err := sqlstore.Freeze(t.Context(), dbs[0].db, dbs[1].db)
		if err != nil {
			t.Fatal(err)
		}
		upTo, _ := seen()
		goesOn("while frozen")
		all, _ := seen()
		after := all[len(upTo):]
		var in []map[plat.FileID]bool
		for i, s := range snaps {
			path, steps := filepath.Join(dir, fmt.Sprintf("copy%d-%d.db", round, i)), 0
			if err := s.CopyTo(t.Context(), path, func() error { steps++; return nil }); err != nil {
				t.Fatal(err)
			}
			s.Close()
			if steps == 0 {
				t.Error("the copy never said that it is at work")
			}
			copied, err := sqlite.Open(t.Context(), path, sqlstoretest.Concerns()...)
			if err != nil {
				t.Fatal(err)
			}
			store := sqlstore.NewLake(copied, plat.SystemClock)
			known, err := store.Known(t.Context(), "1", all)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := store.CountFiles(t.Context()); err != nil || n != int64(len(known)) {
				t.Errorf("the copy has %d files, of which %d were written (%v)", n, len(known), err)
			}
			if err := copied.Close(); err != nil {
				t.Fatal(err)
			}
			has := map[plat.FileID]bool{}
			for id := range known {
				has[id] = true
			}
			in = append(in, has)
			for _, id := range before {
				if !has[id] {
					t.Errorf("round %d: file %s was answered before the snapshot %d and is not in it", round, id, i)
				}
			}
			for _, id := range after {
				if has[id] {
					t.Errorf("round %d: file %s was begun after the snapshot %d and is in it", round, id, i)
				}
			}
		}
		for id := range in[1] {
			if !in[0][id] {
				t.Errorf("round %d: file %s is in the second snapshot and not in the first", round, id)
			}
		}
	}
	// One that can't be taken holds nothing.
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sqlstore.Freeze(cancelled, dbs[0].db, dbs[1].db); err == nil {
		t.Error("a snapshot was taken for a call that had ended")
	}
	goesOn("after a snapshot that failed")
}

// TestEachFile: the files of embedded logs come days first and the index last; a line
// that was acknowledged before is in them, and ingest goes on meanwhile.
func TestEachFile(t *testing.T) {
	dir := t.TempDir()
	store, err := sqlstore.OpenLogFiles(t.Context(), filepath.Join(dir, "logs"), openLogFile)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	var day atomic.Int64
	day.Store(plat.SystemClock().Add(-72 * time.Hour).Unix())
	svc, err := logs.New(store, logs.Config{Flush: time.Millisecond, Now: func() time.Time { return time.Unix(day.Load(), 0) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan struct{})
	go func() { defer close(ran); _ = svc.Run(ctx) }()
	defer func() { stop(); <-ran }()
	seq := int64(0)
	stream := logs.JobStream("1")
	ingest := func() {
		t.Helper()
		seq++
		ack, err := svc.Ingest(t.Context(), crashOrg, logs.Batch{Workload: "wl", Stream: stream, FirstSeq: seq, Entries: []logs.Entry{{Time: day.Load() * 1e6, Message: fmt.Sprint("line ", seq)}}})
		if err != nil || ack.LastSeq != seq {
			t.Fatalf("line %d: %+v, %v", seq, ack, err)
		}
	}
	for range 3 {
		ingest()
		day.Add(24 * 3600)
	}
	acked := seq
	var names []string
	err = store.EachFile(t.Context(), func(name string, db *sqlstore.DB) error {
		snaps, err := sqlstore.Freeze(t.Context(), db)
		if err != nil {
			return err
		}
		defer snaps[0].Close()
		ingest() // it waits for nobody
		names = append(names, name)
		return snaps[0].CopyTo(t.Context(), filepath.Join(dir, name), func() error { return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(names); n < 4 || names[n-1] != "index.db" || !slices.IsSorted(names[:n-1]) {
		t.Errorf("files = %q, want three days and the index", names)
	}
	copied := filepath.Join(dir, "copied")
	if err := os.Mkdir(copied, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(copied, name)); err != nil {
			t.Fatal(err)
		}
	}
	again, err := sqlstore.OpenLogFiles(t.Context(), copied, openLogFile)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	reader, err := logs.New(again, logs.Config{Now: func() time.Time { return time.Unix(day.Load(), 0) }})
	if err != nil {
		t.Fatal(err)
	}
	page, err := reader.Read(t.Context(), logs.Query{Org: crashOrg, Stream: stream, Limit: 100})
	if err != nil || int64(len(page.Lines)) < acked {
		t.Fatalf("the copy has %d lines, %v; %d were acknowledged before", len(page.Lines), err, acked)
	}
	for i, l := range page.Lines {
		if want := fmt.Sprint("line ", i+1); l.Message != want {
			t.Errorf("line %d of the copy is %q, want %q", i+1, l.Message, want)
		}
	}
	if seq != acked+int64(len(names)) {
		t.Errorf("%d lines were acknowledged, want %d", seq, acked+int64(len(names)))
	}
}
