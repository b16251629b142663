// SPDX-License-Identifier: Apache-2.0

package procrunner

import (
	"cmp"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"panal/internal/plat"
	"panal/internal/runner"
)

// gpu is one exclusive slot.
type gpu struct {
	Index int    `json:"index"`
	UUID  string `json:"uuid,omitempty"`
}

// visible is the name by which CUDA_VISIBLE_DEVICES knows it.
func (g gpu) visible() string {
	if g.UUID != "" {
		return g.UUID
	}
	return strconv.Itoa(g.Index)
}

// capacity works out what there is from the machine and the configuration.
func (c *Config) capacity() (runner.Capacity, []gpu) {
	total := plat.Resources{
		MilliCPU: int64(float64(detectMilliCPU()) * c.CPUOvercommit),
		// A tenth of the memory is left to the server and the system.
		Memory: detectMemory() / 10 * 9,
	}
	gpus := detectGPUs()
	if c.Capacity.MilliCPU > 0 {
		total.MilliCPU = c.Capacity.MilliCPU
	}
	if c.Capacity.Memory > 0 {
		total.Memory = c.Capacity.Memory
	}
	if n := c.Capacity.GPUs; n > 0 {
		for i := len(gpus); i < n; i++ {
			gpus = append(gpus, gpu{Index: i})
		}
		gpus = gpus[:n]
	}
	total.GPUs = len(gpus)
	jobs := total
	jobs.MilliCPU -= int64(float64(total.MilliCPU) * c.ServiceReserve)
	jobs.Memory -= int64(float64(total.Memory) * c.ServiceReserve)
	return runner.Capacity{Total: total, JobShare: jobs}, gpus
}

// detectMilliCPU is what this process may use: affinity and quota.
func detectMilliCPU() int64 {
	milli := int64(runtime.NumCPU()) * 1000
	for _, dir := range ownGroups("cpu") {
		quota, period := int64(0), int64(0)
		if f := strings.Fields(readString(filepath.Join(dir, "cpu.max"))); len(f) == 2 {
			quota, period = parseInt(f[0]), parseInt(f[1])
		} else {
			quota = parseInt(readString(filepath.Join(dir, "cpu.cfs_quota_us")))
			period = parseInt(readString(filepath.Join(dir, "cpu.cfs_period_us")))
		}
		if quota > 0 && period > 0 {
			milli = min(milli, max(quota*1000/period, 1))
		}
	}
	return milli
}

// detectMemory is the machine's memory, or less where a group limits us.
func detectMemory() int64 {
	var total int64
	for line := range strings.Lines(readString("/proc/meminfo")) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			total = parseInt(f[1]) << 10
		}
	}
	for _, dir := range ownGroups("memory") {
		for _, name := range []string{"memory.max", "memory.limit_in_bytes"} {
			if n := parseInt(readString(filepath.Join(dir, name))); n > 0 {
				total = min(total, n)
			}
		}
	}
	return total
}

// ownGroups lists the control groups that this process lies in for one
// controller, its own first and then those above it.
func ownGroups(controller string) []string {
	mounts, err := cgroupMounts()
	if err != nil {
		return nil
	}
	var dirs []string
	for line := range strings.Lines(readString("/proc/self/cgroup")) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		root := mounts["2"]
		if f[1] != "" {
			if !slices.Contains(strings.Split(f[1], ","), controller) {
				continue
			}
			root = mounts[controller]
		}
		if root == "" {
			continue
		}
		for p := filepath.Clean("/" + f[2]); ; p = filepath.Dir(p) {
			dirs = append(dirs, filepath.Join(root, p))
			if p == "/" {
				break
			}
		}
	}
	return dirs
}

var nvidiaDevice = regexp.MustCompile(`^nvidia([0-9]+)$`)

// detectGPUs lists NVIDIA devices with the UUIDs that the driver tells.
func detectGPUs() []gpu {
	uuids := map[int]string{}
	infos, _ := filepath.Glob("/proc/driver/nvidia/gpus/*/information")
	for _, path := range infos {
		minor, uuid := -1, ""
		for line := range strings.Lines(readString(path)) {
			switch k, v, _ := strings.Cut(line, ":"); strings.TrimSpace(k) {
			case "GPU UUID":
				uuid = strings.TrimSpace(v)
			case "Device Minor":
				minor = int(parseInt(v))
			}
		}
		uuids[minor] = uuid
	}
	entries, err := os.ReadDir("/dev")
	if err != nil {
		return nil
	}
	var gpus []gpu
	for _, e := range entries {
		if m := nvidiaDevice.FindStringSubmatch(e.Name()); m != nil {
			i := int(parseInt(m[1]))
			gpus = append(gpus, gpu{Index: i, UUID: uuids[i]})
		}
	}
	slices.SortFunc(gpus, func(a, b gpu) int { return cmp.Compare(a.Index, b.Index) })
	return gpus
}

func readString(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(data)
}

// parseInt returns 0 for what is not a number ("max").
func parseInt(s string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
