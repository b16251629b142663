// SPDX-License-Identifier: Apache-2.0

package dirblob

import (
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"
	"syscall"

	"panal/internal/blob/dirblob/vfs"
)

const reserveFile = segmentsDir + "/reserve"

// reserve is a file of zeros that is given up when a delete finds the disk full: the
// record of a delete needs some bytes, and deletes are how a disk is emptied. While it is
// gone, puts are refused until there is room to have it again.
type reserve struct {
	fs   vfs.FS
	size int // less than 1 for none

	have atomic.Bool
	mu   sync.Mutex // guards the file
}

// load looks for the reserve of an earlier process.
func (r *reserve) load() error {
	fi, err := r.fs.Stat(reserveFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && fi.Size() != int64(r.size) {
		return ignoreMissing(r.fs.Remove(reserveFile))
	}
	r.have.Store(err == nil)
	return err
}

// keep sees that there is a reserve. That it may be lost in a power cut does no harm.
func (r *reserve) keep() error {
	if r.size < 1 || r.have.Load() {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.have.Load() {
		return nil
	}
	f, err := r.fs.Create(reserveFile)
	if errors.Is(err, fs.ErrExist) { // its removal failed
		return ignoreMissing(r.fs.Remove(reserveFile))
	}
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, r.size))
	if err == nil {
		err = f.Sync() // where blocks are found only then
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, ignoreMissing(r.fs.Remove(reserveFile)))
	}
	r.have.Store(true)
	return nil
}

// spend calls fn, and once more without the reserve where the disk was full.
func (r *reserve) spend(fn func() error) error {
	err := fn()
	if r.size < 1 || !full(err) {
		return err
	}
	r.give()
	return fn()
}

// give gives the reserve up.
func (r *reserve) give() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.have.Swap(false) {
		_ = r.fs.Remove(reserveFile) // else keep tries again
	}
}

// full tells whether err says that a disk is.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
