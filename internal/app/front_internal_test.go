// SPDX-License-Identifier: Apache-2.0

package app

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// pipes is a listener of connections in memory, whose time synctest knows.
type pipes struct {
	net.Listener

	conns chan net.Conn
}

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error { return nil }

// TestProbesTakeNoBodies: a body of a probe that never comes does not hold its connection.
func TestProbesTakeNoBodies(t *testing.T) {
	for _, path := range []string{"/livez", "/metrics"} {
		synctest.Test(t, func(t *testing.T) {
			h := (&App{metrics: prometheus.NewRegistry()}).front(http.NotFoundHandler())
			srv, l := &http.Server{Handler: h, ReadHeaderTimeout: time.Second}, pipes{conns: make(chan net.Conn, 1)}
			done := make(chan struct{})
			go func() { defer close(done); _ = srv.Serve(l) }()
			ours, theirs := net.Pipe()
			l.conns <- theirs
			_, _ = io.WriteString(ours, "GET "+path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
			start := time.Now()
			all, err := io.ReadAll(ours)
			if took := time.Since(start); !strings.HasPrefix(string(all), "HTTP/1.1 200 ") || err != nil || took > time.Minute {
				t.Errorf("GET %s after %s: %.60q, %v", path, took, all, err)
			}
			close(l.conns)
			_ = srv.Close()
			<-done
		})
	}
}
