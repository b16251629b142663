// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"

	"panal/internal/feed"
	"panal/internal/plat"
)

// Walker compares a link's bucket with its rows and brings in step what differs. The
// first whole pass is the import of what is there already.
type Walker struct {
	Link   Link // its Walk is where it goes on
	Rows   Rows
	Bucket Bucket
	Now    plat.Clock
	Looks  int
	// PageSize is how many objects a step lists; 0: 1,000, an S3 listing's most.
	PageSize int
}

// Step does one page, and tells whether a pass is complete with it. After an error, or
// the death of the process, the page is done again.
func (w *Walker) Step(ctx context.Context) (passed bool, err error) {
	size, walk := w.PageSize, w.Link.Walk
	if size == 0 {
		size = 1000
	}
	page, more, err := w.Bucket.List(ctx, w.Link.Place.Prefix, walk.After, size)
	if err != nil {
		return false, fmt.Errorf("list bucket %s: %w", w.Link.Place.Bucket, err)
	}
	if more && len(page) == 0 {
		return false, plat.Errorf(plat.ErrUnavailable, "list bucket %s: an empty page, and more to come", w.Link.Place.Bucket)
	}
	upTo := "" // to the end
	if more {
		upTo = page[len(page)-1].Key
	}
	differ, err := w.compare(ctx, page, walk.After, upTo, size)
	if err != nil {
		return false, err
	}
	found, err := w.settle(ctx, differ)
	if err != nil {
		return false, err
	}
	walk.After, walk.Seen, walk.Found = upTo, walk.Seen+int64(len(page)), walk.Found+int64(found)
	if !more {
		walk = Walk{Drift: walk.Found, PassedAt: w.Now()}
	}
	if err := w.Rows.SetWalk(ctx, w.Link.Channel, walk); err != nil {
		return false, err
	}
	w.Link.Walk = walk
	return !more, nil
}

// compare returns the keys in (after, upTo] that are not the same in page and rows.
func (w *Walker) compare(ctx context.Context, page []Object, after, upTo string, size int) ([]string, error) {
	var differ []string
	for {
		rows, err := w.Rows.Live(ctx, w.Link.Channel, after, upTo, size)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			for len(page) > 0 && page[0].Key < r.Key {
				differ, page = append(differ, page[0].Key), page[1:] // has no row
			}
			if len(page) == 0 || page[0].Key != r.Key {
				differ = append(differ, r.Key) // has no object
				continue
			}
			if !page[0].same(r) {
				differ = append(differ, r.Key)
			}
			page = page[1:]
		}
		if len(rows) < size {
			break
		}
		after = rows[len(rows)-1].Key
	}
	for _, o := range page {
		differ = append(differ, o.Key)
	}
	return differ, nil
}

// settle looks at keys that differ, and returns how many of them had to change: the
// others were being seen to by the subscriber.
func (w *Walker) settle(ctx context.Context, keys []string) (changed int, err error) {
	o := observer{
		channel: w.Link.Channel, rows: w.Rows, bucket: w.Bucket, looks: max(w.Looks, 1),
		write: func(ctx context.Context, all []Observation) ([]Outcome, error) {
			return w.Rows.Write(ctx, w.Link.Channel, all)
		},
	}
	const chunk = 1000
	for len(keys) > 0 {
		n := min(chunk, len(keys))
		seqs := make(map[string]feed.Sequencer, n)
		for _, k := range keys[:n] {
			seqs[k] = ""
		}
		keys = keys[n:]
		res := o.observe(ctx, seqs)
		changed += res.changed
		for k, failed := range res.failed {
			if errors.Is(failed, plat.ErrUnavailable) || ctx.Err() != nil {
				return changed, fmt.Errorf("object %.200q: %w", k, failed)
			}
			changed++ // an object that can't be read is drift, and no reason to look at no other
		}
	}
	return changed, nil
}
