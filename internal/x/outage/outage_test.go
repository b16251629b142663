// SPDX-License-Identifier: Apache-2.0

package outage_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"panal/internal/plat"
	"panal/internal/x/outage"
)

var errDown = errors.New("connection refused")

// TestOneFindsOut: while the store is away, one of many asks; once it answers, all do.
func TestOneFindsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w outage.Watch
		var asked atomic.Int64
		var down atomic.Bool
		down.Store(true)
		ask := func() error {
			return w.Ask(t.Context(), time.Now(), true, func(context.Context) error {
				asked.Add(1)
				if down.Load() {
					return errDown
				}
				return nil
			})
		}
		if err := ask(); !errors.Is(err, errDown) {
			t.Fatal(err)
		}
		for range 100 {
			if err := ask(); !errors.Is(err, plat.ErrUnavailable) || !errors.Is(err, outage.ErrAway) {
				t.Fatalf("right after a failure: %v", err)
			}
		}
		time.Sleep(time.Second)
		if err := ask(); !errors.Is(err, errDown) || asked.Load() != 2 {
			t.Errorf("a moment later: %v, %d questions", err, asked.Load())
		}
		down.Store(false)
		time.Sleep(time.Second)
		for range 10 {
			if err := ask(); err != nil {
				t.Errorf("the store is back: %v", err)
			}
		}
		if asked.Load() != 12 {
			t.Errorf("%d questions, want 12", asked.Load())
		}
	})
}

// TestAStoreThatHangs: a question ends, and the next ones do not wait for the same.
func TestAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w outage.Watch
		hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if err := w.Ask(t.Context(), time.Now(), true, hang); !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		// Now many callers, half of whom know nothing, for 100 s: one at a time finds out.
		var waited, asking, most atomic.Int64
		begun := time.Now()
		for i := range 20 {
			all.Go(func() {
				for time.Since(begun) < 100*time.Second {
					err := w.Ask(t.Context(), time.Now(), i%2 == 0, func(ctx context.Context) error {
						most.Store(max(most.Load(), asking.Add(1)))
						defer asking.Add(-1)
						return hang(ctx)
					})
					if !errors.Is(err, outage.ErrAway) {
						waited.Add(1)
					}
					time.Sleep(50 * time.Millisecond)
				}
			})
		}
		all.Wait()
		if n := waited.Load(); n < 30 || n > 42 || most.Load() != 1 { // every 2.5 s
			t.Errorf("%d callers waited, %d at a time", n, most.Load())
		}
	})
}

// TestACallerThatLeaves says nothing of the store.
func TestACallerThatLeaves(t *testing.T) {
	var w outage.Watch
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Ask(ctx, time.Now(), true, func(ctx context.Context) error { return ctx.Err() }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := w.Ask(t.Context(), time.Now(), true, func(context.Context) error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestGrace(t *testing.T) {
	now := time.Unix(1e6, 0)
	for _, c := range []struct {
		grace, age time.Duration
		want       bool
	}{
		{0, 29 * time.Minute, true},
		{0, 30 * time.Minute, false},
		{time.Hour, 59 * time.Minute, true},
		{time.Hour, time.Hour, false},
		{-1, 0, false},
	} {
		if got := (&outage.Watch{Grace: c.grace}).Good(now.Add(-c.age), now); got != c.want {
			t.Errorf("grace %s, age %s: %v", c.grace, c.age, got)
		}
	}
}
