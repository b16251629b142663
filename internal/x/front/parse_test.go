// SPDX-License-Identifier: Apache-2.0

package front

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func everything(_, _ string) bool { return true }

// readings are what TestParse and FuzzParse begin with.
var readings = []struct {
	name, raw string
	want      verdict
}{
	{"a call", "POST /deployments/1/default HTTP/1.1\r\nHost: x:1\r\nContent-Length: 3\r\n\r\nabc", ordinary},
	{"one without a body", "GET /a?b=%20 HTTP/1.1\r\nHost: x\r\n\r\n", ordinary},
	{"escapes in the path", "GET /a%2Fb/%41 HTTP/1.1\r\nHost: x\r\n\r\n", ordinary},
	{"doubled slashes", "GET //a//b HTTP/1.1\r\nHost: x\r\n\r\n", ordinary},
	{"an empty value", "GET /a HTTP/1.1\r\nHost: x\r\nA:\r\nB: \t \r\n\r\n", ordinary},
	{"names that want another case", "GET /a HTTP/1.1\r\nhOST: x\r\nx-my-own: 1\r\nX-MY-OWN: 2\r\n\r\n", ordinary},
	{"keep-alive", "GET /a HTTP/1.1\r\nHost: x\r\nConnection: Keep-Alive\r\n\r\n", ordinary},
	{"two requests", "GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n", ordinary},
	{"length 0", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", ordinary},
	{"length with zeros in front", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 00003\r\n\r\nabc", ordinary},
	{"a query alone", "GET /? HTTP/1.1\r\nHost: x\r\n\r\n", ordinary},

	{"nothing", "", incomplete},
	{"half a line", "GET /a HT", incomplete},
	{"half a head", "GET /a HTTP/1.1\r\nHost: x\r\n", incomplete},

	{"bare LF, half a head", "GET /a HTTP/1.1\nHost: x\n\n", other},
	{"bare LF", "GET /a HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", other},
	{"bare LF at the end", "GET /a HTTP/1.1\r\nHost: x\r\nA: b\n\r\n\r\n", other},
	{"bare CR", "GET /a HTTP/1.1\r\nHost: x\r\nA: b\rC: d\r\n\r\n", other},
	{"an empty line first", "\r\nGET /a HTTP/1.1\r\nHost: x\r\n\r\n", other},
	{"folding", "GET /a HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", other},
	{"folding before any field", "GET /a HTTP/1.1\r\n Host: x\r\n\r\n", other},
	{"a space before the colon", "GET /a HTTP/1.1\r\nHost: x\r\nContent-Length : 3\r\n\r\nabc", other},
	{"no colon", "GET /a HTTP/1.1\r\nHost: x\r\nab\r\n\r\n", other},
	{"no name", "GET /a HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n", other},
	{"NUL", "GET /a HTTP/1.1\r\nHost: x\r\nA: b\x00\r\n\r\n", other},
	{"bytes beyond ASCII", "GET /a HTTP/1.1\r\nHost: x\r\nA: \xff\r\n\r\n", other},
	{"chunks", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", other},
	{"chunks and length", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", other},
	{"two lengths", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", other},
	{"a length twice", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\ncontent-length: 3\r\n\r\nabc", other},
	{"a list of lengths", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 3\r\n\r\nabc", other},
	{"length with a sign", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc", other},
	{"no length", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\nabc", other},
	{"a long body", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 32769\r\n\r\n", other},
	{"no host", "GET /a HTTP/1.1\r\n\r\n", other},
	{"two hosts", "GET /a HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", other},
	{"an empty host", "GET /a HTTP/1.1\r\nHost:\r\n\r\n", other},
	{"a host with a path", "GET /a HTTP/1.1\r\nHost: x/y\r\n\r\n", other},
	{"absolute form", "GET http://x/a HTTP/1.1\r\nHost: x\r\n\r\n", other},
	{"asterisk form", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", other},
	{"a fragment", "GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", other},
	{"a broken escape", "GET /a%zz HTTP/1.1\r\nHost: x\r\n\r\n", other},
	{"a tab in the line", "GET\t/a HTTP/1.1\r\nHost: x\r\n\r\n", other},
	{"two spaces", "GET  /a HTTP/1.1\r\nHost: x\r\n\r\n", other},
	{"HTTP/1.0", "GET /a HTTP/1.0\r\nHost: x\r\n\r\n", other},
	{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", other},
	{"an unknown method", "BREW /a HTTP/1.1\r\nHost: x\r\n\r\n", other},
	{"CONNECT", "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", other},
	{"close", "GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", other},
	{"a field of the connection", "GET /a HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, a\r\nA: b\r\n\r\n", other},
	{"an upgrade", "GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", other},
	{"an expectation", "POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n", other},
	{"trailers", "GET /a HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n", other},
	{"TLS", "\x16\x03\x01\x02\x00\x01", other},
	{"many fields", "GET /a HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", maxFields) + "\r\n", other},
}

func TestParse(t *testing.T) {
	for _, c := range readings {
		t.Run(c.name, func(t *testing.T) {
			var h head
			v, size := parse([]byte(c.raw), everything, &h)
			if v != c.want {
				t.Fatalf("verdict %d, want %d", v, c.want)
			}
			if v == ordinary && !strings.HasSuffix(c.raw[:size], "\r\n\r\n") {
				t.Errorf("the head is %q", c.raw[:size])
			}
			for n := range len(c.raw) { // what comes in pieces is read as what comes at once
				var h head
				v, some := parse([]byte(c.raw[:n]), everything, &h)
				if v == ordinary && (c.want != ordinary || some != size) || v == other && c.want == ordinary {
					t.Fatalf("after %d bytes the verdict is %d, %d bytes", n, v, some)
				}
			}
		})
	}
	if v, _ := parse([]byte("GET /b HTTP/1.1\r\nHost: x\r\n\r\n"), func(_, target string) bool { return target == "/a" }, new(head)); v != other {
		t.Errorf("a target that the loop does not take: verdict %d", v)
	}
}

// reading is one request as somebody read it.
type reading struct {
	Method, Target, Path, RawPath, Query, Host, Body string
	Header                                           http.Header
	Length                                           int64
	ForceQuery, Whole                                bool
}

func readingOf(r *http.Request) reading {
	b, err := io.ReadAll(r.Body)
	return reading{
		Method: r.Method, Target: r.RequestURI, Path: r.URL.Path, RawPath: r.URL.RawPath, Query: r.URL.RawQuery, Host: r.Host, Body: string(b),
		Header: r.Header, Length: r.ContentLength, ForceQuery: r.URL.ForceQuery, Whole: err == nil,
	}
}

// FuzzParse: whatever the loop takes for a request, net/http's server takes for the same
// one, body and all, and for the next one what is behind it.
func FuzzParse(f *testing.F) {
	for _, c := range readings {
		f.Add([]byte(c.raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > bufSize {
			return
		}
		ours := readLoop(raw)
		if len(ours) == 0 {
			return
		}
		if theirs := readServer(t, raw, len(ours)); !cmp.Equal(ours, theirs) {
			t.Fatalf("%q\n%s", raw, cmp.Diff(ours, theirs))
		}
	})
}

// readLoop reads as the loop does, until something is not ordinary or not whole.
func readLoop(raw []byte) (got []reading) {
	for {
		var h head
		v, size := parse(raw, everything, &h)
		if v != ordinary {
			return got
		}
		r := reading{
			Method: h.method, Target: h.target, Path: h.url.Path, RawPath: h.url.RawPath, Query: h.url.RawQuery, Host: h.host,
			Header: h.header, Length: int64(h.length), ForceQuery: h.url.ForceQuery,
		}
		raw = raw[size:]
		n := min(h.length, len(raw))
		r.Body, r.Whole = string(raw[:n]), n == h.length
		raw = raw[n:]
		got = append(got, r)
		if !r.Whole {
			return got
		}
	}
}

// readServer has net/http's server read the bytes, and returns at most n requests.
func readServer(t *testing.T, raw []byte, n int) (got []reading) {
	synctest.Test(t, func(t *testing.T) {
		theirs, mine := net.Pipe()
		l := &overflow{conns: make(chan net.Conn, 1), done: make(chan struct{}), addr: theirs.LocalAddr()}
		l.conns <- theirs
		s := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if len(got) < n {
				got = append(got, readingOf(r))
			}
		}), ReadHeaderTimeout: time.Second}
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(l) }()
		go func() { _, _ = io.Copy(io.Discard, mine) }()
		_, _ = io.Copy(mine, bytes.NewReader(raw)) // the server may stop reading
		synctest.Wait()
		_ = mine.Close()
		synctest.Wait()
		_ = s.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return got
}

// TestReadAsNetHTTP holds FuzzParse's promise for the table, also in ordinary tests.
func TestReadAsNetHTTP(t *testing.T) {
	for _, c := range readings {
		ours := readLoop([]byte(c.raw))
		if c.want == ordinary && len(ours) == 0 {
			t.Errorf("%s: not read", c.name)
		}
		if theirs := readServer(t, []byte(c.raw), len(ours)); !cmp.Equal(ours, theirs) {
			t.Errorf("%s:\n%s", c.name, cmp.Diff(ours, theirs))
		}
		if c.want != ordinary {
			continue
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(c.raw)))
		if err != nil || r.Close {
			t.Errorf("%s: net/http reads %+v, %v", c.name, r, err)
		}
	}
}
