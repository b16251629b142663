// SPDX-License-Identifier: Apache-2.0

package dirblob

import (
	"fmt"
	"strings"
	"testing"

	"panal/internal/blob/dirblob/crashfs"
)

// TestRunsOfEverySize: also of those whose last block ends with the last entry, on
// each level of the tree.
func TestRunsOfEverySize(t *testing.T) {
	fsys := crashfs.New()
	pad := strings.Repeat("x", 900) // few entries to a block, so that the tree is high
	key := func(i int) string { return fmt.Sprintf("%05d%s", i, pad) }
	for n := 1; n < 130; n++ {
		mem := memtable{}
		for i := range n {
			mem[key(i)] = entry{segment: 7, offset: int64(i), size: uint32(i)}
		}
		name := fmt.Sprint(n)
		tier, err := writeRuns(fsys, merged{newMemSource("", n, mem.smallest)}, int64(n), true, func() string { return name }, func() error { return nil })
		if err != nil {
			t.Fatalf("%d entries: %v", n, err)
		}
		if len(tier) != 1 || tier[0].first != key(0) || tier[0].last != key(n-1) {
			t.Fatalf("%d entries: %d runs", n, len(tier))
		}
		all := newTiers([][]*run{tier})
		for i := range n {
			if e, ok, err := all.find(key(i)); err != nil || !ok || e.offset != int64(i) {
				t.Fatalf("%d entries: find %d = %+v, %v, %v", n, i, e, ok, err)
			}
		}
		for _, from := range []int{0, n / 2, n - 1} {
			src, err := newTierSource(tier, key(from))
			if err != nil {
				t.Fatal(err)
			}
			for i := from; i < n; i++ {
				if k := src.peek(); k == nil || k.key != key(i) {
					t.Fatalf("%d entries: walk from %d lacks %d", n, from, i)
				}
				if err := src.advance(); err != nil {
					t.Fatal(err)
				}
			}
			if src.peek() != nil {
				t.Fatalf("%d entries: walk from %d has no end", n, from)
			}
		}
		if _, ok, err := all.find(key(n)); ok || err != nil {
			t.Fatalf("%d entries: found what is missing: %v", n, err)
		}
		all.release()
	}
}
