// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"cmp"
	"context"
	"hash/maphash"
	"maps"
	"math/bits"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"panal/internal/plat"
)

// DefaultAlias is the alias of calls that name neither service nor alias.
const DefaultAlias = "default"

// Instance is a ready instance of a service.
type Instance struct {
	ID      plat.WorkloadID
	Network string // "unix" or "tcp"
	Address string // path or host:port
	// Key is sent as X-Panal-Instance-Key when it is not empty.
	Key string
	// Limit is how many calls it takes at a time: the number of its workers. 0 means
	// that it did not say: it gets one at a time, each on a connection of its own,
	// and has 30 s (compute.md §8.1, §13.5).
	Limit int
	// New tells that it was never ready before: beside others it starts slowly.
	New bool
	// Suspect tells that its health check fails while it has calls: it may work on them,
	// or hang. It gets no further ones while another instance is well.
	Suspect bool
}

// Service is what the gateway must know of a service.
type Service struct {
	ID plat.ServiceID
	// Instances are the ready ones. None is a valid state: calls are held.
	Instances []Instance
	// Refuse is why nothing will come to answer ("the service is STOPPED"): while
	// it is not empty and there are no instances, calls are refused at once with
	// 503 instead of held.
	Refuse string
	// Command is true for versions that name a command: they get the remaining
	// path of the URL. Handlers always get "/".
	Command bool
	// Record, when not nil, has inputs and perhaps outputs recorded.
	Record *Record
	// Limit is the service's own, beside the one for all services (Limits.Service). It
	// holds for calls that come in from now on.
	Limit Limit
	// FirstByte and Idle override the proxy's deadlines when positive.
	FirstByte, Idle time.Duration
}

// Deployment is one deployment's routes, complete.
type Deployment struct {
	ID  plat.DeploymentID
	Org plat.OrgID
	// Aliases maps custom alias → service. An alias to a service that is not in
	// Services is unknown to callers.
	Aliases map[string]plat.ServiceID
	// Splits share the calls of an alias among services; such an alias leads by
	// its split, and only has a fallback in Aliases.
	Splits map[string][]Part
	// Limits are those of aliases that have any. They hold for calls that come in by them
	// from now on, beside those of the service that gets the call.
	Limits   map[string]Limit
	Services []Service
}

// Delta is a change of one deployment.
type Delta struct {
	// Version orders changes: of two deltas of one deployment the one with the
	// smaller version is the older one.
	Version uint64
	Deployment
	// Deleted tells that the deployment is gone; only its ID counts then.
	Deleted bool
}

// Snapshot is every route there is, as of Version.
type Snapshot struct {
	Version     uint64
	Deployments []Deployment
}

// Target names what a call wants: the service, else the alias, else the alias
// "default" of the deployment.
type Target struct {
	Org        plat.OrgID
	Deployment plat.DeploymentID
	Service    plat.ServiceID
	Alias      string

	turn uint64 // of the call among those of its alias; see Enter
	own  *own   // the alias' limit, likewise
}

// Errors of a lookup. They are values, so that a scan of wrong names costs
// nothing. For the same reason a deployment that is not routed is not looked up on record:
// it may be there and have no service yet.
var (
	errNoDeployment = &plat.Error{Kind: plat.ErrNotFound, Public: "there is no such deployment, or it has no service yet; create a service, and an endpoint that leads to it"}
	errNoService    = &plat.Error{Kind: plat.ErrNotFound, Public: "the service was not found in this deployment"}
	errNoAlias      = &plat.Error{Kind: plat.ErrNotFound, Public: "no endpoint of this deployment has that alias; create it, or call /deployments/{deployment_id}/services/{service_id}"}
	errNoDefault    = &plat.Error{Kind: plat.ErrNotFound, Public: "this deployment has no endpoint \"default\" yet; create it, or call /deployments/{deployment_id}/services/{service_id}"}
	errOtherOrg     = &plat.Error{Kind: plat.ErrForbidden, Public: "the deployment belongs to another organization"}
)

// Route is where a lookup leads. It is immutable.
type Route struct {
	id              plat.ServiceID
	command         bool
	firstByte, idle time.Duration
	record          *Record // nil: nothing is recorded
	limit           Limit
	refuse          *plat.Error // not nil: no call is held
	ready           bool        // there were instances when it was made
	live            *service
}

// Service returns the id of the service that the route leads to.
func (r *Route) Service() plat.ServiceID { return r.id }

// shardCount makes a change copy 1/256 of the deployments' cells and 256 slices.
const shardCount = 256

// snapshot is the immutable state behind Table.snap. Among very many services a lookup
// costs what it reads that is not in the processor's cache. So deployments are found by
// hashes and services among names that stand side by side, and ids are compared in
// place (name), not where their text happens to be.
type snapshot struct {
	version uint64
	hash    func(id string) uint64
	shards  [shardCount]shard
}

// shard is a hash table with open addressing: a power of two of cells, at least half of
// them empty. It is immutable.
type shard []cell

type cell struct {
	hash uint64
	d    *deployment // nil: empty
}

// deployment is immutable but for its version. Slices, sorted, because most
// deployments have one to three services and there are very many deployments.
type deployment struct {
	name     name
	names    []name // of the services, in their order; nil when there are more than maxNames
	services []Route
	aliases  []aliasRoute
	org      plat.OrgID
	id       plat.DeploymentID
	version  uint64 // guarded by Table.mu
}

// maxNames is up to how many services of a deployment are looked through one by one.
const maxNames = 64

// name is an id without a pointer to its text, as far as it is short; ids that we make are.
type name struct {
	length uint8 // long: only the id itself tells
	text   [23]byte
}

const long = 255

func nameOf(id string) (n name) {
	if len(id) > len(n.text) {
		return name{length: long}
	}
	n.length = uint8(copy(n.text[:], id))
	return n
}

// get returns a deployment, or nil.
func (s *snapshot) get(id plat.DeploymentID) *deployment {
	h, n := s.hash(string(id)), nameOf(string(id))
	m := s.shards[uint8(h)]
	for i := h >> 8; len(m) > 0; i++ {
		switch at := &m[i&uint64(len(m)-1)]; {
		case at.d == nil:
			return nil
		case at.hash == h && at.d.name == n && (n.length != long || at.d.id == id):
			return at.d
		}
	}
	return nil
}

// all yields every deployment.
func (s *snapshot) all(yield func(*deployment) bool) {
	for _, m := range s.shards {
		for _, at := range m {
			if at.d != nil && !yield(at.d) {
				return
			}
		}
	}
}

// with returns the shard without the deployment of that id, and with made unless it is nil.
func (m shard) with(id plat.DeploymentID, made *deployment, h uint64) shard {
	cells := make([]cell, 0, len(m)/2+1)
	for _, at := range m {
		if at.d != nil && (at.hash != h || at.d.id != id) {
			cells = append(cells, at)
		}
	}
	if made != nil {
		cells = append(cells, cell{h, made})
	}
	return newShard(cells)
}

func newShard(cells []cell) shard {
	if len(cells) == 0 {
		return nil
	}
	m := make(shard, 1<<bits.Len(uint(2*len(cells)-1)))
	for _, one := range cells {
		i := one.hash >> 8
		for m[i&uint64(len(m)-1)].d != nil {
			i++
		}
		m[i&uint64(len(m)-1)] = one
	}
	return m
}

type aliasRoute struct {
	name  string
	route *Route
	split *split // nil: all calls go to route
	own   *own   // nil: it has no limit
}

// own is a limit of an alias, with the meter, which lives as long as it has one.
type own struct {
	limit Limit
	quota *quota
}

// is tells whether o is that limit. o may be nil.
func (o *own) is(l Limit) bool {
	if o == nil {
		return l == Limit{}
	}
	return o.limit == l
}

// Table holds the routes. All methods are safe for concurrent use.
type Table struct {
	snap atomic.Pointer[snapshot]

	mu        sync.Mutex // writers only
	instances map[plat.WorkloadID]*instance
	// deleted keeps the version of deletions until a full snapshot is newer, so
	// that a late delta does not bring a deployment back.
	deleted map[plat.DeploymentID]uint64

	calledMu sync.Mutex // taken after a service's
	called   []*service

	knocks  chan struct{} // capacity 1
	knockMu sync.Mutex
	knocked map[plat.ServiceID]struct{}

	born        time.Time
	slowStart   time.Duration // Options.SlowStart
	ejections   atomic.Int64
	outstanding atomic.Int64
	held        atomic.Int64
	heldBytes   atomic.Int64
	spooled     atomic.Int64
}

// NewTable returns an empty table.
func NewTable() *Table {
	t := &Table{
		instances: map[plat.WorkloadID]*instance{}, deleted: map[plat.DeploymentID]uint64{},
		knocks: make(chan struct{}, 1), knocked: map[plat.ServiceID]struct{}{}, born: time.Now(),
	}
	seed := maphash.MakeSeed() // nobody can aim at one hash
	t.snap.Store(&snapshot{hash: func(id string) uint64 { return maphash.String(seed, id) }})
	return t
}

// clock is a moment in little space: the time since the table was made, by the clock that
// never jumps.
func (t *Table) clock(now time.Time) time.Duration { return now.Sub(t.born) }

// Version is the highest version that lookups see.
func (t *Table) Version() uint64 { return t.snap.Load().version }

// Lookup finds the service behind a target. ErrNotFound: no such deployment,
// service or alias; ErrForbidden: the deployment is another organization's. An
// empty Org matches no deployment.
func (t *Table) Lookup(to Target) (*Route, error) {
	d := t.snap.Load().get(to.Deployment)
	if d == nil {
		return nil, errNoDeployment
	}
	if d.org != to.Org || to.Org == "" {
		return nil, errOtherOrg
	}
	if to.Service != "" {
		if n := nameOf(string(to.Service)); d.names != nil && n.length != long {
			if i := slices.Index(d.names, n); i >= 0 {
				return &d.services[i], nil
			}
		} else if r := find(d.services, to.Service); r != nil {
			return r, nil
		}
		return nil, errNoService
	}
	alias := to.Alias
	if alias == "" {
		alias = DefaultAlias
	}
	if i, ok := slices.BinarySearchFunc(d.aliases, alias, compareAlias); ok {
		return d.aliases[i].of(to.turn), nil
	}
	if to.Alias == "" {
		return nil, errNoDefault
	}
	return nil, errNoAlias
}

func compareAlias(a aliasRoute, name string) int { return cmp.Compare(a.name, name) }

// find returns the route of a service among sorted ones, or nil.
func find(routes []Route, id plat.ServiceID) *Route {
	i := sort.Search(len(routes), func(i int) bool { return routes[i].id >= id })
	if i == len(routes) || routes[i].id != id {
		return nil
	}
	return &routes[i]
}

// Apply makes one deployment's new routes visible: every lookup that starts
// after it returned sees them. It reports false, and changes nothing, when the
// delta is older than what the table holds of that deployment.
func (t *Table) Apply(d Delta) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	cur := t.snap.Load()
	old := cur.get(d.ID)
	if old != nil && old.version > d.Version || t.deleted[d.ID] > d.Version {
		return false
	}
	next := *cur
	next.version = max(next.version, d.Version)
	var made *deployment
	if d.Deleted {
		t.deleted[d.ID] = d.Version
	} else {
		made = t.build(d.Version, &d.Deployment, old)
		delete(t.deleted, d.ID)
	}
	h := next.hash(string(d.ID))
	next.shards[uint8(h)] = next.shards[uint8(h)].with(d.ID, made, h)
	t.snap.Store(&next)
	t.settle(old, made)
	return true
}

// Replace makes the snapshot the whole truth, except for deployments that the
// table knows in a newer version than the snapshot's.
func (t *Table) Replace(s Snapshot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	cur := t.snap.Load()
	next := &snapshot{version: max(s.Version, cur.version), hash: cur.hash}
	type change struct{ old, made *deployment }
	var changes []change
	var cells [shardCount][]cell
	kept := make(map[plat.DeploymentID]struct{}, len(s.Deployments))
	put := func(d *deployment) {
		h := next.hash(string(d.id))
		cells[uint8(h)] = append(cells[uint8(h)], cell{h, d})
		kept[d.id] = struct{}{}
	}
	for i := range s.Deployments {
		d := &s.Deployments[i]
		old := cur.get(d.ID)
		if old != nil && old.version > s.Version || t.deleted[d.ID] > s.Version {
			continue
		}
		if _, ok := kept[d.ID]; ok {
			continue // said twice
		}
		if old.same(d) {
			old.version = s.Version
			put(old)
			continue
		}
		made := t.build(s.Version, d, old)
		put(made)
		changes = append(changes, change{old, made})
	}
	for old := range cur.all {
		if _, ok := kept[old.id]; ok {
			continue
		}
		if old.version > s.Version {
			put(old)
		} else {
			changes = append(changes, change{old, nil})
		}
	}
	for n := range cells {
		next.shards[n] = newShard(cells[n])
	}
	maps.DeleteFunc(t.deleted, func(_ plat.DeploymentID, v uint64) bool { return v <= s.Version })
	t.snap.Store(next)
	for _, c := range changes {
		t.settle(c.old, c.made)
	}
}

// build turns one deployment's routes into their immutable form, on the live
// services that old already has. New instances get work from here on.
func (t *Table) build(version uint64, d *Deployment, old *deployment) *deployment {
	made := &deployment{id: d.ID, name: nameOf(string(d.ID)), version: version, org: unique.Make(d.Org).Value()}
	made.services = make([]Route, 0, len(d.Services))
	for i := range d.Services {
		s := &d.Services[i]
		live := old.service(s.ID)
		if live == nil {
			live = &service{table: t, id: s.ID}
		}
		live.setInstances(s.Instances)
		r := Route{id: s.ID, command: s.Command, firstByte: s.FirstByte, idle: s.Idle, live: live, ready: len(s.Instances) > 0, record: s.Record, limit: s.Limit}
		if s.Refuse != "" && len(s.Instances) == 0 {
			r.refuse = plat.Errorf(plat.ErrUnavailable, "%s", s.Refuse)
		}
		made.services = append(made.services, r)
	}
	slices.SortFunc(made.services, func(a, b Route) int { return cmp.Compare(a.id, b.id) })
	if len(made.services) <= maxNames {
		made.names = make([]name, len(made.services))
		for i := range made.services {
			made.names[i] = nameOf(string(made.services[i].id))
		}
	}
	made.aliases = make([]aliasRoute, 0, len(d.Aliases))
	for name, id := range d.Aliases {
		if r := find(made.services, id); r != nil {
			if name == DefaultAlias {
				name = DefaultAlias // one text for all
			}
			a := aliasRoute{name: name, route: r}
			if parts := d.Splits[name]; len(parts) > 0 {
				a.split = newSplit(parts, made.services, old.alias(name))
			}
			if l := d.Limits[name]; l != (Limit{}) {
				a.own = &own{l, new(quota)}
				if before := old.alias(name); before != nil && before.own != nil {
					a.own.quota = before.own.quota
				}
			}
			made.aliases = append(made.aliases, a)
		}
	}
	slices.SortFunc(made.aliases, func(a, b aliasRoute) int { return cmp.Compare(a.name, b.name) })
	return made
}

// same tells whether in says nothing new, which is what a resync says of most
// deployments. It may miss that (the order of instances), never the other way
// round. d may be nil.
func (d *deployment) same(in *Deployment) bool {
	if d == nil || d.org != in.Org || len(d.services) != len(in.Services) || len(d.aliases) != len(in.Aliases) {
		return false
	}
	for i := range in.Services {
		s := &in.Services[i]
		r := find(d.services, s.ID)
		if r == nil {
			return false
		}
		if refuses := s.Refuse != "" && len(s.Instances) == 0; refuses != (r.refuse != nil) || r.command != s.Command || !r.record.is(s.Record) || r.limit != s.Limit || r.firstByte != s.FirstByte || r.idle != s.Idle || !r.live.has(s.Instances) {
			return false
		}
	}
	for i := range d.aliases {
		if a := &d.aliases[i]; in.Aliases[a.name] != a.route.id || !a.split.is(in.Splits[a.name]) || !a.own.is(in.Limits[a.name]) {
			return false
		}
	}
	return true
}

// service returns the live service of that id, or nil. d may be nil.
func (d *deployment) service(id plat.ServiceID) *service {
	if d != nil {
		if r := find(d.services, id); r != nil {
			return r.live
		}
	}
	return nil
}

// alias returns the route of an alias, or nil. d may be nil.
func (d *deployment) alias(name string) *aliasRoute {
	if d != nil {
		if i, ok := slices.BinarySearchFunc(d.aliases, name, compareAlias); ok {
			return &d.aliases[i]
		}
	}
	return nil
}

// settle ends what old had and made no longer has: instances of services that
// are gone get no new call, and calls that wait for a service which an alias
// left, or which refuses calls from now on, look up their target again.
func (t *Table) settle(old, made *deployment) {
	if old == nil {
		return
	}
	if made != nil {
		for i := range made.services {
			if r := &made.services[i]; r.refuse != nil {
				r.live.sendAway()
			}
		}
	}
	for i := range old.services {
		if r := &old.services[i]; made.service(r.id) == nil {
			r.live.setInstances(nil)
			r.live.sendAway()
		}
	}
	for _, a := range old.aliases {
		if made == nil {
			break
		}
		if now := made.alias(a.name); now == nil || !now.leadsLike(&a) {
			a.sendAway()
		}
	}
}

// Drained waits until the instance has left the table and its last call has
// ended, or until ctx ends (then ctx's error). An id that the table does not
// know is drained.
func (t *Table) Drained(ctx context.Context, id plat.WorkloadID) error {
	t.mu.Lock()
	in := t.instances[id]
	t.mu.Unlock()
	if in == nil {
		return nil
	}
	gone := in.whenGone()
	if gone == nil {
		return nil
	}
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// forget removes a drained instance, unless its id has been taken again.
func (t *Table) forget(in *instance) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.instances[in.id] == in {
		delete(t.instances, in.id)
	}
}
