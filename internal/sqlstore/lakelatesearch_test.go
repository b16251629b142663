// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"panal/internal/lake"
	"panal/internal/lake/laketest"
	"panal/internal/lake/query"
	"panal/internal/plat"
	"panal/internal/sqlstore"
)

// answers is all that a lake says about a query: pages in three orders, the count, the
// values of some keys, the first file with a value.
type answers struct {
	Pages  map[string][][]plat.FileID
	Count  int64
	Facets map[string]lake.Facets
	With   map[string]plat.FileID
}

// fataler is what of *testing.T and *rapid.T is needed here.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// ask gathers the answers to a query at a time.
func (w *lateWorld) ask(t fataler, f lake.Filter, limit int, now time.Time) answers {
	t.Helper()
	ctx := w.Context()
	got := answers{Pages: map[string][][]plat.FileID{}, Facets: map[string]lake.Facets{}, With: map[string]plat.FileID{}}
	for _, sort := range []string{"", "-uploaded_at", "-content_type,x-abeja-meta-label"} {
		keys, err := lake.ParseSort(sort)
		if err != nil {
			t.Fatalf("%v", err)
		}
		s := lake.Search{Filter: f, Sort: keys, Limit: limit}
		for more := true; more; {
			var page []lake.File
			if page, more, err = w.lake.Files(ctx, s, now); err != nil {
				t.Fatalf("list %v: %v", f.Query, err)
			}
			ids := []plat.FileID{}
			for _, file := range page {
				ids = append(ids, file.ID)
			}
			got.Pages[sort] = append(got.Pages[sort], ids)
			if more {
				s.After = lake.PositionOf(page[len(page)-1], keys)
			}
		}
	}
	var err error
	if got.Count, err = w.lake.Count(ctx, f, now); err != nil {
		t.Fatalf("count %v: %v", f.Query, err)
	}
	for _, key := range []string{"label", "split", "content_type"} {
		if got.Facets[key], err = w.lake.Facets(ctx, f, key, 3, now); err != nil {
			t.Fatalf("facets of %v by %s: %v", f.Query, key, err)
		}
	}
	for _, value := range []string{"cat", "black cat", "cat-1.jpg", "nothing"} {
		file, err := w.lake.FileWith(ctx, f.Channel, "label", value, now)
		if err != nil && !errors.Is(err, plat.ErrNotFound) {
			t.Fatalf("file with %s: %v", value, err)
		}
		if err == nil {
			got.With[value] = file.ID
		}
	}
	return got
}

// model is what the answers about files must be, by lake.Match alone.
func model(files []lake.File, f lake.Filter, limit int, now time.Time) answers {
	want := answers{Pages: map[string][][]plat.FileID{}, Facets: map[string]lake.Facets{}, With: map[string]plat.FileID{}}
	var hits []lake.File
	for _, file := range files {
		if !file.Live(now) {
			continue
		}
		for _, value := range []string{"cat", "black cat", "cat-1.jpg", "nothing"} {
			if has, ok := file.Metadata.Get("label"); ok && has == value && want.With[value] == "" {
				want.With[value] = file.ID
			}
		}
		if lake.Match(f.Query, file) && (f.From.IsZero() || !file.UploadedAt.Before(f.From)) && (f.To.IsZero() || file.UploadedAt.Before(f.To)) {
			hits = append(hits, file)
		}
	}
	want.Count = int64(len(hits))
	for _, key := range []string{"label", "split", "content_type"} {
		counts := map[string]int64{}
		for _, file := range hits {
			if v, ok := lake.FacetValue(file, key); ok {
				counts[v]++
			}
		}
		want.Facets[key] = lake.TopFacets(counts, 3)
	}
	for _, sort := range []string{"", "-uploaded_at", "-content_type,x-abeja-meta-label"} {
		keys, _ := lake.ParseSort(sort)
		type entry struct {
			pos *lake.Position
			id  plat.FileID
		}
		order := make([]entry, len(hits))
		for i, file := range hits {
			order[i] = entry{lake.PositionOf(file, keys), file.ID}
		}
		slices.SortFunc(order, func(a, b entry) int { return a.pos.Compare(b.pos, keys) })
		pages := [][]plat.FileID{}
		for page := range slices.Chunk(order, limit) {
			ids := []plat.FileID{}
			for _, e := range page {
				ids = append(ids, e.id)
			}
			pages = append(pages, ids)
		}
		if len(pages) == 0 {
			pages = append(pages, []plat.FileID{})
		}
		want.Pages[sort] = pages
	}
	return want
}

// TestSearchOfLateFiles: after any history of uploads, changes, deletions and made
// postings, all answers are those of lake.Match file by file, whether postings are made
// late or not.
func TestSearchOfLateFiles(t *testing.T) {
	w := newLateWorld(t)
	channels := 0
	rapid.Check(t, func(t *rapid.T) {
		channels++
		channel := plat.ChannelID(fmt.Sprintf("late-%d", channels))
		now := plat.SystemClock()
		if err := w.lake.CreateChannel(w.Context(), lake.Channel{ID: channel, CreatedAt: now}); err != nil {
			t.Fatal(err)
		}
		var files []lake.File // in order of the upload time
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			files = w.step(t, channel, files)
		}
		if rapid.IntRange(0, 3).Draw(t, "expire") == 0 {
			now = now.Add(48 * time.Hour)
		} else {
			now = plat.SystemClock()
		}
		limit := rapid.IntRange(3, 12).Draw(t, "limit")
		f := lake.Filter{Channel: channel}
		if rapid.IntRange(0, 5).Draw(t, "any") > 0 && len(files) > 0 {
			f.Query = laketest.DrawQuery(files, 2).Draw(t, "query")
		}
		if rapid.IntRange(0, 3).Draw(t, "bound") == 0 && len(files) > 0 {
			f.From = rapid.SampledFrom(files).Draw(t, "from").UploadedAt
		}
		if rapid.IntRange(0, 3).Draw(t, "bound") == 0 && len(files) > 0 {
			f.To = rapid.SampledFrom(files).Draw(t, "to").UploadedAt
		}
		late := w.rows("file_late")
		for _, settled := range []bool{false, true} {
			if d := cmp.Diff(model(files, f, limit, now), w.ask(t, f, limit, now)); d != "" {
				t.Fatalf("%v from %v to %v, of %d late files, postings made: %v: %s", f.Query, f.From, f.To, late, settled, d)
			}
			if err := w.lake.PostLate(w.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n := w.rows("file_late"); n > 0 {
			t.Fatalf("%d files are late when their postings are made", n)
		}
		if bad, err := w.lake.CheckTerms(w.Context(), channel, files); err != nil || len(bad) > 0 {
			t.Fatalf("without their postings: %v, %v", bad, err)
		}
		if n, err := w.lake.StrayTerms(w.Context(), channel, false); err != nil || n > 0 {
			t.Fatalf("%d stray postings, %v", n, err)
		}
	})
}

var errFull = errors.New("no room")

// step changes a channel at random and returns its files then.
func (w *lateWorld) step(t *rapid.T, channel plat.ChannelID, files []lake.File) []lake.File {
	ctx, now := w.Context(), plat.SystemClock()
	kind := rapid.IntRange(0, 11).Draw(t, "step")
	if len(files) == 0 {
		kind = 0
	}
	i := 0
	if len(files) > 0 {
		i = rapid.IntRange(0, len(files)-1).Draw(t, "which")
	}
	var err error
	switch kind {
	default:
		batch := make([]lake.NewFile, rapid.IntRange(1, 6).Draw(t, "files"))
		for i := range batch {
			batch[i].File = lake.File{
				ID: plat.NewFileID(now), Channel: channel, Size: 1, ETag: "e",
				ContentType: rapid.SampledFrom([]string{"image/png", "text/plain"}).Draw(t, "type"), Metadata: laketest.DrawMetadata(t),
			}
			if rapid.IntRange(0, 4).Draw(t, "short") == 0 {
				batch[i].Lifetime = "1day"
			}
		}
		var out []lake.Outcome
		if out, err = w.lake.Commit(ctx, batch); err == nil {
			for _, o := range out {
				files = append(files, o.File)
			}
		}
	case 5:
		err = w.lake.PostLate(ctx)
	case 6, 10: // of a round that later steps find half made
		err = w.lake.PostPart(ctx, rapid.IntRange(1, 4).Draw(t, "part"), nil)
	case 11: // it has not happened
		if err = w.lake.PostPart(ctx, rapid.IntRange(1, 4).Draw(t, "part"), errFull); errors.Is(err, errFull) {
			err = nil
		}
	case 7:
		_, err = w.lake.DeleteFile(ctx, channel, files[i].ID, now)
		files = slices.Delete(files, i, i+1)
	case 8:
		files[i], err = w.lake.SetMetadata(ctx, channel, files[i].ID, laketest.DrawMetadata(t), now)
	case 9:
		files[i], err = w.lake.SetLifetime(ctx, channel, files[i].ID, rapid.SampledFrom([]lake.Lifetime{"1day", "1week"}).Draw(t, "lifetime"), now)
	}
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestSearchOnFullDisk: with a database that takes no page more, uploads end with an
// error that says so, late files stay few, and every answer is right; with room again the
// postings are made and no answer changes.
func TestSearchOnFullDisk(t *testing.T) {
	w := newLateWorld(t)
	labels := []string{"cat", "black cat", "cat-1.jpg"}
	var files []lake.File
	upload := func(n int) error {
		batch := make([]lake.NewFile, n)
		for i := range batch {
			k := len(files) + i
			batch[i].File = lake.File{
				ID: plat.NewFileID(plat.SystemClock()), Channel: lateChannel, Size: 1, ETag: "e", ContentType: "image/png",
				Metadata: lake.Metadata{"label": labels[k%3], "split": []string{"train", "test"}[k%2], "name": fmt.Sprintf("n%d-%d", k, k*7919)},
			}
		}
		out, err := w.lake.Commit(t.Context(), batch)
		for _, o := range out {
			if err == nil {
				files = append(files, o.File)
			}
		}
		return err
	}
	if err := errors.Join(upload(150), upload(40)); err != nil {
		t.Fatal(err)
	}
	queries := []query.Node{nil}
	for _, q := range []string{
		"label:cat", "split:train", "NOT label:cat", "label:cat AND NOT split:test", `label:"black cat" OR split:test`, "name:n17*", "label:black-cat",
		"NOT name:n1*", "content_type:png AND label:jpg", "file_id:" + string(files[170].ID), `file_id:"` + string(files[20].ID) + `"`,
	} {
		n, err := lake.ParseQuery(q)
		if err != nil {
			t.Fatal(err)
		}
		queries = append(queries, n)
	}
	right := func(what string) {
		t.Helper()
		now := plat.SystemClock()
		for _, q := range queries {
			f := lake.Filter{Channel: lateChannel, Query: q}
			if d := cmp.Diff(model(files, f, 50, now), w.ask(t, f, 50, now)); d != "" {
				t.Errorf("%s: %v: %s", what, q, d)
			}
		}
	}
	limit := w.fill()
	right("full")
	if err := w.lake.PostLate(t.Context()); !errors.Is(err, plat.ErrExhausted) {
		t.Fatalf("making the postings on a full disk: %v, want %v", err, plat.ErrExhausted)
	}
	refused := 0
	for n := 0; n < 2000 && refused < 50; n++ { // small ones still find room in pages that are there
		if err := upload(1); err != nil {
			if !errors.Is(err, plat.ErrExhausted) {
				t.Fatalf("an upload on a full disk: %v", err)
			}
			refused++
		}
	}
	if refused == 0 {
		t.Fatal("2,000 uploads found room: the disk is not full")
	}
	late := w.rows("file_late")
	if late < 40 || late > 512+127 {
		t.Errorf("%d files are late, want those that were and not more than the bound", late)
	}
	right("fuller")
	w.exec(limit)
	if err := upload(1); err != nil {
		t.Fatalf("an upload with room again: %v", err)
	}
	right("room again")
	w.sound(files)
	right("postings made")
}

// fill lets the database take no page more, and returns what ends that.
func (w *lateWorld) fill() (undo string) {
	w.Helper()
	var pages, most int64
	row := sqlstore.WriterOf(w.db).QueryRowContext(w.Context(), `PRAGMA page_count`)
	if err := row.Scan(&pages); err != nil {
		w.Fatal(err)
	}
	if err := sqlstore.WriterOf(w.db).QueryRowContext(w.Context(), fmt.Sprintf(`PRAGMA max_page_count = %d`, pages)).Scan(&most); err != nil || most != pages {
		w.Fatalf("limit the database to %d pages: %d, %v", pages, most, err)
	}
	return fmt.Sprintf(`PRAGMA max_page_count = %d`, 1<<30)
}

func (w *lateWorld) exec(stmt string) {
	w.Helper()
	if _, err := sqlstore.WriterOf(w.db).ExecContext(context.WithoutCancel(w.Context()), stmt); err != nil {
		w.Fatal(err)
	}
}
