// SPDX-License-Identifier: Apache-2.0

package dirblob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"

	"panal/internal/blob"
	"panal/internal/blob/dirblob/vfs"
	"panal/internal/plat"
)

const (
	formatLine = "dirblob 2\n"
	olderLine  = "dirblob 1\n" // without segments

	// copyBuffer is a compromise: fewer system calls, yet small beside a
	// process that takes hundreds of uploads at once.
	copyBuffer = 128 << 10
)

var errExists = plat.Errorf(plat.ErrExists, "the object already exists")

var errClosed = plat.Errorf(plat.ErrUnavailable, "the object store is closed")

// Options are how a store keeps small objects. The zero value has good ones.
type Options struct {
	// Small is the length up to which an object goes into a segment; the rest are
	// files. 0 means 1 MiB, which is the most, less than 0 none; objects stay where they
	// are when it changes.
	Small int
	// Inline is the length up to which a small body is copied together with others
	// when it is written, and read whole and checked; 0 means 64 KiB.
	Inline int
	// Budget bounds the bodies between the two that are in memory at a time: those
	// beyond it become files. 0 means 32 MiB.
	Budget int64
	// SegmentBytes is the length from which a segment is followed by another: 0 means 64 MiB.
	SegmentBytes int64
	// Ahead is by how many zeros a segment is lengthened before records are written over
	// them: 0 means 1 MiB, less than 0 none.
	Ahead int
	// MemEntries and MemLog bound the part of the index that is in memory, by
	// objects and by the bytes of segments that are read again at Open: 0 means
	// 32,768 and 256 MiB.
	MemEntries int
	MemLog     int64
	// Reserve is how much disk is kept for the records of deletes when the disk is
	// full: 0 means 1 MiB, less than 0 none.
	Reserve int
	// Manual leaves it to the caller when maintenance is done: by Maintain.
	Manual bool
}

func (o Options) withDefaults() Options {
	if o.Small == 0 {
		o.Small = maxSmall
	}
	if o.Inline == 0 {
		o.Inline = 64 << 10
	}
	if o.Budget == 0 {
		o.Budget = 32 << 20
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 64 << 20
	}
	if o.Ahead == 0 {
		o.Ahead = 1 << 20
	}
	if o.MemEntries == 0 {
		o.MemEntries = 32 << 10
	}
	if o.MemLog == 0 {
		o.MemLog = 256 << 20
	}
	if o.Reserve == 0 {
		o.Reserve = 1 << 20
	}
	o.Small = min(o.Small, maxSmall)
	o.Inline = min(o.Inline, o.Small)
	return o
}

// Driver keeps objects in a directory.
type Driver struct {
	fs    vfs.FS
	opt   Options
	small *small // segments
	dirs  *dirs
	locks keyLocks

	session string // tells this process's temporary names from another's
	serial  atomic.Uint64
	buffers sync.Pool
	smalls  sync.Pool // whole bodies of up to Options.Inline
	longer  sync.Pool // whole bodies of up to Options.Small
	budget  *semaphore.Weighted

	// closing is held for reading while the tree is changed, for writing by Close.
	closing sync.RWMutex
	closed  atomic.Bool

	moves       atomic.Uint64 // objects that went from a file to a segment or back
	maintaining atomic.Bool
	retryAt     atomic.Int64
	working     sync.WaitGroup // maintenance
	background  func() error
	cancel      context.CancelFunc
}

var _ blob.Driver = (*Driver)(nil)

// Open opens the store in dir, which is made if it is missing, and removes what
// an earlier process left half-written. No other process may use dir meanwhile.
func Open(ctx context.Context, dir string) (*Driver, error) {
	fsys, err := vfs.NewOS(dir)
	if err != nil {
		return nil, fmt.Errorf("open object directory %s: %w", dir, translate(err))
	}
	d, err := OpenFS(ctx, fsys, Options{})
	if err != nil {
		return nil, fmt.Errorf("open object directory %s: %w", dir, err)
	}
	return d, nil
}

// OpenFS is Open on a file layer.
func OpenFS(ctx context.Context, fsys vfs.FS, opt Options) (*Driver, error) {
	d := &Driver{
		fs:      fsys,
		opt:     opt.withDefaults(),
		dirs:    newDirs(fsys),
		session: strconv.FormatUint(rand.Uint64(), 36),
		buffers: sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }},
		smalls:  sync.Pool{New: func() any { return new([]byte) }},
		longer:  sync.Pool{New: func() any { return new([]byte) }},
	}
	d.budget = semaphore.NewWeighted(d.opt.Budget)
	for _, name := range []string{tmpDir, objectsDir} {
		if err := fsys.Mkdir(name); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, translate(err)
		}
	}
	if err := d.sweep(ctx); err != nil {
		return nil, translate(err)
	}
	if err := d.checkFormat(); err != nil {
		return nil, err
	}
	var err error
	if d.small, err = openSmall(ctx, fsys, d.opt, d.tempName); err != nil {
		return nil, translate(err)
	}
	// Also when all was there: an earlier process may have ended before its sync.
	if err := fsys.SyncDir("."); err != nil {
		d.small.close()
		return nil, translate(err)
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d.cancel, d.background = cancel, func() error { return d.Maintain(life) }
	return d, nil
}

// sweep removes what is left in tmp/. Removals need not be durable: what comes
// back is removed next time.
func (d *Driver) sweep(ctx context.Context) error {
	var left []string
	err := d.fs.ReadNames(tmpDir, func(names []string) error {
		left = append(left, names...)
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	for _, name := range left {
		if err := d.fs.Remove(tmpDir + "/" + name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// checkFormat reads the format file, or writes it in a new store.
func (d *Driver) checkFormat() error {
	f, err := d.fs.Open(formatFile)
	if errors.Is(err, fs.ErrNotExist) {
		return translate(d.writeFormat())
	}
	if err != nil {
		return translate(err)
	}
	line, err := io.ReadAll(io.LimitReader(f, int64(len(formatLine))+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return translate(err)
	}
	if string(line) == olderLine {
		return translate(d.writeFormat())
	}
	if string(line) != formatLine {
		return plat.Errorf(plat.ErrUnsupported, "the object directory has format %q; this version reads %q", line, formatLine)
	}
	return nil
}

func (d *Driver) writeFormat() error {
	tmp := d.tempName()
	f, err := d.fs.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(formatLine))
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		_ = d.fs.Remove(tmp)
		return err
	}
	return d.fs.Rename(tmp, formatFile)
}

func (d *Driver) tempName() string {
	return tmpDir + "/" + d.session + "-" + strconv.FormatUint(d.serial.Add(1), 36)
}

// Put implements blob.Driver. opt.ContentType is dropped.
func (d *Driver) Put(ctx context.Context, key string, r io.Reader, size int64, opt blob.PutOptions) error {
	if err := d.check(ctx); err != nil {
		return err
	}
	dir, name := keyPath(key)
	if opt.IfNoneMatch {
		// Most losers are told before they send their body; commit decides.
		e, err := d.small.live(key)
		if err != nil {
			return translate(err)
		}
		if e != nil {
			return errExists
		}
		if _, err := d.fs.Stat(name); err == nil {
			return d.refuse(ctx, key, dir)
		}
	}
	if most, pool, done := d.wholeUpTo(size); most >= 0 {
		defer done()
		buf, ok := pool.Get().(*[]byte)
		if !ok {
			panic("BUG: dirblob's pool holds something else")
		}
		defer pool.Put(buf)
		if err := d.readSmall(ctx, buf, r, size, most); err != nil {
			return err
		}
		if len(*buf) <= most {
			return d.putSmall(ctx, key, dir, name, *buf, opt)
		}
		r = io.MultiReader(bytes.NewReader(*buf), r)
	}
	tmp := d.tempName()
	if err := d.receive(ctx, tmp, r, size); err != nil {
		return err
	}
	if err := d.commit(ctx, key, dir, name, tmp, opt.IfNoneMatch); err != nil {
		_ = d.fs.Remove(tmp)
		return err
	}
	return nil
}

// wholeUpTo returns the length up to which a body of so many bytes, or of an unknown
// number if size is negative, is to be read whole and put into a segment, less than 0 for
// not at all, and where the memory comes from. done gives it back.
func (d *Driver) wholeUpTo(size int64) (most int, pool *sync.Pool, done func()) {
	inline, long := int64(d.opt.Inline), int64(d.opt.Small)
	want := size
	if size < 0 {
		want = long
	}
	switch {
	case long < 0 || size > long:
		return -1, nil, nil
	case want > inline && d.budget.TryAcquire(want):
		return int(long), &d.longer, func() { d.budget.Release(want) }
	case size <= inline:
		return int(inline), &d.smalls, func() {}
	}
	return -1, nil, nil
}

// readSmall reads the body into buf: all of it, or, of one whose length is not known,
// a byte more than most.
func (d *Driver) readSmall(ctx context.Context, buf *[]byte, r io.Reader, size int64, most int) error {
	b := (*buf)[:0]
	most++
	if size >= 0 {
		most = int(size) + 1
		b = slices.Grow(b, most)
	}
	for {
		if cap(b) < min(most, len(b)+512) {
			b = slices.Grow(b, min(most, max(2*cap(b), 4<<10))-len(b))
		}
		if err := d.check(ctx); err != nil {
			return err
		}
		n, err := r.Read(b[len(b):min(cap(b), most)])
		b = b[:len(b)+n]
		*buf = b
		switch {
		case size >= 0 && int64(len(b)) > size:
			return plat.Errorf(plat.ErrInvalid, "the body is longer than the declared %d bytes", size)
		case err == io.EOF:
			if int64(len(b)) < size {
				return plat.Errorf(plat.ErrInvalid, "the body ended after %d of the declared %d bytes", len(b), size)
			}
			return nil
		case err != nil:
			return fmt.Errorf("read body: %w", err)
		case len(b) == most:
			return nil
		}
	}
}

// putSmall makes body the object of key, in a segment.
func (d *Driver) putSmall(ctx context.Context, key, dir, name string, body []byte, opt blob.PutOptions) error {
	end, err := d.begin(ctx, key)
	if err != nil {
		return err
	}
	err = d.putSmallLocked(key, dir, name, body, opt)
	end()
	d.kick()
	return err
}

func (d *Driver) putSmallLocked(key, dir, name string, body []byte, opt blob.PutOptions) error {
	old, err := d.small.find(key)
	if err != nil {
		return translate(err)
	}
	if opt.IfNoneMatch {
		if old != nil && !old.gone {
			return errExists
		}
		if _, err := d.fs.Stat(name); err == nil {
			line := d.dirs.acquire(dir)
			defer d.dirs.release(line)
			return d.refuseLocked(line, dir)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return translate(err)
		}
	}
	if err := d.small.put(key, body, old); err != nil {
		return translate(err)
	}
	if (old == nil || old.gone) && !opt.IfNoneMatch && !opt.New { // or there is known to be no file
		// From here on the segment hides a file of the key. One that stays is only
		// space lost, until the next change of the key.
		if _, err := d.fs.Stat(name); err == nil {
			d.moves.Add(1)
			if d.remove(dir, name) == nil {
				d.dirs.prune(dir)
			}
		}
	}
	return nil
}

// receive writes the body to a new synced file tmp, or leaves nothing.
func (d *Driver) receive(ctx context.Context, tmp string, r io.Reader, size int64) error {
	f, err := d.fs.Create(tmp)
	if err != nil {
		return translate(err)
	}
	err = d.copyBody(ctx, f, r, size)
	if err == nil {
		err = translate(f.Sync())
	}
	if cerr := f.Close(); err == nil && cerr != nil {
		err = translate(cerr)
	}
	if err != nil {
		_ = d.fs.Remove(tmp)
	}
	return err
}

func (d *Driver) copyBody(ctx context.Context, w io.Writer, r io.Reader, size int64) error {
	buf, ok := d.buffers.Get().(*[]byte)
	if !ok {
		panic("BUG: dirblob's pool holds something else")
	}
	defer d.buffers.Put(buf)
	// Whole buffers are written, however the body comes: a write that starts where a large
	// page of the file system's cache does gets one, and what reads the file later is
	// spared the many small ones.
	var got int64
	var held int
	for {
		if err := d.check(ctx); err != nil {
			return err
		}
		n, rerr := r.Read((*buf)[held:])
		got, held = got+int64(n), held+n
		if size >= 0 && got > size {
			return plat.Errorf(plat.ErrInvalid, "the body is longer than the declared %d bytes", size)
		}
		if held == len(*buf) || rerr == io.EOF && held > 0 {
			if _, err := w.Write((*buf)[:held]); err != nil {
				return translate(err)
			}
			held = 0
		}
		switch {
		case rerr == io.EOF:
			if size >= 0 && got < size {
				return plat.Errorf(plat.ErrInvalid, "the body ended after %d of the declared %d bytes", got, size)
			}
			return nil
		case rerr != nil:
			return fmt.Errorf("read body: %w", rerr)
		}
	}
}

// commit gives the synced file tmp its name.
func (d *Driver) commit(ctx context.Context, key, dir, name, tmp string, ifNoneMatch bool) error {
	end, err := d.begin(ctx, key)
	if err != nil {
		return err
	}
	defer end()
	line := d.dirs.acquire(dir)
	defer d.dirs.release(line)

	inSegment, err := d.small.live(key)
	if err != nil {
		return translate(err)
	}
	if inSegment != nil && ifNoneMatch {
		return errExists
	}
	_, err = d.fs.Stat(name)
	exists := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return translate(err)
	}
	if exists && ifNoneMatch {
		return d.refuseLocked(line, dir)
	}
	if err := d.dirs.make(line); err != nil {
		return translate(err)
	}

	// The old version keeps a name until the new one is durable, so that a disk
	// that fails in between leaves what was there. A file system without hard
	// links does without.
	old := tmp + "-old"
	kept := exists && d.fs.Link(name, old) == nil
	if err := d.fs.Rename(tmp, name); err != nil {
		if kept {
			_ = d.fs.Remove(old)
		}
		return translate(err)
	}
	if err := d.dirs.sync(dir); err != nil {
		switch {
		case kept:
			_ = d.fs.Rename(old, name)
		case !exists:
			_ = d.fs.Remove(name)
		}
		return translate(err)
	}
	if kept {
		_ = d.fs.Remove(old) // else Open removes it
	}
	if inSegment == nil {
		return nil
	}
	// The new version counts from here on: until now the segment hid the file. Should
	// this fail the file stays, hidden: whether the disk has the record is not known,
	// and after a power cut one of the two must be there.
	d.moves.Add(1)
	return translate(d.small.remove(key, inSegment))
}

// refuse returns ErrExists for an object that was seen.
func (d *Driver) refuse(ctx context.Context, key, dir string) error {
	end, err := d.begin(ctx, key)
	if err != nil {
		return err
	}
	defer end()
	line := d.dirs.acquire(dir)
	defer d.dirs.release(line)
	return d.refuseLocked(line, dir)
}

// refuseLocked returns ErrExists once the object in the way is sure to stay: it
// must not vanish in a power cut after a caller was told of it.
func (d *Driver) refuseLocked(line []string, dir string) error {
	if err := d.dirs.make(line); err != nil {
		return translate(err)
	}
	if err := d.dirs.sync(dir); err != nil {
		return translate(err)
	}
	return errExists
}

// begin starts a change of key's object: it holds off other changes of it and Close.
func (d *Driver) begin(ctx context.Context, key string) (end func(), err error) {
	unlock, err := d.locks.lock(ctx, key)
	if err != nil {
		return nil, err
	}
	d.closing.RLock()
	if err := d.check(ctx); err != nil {
		d.closing.RUnlock()
		unlock()
		return nil, err
	}
	return func() {
		d.closing.RUnlock()
		unlock()
	}, nil
}

// check returns the error of a cancelled context or a closed driver.
func (d *Driver) check(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.closed.Load() {
		return errClosed
	}
	return nil
}

// Delete implements blob.Driver.
func (d *Driver) Delete(ctx context.Context, key string) error {
	if err := d.check(ctx); err != nil {
		return err
	}
	dir, name := keyPath(key)
	end, err := d.begin(ctx, key)
	if err != nil {
		return err
	}
	err = d.deleteLocked(key, dir, name)
	end()
	d.kick()
	return err
}

func (d *Driver) deleteLocked(key, dir, name string) error {
	inSegment, err := d.small.live(key)
	if err != nil {
		return translate(err)
	}
	// A file first: the segment may hide one, which must not come to light.
	if err := d.remove(dir, name); err != nil {
		return translate(err)
	}
	d.dirs.prune(dir)
	if inSegment == nil {
		return nil
	}
	return translate(d.small.remove(key, inSegment))
}

func (d *Driver) remove(dir, name string) error {
	line := d.dirs.acquire(dir)
	defer d.dirs.release(line)
	if err := d.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Also when the object is missing: an earlier process may have removed it
	// and ended before the sync.
	if err := d.dirs.sync(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Stat implements blob.Driver.
func (d *Driver) Stat(ctx context.Context, key string) (info blob.Info, err error) {
	err = d.look(ctx, func() (bool, error) {
		e, err := d.small.live(key)
		if e != nil {
			info = e.info(key)
		}
		return e != nil, err
	}, func() error {
		_, name := keyPath(key)
		fi, err := d.fs.Stat(name)
		if err == nil {
			info = infoOf(key, fi)
		}
		return err
	})
	return info, err
}

// look looks for an object in the segments, then for a file, and once more when one
// has moved between the two meanwhile.
func (d *Driver) look(ctx context.Context, segments func() (found bool, err error), file func() error) error {
	for {
		if err := d.check(ctx); err != nil {
			return err
		}
		moves := d.moves.Load()
		found, err := segments()
		if err != nil || found {
			return translate(err)
		}
		if err = file(); err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) || d.moves.Load() == moves {
			return translateFind(err)
		}
	}
}

func infoOf(key string, fi fs.FileInfo) blob.Info {
	return blob.Info{Key: key, Size: fi.Size(), ModTime: fi.ModTime().UTC().Truncate(time.Microsecond)}
}

// Open implements blob.Driver.
func (d *Driver) Open(ctx context.Context, key string, off, n int64) (rc io.ReadCloser, info blob.Info, err error) {
	err = d.look(ctx, func() (bool, error) {
		body, e, err := d.small.open(key, off, n)
		if err == nil && e != nil {
			rc, info = body, e.info(key)
		}
		return e != nil, err
	}, func() error {
		_, name := keyPath(key)
		f, err := d.fs.Open(name)
		if err != nil {
			return err
		}
		fi, err := f.Stat()
		if err == nil && off > 0 {
			_, err = f.Seek(off, io.SeekStart)
		}
		if err != nil {
			_ = f.Close()
			return err
		}
		left := max(fi.Size()-off, 0)
		if n >= 0 {
			left = min(left, n)
		}
		rc, info = newReader(f, left), infoOf(key, fi)
		return nil
	})
	if err != nil {
		return nil, blob.Info{}, err
	}
	return rc, info, nil
}

// Close implements blob.Driver. Changes under way are finished first, bodies
// still coming in are dropped; open readers stay usable.
func (d *Driver) Close() error {
	d.closing.Lock()
	was := d.closed.Swap(true)
	d.closing.Unlock()
	if was {
		return nil
	}
	d.cancel()
	d.working.Wait()
	d.small.close()
	return nil
}

// reader reads a range of an open file.
type reader struct {
	file vfs.File
	body io.LimitedReader
}

// newReader reads the next n bytes of an open file, and closes it.
func newReader(f vfs.File, n int64) *reader {
	return &reader{file: f, body: io.LimitedReader{R: f, N: n}}
}

// Read implements io.Reader. A file that was cut short under us is an error, not
// the end.
func (r *reader) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	if err == io.EOF && r.body.N > 0 { //nolint:errorlint // the reader contract says this very value
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// WriteTo implements io.WriterTo. A socket recognises an io.LimitedReader over
// an *os.File and has the kernel send the file.
func (r *reader) WriteTo(w io.Writer) (int64, error) {
	n, err := io.Copy(w, &r.body)
	if err == nil && r.body.N > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Close implements io.Closer.
func (r *reader) Close() error { return r.file.Close() }

// translateFind is translate for looking up an object: what is missing is the object.
func translateFind(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return plat.Errorf(plat.ErrNotFound, "the object does not exist")
	}
	return translate(err)
}

// translate gives an error of the file layer its kind. A missing file is none:
// in a write it means that someone else is in the directory.
func translate(err error) error {
	var kind error
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		kind = plat.ErrExhausted
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		kind = plat.ErrUnavailable
	default:
		return err
	}
	return fmt.Errorf("%w: %w", kind, err)
}
