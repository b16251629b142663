// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"

	"panal/internal/runner/agentctl"
)

// laterAt asks for a request to a command to be answered later.
func (p *proc) laterAt(id, method, path, body string) {
	p.t.Helper()
	a := p.call(method, path, "text/plain", body, "X-Abeja-Request-Id", "req-"+id,
		"X-Abeja-Arms-Async-Request-Id", id, "X-Abeja-Arms-Async-Request-Token", "tok-"+id, "X-Panal-Secret", "1")
	if a.code != 202 || a.body != "" {
		p.t.Fatalf("%s: %d %q", id, a.code, a.body)
	}
}

// echoed is what the command was asked, by the result of a call.
func (b brought) echoed(t *testing.T) (got struct {
	Method, Path, Body string
	Headers            []string
},
) {
	t.Helper()
	status, headers, body := b.parts(t)
	if err := json.Unmarshal([]byte(body), &got); err != nil || status != "200" || headers["x-abeja-service-id"] != "ser-1" ||
		headers["x-panal-unhandled"] != "" || headers["content-length"] != "" {
		t.Errorf("result %s %v %q: %v", status, headers, body, err)
	}
	return got
}

// TestCommandAsync: a command gets an asynchronous request as it would get any other,
// and its answer is the result (compute.md §8.3).
func TestCommandAsync(t *testing.T) {
	s, p := startCommand(t, map[string]string{"PANAL_CONCURRENCY": "2"})
	p.ready()
	for _, method := range []string{"POST", "GET", "DELETE"} {
		p.laterAt(method, method, "/a%2Fb//c;d?x=1;y", strings.Repeat("z", 100_000))
		b := s.result(method)
		got := b.echoed(t)
		if b.auth != "Bearer tok-"+method || got.Method != method || got.Path != "/a%2Fb//c;d?x=1;y" || len(got.Body) != 100_000 ||
			strings.Join(got.Headers, " ") != "x-abeja-request-id" {
			t.Errorf("%s: %s %s, %d bytes, %v", method, got.Method, got.Path, len(got.Body), got.Headers)
		}
	}
	p.laterAt("lines", "GET", "/lines", "")
	if _, _, body := s.result("lines").parts(t); body != "0\n1\n2\n" {
		t.Errorf("a streamed answer came as %q", body)
	}
	if a := p.call("POST", "/", "text/plain", "x", "X-Abeja-Arms-Async-Request-Id", "x"); a.code != 400 {
		t.Errorf("without a token: %d %s", a.code, a.body)
	}
	// Those that wait and those that are answered later have the command's places together.
	var all sync.WaitGroup
	for i := range 10 {
		p.laterAt(fmt.Sprint("most-", i), "POST", "/most", "")
		all.Go(func() { _, _ = p.try("POST", "/most", "", "") })
	}
	all.Wait()
	for i := range 10 {
		if got := s.result(fmt.Sprint("most-", i)).echoed(t); got.Body != "1" && got.Body != "2" {
			t.Errorf("%s requests at a time, want 2 at most", got.Body)
		}
	}
}

// What a command has taken and not answered when it ends, fails in words: with the
// one that is at work, by whatever way it ends, and those that wait.
func TestCommandAsyncEnds(t *testing.T) {
	for _, what := range []string{"asked", "by itself"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s, p := startCommand(t, map[string]string{"PANAL_CONCURRENCY": "2"})
			p.ready()
			for _, id := range []string{"one", "two", "three"} {
				if what == "by itself" && id == "two" {
					p.laterAt(id, "POST", "/exit", "")
				} else {
					p.laterAt(id, "POST", "/never", "")
				}
			}
			if what == "asked" {
				p.signal(syscall.SIGTERM)
			}
			p.wait()
			for _, id := range []string{"one", "two", "three"} {
				if b := s.result(id); b.kind != "application/json" || !strings.Contains(b.body, `"status":502`) ||
					strings.Contains(b.body, "the service was ended before") != (what == "asked") {
					t.Errorf("%s: %+v", id, b)
				}
			}
		})
	}
}

// A command that does one thing at a time answers no probe while it works on a request
// that is answered later. It is not sick for that.
func TestCommandAsyncIsNoSickness(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.pack("server.py", `
import http.server, os, time
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        time.sleep(9)
        self.send_response(200); self.end_headers(); self.wfile.write(b"done")
    def log_message(self, *a): pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), H).serve_forever()
`)
	p := start(t, s, "service", map[string]string{agentctl.EnvCommand: `["python3", "server.py"]`, agentctl.EnvHealthPath: "/", "PANAL_CONCURRENCY": "1"})
	p.ready()
	p.laterAt("long", "POST", "/", "")
	if _, _, body := s.result("long").parts(t); body != "done" {
		t.Errorf("result %q", body)
	}
	if all := strings.Join(s.messages(), "\n"); strings.Contains(all, "not healthy") {
		t.Errorf("log:\n%s", all)
	}
}
