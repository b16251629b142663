// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"panal/internal/client"
	"panal/internal/plat"
)

// A request that gets no answer, or never leaves, blames what is at fault.
func TestNoAnswer(t *testing.T) {
	const closed = "http://127.0.0.1:1"
	for _, c := range []struct {
		base, path, token string
		header            http.Header
		kind              error
		want              string
	}{
		{base: closed, path: "/x", kind: plat.ErrUnavailable, want: "the server at " + closed + " does not answer; is it running?"},
		{base: closed, path: closed + "/blobs/x", kind: plat.ErrUnavailable, want: "is it running?"},
		{base: "http://panal.example", path: closed + "/x", kind: plat.ErrUnavailable, want: "the server at " + closed + " does not answer; the bytes are there, says http://panal.example: it is the storage's public endpoint"},
		{base: closed, path: "http://storage.invalid/x", kind: plat.ErrUnavailable, want: "the server at http://storage.invalid does not answer; the bytes are there"},
		{base: closed, path: "http://[x/y", kind: plat.ErrUnavailable, want: "an address of the bytes that can't be used"},
		{base: "garbage", path: "/x", kind: plat.ErrInvalid, want: `api-url: "garbage" can't be used`},
		{base: "", path: "/x", kind: plat.ErrInvalid, want: "api-url: "},
		{base: "ftp://panal.example", path: "/x", kind: plat.ErrInvalid, want: "api-url: "},
		{base: "http://panal.example:port", path: "/x", kind: plat.ErrInvalid, want: "api-url: "},
		{base: closed, path: "/x", header: http.Header{"Content-Type": {"text/plain\nx: y"}}, kind: plat.ErrInvalid, want: "content-type: holds a control character"},
		{base: closed, path: "/x", token: "top\nsecret", kind: plat.ErrInvalid, want: "authorization: holds a control character"},
	} {
		_, err := client.New(c.base, "acme", "", c.token).Do(t.Context(), client.Request{Method: http.MethodGet, Path: c.path, Header: c.header})
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("GET %s at %q = %v, want %v: %s", c.path, c.base, err, c.kind, c.want)
		}
	}
}

// What keeps a body from being read, and one that is not as long as was said, are no fault of the server's.
func TestBodyUnread(t *testing.T) {
	var arrived atomic.Int32 // whole
	sent := int32(0)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			arrived.Add(1)
		}
	}))
	broken := errors.New("input/output error")
	for _, c := range []struct {
		body io.Reader
		size int64
		want string
	}{
		{strings.NewReader("12345"), 5, ""},
		{strings.NewReader("12345"), -1, ""},
		{iotest.OneByteReader(strings.NewReader("12345")), 5, ""},
		{iotest.DataErrReader(strings.NewReader("12345")), 5, ""},
		{strings.NewReader(""), 0, ""},
		{strings.NewReader("1234"), 5, "size changed"},
		{strings.NewReader("1"), 0, "size changed"},
		{strings.NewReader("123456"), 5, "size changed"},
		{iotest.OneByteReader(strings.NewReader("123456")), 5, "size changed"},
		{iotest.DataErrReader(strings.NewReader("123456")), 5, "size changed"},
		{iotest.ErrReader(broken), 5, broken.Error()},
		{io.MultiReader(strings.NewReader("123"), iotest.ErrReader(broken)), -1, broken.Error()},
		{io.MultiReader(strings.NewReader("12345"), iotest.ErrReader(broken)), 5, broken.Error()},
	} {
		// What client.Request holds is a plain reader: net/http knows no length but Size.
		res, err := client.New(srv.URL, "acme", "", "").Do(t.Context(), client.Request{Method: http.MethodPost, Path: "/x", Body: struct{ io.Reader }{c.body}, Size: c.size})
		if err == nil {
			_ = res.Body.Close()
			sent++
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || errors.Is(err, plat.ErrUnavailable) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%d bytes = %v, want %q", c.size, err, c.want)
		}
	}
	if srv.Close(); arrived.Load() != sent {
		t.Errorf("the server got %d whole bodies, %d were sent", arrived.Load(), sent)
	}
}
