// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"panal/internal/plat"
	"panal/internal/runner"
)

// What is told to the controller (a change of the records, the end of an instance, a
// call that waits) it acts on at once, and it is told of nearly everything. The walk is
// the net below: it reads all records again, a page at a time and at a pace that
// costs little however many there are, compares them with what is known and with
// what the runner says, and has the services looked after that differ or are not as they
// are meant to be. Nothing depends on having been told (docs/adr/0024-*).

// walk is how far the walk has come.
type walk struct {
	under bool              // a round is under way
	after plat.DeploymentID // the last one that it has come by
	began time.Time         // the round
	next  time.Time         // when the next page is due
}

const (
	// pageServices is how many services a page has, about, and pageEvery how often one
	// is read: 100 services a second, in pieces that hold no request up.
	pageServices = 100
	pageEvery    = time.Second
	// primePage is a page of the first round, which nobody has to wait behind.
	primePage = 2000
)

// Prime fills the routes from the records and the runner, before requests are
// accepted: instances that went on while the server was away answer at once.
func (c *Controller) Prime(ctx context.Context) error {
	c.reg.begin()
	var missing []plat.WorkloadID
	for after := plat.DeploymentID(""); ; {
		page, last, err := c.reg.read(ctx, after, primePage)
		if err != nil {
			return err
		}
		for _, d := range page {
			for _, i := range d.Instances {
				c.reg.add(i)
				if _, _, err := c.reg.refresh(ctx, c.Runner, i.Workload); err != nil && !errors.Is(err, plat.ErrNotFound) {
					return fmt.Errorf("find instance %s: %w", i.Workload, err)
				}
				if c.reg.missing(i.Workload) {
					missing = append(missing, i.Workload)
				}
			}
		}
		c.queue(c.reg.unsettled(page)...)
		if after = last; after == "" {
			break
		}
	}
	for deadline := time.Now().Add(primeLimit); len(missing) > 0 && time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		still := missing[:0]
		for _, id := range missing {
			if _, _, err := c.reg.refresh(ctx, c.Runner, id); err != nil && !errors.Is(err, plat.ErrNotFound) {
				return fmt.Errorf("find instance %s: %w", id, err)
			}
			if c.reg.missing(id) {
				still = append(still, id)
			}
		}
		if len(still) < len(missing) {
			deadline = time.Now().Add(primeLimit)
		}
		missing = still
	}
	c.reg.fill()
	return nil
}

// look reads the next page. After an error it is read again.
func (c *Controller) look(ctx context.Context) error {
	now := time.Now()
	c.walk.next = now.Add(pageEvery)
	if !c.walk.under {
		if err := c.tidy(ctx); err != nil {
			return err
		}
		c.walk.under, c.walk.began = true, now
	}
	page, last, err := c.reg.read(ctx, c.walk.after, pageServices)
	if err != nil {
		return err
	}
	for _, d := range page {
		for _, i := range d.Instances {
			if _, _, err := c.reg.refresh(ctx, c.Runner, i.Workload); err != nil && !errors.Is(err, plat.ErrNotFound) {
				return fmt.Errorf("find instance %s: %w", i.Workload, err)
			}
		}
	}
	c.queue(c.reg.unsettled(page)...)
	if c.walk.after = last; last == "" { // the round is over
		c.walk.under = false
		if next := c.walk.began.Add(c.Resync); next.After(c.walk.next) {
			c.walk.next = next
		}
	}
	return nil
}

// tidy begins a round: it looks after what is in no page. Deployments and services of
// which nothing is on record any more, and workloads that are no instances (a database
// that was restored, say).
func (c *Controller) tidy(ctx context.Context) error {
	list, err := c.Runner.List(ctx) // before what is known: what runs has a record already
	if err != nil {
		return fmt.Errorf("list workloads: %w", err)
	}
	deps, services := c.reg.begin()
	for _, dep := range deps {
		c.route(ctx, dep)
	}
	c.queue(services...)
	for _, st := range list {
		if st.Kind != runner.KindService || c.reg.knows(st.ID) {
			continue
		}
		i, err := c.Store.Instance(ctx, st.ID)
		switch {
		case err == nil:
			c.queue(i.Service)
			continue
		case !errors.Is(err, plat.ErrNotFound):
			return fmt.Errorf("find instance %s: %w", st.ID, err)
		case st.Phase == runner.PhaseExited:
			err = c.bury(ctx, st)
		default:
			err = c.Runner.Stop(ctx, st.ID, stopGrace)
		}
		c.report(ctx, string(st.ID), err, slog.String(plat.LogWorkload, string(st.ID)))
	}
	return nil
}
