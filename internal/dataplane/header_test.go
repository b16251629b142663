// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"panal/internal/dataplane"
)

func newRecorder() *httptest.ResponseRecorder { return httptest.NewRecorder() }

// gauges is a registry whose gauges can be read.
type gauges struct {
	*prometheus.Registry
	t *testing.T
}

func newGauges(t *testing.T) gauges { return gauges{prometheus.NewRegistry(), t} }

func (g gauges) get(name string) float64 {
	families, err := g.Gather()
	if err != nil {
		g.t.Fatal(err)
	}
	for _, f := range families {
		switch {
		case f.GetName() != name:
		case f.GetType() == dto.MetricType_GAUGE:
			return f.GetMetric()[0].GetGauge().GetValue()
		case f.GetType() == dto.MetricType_COUNTER:
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	g.t.Fatalf("no gauge %s", name)
	return 0
}

// wire is what an instance sees of a raw request, and what the caller gets back.
type wire struct {
	line, body string
	header     http.Header
	answers    []string // status lines, all that came
}

// through sends raw bytes to the gateway and closes the sending side, at once if
// half, else after the first answer (closing it earlier is leaving).
func through(t *testing.T, command, half bool, raw string) wire {
	t.Helper()
	var seen wire
	a, _ := upstream(t, 1, func(w http.ResponseWriter, r *http.Request) {
		if seen.line != "" {
			seen.line += " and another request"
		}
		b, err := io.ReadAll(r.Body)
		seen.line += r.Method + " " + r.RequestURI + " " + r.Host
		seen.body, seen.header = string(b), r.Header.Clone()
		if err != nil {
			seen.body = "error: " + err.Error()
		}
		w.Header().Set("Set-Cookie", "a=b")
		w.Header().Set("X-Panal-Instance-Key", "leak")
		w.Header().Set("X-Abeja-Request-Id", "forged")
		w.Header().Set("Connection", "x-hop")
		w.Header().Set("X-Hop", "1")
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Set("X-Kept", "yes")
	})
	table, gw := gateway(t, dataplane.Options{})
	svc := serviceOf(svA, a)
	svc.Command = command
	apply(t, table, 1, routes(svA, svc))
	c := dialGateway(t, gw.Listener.Addr().String())
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	if half {
		_ = c.(*net.TCPConn).CloseWrite()
	}
	br := bufio.NewReader(c)
	for {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			return seen
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		seen.answers = append(seen.answers, resp.Status)
		if resp.StatusCode >= 200 { // after a 100 it would be leaving
			_ = c.(*net.TCPConn).CloseWrite()
		}
		if resp.StatusCode == 200 {
			for name, want := range map[string]string{
				"Set-Cookie": "", "X-Panal-Instance-Key": "", "X-Abeja-Request-Id": "req-1", "X-Hop": "", "Keep-Alive": "", "X-Kept": "yes",
			} {
				if got := resp.Header.Get(name); got != want {
					t.Errorf("answer's %s = %q, want %q", name, got, want)
				}
			}
		}
	}
}

func TestHeaders(t *testing.T) {
	got := through(t, true, false, "POST /a%2Fb/c?q=1&r HTTP/1.1\r\nHost: svc.example\r\n"+
		"Authorization: Bearer secret\r\nCookie: s=1\r\nProxy-Authorization: x\r\nProxy-Foo: x\r\n"+
		"X-Abeja-Arms-Async-Request-Token: x\r\nX-Abeja-Arms-Async: true\r\nX-Panal-Instance-Key: guess\r\nX-Panal-Other: x\r\n"+
		"X-Abeja-Requester-Id: forged\r\nX-Abeja-Request-Id: forged\r\nX_Abeja_Requester_Id: forged\r\nx_panal-instance_key: forged\r\n"+
		"Connection: keep-alive, X-Per-Hop, content-type, x-abeja-requester-id\r\nX-Per-Hop: 1\r\nContent-Type: text/plain\r\n"+
		"Keep-Alive: 5\r\nTE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nExpect: 100-continue\r\n"+
		"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n"+
		"X-Abeja-Meta-Mine: 1\r\nAccept: a\r\nAccept: b\r\nUser-Agent: ua\r\nContent-Length: 2\r\n\r\nhi")
	want := http.Header{
		"Accept": {"a", "b"}, "User-Agent": {"ua"}, "Content-Length": {"2"}, "X-Abeja-Meta-Mine": {"1"},
		"X-Abeja-Request-Id": {"req-1"}, "X-Abeja-Requester-Id": {"1650000000031"}, "X-Panal-Instance-Key": {"k3y"},
	}
	if d := cmp.Diff(want, got.header); d != "" {
		t.Errorf("headers at the instance (-want +got):\n%s", d)
	}
	if got.line != "POST /a%2Fb/c?q=1&r svc.example" || got.body != "hi" {
		t.Errorf("the instance saw %q, body %q", got.line, got.body)
	}
}

// TestHandlerGetsNoPath: the path after the alias is not for handlers; the query is.
func TestHandlerGetsNoPath(t *testing.T) {
	if got := through(t, false, false, "GET /health_check?x=1 HTTP/1.1\r\nHost: h\r\n\r\n"); got.line != "GET /?x=1 h" {
		t.Errorf("the handler saw %q", got.line)
	}
}

// TestNoGuessedType: an answer without a Content-Type stays one, whichever way its
// head is read and sent.
func TestNoGuessedType(t *testing.T) {
	a, _ := upstream(t, 1, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = nil
		_, _ = io.WriteString(w, "<html>")
		if r.URL.Path == "/chunks" {
			_ = http.NewResponseController(w).Flush()
		}
	})
	table, gw := gateway(t, dataplane.Options{})
	svc := serviceOf(svA, a)
	svc.Command = true
	apply(t, table, 1, routes(svA, svc))
	for _, path := range []string{"/whole", "/chunks"} {
		resp, err := gw.Client().Get(gw.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if got := resp.Header.Values("Content-Type"); len(got) != 0 || string(body) != "<html>" {
			t.Errorf("%s: %q, Content-Type %q", path, body, got)
		}
	}
}

// TestSmuggling sends requests with two readings. Whatever net/http makes of
// them, the instance must see at most one request, framed anew.
func TestSmuggling(t *testing.T) {
	const evil = "GET /evil HTTP/1.1\r\nHost: e\r\n\r\n"
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(evil), evil)
	for _, c := range []struct {
		name, raw, line, body string
	}{
		{"length and chunks", "POST /p HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked, "POST /p h", evil},
		{"connection names the length", "POST /p HTTP/1.1\r\nHost: h\r\nConnection: content-length, close\r\nContent-Length: " + fmt.Sprint(len(evil)) + "\r\n\r\n" + evil, "POST /p h", evil},
		{"connection names the coding", "POST /p HTTP/1.1\r\nHost: h\r\nConnection: transfer-encoding, host, close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked, "POST /p h", evil},
		{"body on GET", "GET /p HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: " + fmt.Sprint(len(evil)) + "\r\n\r\n" + evil, "GET /p h", evil},
		{"two lengths", "POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 9\r\n\r\n" + evil, "", ""},
		{"coding twice", "POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + chunked, "", ""},
		{"coding with a tab", "POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \tchunked, x\r\n\r\n" + chunked, "", ""},
		{"space before colon", "POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n" + chunked, "", ""},
		{"line feed in header", "POST /p HTTP/1.1\r\nHost: h\r\nX-A: a\rTransfer-Encoding: chunked\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "", ""},
		{"signed length", "POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc", "", ""},
		{"body shorter than said", "POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\nabc", "", ""},
		{"trailers are dropped", "POST /p HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTrailer: Authorization\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nAuthorization: x\r\n\r\n", "POST /p h", "x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := through(t, true, c.line == "", c.raw)
			if got.line != c.line || got.body != c.body {
				t.Errorf("the instance saw %q, body %q; want %q, %q", got.line, got.body, c.line, c.body)
			}
			if got.header.Get("Authorization") != "" {
				t.Error("credentials reached the instance")
			}
			if len(got.answers) > 1 && !strings.HasPrefix(got.answers[1], "400") {
				t.Errorf("answers = %q: one request, two answers", got.answers)
			}
		})
	}
}
