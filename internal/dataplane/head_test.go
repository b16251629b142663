// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bufio"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// FuzzHead: whatever the caller says, the instance reads exactly one request
// head, without credentials, and who called is what the platform says.
func FuzzHead(f *testing.F) {
	f.Add("POST", "/a b", "q=1 HTTP/1.1\r\nX: y", "X-A", "b\r\nAuthorization: x", "close, host")
	f.Add("GET", "//x?y#z", "", "x_abeja-requester_id", "forged", "x-abeja-requester-id")
	f.Add("PUT", "", "\x00\x7f", "Transfer-Encoding", "chunked", "transfer-encoding")
	f.Add("GET", "/é%2F", "é", "Content-Length", "7", "\r\n")
	f.Fuzz(func(t *testing.T, method, path, query, name, value, connection string) {
		if !token(method) || !token(name) {
			return // net/http lets no other reach a handler
		}
		h := http.Header{"Connection": {connection}, "Authorization": {"secret"}}
		h.Add(name, value)
		r := &http.Request{Method: method, URL: &url.URL{RawQuery: query}, Host: "host", Header: h}
		head := appendHead(nil, r, &Call{User: "me", RequestID: "id", Path: path}, &Route{command: true}, &instance{key: "key"}, 0)
		br := bufio.NewReader(strings.NewReader(string(head)))
		got, err := http.ReadRequest(br)
		if err != nil {
			if strings.Contains(err.Error(), "invalid URI") || strings.Contains(err.Error(), "parse") {
				return // a path that is none stays none; it was one line
			}
			t.Fatalf("the head can't be read: %v\n%q", err, head)
		}
		if br.Buffered() != 0 {
			t.Fatalf("%d bytes follow the head:\n%q", br.Buffered(), head)
		}
		if got.Method != method || got.Host != "host" || got.ContentLength != 0 || len(got.TransferEncoding) != 0 ||
			got.Header.Get("Authorization") != "" || got.Header.Get("X-Panal-Instance-Key") != "key" {
			t.Fatalf("got %v from\n%q", got, head)
		}
		if v := got.Header["X-Abeja-Requester-Id"]; len(v) != 1 || v[0] != "me" {
			t.Fatalf("requester %q", v)
		}
	})
}

// FuzzUpgrade: whatever a caller asks to switch to, the instance is asked for one
// protocol or none, in one request head.
func FuzzUpgrade(f *testing.F) {
	f.Add("websocket", "Upgrade")
	f.Add("websocket, h2c", "keep-alive, upgrade")
	f.Add("h2c", "Upgrade, HTTP2-Settings")
	f.Add("a/1.1\r\nX: y", "upgrade\r\nHost: z")
	f.Fuzz(func(t *testing.T, upgrade, connection string) {
		h := http.Header{"Connection": {connection}, "Upgrade": {upgrade}}
		r := &http.Request{Method: http.MethodGet, URL: &url.URL{}, Host: "host", Header: h, ProtoMajor: 1, ProtoMinor: 1}
		head := appendHead(nil, r, &Call{User: "me", RequestID: "id"}, &Route{command: true}, &instance{}, 0)
		br := bufio.NewReader(strings.NewReader(string(head)))
		got, err := http.ReadRequest(br)
		if err != nil || br.Buffered() != 0 || got.Host != "host" {
			t.Fatalf("%v, %v from\n%q", got, err, head)
		}
		switch v := got.Header["Upgrade"]; {
		case len(v) == 0 && len(got.Header["Connection"]) == 0:
		case len(v) == 1 && v[0] == upgrade && got.Header.Get("Connection") == "Upgrade" && !strings.EqualFold(v[0], "h2c"):
		default:
			t.Fatalf("upgrade %q, connection %q", v, got.Header["Connection"])
		}
	})
}

func token(s string) bool {
	for _, c := range s {
		if c <= ' ' || c >= 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?={}`, c) {
			return false
		}
	}
	return s != ""
}
