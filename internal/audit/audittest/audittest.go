// SPDX-License-Identifier: Apache-2.0

// Package audittest holds every audit.Store to its contract.
package audittest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/audit"
	"panal/internal/plat"
)

// Run runs the suite. open returns an empty store.
func Run(t *testing.T, open func(t *testing.T) audit.Store) {
	for _, c := range []struct {
		name  string
		check func(*testing.T, audit.Store)
	}{
		{"Append/round_trip", roundTrip},
		{"Append/a_repeat_changes_nothing", repeat},
		{"Append/many_at_once", parallel},
		{"List/filters", filters},
		{"List/pages_neither_repeat_nor_hide", pages},
		{"Trim/drops_old_rows_of_every_organization", trim},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t, open(t)) })
	}
}

func start() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// row is the n-th row of an organization, n seconds after start.
func row(org plat.OrgID, n int) audit.Row {
	return audit.Row{
		Org: org, Time: start().Add(time.Duration(n) * time.Second), ID: fmt.Sprintf("r%03d", n), Actor: "user", ActorID: "1122334455667",
		Operation: "upload-file", Method: "POST", Path: "/channels/2290000000456/upload", Targets: map[string]string{"channel_id": "2290000000456"},
		Status: 200, Source: "192.0.2.7",
	}
}

func add(t *testing.T, s audit.Store, rows ...audit.Row) {
	t.Helper()
	if err := s.Append(t.Context(), rows); err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, s audit.Store, q audit.Query) []audit.Row {
	t.Helper()
	if q.Limit == 0 {
		q.Limit = 1000
	}
	rows, more, err := s.List(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) > q.Limit || more && len(rows) < q.Limit {
		t.Fatalf("%d rows with limit %d, more %v", len(rows), q.Limit, more)
	}
	return rows
}

func same(t *testing.T, what string, got []audit.Row, want ...audit.Row) {
	t.Helper()
	if diff := cmp.Diff(append([]audit.Row{}, want...), got); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}

func roundTrip(t *testing.T, s audit.Store) {
	full := row("o", 1)
	full.Missed, full.Status, full.Path = 7, 403, "/channels/日本/x"
	bare := audit.Row{Org: "o", Time: start(), ID: "x"}
	other := row("other", 3)
	add(t, s, full, bare, other)
	same(t, "o", list(t, s, audit.Query{Org: "o"}), full, bare)
	same(t, "other", list(t, s, audit.Query{Org: "other"}), other)
	same(t, "nobody", list(t, s, audit.Query{Org: "nobody"}))
	add(t, s)
}

func repeat(t *testing.T, s audit.Store) {
	a, b := row("o", 1), row("o", 2)
	add(t, s, a)
	changed := a
	changed.Status = 500
	add(t, s, changed, b)
	same(t, "after a repeat", list(t, s, audit.Query{Org: "o"}), b, a)
}

func parallel(t *testing.T, s audit.Store) {
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 10 {
				r := row("o", i)
				r.ID = fmt.Sprintf("%d-%d", w, i)
				if err := s.Append(t.Context(), []audit.Row{r}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(list(t, s, audit.Query{Org: "o"})); n != 40 {
		t.Errorf("%d rows, want 40", n)
	}
}

func filters(t *testing.T, s audit.Store) {
	a, b, c := row("o", 1), row("o", 2), row("o", 3)
	b.ActorID, c.Operation = "7766554433221", "delete-file"
	add(t, s, a, b, c)
	for _, f := range []struct {
		what string
		q    audit.Query
		want []audit.Row
	}{
		{"actor", audit.Query{Actor: b.ActorID}, []audit.Row{b}},
		{"operation", audit.Query{Operation: "delete-file"}, []audit.Row{c}},
		{"both", audit.Query{Operation: "delete-file", Actor: b.ActorID}, nil},
		{"from, inclusive", audit.Query{From: b.Time}, []audit.Row{c, b}},
		{"to, exclusive", audit.Query{To: b.Time}, []audit.Row{a}},
		{"between", audit.Query{From: a.Time, To: c.Time}, []audit.Row{b, a}},
	} {
		f.q.Org = "o"
		same(t, f.what, list(t, s, f.q), f.want...)
	}
}

func pages(t *testing.T, s audit.Store) {
	var want []audit.Row
	for i := range 7 {
		r := row("o", i/2) // two at a time
		r.ID = fmt.Sprintf("r%d", i)
		add(t, s, r)
		want = append([]audit.Row{r}, want...)
	}
	var got []audit.Row
	q := audit.Query{Org: "o", Limit: 3}
	for page := 0; ; page++ {
		rows, more, err := s.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, rows...)
		if !more {
			break
		}
		q.AfterTime, q.AfterID = rows[len(rows)-1].Time, rows[len(rows)-1].ID
		add(t, s, row("o", 100+page)) // newer than the page: not in this listing
	}
	same(t, "pages", got, want...)
}

func trim(t *testing.T, s audit.Store) {
	for _, org := range []plat.OrgID{"a", "b"} {
		for i := range 4 {
			add(t, s, row(org, i))
		}
	}
	limit, total := start().Add(2*time.Second), int64(0)
	for range 5 {
		n, err := s.Trim(t.Context(), limit, 3)
		if err != nil || n > 3 {
			t.Fatalf("Trim = %d, %v", n, err)
		}
		total += n
	}
	if total != 4 {
		t.Errorf("%d rows dropped, want 4", total)
	}
	for _, org := range []plat.OrgID{"a", "b"} {
		same(t, string(org), list(t, s, audit.Query{Org: org}), row(org, 3), row(org, 2))
	}
}
