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

const chunkSize = 5 << 20

// Sum is the ETag of everything written to it. It is not safe for concurrent use.
type Sum struct {
	size  int64
	room  int64 // bytes left in the current chunk
	chunk hash.Hash
	sums  hash.Hash // over the chunks' binary sums
	n     int       // finished chunks
}

// New returns the Sum of nothing.
func New() *Sum {
	return &Sum{room: chunkSize, chunk: md5.New(), sums: md5.New()} //nolint:gosec // see import
}

// Write implements io.Writer; it never fails.
func (e *Sum) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if e.room == 0 {
			e.finishChunk()
		}
		k := min(int64(len(p)), e.room)
		_, _ = e.chunk.Write(p[:k])
		p, e.room, e.size = p[k:], e.room-k, e.size+k
	}
	return total, nil
}

func (e *Sum) finishChunk() {
	var sum [md5.Size]byte
	_, _ = e.sums.Write(e.chunk.Sum(sum[:0]))
	e.chunk.Reset()
	e.n++
	e.room = chunkSize
}

// Size returns how many bytes were written.
func (e *Sum) Size() int64 { return e.size }

// ETag returns the tag, unquoted, of everything written so far. Call it once, at
// the end.
func (e *Sum) ETag() string {
	if e.n == 0 {
		return hex.EncodeToString(e.chunk.Sum(nil))
	}
	e.finishChunk()
	return fmt.Sprintf("%s-%d", hex.EncodeToString(e.sums.Sum(nil)), e.n)
}
