// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"sync"
	"time"

	"panal/internal/plat"
)

// pace bounds how many writes are under way by what others feel of them. The limiter sees the
// time that writes take, and takes more as long as that gets more done: on a database with two
// processors the last three tenths of throughput cost a search five times its time. So
// the reads that the subscriber has to make anyway are its probe: each that is slow, beside the fastest
// ones lately, takes a write away, and each that isn't gives a tenth of one back. It settles
// where one read in eleven is slow.
type pace struct {
	min, max float64

	mu    sync.Mutex
	limit float64
	busy  int
	freed chan struct{} // closed and replaced when a write may begin
	base  time.Duration // of the fastest read, growing slowly: databases change
}

const (
	// slowRead is by how much a read exceeds paceFactor times the fastest one when it's slow:
	// under what people notice, and over what a scheduler does to a read alone.
	slowRead   = 16 * time.Millisecond
	paceFactor = 3
	paceGain   = 0.1
)

func newPace(low, high uint) *pace {
	return &pace{min: float64(low), max: float64(high), limit: float64(min(2*low, high)), freed: make(chan struct{})}
}

// read says how long one took.
func (p *pace) read(took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.base += p.base / 256; p.base == 0 || took < p.base {
		p.base = took
	}
	if took > paceFactor*p.base+slowRead {
		p.limit = max(p.limit-1, p.min)
		return
	}
	before := int(p.limit)
	if p.limit = min(p.limit+paceGain, p.max); int(p.limit) > before {
		p.wake()
	}
}

func (p *pace) wake() {
	close(p.freed)
	p.freed = make(chan struct{})
}

// enter waits until one more write may be under way; leave ends it.
func (p *pace) enter(ctx context.Context) error {
	for {
		p.mu.Lock()
		if p.busy < int(p.limit) {
			p.busy++
			p.mu.Unlock()
			return nil
		}
		freed := p.freed
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-freed:
		}
	}
}

func (p *pace) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy--
	p.wake()
}

// now returns how many writes may be under way.
func (p *pace) now() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int64(p.limit)
}

type store = Rows // a field of that name would hide the method

// pacedRows tells a pace of its reads.
type pacedRows struct {
	store
	pace *pace
}

// Rows implements Rows.
func (r pacedRows) Rows(ctx context.Context, channel plat.ChannelID, keys []string) (map[string]Row, error) {
	begun := time.Now()
	out, err := r.store.Rows(ctx, channel, keys)
	if err == nil {
		r.pace.read(time.Since(begun))
	}
	return out, err
}
