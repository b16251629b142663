// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"panal/internal/authn"
	"panal/internal/deploy"
	"panal/internal/plat"
	"panal/internal/runner"
)

// Tokens is what the reconciler needs of authn.Store.
type Tokens interface {
	CreateToken(ctx context.Context, t authn.Token) error
	EndWorkloadTokens(ctx context.Context, w plat.WorkloadID, at, expires time.Time) error
}

// Config is what a Controller stands on. All fields without a default are needed.
type Config struct {
	Log    *slog.Logger
	Now    plat.Clock
	Store  deploy.Store
	Models deploy.Models
	Runner runner.Runner
	Tokens Tokens
	Routes Routes
	// IngestSpool stores the log lines that the agent of a workload that has ended
	// could not ship. Lines that are stored already are dropped by their numbers,
	// so that a repeat stores nothing twice. The workload's own user can have
	// written the batches: whoever stores them holds them to st.ID and st.LogStream.
	IngestSpool func(ctx context.Context, st runner.Status, batches []runner.SpoolBatch) error
	// Commands returns why services can't run commands here, if they can't
	// (deploy.Config.Commands); nil: they can.
	Commands func(ctx context.Context) error
	// APIURL is where workloads reach the API.
	APIURL string

	// Resync is how often everything is looked at without being asked, a page at a
	// time: default 5 s, and less often when there is more than pages hold (walk.go).
	Resync time.Duration
	// StartLimit is how long an instance may take to become healthy; default 15 min.
	StartLimit time.Duration
	// SickLimit is how long an instance that was healthy may fail its health check
	// before it is replaced; default 1 min.
	SickLimit time.Duration
	// DrainLimit is how long a draining instance may go on with the requests it
	// has; default 10 min. Then streams that it still answers with are ended.
	DrainLimit time.Duration
	// ScaleWindow is the time over which load is averaged to scale up, and for which
	// it must have fallen to scale down; default 1 min. Bursts are seen in a tenth.
	ScaleWindow time.Duration
	// SleepAfter is how long a service with a minimum of 0 is kept awake without a
	// request, if it does not say itself; default 10 min.
	SleepAfter time.Duration
	// Metrics takes the collectors; default: none are registered.
	Metrics prometheus.Registerer
}

const (
	// stopGrace is how long a workload may take to end (compute.md §13.5: ≥ 35 s).
	stopGrace = 40 * time.Second
	// tokenGrace is how long a container token is good for logs after its workload
	// ended.
	tokenGrace = time.Hour
	// parallel is how many services are looked after at once.
	parallel = 4
	// endLimit is how long streams may take to end once they are told to.
	endLimit = 5 * time.Second
	// primeLimit bounds the wait for the next of the instances that were healthy to be so
	// again after a restart, be they thousands.
	primeLimit = 2 * time.Second
	// publishLimit bounds the reading of one deployment's records.
	publishLimit = 10 * time.Second
)

// Controller drives services and their routes. It implements deploy.Publisher.
// Call Prime, then Run; Publish may be called at any time.
type Controller struct {
	Config
	reg *registry

	mu      sync.Mutex
	todo    map[plat.ServiceID]bool
	stale   map[plat.DeploymentID]time.Time // routes that are behind: when to try again
	wake    chan struct{}                   // capacity 1
	due     map[plat.ServiceID]time.Time
	starved map[plat.ServiceID]bool
	sick    map[plat.WorkloadID]time.Time // since when
	drains  map[plat.WorkloadID]*drain
	logged  map[string]string
	scaling *scaling
	ends    ends
	bg      sync.WaitGroup

	walk walk // of Prime, then of Run
}

// drain follows the requests of an instance that leaves.
type drain struct {
	done  bool
	until time.Time
}

var _ deploy.Publisher = (*Controller)(nil)

// New returns a Controller.
func New(c Config) *Controller {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.Resync, 5*time.Second)
	def(&c.StartLimit, 15*time.Minute)
	def(&c.SickLimit, time.Minute)
	def(&c.DrainLimit, 10*time.Minute)
	def(&c.ScaleWindow, time.Minute)
	def(&c.SleepAfter, 10*time.Minute)
	reg := newRegistry(c.Routes, c.Store)
	return &Controller{
		Config: c, reg: reg, scaling: newScaling(c.Metrics, reg.sleeping), todo: map[plat.ServiceID]bool{}, wake: make(chan struct{}, 1),
		stale: map[plat.DeploymentID]time.Time{},
		due:   map[plat.ServiceID]time.Time{}, starved: map[plat.ServiceID]bool{}, sick: map[plat.WorkloadID]time.Time{},
		drains: map[plat.WorkloadID]*drain{}, logged: map[string]string{},
	}
}

// Publish implements deploy.Publisher. It also has the services looked at that changed.
func (c *Controller) Publish(ctx context.Context, dep plat.DeploymentID) error {
	// The record is committed: a caller that hangs up now must not leave the
	// routes behind it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishLimit)
	defer cancel()
	changed, err := c.reg.publish(ctx, dep)
	if err != nil {
		c.mu.Lock()
		c.stale[dep] = c.Now().Add(time.Second)
		c.mu.Unlock()
		c.poke()
		return err
	}
	c.queue(changed...)
	return nil
}

// queue has services looked at soon.
func (c *Controller) queue(ids ...plat.ServiceID) {
	c.mu.Lock()
	for _, id := range ids {
		if id != "" {
			c.todo[id] = true
		}
	}
	c.mu.Unlock()
	c.poke()
}

func (c *Controller) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run reconciles until ctx ends. Workloads go on then.
func (c *Controller) Run(ctx context.Context) error {
	defer c.bg.Wait()
	c.bg.Go(func() { c.follow(ctx) })
	load := time.NewTicker(c.ScaleWindow / buckets)
	defer load.Stop()
	timer, page := time.NewTimer(0), time.NewTimer(0)
	defer timer.Stop()
	defer page.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-load.C:
			c.watchLoad()
		case <-c.Routes.Knocks():
			c.knocked()
		case <-timer.C:
		case <-page.C:
			c.report(ctx, "walk", c.look(ctx))
			page.Reset(time.Until(c.walk.next))
		}
		c.pass(ctx)
		if next, ok := c.next(); ok {
			timer.Reset(time.Until(next))
		}
	}
}

// follow routes the news of the runner at once, and has the services looked at.
func (c *Controller) follow(ctx context.Context) {
	for id := range c.Runner.Watch(ctx) {
		st, service, err := c.reg.refresh(ctx, c.Runner, id)
		if err != nil && !errors.Is(err, plat.ErrNotFound) {
			service = "" // the resync asks again
		}
		c.queue(service)
		if st.Phase == runner.PhaseExited { // room for those who wait for it
			c.mu.Lock()
			for id := range c.starved {
				c.todo[id] = true
			}
			c.mu.Unlock()
			c.poke()
		}
	}
}

// next returns when the first back-off ends.
func (c *Controller) next() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var first time.Time
	soonest := func(t time.Time) {
		if first.IsZero() || t.Before(first) {
			first = t
		}
	}
	for _, t := range c.due {
		soonest(t)
	}
	for _, t := range c.stale {
		soonest(t)
	}
	return first, !first.IsZero()
}

// take returns what is to be looked at: the queue, and what is due.
func (c *Controller) take() (ids []plat.ServiceID, routes []plat.DeploymentID) {
	now := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, t := range c.due {
		if !now.Before(t) {
			delete(c.due, id)
			c.todo[id] = true
		}
	}
	for dep, t := range c.stale {
		if !now.Before(t) {
			delete(c.stale, dep)
			routes = append(routes, dep)
		}
	}
	for id := range c.todo {
		ids = append(ids, id)
	}
	clear(c.todo)
	return ids, routes
}

// pass looks at every service that needs it. What fails for one is logged and tried
// again.
func (c *Controller) pass(ctx context.Context) {
	ids, routes := c.take()
	var group errgroup.Group
	group.SetLimit(parallel)
	for _, dep := range routes {
		group.Go(func() error {
			c.route(ctx, dep)
			return nil
		})
	}
	for _, id := range ids {
		group.Go(func() error {
			c.report(ctx, string(id), c.reconcile(ctx, id), slog.String(plat.LogService, string(id)))
			return nil
		})
	}
	_ = group.Wait() // nil
}

// bury stores what an ended workload leaves and forgets it.
func (c *Controller) bury(ctx context.Context, st runner.Status) error {
	spool, err := c.Runner.Spool(ctx, st.ID)
	if err != nil && !errors.Is(err, plat.ErrNotFound) {
		return fmt.Errorf("read spool: %w", err)
	}
	if len(spool) > 0 {
		if err := c.IngestSpool(ctx, st, spool); err != nil {
			return fmt.Errorf("store spooled log lines: %w", err)
		}
	}
	now := c.Now()
	if err := c.Tokens.EndWorkloadTokens(ctx, st.ID, now, now.Add(tokenGrace)); err != nil {
		return fmt.Errorf("end tokens: %w", err)
	}
	if err := c.Runner.Remove(ctx, st.ID); err != nil {
		return fmt.Errorf("remove workload: %w", err)
	}
	return nil
}

// report logs an error about a subject, once until it changes.
func (c *Controller) report(ctx context.Context, subject string, err error, attrs ...slog.Attr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		delete(c.logged, subject)
		return
	}
	if text := err.Error(); ctx.Err() == nil && c.logged[subject] != text {
		if len(c.logged) > 10_000 {
			clear(c.logged)
		}
		c.logged[subject] = text
		c.Log.LogAttrs(ctx, slog.LevelError, "service could not be reconciled", append(attrs, slog.String(plat.LogError, text))...)
	}
}
