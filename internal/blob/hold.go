// SPDX-License-Identifier: Apache-2.0

package blob

import (
	"context"
	"errors"
	"io"
	"sync"

	"panal/internal/plat"
)

// maxHeld bounds how many deletions a hold remembers: some 200 MB of keys.
const maxHeld = 1 << 20

// Hold keeps every object in storage while a backup is made: what is deleted
// meanwhile is gone for everybody who asks the store, and its bytes go when the hold
// ends. The holder still reads them, through Open and List of the hold.
//
// A process that dies with a hold leaves the bytes: objects without a row, which the
// domains' collectors find. It is safe for concurrent use.
type Hold struct {
	s *Store

	mu    sync.RWMutex
	gone  map[string]struct{}
	ended bool
}

// Hold starts one. There is one at a time; a second is ErrConflict.
func (s *Store) Hold() (*Hold, error) {
	h := &Hold{s: s, gone: map[string]struct{}{}}
	if !s.hold.CompareAndSwap(nil, h) {
		return nil, plat.Errorf(plat.ErrConflict, "another backup holds the objects; wait until it has ended")
	}
	return h, nil
}

// Open is Store.Open, and finds also what was deleted since the hold began.
func (h *Hold) Open(ctx context.Context, key string) (io.ReadCloser, Info, error) {
	return h.s.d.Open(ctx, key, 0, -1)
}

// List is Store.List, and lists also what was deleted since the hold began.
func (h *Hold) List(ctx context.Context, prefix, after string, limit int) ([]Info, bool, error) {
	return h.s.d.List(ctx, prefix, after, limit)
}

// Release ends the hold and deletes what was to be deleted. What can't be deleted
// stays for the collectors, and is in the error.
func (h *Hold) Release(ctx context.Context) error {
	var errs []error
	for {
		h.mu.Lock()
		if len(h.gone) == 0 {
			h.ended = true
			h.s.hold.Store(nil)
			h.mu.Unlock()
			return errors.Join(errs...)
		}
		// A few at a time, so that calls beside this one get their turn. Under the lock:
		// a key that is put again must not lose its new object.
		n := 0
		for key := range h.gone {
			if err := h.s.d.Delete(ctx, key); err != nil && len(errs) < 3 {
				errs = append(errs, err)
			}
			delete(h.gone, key)
			if n++; n == 16 {
				break
			}
		}
		h.mu.Unlock()
	}
}

func (h *Hold) has(key string) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	_, ok := h.gone[key]
	return ok
}

// delete remembers the key.
func (h *Hold) delete(ctx context.Context, key string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return h.s.d.Delete(ctx, key)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, ok := h.gone[key]; ok {
		return nil
	}
	if len(h.gone) >= maxHeld {
		return plat.Errorf(plat.ErrUnavailable, "a backup is being made and holds %d deletions; try again when it has ended", maxHeld)
	}
	h.gone[key] = struct{}{}
	return nil
}

// replace prepares a put: an object that is to be deleted goes now, so that the new
// one does not go in its place.
func (h *Hold) replace(ctx context.Context, key string) error {
	if !h.has(key) {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.gone[key]; !ok {
		return nil
	}
	if err := h.s.d.Delete(ctx, key); err != nil {
		return err
	}
	delete(h.gone, key)
	return nil
}

// list leaves out what is to be deleted. It does not return an empty page while there
// is more: callers go on after its last key.
func (h *Hold) list(ctx context.Context, prefix, after string, limit int) ([]Info, bool, error) {
	for {
		infos, more, err := h.s.d.List(ctx, prefix, after, limit)
		if err != nil || len(infos) == 0 {
			return infos, more, err
		}
		after = infos[len(infos)-1].Key
		left := infos[:0:0]
		h.mu.RLock()
		for _, info := range infos {
			if _, ok := h.gone[info.Key]; !ok {
				left = append(left, info)
			}
		}
		h.mu.RUnlock()
		if len(left) > 0 || !more {
			return left, more, nil
		}
	}
}

// hidden tells whether the object is to be deleted.
func (s *Store) hidden(key string) bool {
	h := s.hold.Load()
	return h != nil && h.has(key)
}

func errHidden() error { return plat.Errorf(plat.ErrNotFound, "the object does not exist") }
