// SPDX-License-Identifier: Apache-2.0

package laketest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/lake"
	"panal/internal/plat"
)

func patchMetadata(w *world) {
	f := w.stored(w.file("label", "black cat", "split", "train", "%e3%83%86", "1"), w.file("label", "cat"))
	text := func(s string) *string { return &s }
	patch := func(p lake.Patch, want lake.Metadata) {
		w.Helper()
		got, err := w.PatchMetadata(w.Context(), w.channel, f[0].ID, p, lake.Limits{}, w.clock.now())
		w.ok(err)
		f[0].Metadata, f[0].Rev = want, f[0].Rev+1
		if d := cmp.Diff(f[0], got); d != "" {
			w.Error(d)
		}
		again, err := w.other.File(w.Context(), w.channel, f[0].ID, w.clock.now())
		if w.ok(err); !cmp.Equal(f[0], again) {
			w.Error(cmp.Diff(f[0], again))
		}
	}
	// One is set, one added, one removed, one that is not there removed; the same name
	// in another spelling is the same name.
	patch(lake.Patch{"label": text("dog"), "n": text(""), "split": nil, "nothing": nil, "%E3%83%86": text("2")},
		lake.Metadata{"label": "dog", "n": "", "%E3%83%86": "2"})
	w.found("label:cat", f[1])
	w.found("label:dog", f[0])
	w.found("split:train")
	w.found("テ:2", f[0])
	w.found("テ:1")
	w.found(`n:""`, f[0])
	patch(lake.Patch{"テ": nil}, lake.Metadata{"label": "dog", "n": ""})
	patch(lake.Patch{}, lake.Metadata{"label": "dog", "n": ""})
	// What would break the rules changes nothing.
	big := lake.Patch{"label": nil}
	for i := range 9 {
		big[fmt.Sprint("k", i)] = text(fmt.Sprintf("%02000d", i))
	}
	_, err := w.PatchMetadata(w.Context(), w.channel, f[0].ID, big, lake.Limits{}, w.clock.now())
	is(w, "too much metadata", err, plat.ErrInvalid)
	w.found("label:dog", f[0])
	_, err = w.PatchMetadata(w.Context(), w.channel, "nope", lake.Patch{}, lake.Limits{}, w.clock.now())
	is(w, "PatchMetadata(unknown)", err, plat.ErrNotFound)
	_, err = w.PatchMetadata(w.Context(), "nope", f[0].ID, lake.Patch{}, lake.Limits{}, w.clock.now())
	is(w, "PatchMetadata in an unknown channel", err, plat.ErrNotFound)
}

func patchParallel(w *world) {
	f := w.stored(w.file())[0]
	const n = 12
	var wg sync.WaitGroup
	for i := range n {
		store := []lake.Store{w.Store, w.other}[i%2]
		wg.Go(func() {
			v := "x"
			if _, err := store.PatchMetadata(w.Context(), w.channel, f.ID, lake.Patch{fmt.Sprint("k", i): &v}, lake.Limits{}, w.clock.now()); err != nil {
				w.Error(err)
			}
		})
	}
	wg.Wait()
	got, err := w.File(w.Context(), w.channel, f.ID, w.clock.now())
	if w.ok(err); len(got.Metadata) != n {
		w.Errorf("%d of %d patches were kept: %v", len(got.Metadata), n, got.Metadata)
	}
	for i := range n {
		w.found(fmt.Sprintf("k%d:x", i), got)
	}
}

func setLifetime(w *world) {
	f := w.stored(w.file("label", "black cat", "filename", "a"), w.file("label", "cat"))
	set := func(l lake.Lifetime) lake.File {
		w.Helper()
		got, err := w.SetLifetime(w.Context(), w.channel, f[0].ID, l, w.clock.now())
		w.ok(err)
		f[0].Lifetime, f[0].ExpiresAt, f[0].Rev = l, l.Expiry(f[0].UploadedAt), f[0].Rev+1
		if d := cmp.Diff(f[0], got); d != "" {
			w.Error(d)
		}
		return got
	}
	gone := func() {
		w.Helper()
		w.found("", f[1])
		w.found("label:cat", f[1])
		w.found(`label:"black cat"`)
		w.found("NOT filename:b", f[1])
		w.found("content_type:png", f[1])
		_, err := w.FileWith(w.Context(), w.channel, "filename", "a", w.clock.now())
		is(w, "FileWith(ended)", err, plat.ErrNotFound)
		_, err = w.SetLifetime(w.Context(), w.channel, f[0].ID, "1year", w.clock.now())
		is(w, "SetLifetime(ended)", err, plat.ErrNotFound)
		u, err := w.Usage(w.Context(), w.channel, w.clock.now())
		if w.ok(err); u.Files != 1 {
			w.Errorf("usage = %+v", u)
		}
	}
	set("1week")
	w.clock.add(2 * 24 * time.Hour)
	w.found("label:cat", f...)
	set("1month") // longer
	w.clock.add(6 * 24 * time.Hour)
	w.found("label:cat", f...)
	set("6months")
	w.found("label:cat", f...)
	set("1day") // elapsed: the file ends at once
	gone()
	files, err := w.DeleteExpired(w.Context(), w.clock.now(), 10)
	if w.ok(err); len(files) != 1 || files[0].ID != f[0].ID {
		w.Errorf("reaped %v", ids(files))
	}
	gone()
	_, err = w.SetLifetime(w.Context(), w.channel, "nope", "1day", w.clock.now())
	is(w, "SetLifetime(unknown)", err, plat.ErrNotFound)
	// Shortened, and then its time comes.
	again := w.stored(w.file("filename", "a"))[0]
	_, err = w.other.SetLifetime(w.Context(), w.channel, again.ID, "1day", w.clock.now())
	w.ok(err)
	w.found("filename:a", w.must(again.ID))
	w.clock.add(25 * time.Hour)
	w.found("filename:a")
}

// must returns a file that is there.
func (w *world) must(id plat.FileID) lake.File {
	w.Helper()
	f, err := w.File(w.Context(), w.channel, id, w.clock.now())
	w.ok(err)
	return f
}

func deleteMatching(w *world) {
	f := w.stored(w.file("label", "cat"), w.file("label", "cat"), w.file("label", "dog"), w.file("label", "cat"))
	short := w.file("label", "cat")
	short.Lifetime = "1day"
	ended := w.stored(short)[0]
	w.clock.add(25 * time.Hour)
	late := w.stored(w.file("label", "cat"))[0]
	in := w.search("label:cat").Filter
	in.To = late.UploadedAt
	all := []plat.FileID{f[0].ID, f[1].ID, f[2].ID, ended.ID, late.ID, "nope"}
	// f[1] changes after it was listed.
	_, err := w.SetMetadata(w.Context(), w.channel, f[1].ID, lake.Metadata{"label": "cow"}, w.clock.now())
	w.ok(err)
	gone, err := w.DeleteMatching(w.Context(), in, all, w.clock.now())
	w.ok(err)
	if d := cmp.Diff(f[:1], gone); d != "" {
		w.Error(d)
	}
	w.found("label:cat", f[3], late)
	w.found("NOT label:cat", w.must(f[1].ID), f[2])
	u, err := w.Usage(w.Context(), w.channel, w.clock.now())
	if w.ok(err); u != (lake.Usage{Files: 4, Bytes: 40}) {
		w.Errorf("usage = %+v", u)
	}
	if gone, err := w.DeleteMatching(w.Context(), in, nil, w.clock.now()); err != nil || len(gone) != 0 {
		w.Errorf("no ids: %v, %v", gone, err)
	}
	in.Channel = "nope"
	_, err = w.DeleteMatching(w.Context(), in, all, w.clock.now())
	is(w, "DeleteMatching in an unknown channel", err, plat.ErrNotFound)
}

// A dry run counts what is there when it begins, and its deletion takes nothing that is
// uploaded after it, however soon and by whichever process.
func planDeletion(w *world) {
	w.clock.run()
	stores := []lake.Store{w.Store, w.other}
	filter := w.search("label:cat").Filter
	plan := func(by lake.Store, want int) lake.Filter {
		w.Helper()
		d, n, _, err := lake.NewService(by, nil, w.clock.now).PlanDeletion(w.Context(), org, filter)
		if err != nil || int(n) != want {
			w.Fatalf("the dry run found %d files, %v; want %d", n, err, want)
		}
		return d.Filter
	}
	remove := func(f lake.Filter, want int) {
		w.Helper()
		page, _, err := w.Files(w.Context(), lake.Search{Filter: f, Limit: 10}, w.clock.now())
		if w.ok(err); len(page) != want {
			w.Fatalf("the deletion is of %d files, want %d", len(page), want)
		}
		for _, file := range page {
			_, err := w.DeleteFile(w.Context(), w.channel, file.ID, w.clock.now())
			w.ok(err)
		}
	}
	none := plan(w.Store, 0)
	w.clock.add(time.Millisecond)
	w.stored(w.file("label", "cat"))
	remove(none, 0)
	for i := range 50 {
		// Upload times may be ahead of the clock.
		w.clock.add(10 * time.Millisecond)
		w.stored(w.file("label", "cat"), w.file("label", "cat"))
		w.clock.add(-10 * time.Millisecond)
		f := plan(stores[i%2], 3)
		out, err := stores[i/2%2].Commit(w.Context(), []lake.NewFile{w.file("label", "cat")})
		w.ok(err)
		w.ok(out[0].Err)
		remove(f, 3)
		w.found("label:cat", out[0].File)
	}
}

func (w *world) promise(meta ...string) lake.Pending {
	w.Helper()
	p := lake.Pending{File: w.file(meta...), Until: w.clock.now().Add(time.Hour)}
	p.File.Size, p.File.ETag, p.File.Lifetime = 0, "", "1week"
	w.ok(w.CreatePending(w.Context(), p))
	return p
}

func pendingOnce(w *world) {
	p := w.promise("label", "cat", "%E3%83%86", "x")
	got, err := w.other.Pending(w.Context(), w.channel, p.File.ID)
	w.ok(err)
	if d := cmp.Diff(p, got); d != "" {
		w.Error(d)
	}
	w.found("")
	w.found("label:cat")
	_, err = w.File(w.Context(), w.channel, p.File.ID, w.clock.now())
	is(w, "File(promised)", err, plat.ErrNotFound)

	kept := p.File
	kept.Size, kept.ETag, kept.Pending = 10, "e", true
	// Twice in one commit, and from two processes at once: one of them is it.
	const n = 8
	var wg sync.WaitGroup
	outs := make(chan lake.Outcome, 2*n)
	for i := range n {
		store := []lake.Store{w.Store, w.other}[i%2]
		wg.Go(func() {
			out, err := store.Commit(w.Context(), []lake.NewFile{kept, kept})
			if err != nil {
				w.Error(err)
				return
			}
			for _, o := range out {
				outs <- o
			}
		})
	}
	wg.Wait()
	close(outs)
	var stored []lake.File
	for o := range outs {
		if o.Err == nil {
			stored = append(stored, o.File)
		} else if !errors.Is(o.Err, plat.ErrConflict) {
			w.Error(o.Err)
		}
	}
	if len(stored) != 1 {
		w.Fatalf("committed %d times", len(stored))
	}
	w.found("label:cat", stored[0])
	_, err = w.Pending(w.Context(), w.channel, p.File.ID)
	is(w, "Pending(kept)", err, plat.ErrNotFound)

	// One that was never promised; one whose conflict target is taken keeps its promise.
	stranger := w.file()
	stranger.Pending = true
	is(w, "commit of what was not promised", w.commit(stranger)[0].Err, plat.ErrConflict)
	taken := w.promise("label", "cat")
	again := taken.File
	again.Size, again.Pending, again.Conflict = 10, true, "label"
	var conflict *lake.ConflictError
	if err := w.commit(again)[0].Err; !errors.As(err, &conflict) {
		w.Errorf("conflict target: %v", err)
	}
	_, err = w.Pending(w.Context(), w.channel, taken.File.ID)
	w.ok(err)
	bad := taken
	bad.File.Channel = "nope"
	is(w, "promise in an unknown channel", w.CreatePending(w.Context(), bad), plat.ErrNotFound)
	_, err = w.Pending(w.Context(), "nope", taken.File.ID)
	is(w, "Pending in an unknown channel", err, plat.ErrNotFound)
}

func pendingOld(w *world) {
	var want []plat.FileID
	for range 3 {
		want = append(want, w.promise().File.ID)
		w.clock.add(time.Minute)
	}
	fresh := w.promise()
	var got []plat.FileID
	for range 3 {
		gone, err := w.DeletePending(w.Context(), fresh.Until, 2)
		w.ok(err)
		for _, p := range gone {
			if p.File.Channel != w.channel {
				w.Errorf("of channel %q", p.File.Channel)
			}
			got = append(got, p.File.ID)
		}
	}
	if !slices.Equal(got, want) {
		w.Errorf("forgot %v, want %v", got, want)
	}
	late := w.file()
	late.ID, late.Pending = want[0], true
	is(w, "commit of a forgotten promise", w.commit(late)[0].Err, plat.ErrConflict)
	_, err := w.Pending(w.Context(), w.channel, fresh.File.ID)
	w.ok(err)
}

func (w *world) straight() lake.Pending {
	w.Helper()
	p := lake.Pending{File: w.file(), Until: w.clock.now().Add(time.Hour), Straight: true}
	p.File.Size, p.File.ETag = 0, ""
	w.ok(w.CreatePending(w.Context(), p))
	return p
}

func (w *world) bind(store lake.Store, all ...lake.Arrival) []*lake.Pending {
	w.Helper()
	out, err := store.BindPending(w.Context(), all)
	w.ok(err)
	if len(out) != len(all) {
		w.Fatalf("%d promises for %d arrivals", len(out), len(all))
	}
	return out
}

func pendingBound(w *world) {
	p, own := w.straight(), w.promise()
	at := func(id plat.FileID, tag string, size int64) lake.Arrival {
		return lake.Arrival{Channel: w.channel, ID: id, Tag: tag, Size: size}
	}
	elsewhere := at(p.File.ID, "x", 1)
	elsewhere.Channel = "nope"
	out := w.bind(w.Store, at("unknown", "x", 1), elsewhere, at(own.File.ID, "x", 1))
	if out[0] != nil || out[1] != nil {
		w.Errorf("bound what was not promised: %+v, %+v", out[0], out[1])
	}
	if d := cmp.Diff(&own, out[2]); d != "" { // its URL was ours
		w.Error(d)
	}
	// From two processes at once, with other bytes each: all see the same ones.
	var mu sync.Mutex
	var wg sync.WaitGroup
	seen := map[string]int64{}
	for i := range 8 {
		store := []lake.Store{w.Store, w.other}[i%2]
		wg.Go(func() {
			out, err := store.BindPending(w.Context(), []lake.Arrival{at(p.File.ID, fmt.Sprint("tag", i), int64(i))})
			if err != nil || out[0] == nil {
				w.Errorf("BindPending = %v, %v", out, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			seen[out[0].Tag] = out[0].Size
		})
	}
	wg.Wait()
	got, err := w.Pending(w.Context(), w.channel, p.File.ID)
	if w.ok(err); len(seen) != 1 || seen[got.Tag] != got.Size || got.Tag != fmt.Sprint("tag", got.Size) {
		w.Errorf("bound to %v; the promise says %q, %d", seen, got.Tag, got.Size)
	}
	kept := got.File
	kept.Size, kept.ETag, kept.Pending = got.Size, "e", true
	w.ok(w.commit(kept)[0].Err)
	if out := w.bind(w.other, at(p.File.ID, "late", 1)); out[0] != nil {
		w.Errorf("bound after the commit: %+v", out[0])
	}
}

func pendingRefused(w *world) {
	p := w.straight()
	did, err := w.RefusePending(w.Context(), w.channel, p.File.ID, "too large")
	if w.ok(err); !did {
		w.Error("not refused")
	}
	did, err = w.other.RefusePending(w.Context(), w.channel, p.File.ID, "another reason")
	if w.ok(err); did {
		w.Error("refused twice")
	}
	kept := p.File
	kept.Size, kept.ETag, kept.Pending = 1, "e", true
	is(w, "commit of what was refused", w.commit(kept)[0].Err, plat.ErrConflict)
	p.Refused = "too large"
	if d := cmp.Diff(&p, w.bind(w.other, lake.Arrival{Channel: w.channel, ID: p.File.ID, Tag: "t", Size: 1})[0]); d != "" {
		w.Error(d)
	}
	for _, id := range []plat.FileID{"unknown", w.stored(w.file())[0].ID} {
		did, err = w.RefusePending(w.Context(), w.channel, id, "x")
		if w.ok(err); did {
			w.Errorf("refused %s, which was not promised", id)
		}
	}
	gone, err := w.DeletePending(w.Context(), p.Until.Add(time.Second), 10)
	if w.ok(err); len(gone) != 1 || gone[0].Refused != "too large" {
		w.Errorf("forgot %+v", gone)
	}
}

func pendingAwaited(w *world) {
	want := func(t time.Time) {
		w.Helper()
		got, err := w.other.AwaitedUntil(w.Context())
		if w.ok(err); !got.Equal(t) {
			w.Errorf("awaited until %s, want %s", got, t)
		}
	}
	want(time.Time{})
	w.promise()
	want(time.Time{})
	first := w.straight()
	want(first.Until)
	w.clock.add(time.Minute)
	second := w.straight()
	want(second.Until)
	_, err := w.RefusePending(w.Context(), w.channel, second.File.ID, "x")
	w.ok(err)
	want(first.Until)
	kept := first.File
	kept.Size, kept.Pending = 1, true
	w.ok(w.commit(kept)[0].Err)
	want(time.Time{})
}

func dropChannel(w *world) {
	keep := w.newChannel("keep", false)
	other := w.file("label", "cat")
	other.Channel = keep
	w.stored(other)
	var files []lake.NewFile
	for range 30 {
		files = append(files, w.file("label", "black cat"))
	}
	f := w.stored(files...)
	p := w.promise()
	w.ok(w.DropChannel(w.Context(), w.channel, w.clock.now()))
	is(w, "DropChannel again", w.DropChannel(w.Context(), w.channel, w.clock.now()), plat.ErrNotFound)
	_, err := w.other.Channel(w.Context(), w.channel)
	is(w, "Channel(deleted)", err, plat.ErrNotFound)
	_, err = w.File(w.Context(), w.channel, f[0].ID, w.clock.now())
	is(w, "File of a deleted channel", err, plat.ErrNotFound)
	_, _, err = w.Files(w.Context(), w.search("label:cat"), w.clock.now())
	is(w, "Files of a deleted channel", err, plat.ErrNotFound)
	_, err = w.Pending(w.Context(), w.channel, p.File.ID)
	is(w, "Pending of a deleted channel", err, plat.ErrNotFound)
	is(w, "commit", w.commit(w.file())[0].Err, plat.ErrNotFound)
	all, _, err := w.Channels(w.Context(), org, lake.ChannelPage{IncludeArchived: true, Limit: 10})
	if w.ok(err); len(all) != 1 || all[0].ID != keep {
		w.Errorf("channels %+v", all)
	}
	want := func() {
		w.Helper()
		u, err := w.Total(w.Context())
		if w.ok(err); u != (lake.Usage{Files: 1, Bytes: 10}) {
			w.Errorf("total = %+v", u)
		}
	}
	want()

	gone, err := w.Gone(w.Context(), w.clock.now())
	if w.ok(err); len(gone) != 0 {
		w.Errorf("gone before it was deleted: %+v", gone)
	}
	gone, err = w.Gone(w.Context(), w.clock.now().Add(time.Second))
	w.ok(err)
	if d := cmp.Diff([]lake.GoneChannel{{ID: w.channel, Org: org, DeletedAt: w.clock.now()}}, gone); d != "" {
		w.Error(d)
	}
	rounds := 0
	for clean := false; !clean; rounds++ {
		clean, err = w.Sweep(w.Context(), w.channel, 20)
		w.ok(err)
	}
	if rounds < 3 {
		w.Errorf("swept in %d rounds", rounds)
	}
	if clean, err := w.Sweep(w.Context(), w.channel, 1); !clean || err != nil {
		w.Errorf("something is left: %v", err)
	}
	w.ok(w.Forget(w.Context(), w.channel))
	_, err = w.Sweep(w.Context(), w.channel, 1)
	is(w, "Sweep(forgotten)", err, plat.ErrNotFound)
	want()
	w.channel = keep
	w.found("label:cat", w.must(other.ID))
}
