// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// engine is a server beside Panal that a test kills and starts again, at the same
// address and on the same data.
type engine struct {
	t     *testing.T
	name  string
	cmd   func() *exec.Cmd
	ready func() error
	// before prepares a start on what a kill left.
	before func() error

	log  string
	proc *exec.Cmd
	done chan error
}

func (e *engine) start() {
	e.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		if e.before != nil {
			if err := e.before(); err != nil {
				e.t.Fatal(err)
			}
		}
		log, err := os.OpenFile(e.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			e.t.Fatal(err)
		}
		e.proc = e.cmd()
		e.proc.Stdout, e.proc.Stderr = log, log
		err = e.proc.Start()
		_ = log.Close()
		if err != nil {
			e.t.Fatal(err)
		}
		e.done = make(chan error, 1)
		go func(cmd *exec.Cmd, done chan error) { done <- cmd.Wait() }(e.proc, e.done)
		for ended := false; !ended; {
			if e.ready() == nil {
				return
			}
			select {
			case <-e.done: // it did not like what it found; once more
				e.proc, ended = nil, true
			case <-time.After(50 * time.Millisecond):
			}
			if time.Now().After(deadline) {
				b, _ := os.ReadFile(e.log)
				e.t.Fatalf("%s did not start:\n%s", e.name, b)
			}
		}
	}
}

// kill is kill -9 of the server and of all its processes: PostgreSQL's have sessions of
// their own, and would outlive their parent for a moment.
func (e *engine) kill() {
	if e.proc == nil {
		return
	}
	pid := e.proc.Process.Pid
	_ = e.proc.Process.Signal(syscall.SIGSTOP) // no new children
	children := childrenOf(pid)
	_ = e.proc.Process.Kill()
	for _, c := range children {
		_ = syscall.Kill(c, syscall.SIGKILL)
	}
	<-e.done
	e.proc = nil
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		alive := false
		for _, c := range children {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c))
			alive = alive || err == nil && !strings.Contains(string(b), ") Z ")
		}
		if !alive {
			return
		}
	}
}

func childrenOf(pid int) []int {
	dirs, _ := filepath.Glob("/proc/[0-9]*/stat")
	var out []int
	for _, d := range dirs {
		b, err := os.ReadFile(d)
		if err != nil {
			continue
		}
		_, rest, ok := strings.Cut(string(b), ") ") // a name may hold spaces
		fields := strings.Fields(rest)
		if ok && len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			if n, err := strconv.Atoi(filepath.Base(filepath.Dir(d))); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// missing fails in CI, where everything is installed, and skips elsewhere.
func missing(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Stat(path); err == nil {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is missing: scripts/setup installs it", path)
	}
	t.Skipf("%s is missing: scripts/setup installs it", path)
}

// startPostgres starts a PostgreSQL of the test's own and returns its URL.
func startPostgres(t *testing.T) (*engine, string) {
	t.Helper()
	bin := os.Getenv("PG_BIN")
	if bin == "" {
		bin = "/usr/lib/postgresql/15/bin"
	}
	missing(t, filepath.Join(bin, "postgres"))
	dir, err := os.MkdirTemp("/tmp", "panal-kill-pg") //nolint:usetesting // the server's user must reach it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	attr := &syscall.SysProcAttr{Setpgid: true}
	if os.Getuid() == 0 { // the server refuses to run as root
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	data, port := filepath.Join(dir, "data"), freePort(t)
	run := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir, cmd.SysProcAttr = dir, attr
		return cmd
	}
	if out, err := run("initdb", "-D", data, "-U", "panal", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	e := &engine{
		t: t, name: "PostgreSQL", log: filepath.Join(t.TempDir(), "postgres.log"),
		cmd: func() *exec.Cmd {
			return run("postgres", "-D", data, "-p", port, "-k", dir, "-c", "listen_addresses=127.0.0.1", "-c", "shared_buffers=64MB")
		},
		before: func() error { // its processes are gone: the lock tells of nobody
			if err := os.Remove(filepath.Join(data, "postmaster.pid")); err != nil && !os.IsNotExist(err) {
				return err
			}
			return nil
		},
		ready: func() error { return run("pg_isready", "-h", "127.0.0.1", "-p", port, "-q").Run() },
	}
	t.Cleanup(e.kill)
	e.start()
	return e, "postgres://panal@127.0.0.1:" + port + "/postgres?sslmode=disable"
}

// startBucket starts an S3 server of the test's own and returns its --blob and the
// directory in which it keeps the bucket. The credentials are in the environment.
func startBucket(t *testing.T) (e *engine, url, dir string) {
	t.Helper()
	bin, err := filepath.Abs("../.cache/tools/versitygw")
	if err != nil {
		t.Fatal(err)
	}
	missing(t, bin)
	t.Setenv("PANAL_S3_ACCESS_KEY", "panal-test")
	t.Setenv("PANAL_S3_SECRET_KEY", "panal-test-secret-key")
	root := t.TempDir()
	dir = filepath.Join(root, "root", "panal-test")
	meta := filepath.Join(root, "meta")
	for _, d := range []string{dir, meta} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	port := freePort(t)
	args := []string{"--port", "127.0.0.1:" + port, "--quiet", "--keep-alive", "--health", "/health", "posix"}
	if syscall.Setxattr(root, "user.probe", []byte("x"), 0) != nil {
		args = append(args, "--sidecar", meta)
	}
	args = append(args, filepath.Join(root, "root"))
	e = &engine{
		t: t, name: "the S3 server", log: filepath.Join(root, "s3.log"),
		cmd: func() *exec.Cmd {
			cmd := exec.Command(bin, args...)
			cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY=panal-test", "ROOT_SECRET_KEY=panal-test-secret-key")
			return cmd
		},
		ready: func() error {
			res, err := http.Get("http://127.0.0.1:" + port + "/health")
			if err != nil {
				return err
			}
			return res.Body.Close()
		},
	}
	t.Cleanup(e.kill)
	e.start()
	return e, "s3://panal-test?endpoint=http://127.0.0.1:" + port + "&region=us-east-1&path_style=true&presign=false", dir
}
