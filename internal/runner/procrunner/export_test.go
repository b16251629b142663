// SPDX-License-Identifier: Apache-2.0

package procrunner

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"panal/internal/plat"
	"panal/internal/runner"
)

// Walls lists what SwitchOff takes down, so that a test can prove that its attack
// would work without it.
type Walls = walls

// Names of walls for tests in the external package.
var (
	OffUID       = func(w *Walls) { w.uid = true }
	OffMounts    = func(w *Walls) { w.mounts = true }
	OffPIDs      = func(w *Walls) { w.pids = true }
	OffPrivs     = func(w *Walls) { w.privs = true }
	OffLandlock  = func(w *Walls) { w.landlock = true }
	OffMemory    = func(w *Walls) { w.memory = true }
	OffProcesses = func(w *Walls) { w.processes = true }
	OffDisk      = func(w *Walls) { w.disk = true }
	OffReads     = func(w *Walls) { w.reads = true }
	OffEnviron   = func(w *Walls) { w.environ = true }
	OffFiles     = func(w *Walls) { w.files = true }
)

// SwitchOff takes walls down.
func (c *Config) SwitchOff(off ...func(*Walls)) {
	for _, f := range off {
		f(&c.off)
	}
}

// Force pretends that the machine gives less than it does.
func (c *Config) Force(noNamespaces, noCgroups bool) {
	c.force.noNamespaces, c.force.noCgroups = noNamespaces, noCgroups
}

// HasCgroups tells whether limits are enforced by control groups.
func (r *Runner) HasCgroups() bool { return r.groups != nil }

// Namespaces tells whether workloads have namespaces of their own.
func (r *Runner) Namespaces() bool { return r.iso.namespaces }

// MakeGroupsV2 sets up the groups of a workload in a directory that stands for a
// cgroup2 mount.
func MakeGroupsV2(root string, memory, processes, milliCPU, burst int64) ([]string, error) {
	g, err := openV2(root, "panal-test")
	if err != nil {
		return nil, err
	}
	return g.make("wl-1", limits{memory: memory, processes: processes, milliCPU: milliCPU, burst: burst})
}

// ReadCounters returns kills and refusals.
func ReadCounters(dirs []string) (oomKills, pidsMax int64) {
	c := readCounters(dirs)
	return c.oomKills, c.pidsMax
}

// RemoveOwnGroups does what somebody who tidies up might do.
func (r *Runner) RemoveOwnGroups() { r.groups.close() }

// MaxGreetings is how many agents are asked at once.
const MaxGreetings = maxGreetings

// Leave leaves a workload in dir as a runner that was killed does, whose process is pid.
func Leave(dir string, id plat.WorkloadID, pid int, key string) error {
	ticks, err := startTicks(pid)
	if err != nil {
		return err
	}
	w := filepath.Join(dir, "run", string(id))
	for _, d := range []string{dirWork, dirSocket} {
		if err := os.MkdirAll(filepath.Join(w, d), 0o711); err != nil {
			return err
		}
	}
	data, err := json.Marshal(record{
		ID: id, Org: "1", Kind: runner.KindService, Resources: plat.Resources{MilliCPU: 10, Memory: 1 << 30},
		StartedAt: time.Now(), Key: key, PID: pid, StartTicks: ticks, Boot: bootID(),
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(w, fileSpec), data, 0o600)
}

// StaysInside is exported for its table.
var StaysInside = staysInside

// NoNetwork leaves network namespaces away.
func (c *Config) NoNetwork() { c.force.noNetwork = true }
