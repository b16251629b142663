// SPDX-License-Identifier: Apache-2.0

package etag_test

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"panal/internal/x/etag"
)

// document is data.md §13, word by word.
func document(data []byte) string {
	if len(data) <= etag.ChunkSize {
		sum := md5.Sum(data)
		return hex.EncodeToString(sum[:])
	}
	var sums []byte
	n := 0
	for chunk := range slices.Chunk(data, etag.ChunkSize) {
		sum := md5.Sum(chunk)
		sums, n = append(sums, sum[:]...), n+1
	}
	sum := md5.Sum(sums)
	return fmt.Sprintf("%x-%d", sum, n)
}

// Chunks that are hashed in pairs have the document's tag, whatever the stream's length, the one
// it is said to have, and the pieces it comes in; more streams than may put chunks by, too.
func TestPairs(t *testing.T) {
	const chunk = etag.ChunkSize
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	src := make([]byte, 5*chunk)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(src)
	tags := func(sizes ...int) {
		for _, size := range sizes {
			data, want := src[:size], document(src[:size])
			for _, long := range []int64{int64(size), -1, 0, chunk + 100<<10, int64(size) - 65, int64(size) + 65, 1 << 40} {
				e := etag.NewShared(long)
				most := 1 << (4 + r.IntN(20))
				for left := data; len(left) > 0; {
					k := min(1+r.IntN(most), len(left))
					_, _ = e.Write(left[:k])
					left = left[k:]
				}
				if got := e.ETag(); got != want || e.Size() != int64(size) {
					t.Errorf("%d bytes, said to be %d, in pieces of up to %d: %s of %d bytes, want %s", size, long, most, got, e.Size(), want)
				}
				e.Close()
			}
		}
	}
	tags(0, chunk-1, chunk, chunk+1, chunk+64, chunk+65<<10, chunk+65<<10+1, 2*chunk-1, 2*chunk, 2*chunk+1, 16<<20, 16<<20+7, 4*chunk-63, 4*chunk, 4*chunk+70<<10)
	for range 6 { // more that have put something by than may
		e := etag.NewShared(-1)
		defer e.Close()
		_, _ = e.Write(src[:100])
	}
	tags(chunk+65<<10, 16<<20)
}

// What hashing 16 MiB costs, beside hashing it chunk by chunk.
func BenchmarkPairs(b *testing.B) {
	const size, piece = 16 << 20, 32 << 10
	for name, start := range map[string]func() *etag.Sum{
		"alone": etag.New, "known": func() *etag.Sum { return etag.NewShared(size) }, "unknown": func() *etag.Sum { return etag.NewShared(-1) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			src := make([]byte, size)
			for b.Loop() {
				e := start()
				for i := 0; i < size; i += piece {
					_, _ = e.Write(src[i:][:piece])
				}
				_ = e.ETag()
				e.Close()
			}
		})
	}
}
