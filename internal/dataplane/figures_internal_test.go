// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestQuantiles: what is told is never below the true quantile and at most a
// quarter above, within the range that is counted.
func TestQuantiles(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		all := rapid.SliceOfN(rapid.Int64Range(64, 200_000_000), 1, 300).Draw(rt, "microseconds")
		at := time.Unix(1_700_000_000, 0)
		r := new(recent)
		for _, us := range all {
			r.add(at, time.Duration(us)*time.Microsecond, false)
		}
		slices.Sort(all)
		f := r.read(at)
		for _, q := range []struct {
			percent int
			got     time.Duration
		}{{50, f.P50}, {99, f.P99}} {
			want := time.Duration(all[(len(all)*q.percent+99)/100-1]) * time.Microsecond
			if q.got < want || q.got > want*5/4+time.Microsecond {
				rt.Fatalf("p%d = %s, want %s to a quarter more", q.percent, q.got, want)
			}
		}
		if f.Calls != len(all) {
			rt.Fatalf("calls = %d, want %d", f.Calls, len(all))
		}
	})
}

// TestFiguresForget: what is older than the window is not told any more, and a
// slot that comes round again starts from nothing.
func TestFiguresForget(t *testing.T) {
	start := time.Unix(1_700_000_000, 0) // the beginning of a slot
	r := new(recent)
	r.add(start, time.Millisecond, true)
	r.add(start, -1, false) // a tunnel: it counts, and says nothing of speed
	for _, c := range []struct {
		after  time.Duration
		calls  int
		window time.Duration
	}{{0, 2, 25 * time.Second}, {4 * time.Second, 2, 29 * time.Second}, {29 * time.Second, 2, 29 * time.Second}, {30 * time.Second, 0, 25 * time.Second}, {time.Hour, 0, 25 * time.Second}} {
		f := r.read(start.Add(c.after))
		if f.Calls != c.calls || f.Errors != c.calls/2 || f.Window != c.window {
			t.Errorf("after %s: %+v", c.after, f)
		}
	}
	r.add(start.Add(FigureWindow), time.Millisecond, false)
	if f := r.read(start.Add(FigureWindow)); f.Calls != 1 || f.Errors != 0 || f.P99 == 0 {
		t.Errorf("one round later: %+v", f)
	}
	// Extremes stay in range.
	for _, d := range []time.Duration{0, time.Nanosecond, 63 * time.Microsecond, time.Hour, 1<<63 - 1} {
		if s := durationStep(d); s < 0 || s >= durationCount {
			t.Errorf("step of %s = %d", d, s)
		}
	}
}
