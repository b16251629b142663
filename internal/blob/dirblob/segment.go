// SPDX-License-Identifier: Apache-2.0

package dirblob

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"panal/internal/blob/dirblob/vfs"
	"panal/internal/plat"
)

const (
	segmentsDir   = "segments"
	segmentSuffix = ".seg"
	runSuffix     = ".run"
	manifestFile  = segmentsDir + "/manifest"

	maxBatch   = 1 << 20 // bytes of a group, about
	maxHandles = 64      // segments open for reading
)

func segmentName(n uint32) string {
	return segmentsDir + "/" + strconv.FormatUint(uint64(n), 10) + segmentSuffix
}

// segment is what is known of a segment file.
type segment struct {
	size int64 // of its good part
	dead int64 // bytes of records that are not the newest of their key, about
	gone int64 // bytes of records of deletes that are
}

// position is a place in the log that the segments are.
type position struct {
	segment uint32
	offset  int64
}

// log appends to segments. Concurrent appends are gathered: while one group is
// written and synced, the next one fills, and the first caller of a group writes it
// for all. A group is one write and one sync.
type log struct {
	fs      vfs.FS
	max     int64 // a segment that is longer is followed by another
	publish func(b *group, at position)

	mu   sync.Mutex
	open *group // still filling, or nil
	free [][]byte

	turn chan struct{} // holds one token; who has it may use what is below
	file vfs.File      // of the segment that is written to, or nil
	tail position      // its number, and the end of its good part
	next uint32        // number of the next segment

	current atomic.Uint32 // the segment that is written to, 0 for none; for a look without the turn
}

// group is the appends that share a sync.
type group struct {
	buf   []byte
	items []item
	err   error
	done  chan struct{}
}

// item is one record of a group.
type item struct {
	record
	at  int64  // in the group's buffer, then in the segment
	old *entry // what it replaces, nil for nothing
}

func newLog(fsys vfs.FS, maxBytes int64, publish func(*group, position)) *log {
	l := &log{fs: fsys, max: maxBytes, publish: publish, turn: make(chan struct{}, 1)}
	l.turn <- struct{}{}
	return l
}

// append makes records durable, in their order, and publishes them before it returns.
func (l *log) append(items ...item) error {
	l.mu.Lock()
	g, leader := l.open, false
	if g == nil {
		g, leader = &group{done: make(chan struct{})}, true
		if n := len(l.free); n > 0 {
			g.buf, l.free = l.free[n-1], l.free[:n-1]
		}
		l.open = g
	}
	for _, it := range items {
		it.at = int64(len(g.buf))
		g.buf = appendRecord(g.buf, it.record)
		it.body = nil // the caller's
		g.items = append(g.items, it)
	}
	if len(g.buf) >= maxBatch {
		l.open = nil // the next caller begins another
	}
	l.mu.Unlock()
	if leader {
		l.lead(g)
	}
	<-g.done
	return g.err
}

func (l *log) lead(g *group) {
	<-l.turn
	l.mu.Lock()
	if l.open == g {
		l.open = nil
	}
	l.mu.Unlock()
	g.err = plat.Errorf(plat.ErrUnavailable, "the write was interrupted") // by a panic
	defer func() {
		l.turn <- struct{}{}
		close(g.done)
	}()
	if g.err = l.write(g.buf); g.err == nil {
		at := position{l.tail.segment, l.tail.offset - int64(len(g.buf))}
		for i := range g.items {
			g.items[i].at += at.offset
		}
		l.publish(g, at)
	}
	l.mu.Lock()
	if len(l.free) < 4 && cap(g.buf) <= 2*maxBatch {
		l.free = append(l.free, g.buf[:0])
	}
	l.mu.Unlock()
	g.buf = nil
}

// write appends b and syncs. After an error nothing of b is in the good part.
func (l *log) write(b []byte) error {
	if l.file != nil && l.tail.offset >= l.max {
		l.seal()
	}
	if l.file == nil {
		return l.begin(b)
	}
	if _, err := l.file.Write(b); err != nil {
		// Back to where the good part ends; else its successor says where that is.
		_, serr := l.file.Seek(l.tail.offset, io.SeekStart)
		if terr := l.file.Truncate(l.tail.offset); terr != nil || serr != nil {
			l.seal()
		}
		return err
	}
	if err := l.file.Sync(); err != nil {
		// What is on the disk is anybody's guess, and a second sync would not tell:
		// the kernel forgets what it could not write.
		_ = l.file.Truncate(l.tail.offset)
		l.seal()
		return err
	}
	l.tail.offset += int64(len(b))
	return nil
}

// seal ends the segment that is written to. All that counts of it is synced.
func (l *log) seal() {
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
		l.current.Store(0)
	}
}

// begin makes a segment that begins with b.
func (l *log) begin(b []byte) (err error) {
	n := l.next
	l.next++
	name := segmentName(n)
	f, err := l.fs.Create(name)
	if err != nil {
		return err
	}
	head := segmentHead{number: n, before: l.tail.segment, length: l.tail.offset}.encode()
	_, err = f.Write(append(head, b...))
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = l.fs.SyncDir(segmentsDir)
	}
	if err != nil {
		// The next one names the same predecessor, so this one counts for nothing.
		return errors.Join(err, f.Close(), ignoreMissing(l.fs.Remove(name)))
	}
	l.file, l.tail = f, position{n, int64(segmentHeader + len(b))}
	l.current.Store(n)
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// found is a segment on disk at the start.
type found struct {
	segmentHead
	size int64 // of its good part; -1: to the first record that is not whole
}

// findSegments lists the segments that count, oldest first, and removes the others:
// those that a failed write left without a successor's word.
func findSegments(ctx context.Context, fsys vfs.FS) (all []found, highest uint32, err error) {
	var numbers []uint32
	err = fsys.ReadNames(segmentsDir, func(names []string) error {
		for _, name := range names {
			digits, ok := strings.CutSuffix(name, segmentSuffix)
			n, err := strconv.ParseUint(digits, 10, 32)
			if ok && err == nil && n > 0 && strconv.FormatUint(n, 10) == digits {
				numbers = append(numbers, uint32(n))
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, 0, err
	}
	slices.SortFunc(numbers, func(a, b uint32) int { return cmp.Compare(b, a) })
	var after *segmentHead // of the next newer one that counts
	for _, n := range numbers {
		highest = max(highest, n)
		h, ok, err := readSegmentHead(fsys, n)
		if err != nil {
			return nil, 0, fmt.Errorf("segment %d: %w", n, err)
		}
		if !ok && after != nil && n == after.before {
			return nil, 0, fmt.Errorf("segment %d: %w", n, errDamaged)
		}
		if !ok || after != nil && n > after.before {
			if err := fsys.Remove(segmentName(n)); ignoreMissing(err) != nil {
				return nil, 0, err
			}
			continue
		}
		f := found{segmentHead: h, size: -1}
		if after != nil && after.before == n {
			f.size = after.length
		}
		after = &h
		all = append(all, f)
	}
	slices.Reverse(all)
	return all, highest, nil
}

func readSegmentHead(fsys vfs.FS, n uint32) (h segmentHead, ok bool, err error) {
	f, err := fsys.Open(segmentName(n))
	if err != nil {
		return h, false, err
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, segmentHeader)
	if _, err := f.ReadAt(b, 0); err != nil {
		return h, false, cutOff(err)
	}
	if !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) {
		return h, false, nil // the power went before its first sync
	}
	if h, ok = parseSegmentHead(b); !ok || h.number != n {
		return h, false, errDamaged
	}
	return h, true, nil
}

// handles keeps some segments open for reading.
type handles struct {
	fs vfs.FS

	mu  sync.Mutex
	all map[uint32]*handle
}

type handle struct {
	file vfs.File
	refs int // readers
	gone bool
}

// read reads len(b) bytes of a segment at off.
func (h *handles) read(n uint32, b []byte, off int64) error {
	h.mu.Lock()
	x := h.all[n]
	if x == nil {
		f, err := h.fs.Open(segmentName(n)) // seldom, so under the lock
		if err != nil {
			h.mu.Unlock()
			return err
		}
		x = &handle{file: f}
		if len(h.all) >= maxHandles {
			for k := range h.all { // any will do: the map's order is random
				h.dropLocked(k)
				break
			}
		}
		h.all[n] = x
	}
	x.refs++
	h.mu.Unlock()
	_, err := x.file.ReadAt(b, off)
	h.mu.Lock()
	x.refs--
	last := x.gone && x.refs == 0
	h.mu.Unlock()
	if last {
		_ = x.file.Close()
	}
	return err
}

// drop closes a segment once its readers are done.
func (h *handles) drop(n uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropLocked(n)
}

func (h *handles) dropLocked(n uint32) {
	x := h.all[n]
	if x == nil {
		return
	}
	delete(h.all, n)
	if x.gone = true; x.refs == 0 {
		_ = x.file.Close()
	}
}

func (h *handles) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for n := range h.all {
		h.dropLocked(n)
	}
}
