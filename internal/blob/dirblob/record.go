// SPDX-License-Identifier: Apache-2.0

package dirblob

import (
	"bufio"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"

	"panal/internal/blob"
)

// A segment is a header and records, one behind the other:
//
//	magic u32, checksum u32 of all that follows, flags u16, key length u16,
//	body length u32, time i64 (µs), key, body
//
// A record says all that there is to know of an object, so the index can be made
// anew from the segments. Numbers are little endian, checksums CRC-32C.
const (
	recordMagic  = 0x6c6e6150 // "Panl"
	recordHeader = 24

	// flagGone marks the record of a delete: what the segments held under the key
	// before is gone, and a file may be there instead.
	flagGone = 1
)

// A segment's header: magic, checksum of the rest, its number, the number of the
// segment before, and how much of that one counts. What a failed write left behind
// the good part of a segment is cut off by its successor.
const (
	segmentMagic  = 0x67655350 // "PSeg"
	segmentHeader = 32
)

//nolint:gochecknoglobals // a table that nobody changes
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errDamaged = errors.New("damaged record")

// record is one change of a key in a segment.
type record struct {
	key  string
	body []byte
	size uint32 // of the body, also where that is not kept
	time int64
	gone bool
}

func recordSize(key string, size int) int64 { return recordHeader + int64(len(key)) + int64(size) }

// appendRecord encodes r behind buf.
func appendRecord(buf []byte, r record) []byte {
	start := len(buf)
	var flags uint16
	if r.gone {
		flags |= flagGone
	}
	buf = binary.LittleEndian.AppendUint32(buf, recordMagic)
	buf = binary.LittleEndian.AppendUint32(buf, 0)
	buf = binary.LittleEndian.AppendUint16(buf, flags)
	buf = binary.LittleEndian.AppendUint16(buf, uint16(len(r.key)))  //nolint:gosec // at most MaxKeyLen
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(r.body))) //nolint:gosec // at most the limit
	buf = binary.LittleEndian.AppendUint64(buf, uint64(r.time))      //nolint:gosec // its bits
	buf = append(buf, r.key...)
	buf = append(buf, r.body...)
	binary.LittleEndian.PutUint32(buf[start+4:], crc32.Checksum(buf[start+8:], castagnoli))
	return buf
}

// lengths reads the lengths from a record's header; ok is false for one that
// appendRecord never wrote.
func lengths(head []byte) (key, body int, ok bool) {
	key, body = int(binary.LittleEndian.Uint16(head[10:])), int(binary.LittleEndian.Uint32(head[12:]))
	return key, body, binary.LittleEndian.Uint32(head) == recordMagic && key <= blob.MaxKeyLen && body <= maxSmall
}

// parseRecord decodes a whole record. The body shares b's memory.
func parseRecord(b []byte) (record, error) {
	if len(b) < recordHeader {
		return record{}, errDamaged
	}
	key, body, ok := lengths(b)
	if !ok || len(b) != recordHeader+key+body || crc32.Checksum(b[8:], castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return record{}, errDamaged
	}
	return record{
		key: string(b[recordHeader : recordHeader+key]), body: b[recordHeader+key:], size: uint32(body), //nolint:gosec // at most maxSmall
		time: int64(binary.LittleEndian.Uint64(b[16:])), //nolint:gosec // its bits
		gone: binary.LittleEndian.Uint16(b[8:])&flagGone != 0,
	}, nil
}

// scanRecords calls fn with each record of r, which stands at offset off of a
// segment, until end or the first one that is not whole, and returns where that is.
// A record's body is good until fn returns.
func scanRecords(r io.Reader, off, end int64, fn func(off int64, rec record) error) (int64, error) {
	br := bufio.NewReaderSize(io.LimitReader(r, end-off), 256<<10)
	var buf []byte
	for {
		head, err := br.Peek(recordHeader)
		if err != nil {
			return off, cutOff(err)
		}
		key, body, ok := lengths(head)
		if !ok {
			return off, nil
		}
		n := recordHeader + key + body
		if cap(buf) < n {
			buf = make([]byte, n, max(n, 8<<10))
		}
		if _, err := io.ReadFull(br, buf[:n]); err != nil {
			return off, cutOff(err)
		}
		rec, err := parseRecord(buf[:n])
		if err != nil {
			return off, nil //nolint:nilerr // the end of what is whole
		}
		if err := fn(off, rec); err != nil {
			return off, err
		}
		off += int64(n)
	}
}

// cutOff tells a segment that just ends from one that can't be read.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// segmentHead is a segment's header.
type segmentHead struct {
	number, before uint32 // before: 0 for none
	length         int64  // how much of the segment before counts
}

func (h segmentHead) encode() []byte {
	b := make([]byte, segmentHeader)
	binary.LittleEndian.PutUint32(b, segmentMagic)
	binary.LittleEndian.PutUint32(b[8:], h.number)
	binary.LittleEndian.PutUint32(b[12:], h.before)
	binary.LittleEndian.PutUint64(b[16:], uint64(h.length)) //nolint:gosec // not negative
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	return b
}

// parseSegmentHead decodes a header; ok is false for one that was not written whole.
func parseSegmentHead(b []byte) (h segmentHead, ok bool) {
	if len(b) < segmentHeader || binary.LittleEndian.Uint32(b) != segmentMagic ||
		crc32.Checksum(b[8:segmentHeader], castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return h, false
	}
	return segmentHead{
		number: binary.LittleEndian.Uint32(b[8:]), before: binary.LittleEndian.Uint32(b[12:]),
		length: int64(binary.LittleEndian.Uint64(b[16:])), //nolint:gosec // checked by the checksum
	}, true
}
