// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"panal/internal/logs"
)

const talker = `
import os, time
def handler(context):
    for step in range(3):
        while not os.path.exists("go%d" % step): time.sleep(0.005)
        for i in range(1000): print("step %d line %d" % (step, i))
        print("end of", step)
`

func count(messages []string, prefix string) int {
	n := 0
	for _, m := range messages {
		if strings.HasPrefix(m, prefix) {
			n++
		}
	}
	return n
}

// The store is at its ceiling, then breaks, then loses what it had acknowledged,
// as after a restored backup: what comes later is still shipped, in order, once.
func TestLogStoreTroubles(t *testing.T) {
	s := newServer(t)
	s.pack("train.py", talker)
	p := start(t, s, "training", nil)
	step := func(n int) {
		t.Helper()
		eventually(t, "the code", func() bool { _, err := os.Stat(p.work + "/code/train.py"); return err == nil })
		if err := os.WriteFile(fmt.Sprintf("%s/code/go%d", p.work, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	step(0)
	eventually(t, "the first lines", func() bool { return s.entry("end of 0").Message != "" })
	s.set(func(s *server) { s.logDown = 503 })
	step(1)
	eventually(t, "the next lines on disk", func() bool { return count(p.leftovers(), "end of 1") == 1 })
	s.set(func(s *server) { s.logDown, s.entries = 0, []logs.Entry{} })
	eventually(t, "the next lines", func() bool { return s.entry("the server lost").Message != "" })
	step(2)
	if e := p.wait(); e.Code != 0 {
		t.Fatalf("%+v", e)
	}
	got := s.messages()
	for n, want := range []int{0, 1000, 1000} {
		if have := count(got, fmt.Sprintf("step %d line", n)); have != want {
			t.Errorf("step %d: %d lines, want %d", n, have, want)
		}
	}
	if s.entry("the server lost").Level != "warning" {
		t.Error("the loss is not told")
	}
}

// When the token is no good any more, the agent ends, and the lines stay for the
// runner.
func TestLogsRefused(t *testing.T) {
	s := newServer(t)
	s.pack("train.py", "def handler(c): print('only line')")
	s.set(func(s *server) { s.logDown = 403 })
	p := start(t, s, "training", nil)
	if e := p.wait(); e.Code != 0 {
		t.Fatalf("%+v", e)
	}
	if count(p.leftovers(), "only line") != 1 || len(s.messages()) != 0 {
		t.Errorf("left %q, sent %q", p.leftovers(), s.messages())
	}
}

// As first process of a pid namespace the agent reaps what its children leave,
// and everything ends with it.
func TestPidNamespace(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("this test needs root")
		}
		t.Skip("needs root")
	}
	s := newServer(t)
	s.pack("main.py", `
import os, subprocess, time
def handler(request, context):
    for _ in range(20): # grandchildren that end after their parents
        subprocess.run(["/bin/sh", "-c", "(setsid sleep 0.05 &) ; exit 0"], check=True)
    subprocess.run(["/bin/sh", "-c", "setsid sleep 600 >/dev/null 2>&1 &"], check=True)
    return {"content": "%d" % os.getppid()}
`)
	p := startIn(t, s, "service", nil, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID})
	p.ready()
	if a := p.call("POST", "/", "text/plain", ""); a.body != "1" {
		t.Fatalf("the agent is process %s of its namespace, want 1", a.body)
	}
	eventually(t, "the end of the orphans", func() bool {
		zombies := 0
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.cmd.Process.Pid))
		for _, f := range files {
			text, _ := os.ReadFile(f)
			for pid := range strings.FieldsSeq(string(text)) {
				stat, _ := os.ReadFile("/proc/" + pid + "/stat")
				if _, rest, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(rest, "Z") {
					zombies++
				}
			}
		}
		return zombies == 0
	})
	p.signal(syscall.SIGTERM)
	if e := p.wait(); e.Code != 0 {
		t.Errorf("%+v", e)
	}
}
