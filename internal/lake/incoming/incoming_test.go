// SPDX-License-Identifier: Apache-2.0

package incoming_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"panal/internal/feed"
	"panal/internal/feed/memfeed"
	"panal/internal/lake"
	"panal/internal/lake/incoming"
	"panal/internal/plat"
)

// fake is a lake that remembers what it was asked.
type fake struct {
	mu     sync.Mutex
	until  time.Time
	lists  int
	taken  []string
	failed error
	slow   chan struct{} // not nil: until it is closed no listing ends
}

func (f *fake) Take(_ context.Context, keys []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed == nil {
		f.taken = append(f.taken, keys...)
	}
	return f.failed
}

func (f *fake) TakeAll(context.Context) error {
	f.mu.Lock()
	f.lists++
	failed := f.failed
	f.mu.Unlock()
	if f.slow != nil {
		<-f.slow
	}
	return failed
}

func (f *fake) AwaitedUntil(context.Context) (time.Time, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.until, nil
}

func (f *fake) set(until time.Time, failed error) (lists int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	lists, f.lists = f.lists, 0
	f.until, f.failed = until, failed
	return lists
}

func run(t *testing.T, f *fake, q feed.Source, secret string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	finder := incoming.New(incoming.Options{
		Lake: f, Bucket: "b", Prefix: "p/", Queue: q, Secret: secret, Now: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	go func() { done <- finder.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// The storage is asked every second while somebody may put a body, seldom where events
// tell of them or none is likely, and not at all when nobody has a URL.
func TestListsNoMoreThanItMust(t *testing.T) {
	for secret, often := range map[string]int{"": 60, "a secret": 2} {
		synctest.Test(t, func(t *testing.T) {
			f := &fake{}
			run(t, f, nil, secret)
			within := func(what string, d time.Duration, lo, hi int) {
				t.Helper()
				time.Sleep(d)
				synctest.Wait()
				if n := f.set(f.until, nil); n < lo || n > hi {
					t.Errorf("%s: %d listings in %s, want %d to %d (secret %q)", what, n, d, lo, hi, secret)
				}
			}
			within("nothing is awaited", time.Hour, 0, 0)
			f.set(time.Now().Add(lake.PendingLife), nil)
			within("awaited", time.Minute, often-2, often+1)
			within("awaited", lake.PendingLife, 100, 3700)
			time.Sleep(10 * time.Minute)
			f.set(f.until, nil)
			within("slow bodies may be on their way", time.Hour, 100, 130)
			time.Sleep(lake.Grace)
			f.set(f.until, nil)
			within("all are forgotten", time.Hour, 0, 0)
			f.set(time.Now().Add(30*time.Hour), errors.New("down"))
			time.Sleep(time.Hour)
			if n := f.set(f.until, nil); n < 60 || n > 130 {
				t.Errorf("a storage that is down was asked %d times in an hour", n)
			}
		})
	}
}

// A body that takes long keeps no other waiting.
func TestLongPassesKeepNothingWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{slow: make(chan struct{})}
		f.set(time.Now().Add(lake.PendingLife), nil)
		run(t, f, nil, "")
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := f.set(f.until, nil); n < 2 || n > 8 {
			t.Errorf("%d passes were begun while none ended", n)
		}
		close(f.slow)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := f.set(f.until, nil); n < 50 {
			t.Errorf("%d passes in a minute after that", n)
		}
	})
}

// What a queue tells of is taken in; what can't be read, and what is none of ours, is
// acknowledged; what fails comes again.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, f := memfeed.New(plat.SystemClock, time.Minute), &fake{}
		event := func(bucket, key string) []byte {
			return fmt.Appendf(nil, `{"Records":[{"eventVersion":"2.1","eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"%s"},"object":{"key":"%s"}}}]}`, bucket, key)
		}
		f.set(time.Time{}, errors.New("down"))
		for _, m := range [][]byte{
			event("b", "p/incoming/o/c/f"), event("b", "p/lake/o/c/h/f"), event("b", "incoming/o/c/g"), event("x", "p/incoming/o/c/h"), []byte("{"),
		} {
			q.Send(m)
		}
		run(t, f, q, "")
		time.Sleep(10 * time.Second)
		f.set(time.Time{}, nil)
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if b, err := q.Backlog(t.Context()); err != nil || b.Messages != 0 {
			t.Errorf("left: %+v, %v", b, err)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if !slices.Equal(f.taken, []string{"incoming/o/c/f"}) {
			t.Errorf("taken %q", f.taken)
		}
	})
}
