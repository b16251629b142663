// SPDX-License-Identifier: Apache-2.0

// Package dirblob is the blob adapter that keeps objects in a directory, one
// file each. One process owns the directory at a time; the caller sees to that
// (a lock file).
//
// Layout, below the root:
//
//	format      "dirblob 1"; another content is refused
//	tmp/        bodies on their way in, emptied at Open
//	objects/    the objects; a key's path is its encoding (see encode.go)
//
// Invariants: a file below objects/ is whole and synced before it gets its
// name, and Put and Delete return only when that name, and the names of the
// directories above it, are synced too. Names say everything: a listing needs no
// index and a copy of the directory is a backup. No name depends on case, holds
// a byte outside ASCII or is longer than 242 bytes, so that any file system
// with 255-byte names can hold it.
//
// Memory: a copy buffer for each Put, the state of at most some thousand
// directories, and one page of a listing. A page costs the time to read the
// names of each directory it touches, all of them, though it keeps only the
// page: N keys in one "directory" (same text up to the last "/") take N/limit
// readings of N names to list in full. Keys that are to be listed by the million
// should carry a "/" every ten or hundred thousand.
package dirblob
