// SPDX-License-Identifier: Apache-2.0

package blobtest

import (
	"bytes"
	"fmt"
	"io"
	"sync/atomic"
	"testing"

	"panal/internal/blob"
)

// Bench measures what the platform's speed rests on: puts of small and upload
// sized bodies by one and by many callers, reads, and pages of a listing.
func Bench(b *testing.B, h Harness) {
	b.Helper()
	for _, size := range []int{1 << 10, 32 << 10, 800 << 10} {
		text := bytes.Repeat([]byte("0123456789abcdef"), size/16)
		name := fmt.Sprintf("%dKiB", size>>10)
		b.Run("Put/1_caller/"+name, func(b *testing.B) {
			d := h.New(b)
			b.SetBytes(int64(size))
			i := 0
			for b.Loop() {
				benchPut(b, d, fmt.Sprintf("bench/%d", i), text)
				i++
			}
		})
		b.Run("Put/32_callers/"+name, func(b *testing.B) {
			d := h.New(b)
			b.SetBytes(int64(size))
			b.SetParallelism(16) // times GOMAXPROCS, which is 2 where the figures in docs come from
			var n atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					benchPut(b, d, fmt.Sprintf("bench/%d", n.Add(1)), text)
				}
			})
		})
		b.Run("Open/"+name, func(b *testing.B) {
			d := h.New(b)
			benchPut(b, d, "bench/k", text)
			b.SetBytes(int64(size))
			for b.Loop() {
				rc, _, err := d.Open(b.Context(), "bench/k", 0, -1)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, rc); err != nil {
					b.Fatal(err)
				}
				_ = rc.Close()
			}
		})
	}
	b.Run("Delete", func(b *testing.B) {
		d := h.New(b)
		i := 0
		for b.Loop() {
			b.StopTimer()
			key := fmt.Sprintf("bench/%d", i)
			benchPut(b, d, key, []byte("x"))
			i++
			b.StartTimer()
			if err := d.Delete(b.Context(), key); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("List/100_of_10000_side_by_side", func(b *testing.B) {
		d := h.New(b)
		for i := range 10_000 {
			benchPut(b, d, fmt.Sprintf("bench/%05d", i), []byte("x"))
		}
		for b.Loop() {
			if infos, _, err := d.List(b.Context(), "bench/", "bench/05000", 100); err != nil || len(infos) != 100 {
				b.Fatal(len(infos), err)
			}
		}
	})
}

func benchPut(b *testing.B, d blob.Driver, key string, text []byte) {
	b.Helper()
	if err := d.Put(b.Context(), key, unseekable{bytes.NewReader(text)}, int64(len(text)), blob.PutOptions{}); err != nil {
		b.Error(err)
	}
}
