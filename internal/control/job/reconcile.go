// SPDX-License-Identifier: Apache-2.0

package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"panal/internal/authn"
	"panal/internal/blob"
	"panal/internal/logs"
	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/train"
)

// Tokens is what the reconciler needs of authn.Store.
type Tokens interface {
	CreateToken(ctx context.Context, t authn.Token) error
	EndWorkloadTokens(ctx context.Context, w plat.WorkloadID, at, expires time.Time) error
}

// Blobs is what the reconciler needs of *blob.Store.
type Blobs interface {
	Stat(ctx context.Context, key string) (blob.Info, error)
	List(ctx context.Context, prefix, after string, limit int) ([]blob.Info, bool, error)
	Delete(ctx context.Context, key string) error
}

// Config is what a Reconciler stands on. All fields without a default are needed.
type Config struct {
	Log    *slog.Logger
	Now    plat.Clock
	Store  train.Store
	Runner runner.Runner
	Tokens Tokens
	Blobs  Blobs
	// IngestSpool stores the log lines that the agent of a workload that has ended
	// could not ship. Lines that are stored already are dropped by their numbers,
	// so that a repeat stores nothing twice. The workload's own user can have
	// written the batches: whoever stores them holds them to st.ID and st.LogStream.
	IngestSpool func(ctx context.Context, st runner.Status, batches []runner.SpoolBatch) error
	// Held, where set, tells why jobs of an organization are not started now; "" is
	// no reason.
	Held func(ctx context.Context, org plat.OrgID) (string, error)
	// APIURL is where workloads reach the API.
	APIURL string
	// Wake receives when jobs may have changed (the outbox's hub).
	Wake <-chan struct{}
	// Resync is how often everything is looked at without a wake-up; default 3 s.
	Resync time.Duration
}

const (
	// stopGrace is how long a workload may take to end (compute.md §2.7: ≥ 35 s).
	stopGrace = 40 * time.Second
	// tokenGrace is how long a container token is good for results and logs after
	// its workload ended.
	tokenGrace = time.Hour
	// parallel is how many jobs are looked after at once.
	parallel = 4
	// trashBatch is how many prefixes of deleted records are emptied in one pass.
	trashBatch = 16
)

// Reconciler drives training jobs.
type Reconciler struct {
	Config

	mu     sync.Mutex
	logged map[string]string // subject → error last logged of it
}

// New returns a Reconciler.
func New(c Config) *Reconciler {
	if c.Resync == 0 {
		c.Resync = 3 * time.Second
	}
	return &Reconciler{Config: c, logged: map[string]string{}}
}

// Run reconciles until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	changed := r.Runner.Watch(ctx)
	tick := time.NewTicker(r.Resync)
	defer tick.Stop()
	for {
		r.report(ctx, "pass", r.Pass(ctx))
		select {
		case <-ctx.Done():
			return nil
		case <-r.Wake:
		case <-tick.C:
		case _, ok := <-changed:
			if !ok {
				changed = nil // the runner closes before we do, at shutdown
			}
		}
	}
}

// report logs an error about a subject, once until it changes.
func (r *Reconciler) report(ctx context.Context, subject string, err error, attrs ...slog.Attr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		delete(r.logged, subject)
		return
	}
	if text := err.Error(); ctx.Err() == nil && r.logged[subject] != text {
		if len(r.logged) > 10_000 {
			clear(r.logged)
		}
		r.logged[subject] = text
		r.Log.LogAttrs(ctx, slog.LevelError, "training job could not be reconciled", append(attrs, slog.String(plat.LogError, text))...)
	}
}

// Pass looks at every job once and takes the steps that are due. The error says
// that it could not look; what fails for one job is logged and tried again.
func (r *Reconciler) Pass(ctx context.Context) error {
	list, err := r.Runner.List(ctx) // before the records: what runs has a record already
	if err != nil {
		return fmt.Errorf("list workloads: %w", err)
	}
	jobs, err := r.Store.Unsettled(ctx)
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	known := make(map[plat.WorkloadID]runner.Status, len(list))
	for _, st := range list {
		known[st.ID] = st
	}
	var queue []train.Job
	mine := make(map[plat.WorkloadID]bool, len(jobs))
	var group errgroup.Group
	group.SetLimit(parallel)
	for _, j := range jobs {
		if j.Workload != "" {
			mine[j.Workload] = true
		}
		st, started := known[j.Workload]
		if j.Status == train.Pending && !started {
			queue = append(queue, j)
			continue
		}
		group.Go(func() error {
			r.report(ctx, string(j.ID), r.follow(ctx, j, st, started), slog.String(plat.LogJob, string(j.ID)))
			return nil
		})
	}
	for _, st := range list {
		if st.Kind == runner.KindTraining && !mine[st.ID] {
			group.Go(func() error {
				r.report(ctx, string(st.ID), r.orphan(ctx, st), slog.String(plat.LogWorkload, string(st.ID)))
				return nil
			})
		}
	}
	_ = group.Wait() // its functions report by themselves
	return errors.Join(r.admit(ctx, queue), r.emptyTrash(ctx))
}

// follow takes the next steps of a job that was started or has ended. st is its
// workload's status, if the runner knows it.
func (r *Reconciler) follow(ctx context.Context, j train.Job, st runner.Status, known bool) error {
	var err error
	if j.Status == train.Pending { // started, and the server was killed before it noted that
		if j, err = r.activate(ctx, j, st); err != nil {
			return err
		}
	}
	drained := false
	if known && st.Phase == runner.PhaseExited {
		// Before the end is told: who waits for the job's end then finds all its
		// lines. A log store that is full must not hold up the end, though.
		err = r.drain(ctx, st)
		drained = err == nil
	}
	if j.Status == train.Active {
		switch {
		case !known:
			j, err = r.end(ctx, j, train.Failed, "its workload is gone: the machine was restarted, or its files were removed", r.Now())
			drained = true
		case st.Phase != runner.PhaseExited:
			return nil
		default:
			status, message := End(st)
			var endErr error
			if j, endErr = r.end(ctx, j, status, message, st.EndedAt); endErr != nil {
				return errors.Join(endErr, err)
			}
		}
		if err != nil {
			return err
		}
	}
	if known && st.Phase != runner.PhaseExited { // the record has ended: somebody stopped the job
		if st.Stopped {
			return nil // asked already; asking again would begin the grace anew
		}
		return r.Runner.Stop(ctx, st.ID, stopGrace)
	}
	if known && !drained {
		return err
	}
	return r.settle(ctx, j, st, known)
}

// activate records that the job's workload runs.
func (r *Reconciler) activate(ctx context.Context, j train.Job, st runner.Status) (train.Job, error) {
	now := r.Now()
	start := st.StartedAt
	if start.IsZero() {
		start = now
	}
	after, err := r.Store.UpdateJob(ctx, j.ID, func(j *train.Job) (*train.Model, error) {
		if j.Status == train.Pending { // else it was stopped meanwhile
			j.Status, j.StatusMessage, j.StartTime, j.ModifiedAt = train.Active, "", start.UTC().Truncate(time.Microsecond), now
		}
		return nil, nil
	})
	if err != nil {
		return j, fmt.Errorf("record the start: %w", err)
	}
	return after, nil
}

// end records how the job ended, and with Complete the model of its result, in
// one transaction. A job that has ended otherwise meanwhile stays as it is.
func (r *Reconciler) end(ctx context.Context, j train.Job, status train.Status, message string, at time.Time) (train.Job, error) {
	result := false
	if status == train.Complete {
		switch _, err := r.Blobs.Stat(ctx, j.ResultKey()); {
		case err == nil:
			result = true
		case !errors.Is(err, plat.ErrNotFound):
			return j, fmt.Errorf("look for the result: %w", err)
		}
	}
	now := r.Now()
	if at.IsZero() {
		at = now
	}
	after, err := r.Store.UpdateJob(ctx, j.ID, func(j *train.Job) (*train.Model, error) {
		if j.Status.Terminal() {
			return nil, nil
		}
		j.Status, j.StatusMessage, j.CompletedAt, j.ModifiedAt = status, message, at.UTC().Truncate(time.Microsecond), now
		if !result {
			return nil, nil
		}
		return train.ModelOf(*j, plat.ModelID(plat.NewDecimalID())), nil
	})
	if err != nil {
		return j, fmt.Errorf("record the end: %w", err)
	}
	return after, nil
}

// drain stores the lines that the agent could not ship.
func (r *Reconciler) drain(ctx context.Context, st runner.Status) error {
	batches, err := r.Runner.Spool(ctx, st.ID)
	if errors.Is(err, plat.ErrNotFound) || err == nil && len(batches) == 0 {
		return nil
	}
	if err == nil {
		err = r.IngestSpool(ctx, st, batches)
	}
	if errors.Is(err, plat.ErrInvalid) {
		// No repeat will help: these are not lines.
		r.report(ctx, "spool "+string(st.ID), fmt.Errorf("drop the log spool: %w", err), slog.String(plat.LogWorkload, string(st.ID)))
		return nil
	}
	if err != nil {
		return fmt.Errorf("drain the log spool: %w", err)
	}
	return nil
}

// forget ends the workload's tokens and lets the runner forget it.
func (r *Reconciler) forget(ctx context.Context, w plat.WorkloadID, endedAt time.Time, known bool) error {
	if endedAt.IsZero() {
		endedAt = r.Now()
	}
	if err := r.Tokens.EndWorkloadTokens(ctx, w, endedAt, r.Now().Add(tokenGrace)); err != nil {
		return fmt.Errorf("end tokens: %w", err)
	}
	if !known {
		return nil
	}
	if err := r.Runner.Remove(ctx, w); err != nil {
		return fmt.Errorf("remove the workload: %w", err)
	}
	return nil
}

// settle closes a job: nothing is left to do for it.
func (r *Reconciler) settle(ctx context.Context, j train.Job, st runner.Status, known bool) error {
	if j.Workload != "" {
		if err := r.forget(ctx, j.Workload, st.EndedAt, known); err != nil {
			return err
		}
	}
	_, err := r.Store.UpdateJob(ctx, j.ID, func(j *train.Job) (*train.Model, error) {
		if !j.Status.Terminal() {
			panic("BUG: job: settling a job that lives")
		}
		j.Settled = true
		return nil, nil
	})
	if err != nil && !errors.Is(err, plat.ErrNotFound) {
		return fmt.Errorf("settle: %w", err)
	}
	return nil
}

// orphan ends a workload whose job is gone from the records (its definition was
// deleted while it wound down).
func (r *Reconciler) orphan(ctx context.Context, st runner.Status) error {
	id, ok := strings.CutPrefix(st.LogStream, logs.JobStream(""))
	if !ok {
		return nil // not ours
	}
	switch j, err := r.Store.Job(ctx, plat.JobID(id)); {
	case err == nil && !j.Settled:
		return nil // made since the jobs were listed
	case err != nil && !errors.Is(err, plat.ErrNotFound):
		return fmt.Errorf("look up the workload's job: %w", err)
	}
	if st.Phase != runner.PhaseExited {
		if st.Stopped {
			return nil
		}
		return r.Runner.Stop(ctx, st.ID, stopGrace)
	}
	return r.forget(ctx, st.ID, st.EndedAt, true)
}

// emptyTrash deletes the objects of deleted records.
func (r *Reconciler) emptyTrash(ctx context.Context) error {
	prefixes, err := r.Store.Trash(ctx, trashBatch)
	if err != nil {
		return fmt.Errorf("list trash: %w", err)
	}
	for _, prefix := range prefixes {
		for more, after := true, ""; more; {
			var infos []blob.Info
			if infos, more, err = r.Blobs.List(ctx, prefix, after, 1000); err != nil {
				return fmt.Errorf("empty trash: %w", err)
			}
			for _, info := range infos {
				if err := r.Blobs.Delete(ctx, info.Key); err != nil {
					return fmt.Errorf("empty trash: %w", err)
				}
				after = info.Key
			}
		}
		if err := r.Store.Emptied(ctx, prefix); err != nil {
			return fmt.Errorf("empty trash: %w", err)
		}
	}
	return nil
}
