// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"panal/internal/plat"
)

const (
	pickDeployment = plat.DeploymentID("1740000000088")
	pickService    = plat.ServiceID("ser-000000000000000a")
)

// serviceWith returns the service of a table that has these instances, which take four calls each.
func serviceWith(table *Table, version uint64, all ...Instance) *service {
	for i := range all {
		all[i].Network, all[i].Address, all[i].Limit = netUnix, "/nowhere/"+string(all[i].ID), 4
	}
	table.Apply(Delta{Version: version, Deployment: Deployment{ID: pickDeployment, Org: "o", Services: []Service{{ID: pickService, Instances: all}}}})
	return table.snap.Load().get(pickDeployment).service(pickService)
}

// TestPick: whatever the instances are like, one that can't take the call is never chosen, one
// that is suspect only when no other is well, and none only when none may be.
func TestPick(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Now()
		table := NewTable()
		table.slowStart = 10 * time.Second
		var all []Instance
		for i := range rapid.IntRange(0, 6).Draw(t, "instances") {
			all = append(all, Instance{ID: plat.WorkloadID(fmt.Sprint("wl-", i)), Suspect: rapid.Bool().Draw(t, "suspect")})
		}
		s := serviceWith(table, 1, all...)
		var avoid *instance
		for _, in := range s.instances {
			in.outstanding = rapid.Int32Range(0, 4).Draw(t, "outstanding")
			if rapid.Bool().Draw(t, "skipped") {
				in.skipUntil = table.clock(now) + time.Second
			}
			if rapid.Bool().Draw(t, "new") {
				in.warmFrom = table.tick(now) - rapid.Int32Range(-20, 150).Draw(t, "age")
			}
			if rapid.IntRange(0, 5).Draw(t, "avoid") == 0 {
				avoid = in
			}
		}
		got := s.pick(now, avoid)
		well, free, suspects := false, false, false
		for _, in := range s.instances {
			if in == avoid {
				continue
			}
			well = well || !in.suspect && !in.skipped(now)
			free = free || !in.suspect && in.free(now)
			suspects = suspects || in.suspect && in.free(now)
		}
		switch {
		case got == nil:
			if free || suspects && !well || avoid != nil && avoid.free(now) {
				t.Fatal("none was chosen, but one is free")
			}
		case !got.free(now):
			t.Fatalf("chose %+v, which takes no call", got)
		case got == avoid:
			if free || suspects && !well {
				t.Fatal("chose the one to avoid beside another")
			}
		case got.suspect && well:
			t.Fatal("chose a suspect beside one that is well")
		}
	})
}

// TestSuspectStaysItself: what an instance has goes on while it is suspect.
func TestSuspectStaysItself(t *testing.T) {
	table := NewTable()
	s := serviceWith(table, 1, Instance{ID: "wl-1"}, Instance{ID: "wl-2"})
	in := s.instances[0]
	s.take(in)
	if s = serviceWith(table, 2, Instance{ID: "wl-1", Suspect: true}, Instance{ID: "wl-2"}); s.instances[0] != in || !in.suspect || in.outstanding != 1 {
		t.Errorf("it became %+v", s.instances[0])
	}
	if s = serviceWith(table, 3, Instance{ID: "wl-1"}, Instance{ID: "wl-2"}); s.instances[0] != in || in.suspect {
		t.Errorf("it stayed suspect: %+v", s.instances[0])
	}
}

// TestSlowStart: an instance that was never ready before gets a tenth of its share at once, and
// all of it after the time; the first of a service, and one that comes back, all at once.
func TestSlowStart(t *testing.T) {
	table := NewTable()
	table.slowStart = 10 * time.Second
	s := serviceWith(table, 1, Instance{ID: "wl-1", New: true}, Instance{ID: "wl-2", New: true})
	for _, in := range s.instances {
		if in.warmFrom != 0 {
			t.Errorf("the first ones start slowly: %s", in.id)
		}
	}
	s = serviceWith(table, 2, Instance{ID: "wl-1"}, Instance{ID: "wl-2"}, Instance{ID: "wl-3", New: true}, Instance{ID: "wl-4"})
	now := time.Now()
	if s.instances[3].warmFrom != 0 {
		t.Error("one that was ready before starts slowly")
	}
	s.instances = s.instances[:3]
	part := func(now time.Time) float64 {
		const calls = 6000
		got := 0
		for range calls {
			if s.pick(now, nil) == s.instances[2] {
				got++
			}
		}
		return float64(got) / calls
	}
	for _, tt := range []struct {
		age        time.Duration
		least, all float64
	}{{0, .01, .09}, {5 * time.Second, .1, .25}, {9 * time.Second, .2, .33}, {time.Minute, .28, .39}} {
		if p := part(now.Add(tt.age)); p < tt.least || p > tt.all {
			t.Errorf("after %v it gets %.3f of the calls, want %v to %v", tt.age, p, tt.least, tt.all)
		}
	}
	for _, in := range s.instances[:2] {
		in.outstanding = in.limit
	}
	s.instances[2].warmFrom = table.tick(now)
	if s.pick(now, nil) != s.instances[2] {
		t.Error("a new one that is free gets no call though the others are full")
	}
}

// TestEjection: an instance that gives no answers is left out, for longer each time, as long
// as half of the others do; an answer ends that.
func TestEjection(t *testing.T) {
	table := NewTable()
	s := serviceWith(table, 1, Instance{ID: "wl-1"}, Instance{ID: "wl-2"}, Instance{ID: "wl-3"}, Instance{ID: "wl-4"})
	result := func(in *instance, o outcome) {
		s.take(in)
		s.release(in, o)
	}
	fail := func(in *instance) (out time.Duration) {
		for range ejectAfter {
			result(in, broke)
		}
		return in.skipUntil - table.clock(time.Now())
	}
	a, b, c, d := s.instances[0], s.instances[1], s.instances[2], s.instances[3]
	for range 2 * ejectAfter {
		result(a, broke)
		result(a, answered)
	}
	result(a, broke)
	result(a, broke)
	for range 9 {
		result(a, silent)
	}
	if a.skipUntil != 0 {
		t.Error("left out, though it answered every other call")
	}
	result(a, broke)
	if left := a.skipUntil - table.clock(time.Now()); left <= 0 || left > ejectTime {
		t.Errorf("left out for %v, want %v", left, ejectTime)
	}
	for range 20 { // those that were under way
		result(a, broke)
	}
	for want := 2 * ejectTime; want <= 64*time.Second; want *= 2 {
		a.skipUntil = 1 // it is over
		result(a, broke)
		if left := a.skipUntil - table.clock(time.Now()); left > min(want, ejectMax) || left < min(want, ejectMax)/2 {
			t.Errorf("left out for %v, want %v", left, min(want, ejectMax))
		}
	}
	if out := fail(b); out <= 0 {
		t.Errorf("the second of four is not left out: %v", out)
	}
	if fail(c) > 0 || fail(d) > 0 || c.skipUntil != 0 || d.skipUntil != 0 {
		t.Error("more than half are left out")
	}
	if n := table.ejections.Load(); n != 8 {
		t.Errorf("%d ejections counted, want 8", n)
	}
	a.skipUntil, b.skipUntil = 1, 1
	result(a, answered)
	if a.failures != 0 || a.ejections != 0 {
		t.Errorf("an answer changed nothing: %+v", a)
	}
	result(b, broke)
	if b.skipped(time.Now()) {
		t.Error("left out while only one other answers")
	}

	alone := serviceWith(NewTable(), 1, Instance{ID: "wl-1"})
	s = alone
	if fail(s.instances[0]); s.instances[0].skipUntil != 0 {
		t.Error("the only one is left out")
	}
}
