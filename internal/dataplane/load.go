// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"time"

	"panal/internal/plat"
)

// Load is what the calls of a service were and are, the ones that wait for an
// instance included. The first two only grow: the difference of two looks over the
// time between them is the average concurrency and the rate.
type Load struct {
	CallSeconds float64 // the time of all calls together: concurrency, summed over time
	Arrivals    uint64
	InFlight    int // now; Waiting of them without an instance
	Waiting     int
	// Missed counts the calls since it last had an instance that would have been for the
	// service, as a part of a split. Others answered them.
	Missed uint64
}

// load counts the calls of a service. service.mu guards it.
type load struct {
	Load
	at      time.Time // until when CallSeconds counts
	knocked time.Time // by the last missed call that did
}

// knockEvery bounds how often missed calls knock: the first has been heard.
const knockEvery = 100 * time.Millisecond

// miss counts a call that goes elsewhere because nothing is here to take it.
func (s *service) miss() {
	now := time.Now()
	s.mu.Lock()
	s.load.Missed++
	s.note()
	knock := now.Sub(s.load.knocked) >= knockEvery
	if knock {
		s.load.knocked = now
	}
	s.mu.Unlock()
	if knock {
		s.table.knock(s.id)
	}
}

// add counts n calls more or less from now on.
func (l *load) add(n int, now time.Time) {
	if d := now.Sub(l.at); d > 0 {
		if l.InFlight > 0 {
			l.CallSeconds += float64(l.InFlight) * d.Seconds()
		}
		l.at = now
	}
	l.InFlight += n
}

// Load returns the load of a service; false when the routes have no such service.
func (t *Table) Load(dep plat.DeploymentID, id plat.ServiceID) (Load, bool) {
	s := t.snap.Load().get(dep).service(id)
	if s == nil {
		return Load{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.load.add(0, time.Now())
	l := s.load.Load
	if s.waiters != nil {
		l.Waiting = s.waiters.Len()
	}
	return l, true
}

// Knocks receives when a call has begun to wait at a service that has no instance, or
// was missed there: Knocked tells at which.
func (t *Table) Knocks() <-chan struct{} { return t.knocks }

// Knocked returns the services that calls have begun to wait at, or missed, since the last look.
func (t *Table) Knocked() []plat.ServiceID {
	t.knockMu.Lock()
	defer t.knockMu.Unlock()
	ids := make([]plat.ServiceID, 0, len(t.knocked))
	for id := range t.knocked {
		ids = append(ids, id)
	}
	clear(t.knocked)
	return ids
}

// knock notes that a call came where nothing answers.
func (t *Table) knock(id plat.ServiceID) {
	t.knockMu.Lock()
	t.knocked[id] = struct{}{}
	t.knockMu.Unlock()
	select {
	case t.knocks <- struct{}{}:
	default:
	}
}

// Called returns the services that were called since the last look, or have calls under
// way.
func (t *Table) Called() []plat.ServiceID {
	t.calledMu.Lock()
	all := t.called
	t.called = nil
	t.calledMu.Unlock()
	ids := make([]plat.ServiceID, len(all))
	for i, s := range all {
		ids[i] = s.id
		s.mu.Lock()
		s.noted = false
		if s.load.InFlight > 0 {
			s.note()
		}
		s.mu.Unlock()
	}
	return ids
}

// note has the service among those that Called returns. The caller holds s.mu.
func (s *service) note() {
	if s.noted {
		return
	}
	s.noted = true
	s.table.calledMu.Lock()
	s.table.called = append(s.table.called, s)
	s.table.calledMu.Unlock()
}
