// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// ejectAfter is after how many calls in a row without an answer of its own an instance is
	// left out.
	ejectAfter = 3
	// ejectTime is for how long at first, doubled each time in a row up to ejectMax.
	ejectTime = time.Second
	ejectMax  = 32 * time.Second
	// leastShare is what a new instance gets of its share at once: without any calls it would
	// never get warm.
	leastShare = 0.1
)

// outcome is what a try says of its instance.
type outcome uint8

const (
	silent   outcome = iota // nothing: the caller left
	answered                // it began an answer
	refused                 // it could not be reached, or took no call
	broke                   // it took the call, and broke off, answered nonsense, or not in time
)

// pick chooses among the instances: of two at random the one with fewer calls under way;
// when neither is free, any that is; avoid only when no other is. One that is
// suspect gets a call when no other is well. It returns nil when none is free. The caller holds s.mu.
func (s *service) pick(now time.Time, avoid *instance) *instance {
	n := len(s.instances)
	if n == 0 {
		return nil
	}
	i := rand.IntN(n)
	a, b := s.instances[i], s.instances[i]
	if n > 1 {
		b = s.instances[(i+1+rand.IntN(n-1))%n]
	}
	if b.outstanding < a.outstanding {
		a, b = b, a
	}
	for _, in := range [...]*instance{a, b} {
		if in != avoid && !in.suspect && in.free(now) && in.itsTurn(now) {
			return in
		}
	}
	well := false // an instance that others need not stand in for
	for k := range n {
		in := s.instances[(i+k)%n]
		if in == avoid || in.suspect {
			continue
		}
		if in.free(now) {
			return in
		}
		well = well || !in.skipped(now)
	}
	for k := 0; !well && k < n; k++ {
		if in := s.instances[(i+k)%n]; in != avoid && in.suspect && in.free(now) {
			return in
		}
	}
	if avoid != nil && avoid.free(now) && slices.Contains(s.instances, avoid) {
		return avoid
	}
	return nil
}

// skipped tells whether the instance is left out for now. The caller holds service.mu.
func (in *instance) skipped(now time.Time) bool {
	return in.skipUntil != 0 && in.skipUntil > in.service.table.clock(now)
}

// free tells whether the instance takes a call. The caller holds service.mu.
func (in *instance) free(now time.Time) bool {
	return in.outstanding < in.limit && !in.skipped(now)
}

// tickTime is the unit of Table.tick.
const tickTime = 100 * time.Millisecond

// tick is a moment in still less space than clock takes; it is never 0.
func (t *Table) tick(now time.Time) int32 {
	return int32(min(t.clock(now)/tickTime+1, math.MaxInt32))
}

// share is how much of its share of the calls an instance gets: all of it, or while it is
// new a part that grows. The caller holds service.mu.
func (in *instance) share(t *Table, now time.Time) float64 {
	if in.warmFrom == 0 || t.slowStart <= 0 {
		return 1
	}
	age := time.Duration(t.tick(now)-in.warmFrom) * tickTime
	return min(max(age.Seconds()/t.slowStart.Seconds(), leastShare), 1)
}

// warm tells whether the instance gets all of its share. The caller holds service.mu.
func (in *instance) warm(t *Table, now time.Time) bool { return in.share(t, now) == 1 }

// itsTurn tells whether the instance takes a call that it was chosen for: while it is new
// some go to others, so that caches fill and code gets compiled under few callers. The caller holds service.mu.
func (in *instance) itsTurn(now time.Time) bool {
	if in.warmFrom == 0 {
		return true
	}
	share := in.share(in.service.table, now)
	if share == 1 {
		in.warmFrom = 0
	}
	return share == 1 || rand.Float64() < share
}

// release gives an instance back. One that could not be reached is skipped for a while,
// longer each time; so is one that gives no answers, as long as enough others do.
func (s *service) release(in *instance, o outcome) {
	now := time.Now()
	s.mu.Lock()
	in.outstanding--
	s.load.add(-1, now)
	s.table.outstanding.Add(-1)
	switch {
	case o == silent:
	case o == answered:
		in.refusals, in.failures, in.ejections = 0, 0, 0
	case o == broke:
		in.failures = min(in.failures, math.MaxUint8-1) + 1
		if in.failures >= ejectAfter && !in.skipped(now) && s.spares(in, now) {
			in.skipUntil = s.table.clock(now) + min(ejectTime<<in.ejections, ejectMax)
			in.warmFrom = s.table.tick(now.Add(in.skipUntil - s.table.clock(now)))
			in.ejections = min(in.ejections+1, 8) // by then it is ejectMax
			s.table.ejections.Add(1)
		}
	case !in.skipped(now):
		in.skipUntil = s.table.clock(now) + backoff(int(in.refusals))
		in.refusals = min(in.refusals, math.MaxUint8-1) + 1
	}
	drained := in.retired && in.outstanding == 0
	if drained {
		in.left()
	}
	s.dispatch(now)
	s.mu.Unlock()
	if drained {
		s.table.forget(in)
	}
}

// spares tells whether the service can do without an instance: half of them or more are
// well besides. When all fail it is not for one of them to be left out. The caller holds s.mu.
func (s *service) spares(in *instance, now time.Time) bool {
	others := 0
	for _, o := range s.instances {
		if o != in && !o.suspect && o.failures < ejectAfter && !o.skipped(now) {
			others++
		}
	}
	return 2*others >= len(s.instances)
}

// backoff is 50 ms doubled with each refusal in a row, up to 3.2 s.
func backoff(refusals int) time.Duration { return 50 * time.Millisecond << min(refusals, 6) }
