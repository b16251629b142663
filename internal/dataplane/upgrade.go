// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// An upgrade (WebSocket) turns a call into a tunnel: after the instance has agreed,
// bytes go both ways as they come, and nothing of them is looked at but where a
// WebSocket's frames to the caller begin. A tunnel is a call under way on its instance
// until both sides have ended, so it counts against the instance's limit, and a drain
// waits for it.

var errNotAgreed = errors.New("the instance switches to another protocol than the one it was asked for")

// upgradeOf returns the protocol that a request asks to switch to, "" for none. Only
// commands speak others, a request that has a body switches to none (RFC 9110
// would have it sent first), and h2c is not the caller's to negotiate with an instance.
func upgradeOf(r *http.Request) string {
	v := r.Header["Upgrade"]
	if r.ProtoMajor != 1 || r.ProtoMinor != 1 || r.Method != http.MethodGet || r.ContentLength != 0 || len(v) != 1 ||
		!asksFor(r.Header, "upgrade") || !tokenText(v[0]) || strings.EqualFold(v[0], "h2c") {
		return ""
	}
	return v[0]
}

// asksFor tells whether Connection names an option.
func asksFor(h http.Header, option string) bool {
	for _, v := range h["Connection"] {
		for token := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(textproto.TrimString(token), option) {
				return true
			}
		}
	}
	return false
}

// tokenText tells whether s is a protocol's name, with or without a version.
func tokenText(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c|0x20 && c|0x20 <= 'z', '0' <= c && c <= '9', strings.IndexByte("!#$%&'*+-.^_`|~/", c) >= 0:
		default:
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// switchProtocols answers 101 and carries the tunnel to its end.
func (x *exchange) switchProtocols(u *upstream, resp *http.Response) {
	if v := resp.Header["Upgrade"]; len(v) != 1 || !strings.EqualFold(v[0], x.upgrade) || !asksFor(resp.Header, "upgrade") {
		x.logFailure(u.in, "instance failed under a call", errNotAgreed)
		x.fail(http.StatusBadGateway, "the service's instance answered with a protocol that was not asked for", 0)
		return
	}
	tunnels := &x.p.tunnels
	e := &ending{tunnel: true, orderly: strings.EqualFold(x.upgrade, "websocket"), wake: func() { u.conn.readBy(longAgo()) }, cut: u.conn.close}
	if !tunnels.begin(e) {
		x.fail(http.StatusServiceUnavailable, "the gateway is ending; connect again", time.Second)
		return
	}
	defer tunnels.end(e)
	caller, buffered, err := x.rc.Hijack()
	if err != nil { // a recorder, or a server that can't
		x.fail(http.StatusNotImplemented, "this connection can't switch protocols", 0)
		return
	}
	x.tunnel = true
	defer func() { _ = caller.Close() }() // the deadlines below have told all there is
	h := http.Header{}
	copyHeaders(h, resp)
	x.identify(h)
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", resp.Header.Get("Upgrade"))
	head := append(x.buf[:0], "HTTP/1.1 101 Switching Protocols"...)
	for name, values := range h {
		for _, v := range values {
			head = appendField(head, name, v)
		}
	}
	head = append(head, "\r\n\r\n"...)
	_ = u.conn.nc.SetDeadline(time.Time{}) // fails only when closed, and then so does the copy
	_ = caller.SetDeadline(time.Now().Add(u.idle))
	u.in.flow(e) // before the caller knows: it may be ended at once
	defer u.in.flown(e)
	if _, err := caller.Write(head); err != nil {
		x.class = classGone
		return
	}
	x.class = classOf(resp.StatusCode)
	t := &tunnel{idle: x.p.opt.TunnelIdle}
	t.progress.Store(time.Now().UnixNano())
	// What either side has said already is in the buffers.
	var both sync.WaitGroup
	var received, sent int64
	both.Go(func() { received = t.copy(u.conn.nc, caller, buffered.Reader, nil) })
	sent = t.copy(caller, u.conn.nc, u.conn.br, e)
	both.Wait()
	if x.call.Switched != nil {
		x.call.Switched(received, sent)
	}
}

// tunnel is the two directions of an upgraded call.
type tunnel struct {
	idle     time.Duration
	progress atomic.Int64 // when a byte last went either way, in Unix nanoseconds
}

// copy carries one direction until its source ends, which it passes on, or until
// nothing has gone either way for too long; then it closes both. A direction that e
// may end is a WebSocket's to its caller if e is orderly. It returns how many bytes it has
// carried.
func (t *tunnel) copy(dst, src net.Conn, from io.Reader, e *ending) (carried int64) {
	buf := make([]byte, 16<<10)
	var fr *frames
	if e != nil && e.orderly {
		fr = &frames{}
		e.between.Store(true)
	}
	for {
		_ = src.SetReadDeadline(time.Unix(0, t.progress.Load()).Add(t.idle))
		e.look()
		n, err := from.Read(buf)
		end := false
		if fr != nil {
			last := fr.pass(buf[:n])
			if end = last >= 0 && e.asked(); end {
				n = last
			}
		}
		if n > 0 {
			t.progress.Store(time.Now().UnixNano())
			_ = dst.SetWriteDeadline(time.Now().Add(t.idle))
			n, err := dst.Write(buf[:n])
			carried += int64(n)
			if err != nil {
				break
			}
		}
		if end {
			t.goodbye(dst, fr, e)
			return carried
		}
		if fr != nil {
			e.between.Store(fr.between())
		}
		switch {
		case err == nil:
			continue
		case isTimeout(err) && time.Since(time.Unix(0, t.progress.Load())) < t.idle:
			continue // the other direction has moved meanwhile
		case err == io.EOF:
			if half, ok := dst.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
				return carried
			}
		}
		break
	}
	_ = dst.Close()
	_ = src.Close()
	return carried
}

// goodbye tells a WebSocket's caller that its other side goes away, and leaves it some
// time to say so, too.
func (t *tunnel) goodbye(caller net.Conn, fr *frames, e *ending) {
	_ = caller.SetWriteDeadline(time.Now().Add(endPatience))
	if !fr.closed {
		_, _ = caller.Write(goingAway(e.why.Load().text())) // it may be gone: the end is the same
	}
	if half, ok := caller.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
		_ = caller.Close()
		return
	}
	time.AfterFunc(endPatience, func() { _ = caller.Close() })
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// tunnels are those under way, which net/http no longer knows of.
type tunnels struct {
	mu     sync.Mutex
	closed bool
	all    map[*ending]struct{}
	none   chan struct{} // not nil: somebody waits; closed when the last one ends
}

func (t *tunnels) begin(e *ending) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	if t.all == nil {
		t.all = map[*ending]struct{}{}
	}
	t.all[e] = struct{}{}
	return true
}

func (t *tunnels) end(e *ending) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, e)
	if t.closed && len(t.all) == 0 && t.none != nil {
		close(t.none)
		t.none = nil
	}
}

func (t *tunnels) count() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return int64(len(t.all))
}

// Drain refuses new tunnels (upgraded calls) and waits until those under way have
// ended; when ctx ends it ends them. http.Server.Shutdown does not wait for them.
// Call it once.
func (p *Proxy) Drain(ctx context.Context) {
	t := &p.tunnels
	t.mu.Lock()
	t.closed = true
	none := make(chan struct{})
	if len(t.all) == 0 {
		close(none)
	} else {
		t.none = none
	}
	t.mu.Unlock()
	select {
	case <-none:
		return
	case <-ctx.Done():
	}
	t.mu.Lock()
	for e := range t.all {
		e.ask(EndGateway)
	}
	t.mu.Unlock()
	<-none
}
