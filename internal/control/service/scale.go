// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"math"
	"time"

	"panal/internal/dataplane"
	"panal/internal/deploy"
)

// The shape of the scaler (docs/adr/0021-autoscaling.md): Knative's, with HPA's
// stabilisation and tolerance on the way down.
const (
	// buckets make a window, and the last quick of them the one that sees bursts.
	buckets, quick = 60, 6
	// utilisation is the part of an instance's workers that is meant to be busy, for
	// a service that sets no target.
	utilisation = 0.7
	// burst is how many times the concurrency that is meant for the instances a quick
	// window must see to be heeded.
	burst = 2
	// tolerance keeps an average on the edge between two numbers from moving them.
	tolerance = 1.1
)

// scaler decides how many instances one service wants. It has no clock of its own.
type scaler struct {
	at      time.Time        // end of the last bucket; zero before the first look
	base    dataplane.Load   // as of then
	last    dataplane.Load   // as of the last look
	average [buckets]float64 // concurrency in each bucket
	asked   [buckets]int     // the most instances that each bucket asked for
	next    int              // the oldest bucket
	desired int              // as of the last look
	active  time.Time        // when there was last a call, or no instance to take one
	wokeAt  time.Time        // when a wake-up began that has no instance yet
	limit   int              // calls that an instance takes at a time, as last seen
}

// facts are what a scaler sees of a service at one moment.
type facts struct {
	load dataplane.Load
	taking
}

// taking is what takes the calls of a service.
type taking struct {
	ready int // instances
	limit int // calls at a time of each; 0: not known, as there is none
}

// observe takes the facts up and returns how many instances the service wants now,
// and why. window is the time that all buckets cover; idle how long a service
// without calls stays awake.
func (k *scaler) observe(s deploy.Service, f facts, now time.Time, window, idle time.Duration) (int, string) {
	goal := s.Goal()
	if k.at.IsZero() {
		*k = scaler{at: now, base: f.load, last: f.load, active: now, desired: goal, limit: 1}
		for i := range k.asked {
			k.asked[i] = goal // what was decided before counts for one window
		}
	}
	k.limit = max(k.limit, 1)
	if f.limit > 0 {
		k.limit = f.limit
	}
	if f.load.Arrivals < k.last.Arrivals { // the gateway counts anew
		k.base, k.last = dataplane.Load{}, dataplane.Load{}
	}
	k.advance(f.load, now, window)
	if f.load.InFlight > 0 || f.load.Arrivals != k.last.Arrivals || goal > 0 && f.ready == 0 || !s.Rolled() || k.active.After(now) {
		k.active = now
	}
	k.last = f.load
	if goal != k.desired { // somebody else's decision
		k.ask(goal)
	}
	k.desired = goal
	return k.decide(s, goal, now, window, idle)
}

// advance closes the buckets that have ended.
func (k *scaler) advance(l dataplane.Load, now time.Time, window time.Duration) {
	passed := now.Sub(k.at)
	if passed < 0 {
		k.at, k.base = now, l
		return
	}
	n := int(passed / (window / buckets))
	if n == 0 {
		return
	}
	if n > quick { // nobody looked, or the clock jumped: that proves no quiet
		n, k.active = quick, k.active.Add(passed)
	}
	average := max(l.CallSeconds-k.base.CallSeconds, 0) / passed.Seconds()
	for range n {
		k.average[k.next], k.asked[k.next] = average, 0
		k.next = (k.next + 1) % buckets
	}
	k.at, k.base = now, l
}

// ask notes what the newest bucket asks for.
func (k *scaler) ask(n int) {
	newest := (k.next + buckets - 1) % buckets
	k.asked[newest] = max(k.asked[newest], n)
}

// quiet tells that there was no call in the whole window: a new scaler would say the
// same of a service that has no instance to lose.
func (k *scaler) quiet() bool {
	return k.last.InFlight == 0 && k.last.Arrivals == k.base.Arrivals && k.average == [buckets]float64{} && k.wokeAt.IsZero()
}

// averages returns the concurrency over the window, and over its last part.
func (k *scaler) averages() (whole, recent float64) {
	for i := range buckets {
		v := k.average[(k.next+i)%buckets]
		whole += v
		if i >= buckets-quick {
			recent += v
		}
	}
	return whole / buckets, recent / quick
}

func (k *scaler) decide(s deploy.Service, goal int, now time.Time, window, idle time.Duration) (int, string) {
	target := s.Target
	if target == 0 {
		target = utilisation * float64(k.limit)
	}
	whole, recent := k.averages()
	over := window
	want := need(whole, target)
	// A target above what instances take at a time lets calls queue, and a queue that
	// an instance less would bring back is no reason to have one less.
	k.ask(need(whole*tolerance, min(target, float64(k.limit))))
	if n := need(recent, target); n > want && recent >= burst*float64(goal)*target {
		want, whole, over = n, recent, window*quick/buckets
		k.ask(n)
	}
	why := fmt.Sprintf("%.2f requests at a time over %s, %.2f per instance", whole, over, target)
	if want < goal {
		for _, n := range k.asked {
			want = max(want, min(n, goal))
		}
		// What is under way right now needs its instances, whatever the averages say.
		want = max(want, min(need(float64(k.last.InFlight), float64(k.limit)), goal))
	}
	quiet := now.Sub(k.active)
	switch {
	case s.Min > 0:
	case !s.Rolled(): // it shows whether it works before it may sleep
		want = max(want, 1)
	case goal == 0 && k.last.InFlight > 0:
		want, why = max(want, 1), "a request waits"
	case goal == 0 && k.last.Missed > 0:
		want, why = max(want, 1), "a request was for it, as a part of a split, and is answered by another"
	case goal == 0:
		return 0, s.ScaleMessage // asleep
	case quiet >= idle:
		return 0, fmt.Sprintf("no request for %s", idle)
	default:
		want = max(want, 1)
	}
	switch {
	case want > s.Max:
		want, why = s.Max, why+fmt.Sprintf(": %d, of which max_instance_number allows %d", want, s.Max)
	case want < s.Min:
		want = s.Min
	}
	return want, why
}

// need is how many instances a concurrency takes.
func need(concurrency, target float64) int {
	return int(math.Ceil(min(concurrency/target, 2*deploy.MaxNumber) - 1e-9))
}
