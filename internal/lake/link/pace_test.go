// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestPace: fast reads let more write, slow ones fewer, within its bounds; a database that is far away
// is not a slow one.
func TestPace(t *testing.T) {
	p := newPace(1, 4)
	feel := func(times int, d time.Duration) {
		for range times {
			p.read(d)
		}
	}
	at := func(when string, want int64) {
		t.Helper()
		if got := p.now(); got != want {
			t.Errorf("%s: %d writes, want %d", when, got, want)
		}
	}
	at("at first", 2)
	feel(100, time.Millisecond)
	at("after fast reads", 4)
	feel(1, 50*time.Millisecond)
	at("after a slow read", 3)
	feel(20, 50*time.Millisecond)
	at("after slow reads", 1)
	feel(11, time.Millisecond)
	at("after fast reads again", 2)

	p = newPace(1, 4)
	feel(100, 30*time.Millisecond)
	at("far away", 4)
}

// TestPaceEnter: no more are under way than the limit, and who waits goes on when one ends or
// the limit grows.
func TestPaceEnter(t *testing.T) {
	p := newPace(1, 2)
	p.read(time.Millisecond)
	p.read(time.Second) // one at a time from now on
	if err := p.enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.enter(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("a second write of one: %v, want to wait", err)
	}
	entered := make(chan error)
	go func() { entered <- p.enter(t.Context()) }()
	p.leave()
	if err := <-entered; err != nil {
		t.Fatal(err)
	}
	go func() { entered <- p.enter(t.Context()) }()
	for range 11 {
		p.read(time.Millisecond)
	}
	if err := <-entered; err != nil {
		t.Fatal(err)
	}
}
