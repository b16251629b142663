// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"panal/internal/dataplane"
)

const endEvent = "event: end\ndata: {\"reason\":\"replaced\",\"message\":\"the instance that answered has ended; ask again to reach the service\"}\n\n"

// TestEndAnswers: a stream of events ends with an event that says why, between two
// events, and its body is whole. What can't be ended so is broken off, and a caller
// can tell. Either way the instance is drained then.
func TestEndAnswers(t *testing.T) {
	const events = "text/event-stream; charset=utf-8"
	for name, tt := range map[string]struct {
		kind, coding, length string
		before, after        string // what the instance says before it is ended, and then
		want                 string
		broken               bool
	}{
		"idle":             {kind: events, before: "data: a\n\n", want: "data: a\n\n" + endEvent},
		"only a head":      {kind: events, want: endEvent},
		"CRLF":             {kind: events, before: "data: a\r\n\r\n", want: "data: a\r\n\r\n" + endEvent},
		"a comment":        {kind: events, before: ": here\n\n", want: ": here\n\n" + endEvent},
		"within an event":  {kind: events, before: "data: a\n\ndata: hal", after: "f\n\ndata: b\n\ndata: c", want: "data: a\n\ndata: half\n\ndata: b\n\n" + endEvent},
		"within a line":    {kind: events, before: "data: a\ndata: b\n", after: "\n", want: "data: a\ndata: b\n\n" + endEvent},
		"never between":    {kind: events, before: "data: half", want: "data: half", broken: true},
		"events in gzip":   {kind: events, coding: "gzip", before: "x\n\n", want: "x\n\n", broken: true},
		"events of length": {kind: events, length: "100", before: "x\n\n", want: "x\n\n", broken: true},
		"other chunks":     {kind: "text/plain", before: "x\n\n", want: "x\n\n", broken: true},
		"a long answer":    {kind: "text/plain", length: "100", before: "x", want: "x", broken: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			table, gw := gateway(t, dataplane.Options{})
			more, gone := make(chan struct{}), make(chan struct{})
			in, _ := upstream(t, 1, func(w http.ResponseWriter, r *http.Request) {
				defer close(gone)
				rc := http.NewResponseController(w)
				for k, v := range map[string]string{"Content-Type": tt.kind, "Content-Encoding": tt.coding, "Content-Length": tt.length} {
					if v != "" {
						w.Header().Set(k, v)
					}
				}
				_, _ = io.WriteString(w, tt.before)
				_ = rc.Flush()
				<-more
				if tt.after != "" {
					_, _ = io.WriteString(w, tt.after)
					_ = rc.Flush()
				}
				<-r.Context().Done()
			})
			apply(t, table, 1, routes(svA, serviceOf(svA, in)))
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, gw.URL, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept-Encoding", "identity")
			resp, err := gw.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			got := make([]byte, len(tt.before))
			if _, err := io.ReadFull(resp.Body, got); err != nil {
				t.Fatal(err)
			}
			apply(t, table, 2, routes(svA, serviceOf(svA))) // it leaves
			table.End(in.ID, dataplane.EndReplaced)
			close(more)
			rest, err := io.ReadAll(resp.Body)
			if all := string(got) + string(rest); all != tt.want || (err != nil) != tt.broken {
				t.Errorf("%q, %v", all, err)
			}
			<-gone
			if err := table.Drained(t.Context(), in.ID); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestEndStreams: a server that ends says so in its streams of events; other answers
// go on as long as their connections do.
func TestEndStreams(t *testing.T) {
	table := dataplane.NewTable()
	t.Cleanup(func() { table.Replace(dataplane.Snapshot{Version: 1 << 60}) })
	p := dataplane.NewProxy(table, dataplane.Options{})
	gw := server(t, p)
	release := make(chan struct{})
	in, _ := upstream(t, 4, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/"+r.URL.Path[1:])
		_, _ = io.WriteString(w, "data: a\n\n")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-release:
			_, _ = io.WriteString(w, "b")
		case <-r.Context().Done():
		}
	})
	apply(t, table, 1, routes(svA, serviceOf(svA, in)))
	open := func(path string) *http.Response {
		resp, err := gw.Client().Get(gw.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		return resp
	}
	events, plain := open("/event-stream"), open("/plain")
	p.EndStreams(dataplane.EndGateway)
	if got, err := io.ReadAll(events.Body); err != nil || !strings.HasSuffix(string(got), "event: end\ndata: {\"reason\":\"server_ending\",\"message\":\"the server is ending; ask again\"}\n\n") {
		t.Errorf("events: %q, %v", got, err)
	}
	close(release)
	if got, err := io.ReadAll(plain.Body); err != nil || string(got) != "data: a\n\nb" {
		t.Errorf("the other answer: %q, %v", got, err)
	}
}

// TestEndedConnectionIsNotKept: an answer that ended by itself while it was asked to
// leaves nothing behind that the next call could meet.
func TestEndedConnectionIsNotKept(t *testing.T) {
	table, gw := gateway(t, dataplane.Options{})
	release := make(chan struct{})
	in, _ := upstream(t, 1, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: ha")
		_ = http.NewResponseController(w).Flush()
		<-release
		_, _ = io.WriteString(w, "lf\n")
	})
	apply(t, table, 1, routes(svA, serviceOf(svA, in)))
	resp, err := gw.Client().Get(gw.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	table.End(in.ID, dataplane.EndStopped)
	close(release)
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "data: half\n" {
		t.Errorf("%q, %v", got, err)
	}
	if status, body := call(t, gw.Client(), "GET", gw.URL, ""); status != 200 || body != "data: half\n" {
		t.Errorf("the next call: %d %q", status, body)
	}
}

// frame is a text frame from a server.
func frame(text string) string { return string([]byte{0x81, byte(len(text))}) + text }

// TestEndWebSocket: the caller gets a close frame with status 1001 between two frames,
// whatever the instance was at; one that has closed already gets no second.
func TestEndWebSocket(t *testing.T) {
	const text = "the service was stopped"
	closing := string([]byte{0x88, byte(2 + len(text)), 0x03, 0xe9}) + text
	for name, tt := range map[string]struct{ before, after, want string }{
		"idle":           {frame("hello"), "", frame("hello") + closing},
		"nothing yet":    {"", "", closing},
		"within a frame": {frame("hello")[:4], frame("hello")[4:] + frame("more") + "\x81", frame("hello") + frame("more") + closing},
		"closed already": {"\x88\x00", "", "\x88\x00"},
		"never between":  {"\x81\x05he", "", "\x81\x05he"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			table, gw := gateway(t, dataplane.Options{})
			more := make(chan struct{})
			heard := make(chan string, 1)
			in := rawUpstream(t, func(c net.Conn) {
				br := bufio.NewReader(c)
				if _, err := http.ReadRequest(br); err != nil {
					return
				}
				_, _ = io.WriteString(c, "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"+tt.before)
				<-more
				_, _ = io.WriteString(c, tt.after)
				said, _ := io.ReadAll(br)
				heard <- string(said)
			})
			apply(t, table, 1, routes(svA, serviceOf(svA, in)))
			c, br, resp := tunnel(t, gw.URL, askUpgrade)
			if resp.StatusCode != 101 {
				t.Fatalf("status %d", resp.StatusCode)
			}
			got := make([]byte, len(tt.before))
			if _, err := io.ReadFull(br, got); err != nil {
				t.Fatal(err)
			}
			apply(t, table, 2, routes(svA, serviceOf(svA)))
			table.End(in.ID, dataplane.EndStopped)
			close(more)
			rest, err := io.ReadAll(br)
			if all := string(got) + string(rest); all != tt.want || err != nil {
				t.Errorf("%q, want %q; %v", all, tt.want, err)
			}
			if strings.HasSuffix(tt.want, closing) { // what the caller says to that still arrives
				if _, err := io.WriteString(c, "bye"); err != nil {
					t.Error(err)
				}
				_ = c.(*net.TCPConn).CloseWrite()
				if said := <-heard; said != "bye" {
					t.Errorf("the instance heard %q", said)
				}
			}
			_ = c.Close()
			if err := table.Drained(t.Context(), in.ID); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDrainSaysGoodbye: a drain whose time is up ends WebSockets in words, and a tunnel
// of another protocol by closing it.
func TestDrainSaysGoodbye(t *testing.T) {
	for protocol, want := range map[string]string{"websocket": "server is ending", "other": ""} {
		table := dataplane.NewTable()
		p := dataplane.NewProxy(table, dataplane.Options{})
		gw := serving(t, p)
		in := rawUpstream(t, func(c net.Conn) {
			br := bufio.NewReader(c)
			if _, err := http.ReadRequest(br); err == nil {
				_, _ = io.WriteString(c, "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\n")
				_, _ = io.Copy(io.Discard, br)
			}
		})
		apply(t, table, 1, routes(svA, serviceOf(svA, in)))
		c, br, _ := tunnel(t, gw, strings.Replace(askUpgrade, "websocket", protocol, 1))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		done := make(chan struct{})
		go func() { defer close(done); p.Drain(ctx) }()
		rest, err := io.ReadAll(br)
		if err != nil || !strings.Contains(string(rest), want) || want == "" && len(rest) != 0 {
			t.Errorf("%s: %q, %v", protocol, rest, err)
		}
		_ = c.Close()
		<-done
		table.Replace(dataplane.Snapshot{Version: 1 << 60})
	}
}
