// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"panal/internal/runner/agentctl"
)

// streams is a handler whose answers come piece by piece.
const streams = `
import os, time, io

def wait_for(name):
    while not os.path.exists(name): time.sleep(0.01)

def paced():
    yield "one "
    wait_for("go")
    yield "two"

def endless():
    try:
        n = 0
        while True:
            n += 1
            open("count", "w").write(str(n))
            yield b"x" * 65536
    finally:
        open("closed", "w").close()

def late():
    for i in range(10): yield b"y" * 65536
    raise RuntimeError("late")

def hangs():
    for i in range(10): yield b"z" * 65536
    time.sleep(600)

def silent():
    try:
        yield b"begun" * 20000
        while True:
            time.sleep(0.05)
            yield ""
    finally:
        open("closed", "w").close()

def raises_first():
    raise RuntimeError("at once")
    yield ""

class Items:
    def __init__(self): self.n = 0
    def __iter__(self): return self
    def __next__(self):
        self.n += 1
        if self.n > 300000: raise StopIteration
        return {"n": self.n}

CASES = {
    "paced": lambda: {"content": paced(), "content_type": "text/event-stream", "metadata": {"x-note": "ok"}},
    "endless": lambda: {"content": endless()},
    "late": lambda: {"content": late(), "metadata": {"x-note": "ok"}},
    "hangs": lambda: {"content": hangs()},
    "silent": lambda: {"content": silent()},
    "first": lambda: {"content": raises_first(), "metadata": {"x-note": "ok"}},
    "items": lambda: {"content": Items(), "content_type": "application/json"},
    "file": lambda: {"content": open("main.py", "rb")},
    "text file": lambda: {"content": open("main.py", "r")},
    "bytesio": lambda: {"content": io.BytesIO(b"q" * 1000000)},
    "piece": lambda: {"content": (b"p" * 5000000 for _ in range(2))},
    "none": lambda: {"content": iter(())},
    "204": lambda: {"content": endless(), "status_code": 204},
    "whole": lambda: {"content": [b"w" * 40000, b"w" * 40000]},
    "alive": lambda: {"content": str(os.getpid())},
}

def handler(request, context):
    return CASES[request["http_headers"]["x-case"]]()
`

func startStreams(t *testing.T, env map[string]string) (*server, *proc) {
	t.Helper()
	s := newServer(t)
	s.pack("main.py", streams)
	p := start(t, s, "service", env)
	p.ready()
	return s, p
}

// open begins a call whose answer the test reads itself.
func (p *proc) open(name string) *http.Response {
	p.t.Helper()
	req, err := http.NewRequest("POST", "http://agent/", strings.NewReader("x"))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set(agentctl.HeaderInstanceKey, key)
	req.Header.Set("Content-Type", "text/plain")
	req.Header.Set("X-Case", name)
	resp, err := p.serve.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func (p *proc) alive() string {
	p.t.Helper()
	a := p.call("POST", "/", "text/plain", "", "X-Case", "alive")
	if a.code != 200 {
		p.t.Fatalf("the worker does not answer: %d %s", a.code, a.body)
	}
	return a.body
}

// Pieces arrive while the generator goes on (compute.md §13.10).
func TestStreamArrivesAsItIsMade(t *testing.T) {
	_, p := startStreams(t, nil)
	resp := p.open("paced")
	first := make([]byte, 4)
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "one " {
		t.Fatalf("%q, %v", first, err)
	}
	if resp.ContentLength != -1 || resp.Header.Get("X-Note") != "ok" || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("%d %v", resp.ContentLength, resp.Header)
	}
	if err := os.WriteFile(filepath.Join(p.work, "code", "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "two" {
		t.Errorf("%q, %v", rest, err)
	}
}

// Whatever iterates is an answer; what is complete at once has a length.
func TestStreamForms(t *testing.T) {
	_, p := startStreams(t, nil)
	for name, want := range map[string]struct {
		size   int
		length bool
	}{
		"items": {3_788_895 + 299_999, false}, "file": {len(streams), true}, "text file": {len(streams), true}, "bytesio": {1_000_000, false},
		"piece": {10_000_000, false}, "none": {0, true}, "whole": {80_000, true},
	} {
		resp := p.open(name)
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 || len(body) != want.size || (resp.ContentLength >= 0) != want.length {
			t.Errorf("%s: %d, %d bytes of %d, %v, %.200s", name, resp.StatusCode, len(body), resp.ContentLength, err, body)
		}
	}
	if a := p.call("POST", "/", "text/plain", "", "X-Case", "204"); a.code != 204 || a.body != "" {
		t.Errorf("204: %d %q", a.code, a.body)
	}
	p.alive()
}

// A generator is not run ahead of its reader, and is closed when that leaves.
func TestStreamWaitsForItsReader(t *testing.T) {
	_, p := startStreams(t, nil)
	was := p.alive()
	resp := p.open("endless")
	if _, err := io.ReadFull(resp.Body, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	count := func() int {
		text, _ := os.ReadFile(filepath.Join(p.work, "code", "count"))
		n, _ := strconv.Atoi(string(text))
		return n
	}
	last, since := count(), time.Now()
	eventually(t, "the generator to stand still", func() bool {
		if n := count(); n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > 500*time.Millisecond
	})
	// What was read, and some MiB in the buffers of the sockets on the way.
	if last > 16+128 {
		t.Errorf("the generator made %d pieces for one reader that took 16", last)
	}
	_ = resp.Body.Close()
	eventually(t, "the generator's end", func() bool {
		_, err := os.Stat(filepath.Join(p.work, "code", "closed"))
		return err == nil
	})
	if now := p.alive(); now != was {
		t.Errorf("the worker was replaced: %s, was %s", now, was)
	}
}

// A caller who leaves while nothing comes is noticed, too.
func TestStreamReaderLeavesInSilence(t *testing.T) {
	_, p := startStreams(t, nil)
	was := p.alive()
	resp := p.open("silent")
	if _, err := io.ReadFull(resp.Body, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if now := p.alive(); now != was {
		t.Errorf("the worker was replaced: %s, was %s", now, was)
	}
	if _, err := os.Stat(filepath.Join(p.work, "code", "closed")); err != nil {
		t.Error("the generator was not closed")
	}
}

// An exception before anything was sent is a 500 without the answer's headers; one
// in the middle cuts the answer, so that the caller can tell.
func TestStreamRaises(t *testing.T) {
	s, p := startStreams(t, nil)
	was := p.alive()
	resp := p.open("late")
	n, err := io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != 200 || !errors.Is(err, io.ErrUnexpectedEOF) || n > 655_360 {
		t.Errorf("%d, %d bytes, %v", resp.StatusCode, n, err)
	}
	eventually(t, "the traceback", func() bool { return s.entry("RuntimeError: late").Message != "" })
	a := p.call("POST", "/", "text/plain", "", "X-Case", "first")
	if a.code != 500 || a.body != `{"status":"unexpected error occurred"}`+"\n" || a.header.Get("X-Note") != "" {
		t.Errorf("%d %s %v", a.code, a.body, a.header)
	}
	if now := p.alive(); now != was {
		t.Errorf("the worker was replaced: %s, was %s", now, was)
	}
}

// The time limit is one for each piece, and a generator beyond it is ended.
func TestStreamHangs(t *testing.T) {
	s, p := startStreams(t, map[string]string{"PANAL_HANDLER_TIMEOUT": "1s"})
	was := p.alive()
	resp := p.open("hangs")
	n, err := io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != 200 || !errors.Is(err, io.ErrUnexpectedEOF) || n != 655_360 {
		t.Errorf("%d, %d bytes, %v", resp.StatusCode, n, err)
	}
	eventually(t, "the log line", func() bool { return s.entry("took longer than 1s").Message != "" })
	eventually(t, "another worker", func() bool { return p.alive() != was })
}

// Answered later, a stream is a whole.
func TestStreamAsync(t *testing.T) {
	s, p := startStreams(t, nil)
	for _, name := range []string{"piece", "none", "late", "first"} {
		if a := p.later(name, name); a.code != 202 {
			t.Fatalf("%s: %d %s", name, a.code, a.body)
		}
	}
	for name, size := range map[string]int{"piece": 10_000_000, "none": 0} {
		if status, _, body := s.result(name).parts(t); status != "200" || len(body) != size {
			t.Errorf("%s: %s, %d bytes", name, status, len(body))
		}
	}
	for _, name := range []string{"late", "first"} {
		if b := s.result(name); !strings.Contains(b.body, `"status":502`) {
			t.Errorf("%s: %.200s", name, b.body)
		}
	}
	p.alive()
}

// A stop lets a stream end in its time.
func TestStreamDrains(t *testing.T) {
	_, p := startStreams(t, nil)
	resp := p.open("paced")
	if _, err := io.ReadFull(resp.Body, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGTERM)
	p.until("the stop", func(s agentctl.State) bool { return !s.Healthy })
	if err := os.WriteFile(filepath.Join(p.work, "code", "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "two" {
		t.Errorf("%q, %v", rest, err)
	}
	if e := p.wait(); e.Code != 0 {
		t.Errorf("%+v", e)
	}
}
