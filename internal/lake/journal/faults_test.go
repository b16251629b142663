// SPDX-License-Identifier: Apache-2.0

package journal_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"panal/internal/blob/faultblob"
	"panal/internal/lake"
	"panal/internal/lake/journal"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
)

var errDatabase = fmt.Errorf("the connection broke: %w", plat.ErrUnavailable)

// faultyIndex fails the changes of an index: the next but skip, before it is made or, if
// done is set, after it: its answer is lost then.
type faultyIndex struct {
	lake.Store
	armed bool
	skip  int
	done  bool
}

func faulty[T any](x *faultyIndex, do func() (T, error)) (T, error) {
	var none T
	if !x.armed || x.skip > 0 {
		x.skip--
		return do()
	}
	x.armed = false
	if x.done {
		if _, err := do(); err != nil {
			return none, err
		}
	}
	return none, errDatabase
}

func (x *faultyIndex) Commit(ctx context.Context, files []lake.NewFile) ([]lake.Outcome, error) {
	return faulty(x, func() ([]lake.Outcome, error) { return x.Store.Commit(ctx, files) })
}

func (x *faultyIndex) SetMetadata(ctx context.Context, c plat.ChannelID, id plat.FileID, m lake.Metadata, now time.Time) (lake.File, error) {
	return faulty(x, func() (lake.File, error) { return x.Store.SetMetadata(ctx, c, id, m, now) })
}

func (x *faultyIndex) PatchMetadata(ctx context.Context, c plat.ChannelID, id plat.FileID, p lake.Patch, l lake.Limits, now time.Time) (lake.File, error) {
	return faulty(x, func() (lake.File, error) { return x.Store.PatchMetadata(ctx, c, id, p, l, now) })
}

func (x *faultyIndex) SetLifetime(ctx context.Context, c plat.ChannelID, id plat.FileID, l lake.Lifetime, now time.Time) (lake.File, error) {
	return faulty(x, func() (lake.File, error) { return x.Store.SetLifetime(ctx, c, id, l, now) })
}

func (x *faultyIndex) DeleteFile(ctx context.Context, c plat.ChannelID, id plat.FileID, now time.Time) (lake.File, error) {
	return faulty(x, func() (lake.File, error) { return x.Store.DeleteFile(ctx, c, id, now) })
}

func (x *faultyIndex) DeleteMatching(ctx context.Context, f lake.Filter, ids []plat.FileID, now time.Time) ([]lake.File, error) {
	return faulty(x, func() ([]lake.File, error) { return x.Store.DeleteMatching(ctx, f, ids, now) })
}

func (x *faultyIndex) DeleteExpired(ctx context.Context, now time.Time, limit int) ([]lake.File, error) {
	return faulty(x, func() ([]lake.File, error) { return x.Store.DeleteExpired(ctx, now, limit) })
}

// state is what a file may be like.
type state struct {
	meta    string
	life    lake.Lifetime
	expires time.Time
	gone    bool
}

func (s state) there(now time.Time) bool {
	return !s.gone && (s.expires.IsZero() || s.expires.After(now))
}

// known is what the caller knows of one of its files: what was acknowledged leaves one
// state, a change whose call failed one more.
type known struct {
	id     plat.FileID // "" after an upload that failed
	at     time.Time
	states []state
}

func (k *known) may(now time.Time) bool {
	return slices.ContainsFunc(k.states, func(s state) bool { return s.there(now) })
}

func (k *known) must(now time.Time) bool {
	return !slices.ContainsFunc(k.states, func(s state) bool { return !s.there(now) })
}

// TestFaultsAtEveryStep: storage and database fail at any step of any change, before it
// or after it. What was acknowledged is there, exactly; what failed is there whole or not
// at all; in the end no object is without a file and none is missing, and the index that
// is made from storage answers as the one before.
func TestFaultsAtEveryStep(t *testing.T) {
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		rebuilt := empty(t, db, plat.SystemClock)
		rapid.Check(t, func(rt *rapid.T) { history(rt, t, db, rebuilt) })
	})
}

func history(rt *rapid.T, t *testing.T, db *sqlstore.DB, rebuilt *sqlstore.Lake) {
	ctx := t.Context()
	w := newWorld(t, db)
	w.now = plat.SystemClock() // objects have the machine's time
	index := &faultyIndex{Store: w.index}
	var s *lake.Service
	start := func() { // what a process that died owed is lost with it
		w.j = journal.New(w.blobs, w.clock)
		w.store = journal.NewStore(index, w.j)
		s = lake.NewService(w.store, w.blobs, w.clock)
		s.RecordedBy(w.j)
	}
	start()
	c := w.channel(t)
	if err := w.j.Tend(ctx, w.index, true); err != nil {
		rt.Fatal(err)
	}
	draw := func(what string, n int) int { return rapid.IntRange(0, n-1).Draw(rt, what) }
	files := map[string]*known{} // by the metadata "u"
	ids := func() []string {     // of acknowledged files that may be there
		var all []string
		for u, k := range files {
			if k.id != "" && k.may(w.now) {
				all = append(all, u)
			}
		}
		slices.Sort(all)
		return all
	}
	check := func(when string) {
		listed, _, err := s.Files(ctx, org, lake.Search{Filter: lake.Filter{Channel: c.ID}, Limit: 1000})
		if err != nil {
			rt.Fatal(err)
		}
		seen, bytes := map[string]bool{}, int64(0)
		for _, f := range listed {
			u := f.Metadata["u"]
			k := files[u]
			if k == nil || seen[u] {
				rt.Fatalf("%s: file %s with u=%q, which nobody uploaded, or twice", when, f.ID, u)
			}
			seen[u], bytes = true, bytes+f.Size
			got := state{meta: text(f.Metadata), life: f.Lifetime, expires: f.ExpiresAt}
			for i := range k.states { // an upload that failed has told no time
				if k.id == "" {
					k.states[i].expires = k.states[i].life.Expiry(f.UploadedAt)
				}
			}
			if !slices.Contains(k.states, got) {
				rt.Fatalf("%s: u=%s is %+v, may be %+v", when, u, got, k.states)
			}
			_, body, err := s.Open(ctx, org, c.ID, f.ID, 0, -1)
			if err != nil {
				rt.Fatalf("%s: open u=%s: %v", when, u, err)
			}
			raw, err := io.ReadAll(body)
			if err = errors.Join(err, body.Close()); err != nil || string(raw) != bodyOf(u) {
				rt.Fatalf("%s: the body of u=%s is %q, %v", when, u, raw, err)
			}
		}
		for u, k := range files {
			if k.id != "" && k.must(w.now) && !seen[u] {
				rt.Fatalf("%s: u=%s was acknowledged and is gone; it may be %+v", when, u, k.states)
			}
		}
		usage, err := w.index.Usage(ctx, c.ID, w.now)
		if err != nil || usage.Files != int64(len(listed)) || usage.Bytes != bytes {
			rt.Fatalf("%s: usage %+v of %d files, %d bytes, %v", when, usage, len(listed), bytes, err)
		}
		for _, q := range []string{"n:1", "n:1 AND label:cat", "NOT n:2 AND label:black"} {
			query, err := lake.ParseQuery(q)
			if err != nil {
				rt.Fatal(err)
			}
			want := int64(0)
			for _, f := range listed {
				if lake.Match(query, f) {
					want++
				}
			}
			if n, err := s.Count(ctx, org, lake.Filter{Channel: c.ID, Query: query}); err != nil || n != want {
				rt.Fatalf("%s: %d files of %s, %v; want %d", when, n, q, err, want)
			}
		}
	}
	meta := func(u string) lake.Metadata {
		m := lake.Metadata{"u": u, "n": fmt.Sprint(draw("n", 3))}
		if draw("labelled", 2) == 0 {
			m["label"] = "black%20cat"
		}
		return m
	}
	lives := []lake.Lifetime{"", "", "1day", "1week"}

	for step := range rapid.IntRange(3, 14).Draw(rt, "steps") {
		w.now = w.now.Add(time.Duration(draw("hours", 8)) * time.Hour)
		switch draw("fault", 3) {
		case 0:
			f := faultblob.Fault{Skip: draw("skip", 4), Times: 1 + draw("times", 2), Err: []error{plat.ErrUnavailable, plat.ErrExhausted, io.ErrUnexpectedEOF}[draw("error", 3)]}
			switch draw("how", 3) {
			case 0:
				f.Done = true
			case 1:
				f.Op, f.AfterBytes = faultblob.OpPut, 3
			}
			if draw("of the journal", 3) == 0 {
				f.Prefix = journal.Prefix
			}
			w.faults.SetScript(f)
		case 1:
			index.armed, index.skip, index.done = true, draw("skip", 2), draw("done", 2) == 0
		}
		all := ids()
		op := draw("op", 9)
		when := fmt.Sprintf("step %d, op %d", step, op)
		if op < 3 || len(all) == 0 {
			u := fmt.Sprint(step)
			m, life := meta(u), lives[draw("life", len(lives))]
			f, err := s.Upload(ctx, lake.Upload{
				Org: org, Channel: c.ID, Metadata: m, Lifetime: string(life), ContentType: "text/plain", Body: strings.NewReader(bodyOf(u)), Size: int64(len(bodyOf(u))),
			})
			k := &known{states: []state{{meta: text(m), life: life}}}
			if err != nil {
				k.states = append(k.states, state{gone: true})
			} else {
				k.id, k.at, k.states[0].expires = f.ID, f.UploadedAt, f.ExpiresAt
			}
			files[u] = k
		} else {
			u := all[draw("file", len(all))]
			k := files[u]
			var err error
			change := func(to func(state) state) { // what a failed call may have done, a good one has
				if errors.Is(err, plat.ErrNotFound) { // it had gone
					if k.must(w.now) {
						rt.Fatalf("%s: u=%s: %v", when, u, err)
					}
					k.states = []state{{gone: true}}
					return
				}
				next := []state{}
				for _, x := range k.states {
					if x.there(w.now) {
						next = append(next, to(x))
					}
				}
				if err != nil {
					next = append(next, k.states...)
				}
				k.states = next
			}
			switch op {
			case 3:
				m := meta(u)
				_, err = s.SetMetadata(ctx, org, c.ID, k.id, m)
				change(func(x state) state { x.meta = text(m); return x })
			case 4:
				three := "1"
				_, err = s.PatchMetadata(ctx, org, c.ID, k.id, lake.Patch{"n": &three, "label": nil})
				after := lake.Metadata{"u": u, "n": three}
				change(func(x state) state { x.meta = text(after); return x })
			case 5:
				life := lives[draw("life", len(lives))]
				_, err = s.SetLifetime(ctx, org, c.ID, k.id, string(life))
				change(func(x state) state { x.life, x.expires = life, life.Expiry(k.at); return x })
			case 6:
				err = s.DeleteFile(ctx, org, c.ID, k.id)
				change(func(state) state { return state{gone: true} })
			case 7:
				query, perr := lake.ParseQuery(`u:"` + u + `"`)
				if perr != nil {
					rt.Fatal(perr)
				}
				var d lake.Deletion
				if d, _, _, err = s.PlanDeletion(ctx, org, lake.Filter{Channel: c.ID, Query: query}); err == nil {
					_, err = s.Delete(ctx, org, d, 10)
				}
				change(func(state) state { return state{gone: true} })
			case 8:
				_, _ = s.Reap(ctx) // does what it can
			}
		}
		w.faults.SetScript()
		index.armed = false
		if draw("killed", 6) == 0 {
			start()
			if err := w.j.Tend(ctx, w.index, true); err != nil {
				rt.Fatal(err)
			}
		}
		check(when)
	}

	// Everything works again: what was owed is journaled, what nobody knows is collected.
	if err := w.j.Flush(ctx); err != nil {
		rt.Fatal(err)
	}
	w.now = w.now.Add(10 * time.Minute)
	if err := w.j.Tend(ctx, w.index, true); err != nil {
		rt.Fatal(err)
	}
	check("healed")
	w.now = w.now.Add(2 * lake.Grace)
	if _, err := s.Reap(ctx); err != nil {
		rt.Fatal(err)
	}
	if _, err := s.Collect(ctx, lake.Grace); err != nil {
		rt.Fatal(err)
	}
	check("collected")
	listed, _, err := s.Files(ctx, org, lake.Search{Filter: lake.Filter{Channel: c.ID}, Limit: 1000})
	if err != nil {
		rt.Fatal(err)
	}
	want := map[string]bool{}
	for _, f := range listed {
		want[lake.BlobKey(org, c.ID, f.ID)] = true
	}
	got := map[string]bool{}
	infos, _, err := w.blobs.List(ctx, lake.ChannelPrefix(org, c.ID), "", 1000)
	if err != nil {
		rt.Fatal(err)
	}
	for _, i := range infos {
		got[i.Key] = true
	}
	if !maps.Equal(got, want) {
		rt.Fatalf("objects: %s", cmp.Diff(want, got))
	}
	if _, err := journal.Rebuild(ctx, w.blobs, rebuilt, true, nil); err != nil {
		rt.Fatal(err)
	}
	if d := cmp.Diff(answers(rt, t, w.store, c.ID, w.now), answers(rt, t, rebuilt, c.ID, w.now)); d != "" {
		rt.Fatal(d)
	}
	if _, err := s.DeleteChannel(ctx, org, c.ID); err != nil { // so that the next history is as short
		rt.Fatal(err)
	}
}

func bodyOf(u string) string { return "the body of " + u }

func text(m lake.Metadata) string {
	var all []string
	for k, v := range m {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}
