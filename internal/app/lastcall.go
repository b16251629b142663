// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"time"
)

// What a connection is at, between its requests. Shutdown drops what it has not begun to
// handle: requests that were just being read, and those of connections that were accepted a
// moment ago. So before it, last call is given: nobody is let in any more, and a connection
// is closed only by its own reader, when there is nothing to read. It is the same whoever
// reads, internal/x/front or net/http: the bytes pass through here, and both tell the rest.
const (
	connSilent int32 = iota // nothing has come since it was opened or since the last answer
	connAsked               // silent, and its reader is to end it unless something has come
	connHeard               // something has come, and no handler has it yet
	connCalled              // a handler has the request, or has just answered it
	connUntold              // HTTP/2, which says where it ends, or a tunnel
)

const (
	// freshPatience is how long last call waits for the first request of a connection:
	// that is on its way, if any is.
	freshPatience = 250 * time.Millisecond
	// callPatience is how long it waits for requests that are being read.
	callPatience = time.Second
	// lookPatience is how long the last look at a connection takes; what has arrived is
	// there at once.
	lookPatience = time.Millisecond
)

type connKey struct{}

// follow has a server tell of its connections; leaving.counted tells of its requests.
func follow(srv *http.Server) {
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if cc := counted(c); cc != nil {
			return context.WithValue(ctx, connKey{}, cc)
		}
		return ctx
	}
	srv.ConnState = func(c net.Conn, s http.ConnState) {
		cc := counted(c)
		if cc == nil {
			return
		}
		switch s {
		case http.StateActive: // also of what was read with the request before
			cc.heard(time.Time{})
		case http.StateIdle:
			cc.served.Store(true)
			if !cc.state.CompareAndSwap(connCalled, connSilent) {
				cc.called(true) // without a request: the preface of HTTP/2
			}
		case http.StateHijacked:
			cc.called(true)
		case http.StateNew, http.StateClosed: // the door's own business
		}
	}
}

// counted returns the connection below one of a server's.
func counted(c net.Conn) *countedConn {
	for {
		switch t := c.(type) {
		case *countedConn:
			return t
		case interface{ NetConn() net.Conn }: // TLS, or handed over by the front
			c = t.NetConn()
		default:
			return nil
		}
	}
}

// heard notes that something has come on a silent connection. What is left of it must
// come until by, when last call was given.
func (c *countedConn) heard(by time.Time) {
	if c.state.CompareAndSwap(connSilent, connHeard) {
		return
	}
	c.awaitAsked()
	if c.state.CompareAndSwap(connAsked, connHeard) {
		_ = c.SetReadDeadline(by) // fails only when closed
	}
}

// awaitAsked waits until last call, if it is at the connection, has set its deadline.
func (c *countedConn) awaitAsked() {
	if c.state.Load() == connAsked {
		c.door.mu.Lock()
		c.door.mu.Unlock() //nolint:staticcheck // nothing is guarded: last call holds it
	}
}

// called notes that a handler has a request of the connection; for good says that there
// is no more to tell.
func (c *countedConn) called(forGood bool) {
	to := connCalled
	if forGood {
		to = connUntold
	}
	for {
		from := c.state.Load()
		if from == to || from == connUntold || c.state.CompareAndSwap(from, to) {
			return
		}
	}
}

// Read implements net.Conn.
func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if c.state.Load() > connAsked {
		return n, err
	}
	if n == 0 && c.state.Load() == connAsked && errors.Is(err, os.ErrDeadlineExceeded) {
		c.awaitAsked()
		_ = c.SetReadDeadline(time.Now().Add(lookPatience)) // fails only when closed
		n, err = c.TCPConn.Read(b)
	}
	if n > 0 {
		c.Heard()
	}
	return n, err
}

// Heard is what the front calls when it has read something past Read.
func (c *countedConn) Heard() {
	if c.state.Load() <= connAsked {
		c.heard(time.Now().Add(callPatience)) // the servers set their own after the head
	}
}

// lastCall, with the listener paused, has each silent connection looked at for the last time, and
// waits until what has come is in the hands of a handler.
func (l *limitedListener) lastCall() {
	l.door.last.Store(true)
	for begun := time.Now(); time.Since(begun) < callPatience && l.door.ask(time.Since(begun) >= freshPatience); {
		time.Sleep(leavePoll)
	}
}

// ask has silent connections looked at, those that never had a request only if fresh says
// so. It tells whether there are any that are not a handler's.
func (d *door) ask(fresh bool) (more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		if (fresh || c.served.Load()) && c.state.CompareAndSwap(connSilent, connAsked) {
			_ = c.SetReadDeadline(time.Unix(1, 0)) // ends a read that waits; fails only when closed
		}
		more = more || c.state.Load() <= connHeard
	}
	return more
}
