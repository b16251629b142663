// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/runner/agentctl"
)

// contract is one handler module that does what the query asks for.
const contract = `
import json, os, sys, http, io
import numpy as np

def look(request, context):
    c = request["contents"]
    return {
        "method": request["http_method"], "kind": request["content_type"], "has": "http_method" in request,
        "x": request["http_headers"]["X-Many"], "all": request["http_headers"].get_all("x-MANY"), "none": request["http_headers"]["x-none"],
        "key": "x-panal-instance-key" in request["http_headers"], "headers": [h for h in request["headers"] if h["key"] == "x-many"],
        "parts": [[p["content_type"], p["form_name"], p["file_name"], p.read().decode()] for p in c[1:]],
        "metadata": request["metadata"], "id": request["http_headers"]["x-abeja-request-id"],
        "first": request.read(3).decode(), "rest": request.read().decode(), "context": context,
    }

def gen():
    yield {"a": 1}
    yield {"a": 2}

def bad_gen():
    yield "some"
    raise RuntimeError("late")

def links():
    for fd in os.listdir("/proc/self/fd"):
        try: yield os.readlink("/proc/self/fd/" + fd)
        except OSError: pass

CASES = {
    "look": lambda r, c: {"content_type": "application/json", "content": look(r, c)},
    "empty": lambda r, c: {},
    "none": lambda r, c: {"content": None, "status_code": http.HTTPStatus.CREATED},
    "str": lambda r, c: {"content": "h\u00e4llo"},
    "bytes": lambda r, c: {"content": b"\x00\xff\x01", "content_type": "image/png"},
    "bytearray": lambda r, c: {"content": bytearray(b"ab")},
    "memoryview": lambda r, c: {"content": memoryview(b"abc")},
    "byteslist": lambda r, c: {"content": [b"ab", b"cd"]},
    "dict": lambda r, c: {"content": {"a": 1}, "content_type": "application/json"},
    "list": lambda r, c: {"content": [{"a": 1}, {"b": 2}], "content_type": "application/json"},
    "array": lambda r, c: {"content": [[{"a": 1}, {"b": 2}]], "content_type": "application/json"},
    "pairs": lambda r, c: {"content": [[["z", 1], ("a", 2)]], "content_type": "application/json"},
    "csv": lambda r, c: {"content": [{"a": 1, "b": "x,y"}, {"a": 2, "b": "z"}], "content_type": "text/csv; charset=utf-8"},
    "gen": lambda r, c: {"content": gen(), "content_type": "application/json"},
    "file": lambda r, c: {"content": io.BytesIO(b"x\ny\n")},
    "numpy": lambda r, c: {"content": {"i": np.int64(3), "f": np.float32(0.5), "a": np.arange(4).reshape(2, 2), "b": np.bool_(True)}, "content_type": "application/json"},
    "number": lambda r, c: {"content": 5},
    "meta": lambda r, c: {"metadata": {"x-note": "ok", "Connection": "close", "content-length": "7"}, "content": "hi", "status_code": 418},
    "forged": lambda r, c: {"metadata": {"x-abeja-service-id": "ser-9", "X-Abeja-Model-Version": "9", "x-note": "ok"}, "content": "hi"},
    "kind_empty": lambda r, c: {"content_type": "", "content": "<html>"},
    "kind_odd": lambda r, c: {"content_type": "\u8449", "content": "<html>"},
    "204": lambda r, c: {"status_code": 204},
    "big": lambda r, c: {"content": (b"x" * 100000 for _ in range(200))},
    "bad_gen": lambda r, c: {"content": bad_gen()},
    "notdict": lambda r, c: ["no", "dict"],
    "bad_status": lambda r, c: {"status_code": "200"},
    "bad_status2": lambda r, c: {"status_code": 99},
    "bad_meta": lambda r, c: {"metadata": {"x": 1}},
    "bad_header": lambda r, c: {"metadata": {"x": "a\r\nset-cookie: 1"}},
    "bad_json": lambda r, c: {"content": {"x": object()}},
    "bad_kind": lambda r, c: {"content_type": 5},
    "multipart": lambda r, c: {"content_type": "multipart/form-data"},
    "raises": lambda r, c: 1 / 0,
    "sysexit": lambda r, c: sys.exit(0),
    "alive": lambda r, c: {"content": "alive"},
    "cwd": lambda r, c: {"content": [str(os.getcwd() == sys.path[0]), str(r.close())]},
    "env": lambda r, c: {"content": json.dumps([k for k in os.environ if k.startswith("PANAL_AGENT")])},
    "fds": lambda r, c: {"content": str(sorted(os.path.basename(l) if l[0] == "/" else l.split(":")[0] for l in links()))},
    "printenv": lambda r, c: {"content": open("/proc/%d/environ" % os.getppid()).read()},
}

def handler(request, context):
    name = request["http_headers"]["x-case"]
    print("case", name)
    return CASES[name](request, context)
`

func startContract(t *testing.T, env map[string]string) (*server, *proc) {
	t.Helper()
	s := newServer(t)
	// Modules of the user under the names of ours and of common ones.
	s.pack("main.py", contract, "panal_common.py", "raise RuntimeError('shadowed')", "panal_request.py", "raise RuntimeError('shadowed')")
	p := start(t, s, "service", env)
	p.ready()
	return s, p
}

// TestHandlerContract: what a handler gets and may answer (compute.md §13.10, §13.4, §8.2).
func TestHandlerContract(t *testing.T) {
	s, p := startContract(t, nil)
	raised := `{"status":"unexpected error occurred"}` + "\n"
	for _, c := range []struct {
		name string
		code int
		kind string
		body string
		log  string
	}{
		{"empty", 200, "text/plain", "", ""},
		{"none", 201, "text/plain", "", ""},
		{"str", 200, "text/plain", "hällo", ""},
		{"bytes", 200, "image/png", "\x00\xff\x01", ""},
		{"bytearray", 200, "text/plain", "ab", ""},
		{"memoryview", 200, "text/plain", "abc", ""},
		{"byteslist", 200, "text/plain", "abcd", ""},
		{"dict", 200, "application/json", `{"a": 1}`, ""},
		{"list", 200, "application/json", "{\"a\": 1}\n{\"b\": 2}", ""},
		{"array", 200, "application/json", `[{"a": 1}, {"b": 2}]`, ""},
		{"pairs", 200, "application/json", `{"z": 1, "a": 2}`, ""},
		{"csv", 200, "text/csv; charset=utf-8", "a,b\r\n1,\"x,y\"\r\n2,z\r\n", ""},
		{"gen", 200, "application/json", "{\"a\": 1}\n{\"a\": 2}", ""},
		{"file", 200, "text/plain", "x\ny\n", ""},
		{"numpy", 200, "application/json", `{"i": 3, "f": 0.5, "a": [[0, 1], [2, 3]], "b": true}`, ""},
		{"number", 200, "text/plain", "5", ""},
		{"meta", 418, "text/plain", "hi", ""},
		{"forged", 200, "text/plain", "hi", ""},
		{"kind_empty", 200, "text/plain", "<html>", ""},
		{"kind_odd", 200, "application/octet-stream", "<html>", ""},
		{"204", 204, "text/plain", "", ""},
		{"big", 200, "text/plain", strings.Repeat("x", 20_000_000), ""},
		{"bad_gen", 500, "application/json", raised, "RuntimeError: late"},
		{"notdict", 500, "application/json", raised, "the handler returned list, not a dict"},
		{"bad_status", 500, "application/json", raised, "status_code is '200'"},
		{"bad_status2", 500, "application/json", raised, "status_code is 99"},
		{"bad_meta", 500, "application/json", raised, "metadata is not a dict of strings"},
		{"bad_header", 500, "application/json", raised, "can't be a header"},
		{"bad_json", 500, "application/json", raised, "object can't be written as JSON"},
		{"bad_kind", 500, "application/json", raised, "content_type is 5"},
		{"multipart", 500, "application/json", raised, "multipart/form-data"},
		{"raises", 500, "application/json", raised, "ZeroDivisionError"},
		{"sysexit", 500, "application/json", raised, "SystemExit"},
		{"cwd", 200, "text/plain", "TrueNone", ""},
		{"env", 200, "text/plain", "[]", ""},
		{"fds", 200, "text/plain", "['null', 'pipe', 'pipe', 'socket', 'socket', 'worker-1']", ""},
		{"alive", 200, "text/plain", "alive", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := "req-" + c.name
			a := p.call("POST", "/any/path", "application/json", `{"q":1}`, "X-Case", c.name, "X-Abeja-Request-Id", id)
			if a.code != c.code || a.body != c.body || a.header.Get("Content-Type") != c.kind {
				t.Fatalf("got %d %q %.300q, want %d %q %.300q", a.code, a.header.Get("Content-Type"), a.body, c.code, c.kind, c.body)
			}
			if got := a.header.Get("X-Abeja-Service-Id") + a.header.Get("X-Abeja-Deployment-Id") + a.header.Get("X-Abeja-Model-Version"); got != "ser-11741.0+%C3%A4" {
				t.Errorf("headers %q", got)
			}
			if c.name == "meta" && a.header.Get("X-Note") != "ok" {
				t.Errorf("metadata: %v", a.header)
			}
			eventually(t, "the log line", func() bool { return s.entry("case "+c.name).Message != "" && s.entry(c.log).Message != "" })
			if got := s.entry("case " + c.name).RequestID; got != id {
				t.Errorf("the line belongs to request %q, want %q", got, id)
			}
		})
	}
	// The agent's own environment, with the instance key, can't be read.
	if os.Getuid() != 0 {
		if a := p.call("POST", "/", "text/plain", "", "X-Case", "printenv"); a.code != 500 {
			t.Errorf("user code reads the agent's environment: %q", a.body)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(p.work, "tmp", "*", "in-*")); len(left) > 0 {
		t.Errorf("request bodies are left: %v", left)
	}
	if left, _ := filepath.Glob(filepath.Join(p.work, "tmp", "*", "out-*")); len(left) > 0 {
		t.Errorf("answer bodies are left: %v", left)
	}
	p.signal(syscall.SIGTERM)
	if e := p.wait(); e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
}

// TestRequestObject: compute.md §13.10, and the bodies of §13.4.
func TestRequestObject(t *testing.T) {
	_, p := startContract(t, map[string]string{"CONTEXT": `{"c":1}`})
	look := func(a answer) string {
		t.Helper()
		if a.code != 200 {
			t.Fatalf("%d %s", a.code, a.body)
		}
		return a.body
	}
	h := []string{"X-Case", "look", "X-Many", "1", "X-Many", "2", "X-Abeja-Request-Id", "r1"}
	got := look(p.call("POST", "/", "text/plain", "hello", h...))
	want := `{"method": "POST", "kind": "text/plain", "has": true, "x": "2", "all": ["1", "2"], "none": null, "key": false, ` +
		`"headers": [{"key": "x-many", "values": ["1", "2"]}], "parts": [], "metadata": {}, "id": "r1", "first": "hel", "rest": "lo", "context": {"c": 1}}`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got = look(p.call("GET", "/p?a=1&b=%20", "", "", h...))
	if !strings.Contains(got, `"first": "a=1", "rest": "&b=%20"`) || !strings.Contains(got, `"kind": "application/x-www-form-urlencoded"`) {
		t.Error(got)
	}
	body := "--b\r\nContent-Disposition: form-data; name=\"one\"\r\n\r\nfirst\r\n" +
		"--b\r\nContent-Disposition: form-data; name=\"two\"; filename=\"../x.png\"\r\nContent-Type: image/png\r\n\r\npng\r\n--b--\r\n"
	got = look(p.call("PUT", "/", "multipart/form-data; boundary=b", body, h...))
	if !strings.Contains(got, `"parts": [["image/png", "two", "x.png", "png"]]`) || !strings.Contains(got, `"first": "fir", "rest": "st"`) {
		t.Error(got)
	}
}

// TestServiceRefusals: the agent's own answers (compute.md §8.1, §8.2, §13.5).
func TestServiceRefusals(t *testing.T) {
	_, p := startContract(t, map[string]string{"PANAL_MAX_REQUEST_BYTES": "1000"})
	for _, c := range []struct {
		name, method, path, kind, body string
		header                         []string
		code                           int
		want                           string
	}{
		{"health", "GET", "/health_check", "", "", nil, 200, `{"status":"ok"}`},
		{"no key", "GET", "/health_check", "", "", []string{agentctl.HeaderInstanceKey, ""}, 403, `{"status":"forbidden"}`},
		{"delete", "DELETE", "/", "", "", nil, 501, `{"status":"the method DELETE is not implemented"}`},
		{"no type", "POST", "/", "", "x", nil, 501, `{"status":"the request has no Content-Type that can be parsed"}`},
		{"bad type", "POST", "/", ";;", "x", nil, 501, `{"status":"the request has no Content-Type that can be parsed"}`},
		{"too large", "POST", "/", "text/plain", strings.Repeat("x", 1001), nil, 413, `{"status":"the request body is too large"}`},
		{"bad multipart", "POST", "/", "multipart/form-data; boundary=b", "--b\r\nnonsense", nil, 400, `{"status":"the multipart body can't be parsed"}`},
		{"no multipart", "POST", "/", "multipart/form-data; boundary=b", "nonsense", nil, 400, `{"status":"the multipart body can't be parsed"}`},
		{"async without a token", "POST", "/", "text/plain", "x", []string{"X-Abeja-Arms-Async-Request-Id", "1"}, 400, `{"status":"the asynchronous request has no usable id or token"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequest(c.method, "http://agent"+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set(agentctl.HeaderInstanceKey, key)
			if c.kind != "" {
				req.Header.Set("Content-Type", c.kind)
			}
			for i := 0; i < len(c.header); i += 2 {
				req.Header.Set(c.header[i], c.header[i+1])
			}
			resp, err := p.serve.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var b bytes.Buffer
			_, _ = b.ReadFrom(resp.Body)
			if resp.StatusCode != c.code || strings.TrimSpace(b.String()) != c.want {
				t.Errorf("got %d %s", resp.StatusCode, b.String())
			}
		})
	}
}

// An unchunked body without length is bounded by what really comes.
func TestChunkedBodyIsBounded(t *testing.T) {
	_, p := startContract(t, map[string]string{"PANAL_MAX_REQUEST_BYTES": "1000"})
	req, err := http.NewRequest("POST", "http://agent/", struct{ *strings.Reader }{strings.NewReader(strings.Repeat("x", 5000))})
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(agentctl.HeaderInstanceKey, key)
	req.Header.Set("Content-Type", "text/plain")
	resp, err := p.serve.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("got %d", resp.StatusCode)
	}
}

// TestImportFails: what is shown of a failure is the user's, unless nothing is.
func TestImportFails(t *testing.T) {
	for name, c := range map[string]struct {
		code, reason string
		tail         []string
		ours         bool
	}{
		"raises": {
			code:   "def load():\n    raise ValueError('planted')\ntry:\n    load()\nexcept ValueError as e:\n    raise KeyError('again') from e",
			reason: "KeyError: 'again'", tail: []string{"Traceback (most recent call last)", "ValueError: planted", "predict.py\", line 2, in load", "predict.py\", line 6, in <module>"},
		},
		"syntax error":   {code: "x = 1\nif x print(x)", reason: "SyntaxError: invalid syntax", tail: []string{"predict.py\", line 2", "if x print(x)"}},
		"in the library": {code: "import json\njson.loads('{')", reason: "json.decoder.JSONDecodeError", tail: []string{"predict.py\", line 2", "json/decoder.py"}},
		"no such module": {reason: "ModuleNotFoundError: No module named 'predict'", tail: []string{"in load_handler"}, ours: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			file := "predict.py"
			if c.code == "" {
				file = "other.py"
			}
			s.pack(file, c.code)
			p := start(t, s, "service", map[string]string{"HANDLER": "predict:handler"})
			if a, err := p.try("GET", "/health_check", "", ""); err == nil && a.code != 503 {
				t.Errorf("health while starting: %d", a.code)
			}
			e := p.wait()
			if e.Code != 1 || !strings.HasPrefix(e.Reason, "the handler predict:handler could not be imported: "+c.reason) {
				t.Errorf("exit %+v", e)
			}
			for _, text := range c.tail {
				if !strings.Contains(e.Tail, text) {
					t.Errorf("it does not say %s:\n%s", text, e.Tail)
				}
			}
			if got := strings.Contains(e.Tail, "panal_common") || strings.Contains(e.Tail, "importlib"); got != c.ours {
				t.Errorf("frames of ours %t, want %t:\n%s", got, c.ours, e.Tail)
			}
		})
	}
}

// A service that takes long to start says where it is, with its last lines.
func TestSlowImport(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.pack("main.py", "import os, time\nprint('reading weights', flush=True)\nwhile not os.path.exists('go'): time.sleep(.1)\ndef handler(r, c): return {}\n")
	p := start(t, s, "service", nil)
	p.until("the reason", func(s agentctl.State) bool { return s.Problem == "it is at the step import\nreading weights" })
	if err := os.WriteFile(filepath.Join(p.work, "code", "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.until("its end", func(s agentctl.State) bool { return s.Healthy && s.Problem == "" })
}

// TestModelDownload: a model, or the result of a job, is there when the handler is
// imported (compute.md §13.2, §13.3).
func TestModelDownload(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"model":  {"ABEJA_TRAINING_MODEL_DOWNLOAD": "organizations/" + org + "/training/definitions/digits/models/172/download"},
		"result": {"TRAINING_JOB_DEFINITION_NAME": "digits", "TRAINING_JOB_ID": "171"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			s.pack("main.py", `
import os
weights = open(os.environ["ABEJA_TRAINING_RESULT_DIR"] + "/w.txt").read()
def handler(request, context):
    return {"content": weights}
`)
			model := zipped(t, "w.txt", "seven")
			s.set(func(s *server) { s.model = model })
			p := start(t, s, "service", env)
			p.ready()
			if a := p.call("POST", "/", "text/plain", ""); a.body != "seven" {
				t.Errorf("%d %s", a.code, a.body)
			}
		})
	}
}

const hostile = `
import os, sys, time, threading
def handler(request, context):
    what = request["http_headers"]["x-do"]
    if what == "level":
        print('{"log_level":"error","message":"bad \\"news\\""}')
        print('{"log_level":"CRITICAL"}\n   \n{"log_level":5}')
        print("complaint", file=sys.stderr)
    print("do", what)
    if what == "hang":
        time.sleep(600)
    if what == "hang hard":
        import signal
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        while True:
            try: time.sleep(600)
            except BaseException: pass
    if what == "print":
        line = "y" * 990
        for i in range(100000):
            print("%09d" % i, line)
    if what == "long":
        sys.stdout.write("x" * 300000 + "\nafter\n")
        sys.stdout.buffer.write(b"bad \xff\x00 utf8\n")
        sys.stdout.flush()
    if what == "close":
        os.close(1); os.close(2); sys.stdout.close()
    if what == "exit0": os._exit(0)
    if what == "exit3": os._exit(3)
    if what == "exit120": os._exit(120)
    if what == "kill": os.kill(os.getpid(), 9)
    if what == "junk":
        for fd in range(3, 64):
            try:
                if os.readlink("/proc/self/fd/%d" % fd).startswith("socket:"): os.write(fd, b"junkjunkjunk" * 10)
            except OSError: pass
    if what == "fork":
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                open("orphan", "w").write(str(os.getpid()))
                time.sleep(600)
            os._exit(0)
        os.wait()
    if what == "slow":
        time.sleep(0.3)
    return {"content": "done"}
`

func startHostile(t *testing.T, env map[string]string) (*server, *proc) {
	t.Helper()
	s := newServer(t)
	s.pack("main.py", hostile)
	p := start(t, s, "service", env)
	p.ready()
	return s, p
}

func (p *proc) do(what string) answer {
	p.t.Helper()
	return p.call("POST", "/", "text/plain", "", "X-Do", what, "X-Abeja-Request-Id", "id "+what)
}

// A handler that hangs, even deaf to signals, is answered for and replaced.
func TestHandlerHangs(t *testing.T) {
	for _, how := range []string{"hang", "hang hard", "junk"} {
		t.Run(how, func(t *testing.T) {
			s, p := startHostile(t, map[string]string{"PANAL_HANDLER_TIMEOUT": "1s"})
			want := 504
			if how == "junk" {
				want = 500
			}
			if a := p.do(how); a.code != want {
				t.Errorf("got %d %s", a.code, a.body)
			}
			eventually(t, "a new worker", func() bool { return p.do("nothing").code == 200 })
			if how != "junk" {
				eventually(t, "the log line", func() bool { return s.entry("took longer than 1s").RequestID == "id "+how })
			}
		})
	}
}

func TestPrints100MB(t *testing.T) {
	s, p := startHostile(t, map[string]string{"PANAL_HANDLER_TIMEOUT": "5m"})
	if a := p.do("print"); a.code != 200 {
		t.Fatalf("%d %s", a.code, a.body)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGTERM)
	p.wait()
	lines := s.messages()
	lines = append(lines, p.leftAfter(len(lines))...)
	next := 0
	for _, m := range lines {
		if len(m) > 100 {
			if !strings.HasPrefix(m, fmt.Sprintf("%09d ", next)) {
				t.Fatalf("line %d is %.20q", next, m)
			}
			next++
		}
	}
	if next != 100_000 {
		t.Errorf("%d lines of 100000", next)
	}
	for l := range strings.Lines(string(status)) {
		var kb int
		if n, _ := fmt.Sscanf(l, "VmHWM: %d kB", &kb); n == 1 && kb > 200<<10 {
			t.Errorf("the agent used %d MiB", kb>>10)
		}
	}
}

// TestOddLines: compute.md §13.12.
func TestOddLines(t *testing.T) {
	s, p := startHostile(t, nil)
	p.do("long")
	eventually(t, "the lines", func() bool { return s.entry("utf8").Message != "" })
	if e := s.entry("a line of 300000 bytes was left out"); e.Level != "warning" || e.RequestID != "id long" {
		t.Errorf("long line: %+v", e)
	}
	if e := s.entry("after"); e.Message != "after" || e.RequestID != "id long" {
		t.Errorf("line after it: %+v", e)
	}
	if e := s.entry("utf8"); e.Message != "bad \uFFFD\uFFFD utf8" {
		t.Errorf("%q", e.Message)
	}
	// Lines that are JSON stay as they are, and say their own level; blank ones are
	// dropped.
	p.do("level")
	eventually(t, "the lines", func() bool { return s.entry("complaint").Message != "" && s.entry("do level").Message != "" })
	for msg, level := range map[string]string{`{"log_level":"error","message":"bad \"news\""}`: "error", `{"log_level":"CRITICAL"}`: "error", `{"log_level":5}`: "info", "complaint": "warning"} {
		if e := s.entry(msg); e.Message != msg || e.Level != level || e.RequestID != "id level" {
			t.Errorf("%s: %+v, want level %s", msg, e, level)
		}
	}
	for _, m := range s.messages() {
		if strings.TrimSpace(m) == "" {
			t.Errorf("a blank line arrived: %q", m)
		}
	}
	// Without its outputs the worker goes on.
	if a := p.do("close"); a.code != 200 && a.code != 500 {
		t.Errorf("%d", a.code)
	}
}

// TestWorkerDies: a runtime that ends ends the service, well with 0 and 120; meanwhile
// the health check says so (compute.md §13.5, §13.13).
func TestWorkerDies(t *testing.T) {
	for how, want := range map[string]struct {
		code   int
		reason string
		health string
	}{
		"exit0":   {0, "", `404 {"status":"service not found"}`},
		"exit120": {0, "", `404 {"status":"service not found"}`},
		"exit3":   {1, "the runtime ended with exit code 3", `503 {"status":"service unavailable"}`},
		"kill":    {1, "the runtime was killed by SIGKILL", `503 {"status":"service unavailable"}`},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			_, p := startHostile(t, nil)
			if a := p.do(how); a.code != 500 || !strings.Contains(a.body, "Internal Server Error: unexpected error of") {
				t.Errorf("%d %s", a.code, a.body)
			}
			var health string
			eventually(t, "another health", func() bool {
				a := p.call("GET", "/health_check", "", "")
				health = fmt.Sprintf("%d %s", a.code, strings.TrimSpace(a.body))
				return a.code != 200
			})
			if health != want.health {
				t.Errorf("health is %s", health)
			}
			// What comes right after it is told that nobody has seen it.
			if a := p.do("close"); a.code != http.StatusServiceUnavailable || a.header.Get(agentctl.HeaderUnhandled) == "" {
				t.Errorf("after the death: %d %v", a.code, a.header)
			}
			if e := p.wait(); e.Code != want.code || e.Reason != want.reason {
				t.Errorf("exit %+v", e)
			}
		})
	}
}

// What user code left running ends with the agent.
func TestOrphansDie(t *testing.T) {
	_, p := startHostile(t, nil)
	if a := p.do("fork"); a.code != 200 {
		t.Fatalf("%d %s", a.code, a.body)
	}
	var pid int
	eventually(t, "the orphan", func() bool {
		text, _ := os.ReadFile(filepath.Join(p.work, "code", "orphan"))
		n, _ := fmt.Sscan(string(text), &pid)
		return n == 1
	})
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("the orphan does not run: %v", err)
	}
	p.signal(syscall.SIGTERM)
	p.wait()
	eventually(t, "the orphan's end", func() bool { return syscall.Kill(pid, 0) != nil })
}

// The queue is bounded; two workers work side by side; a stop lets requests end.
func TestQueueAndDrain(t *testing.T) {
	_, p := startHostile(t, map[string]string{"PANAL_WORKERS": "2", "PANAL_QUEUE": "1"})
	var wg sync.WaitGroup
	codes := make(chan int, 8)
	for range 8 {
		wg.Go(func() {
			a, err := p.try("POST", "/", "text/plain", "", "X-Do", "slow")
			if err != nil {
				t.Error(err)
			}
			codes <- a.code
		})
	}
	wg.Wait()
	close(codes)
	n := map[int]int{}
	for c := range codes {
		n[c]++
	}
	if n[200] < 3 || n[503] < 1 || n[200]+n[503] != 8 {
		t.Errorf("answers %v", n)
	}
	started := make(chan struct{})
	wg.Go(func() {
		close(started)
		if a, err := p.try("POST", "/", "text/plain", "", "X-Do", "slow"); err != nil || a.code != 200 {
			t.Errorf("a request in flight at the stop: %v %d", err, a.code)
		}
	})
	<-started
	time.Sleep(100 * time.Millisecond) // the request must be under way; a late one only weakens the test
	p.signal(syscall.SIGTERM)
	wg.Wait()
	if e := p.wait(); e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
}

// Nobody who lacks the key stops an agent, reads its state or answers its question.
func TestControlDemandsTheKey(t *testing.T) {
	_, p := startContract(t, nil)
	raw := &http.Client{Transport: p.control.Transport.(withKey).RoundTripper, Timeout: time.Minute}
	for path, method := range map[string]string{"/v1/stop": "POST", "/v1/environment": "POST", "/v1/status": "GET", "/v1/watch": "GET"} {
		req, err := http.NewRequest(method, "http://agent"+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := raw.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s %s without the key: %d", method, path, resp.StatusCode)
		}
	}
	p.ready() // and it goes on
}

// TestHealthIsRepeated: an agent that is healthy goes on to say so, and says how often.
func TestHealthIsRepeated(t *testing.T) {
	_, p := startContract(t, nil)
	p.ready()
	seen, began := 0, time.Now()
	p.until("a second word", func(s agentctl.State) bool {
		if !s.Healthy || s.BeatMS <= 0 {
			t.Fatalf("a healthy agent says %+v", s)
		}
		seen++
		return seen == 2
	})
	if d := time.Since(began); d > 30*time.Second {
		t.Errorf("said again after %v", d)
	}
}

// In a container (compute.md §13.5, §13.12) there are no inherited sockets and nobody takes log lines: the
// agent listens on its ports and prints lines as JSON.
func TestContainer(t *testing.T) {
	var ports []string
	for range 2 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		ports = append(ports, port)
		_ = ln.Close()
	}
	s := newServer(t)
	s.pack("main.py", "print('imported')\ndef handler(r, c): return {'content': 'hi'}")
	p := start(t, s, "service", map[string]string{
		"-" + agentctl.EnvServeFD: "", "-" + agentctl.EnvInstanceKey: "", "-" + agentctl.EnvWorkloadID: "", "PORT": ports[0], "HEALTHCHECK_PORT": ports[1],
	})
	p.ready()
	for _, c := range []struct{ url, want string }{
		{"http://127.0.0.1:" + ports[0] + "/x", "200 hi"},
		{"http://127.0.0.1:" + ports[0] + "/health_check", `200 {"status":"ok"}`},
		{"http://127.0.0.1:" + ports[1] + "/health_check", `200 {"status":"ok"}`},
		{"http://127.0.0.1:" + ports[1] + "/x", `404 {"status":"not found"}`},
	} {
		resp, err := http.Get(c.url)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		_, _ = b.ReadFrom(resp.Body)
		_ = resp.Body.Close()
		if got := fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(b.String())); got != c.want {
			t.Errorf("%s: %s, want %s", c.url, got, c.want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	p.signal(syscall.SIGTERM)
	if e := p.wait(); e.Code != 0 {
		t.Errorf("%+v", e)
	}
	const line = `"log_level":"info","message":"imported","version":"panal/1","service_id":"ser-1","organization_id":"` + org + `","deployment_id":"174"}`
	if out := p.stderr.String(); !strings.Contains(out, line) {
		t.Errorf("printed: %s", out)
	}
}

// A work directory so deep that no socket path fits.
func TestDeepWorkDirectory(t *testing.T) {
	s := newServer(t)
	s.pack("main.py", "def handler(r, c): return {'content': r.read()}")
	work := filepath.Join(t.TempDir(), strings.Repeat("deep", 20), strings.Repeat("deeper", 20))
	p := start(t, s, "service", map[string]string{agentctl.EnvWorkDir: work})
	p.ready()
	if a := p.call("POST", "/", "text/plain", "hello"); a.code != 200 || a.body != "hello" {
		t.Errorf("%d %s", a.code, a.body)
	}
}
