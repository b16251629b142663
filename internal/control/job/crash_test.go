// SPDX-License-Identifier: Apache-2.0

package job_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"panal/internal/authn"
	"panal/internal/blob"
	"panal/internal/control/job"
	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/fakerunner"
	"panal/internal/train"
)

// crash is a server that is killed at its n-th step: before the step has an
// effect, or after it had one and before the answer came. From then on nothing
// that it tries has an effect.
type crash struct {
	mu    sync.Mutex
	left  int
	after bool
	dead  bool
}

func step[T any](c *crash, do func() (T, error)) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var none T
	if c.dead {
		return none, errDown
	}
	if c.left--; c.left > 0 {
		return do()
	}
	c.dead = true
	if c.after {
		_, _ = do()
	}
	return none, errDown
}

func step0(c *crash, do func() error) error {
	_, err := step(c, func() (struct{}, error) { return struct{}{}, do() })
	return err
}

type crashStore struct {
	train.Store
	c *crash
}

func (s crashStore) Unsettled(ctx context.Context) ([]train.Job, error) {
	return step(s.c, func() ([]train.Job, error) { return s.Store.Unsettled(ctx) })
}

func (s crashStore) UpdateJob(ctx context.Context, id plat.JobID, f func(*train.Job) (*train.Model, error)) (train.Job, error) {
	return step(s.c, func() (train.Job, error) { return s.Store.UpdateJob(ctx, id, f) })
}

func (s crashStore) Trash(ctx context.Context, n int) ([]string, error) {
	return step(s.c, func() ([]string, error) { return s.Store.Trash(ctx, n) })
}

type crashRunner struct {
	runner.Runner
	c *crash
}

func (r crashRunner) Start(ctx context.Context, s runner.Spec) error {
	return step0(r.c, func() error { return r.Runner.Start(ctx, s) })
}

func (r crashRunner) Get(ctx context.Context, id plat.WorkloadID) (runner.Status, error) {
	return step(r.c, func() (runner.Status, error) { return r.Runner.Get(ctx, id) })
}

func (r crashRunner) List(ctx context.Context) ([]runner.Status, error) {
	return step(r.c, func() ([]runner.Status, error) { return r.Runner.List(ctx) })
}

func (r crashRunner) Remove(ctx context.Context, id plat.WorkloadID) error {
	return step0(r.c, func() error { return r.Runner.Remove(ctx, id) })
}

type crashTokens struct {
	job.Tokens
	c *crash
}

func (s crashTokens) CreateToken(ctx context.Context, t authn.Token) error {
	return step0(s.c, func() error { return s.Tokens.CreateToken(ctx, t) })
}

func (s crashTokens) EndWorkloadTokens(ctx context.Context, w plat.WorkloadID, at, expires time.Time) error {
	return step0(s.c, func() error { return s.Tokens.EndWorkloadTokens(ctx, w, at, expires) })
}

type crashBlobs struct {
	job.Blobs
	c *crash
}

func (s crashBlobs) Stat(ctx context.Context, key string) (blob.Info, error) {
	return step(s.c, func() (blob.Info, error) { return s.Blobs.Stat(ctx, key) })
}

// TestKilledAnywhere kills the server at every step of a job's life in turn, both
// before and after the step took effect, starts it again, and wants the same
// story each time: one process, Complete once, one model, every line stored.
func TestKilledAnywhere(t *testing.T) {
	for _, c := range []struct {
		name   string
		script fakerunner.Script
		ending train.Status
		models int
	}{
		{"success", fakerunner.Script{Exit: &fakerunner.Exit{}, Spool: []runner.SpoolBatch{runner.SpoolBatch("line")}}, train.Complete, 1},
		{"failure", fakerunner.Script{Exit: &fakerunner.Exit{Code: 1, Reason: "raised"}, Spool: []runner.SpoolBatch{runner.SpoolBatch("line")}}, train.Failed, 0},
	} {
		reached := 0
		for _, after := range []bool{false, true} {
			for n := 1; ; n++ {
				crashed := true
				t.Run(fmt.Sprintf("%s/step_%d_after_%v", c.name, n, after), func(t *testing.T) {
					crashed = lifeWithCrash(t, c.script, n, after, c.ending, c.models)
				})
				if !crashed || t.Failed() {
					break
				}
				reached++
			}
		}
		if reached < 2*12 { // list, read, plan, token, start, get, activate, …: fewer means that the crashes miss
			t.Errorf("%s: only %d crashes", c.name, reached)
		}
	}
}

func lifeWithCrash(t *testing.T, script fakerunner.Script, n int, after bool, ending train.Status, models int) (crashed bool) {
	w := newWorld(t, fakerunner.Config{Script: func(runner.Spec) fakerunner.Script { return script }})
	j := w.job()
	w.upload(j)
	if _, err := w.store.AddReport(t.Context(), j.ID, train.Report{Time: w.now(), Statistics: json.RawMessage(`{"acc":1}`)}); err != nil {
		t.Fatal(err)
	}
	k := &crash{left: n, after: after}
	cfg := w.config()
	ingest := cfg.IngestSpool
	cfg.Store, cfg.Runner = crashStore{w.store, k}, crashRunner{w.run, k}
	cfg.Tokens, cfg.Blobs = crashTokens{w.tokens, k}, crashBlobs{w.blobs, k}
	cfg.IngestSpool = func(ctx context.Context, st runner.Status, b []runner.SpoolBatch) error {
		return step0(k, func() error { return ingest(ctx, st, b) })
	}
	killed := job.New(cfg)
	for range 5 {
		_ = killed.Pass(t.Context()) // errors are its death
	}
	// The server starts again: same records, same machine, nothing in memory.
	w.run = w.run.Reopen()
	w.rec = job.New(w.config())
	w.pass(5)

	got := w.get(j.ID)
	if got.Status != ending || !got.Settled {
		t.Errorf("job is %s (%s), settled %v", got.Status, got.StatusMessage, got.Settled)
	}
	if s := w.run.Started(); len(s) != 1 {
		t.Errorf("started %d times", len(s))
	} else if tok := w.token(s[0]); tok.EndedAt.IsZero() {
		t.Error("the workload's token has not ended")
	}
	if told, want := w.told(j.ID), "created Active "+string(ending); told != want {
		t.Errorf("events = %s, want %s", told, want)
	}
	if ms := w.models(); len(ms) != models {
		t.Errorf("models = %d, want %d", len(ms), models)
	}
	if lines := w.spooled[got.Workload]; len(lines) != 1 {
		t.Errorf("lines = %v", lines)
	}
	if list, _ := w.run.List(t.Context()); len(list) != 0 {
		t.Errorf("the runner still knows %v", list)
	}
	return k.dead
}
