// SPDX-License-Identifier: Apache-2.0

// Package vfs is the small file layer that dirblob writes through, so that its
// order of writes and syncs can be tested on a layer that loses what was not
// synced (crashfs). OS is the real one.
//
// Names are "/" separated, relative to the layer's root, without "..". A name is
// durable once the directory that holds it was synced; a file's bytes are
// durable once the file was synced. Nothing else makes anything durable.
package vfs

import (
	"io"
	"io/fs"
)

// FS is what dirblob needs of a file system. Methods are safe for concurrent
// use. Errors match fs.ErrNotExist and fs.ErrExist, or carry a syscall.Errno.
type FS interface {
	// Create makes a new empty file; an existing name is fs.ErrExist.
	Create(name string) (File, error)
	// Open opens a file for reading. What it reads stays readable when the name
	// is replaced or removed meanwhile.
	Open(name string) (File, error)
	// Stat describes a file or directory.
	Stat(name string) (fs.FileInfo, error)
	// Mkdir makes a directory; an existing name is fs.ErrExist.
	Mkdir(name string) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// Rename moves a file, replacing the file that was at to, if any, in one step.
	Rename(from, to string) error
	// Link gives a file a second name; an existing name is fs.ErrExist.
	Link(from, to string) error
	// Truncate cuts a file to size bytes, durably, and makes all of it durable; at
	// its length it just syncs.
	Truncate(name string, size int64) error
	// SyncDir makes the directory's entries durable.
	SyncDir(name string) error
	// ReadNames calls fn with the directory's names, in no order and in batches
	// of bounded size; an error of fn ends it.
	ReadNames(name string, fn func(names []string) error) error
}

// File is an open file. *os.File is one, and OS hands out just that, so that
// copying to a socket can stay inside the kernel.
type File interface {
	io.Reader
	io.ReaderAt
	io.Writer
	io.Seeker
	io.Closer
	// Sync makes the file's bytes durable, but not its name.
	Sync() error
	// Truncate cuts the file to size bytes. A later Write goes where Seek says.
	Truncate(size int64) error
	// Stat describes the file.
	Stat() (fs.FileInfo, error)
}
