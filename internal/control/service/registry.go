// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	Called() []plat.ServiceID
	Knocks() <-chan struct{}
	Knocked() []plat.ServiceID
}

// registry holds the records that routes are made of, as they were last read, and what
// the runner says of the instances, and pushes both into the table. A change costs what
// its deployment has, whatever else there is. An instance's news are routed from memory,
// so a database that is down holds no death up.
type registry struct {
	routes Routes
	store  deploy.RouteStore

	// reading makes "read the records, then route them" one step: whoever reads
	// later routes later. It is taken before mu.
	reading sync.Mutex

	mu       sync.Mutex // never held while waiting for anything
	open     bool       // the table was filled: from now on it gets each change
	version  uint64
	round    uint64 // of the walk
	deps     map[plat.DeploymentID]*records
	services map[plat.ServiceID]*known
	live     map[plat.WorkloadID]*liveInstance
	asked    uint64                    // questions to the runner so far
	above    map[plat.ServiceID]*known // those that have more instances than quiet leaves them
	asleep   int
}

// records is a deployment as it was last read.
type records struct {
	id       plat.DeploymentID
	org      plat.OrgID
	services []*known
	aliases  []deploy.Alias
	round    uint64 // when it was last read
}

// known is a service that is on record or has instances left.
type known struct {
	deploy.Brief
	dep       plat.DeploymentID
	onRecord  bool
	found     bool // while records are compared
	instances []*liveInstance
}

// liveInstance is an instance that is on record. There may be very many.
type liveInstance struct {
	id       plat.WorkloadID
	of       *known
	addr     runner.Addr
	asked    uint64 // the question whose answer this is
	up       bool   // it is meant to be
	wasReady bool
	answers  bool // it runs and is healthy
	suspect  bool // runner.Status.Suspect
	exited   bool
}

func (l *liveInstance) routable() bool { return l.up && l.answers }

func newRegistry(routes Routes, store deploy.RouteStore) *registry {
	return &registry{
		routes: routes, store: store, deps: map[plat.DeploymentID]*records{}, services: map[plat.ServiceID]*known{},
		live: map[plat.WorkloadID]*liveInstance{}, above: map[plat.ServiceID]*known{},
	}
}

// publish reads a deployment's records and routes them. It returns the services that
// are not as they were known.
func (r *registry) publish(ctx context.Context, dep plat.DeploymentID) ([]plat.ServiceID, error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	d, err := r.store.Routed(ctx, dep)
	if err != nil {
		return nil, fmt.Errorf("read routes of %s: %w", dep, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.put(d), nil
}

// read reads a page of records and routes what is not as it was known.
func (r *registry) read(ctx context.Context, after plat.DeploymentID, services int) ([]deploy.Routed, plat.DeploymentID, error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	page, last, err := r.store.RoutedPage(ctx, after, services)
	if err != nil {
		return nil, "", fmt.Errorf("read routes: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range page {
		r.put(d)
	}
	return page, last, nil
}

// fill makes the table what is known. Before it nothing is routed.
func (r *registry) fill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.version++
	snap := dataplane.Snapshot{Version: r.version, Deployments: make([]dataplane.Deployment, 0, len(r.deps))}
	for _, recs := range r.deps {
		snap.Deployments = append(snap.Deployments, recs.build())
	}
	r.routes.Replace(snap)
	r.open = true
}

// begin begins a round of the walk. It returns what the last one has not come by: the
// deployments that may be gone, and the services of which only instances are left.
func (r *registry) begin() (deps []plat.DeploymentID, services []plat.ServiceID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, recs := range r.deps {
		if recs.round < r.round {
			deps = append(deps, id)
		}
	}
	for id, k := range r.services {
		if !k.onRecord {
			services = append(services, id)
		}
	}
	r.round++
	return deps, services
}

// put takes up what was read of a deployment, and routes it if it differs from what was
// known. It returns the services that differ. The caller holds reading and mu.
func (r *registry) put(d deploy.Routed) []plat.ServiceID {
	old := r.deps[d.ID]
	if old == nil {
		if len(d.Services) == 0 {
			return nil
		}
		old = &records{id: d.ID}
	}
	old.round = r.round
	var differ []plat.ServiceID
	services := make([]*known, len(d.Services))
	for i, b := range d.Services {
		k := r.know(b.ID, old.id)
		if !k.onRecord || k.Brief != b {
			differ = append(differ, b.ID)
			r.record(k, b, true)
		}
		k.found = true
		services[i] = k
	}
	for _, k := range old.services {
		if !k.found {
			differ = append(differ, k.ID)
			r.record(k, deploy.Brief{ID: k.ID}, false)
		}
	}
	for _, k := range services {
		k.found = false
	}
	same := old.org == d.Org && len(differ) == 0 && slices.EqualFunc(old.aliases, d.Aliases, func(a, b deploy.Alias) bool {
		return a.Name == b.Name && a.Service == b.Service && a.RateLimit == b.RateLimit && a.CallLimit == b.CallLimit && slices.Equal(a.Split, b.Split)
	})
	if same {
		return nil
	}
	r.deps[d.ID] = &records{id: old.id, org: d.Org, services: services, aliases: d.Aliases, round: r.round}
	if len(services) == 0 {
		delete(r.deps, d.ID)
	}
	r.apply(old.id)
	return differ
}

// know returns what is known of a service. The caller holds mu.
func (r *registry) know(id plat.ServiceID, dep plat.DeploymentID) *known {
	k := r.services[id]
	if k == nil {
		k = &known{Brief: deploy.Brief{ID: id}, dep: dep}
		r.services[id] = k
	}
	return k
}

// record makes b what is known of a service. The caller holds mu.
func (r *registry) record(k *known, b deploy.Brief, onRecord bool) {
	if k.onRecord && k.Asleep() {
		r.asleep--
	}
	b.ID = k.ID // one text
	k.Brief, k.onRecord = b, onRecord
	if onRecord && b.Asleep() {
		r.asleep++
	}
	if onRecord && k.scaled() && b.Goal() > b.Min {
		r.above[k.ID] = k
	} else {
		delete(r.above, k.ID)
	}
	r.drop(k)
}

// drop forgets a service of which nothing is left. The caller holds mu.
func (r *registry) drop(k *known) {
	if !k.onRecord && len(k.instances) == 0 {
		delete(r.services, k.ID)
	}
}

// scaled tells whether the number of instances follows the load.
func (k *known) scaled() bool {
	return k.onRecord && k.Autoscale && k.Status != deploy.Stopped && k.Status != deploy.Failed
}

// service returns what is known of the service's record.
func (k *known) service() deploy.Service {
	s := k.Service()
	s.Deployment = k.dep
	return s
}

// apply routes a deployment as it is in memory. The caller holds mu.
func (r *registry) apply(dep plat.DeploymentID) {
	if !r.open {
		return
	}
	r.version++
	delta := dataplane.Delta{Version: r.version}
	if recs := r.deps[dep]; recs != nil {
		delta.Deployment = recs.build()
	} else {
		delta.Deleted, delta.ID = true, dep
	}
	r.routes.Apply(delta)
}

// build makes a deployment's routes. Every service is in them: one without
// instances holds its requests, or refuses them when nothing will ever come.
func (recs *records) build() dataplane.Deployment {
	d := dataplane.Deployment{
		ID: recs.id, Org: recs.org, Aliases: make(map[string]plat.ServiceID, len(recs.aliases)), Services: make([]dataplane.Service, 0, len(recs.services)),
	}
	for _, a := range recs.aliases {
		d.Aliases[a.Name] = a.Service
		if a.RateLimit > 0 || a.CallLimit > 0 {
			if d.Limits == nil {
				d.Limits = map[string]dataplane.Limit{}
			}
			d.Limits[a.Name] = dataplane.Limit{Rate: a.RateLimit, Calls: a.CallLimit}
		}
		for _, p := range a.Split {
			if d.Splits == nil {
				d.Splits = map[string][]dataplane.Part{}
			}
			d.Splits[a.Name] = append(d.Splits[a.Name], dataplane.Part(p))
		}
	}
	for _, k := range recs.services {
		out := dataplane.Service{ID: k.ID, Command: k.Command, Limit: dataplane.Limit{Rate: k.RateLimit, Calls: k.CallLimit}, FirstByte: k.Patience, Idle: k.Patience}
		if k.RecordChannel != "" {
			out.Record = &dataplane.Record{Channel: k.RecordChannel, Percent: k.RecordPercent, Version: k.VersionLabel, Outputs: k.RecordOutputs}
		}
		switch k.Status {
		case deploy.Stopped:
			out.Refuse = fmt.Sprintf("service %s is %s", k.ID, k.Status)
		case deploy.Failed: // of an older generation something may answer
			out.Refuse = fmt.Sprintf("service %s is %s; its status_message says why", k.ID, k.Status)
			out.Instances = k.ready()
		case deploy.InProgress, deploy.Ready:
			out.Instances = k.ready()
		}
		d.Services = append(d.Services, out)
	}
	return d
}

// ready returns the instances that requests may go to.
func (k *known) ready() []dataplane.Instance {
	var all []dataplane.Instance
	for _, l := range k.instances {
		if l.routable() {
			all = append(all, dataplane.Instance{ID: l.id, Network: l.addr.Network, Address: l.addr.Address, Key: l.addr.Key, Limit: l.addr.Limit, New: !l.wasReady, Suspect: l.suspect})
		}
	}
	return all
}

// settled tells that a service and its instances are as they are meant to be, and that
// rows, what is on record of the instances, is what is known of them: there is no
// step to take. It may miss that, never the other way round.
func (r *registry) settled(k *known, rows []deploy.Instance) bool {
	goal := 0
	switch k.Status {
	case deploy.Ready:
		goal = k.Goal()
		if k.Messages || k.Autoscale && k.Desired != min(max(k.Desired, k.Min), k.Max) {
			return false
		}
	case deploy.Stopped, deploy.Failed:
	case deploy.InProgress:
		return false
	}
	if !k.onRecord || len(rows) != goal || len(k.instances) != goal {
		return false
	}
	for i := range rows {
		l := r.live[rows[i].Workload]
		if l == nil || l.of != k || !l.routable() || rows[i].State != deploy.InstanceUp || rows[i].ReadyAt.IsZero() || rows[i].Generation != k.Generation {
			return false
		}
	}
	return true
}

// unsettled returns the services of a page that somebody has to look after.
func (r *registry) unsettled(page []deploy.Routed) []plat.ServiceID {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []plat.ServiceID
	look := func(id plat.ServiceID, rows []deploy.Instance) {
		if k := r.services[id]; k == nil && len(rows) > 0 || k != nil && !r.settled(k, rows) {
			ids = append(ids, id)
		}
	}
	for i := range page {
		looked := map[plat.ServiceID]bool{}
		for rows := page[i].Instances; len(rows) > 0; {
			n := 1
			for n < len(rows) && rows[n].Service == rows[0].Service {
				n++
			}
			looked[rows[0].Service] = true
			look(rows[0].Service, rows[:n])
			rows = rows[n:]
		}
		for j := range page[i].Services {
			if id := page[i].Services[j].ID; !looked[id] {
				look(id, nil)
			}
		}
	}
	return ids
}

// add takes up an instance that was recorded, or its new state.
func (r *registry) add(i deploy.Instance) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.live[i.Workload]
	if l == nil {
		l = &liveInstance{id: i.Workload, of: r.know(i.Service, i.Deployment)}
		r.live[i.Workload] = l
		l.of.instances = append(l.of.instances, l)
	}
	was := l.routable()
	l.up, l.wasReady = i.State == deploy.InstanceUp, !i.ReadyAt.IsZero()
	if was != l.routable() {
		r.reroute(l.of)
	}
}

// reroute routes the deployment of a service after a change of its instances. The caller
// holds mu.
func (r *registry) reroute(k *known) {
	if k.onRecord {
		r.apply(k.dep)
	}
}

// note takes up what the runner says of an instance, and routes it at once. It
// returns the instance's service, or "" for a workload that is no instance. An answer
// that was overtaken by that to a later question changes nothing: it may be the older
// one, and nobody would ask again.
func (r *registry) note(st runner.Status, asked uint64) plat.ServiceID {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.live[st.ID]
	if l == nil {
		return ""
	}
	if asked < l.asked {
		return l.of.ID
	}
	l.asked = asked
	was, addr, suspect := l.routable(), l.addr, l.suspect
	l.answers, l.suspect, l.exited = st.Phase == runner.PhaseRunning && st.Healthy, st.Suspect, st.Phase == runner.PhaseExited
	if l.addr != st.Addr {
		l.addr = st.Addr
	}
	if was != l.routable() || was && (addr != st.Addr || suspect != st.Suspect) {
		r.reroute(l.of)
	}
	return l.of.ID
}

// remove forgets an instance.
func (r *registry) remove(id plat.WorkloadID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget(r.live[id])
}

// forget is remove for whoever holds mu.
func (r *registry) forget(l *liveInstance) {
	if l == nil {
		return
	}
	delete(r.live, l.id)
	l.of.instances = slices.DeleteFunc(l.of.instances, func(o *liveInstance) bool { return o == l })
	if l.routable() {
		r.reroute(l.of)
	}
	r.drop(l.of)
}

// keep forgets the instances of a service that are not on record.
func (r *registry) keep(id plat.ServiceID, rows []deploy.Instance) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.services[id]
	if k == nil {
		return
	}
	for _, l := range slices.Clone(k.instances) {
		if !slices.ContainsFunc(rows, func(i deploy.Instance) bool { return i.Workload == l.id }) {
			r.forget(l)
		}
	}
}

// knows tells whether a workload is an instance.
func (r *registry) knows(id plat.WorkloadID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.live[id] != nil
}

// takes tells whether an instance takes requests right now.
func (r *registry) takes(id plat.WorkloadID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.live[id]
	return l != nil && l.routable()
}

// missing tells that an instance took requests once and doesn't, though it is meant to.
func (r *registry) missing(id plat.WorkloadID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.live[id]
	return l != nil && l.wasReady && l.up && !l.answers && !l.exited
}

// watched is a service whose load is looked at.
type watched struct {
	deploy.Service
	taking
	above bool
}

// watched returns those of ids whose number of instances follows their load, and every
// service that has more instances than quiet leaves it.
func (r *registry) watched(ids []plat.ServiceID) map[plat.ServiceID]watched {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make(map[plat.ServiceID]watched, len(r.above)+len(ids))
	for id, k := range r.above {
		all[id] = watched{k.service(), k.taking(), true}
	}
	for _, id := range ids {
		if k := r.services[id]; k != nil && k.scaled() && r.above[id] == nil {
			all[id] = watched{k.service(), k.taking(), false}
		}
	}
	return all
}

// taking returns what takes the calls of the service. The caller holds mu.
func (k *known) taking() (t taking) {
	for _, l := range k.instances {
		if l.routable() {
			t.ready, t.limit = t.ready+1, max(t.limit, l.addr.Limit)
		}
	}
	return t
}

// taking returns what takes the calls of a service.
func (r *registry) taking(id plat.ServiceID) taking {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := r.services[id]; k != nil {
		return k.taking()
	}
	return taking{}
}

// sleeping counts the services without instances.
func (r *registry) sleeping() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return float64(r.asleep)
}

// sleeps tells whether a service has no instances because nobody called it.
func (r *registry) sleeps(id plat.ServiceID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.services[id]
	return k != nil && k.onRecord && k.Asleep()
}

// refresh asks the runner for the status of an instance and routes it.
func (r *registry) refresh(ctx context.Context, run runner.Runner, id plat.WorkloadID) (runner.Status, plat.ServiceID, error) {
	r.mu.Lock()
	r.asked++
	asked := r.asked
	r.mu.Unlock()
	st, err := run.Get(ctx, id)
	switch {
	case errors.Is(err, plat.ErrNotFound):
		st = runner.Status{ID: id, Phase: runner.PhaseExited}
		return st, r.note(st, asked), err
	case err != nil:
		return st, "", err
	}
	return st, r.note(st, asked), nil
}
