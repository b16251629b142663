// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"panal/internal/dataplane"
)

// echoes agrees to any upgrade, says hello together with its answer, and then sends
// back what it gets, in capitals.
func echoes(t *testing.T) dataplane.Instance {
	t.Helper()
	in, _ := upstream(t, 2, func(w http.ResponseWriter, r *http.Request) {
		c, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = c.Close() }()
		if r.Header.Get("Authorization") != "" || r.Header.Get("Sec-Websocket-Key") != "k" {
			t.Errorf("header = %v", r.Header)
		}
		_, _ = fmt.Fprintf(buf, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nSet-Cookie: a=b\r\nX-Y: z\r\n\r\nhello ", r.Header.Get("Upgrade"))
		_ = buf.Flush()
		b := make([]byte, 1024)
		for {
			n, err := buf.Read(b)
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(strings.ToUpper(string(b[:n]))))
		}
	})
	return in
}

const askUpgrade = "GET /chat HTTP/1.1\r\nHost: x\r\nAuthorization: secret\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"

// tunnel opens a connection to the gateway, sends raw and reads the answer's head.
func tunnel(t *testing.T, url, raw string) (net.Conn, *bufio.Reader, *http.Response) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c, br, resp
}

// TestUpgrade: a WebSocket goes through in both directions, counts as a call under
// way, and ends when either side does (design §6.4).
func TestUpgrade(t *testing.T) {
	reg := newGauges(t)
	table, gw := gateway(t, dataplane.Options{Metrics: reg})
	in := echoes(t)
	apply(t, table, 1, routes(svA, serviceOf(svA, in)))
	// What the caller says before it has the answer is not lost.
	c, br, resp := tunnel(t, gw.URL, askUpgrade+"early ")
	if resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" || resp.Header.Get("X-Y") != "z" ||
		resp.Header.Get("Set-Cookie") != "" || resp.Header.Get("X-Abeja-Request-Id") != "req-1" {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	if _, err := io.WriteString(c, "word\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := br.ReadString('\n'); err != nil || line != "hello EARLY WORD\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if reg.get("panal_gateway_tunnels") != 1 || reg.get("panal_gateway_outstanding") != 1 {
		t.Errorf("tunnels %v, outstanding %v", reg.get("panal_gateway_tunnels"), reg.get("panal_gateway_outstanding"))
	}
	// An instance that leaves keeps its tunnels until they end.
	apply(t, table, 2, routes(svA, serviceOf(svA)))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := table.Drained(ctx, in.ID); err == nil {
		t.Error("drained under a tunnel")
	}
	if _, err := io.WriteString(c, "on\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := br.ReadString('\n'); err != nil || line != "ON\n" {
		t.Fatalf("after it left: %q, %v", line, err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(br); err != nil || len(rest) != 0 {
		t.Errorf("rest %q, %v", rest, err)
	}
	if err := table.Drained(t.Context(), in.ID); err != nil {
		t.Error(err)
	}
	eventually(t, "no tunnel", func() bool { return reg.get("panal_gateway_tunnels") == 0 })
}

func TestUpgradeRefused(t *testing.T) {
	for what, tt := range map[string]struct {
		raw, answer string
		handler     bool
		status      int
	}{
		"another protocol": {askUpgrade, "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n", false, 502},
		"no protocol":      {askUpgrade, "HTTP/1.1 101 S\r\nConnection: Upgrade\r\n\r\n", false, 502},
		"not asked for":    {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", false, 502},
		"of a handler":     {askUpgrade, "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", true, 502},
		"declined":         {askUpgrade, "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", false, 403},
		"ignored":          {askUpgrade, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, 200},
	} {
		t.Run(what, func(t *testing.T) {
			table, gw := gateway(t, dataplane.Options{})
			in := rawUpstream(t, func(c net.Conn) {
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err == nil && tt.handler && r.Header.Get("Upgrade") != "" {
					t.Error("a handler is asked to switch protocols")
				}
				_, _ = io.WriteString(c, tt.answer)
			})
			s := serviceOf(svA, in)
			s.Command = !tt.handler
			apply(t, table, 1, routes(svA, s))
			_, _, resp := tunnel(t, gw.URL, tt.raw)
			if resp.StatusCode != tt.status {
				t.Errorf("%d, want %d", resp.StatusCode, tt.status)
			}
		})
	}
}

// TestUpgradeEnds: one that is silent is ended, and so are all when a drain's time is up.
func TestUpgradeEnds(t *testing.T) {
	t.Run("silent", func(t *testing.T) {
		table, gw := gateway(t, dataplane.Options{TunnelIdle: 100 * time.Millisecond})
		apply(t, table, 1, routes(svA, serviceOf(svA, echoes(t))))
		_, br, _ := tunnel(t, gw.URL, askUpgrade)
		if rest, err := io.ReadAll(br); string(rest) != "hello " {
			t.Errorf("%q, %v", rest, err)
		}
	})
	t.Run("drain", func(t *testing.T) {
		table := dataplane.NewTable()
		p := dataplane.NewProxy(table, dataplane.Options{})
		gw := serving(t, p)
		apply(t, table, 1, routes(svA, serviceOf(svA, echoes(t))))
		other := strings.Replace(askUpgrade, "websocket", "other", 1)
		_, br, _ := tunnel(t, gw, other)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); p.Drain(ctx) }()
		eventually(t, "new tunnels refused", func() bool {
			_, _, resp := tunnel(t, gw, other)
			return resp.StatusCode == 503
		})
		select {
		case <-done:
			t.Error("the drain did not wait")
		default:
		}
		cancel()
		<-done
		if rest, err := io.ReadAll(br); string(rest) != "hello " {
			t.Errorf("%q, %v", rest, err)
		}
		table.Replace(dataplane.Snapshot{Version: 1 << 60})
	})
}

// TestRequestTrailers: what a caller says after a body in chunks reaches a command.
func TestRequestTrailers(t *testing.T) {
	table, gw := gateway(t, dataplane.Options{})
	seen := make(chan http.Header, 1)
	in, _ := upstream(t, 1, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		seen <- r.Trailer
	})
	apply(t, table, 1, routes(svA, serviceOf(svA, in)))
	raw := "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Authorization, X-Panal-Instance-Key\r\n\r\n" +
		"2\r\nab\r\n0\r\nX-Sum: 7\r\nAuthorization: secret\r\nX-Panal-Instance-Key: k\r\n\r\n"
	_, _, resp := tunnel(t, gw.URL, raw)
	if resp.StatusCode != 200 {
		t.Fatalf("status %d", resp.StatusCode)
	}
	if got := <-seen; len(got) != 1 || got.Get("X-Sum") != "7" {
		t.Errorf("trailers = %v", got)
	}
}
