// SPDX-License-Identifier: Apache-2.0

package procrunner

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroups makes a control group per workload, on version 1 or 2. nil means that
// the machine gives us none.
type cgroups struct {
	name    string
	version int
	// parents are the directories below which groups are made: one for version 2,
	// else those of memory, pids and cpu.
	parents []string
}

// controllers are those that a workload is limited by, in the order of parents.
func controllers() []string { return []string{"memory", "pids", "cpu"} }

// openCgroups finds the hierarchy to use and prepares our group in it. The error
// says why there is none; it is not fatal, memory is then watched.
func openCgroups(name string) (*cgroups, error) {
	mounts, err := cgroupMounts()
	if err != nil {
		return nil, err
	}
	if root, ok := mounts["2"]; ok {
		have, _ := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
		if list := strings.Fields(string(have)); containsAll(list, controllers()) {
			return openV2(root, name)
		}
	}
	var parents []string
	for _, c := range controllers() {
		root, ok := mounts[c]
		if !ok {
			return nil, fmt.Errorf("no control group hierarchy has the controller %s", c)
		}
		dir := filepath.Join(root, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make control group: %w", err)
		}
		parents = append(parents, dir)
	}
	return &cgroups{name: name, version: 1, parents: parents}, nil
}

func openV2(root, name string) (*cgroups, error) {
	dir := filepath.Join(root, name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make control group: %w", err)
	}
	for _, d := range []string{root, dir} {
		// In a container the root holds processes, and this is EBUSY.
		if err := writeCgroup(d, "cgroup.subtree_control", "+memory +pids +cpu"); err != nil {
			return nil, err
		}
	}
	return &cgroups{name: name, version: 2, parents: []string{dir}}, nil
}

func containsAll(have, want []string) bool {
	for _, w := range want {
		if !slices.Contains(have, w) {
			return false
		}
	}
	return true
}

// cgroupMounts maps controller ("2" for the unified hierarchy) to mount point.
func cgroupMounts() (map[string]string, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	found := map[string]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		m := strings.Fields(s.Text())
		if len(m) < 4 {
			continue
		}
		switch m[2] {
		case "cgroup2":
			found["2"] = m[1]
		case "cgroup":
			for o := range strings.SplitSeq(m[3], ",") {
				found[o] = m[1]
			}
		}
	}
	return found, nil
}

func writeCgroup(dir, file, value string) error {
	if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0); err != nil {
		return fmt.Errorf("set %s to %q: %w", file, value, err)
	}
	return nil
}

// close removes our groups if no workload is left in them.
func (c *cgroups) close() {
	for _, p := range c.parents {
		_ = unix.Rmdir(p) // busy while there are workloads, as it should be
	}
}

// limits of one workload; zero means none.
type limits struct {
	memory, processes, milliCPU, burst int64
}

// make creates the groups of a workload with its limits and returns their paths.
func (c *cgroups) make(id string, l limits) ([]string, error) {
	const period = 100_000
	dirs := make([]string, 0, len(c.parents))
	for _, p := range c.parents {
		dir := filepath.Join(p, id)
		dirs = append(dirs, dir)
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, fs.ErrNotExist) {
			// Our own group was empty, and somebody tidied up.
			if _, oerr := openCgroups(c.name); oerr == nil {
				err = os.Mkdir(dir, 0o755)
			}
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			removeGroups(dirs)
			return nil, fmt.Errorf("make control group: %w", err)
		}
	}
	quota := max(l.milliCPU, l.burst) * period / 1000
	type setting struct {
		dir, file, value string
		optional         bool
	}
	var set []setting
	if c.version == 2 {
		d := dirs[0]
		set = []setting{
			{d, "cpu.weight", strconv.FormatInt(min(max(l.milliCPU/10, 1), 10_000), 10), false},
			{d, "cpu.max", fmt.Sprintf("%d %d", quota, period), false},
		}
		if l.processes > 0 {
			set = append(set, setting{d, "pids.max", strconv.FormatInt(l.processes, 10), false})
		}
		if l.memory > 0 {
			set = append(
				set,
				setting{d, "memory.max", strconv.FormatInt(l.memory, 10), false},
				setting{d, "memory.swap.max", "0", true}, // absent without swap
				setting{d, "memory.oom.group", "1", true},
			)
		}
	} else {
		mem, pids, cpu := dirs[0], dirs[1], dirs[2]
		set = []setting{
			{cpu, "cpu.shares", strconv.FormatInt(max(l.milliCPU*1024/1000, 2), 10), false},
			{cpu, "cpu.cfs_period_us", strconv.Itoa(period), true},
			{cpu, "cpu.cfs_quota_us", strconv.FormatInt(quota, 10), true},
		}
		if l.processes > 0 {
			set = append(set, setting{pids, "pids.max", strconv.FormatInt(l.processes, 10), false})
		}
		if l.memory > 0 {
			v := strconv.FormatInt(l.memory, 10)
			set = append(
				set,
				setting{mem, "memory.limit_in_bytes", v, false},
				setting{mem, "memory.memsw.limit_in_bytes", v, true}, // absent without swap accounting
			)
		}
	}
	for _, s := range set {
		if err := writeCgroup(s.dir, s.file, s.value); err != nil && !s.optional {
			removeGroups(dirs)
			return nil, err
		}
	}
	return dirs, nil
}

// join moves a process, before it has done anything, into its groups.
func join(dirs []string, pid int) error {
	for _, d := range dirs {
		if err := writeCgroup(d, "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("join control group: %w", err)
		}
	}
	return nil
}

// counters tells how often limits were hit.
type counters struct {
	oomKills, pidsMax int64
}

func readCounters(dirs []string) (c counters) {
	for _, d := range dirs {
		for _, f := range []string{"memory.events", "memory.oom_control"} {
			c.oomKills = max(c.oomKills, cgroupField(d, f, "oom_kill"))
		}
		for _, f := range []string{"pids.events", "pids.events.local"} {
			c.pidsMax = max(c.pidsMax, cgroupField(d, f, "max"))
		}
	}
	return c
}

func cgroupField(dir, file, key string) int64 {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == key {
			n, err := strconv.ParseInt(v, 10, 64)
			if err == nil {
				return n
			}
		}
	}
	return 0
}

// killGroups kills every process in the groups, for workloads without a pid
// namespace of their own.
func killGroups(dirs []string) {
	for _, d := range dirs {
		if writeCgroup(d, "cgroup.kill", "1") == nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join(d, "cgroup.procs"))
		if err != nil {
			continue
		}
		for f := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 1 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
}

// removeGroups deletes the groups. Right after an exit the kernel may still hold
// them, so it tries for a moment.
func removeGroups(dirs []string) {
	for _, d := range dirs {
		for range 50 {
			err := unix.Rmdir(d)
			if err == nil || !errors.Is(err, unix.EBUSY) {
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
}
