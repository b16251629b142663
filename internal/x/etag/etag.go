// SPDX-License-Identifier: Apache-2.0

// Package etag computes the wire's ETag of a file's bytes, as they pass by and in
// constant memory: MD5 over chunks of 5 MiB, as S3 does for parts (data.md §13).
package etag

import (
	"crypto/md5" //nolint:gosec // the wire's ETag is MD5 by definition; it protects nothing
	"encoding/hex"
	"fmt"
	"hash"
)

// ChunkSize is how long a chunk is.
const ChunkSize = 5 << 20

// Sum is the ETag of everything written to it. It is not safe for concurrent use.
type Sum struct {
	size   int64
	room   int64     // bytes left in the current chunk
	chunk  hash.Hash // nil: not begun
	server int       // of the lanes that chunk is to be given back to, or -1
	sums   hash.Hash // over the chunks' binary sums
	n      int       // finished chunks
	shared bool
}

// New returns the Sum of nothing.
func New() *Sum {
	return &Sum{room: ChunkSize, server: -1, sums: md5.New()} //nolint:gosec // see import
}

// NewShared is New for a long stream that may be one of many at a time, which are then
// hashed together for less. The Sum must be closed.
func NewShared() *Sum {
	e := New()
	e.shared = true
	begin()
	return e
}

// Close ends a shared Sum. It may be called at any time, and more than once.
func (e *Sum) Close() {
	if e.shared {
		e.shared = false
		e.endChunk()
		end()
	}
}

// Write implements io.Writer; it never fails.
func (e *Sum) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if e.room == 0 {
			e.finishChunk()
		}
		e.beginChunk()
		k := min(int64(len(p)), e.room)
		_, _ = e.chunk.Write(p[:k])
		p, e.room, e.size = p[k:], e.room-k, e.size+k
	}
	return total, nil
}

func (e *Sum) beginChunk() {
	switch {
	case e.chunk != nil:
	case e.shared:
		e.chunk, e.server = take()
	default:
		e.chunk = md5.New() //nolint:gosec // see import
	}
}

// endChunk leaves the hash of the chunk ready for another.
func (e *Sum) endChunk() {
	switch {
	case e.chunk == nil:
	case e.server < 0 && !e.shared:
		e.chunk.Reset()
	default: // how many streams there are is asked anew for each chunk
		give(e.chunk, e.server)
		e.chunk, e.server = nil, -1
	}
}

func (e *Sum) finishChunk() {
	var sum [md5.Size]byte
	_, _ = e.sums.Write(e.chunk.Sum(sum[:0]))
	e.endChunk()
	e.n++
	e.room = ChunkSize
}

// Size returns how many bytes were written.
func (e *Sum) Size() int64 { return e.size }

// ETag returns the tag, unquoted, of everything written so far. Call it once, at
// the end, before Close.
func (e *Sum) ETag() string {
	e.beginChunk() // of nothing written
	if e.n == 0 {
		return hex.EncodeToString(e.chunk.Sum(nil))
	}
	e.finishChunk()
	return fmt.Sprintf("%s-%d", hex.EncodeToString(e.sums.Sum(nil)), e.n)
}
