// SPDX-License-Identifier: Apache-2.0

package dirblob

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"runtime"
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

	maxBuffer  = 1 << 20 // bytes of a group that are copied, about
	maxBatch   = 8 << 20 // bytes of a group, about
	maxHandles = 64      // segments open for reading
)

//nolint:gochecknoglobals // zeros that nobody changes
var zeros [128 << 10]byte

func segmentName(n uint32) string {
	return segmentsDir + "/" + strconv.FormatUint(uint64(n), 10) + segmentSuffix
}

// segment is what is known of a segment file.
type segment struct {
	size    int64 // of its good part
	dead    int64 // bytes of records that are not the newest of their key, about
	gone    int64 // bytes of records of deletes that are
	damaged bool  // found when it was to be compacted: it stays
	clear   bool  // its dead bytes are to go, however few they are (Reclaim)
}

// position is a place in the log that the segments are.
type position struct {
	segment uint32
	offset  int64
}

// log appends to segments. Concurrent appends are gathered: while one group is
// written and synced, the next one fills, and the first caller of a group writes it
// for all. A group is one write and one sync.
//
// Bodies of more than inline bytes are not copied into the group: they are written from
// where the caller has them, who waits.
//
// A short group is written over zeros that were put there a while before: to sync bytes
// of blocks that the file has already costs half as much, and half the time, as to sync what
// makes it longer, which the file system has to note in its own log.
//
// Invariant: when a segment is begun, those before it end with their good part, and
// that is synced. So only the newest can have an end that does not count.
type log struct {
	fs      vfs.FS
	max     int64 // a segment that is longer is followed by another
	ahead   int64 // how many zeros it is lengthened by
	inline  int
	publish func(b *group, at position)

	mu   sync.Mutex
	open *group // still filling, or nil
	free [][]byte

	turn   chan struct{} // holds one token; who has it may use what is below
	file   vfs.File      // of the segment that is written to, or nil
	salt   uint64        // the segment's
	tail   position      // its number, and the end of its good part
	end    int64         // of the zeros behind that, or less
	noRoom bool          // there was no room for zeros
	next   uint32        // number of the next segment
	torn   bool          // behind tail may be zeros, or what a failed write left
	left   uint32        // a segment that could not be begun and may be there, or 0

	current atomic.Uint32 // the segment that is written to, 0 for none; for a look without the turn
}

// group is the appends that share a sync.
type group struct {
	buf   []byte
	apart []apart // in the order of their places
	size  int64   // of all of it
	items []item
	err   error
	done  chan struct{}
}

// apart is a body that stands behind the first at bytes of a group's buffer.
type apart struct {
	at   int
	body []byte
}

// item is one record of a group.
type item struct {
	record
	head int    // in the group's buffer
	at   int64  // in the group, then in the segment
	old  *entry // what it replaces, nil for nothing
}

func newLog(fsys vfs.FS, opt Options, publish func(*group, position)) *log {
	l := &log{fs: fsys, max: opt.SegmentBytes, ahead: int64(opt.Ahead), inline: opt.Inline, publish: publish, turn: make(chan struct{}, 1)}
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
		it.head, it.at = len(g.buf), g.size
		g.buf = appendHead(g.buf, it.record, g.size)
		if len(it.body) > l.inline {
			g.apart = append(g.apart, apart{len(g.buf), it.body})
		} else {
			g.buf = append(g.buf, it.body...)
		}
		g.size += recordSize(it.key, len(it.body))
		it.body = nil // the caller's
		g.items = append(g.items, it)
	}
	if len(g.buf) >= maxBuffer || g.size >= maxBatch {
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
	runtime.Gosched() // whoever is about to bring records comes along: fewer and larger groups (ADR 13)
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
	if g.err = l.write(g); g.err == nil {
		l.publish(g, position{l.tail.segment, l.tail.offset - g.size})
	}
	l.mu.Lock()
	if len(l.free) < 4 && cap(g.buf) <= 2*maxBuffer {
		l.free = append(l.free, g.buf[:0])
	}
	l.mu.Unlock()
	g.buf, g.apart = nil, nil
}

// write appends a group and syncs. After an error nothing of it is in the good part.
func (l *log) write(g *group) error {
	if l.file != nil && l.tail.offset >= l.max {
		l.seal()
	}
	if l.file == nil {
		return l.begin(g)
	}
	g.place(l.salt, l.tail.offset)
	err := l.lengthen(g.size)
	if err == nil {
		err = g.writeTo(l.file)
	}
	if err != nil {
		if l.back() != nil {
			l.torn = true
			l.seal()
		}
		return err
	}
	if err := l.file.Sync(); err != nil {
		// What is on the disk is anybody's guess, and a second sync would not tell:
		// the kernel forgets what it could not write.
		l.torn = true
		l.seal()
		return err
	}
	l.tail.offset += g.size
	return nil
}

// lengthen puts zeros behind the good part, where a group of so many bytes will go, and
// more of them. A long group makes the file longer itself, for those bytes would be written
// twice, and so does one on a disk that has no room for zeros.
func (l *log) lengthen(size int64) error {
	if l.tail.offset+size <= l.end || size > l.ahead/8 || l.noRoom {
		return nil
	}
	if _, err := l.file.Seek(l.tail.offset, io.SeekStart); err != nil {
		return err
	}
	for n := int64(0); n < l.ahead; n += int64(len(zeros)) {
		if _, err := l.file.Write(zeros[:min(int64(len(zeros)), l.ahead-n)]); err != nil {
			if !full(err) {
				return err
			}
			l.noRoom = true
			return l.back()
		}
	}
	l.end = l.tail.offset + l.ahead
	_, err := l.file.Seek(l.tail.offset, io.SeekStart)
	return err
}

// back goes back to where the good part ends, and ends the file there.
func (l *log) back() error {
	_, err := l.file.Seek(l.tail.offset, io.SeekStart)
	if err = errors.Join(err, l.file.Truncate(l.tail.offset)); err == nil {
		l.end = l.tail.offset
	}
	return err
}

func (g *group) writeTo(w io.Writer) error {
	from := 0
	for _, a := range g.apart {
		if _, err := w.Write(g.buf[from:a.at]); err != nil {
			return err
		}
		if _, err := w.Write(a.body); err != nil {
			return err
		}
		from = a.at
	}
	if from == len(g.buf) {
		return nil
	}
	_, err := w.Write(g.buf[from:])
	return err
}

// place gives the records their place behind off of the segment with salt.
func (g *group) place(salt uint64, off int64) {
	for i := range g.items {
		it := &g.items[i]
		place(g.buf[it.head:], salt, off+it.at)
		it.at += off
	}
}

// seal ends the segment that is written to. All that counts of it is synced.
func (l *log) seal() {
	if l.file != nil {
		l.torn = l.torn || l.end > l.tail.offset
		_ = l.file.Close()
		l.file = nil
		l.current.Store(0)
	}
}

// settle removes what failed writes left on the disk, and zeros that nothing was written over.
func (l *log) settle() error {
	if l.torn {
		if err := l.fs.Truncate(segmentName(l.tail.segment), l.tail.offset); ignoreMissing(err) != nil {
			return err
		}
		l.torn = false
	}
	if l.left != 0 {
		if err := l.fs.Remove(segmentName(l.left)); ignoreMissing(err) != nil {
			return err
		}
		if err := l.fs.SyncDir(segmentsDir); err != nil {
			return err
		}
		l.left = 0
	}
	return nil
}

// close ends the log, without what is not its own behind it if that can be.
func (l *log) close() {
	<-l.turn
	l.seal()
	_ = l.settle() // else the next Open does
	l.turn <- struct{}{}
}

// begin makes a segment that begins with g.
func (l *log) begin(g *group) error {
	if err := l.settle(); err != nil {
		return err
	}
	n := l.next
	l.next++
	name := segmentName(n)
	l.left = n
	f, err := l.fs.Create(name)
	if err != nil {
		return err
	}
	head := newSegmentHead(n)
	g.place(head.salt, segmentHeader)
	_, err = f.Write(head.encode())
	if err == nil {
		err = g.writeTo(f)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = l.fs.SyncDir(segmentsDir)
	}
	if err != nil {
		// Now, because a full disk lacks the space; settle makes sure of it.
		return errors.Join(err, f.Close(), ignoreMissing(l.fs.Remove(name)))
	}
	l.file, l.salt, l.tail, l.left = f, head.salt, position{n, segmentHeader + g.size}, 0
	l.end, l.noRoom = l.tail.offset, false
	l.current.Store(n)
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// findSegments returns the numbers of the segments on disk, in order.
func findSegments(ctx context.Context, fsys vfs.FS) (numbers []uint32, err error) {
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
	slices.Sort(numbers)
	return slices.Compact(numbers), err
}

// handles keeps some segments open for reading.
type handles struct {
	fs vfs.FS

	mu  sync.Mutex
	all map[uint32]*handle
}

type handle struct {
	file vfs.File
	salt uint64
	refs int // readers
	gone bool
}

// read reads the record of a segment that is at off and has len(b) bytes. Bytes that
// the file lacks are left as they are.
func (h *handles) read(n uint32, b []byte, off int64) (record, error) {
	h.mu.Lock()
	x := h.all[n]
	if x == nil {
		f, err := h.fs.Open(segmentName(n)) // seldom, so under the lock
		if err != nil {
			h.mu.Unlock()
			return record{}, err
		}
		head, _, err := readSegmentHead(f, n)
		if err != nil {
			h.mu.Unlock()
			return record{}, errors.Join(err, f.Close())
		}
		x = &handle{file: f, salt: head.salt}
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
	if err != nil && !errors.Is(err, io.EOF) {
		return record{}, err
	}
	return parseRecord(b, x.salt, off)
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
