// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"panal/internal/runner/agentctl"
)

const trainOK = `
import json, os, sys
def handler(context):
    print(json.dumps({"log_level": "error", "message": "bad news"}))
    print("to stderr", file=sys.stderr)
    print("  ")
    assert context.datasets["train"] == context["datasets"]["train"] == "1550000000077"
    assert context["x"] == context.x == 1
    assert sys.path[0] == os.getcwd(), sys.path
    assert not [k for k in os.environ if k.startswith("PANAL_AGENT")], os.environ
    d = os.environ["ABEJA_TRAINING_RESULT_DIR"]
    os.makedirs(d + "/sub")
    with open(d + "/sub/model.bin", "w") as f: f.write("weights" * 1000)
    os.symlink("/etc/passwd", d + "/passwd")
    os.mkfifo(d + "/fifo")
`

// TestTraining: compute.md §13.8, §13.3, §13.12.
func TestTraining(t *testing.T) {
	s := newServer(t)
	s.pack("./train.py", trainOK)
	s.set(func(s *server) { s.failGet, s.putFail = 1, 1 })
	p := start(t, s, "training", map[string]string{"DATASETS": `{"train": 1550000000077}`, "CONTEXT": `{"x":1}`, "ABEJA_EXPORT_TRAIN_LOG": "1"})
	st := p.until("the end", func(s agentctl.State) bool { return s.Exit != nil })
	if st.Phase != "exited" || st.Exit.Code != 0 {
		t.Errorf("state at the end: %+v", st)
	}
	if e := p.wait(); e.Code != 0 || e.Reason != "" {
		t.Fatalf("exit %+v", e)
	}
	if len(s.stored()) != 1 {
		t.Fatalf("%d results", len(s.stored()))
	}
	got := unzip(t, s.stored()[0])
	log := got[".abeja_train.log"]
	delete(got, ".abeja_train.log")
	if diff := cmp.Diff(map[string]string{"sub/model.bin": strings.Repeat("weights", 1000)}, got); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(log, "to stderr") {
		t.Errorf("the exported log is %q", log)
	}
	for msg, level := range map[string]string{"bad news": "error", "to stderr": "warning", "result stored": "info", "passwd is no regular file": "warning"} {
		if e := s.entry(msg); e.Level != level {
			t.Errorf("line %q has level %q, want %q", msg, e.Level, level)
		}
	}
	if left := p.leftovers(); len(left) != 0 {
		t.Errorf("left in the spool: %q", left)
	}
}

func TestTrainingFails(t *testing.T) {
	for name, c := range map[string]struct {
		code   string
		env    map[string]string
		reason string
		tail   string
		result bool
	}{
		"raises": {code: "def handler(c):\n raise ValueError('planted')", reason: "the handler raised ValueError: planted", tail: "Traceback"},
		"raises after a file": {
			code:   "import os\ndef handler(c):\n open(os.environ['ABEJA_TRAINING_RESULT_DIR']+'/x','w').close()\n raise ValueError('planted')",
			reason: "the handler raised ValueError: planted", result: true,
		},
		"import":     {code: "import nothing_like_this", reason: "the handler train:handler could not be imported: ModuleNotFoundError: No module named 'nothing_like_this'", tail: "Traceback"},
		"no handler": {code: "x = 1", reason: "the module train has no function handler"},
		"bad name":   {code: "x = 1", env: map[string]string{"HANDLER": "a:b:c"}, reason: "HANDLER is 'a:b:c'; write it as module:function"},
		"bad ids":    {code: "def handler(c): pass", env: map[string]string{"DATASETS": `{"a":"x1"}`}, reason: "DATASETS is not an object"},
		"exit 3":     {code: "import sys\ndef handler(c): sys.exit(3)", reason: "the handler ended the process with 3"},
		"_exit":      {code: "import os\ndef handler(c): os._exit(7)", reason: "the training process ended with exit code 7"},
		"killed":     {code: "import os\ndef handler(c): os.kill(os.getpid(), 9)", reason: "the training process was killed by SIGKILL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.pack("train.py", c.code)
			e := start(t, s, "training", c.env).wait()
			if e.Code != 1 || !strings.HasPrefix(e.Reason, c.reason) || !strings.Contains(e.Tail, c.tail) {
				t.Errorf("exit %d, reason %q, tail %q", e.Code, e.Reason, e.Tail)
			}
			if (len(s.stored()) == 1) != c.result {
				t.Errorf("%d results", len(s.stored()))
			}
			if s.entry(c.reason).Level != "error" {
				t.Errorf("the log does not say why: %q", s.messages())
			}
		})
	}
}

func TestTrainingExitCode120(t *testing.T) {
	s := newServer(t)
	s.pack("train.py", "import sys\ndef handler(c): sys.exit(120)")
	if e := start(t, s, "training", nil).wait(); e.Code != 0 || len(s.stored()) != 1 {
		t.Fatalf("exit %+v, %d results", e, len(s.stored()))
	}
}

func TestDownloadFails(t *testing.T) {
	s := newServer(t)
	s.pack("../evil.py", "x")
	if e := start(t, s, "training", nil).wait(); e.Code != 1 || !strings.Contains(e.Reason, "leads out of the archive") {
		t.Errorf("hostile archive: %+v", e)
	}
	e := start(t, s, "training", map[string]string{"TRAINING_JOB_DEFINITION_VERSION": "9"}).wait()
	if e.Code != 1 || !strings.Contains(e.Reason, "the server answered 404") {
		t.Errorf("unknown version: %+v", e)
	}
}

// A stop interrupts the handler; nothing is uploaded.
func TestTrainingStop(t *testing.T) {
	s := newServer(t)
	s.pack("train.py", `
import os, time
def handler(c):
    open(os.environ['ABEJA_TRAINING_RESULT_DIR'] + '/x', 'w').close()
    try:
        print("working")
        time.sleep(600)
    finally:
        print("cleaned up")
`)
	p := start(t, s, "training", nil)
	eventually(t, "the handler", func() bool { return s.entry("working").Message != "" })
	p.signal(syscall.SIGTERM)
	if e := p.wait(); e.Code != 1 || e.Reason != "stopped" {
		t.Errorf("exit %+v", e)
	}
	if len(s.stored()) != 0 {
		t.Error("a stopped job stored a result")
	}
	if s.entry("cleaned up").Message == "" {
		t.Error("the handler could not clean up")
	}
}

// The server is away from the middle of the training until after its end: result
// and lines arrive all the same, once.
func TestServerAway(t *testing.T) {
	s := newServer(t)
	s.pack("train.py", `
import os, time
def handler(c):
    print("begun")
    while not os.path.exists("go"): time.sleep(0.01)
    for i in range(5000): print("line", i)
    open(os.environ['ABEJA_TRAINING_RESULT_DIR'] + '/x', 'w').close()
    open("done", "w").close()
`)
	p := start(t, s, "training", nil)
	eventually(t, "the handler", func() bool { return s.entry("begun").Message != "" })
	s.set(func(s *server) { s.allDown = true })
	if err := os.WriteFile(p.work+"/code/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the handler", func() bool { _, err := os.Stat(p.work + "/code/done"); return err == nil })
	select {
	case <-p.exited:
		t.Fatal("the agent did not wait")
	default:
	}
	s.set(func(s *server) { s.allDown = false })
	if e := p.wait(); e.Code != 0 {
		t.Fatalf("exit %+v", e)
	}
	if len(s.stored()) != 1 {
		t.Errorf("%d results", len(s.stored()))
	}
	n := 0
	for _, m := range s.messages() {
		if strings.HasPrefix(m, "line ") {
			n++
		}
	}
	if n != 5000 {
		t.Errorf("%d lines of 5000", n)
	}
}

// A kill -9 of the agent loses no line that user code could print, except what is
// still in a pipe: the runner finds the rest in the spool.
func TestAgentKilled(t *testing.T) {
	s := newServer(t)
	s.set(func(s *server) { s.logDown = 503 })
	s.pack("train.py", `
import time
def handler(c):
    for i in range(2000): print("line", i)
    open("done", "w").close()
    time.sleep(600)
`)
	p := start(t, s, "training", nil)
	eventually(t, "the lines on disk", func() bool {
		n := 0
		for _, m := range p.leftoversOrNil() {
			if strings.HasPrefix(m, "line ") {
				n++
			}
		}
		return n == 2000
	})
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.exited
	n := 0
	for _, m := range p.leftovers() {
		if strings.HasPrefix(m, "line ") {
			n++
		}
	}
	if n != 2000 {
		t.Errorf("%d lines of 2000 in the spool", n)
	}
}

func (p *proc) leftoversOrNil() []string {
	if _, err := os.Stat(p.work + "/spool"); err != nil {
		return nil
	}
	return p.leftovers()
}
