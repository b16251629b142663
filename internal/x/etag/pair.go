// SPDX-License-Identifier: Apache-2.0

package etag

import (
	"crypto/md5" //nolint:gosec // see etag.go
	"encoding"
	"encoding/binary"
	"hash"
)

// pair hashes a chunk together with the one that follows it. Each step of MD5 waits for the one
// before, which leaves more than half of a core idle; two messages at a time take as long as one.
// So the first chunk's end, no more than the second is long, is put by until that arrives. With
// half a chunk at most, the second one's end can be put by for a third one afterwards.
type pair struct {
	alone  int64 // bytes of the first chunk that are hashed as they come, whole blocks
	memory *[mostKept]byte
	kept   []byte // a part of memory: what was put by and is not hashed

	follows       bool // the second chunk has begun
	first, second [4]uint32
	hashed        uint64 // bytes of second
	block         []byte // that the second has begun
}

const (
	// mostKept is how much is put by at most. maxPairs bounds the memory for that, to 10 MiB.
	mostKept = ChunkSize / 2
	maxPairs = 4
	// minPaired is how much of a second chunk makes a pair worth while.
	minPaired = 64 << 10
	// mostBlocks bounds a call of blocks, to a tenth of a millisecond.
	mostBlocks = 1024
)

// places is the memory that pairs take turns in: maxPairs, nil until it is first needed and then
// kept. To be collected and made again it would cost more than it is.
var places = func() chan *[mostKept]byte { //nolint:gochecknoglobals // as the machine's memory is
	c := make(chan *[mostKept]byte, maxPairs)
	for range maxPairs {
		c <- nil
	}
	return c
}()

// newPair returns a pair of a chunk, of which no more than half is hashed, and so many bytes of
// the next, or nil where chunks are hashed one by one: there is no memory, or nothing to be gained.
func newPair(ahead int64) *pair {
	if !paired || ahead < minPaired {
		return nil
	}
	var memory *[mostKept]byte
	select {
	case memory = <-places:
	default:
		return nil
	}
	if memory == nil {
		memory = new([mostKept]byte)
	}
	ahead = min(ahead, mostKept)
	return &pair{alone: ChunkSize - ahead/md5.BlockSize*md5.BlockSize, memory: memory, kept: memory[:0]}
}

// write takes some of the current chunk, of which room bytes are missing, and returns how many.
// chunk is the hash of the first one's beginning.
func (p *pair) write(b []byte, chunk hash.Hash, room int64) int64 {
	switch alone := room - (ChunkSize - p.alone); {
	case p.follows:
		b = b[:min(len(b), len(p.kept)-len(p.block))]
		p.writeSecond(b)
	case alone > 0:
		b = b[:min(int64(len(b)), alone)]
		_, _ = chunk.Write(b)
	default:
		p.kept = append(p.kept, b...)
	}
	return int64(len(b))
}

// full tells whether all that was put by is hashed: what follows is hashed alone.
func (p *pair) full() bool { return p.follows && len(p.kept) == 0 }

// follow begins the second chunk, once. chunk is the hash of the first one's beginning.
func (p *pair) follow(chunk hash.Hash) bool {
	if p.follows {
		return false
	}
	p.follows = true
	p.first, p.second = state(chunk), state(md5.New()) //nolint:gosec // see import
	p.block = make([]byte, 0, md5.BlockSize)
	return true
}

// writeSecond takes no more of the second chunk than is kept of the first.
func (p *pair) writeSecond(b []byte) {
	if len(p.block) > 0 {
		n := min(len(b), md5.BlockSize-len(p.block))
		p.block, b = append(p.block, b[:n]...), b[n:]
		if len(p.block) < md5.BlockSize {
			return
		}
		p.hash(p.block)
		p.block = p.block[:0]
	}
	whole := len(b) / md5.BlockSize * md5.BlockSize
	p.hash(b[:whole])
	p.block = append(p.block, b[whole:]...)
}

// hash hashes whole blocks of the second chunk, and as many of the first.
func (p *pair) hash(b []byte) {
	for len(b) > 0 {
		n := min(len(b)/md5.BlockSize, mostBlocks)
		blocks(&p.first, &p.second, &p.kept[0], &b[0], n)
		n *= md5.BlockSize
		p.kept, b, p.hashed = p.kept[n:], b[n:], p.hashed+uint64(n)
	}
}

// end returns the hashes of what was written of the first chunk and, where it has begun, of the
// second. chunk is the hash of the first one's beginning. The pair is not to be used any more.
func (p *pair) end(chunk hash.Hash) (first, second hash.Hash) {
	defer p.drop()
	if !p.follows {
		_, _ = chunk.Write(p.kept)
		return chunk, nil
	}
	first, second = resume(p.first, ChunkSize-uint64(len(p.kept))), resume(p.second, p.hashed)
	_, _ = first.Write(p.kept)
	_, _ = second.Write(p.block)
	return first, second
}

// drop gives the memory back.
func (p *pair) drop() { places <- p.memory }

// A hash of package md5 encodes itself as four bytes that say so, the four words of its state, the
// block that has begun, and the length. Words are big-endian.
const (
	encodedWords = 4
	encodedSize  = encodedWords + md5.Size + md5.BlockSize
)

func encode(h hash.Hash) []byte {
	a, ok := h.(encoding.BinaryAppender)
	if !ok {
		panic("BUG: package md5 documents that its hashes can be encoded")
	}
	b, err := a.AppendBinary(nil)
	if err != nil || len(b) != encodedSize+8 {
		panic("BUG: package md5 encodes in another way")
	}
	return b
}

// state returns the state of h, which no block has begun in.
func state(h hash.Hash) (words [4]uint32) {
	b := encode(h)
	for i := range words {
		words[i] = binary.BigEndian.Uint32(b[encodedWords+4*i:])
	}
	return words
}

// resume returns the hash of so many bytes, a multiple of the block, that led to this state.
func resume(words [4]uint32, size uint64) hash.Hash {
	h := md5.New() //nolint:gosec // see etag.go
	b := encode(h)
	for i, w := range words {
		binary.BigEndian.PutUint32(b[encodedWords+4*i:], w)
	}
	binary.BigEndian.PutUint64(b[encodedSize:], size)
	u, ok := h.(encoding.BinaryUnmarshaler)
	if !ok {
		panic("BUG: package md5 documents that its hashes can be decoded")
	}
	if err := u.UnmarshalBinary(b); err != nil {
		panic("BUG: package md5 takes what it encoded: " + err.Error())
	}
	return h
}
