// SPDX-License-Identifier: Apache-2.0

package front

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"panal/internal/x/rawio"
)

// lookEvery is how often the callers of calls that are older than that are looked for.
const lookEvery = 250 * time.Millisecond

// youngFor is how long a connection without any request survives a shutdown: its
// first one may be on the way. As in net/http.
const youngFor = 5 * time.Second

// Server serves ordinary requests itself and has an http.Server serve the rest.
type Server struct {
	// Refusal, when not nil, makes the JSON with which what no handler can be asked about
	// is refused, from net/http's status and text. Set before Serve.
	Refusal func(status int, text string) []byte

	rest               *http.Server
	handler            http.Handler
	takes              func(method, target string) bool
	log                *log.Logger
	headTime, idleTime time.Duration
	epoch              time.Time
	over               *overflow

	closing atomic.Bool
	cut     atomic.Bool   // by Close
	ended   chan struct{} // as cut
	end     sync.Once     // closes ended
	second  atomic.Pointer[dateLine]

	mu       sync.Mutex
	listener net.Listener
	conns    map[*conn]struct{}
	none     chan struct{} // not nil: a shutdown waits; closed when no connection is left
}

// New returns a server over rest, whose handler, ReadHeaderTimeout, IdleTimeout,
// ConnContext, ConnState and ErrorLog it uses; rest must not be serving yet. takes tells by
// method and target which requests the loop may serve. A connection that is handed
// over is told of as new once more.
func New(rest *http.Server, takes func(method, target string) bool) *Server {
	s := &Server{
		rest: rest, handler: rest.Handler, takes: takes, log: rest.ErrorLog, epoch: time.Now(),
		headTime: cmp.Or(rest.ReadHeaderTimeout, 10*time.Second), idleTime: cmp.Or(rest.IdleTimeout, 2*time.Minute),
		conns: map[*conn]struct{}{}, ended: make(chan struct{}),
	}
	if s.log == nil {
		s.log = log.Default()
	}
	told := rest.ConnState
	rest.ConnState = func(c net.Conn, state http.ConnState) {
		if r, ok := c.(*replayed); ok && state == http.StateHijacked {
			r.refusal = nil // what is written from here on is the hijacker's
		}
		if told != nil {
			told(c, state)
		}
	}
	return s
}

// Serve takes connections from l until Shutdown or Close; then it returns
// http.ErrServerClosed. Its connections must be Conns; others are net/http's from
// the first byte. Call it once.
func (s *Server) Serve(l net.Listener) error {
	s.over = &overflow{conns: make(chan net.Conn), done: make(chan struct{}), addr: l.Addr()}
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	var all sync.WaitGroup
	stop := make(chan struct{})
	all.Go(func() { s.patrol(stop) })
	rest := make(chan error, 1)
	go func() { rest <- s.rest.Serve(s.over) }()
	err := s.accept(l, &all)
	if s.closing.Load() {
		err = <-rest // Shutdown ends it, when our own calls are through
	} else {
		_ = s.Close()
		err = cmp.Or(err, <-rest) // the listener's error counts
	}
	close(stop)
	all.Wait()
	return err
}

func (s *Server) accept(l net.Listener, all *sync.WaitGroup) error {
	for delay := time.Duration(0); ; {
		nc, err := l.Accept()
		if err != nil {
			var ne interface{ Temporary() bool }
			if s.closing.Load() || !errors.As(err, &ne) || !ne.Temporary() {
				return err
			}
			// Too many descriptors are open, say; as in net/http.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.log.Printf("front: accept: %v; again in %v", err, delay)
			time.Sleep(delay)
			continue
		}
		delay = 0
		own, ok := nc.(Conn)
		if !ok {
			all.Go(func() { s.over.put(nc) })
			continue
		}
		raw, err := rawio.New(own)
		if err != nil {
			_ = nc.Close() // it is closed
			continue
		}
		c := &conn{s: s, nc: own, raw: raw, remote: own.RemoteAddr().String(), opened: time.Now(), buf: make([]byte, bufSize)}
		if h, ok := nc.(interface{ Heard() }); ok {
			c.heard = h.Heard
		}
		if !s.add(c) {
			_ = nc.Close() // never used
			continue
		}
		c.tell(http.StateNew)
		go func() {
			defer s.remove(c)
			c.serve()
		}()
	}
}

func (s *Server) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if len(s.conns) == 0 && s.none != nil {
		close(s.none)
		s.none = nil
	}
}

// patrol finds callers who have left during calls that take long, or after one.
func (s *Server) patrol(stop <-chan struct{}) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var old, idle []*conn
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		before := int64(time.Since(s.epoch) - lookEvery)
		s.mu.Lock()
		for c := range s.conns {
			switch began, calls := c.began.Load(), c.calls.Load(); {
			case began != 0:
				if began < before {
					old = append(old, c)
				}
			case calls != c.seen:
				c.seen, c.looked = calls, false
			case !c.looked && c.state.Load() == stateIdle:
				c.looked = true
				idle = append(idle, c)
			}
		}
		s.mu.Unlock()
		for _, c := range old {
			c.look()
		}
		for _, c := range idle {
			c.lookIdle()
		}
		clear(old)
		clear(idle)
		old, idle = old[:0], idle[:0]
	}
}

// Shutdown closes the listener and idle connections and waits until the calls under
// way have ended, each the last on its connection, or until ctx ends (then with its
// error, and Close is what is left to do).
func (s *Server) Shutdown(ctx context.Context) error {
	s.rest.SetKeepAlivesEnabled(false)
	none := s.stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for waiting := true; waiting; {
		s.closeIdle()
		select {
		case <-none:
			waiting = false
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return s.rest.Shutdown(ctx)
}

// Close closes everything at once. Calls under way find that their callers have left.
func (s *Server) Close() error {
	s.stop()
	s.cut.Store(true)
	s.end.Do(func() { close(s.ended) })
	s.mu.Lock()
	for c := range s.conns {
		if c.began.Load() != 0 {
			c.cancel()
			go func() { _ = c.nc.Close() }() // which waits for a call that is answered within a read (rounds)
			continue
		}
		_ = c.nc.Close() // its loop notices
	}
	s.mu.Unlock()
	return s.rest.Close()
}

// stop takes no more connections. The channel closes when the last one has gone.
func (s *Server) stop() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing.Store(true)
	if s.listener != nil {
		_ = s.listener.Close() // it is over in any case
	}
	none := s.none
	if none == nil {
		none = make(chan struct{})
		if len(s.conns) == 0 {
			close(none)
		} else {
			s.none = none
		}
	}
	return none
}

func (s *Server) closeIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.state.CompareAndSwap(stateIdle, stateClosed) ||
			time.Since(c.opened) > youngFor && c.state.CompareAndSwap(stateNew, stateClosed) {
			_ = c.nc.Close() // its loop notices
		}
	}
}

// dateLine is the value of Date for one second.
type dateLine struct {
	second int64
	text   string
}

// date appends the time of now as Date has it.
func (s *Server) date(b []byte) []byte {
	now := time.Now()
	d := s.second.Load()
	if d == nil || d.second != now.Unix() {
		d = &dateLine{now.Unix(), now.UTC().Format(http.TimeFormat)}
		s.second.Store(d)
	}
	return append(b, d.text...)
}

// handOver gives the connection to net/http, which reads first what was read already.
func (c *conn) handOver() {
	_ = c.nc.SetReadDeadline(time.Time{}) // fails only when closed, and then so does the next read
	c.s.over.put(&replayed{Conn: c.nc, read: append([]byte(nil), c.buf[c.r:c.w]...), refusal: c.s.Refusal})
}

// overflow is the listener of the http.Server behind.
type overflow struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	addr  net.Addr
}

// put hands a connection over, or closes it when nobody takes it any more.
func (o *overflow) put(c net.Conn) {
	select {
	case o.conns <- c:
	case <-o.done:
		_ = c.Close() // its caller gets no answer, as everybody from here on
	}
}

// Accept implements net.Listener.
func (o *overflow) Accept() (net.Conn, error) {
	select {
	case c := <-o.conns:
		return c, nil
	case <-o.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (o *overflow) Close() error {
	o.once.Do(func() { close(o.done) })
	return nil
}

// Addr implements net.Listener.
func (o *overflow) Addr() net.Addr { return o.addr }

// replayed is a connection of which some was read already. Files still go out by the
// kernel, and half-closing stays possible.
type replayed struct {
	Conn
	read    []byte
	refusal func(status int, text string) []byte
}

// NetConn returns the connection below.
func (r *replayed) NetConn() net.Conn { return r.Conn }

// plainRefusal is what follows the status line of an answer that net/http gives itself,
// where it can't read a request. An answer of a handler has a Date there.
const plainRefusal = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"

// Write implements net.Conn. net/http writes such an answer in one go, after which it
// ends the connection.
func (r *replayed) Write(p []byte) (int, error) {
	const begins, most = "HTTP/1.1 ", 512
	if r.refusal == nil || len(p) > most || !bytes.HasPrefix(p, []byte(begins)) {
		return r.Conn.Write(p)
	}
	line, text, ok := strings.Cut(string(p), plainRefusal)
	code, reason, _ := strings.Cut(line[len(begins):], " ")
	status, err := strconv.Atoi(code)
	if !ok || err != nil || strings.Contains(line, "\n") {
		return r.Conn.Write(p)
	}
	body := r.refusal(status, strings.TrimPrefix(text, code+" "))
	answer := fmt.Appendf(nil, "%s%s %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", begins, code, reason, len(body), body)
	if _, err := r.Conn.Write(answer); err != nil {
		return 0, err
	}
	return len(p), nil
}

// endsAfter is how long a caller's end stays untold while its call is under way.
const endsAfter = time.Second

// Read implements net.Conn.
func (r *replayed) Read(p []byte) (int, error) {
	if len(r.read) == 0 {
		n, err := r.Conn.Read(p)
		// During a call net/http waits for one byte of what follows, and cancels the call when
		// there is an end instead. But a caller may say that it sends no more and wait for its answer.
		if err == io.EOF && len(p) == 1 { //nolint:errorlint // never wrapped
			err = r.linger()
		}
		return n, err
	}
	n := copy(p, r.read)
	if r.read = r.read[n:]; len(r.read) == 0 {
		r.read = nil
	}
	return n, nil
}

// linger waits for endsAfter and returns io.EOF, or earlier what ends a read.
func (r *replayed) linger() error {
	raw, err := r.SyscallConn()
	if err != nil {
		return err // closed
	}
	over := time.AfterFunc(endsAfter, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) }) // there is nothing to be read any more
	err = raw.Read(func(fd uintptr) bool {                                               // no end, but a reset
		var b [1]byte
		n, err := rawio.Read(fd, b[:])
		return n != 0 || err != nil && err != syscall.EAGAIN //nolint:errorlint // never wrapped
	})
	if over.Stop() && err != nil {
		return err
	}
	return io.EOF
}
