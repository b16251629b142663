// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"panal/internal/client"
)

const (
	// frozenFor is how long a program hangs, and foundBy when that is known at the latest: after
	// two probe intervals, and what a busy machine adds.
	frozenFor = 20 * time.Second
	foundBy   = 8 * time.Second
)

// freezer stops a program as a whole for frozenFor, half a second from now.
var freezer = fmt.Sprintf(`
import os, subprocess
def freeze():
    subprocess.Popen(["/bin/sh", "-c", "sleep 0.5; kill -STOP %%d; sleep %d; kill -CONT %%d" %% (os.getpid(), os.getpid())], close_fds=True)
`, int(frozenFor.Seconds()))

// TestHungProgram: one of two programs hangs, a command under load and a handler's worker that
// is idle. Within two probe intervals the other one gets all calls, and nothing fails.
func TestHungProgram(t *testing.T) {
	t.Parallel()
	t.Run("a command that has calls", func(t *testing.T) {
		t.Parallel()
		p := startPlatform(t)
		dep, svc := p.deploy(map[string]any{"image": image, "command": []string{"/usr/bin/python3", "server.py"}, "health_path": "/health"}, map[string]string{"freezer.py": freezer, "server.py": `
import http.server, os, socketserver
import freezer
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b"well"
        if self.path == "/freeze":
            freezer.freeze()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_GET
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128
Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
`}, 2)
		call := p.bothReady(dep, svc)
		freeze := *call
		freeze.url += "/freeze"
		if status, body, _, err := freeze.call(); err != nil || status != http.StatusOK {
			t.Fatalf("%d %s, %v", status, body, err)
		}
		frozen := time.Now().Add(500 * time.Millisecond)
		c := &crowd{t: t, end: make(chan struct{})}
		for range 4 {
			c.join("a call", 20*time.Millisecond, func() error { return answeredInTime(call, frozen) })
		}
		p.until("the explanation", frozenFor, func() bool {
			w, err := p.api.Why(context.Background(), dep, svc)
			return err == nil && strings.Contains(strings.Join(w.Because, "\n"), "fails its health check while it works on")
		})
		t.Logf("explained %v after it froze", time.Since(frozen))
		othersAnswer(t, call, frozen)
		time.Sleep(time.Until(frozen.Add(frozenFor + time.Second)))
		c.leave()
		if w, err := p.api.Why(t.Context(), dep, svc); err != nil || w.Ready != 2 || len(w.Ends) != 0 {
			t.Errorf("afterwards: %+v, %v", w, err)
		}
	})
	t.Run("a worker that is idle", func(t *testing.T) {
		t.Parallel()
		p := startPlatform(t)
		dep, svc := p.service(map[string]string{"freezer.py": freezer, "main.py": `
import freezer
def handler(request, context):
    if "json" in request["content_type"]:
        freezer.freeze()
    return {"content": "well", "content_type": "text/plain"}
`}, 2)
		call := p.bothReady(dep, svc)
		res, err := p.api.Do(t.Context(), client.Request{
			Method: http.MethodPost, Path: client.Path("deployments", dep, "services", svc),
			Body: strings.NewReader("{}"), Size: 2, Header: http.Header{"Content-Type": {"application/json"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		frozen := time.Now().Add(500 * time.Millisecond)
		othersAnswer(t, call, frozen)
	})
}

// bothReady waits for two instances and returns a caller of the service.
func (p *platform) bothReady(dep, svc string) *caller {
	p.t.Helper()
	p.until("two instances", time.Minute, func() bool {
		w, err := p.api.Why(context.Background(), dep, svc)
		return err == nil && w.Ready == 2
	})
	_, _, token := adminOf(p.t, p.data)
	pool := &http.Transport{MaxIdleConnsPerHost: 8}
	p.t.Cleanup(pool.CloseIdleConnections)
	return &caller{"http://" + p.listen + client.Path("deployments", dep, "services", svc), token, &http.Client{Transport: pool, Timeout: time.Minute}}
}

// othersAnswer calls for as long as the program that hangs must be known.
func othersAnswer(t *testing.T, call *caller, frozen time.Time) {
	t.Helper()
	time.Sleep(time.Until(frozen.Add(foundBy)))
	calls := 0
	for ; time.Since(frozen) < frozenFor-2*time.Second; calls++ {
		if err := answeredInTime(call, frozen); err != nil {
			t.Fatalf("call %d: %v", calls, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("%d calls while one program hung", calls)
	if calls < 10 {
		t.Error("too few to tell anything")
	}
}

// answeredInTime calls, and says so when the call fails; or when it takes long, though it began
// at a time when the program that hangs must be known.
func answeredInTime(call *caller, frozen time.Time) error {
	begun := time.Now()
	status, body, _, err := call.call()
	took := time.Since(begun)
	known := begun.After(frozen.Add(foundBy)) && begun.Before(frozen.Add(frozenFor))
	switch {
	case err != nil:
		return err
	case status != http.StatusOK || body != "well":
		return fmt.Errorf("%d %s", status, body)
	case known && took > 4*time.Second:
		return fmt.Errorf("it took %v, %v after the other program froze", took, begun.Sub(frozen))
	}
	return nil
}
