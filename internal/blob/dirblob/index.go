// SPDX-License-Identifier: Apache-2.0

package dirblob

import (
	"container/heap"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"panal/internal/blob/dirblob/vfs"
)

// memtable is the newest piece of the index: what the runs on disk do not have yet.
// A listing looks at all of it, as it looks at all names of a directory.
type memtable map[string]entry

// tiers are the runs on disk, newest first. A tier's runs have keys that do not
// overlap, in order. An entry of a newer tier hides those of older ones. A set is
// immutable; the last user of one that was replaced closes what no other has.
type tiers struct {
	all  [][]*run
	refs atomic.Int32 // users, and one of the index
}

func newTiers(all [][]*run) *tiers {
	t := &tiers{all: all}
	t.refs.Store(1)
	for _, tier := range all {
		for _, r := range tier {
			r.refs.Add(1)
		}
	}
	return t
}

func (t *tiers) release() {
	if t.refs.Add(-1) > 0 {
		return
	}
	for _, tier := range t.all {
		for _, r := range tier {
			if r.refs.Add(-1) == 0 {
				_ = r.file.Close() // it was only read
			}
		}
	}
}

// find returns the newest entry for key.
func (t *tiers) find(key string) (entry, bool, error) {
	if len(t.all) == 0 {
		return entry{}, false, nil
	}
	h := hashKey(key)
	for _, tier := range t.all {
		i, _ := slices.BinarySearchFunc(tier, key, func(r *run, key string) int { return strings.Compare(r.last, key) })
		if i == len(tier) {
			continue
		}
		if e, ok, err := tier[i].find(key, h); ok || err != nil {
			return e, ok, err
		}
	}
	return entry{}, false, nil
}

// source yields entries in order of the key. peek is nil at the end.
type source interface {
	peek() *keyed
	advance() error
}

// tierSource walks a tier.
type tierSource struct {
	tier []*run
	it   *runIterator
}

// newTierSource begins at the first entry that is not less than from.
func newTierSource(tier []*run, from string) (*tierSource, error) {
	i, _ := slices.BinarySearchFunc(tier, from, func(r *run, key string) int { return strings.Compare(r.last, key) })
	s := &tierSource{tier: tier[i:]}
	return s, s.open(from)
}

func (s *tierSource) open(from string) error {
	if len(s.tier) == 0 {
		s.it = nil
		return nil
	}
	s.it, s.tier = s.tier[0].iterator(), s.tier[1:]
	return s.it.seek(from)
}

func (s *tierSource) peek() *keyed {
	if s.it == nil || !s.it.ok {
		return nil
	}
	return &s.it.keyed
}

func (s *tierSource) advance() error {
	if err := s.it.next(); err != nil || s.it.ok {
		return err
	}
	return s.open("")
}

// memSource walks a memtable, whose lock load takes, some entries at a time.
type memSource struct {
	load  func(from string, n int) (page []keyed, more bool)
	batch int
	page  []keyed
	more  bool
}

func newMemSource(from string, batch int, load func(string, int) ([]keyed, bool)) *memSource {
	s := &memSource{load: load, batch: batch}
	s.page, s.more = load(from, batch)
	return s
}

func (s *memSource) peek() *keyed {
	if len(s.page) == 0 {
		return nil
	}
	return &s.page[0]
}

func (s *memSource) advance() error {
	last := s.page[0].key
	if s.page = s.page[1:]; len(s.page) == 0 && s.more {
		s.page, s.more = s.load(last+"\x00", s.batch) // the least key above last
	}
	return nil
}

// smallest returns, in order, the n first entries of m that are not less than from.
func (m memtable) smallest(from string, n int) (page []keyed, more bool) {
	kept := keyHeap{}
	for key, e := range m {
		switch {
		case key < from:
		case n >= len(m): // all that is behind from: no heap is needed
			kept = append(kept, keyed{key, e})
		case len(kept) < n:
			heap.Push(&kept, keyed{key, e})
		case key < kept[0].key:
			kept[0] = keyed{key, e}
			heap.Fix(&kept, 0)
			more = true
		default:
			more = true
		}
	}
	slices.SortFunc(kept, func(a, b keyed) int { return strings.Compare(a.key, b.key) })
	return kept, more
}

// keyHeap has the entry with the greatest key on top.
type keyHeap []keyed

func (h keyHeap) Len() int           { return len(h) }
func (h keyHeap) Less(i, j int) bool { return h[i].key > h[j].key }
func (h keyHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *keyHeap) Push(x any) {
	k, ok := x.(keyed)
	if !ok {
		panic("BUG: not an entry")
	}
	*h = append(*h, k)
}

// Pop implements heap.Interface.
func (h *keyHeap) Pop() any {
	old := *h
	k := old[len(old)-1]
	*h = old[:len(old)-1]
	return k
}

// merged walks sources, newest first, as one: of several entries of a key only the
// newest is seen.
type merged []source

// next returns the next entry; nil at the end. It is good until the following call.
func (m merged) next() (*keyed, error) {
	var least *keyed
	for _, s := range m { // a handful
		if k := s.peek(); k != nil && (least == nil || k.key < least.key) {
			least = k
		}
	}
	if least == nil {
		return nil, nil //nolint:nilnil // documented
	}
	out := *least
	for _, s := range m {
		if k := s.peek(); k != nil && k.key == out.key {
			if err := s.advance(); err != nil {
				return nil, err
			}
		}
	}
	return &out, nil
}

// writeRuns writes what m yields as one tier of runs below dir, each named by name,
// and makes their bytes durable, but not their names. With last set nothing older is
// left, and entries of what is gone are dropped.
func writeRuns(fsys vfs.FS, m merged, total int64, last bool, name func() string, stop func() error) (tier []*run, err error) {
	var made []string
	defer func() {
		if err != nil {
			for _, r := range tier {
				_ = r.file.Close()
			}
			for _, n := range made {
				_ = fsys.Remove(n) // else the next Open does
			}
			tier = nil
		}
	}()
	for {
		var w *runWriter
		var f vfs.File
		n := ""
		for w == nil || w.entries < maxRunEntries {
			e, err := m.next()
			if err != nil {
				return tier, closeWith(err, f)
			}
			if e == nil {
				break
			}
			if last && e.gone {
				continue
			}
			if w == nil {
				n = name()
				if f, err = fsys.Create(n); err != nil {
					return tier, err
				}
				made = append(made, n)
				w = newRunWriter(f, min(max(total, 1), maxRunEntries))
			}
			if err := w.add(*e); err != nil {
				return tier, closeWith(err, f)
			}
			if w.entries%4096 == 0 {
				if err := stop(); err != nil {
					return tier, closeWith(err, f)
				}
			}
		}
		if w == nil {
			return tier, nil
		}
		total -= w.entries
		if err := closeWith(w.close(), f); err != nil {
			return tier, err
		}
		r, err := openRun(fsys, n)
		if err != nil {
			return tier, fmt.Errorf("read back: %w", err)
		}
		tier = append(tier, r)
	}
}

func closeWith(err error, f vfs.File) error {
	if f == nil {
		return err
	}
	return errors.Join(err, f.Close())
}
