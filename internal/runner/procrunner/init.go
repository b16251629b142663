// SPDX-License-Identifier: Apache-2.0

package procrunner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
)

// Files that the first stage inherits. The plan and the status pipe close at
// exec; what comes after them stays open in the agent.
const (
	fdPlan = 3 + iota
	fdStatus
	fdControl
	fdServe
)

// plan is what the first stage does before it becomes the agent.
type plan struct {
	Args, Env []string
	Dir       string
	KeepFiles int // number of files from fdControl on that the agent inherits
	// UID is the uid and gid to become; 0 keeps the identity.
	UID int
	// Mounts is what to build in the mount namespace; nil when there is none.
	Mounts *mountPlan
	// Landlock is the allow-list; nil for none.
	Landlock *landlockPlan
	// Drop gives up every capability and every way to get one back.
	Drop bool
	// Reap keeps this process as the parent, which ends all descendants with the
	// agent: for machines without pid namespaces.
	Reap bool
	// Rlimits maps resource to limit.
	Rlimits map[int]uint64
	// CloseFiles marks all other inherited files to close at exec.
	CloseFiles bool
	// Dialer, when not empty, gives the workload a loopback network of its own; it
	// is the command line of the helper that stays on the machine's network and
	// makes connections for the agent.
	Dialer []string
	// Probe ends with success instead of becoming anything.
	Probe bool
}

type landlockPlan struct {
	RO, RW  []string
	Devices []string
	Scoped  bool // signals and abstract sockets too; needs ABI 6
}

// InitMain is the first stage of a workload: the hidden command "agent-init",
// which the server starts in new namespaces. It reads its plan, builds the walls
// and becomes the agent. It returns only when that is impossible, or as reaper.
func InitMain([]string) int {
	// Every step below is about this thread, which execs.
	runtime.LockOSThread()
	unix.CloseOnExec(fdPlan)
	unix.CloseOnExec(fdStatus)
	status := os.NewFile(fdStatus, "status")
	var p plan
	data, err := io.ReadAll(os.NewFile(fdPlan, "plan"))
	if err == nil && len(data) == 0 {
		return 1 // the server died before it sent the plan: nothing has happened
	}
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	code := 0
	if err == nil {
		code, err = p.run()
	}
	if err != nil {
		_, _ = fmt.Fprint(status, err)
		return 1
	}
	return code
}

func (p *plan) run() (code int, err error) {
	if p.Reap {
		return p.reap()
	}
	if p.CloseFiles {
		if err := closeOnExecFrom(fdControl + p.KeepFiles); err != nil {
			return 1, err
		}
	}
	// A session keyring could hold keys of the server's; without one there is
	// nothing to lose, so an error means nothing.
	_, _ = unix.KeyctlJoinSessionKeyring("")
	// The machine's own out-of-memory killer shall take workloads first.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0)
	unix.Umask(0o022)
	if p.Mounts != nil {
		if err := p.Mounts.build(); err != nil {
			return 1, err
		}
	}
	if len(p.Dialer) > 0 {
		if err := p.leaveNetwork(); err != nil {
			return 1, err
		}
	}
	if err := os.Chdir(p.Dir); err != nil {
		return 1, fmt.Errorf("work directory: %w", err)
	}
	for res, n := range p.Rlimits {
		var now unix.Rlimit
		if err := unix.Getrlimit(res, &now); err == nil {
			n = min(n, now.Max)
		}
		if err := unix.Setrlimit(res, &unix.Rlimit{Cur: n, Max: n}); err != nil {
			return 1, fmt.Errorf("set limit %d: %w", res, err)
		}
	}
	if err := p.dropRights(); err != nil {
		return 1, err
	}
	if p.Landlock != nil {
		if err := p.Landlock.restrict(); err != nil {
			return 1, err
		}
	}
	if p.Probe {
		return 0, nil
	}
	// By way of /proc the executable needs no path that this user can walk.
	err = syscall.Exec("/proc/self/exe", p.Args, p.Env)
	return 1, fmt.Errorf("become the agent: %w", err)
}

func (p *plan) dropRights() error {
	if p.Drop {
		_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
		for c := uintptr(0); c <= 63; c++ {
			// EINVAL: past the last capability. EPERM: there is none to drop with,
			// then the bounding set means nothing, for no_new_privs is set below.
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
				break
			}
		}
	}
	if p.UID != 0 {
		if err := syscall.Setgroups([]int{}); err != nil {
			return fmt.Errorf("drop groups: %w", err)
		}
		if err := syscall.Setresgid(p.UID, p.UID, p.UID); err != nil {
			return fmt.Errorf("become gid %d: %w", p.UID, err)
		}
		if err := syscall.Setresuid(p.UID, p.UID, p.UID); err != nil {
			return fmt.Errorf("become uid %d: %w", p.UID, err)
		}
	}
	if !p.Drop {
		return nil
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&hdr, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}

func (l *landlockPlan) restrict() error {
	cfg := landlock.V5.BestEffort()
	rules := []landlock.Rule{
		landlock.RODirs(existing(l.RO, true)...), landlock.ROFiles(existing(l.RO, false)...),
		landlock.RWDirs(existing(l.RW, true)...).WithRefer(),
		landlock.RWFiles(existing(l.Devices, false)...).WithIoctlDev(),
		landlock.ROFiles("/proc/self/exe"),
	}
	if err := cfg.RestrictPaths(rules...); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	if l.Scoped {
		if err := landlock.V6.RestrictScoped(); err != nil {
			return fmt.Errorf("landlock scopes: %w", err)
		}
	}
	return nil
}

// existing keeps the paths that are there: directories, or everything else.
func existing(paths []string, dirs bool) []string {
	var keep []string
	for _, p := range paths {
		if fi, err := os.Stat(p); err == nil && fi.IsDir() == dirs {
			keep = append(keep, p)
		}
	}
	return keep
}

// closeOnExecFrom marks every file from first on, whoever left it open.
func closeOnExecFrom(first int) error {
	err := unix.CloseRange(uint(first), ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		return nil
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list inherited files: %w", err)
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// reap starts the plan in a child and stays. Orphans come to this process, so
// that when the agent ends it can end all of them, whatever sessions they made.
func (p *plan) reap() (int, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, fmt.Errorf("become reaper: %w", err)
	}
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, syscall.SIGTERM, syscall.SIGINT)
	child := *p
	child.Reap = false
	data, err := json.Marshal(child)
	if err != nil {
		return 1, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 1, err
	}
	cmd := exec.Command("/proc/self/exe") //nolint:noctx // it lives as long as this process
	cmd.Args = os.Args
	cmd.Env = []string{}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// The child says on the same status pipe how it went; this side lets go of it.
	cmd.ExtraFiles = []*os.File{r, os.NewFile(fdStatus, "status")}
	for i := range p.KeepFiles {
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(fdControl+i), "listener"))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("start below the reaper: %w", err)
	}
	for _, f := range cmd.ExtraFiles {
		_ = f.Close()
	}
	// The plan is longer than a pipe at times; the child reads it to the end.
	_, werr := w.Write(data)
	if err := errors.Join(werr, w.Close()); err != nil {
		_ = cmd.Process.Kill()
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case s := <-terms:
				_ = cmd.Process.Signal(s)
			case <-stop:
				return
			}
		}
	}()
	defer killDescendants()
	code := 137
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return code, fmt.Errorf("wait for the agent: %w", err)
		}
		if pid == cmd.Process.Pid {
			if ws.Exited() {
				code = ws.ExitStatus()
			}
			break
		}
	}
	close(stop)
	<-done
	return code, nil
}

// killDescendants ends and reaps until there is none left.
func killDescendants() {
	self := os.Getpid()
	for {
		table, err := processTable()
		if err == nil {
			for _, pid := range family(table, self)[1:] {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		var ws unix.WaitStatus
		if _, err := unix.Wait4(-1, &ws, 0, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// mountPlan describes the file system that the workload sees: everything
// read-only, some of it covered, and on top what it may use.
type mountPlan struct {
	// Cover lists directories to hide behind an empty one.
	Cover []string
	// Binds are what is shown on top, under their own or another name.
	Binds []bind
	// Shm is the size of /dev/shm.
	Shm int64
	// HideFiles are devices to put /dev/null over.
	HideFiles []string
}

type bind struct {
	From, To string
	Write    bool
}

func (m *mountPlan) build() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	type step struct {
		to    string
		tree  int // -1: an empty tmpfs
		write bool
		size  int64
	}
	steps := make([]step, 0, len(m.Cover)+len(m.Binds)+1)
	for _, c := range m.Cover {
		if fi, err := os.Stat(c); err == nil && fi.IsDir() {
			steps = append(steps, step{to: c, tree: -1, size: 1 << 20})
		}
	}
	// Trees are taken while the way to them is still open.
	for _, b := range m.Binds {
		fd, err := unix.OpenTree(unix.AT_FDCWD, b.From, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return fmt.Errorf("take %s: %w", b.From, err)
		}
		steps = append(steps, step{to: b.To, tree: fd, write: b.Write})
	}
	if fi, err := os.Stat("/dev/shm"); err == nil && fi.IsDir() {
		steps = append(steps, step{to: "/dev/shm", tree: -1, write: true, size: max(m.Shm, 1<<20)})
	}
	readOnly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &readOnly); err != nil {
		return fmt.Errorf("make mounts read-only: %w", err)
	}
	sortByDepth(steps, func(s step) string { return s.to })
	for _, s := range steps {
		if err := mountPoint(s.to, s.tree); err != nil {
			return fmt.Errorf("mount point %s: %w", s.to, err)
		}
		if s.tree < 0 {
			mode := "0755"
			if s.write {
				mode = "1777"
			}
			opts := fmt.Sprintf("size=%d,mode=%s", s.size, mode)
			if err := unix.Mount("tmpfs", s.to, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
				return fmt.Errorf("cover %s: %w", s.to, err)
			}
			continue
		}
		if err := unix.MoveMount(s.tree, "", unix.AT_FDCWD, s.to, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("mount %s: %w", s.to, err)
		}
	}
	for _, s := range steps {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
		if !s.write {
			attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
		}
		if err := unix.MountSetattr(unix.AT_FDCWD, s.to, 0, &attr); err != nil {
			return fmt.Errorf("seal %s: %w", s.to, err)
		}
	}
	for _, f := range m.HideFiles {
		if err := unix.Mount("/dev/null", f, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("hide %s: %w", f, err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// mountPoint makes the place for a mount where a cover has taken it away.
func mountPoint(to string, tree int) error {
	if _, err := os.Lstat(to); err == nil {
		return nil
	}
	if tree >= 0 {
		var st unix.Stat_t
		if err := unix.Fstat(tree, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return err
			}
			f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o444)
			if err != nil {
				return err
			}
			return f.Close()
		}
	}
	return os.MkdirAll(to, 0o755)
}
