// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"

	"panal/internal/plat"
)

// Verified is what a comparison of a bucket with its channel found.
type Verified struct {
	Objects  int64    // listed
	Differ   int64    // keys out of step
	Settled  int64    // of these, looked at and brought in step
	Examples []string // some of their keys
}

const maxExamples = 10

// Verify compares a link's bucket with its rows, whole and at once, and with repair brings
// in step what differs. What is being seen to by the subscriber may show.
func (m *Manager) Verify(ctx context.Context, channel plat.ChannelID, repair bool) (Verified, error) {
	var v Verified
	l, err := m.opt.Store.Link(ctx, channel)
	if err != nil {
		return v, err
	}
	bucket, err := m.bucket(l)
	if err != nil {
		return v, err
	}
	const size = 1000
	w := Walker{Link: l, Rows: m.opt.Store.Bound(l.Num), Bucket: bucket, Now: m.opt.Now, Looks: 16}
	for after := ""; ; {
		page, more, err := bucket.List(ctx, l.Place.Prefix, after, size)
		if err != nil {
			return v, err
		}
		upTo := ""
		if more && len(page) > 0 {
			upTo = page[len(page)-1].Key
		}
		differ, err := w.compare(ctx, page, after, upTo, size)
		if err != nil {
			return v, err
		}
		v.Objects += int64(len(page))
		v.Differ += int64(len(differ))
		v.Examples = append(v.Examples, differ[:min(len(differ), maxExamples-len(v.Examples))]...)
		if repair && len(differ) > 0 {
			if _, err := w.settle(ctx, differ); err != nil {
				return v, err
			}
			left, err := w.compare(ctx, page, after, upTo, size)
			if err != nil {
				return v, err
			}
			v.Settled += int64(max(len(differ)-len(left), 0))
		}
		if upTo == "" {
			return v, nil
		}
		after = upTo
	}
}
