// SPDX-License-Identifier: Apache-2.0

package procrunner

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"panal/internal/plat"
)

// Levels of Isolation.
const (
	levelUID      = "uid"
	levelLandlock = "landlock"
	levelNone     = "none"
)

// isolation is what the machine gives, found out by trying.
type isolation struct {
	level  string
	reason string
	// namespaces: mount, pid and IPC namespaces work (in a user namespace when
	// we are not root).
	namespaces bool
	// network: workloads can get a network of their own, which is loopback alone.
	network   bool
	netReason string // why not
	abi       int    // of Landlock; 0 when there is none
	root      bool
	uid       bool // workloads become users of their own
}

// detectIsolation tries the walls, best first.
func (r *Runner) detectIsolation(ctx context.Context) isolation {
	iso := r.detectWalls(ctx)
	switch {
	case iso.level == levelNone || !iso.namespaces:
		iso.netReason = "namespaces are not available"
	case r.cfg.force.noNetwork:
		iso.netReason = "switched off"
	default:
		iso.network = true
		if err := r.probe(ctx, iso); err != nil {
			iso.network, iso.netReason = false, fmt.Sprintf("network namespaces are not available: %v", err)
		}
	}
	return iso
}

// detectWalls tries the walls but for that around the network.
func (r *Runner) detectWalls(ctx context.Context) isolation {
	iso := isolation{root: os.Geteuid() == 0}
	iso.uid = iso.root
	if v, err := llsys.LandlockGetABIVersion(); err == nil {
		iso.abi = v
	}
	iso.namespaces = true
	nsErr := r.probe(ctx, iso)
	if r.cfg.force.noNamespaces {
		nsErr = errors.New("switched off")
	}
	if nsErr != nil {
		iso.namespaces = false
	}
	switch {
	case iso.root:
		iso.level = levelUID
		if nsErr == nil {
			return iso
		}
		if err := r.probe(ctx, iso); err != nil {
			iso.uid = false
			iso.level, iso.reason = levelNone, fmt.Sprintf("root, but without the right to become another user: %v", err)
			return iso
		}
		iso.reason = fmt.Sprintf("each workload has its own uid, but namespaces are not available: %v", nsErr)
	// Below ABI 3 Landlock doesn't stop truncation: read-only mounts do.
	case nsErr == nil && iso.abi >= 2:
		iso.level = levelLandlock
	// Below ABI 6 Landlock doesn't stop signals: the pid namespace does.
	case nsErr != nil && iso.abi >= 6:
		iso.level = levelLandlock
		if err := r.probe(ctx, iso); err != nil {
			iso.level, iso.reason = levelNone, fmt.Sprintf("Landlock does not hold: %v", err)
		}
	default:
		iso.level = levelNone
		iso.reason = fmt.Sprintf("the server is not root, the kernel's Landlock has version %d (6 is needed, or 2 and user namespaces)", iso.abi)
		if nsErr != nil {
			iso.reason += fmt.Sprintf(", and user namespaces are not available: %v", nsErr)
		}
	}
	return iso
}

const probePrefix = ".probe-"

// probe builds the walls around nothing and tells whether that works.
func (r *Runner) probe(ctx context.Context, iso isolation) error {
	dir, err := os.MkdirTemp(r.cfg.RunDir, probePrefix)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	work := filepath.Join(dir, dirWork)
	if err := os.MkdirAll(filepath.Join(work, "tmp"), 0o755); err != nil {
		return err
	}
	p := r.plan(iso, launchSpec{work: work, uid: r.cfg.UIDs[0], memory: 64 << 20, network: iso.network})
	p.Probe, p.KeepFiles, p.Reap = true, 0, false
	cmd, status, err := r.command(iso, nil, nil)
	if err != nil {
		return err
	}
	defer func() { _ = status.Close() }()
	planEnd, err := r.spawn(cmd)
	if err != nil {
		return err
	}
	sendErr := sendPlan(planEnd, p)
	text, readErr := readStatus(ctx, status)
	waitErr := cmd.Wait()
	switch {
	case text != "":
		return errors.New(text)
	case waitErr != nil:
		return waitErr
	}
	return errors.Join(sendErr, readErr)
}

// launchSpec is what of a workload shapes its plan.
type launchSpec struct {
	work      string
	uid       int
	org       plat.OrgID
	profile   Profile
	memory    int64
	gpus      []gpu
	network   bool // a loopback network of its own
	args, env []string
	files     int
}

// plan says what the first stage does for a workload.
func (r *Runner) plan(iso isolation, s launchSpec) plan {
	off := r.cfg.off
	p := plan{
		Args: s.args, Env: s.env, Dir: s.work, KeepFiles: s.files,
		Drop: !off.privs, CloseFiles: !off.files,
		Reap: !iso.namespaces && !off.pids,
		Rlimits: map[int]uint64{
			unix.RLIMIT_CORE:   0,
			unix.RLIMIT_NOFILE: 65536,
		},
	}
	if s.network {
		p.Dialer = append(append([]string{"panal"}, r.cfg.Agent...), "dial")
	}
	if !off.disk {
		p.Rlimits[unix.RLIMIT_FSIZE] = uint64(r.cfg.DiskBytes)
	}
	// Without a control group; counted per uid and user namespace, so only where
	// that is this workload alone.
	if r.groups == nil && !off.processes && (iso.uid && !off.uid || !iso.root && iso.namespaces) {
		p.Rlimits[unix.RLIMIT_NPROC] = uint64(r.cfg.Processes)
	}
	if iso.uid && !off.uid {
		p.UID = s.uid
	}
	shown := slices.Clone(r.cfg.Expose)
	shown = append(shown, s.profile.SiteDirs...)
	shown = append(shown, interpreterDirs(s.profile.Python)...)
	if s.org != "" {
		shown = append(shown, filepath.Join(r.cfg.EnvDir, string(s.org)))
	}
	if iso.namespaces && !off.mounts {
		p.Mounts = r.mountPlan(iso, s, shown)
	}
	if !iso.root && !off.landlock && iso.abi >= 2 {
		p.Landlock = &landlockPlan{
			RO: append([]string{
				"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/proc",
				"/sys/devices", "/sys/fs/cgroup", "/run/systemd/resolve",
			}, shown...),
			RW:      []string{s.work},
			Devices: []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"},
			Scoped:  iso.abi >= 6,
		}
		if p.Mounts != nil {
			p.Landlock.RW = append(p.Landlock.RW, "/tmp", "/var/tmp", "/dev/shm")
		}
		for _, g := range s.gpus {
			p.Landlock.Devices = append(p.Landlock.Devices, "/dev/nvidia"+strconv.Itoa(g.Index), "/dev/nvidiactl", "/dev/nvidia-uvm")
		}
	}
	return p
}

// mountPlan covers the platform's own directories and those of people, and shows
// the workload's on top.
func (r *Runner) mountPlan(iso isolation, s launchSpec, shown []string) *mountPlan {
	m := &mountPlan{
		Cover: []string{"/run", "/root", "/home", r.cfg.Dir, r.cfg.RunDir, r.cfg.EnvDir},
		Binds: []bind{{From: s.work, To: s.work, Write: true}},
		Shm:   s.memory / 2,
	}
	tmp := filepath.Join(s.work, "tmp")
	for _, t := range []string{"/tmp", "/var/tmp"} {
		m.Binds = append(m.Binds, bind{From: tmp, To: t, Write: true})
	}
	// A name server that runs here is reached through a file below /run.
	if target, err := filepath.EvalSymlinks("/etc/resolv.conf"); err == nil && strings.HasPrefix(target, "/run/") {
		if dir := filepath.Dir(target); dir != "/run" {
			target = dir // it is replaced by renaming at times
		}
		shown = append(shown, target)
	}
	for _, path := range shown {
		if _, err := os.Stat(path); err == nil && hidden(path) {
			m.Binds = append(m.Binds, bind{From: path, To: path})
			continue
		}
		for _, c := range m.Cover {
			if within(path, c) && path != c {
				m.Binds = append(m.Binds, bind{From: path, To: path})
				break
			}
		}
	}
	if iso.uid {
		for _, b := range m.Binds {
			if d := closedAncestor(b.To); d != "" && !slices.Contains(m.Cover, d) {
				m.Cover = append(m.Cover, d)
			}
		}
	}
	m.Binds = slices.CompactFunc(slices.SortedFunc(slices.Values(m.Binds), func(a, b bind) int { return cmp.Compare(a.To, b.To) }),
		func(a, b bind) bool { return a.To == b.To })
	for _, g := range r.gpus {
		dev := "/dev/nvidia" + strconv.Itoa(g.Index)
		if _, err := os.Stat(dev); err == nil && !slices.Contains(s.gpus, g) {
			m.HideFiles = append(m.HideFiles, dev)
		}
	}
	return m
}

// hidden tells whether the workload's own /tmp lies over path.
func hidden(path string) bool { return within(path, "/tmp") || within(path, "/var/tmp") }

func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// interpreterDirs are the trees that an interpreter outside the system's own
// directories needs: its prefix, and that of the one its links lead to.
func interpreterDirs(python string) []string {
	if python == "" {
		return nil
	}
	var dirs []string
	add := func(p string) {
		prefix := filepath.Dir(filepath.Dir(p))
		if prefix != "/" && prefix != "/usr" && !slices.Contains(dirs, prefix) {
			dirs = append(dirs, prefix)
		}
	}
	add(python)
	if real, err := filepath.EvalSymlinks(python); err == nil {
		add(real)
	}
	return dirs
}

func sortByDepth[T any](list []T, path func(T) string) {
	slices.SortStableFunc(list, func(a, b T) int {
		return cmp.Or(cmp.Compare(strings.Count(path(a), "/"), strings.Count(path(b), "/")), cmp.Compare(path(a), path(b)))
	})
}

// command prepares the first stage. status is the read end on which it says what
// went wrong; it ends when the agent runs. The write ends lie in cmd.ExtraFiles.
func (r *Runner) command(iso isolation, output *os.File, listeners []*os.File) (cmd *exec.Cmd, status *os.File, err error) {
	off := r.cfg.off
	statusR, statusW, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	// Not CommandContext: the workload outlives every context of the server's.
	cmd = exec.Command("/proc/self/exe") //nolint:noctx // see above
	cmd.Args = append([]string{"panal"}, r.cfg.Init...)
	cmd.Env = []string{}
	cmd.Dir = "/"
	if output != nil {
		cmd.Stdout, cmd.Stderr = output, output
	}
	cmd.ExtraFiles = append([]*os.File{nil, statusW}, listeners...)
	attr := &syscall.SysProcAttr{Setsid: true}
	if iso.namespaces {
		attr.Cloneflags = syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC
		if !off.pids {
			attr.Cloneflags |= syscall.CLONE_NEWPID
		}
		if !iso.root {
			attr.Cloneflags |= syscall.CLONE_NEWUSER
			attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
			attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
			// The rights of the first stage inside its user namespace must outlast its exec.
			attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP, unix.CAP_NET_ADMIN}
		}
	}
	cmd.SysProcAttr = attr
	return cmd, statusR, nil
}

// spawn starts a prepared command and returns the write end of its plan.
func (r *Runner) spawn(cmd *exec.Cmd) (planEnd *os.File, err error) {
	planR, planW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.ExtraFiles[0] = planR
	err = cmd.Start()
	_ = planR.Close()
	_ = cmd.ExtraFiles[1].Close()
	if err != nil {
		_ = planW.Close()
		return nil, fmt.Errorf("start the first stage: %w", err)
	}
	return planW, nil
}

func sendPlan(w *os.File, p plan) error {
	data, err := json.Marshal(p)
	if err == nil {
		_ = w.SetWriteDeadline(time.Now().Add(startTimeout))
		_, err = io.Copy(w, bytes.NewReader(data))
	}
	return errors.Join(err, w.Close())
}

// readStatus returns what the first stage complained of; "" when it is through.
func readStatus(ctx context.Context, status *os.File) (string, error) {
	_ = status.SetReadDeadline(time.Now().Add(startTimeout))
	stop := context.AfterFunc(ctx, func() { _ = status.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	data, err := io.ReadAll(io.LimitReader(status, 4096))
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return string(data), err
}

func (r *Runner) logIsolation() {
	level := slog.LevelInfo
	if r.iso.level == levelNone {
		level = slog.LevelWarn
	}
	r.cfg.Log.LogAttrs(context.Background(), level, "isolation of workloads",
		slog.String("level", r.iso.level), slog.Bool("namespaces", r.iso.namespaces),
		slog.Int("landlock", r.iso.abi), slog.Bool("cgroups", r.groups != nil), slog.Bool("network", r.iso.network), slog.String(plat.LogReason, r.iso.reason))
}
