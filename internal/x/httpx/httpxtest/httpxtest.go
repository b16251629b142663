// SPDX-License-Identifier: Apache-2.0

// Package httpxtest is what tests of servers share: handlers served in memory, where
// testing/synctest knows the time, and certificates.
package httpxtest

import (
	"net"
	"net/http"
	"time"
)

// Serve serves h on one connection and returns the client's end of it. end closes both,
// and waits for the server.
func Serve(h http.Handler) (client net.Conn, end func()) {
	ours, theirs := net.Pipe()
	l := listener{make(chan net.Conn, 1)}
	l.conns <- theirs
	srv := &http.Server{Handler: h, IdleTimeout: time.Second, ReadHeaderTimeout: time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // it ends with end
	}()
	return ours, func() {
		_ = ours.Close() // a pipe's always succeeds
		close(l.conns)
		_ = srv.Close() // what it closes is in memory
		<-done
	}
}

type listener struct{ conns chan net.Conn }

// Accept implements net.Listener.
func (l listener) Accept() (net.Conn, error) {
	if c, ok := <-l.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

// Close implements net.Listener.
func (l listener) Close() error { return nil }

// Addr implements net.Listener.
func (l listener) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }
