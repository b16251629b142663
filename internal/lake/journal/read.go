// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"panal/internal/blob"
	"panal/internal/plat"
)

const (
	// maxObject bounds what is read of one batch. A batch holds some thousand entries
	// of at most about 20 KiB.
	maxObject = 256 << 20
	// listPage is how many objects one listing asks for.
	listPage = 1000
)

// list returns the keys under a prefix, in order, up to limit (0: all).
func list(ctx context.Context, b *blob.Store, prefix string, limit int) ([]string, error) {
	var keys []string
	for after := ""; ; after = keys[len(keys)-1] {
		infos, more, err := b.List(ctx, prefix, after, listPage)
		if err != nil {
			return nil, err
		}
		for _, info := range infos {
			keys = append(keys, info.Key)
		}
		if !more || len(infos) == 0 || limit > 0 && len(keys) >= limit {
			return keys, nil
		}
	}
}

// readBatch returns the entries of a batch, and the length of its text.
func readBatch(ctx context.Context, b *blob.Store, key string) ([]Entry, int64, error) {
	rc, info, err := b.Open(ctx, key, 0, -1)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = rc.Close() }()
	if info.Size > maxObject {
		return nil, 0, plat.Errorf(plat.ErrInvalid, "%s is too large to be a journal batch", key)
	}
	raw, err := io.ReadAll(rc)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", key, err)
	}
	entries, err := decodeBatch(raw)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", key, err)
	}
	return entries, info.Size, nil
}

// source is entries in the order of their keys, one for each.
type source interface {
	// next returns io.EOF after the last. The entry is the caller's.
	next() (Entry, error)
	close() error
}

// memory is a source over a batch or more.
type memory struct {
	entries []Entry
	order   []int // of those that are still to come
}

// newMemory sorts entries and leaves the one that holds of each.
func newMemory(entries []Entry) *memory {
	keys, order := make([]string, len(entries)), make([]int, len(entries))
	for i := range entries {
		keys[i], order[i] = entries[i].key(), i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Or(strings.Compare(keys[a], keys[b]), cmp.Compare(a, b)) })
	held := order[:0]
	for _, i := range order {
		switch last := len(held) - 1; {
		case last < 0 || keys[held[last]] != keys[i]:
			held = append(held, i)
		case entries[i].holdsAgainst(&entries[held[last]]):
			held[last] = i
		}
	}
	return &memory{entries, held}
}

func (m *memory) next() (Entry, error) {
	if len(m.order) == 0 {
		return Entry{}, io.EOF
	}
	e := m.entries[m.order[0]]
	m.order = m.order[1:]
	return e, nil
}

func (m *memory) close() error { return nil }

// segment is a source over a segment: a zstd frame, which has a checksum of its own,
// of lines of JSON, the last of which says how many there were.
type segment struct {
	key   string
	rc    io.ReadCloser
	z     *zstd.Decoder
	lines *bufio.Reader
	n     int64
	last  string
}

type segmentEnd struct {
	End *int64 `json:"end"`
}

func openSegment(ctx context.Context, b *blob.Store, key string) (*segment, error) {
	rc, _, err := b.Open(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(rc, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, errors.Join(err, rc.Close())
	}
	return &segment{key: key, rc: rc, z: z, lines: bufio.NewReaderSize(z, 64<<10)}, nil
}

func (s *segment) next() (Entry, error) {
	bad := func(what string) (Entry, error) {
		return Entry{}, plat.Errorf(plat.ErrInvalid, "%s %s", s.key, what)
	}
	line, err := s.lines.ReadBytes('\n')
	if errors.Is(err, io.EOF) {
		return bad("breaks off")
	}
	if err != nil {
		return Entry{}, fmt.Errorf("read %s: %w", s.key, err)
	}
	if strings.HasPrefix(string(line), `{"end":`) {
		var end segmentEnd
		if json.Unmarshal(line, &end) != nil || end.End == nil || *end.End != s.n {
			return bad("does not hold what it should")
		}
		if _, err := s.lines.ReadByte(); !errors.Is(err, io.EOF) { // this reads the frame's checksum too
			return bad("is damaged at its end")
		}
		return Entry{}, io.EOF
	}
	var e Entry
	if json.Unmarshal(line, &e) != nil || e.check() != nil {
		return bad("holds a line that is no entry")
	}
	k := e.key()
	if k <= s.last {
		return bad("is not in order")
	}
	s.n, s.last = s.n+1, k
	return e, nil
}

func (s *segment) close() error {
	s.z.Close()
	return s.rc.Close()
}

// merged is a source over several: of entries with one key the one that holds.
type merged struct {
	in   []source
	head []Entry // the next of each
	keys []string
}

func newMerged(in []source) (*merged, error) {
	m := &merged{in: in, head: make([]Entry, len(in)), keys: make([]string, len(in))}
	for i := range in {
		if err := m.advance(i); err != nil {
			return nil, errors.Join(err, m.close())
		}
	}
	return m, nil
}

func (m *merged) advance(i int) error {
	e, err := m.in[i].next()
	if errors.Is(err, io.EOF) {
		m.keys[i] = ""
		return nil
	}
	if err != nil {
		return err
	}
	m.head[i], m.keys[i] = e, e.key()
	return nil
}

func (m *merged) next() (Entry, error) {
	first := ""
	for _, k := range m.keys {
		if k != "" && (first == "" || k < first) {
			first = k
		}
	}
	if first == "" {
		return Entry{}, io.EOF
	}
	var out Entry
	found := false
	for i, k := range m.keys {
		if k != first {
			continue
		}
		if !found || m.head[i].holdsAgainst(&out) {
			out, found = m.head[i], true
		}
		if err := m.advance(i); err != nil {
			return Entry{}, err
		}
	}
	return out, nil
}

func (m *merged) close() error {
	var errs []error
	for _, s := range m.in {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// snapshot opens the whole journal as it is now. Batches that were not compacted yet
// are held in memory: only those whose key keep wants.
func snapshot(ctx context.Context, b *blob.Store, keep func(key string) bool) (*merged, error) {
	// Batches first: one that is gone when it is read was merged into a segment, which was
	// stored before, so it is listed after. A compaction takes its batches away one by one,
	// for seconds where storage is far: beginning again for each would not come to an end.
	batches, err := list(ctx, b, batchPrefix, 0)
	if err != nil {
		return nil, err
	}
	var fresh []Entry
	for _, key := range batches {
		entries, _, err := readBatch(ctx, b, key)
		if errors.Is(err, plat.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for i := range entries {
			if keep == nil || keep(entries[i].key()) {
				fresh = append(fresh, entries[i])
			}
		}
	}
	// Segments are few. The listing has the lower tiers first: what is merged meanwhile is
	// in one that is listed after, and when one is gone, they are listed again.
	for attempt := 0; ; attempt++ {
		segments, err := openSegments(ctx, b)
		if err == nil {
			return newMerged(append([]source{newMemory(fresh)}, segments...))
		}
		if !errors.Is(err, plat.ErrNotFound) || attempt == 20 {
			return nil, err
		}
	}
}

func openSegments(ctx context.Context, b *blob.Store) ([]source, error) {
	keys, err := list(ctx, b, segmentPrefix, 0)
	if err != nil {
		return nil, err
	}
	var in []source
	for _, key := range keys {
		s, err := openSegment(ctx, b, key)
		if err != nil {
			return nil, errors.Join(err, (&merged{in: in}).close())
		}
		in = append(in, s)
	}
	return in, nil
}
