// SPDX-License-Identifier: Apache-2.0

// Package fanout wakes any number of watchers. A wake-up is a value, such as an
// id whose record changed; values are coalesced while a watcher is busy, so a
// slow one never holds up Notify nor costs more than one entry per value.
package fanout

import (
	"context"
	"sync"
)

// Hub sends each notified value to every watcher. The zero value is ready.
type Hub[T comparable] struct {
	mu       sync.Mutex
	closed   bool
	watchers map[*watcher[T]]struct{}
	wg       sync.WaitGroup
}

type watcher[T comparable] struct {
	mu      sync.Mutex
	pending map[T]struct{}
	order   []T
	wake    chan struct{} // capacity 1
	done    chan struct{} // closed by Hub.Close
}

// Notify hands v to every watcher. It never blocks.
func (h *Hub[T]) Notify(v T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		w.add(v)
	}
}

// Watch returns a channel of values notified from now on. It closes when ctx
// ends or the hub closes.
func (h *Hub[T]) Watch(ctx context.Context) <-chan T {
	out := make(chan T)
	w := &watcher[T]{pending: map[T]struct{}{}, wake: make(chan struct{}, 1), done: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(out)
		return out
	}
	if h.watchers == nil {
		h.watchers = map[*watcher[T]]struct{}{}
	}
	h.watchers[w] = struct{}{}
	h.wg.Go(func() {
		defer close(out)
		w.run(ctx, out)
		h.mu.Lock()
		delete(h.watchers, w)
		h.mu.Unlock()
	})
	return out
}

// Close ends every watcher and waits for them. Notify does nothing afterwards.
func (h *Hub[T]) Close() {
	h.mu.Lock()
	if !h.closed {
		h.closed = true
		for w := range h.watchers {
			close(w.done)
		}
	}
	h.mu.Unlock()
	h.wg.Wait()
}

func (w *watcher[T]) add(v T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.pending[v]; ok {
		return
	}
	w.pending[v] = struct{}{}
	w.order = append(w.order, v)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher[T]) take() (v T, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.order) == 0 {
		return v, false
	}
	v = w.order[0]
	w.order = w.order[1:]
	delete(w.pending, v)
	return v, true
}

func (w *watcher[T]) run(ctx context.Context, out chan<- T) {
	for {
		v, ok := w.take()
		if !ok {
			select {
			case <-w.wake:
				continue
			case <-ctx.Done():
			case <-w.done:
			}
			return
		}
		select {
		case out <- v:
		case <-ctx.Done():
			return
		case <-w.done:
			return
		}
	}
}
