// SPDX-License-Identifier: Apache-2.0

package service_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"panal/internal/dataplane"
	"panal/internal/deploy"
	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/fakerunner"
)

// deaf is a runner whose news arrive nowhere.
type deaf struct{ *fakerunner.Runner }

func (deaf) Watch(ctx context.Context) <-chan plat.WorkloadID {
	ch := make(chan plat.WorkloadID)
	context.AfterFunc(ctx, func() { close(ch) })
	return ch
}

// mute publishes nothing.
type mute struct{}

func (mute) Publish(context.Context, plat.DeploymentID) error { return nil }

// newDeafWorld is a world in which nobody is told of anything: no change of the records
// and nothing that the runner sees. Only the walk finds it.
func newDeafWorld(t *testing.T) *world {
	w := newWorld(t, fakerunner.Config{Script: running})
	w.deaf = true
	w.open()
	w.start()
	return w
}

// TestEveryEventDropped: whatever is missed, the walk repairs: the life of a service
// takes place without a single event.
func TestEveryEventDropped(t *testing.T) {
	w := newDeafWorld(t)
	ctx := t.Context()
	lookup := func(to dataplane.Target) plat.ServiceID {
		to.Org, to.Deployment = w.org, w.dep.ID
		r, err := w.routes.Lookup(to)
		if err != nil {
			return ""
		}
		return r.Service()
	}
	// Created, started, READY and routed.
	a, b := w.create(2), w.create(1)
	for _, s := range []deploy.Service{a, b} {
		w.becomes(s.ID, deploy.Ready)
		w.eventually("its route", func() bool { return lookup(dataplane.Target{Service: s.ID}) == s.ID })
	}
	w.eventually("instances in rotation", func() bool { return len(w.routes.instances(w.dep.ID, a.ID)) == 2 })
	// An alias is made, and switched.
	_, err := w.man.CreateEndpoint(ctx, w.org, w.user, w.dep.ID, "", a.ID, deploy.Limits{})
	w.ok(err)
	w.eventually("the alias", func() bool { return lookup(dataplane.Target{}) == a.ID })
	_, err = w.man.SwitchEndpoint(ctx, w.org, w.user, w.dep.ID, "default", b.ID, deploy.Limits{})
	w.ok(err)
	w.eventually("the switch", func() bool { return lookup(dataplane.Target{}) == b.ID })
	// An instance that dies is replaced, one that is sick leaves.
	dead := w.routes.instances(w.dep.ID, a.ID)[0]
	w.run.Exit(dead, 1, "boom")
	w.eventually("a new instance", func() bool {
		ids := w.routes.instances(w.dep.ID, a.ID)
		return len(ids) == 2 && ids[0] != dead && ids[1] != dead
	})
	sick := w.routes.instances(w.dep.ID, b.ID)[0]
	w.run.SetPhase(sick, runner.PhaseRunning, false)
	w.eventually("the sick one out of rotation", func() bool {
		ids := w.routes.instances(w.dep.ID, b.ID)
		return len(ids) == 0 || ids[0] != sick
	})
	// A record of an instance that was never started (the answer to its insert was
	// lost) goes, and so does a workload without a record.
	w.ok(w.store.CreateInstance(ctx, deploy.Instance{Workload: "wl-lost", Org: w.org, Deployment: w.dep.ID, Service: a.ID, Generation: 1, State: deploy.InstanceUp}))
	spec := w.run.Started()[0]
	spec.ID, spec.LogStream = "wl-0000000000000000", "service/"+string(a.ID)
	w.ok(w.run.Start(ctx, spec))
	w.eventually("the stray workload's end", func() bool {
		_, err := w.run.Get(ctx, spec.ID)
		return errors.Is(err, plat.ErrNotFound)
	})
	w.eventually("the stray record's end", func() bool {
		for _, i := range w.instances(a.ID) {
			if i.Workload == "wl-lost" {
				return false
			}
		}
		return true
	})
	// Stopped, then deleted: nothing is left of it, and no route.
	w.ok(w.man.StopService(ctx, w.org, w.dep.ID, a.ID))
	w.eventually("the end of its instances", func() bool { return len(w.instances(a.ID)) == 0 })
	_, err = w.man.DeleteEndpoint(ctx, w.org, w.user, w.dep.ID, "default")
	w.ok(err)
	for _, s := range []deploy.Service{a, b} { // b with its instance
		w.ok(w.man.DeleteService(ctx, w.org, w.dep.ID, s.ID))
		w.eventually("the end of its route", func() bool { return lookup(dataplane.Target{Service: s.ID}) == "" })
	}
	w.eventually("the end of everything", func() bool {
		list, err := w.run.List(ctx)
		w.ok(err)
		return len(list) == 0 && len(w.instances("")) == 0
	})
	_, err = w.routes.Lookup(dataplane.Target{Org: w.org, Deployment: w.dep.ID, Service: a.ID})
	if !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("lookup in a deployment that is gone = %v", err)
	}
}

// TestWalkInPages: with more services than a page has the walk comes by all of them.
func TestWalkInPages(t *testing.T) {
	w := newDeafWorld(t)
	for n := range 6 { // several deployments, more services than one page
		if n > 0 {
			var err error
			w.dep, err = w.man.CreateDeployment(t.Context(), w.org, w.user, deploy.NewDeployment{Name: fmt.Sprintf("leaf-%d", n)})
			w.ok(err)
			w.ver.Deployment = w.dep.ID
			w.ver.ID = plat.VersionID(plat.NewHexID("ver"))
			w.ok(w.store.CreateVersion(t.Context(), w.ver))
		}
		for k := range 40 {
			s := deploy.Service{
				ID: plat.ServiceID(plat.NewHexID("ser")), Org: w.org, Deployment: w.dep.ID, Version: w.ver.ID, VersionLabel: w.ver.Label,
				Status: deploy.Stopped, InstanceType: deploy.DefaultInstanceType, Number: 1, Min: 1, Max: 1, Desired: 1, Generation: 1,
			}
			if k == 0 {
				s.Status = deploy.InProgress
			}
			w.ok(w.store.CreateService(t.Context(), s))
		}
	}
	w.eventually("all that should run", func() bool {
		counts, err := w.store.ServiceCounts(t.Context())
		w.ok(err)
		return counts[deploy.Ready] == 6
	})
}
