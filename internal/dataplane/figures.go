// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"math/bits"
	"sync"
	"time"

	"panal/internal/plat"
)

// The window that figures tell of: the last full slots and the one under way.
const (
	figureSlots = 6
	figureSlot  = 5 * time.Second
	// FigureWindow is the longest time that figures tell of.
	FigureWindow = figureSlots * figureSlot
)

// Durations are counted in steps of a quarter of a power of two, from 64 µs to
// four minutes: a quantile is at most a quarter too high.
const (
	durationSteps = 4
	firstPower    = 6 // 2^6 µs
	durationCount = 22 * durationSteps
)

// Figures tell of a service on this server.
type Figures struct {
	// Window is the time that Calls, Errors and the quantiles tell of.
	Window   time.Duration
	Calls    int
	Errors   int // calls of the outcomes 5xx and cut
	P50, P99 time.Duration
	// InFlight is how many calls instances have now, Waiting how many wait for one.
	InFlight, Waiting int
	Ready             int // instances
}

// recent counts the calls of one service in the last FigureWindow: some 2 KiB.
type recent struct {
	mu     sync.Mutex
	slots  [figureSlots]slot
	turned turned
}

type slot struct {
	number    int64 // of the slot since the epoch; another one's counts are void
	calls     uint32
	errors    uint32
	durations [durationCount]uint32
}

func slotAt(at time.Time) int64 { return at.UnixNano() / int64(figureSlot) }

// add counts a call that ended. A negative duration says nothing of how fast it was.
func (r *recent) add(at time.Time, took time.Duration, failed bool) {
	n := slotAt(at)
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.slots[n%figureSlots]
	if s.number != n {
		*s = slot{number: n}
	}
	s.calls++
	if failed {
		s.errors++
	}
	if took >= 0 {
		s.durations[durationStep(took)]++
	}
}

// durationStep is the number of the step that a duration falls into.
func durationStep(d time.Duration) int {
	us := uint64(d.Microseconds())
	power := bits.Len64(us) - 1
	if power < firstPower {
		return 0
	}
	quarter := int(us>>(power-2)) & (durationSteps - 1)
	return min((power-firstPower)*durationSteps+quarter, durationCount-1)
}

// stepEnd is where a step ends.
func stepEnd(step int) time.Duration {
	power, quarter := step/durationSteps+firstPower, step%durationSteps
	return time.Duration(int64(durationSteps+quarter+1)<<(power-2)) * time.Microsecond
}

// read adds up the window that ends at a moment. r may be nil.
func (r *recent) read(at time.Time) Figures {
	now := slotAt(at)
	f := Figures{Window: (figureSlots-1)*figureSlot + time.Duration(at.UnixNano()-now*int64(figureSlot))}
	if r == nil {
		return f
	}
	var durations [durationCount]int
	total := 0
	r.mu.Lock()
	for i := range r.slots {
		s := &r.slots[i]
		if s.number > now-figureSlots && s.number <= now {
			f.Calls, f.Errors = f.Calls+int(s.calls), f.Errors+int(s.errors)
			for step, n := range s.durations {
				durations[step] += int(n)
				total += int(n)
			}
		}
	}
	r.mu.Unlock()
	f.P50, f.P99 = quantile(&durations, total, 50), quantile(&durations, total, 99)
	return f
}

// quantile returns the end of the step in which the given percent of all is reached.
func quantile(durations *[durationCount]int, total, percent int) time.Duration {
	if total == 0 {
		return 0
	}
	seen := 0
	for step, n := range durations {
		if seen += n; seen*100 >= total*percent {
			return stepEnd(step)
		}
	}
	return stepEnd(durationCount - 1)
}

// count notes a call's outcome with the service that it was for.
func (s *service) count(at time.Time, took time.Duration, class int) {
	s.recents().add(at, took, class == classCut || class == class5xx)
}

func (s *service) recents() *recent {
	r := s.recent.Load()
	if r == nil {
		s.recent.CompareAndSwap(nil, new(recent))
		r = s.recent.Load()
	}
	return r
}

// Figures tells how a service does on this server; all zero for one that the
// gateway does not know.
func (p *Proxy) Figures(dep plat.DeploymentID, id plat.ServiceID) Figures {
	t := p.table
	s := t.snap.Load().get(dep).service(id)
	if s == nil {
		return (*recent)(nil).read(time.Now())
	}
	f := s.recent.Load().read(time.Now())
	s.mu.Lock()
	defer s.mu.Unlock()
	f.Ready = len(s.instances)
	for _, in := range s.instances {
		f.InFlight += int(in.outstanding)
	}
	if s.waiters != nil {
		f.Waiting = s.waiters.Len()
	}
	return f
}
