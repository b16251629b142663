// SPDX-License-Identifier: Apache-2.0

package fanout_test

import (
	"context"
	"testing"
	"testing/synctest"

	"panal/internal/x/fanout"
)

func TestValuesAreCoalescedAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h fanout.Hub[int]
		ctx, cancel := context.WithCancel(t.Context())
		ch := h.Watch(ctx)
		synctest.Wait()
		h.Notify(1)
		synctest.Wait() // 1 is on its way out: it is no longer pending
		for range 3 {
			h.Notify(2)
			h.Notify(3)
		}
		for _, want := range []int{1, 2, 3} {
			if got := <-ch; got != want {
				t.Fatalf("got %d, want %d", got, want)
			}
		}
		synctest.Wait()
		select {
		case v := <-ch:
			t.Fatalf("got %d again: not coalesced", v)
		default:
		}
		cancel()
		if _, ok := <-ch; ok {
			t.Fatal("channel open after ctx ended")
		}
		h.Close()
	})
}

func TestEveryWatcherGetsEveryValue(t *testing.T) {
	var h fanout.Hub[string]
	a, b := h.Watch(t.Context()), h.Watch(t.Context())
	h.Notify("x")
	if <-a != "x" || <-b != "x" {
		t.Fatal("a watcher missed the value")
	}
	h.Close()
	if _, ok := <-a; ok {
		t.Fatal("channel open after Close")
	}
	if _, ok := <-h.Watch(t.Context()); ok {
		t.Fatal("Watch after Close gives an open channel")
	}
	h.Notify("y")
}
