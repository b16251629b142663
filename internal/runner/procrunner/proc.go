// SPDX-License-Identifier: Apache-2.0

package procrunner

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is a handle on a process, ours or not, that can't come to mean another.
type process struct {
	pid int
	fd  *os.File // a pidfd, non-blocking so that the poller waits on it
}

// openProcess takes a handle on pid if it is still the process that started at
// ticks; ok is false when that one is gone.
func openProcess(pid int, ticks uint64) (p *process, ok bool, err error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("open process %d: %w", pid, err)
	}
	p = newProcess(pid, fd)
	// Looked at after the handle was taken: if it is right now, it is right for good.
	if t, err := startTicks(pid); err != nil || t != ticks {
		p.close()
		return nil, false, nil //nolint:nilerr // no stat: it is gone
	}
	return p, true, nil
}

func newProcess(pid, pidfd int) *process {
	_ = unix.SetNonblock(pidfd, true)
	return &process{pid: pid, fd: os.NewFile(uintptr(pidfd), "pidfd")}
}

func (p *process) close() { _ = p.fd.Close() }

// exitStatus is how a process ended; known is false for one that was not ours to
// reap.
type exitStatus struct {
	known, exited bool
	code          int
}

// wait blocks until the process has ended or close is called (os.ErrClosed). It
// reaps the process when it is a child.
func (p *process) wait() (status exitStatus, err error) {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return status, err
	}
	err = conn.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return err == nil && n == 1
	})
	if err != nil {
		return status, err
	}
	var ws unix.WaitStatus
	if got, err := unix.Wait4(p.pid, &ws, unix.WNOHANG, nil); err == nil && got == p.pid {
		status = exitStatus{known: true, exited: ws.Exited(), code: ws.ExitStatus()}
	}
	return status, nil
}

// signal sends sig; a process that has ended is not an error.
func (p *process) signal(sig unix.Signal) error {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := conn.Control(func(fd uintptr) { serr = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	if errors.Is(serr, unix.ESRCH) {
		return nil
	}
	return serr
}

// startTicks returns field 22 of /proc/PID/stat.
func startTicks(pid int) (uint64, error) {
	var buf [statSize]byte
	fields, err := statFields(strconv.Itoa(pid), buf[:])
	if err != nil {
		return 0, err
	}
	for range 19 { // from the third field on
		_, fields, _ = bytes.Cut(fields, []byte(" "))
	}
	ticks, _, _ := bytes.Cut(fields, []byte(" "))
	if len(ticks) == 0 {
		return 0, fmt.Errorf("stat of process %d is short", pid)
	}
	return strconv.ParseUint(string(ticks), 10, 64)
}

// statSize is more than a stat file has: 52 fields, of which a name of 16 bytes and numbers.
const statSize = 2048

// statFields reads /proc/PID/stat into buf and returns its third and later fields. It is
// asked for every process of the machine again and again, so it makes no os.File, which
// would be tried in the poller first: four times the system calls.
func statFields(pid string, buf []byte) ([]byte, error) {
	// A signal in between must not make a process look gone.
	uninterrupted := func(call func() (int, error)) (n int, err error) {
		for n, err = call(); errors.Is(err, unix.EINTR); n, err = call() {
		}
		return n, err
	}
	fd, err := uninterrupted(func() (int, error) { return unix.Open("/proc/"+pid+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, err
	}
	n, err := uninterrupted(func() (int, error) { return unix.Read(fd, buf) })
	_ = unix.Close(fd)
	if err != nil {
		return nil, err
	}
	// The name in parentheses may hold anything: count from its end.
	return bytes.TrimPrefix(buf[bytes.LastIndexByte(buf[:n], ')')+1:n], []byte(" ")), nil
}

func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// processTable maps each process to its children, as of now.
func processTable() (map[int][]int, error) {
	names, err := namesIn("/proc")
	if err != nil {
		return nil, err
	}
	var buf [statSize]byte
	children := map[int][]int{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		fields, err := statFields(name, buf[:])
		if err != nil {
			continue // it has ended meanwhile
		}
		_, fields, _ = bytes.Cut(fields, []byte(" ")) // its state
		field, _, _ := bytes.Cut(fields, []byte(" "))
		if parent, err := strconv.Atoi(string(field)); err == nil {
			children[parent] = append(children[parent], pid)
		}
	}
	return children, nil
}

// namesIn returns the names in a directory, in no order.
func namesIn(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }() // it was read only
	return d.Readdirnames(-1)
}

// family returns pid and all its descendants.
func family(table map[int][]int, pid int) []int {
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, table[all[i]]...)
	}
	return all
}

// killUID kills every process of a uid that is one workload's alone.
func killUID(uid int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Lstat(filepath.Join("/proc", e.Name()), &st) == nil && int(st.Uid) == uid {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// uidsInUse returns the uids of all running processes within [lo, hi].
func uidsInUse(lo, hi int) map[int]bool {
	used := map[int]bool{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return used
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Lstat(filepath.Join("/proc", e.Name()), &st) == nil && int(st.Uid) >= lo && int(st.Uid) <= hi {
			used[int(st.Uid)] = true
		}
	}
	return used
}
