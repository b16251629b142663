// SPDX-License-Identifier: Apache-2.0

// Package dirblob is the blob adapter that keeps objects in a directory: those of up to 1 MiB
// as records of segments, the others in a file each. One process owns the directory at
// a time; the caller sees to that (a lock file). Why it is so: docs/adr/0002 and 0013.
//
// Layout, below the root:
//
//	format      "dirblob 2"; "dirblob 1", without segments, is read and becomes 2
//	tmp/        bodies on their way in, emptied at Open
//	objects/    the larger objects; a key's path is its encoding (see encode.go)
//	segments/   N.seg    records of small objects, the truth about them (record.go)
//	            N.run    sorted pieces of their index (run.go)
//	            manifest which runs count, and up to where in the log they know all
//	            reserve  room for deletes when the disk is full
//
// Invariants. A file below objects/ is whole and synced before it gets its name, and
// Put and Delete return only when that name, and the names of the directories above
// it, are synced too. A record counts once the write that it is part of was synced. Of a
// key that has both, the record counts. The index can be made from the segments alone,
// and is when it is missing or damaged. What is read of a segment is checked, but for the
// bytes of a body of more than 64 KiB: damage is an error, never other bytes, and
// compaction never drops what it can't read.
//
// No name depends on case, holds a byte outside ASCII or is longer than 242 bytes, so
// that any file system with 255-byte names can hold it.
//
// A copy of the directory is a backup only when no process has it open: compaction
// moves records between segments.
//
// Memory: a copy buffer for each Put of a large object, a body of up to 64 KiB twice,
// 32 MiB for those of up to 1 MiB, the
// newest 32,768 entries of the index, the state of at most some thousand directories, and
// one page of a listing. A page costs the time to read the names of each directory of
// files that it touches, all of them, though it keeps only the page: N large objects in
// one "directory" (same text up to the last "/") take N/limit readings of N names to list
// in full. Small ones are listed from the index.
package dirblob
