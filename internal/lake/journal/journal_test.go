// SPDX-License-Identifier: Apache-2.0

package journal_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"panal/internal/blob"
	"panal/internal/blob/faultblob"
	"panal/internal/blob/memblob"
	"panal/internal/lake"
	"panal/internal/lake/journal"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
)

const org = plat.OrgID("1000000000001")

// TestEveryMethodIsDecided: a method that lake.Store gains must be journaled, or be
// put here because it changes nothing that a rebuild needs.
func TestEveryMethodIsDecided(t *testing.T) {
	passes := []string{
		"Channel", "Channels", "File", "PathFile", "Entries", "FileWith", "Files", "Count", "Facets", "Usage", "Total", "OrgUsage", "Known", // read
		"CreatePending", "Pending", "DeletePending", "BindPending", "RefusePending", "AwaitedUntil", // promises: no files yet, answered again by whoever was promised
		"Gone", "Sweep", "Forget", // of a channel whose end is in the journal
	}
	journaled := []string{
		"CreateChannel", "UpdateChannel", "DropChannel", "Commit", "SetMetadata", "PatchMetadata", "SetLifetime",
		"DeleteFile", "DeleteExpired", "DeleteMatching",
	}
	for m := range reflect.TypeFor[lake.Store]().Methods() {
		if !slices.Contains(passes, m.Name) && !slices.Contains(journaled, m.Name) {
			t.Errorf("lake.Store.%s: journal it in Store, or say here why not", m.Name)
		}
	}
}

// world is an index with a journal on a storage whose faults the test scripts.
type world struct {
	faults *faultblob.Driver
	blobs  *blob.Store
	index  *sqlstore.Lake
	j      *journal.Journal
	store  *journal.Store
	now    time.Time
}

func newWorld(t *testing.T, db *sqlstore.DB) *world { return newWorldOn(t, db, memblob.New()) }

func newWorldOn(t *testing.T, db *sqlstore.DB, storage blob.Driver) *world {
	t.Helper()
	w := &world{now: time.Date(2024, 3, 15, 8, 15, 2, 0, time.UTC)}
	w.faults = faultblob.New(storage)
	w.blobs = blob.New(w.faults)
	w.index = sqlstore.NewLake(db, w.clock)
	w.j = journal.New(w.blobs, w.clock)
	w.store = journal.NewStore(w.index, w.j)
	return w
}

func (w *world) clock() time.Time { return w.now }

func (w *world) channel(t testing.TB) lake.Channel {
	c := lake.Channel{ID: plat.ChannelID(plat.NewDecimalID()), Org: org, Storage: lake.StorageDatalake, CreatedAt: w.now, UpdatedAt: w.now}
	if err := w.store.CreateChannel(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) put(t testing.TB, channel plat.ChannelID, m lake.Metadata, life lake.Lifetime, path ...string) (lake.File, error) {
	f := lake.File{ID: plat.NewFileID(w.now), Channel: channel, Size: 4, ETag: "e", ContentType: "text/plain", Metadata: m, Lifetime: life, Path: strings.Join(path, "")}
	if _, err := w.blobs.Put(t.Context(), lake.BlobKey(org, channel, f.ID), strings.NewReader("body"), 4, blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	out, err := w.store.Commit(t.Context(), []lake.NewFile{{File: f}})
	if err != nil {
		return f, err
	}
	return out[0].File, out[0].Err
}

func empty(t *testing.T, like *sqlstore.DB, now plat.Clock) *sqlstore.Lake {
	if like.Dialect().Name == "postgres" {
		return sqlstore.NewLake(sqlstoretest.Postgres(t), now)
	}
	return sqlstore.NewLake(sqlstoretest.SQLite(t), now)
}

// TestOneObjectForManyCalls: concurrent changes share batches.
func TestOneObjectForManyCalls(t *testing.T) {
	w := newWorld(t, sqlstoretest.SQLite(t))
	w.faults.SetScript(faultblob.Fault{Op: faultblob.OpPut, Prefix: journal.Prefix, Latency: 20 * time.Millisecond})
	var wg sync.WaitGroup
	const n = 200
	for i := range n {
		wg.Go(func() {
			if err := w.j.Append(context.Background(), journal.Entry{Org: org, Channel: "1", File: plat.FileID(fmt.Sprint(i)), At: 1}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	infos, _, err := w.blobs.List(t.Context(), journal.Prefix, "", 1000)
	if err != nil || len(infos) > n/2 {
		t.Errorf("%d objects for %d calls, %v", len(infos), n, err)
	}
}

// TestUnwrittenJournal: a change that can't be journaled is not answered with success,
// what is owed is written when the storage is back, and until then nothing else changes.
func TestUnwrittenJournal(t *testing.T) {
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		w := newWorld(t, db)
		c := w.channel(t)
		kept, err := w.put(t, c.ID, lake.Metadata{"n": "1"}, "")
		if err != nil {
			t.Fatal(err)
		}
		w.faults.SetScript(faultblob.Fault{Op: faultblob.OpPut, Prefix: journal.Prefix, Err: plat.ErrExhausted})
		owed, err := w.put(t, c.ID, lake.Metadata{"n": "2"}, "")
		if !errors.Is(err, plat.ErrUnavailable) || errors.Is(err, plat.ErrExhausted) {
			t.Errorf("Commit = %v, want ErrUnavailable alone", err)
		}
		if _, err := w.store.File(t.Context(), c.ID, owed.ID, w.now); !errors.Is(err, plat.ErrNotFound) { // or whoever tries again has it twice
			t.Errorf("what was refused: %v", err)
		}
		if _, err := w.store.SetMetadata(t.Context(), c.ID, kept.ID, lake.Metadata{}, w.now); !errors.Is(err, plat.ErrUnavailable) {
			t.Errorf("SetMetadata = %v", err)
		}
		if f, err := w.store.File(t.Context(), c.ID, kept.ID, w.now); err != nil || f.Rev != 0 {
			t.Errorf("the change was made all the same: %+v, %v", f, err)
		}
		// A full storage is emptied by deletions.
		if _, err := w.store.DeleteFile(t.Context(), c.ID, kept.ID, w.now); err != nil {
			t.Errorf("DeleteFile on a full storage = %v", err)
		}
		w.faults.SetScript()
		if err := w.j.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		to := empty(t, db, w.clock)
		got, err := journal.Rebuild(t.Context(), w.blobs, to, false, nil)
		if err != nil || got.Files != 0 {
			t.Fatalf("rebuilt %+v, %v", got, err)
		}
		// A channel, too.
		w.faults.SetScript(faultblob.Fault{Op: faultblob.OpPut, Prefix: journal.Prefix, Err: plat.ErrUnavailable})
		second := lake.Channel{ID: "4711", Org: org, Storage: lake.StorageDatalake, CreatedAt: w.now, UpdatedAt: w.now}
		if err := w.store.CreateChannel(t.Context(), second); !errors.Is(err, plat.ErrUnavailable) {
			t.Errorf("CreateChannel = %v", err)
		}
		if _, err := w.store.Channel(t.Context(), second.ID); !errors.Is(err, plat.ErrNotFound) {
			t.Errorf("the channel that was refused: %v", err)
		}
	})
}

// TestHealing: what a writer that died had committed and not journaled is journaled by
// the next one, and so are rows from before there was a journal.
func TestHealing(t *testing.T) {
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		w := newWorld(t, db)
		bare := lake.Channel{ID: "2290000000456", Org: org, Storage: lake.StorageDatalake, CreatedAt: w.now, UpdatedAt: w.now}
		if err := w.index.CreateChannel(t.Context(), bare); err != nil { // no journal yet
			t.Fatal(err)
		}
		if err := w.j.Tend(t.Context(), w.index, true); err != nil {
			t.Fatal(err)
		}
		c := w.channel(t)
		gone, err := w.put(t, c.ID, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		// It dies between row and journal: with a new file and with a deletion.
		lost := lake.File{ID: plat.NewFileID(w.now), Channel: c.ID, Size: 4, Metadata: lake.Metadata{}}
		if _, err := w.blobs.Put(t.Context(), lake.BlobKey(org, c.ID, lost.ID), strings.NewReader("body"), 4, blob.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.index.Commit(t.Context(), []lake.NewFile{{File: lost}}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.index.DeleteFile(t.Context(), c.ID, gone.ID, w.now); err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(time.Hour)
		next := journal.New(w.blobs, w.clock)
		if err := next.Tend(t.Context(), w.index, true); err != nil {
			t.Fatal(err)
		}
		if err := next.End(t.Context()); err != nil {
			t.Fatal(err)
		}
		to := empty(t, db, w.clock)
		got, err := journal.Rebuild(t.Context(), w.blobs, to, false, nil)
		if err != nil || got.Channels != 2 || got.Files != 1 || got.Unknown != 1 {
			t.Errorf("rebuilt %+v, %v", got, err)
		}
		if _, err := to.File(t.Context(), c.ID, lost.ID, w.now); err != nil {
			t.Error(err)
		}
	})
}
