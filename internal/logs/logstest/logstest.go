// SPDX-License-Identifier: Apache-2.0

// Package logstest is the suite of logs.Store: what a store promises, and what the
// service makes of it, checked on every engine.
package logstest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/logs"
	"panal/internal/plat"
)

// Harness makes stores.
type Harness struct {
	// New makes an empty store's place and returns how to open it: again after its
	// close, or (Shared) several times at once.
	New func(t *testing.T) Opener
	// Shared tells that several processes may use one store at once.
	Shared bool
}

// Opener opens a store; close ends its use.
type Opener func() (s logs.Store, closeStore func() error, err error)

// Run checks the contract.
func Run(t *testing.T, h Harness) {
	for _, c := range []struct {
		name  string
		check func(*testing.T, Harness)
	}{
		{"Append/gives_ascending_positions", appendPositions},
		{"Append/nothing_to_commit_or_an_error_changes_nothing", appendNothing},
		{"Append/acknowledged_numbers_survive_reopening_and_expiry", appendRemembers},
		{"Append/positions_grow_though_the_clock_goes_back", appendClock},
		{"Append/one_at_a_time", appendConcurrent},
		{"Replace/a_missing_record_is_ErrConflict_and_changes_nothing", replaceConflict},
		{"Expire/drops_whole_days_only", expireDays},
		{"Load/a_dropped_record_is_ErrNotFound", loadDropped},
		{"DeletePacked/streams_of_a_prefix", deletePacked},
		{"Service/two_processes_ingest_and_a_follower_misses_nothing", twoProcesses},
		{"Service/concurrent_duplicates_are_stored_once", concurrentDuplicates},
		{"Service/follower_during_ingest_and_repack", followDuringRepack},
		{"Service/ceiling", ceiling},
		{"Service/model", model},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t, h) })
	}
}

func day0() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func open(t *testing.T, o Opener) logs.Store {
	t.Helper()
	s, done, err := o()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := done(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// hot is a record of n lines with data that tells what it is.
func hot(n int, stream, data string) logs.Record {
	return logs.Record{MinTime: 10, MaxTime: 20, Count: n, Streams: []string{stream}, Data: []byte(data)}
}

func put(t *testing.T, s logs.Store, now time.Time, r logs.Record, last map[string]int64) logs.Record {
	t.Helper()
	names := []string{}
	for w := range last {
		names = append(names, w)
	}
	var f *logs.Flush
	err := s.Append(t.Context(), now, names, func(map[string]int64) (*logs.Flush, error) {
		f = &logs.Flush{Record: r, Last: last}
		return f, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return f.Record
}

func lastOf(t *testing.T, s logs.Store, now time.Time, workload string) int64 {
	t.Helper()
	n := int64(0)
	err := s.Append(t.Context(), now, []string{workload}, func(last map[string]int64) (*logs.Flush, error) {
		n = last[workload]
		return nil, nil //nolint:nilnil // nothing to commit
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func scanOf(stream string) logs.Scan {
	return logs.Scan{Stream: stream, After: -1, Before: logs.MaxPos, From: 0, To: 100, Limit: 100}
}

func find(t *testing.T, s logs.Store, q logs.Scan) []logs.Record {
	t.Helper()
	found, err := s.Find(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func firsts(list []logs.Record) []logs.Pos {
	var out []logs.Pos
	for _, r := range list {
		out = append(out, r.First)
	}
	return out
}

func appendPositions(t *testing.T, h Harness) {
	s := open(t, h.New(t))
	a := put(t, s, day0(), hot(3, "o/a", "A"), nil)
	b := put(t, s, day0(), hot(2, "o/b", "B"), nil)
	c := put(t, s, day0().Add(24*time.Hour), hot(1, "o/a", "C"), nil)
	if a.Last != a.First+2 || b.First != a.Last+1 || b.Last != b.First+1 {
		t.Errorf("positions %v-%v then %v-%v", a.First, a.Last, b.First, b.Last)
	}
	if a.First.Day() != logs.DayOf(day0()) || c.First.Day() != a.First.Day()+1 || c.First <= b.Last {
		t.Errorf("days %d, %d", a.First.Day(), c.First.Day())
	}
	q := scanOf("o/a")
	if diff := cmp.Diff([]logs.Pos{a.First, c.First}, firsts(find(t, s, q))); diff != "" {
		t.Error("ascending", diff)
	}
	q.Descending = true
	if diff := cmp.Diff([]logs.Pos{c.First, a.First}, firsts(find(t, s, q))); diff != "" {
		t.Error("descending", diff)
	}
	q.Limit = 1
	if diff := cmp.Diff([]logs.Pos{c.First}, firsts(find(t, s, q))); diff != "" {
		t.Error("limit", diff)
	}
	for _, x := range []struct {
		what string
		q    logs.Scan
		want []logs.Pos
	}{
		{"after the first line", logs.Scan{Stream: "o/a", After: a.First, Before: logs.MaxPos, To: 100, Limit: 9}, []logs.Pos{a.First, c.First}},
		{"after the last line", logs.Scan{Stream: "o/a", After: a.Last, Before: logs.MaxPos, To: 100, Limit: 9}, []logs.Pos{c.First}},
		{"before the second record", logs.Scan{Stream: "o/a", After: -1, Before: c.First, To: 100, Limit: 9}, []logs.Pos{a.First}},
		{"time from: last instant", logs.Scan{Stream: "o/a", After: -1, Before: logs.MaxPos, From: 20, To: 100, Limit: 9}, []logs.Pos{a.First, c.First}},
		{"time from: too late", logs.Scan{Stream: "o/a", After: -1, Before: logs.MaxPos, From: 21, To: 100, Limit: 9}, nil},
		{"time to: first instant", logs.Scan{Stream: "o/a", After: -1, Before: logs.MaxPos, To: 11, Limit: 9}, []logs.Pos{a.First, c.First}},
		{"time to: exclusive", logs.Scan{Stream: "o/a", After: -1, Before: logs.MaxPos, To: 10, Limit: 9}, nil},
		{"part of a stream's name", logs.Scan{Stream: "o/", After: -1, Before: logs.MaxPos, To: 100, Limit: 9}, nil},
	} {
		if diff := cmp.Diff(x.want, firsts(find(t, s, x.q))); diff != "" {
			t.Error(x.what, diff)
		}
	}
	if data, err := s.Load(t.Context(), find(t, s, scanOf("o/b"))[0]); err != nil || string(data) != "B" {
		t.Errorf("Load = %q, %v", data, err)
	}
}

func appendNothing(t *testing.T, h Harness) {
	s := open(t, h.New(t))
	boom := errors.New("boom")
	err := s.Append(t.Context(), day0(), []string{"w"}, func(map[string]int64) (*logs.Flush, error) {
		return &logs.Flush{Record: hot(1, "o/a", "X"), Last: map[string]int64{"w": 1}}, boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("Append = %v, want build's error", err)
	}
	if n := lastOf(t, s, day0(), "w"); n != 0 {
		t.Errorf("last = %d after an error", n)
	}
	if found := find(t, s, scanOf("o/a")); len(found) != 0 {
		t.Errorf("found %v", found)
	}
}

func appendRemembers(t *testing.T, h Harness) {
	o := h.New(t)
	s, done, err := o()
	if err != nil {
		t.Fatal(err)
	}
	now := day0()
	put(t, s, now, hot(5, "o/a", "A"), map[string]int64{"w": 5, "v": 9})
	now = now.Add(24 * time.Hour)
	put(t, s, now, hot(1, "o/a", "B"), map[string]int64{"v": 10})
	if err := done(); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	if w, v := lastOf(t, s, now, "w"), lastOf(t, s, now, "v"); w != 5 || v != 10 {
		t.Errorf("after reopening: w %d, v %d", w, v)
	}
	now = now.Add(60 * 24 * time.Hour)
	if n, err := s.Expire(t.Context(), now.Add(-24*time.Hour)); err != nil || n != 2 {
		t.Fatalf("Expire = %d, %v, want 2 days", n, err)
	}
	if w, v := lastOf(t, s, now, "w"), lastOf(t, s, now, "v"); w != 5 || v != 10 {
		t.Errorf("after expiry: w %d, v %d", w, v)
	}
	r := put(t, s, now.Add(-59*24*time.Hour), hot(1, "o/a", "C"), nil)
	if r.First.Day() < logs.DayOf(now)-1 {
		t.Errorf("positions went back to day %d after everything expired", r.First.Day())
	}
}

func appendClock(t *testing.T, h Harness) {
	o := h.New(t)
	s, done, err := o()
	if err != nil {
		t.Fatal(err)
	}
	a := put(t, s, day0(), hot(1, "o/a", "A"), nil)
	b := put(t, s, day0().Add(-48*time.Hour), hot(1, "o/a", "B"), nil)
	if err := done(); err != nil {
		t.Fatal(err)
	}
	c := put(t, open(t, o), day0().Add(-72*time.Hour), hot(1, "o/a", "C"), nil)
	if b.First != a.Last+1 || c.First != b.Last+1 {
		t.Errorf("positions %d, %d, %d", a.First, b.First, c.First)
	}
}

func appendConcurrent(t *testing.T, h Harness) {
	o := h.New(t)
	stores := []logs.Store{open(t, o)}
	if h.Shared {
		stores = append(stores, open(t, o))
	}
	const each, n = 4, 12
	var wg sync.WaitGroup
	for i := range each * len(stores) {
		wg.Go(func() {
			for range n {
				err := stores[i%len(stores)].Append(t.Context(), day0(), []string{"w"}, func(last map[string]int64) (*logs.Flush, error) {
					return &logs.Flush{Record: hot(2, "o/a", "x"), Last: map[string]int64{"w": last["w"] + 1}}, nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := lastOf(t, stores[0], day0(), "w"); got != int64(each*n*len(stores)) {
		t.Errorf("last = %d after %d increments: appends overlapped", got, each*n*len(stores))
	}
	q := scanOf("o/a")
	q.Limit = 1000
	next := logs.DayStart(logs.DayOf(day0()))
	for _, r := range find(t, stores[0], q) {
		if r.First != next || r.Last != next+1 {
			t.Fatalf("record at %d-%d, want %d", r.First, r.Last, next)
		}
		next += 2
	}
}

func replaceConflict(t *testing.T, h Harness) {
	s := open(t, h.New(t))
	a := put(t, s, day0(), hot(2, "o/a", "A"), nil)
	b := put(t, s, day0(), hot(2, "o/a", "B"), nil)
	packed := logs.Record{First: a.First, Last: b.Last, MinTime: 10, MaxTime: 20, Count: 4, Stream: "o/a", Data: []byte("AB")}
	gone := a
	gone.First, gone.Last = b.Last+10, b.Last+11
	if err := s.Replace(t.Context(), []logs.Record{a, gone}, []logs.Record{packed}); !errors.Is(err, plat.ErrConflict) {
		t.Errorf("Replace of a missing record = %v, want ErrConflict", err)
	}
	if got := find(t, s, scanOf("o/a")); len(got) != 2 || !got[0].Hot() {
		t.Errorf("after a conflict: %v", got)
	}
	if err := s.Replace(t.Context(), []logs.Record{a, b}, []logs.Record{packed}); err != nil {
		t.Fatal(err)
	}
	got := find(t, s, scanOf("o/a"))
	packed.Data = nil
	if diff := cmp.Diff([]logs.Record{packed}, got); diff != "" {
		t.Error(diff)
	}
	if tail, err := s.Tail(t.Context(), "o/a", b.Last+1); err != nil || tail.First != a.First {
		t.Errorf("Tail = %v, %v", tail, err)
	}
	if _, err := s.Tail(t.Context(), "o/a", a.First); !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("Tail before the first = %v, want ErrNotFound", err)
	}
	if hot, err := s.Hot(t.Context(), 1<<20); err != nil || len(hot) != 0 {
		t.Errorf("Hot = %v, %v", hot, err)
	}
}

func deletePacked(t *testing.T, h Harness) {
	s := open(t, h.New(t))
	for d, stream := range []string{"o/a", "o/b", "o2/a", "o"} { // each on a day of its own
		r := put(t, s, day0().Add(time.Duration(d)*24*time.Hour), hot(2, stream, "12345"), nil)
		packed := logs.Record{First: r.First, Last: r.Last, MinTime: 10, MaxTime: 20, Count: 2, Stream: stream, Data: []byte("12345")}
		if err := s.Replace(t.Context(), []logs.Record{r}, []logs.Record{packed}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int64{2, 0} {
		if n, err := s.PackedBytes(t.Context(), "o/"); err != nil || n != 5*want {
			t.Errorf("PackedBytes = %d, %v, want %d", n, err, 5*want)
		}
		if n, err := s.DeletePacked(t.Context(), "o/"); err != nil || n != want {
			t.Errorf("DeletePacked = %d, %v, want %d", n, err, want)
		}
	}
	for stream, want := range map[string]int{"o/a": 0, "o/b": 0, "o2/a": 1, "o": 1} {
		if got := find(t, s, scanOf(stream)); len(got) != want {
			t.Errorf("%s has %d records, want %d", stream, len(got), want)
		}
	}
}

func expireDays(t *testing.T, h Harness) {
	s := open(t, h.New(t))
	var all []logs.Record
	for d := range 4 {
		all = append(all, put(t, s, day0().Add(time.Duration(d)*24*time.Hour), hot(1, "o/a", fmt.Sprint(d)), nil))
	}
	midnight := day0().Truncate(24 * time.Hour)
	if n, err := s.Expire(t.Context(), midnight.Add(47*time.Hour+59*time.Minute)); err != nil || n != 1 {
		t.Errorf("Expire just before the second midnight = %d, %v, want 1", n, err)
	}
	if diff := cmp.Diff(firsts(all[1:]), firsts(find(t, s, scanOf("o/a")))); diff != "" {
		t.Error(diff)
	}
	before, err := s.Size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.Expire(t.Context(), midnight.Add(72*time.Hour)); err != nil || n != 2 {
		t.Errorf("Expire = %d, %v, want 2", n, err)
	}
	if after, err := s.Size(t.Context()); err != nil || after >= before {
		t.Errorf("size %d → %d, %v", before, after, err)
	}
	if diff := cmp.Diff(firsts(all[3:]), firsts(find(t, s, scanOf("o/a")))); diff != "" {
		t.Error(diff)
	}
	if n, err := s.Expire(t.Context(), midnight.Add(72*time.Hour)); err != nil || n != 0 {
		t.Errorf("Expire again = %d, %v", n, err)
	}
}

func loadDropped(t *testing.T, h Harness) {
	s := open(t, h.New(t))
	a := put(t, s, day0(), hot(1, "o/a", "A"), nil)
	put(t, s, day0().Add(48*time.Hour), hot(1, "o/a", "B"), nil)
	packed := logs.Record{First: a.First, Last: a.Last, Count: 1, MinTime: 10, MaxTime: 20, Stream: "o/a", Data: []byte("P")}
	if err := s.Replace(t.Context(), []logs.Record{a}, []logs.Record{packed}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(t.Context(), a); !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("Load(repacked) = %v, want ErrNotFound", err)
	}
	if _, err := s.Expire(t.Context(), day0().Add(36*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(t.Context(), packed); !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("Load(expired) = %v, want ErrNotFound", err)
	}
}

// serve starts a service over s and stops it when the test ends (or by stop).
func serve(t *testing.T, s logs.Store, cfg logs.Config) (svc *logs.Service, stop func()) {
	t.Helper()
	if cfg.Flush == 0 {
		cfg.Flush = time.Nanosecond
	}
	if cfg.Repack == 0 {
		cfg.Repack = time.Hour
	}
	svc, err := logs.New(s, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = svc.Run(ctx)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(stop)
	return svc, stop
}
