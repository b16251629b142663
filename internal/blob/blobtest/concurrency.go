// SPDX-License-Identifier: Apache-2.0

package blobtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"panal/internal/blob"
	"panal/internal/plat"
)

func cancelCases() []Case {
	return []Case{
		{"Cancel/a_cancelled_context_fails_every_call_with_its_error", nil, on(func(t *testing.T, d blob.Driver) {
			put(t, d, "k", "x")
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, _, err := d.Open(ctx, "k", 0, -1)
			wantErr(t, "Open", err, context.Canceled)
			_, err = d.Stat(ctx, "k")
			wantErr(t, "Stat", err, context.Canceled)
			_, _, err = d.List(ctx, "", "", 1)
			wantErr(t, "List", err, context.Canceled)
			wantErr(t, "Put", d.Put(ctx, "new", body("x"), 1, blob.PutOptions{}), context.Canceled)
			wantErr(t, "Put over", d.Put(ctx, "k", body("y"), 1, blob.PutOptions{}), context.Canceled)
			wantErr(t, "Delete", d.Delete(ctx, "k"), context.Canceled)
			wantObject(t, d, "k", "x")
			wantMissing(t, d, "new")
		})},
		{"Cancel/a_put_cancelled_in_the_middle_ends_and_leaves_nothing", nil, on(func(t *testing.T, d blob.Driver) {
			for _, size := range []int64{-1, 1 << 40} {
				ctx, cancel := context.WithCancel(t.Context())
				n := 0
				endless := readerFunc(func(p []byte) (int, error) {
					if n += len(p); n > 1<<20 {
						cancel()
					}
					return len(p), nil
				})
				wantErr(t, "Put", d.Put(ctx, "k", endless, size, blob.PutOptions{}), context.Canceled)
				wantMissing(t, d, "k")
			}
		})},
		{"Cancel/a_put_cancelled_at_the_end_of_its_body_leaves_nothing", nil, on(func(t *testing.T, d blob.Driver) {
			ctx, cancel := context.WithCancel(t.Context())
			last := io.MultiReader(strings.NewReader("abc"), readerFunc(func([]byte) (int, error) {
				cancel()
				return 0, io.EOF
			}))
			wantErr(t, "Put", d.Put(ctx, "k", last, -1, blob.PutOptions{}), context.Canceled)
			wantMissing(t, d, "k")
		})},
		{"Cancel/a_deadline_is_DeadlineExceeded", nil, on(func(t *testing.T, d blob.Driver) {
			ctx, cancel := context.WithTimeout(t.Context(), 0)
			defer cancel()
			wantErr(t, "Put", d.Put(ctx, "k", body("x"), 1, blob.PutOptions{}), context.DeadlineExceeded)
		})},
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func concurrencyCases() []Case {
	return []Case{
		{"Concurrency/one_of_20_racing_if_none_match_puts_wins", nil, on(checkRace)},
		{"Concurrency/puts_of_many_keys", nil, on(func(t *testing.T, d blob.Driver) {
			var want []string
			var wg sync.WaitGroup
			for i := range 16 {
				for j := range 8 {
					want = append(want, fmt.Sprintf("c/%d/%d", i%4, i*8+j))
				}
				wg.Go(func() {
					for j := range 8 {
						put(t, d, fmt.Sprintf("c/%d/%d", i%4, i*8+j), fmt.Sprint(i, j))
					}
				})
			}
			wg.Wait()
			slices.Sort(want)
			if diff := cmp.Diff(want, keysOf(t, d, "c/", 100)); diff != "" {
				t.Errorf("List (-want +got):\n%s", diff)
			}
		})},
		{"Concurrency/readers_of_an_overwritten_key_see_whole_versions", nil, on(checkWholeVersions)},
		{"Concurrency/puts_and_deletes_that_share_directories", nil, on(func(t *testing.T, d blob.Driver) {
			// Each worker fills and empties the same places; its own key must obey it.
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					key := fmt.Sprintf("p/q/r/%d", i)
					for j := range 10 {
						put(t, d, key, fmt.Sprint(j))
						wantObject(t, d, key, fmt.Sprint(j))
						if err := d.Delete(t.Context(), key); err != nil {
							t.Errorf("Delete = %v", err)
						}
						if _, err := d.Stat(t.Context(), key); !errors.Is(err, plat.ErrNotFound) {
							t.Errorf("Stat after Delete = %v", err)
						}
						if _, _, err := d.List(t.Context(), "p/", "", 10); err != nil {
							t.Errorf("List = %v", err)
						}
					}
				})
			}
			wg.Wait()
			if keys := keysOf(t, d, "", 10); len(keys) > 0 {
				t.Errorf("left over: %q", keys)
			}
		})},
	}
}

func checkRace(t *testing.T, d blob.Driver) {
	for round := range 5 {
		key := fmt.Sprintf("race/%d", round)
		var wg sync.WaitGroup
		var winner atomic.Int64
		start := make(chan struct{})
		for i := range 20 {
			wg.Go(func() {
				<-start
				text := fmt.Sprint("version ", i)
				switch err := d.Put(t.Context(), key, body(text), int64(len(text)), blob.PutOptions{IfNoneMatch: true}); {
				case err == nil:
					if !winner.CompareAndSwap(0, int64(i)+1) {
						t.Error("two puts won")
					}
				case !errors.Is(err, plat.ErrExists):
					t.Errorf("Put = %v, want ErrExists", err)
				}
			})
		}
		close(start)
		wg.Wait()
		if winner.Load() == 0 {
			t.Fatal("no put won")
		}
		wantObject(t, d, key, fmt.Sprint("version ", winner.Load()-1))
	}
}

func checkWholeVersions(t *testing.T, d blob.Driver) {
	version := func(c byte) string { return strings.Repeat(string('a'+c), 50_000+int(c)*1000) }
	put(t, d, "k", version(0))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				got, info, err := get(t.Context(), d, "k", 0, -1)
				if err != nil || got == "" || got != version(got[0]-'a') || info.Size != int64(len(got)) {
					t.Errorf("a reader saw a mixture: %s (%d bytes), info %+v, %v", brief(got), len(got), info, err)
					return
				}
			}
		})
	}
	for i := range 40 {
		put(t, d, "k", version(byte(i%5)))
	}
	close(stop)
	wg.Wait()
}
