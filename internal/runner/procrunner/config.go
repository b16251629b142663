// SPDX-License-Identifier: Apache-2.0

package procrunner

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"panal/internal/plat"
	"panal/internal/runner"
)

// Config shapes a Runner. Dir is required; every other zero value is a default.
type Config struct {
	// Dir is the server's data directory. Workloads never see into it.
	Dir string
	// RunDir holds the workloads; default Dir/run. When sockets below it would
	// have too long a name, a state directory named for Dir takes its place.
	RunDir string
	// EnvDir holds the finished environments; default Dir/envs.
	EnvDir string
	// EnvBytes bounds all environments together; the least recently used go first.
	// Default 20 GiB.
	EnvBytes int64
	// Capacity replaces what is detected, field by field where it is not zero.
	Capacity plat.Resources
	// CPUOvercommit says how many times each detected CPU may be promised.
	// Default 2: most workloads wait most of the time, and CPU shares keep what is
	// promised fair. Memory is never promised twice.
	CPUOvercommit float64
	// ServiceReserve is the share of CPU and memory that jobs may not use.
	// Default 0.25; a job that is alone may use all.
	ServiceReserve float64
	// CPUBurst is what a workload may use of CPU time that nobody else wants, when
	// its own share is less. Default 1000 (one CPU); importing numeric libraries
	// on a quarter of a CPU takes half a minute.
	CPUBurst int64
	// Processes bounds processes and threads of a workload. Default 512.
	Processes int64
	// DiskBytes bounds what a workload keeps on disk. Default 10 GiB.
	DiskBytes int64
	// UIDs are the first and last uid (and gid) for workloads when run as root.
	// Default 200000 to 265535.
	UIDs [2]int
	// Profiles maps image patterns ("name", or "prefix*") to what runs them.
	Profiles map[string]Profile
	// Python is the interpreter of the default profile abeja-inc/*. Default
	// /usr/bin/python3.
	Python string
	// PipArgs are passed on to the agent for pip (index URL, wheel directory).
	PipArgs []string
	// Expose lists further paths that workloads may read, such as a wheel
	// directory or data sets below a home directory.
	Expose []string
	// Init and Agent are the arguments with which this same executable becomes
	// the first stage and the agent (to Agent the kind is added). Default
	// {"agent-init"} and {"agent"}.
	Init, Agent []string
	// Log takes what nobody is there to be told; nil discards.
	Log *slog.Logger
	// Now is the clock; nil means plat.SystemClock.
	Now plat.Clock

	off   walls
	force struct{ noNamespaces, noCgroups, noNetwork bool }
}

// Profile is what stands for an image on one machine.
type Profile struct {
	// Python is the interpreter.
	Python string
	// SiteDirs go on the module path behind the workload's own environment.
	SiteDirs []string
}

// walls names each wall that a test can take down to prove that its attack works.
type walls struct {
	uid, mounts, pids, privs, landlock, memory, processes, disk, reads, environ, files bool
}

const (
	defaultPattern = "abeja-inc/*"
	defaultPython  = "/usr/bin/python3"
	// maxSocketPath is what sockaddr_un holds, without the final zero.
	maxSocketPath = 107
)

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, plat.InvalidField("data", "the runner needs a data directory")
	}
	abs, err := filepath.Abs(c.Dir)
	if err != nil {
		return c, fmt.Errorf("data directory: %w", err)
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return c, fmt.Errorf("data directory: %w", err)
	}
	// What is covered is covered by its real name.
	if c.Dir, err = filepath.EvalSymlinks(abs); err != nil {
		return c, fmt.Errorf("data directory: %w", err)
	}
	def := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.EnvBytes, 20<<30)
	def(&c.CPUBurst, 1000)
	def(&c.Processes, 512)
	def(&c.DiskBytes, 10<<30)
	if c.CPUOvercommit == 0 {
		c.CPUOvercommit = 2
	}
	if c.ServiceReserve == 0 {
		c.ServiceReserve = 0.25
	}
	if c.ServiceReserve < 0 || c.ServiceReserve > 0.9 {
		return c, plat.InvalidField("service_reserve", "must be between 0 and 0.9")
	}
	if c.UIDs == [2]int{} {
		c.UIDs = [2]int{200000, 265535}
	}
	if c.UIDs[0] <= 0 || c.UIDs[1] < c.UIDs[0] {
		return c, plat.InvalidField("uids", "%d to %d is no range of unprivileged uids", c.UIDs[0], c.UIDs[1])
	}
	if c.Python == "" {
		c.Python = defaultPython
	}
	c.Profiles = maps.Clone(c.Profiles)
	if c.Profiles == nil {
		c.Profiles = map[string]Profile{}
	}
	if _, ok := c.Profiles[defaultPattern]; !ok {
		c.Profiles[defaultPattern] = Profile{Python: c.Python}
	}
	for pattern, p := range c.Profiles {
		if !filepath.IsAbs(p.Python) {
			return c, plat.InvalidField("profiles", "%s: the interpreter %q is not an absolute path", pattern, p.Python)
		}
	}
	c.Expose = slices.Clone(c.Expose)
	for i, p := range c.Expose {
		if c.Expose[i], err = filepath.Abs(p); err != nil {
			return c, fmt.Errorf("exposed path: %w", err)
		}
	}
	if c.Init == nil {
		c.Init = []string{"agent-init"}
	}
	if c.Agent == nil {
		c.Agent = []string{"agent"}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = plat.SystemClock
	}
	if c.EnvDir == "" {
		c.EnvDir = filepath.Join(c.Dir, "envs")
	}
	if c.RunDir == "" {
		c.RunDir = filepath.Join(c.Dir, "run")
	}
	if c.EnvDir, err = filepath.Abs(c.EnvDir); err != nil {
		return c, fmt.Errorf("environment directory: %w", err)
	}
	if c.RunDir, err = filepath.Abs(c.RunDir); err != nil {
		return c, fmt.Errorf("run directory: %w", err)
	}
	return c, nil
}

// shortRunDir replaces a RunDir below which sockets can't be named, or that
// other uids can't enter, by a state directory that is this data directory's own.
func (c *Config) shortRunDir(why string) error {
	sum := sha256.Sum256([]byte(c.Dir))
	name := "run-" + hex.EncodeToString(sum[:6])
	base := "/var/lib/panal"
	if os.Geteuid() != 0 {
		home, err := os.UserHomeDir()
		if err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
		base = filepath.Join(home, ".local", "state", "panal")
	}
	c.Log.Warn("workloads get a directory of their own outside the data directory",
		slog.String(plat.LogPath, filepath.Join(base, name)), slog.String(plat.LogReason, why))
	if err := os.MkdirAll(base, 0o755); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	c.RunDir = filepath.Join(base, name)
	return nil
}

func (c *Config) socketsFit() bool {
	return len(filepath.Join(c.RunDir, "wl-0123456789abcdef", "s", "control.sock")) <= maxSocketPath
}

// profile returns the profile of an image: an exact name first, else the longest
// pattern.
func (c *Config) profile(image string) (Profile, error) {
	best, found := "", false
	for pattern := range c.Profiles {
		prefix, wild := strings.CutSuffix(pattern, "*")
		if pattern == image {
			return c.Profiles[pattern], nil
		}
		if wild && strings.HasPrefix(image, prefix) && (!found || len(pattern) > len(best)) {
			best, found = pattern, true
		}
	}
	if !found {
		return Profile{}, runner.UnknownImage(image, slices.Sorted(maps.Keys(c.Profiles)))
	}
	return c.Profiles[best], nil
}

// closedAncestor returns the uppermost directory on the way to path that other
// users can't enter, or "".
func closedAncestor(path string) string {
	var chain []string
	for d := filepath.Dir(path); d != "/"; d = filepath.Dir(d) {
		chain = append(chain, d)
	}
	for _, d := range slices.Backward(chain) {
		if fi, err := os.Stat(d); err == nil && fi.Mode()&fs.FileMode(0o001) == 0 {
			return d
		}
	}
	return ""
}

const (
	// limitsEvery is how often memory (without cgroups) and disk are looked at.
	limitsEvery = time.Second
	// controlTimeout bounds one call to an agent.
	controlTimeout = 5 * time.Second
	// adoptTimeout bounds how long New waits for the next one of the agents that it takes
	// back, be they thousands.
	adoptTimeout = 2 * time.Second
	// maxGreetings bounds how many agents are asked at once for their first state, and
	// greetingLimit how long one that is silent counts among them.
	maxGreetings  = 64
	greetingLimit = 2 * time.Second
	// doubtTime is how long an agent that missed its time to repeat its state has once the
	// runner has noticed.
	doubtTime = 250 * time.Millisecond
	// startTimeout bounds the way from clone to exec of the agent.
	startTimeout = 30 * time.Second
)
