// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"panal/internal/dataplane"
	"panal/internal/plat"
)

func TestLookup(t *testing.T) {
	table := dataplane.NewTable()
	d := routes(svA, serviceOf(svA), serviceOf(svB))
	d.Aliases["blue"] = svB
	d.Aliases["dangling"] = "ser-ffffffffffffffff"
	d.Aliases[string(svA)] = svB // an alias that looks like a service's id
	apply(t, table, 1, d)
	for _, c := range []struct {
		name string
		to   dataplane.Target
		want plat.ServiceID
		err  error
	}{
		{"default alias", dataplane.Target{Org: org, Deployment: dep}, svA, nil},
		{"named alias", dataplane.Target{Org: org, Deployment: dep, Alias: "blue"}, svB, nil},
		{"service", dataplane.Target{Org: org, Deployment: dep, Service: svB}, svB, nil},
		{"service is not an alias", dataplane.Target{Org: org, Deployment: dep, Service: svA}, svA, nil},
		{"alias like a service id", dataplane.Target{Org: org, Deployment: dep, Alias: string(svA)}, svB, nil},
		{"unknown deployment", dataplane.Target{Org: org, Deployment: "1"}, "", plat.ErrNotFound},
		{"unknown service", dataplane.Target{Org: org, Deployment: dep, Service: "ser-0"}, "", plat.ErrNotFound},
		{"unknown alias", dataplane.Target{Org: org, Deployment: dep, Alias: "green"}, "", plat.ErrNotFound},
		{"alias of a service that is gone", dataplane.Target{Org: org, Deployment: dep, Alias: "dangling"}, "", plat.ErrNotFound},
		{"other organization", dataplane.Target{Org: "1480000000018", Deployment: dep}, "", plat.ErrForbidden},
		{"no organization", dataplane.Target{Deployment: dep}, "", plat.ErrForbidden},
	} {
		t.Run(c.name, func(t *testing.T) {
			rt, err := table.Lookup(c.to)
			if !errors.Is(err, c.err) {
				t.Fatalf("err = %v, want %v", err, c.err)
			}
			if err == nil && rt.Service() != c.want {
				t.Fatalf("service = %s, want %s", rt.Service(), c.want)
			}
		})
	}
}

func TestVersions(t *testing.T) {
	table := dataplane.NewTable()
	to := dataplane.Target{Org: org, Deployment: dep}
	leads := func(want plat.ServiceID) {
		t.Helper()
		rt, err := table.Lookup(to)
		if want == "" {
			if !errors.Is(err, plat.ErrNotFound) {
				t.Fatalf("err = %v, want not found", err)
			}
			return
		}
		if err != nil || rt.Service() != want {
			t.Fatalf("leads to %v, %v; want %s", rt, err, want)
		}
	}
	both := []dataplane.Service{serviceOf(svA), serviceOf(svB)}
	apply(t, table, 5, routes(svA, both...))
	if table.Apply(dataplane.Delta{Version: 4, Deployment: routes(svB, both...)}) {
		t.Error("an older delta was taken")
	}
	leads(svA)
	// A resync read before the delta must not undo it, neither by content nor by absence.
	table.Replace(dataplane.Snapshot{Version: 4, Deployments: []dataplane.Deployment{routes(svB, both...)}})
	leads(svA)
	table.Replace(dataplane.Snapshot{Version: 4})
	leads(svA)
	table.Replace(dataplane.Snapshot{Version: 6, Deployments: []dataplane.Deployment{routes(svB, both...)}})
	leads(svB)
	if !table.Apply(dataplane.Delta{Version: 8, Deployment: dataplane.Deployment{ID: dep}, Deleted: true}) {
		t.Error("a deletion was refused")
	}
	leads("")
	if table.Apply(dataplane.Delta{Version: 7, Deployment: routes(svA, both...)}) {
		t.Error("a late delta brought a deployment back")
	}
	table.Replace(dataplane.Snapshot{Version: 7, Deployments: []dataplane.Deployment{routes(svA, both...)}})
	leads("")
	apply(t, table, 9, routes(svA, both...))
	leads(svA)
	table.Replace(dataplane.Snapshot{Version: 10})
	leads("")
	if v := table.Version(); v != 10 {
		t.Errorf("version = %d, want 10", v)
	}
}

// TestResyncSeesEachChange: a resync leaves what it repeats alone, but nothing else.
func TestResyncSeesEachChange(t *testing.T) {
	first, _ := upstream(t, 1, say("first"))
	second, _ := upstream(t, 1, say("second"))
	moved := first
	moved.Address = second.Address
	a := func(in ...dataplane.Instance) dataplane.Service { return serviceOf(svA, in...) }
	b := func(in ...dataplane.Instance) dataplane.Service { return serviceOf(svB, in...) }
	base := routes(svA, a(first), b(second))
	for name, c := range map[string]struct {
		d    dataplane.Deployment
		want string
	}{
		"nothing":   {base, "first"},
		"alias":     {routes(svB, a(first), b(second)), "second"},
		"instances": {routes(svA, a(second), b(first)), "second"},
		"address":   {routes(svA, a(moved), b(second)), "second"},
	} {
		t.Run(name, func(t *testing.T) {
			table, gw := gateway(t, dataplane.Options{})
			table.Replace(dataplane.Snapshot{Version: 1, Deployments: []dataplane.Deployment{base}})
			if _, body := call(t, gw.Client(), "POST", gw.URL, "x"); body != "first" {
				t.Fatalf("before: %s", body)
			}
			table.Replace(dataplane.Snapshot{Version: 2, Deployments: []dataplane.Deployment{c.d}})
			if _, body := call(t, gw.Client(), "POST", gw.URL, "x"); body != c.want {
				t.Errorf("after: %s, want %s", body, c.want)
			}
			if table.Apply(dataplane.Delta{Version: 1, Deployment: base}) {
				t.Error("a delta older than the resync was taken")
			}
		})
	}
}

func TestDrainedOfIdle(t *testing.T) {
	table := dataplane.NewTable()
	in := dataplane.Instance{ID: workload(), Network: "unix", Address: "/nowhere"}
	apply(t, table, 1, routes(svA, serviceOf(svA, in)))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := table.Drained(ctx, in.ID); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Drained while in the table = %v, want the deadline", err)
	}
	apply(t, table, 2, routes(svA, serviceOf(svA)))
	if err := table.Drained(t.Context(), in.ID); err != nil {
		t.Errorf("Drained = %v", err)
	}
	// The same id may come back (a flapping probe) and leave again.
	apply(t, table, 3, routes(svA, serviceOf(svA, in)))
	apply(t, table, 4, dataplane.Deployment{ID: dep, Org: org})
	if err := table.Drained(t.Context(), in.ID); err != nil {
		t.Errorf("Drained after the service left = %v", err)
	}
}

func TestLookupAllocatesNothing(t *testing.T) {
	table := dataplane.NewTable()
	table.Replace(many(1000))
	hit := dataplane.Target{Org: org, Deployment: plat.DeploymentID(fmt.Sprintf("17%011d", 500))}
	miss := dataplane.Target{Org: org, Deployment: "0"}
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := table.Lookup(hit); err != nil {
			t.Fatal(err)
		}
		if _, err := table.Lookup(miss); err == nil {
			t.Fatal("found what is not there")
		}
	}); n != 0 {
		t.Errorf("a lookup allocates %v times", n)
	}
}

// many returns n deployments with one service of one instance each.
func many(n int) dataplane.Snapshot {
	s := dataplane.Snapshot{Version: 1, Deployments: make([]dataplane.Deployment, n)}
	for i := range n {
		id := plat.ServiceID(fmt.Sprintf("ser-%016x", i))
		s.Deployments[i] = dataplane.Deployment{
			ID: plat.DeploymentID(fmt.Sprintf("17%011d", i)), Org: org,
			Aliases: map[string]plat.ServiceID{"default": id},
			Services: []dataplane.Service{{ID: id, Instances: []dataplane.Instance{
				{ID: plat.WorkloadID(fmt.Sprintf("wl-%016x", i)), Network: "unix", Address: fmt.Sprintf("/run/panal/%016x.sock", i), Limit: 1},
			}}},
		}
	}
	return s
}
