// SPDX-License-Identifier: Apache-2.0

// Package linktest holds every link.Store to its contract, and has one in memory.
package linktest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"panal/internal/feed"
	"panal/internal/lake"
	"panal/internal/lake/link"
	"panal/internal/plat"
)

// Harness is what an implementation supplies.
type Harness struct {
	// New returns an empty store at a fixed clock's time.
	New func(t *testing.T, now plat.Clock) World
}

// World is a store and how to look around it.
type World struct {
	Store link.Store
	// AddChannel makes a channel of organization "org"; full puts a file of its own in.
	AddChannel func(id plat.ChannelID, full bool)
	// Files returns the files that a reader of the channel finds.
	Files func(channel plat.ChannelID) []lake.File
	// Drop deletes a channel; nil where nothing does.
	Drop func(channel plat.ChannelID)
}

var start = time.Date(2026, 11, 26, 1, 2, 3, 456000, time.UTC)

const ch = plat.ChannelID("1000000000001")

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	for _, c := range []struct {
		name  string
		check func(*testing.T, World)
	}{
		{"CreateLink/is_as_it_was_made", created},
		{"CreateLink/refuses_what_is_not_there_linked_or_full", refused},
		{"Pause_and_SetWalk/are_kept", kept},
		{"Write/an_object_becomes_a_file", becomesFile},
		{"Write/the_same_object_stays_the_same_file", sameFile},
		{"Write/an_overwrite_is_another_file", overwrite},
		{"Write/absence_ends_the_file_and_leaves_a_tombstone", absence},
		{"Write/only_over_the_row_that_was_read", compareAndSet},
		{"Write/one_stale_does_not_stop_the_others", partly},
		{"Write/many_at_once", many},
		{"Write/concurrent_ones_of_one_key_one_wins", race},
		{"Write/the_newest_sequencer_stays", sequencer},
		{"Live/pages_in_byte_order", live},
		{"OfFile/finds_only_what_is", ofFile},
		{"Letters/are_kept_paged_and_dropped", letters},
		{"DropTombstones/old_ones_only", tombstones},
		{"Drop/nothing_is_left_of_a_link", dropped},
		{"Unlink/the_channel_is_empty_and_can_be_linked_again", unlinked},
		{"Unlink/what_is_bound_to_the_link_before_writes_nothing", boundToOne},
	} {
		t.Run(c.name, func(t *testing.T) {
			var at atomic.Int64
			w := h.New(t, func() time.Time { return start.Add(time.Duration(at.Add(1)) * time.Microsecond) })
			c.check(t, w)
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func linkOf(id plat.ChannelID) link.Link {
	return link.Link{
		Channel: id, Org: "org", CreatedAt: start,
		Place: link.Place{Endpoint: "https://s3.example", Region: "r", Bucket: "b", Prefix: "p/", Credentials: "sealed"},
		Feed:  link.Feed{Kind: link.FeedSQS, Queue: "https://q.example/1", SecretHash: "h"},
	}
}

// linked makes a linked channel.
func linked(t *testing.T, w World) {
	t.Helper()
	w.AddChannel(ch, false)
	must(t, w.Store.CreateLink(t.Context(), linkOf(ch)))
}

func object(key, etag string) *link.Object {
	return &link.Object{
		Key: key, ETag: etag, Size: int64(len(etag)), Modified: start, ContentType: "image/jpeg",
		Metadata: map[string]string{"Label": "cat"},
	}
}

// write writes one observation of a key as its row is now.
func write(t *testing.T, w World, key string, o *link.Object) link.Row {
	t.Helper()
	out, err := w.Store.Write(t.Context(), ch, []link.Observation{{Was: row(t, w, key), Object: o}})
	must(t, err)
	if len(out) != 1 || !out[0].Written {
		t.Fatalf("write %s = %+v", key, out)
	}
	return row(t, w, key)
}

func row(t *testing.T, w World, key string) link.Row {
	t.Helper()
	rows, err := w.Store.Rows(t.Context(), ch, []string{key, "not there"})
	must(t, err)
	r := rows[key]
	r.Key = key
	return r
}

func created(t *testing.T, w World) {
	linked(t, w)
	want := linkOf(ch)
	got, err := w.Store.Link(t.Context(), ch)
	if got.Num == 0 {
		t.Error("the link has no number")
	}
	want.Num = got.Num
	if err != nil || got != want {
		t.Errorf("Link = %+v, %v, want %+v", got, err, want)
	}
	all, err := w.Store.Links(t.Context())
	if err != nil || !slices.Equal(all, []link.Link{want}) {
		t.Errorf("Links = %+v, %v", all, err)
	}
	if _, err := w.Store.Link(t.Context(), "2"); !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("Link of another = %v, want ErrNotFound", err)
	}
}

func refused(t *testing.T, w World) {
	linked(t, w)
	w.AddChannel("1000000000002", true)
	for id, want := range map[plat.ChannelID]error{ch: plat.ErrExists, "1000000000002": plat.ErrConflict, "1000000000003": plat.ErrNotFound} {
		if err := w.Store.CreateLink(t.Context(), linkOf(id)); !errors.Is(err, want) {
			t.Errorf("CreateLink(%s) = %v, want %v", id, err, want)
		}
	}
}

func kept(t *testing.T, w World) {
	linked(t, w)
	want := linkOf(ch)
	want.Paused, want.Walk = true, link.Walk{After: "p/蜂", Seen: 5, Found: 2, Drift: 1, PassedAt: start}
	must(t, w.Store.Pause(t.Context(), ch, true))
	want.Place.Credentials = "c2VhbGVk"
	must(t, w.Store.SetCredentials(t.Context(), ch, want.Place.Credentials))
	must(t, w.Store.SetWalk(t.Context(), ch, want.Walk))
	got, err := w.Store.Link(t.Context(), ch)
	want.Num = got.Num
	if err != nil || got != want {
		t.Errorf("Link = %+v, %v, want %+v", got, err, want)
	}
	if err := w.Store.Pause(t.Context(), "2", true); !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("Pause without a link = %v", err)
	}
	if err := w.Store.SetWalk(t.Context(), "2", want.Walk); !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("SetWalk without a link = %v", err)
	}
}

func becomesFile(t *testing.T, w World) {
	linked(t, w)
	r := write(t, w, "p/a b.jpg", object("p/a b.jpg", "etag"))
	files := w.Files(ch)
	if len(files) != 1 {
		t.Fatalf("files = %+v", files)
	}
	f := files[0]
	want := lake.Metadata{"label": "cat", "filename": "a b.jpg", "s3-key": "p/a b.jpg", "s3-etag": "etag", "s3-size": "4"}
	if f.ID != r.File || f.Size != 4 || f.ETag != "etag" || f.ContentType != "image/jpeg" || fmt.Sprint(f.Metadata) != fmt.Sprint(want) {
		t.Errorf("file = %+v", f)
	}
	if r.Gen != 1 || r.ETag != "etag" || r.Size != 4 || !r.Modified.Equal(start.Truncate(time.Second)) || r.Mark == "" || r.WrittenAt.IsZero() {
		t.Errorf("row = %+v", r)
	}
}

func sameFile(t *testing.T, w World) {
	linked(t, w)
	first := write(t, w, "k", object("k", "e"))
	out, err := w.Store.Write(t.Context(), ch, []link.Observation{{Was: first, Object: object("k", "e")}})
	if err != nil || out[0] != (link.Outcome{Written: true}) {
		t.Errorf("Write = %+v, %v, want written and unchanged", out, err)
	}
	if again := row(t, w, "k"); again.File != first.File || again.Gen != 2 || len(w.Files(ch)) != 1 {
		t.Errorf("row = %+v, %d files", again, len(w.Files(ch)))
	}
}

func overwrite(t *testing.T, w World) {
	linked(t, w)
	first := write(t, w, "k", object("k", "e"))
	second := write(t, w, "k", object("k", "longer"))
	files := w.Files(ch)
	if second.File == first.File || len(files) != 1 || files[0].ID != second.File || files[0].Size != 6 {
		t.Errorf("after the overwrite: %+v, %+v", second, files)
	}
	other := object("k", "longer")
	other.Metadata = map[string]string{"label": "dog"} // the same bytes
	if third := write(t, w, "k", other); third.File == second.File || len(w.Files(ch)) != 1 {
		t.Errorf("after other metadata: %+v, %+v", third, w.Files(ch))
	}
}

func absence(t *testing.T, w World) {
	linked(t, w)
	write(t, w, "k", object("k", "e"))
	r := write(t, w, "k", nil)
	if r.File != "" || r.Gen != 2 || len(w.Files(ch)) != 0 {
		t.Errorf("row = %+v, files = %v", r, w.Files(ch))
	}
	if r := write(t, w, "never", nil); r.Gen != 1 {
		t.Errorf("tombstone of what never was = %+v", r)
	}
	if r := write(t, w, "k", object("k", "e")); r.File == "" || r.Gen != 3 || len(w.Files(ch)) != 1 {
		t.Errorf("again = %+v, files = %v", r, w.Files(ch))
	}
}

func compareAndSet(t *testing.T, w World) {
	linked(t, w)
	none := row(t, w, "k")
	first := write(t, w, "k", object("k", "e1"))
	second := write(t, w, "k", object("k", "e2"))
	for _, old := range []link.Row{none, first} {
		for _, o := range []*link.Object{object("k", "old"), nil} {
			out, err := w.Store.Write(t.Context(), ch, []link.Observation{{Was: old, Object: o}})
			if err != nil || out[0].Written || out[0].Changed {
				t.Errorf("Write over generation %d = %+v, %v", old.Gen, out, err)
			}
		}
	}
	if r := row(t, w, "k"); r != second || len(w.Files(ch)) != 1 {
		t.Errorf("row = %+v, want %+v", r, second)
	}
	if _, err := w.Store.Write(t.Context(), "2", []link.Observation{{Was: none}}); !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("Write without a link = %v", err)
	}
}

func partly(t *testing.T, w World) {
	linked(t, w)
	write(t, w, "b", object("b", "e"))
	out, err := w.Store.Write(t.Context(), ch, []link.Observation{
		{Was: link.Row{Key: "a"}, Object: object("a", "e")},
		{Was: link.Row{Key: "b"}, Object: object("b", "stale")},
		{Was: link.Row{Key: "c"}, Object: object("c", "e")},
	})
	want := []link.Outcome{{Written: true, Changed: true}, {}, {Written: true, Changed: true}}
	if err != nil || !slices.Equal(out, want) || len(w.Files(ch)) != 3 {
		t.Errorf("Write = %+v, %v, %d files", out, err, len(w.Files(ch)))
	}
}

func many(t *testing.T, w World) {
	linked(t, w)
	const n = 300
	for round, etag := range []string{"e1", "e2", ""} {
		keys := make([]string, n)
		for i := range keys {
			keys[i] = fmt.Sprintf("p/%05d", i)
		}
		rows, err := w.Store.Rows(t.Context(), ch, keys)
		must(t, err)
		var all []link.Observation
		for _, k := range keys {
			o := link.Observation{Was: rows[k]}
			o.Was.Key = k
			if etag != "" {
				o.Object = object(k, etag)
			}
			all = append(all, o)
		}
		out, err := w.Store.Write(t.Context(), ch, all)
		must(t, err)
		for i, o := range out {
			if !o.Written || !o.Changed {
				t.Fatalf("round %d: outcome %d = %+v", round, i, o)
			}
		}
		want := n
		if etag == "" {
			want = 0
		}
		if got := len(w.Files(ch)); got != want {
			t.Fatalf("round %d: %d files, want %d", round, got, want)
		}
	}
}

func race(t *testing.T, w World) {
	linked(t, w)
	for round := range 4 {
		was := row(t, w, "k")
		var won atomic.Int64
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				out, err := w.Store.Write(t.Context(), ch, []link.Observation{{Was: was, Object: object("k", fmt.Sprintf("e%d-%d", round, i))}})
				if err != nil {
					t.Error(err)
				} else if out[0].Written {
					won.Add(1)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 || len(w.Files(ch)) != 1 {
			t.Fatalf("%d won, %d files", won.Load(), len(w.Files(ch)))
		}
	}
}

func sequencer(t *testing.T, w World) {
	linked(t, w)
	for _, step := range []struct{ given, want string }{{"02", "02"}, {"01", "02"}, {"", "02"}, {"021", "021"}} {
		out, err := w.Store.Write(t.Context(), ch, []link.Observation{{Was: row(t, w, "k"), Sequencer: feed.Sequencer(step.given)}})
		must(t, err)
		if got := row(t, w, "k").Sequencer; !out[0].Written || string(got) != step.want {
			t.Errorf("after %q: %q, want %q", step.given, got, step.want)
		}
	}
}

func live(t *testing.T, w World) {
	linked(t, w)
	keys := []string{"A", "Z", "a", "a/b", "aB", "é", "蜂", "🐝"} // in byte order
	for _, k := range []string{"蜂", "aB", "A", "🐝", "a", "Z", "é", "a/b"} {
		write(t, w, k, object(k, "e"))
	}
	write(t, w, "aA", nil)
	var got []string
	for after := ""; ; {
		page, err := w.Store.Live(t.Context(), ch, after, "", 3)
		must(t, err)
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			got = append(got, r.Key)
		}
		after = got[len(got)-1]
	}
	if !slices.Equal(got, keys) {
		t.Errorf("keys = %q, want %q", got, keys)
	}
	page, err := w.Store.Live(t.Context(), ch, "A", "a/b", 10)
	if err != nil || len(page) != 3 || page[0].Key != "Z" || page[2].Key != "a/b" {
		t.Errorf("range = %+v, %v", page, err)
	}
	if page[0] != row(t, w, "Z") {
		t.Errorf("Live = %+v, Rows = %+v", page[0], row(t, w, "Z"))
	}
}

func ofFile(t *testing.T, w World) {
	linked(t, w)
	first := write(t, w, "k", object("k", "e1"))
	second := write(t, w, "k", object("k", "e2"))
	if got, err := w.Store.OfFile(t.Context(), ch, second.File); err != nil || got != second {
		t.Errorf("OfFile = %+v, %v", got, err)
	}
	for _, id := range []plat.FileID{first.File, "", "x"} {
		if _, err := w.Store.OfFile(t.Context(), ch, id); !errors.Is(err, plat.ErrNotFound) {
			t.Errorf("OfFile(%q) = %v, want ErrNotFound", id, err)
		}
	}
}

func letters(t *testing.T, w World) {
	linked(t, w)
	const other = plat.ChannelID("1000000000002")
	w.AddChannel(other, false)
	must(t, w.Store.CreateLink(t.Context(), linkOf(other)))
	body := []byte("\x00\xff {")
	for i := range 5 {
		must(t, w.Store.Bury(t.Context(), []link.Letter{{Channel: ch, Reason: fmt.Sprint("r", i), Body: body, At: start}}))
	}
	must(t, w.Store.Bury(t.Context(), []link.Letter{{Channel: other, Reason: "r", Body: body, At: start}}))
	page, err := w.Store.Letters(t.Context(), ch, 0, 3)
	if err != nil || len(page) != 3 || page[0].Reason != "r0" || string(page[0].Body) != string(body) || !page[0].At.Equal(start) || page[0].Channel != ch {
		t.Fatalf("Letters = %+v, %v", page, err)
	}
	rest, err := w.Store.Letters(t.Context(), ch, page[2].ID, 10)
	if err != nil || len(rest) != 2 || rest[1].Reason != "r4" {
		t.Errorf("rest = %+v, %v", rest, err)
	}
	count := func(want int64) {
		t.Helper()
		if n, err := w.Store.Lettered(t.Context(), ch); err != nil || n != want {
			t.Errorf("Lettered = %d, %v, want %d", n, err, want)
		}
	}
	count(5)
	if n, err := w.Store.DropLetters(t.Context(), ch, []int64{page[0].ID, page[1].ID, 1 << 40}); err != nil || n != 2 {
		t.Errorf("DropLetters = %d, %v", n, err)
	}
	count(3)
	if n, err := w.Store.DropLetters(t.Context(), ch, nil); err != nil || n != 3 {
		t.Errorf("DropLetters(all) = %d, %v", n, err)
	}
	count(0)
	if n, err := w.Store.Lettered(t.Context(), other); err != nil || n != 1 {
		t.Errorf("Lettered(other) = %d, %v", n, err)
	}
}

func tombstones(t *testing.T, w World) {
	linked(t, w)
	write(t, w, "live", object("live", "e"))
	for _, k := range []string{"a", "b", "c"} {
		write(t, w, k, nil)
	}
	if n, err := w.Store.DropTombstones(t.Context(), start, 10); err != nil || n != 0 {
		t.Errorf("before any = %d, %v", n, err)
	}
	if n, err := w.Store.DropTombstones(t.Context(), start.Add(time.Hour), 2); err != nil || n != 2 {
		t.Errorf("two = %d, %v", n, err)
	}
	if n, err := w.Store.DropTombstones(t.Context(), start.Add(time.Hour), 10); err != nil || n != 1 {
		t.Errorf("rest = %d, %v", n, err)
	}
	if r := row(t, w, "live"); r.File == "" {
		t.Error("a live row went with the tombstones")
	}
}

func dropped(t *testing.T, w World) {
	if w.Drop == nil {
		return
	}
	linked(t, w)
	r := write(t, w, "k", object("k", "e"))
	must(t, w.Store.Bury(t.Context(), []link.Letter{{Channel: ch, Reason: "r", At: start}}))
	w.Drop(ch)
	if _, err := w.Store.Link(t.Context(), ch); !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("Link = %v", err)
	}
	if all, err := w.Store.Links(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("Links = %v, %v", all, err)
	}
	if _, err := w.Store.OfFile(t.Context(), ch, r.File); !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("OfFile = %v", err)
	}
	if n, err := w.Store.Lettered(t.Context(), ch); err != nil || n != 0 {
		t.Errorf("Lettered = %d, %v", n, err)
	}
	if _, err := w.Store.Write(t.Context(), ch, []link.Observation{{Was: link.Row{Key: "x"}}}); !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("Write = %v", err)
	}
}

func unlinked(t *testing.T, w World) {
	is := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, plat.ErrNotFound) {
			t.Errorf("%s = %v, want ErrNotFound", what, err)
		}
	}
	w.AddChannel(ch, false)
	is("Unlink of no link", w.Store.Unlink(t.Context(), ch, start))
	is("Unlink of no channel", w.Store.Unlink(t.Context(), "nope", start))
	must(t, w.Store.CreateLink(t.Context(), linkOf(ch)))
	before, err := w.Store.Link(t.Context(), ch)
	must(t, err)
	old := write(t, w, "k", object("k", "e"))
	must(t, w.Store.SetWalk(t.Context(), ch, link.Walk{After: "k", Seen: 1}))
	must(t, w.Store.Bury(t.Context(), []link.Letter{{Channel: ch, Reason: "r", At: start}}))
	must(t, w.Store.Unlink(t.Context(), ch, start))
	is("Unlink again", w.Store.Unlink(t.Context(), ch, start))
	_, err = w.Store.Link(t.Context(), ch)
	is("Link", err)
	_, err = w.Store.OfFile(t.Context(), ch, old.File)
	is("OfFile", err)
	_, err = w.Store.Write(t.Context(), ch, []link.Observation{{Was: link.Row{Key: "x"}, Object: object("x", "e")}})
	is("Write", err)

	must(t, w.Store.CreateLink(t.Context(), linkOf(ch)))
	now, err := w.Store.Link(t.Context(), ch)
	must(t, err)
	if now.Num == before.Num || now.Walk != (link.Walk{}) {
		t.Errorf("the link is %+v, after %+v", now, before)
	}
	if n, err := w.Store.Lettered(t.Context(), ch); err != nil || n != 0 {
		t.Errorf("Lettered = %d, %v", n, err)
	}
	if f := w.Files(ch); len(f) != 0 {
		t.Errorf("files of the link before: %v", f)
	}
	if r := row(t, w, "k"); r.Gen != 0 {
		t.Errorf("row of the link before: %+v", r)
	}
	if r := write(t, w, "k", object("k", "e")); r.File == old.File {
		t.Error("the object is the file that it was before")
	}
	if f := w.Files(ch); len(f) != 1 {
		t.Errorf("files %v", f)
	}
}

func boundToOne(t *testing.T, w World) {
	linked(t, w)
	before, err := w.Store.Link(t.Context(), ch)
	must(t, err)
	old := w.Store.Bound(before.Num)
	seen := []link.Observation{{Was: link.Row{Key: "k"}, Object: object("k", "e")}}
	if out, err := old.Write(t.Context(), ch, seen); err != nil || !out[0].Changed {
		t.Errorf("Write = %+v, %v", out, err)
	}
	must(t, old.SetWalk(t.Context(), ch, link.Walk{After: "k", Seen: 1}))
	must(t, old.Bury(t.Context(), []link.Letter{{Channel: ch, Reason: "r", At: start}}))
	if n, err := w.Store.Lettered(t.Context(), ch); err != nil || n != 1 {
		t.Errorf("Lettered = %d, %v", n, err)
	}
	must(t, w.Store.Unlink(t.Context(), ch, start))
	for range 2 { // without a link, and with the next one
		if _, err := old.Write(t.Context(), ch, seen); !errors.Is(err, plat.ErrNotFound) {
			t.Errorf("Write = %v", err)
		}
		if err := old.SetWalk(t.Context(), ch, link.Walk{After: "z", PassedAt: start}); !errors.Is(err, plat.ErrNotFound) {
			t.Errorf("SetWalk = %v", err)
		}
		must(t, old.Bury(t.Context(), []link.Letter{{Channel: ch, Reason: "r", At: start}}))
		_ = w.Store.CreateLink(t.Context(), linkOf(ch))
	}
	l, err := w.Store.Link(t.Context(), ch)
	if err != nil || l.Walk != (link.Walk{}) {
		t.Errorf("Link = %+v, %v", l, err)
	}
	if n, err := w.Store.Lettered(t.Context(), ch); err != nil || n != 0 {
		t.Errorf("Lettered = %d, %v", n, err)
	}
	if f := w.Files(ch); len(f) != 0 {
		t.Errorf("files %v", f)
	}
}
