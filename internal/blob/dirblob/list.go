// SPDX-License-Identifier: Apache-2.0

package dirblob

import (
	"container/heap"
	"context"
	"errors"
	"io/fs"
	"math"
	"slices"
	"strings"

	"panal/internal/blob"
)

// List implements blob.Driver. Objects that come or go during the call may or
// may not be among the result.
func (d *Driver) List(ctx context.Context, prefix, after string, limit int) ([]blob.Info, bool, error) {
	if err := d.check(ctx); err != nil {
		return nil, false, err
	}
	if len(prefix) > blob.MaxKeyLen {
		return nil, false, nil
	}
	want := min(limit, math.MaxInt-1) + 1
	for tries := 0; ; tries++ {
		moves := d.moves.Load()
		l := lister{d: d, prefix: prefix, after: after, want: want}
		dir, text := prefixDir(prefix)
		if err := l.walk(ctx, dir, text); err != nil {
			return nil, false, translate(err)
		}
		small, err := d.small.list(ctx, prefix, after, want)
		if err != nil {
			return nil, false, translate(err)
		}
		if d.moves.Load() != moves && tries < 10 {
			continue // one may have been missed on its way between a file and a segment
		}
		found := mergeInfos(small, l.found)
		if len(found) > limit {
			return found[:limit], true, nil
		}
		return found, false, nil
	}
}

// mergeInfos merges two ordered lists. Of two infos with the same key the one of a
// counts.
func mergeInfos(a, b []blob.Info) []blob.Info {
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	out := make([]blob.Info, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch c := strings.Compare(a[0].Key, b[0].Key); {
		case c > 0:
			out, b = append(out, b[0]), b[1:]
		case c == 0:
			b = b[1:]
		default:
			out, a = append(out, a[0]), a[1:]
		}
	}
	return append(append(out, a...), b...)
}

// lister collects one page.
type lister struct {
	d             *Driver
	prefix, after string
	want          int
	found         []blob.Info
}

// walk adds the wanted objects of the tree below dir, whose keys start with text.
func (l *lister) walk(ctx context.Context, dir, text string) error {
	last, started := "", false
	for {
		children, more, err := l.next(ctx, dir, text, last, started)
		if err != nil {
			return err
		}
		for _, c := range children {
			last, started = c.text, true
			if c.leaf {
				fi, err := l.d.fs.Stat(dir + "/" + c.name)
				if errors.Is(err, fs.ErrNotExist) {
					continue // deleted meanwhile
				}
				if err != nil {
					return err
				}
				l.found = append(l.found, infoOf(text+c.text, fi))
			} else if err := l.walk(ctx, dir+"/"+c.name, text+c.text); err != nil {
				return err
			}
			if len(l.found) == l.want {
				return nil
			}
		}
		// Directories may turn out empty, so a full batch may yield too little.
		if !more {
			return nil
		}
	}
}

// next returns, in order, the first children of dir behind the child last that
// may hold wanted objects: as many as the page still lacks. It reads all names
// but keeps only those.
func (l *lister) next(ctx context.Context, dir, text, last string, started bool) (children []child, more bool, err error) {
	room := l.want - len(l.found)
	kept := childHeap{}
	b, some := l.boundsIn(text)
	if !some {
		return nil, false, nil
	}
	err = l.d.fs.ReadNames(dir, func(names []string) error {
		if err := l.d.check(ctx); err != nil {
			return err
		}
		for _, name := range names {
			c, ok := parseName(name)
			if !ok || started && c.text <= last || !b.admit(c) {
				continue
			}
			switch {
			case len(kept) < room:
				heap.Push(&kept, c)
			case c.text < kept[0].text:
				kept[0] = c
				heap.Fix(&kept, 0)
				more = true
			default:
				more = true
			}
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil // no such prefix, or the directory went meanwhile
	}
	slices.SortFunc(kept, func(a, b child) int { return strings.Compare(a.text, b.text) })
	// Some file systems show a name twice when it is replaced during the reading.
	kept = slices.Compact(kept)
	return kept, more, err
}

// bounds are prefix and after as seen from inside a directory.
type bounds struct {
	prefix, after string
	all           bool // everything in the directory comes after
}

// boundsIn returns the bounds within the directory whose keys start with text;
// some is false when it can hold nothing wanted.
func (l *lister) boundsIn(text string) (b bounds, some bool) {
	switch {
	case strings.HasPrefix(l.prefix, text):
		b.prefix = l.prefix[len(text):]
	case !strings.HasPrefix(text, l.prefix):
		return bounds{}, false
	}
	switch {
	case strings.HasPrefix(l.after, text):
		b.after = l.after[len(text):]
	case text < l.after:
		return bounds{}, false
	}
	b.all = l.after < text
	return b, true
}

// admit tells whether the object c, or an object below the directory c, may
// belong to the page.
func (b bounds) admit(c child) bool {
	if c.leaf {
		return strings.HasPrefix(c.text, b.prefix) && (b.all || c.text > b.after)
	}
	if !strings.HasPrefix(c.text, b.prefix) && !strings.HasPrefix(b.prefix, c.text) {
		return false
	}
	return b.all || c.text > b.after || strings.HasPrefix(b.after, c.text)
}

// childHeap has the child with the greatest text on top.
type childHeap []child

func (h childHeap) Len() int           { return len(h) }
func (h childHeap) Less(i, j int) bool { return h[i].text > h[j].text }
func (h childHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *childHeap) Push(x any) {
	c, ok := x.(child)
	if !ok {
		panic("BUG: not a child")
	}
	*h = append(*h, c)
}

// Pop implements heap.Interface.
func (h *childHeap) Pop() any {
	old := *h
	c := old[len(old)-1]
	*h = old[:len(old)-1]
	return c
}
