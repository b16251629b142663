// SPDX-License-Identifier: Apache-2.0

// Package crashfs is a vfs.FS in memory that remembers what was synced. After a
// simulated power cut (Crash) every change that was not synced is kept, dropped
// or, for bytes, torn, as an arbitrary chooser says; changes of different names
// are independent of each other, even the two halves of one rename. Real file
// systems are kinder; code that survives this survives them. For tests only.
package crashfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"panal/internal/blob/dirblob/vfs"
)

// ErrCrashed is what every operation returns once the power is cut.
var ErrCrashed = errors.New("the power is cut")

// ErrSkip is what a hook returns to make the operation do nothing and succeed: a
// forgotten sync, for tests that prove that a test notices.
var ErrSkip = errors.New("skip")

// Op names a kind of operation for hooks.
type Op string

// The operations that change something or make it durable. Reads are not told
// to hooks and do not count as steps.
const (
	OpCreate  Op = "create"
	OpWrite   Op = "write"
	OpSync    Op = "sync"
	OpMkdir   Op = "mkdir"
	OpRemove  Op = "remove"
	OpRename  Op = "rename"
	OpLink    Op = "link"
	OpSyncDir Op = "syncdir"

	OpTruncate Op = "truncate"
)

// FS is the layer. The zero value is not usable; call New.
type FS struct {
	mu      sync.Mutex
	root    *dir
	steps   int
	crashAt int // cut the power instead of this step; < 0: never
	crashed bool
	quota   int64 // bytes that may still be written; < 0: no limit
	hook    func(op Op, name string) error
}

var _ vfs.FS = (*FS)(nil)

// New returns an empty layer.
func New() *FS { return &FS{root: newDir(), crashAt: -1, quota: -1} }

// node is a *file or a *dir.
type node interface{ node() }

type file struct {
	data    []byte
	durable []byte
	mod     time.Time
}

type dir struct {
	now     map[string]node
	durable map[string]node
	pending map[string][]node // what each name meant since the last sync, nil for nothing
}

func (*file) node() {}
func (*dir) node()  {}

func newDir() *dir {
	return &dir{now: map[string]node{}, durable: map[string]node{}, pending: map[string][]node{}}
}

func (d *dir) set(name string, n node) {
	if n == nil {
		delete(d.now, name)
	} else {
		d.now[name] = n
	}
	d.pending[name] = append(d.pending[name], n)
}

// CrashAt cuts the power in place of the given step, counted from now on.
func (f *FS) CrashAt(step int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps, f.crashAt = 0, step
}

// Steps returns the number of operations counted since New or CrashAt.
func (f *FS) Steps() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.steps
}

// Revive ends a cut without losing anything: not the power went, the process was
// killed. What it did not sync is still not durable.
func (f *FS) Revive() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crashed, f.crashAt = false, -1
}

// Crashed tells whether the power is cut.
func (f *FS) Crashed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.crashed
}

// Rot flips a bit of a file's byte at off, also of what is on the disk.
func (f *FS) Rot(name string, off int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, ok := f.find(name).(*file)
	if !ok || off >= int64(len(n.data)) {
		return notExist("rot", name)
	}
	n.data = bytes.Clone(n.data)
	n.data[off] ^= 1 << (off % 8)
	n.durable = bytes.Clone(n.data)
	return nil
}

// SetQuota lets n more bytes be written; then writes get ENOSPC, short at the
// edge. n < 0 means no limit.
func (f *FS) SetQuota(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.quota = n
}

// SetHook has fn called before each operation; its error is the operation's
// result. fn must not call back into f.
func (f *FS) SetHook(fn func(op Op, name string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = fn
}

// step counts an operation and asks the hook. done tells the caller to return
// err without doing anything.
func (f *FS) step(op Op, name string) (err error, done bool) { //nolint:revive // err first reads better at the callers
	if f.crashed {
		return ErrCrashed, true
	}
	if f.steps == f.crashAt {
		f.crashed = true
		return ErrCrashed, true
	}
	f.steps++
	if f.hook != nil {
		if err := f.hook(op, name); err != nil {
			if errors.Is(err, ErrSkip) {
				return nil, true
			}
			return err, true
		}
	}
	return nil, false
}

// Crash cuts the power and returns the layer as it is found afterwards. choose
// returns a number in [0, n); each arbitrary outcome is one call, in an order
// that depends on the layer's contents only.
func (f *FS) Crash(choose func(n int) int) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crashed = true
	out := New()
	out.root = crashDir(f.root, choose, map[*file]*file{})
	return out
}

func crashDir(d *dir, choose func(int) int, seen map[*file]*file) *dir {
	names := map[string]bool{}
	for n := range d.durable {
		names[n] = true
	}
	for n := range d.pending {
		names[n] = true
	}
	sorted := make([]string, 0, len(names))
	for n := range names {
		sorted = append(sorted, n)
	}
	sort.Strings(sorted)

	out := newDir()
	for _, name := range sorted {
		options := append([]node{d.durable[name]}, d.pending[name]...)
		n := options[0]
		if len(options) > 1 {
			n = options[choose(len(options))]
		}
		switch n := n.(type) {
		case *file:
			if seen[n] == nil {
				seen[n] = crashFile(n, choose)
			}
			out.durable[name] = seen[n]
		case *dir:
			out.durable[name] = crashDir(n, choose, seen)
		}
	}
	maps.Copy(out.now, out.durable)
	return out
}

// sector is what a disk writes whole or not at all.
const sector = 512

func crashFile(f *file, choose func(int) int) *file {
	data := f.durable
	if !bytes.Equal(f.data, f.durable) {
		same := 0 // bytes at the beginning
		for same < min(len(f.data), len(f.durable)) && f.data[same] == f.durable[same] {
			same++
		}
		switch choose(5) {
		case 0: // nothing of it reached the disk
		case 1: // all of it
			data = f.data
		case 2: // the first part of it; behind that is what was there
			data = f.data[:same+choose(len(f.data)-same+1)]
			if n := len(data); n < len(f.durable) {
				data = append(bytes.Clone(data), f.durable[n:]...)
			}
		case 3: // the length, but not the bytes
			data = make([]byte, max(len(f.data), len(f.durable)))
			copy(data, f.durable)
		case 4: // a later part of it, by sectors, but not the first
			from := min(len(f.data), (same+choose(len(f.data)-same+1)+sector-1)/sector*sector)
			data = make([]byte, len(f.data))
			copy(data, f.durable)
			copy(data[from:], f.data[from:])
		}
	}
	data = bytes.Clone(data)
	return &file{data: data, durable: data, mod: f.mod}
}

func notExist(op Op, name string) error {
	return &fs.PathError{Op: string(op), Path: name, Err: syscall.ENOENT}
}

// find returns the node at name, or nil.
func (f *FS) find(name string) node {
	if name == "." {
		return f.root
	}
	var n node = f.root
	for seg := range strings.SplitSeq(name, "/") {
		d, ok := n.(*dir)
		if !ok {
			return nil
		}
		if n = d.now[seg]; n == nil {
			return nil
		}
	}
	return n
}

// parent returns the directory that holds, or would hold, name.
func (f *FS) parent(name string) (*dir, string) {
	d, _ := f.find(path.Dir(name)).(*dir)
	return d, path.Base(name)
}

// Create implements vfs.FS.
func (f *FS) Create(name string) (vfs.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err, done := f.step(OpCreate, name); done && err != nil {
		return nil, err
	}
	if f.quota == 0 {
		return nil, &fs.PathError{Op: string(OpCreate), Path: name, Err: syscall.ENOSPC}
	}
	n := &file{mod: time.Now()}
	if err := f.add(OpCreate, name, n); err != nil {
		return nil, err
	}
	return &handle{fs: f, file: n, name: name}, nil
}

func (f *FS) add(op Op, name string, n node) error {
	d, base := f.parent(name)
	if d == nil {
		return notExist(op, name)
	}
	if d.now[base] != nil {
		return &fs.PathError{Op: string(op), Path: name, Err: syscall.EEXIST}
	}
	d.set(base, n)
	return nil
}

// Open implements vfs.FS.
func (f *FS) Open(name string) (vfs.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashed {
		return nil, ErrCrashed
	}
	n, ok := f.find(name).(*file)
	if !ok {
		return nil, notExist("open", name)
	}
	return &handle{fs: f, file: n, name: name}, nil
}

// Stat implements vfs.FS.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashed {
		return nil, ErrCrashed
	}
	switch n := f.find(name).(type) {
	case *file:
		return info{name: path.Base(name), size: int64(len(n.data)), mod: n.mod}, nil
	case *dir:
		return info{name: path.Base(name), mode: fs.ModeDir}, nil
	}
	return nil, notExist("stat", name)
}

// Mkdir implements vfs.FS.
func (f *FS) Mkdir(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err, done := f.step(OpMkdir, name); done {
		return err
	}
	return f.add(OpMkdir, name, newDir())
}

// Remove implements vfs.FS.
func (f *FS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err, done := f.step(OpRemove, name); done {
		return err
	}
	d, base := f.parent(name)
	if d == nil || d.now[base] == nil {
		return notExist(OpRemove, name)
	}
	if sub, ok := d.now[base].(*dir); ok && len(sub.now) > 0 {
		return &fs.PathError{Op: string(OpRemove), Path: name, Err: syscall.ENOTEMPTY}
	}
	d.set(base, nil)
	return nil
}

// Rename implements vfs.FS.
func (f *FS) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err, done := f.step(OpRename, to); done {
		return err
	}
	src, srcBase := f.parent(from)
	dst, dstBase := f.parent(to)
	if src == nil || dst == nil || src.now[srcBase] == nil {
		return notExist(OpRename, from)
	}
	dst.set(dstBase, src.now[srcBase])
	src.set(srcBase, nil)
	return nil
}

// Link implements vfs.FS.
func (f *FS) Link(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err, done := f.step(OpLink, to); done {
		return err
	}
	n, ok := f.find(from).(*file)
	if !ok {
		return notExist(OpLink, from)
	}
	return f.add(OpLink, to, n)
}

// Truncate implements vfs.FS: as two steps, the cut and the sync.
func (f *FS) Truncate(name string, size int64) error {
	f.mu.Lock()
	n, ok := f.find(name).(*file)
	f.mu.Unlock()
	if !ok {
		return notExist(OpTruncate, name)
	}
	h := &handle{fs: f, file: n, name: name}
	if err := h.Truncate(size); err != nil {
		return err
	}
	return h.Sync()
}

// SyncDir implements vfs.FS.
func (f *FS) SyncDir(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err, done := f.step(OpSyncDir, name); done {
		return err
	}
	d, ok := f.find(name).(*dir)
	if !ok {
		return notExist(OpSyncDir, name)
	}
	d.durable = maps.Clone(d.now)
	d.pending = map[string][]node{}
	return nil
}

// ReadNames implements vfs.FS. The order is random, as a real directory's is
// not the one that anybody wants.
func (f *FS) ReadNames(name string, fn func(names []string) error) error {
	f.mu.Lock()
	if f.crashed {
		f.mu.Unlock()
		return ErrCrashed
	}
	d, ok := f.find(name).(*dir)
	if !ok {
		f.mu.Unlock()
		return notExist("readdir", name)
	}
	var names []string
	for n := range d.now {
		names = append(names, n)
	}
	f.mu.Unlock()
	for len(names) > 0 {
		k := min(len(names), 7) // small, so that batching is exercised
		if err := fn(names[:k]); err != nil {
			return err
		}
		names = names[k:]
	}
	return nil
}

// handle is an open file.
type handle struct {
	fs   *FS
	file *file
	name string
	off  int64
}

// Read implements vfs.File.
func (h *handle) Read(p []byte) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.fs.crashed {
		return 0, ErrCrashed
	}
	if h.off >= int64(len(h.file.data)) {
		return 0, io.EOF
	}
	n := copy(p, h.file.data[h.off:])
	h.off += int64(n)
	return n, nil
}

// ReadAt implements vfs.File.
func (h *handle) ReadAt(p []byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.fs.crashed {
		return 0, ErrCrashed
	}
	if off >= int64(len(h.file.data)) {
		return 0, io.EOF
	}
	n := copy(p, h.file.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Truncate implements vfs.File.
func (h *handle) Truncate(size int64) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err, done := h.fs.step(OpTruncate, h.name); done {
		return err
	}
	if size > int64(len(h.file.data)) {
		return syscall.EINVAL // nobody here makes a file longer by it
	}
	if h.fs.quota >= 0 {
		h.fs.quota += int64(len(h.file.data)) - size
	}
	h.file.data = bytes.Clone(h.file.data[:size])
	return nil
}

// Write implements vfs.File.
func (h *handle) Write(p []byte) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err, done := h.fs.step(OpWrite, h.name); done {
		if err == nil {
			return len(p), nil
		}
		return 0, err
	}
	if h.off > int64(len(h.file.data)) {
		return 0, syscall.EINVAL // nobody here leaves a hole
	}
	n := copy(h.file.data[h.off:], p)
	more := p[n:]
	if h.fs.quota >= 0 {
		more = more[:min(int64(len(more)), h.fs.quota)]
		h.fs.quota -= int64(len(more))
	}
	h.file.data = append(h.file.data, more...)
	n += len(more)
	h.off += int64(n)
	h.file.mod = time.Now()
	if n < len(p) {
		return n, &fs.PathError{Op: string(OpWrite), Path: h.name, Err: syscall.ENOSPC}
	}
	return n, nil
}

// Seek implements vfs.File.
func (h *handle) Seek(off int64, whence int) (int64, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		off += h.off
	case io.SeekEnd:
		off += int64(len(h.file.data))
	}
	if off < 0 {
		return 0, syscall.EINVAL
	}
	h.off = off
	return off, nil
}

// Close implements vfs.File.
func (h *handle) Close() error { return nil }

// Sync implements vfs.File.
func (h *handle) Sync() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err, done := h.fs.step(OpSync, h.name); done {
		return err
	}
	h.file.durable = bytes.Clone(h.file.data)
	return nil
}

// Stat implements vfs.File.
func (h *handle) Stat() (fs.FileInfo, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	return info{name: path.Base(h.name), size: int64(len(h.file.data)), mod: h.file.mod}, nil
}

type info struct {
	name string
	size int64
	mode fs.FileMode
	mod  time.Time
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return i.mod }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }
