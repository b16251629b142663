// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"panal/internal/plat"
)

// Options shape a Proxy. The zero value works.
type Options struct {
	// FirstByte is how long an instance may take until its answer begins, counted
	// from the last progress of the request; default 30 s. Then 504.
	FirstByte time.Duration
	// Idle is how long either side may be silent within a body; default 30 s.
	Idle time.Duration
	// TunnelIdle is how long an upgraded call (WebSocket) may be silent in both
	// directions; default 5 min.
	TunnelIdle time.Duration
	// Hold is how long a call may wait for an instance; default 30 s. Then 503.
	Hold time.Duration
	// MaxHeld is how many calls may wait per service; default 1,000.
	MaxHeld int
	// MaxHeldBytes bounds the memory of all calls that wait; default 64 MiB.
	MaxHeldBytes int64
	// SpoolDir is where bodies beyond 32 KiB are kept of calls that wait for a
	// service's first instance; empty: they are not read meanwhile.
	SpoolDir string
	// MaxSpool bounds what those bodies take of the disk; default 1 GiB.
	MaxSpool int64
	// SlowStart is how long an instance that comes beside others gets less than its share
	// of the calls; default: none of the sort.
	SlowStart time.Duration
	// Limits bound the calls of tokens, organizations and services.
	Limits Limits
	// Log takes what went wrong with instances; default: nowhere.
	Log *slog.Logger
	// Metrics takes the proxy's collectors; default: none are registered.
	Metrics prometheus.Registerer
}

// Proxy sends calls to instances.
type Proxy struct {
	table   *Table
	opt     Options
	log     limitedLog
	metrics *metrics
	bufs    sync.Pool // of *[]byte, bufSize long
	tunnels tunnels
	rec     *recorder
	limiter *limiter

	round   atomic.Uint32 // CountRound
	carried [2]atomic.Int64
}

// smallBody is the longest body that is read before an instance is taken, so
// that a slow caller keeps no instance busy and the call can be sent again.
const smallBody = 32 << 10

// smallBodyIdles is how long a small body may take in all, in idle deadlines.
const smallBodyIdles = 4

// bufSize fits a small body, or a piece of a large one with its chunk's frame.
const bufSize = smallBody + chunkRoom + 2

// heldOverhead is what a waiting call costs besides its body: connection buffers,
// headers, stack.
const heldOverhead = 16 << 10

// maxSafeTries bounds how often a safe call is sent to instances that then die.
const maxSafeTries = 3

// maxMethod is longer than any method that is registered.
const maxMethod = 32

// handlerMethod tells whether a handler's agent gets to see the method: it answers those
// of HTTP itself, most of them with 501 (compute.md §8.1), and knows no others.
func handlerMethod(m string) bool {
	switch m {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodHead, http.MethodPatch, http.MethodDelete, http.MethodOptions, "QUERY":
		return true
	}
	return false
}

// NewProxy returns a proxy over the routes of a table that nobody uses yet.
func NewProxy(t *Table, opt Options) *Proxy {
	opt.FirstByte = cmp.Or(opt.FirstByte, 30*time.Second)
	opt.Idle = cmp.Or(opt.Idle, 30*time.Second)
	opt.TunnelIdle = cmp.Or(opt.TunnelIdle, 5*time.Minute)
	opt.Hold = cmp.Or(opt.Hold, 30*time.Second)
	opt.MaxHeld = cmp.Or(opt.MaxHeld, 1000)
	opt.MaxSpool = cmp.Or(opt.MaxSpool, 1<<30)
	opt.MaxHeldBytes = cmp.Or(opt.MaxHeldBytes, 64<<20)
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	t.slowStart = opt.SlowStart
	p := &Proxy{rec: newRecorder(), table: t, opt: opt, log: limitedLog{log: opt.Log}, metrics: newMetrics(opt.Metrics, t), limiter: newLimiter(opt.Limits)}
	p.metrics.recordings(opt.Metrics, p.rec)
	p.metrics.tunnels(opt.Metrics, p.tunnels.count)
	p.bufs.New = func() any { b := make([]byte, bufSize); return &b }
	return p
}

// Call is a call that was authenticated and authorised.
type Call struct {
	Target
	User plat.UserID
	// Credential names what the caller proved who it is with, for the limits of a token;
	// it is no secret itself.
	Credential string
	RequestID  string
	// Async, when not nil, asks the instance to answer 202 at once and to bring the
	// result later (compute.md §8.3).
	Async *Async
	// Switched, when not nil, is told at the end of a call that switched protocols how many
	// bytes came from the caller since and went there.
	Switched func(received, sent int64)
	// Path is what follows the service or alias in the URL, still escaped; only
	// services that run a command get it.
	Path string
}

// Async goes with an asynchronous call.
type Async struct {
	// ID and Token are what the instance brings the result with.
	ID, Token string
	// Taken is told which instance answered 202. The instance has the call under way
	// until Taken returns: whoever waits for it to drain finds the call noted.
	Taken func(plat.WorkloadID)
}

// ServeCall answers r by an instance of the service that the call names, or
// with the API's error body: 404 and 403 as Lookup says, 408 when the caller
// stops sending, 429 over a limit, 502 when an instance failed, 503 when none was free in time,
// 504 when it did not answer in time. An answer that breaks off after it began
// aborts the connection (http.ErrAbortHandler), as nothing else tells the caller.
//
// The response writer must be net/http's own or lead to it by Unwrap, for
// deadlines and flushes.
func (p *Proxy) ServeCall(w http.ResponseWriter, r *http.Request, call Call) {
	start := time.Now()
	buf := p.bufs.Get().(*[]byte)
	x := &exchange{p: p, w: w, r: r, call: &call, buf: *buf, rc: *http.NewResponseController(w), class: classCut, round: p.round.Load() & 1}
	defer func() {
		end := time.Now()
		took := end.Sub(start)
		if x.tunnel { // how long it stood says nothing of how fast it was answered
			p.metrics.calls[x.class].Inc()
			took = -1
		} else {
			p.metrics.done(x.class, took)
		}
		if x.live != nil {
			x.live.count(end, took, x.class)
			x.recorded(start, end)
		}
		p.bufs.Put(buf)
		p.limiter.done(x.ticket)
	}()
	x.serve(start)
}

// exchange is one call on its way through.
type exchange struct {
	p      *Proxy
	w      http.ResponseWriter
	r      *http.Request
	rc     http.ResponseController
	call   *Call
	live   *service   // that the call is for, as far as it is known
	rec    *Recording // of the call, when it is one of those that are recorded
	asked  bool       // what is recorded as its input is the query
	status int        // of the answer; 0 before it begins
	whole  bool       // the instance's answer came to its end
	buf    []byte     // holds body until an answer begins, then the answer's pieces

	body   []byte // a small body, whole
	stream bool   // the body is sent on as it comes
	spool  *spool // takes a streamed body while the call waits, if it does
	pump   *pump  // of a streamed body, once that has begun
	class  int    // of the outcome
	ticket ticket // of the limiter
	round  uint32 // of CountRound, modulo 2, when it began

	upgrade string // the protocol that the caller wants to switch to
	tunnel  bool   // it has switched
}

// result is what became of one try.
type result struct {
	untouched bool      // the instance got nothing of the call
	again     bool      // the call may be sent again
	avoid     *instance // preferably not to this one
}

func (x *exchange) serve(start time.Time) {
	switch m := x.r.Method; {
	case m == http.MethodConnect:
		x.fail(http.StatusMethodNotAllowed, "the gateway opens no tunnels", 0)
		return
	case m == http.MethodTrace: // it would show what the gateway adds
		x.fail(http.StatusMethodNotAllowed, "the gateway passes no TRACE on", 0)
		return
	// HTTP/2 lets any text through, and it would stand in the request line.
	case !tokenText(m) || strings.Contains(m, "/") || len(m) > maxMethod:
		x.fail(http.StatusBadRequest, "the method is no token (RFC 9110) of up to 32 characters", 0)
		return
	}
	// A wrong name is answered before the body is asked for.
	rt, err := x.p.table.Enter(&x.call.Target)
	if err != nil {
		x.refuse(err)
		return
	}
	if !rt.command && !handlerMethod(x.r.Method) {
		x.w.Header().Set("Allow", "GET, POST, PUT")
		x.fail(http.StatusMethodNotAllowed, "a handler is called by GET, POST or PUT; a version with a command takes any method", 0)
		return
	}
	x.live = rt.live
	var over *refusal
	if x.ticket, over = x.p.limiter.admit(x.call.Org, x.call.Credential, &rt.live.quota, rt.limit, x.call.own); over != nil {
		x.refuseLimit(over)
		return
	}
	if !x.takeBody() {
		return
	}
	x.begin(rt)
	h := hold{
		until: start.Add(x.p.opt.Hold), maxCalls: x.p.opt.MaxHeld,
		bytes: heldOverhead + int64(len(x.body)), maxBytes: x.p.opt.MaxHeldBytes, tenant: x.ticket.tenant,
	}
	if x.stream {
		h.bytes += bufSize
		if x.p.opt.SpoolDir != "" {
			h.spool, h.shared = x.takeSpool, x.shared()
			defer func() {
				if x.spool != nil {
					x.spool.close()
				}
			}()
		}
	}
	for tries := 1; ; {
		in, rt, err := x.acquire(h)
		switch {
		case x.r.Context().Err() != nil:
			if in != nil {
				in.service.release(in, silent)
			}
			x.class = classGone
			return
		case errors.Is(err, errBodyFailed):
			x.callerFailed(x.spool.end)
			return
		case err != nil:
			x.refuse(err)
			return
		}
		x.live = rt.live
		res := x.carry(in, rt, tries, h.until)
		if !res.again {
			return
		}
		x.p.metrics.retries.Inc()
		if !res.untouched {
			tries++
		}
		h.avoid = res.avoid
	}
}

// carry is try, counted: what an instance has goes on by itself, whatever becomes of the
// rest of the server. An asynchronous call is still to be recorded.
func (x *exchange) carry(in *instance, rt *Route, tries int, until time.Time) result {
	if x.call.Async == nil {
		n := &x.p.carried[x.round]
		n.Add(1)
		defer n.Add(-1)
	}
	return x.try(in, rt, tries, until)
}

// CountRound has Carried count the calls that begin from now on under a round. Two are told
// apart: those of an even number, and of an odd one.
func (p *Proxy) CountRound(round uint32) { p.round.Store(round) }

// Carried returns how many calls of a round have an instance: they need this process for
// nothing but its connections.
func (p *Proxy) Carried(round uint32) int64 { return p.carried[round&1].Load() }

// acquire takes an instance of the service that the target names now.
func (x *exchange) acquire(h hold) (*instance, *Route, error) {
	for {
		rt, err := x.p.table.Lookup(x.call.Target)
		if err != nil {
			return nil, nil, err
		}
		if rt.refuse != nil {
			return nil, nil, rt.refuse
		}
		h.routed = func() bool {
			now, err := x.p.table.Lookup(x.call.Target)
			return err == nil && now.live == rt.live
		}
		in, err := rt.live.acquire(x.r.Context(), h)
		if in != nil || err != nil {
			return in, rt, err
		}
	}
}

// takeSpool begins to take the body of a call that waits, unless it has begun.
func (x *exchange) takeSpool() (<-chan struct{}, error) {
	if x.spool == nil {
		s, err := startSpool(x)
		if err != nil {
			return nil, err
		}
		x.spool = s
	}
	return x.spool.failed, nil
}

// takeBody reads a small body whole; a longer one, or one of unknown length, is
// left to be streamed. It reports false when the call has ended.
func (x *exchange) takeBody() bool {
	switch n := x.r.ContentLength; {
	case n == 0 || x.r.Body == nil || x.r.Body == http.NoBody:
		return true
	case n < 0 || n > smallBody:
		x.stream = true
		return true
	default:
		x.body = x.buf[:n]
	}
	end := time.Now().Add(smallBodyIdles * x.p.opt.Idle) // else a byte at a time would take days
	for got := 0; got < len(x.body); {
		by := time.Now().Add(x.p.opt.Idle)
		if by.After(end) {
			by = end
		}
		x.callerSendsBy(by)
		n, err := x.r.Body.Read(x.body[got:])
		got += n
		if err != nil && got < len(x.body) {
			x.callerFailed(err)
			return false
		}
	}
	// net/http watches for the caller's leaving from here on; a deadline left
	// behind would look like that.
	x.callerSendsBy(time.Time{})
	return true
}

// callerSendsBy and callerTakesBy set the deadlines of the caller's connection.
// A writer that has none (a recorder in a test) has nobody to wait for.
func (x *exchange) callerSendsBy(t time.Time) { _ = x.rc.SetReadDeadline(t) }
func (x *exchange) callerTakesBy(t time.Time) { _ = x.rc.SetWriteDeadline(t) }

// callerFailed ends a call whose body could not be read.
func (x *exchange) callerFailed(err error) {
	if x.r.ProtoMajor == 1 {
		x.w.Header().Set("Connection", "close") // the rest of the body is no request
	}
	var (
		long *http.MaxBytesError
		lost *net.OpError
	)
	switch {
	case errors.Is(err, plat.ErrUnavailable): // the spool's fault
		x.refuse(err)
	case errors.As(err, &long):
		x.fail(http.StatusRequestEntityTooLarge, "the body is too long", 0)
	case errors.Is(err, os.ErrDeadlineExceeded):
		x.fail(http.StatusRequestTimeout, "the body stopped arriving", 0)
	case x.r.ProtoMajor == 1 && x.r.ContentLength < 0 && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.As(err, &lost):
		x.fail(http.StatusBadRequest, "the body's chunks are malformed", 0)
	default:
		x.class = classGone
		panic(http.ErrAbortHandler)
	}
}

// try sends the call to one instance and, unless it may be sent again, answers it.
// The instance is released when its part is done. Until the given time a call that
// an ending instance has turned away may go to another.
func (x *exchange) try(in *instance, rt *Route, tries int, until time.Time) result {
	ctx := x.r.Context()
	c, err := in.connect(ctx)
	if err != nil {
		if ctx.Err() != nil {
			in.service.release(in, silent)
			x.class = classGone
			return result{}
		}
		in.service.release(in, refused)
		x.logFailure(in, "instance refuses connections", err)
		return result{untouched: true, again: true, avoid: in}
	}
	u := &upstream{
		conn: c, in: in, detach: context.AfterFunc(ctx, c.close),
		firstByte: cmp.Or(rt.firstByte, x.p.opt.FirstByte),
		idle:      cmp.Or(rt.idle, x.p.opt.Idle),
	}
	if in.once {
		u.firstByte = min(u.firstByte, onceLimit)
	}
	defer u.end(false) // whatever happens, the instance gets free
	length := int64(len(x.body))
	if x.stream {
		length = x.r.ContentLength
	}
	x.upgrade = ""
	if rt.command {
		x.upgrade = upgradeOf(x.r)
	}
	c.head = appendHead(c.head[:0], x.r, x.call, rt, in, length)
	c.bothBy(u.firstByte)
	send := c.sendAndWait
	if x.stream {
		send, c.by = c.send, time.Time{} // the pump moves them
	}
	sent, err := send(c.head, x.body)
	if err != nil && !sent {
		if ctx.Err() != nil {
			x.class = classGone
			return result{}
		}
		// A kept connection that has closed says nothing of the instance; the supply of
		// those is finite.
		if c.kept {
			return result{untouched: true, again: true}
		}
		u.outcome = refused
		x.logFailure(in, "instance closed before the request", err)
		return result{untouched: true, again: true, avoid: in}
	}
	// A write that broke off midway may still have an answer: read on.
	if x.stream {
		x.pump = startPump(x, u)
		defer x.pump.stop()
	}
	resp, err := c.readAnswer(x.r, x.upgrade != "", x.w.Header()) //nolint:bodyclose // answer closes it, with the connection
	if err != nil {
		return x.noAnswer(u, err, tries)
	}
	u.outcome = answered
	switch marked := resp.Request != nil; { // an ordinary answer has no mark
	case marked && !x.stream && resp.Header.Get(headerUnhandled) != "" && time.Now().Before(until):
		u.outcome = refused
		return result{untouched: true, again: true, avoid: in}
	case marked && resp.Header.Get(headerFailed) != "":
		u.outcome = broke
	}
	if x.call.Async != nil && resp.StatusCode == http.StatusAccepted {
		x.call.Async.Taken(in.id)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		x.switchProtocols(u, resp)
		return result{}
	}
	x.answer(u, resp)
	return result{}
}

// noAnswer ends a try that got no answer.
func (x *exchange) noAnswer(u *upstream, err error, tries int) result {
	gone := x.r.Context().Err() != nil
	nothing := u.conn.src.left == maxAnswerHead
	if !gone && x.pump == nil { // else the caller may be the reason
		u.outcome = broke
	}
	u.end(false)
	if x.pump != nil {
		x.pump.stop()
		caller := x.pump.caller
		if caller == nil && x.pump.cut && errors.Is(err, os.ErrDeadlineExceeded) {
			caller = err // the instance had nothing to answer to yet
		}
		if caller != nil {
			x.callerFailed(caller)
			return result{}
		}
	}
	safe := x.r.Method == http.MethodGet || x.r.Method == http.MethodHead
	switch {
	case gone:
		x.class = classGone
	case errors.Is(err, os.ErrDeadlineExceeded):
		x.logFailure(u.in, "instance did not answer in time", err)
		x.fail(http.StatusGatewayTimeout, "the service did not answer in time", 0)
	case nothing && safe && !x.stream && tries < maxSafeTries:
		x.logFailure(u.in, "instance died under a call that is sent again", err)
		return result{again: true, avoid: u.in}
	default:
		x.logFailure(u.in, "instance failed under a call", err)
		x.fail(http.StatusBadGateway, "the service's instance failed while it handled the call", 0)
	}
	return result{}
}
