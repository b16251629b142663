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
	pair   *pair     // nil: the chunk is hashed alone
	sums   hash.Hash // over the chunks' binary sums
	n      int       // finished chunks
	shared bool
	long   int64 // how long a shared one is said to be; negative: unknown
}

// New returns the Sum of nothing.
func New() *Sum {
	return &Sum{room: ChunkSize, server: -1, sums: md5.New()} //nolint:gosec // see import
}

// NewShared is New for a long stream of so many bytes (negative: unknown), of which there may be
// many at a time: what it costs is less, for memory and by hashing them together. How
// long it is is believed for the plan only. The Sum must be closed.
func NewShared(size int64) *Sum {
	e := New()
	e.shared, e.long = true, size
	begin()
	return e
}

// Close ends a shared Sum. It may be called at any time, and more than once.
func (e *Sum) Close() {
	if e.shared {
		e.shared = false
		if e.pair != nil {
			e.pair.drop()
			e.pair = nil
		}
		e.endChunk()
		end()
	}
}

// Write implements io.Writer; it never fails.
func (e *Sum) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if e.room == 0 {
			e.nextChunk()
		}
		if e.beginChunk(); e.pair != nil && e.pair.full() {
			e.part()
			e.pair = newPair(e.ahead()) // of this chunk's end
		}
		k := min(int64(len(p)), e.room)
		if e.pair == nil {
			_, _ = e.chunk.Write(p[:k])
		} else {
			k = e.pair.write(p[:k], e.chunk, e.room)
		}
		p, e.room, e.size = p[k:], e.room-k, e.size+k
	}
	return total, nil
}

func (e *Sum) beginChunk() {
	switch {
	case e.chunk != nil:
	case e.shared:
		if e.pair = newPair(e.ahead()); e.pair != nil {
			e.chunk = md5.New() //nolint:gosec // see import
		} else {
			e.chunk, e.server = take()
		}
	default:
		e.chunk = md5.New() //nolint:gosec // see import
	}
}

// ahead is how long what follows the current chunk will be.
func (e *Sum) ahead() int64 {
	if e.long < 0 {
		return ChunkSize
	}
	return e.long - e.size - e.room
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

func (e *Sum) nextChunk() {
	if e.pair != nil && e.pair.follow(e.chunk) {
		e.room = ChunkSize
		return
	}
	e.finishChunk()
}

func (e *Sum) finishChunk() {
	e.part()
	e.addSum(e.chunk)
	e.endChunk()
	e.room = ChunkSize
}

// part ends a pair, so that chunk is the hash of the current chunk again.
func (e *Sum) part() {
	if e.pair == nil {
		return
	}
	first, second := e.pair.end(e.chunk)
	if e.pair = nil; second != nil {
		e.addSum(first)
		e.chunk = second
	}
}

func (e *Sum) addSum(chunk hash.Hash) {
	var sum [md5.Size]byte
	_, _ = e.sums.Write(chunk.Sum(sum[:0]))
	e.n++
}

// Size returns how many bytes were written.
func (e *Sum) Size() int64 { return e.size }

// ETag returns the tag, unquoted, of everything written so far. Call it once, at
// the end, before Close.
func (e *Sum) ETag() string {
	e.beginChunk() // of nothing written
	if e.part(); e.n == 0 {
		return hex.EncodeToString(e.chunk.Sum(nil))
	}
	e.finishChunk()
	return fmt.Sprintf("%s-%d", hex.EncodeToString(e.sums.Sum(nil)), e.n)
}
