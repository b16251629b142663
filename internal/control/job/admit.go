// SPDX-License-Identifier: Apache-2.0

package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"panal/internal/plat"
	"panal/internal/train"
)

// admit starts what fits, oldest first. A job that has to wait keeps its claim:
// younger ones get only what is left when all older claims are counted as taken,
// so that a large job can't be starved by a stream of small ones, and a job that
// waits for a GPU doesn't hold up those that need none.
func (r *Reconciler) admit(ctx context.Context, queue []train.Job) error {
	if len(queue) == 0 {
		return nil
	}
	free, err := r.Runner.Capacity(ctx)
	if err != nil {
		return fmt.Errorf("read capacity: %w", err)
	}
	claimed := free
	waiting := 0
	for _, j := range queue {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if held, err := r.held(ctx, j); held || err != nil {
			r.report(ctx, string(j.ID), err, slog.String(plat.LogJob, string(j.ID)))
			continue
		}
		it, err := plat.ParseInstanceType(j.InstanceType)
		if err == nil {
			err = claimed.Admit(it.Resources, false)
			if errors.Is(err, plat.ErrExhausted) && waiting > 0 && free.Admit(it.Resources, false) == nil {
				err = plat.Errorf(plat.ErrExhausted, "waiting its turn: older jobs wait for room (%d)", waiting)
			}
		}
		if err == nil {
			if err = r.start(ctx, j, it); err == nil {
				free.Take(it.Resources, false)
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, plat.ErrInvalid):
			_, err = r.end(ctx, j, train.Failed, public(err), r.Now())
		case errors.Is(err, plat.ErrExhausted):
			waiting++
			err = r.wait(ctx, j, public(err))
		case errors.Is(err, plat.ErrConflict), errors.Is(err, plat.ErrNotFound):
			err = nil // stopped or deleted meanwhile: the next pass sees it
		default:
			waiting++
			err = errors.Join(err, r.wait(ctx, j, "it could not be started and will be tried again: "+public(err)))
		}
		claimed.Take(it.Resources, false)
		r.report(ctx, string(j.ID), err, slog.String(plat.LogJob, string(j.ID)))
	}
	return nil
}

// held tells whether the job's organization may not start any now, and notes why. Such
// a job claims nothing.
func (r *Reconciler) held(ctx context.Context, j train.Job) (bool, error) {
	if r.Held == nil {
		return false, nil
	}
	why, err := r.Held(ctx, j.Org)
	if err != nil {
		return true, fmt.Errorf("look at organization %s: %w", j.Org, err)
	}
	if why == "" {
		return false, nil
	}
	return true, r.wait(ctx, j, why)
}

// public is what the job's owner may read of an error.
func public(err error) string {
	if pe, ok := errors.AsType[*plat.Error](err); ok {
		return Message(pe.Public)
	}
	return "the server's log has the reason"
}

// wait notes why the job does not run yet.
func (r *Reconciler) wait(ctx context.Context, j train.Job, why string) error {
	if j.StatusMessage == why {
		return nil
	}
	now := r.Now()
	_, err := r.Store.UpdateJob(ctx, j.ID, func(j *train.Job) (*train.Model, error) {
		if j.Status == train.Pending {
			j.StatusMessage, j.ModifiedAt = why, now
		}
		return nil, nil
	})
	return err
}

// start starts the job's one workload. Its id goes on the record first; a token
// is made for each attempt, because only its hash is kept. After an error no
// process is left, and the token is worth nothing.
func (r *Reconciler) start(ctx context.Context, j train.Job, it plat.InstanceType) error {
	d, err := r.Store.Definition(ctx, j.Org, string(j.Definition))
	if err != nil {
		return err
	}
	v, err := r.Store.Version(ctx, j.Definition, j.Version)
	if err != nil {
		return err
	}
	if j, err = r.plan(ctx, j); err != nil {
		return err
	}
	secret := plat.NewToken()
	token := Token(j, secret)
	token.CreatedAt = r.Now()
	if err := r.Tokens.CreateToken(ctx, token); err != nil {
		return tokenError("make", err)
	}
	if err := r.Runner.Start(ctx, Spec(d, v, j, it, r.APIURL, secret)); err != nil {
		now := r.Now()
		if endErr := r.Tokens.EndWorkloadTokens(ctx, j.Workload, now, now); endErr != nil {
			err = errors.Join(err, tokenError("end", endErr))
		}
		return err
	}
	st, err := r.Runner.Get(ctx, j.Workload)
	if errors.Is(err, plat.ErrNotFound) {
		return plat.Errorf(plat.ErrUnavailable, "the runner lost the workload right after its start")
	}
	if err == nil {
		_, err = r.activate(ctx, j, st)
	}
	return err
}

// tokenError keeps the kinds of the token store to itself: they say nothing about
// the job.
func tokenError(what string, err error) error {
	return &plat.Error{Kind: plat.ErrUnavailable, Public: "its token can't be made or ended right now", Err: fmt.Errorf("%s container token: %w", what, err)}
}

// plan gives the job its workload id, once.
func (r *Reconciler) plan(ctx context.Context, j train.Job) (train.Job, error) {
	if j.Workload != "" {
		return j, nil
	}
	return r.Store.UpdateJob(ctx, j.ID, func(j *train.Job) (*train.Model, error) {
		if j.Status != train.Pending {
			return nil, plat.Errorf(plat.ErrConflict, "training job %s is %s already", j.ID, j.Status)
		}
		if j.Workload == "" {
			j.Workload = plat.WorkloadID(plat.NewHexID("wl"))
		}
		return nil, nil
	})
}
