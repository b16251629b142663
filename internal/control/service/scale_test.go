// SPDX-License-Identifier: Apache-2.0

package service

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"panal/internal/dataplane"
	"panal/internal/deploy"
)

// machine simulates a gateway, its queue and the instances of one service on a
// clock of its own, with the real scaler.
type machine struct {
	s          deploy.Service
	k          scaler
	now        time.Time
	window     time.Duration
	idle       time.Duration
	startDelay time.Duration
	limit      int

	load     dataplane.Load
	up       []*simulated // in the order of their start
	draining []*simulated
	queue    []time.Duration // how long each waiting call takes once it runs

	changed  []time.Time // when the scaler decided something
	looked   time.Time
	instance float64 // instance-seconds
	waited   float64 // call-seconds in the queue
	check    func(before, after int, why string)
}

type simulated struct {
	readyAt time.Time
	calls   []time.Time // when each ends
}

const simStep = 50 * time.Millisecond

func newMachine(s deploy.Service) *machine {
	s.Autoscale, s.Status, s.Generation, s.ReadyGeneration = true, deploy.Ready, 1, 1
	m := &machine{s: s, now: t0, window: time.Minute, idle: 10 * time.Minute, startDelay: 2 * time.Second, limit: 1}
	for range s.Goal() {
		m.up = append(m.up, &simulated{readyAt: t0})
	}
	return m
}

func (m *machine) ready() (n int) {
	for _, i := range m.up {
		if !i.readyAt.After(m.now) {
			n++
		}
	}
	return n
}

// arrive is a call that will run for d.
func (m *machine) arrive(d time.Duration) {
	m.load.Arrivals++
	m.load.InFlight++
	m.queue = append(m.queue, d)
	if len(m.up) == 0 {
		m.look() // the gateway knocks
	}
}

// look asks the scaler and follows it.
func (m *machine) look() {
	m.looked = m.now
	before := m.s.Goal()
	m.load.Waiting = len(m.queue)
	n, why := m.k.observe(m.s, facts{m.load, taking{m.ready(), m.limit}}, m.now, m.window, m.idle)
	if m.check != nil {
		m.check(before, n, why)
	}
	if n != m.s.Desired {
		m.changed = append(m.changed, m.now)
		m.s.Desired, m.s.ScaleMessage = n, why
	}
	for len(m.up) < m.s.Goal() {
		m.up = append(m.up, &simulated{readyAt: m.now.Add(m.startDelay)})
	}
	for len(m.up) > m.s.Goal() {
		last := m.up[len(m.up)-1]
		m.up = m.up[:len(m.up)-1]
		m.draining = append(m.draining, last)
	}
}

// step lets a moment pass.
func (m *machine) step() {
	m.now = m.now.Add(simStep)
	for _, i := range append(m.up, m.draining...) {
		kept := i.calls[:0]
		for _, end := range i.calls {
			if end.After(m.now) {
				kept = append(kept, end)
			} else {
				m.load.InFlight--
			}
		}
		i.calls = kept
	}
	for _, i := range m.up {
		for len(m.queue) > 0 && len(i.calls) < m.limit && !i.readyAt.After(m.now) {
			i.calls = append(i.calls, m.now.Add(m.queue[0]))
			m.queue = m.queue[1:]
		}
	}
	busy := m.draining[:0]
	for _, i := range m.draining {
		if len(i.calls) > 0 {
			busy = append(busy, i)
		}
	}
	m.draining = busy
	m.load.CallSeconds += float64(m.load.InFlight) * simStep.Seconds()
	m.instance += float64(len(m.up)+len(m.draining)) * simStep.Seconds()
	m.waited += float64(len(m.queue)) * simStep.Seconds()
	if m.now.Sub(m.looked) >= m.window/buckets {
		m.look()
	}
}

// run lets calls of the given length arrive evenly for a while.
func (m *machine) run(d time.Duration, perSecond float64, each time.Duration) {
	due := 0.0
	for end := m.now.Add(d); m.now.Before(end); m.step() {
		for due += perSecond * simStep.Seconds(); due >= 1; due-- {
			m.arrive(each)
		}
	}
}

// TestScalerKeepsItsPromises: bounds always; never down while what is under way needs
// the instances; a steady load ends at one number and stays there; and never asleep
// with a request in the house.
func TestScalerKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := deploy.Service{Number: 1, Desired: 1, Min: rapid.IntRange(0, 3).Draw(r, "min")}
		s.Max = s.Min + rapid.IntRange(1, 12).Draw(r, "more")
		if rapid.Bool().Draw(r, "has target") {
			s.Target = rapid.Float64Range(0.3, 3).Draw(r, "target")
		}
		m := newMachine(s)
		m.limit = rapid.IntRange(1, 4).Draw(r, "limit")
		m.startDelay = time.Duration(rapid.IntRange(0, 20_000).Draw(r, "start")) * time.Millisecond
		m.idle = time.Duration(rapid.IntRange(5, 300).Draw(r, "idle")) * time.Second
		m.check = func(before, after int, why string) {
			switch {
			case after < s.Min || after > s.Max:
				r.Fatalf("%d instances, out of %d to %d (%s)", after, s.Min, s.Max, why)
			case after < before && after < min(before, need(float64(m.load.InFlight), float64(m.limit))):
				r.Fatalf("%d → %d with %d calls in flight, %d per instance (%s)", before, after, m.load.InFlight, m.limit, why)
			case after == 0 && m.load.InFlight > 0:
				r.Fatalf("asleep with %d calls in the house", m.load.InFlight)
			case after == 0 && s.Min > 0:
				r.Fatal("asleep in spite of a minimum")
			}
		}
		for range rapid.IntRange(1, 3).Draw(r, "phases") {
			rate := float64(rapid.IntRange(0, 120).Draw(r, "calls in 10 s")) / 10
			each := time.Duration(rapid.IntRange(1, 30).Draw(r, "each")) * 50 * time.Millisecond
			m.run(4*m.window, rate, each)
			settled, area, n := len(m.changed), m.load.CallSeconds, m.s.Desired
			m.run(2*m.window, rate, each)
			c := (m.load.CallSeconds - area) / (2 * m.window).Seconds()
			if len(m.queue) > 0 && n == s.Max { // more than the maximum can take: it stays there
				if m.s.Desired != s.Max {
					r.Fatalf("%d instances with a queue; the maximum is %d", m.s.Desired, s.Max)
				}
				m.queue, m.load.InFlight = nil, m.load.InFlight-len(m.queue)
				continue
			}
			if rate > 0 && m.idle < time.Duration(1.2*float64(time.Second)/rate) {
				continue // it may sleep between two calls
			}
			if rate == 0 {
				m.run(m.idle, 0, 0)
				if m.s.Desired != s.Min {
					r.Fatalf("%d instances without a call; the minimum is %d", m.s.Desired, s.Min)
				}
				continue
			}
			if len(m.changed) > settled+1 { // the last step down may come late
				r.Fatalf("%d decisions on a load that had been steady for 4 windows (now %d: %s)", len(m.changed)-settled, m.s.Desired, m.s.ScaleMessage)
			}
			target := s.Target
			if target == 0 {
				target = utilisation * float64(m.limit)
			}
			low, high := need(c*0.97, target), max(need(c*tolerance*1.03, min(target, float64(m.limit))), 1)
			low, high = min(max(low, s.Min), s.Max), min(max(high, s.Min), s.Max)
			if m.s.Desired < low || m.s.Desired > high {
				r.Fatalf("%d instances for %.2f calls at a time, %.2f each; want %d to %d (%s)", m.s.Desired, c, target, low, high, m.s.ScaleMessage)
			}
		}
	})
}

// TestScalerShape: fast up, slow down, asleep after the idle time, awake at once.
func TestScalerShape(t *testing.T) {
	m := newMachine(deploy.Service{Number: 1, Desired: 1, Min: 0, Max: 10})
	m.run(10*time.Second, 0, 0)
	began := m.now
	m.run(20*time.Second, 6, time.Second) // 6 at a time
	if m.s.Desired < 8 {
		t.Errorf("20 s into a burst of 6 at a time: %d instances (%s)", m.s.Desired, m.s.ScaleMessage)
	}
	if first := m.changed[0].Sub(began); first > 3*time.Second {
		t.Errorf("the burst was heeded after %s", first)
	}
	m.run(2*time.Minute, 6, time.Second)
	peak, ended := m.s.Desired, m.now
	if peak != 9 && peak != 10 {
		t.Errorf("6 at a time at 0.7 each: %d instances, want 9, or 10 that stay", peak)
	}
	m.run(50*time.Second, 0, 0)
	if m.s.Desired != peak {
		t.Errorf("down to %d within %s", m.s.Desired, m.now.Sub(ended))
	}
	m.run(3*time.Minute, 0, 0)
	if m.s.Desired != 1 {
		t.Errorf("without a call for 4 min: %d instances, want 1 until it sleeps", m.s.Desired)
	}
	m.run(7*time.Minute, 0, 0)
	if m.s.Desired != 0 || !m.s.Asleep() || !strings.Contains(m.s.ScaleMessage, "no request for 10m") {
		t.Errorf("after the idle time: %d instances (%s)", m.s.Desired, m.s.ScaleMessage)
	}
	m.k = scaler{} // a new server
	m.run(5*time.Minute, 0, 0)
	if m.s.Desired != 0 {
		t.Errorf("a restart woke it: %s", m.s.ScaleMessage)
	}
	m.arrive(time.Second)
	if m.s.Desired != 1 || m.s.ScaleMessage != "a request waits" {
		t.Errorf("a call: %d instances (%s)", m.s.Desired, m.s.ScaleMessage)
	}
	m.run(5*time.Second, 0, 0)
	if m.load.InFlight != 0 {
		t.Error("the call that woke it was not answered")
	}
}

// TestScalerSlowStart: whoever called has left, the instance takes longer to start
// than a service may idle: it must be there for the next one all the same.
func TestScalerSlowStart(t *testing.T) {
	m := newMachine(deploy.Service{Number: 1, Desired: 0, Min: 0, Max: 2})
	m.idle, m.startDelay = 5*time.Second, 30*time.Second
	m.run(time.Minute, 0, 0)
	m.arrive(time.Second)
	m.queue, m.load.InFlight = nil, 0 // it left
	m.run(31*time.Second, 0, 0)
	if m.ready() != 1 {
		t.Fatalf("%d ready, %d wanted (%s)", m.ready(), m.s.Desired, m.s.ScaleMessage)
	}
	m.run(10*time.Second, 0, 0)
	if m.s.Desired != 0 {
		t.Errorf("idle for 10 s: %d instances", m.s.Desired)
	}
}

// TestScalerMissed: a call that another part of a split answered wakes the service, and
// keeps it awake no longer than any other call; it does so too when nobody looked at
// the service before.
func TestScalerMissed(t *testing.T) {
	m := newMachine(deploy.Service{Number: 1, Desired: 0, Min: 0, Max: 2})
	m.idle = 5 * time.Second
	m.run(time.Minute, 0, 0)
	m.load.Missed++
	m.look()
	if m.s.Desired != 1 || !strings.Contains(m.s.ScaleMessage, "as a part of a split") {
		t.Fatalf("%d wanted (%s)", m.s.Desired, m.s.ScaleMessage)
	}
	m.load.Missed++ // while it starts, say
	m.run(4*time.Second, 0, 0)
	m.load.Missed = 0 // there is an instance
	m.run(30*time.Second, 0, 0)
	if m.s.Desired != 0 {
		t.Errorf("idle for 30 s: %d instances (%s)", m.s.Desired, m.s.ScaleMessage)
	}
	m = newMachine(deploy.Service{Number: 1, Desired: 0, Min: 0, Max: 2})
	m.load.Missed = 7
	m.look()
	if m.s.Desired != 1 {
		t.Errorf("missed before the first look: %d wanted (%s)", m.s.Desired, m.s.ScaleMessage)
	}
}

// TestScalerUnderClockJumps: a clock that jumps is no reason to let anything go.
func TestScalerUnderClockJumps(t *testing.T) {
	m := newMachine(deploy.Service{Number: 4, Desired: 4, Min: 0, Max: 8})
	m.run(2*time.Minute, 2.6, time.Second)
	before := m.s.Desired
	for _, jump := range []time.Duration{time.Hour, -2 * time.Hour, 24 * time.Hour} {
		m.now = m.now.Add(jump)
		for _, i := range append(m.up, m.draining...) {
			for k := range i.calls {
				i.calls[k] = i.calls[k].Add(jump)
			}
			i.readyAt = i.readyAt.Add(min(jump, 0))
		}
		m.looked = m.looked.Add(min(jump, 0))
		m.look()
		if m.s.Desired != before {
			t.Errorf("a jump of %s: %d → %d (%s)", jump, before, m.s.Desired, m.s.ScaleMessage)
		}
		m.run(10*time.Second, 2.6, time.Second)
	}
}

// TestScalerRecords: what somebody else decided (a patch, an earlier server) holds
// for a window; a generation that never was READY keeps an instance.
func TestScalerRecords(t *testing.T) {
	m := newMachine(deploy.Service{Number: 1, Desired: 1, Min: 1, Max: 8})
	m.run(3*time.Minute, 0.5, time.Second)
	m.s.Desired = 5
	m.run(50*time.Second, 0.5, time.Second)
	if m.s.Desired != 5 {
		t.Errorf("a patch to 5 held for less than a window: %d (%s)", m.s.Desired, m.s.ScaleMessage)
	}
	m.run(30*time.Second, 0.5, time.Second)
	if m.s.Desired != 1 {
		t.Errorf("after the window: %d instances", m.s.Desired)
	}
	m = newMachine(deploy.Service{Number: 1, Desired: 1, Min: 0, Max: 8})
	m.s.Generation, m.idle = 2, 2*time.Second
	m.run(time.Minute, 0, 0)
	if m.s.Desired != 1 {
		t.Errorf("a generation that was never READY has %d instances", m.s.Desired)
	}
}
