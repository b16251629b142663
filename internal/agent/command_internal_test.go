// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"
	"time"
)

// TestBusy: bad probes are put down to work for a while from its beginning on; a caller who
// gives up and another who comes don't begin it anew while the command does not answer.
func TestBusy(t *testing.T) {
	c := &command{taking: make(chan struct{}, 2)}
	begin := func() (end func()) {
		c.taking <- struct{}{}
		return c.begin(&c.inflight)
	}
	if c.busy() {
		t.Error("busy without any request")
	}
	end := begin()
	if !c.busy() {
		t.Error("not busy with its first request")
	}
	long := time.Now().Add(-busyLimit)
	c.answered = long
	text := "no answer"
	c.failing.Store(&text)
	end()
	end = begin()
	if c.busy() || c.answered != long {
		t.Error("the next request of a command that hangs began its time anew")
	}
	end()
	c.taking <- struct{}{}
	endLater := c.begin(&c.later)
	c.answered = long
	end = begin()
	if !c.busy() {
		t.Error("no time for a request beside one that is answered later")
	}
	end()
	endLater()
	c.failing.Store(nil)
	c.answered = long
	defer begin()()
	if !c.busy() {
		t.Error("not busy after it was well again")
	}
}
