// SPDX-License-Identifier: Apache-2.0

package dirblob

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync/atomic"

	"panal/internal/blob/dirblob/vfs"
)

// A run is an immutable sorted piece of the index on disk: a tree of blocks built
// from the bottom, then a filter, then a footer. Nothing of it is kept in memory but
// the first and the last key; the pages that are read often are in the kernel's cache.
//
// A block is its length and checksum (u32 each) and entries in order of the key, whose
// common beginning with the entry before is left out. An entry of a leaf says where the
// object is, one of an inner block where the child block is.
//
// The filter is a Bloom filter cut into blocks of 64 bytes, with a checksum each: one
// small read tells of most keys that the run does not have them.
const (
	runMagic    = 0x6e755250 // "PRun"
	blockTarget = 4 << 10
	blockMost   = blockTarget + 2<<10 // a block ends with the entry that fills it
	blockHeader = 8
	runFooter   = 48
	maxLevels   = 32

	filterBlock   = 64
	filterBits    = (filterBlock - 4) * 8 // the rest is the checksum
	filterPerKey  = 10                    // bits
	filterProbes  = 6
	maxRunEntries = 1 << 20 // bounds the filter that is built in memory
)

var errRun = errors.New("the index of the segments is damaged; the next start makes it anew")

// entry says where a key's object is.
type entry struct {
	segment uint32
	offset  int64 // of the record
	size    uint32
	time    int64
	gone    bool
}

// keyed is an entry with its key.
type keyed struct {
	key string
	entry
}

func hashKey(key string) uint64 { // FNV-1a with a finish: stable, on disk
	h := uint64(14695981039346656037)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 1099511628211
	}
	h ^= h >> 32
	h *= 0x9e3779b97f4a7c15
	return h ^ h>>29
}

// filterIndex returns the block of n that h falls into.
func filterIndex(h uint64, n int64) int64 { return int64((h >> 32) * uint64(n) >> 32) }

func filterSet(block []byte, h uint64) {
	step := h>>16 | 1
	for range filterProbes {
		bit := h % filterBits
		block[bit>>3] |= 1 << (bit & 7)
		h += step * 0x9e3779b1
	}
}

func filterHas(block []byte, h uint64) bool {
	step := h>>16 | 1
	for range filterProbes {
		bit := h % filterBits
		if block[bit>>3]&(1<<(bit&7)) == 0 {
			return false
		}
		h += step * 0x9e3779b1
	}
	return true
}

func filterSum(block []byte) uint32 { return crc32.Checksum(block[:filterBits/8], castagnoli) }

// runWriter writes one run.
type runWriter struct {
	w       vfs.File
	off     int64
	levels  []*blockWriter
	filter  []byte
	blocks  int64
	entries int64
	buf     []byte // gathers blocks for one write
}

type blockWriter struct {
	buf   []byte
	first string
	last  string
}

// newRunWriter writes to w, which is empty, at most n entries.
func newRunWriter(w vfs.File, n int64) *runWriter {
	blocks := max((n*filterPerKey+filterBits-1)/filterBits, 1)
	return &runWriter{w: w, filter: make([]byte, blocks*filterBlock), blocks: blocks}
}

func (b *blockWriter) key(key string) {
	if len(b.buf) == 0 {
		b.buf = append(b.buf, make([]byte, blockHeader)...)
		b.first, b.last = key, ""
	}
	shared := 0
	for shared < len(key) && shared < len(b.last) && key[shared] == b.last[shared] {
		shared++
	}
	b.buf = binary.AppendUvarint(b.buf, uint64(shared))
	b.buf = binary.AppendUvarint(b.buf, uint64(len(key)-shared))
	b.buf = append(b.buf, key[shared:]...)
	b.last = key
}

// add adds the next entry.
func (w *runWriter) add(e keyed) error {
	h := hashKey(e.key)
	i := filterIndex(h, w.blocks) * filterBlock
	filterSet(w.filter[i:i+filterBlock], h)
	w.entries++
	leaf := w.level(0)
	leaf.key(e.key)
	where := uint64(e.segment) << 1
	if e.gone {
		where |= 1
	}
	leaf.buf = binary.AppendUvarint(leaf.buf, where)
	leaf.buf = binary.AppendUvarint(leaf.buf, uint64(e.offset))
	leaf.buf = binary.AppendUvarint(leaf.buf, uint64(e.size))
	leaf.buf = binary.AppendVarint(leaf.buf, e.time)
	if len(leaf.buf) >= blockTarget {
		return w.finish(0)
	}
	return nil
}

func (w *runWriter) level(i int) *blockWriter {
	for len(w.levels) <= i {
		w.levels = append(w.levels, &blockWriter{})
	}
	return w.levels[i]
}

// finish writes the block of a level and tells the level above of it.
func (w *runWriter) finish(i int) error {
	b := w.level(i)
	if len(b.buf) == 0 {
		return nil
	}
	binary.LittleEndian.PutUint32(b.buf, uint32(len(b.buf)-blockHeader))
	binary.LittleEndian.PutUint32(b.buf[4:], crc32.Checksum(b.buf[blockHeader:], castagnoli))
	at, first := w.off, b.first
	if err := w.write(b.buf); err != nil {
		return err
	}
	b.buf = b.buf[:0]
	above := w.level(i + 1)
	above.key(first)
	above.buf = binary.AppendUvarint(above.buf, uint64(at))
	if len(above.buf) >= blockTarget {
		return w.finish(i + 1)
	}
	return nil
}

func (w *runWriter) write(b []byte) error {
	w.buf = append(w.buf, b...)
	w.off += int64(len(b))
	if len(w.buf) < 256<<10 {
		return nil
	}
	return w.flush()
}

func (w *runWriter) flush() error {
	_, err := w.w.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}

// close writes what is left and syncs. Blocks of all levels are mixed in the file: the
// leaves are reached through the tree.
func (w *runWriter) close() error {
	var root int64
	top := 0
	for i := 0; ; i++ {
		b := w.level(i)
		if i > 0 && i == len(w.levels)-1 {
			if at, ok := singleChild(b.buf); ok {
				root, top = at, i-1 // the level below has one block: that is the root
				break
			}
		}
		if err := w.finish(i); err != nil { // of a block that just ended nothing is left
			return err
		}
	}
	filterAt := w.off
	for at := 0; at < len(w.filter); at += filterBlock {
		block := w.filter[at : at+filterBlock]
		binary.LittleEndian.PutUint32(block[filterBits/8:], filterSum(block))
	}
	if err := w.write(w.filter); err != nil {
		return err
	}
	f := make([]byte, runFooter)
	binary.LittleEndian.PutUint32(f, runMagic)
	binary.LittleEndian.PutUint64(f[8:], uint64(root))
	binary.LittleEndian.PutUint64(f[16:], uint64(filterAt))
	binary.LittleEndian.PutUint64(f[24:], uint64(w.blocks))
	binary.LittleEndian.PutUint64(f[32:], uint64(w.entries))
	binary.LittleEndian.PutUint32(f[40:], uint32(top))
	binary.LittleEndian.PutUint32(f[4:], crc32.Checksum(f[8:], castagnoli))
	if err := w.write(f); err != nil {
		return err
	}
	if err := w.flush(); err != nil {
		return err
	}
	return w.w.Sync()
}

// singleChild returns the child of an inner block that has one entry.
func singleChild(buf []byte) (at int64, ok bool) {
	if len(buf) == 0 {
		return 0, false
	}
	d := blockReader{b: buf[blockHeader:]}
	if !d.next() {
		return 0, false
	}
	at = d.child()
	return at, !d.bad && len(d.b) == 0
}

// run is an open run.
type run struct {
	name        string
	file        vfs.File
	root        int64
	levels      int // of inner blocks
	filterAt    int64
	blocks      int64
	entries     int64
	first, last string
	refs        atomic.Int32 // sets of runs that have it
}

func openRun(fsys vfs.FS, name string) (*run, error) {
	fi, err := fsys.Stat(name)
	if err != nil {
		return nil, err
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	r := &run{name: name, file: f}
	if err := r.load(fi.Size()); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
	}
	return r, nil
}

func (r *run) load(size int64) error {
	b := make([]byte, runFooter)
	if size < runFooter {
		return errRun
	}
	if _, err := r.file.ReadAt(b, size-runFooter); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if binary.LittleEndian.Uint32(b) != runMagic || crc32.Checksum(b[8:], castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return errRun
	}
	r.root, r.filterAt = int64(binary.LittleEndian.Uint64(b[8:])), int64(binary.LittleEndian.Uint64(b[16:]))
	r.blocks, r.entries = int64(binary.LittleEndian.Uint64(b[24:])), int64(binary.LittleEndian.Uint64(b[32:]))
	r.levels = int(binary.LittleEndian.Uint32(b[40:]))
	if r.levels > maxLevels || r.root < 0 || r.blocks < 1 || r.filterAt < 0 || r.blocks > size || r.filterAt > size-r.blocks*filterBlock {
		return errRun
	}
	it := r.iterator()
	if err := it.seek(""); err != nil || !it.ok {
		return errors.Join(err, errRun)
	}
	r.first = it.key
	// The last entry: down the right edge.
	at := r.root
	for level := r.levels; ; level-- {
		d, err := r.block(at, nil)
		if err != nil {
			return err
		}
		for d.next() {
			if level == 0 {
				d.entry()
			} else {
				at = d.child()
			}
		}
		if d.bad {
			return errRun
		}
		if level == 0 {
			r.last = string(d.key)
			return nil
		}
	}
}

// block reads the block at off into buf's memory.
func (r *run) block(off int64, buf []byte) (blockReader, error) {
	if cap(buf) < blockMost {
		buf = make([]byte, blockMost)
	}
	buf = buf[:blockMost]
	n, err := r.file.ReadAt(buf, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return blockReader{}, err
	}
	if n < blockHeader {
		return blockReader{}, errRun
	}
	length := int(binary.LittleEndian.Uint32(buf))
	if length > n-blockHeader || crc32.Checksum(buf[blockHeader:blockHeader+length], castagnoli) != binary.LittleEndian.Uint32(buf[4:]) {
		return blockReader{}, errRun
	}
	return blockReader{b: buf[blockHeader : blockHeader+length], buf: buf}, nil
}

// blockReader reads a block's entries: next, then entry or child.
type blockReader struct {
	b, buf []byte
	key    []byte
	bad    bool
}

func (d *blockReader) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *blockReader) next() bool {
	if len(d.b) == 0 {
		return false
	}
	shared, rest := d.uvarint(), d.uvarint()
	if d.bad || shared > uint64(len(d.key)) || rest > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return false
	}
	d.key = append(d.key[:shared], d.b[:rest]...)
	d.b = d.b[rest:]
	return true
}

func (d *blockReader) child() int64 { return int64(d.uvarint()) }

func (d *blockReader) entry() entry {
	where := d.uvarint()
	e := entry{segment: uint32(where >> 1), gone: where&1 == 1}
	e.offset, e.size = int64(d.uvarint()), uint32(d.uvarint())
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return entry{}
	}
	e.time, d.b = v, d.b[n:]
	return e
}

// find returns the run's entry for key.
func (r *run) find(key string, h uint64) (e entry, ok bool, err error) {
	if key < r.first || key > r.last {
		return entry{}, false, nil
	}
	var filter [filterBlock]byte
	_, err = r.file.ReadAt(filter[:], r.filterAt+filterIndex(h, r.blocks)*filterBlock)
	if errors.Is(err, io.EOF) {
		err = errRun
	}
	if err != nil {
		return entry{}, false, err
	}
	if filterSum(filter[:]) != binary.LittleEndian.Uint32(filter[filterBits/8:]) {
		return entry{}, false, errRun
	}
	if !filterHas(filter[:], h) {
		return entry{}, false, nil
	}
	it := r.iterator()
	if err := it.seek(key); err != nil {
		return entry{}, false, err
	}
	if !it.ok || it.key != key {
		return entry{}, false, nil
	}
	return it.entry, true, nil
}

// runIterator walks a run from a key on. Its stack has the open block of each level.
type runIterator struct {
	r     *run
	stack []blockReader // [0] is the leaf
	keyed
	ok bool
}

func (r *run) iterator() *runIterator { return &runIterator{r: r} }

// seek goes to the first entry that is not less than key.
func (it *runIterator) seek(key string) error {
	if it.stack == nil {
		it.stack = make([]blockReader, it.r.levels+1)
	}
	at := it.r.root
	for level := it.r.levels; level > 0; level-- {
		d, err := it.r.block(at, it.stack[level].buf)
		if err != nil {
			return err
		}
		// The last child that begins at or before key; the reader stays behind it.
		at = -1
		var saved []byte
		for {
			rest := d.b
			saved = append(saved[:0], d.key...)
			if !d.next() {
				break
			}
			if at >= 0 && string(d.key) > key {
				d.b, d.key = rest, saved
				break
			}
			at = d.child()
		}
		if d.bad || at < 0 {
			return errRun
		}
		it.stack[level] = d
	}
	var err error
	if it.stack[0], err = it.r.block(at, it.stack[0].buf); err != nil {
		return err
	}
	for leaf := &it.stack[0]; leaf.next(); leaf.entry() {
		if string(leaf.key) >= key {
			return it.take(leaf)
		}
	}
	return it.next() // the next leaf's first, or the end
}

func (it *runIterator) take(leaf *blockReader) error {
	it.keyed = keyed{string(leaf.key), leaf.entry()}
	if it.ok = !leaf.bad; leaf.bad {
		return errRun
	}
	return nil
}

// next goes to the following entry.
func (it *runIterator) next() error {
	leaf := &it.stack[0]
	for !leaf.next() {
		if leaf.bad {
			return errRun
		}
		more, err := it.climb(1)
		if err != nil || !more {
			it.ok = false
			return err
		}
	}
	return it.take(leaf)
}

// climb opens the next block below level.
func (it *runIterator) climb(level int) (more bool, err error) {
	if level >= len(it.stack) {
		return false, nil
	}
	d := &it.stack[level]
	for !d.next() {
		if d.bad {
			return false, errRun
		}
		if more, err := it.climb(level + 1); err != nil || !more {
			return false, err
		}
	}
	at := d.child()
	below, err := it.r.block(at, it.stack[level-1].buf)
	it.stack[level-1] = below
	return err == nil, err
}
