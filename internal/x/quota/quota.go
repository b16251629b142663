// SPDX-License-Identifier: Apache-2.0

// Package quota holds back writes that would pass a limit on stored bytes.
//
// Bytes are reserved before they are stored, so that writers of one process never
// pass the limit together. Another process's writers count once they have committed
// and this process looks again: two processes can pass the limit by what they have in
// flight within a second (freshFor), and by no more.
package quota

import (
	"context"
	"io"
	"sync"
	"time"

	"panal/internal/plat"
)

const (
	// freshFor is how long a sum of the store is good for: within it, this process
	// adds what it stores itself.
	freshFor = time.Second
	// step is how much a body of unknown length reserves at once.
	step = 1 << 20
)

// Source tells a number of bytes about an organization.
type Source func(ctx context.Context, org plat.OrgID) (int64, error)

// Ledger knows what organizations may store and have stored. The nil Ledger has no
// limits. It is safe for concurrent use.
type Ledger struct {
	limit Source // 0: none
	used  []Source
	now   plat.Clock

	mu   sync.Mutex
	orgs map[plat.OrgID]*account
}

// account is one organization's. stored is what the store summed at the time at,
// plus what was stored here since; pending is what is on its way.
type account struct {
	mu              sync.Mutex
	stored, pending int64
	at              time.Time
}

// New returns a Ledger. limit is asked with every reservation and has to be cheap;
// used are summed, about once a second while an organization with a limit stores.
func New(now plat.Clock, limit Source, used ...Source) *Ledger {
	return &Ledger{limit: limit, used: used, now: now, orgs: map[plat.OrgID]*account{}}
}

// Reservation is bytes that are on their way to the store. The nil Reservation is of
// an organization without a limit.
type Reservation struct {
	l    *Ledger
	a    *account
	ctx  context.Context //nolint:containedctx // of the one request that reserves
	org  plat.OrgID
	held int64
}

// Reserve takes n bytes (-1: unknown, see Reader); ErrExhausted, naming the quota,
// when they don't fit. The caller ends it by Stored or Drop.
func (l *Ledger) Reserve(ctx context.Context, org plat.OrgID, n int64) (*Reservation, error) {
	if l == nil {
		return nil, nil //nolint:nilnil // the nil Reservation
	}
	limit, err := l.limit(ctx, org)
	if err != nil || limit == 0 {
		return nil, err
	}
	l.mu.Lock()
	a := l.orgs[org]
	if a == nil {
		a = &account{}
		l.orgs[org] = a
	}
	l.mu.Unlock()
	r := &Reservation{l: l, a: a, ctx: ctx, org: org}
	if err := r.more(max(n, 0), limit); err != nil {
		return nil, err
	}
	return r, nil
}

// more takes n more bytes, if they fit. A no is never given on an old sum.
func (r *Reservation) more(n, limit int64) error {
	r.a.mu.Lock()
	defer r.a.mu.Unlock()
	// An organization that is full takes no more, not even empty files.
	full := func() bool { return r.a.stored+r.a.pending+n > limit || r.a.stored >= limit }
	age := r.l.now().Sub(r.a.at)
	if age < 0 || age >= freshFor || full() {
		stored := int64(0)
		for _, used := range r.l.used {
			v, err := used(r.ctx, r.org)
			if err != nil {
				return err
			}
			stored += v
		}
		r.a.stored, r.a.at = stored, r.l.now()
	}
	if full() {
		return plat.Errorf(plat.ErrExhausted, "the organization's storage quota of %d bytes is reached: %d are stored, %d are on their way, and this needs %d more; delete files, or ask the operator for a larger quota",
			limit, r.a.stored, r.a.pending, n)
	}
	r.a.pending += n
	r.held += n
	return nil
}

// Reader returns body as it is when its length was known, else one that reserves as
// it goes and ends with the quota's error where the quota ends.
func (r *Reservation) Reader(body io.Reader, size int64) io.Reader {
	if r == nil || size >= 0 {
		return body
	}
	return &reader{r: r, body: body}
}

type reader struct {
	r    *Reservation
	body io.Reader
	read int64
}

// Read implements io.Reader.
func (b *reader) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	b.read += int64(n)
	if need := b.read - b.r.held; need > 0 {
		limit, lerr := b.r.l.limit(b.r.ctx, b.r.org)
		if lerr != nil {
			return 0, lerr
		}
		if limit > 0 {
			// By the step while there is room, then to the byte.
			if b.r.more(max(need, step), limit) != nil {
				if qerr := b.r.more(need, limit); qerr != nil {
					return 0, qerr
				}
			}
		}
	}
	return n, err
}

// Stored ends the reservation: n bytes are in the store and in its sum.
func (r *Reservation) Stored(n int64) {
	if r == nil {
		return
	}
	r.a.mu.Lock()
	r.a.pending -= r.held
	r.a.stored += n
	r.held = 0
	r.a.mu.Unlock()
}

// Drop ends the reservation: nothing was stored. After Stored it does nothing.
func (r *Reservation) Drop() {
	if r == nil {
		return
	}
	r.a.mu.Lock()
	r.a.pending -= r.held
	r.held = 0
	r.a.mu.Unlock()
}
