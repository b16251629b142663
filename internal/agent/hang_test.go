// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"panal/internal/runner/agentctl"
)

// sleeper is a command that tells its process and can be kept waiting.
const sleeper = `
import http.server, os, socketserver, threading
go = threading.Event()
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/wait":
            print("waits", flush=True)
            go.wait()
        if self.path == "/go":
            go.set()
        out = str(os.getpid()).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(out))); self.end_headers(); self.wfile.write(out)
    def log_message(self, *a): pass
class S(socketserver.ThreadingMixIn, http.server.HTTPServer): daemon_threads = True
S(("127.0.0.1", int(os.environ["PORT"])), H).serve_forever()
`

// freeze stops the process whose id is text, as if it hung, and returns what lets it go on.
func freeze(t *testing.T, text string) (goOn func()) {
	t.Helper()
	var pid int
	if _, err := fmt.Sscan(text, &pid); err != nil || pid <= 1 {
		t.Fatalf("no process: %q", text)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	return func() { _ = syscall.Kill(pid, syscall.SIGCONT) }
}

// A command that hangs is told from one that is well: at once if it is idle; while it has
// requests it is suspect first, for it may be at work on them.
func TestCommandHangs(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.pack("server.py", sleeper)
	p := start(t, s, "service", map[string]string{agentctl.EnvCommand: `["python3", "server.py"]`, agentctl.EnvHealthPath: "/"})
	p.ready()
	pid := p.call("GET", "/", "", "").body

	goOn := freeze(t, pid)
	p.until("sickness", func(s agentctl.State) bool { return !s.Healthy && !s.Suspect })
	goOn()
	p.until("health", func(s agentctl.State) bool { return s.Healthy && !s.Suspect })

	answers := make(chan answer, 1)
	go func() {
		a, err := p.try("GET", "/wait", "", "")
		if err != nil {
			a.body = err.Error()
		}
		answers <- a
	}()
	eventually(t, "the request", func() bool { return strings.Contains(strings.Join(s.messages(), "\n"), "waits") })
	goOn = freeze(t, pid)
	st := p.until("the suspicion", func(s agentctl.State) bool { return s.Suspect })
	if !st.Healthy {
		t.Errorf("sick at once, though it may be at work: %+v", st)
	}
	p.until("the reason", func(s agentctl.State) bool {
		return s.Suspect && strings.HasPrefix(s.Problem, "its health check fails while it has requests: ")
	})
	goOn()
	p.until("health", func(s agentctl.State) bool { return s.Healthy && !s.Suspect })
	p.call("GET", "/go", "", "")
	if a := <-answers; a.code != http.StatusOK || a.body != pid {
		t.Errorf("the request under way: %d %s", a.code, a.body)
	}
}

// A worker that hangs while it is idle is found without any request, and gets none: those
// that wait are given back unseen. It is used again when it answers, and replaced when it
// does not within the time of a request.
func TestIdleWorkerHangs(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.pack("main.py", "import os\ndef handler(request, context):\n    return {'content': str(os.getpid())}\n")
	p := start(t, s, "service", map[string]string{"PANAL_HANDLER_TIMEOUT": "8s"})
	p.ready()
	ask := func() string { return strings.Trim(p.call("POST", "/", "text/plain", "").body, `"`) }
	first := ask()

	goOn := freeze(t, first)
	p.until("sickness", func(s agentctl.State) bool { return s.Phase == "running" && !s.Healthy })
	begun := time.Now()
	if a := p.call("POST", "/", "text/plain", ""); a.code != http.StatusServiceUnavailable || a.header.Get(agentctl.HeaderUnhandled) == "" || time.Since(begun) > 6*time.Second {
		t.Errorf("a request while it hangs: %d %s after %v", a.code, a.body, time.Since(begun))
	}
	goOn()
	p.until("health", func(s agentctl.State) bool { return s.Healthy })
	if again := ask(); again != first {
		t.Errorf("it was replaced, though it answers again: %s, then %s", first, again)
	}

	freeze(t, first)
	p.until("sickness", func(s agentctl.State) bool { return !s.Healthy })
	p.until("a new worker", func(s agentctl.State) bool { return s.Healthy })
	if next := ask(); next == first || next == "" {
		t.Errorf("%q answers, was frozen", next)
	}
	if all := strings.Join(s.messages(), "\n"); strings.Count(all, "hangs while it is idle") < 2 || !strings.Contains(all, "answers again") {
		t.Errorf("log:\n%s", all)
	}
}

// Of several workers one that hangs leaves the service as it is.
func TestOneOfTheWorkersHangs(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.pack("main.py", "import os, time\ndef handler(request, context):\n    time.sleep(0.1)\n    return {'content': str(os.getpid())}\n")
	p := start(t, s, "service", map[string]string{"PANAL_WORKERS": "2"})
	p.ready()
	first := strings.Trim(p.call("POST", "/", "text/plain", "").body, `"`)
	freeze(t, first)
	eventually(t, "its discovery", func() bool { return strings.Contains(strings.Join(s.messages(), "\n"), "hangs while it is idle") })
	if st := p.until("any state", func(agentctl.State) bool { return true }); !st.Healthy {
		t.Errorf("state %+v", st)
	}
	for range 5 {
		if a := p.call("POST", "/", "text/plain", ""); a.code != http.StatusOK || strings.Trim(a.body, `"`) == first {
			t.Errorf("%d %s, with %s frozen", a.code, a.body, first)
		}
	}
}
