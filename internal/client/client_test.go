// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

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
