// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"panal/internal/plat"
)

// upstream is an instance's part in one try.
type upstream struct {
	conn            *conn
	in              *instance
	detach          func() bool // ends the conn's tie to the caller's presence
	firstByte, idle time.Duration
	outcome         outcome
	ended           bool
}

// end gives the instance back, and its connection when keep says that it is fit
// for another call. Only the first end counts.
func (u *upstream) end(keep bool) {
	if u.ended {
		return
	}
	u.ended = true
	if u.detach() && keep {
		u.in.keep(u.conn)
	} else {
		u.conn.close()
	}
	u.in.service.release(u.in, u.outcome)
}

// answer copies the instance's answer to the caller.
func (x *exchange) answer(u *upstream, resp *http.Response) {
	h := x.w.Header()
	if resp.Request != nil { // not an ordinary one, whose headers are there
		copyHeaders(h, resp)
	}
	x.identify(h)
	x.class, x.status = classOf(resp.StatusCode), resp.StatusCode
	x.closeUnlessPumped()
	x.beginOutput(resp.Header)

	// Most answers come whole, together with their head: then the instance is
	// free before the caller gets a byte, and the caller gets it in one piece.
	begun := false
	var f *flow
	defer func() { f.leave() }()
	if u.conn.br.Buffered() == 0 && resp.Body != http.NoBody {
		begun = true
		f = u.flows(x.r, resp)
		x.w.WriteHeader(resp.StatusCode)
		x.give(nil, u.idle, true)
	}
	for {
		if u.conn.br.Buffered() == 0 {
			u.conn.by = time.Time{}
			u.conn.readBy(time.Now().Add(u.idle))
			if f != nil {
				f.look()
			}
		}
		n, err := resp.Body.Read(x.buf)
		whole := err == io.EOF
		end := -1
		if !whole {
			if end = f.endAt(x.buf[:n]); end >= 0 {
				n = end
			}
		}
		x.keepOutput(x.buf[:n])
		if whole {
			x.whole = true
			u.end(f.leave() && !resp.Close && x.pumped()) // a late ask may still touch the connection
			copyTrailers(h, resp)
		}
		if !begun {
			x.w.WriteHeader(resp.StatusCode)
			if whole {
				x.finish(x.buf[:n])
				return
			}
			begun = true
			f = u.flows(x.r, resp)
		}
		x.give(x.buf[:n], u.idle, whole || end >= 0 || u.conn.br.Buffered() == 0)
		f.gave(x.buf[:n])
		switch {
		case whole:
			x.callerTakesBy(time.Time{})
			return
		case end >= 0:
			x.endEvents(u, f)
			return
		case err != nil:
			switch {
			case x.r.Context().Err() != nil:
				x.class = classGone
			case f.asked():
				x.class = classCut
			default:
				x.class, u.outcome = classCut, broke
				x.logFailure(u.in, "answer broke off", err)
			}
			panic(http.ErrAbortHandler)
		}
	}
}

// identify sets the request's id, unless it is there: the edge sets it first of all.
func (x *exchange) identify(h http.Header) {
	if v := h[canonicalRequestID]; len(v) != 1 || v[0] != x.call.RequestID {
		h[canonicalRequestID] = []string{x.call.RequestID}
	}
}

// give sends a piece of a streamed answer, at once if flush says so. The caller
// must make progress within idle.
func (x *exchange) give(b []byte, idle time.Duration, flush bool) {
	x.callerTakesBy(time.Now().Add(idle))
	var err error
	if len(b) > 0 {
		_, err = x.w.Write(b)
	}
	if err == nil && flush {
		if err = x.rc.Flush(); errors.Is(err, http.ErrNotSupported) {
			err = nil // a recorder: it has all there is
		}
	}
	if err != nil {
		x.class = classGone
		panic(http.ErrAbortHandler)
	}
}

// finish sends the only piece of an answer.
func (x *exchange) finish(b []byte) {
	if len(b) == 0 {
		return
	}
	if _, err := x.w.Write(b); err != nil {
		x.class = classGone
		panic(http.ErrAbortHandler)
	}
}

// pump sends a caller's body on to an instance while the answer is awaited and
// copied. Its results may be read once done is closed.
type pump struct {
	x    *exchange
	done chan struct{}
	// eof tells that the body was read to its end and sent.
	eof bool
	// caller is why the body could not be read, if that is how it ended; not when
	// reading was broken off by stop.
	caller  error
	stopped atomic.Bool
	cut     bool // by stop, while the caller had to send
	stop    func()
}

func startPump(x *exchange, u *upstream) *pump {
	// Without full duplex net/http would swallow the rest of the body when the
	// answer begins. A server that can't (HTTP/1.0) answers after the body.
	_ = x.rc.EnableFullDuplex()
	m := &pump{x: x, done: make(chan struct{})}
	m.stop = sync.OnceFunc(func() {
		select {
		case <-m.done:
		default:
			m.stopped.Store(true)
			u.conn.close()
			if x.spool != nil {
				x.spool.interrupt()
			} else {
				x.callerSendsBy(longAgo())
			}
			<-m.done
		}
	})
	go func() {
		defer close(m.done)
		m.run(u)
	}()
	return m
}

func (m *pump) run(u *upstream) {
	x := m.x
	buf := x.p.bufs.Get().(*[]byte)
	defer x.p.bufs.Put(buf)
	b, chunked := *buf, x.r.ContentLength < 0
	body, callerSendsBy := io.Reader(x.r.Body), x.callerSendsBy
	if x.spool != nil { // which looks after the caller
		body, callerSendsBy = x.spool, func(time.Time) {}
	}
	for {
		callerSendsBy(time.Now().Add(u.idle))
		if m.stopped.Load() {
			callerSendsBy(longAgo()) // as stop did, perhaps before this
		}
		n, err := body.Read(b[chunkRoom : chunkRoom+smallBody])
		now := time.Now()
		var sendErr error
		if n > 0 {
			x.keepInput(b[chunkRoom : chunkRoom+n])
			u.conn.writeBy(now.Add(u.idle))
			if chunked {
				sendErr = u.conn.sendChunk(b, n)
			} else {
				_, sendErr = u.conn.nc.Write(b[chunkRoom : chunkRoom+n])
			}
		}
		if err == io.EOF && chunked && sendErr == nil {
			sendErr = u.conn.sendLastChunk(x.r.Trailer)
		}
		switch {
		case sendErr != nil:
			return // the reader of the answer learns why
		case err == io.EOF:
			u.conn.readBy(time.Now().Add(u.firstByte))
			m.eof = true
			callerSendsBy(time.Time{})
			return
		case err != nil:
			if m.cut = m.stopped.Load(); !m.cut {
				m.caller = err
			}
			u.conn.close() // the instance must not take a part for the whole
			return
		}
		// Progress of the request is progress.
		u.conn.readBy(time.Now().Add(u.firstByte))
	}
}

// pumped tells whether the request's body, if it is streamed, was sent whole.
func (x *exchange) pumped() bool {
	if x.pump == nil {
		return x.spool == nil || x.spool.whole()
	}
	select {
	case <-x.pump.done:
		return x.pump.eof
	default:
		return false
	}
}

// closeUnlessPumped announces the end of the caller's connection when part of
// the body may stay unread: the rest must never be taken for a request.
func (x *exchange) closeUnlessPumped() {
	if !x.pumped() && x.r.ProtoMajor == 1 {
		x.w.Header().Set("Connection", "close")
	}
}

// refuse answers with the status of the error's kind.
func (x *exchange) refuse(err error) {
	switch {
	case errors.Is(err, plat.ErrNotFound):
		x.fail(http.StatusNotFound, public(err), 0)
	case errors.Is(err, plat.ErrForbidden):
		x.fail(http.StatusForbidden, public(err), 0)
	default:
		x.fail(http.StatusServiceUnavailable, public(err), time.Second)
	}
}

func public(err error) string {
	if e, ok := errors.AsType[*plat.Error](err); ok {
		return e.Public
	}
	return "the service is not available"
}

// fail answers with the API's error body (compute.md §1.4).
func (x *exchange) fail(status int, description string, retryAfter time.Duration) {
	x.failWith(status, description, nil, retryAfter)
}

func (x *exchange) failWith(status int, description string, detail map[string][]string, retryAfter time.Duration) {
	x.class, x.status = classOf(status), status
	x.closeUnlessPumped()
	h := x.w.Header()
	x.identify(h)
	h.Set("Content-Type", "application/json")
	if retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
	}
	if status >= http.StatusInternalServerError {
		description += " (request " + x.call.RequestID + ")"
	}
	body, err := json.Marshal(struct {
		Error       string              `json:"error"`
		Description string              `json:"error_description"`
		Detail      map[string][]string `json:"error_detail"`
	}{strings.ReplaceAll(strings.ToLower(http.StatusText(status)), " ", "_"), description, detail})
	if err != nil {
		panic("BUG: error body: " + err.Error())
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	x.w.WriteHeader(status)
	x.finish(body)
}

func (x *exchange) logFailure(in *instance, msg string, err error) {
	x.p.log.warn(x.r.Context(), msg,
		slog.String(plat.LogRequest, x.call.RequestID), slog.String(plat.LogOrg, string(x.call.Org)),
		slog.String(plat.LogService, string(in.service.id)), slog.String(plat.LogWorkload, string(in.id)),
		slog.String(plat.LogError, err.Error()))
}
