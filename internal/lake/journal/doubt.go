// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	"panal/internal/blob"
	"panal/internal/lake"
	"panal/internal/plat"
)

// doubt puts off a file whose row and entry don't agree: it may have been changed between
// the listings that they are of.
func (v *verify) doubt(ctx context.Context, id plat.FileID) error {
	if v.doubts = append(v.doubts, id); len(v.doubts) < maxBatch {
		return nil
	}
	return v.judge(ctx)
}

// judge looks again at the files in doubt: at their entries, then at their rows, then at
// what has happened to those that still don't agree. A change is in the index, with its event,
// before it is in the journal; so what is being changed all the time is found to be.
func (v *verify) judge(ctx context.Context) error {
	ids := v.doubts
	if v.doubts = nil; len(ids) == 0 {
		return nil
	}
	entries, err := lookup(ctx, v.j.blobs, v.c, ids)
	if err != nil {
		return err
	}
	list, err := v.index.RowsOf(ctx, v.c.ID, ids)
	if err != nil {
		return err
	}
	rows := make(map[plat.FileID]*lake.File, len(list))
	for i := range list {
		rows[list[i].ID] = &list[i]
	}
	var left []plat.FileID
	for _, id := range ids {
		if !agree(rows[id], entries[id]) {
			left = append(left, id)
		}
	}
	if len(left) == 0 {
		return nil
	}
	gone, err := v.lately(ctx)
	if err != nil {
		return err
	}
	for _, id := range left {
		ended, changed := gone[id]
		switch f, e := rows[id], entries[id]; {
		case f == nil && ended, f != nil && (e == nil || e.Rev < f.Rev) && changed:
			v.out.Young++ // its entry may be on the way
		case f == nil:
			err = v.rowMissing(ctx, e)
		default:
			err = v.rowOdd(ctx, *f, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// agree tells whether a row and an entry say the same; there may be either, or none.
func agree(f *lake.File, e *Entry) bool {
	if f == nil || e == nil || e.Gone != 0 {
		return f == nil && (e == nil || e.Gone != 0)
	}
	return e.Rev == f.Rev && e.Lifetime == f.Lifetime && maps.Equal(e.Metadata, f.Metadata)
}

// lookup reads what the journal says of a channel's files now.
func lookup(ctx context.Context, b *blob.Store, c lake.Channel, ids []plat.FileID) (map[plat.FileID]*Entry, error) {
	wanted := make(map[string]bool, len(ids))
	for _, id := range ids {
		wanted[lake.BlobKey(c.Org, c.ID, id)] = true
	}
	want := func(key string) bool { return wanted[key] }
	m, err := snapshot(ctx, b, want)
	if err != nil {
		return nil, err
	}
	found := make(map[plat.FileID]*Entry, len(ids))
	for {
		e, err := nextOf(m, want)
		if err != nil || e == nil {
			return found, errors.Join(err, m.close())
		}
		found[e.File] = e
	}
}

// changeLife is longer than the entry of a change takes, also of a writer that died.
const changeLife = time.Hour

// lately returns which of the channel's files were changed lately; true: their end.
func (v *verify) lately(ctx context.Context) (map[plat.FileID]bool, error) {
	gone := map[plat.FileID]bool{}
	err := v.index.Changed(ctx, v.j.now().Add(-changeLife), func(_, subject, what string) error {
		if channel, id, ok := strings.Cut(subject, "/"); ok && channel == string(v.c.ID) {
			f := plat.FileID(id)
			gone[f] = gone[f] || hasGone(what)
		}
		return nil
	})
	return gone, err
}

// rowOdd is about a row whose entry says something else, or is missing.
func (v *verify) rowOdd(ctx context.Context, f lake.File, e *Entry) error {
	switch {
	case e != nil && e.Gone != 0:
		v.out.add(KindRowDeleted, string(f.ID), false)
		return nil
	case e != nil && e.Rev > f.Rev:
		if v.opt.Repair {
			if err := v.index.RenewFile(ctx, e.file()); err != nil {
				return err
			}
		}
		v.out.add(KindRowOld, string(f.ID), v.opt.Repair)
		return nil
	}
	if v.opt.Repair {
		if e != nil && e.Rev == f.Rev { // counted on from a restored row: what was answered last holds
			f.Rev++
			if err := v.index.RenewFile(ctx, f); err != nil {
				return err
			}
			now, err := v.index.RowsOf(ctx, v.c.ID, []plat.FileID{f.ID})
			if err != nil || len(now) == 0 {
				return err
			}
			f = now[0]
		}
		if err := v.j.Append(ctx, fileEntry(v.c.Org, f)); err != nil {
			return err
		}
	}
	v.out.add(KindJournal, string(f.ID), v.opt.Repair)
	return nil
}

// rowMissing is about an entry whose object is there, and no row.
func (v *verify) rowMissing(ctx context.Context, e *Entry) error {
	if v.opt.Repair {
		err := v.index.RestoreFiles(ctx, v.c.ID, []lake.File{e.file()})
		if errors.Is(err, plat.ErrExists) && !v.swept { // or the row is all that went, and its terms are in the way
			v.swept = true
			if v.strays, err = v.index.StrayTerms(ctx, v.c.ID, true); err == nil {
				err = v.index.RestoreFiles(ctx, v.c.ID, []lake.File{e.file()})
			}
		}
		if errors.Is(err, plat.ErrExists) { // another file has its place in time
			v.out.add(KindRowMissing, string(e.File), false)
			return nil
		}
		if err != nil {
			return err
		}
	}
	v.out.add(KindRowMissing, string(e.File), v.opt.Repair)
	return nil
}
