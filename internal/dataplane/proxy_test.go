// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"panal/internal/dataplane"
	"panal/internal/plat"
)

func TestRefusals(t *testing.T) {
	table := dataplane.NewTable()
	p := dataplane.NewProxy(table, dataplane.Options{Hold: 20 * time.Millisecond})
	apply(t, table, 1, routes(svA, serviceOf(svA)))
	apply(t, table, 2, dataplane.Deployment{ID: "8", Org: "3", Services: []dataplane.Service{{ID: svB}}})
	for _, c := range []struct {
		name   string
		to     dataplane.Target
		method string
		status int
		code   string
		retry  string
		says   string
	}{
		{"unknown deployment", dataplane.Target{Org: org, Deployment: "9"}, "POST", 404, "not_found", "", "no such deployment, or it has no service yet; create a service, and an endpoint"},
		{"unknown service", dataplane.Target{Org: org, Deployment: dep, Service: "x"}, "POST", 404, "not_found", "", "the service was not found in this deployment"},
		{"unknown alias", dataplane.Target{Org: org, Deployment: dep, Alias: "x"}, "GET", 404, "not_found", "", "no endpoint of this deployment has that alias; create it"},
		{"no default", dataplane.Target{Org: "3", Deployment: "8"}, "GET", 404, "not_found", "", `no endpoint "default" yet; create it, or call /deployments/`},
		{"other organization", dataplane.Target{Org: "2", Deployment: dep}, "POST", 403, "forbidden", "", ""},
		{"nothing ready", dataplane.Target{Org: org, Deployment: dep}, "POST", 503, "service_unavailable", "1", ""},
		{"tunnel", dataplane.Target{Org: org, Deployment: dep}, "CONNECT", 405, "method_not_allowed", "", ""},
		{"trace", dataplane.Target{Org: org, Deployment: dep}, "TRACE", 405, "method_not_allowed", "", ""},
		{"long method", dataplane.Target{Org: org, Deployment: dep}, strings.Repeat("M", 33), 400, "bad_request", "", "up to 32 characters"},
		{"longest method", dataplane.Target{Org: org, Deployment: dep}, strings.Repeat("M", 32), 503, "service_unavailable", "1", ""},
		{"command's method", dataplane.Target{Org: org, Deployment: dep}, "PROPFIND", 503, "service_unavailable", "1", ""},
		{"handler's method", dataplane.Target{Org: "3", Deployment: "8", Service: svB}, "DELETE", 503, "service_unavailable", "1", ""},
		{"not a handler's method", dataplane.Target{Org: "3", Deployment: "8", Service: svB}, "PROPFIND", 405, "method_not_allowed", "", "called by GET, POST or PUT"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newRecorder()
			r, err := http.NewRequestWithContext(t.Context(), c.method, "http://x/", nil)
			if err != nil {
				t.Fatal(err)
			}
			p.ServeCall(w, r, dataplane.Call{Target: c.to, RequestID: "req-7"})
			var body map[string]any
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
				t.Fatalf("body %q: %v", w.Body, err)
			}
			detail, has := body["error_detail"]
			says, _ := body["error_description"].(string)
			if w.Code != c.status || body["error"] != c.code || says == "" || !strings.Contains(says, c.says) || !has || detail != nil {
				t.Errorf("answer = %d %s, want %d %s", w.Code, w.Body, c.status, c.code)
			}
			if w.Header().Get("Retry-After") != c.retry || w.Header().Get("X-Abeja-Request-Id") != "req-7" {
				t.Errorf("headers = %v", w.Header())
			}
		})
	}
}

// TestSwitch moves the alias to and fro under load: no call fails, and none that
// starts after Apply returned reaches the service that the alias left.
func TestSwitch(t *testing.T) {
	a, _ := upstream(t, 4, say("A"))
	b, _ := upstream(t, 4, say("B"))
	table, gw := gateway(t, dataplane.Options{})
	services := []dataplane.Service{serviceOf(svA, a), serviceOf(svB, b)}
	apply(t, table, 1, routes(svA, services...))
	// epoch is odd while a switch is under way; epoch/2 says where to.
	var epoch atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var sent, checked atomic.Int64
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				before := epoch.Load()
				status, body := call(t, gw.Client(), "POST", gw.URL, "x")
				after := epoch.Load()
				sent.Add(1)
				if status != 200 {
					t.Errorf("status %d: %s", status, body)
					return
				}
				if before == after && before%2 == 0 {
					checked.Add(1)
					if want := "AB"[before/2%2]; body != string(want) {
						t.Errorf("a call after the switch to %c was answered by %s", want, body)
						return
					}
				}
			}
		})
	}
	for i := range 1000 {
		epoch.Add(1)
		apply(t, table, uint64(i+2), routes([]plat.ServiceID{svB, svA}[i%2], services...))
		epoch.Add(1)
		if i%10 == 0 { // let calls fit between two switches
			n := sent.Load()
			eventually(t, "a call between switches", func() bool { return sent.Load() >= n+6 || t.Failed() })
		}
	}
	close(stop)
	wg.Wait()
	if checked.Load() < 50 {
		t.Errorf("only %d of %d calls told anything", checked.Load(), sent.Load())
	}
}

// TestSwitchMovesHeldCalls: calls that wait for a service nobody will start any
// more go where the alias goes.
func TestSwitchMovesHeldCalls(t *testing.T) {
	b, _ := upstream(t, 1, say("B"))
	reg := newGauges(t)
	table, gw := gateway(t, dataplane.Options{Metrics: reg})
	apply(t, table, 1, routes(svA, serviceOf(svA), serviceOf(svB, b)))
	got := make(chan string, 3)
	for range cap(got) {
		go func() {
			_, body := call(t, gw.Client(), "POST", gw.URL, "x")
			got <- body
		}()
	}
	eventually(t, "three calls held", func() bool { return reg.get("panal_gateway_held") == 3 })
	apply(t, table, 2, routes(svB, serviceOf(svB, b)))
	for range cap(got) {
		if body := <-got; body != "B" {
			t.Errorf("a held call was answered %q", body)
		}
	}
}

func TestHoldAndRelease(t *testing.T) {
	reg := newGauges(t)
	table, gw := gateway(t, dataplane.Options{Metrics: reg, MaxHeld: 5})
	apply(t, table, 1, routes(svA, serviceOf(svA)))
	got := make(chan string, 5)
	for range cap(got) {
		go func() {
			status, body := call(t, gw.Client(), "POST", gw.URL, "x")
			got <- fmt.Sprint(status, body)
		}()
	}
	eventually(t, "five calls held", func() bool { return reg.get("panal_gateway_held") == 5 })
	if status, body := call(t, gw.Client(), "POST", gw.URL, "x"); status != 503 || !strings.Contains(body, "too many") {
		t.Errorf("the sixth waiting call = %d %s, want 503", status, body)
	}
	var now, most atomic.Int64
	a, _ := upstream(t, 2, func(w http.ResponseWriter, r *http.Request) {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		say("up")(w, r)
	})
	apply(t, table, 2, routes(svA, serviceOf(svA, a)))
	for range cap(got) {
		if s := <-got; s != "200up" {
			t.Errorf("a held call = %s", s)
		}
	}
	if most.Load() > 2 {
		t.Errorf("%d calls at a time on an instance with limit 2", most.Load())
	}
	eventually(t, "nothing held", func() bool {
		return reg.get("panal_gateway_held") == 0 && reg.get("panal_gateway_held_bytes") == 0 && reg.get("panal_gateway_outstanding") == 0
	})
}

func TestHeldBytesAreBounded(t *testing.T) {
	table, gw := gateway(t, dataplane.Options{MaxHeldBytes: 1000})
	apply(t, table, 1, routes(svA, serviceOf(svA)))
	if status, _ := call(t, gw.Client(), "POST", gw.URL, strings.Repeat("x", 2000)); status != 503 {
		t.Errorf("status = %d, want 503", status)
	}
}

// TestBusyQueue: calls over the limit wait their turn, and the wait is timed.
func TestBusyQueue(t *testing.T) {
	release := make(chan struct{})
	var running atomic.Int64
	a, _ := upstream(t, 1, func(w http.ResponseWriter, r *http.Request) {
		running.Add(1)
		<-release
		say("ok")(w, r)
	})
	table, gw := gateway(t, dataplane.Options{Hold: 100 * time.Millisecond})
	apply(t, table, 1, routes(svA, serviceOf(svA, a)))
	first := make(chan int, 1)
	go func() { s, _ := call(t, gw.Client(), "POST", gw.URL, "x"); first <- s }()
	eventually(t, "the first call runs", func() bool { return running.Load() == 1 })
	if status, body := call(t, gw.Client(), "POST", gw.URL, "x"); status != 503 || !strings.Contains(body, "busy") {
		t.Errorf("the second call = %d %s, want 503 busy", status, body)
	}
	close(release)
	if s := <-first; s != 200 {
		t.Errorf("the first call = %d", s)
	}
}

// TestWaitingCallerLeaves: it takes no instance and leaves no trace.
func TestWaitingCallerLeaves(t *testing.T) {
	reg := newGauges(t)
	table, gw := gateway(t, dataplane.Options{Metrics: reg})
	apply(t, table, 1, routes(svA, serviceOf(svA)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		req, _ := http.NewRequestWithContext(ctx, "POST", gw.URL, strings.NewReader("x"))
		if resp, err := gw.Client().Do(req); err == nil {
			_ = resp.Body.Close()
			t.Error("a cancelled call was answered")
		}
	}()
	eventually(t, "the call held", func() bool { return reg.get("panal_gateway_held") == 1 })
	cancel()
	<-done
	eventually(t, "nothing held", func() bool { return reg.get("panal_gateway_held") == 0 })
}

// TestDrain: an instance that left finishes what it has, gets nothing new, and
// counts as drained only then.
// TestAsyncNotedBeforeRelease: an instance that has taken an asynchronous call is not
// drained before that is noted, so that whoever drains it finds the call.
func TestAsyncNotedBeforeRelease(t *testing.T) {
	table := dataplane.NewTable()
	p := dataplane.NewProxy(table, dataplane.Options{})
	in, _ := upstream(t, 1, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
	apply(t, table, 1, routes(svA, serviceOf(svA, in)))
	noted := false
	req := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
	p.ServeCall(httptest.NewRecorder(), req, dataplane.Call{
		Target: dataplane.Target{Org: org, Deployment: dep}, RequestID: "req-1",
		Async: &dataplane.Async{ID: "id", Token: "token", Taken: func(id plat.WorkloadID) {
			apply(t, table, 2, routes(svA, serviceOf(svA)))
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if err := table.Drained(ended, id); id != in.ID || err == nil {
				t.Errorf("%s is drained before it is noted that it took the call", id)
			}
			noted = true
		}},
	})
	if err := table.Drained(t.Context(), in.ID); !noted || err != nil {
		t.Errorf("noted %t, then drained: %v", noted, err)
	}
}

func TestDrain(t *testing.T) {
	release, started := make(chan struct{}), make(chan struct{}, 1)
	a, _ := upstream(t, 2, func(w http.ResponseWriter, r *http.Request) {
		started <- struct{}{}
		<-release
		say("old")(w, r)
	})
	b, _ := upstream(t, 2, say("new"))
	table, gw := gateway(t, dataplane.Options{})
	apply(t, table, 1, routes(svA, serviceOf(svA, a)))
	got := make(chan string, 1)
	go func() { _, body := call(t, gw.Client(), "POST", gw.URL, "x"); got <- body }()
	<-started
	apply(t, table, 2, routes(svA, serviceOf(svA, b)))
	if _, body := call(t, gw.Client(), "POST", gw.URL, "x"); body != "new" {
		t.Errorf("after the change: %q", body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := table.Drained(ctx, a.ID); err == nil {
		t.Error("drained with a call under way")
	}
	close(release)
	if body := <-got; body != "old" {
		t.Errorf("the call under way = %q", body)
	}
	if err := table.Drained(t.Context(), a.ID); err != nil {
		t.Errorf("Drained = %v", err)
	}
}

// TestStreaming: the first piece of an answer arrives while the last is not yet
// made, and the same holds for the request.
func TestStreaming(t *testing.T) {
	next := make(chan struct{})
	a, _ := upstream(t, 1, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Trailer", "X-Sum")
		_ = rc.Flush()
		<-next
		br := bufio.NewReader(r.Body)
		for {
			line, err := br.ReadString('\n')
			if err != nil {
				break
			}
			_, _ = io.WriteString(w, "data: "+line)
			_ = rc.Flush()
		}
		w.Header().Set("X-Sum", "42")
	})
	table, gw := gateway(t, dataplane.Options{})
	apply(t, table, 1, routes(svA, serviceOf(svA, a)))
	pr, pw := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "POST", gw.URL, pr)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := gw.Client().Do(req) // the head arrives before any data is made
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	close(next)
	br := bufio.NewReader(resp.Body)
	for i := range 5 {
		fmt.Fprintf(pw, "%d\n", i)
		line, err := br.ReadString('\n')
		if want := fmt.Sprintf("data: %d\n", i); err != nil || line != want {
			t.Fatalf("piece %d = %q, %v", i, line, err)
		}
	}
	_ = pw.Close()
	if rest, err := io.ReadAll(br); err != nil || len(rest) > 0 {
		t.Errorf("rest = %q, %v", rest, err)
	}
	if resp.Trailer.Get("X-Sum") != "42" {
		t.Errorf("trailers = %v", resp.Trailer)
	}
}

// TestIdle: silence is cut, by whom it is due and with the right status.
func TestIdle(t *testing.T) {
	const idle = 150 * time.Millisecond
	block := make(chan struct{})
	defer close(block)
	a, _ := upstream(t, 8, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/mute":
			<-block
		case "/half":
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			<-block
		case "/slow": // longer than the deadline in all, never silent for long
			for range 10 {
				_, _ = io.WriteString(w, ".")
				_ = http.NewResponseController(w).Flush()
				time.Sleep(idle / 5)
			}
		case "/body":
			b, _ := io.ReadAll(r.Body)
			_, _ = w.Write(b)
		}
	})
	svc := serviceOf(svA, a)
	svc.FirstByte, svc.Idle = idle, idle
	reg := newGauges(t)
	table, gw := gateway(t, dataplane.Options{Metrics: reg, Idle: idle})
	apply(t, table, 1, routes(svA, svc))
	if status, body := call(t, gw.Client(), "POST", gw.URL+"/mute", "x"); status != 504 || !strings.Contains(body, "gateway_timeout") || !strings.Contains(body, "req-1") {
		t.Errorf("mute = %d %s", status, body)
	}
	if status, body := call(t, gw.Client(), "GET", gw.URL+"/slow", ""); status != 200 || body != ".........." {
		t.Errorf("slow = %d %s", status, body)
	}
	resp, err := gw.Client().Get(gw.URL + "/half")
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err == nil || string(b) != "half" {
		t.Errorf("half = %q, %v; want an error after half", b, err)
	}
	// A caller that stops sending, in a short and in a long body.
	for _, length := range []int{100, 1 << 20} {
		c := dialGateway(t, gw.Listener.Addr().String())
		fmt.Fprintf(c, "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\nabc", length)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("length %d: %v", length, err)
		}
		if resp.StatusCode != 408 || !resp.Close {
			t.Errorf("length %d: %d, close %v; want 408 and close", length, resp.StatusCode, resp.Close)
		}
		_ = resp.Body.Close()
	}
	// A caller that sends slowly but steadily is served.
	c := dialGateway(t, gw.Listener.Addr().String())
	fmt.Fprintf(c, "POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
	for range 10 {
		fmt.Fprintf(c, "1\r\nz\r\n")
		time.Sleep(idle / 5)
	}
	fmt.Fprintf(c, "0\r\n\r\n")
	ok, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(ok.Body); ok.StatusCode != 200 || string(b) != "zzzzzzzzzz" {
		t.Errorf("slow body = %d %q", ok.StatusCode, b)
	}
	_ = ok.Body.Close()
	eventually(t, "instances are free", func() bool { return reg.get("panal_gateway_outstanding") == 0 })
}

// TestCallerStopsReading: a caller that takes nothing frees the instance.
func TestCallerStopsReading(t *testing.T) {
	a, _ := upstream(t, 1, func(w http.ResponseWriter, _ *http.Request) {
		b := make([]byte, 1<<20)
		for range 64 {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	})
	svc := serviceOf(svA, a)
	svc.Idle = 100 * time.Millisecond
	reg := newGauges(t)
	table, gw := gateway(t, dataplane.Options{Metrics: reg})
	apply(t, table, 1, routes(svA, svc))
	c := dialGateway(t, gw.Listener.Addr().String())
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	var one [1]byte
	if _, err := io.ReadFull(c, one[:]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the instance is free", func() bool { return reg.get("panal_gateway_outstanding") == 0 })
}

// TestCallerGone: the instance learns that nobody waits any more.
func TestCallerGone(t *testing.T) {
	started, cancelled := make(chan struct{}), make(chan struct{})
	a, _ := upstream(t, 1, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(started)
		<-r.Context().Done()
		close(cancelled)
	})
	table, gw := gateway(t, dataplane.Options{})
	apply(t, table, 1, routes(svA, serviceOf(svA, a)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		req, _ := http.NewRequestWithContext(ctx, "POST", gw.URL, strings.NewReader("x"))
		if resp, err := gw.Client().Do(req); err == nil {
			_ = resp.Body.Close()
		}
	}()
	<-started
	cancel()
	<-done
	select {
	case <-cancelled:
	case <-time.After(patience):
		t.Fatal("the instance was not told")
	}
}

// TestLargeBodies: 100 MiB each way in flat memory.
func TestLargeBodies(t *testing.T) {
	const size = 100 << 20
	a, _ := upstream(t, 1, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			n, _ := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n)
			return
		}
		b := make([]byte, 64<<10)
		for range size / len(b) {
			_, _ = w.Write(b)
		}
	})
	table, gw := gateway(t, dataplane.Options{})
	apply(t, table, 1, routes(svA, serviceOf(svA, a)))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, length := range []int64{size, -1} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", gw.URL, io.NopCloser(io.LimitReader(zeros{}, size)))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = length
		resp, err := gw.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != fmt.Sprint(size) {
			t.Errorf("length %d: the instance got %s, %v", length, b, err)
		}
		_ = resp.Body.Close()
	}
	resp, err := gw.Client().Get(gw.URL)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != size {
		t.Errorf("got %d bytes, %v", n, err)
	}
	_ = resp.Body.Close()
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 16<<20 {
		t.Errorf("300 MiB through the gateway allocated %d MiB", used>>20)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestEarlyAnswer: an instance may answer without taking the body; the caller
// gets that answer, and its connection is not used again.
func TestEarlyAnswer(t *testing.T) {
	a := rawUpstream(t, func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
	})
	table, gw := gateway(t, dataplane.Options{})
	apply(t, table, 1, routes(svA, serviceOf(svA, a)))
	c := dialGateway(t, gw.Listener.Addr().String())
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\nabc")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != 413 || string(b) != "no" || !resp.Close {
		t.Errorf("answer = %d %q close %v", resp.StatusCode, b, resp.Close)
	}
}

func TestBadAnswers(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing":             "",
		"garbage":             "SSH-2.0-x\r\n\r\n",
		"two lengths":         "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
		"bad length":          "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
		"unknown coding":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab",
		"bad header":          "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
		"switch":              "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
		"status 042":          "HTTP/1.1 042 What\r\n\r\n",
		"endless interim":     strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 20),
		"endless head":        "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 2000) + "\r\n",
		"broken off in head":  "HTTP/1.1 200 OK\r\nContent-Le",
		"endless status line": "HTTP/1.1 200 " + strings.Repeat("x", 2<<20) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			a := rawUpstream(t, func(c net.Conn) {
				req, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, req.Body)
				_, _ = io.WriteString(c, answer)
			})
			table, gw := gateway(t, dataplane.Options{})
			apply(t, table, 1, routes(svA, serviceOf(svA, a)))
			if status, body := call(t, gw.Client(), "POST", gw.URL, "x"); status != 502 || !strings.Contains(body, `"bad_gateway"`) {
				t.Errorf("answer = %d %s, want 502", status, body)
			}
		})
	}
}

// TestInstanceDies: what was under way on it fails (a POST) or goes elsewhere (a
// GET); everything else never notices.
func TestInstanceDies(t *testing.T) {
	var deaths atomic.Int64
	dying := rawUpstream(t, func(c net.Conn) {
		if req, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.Copy(io.Discard, req.Body)
			deaths.Add(1)
		}
	})
	good, _ := upstream(t, 8, say("good"))
	table, gw := gateway(t, dataplane.Options{})
	apply(t, table, 1, routes(svA, serviceOf(svA, dying)))
	if status, _ := call(t, gw.Client(), "POST", gw.URL, "x"); status != 502 || deaths.Load() != 1 {
		t.Errorf("POST = %d after %d deaths, want 502 after one", status, deaths.Load())
	}
	apply(t, table, 2, routes(svA, serviceOf(svA, dying, good)))
	for range 20 {
		if status, body := call(t, gw.Client(), "GET", gw.URL, ""); status != 200 || body != "good" {
			t.Fatalf("GET = %d %s", status, body)
		}
	}
}

// TestInstanceDiesUnderAnUpload: it is the instance's fault and told so, not the
// caller's, whose body was still to come; also when that had begun to go to disk.
func TestInstanceDiesUnderAnUpload(t *testing.T) {
	for _, waits := range []bool{false, true} {
		table, gw := gateway(t, dataplane.Options{SpoolDir: t.TempDir(), MaxSpool: 16 << 20})
		apply(t, table, 1, routes(svA, serviceOf(svA)))
		in := rawUpstream(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 4096)) })
		if !waits {
			apply(t, table, 2, routes(svA, serviceOf(svA, in)))
		}
		body, feed := io.Pipe()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		context.AfterFunc(ctx, func() { _ = feed.CloseWithError(io.ErrUnexpectedEOF) })
		answered := make(chan string, 1)
		go func() {
			status, text, _ := post(t, ctx, gw.URL, body)
			answered <- fmt.Sprint(status, " ", text)
		}()
		_, _ = feed.Write([]byte("x"))
		if waits {
			eventually(t, "the call waits", func() bool { l, _ := table.Load(dep, svA); return l.Waiting == 1 })
			apply(t, table, 2, routes(svA, serviceOf(svA, in)))
		}
		if got := <-answered; !strings.HasPrefix(got, "502 ") || !strings.Contains(got, "instance failed") {
			t.Errorf("waited %v: %s, want 502", waits, got)
		}
		cancel()
	}
}

// TestTurnedAway: a call that an ending instance has not handled goes to another,
// whatever its method, waits for one when there is none, and is answered as the
// instance said when none comes.
func TestTurnedAway(t *testing.T) {
	ending, _ := upstream(t, 8, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Panal-Unhandled", "1")
		w.WriteHeader(503)
	})
	good, _ := upstream(t, 8, say("good"))
	table, gw := gateway(t, dataplane.Options{Hold: 300 * time.Millisecond})
	apply(t, table, 1, routes(svA, serviceOf(svA, ending, good)))
	for range 20 {
		if status, body := call(t, gw.Client(), "POST", gw.URL, "x"); status != 200 || body != "good" {
			t.Fatalf("POST = %d %s", status, body)
		}
	}
	apply(t, table, 2, routes(svA, serviceOf(svA, ending)))
	if status, _ := call(t, gw.Client(), "POST", gw.URL, "x"); status != 503 {
		t.Errorf("POST with nobody else = %d", status)
	}
	got := make(chan string, 1)
	go func() { _, body := call(t, gw.Client(), "POST", gw.URL, "x"); got <- body }()
	apply(t, table, 3, routes(svA, serviceOf(svA, ending, good)))
	if body := <-got; body != "good" {
		t.Errorf("the held call = %q", body)
	}
}

// TestKill closes an instance with kept connections under load: at most what
// was under way on it fails.
func TestKill(t *testing.T) {
	const limit = 2
	a, sa := upstream(t, limit, say("A"))
	b, _ := upstream(t, limit, say("B"))
	reg := newGauges(t)
	table, gw := gateway(t, dataplane.Options{Metrics: reg})
	apply(t, table, 1, routes(svA, serviceOf(svA, a, b)))
	var sent, failed atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if status, _ := call(t, gw.Client(), "POST", gw.URL, "x"); status != 200 {
					failed.Add(1)
				}
				sent.Add(1)
			}
		})
	}
	eventually(t, "load", func() bool { return sent.Load() > 100 })
	_ = sa.Close()
	n := sent.Load()
	eventually(t, "load after the kill", func() bool { return sent.Load() > n+200 })
	close(stop)
	wg.Wait()
	if failed.Load() > limit {
		t.Errorf("%d calls failed, at most %d were under way on the killed instance", failed.Load(), limit)
	}
	// Alone and dead, it makes calls wait for another.
	apply(t, table, 2, routes(svA, serviceOf(svA, a)))
	got := make(chan string, 1)
	go func() { _, body := call(t, gw.Client(), "POST", gw.URL, "x"); got <- body }()
	eventually(t, "the call held", func() bool { return reg.get("panal_gateway_held") == 1 })
	apply(t, table, 3, routes(svA, serviceOf(svA, b)))
	if body := <-got; body != "B" {
		t.Errorf("the held call = %q", body)
	}
}

// TestKeptConnections: one connection serves many calls; an answer that says
// close ends it; one that the instance closed costs nothing.
func TestKeptConnections(t *testing.T) {
	var conns atomic.Int64
	l := listen(t)
	a := dataplane.Instance{ID: workload(), Network: "unix", Address: l.Addr().String(), Limit: 1}
	s := &http.Server{Handler: say("ok"), IdleTimeout: 50 * time.Millisecond, ConnState: func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			conns.Add(1)
		}
	}}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	table, gw := gateway(t, dataplane.Options{})
	apply(t, table, 1, routes(svA, serviceOf(svA, a)))
	for range 50 {
		call(t, gw.Client(), "POST", gw.URL, "x")
	}
	if n := conns.Load(); n > 25 {
		t.Errorf("50 calls opened %d connections", n)
	}
	for range 5 { // the instance closes kept connections between calls
		time.Sleep(80 * time.Millisecond)
		if status, body := call(t, gw.Client(), "POST", gw.URL, "x"); status != 200 {
			t.Errorf("after an idle close: %d %s", status, body)
		}
	}
}

// TestInstanceThatSaysNothing: one that did not say how many calls it takes is the
// original's agent, which accepts one connection at a time and answers one call on
// each (compute.md §8.1, §13.5).
func TestInstanceThatSaysNothing(t *testing.T) {
	var calls atomic.Int64
	a := rawUpstream(t, func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if !r.Close || r.Header.Get("Upgrade") != "" {
			t.Errorf("call %d asks to keep its connection: %v", calls.Load(), r.Header)
		}
		calls.Add(1)
		// It does not even say that it closes, and takes nothing more.
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		_, _ = io.Copy(io.Discard, c)
	})
	a.Limit = 0
	table, gw := gateway(t, dataplane.Options{})
	apply(t, table, 1, routes(svA, serviceOf(svA, a)))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if status, body := call(t, gw.Client(), "POST", gw.URL, "x"); status != 200 || body != "ok" {
				t.Errorf("%d %s", status, body)
			}
		})
	}
	wg.Wait()
	if calls.Load() != 20 {
		t.Errorf("%d calls of 20 arrived", calls.Load())
	}
	// It says how many it takes after all: connections are kept.
	b, _ := upstream(t, 1, say("kept"))
	b.ID = a.ID
	apply(t, table, 2, routes(svA, serviceOf(svA, b)))
	if status, body := call(t, gw.Client(), "POST", gw.URL, "x"); status != 200 || body != "kept" {
		t.Errorf("%d %s", status, body)
	}
}

// TestLeastOutstanding: with one instance stuck, the other does the work.
func TestLeastOutstanding(t *testing.T) {
	block, stuck := make(chan struct{}), make(chan struct{})
	a, _ := upstream(t, 100, func(http.ResponseWriter, *http.Request) { stuck <- struct{}{}; <-block })
	b, _ := upstream(t, 100, say("B"))
	table, gw := gateway(t, dataplane.Options{})
	apply(t, table, 1, routes(svA, serviceOf(svA, a, b)))
	var wg sync.WaitGroup
	n := 0
	for range 100 {
		answered := make(chan struct{})
		wg.Go(func() {
			defer close(answered)
			call(t, gw.Client(), "POST", gw.URL, "x")
		})
		select {
		case <-answered:
		case <-stuck:
			n++
		}
	}
	close(block)
	wg.Wait()
	if n != 1 {
		t.Errorf("%d of 100 calls went to the stuck instance, want one", n)
	}
}

func dialGateway(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}
