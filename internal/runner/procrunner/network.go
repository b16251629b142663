// SPDX-License-Identifier: Apache-2.0

package procrunner

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"panal/internal/runner/agentctl"
)

// leaveNetwork starts the helper that dials for the agent and moves this thread,
// which becomes the agent, into a network namespace with nothing but loopback. The
// helper has the same walls as the agent but for that one, and ends with it: the
// agent is the first process of the pid namespace.
func (p *plan) leaveNetwork() error {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket pair: %w", err)
	}
	if !p.Probe {
		if err := p.startDialer(os.NewFile(uintptr(ends[1]), "dialer")); err != nil {
			return err
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(ends[0]), unix.F_SETFD, 0); err != nil {
		return fmt.Errorf("keep the helper's socket: %w", err)
	}
	p.Env = append(p.Env, agentctl.EnvDialFD+"="+strconv.Itoa(ends[0]))
	return nil
}

// startDialer starts the helper below this process.
func (p *plan) startDialer(end *os.File) error {
	child := plan{
		Args: p.Dialer, Dir: "/", KeepFiles: 1, UID: p.UID, Drop: p.Drop, CloseFiles: true, Rlimits: p.Rlimits, Landlock: p.Landlock,
		// From HOME the resolver of some systems reads its settings; nothing else counts.
		Env: []string{"PATH=/usr/bin:/bin", agentctl.EnvDialFD + "=" + strconv.Itoa(fdControl)},
	}
	data, err := json.Marshal(child)
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	status, err := unix.FcntlInt(fdStatus, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return errors.Join(err, r.Close(), w.Close())
	}
	cmd := exec.Command("/proc/self/exe") //nolint:noctx // it lives as long as the agent
	cmd.Args = os.Args
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{r, os.NewFile(uintptr(status), "status"), end}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if p.UID == 0 { // the user namespace's rights must outlast the exec, as ours did
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP}
	}
	err = cmd.Start()
	for _, f := range cmd.ExtraFiles {
		_ = f.Close()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("start the helper for connections: %w", err), w.Close())
	}
	_, err = w.Write(data)
	return errors.Join(err, w.Close())
}

// loopbackUp switches this thread's loopback network on.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("switch loopback on: %w", err)
	}
	return nil
}
