// SPDX-License-Identifier: Apache-2.0

package lake

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"panal/internal/plat"
)

const (
	// maxBatch bounds the files of one transaction.
	maxBatch = 500
	// commits is how many may be under way. With a second one, which has the database
	// while the first waits for the journal, batches are half as large: on SQLite that
	// costs a fifth more CPU a file and gains nothing.
	commits = 1
	// commitLimit ends a commit that the database does not answer.
	commitLimit = 30 * time.Second
)

// group gathers concurrent commits into one transaction each. There is no timer
// and no goroutine of its own: while one batch commits, the next one gathers, and
// the first caller of a batch commits it for all. So a lone upload waits for
// nobody, and under load a batch is as large as what arrives during one commit.
type group struct {
	commit func(ctx context.Context, files []NewFile) ([]Outcome, error)

	mu   sync.Mutex
	open *batch // still gathering, or nil

	turn chan struct{} // holds a token for each commit that may be under way
}

type batch struct {
	files []NewFile
	out   []Outcome
	err   error
	done  chan struct{}
}

func newGroup(commit func(context.Context, []NewFile) ([]Outcome, error)) *group {
	g := &group{commit: commit, turn: make(chan struct{}, commits)}
	for range commits {
		g.turn <- struct{}{}
	}
	return g
}

// do commits f and returns its outcome, whose error it returns too. It does not end
// early with ctx: whoever gave up could not say whether the file is there.
func (g *group) do(ctx context.Context, f NewFile) (Outcome, error) {
	g.mu.Lock()
	b, leader := g.open, false
	if b == nil {
		b, leader = &batch{done: make(chan struct{})}, true
		g.open = b
	}
	i := len(b.files)
	b.files = append(b.files, f)
	if len(b.files) == maxBatch {
		g.open = nil // the next caller begins another
	}
	g.mu.Unlock()
	if leader {
		g.lead(ctx, b)
	}
	<-b.done
	if b.err != nil {
		return Outcome{}, b.err
	}
	return b.out[i], b.out[i].Err
}

func (g *group) lead(ctx context.Context, b *batch) {
	<-g.turn
	runtime.Gosched() // whoever is about to bring files comes along: fewer and larger groups (ADR 13)
	g.mu.Lock()
	if g.open == b {
		g.open = nil
	}
	g.mu.Unlock()
	defer func() {
		if p := recover(); p != nil {
			b.err = fmt.Errorf("commit %d files: panic: %v", len(b.files), p)
			close(b.done)
			g.turn <- struct{}{}
			panic(p)
		}
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitLimit)
	b.out, b.err = g.commit(ctx, b.files)
	if b.err != nil && plat.KindOf(b.err) == nil && ctx.Err() == nil && len(b.files) > 1 {
		// One file that the database refuses must not take the others with it.
		b.out, b.err = g.oneByOne(ctx, b.files), nil
	}
	cancel()
	g.turn <- struct{}{}
	close(b.done)
}

func (g *group) oneByOne(ctx context.Context, files []NewFile) []Outcome {
	out := make([]Outcome, len(files))
	for i := range files {
		one, err := g.commit(ctx, files[i:i+1])
		if err != nil {
			out[i].Err = err
		} else {
			out[i] = one[0]
		}
	}
	return out
}
