// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"panal/internal/dataplane"
	"panal/internal/deploy"
	"panal/internal/plat"
	"panal/internal/runner"
)

// errStale says that the record changed under the reconciler's feet.
var errStale = errors.New("service changed meanwhile")

// reconcile takes the steps that are due for one service.
func (c *Controller) reconcile(ctx context.Context, id plat.ServiceID) error {
	err := c.step(ctx, id)
	if errors.Is(err, errStale) {
		c.queue(id)
		return nil
	}
	if err != nil {
		c.again(id, time.Second)
	}
	return err
}

// again has a service looked at after a while.
func (c *Controller) again(id plat.ServiceID, after time.Duration) {
	t := c.Now().Add(after)
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.due[id]; !ok || t.Before(old) {
		c.due[id] = t
	}
}

func (c *Controller) step(ctx context.Context, id plat.ServiceID) error {
	instances, err := c.Store.Instances(ctx, id)
	if err != nil {
		return fmt.Errorf("read instances: %w", err)
	}
	s, err := c.Store.Service(ctx, id)
	gone := errors.Is(err, plat.ErrNotFound)
	if err != nil && !gone {
		return fmt.Errorf("read service: %w", err)
	}
	if gone {
		s = deploy.Service{ID: id, Status: deploy.Stopped}
	}
	c.reg.keep(id, instances)
	var up []view
	var errs []error
	for _, i := range instances {
		v, keep, err := c.inspect(ctx, &s, i)
		if err != nil {
			errs = append(errs, fmt.Errorf("instance %s: %w", i.Workload, err))
		}
		if keep {
			up = append(up, v)
		}
	}
	if !gone {
		if err := c.scale(ctx, &s, up); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	now := c.Now()
	d := decide(s, up, now)
	for _, w := range d.drain {
		for _, v := range up {
			if v.Workload == w {
				errs = append(errs, c.leave(ctx, s, v.Instance))
			}
		}
	}
	if gone {
		return errors.Join(errs...)
	}
	if d.start > 0 {
		if err := c.start(ctx, &s, d); err != nil {
			errs = append(errs, err)
		}
	} else if wait := s.BacksOff(now); wait > 0 && s.Status != deploy.Stopped && s.Status != deploy.Failed {
		c.again(id, wait)
	}
	if d.start == 0 {
		c.feed(id)
	}
	errs = append(errs, c.settle(ctx, s, d))
	return errors.Join(append(errs, c.explain(ctx, s, up))...)
}

// explain has the status message of a service that waits for an instance say what the
// instance says: the oldest that is not healthy, unless a failure tells more. Its last
// lines are as of the moment when its first one changed.
func (c *Controller) explain(ctx context.Context, s deploy.Service, up []view) error {
	if s.Status != deploy.InProgress || s.Failures > 0 {
		return nil
	}
	k := slices.IndexFunc(up, func(v view) bool { return v.Generation == s.Generation && !v.healthy && v.problem != "" })
	if k < 0 {
		return nil
	}
	text := message("an instance is not ready: " + up[k].problem)
	same := func(s *deploy.Service) bool { return firstLine(s.StatusMessage) == firstLine(text) }
	if same(&s) {
		return nil
	}
	_, err := c.Store.UpdateService(ctx, s.ID, func(cur *deploy.Service) error {
		if cur.Generation != s.Generation || cur.Status != deploy.InProgress || cur.Failures > 0 || same(cur) {
			return errUnchanged
		}
		cur.StatusMessage, cur.ModifiedAt = text, c.Now()
		return nil
	})
	if errors.Is(err, errUnchanged) || errors.Is(err, plat.ErrNotFound) {
		return nil
	}
	return err
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// feed notes that a service waits for no room, and tells whether it did.
func (c *Controller) feed(id plat.ServiceID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	starved := c.starved[id]
	delete(c.starved, id)
	return starved
}

// inspect brings one instance forward: it notes what the runner says, ends what
// is sick or drained, and cleans up after what has ended. keep tells that the
// instance is up. s is updated when an end changes it.
func (c *Controller) inspect(ctx context.Context, s *deploy.Service, i deploy.Instance) (view, bool, error) {
	c.reg.add(i)
	st, _, err := c.reg.refresh(ctx, c.Runner, i.Workload)
	lost := errors.Is(err, plat.ErrNotFound)
	if err != nil && !lost {
		return view{Instance: i}, i.State == deploy.InstanceUp, err // unknown: don't replace it
	}
	now := c.Now()
	switch {
	case lost: // never started, or the machine forgot it: there is nothing to keep
		if err := c.Tokens.EndWorkloadTokens(ctx, i.Workload, now, now); err != nil {
			return view{}, false, fmt.Errorf("end tokens: %w", err)
		}
		return view{}, false, c.forget(ctx, i)
	case st.Phase == runner.PhaseExited:
		if i.State == deploy.InstanceUp {
			reason := st.Reason
			if reason == "" {
				reason = fmt.Sprintf("it ended by itself with code %d", st.ExitCode)
			}
			if err := c.failed(ctx, s, i, reason); err != nil {
				return view{Instance: i}, true, err // not replaced before it is on record
			}
			c.ends.add(i, now, st.ExitCode, reason)
			i.State = deploy.InstanceStopping
			if err := c.Store.UpdateInstance(ctx, i); err != nil {
				return view{}, false, fmt.Errorf("record the end: %w", err)
			}
			c.reg.add(i)
		}
		if err := c.bury(ctx, st); err != nil {
			return view{}, false, err
		}
		return view{}, false, c.forget(ctx, i)
	case i.State == deploy.InstanceDraining:
		return view{}, false, c.drained(ctx, *s, i)
	case i.State == deploy.InstanceStopping:
		if !st.Stopped { // the server ended between record and call
			err = c.Runner.Stop(ctx, i.Workload, stopGrace)
		}
		return view{}, false, err
	}
	return c.check(ctx, s, i, st)
}

// check looks at an instance that is up and alive.
func (c *Controller) check(ctx context.Context, s *deploy.Service, i deploy.Instance, st runner.Status) (view, bool, error) {
	now := c.Now()
	healthy := st.Phase == runner.PhaseRunning && st.Healthy
	if healthy && i.ReadyAt.IsZero() {
		i.ReadyAt = now
		if err := c.Store.UpdateInstance(ctx, i); err != nil {
			return view{Instance: i}, true, fmt.Errorf("record readiness: %w", err)
		}
		c.reg.add(i)
	}
	since, limit, why := i.CreatedAt, c.StartLimit, "it was not ready within %s of its start"
	c.mu.Lock()
	if healthy {
		delete(c.sick, i.Workload)
	} else if !i.ReadyAt.IsZero() || since.After(now) {
		// What is after now is of a clock that was set back since.
		if at := c.sick[i.Workload]; at.IsZero() || at.After(now) {
			c.sick[i.Workload] = now
		}
		since = c.sick[i.Workload]
		if !i.ReadyAt.IsZero() {
			limit, why = c.SickLimit, "it failed its health check for %s"
		}
	}
	c.mu.Unlock()
	if healthy || now.Sub(since) < limit {
		if !healthy {
			c.again(i.Service, since.Add(limit).Sub(now))
		}
		return view{i, healthy, st.Problem}, true, nil
	}
	reason := fmt.Sprintf(why, limit)
	if st.Problem != "" {
		reason += ": " + st.Problem
	}
	if err := c.failed(ctx, s, i, reason); err != nil {
		return view{Instance: i}, true, err
	}
	c.ends.add(i, now, -1, reason)
	return view{}, false, c.leave(ctx, *s, i)
}

// failed records that an instance which should be up is not.
func (c *Controller) failed(ctx context.Context, s *deploy.Service, i deploy.Instance, reason string) error {
	if s.Status == deploy.Stopped || s.Status == deploy.Failed || i.Generation != s.Generation {
		return nil
	}
	now := c.Now()
	next, err := c.Store.UpdateService(ctx, s.ID, func(s *deploy.Service) error {
		fail(s, i, reason, now)
		return nil
	})
	switch {
	case errors.Is(err, plat.ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("record failure: %w", err)
	}
	if next.Status == deploy.Failed && s.Status != deploy.Failed {
		c.route(ctx, next.Deployment)
	}
	*s = next
	return nil
}

// route brings the routes up to date after a change of the records.
func (c *Controller) route(ctx context.Context, dep plat.DeploymentID) {
	c.report(ctx, "routes of "+string(dep), c.Publish(ctx, dep))
}

// forget deletes the record of an instance of which nothing is left.
func (c *Controller) forget(ctx context.Context, i deploy.Instance) error {
	if err := c.Store.DeleteInstance(ctx, i.Workload); err != nil {
		return fmt.Errorf("forget instance: %w", err)
	}
	c.reg.remove(i.Workload)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sick, i.Workload)
	delete(c.drains, i.Workload)
	return nil
}

// leave takes an instance out of the routes and begins to drain it.
func (c *Controller) leave(ctx context.Context, s deploy.Service, i deploy.Instance) error {
	i.State = deploy.InstanceDraining
	if err := c.Store.UpdateInstance(ctx, i); err != nil {
		return fmt.Errorf("drain instance %s: %w", i.Workload, err)
	}
	c.reg.add(i)
	return c.drained(ctx, s, i)
}

// drained tells an instance to end once its last request has been answered, or ended
// after the drain's time; of a
// service that goes on also the asynchronous ones, which the gateway does not see. It
// does not wait: whoever waits has the service looked at again.
func (c *Controller) drained(ctx context.Context, s deploy.Service, i deploy.Instance) error {
	c.mu.Lock()
	d := c.drains[i.Workload]
	done := d != nil && d.done
	if d == nil {
		d = &drain{until: c.Now().Add(c.DrainLimit)}
		c.drains[i.Workload] = d
		why := dataplane.EndReplaced
		if s.Status == deploy.Stopped {
			why = dataplane.EndStopped
		}
		c.bg.Go(func() {
			limited, cancel := context.WithTimeout(ctx, c.DrainLimit)
			defer cancel()
			if c.Routes.Drained(limited, i.Workload) != nil && ctx.Err() == nil { // its time is up
				c.Routes.End(i.Workload, why)
				limited, cancel := context.WithTimeout(ctx, endLimit)
				defer cancel()
				_ = c.Routes.Drained(limited, i.Workload) // what goes on now ends with the instance
			}
			if ctx.Err() != nil {
				return
			}
			c.mu.Lock()
			d.done = true
			c.mu.Unlock()
			c.queue(i.Service)
		})
	}
	c.mu.Unlock()
	if !done {
		return nil
	}
	if s.Status != deploy.Stopped && c.Now().Before(d.until) {
		switch n, err := c.Store.CountOpenAsync(ctx, i.Workload); {
		case err != nil:
			return fmt.Errorf("count asynchronous calls: %w", err)
		case n > 0:
			c.again(i.Service, asyncPoll)
			return nil
		}
	}
	i.State = deploy.InstanceStopping
	if err := c.Store.UpdateInstance(ctx, i); err != nil {
		return fmt.Errorf("stop instance: %w", err)
	}
	c.reg.add(i)
	return c.Runner.Stop(ctx, i.Workload, stopGrace)
}

// errNoRoom goes with the runner's word on why an instance does not fit.
var errNoRoom = errors.New("no room")

// start starts up to d.start instances of the service's current generation.
func (c *Controller) start(ctx context.Context, s *deploy.Service, d decision) error {
	it, v, model, err := c.recipe(ctx, *s)
	for range d.start {
		if err == nil {
			err = c.launch(ctx, *s, v, model, it)
		}
		if err != nil {
			break
		}
	}
	now := c.Now()
	var change func(*deploy.Service)
	switch {
	case err == nil:
		if starved := c.feed(s.ID); !starved && (s.Failures > 0 || s.Status == deploy.Ready) {
			return nil // the last failure tells more
		}
		change = func(s *deploy.Service) { s.StatusMessage = "its instances are starting" }
	case errors.Is(err, plat.ErrExhausted), errors.Is(err, errNoRoom) && d.older > 0:
		// What fits on no machine of today ends a service only when nothing of it answers.
		c.mu.Lock()
		c.starved[s.ID] = true
		c.mu.Unlock()
		text := public(err)
		if d.older > 0 {
			text = "no room for an instance of " + s.InstanceType + "; those from before the change go on (stop and start the service if it needs their room): " + text
		}
		change = func(s *deploy.Service) { s.StatusMessage = message(text) }
	case errors.Is(err, plat.ErrInvalid), errors.Is(err, plat.ErrNotFound):
		if !s.Rolled() { // no repetition will help
			change = func(s *deploy.Service) {
				s.Status, s.StatusMessage = deploy.Failed, message("its instances can't start: "+public(err))
			}
			break
		}
		fallthrough
	default:
		reason, failed := "it could not be started: "+public(err), deploy.Instance{Generation: s.Generation, CreatedAt: now}
		if errors.Is(err, plat.ErrUnavailable) { // not its fault: it may try for ever
			change = func(s *deploy.Service) {
				s.RetryAt, s.StatusMessage = now.Add(2*time.Second), message("an instance "+reason+"; trying again")
			}
			break
		}
		change = func(s *deploy.Service) { fail(s, failed, reason, now) }
	}
	generation := s.Generation
	before := *s
	next, uerr := c.Store.UpdateService(ctx, s.ID, func(s *deploy.Service) error {
		if s.Generation != generation || s.Status == deploy.Stopped || s.Status == deploy.Failed {
			return errStale
		}
		change(s)
		s.ModifiedAt = now
		if s.Status == before.Status && s.StatusMessage == before.StatusMessage && s.RetryAt.Equal(before.RetryAt) {
			return errUnchanged
		}
		return nil
	})
	switch {
	case errors.Is(uerr, errUnchanged):
		uerr = nil
	case errors.Is(uerr, plat.ErrNotFound):
		return errStale
	case uerr == nil:
		*s = next
		if next.Status == deploy.Failed {
			c.route(ctx, next.Deployment)
			c.queue(s.ID) // what started of it is to end
		}
		if wait := next.BacksOff(now); wait > 0 {
			c.again(s.ID, wait)
		}
	}
	if plat.KindOf(err) == nil {
		uerr = errors.Join(err, uerr) // an internal error: the log wants to know
	}
	return uerr
}

// asyncPoll is how often a leaving instance is asked whether it has answered all.
const asyncPoll = time.Second

// errUnchanged says that there is nothing to store.
var errUnchanged = errors.New("unchanged")

// public is what the service's owner may read of an error.
func public(err error) string {
	if pe, ok := errors.AsType[*plat.Error](err); ok {
		return pe.Public
	}
	return "the server's log has the reason"
}

// recipe gathers what an instance is made of.
func (c *Controller) recipe(ctx context.Context, s deploy.Service) (plat.InstanceType, deploy.Version, *deploy.ModelRef, error) {
	it, err := plat.ParseInstanceType(s.InstanceType)
	if err != nil {
		return it, deploy.Version{}, nil, err
	}
	v, err := c.Store.Version(ctx, s.Deployment, s.Version)
	if err != nil {
		return it, v, nil, err
	}
	for _, id := range s.Models { // at most one
		model, err := c.Models.ModelRef(ctx, s.Org, id)
		return it, v, &model, err
	}
	return it, v, nil, nil
}

// launch records an instance, then starts it. After an error nothing of it is
// left; after a crash in between, inspect cleans up.
func (c *Controller) launch(ctx context.Context, s deploy.Service, v deploy.Version, model *deploy.ModelRef, it plat.InstanceType) error {
	i := deploy.Instance{
		Workload: plat.WorkloadID(plat.NewHexID("wl")), Org: s.Org, Deployment: s.Deployment, Service: s.ID,
		Generation: s.Generation, State: deploy.InstanceUp, CreatedAt: c.Now(),
	}
	if s.Command && c.Commands != nil {
		if err := c.Commands(ctx); err != nil {
			return err
		}
	}
	// The runner has the last word on room; asking first spares the records.
	room, err := c.Runner.Capacity(ctx)
	if err != nil {
		return fmt.Errorf("read capacity: %w", err)
	}
	if err := room.Admit(it.Resources, true); err != nil {
		return fmt.Errorf("%w: %w", errNoRoom, err)
	}
	if err := c.Store.CreateInstance(ctx, i); err != nil {
		return fmt.Errorf("record instance: %w", err)
	}
	c.reg.add(i)
	secret := plat.NewToken()
	token := Token(i, s, secret)
	token.CreatedAt = i.CreatedAt
	if err = c.Tokens.CreateToken(ctx, token); err != nil {
		err = &plat.Error{Kind: plat.ErrUnavailable, Public: "its token can't be made right now", Err: err}
	} else {
		err = c.Runner.Start(ctx, Spec(i, s, v, model, it, c.APIURL, secret))
	}
	if err == nil {
		_, _, err := c.reg.refresh(ctx, c.Runner, i.Workload)
		if errors.Is(err, plat.ErrNotFound) {
			return plat.Errorf(plat.ErrUnavailable, "the runner lost the workload right after its start")
		}
		return err
	}
	ctx = context.WithoutCancel(ctx)
	now := c.Now()
	if endErr := c.Tokens.EndWorkloadTokens(ctx, i.Workload, now, now); endErr != nil {
		return errors.Join(err, fmt.Errorf("end tokens: %w", endErr))
	}
	if forgetErr := c.forget(ctx, i); forgetErr != nil {
		return errors.Join(err, forgetErr)
	}
	return err
}

// settle records what the instances make of the service's status.
func (c *Controller) settle(ctx context.Context, s deploy.Service, d decision) error {
	var to deploy.Status
	switch {
	case s.Status == deploy.InProgress && d.ready:
		to = deploy.Ready
	case s.Status == deploy.Ready && !d.ready:
		to = deploy.InProgress
	case s.Status == deploy.Ready && s.StatusMessage != "" && d.now >= s.Goal():
		to = deploy.Ready // nothing is missing any more
	default:
		return nil
	}
	now := c.Now()
	next, err := c.Store.UpdateService(ctx, s.ID, func(cur *deploy.Service) error {
		if cur.Generation != s.Generation || cur.Status != s.Status || cur.Goal() != s.Goal() || cur.Min != s.Min {
			return errStale
		}
		cur.Status, cur.ModifiedAt = to, now
		if to == deploy.Ready {
			cur.StatusMessage, cur.ReadyGeneration = "", cur.Generation
		} else if cur.StatusMessage == "" {
			cur.StatusMessage = fmt.Sprintf("%d of %d instances answer their health check", d.now, s.Wanted())
		}
		return nil
	})
	switch {
	case errors.Is(err, plat.ErrNotFound):
		return errStale
	case err != nil:
		return err
	}
	c.route(ctx, next.Deployment) // endpoints that waited for it have been switched
	return nil
}
