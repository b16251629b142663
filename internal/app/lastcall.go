// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// A connection that net/http serves over HTTP/1, between its requests. Shutdown drops
// what it has not begun to handle: requests that were just being read, and those of
// connections that were accepted a moment ago. So before it, last call is given: nobody
// is let in any more, and a connection is closed only by its own reader, when there is
// nothing to read.
const (
	connUntold int32 = iota // not net/http's, or HTTP/2, which says where it ends
	connSilent              // nothing has come since it was opened or since the last answer
	connHeard               // something has, and no handler has it yet
	connCalled              // a handler has the request, or has just answered it
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

// crowd is the connections of a door that are told apart so.
type crowd struct {
	conns map[*countedConn]struct{} // guarded by the door's mu
	heard atomic.Int64              // connections from which something has come
	mute  atomic.Int64              // connections from which nothing has
	last  atomic.Bool               // last call was given
}

type connKey struct{}

// follow has a server tell the door of its connections.
func follow(srv *http.Server) {
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if cc := counted(c); cc != nil {
			return context.WithValue(ctx, connKey{}, cc)
		}
		return ctx
	}
	srv.ConnState = func(c net.Conn, s http.ConnState) {
		cc := counted(c)
		switch {
		case cc == nil:
		case s == http.StateNew:
			cc.door.mu.Lock()
			cc.door.crowd.conns[cc] = struct{}{}
			cc.door.mu.Unlock()
			cc.fresh.Store(true)
			to := connSilent
			if _, part := c.(interface{ NetConn() net.Conn }); part && srv.TLSConfig == nil {
				to = connHeard // handed over with what was read of it
			}
			cc.move(connUntold, to)
		case s == http.StateIdle:
			cc.fresh.Store(false)
			cc.asked.Store(false)
			cc.move(connCalled, connSilent)
		case s == http.StateHijacked:
			cc.called(true)
		}
	}
}

// counted returns the connection below one of net/http's.
func counted(c net.Conn) *countedConn {
	for {
		switch t := c.(type) {
		case *countedConn:
			return t
		case interface{ NetConn() net.Conn }: // TLS
			c = t.NetConn()
		default:
			return nil
		}
	}
}

// move changes the state, and counts.
func (c *countedConn) move(from, to int32) bool {
	if !c.state.CompareAndSwap(from, to) {
		return false
	}
	for _, s := range [...]struct {
		state int32
		by    int64
	}{{from, -1}, {to, 1}} {
		switch s.state {
		case connSilent:
			c.door.crowd.mute.Add(s.by)
		case connHeard:
			c.door.crowd.heard.Add(s.by)
		}
	}
	return true
}

// called notes that a handler has a request of the connection; for good says that there
// is no more to tell.
func (c *countedConn) called(forGood bool) {
	to := connCalled
	if forGood {
		to = connUntold
	}
	for from := c.state.Load(); from != to && from != connUntold && !c.move(from, to); from = c.state.Load() {
	}
}

// Read implements net.Conn.
func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if c.state.Load() != connSilent {
		return n, err
	}
	if n == 0 && c.door.crowd.last.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
		_ = c.SetReadDeadline(time.Now().Add(lookPatience)) // fails only when closed
		n, err = c.TCPConn.Read(b)
	}
	if n > 0 {
		c.move(connSilent, connHeard)
		if c.door.crowd.last.Load() {
			_ = c.SetReadDeadline(time.Now().Add(callPatience)) // net/http sets its own after the head
		}
	}
	return n, err
}

// lastCall, with the listener paused, has each silent connection looked at for the last time, and
// waits until what has come is in the hands of a handler.
func (l *limitedListener) lastCall() {
	d := l.door
	d.crowd.last.Store(true)
	quiet := 0 // looks in a row: a connection that the front hands over is nobody's for a moment
	for begun := time.Now(); time.Since(begun) < callPatience; time.Sleep(leavePoll) {
		d.mu.Lock()
		for c := range d.crowd.conns {
			if c.state.Load() != connSilent || !c.asked.CompareAndSwap(false, true) {
				continue
			}
			by := begun
			if c.fresh.Load() {
				by = begun.Add(freshPatience)
			}
			_ = c.SetReadDeadline(by)
		}
		d.mu.Unlock()
		if quiet++; d.crowd.heard.Load()+d.crowd.mute.Load() > 0 {
			quiet = 0
		}
		if quiet == 3 {
			return
		}
	}
}
