// SPDX-License-Identifier: Apache-2.0

package dirblob

import (
	"context"
	"errors"
	"io/fs"
	"time"
)

const (
	maxTiers = 8 // more are merged

	retryAfter = 5 * time.Second // after maintenance failed, on a full disk, say

	// compactChunk is how much is moved under one set of keys' locks, compactRate how
	// many bytes a second are read for it at most, so that uploads go on beside it.
	compactChunk = 1 << 20
	compactRate  = 64 << 20

	// wasteFloor is the size from which the segment that is written to is given up
	// because most of it is dead.
	wasteFloor = 256 << 10
	maxShort   = 16 // segments of less than an eighth: restarts leave such
)

// kick starts maintenance when it is due and not running.
func (d *Driver) kick() {
	if d.small == nil || d.opt.Manual || !d.small.due.Load() || time.Now().UnixNano() < d.retryAt.Load() ||
		!d.maintaining.CompareAndSwap(false, true) {
		return
	}
	d.closing.RLock()
	defer d.closing.RUnlock()
	if d.closed.Load() {
		return
	}
	d.working.Go(func() {
		d.small.due.Store(false)
		if d.background() != nil {
			d.retryAt.Store(time.Now().Add(retryAfter).UnixNano())
			d.small.due.Store(true)
		}
		d.maintaining.Store(false)
		d.kick() // what became due meanwhile
	})
}

// Maintain does what there is to do about the segments: writes the index to disk,
// merges its runs, moves what lives out of segments that are mostly dead. The store
// does it by itself when it is due. One call at a time.
func (d *Driver) Maintain(ctx context.Context) error {
	s := d.small
	if s == nil {
		return nil
	}
	for {
		did, err := d.maintainOnce(ctx)
		s.mu.Lock()
		s.failure = s.noticed(err)
		s.mu.Unlock()
		if err != nil || !did {
			return translate(err)
		}
	}
}

func (d *Driver) maintainOnce(ctx context.Context) (did bool, err error) {
	s := d.small
	stop := func() error {
		if ctx.Err() != nil || d.closed.Load() {
			return errStopped
		}
		return nil
	}
	if err := stop(); err != nil {
		return false, err
	}
	s.mu.RLock()
	full, pending, many, wasted := s.fullLocked(), s.old != nil, len(s.tiers.all) > maxTiers, s.wastedLocked()
	s.mu.RUnlock()
	switch {
	case pending || full:
		return true, s.flush(false, stop)
	case many:
		return true, s.merge(stop)
	case wasted == 0:
		return false, nil
	case wasted >= s.saved.segment:
		// The log must be known to the runs beyond it first.
		return true, s.flush(wasted == s.log.current.Load(), stop)
	}
	return true, d.compact(ctx, wasted, stop)
}

// SpendReserve implements blob.Reserver.
func (d *Driver) SpendReserve() { d.small.reserve.give() }

// Reclaim implements blob.Reclaimer: segments with anything dead in them are compacted, once.
// A restart meanwhile leaves the rest to the usual rule.
func (d *Driver) Reclaim() {
	s := d.small
	if s == nil {
		return
	}
	s.mu.Lock()
	for _, seg := range s.segs {
		seg.clear = seg.clear || seg.dead > 0
	}
	s.mu.Unlock()
	s.due.Store(true)
	d.kick()
}

// wastedLocked returns a segment that is worth to compact, 0 for none. That the one
// that is written to is among them lets deleted objects' bytes go soon.
func (s *small) wastedLocked() uint32 {
	short, first := 0, uint32(0)
	for n, seg := range s.segs {
		active := n == s.log.current.Load()
		switch {
		case seg.damaged:
		case seg.clear || s.wasteLocked(n, seg, active):
			return n
		case !active && seg.size < s.opt.SegmentBytes/8:
			if short++; first == 0 || n < first {
				first = n
			}
		}
	}
	if short > maxShort {
		return first
	}
	return 0
}

// wasteLocked tells whether most of a segment is dead. What was deleted must be said
// only while there are older segments that may have it.
func (s *small) wasteLocked(n uint32, seg *segment, active bool) bool {
	dead := seg.dead
	if n == s.oldest {
		dead += seg.gone
	}
	return dead*2 > seg.size-segmentHeader && (!active || seg.size >= wasteFloor)
}

func (s *small) oldestLocked() {
	s.oldest = 0
	for n := range s.segs {
		if s.oldest == 0 || n < s.oldest {
			s.oldest = n
		}
	}
}

// rotate begins a new memtable. With seal it begins a new segment, too.
func (s *small) rotate(seal bool) {
	<-s.log.turn
	at := s.log.tail
	if seal {
		s.log.seal()
	}
	if s.log.file == nil {
		at = position{s.log.next, 0}
	}
	s.mu.Lock()
	s.old, s.mem, s.memLog, s.oldTo = s.mem, memtable{}, 0, at
	s.mu.Unlock()
	s.log.turn <- struct{}{}
}

// flush writes the memtable to a run.
func (s *small) flush(seal bool, stop func() error) error {
	s.mu.RLock()
	pending := s.old != nil
	s.mu.RUnlock()
	if !pending {
		s.rotate(seal)
	}
	s.mu.RLock()
	old, at, t := s.old, s.oldTo, s.tiers
	s.mu.RUnlock()
	all := t.all
	if len(old) > 0 {
		m := merged{newMemSource("", len(old), old.smallest)}
		tier, err := writeRuns(s.fs, m, int64(len(old)), len(all) == 0, s.runName, stop)
		if err != nil {
			return err
		}
		if len(tier) > 0 {
			all = append([][]*run{tier}, all...)
		}
	}
	if err := s.install(all, at, true); err != nil {
		return err
	}
	s.saved = at
	return nil
}

// install makes all the runs of the index, on disk and then here.
func (s *small) install(all [][]*run, at position, flushed bool) error {
	next := newTiers(all)
	if err := s.saveManifest(next, at, 0); err != nil {
		// Whether the disk has it is not known: the runs stay, and the next manifest
		// names them or the next Open removes them.
		next.release()
		return err
	}
	s.mu.Lock()
	before := s.tiers
	s.tiers = next
	if flushed {
		s.old = nil
	}
	s.mu.Unlock()
	var gone []string
	for _, tier := range before.all {
		for _, r := range tier {
			if r.refs.Load() == 1 { // before's own
				gone = append(gone, r.name)
			}
		}
	}
	before.release()
	for _, name := range gone {
		_ = s.fs.Remove(name) // else the next Open does
	}
	return nil
}

// merge makes one tier of the newest ones: of as many as keeps each entry from being
// written again more often than the index doubles.
func (s *small) merge(stop func() error) error {
	s.mu.RLock()
	t := s.tiers
	s.mu.RUnlock()
	size := func(tier []*run) (n int64) {
		for _, r := range tier {
			n += r.entries
		}
		return n
	}
	k, total := 1, size(t.all[0])
	for k < len(t.all) && (k < 2 || size(t.all[k]) <= 2*total) {
		total += size(t.all[k])
		k++
	}
	var m merged
	for _, tier := range t.all[:k] {
		src, err := newTierSource(tier, "")
		if err != nil {
			return err
		}
		m = append(m, src)
	}
	tier, err := writeRuns(s.fs, m, total, k == len(t.all), s.runName, stop)
	if err != nil {
		return err
	}
	var all [][]*run
	if len(tier) > 0 {
		all = append(all, tier)
	}
	return s.install(append(all, t.all[k:]...), s.saved, false)
}

// compact moves what lives in a segment to the end of the log and removes the segment.
// One with a damaged record that lives, or one whose key can't be told, stays.
func (d *Driver) compact(ctx context.Context, n uint32, stop func() error) error {
	s := d.small
	s.mu.RLock()
	oldest := s.oldest == n
	end := s.segs[n].size
	s.mu.RUnlock()
	file, err := s.fs.Open(segmentName(n))
	if err != nil {
		return s.keepDamaged(n, err)
	}
	defer func() { _ = file.Close() }()
	head, _, err := readSegmentHead(file, n)
	if err != nil {
		return s.keepDamaged(n, err)
	}
	began, chunk, size := time.Now(), []moving(nil), int64(0)
	move := func() error {
		if err := d.move(ctx, n, oldest, chunk); err != nil {
			return err
		}
		chunk, size = chunk[:0], 0
		return nil
	}
	good, err := scanRecords(file, head.salt, segmentHeader, end, func(off int64, h recordHead, whole bool) error {
		if err := stop(); err != nil {
			return err
		}
		rec := h.record
		rec.body = append([]byte(nil), rec.body...)
		chunk = append(chunk, moving{item: item{record: rec, at: off}, whole: whole})
		if size += recordSize(rec.key, len(rec.body)); size < compactChunk {
			return nil
		}
		if !d.opt.Manual {
			wait := time.Duration(off)*time.Second/compactRate - time.Since(began)
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
		return move()
	})
	if err == nil && good < end {
		err = errDamaged
	}
	if err == nil {
		err = move()
	}
	if err != nil {
		return s.keepDamaged(n, err)
	}
	// From here on nothing that a lookup finds is in n, and the manifest reads the log
	// from behind it.
	s.mu.Lock()
	s.segs[n].dead, s.segs[n].gone = end, 0
	t := s.tiers
	s.mu.Unlock()
	if err := s.saveManifest(t, s.saved, n); err != nil {
		return err
	}
	// It counts as there until it is gone: what was deleted while it was the oldest is
	// said by newer segments only as long.
	if err := ignoreMissing(s.fs.Remove(segmentName(n))); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.segs, n)
	s.oldestLocked()
	s.mu.Unlock()
	s.handles.drop(n)
	return nil
}

// keepDamaged makes compaction pass over segment n from now on if err is that it is
// damaged or missing. Whoever reads what is damaged is told.
func (s *small) keepDamaged(n uint32, err error) error {
	if !errors.Is(err, errDamaged) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segs[n].damaged = true
	return nil
}

// moving is a record of a segment that is compacted.
type moving struct {
	item
	whole bool
}

// move appends those of a segment's records anew that are still the newest of their
// key. A delete is kept while older segments may hold what it deleted: the index must
// be possible to make from the segments alone.
func (d *Driver) move(ctx context.Context, n uint32, oldest bool, chunk []moving) error {
	if len(chunk) == 0 {
		return nil
	}
	s := d.small
	moved, held := []item(nil), map[string]func(){}
	defer func() {
		for _, unlock := range held {
			unlock()
		}
	}()
	for _, it := range chunk {
		if held[it.key] != nil {
			continue // there is one newest record of a key
		}
		unlock, err := d.locks.lock(ctx, it.key)
		if err != nil {
			return err
		}
		e, err := s.find(it.key)
		same := e != nil && e.segment == n && e.offset == it.at
		if err != nil || it.gone && oldest || !same && (!it.gone || e != nil) {
			unlock()
			if err != nil {
				return err
			}
			continue
		}
		held[it.key] = unlock
		if !it.whole {
			return errDamaged
		}
		it.old = e
		moved = append(moved, it.item)
	}
	if len(moved) == 0 {
		return nil
	}
	return s.log.append(moved...)
}
