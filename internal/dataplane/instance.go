// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"net"
	"sync"
	"time"

	"panal/internal/plat"
	"panal/internal/x/rawio"
)

// instance is the live state of one instance. There may be very many.
type instance struct {
	id           plat.WorkloadID
	address, key string
	service      *service

	// Guarded by service.mu.
	drained     chan struct{} // nil until somebody waits; closed once gone is true
	skipUntil   time.Duration // no call before that (Table.clock)
	limit       int32
	outstanding int32
	warmFrom    int32 // when it began to get its first calls (Table.tick); 0: long ago
	refusals    uint8 // dials refused in a row
	failures    uint8 // calls in a row that it gave no answer to
	ejections   uint8 // times in a row that it was left out for those
	suspect     bool
	retired     bool
	gone        bool // it has left and its last call has ended

	// once is true for an instance that did not say how many calls it takes: it is
	// treated as the original's agent, which takes one call per connection.
	once bool

	unix bool // address is a path, not host:port

	// Guarded by mu.
	closed bool // keep no connections
	mu     sync.Mutex
	used   *instanceUse // nil until the first call: of many instances most have none
}

// instanceUse is what the calls of an instance left or have.
type instanceUse struct {
	idle  []*conn              // kept connections, the one used last on top
	flows map[*ending]struct{} // answers that flow
}

const netUnix = "unix"

func (in *instance) network() string {
	if in.unix {
		return netUnix
	}
	return "tcp"
}

// use returns what calls left. The caller holds mu.
func (in *instance) use() *instanceUse {
	if in.used == nil {
		in.used = &instanceUse{flows: map[*ending]struct{}{}}
	}
	return in.used
}

func newInstance(s *service, r *Instance) *instance {
	return &instance{
		id: r.ID, unix: r.Network == netUnix, address: r.Address, key: r.Key, once: r.Limit < 1,
		service: s,
	}
}

// left notes that the instance has left and its last call has ended. The caller holds
// service.mu.
func (in *instance) left() {
	in.gone = true
	if in.drained != nil {
		close(in.drained)
	}
}

// whenGone returns what is closed once the instance is gone; nil: it is.
func (in *instance) whenGone() <-chan struct{} {
	in.service.mu.Lock()
	defer in.service.mu.Unlock()
	if in.gone {
		return nil
	}
	if in.drained == nil {
		in.drained = make(chan struct{})
	}
	return in.drained
}

// dialTimeout bounds connecting. Instances are near; what does not accept within
// this is as good as gone.
const dialTimeout = 5 * time.Second

// onceLimit is how long the original's agent takes for a call.
const onceLimit = 30 * time.Second

// connect returns a kept connection that is still alive, or a new one. A Unix socket
// needs no look: what is written to a closed one fails, and nothing of it is sent.
func (in *instance) connect(ctx context.Context) (*conn, error) {
	for {
		in.mu.Lock()
		u := in.use()
		n := len(u.idle)
		if n == 0 {
			in.mu.Unlock()
			break
		}
		c := u.idle[n-1]
		u.idle[n-1] = nil
		u.idle = u.idle[:n-1]
		in.mu.Unlock()
		if in.unix && c.br.Buffered() == 0 || c.alive() {
			c.kept = true
			return c, nil
		}
		c.close()
	}
	d := net.Dialer{Timeout: dialTimeout}
	nc, err := d.DialContext(ctx, in.network(), in.address)
	if err != nil {
		return nil, err
	}
	if unix, ok := nc.(*net.UnixConn); ok {
		nc = rawio.Quiet(unix)
	}
	return newConn(nc)
}

// keep takes back a connection for the next call. Their number is bounded by
// the instance's limit, as each comes from a call.
func (in *instance) keep(c *conn) {
	in.mu.Lock()
	ok := !in.closed && !in.once
	if ok {
		u := in.use()
		u.idle = append(u.idle, c)
	}
	in.mu.Unlock()
	if !ok {
		c.close()
	}
}

// closeIdle closes the kept connections; those in use close after their call.
func (in *instance) closeIdle() {
	in.mu.Lock()
	var idle []*conn
	if in.closed = true; in.used != nil {
		idle, in.used.idle = in.used.idle, nil
	}
	in.mu.Unlock()
	for _, c := range idle {
		c.close()
	}
}

// open lets the instance keep connections again.
func (in *instance) open() {
	in.mu.Lock()
	in.closed = false
	in.mu.Unlock()
}
