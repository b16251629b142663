// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/klauspost/compress/zstd"

	"panal/internal/plat"
)

// Bounds of one record when it is decoded. What we write stays far below them.
const (
	maxRawBytes    = 16 << 20
	maxRecordLines = 1 << 18
	codecVersion   = 1
)

var errRecord = errors.New("damaged log record")

// codec encodes and decodes records. It is safe for concurrent use.
//
// Version 1: one version byte, then a zstd frame. Its content is columns: the
// number of lines; dictionaries of streams, workloads (each with its stream),
// levels and request ids; then for all lines the position (runs, relative to the
// record's first), workload, level and request id (runs of dictionary indexes),
// time (delta to the line before), message length; then all messages. Numbers are
// varints.
type codec struct {
	fast, small *zstd.Encoder
	dec         *zstd.Decoder // of records
	body        *zstd.Decoder // of batches, which come from outside
}

func newCodec() (*codec, error) {
	fast, err1 := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	small, err2 := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	dec, err3 := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxRawBytes))
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("open zstd: %w", err)
	}
	body, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(MaxBatchBytes))
	if err != nil {
		return nil, fmt.Errorf("open zstd: %w", err)
	}
	return &codec{fast: fast, small: small, dec: dec, body: body}, nil
}

// inflate unpacks a batch's body to at most MaxBatchBytes.
func (c *codec) inflate(data []byte) ([]byte, error) {
	raw, err := c.body.DecodeAll(data, nil)
	switch {
	case errors.Is(err, zstd.ErrDecoderSizeExceeded), errors.Is(err, zstd.ErrWindowSizeExceeded), len(raw) > MaxBatchBytes:
		return nil, ErrTooLarge
	case err != nil:
		return nil, plat.InvalidField("body", "is not zstd: %v", err)
	}
	return raw, nil
}

// column writes runs of equal values: (value, how many more follow).
type column struct {
	out  []byte
	last uint64
	more uint64
	any  bool
}

func (c *column) add(v uint64) {
	if c.any && v == c.last {
		c.more++
		return
	}
	c.flush()
	c.last, c.more, c.any = v, 0, true
}

func (c *column) flush() {
	if c.any {
		c.out = binary.AppendUvarint(binary.AppendUvarint(c.out, c.last), c.more)
		c.any = false
	}
}

// dict gives equal strings one number, in order of appearance. Lines of one kind
// come in runs, so the last answer is tried before the map.
type dict struct {
	index map[string]uint64
	list  []string
	last  uint64
}

func (d *dict) add(s string) (uint64, bool) {
	if len(d.list) > 0 && d.list[d.last] == s {
		return d.last, false
	}
	i, ok := d.index[s]
	if !ok {
		i = uint64(len(d.list))
		if d.index == nil {
			d.index = map[string]uint64{}
		}
		d.index[s] = i
		d.list = append(d.list, s)
	}
	d.last = i
	return i, !ok
}

func (d *dict) append(out []byte) []byte {
	out = binary.AppendUvarint(out, uint64(len(d.list)))
	for _, s := range d.list {
		out = appendString(out, s)
	}
	return out
}

func appendString(out []byte, s string) []byte {
	return append(binary.AppendUvarint(out, uint64(len(s))), s...)
}

// encode packs lines, whose positions ascend; first is the position of the first.
// small spends more CPU for fewer bytes.
func (c *codec) encode(lines []Line, first Pos, small bool) ([]byte, error) {
	var streams, workloads, levels, requests dict
	var workloadStreams []byte
	var workload, level, request, step column
	times := make([]byte, 0, 3*len(lines))
	lengths := make([]byte, 0, 2*len(lines))
	text, prev, expect := 0, int64(0), first
	w, before := uint64(0), &Line{}
	for i := range lines {
		l := &lines[i]
		if i == 0 || l.Workload != before.Workload || l.Stream != before.Stream {
			s, _ := streams.add(l.Stream)
			fresh := false
			// A workload belongs to one stream, but nothing breaks if it does not.
			if w, fresh = workloads.add(l.Workload + "\x00" + l.Stream); fresh {
				workloadStreams = binary.AppendUvarint(appendString(workloadStreams, l.Workload), s)
			}
		}
		before = l
		workload.add(w)
		v, _ := levels.add(l.Level)
		level.add(v)
		r, _ := requests.add(l.RequestID)
		request.add(r)
		if l.Pos < expect {
			return nil, errors.New("BUG: positions of a record do not ascend")
		}
		step.add(uint64(l.Pos - expect)) // 0 = right after the line before
		expect = l.Pos + 1
		times = binary.AppendVarint(times, l.Time-prev)
		prev = l.Time
		lengths = binary.AppendUvarint(lengths, uint64(len(l.Message)))
		text += len(l.Message)
	}
	for _, col := range []*column{&workload, &level, &request, &step} {
		col.flush()
	}
	raw := make([]byte, 0, text+len(times)+len(lengths)+len(workload.out)+len(level.out)+len(request.out)+len(step.out)+4096)
	raw = binary.AppendUvarint(raw, uint64(len(lines)))
	raw = streams.append(raw)
	raw = append(binary.AppendUvarint(raw, uint64(len(workloads.list))), workloadStreams...)
	raw = levels.append(raw)
	raw = requests.append(raw)
	for _, col := range [][]byte{step.out, workload.out, level.out, request.out, times, lengths} {
		raw = append(raw, col...)
	}
	for i := range lines {
		raw = append(raw, lines[i].Message...)
	}
	if len(lines) > maxRecordLines || len(raw) > maxRawBytes {
		return nil, fmt.Errorf("BUG: a record of %d lines and %d bytes", len(lines), len(raw))
	}
	enc := c.fast
	if small {
		enc = c.small
	}
	return enc.EncodeAll(raw, []byte{codecVersion}), nil
}

// decode returns a record's lines; first is the position of its first line.
// Damaged or hostile data is an error, never a panic, and costs bounded memory.
func (c *codec) decode(data []byte, first Pos) ([]Line, error) {
	if len(data) < 2 || data[0] != codecVersion {
		return nil, fmt.Errorf("%w: unknown version", errRecord)
	}
	raw, err := c.dec.DecodeAll(data[1:], nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRecord, err)
	}
	if len(raw) > maxRawBytes {
		return nil, fmt.Errorf("%w: too large", errRecord)
	}
	r := &reader{b: raw}
	n := r.count(maxRecordLines)
	streams := r.strings()
	type owner struct{ workload, stream string }
	workloads := make([]owner, r.count(maxRecordLines))
	for i := range workloads {
		workloads[i].workload = r.string()
		if s := r.uint(); s < uint64(len(streams)) {
			workloads[i].stream = streams[s]
		} else {
			r.bad = true
		}
	}
	levels, requests := r.strings(), r.strings()
	if r.bad || n > len(r.b) { // every line takes at least a byte of time
		return nil, errRecord
	}
	lines := make([]Line, n)
	pos := first
	r.runs(n, -1, func(i int, v uint64) {
		if v > uint64(MaxPos-pos)/2 {
			r.bad = true
			return
		}
		pos += Pos(v)
		lines[i].Pos = pos
		pos++
	})
	r.runs(n, len(workloads), func(i int, v uint64) {
		lines[i].Workload, lines[i].Stream = workloads[v].workload, workloads[v].stream
	})
	r.runs(n, len(levels), func(i int, v uint64) { lines[i].Level = levels[v] })
	r.runs(n, len(requests), func(i int, v uint64) { lines[i].RequestID = requests[v] })
	prev := int64(0)
	for i := range lines {
		prev += r.int()
		lines[i].Time = prev
	}
	lengths, total := make([]int, n), 0
	for i := range lengths {
		lengths[i] = r.count(len(raw))
		total += lengths[i]
		if total > len(raw) {
			r.bad = true
			break
		}
	}
	if r.bad || total != len(r.b) {
		return nil, errRecord
	}
	var text strings.Builder
	text.Write(r.b)
	rest := text.String()
	for i, k := range lengths {
		lines[i].Message, rest = rest[:k], rest[k:]
	}
	return lines, nil
}

// reader takes values off b; bad is set once anything does not fit.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uint() uint64 {
	v, k := binary.Uvarint(r.b)
	if k <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[k:]
	return v
}

func (r *reader) int() int64 {
	v, k := binary.Varint(r.b)
	if k <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[k:]
	return v
}

// count reads a number of things of which each takes a byte at least, so that it
// can't make us allocate more than the data is long.
func (r *reader) count(limit int) int {
	v := r.uint()
	if v > uint64(limit) {
		r.bad, r.b = true, nil
		return 0
	}
	return int(v)
}

func (r *reader) string() string {
	n := r.count(len(r.b))
	if n > len(r.b) {
		r.bad, r.b = true, nil
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

func (r *reader) strings() []string {
	n := r.count(maxRecordLines)
	if n > len(r.b) {
		r.bad = true
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = r.string()
	}
	return list
}

// runs reads a column of n values, each below limit (-1: any), as column wrote it.
func (r *reader) runs(n, limit int, set func(i int, v uint64)) {
	for i := 0; i < n && !r.bad; {
		v, more := r.uint(), r.uint()
		if r.bad || limit >= 0 && v >= uint64(limit) || more >= uint64(n-i) {
			r.bad = true
			return
		}
		for k := 0; k <= int(more); k, i = k+1, i+1 {
			set(i, v)
		}
	}
}
