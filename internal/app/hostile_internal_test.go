// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"panal/internal/dataplane"
	"panal/internal/plat"
)

// edge is the server as callers meet it: the real listener behind the door, the real
// net/http settings, the proxy. Its instance believes nothing: it reads the bytes
// that the gateway sent by rules of its own, and records what breaks them.
type edge struct {
	addr     string
	door     *door
	instance *strictInstance

	handling atomic.Int64 // calls that the gateway took for requests
	ids      atomic.Int64
	mu       sync.Mutex
	bodies   map[string]*readBody // by request id: what net/http made of the caller's bytes
}

// readBody is what a call's body was read as.
type readBody struct {
	bytes.Buffer
	whole  bool
	length int64 // as declared; -1: not
	src    io.ReadCloser
}

func (b *readBody) Read(p []byte) (int, error) {
	n, err := b.src.Read(p)
	b.Write(p[:n])
	if err == io.EOF || int64(b.Len()) == b.length {
		b.whole = true
	}
	return n, err
}
func (b *readBody) Close() error { return b.src.Close() }

func startEdge(t testing.TB, most, perAddr int) *edge {
	t.Helper()
	e := &edge{instance: startStrict(t), bodies: map[string]*readBody{}}
	table := dataplane.NewTable()
	table.Apply(dataplane.Delta{Version: 1, Deployment: dataplane.Deployment{
		ID: "d", Org: "o", Aliases: map[string]plat.ServiceID{"default": "s"},
		Services: []dataplane.Service{{ID: "s", Command: true, Instances: []dataplane.Instance{{ID: "wl-1", Network: "unix", Address: e.instance.addr, Limit: 64}}}},
	}})
	reg := prometheus.NewRegistry()
	p := dataplane.NewProxy(table, dataplane.Options{Idle: 2 * time.Second, FirstByte: 5 * time.Second})
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e.addr, e.door = l.Addr().String(), newDoor(most, perAddr, nil, reg)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	var draining atomic.Bool
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.handling.Add(1)
		defer e.handling.Add(-1)
		if !strings.HasPrefix(r.URL.Path, "/") { // the router's part
			http.NotFound(w, r)
			return
		}
		id := "id-" + strconv.FormatInt(e.ids.Add(1), 10)
		if r.ContentLength != 0 {
			b := &readBody{src: r.Body, length: r.ContentLength}
			r.Body = b
			e.mu.Lock()
			e.bodies[id] = b
			e.mu.Unlock()
		}
		p.ServeCall(w, r, dataplane.Call{Target: dataplane.Target{Org: "o", Deployment: "d"}, User: "u", RequestID: id, Path: r.URL.EscapedPath()})
	})
	go func() {
		done <- serveHTTP(ctx, slog.New(slog.DiscardHandler), e.door.limit(l, true), h, 0, func() time.Duration { return 100 * time.Millisecond }, &draining, nil, func(_, _ string) bool { return true })
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		table.Replace(dataplane.Snapshot{Version: 2})
	})
	return e
}

// send writes bytes as they are and returns all that comes back until the server
// closes or has been silent for a while.
func (e *edge) send(t testing.TB, raw []byte, silence time.Duration) string {
	t.Helper()
	c, err := net.Dial("tcp", e.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	go func() { _, _ = c.Write(raw) }() // the server may have closed before the end
	var all []byte
	buf := make([]byte, 4096)
	for {
		_ = c.SetReadDeadline(time.Now().Add(silence))
		n, err := c.Read(buf)
		all = append(all, buf[:n]...)
		if err != nil {
			return string(all)
		}
	}
}

// settle waits for the end of all connections and calls, and returns what the
// instance has to say against the gateway.
func (e *edge) settle(t testing.TB) []string {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); e.door.open.Load()+e.handling.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d connections, %d calls are still there", e.door.open.Load(), e.handling.Load())
		}
	}
	e.instance.mu.Lock()
	defer e.instance.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	bad := e.instance.broken
	seen := map[string]bool{}
	for _, got := range e.instance.got {
		b := e.bodies[got.id]
		switch {
		case !strings.HasPrefix(got.id, "id-"):
			bad = append(bad, "a request that the gateway did not make: "+got.line)
		case seen[got.id]:
			bad = append(bad, "a request of the same id twice: "+got.line) // nothing dies here, so nothing is sent again
		case b == nil && got.body != "":
			bad = append(bad, fmt.Sprintf("%s has a body %q, the caller sent none", got.line, got.body))
		case b != nil && b.whole && b.String() != got.body:
			bad = append(bad, fmt.Sprintf("%s has the body %q, the caller's was %q", got.line, got.body, b.String()))
		case b != nil && !b.whole:
			bad = append(bad, got.line+" was taken for whole, and the caller's was not")
		}
		seen[got.id] = true
	}
	return bad
}

// strictInstance is a server of one dialect: HTTP/1.1, CRLF, no folding, one
// framing. What it does not take is recorded as broken.
type strictInstance struct {
	addr   string
	mu     sync.Mutex
	got    []seen
	broken []string
}

type seen struct{ line, id, head, body string }

func startStrict(t testing.TB) *strictInstance {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := &strictInstance{addr: l.Addr().String()}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer func() { _ = c.Close() }()
				br := bufio.NewReader(c)
				for s.one(br, c) {
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	return s
}

// one reads one request and answers it. It reports false at the end.
func (s *strictInstance) one(br *bufio.Reader, c net.Conn) bool {
	if _, err := br.Peek(1); err != nil {
		return false
	}
	req, err := readStrict(br)
	s.mu.Lock()
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || isReset(err):
		// The gateway has cut it: nothing was taken for whole.
	case err != nil:
		s.broken = append(s.broken, fmt.Sprintf("%v in %q", err, req.head))
	default:
		s.got = append(s.got, req)
	}
	s.mu.Unlock()
	if err != nil {
		return false
	}
	answer := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	if strings.HasPrefix(req.line, "HEAD ") {
		answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
	}
	_, err = io.WriteString(c, answer)
	return err == nil
}

func isReset(err error) bool {
	return err != nil && strings.Contains(err.Error(), "reset by peer")
}

func readStrict(br *bufio.Reader) (seen, error) {
	var req seen
	line := func() (string, error) {
		s, err := br.ReadString('\n')
		req.head += s
		if err != nil {
			return "", err
		}
		s, ok := strings.CutSuffix(s, "\r\n")
		if !ok {
			return "", errors.New("a line ends without CR")
		}
		for i := range len(s) {
			if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
				return "", fmt.Errorf("control character %q", c)
			}
		}
		return s, nil
	}
	first, err := line()
	if err != nil {
		return req, err
	}
	req.line = first
	if parts := strings.Split(first, " "); len(parts) != 3 || parts[2] != "HTTP/1.1" || !strings.HasPrefix(parts[1], "/") || !token(parts[0]) {
		return req, errors.New("request line")
	}
	fields := map[string][]string{}
	for {
		l, err := line()
		if err != nil {
			return req, err
		}
		if l == "" {
			break
		}
		name, value, ok := strings.Cut(l, ":")
		if !ok || !token(name) {
			return req, fmt.Errorf("field %q", l)
		}
		name = strings.ToLower(strings.ReplaceAll(name, "_", "-"))
		fields[name] = append(fields[name], strings.TrimSpace(value))
	}
	for _, once := range []string{"host", "x-abeja-request-id", "x-abeja-requester-id"} {
		if len(fields[once]) != 1 {
			return req, fmt.Errorf("%d of %s", len(fields[once]), once)
		}
	}
	for _, never := range []string{"authorization", "cookie", "te", "keep-alive", "proxy-connection", "expect", "connection", "upgrade", "x-forwarded-for"} {
		switching := len(fields["upgrade"]) == 1 && (never == "connection" || never == "upgrade")
		if len(fields[never]) > 0 && !switching {
			return req, errors.New(never + " was passed on")
		}
	}
	req.id = fields["x-abeja-request-id"][0]
	length, chunks := fields["content-length"], fields["transfer-encoding"]
	if len(length)+len(chunks) > 1 {
		return req, errors.New("two framings")
	}
	switch {
	case len(length) == 1:
		n, err := strconv.ParseUint(length[0], 10, 40)
		if err != nil {
			return req, err
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(br, b); err != nil {
			return req, err
		}
		req.body = string(b)
	case len(chunks) == 1 && chunks[0] == "chunked":
		for {
			l, err := line()
			if err != nil {
				return req, err
			}
			n, err := strconv.ParseUint(l, 16, 32)
			if err != nil {
				return req, err
			}
			if n == 0 {
				break
			}
			b := make([]byte, n+2)
			if _, err := io.ReadFull(br, b); err != nil {
				return req, err
			}
			if string(b[n:]) != "\r\n" {
				return req, errors.New("a chunk is longer than its size")
			}
			req.body += string(b[:n])
		}
		for { // trailers
			l, err := line()
			if err != nil {
				return req, err
			}
			if l == "" {
				return req, nil
			}
			if name, _, ok := strings.Cut(l, ":"); !ok || !token(name) || strings.EqualFold(name, "content-length") || strings.EqualFold(name, "transfer-encoding") {
				return req, fmt.Errorf("trailer %q", l)
			}
		}
	case len(chunks) == 1:
		return req, errors.New("transfer coding " + chunks[0])
	}
	return req, nil
}

func token(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("()<>@,;:\\\"/[]?={}", c) >= 0 {
			return false
		}
	}
	return s != ""
}

const evil = "GET /evil HTTP/1.1\r\nHost: x\r\nX-Abeja-Request-Id: forged\r\n\r\n"

// smuggling is what callers try, and the statuses that they get; the instance never
// sees /evil as a request unless the caller may ask for it openly.
var smuggling = []struct {
	name, raw string
	want      []int // statuses, in order
	paths     string
}{
	{"an honest request", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", []int{200}, "/a"},
	{"honest pipelining", "GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n", []int{200, 200}, "/a /b"},
	{"length and chunks", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", []int{200}, "/a"},
	{"length covers a request behind the chunks", fmt.Sprintf("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", len(evil)+5) + evil, []int{200}, "/a"},
	{"a request behind chunks", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + evil, []int{200}, "/a"},
	{"two lengths", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 60\r\n\r\nabc" + evil, []int{400}, ""},
	{"two lengths in a list", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 60\r\n\r\nabc" + evil, []int{400}, ""},
	{"length with a sign", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc" + evil, []int{400}, ""},
	{"negative length", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: -3\r\n\r\nabc" + evil, []int{400}, ""},
	{"hexadecimal length", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0x3\r\n\r\nabc" + evil, []int{400}, ""},
	{"endless length", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\nabc" + evil, []int{400}, ""},
	{"two codings", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + evil, []int{501}, ""},
	{"a list of codings", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + evil, []int{501}, ""},
	{"an obscured coding", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + evil, []int{501}, ""},
	{"a space before the colon", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + evil, []int{400}, ""},
	{"a vertical tab in the coding", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n" + evil, []int{400, 501}, ""},
	{"a folded coding", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", []int{200}, "/a"},
	{"a folded field", "GET /a HTTP/1.1\r\nHost: x\r\nA: b\r\n Content-Length: 50\r\n\r\n", []int{200}, "/a"},
	{"folding before any field", "GET /a HTTP/1.1\r\n Host: x\r\n\r\n" + evil, []int{400}, ""},
	{"bare LF", "GET /a HTTP/1.1\nHost: x\n\n", []int{200}, "/a"},
	{"bare CR in a value", "GET /a HTTP/1.1\r\nHost: x\r\nA: b\rContent-Length: 50\r\n\r\n" + evil, []int{400}, ""},
	{"NUL in a value", "GET /a HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n" + evil, []int{400}, ""},
	{"NUL in a name", "GET /a HTTP/1.1\r\nHost: x\r\nA\x00: b\r\n\r\n" + evil, []int{400}, ""},
	{"a field without a name", "GET /a HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n" + evil, []int{400}, ""},
	{"a field without a colon", "GET /a HTTP/1.1\r\nHost: x\r\nab\r\n\r\n" + evil, []int{400}, ""},
	{"no host", "GET /a HTTP/1.1\r\n\r\n" + evil, []int{400}, ""},
	{"two hosts", "GET /a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n" + evil, []int{400}, ""},
	{"a host with a space", "GET /a HTTP/1.1\r\nHost: x y\r\n\r\n" + evil, []int{400}, ""},
	{"spaces in the target", "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n" + evil, []int{400}, ""},
	{"another version", "GET /a HTTP/3.7\r\nHost: x\r\n\r\n" + evil, []int{505}, ""},
	{"no version", "GET /a\r\n\r\n" + evil, []int{400}, ""},
	{"a method of separators", "G(T /a HTTP/1.1\r\nHost: x\r\n\r\n" + evil, []int{400}, ""},
	{"a chunk size that is none", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n" + evil, []int{400}, ""},
	{"a negative chunk size", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n" + evil, []int{400}, ""},
	{"a chunk size with 0x", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n" + evil, []int{400}, ""},
	{"a chunk size past 64 bits", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n" + evil, []int{400}, ""},
	{"a chunk longer than its size", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n" + evil, []int{400}, ""},
	{"a bare LF behind a chunk size", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n" + evil, []int{400}, ""},
	{"a bare LF in an extension", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a\nabc\r\n0\r\n\r\n" + evil, []int{400}, ""},
	{"chunks without an end", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", nil, ""},
	{"framing as a trailer", "POST /a HTTP/1.1\r\nHost: x\r\nTrailer: Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 50\r\n\r\n", []int{400}, ""},
	{"an unannounced trailer", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Abeja-Request-Id: forged\r\n\r\n", []int{200}, "/a"},
	{"chunks in HTTP/1.0", "POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + evil, []int{200}, "/a"},
	{"a length hidden by Connection", "POST /a HTTP/1.1\r\nHost: x\r\nConnection: Content-Length\r\nContent-Length: 3\r\n\r\nabc", []int{200}, "/a"},
	{"our fields hidden by Connection", "GET /a HTTP/1.1\r\nHost: x\r\nConnection: X-Abeja-Request-Id, X-Abeja-Requester-Id\r\nX-Abeja-Requester-Id: root\r\n\r\n", []int{200}, "/a"},
	{"our fields forged", "GET /a HTTP/1.1\r\nHost: x\r\nX-Abeja-Request-Id: id-1\r\nX_Abeja_Request_Id: id-2\r\nx-abeja-requester-id: root\r\nX-Panal-Instance-Key: k\r\n\r\n", []int{200}, "/a"},
	{"a line break in the path", "GET /a%0d%0aX: HTTP/1.1\r\nHost: x\r\n\r\n", []int{200}, "/a%0d%0aX:"},
	{"an absolute target", "GET http://other/a HTTP/1.1\r\nHost: x\r\n\r\n", []int{200}, "/a"},
	{"a tunnel", "CONNECT /a HTTP/1.1\r\nHost: x\r\n\r\n", []int{405}, ""},
	{"an upgrade to h2c", "GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n", []int{200}, "/a"},
	{"a request in a body", fmt.Sprintf("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(evil), evil), []int{200}, "/a"},
	{"a body on GET", fmt.Sprintf("GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(evil), evil), []int{200}, "/a"},
	{"a body on HEAD", fmt.Sprintf("HEAD /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(evil), evil), []int{200}, "/a"},
	{"pipelined garbage", "GET /a HTTP/1.1\r\nHost: x\r\n\r\n\x00\x01\x02\xff\r\n\r\n" + evil, []int{200, 400}, "/a"},
	{"a TLS hello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 50) + "\r\n\r\n", []int{400}, ""},
	{"half of an HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + evil, nil, ""},
	{"headers without end", "GET /a HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 400), []int{431}, ""},
	{"one endless header", "GET /a HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("b", 400_000), []int{431}, ""},
	{"an endless request line", "GET /" + strings.Repeat("a", 400_000), []int{431}, ""},
}

// TestSmuggling: what can be read in two ways is refused or, where the standard says
// how to read it, passed on in one that can't be misread. A request behind one that
// was refused is never taken for one.
func TestSmuggling(t *testing.T) {
	for _, c := range smuggling {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			e := startEdge(t, 100, 100)
			answer := e.send(t, []byte(c.raw), 500*time.Millisecond)
			var got []int
			for _, line := range strings.Split(answer, "HTTP/1.")[1:] {
				if f := strings.Fields(line); len(f) > 1 {
					if n, err := strconv.Atoi(f[1]); err == nil && n >= 200 {
						got = append(got, n)
					}
				}
			}
			switch {
			case c.name == "a vertical tab in the coding": // either word for it will do
				if len(got) != 1 || got[0] != c.want[0] && got[0] != c.want[1] {
					t.Errorf("statuses %v, want one of %v", got, c.want)
				}
			case c.want == nil: // it began well: cut, or refused, but never well
				for _, n := range got {
					if n < 400 {
						t.Errorf("statuses %v in %q", got, answer)
					}
				}
			case fmt.Sprint(got) != fmt.Sprint(c.want):
				t.Errorf("statuses %v, want %v: %.300q", got, c.want, answer)
			}
			for _, b := range e.settle(t) {
				t.Errorf("the instance: %s", b)
			}
			var paths []string
			for _, r := range e.instance.got {
				paths = append(paths, strings.Fields(r.line)[1])
			}
			if s := strings.Join(paths, " "); s != c.paths {
				t.Errorf("the instance saw %q, want %q", s, c.paths)
			}
		})
	}
}

// FuzzGateway: whatever bytes come in, the instance gets requests that are well
// formed, each made by the gateway for one of the caller's, with the body that
// the gateway read, and never one that was cut.
func FuzzGateway(f *testing.F) {
	for _, c := range smuggling {
		if len(c.raw) < 4096 {
			f.Add([]byte(c.raw))
		}
	}
	e := startEdge(f, 1000, 1000)
	f.Fuzz(func(t *testing.T, raw []byte) {
		e.send(t, raw, 15*time.Millisecond)
		for _, b := range e.settleOne(t, -1) {
			t.Errorf("the instance: %s", b)
		}
	})
}

// settleOne is settle for one of many inputs: it forgets what was seen. most bounds the
// requests that the instance may have got, unless it is negative.
func (e *edge) settleOne(t testing.TB, most int) []string {
	t.Helper()
	bad := e.settle(t)
	e.instance.mu.Lock()
	defer e.instance.mu.Unlock()
	if n := len(e.instance.got); most >= 0 && n > most {
		bad = append(bad, fmt.Sprintf("%d requests, want at most %d", n, most))
	}
	e.instance.got, e.instance.broken = nil, nil
	e.mu.Lock()
	defer e.mu.Unlock()
	for id := range e.bodies { // the instance may still read what came last
		if n, err := strconv.ParseInt(id[len("id-"):], 10, 64); err == nil && n < e.ids.Load()-1000 {
			delete(e.bodies, id)
		}
	}
	return bad
}

// TestDoor: connections over either limit are told so and leave nothing behind; an
// address at its limit takes nothing from another.
func TestDoor(t *testing.T) {
	e := startEdge(t, 12, 5)
	from := func(ip string) (net.Conn, string) {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: 5 * time.Second}
		c, err := d.DialContext(t.Context(), "tcp", e.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(300 * time.Millisecond))
		b, err := io.ReadAll(c)
		if errors.Is(err, context.DeadlineExceeded) || err != nil && len(b) == 0 {
			return c, "" // it is let in, and waits for our request
		}
		return nil, string(b)
	}
	var open []net.Conn
	for i := range 5 {
		c, refused := from("127.0.0.2")
		if c == nil {
			t.Fatalf("connection %d: %s", i, refused)
		}
		open = append(open, c)
	}
	if _, refused := from("127.0.0.2"); !strings.HasPrefix(refused, "HTTP/1.1 503 ") || !strings.Contains(refused, "Retry-After: ") || !strings.Contains(refused, "--max-connections-per-address") {
		t.Errorf("one too many of an address: %q", refused)
	}
	for i := range 7 {
		c, refused := from(fmt.Sprintf("127.0.0.%d", 3+i%2))
		if c == nil {
			t.Fatalf("connection %d of another address: %s", i, refused)
		}
		open = append(open, c)
	}
	if _, refused := from("127.0.0.9"); !strings.HasPrefix(refused, "HTTP/1.1 503 ") || !strings.Contains(refused, "(--max-connections)") {
		t.Errorf("one too many in all: %q", refused)
	}
	for _, c := range open {
		_ = c.Close()
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		e.door.mu.Lock()
		n := len(e.door.byAddr)
		e.door.mu.Unlock()
		if n == 0 && e.door.open.Load() == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections of %d addresses are still counted", e.door.open.Load(), n)
		}
	}
	if a := e.send(t, []byte("GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), time.Second); !strings.HasPrefix(a, "HTTP/1.1 200 ") {
		t.Errorf("after all that: %q", a)
	}
}

// TestDoorCountsByAddress: what one caller has to itself is one address, and proxies
// that are trusted are none.
func TestDoorCountsByAddress(t *testing.T) {
	d := newDoor(100, 1, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, prometheus.NewRegistry())
	for _, c := range []struct {
		first, second string
		let           bool
	}{
		{"192.0.2.1", "192.0.2.1", false},
		{"192.0.2.2", "::ffff:192.0.2.2", false},
		{"192.0.2.3", "192.0.2.4", true},
		{"2001:db8::1", "2001:db8::ffff:1", false},
		{"2001:db8:0:1::1", "2001:db8:0:2::1", true},
		{"10.1.2.3", "10.1.2.3", true},
	} {
		enter := func(ip string) (netip.Prefix, string) { return d.enter(&net.TCPAddr{IP: net.ParseIP(ip), Port: 1}) }
		a, over := enter(c.first)
		if over != "" {
			t.Fatalf("%s: %s", c.first, over)
		}
		b, over := enter(c.second)
		if (over == "") != c.let {
			t.Errorf("%s beside %s: %q", c.second, c.first, over)
		}
		d.leave(a)
		if over == "" {
			d.leave(b)
		}
		if d.open.Load() != 0 || len(d.byAddr) != 0 {
			t.Fatalf("%d connections, %v are still counted", d.open.Load(), d.byAddr)
		}
	}
}

// TestFloods: what a hostile client may do on HTTP/2 ends its connection or is
// refused; nothing of it stays, and another client is served meanwhile.
func TestFloods(t *testing.T) {
	e := startEdge(t, 100, 100)
	var block bytes.Buffer
	var path string // of the case
	enc := hpack.NewEncoder(&block)
	fields := func(extra ...hpack.HeaderField) []byte {
		block.Reset()
		for _, f := range append([]hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "x"}, {Name: ":path", Value: path}}, extra...) {
			if err := enc.WriteField(f); err != nil {
				t.Fatal(err)
			}
		}
		return bytes.Clone(block.Bytes())
	}
	before, heap := runtime.NumGoroutine(), heapNow()
	for _, c := range []struct {
		name  string
		flood func(w *http2.Framer) error // until the server has had enough
		ends  bool                        // the connection is ended
		seen  int                         // most requests that the instance may get
	}{
		{"rapid reset", func(w *http2.Framer) error {
			for id := uint32(1); id < 40_000; id += 2 {
				if err := w.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: fields(), EndHeaders: true, EndStream: true}); err != nil {
					return err
				}
				if err := w.WriteRSTStream(id, http2.ErrCodeCancel); err != nil {
					return err
				}
			}
			return nil
		}, false, 20_000},
		{"continuations without end", func(w *http2.Framer) error {
			if err := w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: fields()}); err != nil {
				return err
			}
			filler := fields(hpack.HeaderField{Name: "a", Value: strings.Repeat("b", 10_000), Sensitive: true})[4:]
			for range 10_000 {
				if err := w.WriteContinuation(1, false, filler); err != nil {
					return err
				}
			}
			return nil
		}, true, 0},
		{"a huge header list", func(w *http2.Framer) error {
			// One indexed field, named again and again: some bytes on the wire, megabytes as headers.
			big := fields(hpack.HeaderField{Name: "a", Value: strings.Repeat("b", 3000)})
			big = append(big, bytes.Repeat([]byte{0x80 | 62}, 16_000-len(big)%16_000)...)
			return w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: big[:min(len(big), 16<<10)], EndHeaders: true, EndStream: true})
		}, false, 0},
		{"settings", func(w *http2.Framer) error {
			for range 3_000_000 {
				if err := w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 65535}); err != nil {
					return err
				}
			}
			return nil
		}, true, 0},
		{"pings", func(w *http2.Framer) error {
			for range 3_000_000 {
				if err := w.WritePing(false, [8]byte{}); err != nil {
					return err
				}
			}
			return nil
		}, true, 0},
		{"a frame that is too long", func(w *http2.Framer) error {
			w.AllowIllegalWrites = true
			return w.WriteRawFrame(http2.FrameHeaders, 0, 1, make([]byte, 1<<20))
		}, true, 0},
		{"a frame of a stream that is not open", func(w *http2.Framer) error {
			return w.WriteData(7, true, []byte("x"))
		}, true, 0},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			conn, err := net.Dial("tcp", e.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			_ = conn.(*net.TCPConn).SetReadBuffer(4096) // what it does not read piles up at the server
			if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
				t.Fatal(err)
			}
			out := bufio.NewWriterSize(conn, 64<<10)
			w := http2.NewFramer(out, conn)
			if err := w.WriteSettings(); err != nil {
				t.Fatal(err)
			}
			enc, path = hpack.NewEncoder(&block), "/"+strings.ReplaceAll(c.name, " ", "-") // the encoder's table belongs to the connection
			if err = c.flood(w); err == nil {
				err = out.Flush()
			}
			ended := err != nil // or the server takes no more than it has answered: as good
			if n := heapNow() - heap; n > 32<<20 {
				t.Errorf("the heap grew by %d KiB", n>>10)
			}
			if !ended && c.ends {
				_, err := io.Copy(io.Discard, conn)
				ended = err == nil || isReset(err)
			}
			if c.ends && !ended {
				t.Errorf("the connection goes on")
			}
			if a := e.send(t, []byte("GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), 5*time.Second); !strings.HasPrefix(a, "HTTP/1.1 200 ") {
				t.Errorf("another client meanwhile: %q", a)
			}
			_ = conn.Close()
			for _, b := range e.settle(t) {
				if !strings.Contains(b, "EOF") {
					t.Errorf("the instance: %s", b)
				}
			}
			e.instance.mu.Lock()
			n := 0
			for _, r := range e.instance.got {
				if strings.Contains(r.line, path+" ") {
					n++
				}
			}
			e.instance.mu.Unlock()
			if n > c.seen {
				t.Errorf("the instance got %d requests, want at most %d", n, c.seen)
			}
			t.Logf("%d requests reached the instance; the flood ended with %v", n, err)
		})
	}
	for end := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > before+20; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

// TestSlowClients: nothing that trickles, or stands open, stays for good, and none of
// it reaches the instance.
func TestSlowClients(t *testing.T) {
	e := startEdge(t, 300, 300)
	before := runtime.NumGoroutine()
	heap := heapNow()
	stop := make(chan struct{})
	var all sync.WaitGroup
	var ended atomic.Int64
	trickle := func(head, piece string) {
		all.Go(func() {
			c, err := net.Dial("tcp", e.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			over := make(chan struct{})
			go func() { _, _ = io.Copy(io.Discard, c); close(over) }()
			_, _ = io.WriteString(c, head)
			tick := time.NewTicker(500 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-over:
					ended.Add(1)
					return
				case <-stop:
					return
				case <-tick.C:
					_, _ = io.WriteString(c, piece) // an error shows as over
				}
			}
		})
	}
	const each = 40
	for range each {
		trickle("", "")                                                                 // connected, and silent
		trickle("GET /slow HTTP/1.1\r\nHost: x\r\n", "A: b\r\n")                        // headers without end
		trickle("POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 30000\r\n\r\n", "a") // a body of a byte at a time
		trickle("POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 30000\r\n\r\n", "")  // a body that never comes
		trickle("POST /slow HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "")
	}
	for end := time.Now().Add(40 * time.Second); ended.Load() < 5*each; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%d of %d connections were ended", ended.Load(), 5*each)
			break
		}
	}
	close(stop)
	all.Wait()
	for _, b := range e.settle(t) {
		t.Errorf("the instance: %s", b)
	}
	if n := len(e.instance.got); n > 0 {
		t.Errorf("the instance got %d requests that never were whole", n)
	}
	for end := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > before+5; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
	if grown := heapNow() - heap; grown > 16<<20 {
		t.Errorf("the heap grew by %d KiB", grown>>10)
	}
}

// heapNow is what is alive.
func heapNow() int64 {
	var mem runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&mem)
	return int64(mem.HeapAlloc)
}

// TestSlowCallerIsNoDeadOne: one that reads slowly but steadily gets its answer, however small
// a part of the kernel's buffer that is within the patience for one that takes nothing.
func TestSlowCallerIsNoDeadOne(t *testing.T) {
	const patience, pieces = time.Second, 96 // 6 MiB: more than the kernel takes at once
	h := hold(t)
	_, end := h.serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		piece, rc := make([]byte, 64<<10), http.NewResponseController(w)
		w.Header().Set("Content-Length", strconv.Itoa(pieces*len(piece)))
		for n := range pieces {
			_ = rc.SetWriteDeadline(time.Now().Add(patience))
			if _, err := w.Write(piece); err != nil {
				t.Errorf("%d pieces were not sent: %v", pieces-n, err)
				return
			}
		}
	}), nil, func(_, _ string) bool { return true })
	defer end()
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "GET /deployments/1/default HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10) // every 80 ms: 800 KiB a second, while a third of the buffer is 1.3 MiB
	for range pieces {
		if n, err := io.ReadFull(c, buf); err != nil {
			t.Errorf("the answer ends with %d bytes and %v", n, err)
			return
		}
		time.Sleep(80 * time.Millisecond)
	}
}
