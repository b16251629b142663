// SPDX-License-Identifier: Apache-2.0

package deploytest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"panal/internal/deploy"
	"panal/internal/plat"
)

func (h Harness) async(t *testing.T, n int, w plat.WorkloadID) deploy.AsyncCall {
	t.Helper()
	c := deploy.AsyncCall{ID: fmt.Sprintf("call-%02d", n), Org: h.Org, Deployment: "1740000000088", TokenHash: "h", CreatedAt: at(n)}
	ok(t, h.Store.CreateAsync(t.Context(), c, 100))
	if w != "" {
		c.Workload = w
		ok(t, h.Store.TakeAsync(t.Context(), c.ID, w))
	}
	return c
}

func asyncFinish(t *testing.T, h Harness) {
	ctx, c := t.Context(), h.async(t, 1, "wl-1")
	same(t, "Async", c, get(h.Store.Async(ctx, c.ID))(t))
	_, err := h.Store.Async(ctx, "nothing")
	isKind(t, "unknown", err, plat.ErrNotFound)
	c.FinishedAt, c.Status, c.Headers, c.Size = at(9), 418, map[string]string{"content-type": "text/plain", "x": "ä\""}, 1<<33
	if !get(h.Store.FinishAsync(ctx, c))(t) {
		t.Error("the first result was not stored")
	}
	same(t, "finished", c, get(h.Store.Async(ctx, c.ID))(t))
	second := c
	second.Status, second.FinishedAt = 200, at(10)
	if get(h.Store.FinishAsync(ctx, second))(t) {
		t.Error("a second result was stored")
	}
	ok(t, h.Store.TakeAsync(ctx, c.ID, "wl-2"))
	same(t, "after a second result", c, get(h.Store.Async(ctx, c.ID))(t))
	ok(t, h.Store.DeleteAsync(ctx, c.ID))
	ok(t, h.Store.DeleteAsync(ctx, c.ID))
	_, err = h.Store.FinishAsync(ctx, c)
	isKind(t, "result of a call that is gone", err, plat.ErrNotFound)
	ok(t, h.Store.TakeAsync(ctx, c.ID, "wl-2"))
}

func asyncLists(t *testing.T, h Harness) {
	ctx := t.Context()
	a, b, c, d := h.async(t, 1, "wl-1"), h.async(t, 2, "wl-2"), h.async(t, 3, ""), h.async(t, 4, "wl-1")
	err := h.Store.CreateAsync(ctx, deploy.AsyncCall{ID: "more", Org: h.Org, CreatedAt: at(5)}, 4)
	isKind(t, "over the limit", err, plat.ErrExhausted)
	ids := func(all []deploy.AsyncCall) []string {
		out := []string{}
		for _, c := range all {
			out = append(out, c.ID)
		}
		return out
	}
	lost := func(limit int) []string { return ids(get(h.Store.LostAsync(ctx, limit))(t)) }
	same(t, "lost", []string{a.ID, b.ID}, lost(2))
	ok(t, h.Store.CreateInstance(ctx, deploy.Instance{Workload: "wl-1", Service: "1740000000001", CreatedAt: at(1)}))
	same(t, "lost, while wl-1 is on record", []string{b.ID}, lost(9))
	same(t, "open of wl-1", 2, get(h.Store.CountOpenAsync(ctx, "wl-1"))(t))
	same(t, "open of wl-2", 1, get(h.Store.CountOpenAsync(ctx, "wl-2"))(t))
	b.FinishedAt, b.Status = at(20), 200
	get(h.Store.FinishAsync(ctx, b))(t)
	same(t, "open of wl-2 after its result", 0, get(h.Store.CountOpenAsync(ctx, "wl-2"))(t))
	same(t, "lost after a result", []string{}, lost(9))
	ok(t, h.Store.DeleteInstance(ctx, "wl-1"))
	same(t, "lost with wl-1", []string{a.ID, d.ID}, lost(9))
	ok(t, h.Store.CreateAsync(ctx, deploy.AsyncCall{ID: "more", Org: h.Org, CreatedAt: at(5)}, 4)) // a finished one does not count
	old := ids(get(h.Store.OldAsync(ctx, at(3), 9))(t))
	slices.Sort(old)
	same(t, "old", []string{a.ID, c.ID}, old) // "until" is inclusive
	old = ids(get(h.Store.OldAsync(ctx, at(20).Add(time.Second), 9))(t))
	if len(old) != 5 {
		t.Errorf("all old = %v", old)
	}
	if got := get(h.Store.OldAsync(ctx, at(20).Add(time.Second), 1))(t); len(got) != 2 {
		t.Errorf("one of each = %v", ids(got))
	}
}

// asyncRecord: whichever of the result and the note that it is recorded comes first, the call
// is listed from the second on, until it is recorded or gone.
func asyncRecord(t *testing.T, h Harness) {
	ctx := t.Context()
	a, b, c := h.async(t, 1, "wl-1"), h.async(t, 2, "wl-1"), h.async(t, 3, "wl-1")
	record := &deploy.AsyncRecord{
		Channel: "1740000000011", Service: "1740000000012", Version: "1.0 ä", Request: "r", Method: "POST", At: at(1).Add(time.Nanosecond), Input: "20260101T000000-f",
	}
	list := func(after deploy.AsyncCall, limit int) []deploy.AsyncCall {
		return get(h.Store.UnrecordedAsync(ctx, after, limit))(t)
	}
	finish := func(c *deploy.AsyncCall, n int) {
		c.FinishedAt, c.Status, c.Headers = at(n), 200, map[string]string{"a": "b"}
		get(h.Store.FinishAsync(ctx, *c))(t)
	}
	note := func(c *deploy.AsyncCall) {
		c.Record = record
		ok(t, h.Store.RecordAsync(ctx, c.ID, record))
	}
	note(&a)
	same(t, "noted, without a result", a, get(h.Store.Async(ctx, a.ID))(t))
	finish(&b, 10)
	finish(&c, 11)
	same(t, "neither has both", 0, len(list(deploy.AsyncCall{}, 9)))
	finish(&a, 12)
	note(&b)
	note(&c)
	same(t, "both", []deploy.AsyncCall{b, c}, list(deploy.AsyncCall{}, 2))
	same(t, "both, next", []deploy.AsyncCall{a}, list(c, 2))
	ok(t, h.Store.RecordAsync(ctx, b.ID, nil))
	ok(t, h.Store.RecordAsync(ctx, b.ID, nil))
	ok(t, h.Store.DeleteAsync(ctx, c.ID))
	same(t, "recorded, and gone", []deploy.AsyncCall{a}, list(deploy.AsyncCall{}, 9))
	isKind(t, "note of a call that is gone", h.Store.RecordAsync(ctx, c.ID, record), plat.ErrNotFound)
}
