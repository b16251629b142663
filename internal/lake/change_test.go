// SPDX-License-Identifier: Apache-2.0

package lake_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"panal/internal/blob"
	"panal/internal/blob/faultblob"
	"panal/internal/lake"
	"panal/internal/plat"
)

func (b *bench) promise() lake.Pending {
	b.Helper()
	p, err := b.Promise(b.Context(), lake.Upload{Org: org, Channel: b.channel, Metadata: lake.Metadata{"label": "cat"}})
	if err != nil {
		b.Fatal(err)
	}
	return p.Pending
}

func (b *bench) fulfil(p lake.Pending, body string) error {
	_, err := b.Fulfil(b.Context(), p.File.Channel, p.File.ID, strings.NewReader(body), int64(len(body)))
	return err
}

// What a promised upload leaves when its commit fails, by what is known of it.
func TestFulfilFailures(t *testing.T) {
	t.Run("the database is full", func(t *testing.T) {
		b := newBench(t)
		p := b.promise()
		b.store.before = func([]lake.NewFile) error { return fmt.Errorf("disk: %w", plat.ErrExhausted) }
		if err := b.fulfil(p, "hello"); !errors.Is(err, plat.ErrExhausted) {
			t.Errorf("Fulfil = %v", err)
		}
		b.has(0, 0)
		b.store.before = nil
		if err := b.fulfil(p, "hello"); err != nil { // the promise still holds
			t.Error(err)
		}
		b.has(1, 1)
	})
	t.Run("the answer of the commit is lost", func(t *testing.T) {
		b := newBench(t)
		p := b.promise()
		b.store.after = func() error { return fmt.Errorf("connection: %w", plat.ErrUnavailable) }
		if err := b.fulfil(p, "hello"); !errors.Is(err, plat.ErrUnavailable) {
			t.Errorf("Fulfil = %v", err)
		}
		b.has(1, 1)
		if err := b.fulfil(p, "other"); !errors.Is(err, plat.ErrConflict) {
			t.Errorf("again = %v", err)
		}
	})
	t.Run("the commit is lost", func(t *testing.T) {
		b := newBench(t)
		p := b.promise()
		b.store.before = func([]lake.NewFile) error { return fmt.Errorf("connection: %w", plat.ErrUnavailable) }
		if err := b.fulfil(p, "hello"); !errors.Is(err, plat.ErrUnavailable) {
			t.Errorf("Fulfil = %v", err)
		}
		b.store.before = nil
		b.has(1, 0)
		if err := b.fulfil(p, "hello"); !errors.Is(err, plat.ErrConflict) { // perhaps the first one is still on its way
			t.Errorf("again = %v", err)
		}
		if _, err := b.Reap(t.Context()); err != nil {
			t.Error(err)
		}
		b.has(1, 0)
		b.now = p.Until.Add(lake.Grace + time.Second)
		if _, err := b.Reap(t.Context()); err != nil {
			t.Error(err)
		}
		b.has(0, 0)
		if err := b.fulfil(p, "hello"); !errors.Is(err, plat.ErrNotFound) {
			t.Errorf("a forgotten promise = %v", err)
		}
	})
	t.Run("promises of a deleted channel", func(t *testing.T) {
		b := newBench(t)
		p := b.promise()
		if _, err := b.DeleteChannel(t.Context(), org, b.channel); err != nil {
			t.Fatal(err)
		}
		if err := b.fulfil(p, "hello"); !errors.Is(err, plat.ErrNotFound) {
			t.Errorf("Fulfil = %v", err)
		}
		b.now = p.Until.Add(lake.Grace + time.Second)
		if _, err := b.Reap(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A lifetime that has elapsed ends the file and its bytes, also when the storage
// does not answer at that moment.
func TestSetLifetimeEndsTheBytes(t *testing.T) {
	b := newBench(t)
	for _, script := range [][]faultblob.Fault{nil, {{Op: faultblob.OpDelete, Err: plat.ErrUnavailable, Times: 1}}} {
		f, err := b.put("hello", nil)
		if err != nil {
			t.Fatal(err)
		}
		b.now = b.now.Add(25 * time.Hour)
		b.faults.SetScript(script...)
		if _, err := b.SetLifetime(t.Context(), org, b.channel, f.ID, "1day"); err != nil {
			t.Fatal(err)
		}
	}
	b.has(1, 0)
	if n, err := b.Reap(t.Context()); err != nil || n != 2 {
		t.Errorf("Reap = %d, %v", n, err)
	}
	b.has(0, 0)
}

// A deleted channel is gone at once; its bytes come back when the storage answers
// again, also those of an upload that was under way.
func TestDeleteChannelReturnsItsBytes(t *testing.T) {
	b := newBench(t)
	keep, err := b.CreateChannel(t.Context(), org, lake.NewChannel{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		in := lake.Upload{Org: org, Channel: []plat.ChannelID{b.channel, keep.ID}[i%2], Body: strings.NewReader("x"), Size: 1}
		if _, err := b.Upload(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.DeleteChannel(t.Context(), "9", b.channel); !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("another organization deletes it: %v", err)
	}
	b.faults.SetScript(faultblob.Fault{Op: faultblob.OpList, Err: plat.ErrUnavailable, Times: 1})
	deleted := b.channel
	if c, err := b.DeleteChannel(t.Context(), org, deleted); err != nil || c.ID != deleted {
		t.Fatalf("DeleteChannel = %v, %v", c, err)
	}
	b.channel = keep.ID
	b.has(5, 2)
	b.now = b.now.Add(time.Minute)
	reap := func() {
		t.Helper()
		if _, err := b.Reap(t.Context()); err != nil {
			t.Error(err)
		}
	}
	reap()
	b.has(2, 2)
	// Bytes that a slow upload brings after that: its commit is refused, and should its
	// process die in between, the next sweep finds them.
	late := lake.BlobKey(org, deleted, plat.NewFileID(b.now))
	if _, err := b.blobs.Put(t.Context(), late, strings.NewReader("x"), 1, blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	b.has(3, 2)
	b.now = b.now.Add(time.Hour)
	reap()
	b.has(2, 2)
	if gone, err := b.store.Gone(t.Context(), b.now.Add(time.Hour)); err != nil || len(gone) != 0 {
		t.Errorf("still remembered: %v, %v", gone, err)
	}
}

// A deletion by query takes what the dry run counted, in calls of any size, and goes
// on after a failure.
func TestDeleteInSteps(t *testing.T) {
	b := newBench(t)
	for i := range 25 {
		if _, err := b.put("12345", lake.Metadata{"label": []string{"cat", "dog", "cat"}[i%3]}); err != nil {
			t.Fatal(err)
		}
	}
	q, err := lake.ParseQuery("label:cat")
	if err != nil {
		t.Fatal(err)
	}
	f := lake.Filter{Channel: b.channel, Query: q}
	if _, _, _, err := b.PlanDeletion(t.Context(), "9", f); !errors.Is(err, plat.ErrForbidden) {
		t.Errorf("another organization plans: %v", err)
	}
	if _, _, _, err := b.PlanDeletion(t.Context(), org, lake.Filter{Channel: b.channel}); !errors.Is(err, plat.ErrInvalid) {
		t.Errorf("without a query: %v", err)
	}
	d, n, sample, err := b.PlanDeletion(t.Context(), org, f)
	if err != nil || n != 17 || len(sample) != 10 {
		t.Fatalf("plan = %d, %d files, %v", n, len(sample), err)
	}
	got, err := lake.ParseDeletion(d.Token(), f, b.now)
	if err != nil || !got.To.Equal(d.To) || got.Channel != d.Channel || !got.Until.Equal(d.Until.Truncate(time.Second)) {
		t.Errorf("token reads as %+v, %v; want %+v", got, err, d)
	}
	b.faults.SetScript(faultblob.Fault{Op: faultblob.OpDelete, Err: errors.New("broken"), Times: 1})
	if _, err := b.Delete(t.Context(), org, d, 5); err == nil {
		t.Error("a broken storage was not told")
	}
	b.faults.SetScript()
	var deleted int64
	for remaining := int64(1); remaining > 0; {
		done, err := b.Delete(t.Context(), org, d, 5)
		if err != nil || done.Files > 5 || done.Bytes != 5*done.Files {
			t.Fatalf("Delete = %+v, %v", done, err)
		}
		deleted, remaining, d = deleted+done.Files, done.Remaining, done.Next
	}
	if deleted != 12 { // five went in the call that failed
		t.Errorf("deleted %d", deleted)
	}
	if n, err := b.Count(t.Context(), org, lake.Filter{Channel: b.channel}); err != nil || n != 8 {
		t.Errorf("%d files are left, %v", n, err)
	}
}

// Names that a patch spells otherwise are the same names.
func TestPatchSpellings(t *testing.T) {
	x := "x"
	for what, p := range map[string]lake.Patch{
		"two spellings": {"%e3%83%86": &x, "%E3%83%86": nil}, "case": {"a%20b": &x, "A B": &x},
	} {
		b := newBench(t)
		f, err := b.put("x", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.PatchMetadata(t.Context(), org, b.channel, f.ID, p); !errors.Is(err, plat.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// FuzzParseDeletion: what is read is a deletion of what was asked for, bounded in
// time, and nothing else.
func FuzzParseDeletion(f *testing.F) {
	q, err := lake.ParseQuery("label:cat OR label:dog")
	if err != nil {
		f.Fatal(err)
	}
	now := time.Unix(1000, 0).UTC()
	want := lake.Filter{Channel: "1", Query: q, To: now}
	f.Add(lake.Deletion{Filter: want, Until: now.Add(time.Hour)}.Token())
	for _, s := range []string{`{"c":"1","q":"label:cat OR label:dog","u":7,"e":99999}`, `{"c":"1","q":"","u":7,"e":99999}`, `{}`, `[`, `{"c":"1"}{}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, token []byte) {
		d, err := lake.ParseDeletion(token, want, now)
		if err != nil {
			if !errors.Is(err, plat.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if d.Channel != "1" || d.Query.String() != q.String() || d.To.After(want.To) || !d.Until.After(now) {
			t.Fatalf("%q reads as %+v", token, d)
		}
	})
}
