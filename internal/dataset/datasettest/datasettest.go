// SPDX-License-Identifier: Apache-2.0

// Package datasettest holds every dataset.Store to its contract.
package datasettest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/dataset"
	"panal/internal/plat"
)

var at = time.Date(2024, 3, 15, 8, 15, 2, 123456000, time.UTC)

const org = plat.OrgID("1000000000001")

func made(id, name string) dataset.Dataset {
	return dataset.Dataset{
		ID: plat.DatasetID(id), Org: org, Name: name, Type: "classification",
		Props: []byte(`{"categories":[{"category_id":0,"x":1.50}]}`), CreatedAt: at, UpdatedAt: at,
	}
}

func item(attributes string) dataset.Item {
	return dataset.Item{SourceData: []byte(`[{"data_uri":"datalake://1/2"}]`), Attributes: []byte(attributes), CreatedAt: at, UpdatedAt: at}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func is(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s = %v, want %v", what, err, want)
	}
}

// Run runs the suite; open returns an empty store.
func Run(t *testing.T, open func(t *testing.T) dataset.Store) {
	for _, c := range []struct {
		name  string
		check func(*testing.T, dataset.Store)
	}{
		{"Dataset/round_trip", roundTrip},
		{"Datasets/in_order_of_the_id", list},
		{"DeleteDataset/items_go_too", deleteDataset},
		{"Items/ids_ascend_and_are_never_used_again", items},
		{"CreateItems/concurrent_calls_share_no_id", parallel},
		{"UpdateItems/all_or_none", update},
		{"AnySource/asks_the_items_that_hold_the_text", anySource},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t, open(t)) })
	}
}

func roundTrip(t *testing.T, s dataset.Store) {
	ctx, want := t.Context(), made("3310000000789", "bolts")
	ok(t, s.CreateDataset(ctx, want))
	got, err := s.Dataset(ctx, org, want.ID)
	ok(t, err)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	is(t, "the same name", s.CreateDataset(ctx, made("2", "bolts")), plat.ErrExists)
	ok(t, s.CreateDataset(ctx, made("3", "Bolts"))) // names compare byte for byte
	other := made("4", "bolts")
	other.Org = "9"
	ok(t, s.CreateDataset(ctx, other))
	_, err = s.Dataset(ctx, org, "4")
	is(t, "another organization's", err, plat.ErrNotFound)
	_, err = s.DeleteDataset(ctx, org, "4")
	is(t, "delete another organization's", err, plat.ErrNotFound)
}

func list(t *testing.T, s dataset.Store) {
	ctx := t.Context()
	for _, id := range []string{"3", "1", "2"} {
		ok(t, s.CreateDataset(ctx, made(id, "n"+id)))
	}
	for _, c := range []struct {
		after plat.DatasetID
		limit int
		want  string
	}{{"", 0, "123"}, {"", 2, "12"}, {"2", 2, "3"}, {"3", 2, ""}} {
		all, err := s.Datasets(ctx, org, c.after, c.limit)
		ok(t, err)
		var got strings.Builder
		for _, d := range all {
			got.WriteString(string(d.ID))
		}
		if got.String() != c.want {
			t.Errorf("after %q limit %d = %q, want %q", c.after, c.limit, got.String(), c.want)
		}
	}
}

func deleteDataset(t *testing.T, s dataset.Store) {
	ctx := t.Context()
	ok(t, s.CreateDataset(ctx, made("1", "a")))
	_, err := s.CreateItems(ctx, "1", []dataset.Item{item("{}")})
	ok(t, err)
	d, err := s.DeleteDataset(ctx, org, "1")
	if ok(t, err); d.Name != "a" || d.Items != 1 {
		t.Errorf("deleted %+v", d)
	}
	_, err = s.DeleteDataset(ctx, org, "1")
	is(t, "delete again", err, plat.ErrNotFound)
	left, err := s.Items(ctx, "1", 0, 10)
	if ok(t, err); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	_, err = s.CreateItems(ctx, "1", []dataset.Item{item("{}")})
	is(t, "items of a deleted dataset", err, plat.ErrNotFound)
}

func items(t *testing.T, s dataset.Store) {
	ctx := t.Context()
	ok(t, s.CreateDataset(ctx, made("1", "a")))
	in := []dataset.Item{item(`{"n":1.0}`), item("null"), item(`{"猫":"\u0041"}`)}
	out, err := s.CreateItems(ctx, "1", in)
	ok(t, err)
	want := make([]dataset.Item, len(in))
	for i := range in {
		want[i] = in[i]
		want[i].Dataset, want[i].ID = "1", int64(i+1)
	}
	if d := cmp.Diff(want, out); d != "" {
		t.Error(d)
	}
	got, err := s.Items(ctx, "1", 1, 1)
	ok(t, err)
	if d := cmp.Diff(want[1:2], got); d != "" {
		t.Error(d)
	}
	gone, err := s.DeleteItem(ctx, "1", 3)
	ok(t, err)
	if d := cmp.Diff(want[2], gone); d != "" {
		t.Error(d)
	}
	_, err = s.Item(ctx, "1", 3)
	is(t, "a deleted item", err, plat.ErrNotFound)
	_, err = s.DeleteItem(ctx, "1", 3)
	is(t, "delete again", err, plat.ErrNotFound)
	out, err = s.CreateItems(ctx, "1", in[:1])
	if ok(t, err); out[0].ID != 4 {
		t.Errorf("id %d after 3 was deleted", out[0].ID)
	}
	d, err := s.Dataset(ctx, org, "1")
	if ok(t, err); d.Items != 3 {
		t.Errorf("the dataset counts %d items, want 3", d.Items)
	}
}

func parallel(t *testing.T, s dataset.Store) {
	ctx := context.WithoutCancel(t.Context())
	ok(t, s.CreateDataset(ctx, made("1", "a")))
	const calls, size = 10, 40
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() {
			in := make([]dataset.Item, size)
			for i := range in {
				in[i] = item(fmt.Sprintf(`{"i":%d}`, i))
			}
			if _, err := s.CreateItems(ctx, "1", in); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	all, err := s.Items(ctx, "1", 0, calls*size+1)
	ok(t, err)
	for i, it := range all {
		if it.ID != int64(i+1) {
			t.Fatalf("item %d has the id %d", i, it.ID)
		}
	}
	if len(all) != calls*size {
		t.Errorf("%d items", len(all))
	}
}

func update(t *testing.T, s dataset.Store) {
	ctx := t.Context()
	ok(t, s.CreateDataset(ctx, made("1", "a")))
	old, err := s.CreateItems(ctx, "1", []dataset.Item{item(`{"n":1}`), item(`{"n":2}`)})
	ok(t, err)
	later := at.Add(time.Hour)
	change := func(id int64, attributes string) dataset.Item {
		return dataset.Item{ID: id, Attributes: []byte(attributes), UpdatedAt: later}
	}
	_, err = s.UpdateItems(ctx, "1", []dataset.Item{change(1, `{"n":7}`), change(9, `{}`)})
	is(t, "an unknown item", err, plat.ErrNotFound)
	got, err := s.Item(ctx, "1", 1)
	ok(t, err)
	if d := cmp.Diff(old[0], got); d != "" {
		t.Errorf("a failed update changed: %s", d)
	}
	out, err := s.UpdateItems(ctx, "1", []dataset.Item{change(2, `{"n":8}`), change(1, "null")})
	ok(t, err)
	old[0].Attributes, old[1].Attributes = []byte("null"), []byte(`{"n":8}`)
	old[0].UpdatedAt, old[1].UpdatedAt = later, later
	if d := cmp.Diff([]dataset.Item{old[1], old[0]}, out); d != "" {
		t.Error(d)
	}
}

func anySource(t *testing.T, s dataset.Store) {
	ctx, d := t.Context(), made("1", "a")
	ok(t, s.CreateDataset(ctx, d))
	var items []dataset.Item
	for i := range 1200 { // more than a page
		it := item("null")
		it.SourceData = []byte(fmt.Sprintf(`[{"data_uri":"datalake://22_%%/%d"}]`, i))
		items = append(items, it)
	}
	items[0].SourceData = []byte(`[{"data_uri":"datalake://22x5/0"}]`) // no hit of 22_%
	_, err := s.CreateItems(ctx, d.ID, items)
	ok(t, err)
	for last, want := range map[string]bool{"/1199": true, "/0\"": false, "/1200": false} {
		asked := 0
		got, err := s.AnySource(ctx, d.ID, "22_%", func(source json.RawMessage) bool {
			asked++
			return strings.Contains(string(source), last)
		})
		ok(t, err)
		if got != want || asked != 1199 {
			t.Errorf("%s: %v after %d items", last, got, asked)
		}
	}
	if got, err := s.AnySource(ctx, "nope", "22", func(json.RawMessage) bool { return true }); got || err != nil {
		t.Errorf("unknown dataset: %v, %v", got, err)
	}
}
