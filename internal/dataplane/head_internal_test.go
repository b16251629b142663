// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var answerHeads = []struct {
	name, raw string
	ordinary  bool
}{
	{"an answer", "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhellonext", true},
	{"without a body", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", true},
	{"without a reason", "HTTP/1.1 299 \r\nContent-Length: 1\r\n\r\nx", true},
	{"names in any case", "HTTP/1.1 200 OK\r\ncontent-LENGTH: 1\r\nx-my-own: 1\r\n\r\nx", true},
	{"what is not for the caller", "HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nX-Panal-A: b\r\nX-Abeja-Request-Id: c\r\nKeep-Alive: d\r\nProxy-A: e\r\nContent-Length: 1\r\n\r\nx", true},
	{"an empty value", "HTTP/1.1 200 OK\r\nA: \t\r\nContent-Length: 1\r\n\r\nx", true},
	{"a body that is cut", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx", true},

	{"nothing", "", false},
	{"half a head", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", false},
	{"no length", "HTTP/1.1 200 OK\r\n\r\nuntil the end", false},
	{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", false},
	{"chunks and length", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", false},
	{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy", false},
	{"a length with a sign", "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx", false},
	{"a list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\nx", false},
	{"a field twice", "HTTP/1.1 200 OK\r\nA: 1\r\na: 2\r\nContent-Length: 1\r\n\r\nx", false},
	{"an interim answer", "HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", false},
	{"a switch", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: a\r\nContent-Length: 0\r\n\r\n", false},
	{"no content", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", false},
	{"not modified", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false},
	{"the connection's end", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", false},
	{"HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", false},
	{"trailers", "HTTP/1.1 200 OK\r\nTrailer: A\r\nContent-Length: 1\r\n\r\nx", false},
	{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\nx", false},
	{"folding", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 1\r\n\r\nx", false},
	{"a space before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\nx", false},
	{"NUL", "HTTP/1.1 200 OK\r\nA: \x00\r\nContent-Length: 1\r\n\r\nx", false},
	{"a status that is none", "HTTP/1.1 +20 OK\r\nContent-Length: 1\r\n\r\nx", false},
	{"unhandled", "HTTP/1.1 503 Service Unavailable\r\nX-Panal-Unhandled: 1\r\nContent-Length: 1\r\n\r\nx", false},
	{"many fields", "HTTP/1.1 200 OK\r\n" + manyFields(maxOrdinaryFields) + "Content-Length: 1\r\n\r\nx", false},
}

func manyFields(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("A" + strconv.Itoa(i) + ": b\r\n")
	}
	return b.String()
}

func TestReadOrdinary(t *testing.T) {
	for _, c := range answerHeads {
		t.Run(c.name, func(t *testing.T) {
			if was := asNetHTTP(t, []byte(c.raw)); was != c.ordinary {
				t.Errorf("ordinary: %v", was)
			}
		})
	}
	br := bufio.NewReader(strings.NewReader(answerHeads[0].raw))
	if readOrdinary(br, http.MethodHead, http.Header{}) != nil {
		t.Error("an answer to HEAD has a body")
	}
}

// asNetHTTP holds readOrdinary to what http.ReadResponse makes of the same bytes, and
// tells whether it took them. What it does not take it leaves as it was.
func asNetHTTP(t *testing.T, raw []byte) bool {
	type reading struct {
		Status      int
		Header      http.Header
		Body, Rest  string
		Whole, Last bool
	}
	of := func(resp *http.Response, h http.Header, br *bufio.Reader) reading {
		b, err := io.ReadAll(resp.Body)
		rest, rerr := io.ReadAll(br)
		if rerr != nil {
			t.Fatal(rerr)
		}
		return reading{resp.StatusCode, h, string(b), string(rest), err == nil, resp.Close}
	}
	br, h := bufio.NewReaderSize(bytes.NewReader(raw), 4096), http.Header{}
	ours := readOrdinary(br, http.MethodPost, h)
	if ours == nil {
		if left, err := io.ReadAll(br); err != nil || !bytes.Equal(left, raw) || len(h) > 0 {
			t.Fatalf("%q: refused, and %d of %d bytes and %v are left", raw, len(left), len(raw), h)
		}
		return false
	}
	got := of(ours, h, br)
	br = bufio.NewReaderSize(bytes.NewReader(raw), 4096)
	theirs, err := http.ReadResponse(br, &http.Request{Method: http.MethodPost})
	if err != nil {
		t.Fatalf("%q: net/http says %v", raw, err)
	}
	h = http.Header{}
	copyHeaders(h, theirs)
	if want := of(theirs, h, br); !cmp.Equal(got, want) {
		t.Fatalf("%q\n%s", raw, cmp.Diff(want, got))
	}
	return true
}

// FuzzReadOrdinary: an answer that is read without net/http is read as net/http would.
func FuzzReadOrdinary(f *testing.F) {
	for _, c := range answerHeads {
		f.Add([]byte(c.raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) { asNetHTTP(t, raw) })
}
