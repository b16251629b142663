// SPDX-License-Identifier: Apache-2.0

// Package fakerunner is a runner in memory, for tests of what stands on the
// port. It passes runnertest, so a test that holds on it tells the truth about
// the contract; no process is started. Tests script what workloads do through
// Config.Script, or by hand through SetPhase and Exit.
package fakerunner

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/x/fanout"
)

// Script says what a workload does once it is started. The zero value starts
// and stays in PhaseStarting until SetPhase or Exit moves it, or Stop ends it.
type Script struct {
	// Err makes Start fail with it; nothing is started.
	Err error
	// Running moves the workload to PhaseRunning, healthy when it is a service.
	Running bool
	// Exit ends the workload at once, after Running.
	Exit *Exit
	// IgnoreStop makes the workload outlast Stop until its grace is over.
	IgnoreStop bool
	// Spool is what the agent leaves unshipped.
	Spool []runner.SpoolBatch
}

// Exit is how a workload ends.
type Exit struct {
	Code   int
	Reason string
}

// Config shapes a fake machine. The zero value has room for everything, knows
// every image and leaves each workload in PhaseStarting.
type Config struct {
	// Total is the machine; zero means 1,000 vCPU, 1,000 TiB and 1,000 GPUs.
	Total plat.Resources
	// JobShare is the part for jobs; zero means all of Total.
	JobShare plat.Resources
	// Images lists the known image prefixes; none means that all are known.
	Images []string
	// Script says what each workload does; nil means the zero Script for all.
	Script func(runner.Spec) Script
	// Level and Reason are what Isolation answers; "" means "fake".
	Level, Reason string
	// Now is the clock; nil means plat.SystemClock.
	Now plat.Clock
}

// Runner is a fake. Make one with New.
type Runner struct {
	m      *machine
	hub    fanout.Hub[plat.WorkloadID]
	closed bool // guarded by m.mu
}

var _ runner.Runner = (*Runner)(nil)

// machine is what outlives a Runner: the workloads.
type machine struct {
	mu        sync.Mutex
	cfg       Config
	nextPID   int
	workloads map[plat.WorkloadID]*workload
	started   []runner.Spec
	runners   map[*Runner]struct{}
}

type workload struct {
	spec   runner.Spec
	script Script
	status runner.Status
	kill   *time.Timer
}

// New returns a runner over a machine without workloads.
func New(cfg Config) *Runner {
	if cfg.Total == (plat.Resources{}) {
		cfg.Total = plat.Resources{MilliCPU: 1_000_000, Memory: 1000 << 40, GPUs: 1000}
	}
	if cfg.JobShare == (plat.Resources{}) {
		cfg.JobShare = cfg.Total
	}
	if cfg.Now == nil {
		cfg.Now = plat.SystemClock
	}
	if cfg.Level == "" {
		cfg.Level = "fake"
	}
	m := &machine{cfg: cfg, nextPID: 1000, workloads: map[plat.WorkloadID]*workload{}, runners: map[*Runner]struct{}{}}
	return m.open()
}

func (m *machine) open() *Runner {
	r := &Runner{m: m}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.runners[r] = struct{}{}
	return r
}

// Reopen closes r and returns a new runner over the same machine, as a restart
// of the server does. Workloads went on meanwhile.
func (r *Runner) Reopen() *Runner {
	_ = r.Close() // never fails
	return r.m.open()
}

// Start implements runner.Runner.
func (r *Runner) Start(ctx context.Context, spec runner.Spec) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("start %s: %w", spec.ID, err)
	}
	if err := runner.ValidateSpec(spec); err != nil {
		return err
	}
	m := r.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.closed {
		return plat.Errorf(plat.ErrUnavailable, "the runner is closed")
	}
	if _, ok := m.workloads[spec.ID]; ok {
		return nil
	}
	known := func(p string) bool { return strings.HasPrefix(spec.Image, p) }
	if len(m.cfg.Images) > 0 && !slices.ContainsFunc(m.cfg.Images, known) {
		return runner.UnknownImage(spec.Image, m.cfg.Images)
	}
	if err := m.capacity().Admit(spec.Resources, spec.Reserve); err != nil {
		return err
	}
	w := &workload{spec: spec}
	if m.cfg.Script != nil {
		w.script = m.cfg.Script(spec)
	}
	if w.script.Err != nil {
		return w.script.Err
	}
	m.nextPID++
	w.status = runner.Status{
		ID: spec.ID, Org: spec.Org, Kind: spec.Kind, LogStream: spec.LogStream,
		Phase: runner.PhaseStarting, PID: m.nextPID, StartedAt: m.cfg.Now(),
	}
	if spec.Kind == runner.KindService {
		w.status.Addr = runner.Addr{Network: "unix", Address: "/nonexistent/" + string(spec.ID), Key: "key-" + string(spec.ID)}
	}
	spec.Env = maps.Clone(spec.Env)
	m.workloads[spec.ID] = w
	m.started = append(m.started, spec)
	m.notify(spec.ID)
	if w.script.Running {
		m.setPhase(w, runner.PhaseRunning, spec.Kind == runner.KindService)
	}
	if w.script.Exit != nil {
		m.exit(w, w.script.Exit.Code, w.script.Exit.Reason)
	}
	return nil
}

// Stop implements runner.Runner. A workload that was stopped exits with 0, as an
// agent does on SIGTERM, or with 137 after grace when its script ignores Stop.
func (r *Runner) Stop(_ context.Context, id plat.WorkloadID, grace time.Duration) error {
	m := r.m
	m.mu.Lock()
	defer m.mu.Unlock()
	w, ok := m.workloads[id]
	if !ok || w.status.Phase == runner.PhaseExited {
		return nil
	}
	w.status.Stopped = true
	if !w.script.IgnoreStop {
		m.exit(w, 0, "")
		return nil
	}
	if w.kill != nil {
		w.kill.Stop()
	}
	w.kill = time.AfterFunc(grace, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.exit(w, 137, "killed: it did not end within "+grace.String()+" of being stopped")
	})
	return nil
}

// List implements runner.Runner, in the order of ids.
func (r *Runner) List(context.Context) ([]runner.Status, error) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	list := make([]runner.Status, 0, len(r.m.workloads))
	for _, w := range r.m.workloads {
		list = append(list, w.status)
	}
	slices.SortFunc(list, func(a, b runner.Status) int { return cmp.Compare(a.ID, b.ID) })
	return list, nil
}

// Watch implements runner.Runner.
func (r *Runner) Watch(ctx context.Context) <-chan plat.WorkloadID { return r.hub.Watch(ctx) }

// Get implements runner.Runner.
func (r *Runner) Get(_ context.Context, id plat.WorkloadID) (runner.Status, error) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	w, ok := r.m.workloads[id]
	if !ok {
		return runner.Status{}, plat.NotFound("workload", id)
	}
	return w.status, nil
}

// Spool implements runner.Runner.
func (r *Runner) Spool(_ context.Context, id plat.WorkloadID) ([]runner.SpoolBatch, error) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	w, ok := r.m.workloads[id]
	if !ok {
		return nil, plat.NotFound("workload", id)
	}
	return slices.Clone(w.script.Spool), nil
}

// Remove implements runner.Runner.
func (r *Runner) Remove(_ context.Context, id plat.WorkloadID) error {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	w, ok := r.m.workloads[id]
	if !ok {
		return nil
	}
	if w.status.Phase != runner.PhaseExited {
		return plat.Errorf(plat.ErrConflict, "workload %s still runs; stop it first", id)
	}
	delete(r.m.workloads, id)
	return nil
}

// Capacity implements runner.Runner.
func (r *Runner) Capacity(context.Context) (runner.Capacity, error) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	return r.m.capacity(), nil
}

// Isolation implements runner.Runner.
func (r *Runner) Isolation() (level, reason string) { return r.m.cfg.Level, r.m.cfg.Reason }

// Close implements runner.Runner.
func (r *Runner) Close() error {
	r.m.mu.Lock()
	r.closed = true
	delete(r.m.runners, r)
	r.m.mu.Unlock()
	r.hub.Close()
	return nil
}

// SetPhase moves a workload by hand. It panics when the id is unknown.
func (r *Runner) SetPhase(id plat.WorkloadID, phase runner.Phase, healthy bool) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	r.m.setPhase(r.m.must(id), phase, healthy)
}

// SetProblem lets a workload say why it is not healthy.
func (r *Runner) SetProblem(id plat.WorkloadID, problem string) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	r.m.must(id).status.Problem = problem
	r.m.notify(id)
}

// SetSuspect lets a workload be suspect, or well again.
func (r *Runner) SetSuspect(id plat.WorkloadID, suspect bool) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	r.m.must(id).status.Suspect = suspect
	r.m.notify(id)
}

// SetAddr gives a service instance an address that really answers.
func (r *Runner) SetAddr(id plat.WorkloadID, addr runner.Addr) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	r.m.must(id).status.Addr = addr
	r.m.notify(id)
}

// SetSpool sets what Spool answers.
func (r *Runner) SetSpool(id plat.WorkloadID, spool ...runner.SpoolBatch) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	r.m.must(id).script.Spool = spool
}

// Exit ends a workload by hand; ended ones stay as they are.
func (r *Runner) Exit(id plat.WorkloadID, code int, reason string) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	r.m.exit(r.m.must(id), code, reason)
}

// SetCapacity changes the machine.
func (r *Runner) SetCapacity(total, jobShare plat.Resources) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	r.m.cfg.Total, r.m.cfg.JobShare = total, jobShare
}

// Started returns the specs of everything ever started, in order, removed ones
// included.
func (r *Runner) Started() []runner.Spec {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	return slices.Clone(r.m.started)
}

func (m *machine) must(id plat.WorkloadID) *workload {
	w, ok := m.workloads[id]
	if !ok {
		panic("BUG: no workload " + string(id))
	}
	return w
}

func (m *machine) notify(id plat.WorkloadID) {
	for r := range m.runners {
		r.hub.Notify(id)
	}
}

func (m *machine) setPhase(w *workload, phase runner.Phase, healthy bool) {
	if w.status.Phase == runner.PhaseExited {
		return
	}
	if phase == runner.PhaseExited {
		m.exit(w, 0, "")
		return
	}
	w.status.Phase, w.status.Healthy, w.status.Suspect, w.status.Problem = phase, healthy, false, ""
	m.notify(w.spec.ID)
}

func (m *machine) exit(w *workload, code int, reason string) {
	if w.status.Phase == runner.PhaseExited {
		return
	}
	if w.kill != nil {
		w.kill.Stop()
	}
	w.status.Phase, w.status.Healthy, w.status.Suspect, w.status.Problem = runner.PhaseExited, false, false, ""
	w.status.EndedAt, w.status.ExitCode, w.status.Reason = m.cfg.Now(), code, reason
	m.notify(w.spec.ID)
}

func (m *machine) capacity() runner.Capacity {
	c := runner.Capacity{Total: m.cfg.Total, JobShare: m.cfg.JobShare}
	for _, w := range m.workloads {
		if w.status.Phase != runner.PhaseExited {
			c.Take(w.spec.Resources, w.spec.Reserve)
		}
	}
	return c
}
