// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"bufio"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"panal/internal/runner/agentctl"
)

// webServer is a user's program: any path tells what it was asked; some misbehave.
const webServer = `
import http.server, json, os, signal, socketserver, sys, threading, time, urllib.request
sick = False
lock, now, most = threading.Lock(), 0, 0
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do(self):
        global sick
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("?")[0]
        if path == "/exit":
            os._exit(3)
        if path == "/sick":
            sick = True
        if path == "/lines":
            self.send_response(200); self.send_header("Transfer-Encoding", "chunked"); self.end_headers()
            for i in range(3):
                self.wfile.write(b"2\r\n%d\n\r\n" % i); self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
            return
        if path == "/most":
            global now, most
            with lock:
                now += 1; most = max(most, now)
            time.sleep(0.05)
            with lock:
                now -= 1
            body = str(most).encode()
        if path == "/never":
            time.sleep(600)
        if path == "/out":
            body = urllib.request.urlopen(os.environ["ABEJA_API_URL"] + "/blob/echo").read()
        out = json.dumps({"method": self.command, "path": self.path, "body": body.decode(), "argv": sys.argv[1:], "port": os.environ["PORT"],
            "proxy": "http_proxy" in os.environ, "leak": [k for k in os.environ if k.startswith("PANAL_AGENT") or k == "PANAL_COMMAND"],
            "headers": sorted(k.lower() for k in self.headers.keys() if k.lower().startswith("x-"))}).encode()
        self.send_response(503 if sick and path == "/ready" else 200)
        self.send_header("Content-Length", str(len(out))); self.send_header("X-Panal-Unhandled", "1"); self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(out)
    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_HEAD = do_PROPFIND = do
    def log_message(self, *a): pass
class S(socketserver.ThreadingMixIn, http.server.HTTPServer): daemon_threads = True
def end(*a):
    print("asked to end", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
print("listening", flush=True)
S(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
`

func startCommand(t *testing.T, env map[string]string) (*server, *proc) {
	t.Helper()
	s := newServer(t)
	s.pack("server.py", webServer)
	vars := map[string]string{agentctl.EnvCommand: `["python3", "server.py", "$PORT", "p=${PORT}"]`, agentctl.EnvHealthPath: "/ready"}
	maps.Copy(vars, env)
	return s, start(t, s, "service", vars)
}

// A command gets every path and method, streams, and only what is meant for it
// (compute.md §8.1).
func TestCommand(t *testing.T) {
	s, p := startCommand(t, map[string]string{"PANAL_CONCURRENCY": "7"})
	if st := p.until("readiness", func(s agentctl.State) bool { return s.Healthy }); st.Limit != 7 {
		t.Errorf("state = %+v", st)
	}
	for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"} {
		a := p.call(method, "/a%2Fb//c;d?x=1;y", "text/plain", "hello", "X-Abeja-Request-Id", "r1", "X-Panal-Secret", "1")
		var got struct {
			Method, Path, Body, Port string
			Argv, Leak, Headers      []string
			Proxy                    bool
		}
		if err := json.Unmarshal([]byte(a.body), &got); err != nil {
			t.Fatalf("%s: %d %s", method, a.code, a.body)
		}
		if got.Method != method || got.Path != "/a%2Fb//c;d?x=1;y" || got.Body != "hello" || len(got.Leak) != 0 || got.Proxy ||
			len(got.Argv) != 2 || got.Argv[0] != got.Port || got.Argv[1] != "p="+got.Port || strings.Join(got.Headers, " ") != "x-abeja-request-id" {
			t.Errorf("%s: %s", method, a.body)
		}
		if a.header.Get("X-Abeja-Service-Id") != "ser-1" || a.header.Get(agentctl.HeaderUnhandled) != "" {
			t.Errorf("%s: headers %v", method, a.header)
		}
	}
	if a := p.call("GET", "/", "", ""); len(a.header.Values("Content-Type")) != 0 {
		t.Errorf("a Content-Type that the command didn't give: %v", a.header)
	}
	if a := p.call("GET", "/health_check", "", ""); !strings.Contains(a.body, `"path": "/health_check"`) {
		t.Errorf("the agent keeps a path for itself: %s", a.body)
	}
	if a := p.call("GET", "/lines", "", ""); a.body != "0\n1\n2\n" {
		t.Errorf("stream = %q", a.body)
	}
	p.signal(syscall.SIGTERM)
	if e := p.wait(); e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
	if all := strings.Join(s.messages(), "\n"); !strings.Contains(all, "listening") || !strings.Contains(all, "asked to end") {
		t.Errorf("log:\n%s", all)
	}
}

func TestCommandUpgrade(t *testing.T) {
	s := newServer(t)
	s.pack("ws.py", `
import os, socket
l = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
while True:
    c, _ = l.accept()
    head = b""
    while b"\r\n\r\n" not in head:
        head += c.recv(4096)
    if b"upgrade: echo" not in head.lower():
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"); c.close(); continue
    c.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nhello ")
    while data := c.recv(4096):
        c.sendall(data.upper())
    c.close()
`)
	p := start(t, s, "service", map[string]string{agentctl.EnvCommand: `["python3", "ws.py"]`})
	p.ready()
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://agent/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(agentctl.HeaderInstanceKey, key)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := p.serve.Transport.RoundTrip(req) // the client's time-out would hide the connection
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	rw, ok := resp.Body.(interface{ Write([]byte) (int, error) })
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		t.Fatalf("answer = %v", resp.Status)
	}
	if _, err := rw.Write([]byte("world\n")); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || line != "hello WORLD\n" {
		t.Errorf("%q, %v", line, err)
	}
}

// A command that can't start, or ends, says why (compute.md §6.2).
func TestCommandFails(t *testing.T) {
	for what, tt := range map[string]struct{ command, want string }{
		"not there":     {`["./nothing"]`, "the command ./nothing is not there"},
		"not on path":   {`["no-such-program"]`, `"no-such-program" was not found`},
		"no executable": {`["./server.py"]`, "is no executable file"},
		"ends":          {`["/bin/sh", "-c", "echo planted >&2; exit 3"]`, "the command ended with exit code 3"},
		"ends well":     {`["/bin/sh", "-c", "exit 0"]`, "the command ended with exit code 0"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			_, p := startCommand(t, map[string]string{agentctl.EnvCommand: tt.command})
			e := p.wait()
			if e.Code != 1 || !strings.Contains(strings.ReplaceAll(e.Reason, p.work+"/code/", "./"), tt.want) {
				t.Errorf("exit %+v, want %q", e, tt.want)
			}
			if what == "ends" && !strings.Contains(e.Tail, "planted") {
				t.Errorf("tail = %q", e.Tail)
			}
		})
	}
	t.Run("under a request", func(t *testing.T) {
		t.Parallel()
		_, p := startCommand(t, nil)
		p.ready()
		if a := p.call("POST", "/exit", "text/plain", "x"); a.code != http.StatusBadGateway || a.header.Get(agentctl.HeaderUnhandled) != "" {
			t.Errorf("%d %v", a.code, a.header)
		}
		a := p.call("GET", "/", "", "")
		for a.code == http.StatusBadGateway && a.header.Get(agentctl.HeaderUnhandled) == "" { // it took the connection with its last breath
			a = p.call("GET", "/", "", "")
		}
		if a.code != http.StatusServiceUnavailable || a.header.Get(agentctl.HeaderUnhandled) == "" {
			t.Errorf("after the death: %d %v", a.code, a.header)
		}
		if e := p.wait(); !strings.Contains(e.Reason, "the command ended with exit code 3") {
			t.Errorf("exit %+v", e)
		}
	})
	t.Run("never healthy", func(t *testing.T) {
		t.Parallel()
		_, p := startCommand(t, map[string]string{
			agentctl.EnvCommand: `["python3", "-c", "print('loading', flush=True); import time; time.sleep(600)"]`,
		})
		p.until("the reason", func(s agentctl.State) bool {
			return strings.HasPrefix(s.Problem, "its health check fails: ") && strings.Contains(s.Problem, "connection refused") && strings.HasSuffix(s.Problem, "loading")
		})
	})
	t.Run("sick", func(t *testing.T) {
		t.Parallel()
		_, p := startCommand(t, nil)
		p.ready()
		p.call("GET", "/sick", "", "")
		p.until("sickness", func(s agentctl.State) bool { return s.Phase == "running" && !s.Healthy })
		p.until("the reason", func(s agentctl.State) bool {
			return strings.HasPrefix(s.Problem, "its health check fails: GET /ready answers 503 Service Unavailable\n")
		})
	})
}

// An agent without a network of its own reaches the world through the helper: its
// own downloads, and user code by the proxy that the environment names.
func TestCommandWithoutNetwork(t *testing.T) {
	_, p := startCommand(t, map[string]string{"+dial": ""})
	p.ready()
	a := p.call("GET", "/out", "", "")
	if !strings.Contains(a.body, `"proxy": true`) || a.code != http.StatusOK {
		t.Errorf("%d %s", a.code, a.body)
	}
	p.signal(syscall.SIGTERM)
	if e := p.wait(); e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
}
