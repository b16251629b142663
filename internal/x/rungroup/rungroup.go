// SPDX-License-Identifier: Apache-2.0

// Package rungroup runs the long-lived parts of a program: each goroutine has an
// owner, a name, and a place in the order of shutdown.
package rungroup

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Group is a list of actors. They start in the order they were added and stop in
// the reverse order, each fully before the next: what was added first (a store)
// outlives what was added later and uses it (the listener). The zero value is ready.
type Group struct{ actors []actor }

type actor struct {
	name string
	run  func(ctx context.Context) error
}

// Add adds an actor. run returns when its context ends, after it has drained; a
// return before that, with or without an error, stops the whole group.
func (g *Group) Add(name string, run func(ctx context.Context) error) {
	g.actors = append(g.actors, actor{name, run})
}

// Run runs the actors until ctx ends or one of them returns, then stops all in
// reverse order. It returns the errors of the actors, without the cancellations
// that it caused itself.
func (g *Group) Run(ctx context.Context) error {
	type running struct {
		actor
		cancel context.CancelFunc
		done   chan error
	}
	first := make(chan struct{}, len(g.actors))
	all := make([]running, 0, len(g.actors))
	for _, a := range g.actors {
		actx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		r := running{a, cancel, make(chan error, 1)}
		go func() {
			r.done <- r.run(actx)
			first <- struct{}{}
		}()
		all = append(all, r)
	}
	select {
	case <-ctx.Done():
	case <-first:
	}
	var errs []error
	for _, a := range slices.Backward(all) {
		a.cancel()
		if err := <-a.done; err != nil && !errors.Is(err, context.Canceled) {
			errs = append(errs, fmt.Errorf("%s: %w", a.name, err))
		}
	}
	return errors.Join(errs...)
}
