// SPDX-License-Identifier: Apache-2.0

package app

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// door counts the connections of all listeners that face callers, and shuts those out
// that would be too many. Without it, whoever may connect may take every
// descriptor that the process has.
type door struct {
	most, mostPerAddr int
	trusted           []netip.Prefix // proxies, which bring many callers

	last    atomic.Bool // last call was given
	open    atomic.Int64
	refused [2]prometheus.Counter // in all, of one address

	mu     sync.Mutex
	conns  map[*countedConn]struct{}
	byAddr map[netip.Prefix]int // only of addresses with a connection, so at most as many
}

func newDoor(most, mostPerAddr int, trusted []netip.Prefix, reg prometheus.Registerer) *door {
	d := &door{most: most, mostPerAddr: mostPerAddr, trusted: trusted, conns: map[*countedConn]struct{}{}, byAddr: map[netip.Prefix]int{}}
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "panal_connections_refused_total",
		Help: "Connections of callers that were refused, by the limit that they were over: all, or address.",
	}, []string{"limit"})
	d.refused[0], d.refused[1] = refused.WithLabelValues("all"), refused.WithLabelValues("address")
	reg.MustRegister(refused, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "panal_connections", Help: "Open connections of callers.",
	}, func() float64 { return float64(d.open.Load()) }))
	return d
}

// maxUnsent is how much of what was written to a caller of a service the kernel keeps unsent
// before it takes no more. Without it that is up to 4 MiB, and it says that there is room only
// once a third is free: a caller that reads 20 KiB a second would make no progress that can be
// seen for longer than --idle-timeout, and be taken for one that has stopped. Large downloads
// of files pay a third more CPU for it, so it is not for them; their time-out is longer.
const maxUnsent = 512 << 10

// boundUnsent sets maxUnsent, once.
func (c *countedConn) boundUnsent() {
	if c.bounded.Load() || c.bounded.Swap(true) {
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return // closed
	}
	// A kernel without it is less patient with slow callers, no more.
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent) })
}

// limit returns l behind the door. plain says that a refusal can be told in HTTP/1.1.
func (d *door) limit(l net.Listener, plain bool) *limitedListener {
	return &limitedListener{Listener: l, door: d, plain: plain, parked: make(chan struct{}), closed: make(chan struct{})}
}

type limitedListener struct {
	net.Listener
	door   *door
	plain  bool
	paused atomic.Bool
	park   sync.Once
	parked chan struct{} // closed when Accept takes no more
	once   sync.Once
	closed chan struct{}
}

// pause ends Accept's work: who connects stays in the socket's queue. When it returns,
// the door knows of every connection that was accepted.
func (l *limitedListener) pause(patience time.Duration) {
	l.paused.Store(true)
	if tcp, ok := l.Listener.(*net.TCPListener); ok {
		_ = tcp.SetDeadline(time.Unix(1, 0)) // fails only when closed
	}
	select {
	case <-l.parked:
	case <-time.After(patience): // it was closed, or nobody accepts
	}
}

// Close implements net.Listener.
func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// Accept implements net.Listener.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			if l.paused.Load() {
				l.park.Do(func() { close(l.parked) })
				<-l.closed
				err = net.ErrClosed
			}
			return nil, err
		}
		from, over := l.door.enter(c.RemoteAddr())
		if over == "" {
			// net/http and a tunnel need no more than net.Conn; half-closing stays possible.
			tcp, ok := c.(*net.TCPConn)
			if !ok {
				l.door.leave(from)
				_ = c.Close() // was never used
				continue
			}
			cc := &countedConn{TCPConn: tcp, door: l.door, from: from}
			l.door.mu.Lock()
			l.door.conns[cc] = struct{}{}
			l.door.mu.Unlock()
			return cc, nil
		}
		l.turnAway(c, over)
	}
}

// turnAway says why, as far as that goes without waiting: a connection's buffer is
// empty, so the write returns at once.
func (l *limitedListener) turnAway(c net.Conn, over string) {
	if l.plain {
		body := `{"error":"service_unavailable","error_description":"` + over + `","error_detail":null}`
		_ = c.SetWriteDeadline(time.Now().Add(time.Second)) // a closed one fails below
		_, _ = c.Write([]byte("HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 2\r\nConnection: close\r\n\r\n" + body))
	}
	_ = c.Close() // nobody waits for its error
}

// enter counts a connection in. over is not empty when it is one too many.
func (d *door) enter(a net.Addr) (from netip.Prefix, over string) {
	if d.open.Add(1) > int64(d.most) {
		d.open.Add(-1)
		d.refused[0].Inc()
		return from, "the server has too many connections (--max-connections)"
	}
	from = sourceOf(a)
	for _, p := range d.trusted {
		if p.Contains(from.Addr()) {
			return netip.Prefix{}, ""
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.byAddr[from] >= d.mostPerAddr {
		d.open.Add(-1)
		d.refused[1].Inc()
		return from, "this address has too many connections (--max-connections-per-address)"
	}
	d.byAddr[from]++
	return from, ""
}

func (d *door) leave(from netip.Prefix) {
	d.open.Add(-1)
	if !from.IsValid() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.byAddr[from]--; d.byAddr[from] <= 0 {
		delete(d.byAddr, from)
	}
}

// sourceOf is what counts as one address: an IPv4 address, or the /64 that one host
// of IPv6 has to itself.
func sourceOf(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 32)
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(ip, bits).Masked()
}

// countedConn is a connection that is counted until it is closed.
type countedConn struct {
	*net.TCPConn
	door *door
	from netip.Prefix
	once sync.Once

	state  atomic.Int32 // see lastCall
	served atomic.Bool  // it has had a request

	bounded atomic.Bool // by maxUnsent
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	c.once.Do(func() {
		c.door.leave(c.from)
		c.door.mu.Lock()
		delete(c.door.conns, c)
		c.door.mu.Unlock()
	})
	return c.TCPConn.Close()
}
