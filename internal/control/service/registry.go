// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"panal/internal/dataplane"
	"panal/internal/deploy"
	"panal/internal/plat"
	"panal/internal/runner"
)

// Routes is what the registry needs of *dataplane.Table.
type Routes interface {
	Apply(d dataplane.Delta) bool
	Replace(s dataplane.Snapshot)
	Drained(ctx context.Context, id plat.WorkloadID) error
	End(id plat.WorkloadID, why dataplane.Ending)
	Load(dep plat.DeploymentID, id plat.ServiceID) (dataplane.Load, bool)
	Knocks() <-chan struct{}
	Knocked() []plat.ServiceID
}

// registry holds the routes as they were last read and what the runner says of
// the instances, and pushes both into the table. An instance's news are routed
// from memory, so a database that is down holds no death up.
type registry struct {
	routes Routes
	store  deploy.Store

	// reading makes "read the records, then route them" one step: whoever reads
	// later routes later. It is taken before mu.
	reading sync.Mutex

	mu      sync.Mutex // never held while waiting for anything
	version uint64
	deps    map[plat.DeploymentID]*records
	live    map[plat.WorkloadID]*liveInstance
}

// records is a deployment as it was last read.
type records struct {
	org      plat.OrgID
	services []deploy.Service
	aliases  map[string]plat.ServiceID
	splits   map[string][]dataplane.Part // nil when no endpoint is split
}

type liveInstance struct {
	deploy.Instance
	status runner.Status
}

func (l *liveInstance) routable() bool {
	return l.State == deploy.InstanceUp && l.status.Phase == runner.PhaseRunning && l.status.Healthy
}

func newRegistry(routes Routes, store deploy.Store) *registry {
	return &registry{
		routes: routes, store: store,
		deps: map[plat.DeploymentID]*records{}, live: map[plat.WorkloadID]*liveInstance{},
	}
}

// publish reads a deployment's records and routes them.
func (r *registry) publish(ctx context.Context, dep plat.DeploymentID) error {
	r.reading.Lock()
	defer r.reading.Unlock()
	services, err := r.store.Services(ctx, dep)
	if err != nil {
		return fmt.Errorf("read services of %s: %w", dep, err)
	}
	endpoints, err := r.store.Endpoints(ctx, dep)
	if err != nil {
		return fmt.Errorf("read endpoints of %s: %w", dep, err)
	}
	recs := group(services, endpoints)[dep]
	r.mu.Lock()
	defer r.mu.Unlock()
	if recs == nil {
		delete(r.deps, dep)
	} else {
		r.deps[dep] = recs
	}
	r.apply(dep)
	return nil
}

// publishAll reads all records and makes them the whole truth.
func (r *registry) publishAll(ctx context.Context) error {
	r.reading.Lock()
	defer r.reading.Unlock()
	services, err := r.store.Services(ctx, "")
	if err != nil {
		return fmt.Errorf("read services: %w", err)
	}
	endpoints, err := r.store.Endpoints(ctx, "")
	if err != nil {
		return fmt.Errorf("read endpoints: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deps = group(services, endpoints)
	r.version++
	snap := dataplane.Snapshot{Version: r.version, Deployments: make([]dataplane.Deployment, 0, len(r.deps))}
	ready := r.ready()
	for dep, recs := range r.deps {
		snap.Deployments = append(snap.Deployments, build(dep, recs, ready))
	}
	r.routes.Replace(snap)
	return nil
}

func group(services []deploy.Service, endpoints []deploy.Endpoint) map[plat.DeploymentID]*records {
	deps := map[plat.DeploymentID]*records{}
	for _, s := range services {
		recs := deps[s.Deployment]
		if recs == nil {
			recs = &records{org: s.Org, aliases: map[string]plat.ServiceID{}}
			deps[s.Deployment] = recs
		}
		recs.services = append(recs.services, s)
	}
	for _, e := range endpoints {
		if recs := deps[e.Deployment]; recs != nil {
			recs.aliases[e.Alias] = e.Service
			if len(e.Split) > 0 {
				recs.split(e)
			}
		}
	}
	return deps
}

func (r *records) split(e deploy.Endpoint) {
	if r.splits == nil {
		r.splits = map[string][]dataplane.Part{}
	}
	for _, p := range e.Split {
		r.splits[e.Alias] = append(r.splits[e.Alias], dataplane.Part(p))
	}
}

func recordOf(s deploy.Service) *dataplane.Record {
	if s.RecordChannel == "" {
		return nil
	}
	return &dataplane.Record{Channel: s.RecordChannel, Percent: s.RecordPercent(), Version: s.VersionLabel, Outputs: s.RecordOutputs}
}

// ready returns the instances that requests may go to. The caller holds mu.
func (r *registry) ready() map[plat.ServiceID][]dataplane.Instance {
	by := map[plat.ServiceID][]dataplane.Instance{}
	for id, l := range r.live {
		if l.routable() {
			by[l.Service] = append(by[l.Service], route(id, l))
		}
	}
	return by
}

func route(id plat.WorkloadID, l *liveInstance) dataplane.Instance {
	a := l.status.Addr
	// One request at a time and worker is what the runtime contract promises
	// (compute.md §13.5); our agent says how many it has.
	return dataplane.Instance{ID: id, Network: a.Network, Address: a.Address, Key: a.Key, Limit: max(a.Limit, 1)}
}

// apply routes a deployment as it is in memory. The caller holds mu.
func (r *registry) apply(dep plat.DeploymentID) {
	r.version++
	recs := r.deps[dep]
	if recs == nil {
		r.routes.Apply(dataplane.Delta{Version: r.version, Deleted: true, Deployment: dataplane.Deployment{ID: dep}})
		return
	}
	ready := map[plat.ServiceID][]dataplane.Instance{}
	for id, l := range r.live {
		if l.Deployment == dep && l.routable() {
			ready[l.Service] = append(ready[l.Service], route(id, l))
		}
	}
	r.routes.Apply(dataplane.Delta{Version: r.version, Deployment: build(dep, recs, ready)})
}

// build makes a deployment's routes. Every service is in them: one without
// instances holds its requests, or refuses them when nothing will ever come.
func build(dep plat.DeploymentID, recs *records, ready map[plat.ServiceID][]dataplane.Instance) dataplane.Deployment {
	d := dataplane.Deployment{ID: dep, Org: recs.org, Aliases: recs.aliases, Splits: recs.splits, Services: make([]dataplane.Service, 0, len(recs.services))}
	for _, s := range recs.services {
		out := dataplane.Service{ID: s.ID, Command: s.Command, Record: recordOf(s), Limit: dataplane.Limit{Rate: s.RateLimit, Calls: s.CallLimit}}
		switch s.Status {
		case deploy.Stopped:
			out.Refuse = fmt.Sprintf("service %s is %s", s.ID, s.Status)
		case deploy.Failed: // of an older generation something may answer
			out.Refuse = fmt.Sprintf("service %s is %s; its status_message says why", s.ID, s.Status)
			out.Instances = ready[s.ID]
		case deploy.InProgress, deploy.Ready:
			out.Instances = ready[s.ID]
		}
		d.Services = append(d.Services, out)
	}
	return d
}

// add takes up an instance that was recorded, or its new state.
func (r *registry) add(i deploy.Instance) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.live[i.Workload]
	if l == nil {
		l = &liveInstance{}
		r.live[i.Workload] = l
	}
	was := l.routable()
	l.Instance = i
	if was != l.routable() {
		r.apply(i.Deployment)
	}
}

// note takes up what the runner says of an instance, and routes it at once. It
// returns the instance's service, or "" for a workload that is no instance.
func (r *registry) note(st runner.Status) plat.ServiceID {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.live[st.ID]
	if l == nil {
		return ""
	}
	was, addr := l.routable(), l.status.Addr
	l.status = st
	if was != l.routable() || was && addr != st.Addr {
		r.apply(l.Deployment)
	}
	return l.Service
}

// remove forgets an instance.
func (r *registry) remove(id plat.WorkloadID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.live[id]
	if l == nil {
		return
	}
	delete(r.live, id)
	if l.routable() {
		r.apply(l.Deployment)
	}
}

// of returns the services of a deployment that the registry knows of: those on
// record and those that only have instances left.
func (r *registry) of(dep plat.DeploymentID) []plat.ServiceID {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []plat.ServiceID
	if recs := r.deps[dep]; recs != nil {
		for _, s := range recs.services {
			ids = append(ids, s.ID)
		}
	}
	for _, l := range r.live {
		if l.Deployment == dep {
			ids = append(ids, l.Service)
		}
	}
	return ids
}

// scaled returns the services whose number of instances follows their load, and
// what takes the calls of each.
func (r *registry) scaled() ([]deploy.Service, map[plat.ServiceID]taking) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []deploy.Service
	for _, recs := range r.deps {
		for _, s := range recs.services {
			if s.Autoscale {
				all = append(all, s)
			}
		}
	}
	counts := map[plat.ServiceID]taking{}
	for _, l := range r.live {
		counts[l.Service] = l.count(counts[l.Service])
	}
	return all, counts
}

// count adds an instance.
func (l *liveInstance) count(t taking) taking {
	if l.routable() {
		t.ready, t.limit = t.ready+1, max(t.limit, l.status.Addr.Limit)
	}
	return t
}

// asleep counts the services without instances.
func (r *registry) asleep() float64 {
	n := 0
	all, _ := r.scaled()
	for _, s := range all {
		if s.Asleep() {
			n++
		}
	}
	return float64(n)
}

// service returns a service as it was last read.
func (r *registry) service(id plat.ServiceID) (deploy.Service, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, recs := range r.deps {
		for _, s := range recs.services {
			if s.ID == id {
				return s, true
			}
		}
	}
	return deploy.Service{}, false
}

// taking returns what takes the calls of a service.
func (r *registry) taking(id plat.ServiceID) (t taking) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.live {
		if l.Service == id {
			t = l.count(t)
		}
	}
	return t
}

// refresh asks the runner for the status of an instance and routes it.
func (r *registry) refresh(ctx context.Context, run runner.Runner, id plat.WorkloadID) (runner.Status, plat.ServiceID, error) {
	st, err := run.Get(ctx, id)
	switch {
	case errors.Is(err, plat.ErrNotFound):
		st = runner.Status{ID: id, Phase: runner.PhaseExited}
		return st, r.note(st), err
	case err != nil:
		return st, "", err
	}
	return st, r.note(st), nil
}
