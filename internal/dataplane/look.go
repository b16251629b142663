// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"time"

	"panal/internal/plat"
)

// Look is a closer look at a service than Figures: what explains it.
type Look struct {
	Instances []InstanceLook
	// Turned is how many calls each limit turned away in the last TurnedWindow, or up to
	// twice that, by the limit's name.
	Turned map[string]int
}

// InstanceLook is an instance as the gateway has it.
type InstanceLook struct {
	ID       plat.WorkloadID
	InFlight int
	Limit    int
	// Refusals is how many calls in a row could not reach it, Failures how many it gave no
	// answer to. SkippedUntil is until when it gets no call because of either; zero: it
	// gets them.
	Refusals, Failures int
	SkippedUntil       time.Time
	// Suspect is Instance.Suspect. Share is how much of its share of the calls it gets while
	// it is new; 0: it is not.
	Suspect bool
	Share   float64
}

// TurnedWindow is the time that Look.Turned tells of at least, once it has passed.
const TurnedWindow = 5 * time.Minute

// turned counts what limits turned away, in this window and the one before.
type turned struct {
	window      int64
	now, before [len(limited)]uint32
}

// at makes the window that holds the time the current one.
func (t *turned) at(at time.Time) {
	switch w := at.UnixNano() / int64(TurnedWindow); w {
	case t.window:
	case t.window + 1:
		t.window, t.now, t.before = w, [len(limited)]uint32{}, t.now
	default: // long ago, or the clock jumped
		*t = turned{window: w}
	}
}

// turnedAway notes that a limit turned a call of the service away.
func (s *service) turnedAway(limit int, at time.Time) {
	r := s.recents()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turned.at(at)
	r.turned.now[limit]++
}

// Look tells how the gateway has a service; the zero value for one that it does not
// know.
func (p *Proxy) Look(dep plat.DeploymentID, id plat.ServiceID) Look {
	s := p.table.snap.Load().get(dep).service(id)
	if s == nil {
		return Look{}
	}
	now := time.Now()
	var l Look
	if r := s.recent.Load(); r != nil {
		r.mu.Lock()
		r.turned.at(now)
		for i, name := range limited {
			if n := int(r.turned.now[i]) + int(r.turned.before[i]); n > 0 {
				if l.Turned == nil {
					l.Turned = map[string]int{}
				}
				l.Turned[name] = n
			}
		}
		r.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, in := range s.instances {
		v := InstanceLook{ID: in.id, InFlight: int(in.outstanding), Limit: int(in.limit), Refusals: int(in.refusals), Failures: int(in.failures), Suspect: in.suspect}
		if share := in.share(s.table, now); share < 1 {
			v.Share = share
		}
		if wait := in.skipUntil - s.table.clock(now); in.skipUntil != 0 && wait > 0 {
			v.SkippedUntil = now.Add(wait)
		}
		l.Instances = append(l.Instances, v)
	}
	return l
}
