// SPDX-License-Identifier: Apache-2.0

// Package laketest holds every lake.Store to its contract.
package laketest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/lake"
	"panal/internal/plat"
)

// Harness makes stores.
type Harness struct {
	// New returns two handles on one empty database, as two processes would hold
	// them, both telling the time by now.
	New func(t *testing.T, now plat.Clock) (lake.Store, lake.Store)
}

// world is a store with a channel and a clock that the test moves.
type world struct {
	*testing.T
	lake.Store
	other   lake.Store
	clock   *clock
	channel plat.ChannelID
}

type clock struct {
	mu    sync.Mutex
	t     time.Time
	start time.Time // zero: it stands
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.start.IsZero() {
		return c.t
	}
	return c.t.Add(time.Since(c.start))
}

func (c *clock) run() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start = time.Now()
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

const org = plat.OrgID("1000000000001")

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	for _, c := range []struct {
		name  string
		check func(*world)
	}{
		{"Channel/round_trip_and_update", channelRoundTrip},
		{"Channels/newest_first_in_pages_without_archived", channelPages},
		{"Commit/files_are_there_at_once", commitVisible},
		{"Commit/upload_times_are_unique_in_a_channel", commitStamps},
		{"Commit/missing_and_archived_channels_refuse_theirs_only", commitRefuses},
		{"Commit/conflict_target", commitConflict},
		{"Commit/conflict_target_under_concurrency", commitConflictParallel},
		{"Commit/many_files_at_once_from_two_processes", commitParallel},
		{"Expiry/an_expired_file_does_not_exist", expiry},
		{"Files/pages_neither_repeat_nor_hide", pages},
		{"Files/every_order", orders},
		{"Files/upload_time_bounds", bounds},
		{"SetMetadata/replaces_and_indexes", setMetadata},
		{"PatchMetadata/changes_single_names", patchMetadata},
		{"PatchMetadata/concurrent_patches_are_all_kept", patchParallel},
		{"SetLifetime/expiry_counts_from_the_upload_everywhere", setLifetime},
		{"DeleteFile/removes_everything", deleteFile},
		{"DeleteMatching/only_what_still_matches", deleteMatching},
		{"PlanDeletion/what_comes_after_it_stays", planDeletion},
		{"Pending/is_no_file_until_it_is_committed_once", pendingOnce},
		{"Pending/old_ones_are_forgotten", pendingOld},
		{"Pending/straight_ones_are_bound_to_what_came_first", pendingBound},
		{"Pending/refused_ones_are_never_committed", pendingRefused},
		{"Pending/straight_ones_are_awaited", pendingAwaited},
		{"DropChannel/takes_everything", dropChannel},
		{"Known/live_expired_and_unknown", known},
		{"Usage/stays_exact_when_deltas_are_folded", folded},
		{"Total/sums_all_channels", total},
		{"Query/every_rule_of_the_language", language},
		{"OrgUsage/sums_one_organization", orgUsage},
		{"Channels/buckets_are_apart", bucketsApart},
		{"Commit/a_path_takes_the_place_of_the_file_before", pathReplaces},
		{"Commit/one_path_from_two_processes", pathParallel},
		{"Entries/one_level_in_byte_order", entriesOneLevel},
		{"Entries/equal_the_naive_listing", entriesProperty},
		{"Query/phrases_and_globs", phrases},
		{"Query/long_terms", longTerms},
		{"Facets/long_values_expiry_and_changes", facets},
		{"Query/equals_the_naive_evaluation", queryProperty},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &world{T: t, clock: &clock{t: time.Date(2024, 3, 15, 8, 15, 2, 0, time.UTC)}}
			w.Store, w.other = h.New(t, w.clock.now)
			w.channel = w.newChannel("first", false)
			c.check(w)
		})
	}
}

func (w *world) newChannel(name string, archived bool) plat.ChannelID {
	w.Helper()
	c := lake.Channel{
		ID: plat.ChannelID(plat.NewDecimalID()), Org: org, Name: name, Storage: lake.StorageDatalake, Archived: archived,
		CreatedAt: w.clock.now(), UpdatedAt: w.clock.now(),
	}
	w.ok(w.CreateChannel(w.Context(), c))
	return c.ID
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// file describes a new file of the world's channel; meta is name, value, ….
func (w *world) file(meta ...string) lake.NewFile {
	f := lake.NewFile{File: lake.File{
		ID: plat.NewFileID(w.clock.now()), Channel: w.channel, Size: 10, ETag: "e", ContentType: "image/png", Metadata: lake.Metadata{},
	}}
	for i := 0; i+1 < len(meta); i += 2 {
		f.Metadata[meta[i]] = meta[i+1]
	}
	return f
}

func (w *world) commit(files ...lake.NewFile) []lake.Outcome {
	w.Helper()
	out, err := w.Commit(w.Context(), files)
	w.ok(err)
	if len(out) != len(files) {
		w.Fatalf("%d outcomes of %d files", len(out), len(files))
	}
	return out
}

func (w *world) stored(files ...lake.NewFile) []lake.File {
	w.Helper()
	all := make([]lake.File, len(files))
	for i, o := range w.commit(files...) {
		w.ok(o.Err)
		all[i] = o.File
	}
	return all
}

func (w *world) search(q string) lake.Search {
	w.Helper()
	n, err := lake.ParseQuery(q)
	w.ok(err)
	return lake.Search{Filter: lake.Filter{Channel: w.channel, Query: n}, Limit: 1000}
}

// list reads all pages.
func (w *world) list(s lake.Search) []lake.File {
	w.Helper()
	all := []lake.File{}
	for {
		page, more, err := w.Files(w.Context(), s, w.clock.now())
		w.ok(err)
		if len(page) > s.Limit || more && len(page) < s.Limit {
			w.Fatalf("a page of %d with limit %d, more %v", len(page), s.Limit, more)
		}
		all = append(all, page...)
		if !more {
			return all
		}
		s.After = lake.PositionOf(page[len(page)-1], s.Sort)
	}
}

// found asserts what a query finds, and that the count says the same.
func (w *world) found(q string, want ...lake.File) {
	w.Helper()
	s := w.search(q)
	if d := cmp.Diff(ids(want), ids(w.list(s))); d != "" {
		w.Errorf("%s: %s", q, d)
	}
	n, err := w.Count(w.Context(), s.Filter, w.clock.now())
	w.ok(err)
	if n != int64(len(want)) {
		w.Errorf("count of %s = %d, want %d", q, n, len(want))
	}
}

func ids(files []lake.File) []string {
	out := []string{}
	for _, f := range files {
		out = append(out, string(f.ID))
	}
	return out
}

func is(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s = %v, want %v", what, err, want)
	}
}

func channelRoundTrip(w *world) {
	ctx, text := w.Context(), "raw frames"
	c := lake.Channel{ID: "2290000000456", Org: org, Storage: lake.StorageFile, CreatedAt: w.clock.now(), UpdatedAt: w.clock.now()}
	w.ok(w.CreateChannel(ctx, c))
	is(w, "create again", w.CreateChannel(ctx, c), plat.ErrExists)
	c.Name, c.Description, c.Archived, c.UpdatedAt = "line-3", &text, true, w.clock.now().Add(time.Second)
	w.ok(w.UpdateChannel(ctx, c))
	c.Rev = 1
	got, err := w.Channel(ctx, c.ID)
	w.ok(err)
	if d := cmp.Diff(c, got); d != "" {
		w.Error(d)
	}
	_, err = w.Channel(ctx, "nope")
	is(w, "Channel(unknown)", err, plat.ErrNotFound)
	is(w, "UpdateChannel(unknown)", w.UpdateChannel(ctx, lake.Channel{ID: "nope"}), plat.ErrNotFound)
}

func channelPages(w *world) {
	names := []string{"first"}
	for i := range 5 {
		w.clock.add(time.Second)
		w.newChannel(fmt.Sprint(i), i == 2)
		names = slices.Insert(names, 0, fmt.Sprint(i))
	}
	w.ok(w.CreateChannel(w.Context(), lake.Channel{ID: "1", Org: "9", CreatedAt: w.clock.now()}))
	list := func(page lake.ChannelPage) (got []string, more bool) {
		all, more, err := w.Channels(w.Context(), org, page)
		w.ok(err)
		for _, c := range all {
			got = append(got, c.Name)
		}
		return got, more
	}
	if got, more := list(lake.ChannelPage{IncludeArchived: true, Limit: 6}); more || !slices.Equal(got, names) {
		w.Errorf("all = %v, %v", got, more)
	}
	if got, more := list(lake.ChannelPage{Limit: 2, Offset: 1}); !more || !slices.Equal(got, []string{"3", "1"}) {
		w.Errorf("second page = %v, %v", got, more)
	}
}

func commitVisible(w *world) {
	f := w.file("label", "cat", "%E3%83%86", "%E7%8C%AB")
	f.Lifetime = "1day"
	stored := w.stored(f)[0]
	want := f.File
	want.UploadedAt, want.ExpiresAt = stored.UploadedAt, stored.UploadedAt.Add(24*time.Hour)
	if d := cmp.Diff(want, stored); d != "" {
		w.Error(d)
	}
	if age := stored.UploadedAt.Sub(w.clock.now()); age < 0 || age > time.Second {
		w.Errorf("uploaded at %v", stored.UploadedAt)
	}
	got, err := w.other.File(w.Context(), w.channel, f.ID, w.clock.now())
	w.ok(err)
	if d := cmp.Diff(want, got); d != "" {
		w.Error(d)
	}
	w.found("", stored)
	w.found("label:cat", stored)
	w.found("テ:猫", stored)
	u, err := w.Usage(w.Context(), w.channel, w.clock.now())
	if w.ok(err); u != (lake.Usage{Files: 1, Bytes: 10}) {
		w.Errorf("usage = %+v", u)
	}
	_, err = w.File(w.Context(), w.channel, "nope", w.clock.now())
	is(w, "File(unknown)", err, plat.ErrNotFound)
	_, err = w.File(w.Context(), w.newChannel("x", false), f.ID, w.clock.now())
	is(w, "File of another channel", err, plat.ErrNotFound)
	_, _, err = w.Files(w.Context(), lake.Search{Filter: lake.Filter{Channel: "nope"}, Limit: 1}, w.clock.now())
	is(w, "Files of an unknown channel", err, plat.ErrNotFound)
}

func commitStamps(w *world) {
	seen := map[time.Time]bool{}
	for i := range 5 {
		files := []lake.NewFile{w.file(), w.file(), w.file()}
		if i == 3 {
			w.clock.add(-time.Hour) // a clock that was set back
		}
		for _, f := range w.stored(files...) {
			if seen[f.UploadedAt] {
				w.Fatalf("%v was given twice", f.UploadedAt)
			}
			seen[f.UploadedAt] = true
		}
	}
	// The other process has the same clock and begins with the same stamps.
	out, err := w.other.Commit(w.Context(), []lake.NewFile{w.file(), w.file()})
	w.ok(err)
	for _, o := range out {
		if o.Err != nil || seen[o.File.UploadedAt] {
			w.Fatalf("the other process stored at %v, %v", o.File.UploadedAt, o.Err)
		}
	}
}

func commitRefuses(w *world) {
	archived := w.newChannel("old", true)
	files := []lake.NewFile{w.file(), w.file(), w.file()}
	files[0].Channel, files[1].Channel = "nope", archived
	out := w.commit(files...)
	is(w, "unknown channel", out[0].Err, plat.ErrNotFound)
	is(w, "archived channel", out[1].Err, plat.ErrForbidden)
	w.ok(out[2].Err)
	w.found("", out[2].File)
}

func commitConflict(w *world) {
	target := func(meta ...string) lake.NewFile {
		f := w.file(meta...)
		f.Conflict = "filename"
		return f
	}
	first := w.stored(target("filename", "a b.jpg"))[0]
	conflict := func(o lake.Outcome, want plat.FileID) {
		w.Helper()
		var c *lake.ConflictError
		if !errors.As(o.Err, &c) || c.File.ID != want {
			w.Errorf("outcome = %v, want a conflict with %s", o.Err, want)
		} else if c.File.Metadata == nil || !errors.Is(o.Err, plat.ErrConflict) {
			w.Errorf("the conflict tells %+v", c)
		}
	}
	w.clock.add(time.Second)
	// The same value in another encoding; a value that only shares tokens; one that differs in case.
	out := w.commit(target("filename", "a%20b.jpg"), target("filename", "a b jpg"), target("filename", "A b.jpg"), target("filename", "a b.jpg"))
	conflict(out[0], first.ID)
	w.ok(out[1].Err)
	w.ok(out[2].Err)
	conflict(out[3], first.ID)
	// Within one commit, also with a file that has no target itself.
	out = w.commit(w.file("filename", "x"), target("filename", "x"), target("filename", "y"), target("filename", "y"), w.file("filename", "y"))
	conflict(out[1], out[0].File.ID)
	conflict(out[3], out[2].File.ID)
	w.ok(out[4].Err)
	// Another channel is another matter.
	other := target("filename", "x")
	other.Channel = w.newChannel("second", false)
	w.stored(other)
	// Values too long for the index as they are.
	long := fmt.Sprintf("%0900d", 7)
	f := w.stored(target("filename", long))[0]
	conflict(w.commit(target("filename", long))[0], f.ID)
	w.stored(target("filename", long+"x"))
	got, err := w.FileWith(w.Context(), w.channel, "filename", long, w.clock.now())
	if w.ok(err); got.ID != f.ID {
		w.Errorf("FileWith = %s", got.ID)
	}
	_, err = w.FileWith(w.Context(), w.channel, "filename", "nobody", w.clock.now())
	is(w, "FileWith(unknown)", err, plat.ErrNotFound)
}

// data.md §22 check 8.
func commitConflictParallel(w *world) {
	const n = 20
	var wg sync.WaitGroup
	stored, refused := make(chan plat.FileID, n), make(chan plat.FileID, n)
	for i := range n {
		store := []lake.Store{w.Store, w.other}[i%2]
		f := w.file("filename", "same.jpg", "n", fmt.Sprint(i))
		f.Conflict = "filename"
		wg.Go(func() {
			out, err := store.Commit(context.WithoutCancel(w.Context()), []lake.NewFile{f})
			var c *lake.ConflictError
			switch {
			case err != nil:
				w.Error(err)
			case errors.As(out[0].Err, &c):
				refused <- c.File.ID
			case out[0].Err != nil:
				w.Error(out[0].Err)
			default:
				stored <- out[0].File.ID
			}
		})
	}
	wg.Wait()
	if len(stored) != 1 || len(refused) != n-1 {
		w.Fatalf("%d stored, %d refused", len(stored), len(refused))
	}
	winner := <-stored
	for range n - 1 {
		if id := <-refused; id != winner {
			w.Errorf("refused because of %s, but %s is there", id, winner)
		}
	}
}

func commitParallel(w *world) {
	const writers, batches, size = 4, 20, 30
	var wg sync.WaitGroup
	for i := range writers {
		store := []lake.Store{w.Store, w.other}[i%2]
		wg.Go(func() {
			for range batches {
				files := make([]lake.NewFile, size)
				for j := range files {
					files[j] = w.file("w", fmt.Sprint(i))
				}
				out, err := store.Commit(context.WithoutCancel(w.Context()), files)
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
	for q, want := range map[string]int64{"": writers * batches * size, "w:1": batches * size, "NOT w:1": (writers - 1) * batches * size} {
		n, err := w.Count(w.Context(), w.search(q).Filter, w.clock.now())
		if w.ok(err); n != want {
			w.Errorf("count %q = %d, want %d", q, n, want)
		}
	}
	if got := len(w.list(w.search(""))); got != writers*batches*size {
		w.Errorf("listed %d", got)
	}
	u, err := w.Usage(w.Context(), w.channel, w.clock.now())
	if w.ok(err); u.Bytes != 10*writers*batches*size {
		w.Errorf("usage = %+v", u)
	}
}

func expiry(w *world) {
	short, long := w.file("label", "cat", "filename", "a"), w.file("label", "cat")
	short.Lifetime, long.Lifetime = "1day", "1week"
	files := w.stored(short, long, w.file("label", "cat"))
	w.found("label:cat", files...)
	w.clock.add(24*time.Hour - time.Second)
	w.found("label:cat", files...)
	w.clock.add(2 * time.Second)
	check := func() {
		w.Helper()
		w.found("label:cat", files[1:]...)
		w.found("", files[1:]...)
		w.found("NOT label:dog", files[1:]...)
		w.found(`label:"cat" OR filename:a`, files[1:]...)
		u, err := w.Usage(w.Context(), w.channel, w.clock.now())
		if w.ok(err); u != (lake.Usage{Files: 2, Bytes: 20}) {
			w.Errorf("usage = %+v", u)
		}
		_, err = w.File(w.Context(), w.channel, short.ID, w.clock.now())
		is(w, "File(expired)", err, plat.ErrNotFound)
		_, err = w.FileWith(w.Context(), w.channel, "filename", "a", w.clock.now())
		is(w, "FileWith(expired)", err, plat.ErrNotFound)
		_, err = w.DeleteFile(w.Context(), w.channel, short.ID, w.clock.now())
		is(w, "DeleteFile(expired)", err, plat.ErrNotFound)
		_, err = w.SetMetadata(w.Context(), w.channel, short.ID, lake.Metadata{}, w.clock.now())
		is(w, "SetMetadata(expired)", err, plat.ErrNotFound)
	}
	check()
	gone, err := w.DeleteExpired(w.Context(), w.clock.now(), 10)
	w.ok(err)
	if d := cmp.Diff(files[:1], gone); d != "" {
		w.Error(d)
	}
	check()
	if gone, err := w.DeleteExpired(w.Context(), w.clock.now(), 10); err != nil || len(gone) != 0 {
		w.Errorf("reaped again: %v, %v", gone, err)
	}
	// An expired file is no conflict.
	again := w.file("filename", "a")
	again.Conflict, again.Lifetime = "filename", "1day"
	w.stored(again)
	w.clock.add(25 * time.Hour)
	again.ID = plat.NewFileID(w.clock.now())
	w.stored(again)
}

func pages(w *world) {
	var want []lake.File
	for range 7 {
		want = append(want, w.stored(w.file("label", "cat"), w.file("label", "dog"))...)
	}
	for _, q := range []string{"", "label:cat OR label:dog", "label:c* OR label:d*", "NOT label:bird"} {
		s := w.search(q)
		s.Limit = 3
		var got []lake.File
		for {
			page, more, err := w.Files(w.Context(), s, w.clock.now())
			w.ok(err)
			got = append(got, page...)
			if !more {
				break
			}
			s.After = lake.PositionOf(page[len(page)-1], nil)
			if len(got) == 6 { // one that is before the place, one that comes
				want = append(want, w.stored(w.file("label", "cat"))...)
				_, err := w.DeleteFile(w.Context(), w.channel, got[0].ID, w.clock.now())
				w.ok(err)
			}
		}
		if d := cmp.Diff(ids(want), ids(got)); d != "" {
			w.Errorf("%q: %s", q, d)
		}
		want = want[1:]
	}
}

func orders(w *world) {
	a, b, c, d := w.file("n", "2", "x%20y", "b"), w.file("n", "10"), w.file("n", "2"), w.file()
	a.ContentType, b.ContentType = "text/plain", "text/plain"
	f := w.stored(a, b, c, d)
	byID := func(files ...lake.File) []lake.File {
		slices.SortFunc(files, func(x, y lake.File) int { return cmpString(string(x.ID), string(y.ID)) })
		return files
	}
	for sort, want := range map[string][]lake.File{
		"uploaded_at":    {f[0], f[1], f[2], f[3]},
		"-uploaded_at":   {f[3], f[2], f[1], f[0]},
		"file_id":        byID(slices.Clone(f)...),
		"content_type":   append(byID(f[2], f[3]), byID(f[0], f[1])...),
		"-content_type":  append(byID(f[0], f[1]), byID(f[2], f[3])...),
		"x-abeja-meta-n": append([]lake.File{f[3], f[1]}, byID(f[0], f[2])...), // byte order
		"x-abeja-meta-n,-x-abeja-meta-x%20y,uploaded_at": {f[3], f[1], f[0], f[2]},
	} {
		keys, err := lake.ParseSort(sort)
		w.ok(err)
		for limit := 1; limit < 6; limit++ {
			got := w.list(lake.Search{Filter: lake.Filter{Channel: w.channel}, Sort: keys, Limit: limit})
			if d := cmp.Diff(ids(want), ids(got)); d != "" {
				w.Errorf("sort=%s, limit %d: %s", sort, limit, d)
			}
		}
	}
}

func cmpString(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func bounds(w *world) {
	var f []lake.File
	for range 4 {
		f = append(f, w.stored(w.file("label", "cat"))...)
		w.clock.add(time.Hour)
	}
	for _, q := range []string{"", "label:cat", "label:c*"} {
		s := w.search(q)
		s.From, s.To = f[1].UploadedAt, f[3].UploadedAt
		if d := cmp.Diff(ids(f[1:3]), ids(w.list(s))); d != "" {
			w.Errorf("%q: %s", q, d)
		}
		if n, err := w.Count(w.Context(), s.Filter, w.clock.now()); err != nil || n != 2 {
			w.Errorf("count %q = %d, %v", q, n, err)
		}
		s.Sort = []lake.SortKey{{Field: lake.FieldUploadedAt, Desc: true}}
		if d := cmp.Diff(ids([]lake.File{f[2], f[1]}), ids(w.list(s))); d != "" {
			w.Errorf("%q descending: %s", q, d)
		}
	}
	w.found("uploaded_at:2024-03-15", f...)
	w.found("uploaded_at:2024-03-15T09", f[1])
	w.found("uploaded_at:2024-03-15T09 OR uploaded_at:2024-03-15T10:15Z", f[1], f[2])
	w.found("NOT uploaded_at:2024-03-15T08 label:cat", f[1:]...)
	w.found(`uploaded_at:"2024-03-15T09:15:02+00:00"`, f[1])
	w.found("uploaded_at:*T1?:*", f[2:]...)
}

func setMetadata(w *world) {
	f := w.stored(w.file("label", "black cat", "split", "train"), w.file("label", "cat"))
	m := lake.Metadata{"label": "dog", "n%20": "1"}
	got, err := w.SetMetadata(w.Context(), w.channel, f[0].ID, m, w.clock.now())
	w.ok(err)
	f[0].Metadata, f[0].Rev = m, 1
	if d := cmp.Diff(f[0], got); d != "" {
		w.Error(d)
	}
	w.found("label:cat", f[1])
	w.found("split:train")
	w.found("label:dog", f[0])
	w.found("x-abeja-meta-n%20:1", f[0])
	w.found("", f...)
	_, err = w.SetMetadata(w.Context(), w.channel, "nope", m, w.clock.now())
	is(w, "SetMetadata(unknown)", err, plat.ErrNotFound)
}

func deleteFile(w *world) {
	f := w.stored(w.file("label", "cat"), w.file("label", "cat"))
	got, err := w.DeleteFile(w.Context(), w.channel, f[0].ID, w.clock.now())
	w.ok(err)
	if d := cmp.Diff(f[0], got); d != "" {
		w.Error(d)
	}
	w.found("", f[1])
	w.found("label:cat", f[1])
	_, err = w.DeleteFile(w.Context(), w.channel, f[0].ID, w.clock.now())
	is(w, "DeleteFile again", err, plat.ErrNotFound)
	u, err := w.Usage(w.Context(), w.channel, w.clock.now())
	if w.ok(err); u != (lake.Usage{Files: 1, Bytes: 10}) {
		w.Errorf("usage = %+v", u)
	}
}

func total(w *world) {
	want := func(u lake.Usage) {
		w.Helper()
		got, err := w.other.Total(w.Context())
		if w.ok(err); got != u {
			w.Errorf("total = %+v, want %+v", got, u)
		}
	}
	want(lake.Usage{})
	short := w.file()
	short.Lifetime = "1day"
	files := w.stored(short, w.file())
	other := w.file()
	other.Channel = w.newChannel("second", false)
	w.stored(other)
	want(lake.Usage{Files: 3, Bytes: 30})
	_, err := w.DeleteFile(w.Context(), w.channel, files[1].ID, w.clock.now())
	w.ok(err)
	w.clock.add(25 * time.Hour)
	want(lake.Usage{Files: 2, Bytes: 20}) // the expired one is still stored
	_, err = w.DeleteExpired(w.Context(), w.clock.now(), 10)
	w.ok(err)
	want(lake.Usage{Files: 1, Bytes: 10})
}

func orgUsage(w *world) {
	f := w.file()
	f.Channel = w.newChannel("second", true)
	if err := w.UpdateChannel(w.Context(), lake.Channel{ID: f.Channel}); err != nil { // unarchived
		w.Fatal(err)
	}
	w.stored(w.file(), f)
	for id, want := range map[plat.OrgID]lake.Usage{org: {Files: 2, Bytes: 20}, "1000000000009": {}} {
		got, err := w.other.OrgUsage(w.Context(), id)
		if w.ok(err); got != want {
			w.Errorf("usage of %s = %+v, want %+v", id, got, want)
		}
	}
}

func known(w *world) {
	short := w.file()
	short.Lifetime = "1day"
	f := w.stored(short, w.file())
	w.clock.add(48 * time.Hour)
	got, err := w.Known(w.Context(), w.channel, []plat.FileID{f[0].ID, f[1].ID, "nope"})
	w.ok(err)
	if d := cmp.Diff(map[plat.FileID]bool{f[0].ID: true, f[1].ID: true}, got); d != "" {
		w.Error(d)
	}
	if got, err := w.Known(w.Context(), "nope", []plat.FileID{f[0].ID}); err != nil || len(got) != 0 {
		w.Errorf("unknown channel: %v, %v", got, err)
	}
}

func folded(w *world) {
	for i := range 70 {
		for _, s := range []lake.Store{w.Store, w.other} {
			if _, err := s.Commit(w.Context(), []lake.NewFile{w.file()}); err != nil {
				w.Fatal(err)
			}
		}
		u, err := w.Usage(w.Context(), w.channel, w.clock.now())
		if n := int64(2 * (i + 1)); err != nil || u != (lake.Usage{Files: n, Bytes: 10 * n}) {
			w.Fatalf("after %d commits: %+v, %v", n, u, err)
		}
	}
}

func phrases(w *world) {
	f := w.stored(w.file("label", "black cat"), w.file("label", "cat black"), w.file("label", "Black-Cat.jpg", "split", "test"),
		w.file("label", "blackcat"), w.file("label", "black big cat", "split", "test"))
	w.found("label:black-cat", f[0], f[2])
	w.found("NOT label:black-cat", f[1], f[3], f[4])
	w.found("label:black-cat split:test", f[2])
	w.found("split:test AND (label:black-cat OR label:cat-black)", f[2])
	w.found("label:black-cat OR label:blackcat", f[0], f[2], f[3])
	w.found("split:test NOT label:black-cat", f[4])
	w.found("label:black*cat", f[0], f[3], f[4])
	w.found("label:*-cat.*", f[2])
	w.found("split:test AND (label:black AND label:jpg OR label:big AND label:none)", f[2])
	w.found("(label:jpg NOT label:black OR label:big) AND split:test", f[4])
	w.found("NOT (label:black*cat OR split:test)", f[1])
	w.found(`label:"Black-Cat.jpg"`, f[2])
	w.found(`label:"black-cat.jpg"`)
}

func longTerms(w *world) {
	word := fmt.Sprintf("%01000d", 1)
	f := w.stored(w.file("label", word), w.file("label", word+" tail"), w.file("label", word+"2"), w.file(word[:400], "x"), w.file("~", "~"))
	w.found("label:"+word, f[0], f[1])
	w.found(`label:"`+word+`"`, f[0])
	w.found(`label:"`+word+` tail"`, f[1])
	w.found(word[:400]+":x", f[3])
	w.found("~:~", f[4])
	w.found(`~:"~"`, f[4])
	w.found("x-abeja-meta-:x")
	w.found("NOT x-abeja-meta-:x", f...)
}
