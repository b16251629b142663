// SPDX-License-Identifier: Apache-2.0

package dirblob

import (
	"context"
	"sync"
)

// keyLocks is a mutex for each key that is in use. The zero value is ready.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]*keyLock
}

type keyLock struct {
	users int           // holder and waiters
	token chan struct{} // holds one value while the lock is free
}

// lock waits for the key's lock or ctx.
func (k *keyLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	l := k.held[key]
	if l == nil {
		l = &keyLock{token: make(chan struct{}, 1)}
		l.token <- struct{}{}
		if k.held == nil {
			k.held = map[string]*keyLock{}
		}
		k.held[key] = l
	}
	l.users++
	k.mu.Unlock()

	select {
	case <-l.token:
		return func() {
			l.token <- struct{}{}
			k.leave(key, l)
		}, nil
	case <-ctx.Done():
		k.leave(key, l)
		return nil, ctx.Err()
	}
}

func (k *keyLocks) leave(key string, l *keyLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(k.held, key)
	}
}
