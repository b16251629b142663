// SPDX-License-Identifier: Apache-2.0

package laketest

import (
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"panal/internal/lake"
	"panal/internal/plat"
)

// bucket makes the world's channel a bucket.
func (w *world) bucket() {
	w.Helper()
	c := lake.Channel{
		ID: plat.ChannelID(plat.NewDecimalID()), Org: org, Name: "bucket", Storage: lake.StorageBucket,
		CreatedAt: w.clock.now(), UpdatedAt: w.clock.now(),
	}
	w.ok(w.CreateChannel(w.Context(), c))
	w.channel = c.ID
}

// at describes a new file under a path.
func (w *world) at(path string, meta ...string) lake.NewFile {
	f := w.file(meta...)
	f.Path = path
	return f
}

func bucketsApart(w *world) {
	first := w.channel
	w.bucket()
	for _, buckets := range []bool{false, true} {
		want := map[bool]plat.ChannelID{false: first, true: w.channel}[buckets]
		all, more, err := w.Channels(w.Context(), org, lake.ChannelPage{Buckets: buckets, Limit: 10})
		w.ok(err)
		if len(all) != 1 || all[0].ID != want || more {
			w.Errorf("buckets %v: %v, want only %s", buckets, all, want)
		}
	}
}

// usage asserts what the world's channel holds, that rows and sums agree, and that
// nothing of another file is left in the index.
func (w *world) usage(files, bytes int64) {
	w.Helper()
	u, err := w.Usage(w.Context(), w.channel, w.clock.now())
	w.ok(err)
	if u != (lake.Usage{Files: files, Bytes: bytes}) {
		w.Errorf("usage %+v, want %d files of %d bytes", u, files, bytes)
	}
	n, err := w.Count(w.Context(), lake.Filter{Channel: w.channel}, w.clock.now())
	w.ok(err)
	if n != files {
		w.Errorf("%d files counted, want %d", n, files)
	}
}

func pathReplaces(w *world) {
	w.bucket()
	old := w.stored(w.at("sub/a.txt", "label", "old"), w.at("b.txt"))
	got, err := w.other.PathFile(w.Context(), w.channel, "sub/a.txt", w.clock.now())
	w.ok(err)
	if d := cmp.Diff(old[0], got); d != "" {
		w.Error(d)
	}
	is(w, "another case", second(w.PathFile(w.Context(), w.channel, "sub/A.txt", w.clock.now())), plat.ErrNotFound)
	is(w, "no path", second(w.PathFile(w.Context(), w.channel, "", w.clock.now())), plat.ErrNotFound)
	is(w, "no bucket", second(w.PathFile(w.Context(), "1", "b.txt", w.clock.now())), plat.ErrNotFound)

	next := w.at("sub/a.txt", "label", "new")
	next.Size = 7
	out := w.commit(next)[0]
	w.ok(out.Err)
	if out.Replaced == nil || out.Replaced.ID != old[0].ID || out.Replaced.Size != 10 {
		w.Fatalf("replaced %+v, want %s", out.Replaced, old[0].ID)
	}
	is(w, "the one before", second(w.File(w.Context(), w.channel, old[0].ID, w.clock.now())), plat.ErrNotFound)
	w.found("label:old")
	w.found("label:new", out.File)
	w.usage(2, 17)

	// The same path in one commit: each is answered, the last one stays.
	twice := w.commit(w.at("c", "n", "1"), w.at("c", "n", "2"), w.at("c", "n", "3"))
	for i, o := range twice {
		w.ok(o.Err)
		if i > 0 && (o.Replaced == nil || o.Replaced.ID != twice[i-1].File.ID) {
			w.Errorf("%d replaced %+v", i, o.Replaced)
		}
	}
	w.found("n:3", twice[2].File)
	w.found("n:1")
	w.usage(3, 27)

	// One that must find its path free: the first one of a commit does, and nobody after it.
	fresh := func(path, n string) lake.NewFile {
		f := w.at(path, "n", n)
		f.Fresh = true
		return f
	}
	for i, o := range w.commit(fresh("e", "4"), fresh("e", "5"), fresh("c", "6")) {
		conflict, refused := errors.AsType[*lake.ConflictError](o.Err)
		if refused != (i > 0) || refused && (conflict.Target != "file" || conflict.File.Path != []string{"", "e", "c"}[i]) || o.Replaced != nil {
			w.Errorf("fresh %d: %+v", i, o)
		}
	}
	w.found("n:5")
	w.found("n:3", twice[2].File)
	w.usage(4, 37)

	// One that has expired is replaced all the same: it holds the path and its bytes.
	brief := w.at("d")
	brief.Lifetime = "1day"
	ended := w.stored(brief)[0]
	w.clock.add(48 * 3600e9)
	is(w, "expired", second(w.PathFile(w.Context(), w.channel, "d", w.clock.now())), plat.ErrNotFound)
	if o := w.commit(w.at("d"))[0]; o.Err != nil || o.Replaced == nil || o.Replaced.ID != ended.ID {
		w.Errorf("over an expired one: %+v", o)
	}
	w.usage(5, 47)
	f, err := w.PathFile(w.Context(), w.channel, "d", w.clock.now())
	w.ok(err)
	if _, err := w.DeleteFile(w.Context(), w.channel, f.ID, w.clock.now()); err != nil {
		w.Error(err)
	}
	is(w, "deleted", second(w.PathFile(w.Context(), w.channel, "d", w.clock.now())), plat.ErrNotFound)
	w.usage(4, 37)
}

func second[T any](_ T, err error) error { return err }

// pathParallel: two processes upload the same paths, in different orders.
func pathParallel(w *world) {
	w.bucket()
	var wg sync.WaitGroup
	for i := range 8 {
		store := w.Store
		if i%2 == 1 {
			store = w.other
		}
		wg.Go(func() {
			for range 5 {
				batch := []lake.NewFile{w.at("x"), w.at("y"), w.at("z")}
				if i%3 == 0 {
					slices.Reverse(batch)
				}
				out, err := store.Commit(w.Context(), batch)
				if err != nil {
					w.Error(err)
					return
				}
				for _, o := range out {
					if o.Err != nil {
						w.Error(o.Err)
					}
				}
			}
		})
	}
	wg.Wait()
	w.usage(3, 30)
}

// entries reads all pages of a directory.
func (w *world) entries(prefix, after string, limit int) []string {
	w.Helper()
	out := []string{}
	d := lake.Directory{Bucket: w.channel, Prefix: prefix, After: after, Limit: limit}
	for {
		page, more, err := w.Entries(w.Context(), d, w.clock.now())
		w.ok(err)
		if len(page) > limit || more && len(page) < limit {
			w.Fatalf("a page of %d with limit %d, more %v", len(page), limit, more)
		}
		for _, e := range page {
			if strings.HasSuffix(e.Path, "/") != (e.File == nil) || e.File != nil && e.File.Path != e.Path {
				w.Fatalf("entry %+v", e)
			}
			out = append(out, e.Path)
		}
		if !more {
			return out
		}
		d.After = page[len(page)-1].Path
	}
}

// listing is what Entries must give, the naive way.
func listing(paths []string, prefix, after string) []string {
	out := []string{}
	for _, p := range paths {
		rest, ok := strings.CutPrefix(p, prefix)
		if !ok {
			continue
		}
		e := p
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			e = prefix + rest[:i+1]
		}
		if !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	slices.Sort(out)
	if after == prefix {
		return out
	}
	return slices.DeleteFunc(out, func(e string) bool {
		// The entry that after is in or is, and everything before it.
		return e <= after || strings.HasSuffix(e, "/") && strings.HasPrefix(after, e)
	})
}

func entriesOneLevel(w *world) {
	w.bucket()
	var all []string
	var files []lake.NewFile
	add := func(p string) { all, files = append(all, p), append(files, w.at(p)) }
	for _, p := range []string{"a", "a/b", "a.b", "a0", "img/1", "img/2", "img/deep/er/x", "img.x", "img0", "ü/ä", "日本/語", "Z", "z", "%41", "a b", "\U0001F40D"} {
		add(p)
	}
	for i := range 600 { // longer than any look at the index
		add("long/" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + "/" + plat.NewUUID())
		if i < 100 {
			add("many/" + plat.NewUUID())
		}
	}
	for chunk := range slices.Chunk(files, 200) {
		w.stored(chunk...)
	}
	brief := w.at("gone/x")
	brief.Lifetime = "1day"
	w.stored(brief)
	w.clock.add(48 * 3600e9)
	for _, prefix := range []string{"", "a/", "img/", "img/deep/", "long/", "many/", "ü/", "none/", "gone/"} {
		want := listing(all, prefix, "")
		for _, limit := range []int{1, 3, 50, 1000} {
			if d := cmp.Diff(want, w.entries(prefix, "", limit)); d != "" {
				w.Fatalf("%q by %d: %s", prefix, limit, d)
			}
		}
		for _, after := range []string{prefix, "img/", "img/1", "img", "zzzz", "a", "long/", "0", "img/deep/"} {
			if d := cmp.Diff(listing(all, prefix, after), w.entries(prefix, after, 1000)); d != "" {
				w.Errorf("%q after %q: %s", prefix, after, d)
			}
		}
	}
	is(w, "no bucket", third(w.Entries(w.Context(), lake.Directory{Bucket: "1", Limit: 1}, w.clock.now())), plat.ErrNotFound)
}

func third[A, B any](_ A, _ B, err error) error { return err }

// entriesProperty: the listing of any paths is the naive one, from anywhere.
func entriesProperty(w *world) {
	path := rapid.StringMatching(`[ab./0ü]{1,3}(/[ab./0ü]{1,3}){0,3}`).Filter(func(p string) bool { return lake.CheckPath("file", p) == nil })
	rapid.Check(w.T, func(t *rapid.T) {
		w.bucket()
		paths := rapid.SliceOfN(path, 1, 30).Draw(t, "paths")
		var files []lake.NewFile
		for _, p := range paths {
			files = append(files, w.at(p))
		}
		w.stored(files...)
		prefix := ""
		if dir := rapid.SampledFrom(paths).Draw(t, "dir"); strings.Contains(dir, "/") && rapid.Bool().Draw(t, "below") {
			prefix = dir[:strings.IndexByte(dir, '/')+1]
		}
		after := rapid.OneOf(rapid.Just(""), rapid.Just(prefix), path, rapid.SampledFrom(listing(paths, prefix, ""))).Draw(t, "after")
		limit := rapid.IntRange(1, 5).Draw(t, "limit")
		if d := cmp.Diff(listing(paths, prefix, after), w.entries(prefix, after, limit)); d != "" {
			t.Fatalf("%q after %q: %s", prefix, after, d)
		}
	})
}
