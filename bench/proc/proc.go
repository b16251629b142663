// SPDX-License-Identifier: Apache-2.0

// Package proc starts the servers that benchmarks measure, each on the cores that it is
// given, and reads what they cost from /proc.
package proc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"panal/internal/plat"
)

// Process is a server under test.
type Process struct {
	Name string
	PID  int
	cmd  *exec.Cmd
	log  *os.File
}

// Start starts a program on the given cores ("0", "0-1"; empty: any). What it prints goes
// to the file log.
func Start(name, cores, log string, env []string, argv ...string) (*Process, error) {
	if cores != "" {
		argv = append([]string{"taskset", "-c", cores}, argv...) // taskset becomes the program
	}
	f, err := os.Create(log)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", name, err)
	}
	p := &Process{Name: name, cmd: exec.Command(argv[0], argv[1:]...), log: f}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Env = f, f, append(os.Environ(), env...)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, errors.Join(err, f.Close()))
	}
	p.PID = p.cmd.Process.Pid
	return p, nil
}

// Listens waits until the address takes connections.
func (p *Process) Listens(ctx context.Context, addr string) error {
	for range 300 {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			return c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return plat.Errorf(plat.ErrUnavailable, "%s does not listen on %s; see %s", p.Name, addr, p.log.Name())
}

// Stop ends the process, with a signal at first. A nil process is stopped already.
func (p *Process) Stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(os.Interrupt)
	kill := time.AfterFunc(20*time.Second, func() { _ = p.cmd.Process.Kill() })
	_ = p.cmd.Wait()
	kill.Stop()
	_ = p.log.Close()
}

// Pin moves a process with all its threads to cores.
func Pin(pid int, cores string) error {
	if out, err := exec.Command("taskset", "-acp", cores, strconv.Itoa(pid)).CombinedOutput(); err != nil {
		return fmt.Errorf("taskset: %s: %w", out, err)
	}
	return nil
}

// ticksPerSecond is USER_HZ, which Linux fixes at 100 for everything it shows.
const ticksPerSecond = 100

// CPU returns the CPU time of a process so far; 0 for pid 0.
func CPU(pid int) (time.Duration, error) {
	if pid == 0 {
		return 0, nil
	}
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * time.Second / ticksPerSecond, errors.Join(err1, err2)
}

// Parent returns the process that started another.
func Parent(pid int) (int, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(fields[1])
}

// FamilyCPU returns the CPU time of a process and its children so far, also of those
// that have ended, which it keeps. Children are not asked for theirs.
func FamilyCPU(pid int) (time.Duration, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	ticks := int64(0)
	for _, f := range fields[11:15] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks += n
	}
	sum := time.Duration(ticks) * time.Second / ticksPerSecond
	children, err := Children(pid)
	if err != nil {
		return 0, err
	}
	for _, c := range children {
		if d, err := CPU(c); err == nil { // it may have ended
			sum += d
		}
	}
	return sum, nil
}

// stat returns the fields of /proc/PID/stat behind the name, which may hold anything.
func stat(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, fmt.Errorf("the process is gone: %w", err)
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 15 {
		return nil, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	return fields, nil
}

// Children returns the descendants of a process.
func Children(pid int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("processes: %w", err)
	}
	parent := map[int]int{}
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			if fields, err := stat(n); err == nil {
				parent[n], _ = strconv.Atoi(fields[1])
			}
		}
	}
	var all []int
	for n := range parent {
		for p := parent[n]; p > 1; p = parent[p] {
			if p == pid {
				all = append(all, n)
				break
			}
		}
	}
	return all, nil
}

// RSS and Peak return resident memory in MB, now and at most since ResetPeak; 0 for pid 0.
func RSS(pid int) (float64, error)  { return status(pid, "VmRSS:") }
func Peak(pid int) (float64, error) { return status(pid, "VmHWM:") }

// ResetPeak begins a new peak.
func ResetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

func status(pid int, field string) (float64, error) {
	if pid == 0 {
		return 0, nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("the process is gone: %w", err)
	}
	_, rest, _ := strings.Cut(string(b), field)
	kb, err := strconv.ParseFloat(strings.Fields(rest + " 0")[0], 64)
	return kb / 1000, err
}

// FreeAddr returns an address of the loopback interface that nobody listens on.
func FreeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// Admin is who a new installation's first admin is.
type Admin struct{ Org, User, Token string }

// ReadAdmin reads admin.json of a server that is starting. User has no prefix.
func ReadAdmin(path string) (Admin, error) {
	var a struct {
		Org   string `json:"organization_id"`
		User  string `json:"user_id"`
		Token string `json:"personal_access_token"`
	}
	for range 200 {
		b, err := os.ReadFile(path)
		if err == nil && json.Unmarshal(b, &a) == nil && a.Token != "" {
			return Admin{a.Org, strings.TrimPrefix(a.User, "user-"), a.Token}, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return Admin{}, plat.Errorf(plat.ErrUnavailable, "no token in %s", path)
}
