// SPDX-License-Identifier: Apache-2.0

// Package outage is how edges live on what they know while the store behind it does
// not answer: one question at a time finds out whether it does again, and
// everybody else goes on at once instead of waiting for the same silence.
package outage

import (
	"context"
	"errors"
	"sync"
	"time"

	"panal/internal/plat"
)

const (
	// DefaultGrace is how long what was known is good for without the store.
	DefaultGrace = 30 * time.Minute
	// patience is how long one question waits: a store that hangs is as good as away.
	// Who has nothing else to go by waits longer, for one that is only slow.
	patience, patienceUnknown = 2 * time.Second, 10 * time.Second
	// retry is how long nobody asks after a question that was not answered.
	retry = 500 * time.Millisecond
)

// ErrAway is the answer to a question that was not asked.
var ErrAway = &plat.Error{Kind: plat.ErrUnavailable, Public: "the database does not answer; try again"}

// Watch is what is known of one store. The zero value works and is safe for
// concurrent use.
type Watch struct {
	// Grace bounds what is known: it is good for so long after the store last said
	// so. 0 is DefaultGrace, negative none. It is set before the first use.
	Grace time.Duration

	mu      sync.Mutex
	failed  time.Time // zero: the store answers
	probing bool      // while it does not: somebody is finding out
}

// Good tells whether what the store said at a time is good enough while it is away.
func (w *Watch) Good(said, now time.Time) bool {
	grace := w.Grace
	if grace == 0 {
		grace = DefaultGrace
	}
	return now.Sub(said) < grace
}

// Ask asks the store. f fails only when the store did not answer; an answer such as
// "not found" is none of that. known says that the caller can go on without an
// answer. While the store is away most callers get ErrAway without a question.
func (w *Watch) Ask(ctx context.Context, now time.Time, known bool, f func(context.Context) error) error {
	w.mu.Lock()
	probe := !w.failed.IsZero()
	if probe && (w.probing || now.Sub(w.failed).Abs() < retry) {
		w.mu.Unlock()
		return ErrAway
	}
	w.probing = w.probing || probe // this caller finds out for all
	w.mu.Unlock()
	if probe {
		defer func() { // also when f panics, or nobody would ever ask again
			w.mu.Lock()
			w.probing = false
			w.mu.Unlock()
		}()
	}
	begun := time.Now()
	wait := patienceUnknown
	if known || probe {
		wait = patience
	}
	asking, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err := f(asking)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		w.failed = time.Time{}
	case errors.Is(ctx.Err(), context.Canceled): // the caller left; that says nothing of the store
	default:
		w.failed = now.Add(time.Since(begun))
	}
	return err
}
