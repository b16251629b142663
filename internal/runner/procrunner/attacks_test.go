// SPDX-License-Identifier: Apache-2.0

package procrunner_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"panal/internal/runner/agentctl"
)

// result is what an attack says of itself, in result/attack.json.
type result struct {
	OK   bool
	Text string
}

// attack runs inside the walls, as user code would. ATTACK names it, ATTACK_ARG
// says what it is aimed at (one target a line).
func (a *fakeAgent) attack(kind string) int {
	name := os.Getenv("ATTACK")
	target := os.Getenv("ATTACK_ARG")
	a.run(kind)
	tell := func(r result) {
		data, err := json.Marshal(r)
		if err != nil {
			panic(err)
		}
		path := filepath.Join(a.work, agentctl.DirResult, "attack.json")
		if err := os.WriteFile(path+".new", data, 0o600); err != nil {
			panic(err)
		}
		_ = os.Rename(path+".new", path)
	}
	any := func(f func(string) error) {
		var texts []string
		for t := range strings.SplitSeq(target, "\n") {
			err := f(t)
			texts = append(texts, fmt.Sprintf("%s: %v", t, err))
			if err == nil {
				tell(result{OK: true, Text: t})
				return
			}
		}
		tell(result{Text: strings.Join(texts, "; ")})
	}
	exitPath := filepath.Join(a.work, agentctl.ExitFile)
	switch name {
	case "read":
		any(func(p string) error {
			data, err := os.ReadFile(p)
			if err == nil && !bytes.Contains(data, []byte("SECRET")) {
				err = fmt.Errorf("it says %q", data)
			}
			return err
		})
	case "write":
		any(func(p string) error { return os.WriteFile(p, []byte("owned"), 0o644) })
	case "truncate":
		any(func(p string) error { return os.Truncate(p, 0) })
	case "listen": // a command's port
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		defer func() { _ = l.Close() }()
		tell(result{OK: true, Text: l.Addr().String()})
		<-a.stop
	case "connect-tcp":
		any(func(addr string) error {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				_ = c.Close()
			}
			return err
		})
	case "connect":
		any(func(p string) error {
			c, err := net.Dial("unix", p)
			if err == nil {
				_ = c.Close()
			}
			return err
		})
	case "memory-of":
		any(func(pid string) error {
			data, err := os.ReadFile("/proc/" + pid + "/environ")
			if err == nil && !bytes.Contains(data, []byte("SECRET")) {
				err = fmt.Errorf("another process has that pid here")
			}
			return err
		})
	case "signal":
		any(func(pid string) error {
			n, err := strconv.Atoi(pid)
			if err != nil || n <= 1 {
				panic(pid)
			}
			return syscall.Kill(n, syscall.SIGKILL)
		})
	case "setuid":
		// The helper is put there by root: as if the machine had one with a hole.
		for {
			if _, err := os.Stat(target); err == nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		out, err := exec.Command(target, "attacker", "euid").CombinedOutput()
		tell(result{OK: string(out) == "0", Text: fmt.Sprintf("%s %v", out, err)})
	case "mount":
		dir := filepath.Join(a.work, agentctl.DirTmp, "m")
		_ = os.Mkdir(dir, 0o700)
		err := unix.Mount("tmpfs", dir, "tmpfs", 0, "")
		tell(result{OK: err == nil, Text: fmt.Sprint(err)})
	case "forks":
		var err error
		n := 0
		for ; n < 150 && err == nil; n++ {
			err = exec.Command("/bin/sleep", "600").Start()
		}
		tell(result{OK: err == nil, Text: fmt.Sprintf("%d: %v", n, err)})
		if err != nil {
			return a.exit(agentctl.Exit{Code: 1, Reason: "BlockingIOError: fork"})
		}
	case "memory":
		var hold [][]byte
		for range 40 {
			b := make([]byte, 10<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			hold = append(hold, b)
			time.Sleep(20 * time.Millisecond) // a watch must have a chance as well
		}
		tell(result{OK: true})
		<-a.stop
		return a.exit(agentctl.Exit{Reason: strconv.Itoa(len(hold))})
	case "disk", "disk-nameless":
		var hold []*os.File
		for i := range 30 {
			path := filepath.Join(a.work, agentctl.DirTmp, strconv.Itoa(i))
			if err := os.WriteFile(path, make([]byte, 4<<20), 0o600); err != nil {
				tell(result{Text: err.Error()})
				break
			}
			if name == "disk-nameless" {
				f, err := os.Open(path)
				if err != nil {
					panic(err)
				}
				hold = append(hold, f)
				_ = os.Remove(path)
			}
		}
		tell(result{OK: true})
		<-a.stop
		return a.exit(agentctl.Exit{Reason: strconv.Itoa(len(hold))})
	case "big-file":
		f, err := os.Create(filepath.Join(a.work, agentctl.DirTmp, "big"))
		if err != nil {
			panic(err)
		}
		_, err = f.WriteAt([]byte("x"), 1<<40)
		tell(result{OK: err == nil, Text: fmt.Sprint(err)})
	case "orphan":
		// Twice forked, in a session of its own, out of every process group.
		cmd := exec.Command("/proc/self/exe", "attacker", "daemon", target)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		out, err := cmd.CombinedOutput()
		tell(result{OK: err == nil, Text: string(out)})
		return a.exit(agentctl.Exit{})
	case "exit-link":
		_ = os.Symlink(target, exitPath)
		return 1
	case "exit-fifo":
		_ = syscall.Mkfifo(exitPath, 0o600)
		return 1
	case "exit-huge":
		f, err := os.Create(exitPath)
		if err != nil {
			panic(err)
		}
		_, _ = f.WriteString(`{"code":1,"reason":"HUGE","tail":"`)
		_, _ = f.Write(bytes.Repeat([]byte("x"), 1<<20))
		_, _ = f.WriteString(`"}`)
		return 1
	case "spool-link":
		_ = os.RemoveAll(filepath.Join(a.work, agentctl.DirSpool))
		_ = os.Symlink(target, filepath.Join(a.work, agentctl.DirSpool))
		return a.exit(agentctl.Exit{})
	case "spool-files":
		file := func(n int) string { return filepath.Join(a.work, agentctl.DirSpool, fmt.Sprintf("%020d.batch", n)) }
		_ = os.Symlink(target, file(1))
		_ = syscall.Mkfifo(file(2), 0o600)
		_ = os.WriteFile(file(3), []byte("junk"), 0o600)
		_ = os.WriteFile(file(4), []byte(`{"workload_id":"wl-00000000000000ff","stream":"job/1","first_seq":4,"entries":[{"t":1,"m":"forged"}]}`), 0o600)
		_ = os.Mkdir(file(5), 0)
		return a.exit(agentctl.Exit{})
	case "closed-dirs":
		_ = os.MkdirAll(filepath.Join(a.work, "tmp", "a", "b"), 0o700)
		_ = os.WriteFile(filepath.Join(a.work, "tmp", "a", "b", "c"), nil, 0)
		_ = os.Chmod(filepath.Join(a.work, "tmp", "a", "b"), 0)
		_ = os.Chmod(filepath.Join(a.work, "tmp", "a"), 0)
		return a.exit(agentctl.Exit{})
	case "environ":
		tell(result{OK: true, Text: strings.Join(os.Environ(), "\n")})
	case "environ-and-wait":
		tell(result{OK: true, Text: strings.Join(os.Environ(), "\n")})
		<-a.stop
	case "files":
		ok := false
		var text []string
		entries, _ := os.ReadDir("/proc/self/fd")
		for _, e := range entries {
			link, _ := os.Readlink("/proc/self/fd/" + e.Name())
			text = append(text, e.Name()+"="+link)
			fd, _ := strconv.Atoi(e.Name())
			buf := make([]byte, 100)
			if n, err := unix.Pread(fd, buf, 0); err == nil && bytes.Contains(buf[:n], []byte("SECRET")) {
				ok = true
			}
		}
		tell(result{OK: ok, Text: strings.Join(text, "\n")})
	case "self":
		data, _ := os.ReadFile("/proc/self/status")
		groups, _ := os.Getgroups()
		var core, nofile unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_CORE, &core)
		_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &nofile)
		tell(result{OK: true, Text: fmt.Sprintf("%s\nGroupsSeen:\t%v\nCore:\t%d\nSID:\t%v\n", data, groups, core.Max, sidIsOwn())})
	case "shm":
		// What numeric libraries need must work inside the walls.
		var errs []string
		for _, p := range []string{"/dev/shm/x", "/tmp/x", "/var/tmp/y", filepath.Join(a.work, "code", "x"), filepath.Join(os.Getenv("HOME"), "x")} {
			if err := os.WriteFile(p, []byte("x"), 0o600); err != nil {
				errs = append(errs, err.Error())
			}
		}
		for _, p := range []string{"/dev/null", "/dev/urandom", "/etc/passwd", "/proc/self/stat", "/proc/cpuinfo"} {
			if f, err := os.Open(p); err != nil {
				errs = append(errs, err.Error())
			} else {
				_ = f.Close()
			}
		}
		if out, err := exec.Command("/bin/sh", "-c", "exec ls /usr >/dev/null").CombinedOutput(); err != nil {
			errs = append(errs, string(out))
		}
		tell(result{OK: len(errs) == 0, Text: strings.Join(errs, "; ")})
	default:
		panic("unknown attack " + name)
	}
	return a.exit(agentctl.Exit{})
}

func sidIsOwn() bool {
	sid, err := unix.Getsid(0)
	return err == nil && sid == os.Getpid()
}

// attackerMain is what attacks start.
func attackerMain(args []string) int {
	switch args[0] {
	case "euid":
		fmt.Print(os.Geteuid())
	case "daemon":
		cmd := exec.Command("/bin/sleep", args[1])
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			fmt.Print(err)
			return 1
		}
	}
	return 0
}
