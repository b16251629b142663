// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"panal/internal/plat"
)

// TestMetersAreBounded: an organization that makes up tokens without end costs a
// bounded memory, gains nothing by it, and takes nothing from another.
func TestMetersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(Limits{Token: Limit{Rate: 1}})
		admitted := 0
		for i := range 10 * maxMeters {
			k, r := l.admit("noisy", fmt.Sprint("token", i), &quota{}, Limit{}, nil)
			if r == nil {
				admitted++
				l.done(k)
			}
		}
		if want := maxMeters + 2; admitted != want { // the shared meter has its burst
			t.Errorf("%d calls were admitted, want %d", admitted, want)
		}
		if n := len(l.tenants["noisy"].tokens.byName); n != maxMeters {
			t.Errorf("%d tokens are counted, want %d", n, maxMeters)
		}
		if _, r := l.admit("quiet", "token", &quota{}, Limit{}, nil); r != nil {
			t.Errorf("another organization: %s", r.text)
		}
		// Those that have gone quiet are forgotten, none that still owes.
		time.Sleep(time.Minute)
		for i := range 3 {
			if _, r := l.admit("noisy", "new", &quota{}, Limit{}, nil); (r != nil) != (i == 2) {
				t.Errorf("call %d of a new token: %v", i, r)
			}
		}
		if n := len(l.tenants["noisy"].tokens.byName); n != 1 {
			t.Errorf("%d tokens are counted after a minute, want 1", n)
		}
	})
}

// TestRateIsSaidInDigits: a limit of a million is not 1e+06.
func TestRateIsSaidInDigits(t *testing.T) {
	var m meter
	m.earned = time.Hour
	if r := m.refuses(&Limit{Rate: 1e6}, 0, 0); r == nil || !strings.Contains(r.text, "more than 1000000 calls a second") {
		t.Errorf("refused: %+v", r)
	}
}

// TestTenantsAreForgotten: only those with nothing under way.
func TestTenantsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(Limits{Org: Limit{Calls: 1}})
		if _, r := l.admit("busy", "", &quota{}, Limit{}, nil); r != nil {
			t.Fatal(r.text)
		}
		for i := range maxTenants + 1 {
			k, r := l.admit(plat.OrgID(fmt.Sprint(i)), "", &quota{}, Limit{}, nil)
			if r != nil {
				t.Fatal(r.text)
			}
			l.done(k)
			time.Sleep(time.Millisecond)
		}
		if n := len(l.tenants); n > 10 {
			t.Errorf("%d organizations are remembered", n)
		}
		if _, r := l.admit("busy", "", &quota{}, Limit{}, nil); r == nil || limited[r.limit] != "organization_concurrency" {
			t.Errorf("an organization with a call under way was forgotten: %v", r)
		}
	})
}

// TestRateIsKept: whatever the pattern, what is admitted is the burst and what was
// earned since; a refusal's wait is exactly enough.
func TestRateIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(Limits{Org: Limit{Rate: 10}})
		start, admitted := time.Now(), 0
		for i := range 2000 {
			k, r := l.admit("o", "", &quota{}, Limit{}, nil)
			if r == nil {
				admitted++
				l.done(k)
				continue
			}
			if i%3 == 0 {
				time.Sleep(r.wait - time.Nanosecond)
				if _, r := l.admit("o", "", &quota{}, Limit{}, nil); r == nil {
					t.Fatal("a call was admitted before its time")
				}
				time.Sleep(time.Nanosecond)
				k, r := l.admit("o", "", &quota{}, Limit{}, nil)
				if r != nil {
					t.Fatalf("a call that waited as told was refused: %s, %v more", r.text, r.wait)
				}
				l.done(k)
				admitted++
			}
		}
		if want := 20 + int(10*time.Since(start).Seconds()); admitted > want {
			t.Errorf("%d calls in %v, want at most %d", admitted, time.Since(start), want)
		}
	})
}

// TestHeldBytesAreShared: an organization that fills the queues leaves room.
func TestHeldBytesAreShared(t *testing.T) {
	var noisy, quiet tenant
	var total atomic.Int64
	for take(&total, noisy.memory(), 10, 1000) {
	}
	if total.Load() != 500 {
		t.Errorf("one organization holds %d of 1000 bytes, want half", total.Load())
	}
	for range 10 {
		if !take(&total, quiet.memory(), 10, 1000) {
			t.Fatalf("the other one can't hold %d bytes", quiet.held.Load()+10)
		}
	}
}

// TestAdmitAllocatesNothing: on the way of every call.
func TestAdmitAllocatesNothing(t *testing.T) {
	all := Limit{Rate: 1e6, Calls: 1000}
	l := newLimiter(Limits{Token: all, Org: all, Service: all})
	token, q := "5b2c"+fmt.Sprint(t.Name()), &quota{}
	if n := testing.AllocsPerRun(1000, func() {
		k, r := l.admit("1480000000017", token, q, all, nil)
		if r != nil {
			t.Fatal(r.text)
		}
		l.done(k)
	}); n > 0 {
		t.Errorf("%v allocations a call", n)
	}
}

// TestCountsComeBack: after any number of calls at once nothing is under way.
func TestCountsComeBack(t *testing.T) {
	l := newLimiter(Limits{Calls: 50, Token: Limit{Calls: 5}, Org: Limit{Calls: 20}, Service: Limit{Calls: 8}})
	var all sync.WaitGroup
	var services [5]quota
	for g := range 32 {
		all.Go(func() {
			for i := range 500 {
				k, r := l.admit(plat.OrgID(fmt.Sprint(g%3)), fmt.Sprint(i%7), &services[i%5], Limit{Calls: 1 + i%9}, nil)
				if r == nil {
					l.done(k)
				}
			}
		})
	}
	all.Wait()
	if n := l.calls.Load(); n != 0 {
		t.Errorf("%d calls under way", n)
	}
	for id, tn := range l.tenants {
		if tn.self.calls != 0 {
			t.Errorf("%d calls of %s under way", tn.self.calls, id)
		}
		for name, c := range tn.tokens.byName {
			if c.calls != 0 {
				t.Errorf("%d calls of %s under way", c.calls, name)
			}
		}
	}
	for i := range services {
		if n := services[i].calls; n != 0 {
			t.Errorf("%d calls of service %d under way", n, i)
		}
	}
}

func BenchmarkAdmit(b *testing.B) {
	all := Limit{Rate: 1e6, Calls: 1 << 30}
	l := newLimiter(Limits{Calls: 1 << 30, Token: all, Org: all, Service: all})
	q := &quota{}
	b.ReportAllocs()
	for b.Loop() {
		if k, r := l.admit("1480000000017", "token", q, all, nil); r == nil {
			l.done(k)
		}
	}
}
