// SPDX-License-Identifier: Apache-2.0

package dirblob

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"panal/internal/blob"
	"panal/internal/blob/dirblob/vfs"
	"panal/internal/plat"
)

// maxSmall bounds what Options.Small may be.
const maxSmall = 1 << 20

// small is the part of the store that keeps small objects: segments, and the index
// that finds them.
//
// Invariants: a change is published (seen by reads) once its record is synced. The
// segments are the truth; the index is made of them and may be lost: Open makes it
// anew. The manifest says which runs there are and up to where in the log they know everything: the
// rest is read again at Open. A segment file goes away only after all that lives in
// it has a newer record and the manifest on disk no longer needs it.
type small struct {
	fs      vfs.FS
	opt     Options
	log     *log
	handles *handles
	reserve reserve
	temp    func() string

	mu      sync.RWMutex
	mem     memtable
	old     memtable // being written to a run, or nil
	memLog  int64    // bytes of the log since mem was begun
	oldTo   position // where the log goes on behind old
	tiers   *tiers
	segs    map[uint32]*segment
	oldest  uint32 // segment
	failure error  // of the last maintenance

	due     atomic.Bool // maintenance may have something to do
	spoiled atomic.Bool // a run is damaged

	// What only maintenance touches.
	saved   position // of the manifest on disk
	nextRun uint64
}

// manifest is the content of segments/manifest, behind a line with its checksum. It is
// replaced as a whole.
type manifest struct {
	Tiers    [][]string       `json:"tiers"` // newest first; names below segments/
	NextRun  uint64           `json:"next_run"`
	Segment  uint32           `json:"segment"` // the log is read again from here
	Offset   int64            `json:"offset"`
	Segments map[uint32]saved `json:"segments"`
}

// saved is what the manifest says of a segment.
type saved struct {
	Size int64 `json:"size"`
	Dead int64 `json:"dead"`
	Gone int64 `json:"gone"`
}

// tornMost is more than the longest group.
const tornMost = 2 * maxBatch

func openSmall(ctx context.Context, fsys vfs.FS, opt Options, temp func() string) (*small, error) {
	for again := false; ; again = true {
		s := &small{
			fs: fsys, opt: opt, temp: temp, mem: memtable{}, tiers: newTiers(nil), segs: map[uint32]*segment{}, nextRun: 1,
			handles: &handles{fs: fsys, all: map[uint32]*handle{}}, reserve: reserve{fs: fsys, size: opt.Reserve},
		}
		s.log = newLog(fsys, opt, s.publish)
		err := s.load(ctx, again)
		if err == nil {
			return s, nil
		}
		s.close()
		if again || !errors.Is(err, errRun) { // damage of a run that was met while the log was read
			return nil, err
		}
	}
}

func (s *small) load(ctx context.Context, anew bool) error {
	if err := s.fs.Mkdir(segmentsDir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := s.reserve.load(); err != nil {
		return err
	}
	numbers, err := findSegments(ctx, s.fs)
	if err != nil {
		return err
	}
	m, err := manifest{}, errRun
	if !anew {
		m, err = s.loadManifest()
	}
	if errors.Is(err, errRun) || errors.Is(err, fs.ErrNotExist) {
		// The segments say it all. A manifest must be gone, durably, before there are
		// new runs: it would vouch for them by an old one's name.
		m, err = manifest{}, errors.Join(ignoreMissing(s.fs.Remove(manifestFile)), s.fs.SyncDir(segmentsDir))
	}
	if err != nil {
		return err
	}
	if err := s.removeRuns(m); err != nil {
		return err
	}
	for n, known := range m.Segments { // what is empty is removed before the manifest says so
		if known.Size > segmentHeader && !slices.Contains(numbers, n) {
			return fmt.Errorf("%s is missing, with what is stored in it (put it back, or restore a backup; without %s the store goes on without it): %w", segmentName(n), manifestFile, errDamaged)
		}
	}
	s.nextRun = max(m.NextRun, 1)
	s.saved = position{m.Segment, m.Offset}
	s.log.next = m.Segment + 1
	for i, n := range numbers {
		s.log.next = max(s.log.next, n+1)
		if _, known := m.Segments[n]; !known && n < m.Segment {
			// Everything in it lives elsewhere; its removal did not reach the disk.
			err = ignoreMissing(s.fs.Remove(segmentName(n)))
		} else {
			err = s.loadSegment(ctx, n, m.Segments[n], i == len(numbers)-1)
		}
		if err != nil {
			return fmt.Errorf("segment %d: %w", n, err)
		}
	}
	s.due.Store(true) // one look will tell
	// What was read may have been written, but not synced, by a process that was killed.
	return s.fs.SyncDir(segmentsDir)
}

// loadSegment takes a segment into the index, as far as the runs don't have it.
func (s *small) loadSegment(ctx context.Context, n uint32, known saved, newest bool) error {
	name := segmentName(n)
	file, err := s.fs.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	fi, err := file.Stat()
	if err != nil {
		return err
	}
	head, torn, err := readSegmentHead(file, n)
	unknown := n > s.saved.segment || n == s.saved.segment && s.saved.offset == 0
	if torn && newest && unknown && fi.Size() <= tornMost {
		return s.fs.Remove(name) // never acknowledged
	}
	if err != nil {
		return err
	}
	from, end := int64(segmentHeader), fi.Size()
	switch {
	case n < s.saved.segment:
		from, end = known.Size, known.Size
	case n == s.saved.segment:
		from = max(from, s.saved.offset)
	}
	if newest {
		if end, err = goodEnd(file, head.salt, from, max(from, end)); err != nil {
			return err
		}
		if end == segmentHeader {
			return s.fs.Remove(name)
		}
	}
	if fi.Size() < end {
		return fmt.Errorf("it has %d bytes and had %d: %w", fi.Size(), end, errDamaged)
	}
	if newest {
		if err := s.fs.Truncate(name, end); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.segs[n] = &segment{size: end, dead: known.Dead, gone: known.Gone}
	s.oldestLocked()
	s.mu.Unlock()
	good, err := scanRecords(file, head.salt, from, end, func(off int64, h recordHead, _ bool) error {
		old, err := s.find(h.key)
		if err != nil {
			return err
		}
		s.publish(&group{items: []item{{record: h.record, at: off, old: old}}}, position{n, off})
		if !s.full() {
			return ctx.Err()
		}
		return s.flushWhileLoading(ctx, position{n, off + recordSize(h.key, int(h.size))})
	})
	if err == nil && good < end {
		err = fmt.Errorf("byte %d of %d: %w", good, end, errDamaged)
	}
	return err
}

// flushWhileLoading writes the index to disk as far as it is read from the log, so that
// one that is made anew need not fit into memory.
func (s *small) flushWhileLoading(ctx context.Context, at position) error {
	s.old, s.mem, s.memLog, s.oldTo = s.mem, memtable{}, 0, at
	if err := s.flush(false, ctx.Err); err != nil {
		return err
	}
	for len(s.tiers.all) > maxTiers {
		if err := s.merge(ctx.Err); err != nil {
			return err
		}
	}
	return nil
}

func (s *small) full() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.fullLocked()
}

// loadManifest reads the manifest and opens the runs that it names. errRun is for
// damage, fs.ErrNotExist for what is missing.
func (s *small) loadManifest() (m manifest, err error) {
	f, err := s.fs.Open(manifestFile)
	if err != nil {
		return m, err
	}
	b, err := io.ReadAll(io.LimitReader(f, 64<<20))
	if err := errors.Join(err, f.Close()); err != nil {
		return m, err
	}
	sum, text, _ := bytes.Cut(b, []byte("\n"))
	if string(sum) != manifestSum(text) || json.Unmarshal(text, &m) != nil {
		return m, errRun
	}
	all := make([][]*run, len(m.Tiers))
	for i, tier := range m.Tiers {
		for _, name := range tier {
			r, err := openRun(s.fs, segmentsDir+"/"+name)
			if err != nil {
				newTiers(all).release()
				return m, err
			}
			all[i] = append(all[i], r)
		}
	}
	s.tiers = newTiers(all)
	return m, nil
}

func manifestSum(text []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(text, castagnoli)) }

// noticed returns err. Where a run is damaged it sees to it that the next Open makes
// the index anew.
func (s *small) noticed(err error) error {
	if errors.Is(err, errRun) {
		s.spoiled.Store(true)
		_ = s.fs.Remove(manifestFile)
	}
	return err
}

// removeRuns removes the runs that the manifest doesn't name.
func (s *small) removeRuns(m manifest) error {
	named := map[string]bool{}
	for _, tier := range m.Tiers {
		for _, name := range tier {
			named[name] = true
		}
	}
	var left []string
	err := s.fs.ReadNames(segmentsDir, func(names []string) error {
		for _, n := range names {
			if strings.HasSuffix(n, runSuffix) && !named[n] {
				left = append(left, n)
			}
		}
		return nil
	})
	for _, n := range left {
		err = errors.Join(err, ignoreMissing(s.fs.Remove(segmentsDir+"/"+n)))
	}
	return err
}

// publish enters a group that is durable at at. The log's turn is held, or nobody
// else is there yet.
func (s *small) publish(g *group, at position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seg, waste := s.segs[at.segment], false
	if seg == nil {
		seg = &segment{size: segmentHeader}
		s.segs[at.segment] = seg
		s.oldestLocked()
	}
	for _, it := range g.items {
		size := it.size
		s.mem[it.key] = entry{segment: at.segment, offset: it.at, size: size, time: it.time, gone: it.gone}
		n := recordSize(it.key, int(size))
		seg.size = max(seg.size, it.at+n)
		s.memLog += n
		if it.gone {
			seg.gone += n
		}
		if it.old == nil {
			continue
		}
		if was := s.segs[it.old.segment]; was != nil {
			n := recordSize(it.key, int(it.old.size))
			if was.dead += n; it.old.gone {
				was.gone -= n
			}
			waste = waste || s.wasteLocked(it.old.segment, was, it.old.segment == at.segment)
		}
	}
	if waste || s.fullLocked() {
		s.due.Store(true)
	}
}

// find returns the entry of key, nil where the segments say nothing of it.
func (s *small) find(key string) (*entry, error) {
	s.mu.RLock()
	e, ok := s.mem[key]
	if !ok {
		e, ok = s.old[key]
	}
	t := s.tiers
	if !ok {
		t.refs.Add(1)
	}
	s.mu.RUnlock()
	if ok {
		return &e, nil
	}
	defer t.release()
	e, ok, err := t.find(key)
	if err != nil || !ok {
		return nil, s.noticed(err)
	}
	return &e, nil
}

// live returns the entry of an object that the segments hold, nil for none.
func (s *small) live(key string) (*entry, error) {
	e, err := s.find(key)
	if e != nil && e.gone {
		e = nil
	}
	return e, err
}

// open returns a range of an object, nil where the segments have none: n bytes from off
// on, or all of them if n is negative. A body of up to inline bytes is read whole and
// checked; of a longer one the head is, as that of a file's object can't be.
func (s *small) open(key string, off, n int64) (rc io.ReadCloser, e *entry, err error) {
	for range 100 {
		if e, err = s.live(key); e == nil || err != nil {
			return nil, nil, err
		}
		if int(e.size) <= s.opt.Inline {
			rc, err = s.readWhole(key, e, off, n)
		} else {
			rc, err = s.openApart(key, e, off, n)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has moved meanwhile, and the segment is gone
		}
		if err != nil {
			return nil, nil, fmt.Errorf("segment %d, byte %d: %w", e.segment, e.offset, err)
		}
		return rc, e, nil
	}
	return nil, nil, fmt.Errorf("segment %d is missing: %w", e.segment, errDamaged)
}

func (s *small) readWhole(key string, e *entry, off, n int64) (io.ReadCloser, error) {
	rec, err := s.handles.read(e.segment, make([]byte, recordSize(key, int(e.size))), e.offset)
	if err == nil && (rec.key != key || rec.gone) {
		err = errDamaged
	}
	if err != nil {
		return nil, err
	}
	return newBodyReader(rec.body, off, n), nil
}

// openApart opens the segment once more: the reader, which the kernel may send from, has
// a place of its own in the file, and keeps it when compaction removes it.
func (s *small) openApart(key string, e *entry, off, n int64) (io.ReadCloser, error) {
	f, err := s.fs.Open(segmentName(e.segment))
	if err != nil {
		return nil, err
	}
	head, _, err := readSegmentHead(f, e.segment)
	if err == nil {
		err = checkHead(f, head.salt, key, e)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	body := e.offset + recordSize(key, 0)
	off = min(off, int64(e.size))
	left := int64(e.size) - off
	if n >= 0 {
		left = min(left, n)
	}
	if _, err := f.Seek(body+off, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return newReader(f, left), nil
}

// checkHead tells whether the record that e names is there.
func checkHead(r io.ReaderAt, salt uint64, key string, e *entry) error {
	b := make([]byte, recordSize(key, 0))
	if _, err := r.ReadAt(b, e.offset); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if h, ok := parseHead(b, salt, e.offset); !ok || h.key != key || h.gone || h.size != e.size {
		return errDamaged
	}
	return nil
}

// put makes body the object of key; old is what find said. The caller has the key's lock.
func (s *small) put(key string, body []byte, old *entry) error {
	if err := errors.Join(s.room(), s.reserve.keep()); err != nil {
		return err
	}
	return s.log.append(item{record: record{key: key, body: body, size: uint32(len(body)), time: now()}, old: old})
}

// remove makes the segments hold nothing under key.
func (s *small) remove(key string, old *entry) error {
	return s.reserve.spend(func() error {
		return s.log.append(item{record: record{key: key, time: now(), gone: true}, old: old})
	})
}

func now() int64 { return time.Now().UnixMicro() }

// room refuses puts when the index can't be written to disk and grows in memory.
func (s *small) room() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.failure == nil || len(s.mem) < 4*s.opt.MemEntries {
		return nil
	}
	return fmt.Errorf("the index of small objects can't be written: %w", s.failure)
}

// sources returns the whole index, newest first, from the key from on. The caller
// releases t.
func (s *small) sources(from string, batch int) (m merged, t *tiers, err error) {
	s.mu.RLock()
	old, mem := s.old, s.mem
	t = s.tiers
	t.refs.Add(1)
	s.mu.RUnlock()
	m = merged{newMemSource(from, batch, func(from string, n int) ([]keyed, bool) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		return mem.smallest(from, n)
	})}
	if old != nil {
		m = append(m, newMemSource(from, batch, old.smallest))
	}
	for _, tier := range t.all {
		src, err := newTierSource(tier, from)
		if err != nil {
			t.release()
			return nil, nil, s.noticed(err)
		}
		m = append(m, src)
	}
	return m, t, nil
}

// list returns up to want objects below prefix after the key after.
func (s *small) list(ctx context.Context, prefix, after string, want int) ([]blob.Info, error) {
	from := prefix
	if after >= from {
		from = after + "\x00"
	}
	m, t, err := s.sources(from, min(want, 4096)+1)
	if err != nil {
		return nil, err
	}
	defer t.release()
	var infos []blob.Info
	for i := 0; len(infos) < want; i++ {
		if i%1024 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		e, err := m.next()
		if err != nil {
			return nil, s.noticed(err)
		}
		if e == nil || !strings.HasPrefix(e.key, prefix) {
			break
		}
		if !e.gone {
			infos = append(infos, e.info(e.key))
		}
	}
	return infos, nil
}

func (e entry) info(key string) blob.Info {
	return blob.Info{Key: key, Size: int64(e.size), ModTime: time.UnixMicro(e.time).UTC()}
}

func (s *small) fullLocked() bool {
	return len(s.mem) >= s.opt.MemEntries || s.memLog >= s.opt.MemLog
}

func (s *small) close() {
	s.handles.close()
	s.log.close()
	s.tiers.release()
}

// saveManifest makes the state of the index durable: t's runs know all of the log
// before at.
func (s *small) saveManifest(t *tiers, at position, without uint32) error {
	m := manifest{NextRun: s.nextRun, Segment: at.segment, Offset: at.offset, Segments: map[uint32]saved{}}
	for _, tier := range t.all {
		names := make([]string, len(tier))
		for i, r := range tier {
			names[i] = strings.TrimPrefix(r.name, segmentsDir+"/")
		}
		m.Tiers = append(m.Tiers, names)
	}
	s.mu.RLock()
	for n, seg := range s.segs {
		if n != without {
			m.Segments[n] = saved{seg.size, seg.dead, seg.gone}
		}
	}
	s.mu.RUnlock()
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	tmp := s.temp()
	f, err := s.fs.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.Write(append([]byte(manifestSum(b)+"\n"), b...))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil && s.spoiled.Load() {
		err = errRun
	}
	if err == nil {
		err = s.fs.SyncDir(segmentsDir) // the names of the runs that it names
	}
	if err == nil {
		err = s.fs.Rename(tmp, manifestFile)
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(s.fs.Remove(tmp)))
	}
	return s.fs.SyncDir(segmentsDir)
}

func (s *small) runName() string {
	n := s.nextRun
	s.nextRun++
	return segmentsDir + "/" + strconv.FormatUint(n, 10) + runSuffix
}

// bodyReader reads a range of a small object, which is in memory.
type bodyReader struct{ bytes.Reader }

// Close implements io.Closer.
func (*bodyReader) Close() error { return nil }

func newBodyReader(body []byte, off, n int64) *bodyReader {
	body = body[min(off, int64(len(body))):]
	if n >= 0 {
		body = body[:min(n, int64(len(body)))]
	}
	r := &bodyReader{}
	r.Reset(body)
	return r
}

// errStopped ends maintenance when the store closes.
var errStopped = plat.Errorf(plat.ErrUnavailable, "the object store is closed")
