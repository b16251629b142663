// SPDX-License-Identifier: Apache-2.0

package etag_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"panal/internal/x/etag"
)

// Many streams at once, of all lengths and in all pieces, some given up half-way,
// have the tags that they have alone.
func TestShared(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	src := make([]byte, 11<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(src)
	idle := make([]*etag.Sum, 8) // so that there are always many
	for i := range idle {
		idle[i] = etag.NewShared(-1)
		defer idle[i].Close()
	}
	var wg sync.WaitGroup
	for w := range 40 { // more than there are lanes
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			for range 6 {
				data := src[r.IntN(1<<20):][:r.IntN(1<<uint(8+r.IntN(16)))]
				whole, parts := etag.New(), etag.NewShared(said(r, len(data)))
				_, _ = whole.Write(data)
				given := r.IntN(8) == 0
				for left := data; len(left) > 0; {
					k := min(1+r.IntN(100_000), len(left))
					piece := append([]byte(nil), left[:k]...)
					_, _ = parts.Write(piece)
					clear(piece) // the writer may use its buffer again at once
					if left = left[k:]; given && r.IntN(4) == 0 {
						break
					}
				}
				if !given {
					if got, want := parts.ETag(), whole.ETag(); got != want || parts.Size() != whole.Size() {
						t.Errorf("%d bytes: %s of %d bytes, alone %s", len(data), got, parts.Size(), want)
					}
				}
				parts.Close()
				parts.Close()
			}
		})
	}
	wg.Wait()
}

func shared() *etag.Sum { return etag.NewShared(1 << 20) }

// said is the length that a stream of n bytes is said to have: its own, none, or a wrong one.
func said(r *rand.Rand, n int) int64 {
	return []int64{int64(n), int64(n), -1, r.Int64N(20 << 20)}[r.IntN(4)]
}

// What hashing 1 MiB costs alone and as one of several at a time.
func BenchmarkStreams(b *testing.B) {
	const size, piece = 1 << 20, 64 << 10
	for _, n := range []int{1, 3, 4, 8, 16} {
		for name, start := range map[string]func() *etag.Sum{"alone": etag.New, "shared": shared} {
			b.Run(fmt.Sprintf("%d/%s", n, name), func(b *testing.B) {
				b.SetBytes(int64(n * size))
				buf := make([]byte, piece)
				for b.Loop() {
					var wg sync.WaitGroup
					sums := make([]*etag.Sum, n)
					for i := range sums {
						sums[i] = start()
					}
					for _, e := range sums {
						wg.Go(func() {
							defer e.Close()
							for range size / piece {
								_, _ = e.Write(buf)
							}
							_ = e.ETag()
						})
					}
					wg.Wait()
				}
			})
		}
	}
}
