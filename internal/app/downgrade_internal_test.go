// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2Request is a request as a hostile client of HTTP/2 writes it: fields that no
// library would send, in any order.
type h2Request struct {
	fields   []hpack.HeaderField
	body     string
	trailers []hpack.HeaderField
}

// h2 sends the request on a connection of its own and returns the status, or how it
// was refused: "reset", "goaway" or "silence".
func (e *edge) h2(t testing.TB, q h2Request, patience time.Duration) string {
	t.Helper()
	conn, err := net.Dial("tcp", e.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	w := http2.NewFramer(conn, conn)
	w.AllowIllegalWrites, w.AllowIllegalReads = true, true
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	encode := func(fields []hpack.HeaderField) []byte {
		block.Reset()
		for _, f := range fields {
			_ = enc.WriteField(f) // into a buffer
		}
		return bytes.Clone(block.Bytes())
	}
	// An error of a write shows in what is read.
	_ = w.WriteSettings()
	_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(q.fields), EndHeaders: true, EndStream: q.body == "" && q.trailers == nil})
	if q.body != "" {
		_ = w.WriteData(1, q.trailers == nil, []byte(q.body))
	}
	if q.trailers != nil {
		_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(q.trailers), EndHeaders: true, EndStream: true})
	}
	dec := hpack.NewDecoder(4096, nil)
	for {
		f, err := w.ReadFrame()
		if err != nil {
			return "silence"
		}
		switch f := f.(type) {
		case *http2.HeadersFrame:
			fields, err := dec.DecodeFull(f.HeaderBlockFragment())
			if err != nil {
				t.Errorf("the answer's header: %v", err)
			}
			for _, h := range fields {
				if h.Name == ":status" {
					return h.Value
				}
			}
		case *http2.RSTStreamFrame:
			return "reset"
		case *http2.GoAwayFrame:
			return "goaway"
		}
	}
}

func field(name, value string) hpack.HeaderField { return hpack.HeaderField{Name: name, Value: value} }

// ask is an honest request with the changes of a case: a field replaces that of its
// name when that is a pseudo-header's, else it is added.
func ask(method, path string, more ...hpack.HeaderField) []hpack.HeaderField {
	all := []hpack.HeaderField{field(":method", method), field(":scheme", "http"), field(":authority", "x"), field(":path", path)}
	return append(all, more...)
}

// TestDowngrade: HTTP/2 carries what HTTP/1.1 can't, and the instance speaks HTTP/1.1.
// Nothing of it becomes a second request, another framing or another field.
func TestDowngrade(t *testing.T) {
	long := strings.Repeat("b", 3000)
	var huge []hpack.HeaderField // some bytes on the wire: the table's one entry again and again
	for range 4000 {
		huge = append(huge, field("a", long))
	}
	for _, c := range []struct {
		name  string
		q     h2Request
		want  string // statuses or refusals, one of these
		paths string // what the instance sees
	}{
		{name: "honest", q: h2Request{fields: ask("POST", "/a"), body: "abc"}, want: "200", paths: "/a"},
		{name: "honest, with a length", q: h2Request{fields: ask("POST", "/a", field("content-length", "3")), body: "abc"}, want: "200", paths: "/a"},
		// Whole with its head, it may be answered before what follows is read, which is dropped.
		{name: "a length that is too short", q: h2Request{fields: ask("POST", "/a", field("content-length", "0")), body: evil}, want: "reset 400 200", paths: "/a"},
		{name: "a length that is too short by some", q: h2Request{fields: ask("POST", "/a", field("content-length", "3")), body: "abc" + evil}, want: "reset 400"},
		{name: "a length that is too long", q: h2Request{fields: ask("POST", "/a", field("content-length", "300")), body: "abc"}, want: "reset 400 silence"},
		{name: "a length that is none", q: h2Request{fields: ask("POST", "/a", field("content-length", "3, 4")), body: "abc"}, want: "200 400 reset", paths: "/a"},
		{name: "a coding", q: h2Request{fields: ask("POST", "/a", field("transfer-encoding", "chunked")), body: "0\r\n\r\n" + evil}, want: "400 reset"},
		{name: "connection", q: h2Request{fields: ask("GET", "/a", field("connection", "x-abeja-request-id"))}, want: "400 reset"},
		{name: "upgrade", q: h2Request{fields: ask("GET", "/a", field("upgrade", "websocket"))}, want: "400 reset"},
		{name: "a line break in a value", q: h2Request{fields: ask("GET", "/a", field("a", "b\r\nTransfer-Encoding: chunked"))}, want: "400 reset"},
		{name: "LF in a value", q: h2Request{fields: ask("GET", "/a", field("a", "b\nX-Panal: 1"))}, want: "400 reset"},
		{name: "NUL in a value", q: h2Request{fields: ask("GET", "/a", field("a", "b\x00"))}, want: "400 reset"},
		{name: "a line break in a name", q: h2Request{fields: ask("GET", "/a", field("a: b\r\nc", "d"))}, want: "400 reset"},
		{name: "a colon in a name", q: h2Request{fields: ask("GET", "/a", field("transfer-encoding:", "chunked"))}, want: "400 reset"},
		{name: "a name in capitals", q: h2Request{fields: ask("GET", "/a", field("Transfer-Encoding", "chunked"))}, want: "400 reset"},
		{name: "a space in a name", q: h2Request{fields: ask("GET", "/a", field("transfer-encoding ", "chunked"))}, want: "400 reset"},
		{name: "a request in the path", q: h2Request{fields: ask("GET", "/a HTTP/1.1\r\nHost: x\r\n\r\nGET /evil")}, want: "400 reset"},
		{name: "a space in the path", q: h2Request{fields: ask("GET", "/a b")}, want: "200 400 reset", paths: "/a%20b"},
		{name: "a fragment in the path", q: h2Request{fields: ask("GET", "/a#b")}, want: "200 400 reset", paths: "/a%23b"},
		{name: "a query of spaces", q: h2Request{fields: ask("GET", "/a?b c\td")}, want: "200 400 reset", paths: "/a?b%20c%09d"},
		{name: "no slash", q: h2Request{fields: ask("GET", "a")}, want: "400 reset 404"},
		{name: "no path", q: h2Request{fields: ask("GET", "")}, want: "400 reset 404"},
		{name: "a star", q: h2Request{fields: ask("OPTIONS", "*")}, want: "400 reset 404 200"},
		{name: "a request in the method", q: h2Request{fields: ask("GET /evil HTTP/1.1\r\n\r\nGET", "/a")}, want: "400 reset"},
		{name: "a space in the method", q: h2Request{fields: ask("GET /evil", "/a")}, want: "400 reset"},
		{name: "no method", q: h2Request{fields: ask("", "/a")}, want: "400 reset"},
		{name: "a line break in the authority", q: h2Request{fields: []hpack.HeaderField{field(":method", "GET"), field(":scheme", "http"), field(":authority", "x\r\nA: b"), field(":path", "/a")}}, want: "400 reset"},
		{name: "a space in the authority", q: h2Request{fields: []hpack.HeaderField{field(":method", "GET"), field(":scheme", "http"), field(":authority", "x GET /evil"), field(":path", "/a")}}, want: "200 400 reset", paths: "/a"},
		{name: "two paths", q: h2Request{fields: ask("GET", "/a", field(":path", "/evil"))}, want: "400 reset"},
		{name: "a pseudo-header behind others", q: h2Request{fields: []hpack.HeaderField{field("a", "b"), field(":method", "GET"), field(":scheme", "http"), field(":path", "/a")}}, want: "400 reset"},
		{name: "an unknown pseudo-header", q: h2Request{fields: ask("GET", "/a", field(":evil", "1"))}, want: "400 reset"},
		{name: "another host", q: h2Request{fields: ask("GET", "/a", field("host", "evil"))}, want: "200 400 reset", paths: "/a"},
		{name: "our fields forged", q: h2Request{fields: ask("GET", "/a", field("x-abeja-request-id", "id-1"), field("x_abeja_requester_id", "root"))}, want: "200", paths: "/a"},
		{name: "framing as a trailer", q: h2Request{fields: ask("POST", "/a", field("trailer", "content-length, transfer-encoding")), body: "abc", trailers: []hpack.HeaderField{field("content-length", "50"), field("transfer-encoding", "chunked")}}, want: "200 400 reset", paths: "/a"},
		{name: "a line break in a trailer", q: h2Request{fields: ask("POST", "/a", field("trailer", "a")), body: "abc", trailers: []hpack.HeaderField{field("a", "b\r\n\r\n"+evil)}}, want: "200 400 reset", paths: "/a"},
		{name: "a pseudo-header as a trailer", q: h2Request{fields: ask("POST", "/a"), body: "abc", trailers: []hpack.HeaderField{field(":path", "/evil")}}, want: "400 reset"},
		{name: "a tunnel", q: h2Request{fields: []hpack.HeaderField{field(":method", "CONNECT"), field(":authority", "x:80")}}, want: "404 405"},
		{name: "a huge header list", q: h2Request{fields: ask("GET", "/a", huge...)}, want: "431"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			e := startEdge(t, 100, 100)
			got := e.h2(t, c.q, 3*time.Second)
			if !strings.Contains(" "+c.want+" ", " "+got+" ") {
				t.Errorf("answer %s, want one of %s", got, c.want)
			}
			for _, b := range e.settle(t) {
				t.Errorf("the instance: %s", b)
			}
			e.instance.mu.Lock()
			defer e.instance.mu.Unlock()
			for _, r := range e.instance.got {
				if target := strings.Fields(r.line)[1]; target != c.paths {
					t.Errorf("the instance saw %s, want %q", target, c.paths)
				}
			}
			if n := len(e.instance.got); n > 1 || got == "200" && n != 1 && c.paths != "" {
				t.Errorf("the instance saw %d requests", n)
			}
		})
	}
}

// FuzzDowngrade: whatever stands in the fields, one request at most reaches the
// instance, well formed and with the body that was sent.
func FuzzDowngrade(f *testing.F) {
	f.Add("POST", "/a", "x", "content-length", "3", "abc", "t", "v")
	f.Add("GET", "/a b?c d", "x y", "x_abeja_request_id", "id-1", "", "", "")
	f.Add("POST", "/a", "x", "trailer", "content-length", "abc", "content-length", "9")
	f.Add("GET", "/a\r\n", "x\r\n", "a\r\n", "b\r\n", evil, "c\r\n", "d\r\n\r\n"+evil)
	f.Add("PATCH", "//a/%2f..;?#", "[::1]:80", "te", "trailers", "x", "cookie", "a=b")
	e := startEdge(f, 1000, 1000)
	f.Fuzz(func(t *testing.T, method, path, authority, name, value, body, trailer, late string) {
		q := h2Request{fields: []hpack.HeaderField{field(":method", method), field(":scheme", "http"), field(":authority", authority), field(":path", path), field(name, value)}, body: body}
		if trailer != "" {
			q.trailers = []hpack.HeaderField{field(trailer, late)}
		}
		if len(method)+len(path)+len(authority)+len(name)+len(value)+len(body)+len(trailer)+len(late) > 8<<10 {
			return // frames have a size
		}
		e.h2(t, q, 300*time.Millisecond)
		for _, b := range e.settleOne(t, 1) {
			t.Errorf("the instance: %s", b)
		}
	})
}
