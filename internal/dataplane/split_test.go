// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"panal/internal/dataplane"
	"panal/internal/plat"
)

func splitRoutes(parts []dataplane.Part, services ...dataplane.Service) dataplane.Deployment {
	d := routes(parts[0].Service, services...)
	d.Splits = map[string][]dataplane.Part{"default": parts}
	return d
}

// TestSplitShares: of each whole number of rounds every ready part gets exactly its
// weight, what is not ready gets nothing, and within a round no part runs ahead of
// its share by more than one call per part.
func TestSplitShares(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		table := dataplane.NewTable()
		n := rapid.IntRange(2, 10).Draw(rt, "parts")
		var parts []dataplane.Part
		var services []dataplane.Service
		weight, sum := map[plat.ServiceID]int{}, 0
		left := 100
		for i := range n {
			w := left - (n - 1 - i)
			if i < n-1 {
				w = rapid.IntRange(1, w).Draw(rt, "weight")
			}
			left -= w
			id := plat.ServiceID(fmt.Sprintf("ser-%016x", i))
			parts = append(parts, dataplane.Part{Service: id, Weight: w})
			s := serviceOf(id)
			if rapid.IntRange(0, 3).Draw(rt, "ready") > 0 {
				s.Instances = []dataplane.Instance{{ID: plat.WorkloadID(id), Network: "unix", Address: "/nowhere"}}
				weight[id], sum = w, sum+w
			}
			services = append(services, s)
		}
		if sum == 0 { // none is ready: calls are held by their shares
			for _, p := range parts {
				weight[p.Service] = p.Weight
			}
			sum = 100
		}
		apply(t, table, 1, splitRoutes(parts, services...))
		got := map[plat.ServiceID]int{}
		rounds := rapid.IntRange(1, 5).Draw(rt, "rounds")
		for k := 1; k <= rounds*sum; k++ {
			to := dataplane.Target{Org: org, Deployment: dep}
			route, err := table.Enter(&to)
			if err != nil {
				rt.Fatal(err)
			}
			again, err := table.Lookup(to)
			if err != nil || again != route {
				rt.Fatalf("a second look of one call leads elsewhere: %v, %v", again, err)
			}
			got[route.Service()]++
			for id, w := range weight {
				if d := got[id]*sum - k*w; d > n*sum || d < -n*sum {
					rt.Fatalf("after %d calls %s has %d of weight %d/%d", k, id, got[id], w, sum)
				}
			}
		}
		for id := range weight {
			weight[id] *= rounds
		}
		if !maps.Equal(got, weight) {
			rt.Fatalf("got %v, want %v", got, weight)
		}
	})
}

// TestSplitWakes: of each round of calls a part that sleeps misses exactly its weight,
// and is knocked at; one that is ready or refuses calls misses none. When no part is
// ready nothing is missed: calls wait where they were meant for.
func TestSplitWakes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		table := dataplane.NewTable()
		n := rapid.IntRange(2, 10).Draw(rt, "parts")
		var parts []dataplane.Part
		var services []dataplane.Service
		asleep, ready := map[plat.ServiceID]int{}, map[plat.ServiceID]bool{}
		left := 100
		for i := range n {
			w := left - (n - 1 - i)
			if i < n-1 {
				w = rapid.IntRange(1, w).Draw(rt, "weight")
			}
			left -= w
			s := serviceOf(plat.ServiceID(fmt.Sprintf("ser-%016x", i)))
			switch rapid.SampledFrom([]string{"ready", "asleep", "refuses"}).Draw(rt, "state") {
			case "ready":
				s.Instances = []dataplane.Instance{{ID: plat.WorkloadID(s.ID), Network: "unix", Address: "/nowhere"}}
				ready[s.ID] = true
			case "asleep":
				asleep[s.ID] = w
			case "refuses":
				s.Refuse = "the service is STOPPED"
			}
			parts, services = append(parts, dataplane.Part{Service: s.ID, Weight: w}), append(services, s)
		}
		apply(t, table, 1, splitRoutes(parts, services...))
		rounds := rapid.IntRange(1, 4).Draw(rt, "rounds")
		for range 100 * rounds {
			to := dataplane.Target{Org: org, Deployment: dep}
			route, err := table.Enter(&to)
			if err != nil {
				rt.Fatal(err)
			}
			if len(ready) > 0 && !ready[route.Service()] {
				rt.Fatalf("a call goes to %s, which is not ready", route.Service())
			}
		}
		knocked := table.Knocked()
		for _, p := range parts {
			want := uint64(0)
			if len(ready) > 0 {
				want = uint64(asleep[p.Service] * rounds)
			}
			if l, _ := table.Load(dep, p.Service); l.Missed != want {
				rt.Errorf("%s with weight %d missed %d calls in %d rounds, want %d", p.Service, p.Weight, l.Missed, rounds, want)
			}
			if slices.Contains(knocked, p.Service) != (want > 0) {
				rt.Errorf("%s missed %d calls; knocked at are %v", p.Service, want, knocked)
			}
		}
	})
}

// TestSplitMissedIsOver: what a part missed is forgotten once it has an instance, so that
// it does not wake the service again when that sleeps.
func TestSplitMissedIsOver(t *testing.T) {
	table := dataplane.NewTable()
	here := func(id plat.ServiceID) dataplane.Service {
		return serviceOf(id, dataplane.Instance{ID: plat.WorkloadID(id), Network: "unix", Address: "/nowhere"})
	}
	parts := []dataplane.Part{{Service: svA, Weight: 50}, {Service: svB, Weight: 50}}
	missed := func() uint64 {
		l, _ := table.Load(dep, svB)
		return l.Missed
	}
	enter := func() {
		for range 100 {
			to := dataplane.Target{Org: org, Deployment: dep}
			if _, err := table.Enter(&to); err != nil {
				t.Fatal(err)
			}
		}
	}
	apply(t, table, 1, splitRoutes(parts, here(svA), serviceOf(svB)))
	enter()
	if n := missed(); n != 50 || !slices.Contains(table.Called(), svB) {
		t.Errorf("missed %d calls, want 50, and the service among those to look at", n)
	}
	apply(t, table, 2, splitRoutes(parts, here(svA), here(svB)))
	enter()
	apply(t, table, 3, splitRoutes(parts, here(svA), serviceOf(svB)))
	if n := missed(); n != 0 {
		t.Errorf("asleep again it has missed %d calls", n)
	}
}

// TestSplitSharesOfCallers: shares are exact whoever calls, and choosing allocates nothing.
func TestSplitSharesOfCallers(t *testing.T) {
	table := dataplane.NewTable()
	here := func(id plat.ServiceID) dataplane.Service {
		return serviceOf(id, dataplane.Instance{ID: plat.WorkloadID(id), Network: "unix", Address: "/nowhere"})
	}
	d := splitRoutes([]dataplane.Part{{Service: svA, Weight: 93}, {Service: svB, Weight: 7}}, here(svA), here(svB))
	apply(t, table, 1, d)
	var b atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				to := dataplane.Target{Org: org, Deployment: dep}
				route, err := table.Enter(&to)
				if err != nil {
					t.Error(err)
					return
				}
				if route.Service() == svB {
					b.Add(1)
				}
			}
		})
	}
	for v := uint64(2); v < 50; v++ { // new routes don't begin a new round
		apply(t, table, v, d)
	}
	wg.Wait()
	if b.Load() != 8000*7/100 {
		t.Errorf("B got %d of 8000 calls, want %d", b.Load(), 8000*7/100)
	}
	if n := testing.AllocsPerRun(1000, func() {
		to := dataplane.Target{Org: org, Deployment: dep}
		if _, err := table.Enter(&to); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("choosing a part allocates %v times", n)
	}
}

// TestSplitChangesUnderLoad: 200 changes of a split, with instances that come and
// go and a service that is left out and taken in, and no call fails.
func TestSplitChangesUnderLoad(t *testing.T) {
	table, gw := gateway(t, dataplane.Options{})
	a, _ := upstream(t, 8, say("a"))
	b, _ := upstream(t, 8, say("b"))
	apply(t, table, 1, splitRoutes([]dataplane.Part{{Service: svA, Weight: 50}, {Service: svB, Weight: 50}}, serviceOf(svA, a), serviceOf(svB, b)))
	var served [2]atomic.Int64
	var calls atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				res, err := gw.Client().Post(gw.URL, "text/plain", strings.NewReader("x"))
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				i := slices.Index([]string{"a", "b"}, string(body))
				if err != nil || res.StatusCode != http.StatusOK || i < 0 {
					t.Errorf("call failed: %d %q %v", res.StatusCode, body, err)
					return
				}
				served[i].Add(1)
				calls.Add(1)
			}
		})
	}
	for k := range 200 {
		sa, sb := serviceOf(svA, a), serviceOf(svB, b)
		w := k%99 + 1
		d := splitRoutes([]dataplane.Part{{Service: svA, Weight: w}, {Service: svB, Weight: 100 - w}}, sa, sb)
		switch k % 4 {
		case 1: // an instance is lost, its service's share goes to the other
			d.Services[k/4%2].Instances = nil
		case 2: // a plain switch
			d.Splits = nil
		}
		before := calls.Load()
		apply(t, table, uint64(k+2), d)
		eventually(t, "calls after the change", func() bool { return calls.Load() > before+2 || t.Failed() })
	}
	close(stop)
	wg.Wait()
	if served[0].Load() == 0 || served[1].Load() == 0 {
		t.Errorf("served by a %d, by b %d", served[0].Load(), served[1].Load())
	}
}

// TestSplitHeldCalls: calls that wait for a part without instances go to the one
// that gets ready first, and those of a part that is refused never wait for it.
func TestSplitHeldCalls(t *testing.T) {
	reg := newGauges(t)
	table, gw := gateway(t, dataplane.Options{Metrics: reg})
	b, _ := upstream(t, 8, say("b"))
	parts := []dataplane.Part{{Service: svA, Weight: 90}, {Service: svB, Weight: 10}}
	apply(t, table, 1, splitRoutes(parts, serviceOf(svA), serviceOf(svB)))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if status, body := call(t, gw.Client(), "POST", gw.URL, "x"); status != 200 || body != "b" {
				t.Errorf("%d %s", status, body)
			}
		})
	}
	eventually(t, "calls are held", func() bool { return reg.get("panal_gateway_held") == 20 })
	apply(t, table, 2, splitRoutes(parts, serviceOf(svA), serviceOf(svB, b)))
	wg.Wait()
	if n := reg.get("panal_gateway_split_parts_idle"); n != 1 {
		t.Errorf("idle parts = %v, want 1", n)
	}
	stopped := serviceOf(svA)
	stopped.Refuse = "the service is STOPPED"
	apply(t, table, 3, splitRoutes(parts, stopped, serviceOf(svB, b)))
	for range 100 {
		if status, body := call(t, gw.Client(), "POST", gw.URL, "x"); status != 200 || body != "b" {
			t.Fatalf("%d %s", status, body)
		}
	}
}
