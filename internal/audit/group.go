// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"panal/internal/plat"
)

const (
	// maxBatch bounds the rows of one transaction.
	maxBatch = 500
	// storeLimit ends an append that the database does not answer.
	storeLimit = 10 * time.Second
	// tries is how often an append is tried: the database may be restarting.
	tries = 3
)

// group gathers concurrent rows into one transaction each, as package lake does with
// files: while one batch commits, the next one gathers, and the first caller of a
// batch commits it for all.
type group struct {
	store func(ctx context.Context, rows []Row) error
	owe   func(rows []Row, reason error) error // keeps what store does not take

	mu   sync.Mutex
	open *batch // still gathering, or nil

	turn chan struct{} // holds one token: who has it may commit
}

type batch struct {
	rows []Row
	err  error
	done chan struct{}
}

func newGroup(store func(context.Context, []Row) error, owe func([]Row, error) error) *group {
	g := &group{store: store, owe: owe, turn: make(chan struct{}, 1)}
	g.turn <- struct{}{}
	return g
}

// do stores r. It does not end early with ctx: the call has happened.
func (g *group) do(ctx context.Context, r Row) error {
	g.mu.Lock()
	b, leader := g.open, false
	if b == nil {
		b, leader = &batch{done: make(chan struct{})}, true
		g.open = b
	}
	b.rows = append(b.rows, r)
	if len(b.rows) == maxBatch {
		g.open = nil // the next caller begins another
	}
	g.mu.Unlock()
	if leader {
		g.lead(ctx, b)
	}
	<-b.done
	return b.err
}

func (g *group) lead(ctx context.Context, b *batch) {
	<-g.turn
	runtime.Gosched() // whoever is about to bring rows comes along: fewer and larger groups (ADR 13)
	g.mu.Lock()
	if g.open == b {
		g.open = nil
	}
	g.mu.Unlock()
	b.err = errors.New("the append panicked")
	defer func() {
		g.turn <- struct{}{}
		close(b.done)
	}()
	for try := 1; ; try++ {
		actx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeLimit)
		err := g.store(actx, b.rows)
		cancel()
		if err == nil || try == tries || !errors.Is(err, plat.ErrUnavailable) {
			if b.err = err; err != nil {
				b.err = g.owe(b.rows, err)
			}
			return
		}
		time.Sleep(time.Duration(try) * 100 * time.Millisecond)
	}
}
