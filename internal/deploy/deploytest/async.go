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
	same(t, "open", []string{a.ID, b.ID}, ids(get(h.Store.OpenAsync(ctx, deploy.AsyncCall{}, 2))(t)))
	same(t, "open, next", []string{d.ID}, ids(get(h.Store.OpenAsync(ctx, b, 2))(t)))
	same(t, "open of wl-1", 2, get(h.Store.CountOpenAsync(ctx, "wl-1"))(t))
	same(t, "open of wl-2", 1, get(h.Store.CountOpenAsync(ctx, "wl-2"))(t))
	b.FinishedAt, b.Status = at(20), 200
	get(h.Store.FinishAsync(ctx, b))(t)
	same(t, "open of wl-2 after its result", 0, get(h.Store.CountOpenAsync(ctx, "wl-2"))(t))
	same(t, "open after a result", []string{a.ID, d.ID}, ids(get(h.Store.OpenAsync(ctx, deploy.AsyncCall{}, 9))(t)))
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
