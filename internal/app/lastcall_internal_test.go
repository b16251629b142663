// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bufio"
	"context"
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

// serve starts a server on the socket; end ends it.
func (h *held) serve(handler http.Handler) (end func()) {
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
		done <- serveHTTP(ctx, slog.New(slog.DiscardHandler), d.limit(l, true), leaving.counted(handler), 0, func() time.Duration { return 10 * time.Second }, &draining, nil)
	}()
	return func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
		if n := d.crowd.heard.Load() + d.crowd.mute.Load() + int64(len(d.crowd.conns)); n != 0 {
			h.t.Errorf("%d connections are still counted", n)
		}
	}
}

// TestLastCallForNewConnections: servers follow each other on a socket under a storm of
// connections with one request each. All are answered, by one server or the next.
func TestLastCallForNewConnections(t *testing.T) {
	t.Parallel()
	h := hold(t)
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	stop := make(chan struct{})
	var callers sync.WaitGroup
	var answered atomic.Int64
	pool := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
	for range 8 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				res, err := pool.Post("http://"+h.addr, "text/plain", http.NoBody)
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
	for range 30 {
		end := h.serve(hello)
		time.Sleep(20 * time.Millisecond)
		end()
	}
	end := h.serve(hello)
	close(stop)
	callers.Wait()
	end()
	if answered.Load() == 0 {
		t.Error("nothing was answered")
	}
	t.Logf("%d answered", answered.Load())
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
	for i := range 30 {
		end := h.serve(echo)
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
