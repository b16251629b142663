// SPDX-License-Identifier: Apache-2.0

package lake_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"panal/internal/blob"
	"panal/internal/blob/faultblob"
	"panal/internal/blob/memblob"
	"panal/internal/lake"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
)

// fakeCommit is a real store whose commits a test may hold up or break.
type fakeCommit struct {
	lake.Store
	mu      sync.Mutex
	batches []int
	before  func(files []lake.NewFile) error // an error: nothing is stored
	after   func() error                     // an error: stored, and the answer lost
}

func (f *fakeCommit) Commit(ctx context.Context, files []lake.NewFile) ([]lake.Outcome, error) {
	f.mu.Lock()
	f.batches = append(f.batches, len(files))
	f.mu.Unlock()
	if f.before != nil {
		if err := f.before(files); err != nil {
			return nil, err
		}
	}
	out, err := f.Store.Commit(ctx, files)
	if err == nil && f.after != nil {
		return nil, f.after()
	}
	return out, err
}

type bench struct {
	*testing.T
	*lake.Service
	store   *fakeCommit
	blobs   *blob.Store
	faults  *faultblob.Driver
	channel plat.ChannelID
	now     time.Time
}

const org = plat.OrgID("1000000000001")

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{T: t, now: plat.SystemClock(), faults: faultblob.New(memblob.New())}
	clock := func() time.Time { return b.now }
	b.store = &fakeCommit{Store: sqlstore.NewLake(sqlstoretest.SQLite(t), clock)}
	b.blobs = blob.New(b.faults)
	b.Service = lake.NewService(b.store, b.blobs, clock)
	c, err := b.CreateChannel(t.Context(), org, lake.NewChannel{Name: "c"})
	if err != nil {
		t.Fatal(err)
	}
	b.channel = c.ID
	return b
}

func (b *bench) put(body string, meta lake.Metadata) (lake.File, error) {
	return b.Upload(b.Context(), lake.Upload{Org: org, Channel: b.channel, Metadata: meta, Body: strings.NewReader(body), Size: int64(len(body))})
}

// objects and files assert how many there are.
func (b *bench) has(objects int, files int64) {
	b.Helper()
	infos, _, err := b.blobs.List(b.Context(), "", "", 1000)
	if err != nil || len(infos) != objects {
		b.Errorf("%d objects, want %d (%v)", len(infos), objects, err)
	}
	n, err := b.Count(b.Context(), org, lake.Filter{Channel: b.channel})
	if err != nil || n != files {
		b.Errorf("%d files, want %d (%v)", n, files, err)
	}
}

func TestUpload(t *testing.T) {
	b := newBench(t)
	f, err := b.put("hello", lake.Metadata{"label": "cat"})
	if err != nil || f.Size != 5 || f.ETag != "5d41402abc4b2a76b9719d911017c592" || f.ContentType != "application/octet-stream" {
		t.Fatalf("%+v, %v", f, err)
	}
	_, rc, err := b.Open(t.Context(), org, b.channel, f.ID, 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rc.Close() }()
	if got, err := io.ReadAll(rc); err != nil || string(got) != "ell" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, _, err := b.Open(t.Context(), "9", b.channel, f.ID, 0, -1); !errors.Is(err, plat.ErrForbidden) {
		t.Errorf("another organization reads: %v", err)
	}
	if err := b.DeleteFile(t.Context(), org, b.channel, f.ID); err != nil {
		t.Fatal(err)
	}
	b.has(0, 0)
}

// While one commit runs, the uploads that arrive gather into the next.
func TestCommitsAreGrouped(t *testing.T) {
	b := newBench(t)
	running, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	b.store.before = func([]lake.NewFile) error {
		once.Do(func() { close(running); <-release })
		return nil
	}
	const n = 40
	var wg sync.WaitGroup
	ids := make(chan plat.FileID, n+1)
	send := func() {
		f, err := b.put("x", lake.Metadata{"label": "cat"})
		if err != nil {
			t.Error(err)
		}
		ids <- f.ID
	}
	wg.Go(send)
	<-running
	for range n {
		wg.Go(send)
	}
	// All of them have stored their bytes and now wait for their row.
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if infos, _, _ := b.blobs.List(t.Context(), "", "", 1000); len(infos) == n+1 {
			break
		}
	}
	time.Sleep(50 * time.Millisecond) // from the bytes to the queue there is nothing to see
	close(release)
	wg.Wait()
	close(ids)
	seen := map[plat.FileID]bool{}
	for id := range ids {
		seen[id] = true
	}
	if len(seen) != n+1 {
		t.Errorf("%d different files", len(seen))
	}
	b.has(n+1, n+1)
	if len(b.store.batches) > 4 {
		t.Errorf("%d uploads took the commits %v", n+1, b.store.batches)
	}
}

// A file that the database refuses does not take the others of its batch with it.
func TestOneBadFileFailsAlone(t *testing.T) {
	b := newBench(t)
	hold := make(chan struct{})
	var first sync.Once
	b.store.before = func(files []lake.NewFile) error {
		first.Do(func() { <-hold })
		for _, f := range files {
			if f.Metadata["label"] == "poison" {
				return errors.New("the database does not take this")
			}
		}
		return nil
	}
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			label := "good"
			if i == 5 {
				label = "poison"
			}
			if _, err := b.put("x", lake.Metadata{"label": label}); (err != nil) != (i == 5) {
				t.Errorf("upload %d (%s) = %v", i, label, err)
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	close(hold)
	wg.Wait()
	if n, err := b.Count(t.Context(), org, lake.Filter{Channel: b.channel}); err != nil || n != 9 {
		t.Errorf("%d files, %v", n, err)
	}
}

func TestUploadFaults(t *testing.T) {
	t.Run("the storage is full", func(t *testing.T) {
		b := newBench(t)
		b.faults.SetScript(faultblob.Fault{Op: faultblob.OpPut, Err: plat.ErrExhausted, AfterBytes: 3, Times: 1})
		if _, err := b.put("hello", nil); !errors.Is(err, plat.ErrExhausted) {
			t.Errorf("Upload = %v", err)
		}
		b.has(0, 0)
	})
	t.Run("the body ends early", func(t *testing.T) {
		b := newBench(t)
		_, err := b.Upload(t.Context(), lake.Upload{Org: org, Channel: b.channel, Body: strings.NewReader("short"), Size: 10})
		if err == nil {
			t.Error("a short body was stored")
		}
		b.has(0, 0)
	})
	t.Run("the database is full", func(t *testing.T) {
		b := newBench(t)
		b.store.before = func([]lake.NewFile) error { return fmt.Errorf("disk: %w", plat.ErrExhausted) }
		if _, err := b.put("hello", nil); !errors.Is(err, plat.ErrExhausted) {
			t.Errorf("Upload = %v", err)
		}
		b.has(0, 0) // a definite no gives the bytes back at once
	})
	t.Run("the answer of the commit is lost", func(t *testing.T) {
		b := newBench(t)
		b.store.after = func() error { return fmt.Errorf("connection: %w", plat.ErrUnavailable) }
		if _, err := b.put("hello", nil); !errors.Is(err, plat.ErrUnavailable) {
			t.Errorf("Upload = %v", err)
		}
		b.has(1, 1) // the row is there, so its object must be
		b.now = b.now.Add(2 * lake.Grace)
		if n, err := b.Collect(t.Context(), lake.Grace); err != nil || n != 0 {
			t.Errorf("Collect = %d, %v", n, err)
		}
		b.has(1, 1)
	})
	t.Run("the commit is lost", func(t *testing.T) {
		b := newBench(t)
		b.store.before = func([]lake.NewFile) error { return fmt.Errorf("connection: %w", plat.ErrUnavailable) }
		if _, err := b.put("hello", nil); !errors.Is(err, plat.ErrUnavailable) {
			t.Errorf("Upload = %v", err)
		}
		b.has(1, 0) // nobody knows yet that it is garbage
		b.store.before = nil
		if _, err := b.put("kept", nil); err != nil {
			t.Fatal(err)
		}
		if n, err := b.Collect(t.Context(), lake.Grace); err != nil || n != 0 {
			t.Errorf("Collect within the grace = %d, %v", n, err)
		}
		b.now = b.now.Add(2 * lake.Grace)
		if n, err := b.Collect(t.Context(), lake.Grace); err != nil || n != 1 {
			t.Errorf("Collect = %d, %v", n, err)
		}
		b.has(1, 1)
	})
	t.Run("deleting the bytes fails", func(t *testing.T) {
		for _, why := range []error{plat.ErrUnavailable, plat.ErrExhausted} { // its disk has no room to note it
			b := newBench(t)
			f, err := b.put("hello", nil)
			if err != nil {
				t.Fatal(err)
			}
			b.faults.SetScript(faultblob.Fault{Op: faultblob.OpDelete, Err: why, Times: 1})
			if err := b.DeleteFile(t.Context(), org, b.channel, f.ID); err != nil {
				t.Errorf("DeleteFile = %v, though the file is gone", err)
			}
			b.has(1, 0)
			b.now = b.now.Add(2 * lake.Grace)
			if n, err := b.Collect(t.Context(), lake.Grace); err != nil || n != 1 {
				t.Errorf("Collect = %d, %v", n, err)
			}
		}
	})
}

func TestReap(t *testing.T) {
	b := newBench(t)
	for _, l := range []string{"1day", "1day", "1week", ""} {
		if _, err := b.Upload(t.Context(), lake.Upload{Org: org, Channel: b.channel, Lifetime: l, Body: strings.NewReader("x"), Size: 1}); err != nil {
			t.Fatal(err)
		}
	}
	b.has(4, 4)
	b.now = b.now.Add(25 * time.Hour)
	b.has(4, 2) // gone for readers before anything reaps them
	if n, err := b.Reap(t.Context()); err != nil || n != 2 {
		t.Errorf("Reap = %d, %v", n, err)
	}
	b.has(2, 2)
}

// What another process did to a channel that this one has uploaded to counts at once,
// and leaves no bytes.
func TestUploadAfterAnotherProcess(t *testing.T) {
	yes, no := true, false
	for what, c := range map[string]struct {
		want error
		do   func(other *lake.Service, id plat.ChannelID) error
	}{
		"archived": {plat.ErrForbidden, func(other *lake.Service, id plat.ChannelID) error {
			_, err := other.UpdateChannel(t.Context(), org, id, lake.ChannelChange{Archived: &yes})
			return err
		}},
		"deleted": {plat.ErrNotFound, func(other *lake.Service, id plat.ChannelID) error {
			_, err := other.DeleteChannel(t.Context(), org, id)
			return err
		}},
	} {
		t.Run(what, func(t *testing.T) {
			b := newBench(t)
			if _, err := b.put("one", nil); err != nil {
				t.Fatal(err)
			}
			other := lake.NewService(b.store, b.blobs, func() time.Time { return b.now })
			if err := c.do(other, b.channel); err != nil {
				t.Fatal(err)
			}
			before, _, err := b.blobs.List(t.Context(), "", "", 1000)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second is not told by the commit
				if _, err := b.put("two", nil); !errors.Is(err, c.want) {
					t.Errorf("an upload = %v, want %v", err, c.want)
				}
			}
			if after, _, err := b.blobs.List(t.Context(), "", "", 1000); err != nil || len(after) != len(before) {
				t.Errorf("%d objects, before %d (%v)", len(after), len(before), err)
			}
			if what != "archived" {
				return
			}
			if _, err := other.UpdateChannel(t.Context(), org, b.channel, lake.ChannelChange{Archived: &no}); err != nil {
				t.Fatal(err)
			}
			if _, err := b.put("three", nil); err != nil {
				t.Errorf("unarchived: %v", err)
			}
			b.has(2, 2)
		})
	}
	b := newBench(t)
	if _, err := b.put("one", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Upload(t.Context(), lake.Upload{Org: "9", Channel: b.channel, Body: strings.NewReader("x"), Size: 1}); !errors.Is(err, plat.ErrForbidden) {
		t.Errorf("another organization's upload = %v", err)
	}
}

func TestUploadRefusals(t *testing.T) {
	b := newBench(t)
	try := func(change func(*lake.Upload)) error {
		in := lake.Upload{Org: org, Channel: b.channel, Body: strings.NewReader("x"), Size: 1}
		change(&in)
		_, err := b.Upload(t.Context(), in)
		return err
	}
	yes := true
	for what, c := range map[string]struct {
		want   error
		change func(*lake.Upload)
	}{
		"unknown channel":        {plat.ErrNotFound, func(u *lake.Upload) { u.Channel = "1" }},
		"another organization's": {plat.ErrForbidden, func(u *lake.Upload) { u.Org = "9" }},
		"lifetime":               {plat.ErrInvalid, func(u *lake.Upload) { u.Lifetime = "2days" }},
		"metadata":               {plat.ErrInvalid, func(u *lake.Upload) { u.Metadata = lake.Metadata{"a": "%00"} }},
		"content type":           {plat.ErrInvalid, func(u *lake.Upload) { u.ContentType = strings.Repeat("x", 2000) }},
		"target without key":     {plat.ErrInvalid, func(u *lake.Upload) { u.ConflictTarget = "filename" }},
		"archived": {plat.ErrForbidden, func(*lake.Upload) {
			if _, err := b.UpdateChannel(t.Context(), org, b.channel, lake.ChannelChange{Archived: &yes}); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		if err := try(c.change); !errors.Is(err, c.want) {
			t.Errorf("%s = %v, want %v", what, err, c.want)
		}
		no := false
		if _, err := b.UpdateChannel(t.Context(), org, b.channel, lake.ChannelChange{Archived: &no}); err != nil {
			t.Fatal(err)
		}
	}
	b.has(0, 0)
}
