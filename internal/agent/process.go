// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// processes starts children and reaps orphans: the agent is pid 1 of its
// namespace, or else the reaper of whatever its children leave behind.
type processes struct {
	mu    sync.Mutex
	known map[int]bool // children that their own exec.Cmd waits for
}

// newProcesses also makes the agent's memory and environment unreadable for
// other processes of its user.
func newProcesses() (*processes, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become reaper: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("close memory to others: %w", err)
	}
	// Nothing that whoever started us left open reaches user code.
	if err := unix.CloseRange(3, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC); err != nil && !errors.Is(err, unix.ENOSYS) {
		return nil, fmt.Errorf("close files on exec: %w", err)
	}
	return &processes{known: map[int]bool{}}, nil
}

// start starts cmd in a process group of its own that dies with the agent.
func (p *processes) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	p.known[cmd.Process.Pid] = true
	return nil
}

// wait waits for a child that start started, then kills its process group.
func (p *processes) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	p.mu.Lock()
	delete(p.known, cmd.Process.Pid)
	p.mu.Unlock()
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	return err
}

// reap collects ended orphans until ctx ends.
func (p *processes) reap(ctx context.Context) {
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, unix.SIGCHLD)
	defer signal.Stop(sig)
	retry := time.NewTicker(time.Second)
	defer retry.Stop()
	for {
		for p.reapOne() {
		}
		select {
		case <-sig:
		case <-retry.C: // a known child stood in front of an orphan
		case <-ctx.Done():
			return
		}
	}
}

// reapOne collects one orphan and tells whether to look again. The lock keeps a
// child that is just being started from looking like an orphan.
func (p *processes) reapOne() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	// The fields of siginfo_t that waitid fills in, on 64-bit Linux.
	var info struct {
		_   [4]int32
		pid int32
		_   [27]int32
	}
	err := unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) //nolint:gosec // the kernel's own layout, as long as siginfo_t
	if err != nil || info.pid == 0 || p.known[int(info.pid)] {
		return errors.Is(err, unix.EINTR)
	}
	_, err = unix.Wait4(int(info.pid), nil, unix.WNOHANG, nil)
	return err == nil
}

// killOrphans kills what ended children left behind. No known child may live.
func (p *processes) killOrphans() {
	if os.Getpid() == 1 {
		_ = unix.Kill(-1, unix.SIGKILL) // all of the namespace but us
		return
	}
	self, err := os.Readlink("/proc/self")
	if err != nil || self != strconv.Itoa(os.Getpid()) {
		return // the /proc of another namespace would name other processes
	}
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
		found := false
		files, _ := filepath.Glob("/proc/self/task/*/children")
		for _, f := range files {
			text, _ := os.ReadFile(f)
			for word := range strings.FieldsSeq(string(text)) {
				pid, err := strconv.Atoi(word)
				p.mu.Lock()
				if err == nil && !p.known[pid] {
					found = true
					_ = unix.Kill(pid, unix.SIGKILL)
				}
				p.mu.Unlock()
			}
		}
		if !found {
			return
		}
		for p.reapOne() {
		}
	}
}

// output runs a short program of ours to its end and returns what it printed.
func (p *processes) output(ctx context.Context, cmd *exec.Cmd, limit int) ([]byte, error) {
	out := &boundedBuffer{limit: limit}
	errs := &boundedBuffer{limit: 4 << 10}
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.WaitDelay = time.Second
	if err := p.start(cmd); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-ctx.Done():
			_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		case <-done:
		}
	}()
	if err := p.wait(cmd); err != nil {
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(string(errs.b)))
	}
	return out.b, nil
}

// boundedBuffer keeps the first limit bytes.
type boundedBuffer struct {
	b     []byte
	limit int
}

func (w *boundedBuffer) Write(p []byte) (int, error) {
	w.b = append(w.b, p[:min(len(p), w.limit-len(w.b))]...)
	return len(p), nil
}

// child is a running program of the user whose output goes to the log.
type child struct {
	cmd  *exec.Cmd
	tags [2]*lineReader // stdout, stderr
	done chan struct{}  // closed when it is gone and its output is read
	err  error          // of Wait; read it after done
}

// startChild starts a program; its lines go to the sink.
func (a *agent) startChild(argv []string, dir string, env []string) (*child, error) {
	c := &child{cmd: exec.Command(argv[0], argv[1:]...), done: make(chan struct{})} //nolint:noctx // user code, ended by stop and kill
	c.cmd.Dir, c.cmd.Env = dir, env
	var ends []*os.File
	defer func() {
		for _, f := range ends {
			_ = f.Close()
		}
	}()
	for i, level := range []string{"info", "warning"} {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", argv[0], err)
		}
		ends = append(ends, w)
		if c.tags[i], err = newLineReader(r, level, a.sink); err != nil {
			return nil, fmt.Errorf("start %s: %w", argv[0], err)
		}
		if i == 0 {
			c.cmd.Stdout = w
		} else {
			c.cmd.Stderr = w
		}
	}
	if err := a.procs.start(c.cmd); err != nil {
		for _, t := range c.tags {
			_ = t.file.Close()
		}
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	var readers sync.WaitGroup
	for _, t := range c.tags {
		readers.Go(t.run)
	}
	a.tasks.Go(func() {
		c.err = a.procs.wait(c.cmd)
		for _, t := range c.tags {
			t.finish()
		}
		readers.Wait()
		close(c.done)
	})
	return c, nil
}

// tag names the request that the lines printed from now on belong to.
func (c *child) tag(requestID string) {
	for _, t := range c.tags {
		t.tag(requestID)
	}
}

// kill ends the child and its process group at once.
func (c *child) kill() { _ = unix.Kill(-c.cmd.Process.Pid, unix.SIGKILL) }

// interrupt asks the child to end, kills it after grace, and waits for its end.
func (c *child) interrupt(grace time.Duration) {
	_ = c.cmd.Process.Signal(os.Interrupt)
	select {
	case <-c.done:
	case <-time.After(grace):
		c.kill()
		<-c.done
	}
}

// code returns the exit code, 128 plus the signal's number if one ended it.
func (c *child) code() int {
	st := c.cmd.ProcessState
	if st == nil {
		return 1
	}
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return st.ExitCode()
}

// describe says in words how the child ended.
func (c *child) describe() string {
	if ws, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return "was killed by " + unix.SignalName(ws.Signal())
	}
	return fmt.Sprintf("ended with exit code %d", c.code())
}
