// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"container/list"
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"panal/internal/plat"
)

// service is the live state of one service: its ready instances and the calls
// that wait for one. It survives snapshots.
type service struct {
	table *Table
	id    plat.ServiceID

	recent atomic.Pointer[recent] // nil until the first call
	quota  quota

	mu        sync.Mutex
	instances []*instance
	waiters   *list.List // of *waiter, nil until one waits
	load      load
	noted     bool // as called
}

// waiter is a call that waits. What it gets arrives on got, at most once.
type waiter struct {
	got   chan grant
	avoid *instance
	el    *list.Element
}

// grant is an instance, taken for the waiter, or (nil) the word to look up the
// target again.
type grant struct{ in *instance }

// errBodyFailed says that the body of a waiting call broke off.
var errBodyFailed = errors.New("the body broke off")

// Reasons to refuse a call that would have to wait.
var (
	errNoInstance = &plat.Error{Kind: plat.ErrUnavailable, Public: "no instance of the service became ready in time; its status_message and scale_message say why"}
	errAllBusy    = &plat.Error{Kind: plat.ErrUnavailable, Public: "every instance of the service is busy"}
	errQueueFull  = &plat.Error{Kind: plat.ErrUnavailable, Public: "too many calls wait for this service"}
)

// setInstances makes list the ready instances. One that was there before keeps
// its live state, unless its address changed. The caller holds the table's lock.
func (s *service) setInstances(ready []Instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	byID, now := s.table.instances, time.Now()
	old := slices.ContainsFunc(s.instances, func(in *instance) bool { return in.warm(s.table, now) })
	var next []*instance
	if len(ready) > 0 {
		next = make([]*instance, 0, len(ready))
	}
	for i := range ready {
		r := &ready[i]
		in := byID[r.ID]
		if in == nil || in.service != s || in.gone ||
			in.network() != r.Network || in.address != r.Address || in.key != r.Key || in.once != (r.Limit < 1) {
			in = newInstance(s, r)
			byID[r.ID] = in
			if r.New && old {
				in.warmFrom = s.table.tick(now)
			}
		}
		in.suspect = r.Suspect
		in.limit = int32(min(max(r.Limit, 1), math.MaxInt32))
		if in.retired {
			in.retired = false
			in.open()
		}
		if !slices.Contains(next, in) {
			next = append(next, in)
		}
	}
	for _, in := range s.instances {
		if slices.Contains(next, in) {
			continue
		}
		in.retired = true
		in.closeIdle()
		if in.outstanding == 0 {
			in.left()
			if byID[in.id] == in {
				delete(byID, in.id)
			}
		}
	}
	if s.instances = next; len(next) > 0 {
		s.load.Missed = 0
	}
	s.dispatch(now)
}

// has tells whether the ready instances are exactly these, in this order.
func (s *service) has(ready []Instance) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.EqualFunc(s.instances, ready, func(in *instance, r Instance) bool {
		return in.id == r.ID && in.network() == r.Network && in.address == r.Address && in.key == r.Key && in.suspect == r.Suspect && int(in.limit) == max(r.Limit, 1) && in.once == (r.Limit < 1)
	})
}

// sendAway makes every waiting call look up its target again.
func (s *service) sendAway() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.waiters != nil && s.waiters.Len() > 0 {
		s.give(s.waiters.Front(), nil)
		s.load.add(-1, time.Now())
	}
}

// give ends the wait of a waiter. The caller holds s.mu.
func (s *service) give(el *list.Element, in *instance) {
	w := s.waiters.Remove(el).(*waiter)
	w.el = nil
	w.got <- grant{in} // never blocks: the channel has room for its one grant
}

// dispatch hands free instances to those who wait, first come first served. The
// caller holds s.mu.
func (s *service) dispatch(now time.Time) {
	for s.waiters != nil && s.waiters.Len() > 0 {
		el := s.waiters.Front()
		in := s.pick(now, el.Value.(*waiter).avoid)
		if in == nil {
			return
		}
		s.take(in)
		s.give(el, in)
	}
}

func (s *service) take(in *instance) {
	in.outstanding++
	s.table.outstanding.Add(1)
}

// nextTry returns when the first instance that is skipped may be tried again, or
// limit when that is sooner or none is skipped. The caller holds s.mu.
func (s *service) nextTry(now, limit time.Time) time.Time {
	at := s.table.clock(now)
	for _, in := range s.instances {
		if t := now.Add(in.skipUntil - at); in.skipUntil > at && t.Before(limit) {
			limit = t
		}
	}
	return limit
}

// hold is how a call may wait.
type hold struct {
	until    time.Time   // the end of its patience
	bytes    int64       // what it keeps in memory meanwhile
	maxCalls int         // per service
	maxBytes int64       // of all calls that wait
	tenant   *tenant     // whose share of them it is
	avoid    *instance   // the instance that has just failed it
	routed   func() bool // whether the target still leads here
	// spool begins to take the body of a call that waits for a first instance, and
	// returns what is closed should that fail; nil: there is nothing to take.
	spool func() (failed <-chan struct{}, err error)
	// shared tells that the caller's connection has other calls: a body that nobody
	// takes would fill its window and hold those up. So it is taken, or the call
	// refused, whatever it waits for.
	shared bool
}

// acquire takes an instance for a call, waiting for one if it must. A nil
// instance without an error means that the target leads elsewhere by now.
func (s *service) acquire(ctx context.Context, h hold) (*instance, error) {
	now := time.Now()
	s.mu.Lock()
	if s.waiters == nil || s.waiters.Len() == 0 {
		if in := s.pick(now, h.avoid); in != nil {
			s.take(in)
			s.load.add(1, now)
			s.load.Arrivals++
			s.note()
			s.mu.Unlock()
			return in, nil
		}
	}
	if s.waiters == nil {
		s.waiters = list.New()
	}
	if s.waiters.Len() >= h.maxCalls {
		s.mu.Unlock()
		return nil, errQueueFull
	}
	if !take(&s.table.heldBytes, h.tenant.memory(), h.bytes, h.maxBytes) {
		s.mu.Unlock()
		return nil, errQueueFull
	}
	w := &waiter{got: make(chan grant, 1), avoid: h.avoid}
	w.el = s.waiters.PushBack(w)
	s.load.add(1, now)
	s.load.Arrivals++
	s.note()
	wake := s.nextTry(now, h.until)
	none := len(s.instances) == 0
	s.mu.Unlock()
	s.table.held.Add(1)
	defer func() {
		s.table.held.Add(-1)
		giveBack(&s.table.heldBytes, h.tenant.memory(), h.bytes)
	}()
	// A change between the caller's lookup and PushBack has woken those who
	// waited, not this one. What changes from here on does.
	if !h.routed() {
		return s.leave(w, nil)
	}
	var failed <-chan struct{}
	if none {
		s.table.knock(s.id)
	}
	if h.spool != nil && (none || h.shared) {
		var err error
		if failed, err = h.spool(); err != nil {
			return s.leave(w, err)
		}
	}
	timer := time.NewTimer(time.Until(wake))
	defer timer.Stop()
	for {
		select {
		case g := <-w.got:
			return g.in, nil
		case <-ctx.Done():
			return s.leave(w, context.Cause(ctx))
		case <-failed:
			return s.leave(w, errBodyFailed)
		case <-timer.C:
			now = time.Now()
			s.mu.Lock()
			s.dispatch(now)
			wake = s.nextTry(now, h.until)
			empty := len(s.instances) == 0
			s.mu.Unlock()
			if !now.Before(h.until) {
				if empty {
					return s.leave(w, errNoInstance)
				}
				return s.leave(w, errAllBusy)
			}
			timer.Reset(time.Until(wake))
		}
	}
}

// leave ends a wait for the given reason, or with what was granted meanwhile.
func (s *service) leave(w *waiter, why error) (*instance, error) {
	s.mu.Lock()
	if w.el != nil {
		s.waiters.Remove(w.el)
		w.el = nil
		s.load.add(-1, time.Now())
	}
	s.mu.Unlock()
	select {
	case g := <-w.got:
		return g.in, nil
	default:
		return nil, why
	}
}
