// SPDX-License-Identifier: Apache-2.0

package front

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"panal/internal/x/rawio"
)

// bufSize is where a head must fit, else net/http reads it.
const bufSize = 4096

const (
	// linger is how long a connection stays half open after a last answer, so that its
	// caller, who may still be sending, gets it; as in net/http.
	linger = 500 * time.Millisecond
	// discardTime is for the rest of a body that the handler left unread.
	discardTime = 5 * time.Second
)

// states of a connection.
const (
	stateNew  int32 = iota // has never had a request
	stateIdle              // waits for the next one
	stateBusy
	stateClosed // by a shutdown
)

// Conn is what the loop needs of a connection; *net.TCPConn is one. From its second
// request on the loop reads the descriptor, past Read. A connection with a method Heard() is told of
// each such read that found something; and a deadline that passes is found by Read as well.
type Conn interface {
	net.Conn
	io.ReaderFrom
	CloseWrite() error
	SyscallConn() (syscall.RawConn, error)
}

// conn is a connection while the loop has it.
type conn struct {
	s      *Server
	nc     Conn
	raw    *rawio.Conn // over nc
	heard  func()      // not nil: nc's
	remote string
	opened time.Time
	state  atomic.Int32
	// began is when the call under way began, on the server's clock; 0: there is none.
	began atomic.Int64

	// ctx ends with the connection, or when its caller is found to have left; made with
	// the first call.
	ctx    context.Context //nolint:containedctx // one per connection, as in net/http
	cancel context.CancelFunc

	buf    []byte
	r, w   int // what was read and not used yet
	readBy time.Time
	until  time.Time // for the rest of a head that has begun
	head   head

	calls  atomic.Uint32 // answered
	seen   uint32        // the patrol's: of calls
	looked bool          // the patrol's: at the connection, idle since seen
}

// serve is the loop. A connection's first request is read like any; from then on the
// connection is the poller's (rounds).
func (c *conn) serve() {
	handedOver := false
	defer func() {
		if c.cancel != nil {
			c.cancel()
		}
		if !handedOver {
			_ = c.nc.Close() // its error says nothing that reading has not said
			c.tell(http.StateClosed)
		}
	}()
	v, size := c.first()
	for v == ordinary {
		c.r += size
		if !c.answer() {
			return
		}
		v, size = c.rounds()
	}
	if v == other {
		handedOver = true
		c.handOver()
	}
}

// first reads until there is a head, or something else.
func (c *conn) first() (verdict, int) {
	for {
		v, size := c.consider()
		if v != incomplete {
			return v, size
		}
		n, err := c.nc.Read(c.buf[c.w:])
		c.w += n
		if err != nil && n == 0 {
			return over, 0
		}
	}
}

// rounds answers requests that come whole until there is another one, whose head it
// returns: an ordinary one's body is still on its way.
//
// All of it is one read in the eyes of package net, which waits for the poller's news
// between two steps and never in vain: what comes during a step is news already. So
// there is no read that finds nothing just to learn that the next request is not there yet.
func (c *conn) rounds() (verdict, int) {
	var v verdict
	var size int
	drained := false // what has come since is news
	err := c.raw.Raw().Read(func(fd uintptr) bool {
		for {
			v, size = c.consider()
			switch {
			case v == ordinary && c.head.length <= c.w-c.r-size:
				c.r += size
				if !c.answer() {
					v = over
					return true
				}
				continue
			case v != incomplete:
				return true
			case drained:
				drained = false
				return false
			}
			n, err := rawio.Read(fd, c.buf[c.w:])
			switch {
			case n > 0:
				drained = n < len(c.buf)-c.w
				c.w += n
				if c.heard != nil {
					c.heard()
				}
			case err == syscall.EAGAIN: //nolint:errorlint // never wrapped
				return false
			default: // nil is the caller's end
				v = over
				return true
			}
		}
	})
	switch {
	case err == nil:
		return v, size
	case errors.Is(err, os.ErrDeadlineExceeded): // the connection's Read has the last word
		n, _ := c.nc.Read(c.buf[c.w:])
		if c.w += n; n > 0 {
			return c.first()
		}
	}
	return over, 0 // too late, or closed
}

// consider looks at what was read. incomplete: more must come, for which it sets the
// deadline.
func (c *conn) consider() (verdict, int) {
	if c.r == c.w {
		c.r, c.w, c.until = 0, 0, time.Time{}
		now := time.Now()
		if c.state.Load() == stateNew {
			c.deadline(c.opened.Add(c.s.headTime))
		} else if c.readBy.Before(now.Add(c.s.idleTime)) {
			// Some way ahead, so that the next requests need not move it.
			c.deadline(now.Add(c.s.idleTime + c.s.idleTime/4))
		}
		return incomplete, 0
	}
	if s := c.state.Load(); s != stateBusy && !c.state.CompareAndSwap(s, stateBusy) {
		return over, 0 // a shutdown was faster
	}
	c.head = head{}
	v, size := parse(c.buf[c.r:c.w], c.s.takes, &c.head)
	if v != incomplete {
		c.until = time.Time{}
		return v, size
	}
	if c.r > 0 {
		c.r, c.w = 0, copy(c.buf, c.buf[c.r:c.w])
	}
	if c.w == len(c.buf) {
		return other, 0
	}
	if c.until.IsZero() {
		c.until = time.Now().Add(c.s.headTime)
	}
	c.deadline(c.until)
	return incomplete, 0
}

// answer has the request answered whose head was parsed. It reports false when
// nothing may follow.
func (c *conn) answer() bool {
	if !c.call() {
		return false
	}
	c.calls.Add(1)
	c.state.Store(stateIdle)
	c.tell(http.StateIdle)
	return !c.s.closing.Load() || !c.state.CompareAndSwap(stateIdle, stateClosed)
}

// tell tells what the connection is at, as net/http does of its own.
func (c *conn) tell(s http.ConnState) {
	if f := c.s.rest.ConnState; f != nil {
		f(c.nc, s)
	}
}

// deadline sets until when a read may last.
func (c *conn) deadline(t time.Time) {
	if !t.Equal(c.readBy) {
		c.readBy = t
		_ = c.nc.SetReadDeadline(t) // fails only when closed, and then so does the read
	}
}

// call has the handler answer the request whose head was parsed. It reports false
// when nothing may follow.
func (c *conn) call() (more bool) {
	if c.ctx == nil {
		ctx := context.WithValue(context.Background(), http.LocalAddrContextKey, c.nc.LocalAddr())
		if more := c.s.rest.ConnContext; more != nil {
			ctx = more(ctx, c.nc)
		}
		c.ctx, c.cancel = context.WithCancel(ctx)
	}
	c.tell(http.StateActive)
	c.began.Store(int64(time.Since(c.s.epoch)) | 1)
	if c.s.cut.Load() {
		return false
	}
	x := &exchange{w: writer{c: c, length: -1, head: c.head.method == http.MethodHead}}
	x.body = body{c: c, w: &x.w, left: c.head.length}
	x.url = c.head.url
	var r io.ReadCloser = http.NoBody
	if c.head.length > 0 {
		r = &x.body
	}
	req := (&http.Request{
		Method: c.head.method, URL: &x.url, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: c.head.header,
		Body: r, ContentLength: int64(c.head.length), Host: c.head.host, RemoteAddr: c.remote, RequestURI: c.head.target,
	}).WithContext(c.ctx)
	c.head = head{}
	done := false
	defer func() {
		c.began.Store(0)
		x.w.end()
		if !done {
			more = false
			if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // net/http's own sentinel, by identity
				c.s.log.Printf("front: panic serving %v: %v\n%s", c.remote, p, debug.Stack())
			}
		}
	}()
	c.s.handler.ServeHTTP(&x.w, req)
	more = x.w.finish()
	done = true
	if x.body.left == 0 {
		return more
	}
	if more && !x.body.failed {
		x.w.readBy = time.Now().Add(discardTime)
		if _, err := io.Copy(io.Discard, &x.body); err == nil {
			return true
		}
	}
	_ = c.nc.CloseWrite() // fails when the caller has gone
	select {
	case <-time.After(linger):
	case <-c.s.ended:
	}
	return false
}

// exchange is what one request needs, in one piece.
type exchange struct {
	w    writer
	body body
	url  url.URL
}

// body is that of a request of known length.
type body struct {
	c      *conn
	w      *writer // whose deadlines hold
	left   int
	failed bool
}

// Read implements io.Reader. The last bytes come with io.EOF.
func (b *body) Read(p []byte) (n int, err error) {
	c := b.c
	switch {
	case b.left == 0:
		return 0, io.EOF
	case c.r < c.w:
		n = copy(p[:min(len(p), b.left)], c.buf[c.r:c.w])
		c.r += n
	default:
		c.deadline(b.w.readBy)
		n, err = c.nc.Read(p[:min(len(p), b.left)])
	}
	b.left -= n
	switch {
	case b.left == 0:
		return n, io.EOF
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	b.failed = b.failed || err != nil
	return n, err
}

// Close implements io.Closer.
func (b *body) Close() error { return nil }

// look ends the call under way when its caller has left.
func (c *conn) look() {
	if c.gone() {
		c.cancel()
	}
}

// lookIdle closes a connection that has been idle for a while and whose caller has
// left: news that came together with the last request was taken for that alone.
func (c *conn) lookIdle() {
	if c.gone() && c.state.CompareAndSwap(stateIdle, stateClosed) {
		_ = c.nc.Close() // its loop notices
	}
}

// gone tells whether nothing more will come from the caller.
func (c *conn) gone() bool {
	gone := false
	_ = c.raw.Raw().Control(func(fd uintptr) { // an error: closed, and the loop knows
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		gone = n == 0 && err == nil || err != nil && err != syscall.EAGAIN && err != syscall.EINTR
	})
	return gone
}
