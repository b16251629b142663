// SPDX-License-Identifier: Apache-2.0

package blob_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"panal/internal/blob"
	"panal/internal/blob/memblob"
	"panal/internal/plat"
)

// TestHold: while a backup is made, what is deleted is gone for callers and there for
// the holder; it goes when the hold ends, but for what was put again.
func TestHold(t *testing.T) {
	ctx := t.Context()
	d := memblob.New()
	s := blob.New(d)
	put := func(key, text string) {
		t.Helper()
		if _, err := s.Put(ctx, key, strings.NewReader(text), int64(len(text)), blob.PutOptions{IfNoneMatch: true}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 6 {
		put(fmt.Sprint("k", i), "old")
	}
	h, err := s.Hold()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Hold(); !errors.Is(err, plat.ErrConflict) {
		t.Fatalf("second hold = %v, want ErrConflict", err)
	}
	for _, key := range []string{"k0", "k1", "k2", "k2", "missing"} {
		if err := s.Delete(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"k0", "k2"} {
		_, statErr := s.Stat(ctx, key)
		_, _, openErr := s.Open(ctx, key, 0, -1)
		if !errors.Is(statErr, plat.ErrNotFound) || !errors.Is(openErr, plat.ErrNotFound) {
			t.Errorf("%s is still seen: %v, %v", key, statErr, openErr)
		}
	}
	// Pages of one: never empty while there is more.
	infos, more, err := s.List(ctx, "k", "", 1)
	if err != nil || len(infos) != 1 || infos[0].Key != "k3" || !more {
		t.Errorf("List = %v, %v, %v; want k3 and more", infos, more, err)
	}
	rc, _, err := h.Open(ctx, "k0")
	if err != nil {
		t.Fatalf("the holder can't open: %v", err)
	}
	if b, err := io.ReadAll(rc); string(b) != "old" || err != nil {
		t.Errorf("the holder reads %q, %v", b, err)
	}
	_ = rc.Close()
	if infos, _, err := h.List(ctx, "k", "", 10); len(infos) != 6 || err != nil {
		t.Errorf("the holder lists %d, %v; want 6", len(infos), err)
	}
	put("k1", "new")
	if err := h.Release(ctx); err != nil {
		t.Fatal(err)
	}
	if infos, _, err := d.List(ctx, "", "", 10); err != nil || len(infos) != 4 || infos[0].Key != "k1" {
		t.Errorf("after the hold: %v, %v; want k1 and k3 to k5", infos, err)
	}
	if err := s.Delete(ctx, "k3"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(ctx, "k3"); !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("deleted after the hold: %v", err)
	}
	again, err := s.Hold()
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Release(ctx); err != nil {
		t.Fatal(err)
	}
}
