// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"panal/internal/dataplane"
	"panal/internal/plat"
)

// recording is a gateway whose recordings go to store, and its gauges.
func recording(t *testing.T, store func(context.Context, *dataplane.Recording) error) (*dataplane.Table, string, gauges) {
	t.Helper()
	reg, table := newGauges(t), dataplane.NewTable()
	p := dataplane.NewProxy(table, dataplane.Options{Metrics: reg})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { p.StoreRecordings(ctx, store) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	t.Cleanup(func() { table.Replace(dataplane.Snapshot{Version: 1 << 60}) })
	return table, serving(t, p), reg
}

func recorded(percent int, in dataplane.Instance) dataplane.Deployment {
	s := serviceOf(svA, in)
	s.Record = &dataplane.Record{Channel: "1590000000099", Percent: percent, Version: "1.2"}
	return routes(svA, s)
}

// TestRecord: small, streamed and long inputs are recorded with what became of the call.
func TestRecord(t *testing.T) {
	got := make(chan *dataplane.Recording, 10)
	table, url, reg := recording(t, func(_ context.Context, r *dataplane.Recording) error { got <- r; return nil })
	in, _ := upstream(t, 4, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusTeapot)
	})
	apply(t, table, 1, recorded(100, in))
	for _, c := range []struct {
		body string
		want int
		cut  bool
	}{
		{"", 0, false},
		{"small", 5, false},
		{strings.Repeat("0123456789", 50_000), 500_000, false},
		{strings.Repeat("0123456789", 300_000), dataplane.MaxRecordedBody, true},
	} {
		if status, _ := call(t, http.DefaultClient, "POST", url, c.body); status != http.StatusTeapot {
			t.Fatalf("status = %d", status)
		}
		r := <-got
		if string(r.Input.Body) != c.body[:c.want] || r.Input.Cut != c.cut || r.Output != nil {
			t.Errorf("recorded %d bytes (cut %t) of %d", len(r.Input.Body), r.Input.Cut, len(c.body))
		}
		if r.Status != http.StatusTeapot || r.Channel != "1590000000099" || r.Version != "1.2" || r.Service != svA || r.Org != org || r.Deployment != dep ||
			r.RequestID != "req-1" || r.Method != "POST" || r.Took <= 0 || r.At.IsZero() {
			t.Errorf("recorded as %+v", r.Record)
		}
	}
	eventually(t, "all memory is given back", func() bool { return reg.get("panal_gateway_recording_bytes") == 0 })
	http.DefaultClient.CloseIdleConnections()
}

// TestRecordQuery: a handler's input of a GET is the query, as it gets that as its body; a
// command's calls have their path.
func TestRecordQuery(t *testing.T) {
	got := make(chan *dataplane.Recording, 10)
	table, url, reg := recording(t, func(_ context.Context, r *dataplane.Recording) error { got <- r; return nil })
	in, _ := upstream(t, 4, say("ok"))
	long := "q=" + strings.Repeat("x", 100<<10)
	for i, c := range []struct {
		command                bool
		method, to, body       string
		input, kind, path, say string
	}{
		{false, "GET", "/in?a=b&c=%20d", "", "a=b&c=%20d", "application/x-www-form-urlencoded", "", "the query"},
		{false, "GET", "/", "", "", "application/x-www-form-urlencoded", "", "no query"},
		{false, "GET", "/?" + long, strings.Repeat("x", 100<<10), long, "application/x-www-form-urlencoded", "", "the query and not the body"},
		{false, "POST", "/in?a=b", "body", "body", "", "", "the body"},
		{true, "GET", "/v1/users%2F5?a=b", "", "", "", "/v1/users%2F5?a=b", "the path"},
		{true, "POST", "/in", "body", "body", "", "/in", "path and body"},
	} {
		d := recorded(100, in)
		d.Services[0].Command = c.command
		apply(t, table, uint64(i+1), d)
		if status, _ := call(t, http.DefaultClient, c.method, url+c.to, c.body); status != http.StatusOK {
			t.Fatalf("status = %d", status)
		}
		r := <-got
		if string(r.Input.Body) != c.input || r.Input.ContentType != c.kind || r.Path != c.path || r.Input.Cut {
			t.Errorf("%s %.40s is recorded as %.40q of %q, path %q, cut %t; want %s", c.method, c.to, r.Input.Body, r.Input.ContentType, r.Path, r.Input.Cut, c.say)
		}
	}
	eventually(t, "all memory is given back", func() bool { return reg.get("panal_gateway_recording_bytes") == 0 })
	http.DefaultClient.CloseIdleConnections()
}

// TestRecordOutput: answers are recorded as they came: whole, streamed, too long, broken
// off. What is the gateway's own word, a tunnel's or an acceptance is no output.
func TestRecordOutput(t *testing.T) {
	got := make(chan *dataplane.Recording, 10)
	table, url, reg := recording(t, func(_ context.Context, r *dataplane.Recording) error { got <- r; return nil })
	long := strings.Repeat("0123456789", 300_000)
	in, _ := upstream(t, 4, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/"+r.URL.Path[1:])
		rc := http.NewResponseController(w)
		switch r.URL.Path {
		case "/whole":
			_, _ = io.WriteString(w, "an answer")
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/stream":
			for _, piece := range []string{"a", "b", "c"} {
				_, _ = io.WriteString(w, piece)
				_ = rc.Flush()
			}
		case "/long":
			_, _ = io.WriteString(w, long)
		case "/broken":
			_, _ = io.WriteString(w, "half an")
			_ = rc.Flush()
			panic(http.ErrAbortHandler)
		case "/nothing":
			panic(http.ErrAbortHandler)
		}
	})
	d := recorded(100, in)
	d.Services[0].Record.Outputs = true
	apply(t, table, 1, d)
	for _, c := range []struct {
		path   string
		status int
		want   string
		cut    bool
	}{
		{"/whole", 200, "an answer", false},
		{"/none", 204, "", false},
		{"/stream", 200, "abc", false},
		{"/long", 200, long[:dataplane.MaxRecordedBody], true},
		{"/broken", 200, "half an", true},
	} {
		resp, err := http.Post(url+c.path, "text/plain", strings.NewReader("question"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		r := <-got
		if r.Output == nil {
			t.Fatalf("%s: no output", c.path)
		}
		if string(r.Output.Body) != c.want || r.Output.Cut != c.cut || r.Output.ContentType != "text"+c.path || r.Status != c.status {
			t.Errorf("%s: recorded %d bytes (cut %t) of %q, status %d", c.path, len(r.Output.Body), r.Output.Cut, r.Output.ContentType, r.Status)
		}
		if string(r.Input.Body) != "question" || r.Input.ContentType != "text/plain" {
			t.Errorf("%s: input %q of %q", c.path, r.Input.Body, r.Input.ContentType)
		}
	}
	if status, _ := call(t, http.DefaultClient, "POST", url+"/nothing", "question"); status != http.StatusBadGateway {
		t.Errorf("status = %d", status)
	}
	if r := <-got; r.Output != nil || r.Status != http.StatusBadGateway {
		t.Errorf("the gateway's own answer is recorded as %+v", r.Output)
	}
	eventually(t, "all memory is given back", func() bool { return reg.get("panal_gateway_recording_bytes") == 0 })
	http.DefaultClient.CloseIdleConnections()
}

// TestRecordSample: a share of the calls is recorded, none when the share is 0 or
// recording has ended.
func TestRecordSample(t *testing.T) {
	var mu sync.Mutex
	n := 0
	table, url, _ := recording(t, func(context.Context, *dataplane.Recording) error { mu.Lock(); n++; mu.Unlock(); return nil })
	in, _ := upstream(t, 4, say("ok"))
	send := func(version uint64, d dataplane.Deployment) int {
		apply(t, table, version, d)
		for range 400 {
			call(t, http.DefaultClient, "POST", url, "x")
		}
		mu.Lock()
		defer mu.Unlock()
		return n
	}
	if got := send(1, recorded(0, in)); got != 0 {
		t.Errorf("0 percent recorded %d calls", got)
	}
	if got := send(2, routes(svA, serviceOf(svA, in))); got != 0 {
		t.Errorf("without a channel %d calls were recorded", got)
	}
	if got := send(3, recorded(50, in)); got < 100 || got > 300 { // ten standard deviations
		t.Errorf("50 percent recorded %d of 400 calls", got)
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestRecordNeverHarms: a store that hangs or refuses neither fails nor holds up a
// call; what is lost is counted, and memory stays bounded and is given back.
func TestRecordNeverHarms(t *testing.T) {
	hang := make(chan struct{})
	table, url, reg := recording(t, func(context.Context, *dataplane.Recording) error {
		<-hang
		return plat.Errorf(plat.ErrNotFound, "the channel was deleted")
	})
	in, _ := upstream(t, 8, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(b)
	})
	d := recorded(100, in)
	d.Services[0].Record.Outputs = true
	apply(t, table, 1, d)
	const calls = 1200
	body := strings.Repeat("x", 50<<10) // in and out 120 MB in all
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range calls / 8 {
				if status, text := call(t, http.DefaultClient, "POST", url, body); status != 200 || text != body {
					t.Errorf("%d %.80s", status, text)
					return
				}
			}
		})
	}
	wg.Wait()
	if held := reg.get("panal_gateway_recording_bytes"); held < 32<<20 || held > 64<<20 {
		t.Errorf("%v bytes are held, want up to 64 MiB", held)
	}
	if lost := reg.get("panal_gateway_recordings_lost_total"); lost < calls-1000-8 {
		t.Errorf("%v recordings were dropped of %d", lost, calls)
	}
	close(hang)
	eventually(t, "each is lost and its memory given back", func() bool {
		return reg.get("panal_gateway_recordings_lost_total") == calls && reg.get("panal_gateway_recording_bytes") == 0
	})
	http.DefaultClient.CloseIdleConnections()
}
