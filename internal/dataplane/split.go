// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"cmp"
	"slices"
	"sync/atomic"

	"panal/internal/plat"
)

// Part is a service's share of the calls of an alias. Weights are relative.
type Part struct {
	Service plat.ServiceID
	Weight  int
}

// split shares the calls of an alias. It is immutable but for its counter.
//
// The schedule is one round of smooth weighted round-robin, written down: each
// part stands in it as often as it weighs, spread evenly. A call takes the next
// number and with it its place in the schedule: no lock, no allocation, and of any
// round of calls each part gets exactly its share. (A hash of something in the call
// would be right only on average, and only if that varies.)
//
// Parts that have no ready instance are not in the schedule while others do, so
// the rest share what they would have got, by their weights. As every change of an
// instance makes new routes, no call has to look. But their share of the calls is
// counted with them: a service that sleeps is woken by what it would have got.
type split struct {
	parts    []Part // as they were asked for
	schedule []*Route
	// missing is a round of all parts, with the services that have no ready instance in
	// their places and nil in the others; nil when nothing is to be counted.
	missing []*service
	idle    int            // parts that are left out
	next    *atomic.Uint64 // shared with the splits before and after
}

func newSplit(parts []Part, services []Route, old *aliasRoute) *split {
	s := &split{parts: parts, next: new(atomic.Uint64)}
	if old != nil && old.split != nil {
		s.next = old.split.next
	}
	var ready, waiting, all []weighted
	for _, p := range parts {
		r := find(services, p.Service)
		if r == nil || p.Weight < 1 {
			continue
		}
		w := weighted{route: r, weight: p.Weight}
		all = append(all, w)
		if w.route.ready {
			ready = append(ready, w)
		}
		if w.route.refuse == nil {
			waiting = append(waiting, w)
		}
	}
	s.idle = len(parts) - len(ready)
	switch {
	case len(ready) > 0:
		s.schedule = spread(ready)
		if slices.ContainsFunc(waiting, func(w weighted) bool { return !w.route.ready }) {
			for _, r := range spread(all) {
				var live *service
				if !r.ready && r.refuse == nil {
					live = r.live
				}
				s.missing = append(s.missing, live)
			}
		}
	case len(waiting) > 0: // calls are held until one comes
		s.schedule = spread(waiting)
	default:
		s.schedule = spread(all)
	}
	return s
}

type weighted struct {
	route           *Route
	weight, current int
}

// spread is smooth weighted round-robin: in each step all gain their weight, the
// one that has most is taken and pays the total.
func spread(parts []weighted) []*Route {
	total := 0
	for _, p := range parts {
		total += p.weight
	}
	order := make([]*Route, 0, total)
	for range total {
		best := &parts[0]
		for i := range parts {
			p := &parts[i]
			p.current += p.weight
			if p.current > best.current {
				best = p
			}
		}
		best.current -= total
		order = append(order, best.route)
	}
	return order
}

// is tells whether the split is what parts ask for. s may be nil.
func (s *split) is(parts []Part) bool {
	if s == nil {
		return len(parts) == 0
	}
	return slices.Equal(s.parts, parts)
}

// of returns the route of the call with that turn.
func (a *aliasRoute) of(turn uint64) *Route {
	if a.split == nil || len(a.split.schedule) == 0 {
		return a.route
	}
	return a.split.schedule[turn%uint64(len(a.split.schedule))]
}

// leadsLike tells whether calls that a holds would go to the same services by b.
func (a *aliasRoute) leadsLike(b *aliasRoute) bool {
	if a.split == nil && b.split == nil {
		return a.route.live == b.route.live
	}
	return a.split != nil && b.split != nil && a.split.is(b.split.parts) &&
		slices.EqualFunc(a.split.schedule, b.split.schedule, func(x, y *Route) bool { return x.live == y.live })
}

// sendAway makes the calls that wait for the alias look up their target again.
func (a *aliasRoute) sendAway() {
	a.route.live.sendAway()
	if a.split != nil {
		for _, r := range a.split.schedule {
			r.live.sendAway()
		}
	}
}

// Enter is Lookup for a call that comes in: where the alias is split, it takes the
// call's turn, which counts for every Lookup of that target from then on. A turn of a
// part without an instance goes to the others, and knocks there.
func (t *Table) Enter(to *Target) (*Route, error) {
	d := t.snap.Load().get(to.Deployment)
	if to.Service == "" && d != nil && d.org == to.Org {
		if a := d.alias(cmp.Or(to.Alias, DefaultAlias)); a != nil {
			to.own = a.own
			if a.split != nil {
				a.split.takeTurn(to)
			}
		}
	}
	return t.Lookup(*to)
}

// takeTurn gives a call the next turn.
func (s *split) takeTurn(to *Target) {
	to.turn = s.next.Add(1) - 1
	if m := s.missing; m != nil {
		if live := m[to.turn%uint64(len(m))]; live != nil {
			live.miss()
		}
	}
}

// splitIdle counts the parts of splits that have no ready instance now.
func (t *Table) splitIdle() int64 {
	n := 0
	for d := range t.snap.Load().all {
		for i := range d.aliases {
			if s := d.aliases[i].split; s != nil {
				n += s.idle
			}
		}
	}
	return int64(n)
}
