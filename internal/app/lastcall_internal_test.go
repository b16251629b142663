// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"panal/internal/plat"
	"panal/internal/x/httpx/httpxtest"
)

// held is a socket that outlives the servers on it.
type held struct {
	t    *testing.T
	addr string
	file *os.File
}

func hold(t *testing.T) *held {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.TCPListener).File()
	if err = errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return &held{t, l.Addr().String(), f}
}

// serve starts a server on the socket; lame says that it is to end, and end ends it.
func (h *held) serve(handler http.Handler, secure *tls.Config, takes func(method, target string) bool) (lame, end func()) {
	h.t.Helper()
	l, err := net.FileListener(h.file)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(h.t.Context())
	d := newDoor(1000, 1000, nil, prometheus.NewRegistry())
	var leaving leaving
	var draining atomic.Bool
	done := make(chan error, 1)
	go func() {
		done <- serveHTTP(ctx, slog.New(slog.DiscardHandler), d.limit(l, secure == nil), leaving.counted(handler), 0, func() time.Duration { return 10 * time.Second }, &draining, secure, takes)
	}()
	return func() { leaving.lame.Store(true) }, func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if n := len(d.conns); n != 0 {
			h.t.Errorf("%d connections are still counted", n)
		}
	}
}

// TestServersFollowEachOther on a socket, under a storm of requests: on a connection each,
// or on kept ones, whose servers are lame ducks for a moment. All are answered, by one
// server or the next.
func TestServersFollowEachOther(t *testing.T) {
	certFile, keyFile := httpxtest.WriteCert(t, t.TempDir(), "localhost")
	cert, err := openCertificate(certFile, keyFile, plat.SystemClock, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what              string
		secure, two, kept bool
		front             bool // without net/http
	}{
		{what: "new connections"},
		{what: "kept connections", kept: true},
		{what: "new connections, the front", front: true},
		{what: "kept connections, the front", front: true, kept: true},
		{what: "new connections, TLS", secure: true},
		{what: "kept connections, TLS", secure: true, kept: true},
		{what: "HTTP 2, TLS", secure: true, two: true, kept: true},
		{what: "HTTP 2, new connections", two: true},
		{what: "HTTP 2", two: true, kept: true},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			var secure *tls.Config
			scheme := "http://"
			if c.secure {
				secure, scheme = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: cert.get}, "https://"
			}
			h := hold(t)
			hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
			stop := make(chan struct{})
			var callers sync.WaitGroup
			var answered atomic.Int64
			for range 4 {
				pool := &http.Transport{DisableKeepAlives: !c.kept, Protocols: new(http.Protocols), TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
				pool.Protocols.SetHTTP1(!c.two)
				pool.Protocols.SetHTTP2(c.two)
				pool.Protocols.SetUnencryptedHTTP2(c.two)
				callers.Go(func() {
					defer pool.CloseIdleConnections()
					client := &http.Client{Transport: pool, Timeout: 30 * time.Second}
					for {
						select {
						case <-stop:
							return
						default:
						}
						res, err := client.Post(scheme+h.addr, "text/plain", http.NoBody)
						if err == nil {
							_, err = io.Copy(io.Discard, res.Body)
							_ = res.Body.Close()
						}
						if err != nil {
							t.Error(err)
							return
						}
						answered.Add(1)
					}
				})
			}
			for range 10 {
				lame, end := h.serve(hello, secure, func(_, _ string) bool { return c.front })
				time.Sleep(20 * time.Millisecond)
				if c.kept {
					lame()
					time.Sleep(300 * time.Millisecond) // each caller has used its connection once more by then
				}
				end()
			}
			_, end := h.serve(hello, secure, func(_, _ string) bool { return c.front })
			close(stop)
			callers.Wait()
			end()
			if answered.Load() == 0 {
				t.Error("nothing was answered")
			}
			t.Logf("%d answered", answered.Load())
		})
	}
}

// TestLastCallForKeptConnections: what has arrived on a kept connection when last call is
// given is answered, whole or in pieces, and a connection that says nothing is closed.
func TestLastCallForKeptConnections(t *testing.T) {
	t.Parallel()
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body) // a broken one shows in the answer
		_, _ = fmt.Fprintf(w, "%s %s", r.URL.Path, b)
	})
	h := hold(t)
	for i := range 40 {
		_, end := h.serve(echo, nil, func(_, _ string) bool { return i%2 == 0 }) // the front, and net/http
		dial := func() (net.Conn, *bufio.Reader) {
			c, err := net.Dial("tcp", h.addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			_ = c.SetDeadline(time.Now().Add(30 * time.Second))
			return c, bufio.NewReader(c)
		}
		send := func(c net.Conn, text string) {
			t.Helper()
			if _, err := io.WriteString(c, text); err != nil {
				t.Fatal(err)
			}
		}
		answer := func(r *bufio.Reader, want string) {
			t.Helper()
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("round %d: %v instead of %q", i, err, want)
			}
			b, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || string(b) != want {
				t.Errorf("round %d: %q, %v; want %q", i, b, err, want)
			}
		}
		used, fromUsed := dial()
		quiet, fromQuiet := dial()
		for c, r := range map[net.Conn]*bufio.Reader{used: fromUsed, quiet: fromQuiet} {
			send(c, "POST /one HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1")
			answer(r, "/one 1")
		}
		send(used, "POST /two HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
		done := make(chan struct{})
		go func() { defer close(done); end() }()
		send(used, "22")
		answer(fromUsed, "/two 22")
		<-done
		for what, r := range map[string]*bufio.Reader{"quiet": fromQuiet, "used": fromUsed} {
			if b, err := r.ReadByte(); err != io.EOF {
				t.Errorf("round %d: the %s connection: %q, %v", i, what, b, err)
			}
		}
	}
}
