// SPDX-License-Identifier: Apache-2.0

package dirblob_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"panal/internal/blob"
	"panal/internal/blob/dirblob"
	"panal/internal/blob/dirblob/vfs"
)

// BenchmarkManyObjects measures a store of many small objects, 100,000 or PANAL_MANY,
// without syncs: what each costs, how long a restart takes, also without the index, and
// the memory of it all.
func BenchmarkManyObjects(b *testing.B) {
	n := 100_000
	if text := os.Getenv("PANAL_MANY"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		manyObjects(b, n)
	}
}

func manyObjects(b *testing.B, n int) {
	b.Helper()
	dir := b.TempDir()
	osfs, err := vfs.NewOS(dir)
	if err != nil {
		b.Fatal(err)
	}
	open := func() *dirblob.Driver {
		d, err := dirblob.OpenFS(b.Context(), lazyFS{osfs}, dirblob.Options{})
		if err != nil {
			b.Fatal(err)
		}
		return d
	}
	timed := func(unit string, times int, fn func()) {
		began := time.Now()
		fn()
		b.ReportMetric(float64(time.Since(began).Microseconds())/float64(times), unit)
	}
	key := func(i int) string { return fmt.Sprintf("files/%03d/%016x", i%997, uint64(i)*0x9e3779b97f4a7c15) }
	body := strings.Repeat("b", 200)

	d := open()
	timed("µs/put", n, func() {
		var wg sync.WaitGroup
		for w := range 16 {
			wg.Go(func() {
				for i := w; i < n; i += 16 {
					if err := d.Put(b.Context(), key(i), strings.NewReader(body), int64(len(body)), blob.PutOptions{}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
	timed("µs/open", 1, func() { d = open() })
	timed("µs/get", 10_000, func() {
		for range 10_000 {
			rc, _, err := d.Open(b.Context(), key(rand.IntN(n)), 0, -1)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, rc); err != nil {
				b.Fatal(err)
			}
		}
	})
	timed("µs/page", 100, func() {
		for range 100 {
			if _, _, err := d.List(b.Context(), "", key(rand.IntN(n)), 1000); err != nil {
				b.Fatal(err)
			}
		}
	})
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "segments", "manifest")); err != nil {
		b.Fatal(err)
	}
	timed("µs/rebuild", 1, func() { d = open() })
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(peakMB(b), "peak-MB")
}

// peakMB is the greatest resident memory that the process had.
func peakMB(b *testing.B) float64 {
	b.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kb float64
		if _, err := fmt.Sscanf(line, "VmHWM: %f kB", &kb); err == nil {
			return kb / 1024
		}
	}
	return 0
}
