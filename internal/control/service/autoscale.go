// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"panal/internal/deploy"
	"panal/internal/plat"
)

// scaling is the scalers of the services whose load is watched, and what they count.
type scaling struct {
	mu      sync.Mutex
	scalers map[plat.ServiceID]*scaler

	decisions *prometheus.CounterVec
	wakes     prometheus.Histogram
}

// directions of decisions: the label's values.
const (
	scaleUp    = "up"
	scaleDown  = "down"
	scaleSleep = "sleep"
	scaleWake  = "wake"
)

func newScaling(reg prometheus.Registerer, asleep func() float64) *scaling {
	sc := &scaling{
		scalers: map[plat.ServiceID]*scaler{},
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "panal_scale_decisions_total", Help: "Changes of the number of instances that a service wants, by direction.",
		}, []string{"direction"}),
		wakes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "panal_scale_wake_seconds", Help: "Time from a request to a sleeping service to its first ready instance.",
			Buckets: []float64{.25, .5, 1, 2, 4, 8, 15, 30, 60, 120, 300},
		}),
	}
	for _, d := range []string{scaleUp, scaleDown, scaleSleep, scaleWake} {
		sc.decisions.WithLabelValues(d)
	}
	if reg != nil {
		reg.MustRegister(sc.decisions, sc.wakes, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "panal_services_asleep", Help: "Services that have no instances until somebody calls them.",
		}, asleep))
	}
	return sc
}

// consider looks at the load of a service and returns how many instances it wants,
// and why. A service that is not scaled wants what it has.
func (c *Controller) consider(s deploy.Service, f taking) (int, string) {
	if !s.Autoscale || s.Status == deploy.Stopped || s.Status == deploy.Failed {
		return s.Desired, s.ScaleMessage
	}
	l, ok := c.Routes.Load(s.Deployment, s.ID)
	if !ok { // not routed yet: nothing can be said
		return s.Desired, s.ScaleMessage
	}
	now := c.Now()
	c.scaling.mu.Lock()
	defer c.scaling.mu.Unlock()
	k := c.scaling.scalers[s.ID]
	if k == nil {
		k = &scaler{}
		c.scaling.scalers[s.ID] = k
	}
	if f.ready > 0 && !k.wokeAt.IsZero() {
		c.scaling.wakes.Observe(now.Sub(k.wokeAt).Seconds())
		k.wokeAt = time.Time{}
	}
	idle := s.IdleTimeout
	if idle == 0 {
		idle = c.SleepAfter
	}
	return k.observe(s, facts{l, f}, now, c.ScaleWindow, idle)
}

// Taking tells whether an instance takes requests right now.
func (c *Controller) Taking(w plat.WorkloadID) bool { return c.reg.takes(w) }

// watchLoad looks at the load of the services that it may move: those that were called
// since the last look or in the window before it, and those that quiet would take
// instances from. It queues the ones that want another number, and asks no database.
func (c *Controller) watchLoad() {
	ids := c.Routes.Called()
	c.scaling.mu.Lock()
	for id := range c.scaling.scalers {
		ids = append(ids, id)
	}
	c.scaling.mu.Unlock()
	all := c.reg.watched(ids)
	for id, w := range all {
		if n, _ := c.consider(w.Service, w.taking); n != w.Desired {
			c.queue(id)
		}
	}
	c.scaling.mu.Lock()
	defer c.scaling.mu.Unlock()
	for _, id := range ids {
		if k := c.scaling.scalers[id]; k != nil {
			if w, ok := all[id]; !ok || !w.above && k.quiet() {
				delete(c.scaling.scalers, id)
			}
		}
	}
}

// knocked queues the sleeping services that somebody calls.
func (c *Controller) knocked() {
	for _, id := range c.Routes.Knocked() {
		if c.reg.sleeps(id) {
			c.queue(id)
		}
	}
}

// scale records how many instances the service wants. Fewer is put off while
// asynchronous calls are open that the gateway no longer sees.
func (c *Controller) scale(ctx context.Context, s *deploy.Service, up []view) error {
	n, why := c.consider(*s, c.reg.taking(s.ID))
	goal := s.Goal()
	if n < goal {
		open, err := c.openAsync(ctx, up)
		if err != nil {
			return err
		}
		if open > 0 {
			n = c.busy(s.ID, n, goal, open)
		}
	}
	if n == s.Desired {
		return nil
	}
	before, now := *s, c.Now()
	next, err := c.Store.UpdateService(ctx, s.ID, func(cur *deploy.Service) error {
		if cur.Generation != before.Generation || cur.Desired != before.Desired || cur.Min != before.Min || cur.Max != before.Max ||
			cur.Autoscale != before.Autoscale || cur.Status == deploy.Stopped || cur.Status == deploy.Failed {
			return errStale
		}
		cur.Desired, cur.ScaleMessage, cur.ScaledAt = n, why, now
		return nil
	})
	switch {
	case errors.Is(err, plat.ErrNotFound):
		return errStale
	case err != nil:
		return fmt.Errorf("record the scale: %w", err)
	}
	*s = next
	c.route(ctx, s.Deployment) // the registry's copy decides who is woken
	direction := scaleUp
	switch {
	case goal == 0:
		direction = scaleWake
		c.scaling.mu.Lock()
		if k := c.scaling.scalers[s.ID]; k != nil {
			k.wokeAt = now
		}
		c.scaling.mu.Unlock()
	case n == 0:
		direction = scaleSleep
	case n < goal:
		direction = scaleDown
	case n == goal: // only the record was out of bounds
		return nil
	}
	c.scaling.decisions.WithLabelValues(direction).Inc()
	return nil
}

// busy says how many instances a service keeps that works on open calls.
func (c *Controller) busy(id plat.ServiceID, n, goal, open int) int {
	c.scaling.mu.Lock()
	defer c.scaling.mu.Unlock()
	k := c.scaling.scalers[id]
	if k == nil {
		return goal
	}
	k.active = c.Now()
	return max(n, min(goal, need(float64(open), float64(k.limit))))
}

// openAsync counts the asynchronous calls that instances took and have not answered.
func (c *Controller) openAsync(ctx context.Context, up []view) (int, error) {
	open := 0
	for _, v := range up {
		n, err := c.Store.CountOpenAsync(ctx, v.Workload)
		if err != nil {
			return 0, fmt.Errorf("count asynchronous calls: %w", err)
		}
		open += n
	}
	return open, nil
}
