// SPDX-License-Identifier: Apache-2.0

package dirblob

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"

	"panal/internal/blob"
)

// A segment is a header and records, one behind the other. A header is
//
//	magic u32, checksum u32 of the rest, number u32, salt u64
//
// and a record
//
//	magic u32, head checksum u32, body checksum u32, since u32, time i64 (µs),
//	body length u32, key length u16, flags u16, key, body
//
// The head checksum is of all from the body checksum to the end of the key, mixed with
// the segment's salt and the record's place: a record counts nowhere but where it was
// written, be it a block that the file system left from another file or a copy in the
// body of a hostile upload. The body's checksum stands alone, so that of a damaged body
// it is still known whose it was.
//
// since is how many bytes of the same write are before the record. A write begins only
// when the one before was synced, so a record proves that all before its write was on
// the disk: what is not whole there is damage, not the end that a power cut left.
//
// A record says all that there is to know of an object, so the index can be made
// anew from the segments. Numbers are little endian, checksums CRC-32C.
const (
	segmentMagic  = 0x67655350 // "PSeg"
	segmentHeader = 20

	recordMagic  = 0x6c6e6150 // "Panl"
	recordHeader = 32

	// flagGone marks the record of a delete: what the segments held under the key
	// before is gone, and a file may be there instead.
	flagGone = 1
)

//nolint:gochecknoglobals // a table that nobody changes
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errDamaged = fmt.Errorf("%w record", blob.ErrDamaged)

// record is one change of a key in a segment.
type record struct {
	key  string
	body []byte
	size uint32 // of the body, also where that is not kept
	time int64
	gone bool
}

func recordSize(key string, size int) int64 { return recordHeader + int64(len(key)) + int64(size) }

// appendHead encodes r up to its body behind buf; since is how many bytes are written
// before it in one go. The record counts after a call of place.
func appendHead(buf []byte, r record, since int64) []byte {
	start := len(buf)
	var flags uint16
	if r.gone {
		flags |= flagGone
	}
	buf = binary.LittleEndian.AppendUint32(buf, recordMagic)
	buf = binary.LittleEndian.AppendUint32(buf, 0)
	buf = binary.LittleEndian.AppendUint32(buf, crc32.Checksum(r.body, castagnoli))
	buf = binary.LittleEndian.AppendUint32(buf, uint32(since))
	buf = binary.LittleEndian.AppendUint64(buf, uint64(r.time))
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(r.body)))
	buf = binary.LittleEndian.AppendUint16(buf, uint16(len(r.key)))
	buf = binary.LittleEndian.AppendUint16(buf, flags)
	buf = append(buf, r.key...)
	binary.LittleEndian.PutUint32(buf[start+4:], crc32.Checksum(buf[start+8:], castagnoli))
	return buf
}

// place makes the record at the start of b one of the segment with salt, at off.
func place(b []byte, salt uint64, off int64) {
	binary.LittleEndian.PutUint32(b[4:], binary.LittleEndian.Uint32(b[4:])^placeMask(salt, off))
}

func placeMask(salt uint64, off int64) uint32 {
	return uint32((salt ^ uint64(off)) * 0x9e3779b97f4a7c15 >> 32)
}

// recordHead is what stands before a record's body.
type recordHead struct {
	record
	bodySum uint32
	since   int64
}

// headLength returns the length of a record up to its body, given its first
// recordHeader bytes; 0 where there is no record.
func headLength(b []byte) int {
	key, body := int(binary.LittleEndian.Uint16(b[28:])), binary.LittleEndian.Uint32(b[24:])
	if binary.LittleEndian.Uint32(b) != recordMagic || key == 0 || key > blob.MaxKeyLen || body > maxSmall {
		return 0
	}
	return recordHeader + key
}

// parseHead decodes what b begins with; ok is false where that is no record's head.
func parseHead(b []byte, salt uint64, off int64) (h recordHead, ok bool) {
	if len(b) < recordHeader {
		return h, false
	}
	n := headLength(b)
	if n == 0 || n > len(b) || crc32.Checksum(b[8:n], castagnoli)^placeMask(salt, off) != binary.LittleEndian.Uint32(b[4:]) {
		return h, false
	}
	return recordHead{
		record: record{
			key: string(b[recordHeader:n]), size: binary.LittleEndian.Uint32(b[24:]),
			time: int64(binary.LittleEndian.Uint64(b[16:])),
			gone: binary.LittleEndian.Uint16(b[30:])&flagGone != 0,
		},
		bodySum: binary.LittleEndian.Uint32(b[8:]), since: int64(binary.LittleEndian.Uint32(b[12:])),
	}, true
}

// parseRecord decodes a whole record. The body shares b's memory.
func parseRecord(b []byte, salt uint64, off int64) (record, error) {
	h, ok := parseHead(b, salt, off)
	if !ok || recordSize(h.key, int(h.size)) != int64(len(b)) {
		return record{}, errDamaged
	}
	h.body = b[recordHeader+len(h.key):]
	if crc32.Checksum(h.body, castagnoli) != h.bodySum {
		return record{}, errDamaged
	}
	return h.record, nil
}

// scanRecords calls fn with each record of a segment's bytes [off, end) until one has
// no head, and returns where that is, or end. whole is false for one whose body is
// damaged. A record's body is good until fn returns.
func scanRecords(r io.ReaderAt, salt uint64, off, end int64, fn func(off int64, h recordHead, whole bool) error) (int64, error) {
	br := bufio.NewReaderSize(io.NewSectionReader(r, off, end-off), 256<<10)
	var buf []byte
	for off < end {
		b, err := br.Peek(int(min(recordHeader+blob.MaxKeyLen, end-off)))
		if err != nil && !errors.Is(err, io.EOF) {
			return off, err
		}
		h, ok := parseHead(b, salt, off)
		n := recordSize(h.key, int(h.size))
		if !ok || n > end-off {
			return off, nil
		}
		if int64(cap(buf)) < n {
			buf = make([]byte, max(n, 8<<10))
		}
		if _, err := io.ReadFull(br, buf[:n]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return off, nil // a file that is shorter than it was
		} else if err != nil {
			return off, err
		}
		h.body = buf[recordHeader+len(h.key) : n]
		if err := fn(off, h, crc32.Checksum(h.body, castagnoli) == h.bodySum); err != nil {
			return off, err
		}
		off += n
	}
	return off, nil
}

// goodEnd returns where the good part of the segment that was written to last ends:
// at size, or at the first record that a power cut left half-written.
func goodEnd(r io.ReaderAt, salt uint64, from, size int64) (int64, error) {
	proven, bad := from, []int64(nil) // all before proven was synced once
	stop, err := scanRecords(r, salt, from, size, func(off int64, h recordHead, whole bool) error {
		proven = max(proven, off-h.since)
		if !whole {
			bad = append(bad, off)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if stop < size {
		bad = append(bad, stop)
		rest, err := io.ReadAll(io.NewSectionReader(r, stop, size-stop))
		if err != nil {
			return 0, err
		}
		magic := binary.LittleEndian.AppendUint32(nil, recordMagic)
		for at := stop; ; at++ {
			i := bytes.Index(rest[at-stop:], magic)
			if i < 0 {
				break
			}
			at += int64(i)
			if h, ok := parseHead(rest[at-stop:], salt, at); ok {
				proven = max(proven, at-h.since)
			}
		}
	}
	for _, off := range bad {
		if off >= proven {
			return off, nil
		}
	}
	return size, nil
}

// segmentHead is a segment's header.
type segmentHead struct {
	number uint32
	salt   uint64
}

func newSegmentHead(number uint32) segmentHead { return segmentHead{number, rand.Uint64()} }

func (h segmentHead) encode() []byte {
	b := make([]byte, segmentHeader)
	binary.LittleEndian.PutUint32(b, segmentMagic)
	binary.LittleEndian.PutUint32(b[8:], h.number)
	binary.LittleEndian.PutUint64(b[12:], h.salt)
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	return b
}

// readSegmentHead reads the header of segment n; errDamaged where there is none. torn
// tells then that the power may have gone before its first sync.
func readSegmentHead(r io.ReaderAt, n uint32) (h segmentHead, torn bool, err error) {
	b := make([]byte, segmentHeader)
	if _, err := r.ReadAt(b, 0); errors.Is(err, io.EOF) {
		return h, true, errDamaged
	} else if err != nil {
		return h, false, err
	}
	h = segmentHead{number: binary.LittleEndian.Uint32(b[8:]), salt: binary.LittleEndian.Uint64(b[12:])}
	if binary.LittleEndian.Uint32(b) == segmentMagic && h.number == n &&
		crc32.Checksum(b[8:], castagnoli) == binary.LittleEndian.Uint32(b[4:]) {
		return h, false, nil
	}
	return h, [segmentHeader]byte(b) == [segmentHeader]byte{}, errDamaged
}
