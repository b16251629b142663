// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"panal/internal/client"
	"panal/internal/x/httpx/httpxtest"
)

// crowd is callers of every kind that go on until they are told to stop.
type crowd struct {
	t    *testing.T
	end  chan struct{}
	work sync.WaitGroup

	answered atomic.Int64
	longest  atomic.Int64 // nanoseconds of the slowest answer
	mu       sync.Mutex
	failures []string
	spared   func(kept bool, begun, ended time.Time) bool // failures that are none; nil: none are
}

// onNew is the caller that keeps no connection.
const onNew = "a call on a new connection"

// join adds a caller: call is called again and again, with pauses of up to pause.
func (c *crowd) join(what string, pause time.Duration, call func() error) {
	random := rand.New(rand.NewPCG(1, uint64(pause)))
	c.work.Go(func() {
		for {
			select {
			case <-c.end:
				return
			case <-time.After(time.Duration(random.Int64N(int64(pause) + 1))):
			}
			begun := time.Now()
			err := call()
			took := time.Since(begun)
			if err != nil {
				if c.spared == nil || !c.spared(what != onNew, begun, begun.Add(took)) {
					c.mu.Lock()
					c.failures = append(c.failures, fmt.Sprintf("%s, begun at %s, after %s: %v", what, begun.UTC().Format("15:04:05.000"), took, err))
					c.mu.Unlock()
				}
				continue
			}
			c.answered.Add(1)
			for old := c.longest.Load(); int64(took) > old && !c.longest.CompareAndSwap(old, int64(took)); {
				old = c.longest.Load()
			}
		}
	})
}

// leave ends the callers, and fails the test when one was failed.
func (c *crowd) leave() {
	c.t.Helper()
	close(c.end)
	c.work.Wait()
	for i, f := range c.failures {
		if i < 10 {
			c.t.Error(f)
		}
	}
	if c.answered.Load() == 0 {
		c.t.Error("nothing was answered")
	}
	c.t.Logf("%d requests answered, %d failed, the slowest took %s", c.answered.Load(), len(c.failures), time.Duration(c.longest.Load()))
}

// gather starts callers of a service and of the API: on kept connections, busy and
// mostly idle ones, and on new ones, and by HTTP/2 as a proxy in front may speak it.
func gather(p *platform, dep, svc string, spared func(kept bool, begun, ended time.Time) bool) *crowd {
	_, user, token := adminOf(p.t, p.data)
	c := &crowd{t: p.t, end: make(chan struct{}), spared: spared}
	ask := func(h *http.Client, method, path, body, want string) func() error {
		kind := "text/plain"
		if strings.HasPrefix(body, "{") {
			kind = "application/json"
		}
		return func() error {
			req, err := http.NewRequest(method, "http://"+p.listen+path, strings.NewReader(body))
			if err != nil {
				return err
			}
			req.SetBasicAuth("user-"+user, token)
			req.Header.Set("Content-Type", kind)
			res, err := h.Do(req)
			if err != nil {
				return err
			}
			b, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err == nil && (res.StatusCode != http.StatusOK || !strings.Contains(string(b), want)) {
				err = fmt.Errorf("%d %q", res.StatusCode, b)
			}
			return err
		}
	}
	kept := func() *http.Client { // a connection of its own
		return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: time.Minute}
	}
	count := client.Path("deployments", dep, "services", svc) + "/count"
	status := p.api.OrgPath("deployments", dep, "services", svc)
	for range 6 {
		c.join("a call on a kept connection", 10*time.Millisecond, ask(kept(), http.MethodPost, count, "a b a", `"a":2`))
	}
	for range 4 {
		c.join("a call on a quiet connection", 800*time.Millisecond, ask(kept(), http.MethodPost, count, "a b a", `"a":2`))
	}
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	for range 3 {
		c.join(onNew, 20*time.Millisecond, ask(fresh, http.MethodPost, count, "a b a", `"a":2`))
	}
	two := func() *http.Client {
		h := kept()
		protocols := new(http.Protocols)
		protocols.SetUnencryptedHTTP2(true)
		h.Transport.(*http.Transport).Protocols = protocols
		return h
	}
	for range 3 {
		c.join("a call by HTTP/2", 10*time.Millisecond, ask(two(), http.MethodPost, count, "a b a", `"a":2`))
	}
	proxy := two() // three callers share its connection
	for range 3 {
		c.join("a call by a shared HTTP/2 connection", 10*time.Millisecond, ask(proxy, http.MethodPost, count, "a b a", `"a":2`))
	}
	c.join("the API by HTTP/2", 20*time.Millisecond, ask(two(), http.MethodGet, status, "", `"status"`))
	c.join("the API", 20*time.Millisecond, ask(kept(), http.MethodGet, status, "", `"status"`))
	c.join("a change", 50*time.Millisecond, ask(kept(), http.MethodPost, p.api.OrgPath("deployments"), `{"name":"more"}`, "deployment_id"))
	return c
}

// stream calls a stream of n events and returns what comes of it.
func (p *platform) stream(dep, svc string, n int) <-chan error {
	p.t.Helper()
	_, user, token := adminOf(p.t, p.data)
	req, err := http.NewRequest(http.MethodGet, "http://"+p.listen+client.Path("deployments", dep, "services", svc)+fmt.Sprintf("/ticks?n=%d", n), http.NoBody)
	if err != nil {
		p.t.Fatal(err)
	}
	req.SetBasicAuth("user-"+user, token)
	res, err := (&http.Client{Transport: &http.Transport{}}).Do(req)
	if err != nil || res.StatusCode != http.StatusOK {
		p.t.Fatal(res, err)
	}
	done := make(chan error, 1)
	go func() {
		defer func() { _ = res.Body.Close() }()
		next := 0
		lines := bufio.NewScanner(res.Body)
		for lines.Scan() {
			if lines.Text() == fmt.Sprintf("data: %d", next) {
				next++
			}
		}
		err := lines.Err()
		if next != n {
			err = errors.Join(err, fmt.Errorf("%d of %d events came", next, n))
		}
		done <- err
	}()
	return done
}

// TestReplacedUnderLoad: the program is replaced on disk and in memory, again and
// again, under load of every kind. No request fails; a stream that began before the
// first replacement ends as it should, in the old process, and has its line in the access
// log. A program that does not start takes nobody's place.
func TestReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	access := filepath.Join(t.TempDir(), "access.log")
	p := startSupervised(t, "--access-log", access)
	dep, svc := p.command(2)
	c := gather(p, dep, svc, nil)
	time.Sleep(time.Second)
	const events = 400 // of 50 ms each
	stream := p.stream(dep, svc, events)
	socket := p.chat(dep, svc)
	socket.says(t, "a b a", `"a":2`)
	first := p.server()
	for i := range 3 {
		p.install(binary)
		p.replace(t, i)
	}
	if err := syscall.Kill(first, 0); err != nil {
		t.Errorf("the first server carries a stream, and is gone: %v", err)
	}

	socket.says(t, "c c", `"c":2`)

	// One that can't start.
	old := p.server()
	if err := os.WriteFile(p.binary+".new", []byte("#!/bin/sh\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p.binary+".new", p.binary); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGHUP)
	p.until("the word on the program that does not start", 20*time.Second, func() bool {
		return strings.Contains(p.logText(), "the new server did not start; the old one goes on")
	})
	if now := p.server(); now != old {
		t.Errorf("server %d has the data directory, want %d", now, old)
	}
	p.install(binary)
	p.replace(t, 3)

	if err := <-stream; err != nil {
		t.Error(err)
	}
	socket.says(t, "d", `"d":1`)
	_ = socket.Close()
	c.leave()
	p.until("the end of the server that carried the stream", 20*time.Second, func() bool { return syscall.Kill(first, 0) != nil })
	p.accessed(access, int(c.answered.Load()), map[string]int{"/ticks": http.StatusOK, "/chat": http.StatusSwitchingProtocols})

	// panal stop ends both.
	p.stop(t)
}

// accessed holds the access log to what went on: a line for each of so many calls,
// those of carried ones marked, with their status and figures, and no secret in any.
func (p *platform) accessed(path string, calls int, carried map[string]int) {
	p.t.Helper()
	var text string
	p.until("the access log's lines", 20*time.Second, func() bool {
		b, err := os.ReadFile(path)
		if err != nil {
			return false
		}
		text = string(b)
		return strings.Count(text, "\n") >= calls
	})
	_, _, token := adminOf(p.t, p.data)
	if strings.Contains(text, token) || strings.Contains(text, "a b a") {
		p.t.Error("a token or a body is in the access log")
	}
	found := map[string]int{}
	marked := ""
	for line := range strings.Lines(text) {
		var e struct {
			Path    string
			Status  int
			Sent    int64
			MS      float64
			Carried bool
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			p.t.Fatalf("the access log has %q: %v", line, err)
		}
		if !e.Carried {
			continue
		}
		marked += line
		for end, status := range carried {
			if strings.HasSuffix(e.Path, end) && e.Status == status && e.MS > 5000 && (e.Sent > 0) == (status > 0) {
				found[end] = status
			}
		}
	}
	if !maps.Equal(found, carried) {
		p.t.Errorf("of the carried calls %v the access log has %v:\n%s", carried, found, marked)
	}
}

// socket is a WebSocket, with short messages.
type socket struct {
	net.Conn
	r *bufio.Reader
}

// chat opens a WebSocket to the example server.
func (p *platform) chat(dep, svc string) *socket {
	p.t.Helper()
	_, user, token := adminOf(p.t, p.data)
	c, err := net.Dial("tcp", p.listen)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	req, err := http.NewRequest(http.MethodGet, "http://"+p.listen+client.Path("deployments", dep, "services", svc)+"/chat", http.NoBody)
	if err != nil {
		p.t.Fatal(err)
	}
	req.SetBasicAuth("user-"+user, token)
	for k, v := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} {
		req.Header.Set(k, v)
	}
	if err := req.Write(c); err != nil {
		p.t.Fatal(err)
	}
	s := &socket{c, bufio.NewReader(c)}
	res, err := http.ReadResponse(s.r, req)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		p.t.Fatal(res, err)
	}
	return s
}

// says sends a message and wants the answer to have something in it.
func (s *socket) says(t *testing.T, message, want string) {
	t.Helper()
	frame := append([]byte{0x81, 0x80 | byte(len(message)), 0, 0, 0, 0}, message...) // masked by zeros
	if _, err := s.Write(frame); err != nil {
		t.Fatalf("the WebSocket: %v", err)
	}
	head := make([]byte, 2)
	_, err := io.ReadFull(s.r, head)
	body := make([]byte, head[1])
	if err == nil {
		_, err = io.ReadFull(s.r, body)
	}
	if err != nil || !strings.Contains(string(body), want) {
		t.Fatalf("the WebSocket answers %q, %v; want %s", body, err, want)
	}
}

// newsOf is until when a caller may take its connection for good that ended at a time: a kept
// one until the news has come and the caller, one of many on a busy machine, has had a turn to
// take it in; a new one not at all.
func newsOf(end time.Time, kept bool) time.Time {
	if !kept {
		return end
	}
	return end.Add(100 * time.Millisecond)
}

// TestKilledUnderLoad: the server is killed, again and again, under load of every kind.
// Its sockets are the supervisor's, so whoever calls while there is no server waits
// for the next one: what fails had reached the server that was killed.
func TestKilledUnderLoad(t *testing.T) {
	t.Parallel()
	p := startSupervised(t)
	dep, svc := p.command(2)
	type death struct{ begun, over time.Time }
	var mu sync.Mutex
	var deaths []death
	var inFlight atomic.Int64
	c := gather(p, dep, svc, func(kept bool, begun, ended time.Time) bool {
		mu.Lock()
		defer mu.Unlock()
		for _, d := range deaths {
			if begun.Before(newsOf(d.over, kept)) && ended.After(d.begun) {
				inFlight.Add(1)
				return true
			}
		}
		return false
	})
	const kills = 8
	for range kills {
		time.Sleep(1500 * time.Millisecond) // what was up for a second is made good at once
		pid := p.server()
		mu.Lock() // whoever fails now is judged afterwards
		d := death{begun: time.Now()}
		err := syscall.Kill(pid, syscall.SIGKILL)
		for err == nil && syscall.Kill(pid, 0) == nil {
			time.Sleep(time.Millisecond)
		}
		d.over = time.Now()
		deaths = append(deaths, d)
		mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		p.until("the next server", 30*time.Second, func() bool { now := p.server(); return now != 0 && now != pid })
	}
	c.leave()
	t.Logf("%d kills, %d requests that were in flight failed", kills, inFlight.Load())
	if n := inFlight.Load(); n > 20*kills {
		t.Errorf("%d requests failed: more than there are callers at each kill", n)
	}
	p.stop(t)
}

// TestReplacedOnPostgres: the same with the other set of engines: replaced, killed, under
// load.
func TestReplacedOnPostgres(t *testing.T) {
	t.Parallel()
	_, dsn := startPostgres(t)
	p := startSupervised(t, "--database", dsn)
	dep, svc := p.command(1)
	var mu sync.Mutex
	var killed, dead time.Time
	c := gather(p, dep, svc, func(kept bool, begun, ended time.Time) bool {
		mu.Lock()
		defer mu.Unlock()
		return !killed.IsZero() && begun.Before(newsOf(dead, kept)) && ended.After(killed)
	})
	for i := range 2 {
		p.replace(t, i)
	}
	pid := p.server()
	mu.Lock()
	killed = time.Now()
	err := syscall.Kill(pid, syscall.SIGKILL)
	for err == nil && syscall.Kill(pid, 0) == nil {
		time.Sleep(time.Millisecond)
	}
	dead = time.Now()
	mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	p.until("the next server", 30*time.Second, func() bool { now := p.server(); return now != 0 && now != pid })
	p.replace(t, 2)
	c.leave()
	p.stop(t)
}

// TestStoppedWhileReplaced: panal stop ends server and supervisor whatever goes on between
// them, and no server comes after it.
func TestStoppedWhileReplaced(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond, time.Second, 2100 * time.Millisecond, 2300 * time.Millisecond, 2600 * time.Millisecond} {
		t.Run(after.String(), func(t *testing.T) {
			t.Parallel()
			p := startSupervised(t)
			p.signal(syscall.SIGHUP)
			time.Sleep(after)
			p.until("a server", 30*time.Second, func() bool { return p.server() != 0 }) // none has the directory for a moment
			p.stop(t)
			if strings.Contains(p.logText(), "it is started again") {
				t.Error("the supervisor took it for a death")
			}
		})
	}
}

// TestReplacedByMisconfigured: a configuration that has become unusable since the start takes
// nobody's place either, whatever it is that can't be used.
func TestReplacedByMisconfigured(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, certKey := httpxtest.WriteCert(t, dir, "localhost")
	access, key := filepath.Join(dir, "access.log"), filepath.Join(dir, "keys")
	files := filepath.Join(dir, "files")
	p := startSupervised(t, "--tls-listen", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", certKey,
		"--access-log", access, "--key-file", key, "--blob", "dir:"+files, "--lame-duck", "100ms")
	old := p.server()
	for i, c := range []struct {
		what  string
		spoil func() error
		undo  func() error
	}{
		{"tls-cert", func() error { return os.Rename(cert, cert+".away") }, func() error { return os.Rename(cert+".away", cert) }},
		{"access-log", func() error { return errors.Join(os.Rename(access, access+".away"), os.Mkdir(access, 0o700)) }, func() error { return errors.Join(os.Remove(access), os.Rename(access+".away", access)) }},
		{"key file", func() error { return os.Truncate(key, 5) }, func() error { return nil }},
		{"object store", func() error { return os.Chmod(files, 0o755) }, func() error { return os.Chmod(files, 0o700) }},
	} {
		keys, err := os.ReadFile(key)
		if err == nil {
			err = c.spoil()
		}
		if err != nil {
			t.Fatal(err)
		}
		p.signal(syscall.SIGHUP)
		p.until("the word on the server that does not start", 20*time.Second, func() bool {
			return strings.Count(p.logText(), "the new server did not start; the old one goes on") == i+1
		})
		if now := p.server(); now != old {
			t.Errorf("%s: server %d has the data directory, want %d", c.what, now, old)
		}
		if !strings.Contains(p.logText(), "panal: "+c.what+": ") {
			t.Errorf("the log does not say that %s is at fault", c.what)
		}
		if err := errors.Join(c.undo(), os.WriteFile(key, keys, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	p.replace(t, 0)
	p.stop(t)
}

// replace has the server replaced and waits for the next one.
func (p *platform) replace(t *testing.T, i int) {
	t.Helper()
	old, start := p.server(), time.Now()
	p.signal(syscall.SIGHUP)
	p.until("the next server", 30*time.Second, func() bool {
		now := p.server()
		return now != 0 && now != old
	})
	p.until("its readiness", 30*time.Second, func() bool {
		res, err := http.Get("http://" + p.listen + "/readyz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	t.Logf("replacement %d: server %d by %d, within %s", i, old, p.server(), time.Since(start))
}

// TestReplacedDuringUploads: uploads that take far longer than the drain are no reason to cut
// them when the server is replaced, nor to keep other callers waiting: one that runs when it is told to,
// and one that begins after that.
func TestReplacedDuringUploads(t *testing.T) {
	t.Parallel()
	p := startSupervised(t, "--drain", "2s")
	ch := p.call(http.MethodPost, p.api.OrgPath("channels"), map[string]string{"name": "slow"})["channel"].(map[string]any)["channel_id"].(string)
	const pieces, piece, pause = 24, 256 << 10, 300 * time.Millisecond
	upload := func() error {
		r, w := io.Pipe()
		go func() {
			b := make([]byte, piece)
			for range pieces {
				time.Sleep(pause)
				if _, err := w.Write(b); err != nil {
					return
				}
			}
			_ = w.Close()
		}()
		res, err := p.api.Do(context.Background(), client.Request{
			Method: http.MethodPost, Path: client.Path("channels", ch, "upload"), Body: r, Size: pieces * piece,
			Header: http.Header{"Content-Type": {"application/octet-stream"}},
		})
		if err != nil {
			return err
		}
		return res.Body.Close()
	}
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- upload() }()
	time.Sleep(time.Second)
	old := p.server()
	p.signal(syscall.SIGHUP)
	go func() {
		time.Sleep(4 * time.Second) // it is leaving by now
		second <- upload()
	}()
	slowest := time.Duration(0)
	p.until("the next server", time.Minute, func() bool {
		begun := time.Now()
		res, err := p.api.Do(context.Background(), client.Request{Method: http.MethodGet, Path: client.Path("channels", ch)})
		if err != nil {
			t.Errorf("a caller meanwhile: %v", err)
			return true
		}
		_ = res.Body.Close()
		slowest = max(slowest, time.Since(begun))
		now := p.server()
		return now != 0 && now != old
	})
	for _, done := range []chan error{first, second} {
		if err := <-done; err != nil { // the answer may be on its way to us yet
			t.Errorf("an upload under way: %v", err)
		}
	}
	if strings.Contains(p.logText(), "still running when the drain ended") {
		t.Error("the next server took over during an upload")
	}
	if slowest > 3*time.Second {
		t.Errorf("a caller waited for %v", slowest)
	}
	t.Logf("the slowest of the other callers waited for %v", slowest)
	p.stop(t)
}
