// SPDX-License-Identifier: Apache-2.0

package httpx_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"panal/internal/x/httpx"
)

func TestParseRange(t *testing.T) {
	for _, c := range []struct {
		h      string
		size   int64
		off, n int64
		ok     bool
	}{
		{"", 10, 0, 10, true},
		{"bytes=0-3", 10, 0, 4, true},
		{"bytes=3-", 10, 3, 7, true},
		{"bytes=-4", 10, 6, 4, true},
		{"bytes=-40", 10, 0, 10, true},
		{"bytes=8-40", 10, 8, 2, true},
		{"bytes=10-", 10, 0, 0, false},
		{"bytes=-0", 10, 0, 0, false},
		{"bytes=0-", 0, 0, 0, false},
		{"bytes=-1", 0, 0, 0, false},
		{"", 0, 0, 0, true},
		{"bytes=5-3", 10, 0, 10, true},                   // malformed: ignored
		{"bytes=0-1,3-4", 10, 0, 10, true},               // several: ignored
		{"lines=0-1", 10, 0, 10, true},                   // unknown unit: ignored
		{"bytes=x-1", 10, 0, 10, true},                   // nonsense: ignored
		{"bytes=--1", 10, 0, 10, true},                   // nonsense: ignored
		{"bytes=99999999999999999999-", 10, 0, 10, true}, // no number
	} {
		if off, n, ok := httpx.ParseRange(c.h, c.size); off != c.off || n != c.n || ok != c.ok {
			t.Errorf("ParseRange(%q, %d) = %d, %d, %v, want %d, %d, %v", c.h, c.size, off, n, ok, c.off, c.n, c.ok)
		}
	}
}

func FuzzParseRange(f *testing.F) {
	f.Add("bytes=0-3", int64(10))
	f.Fuzz(func(t *testing.T, h string, size int64) {
		if size < 0 {
			return
		}
		off, n, ok := httpx.ParseRange(h, size)
		if off < 0 || n < 0 || off+n > size || !ok && n != 0 {
			t.Errorf("ParseRange(%q, %d) = %d, %d, %v", h, size, off, n, ok)
		}
	})
}

// TestIdleReaderEndsAStalledBody: a client that sends nothing is cut, one that is
// slow but moves is not.
func TestIdleReaderEndsAStalledBody(t *testing.T) {
	got := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(httpx.IdleReader(w, r.Body, 200*time.Millisecond))
		got <- httpx.Body(err)
	}))
	defer srv.Close()
	send := func(pause time.Duration) error {
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n")
		for range 8 {
			time.Sleep(pause)
			if _, err := c.Write([]byte("x")); err != nil {
				break
			}
		}
		return <-got
	}
	if err := send(60 * time.Millisecond); err != nil { // longer in all than the limit
		t.Errorf("a slow body that moves: %v", err)
	}
	var be *httpx.BodyError
	if err := send(2 * time.Second); !errors.As(err, &be) {
		t.Errorf("a stalled body: %v, want a BodyError", err)
	}
}
