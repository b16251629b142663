// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"sync"
	"time"

	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/x/fanout"
)

// machine is a runner without processes, and without memory for what merely runs: every
// id is that of a healthy workload, but for those that were told otherwise.
type machine struct {
	hub fanout.Hub[plat.WorkloadID]

	mu    sync.Mutex
	other map[plat.WorkloadID]condition
}

type condition int

// What a workload can be besides healthy.
const (
	sick condition = iota
	exited
	removed
)

var _ runner.Runner = (*machine)(nil)

// set makes a workload sick or healthy.
func (m *machine) set(id plat.WorkloadID, healthy bool) {
	m.mu.Lock()
	if healthy {
		delete(m.other, id)
	} else {
		m.other[id] = sick
	}
	m.mu.Unlock()
	m.hub.Notify(id)
}

// Start implements runner.Runner: the workload is healthy at once.
func (m *machine) Start(_ context.Context, spec runner.Spec) error {
	m.hub.Notify(spec.ID)
	return nil
}

// Stop implements runner.Runner: the workload ends at once.
func (m *machine) Stop(_ context.Context, id plat.WorkloadID, _ time.Duration) error {
	m.mu.Lock()
	if m.other[id] != removed {
		m.other[id] = exited
	}
	m.mu.Unlock()
	m.hub.Notify(id)
	return nil
}

// Get implements runner.Runner.
func (m *machine) Get(_ context.Context, id plat.WorkloadID) (runner.Status, error) {
	m.mu.Lock()
	c, ok := m.other[id]
	m.mu.Unlock()
	st := runner.Status{ID: id, Kind: runner.KindService, Phase: runner.PhaseRunning, Healthy: true, Addr: address(id)}
	switch {
	case !ok:
	case c == sick:
		st.Healthy = false
	case c == exited:
		st.Phase, st.Healthy, st.Stopped = runner.PhaseExited, false, true
	default:
		return runner.Status{}, plat.NotFound("workload", id)
	}
	return st, nil
}

// address is as long as the process runner's.
func address(id plat.WorkloadID) runner.Addr {
	return runner.Addr{
		Network: "unix", Address: "/var/lib/panal/workloads/" + string(id) + "/s/agent.sock",
		Key: "key-of-the-instance-" + string(id), Limit: 4,
	}
}

// List implements runner.Runner. What was there before the start is left out: control
// only looks here for workloads that it does not know.
func (m *machine) List(context.Context) ([]runner.Status, error) { return nil, nil }

// Watch implements runner.Runner.
func (m *machine) Watch(ctx context.Context) <-chan plat.WorkloadID { return m.hub.Watch(ctx) }

// Spool implements runner.Runner.
func (m *machine) Spool(context.Context, plat.WorkloadID) ([]runner.SpoolBatch, error) {
	return nil, nil
}

// Remove implements runner.Runner.
func (m *machine) Remove(_ context.Context, id plat.WorkloadID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.other[id] = removed
	return nil
}

// Capacity implements runner.Runner: there is room for everything.
func (m *machine) Capacity(context.Context) (runner.Capacity, error) {
	all := plat.Resources{MilliCPU: 1 << 40, Memory: 1 << 60}
	return runner.Capacity{Total: all, JobShare: all}, nil
}

// Isolation implements runner.Runner.
func (m *machine) Isolation() (level, reason string) { return "none", "nothing runs" }

// Close implements runner.Runner.
func (m *machine) Close() error { return nil }
