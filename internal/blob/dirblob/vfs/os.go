// SPDX-License-Identifier: Apache-2.0

package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// readBatch bounds the names that ReadNames holds at a time.
const readBatch = 1024

// OS is a directory of the operating system. Only the owner may enter what it
// makes.
type OS struct {
	root string
}

var _ FS = (*OS)(nil)

// NewOS returns the layer rooted at dir, which is made, durably, if it is missing.
func NewOS(dir string) (*OS, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := makeDurable(abs); err != nil {
		return nil, err
	}
	return &OS{root: abs}, nil
}

// makeDurable makes dir and its missing parents and syncs each directory that
// got a new entry. The nearest parent is synced even when dir exists: an
// earlier process may have ended between the two.
func makeDurable(dir string) error {
	parent := filepath.Dir(dir)
	err := os.Mkdir(dir, 0o700)
	switch {
	case errors.Is(err, fs.ErrNotExist) && parent != dir:
		if err := makeDurable(parent); err != nil {
			return err
		}
		return makeDurable(dir)
	case errors.Is(err, fs.ErrExist):
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: errors.New("not a directory")}
		}
		// A parent that we may not read was made by someone else, long ago.
		if err := syncDir(parent); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
		return nil
	case err != nil:
		return err
	}
	return syncDir(parent)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	return errors.Join(err, f.Close())
}

func (o *OS) path(name string) string { return o.root + "/" + name }

// Create implements FS.
func (o *OS) Create(name string) (File, error) {
	f, err := os.OpenFile(o.path(name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err // not f: a nil *os.File in a File is not nil
	}
	return f, nil
}

// Open implements FS.
func (o *OS) Open(name string) (File, error) {
	f, err := os.Open(o.path(name))
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Stat implements FS.
func (o *OS) Stat(name string) (fs.FileInfo, error) { return os.Lstat(o.path(name)) }

// Mkdir implements FS.
func (o *OS) Mkdir(name string) error { return os.Mkdir(o.path(name), 0o700) }

// Remove implements FS.
func (o *OS) Remove(name string) error { return os.Remove(o.path(name)) }

// Rename implements FS.
func (o *OS) Rename(from, to string) error { return os.Rename(o.path(from), o.path(to)) }

// Link implements FS.
func (o *OS) Link(from, to string) error { return os.Link(o.path(from), o.path(to)) }

// Truncate implements FS.
func (o *OS) Truncate(name string, size int64) error {
	f, err := os.OpenFile(o.path(name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// SyncDir implements FS.
func (o *OS) SyncDir(name string) error { return syncDir(o.path(name)) }

// ReadNames implements FS.
func (o *OS) ReadNames(name string, fn func(names []string) error) error {
	f, err := os.Open(o.path(name))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for {
		names, err := f.Readdirnames(readBatch)
		if len(names) > 0 {
			if err := fn(names); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
