// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"panal/internal/blob"
	"panal/internal/plat"
)

const (
	// settle is how old a batch is before it is merged.
	settle = time.Minute
	// fewBatches are left alone, and so many segments of a tier make one of the next.
	fewBatches, fanIn = 64, 8
	// mergeBytes is how much text of batches is sorted in memory at once, which takes some
	// four times as much.
	mergeBytes = 2 << 20
	// endsKept is how long the end of a file stays in the journal after nothing else
	// of it does: longer than an object without a row, and than any writer's retries.
	endsKept = 72 * time.Hour
)

// Compact merges batches that are a minute old (all of them, however few, when all is
// true) into segments, and segments into larger ones. A crash anywhere leaves entries
// twice, never less than once; so do two processes that compact at once. It returns how
// many objects it merged.
func (j *Journal) Compact(ctx context.Context, all bool) (int, error) {
	total := 0
	for {
		n, err := j.compactBatches(ctx, all)
		total += n
		if err != nil {
			return total, fmt.Errorf("compact journal: %w", err)
		}
		if n == 0 {
			break
		}
	}
	for tier := 0; ; tier++ {
		n, more, err := j.compactTier(ctx, tier)
		total += n
		if err != nil {
			return total, fmt.Errorf("compact journal: %w", err)
		}
		if !more {
			return total, nil
		}
	}
}

func (j *Journal) compactBatches(ctx context.Context, all bool) (int, error) {
	keys, err := list(ctx, j.blobs, batchPrefix, 4*listPage)
	if err != nil {
		return 0, err
	}
	if !all {
		keys = slices.DeleteFunc(keys, func(k string) bool { return !j.settled(k) })
		if len(keys) < fewBatches {
			return 0, nil
		}
	}
	var entries []Entry
	var from []string
	var size int64
	for _, key := range keys {
		if size >= mergeBytes {
			break
		}
		more, n, err := readBatch(ctx, j.blobs, key)
		if errors.Is(err, plat.ErrNotFound) { // another process has merged it
			continue
		}
		if err != nil {
			return 0, err
		}
		entries, from, size = append(entries, more...), append(from, key), size+n
	}
	if len(from) == 0 {
		return 0, nil
	}
	if err := j.writeSegment(ctx, 0, newMemory(entries)); err != nil {
		return 0, err
	}
	return len(from), j.remove(ctx, from)
}

// settled tells whether a batch is old enough by the time in its key. One whose key
// says no time is.
func (j *Journal) settled(key string) bool {
	name := key[strings.LastIndexByte(key, '/')+1:]
	stamp, _, _ := strings.Cut(name, "-")
	us, err := strconv.ParseInt(stamp, 16, 64)
	return err != nil || j.now().Sub(time.UnixMicro(us)) >= settle
}

func tierPrefix(tier int) string { return fmt.Sprintf("%s%02d/", segmentPrefix, tier) }

// compactTier merges the segments of a tier when there are enough. more tells whether
// a higher tier has any.
func (j *Journal) compactTier(ctx context.Context, tier int) (n int, more bool, err error) {
	keys, err := list(ctx, j.blobs, tierPrefix(tier), 0)
	if err != nil {
		return 0, false, err
	}
	above, _, err := j.blobs.List(ctx, segmentPrefix, tierPrefix(tier)+"~", 1)
	if err != nil {
		return 0, false, err
	}
	if len(keys) < fanIn {
		return 0, len(above) > 0, nil
	}
	keys = keys[:min(len(keys), 4*fanIn)]
	var in []source
	var from []string
	for _, key := range keys {
		s, err := openSegment(ctx, j.blobs, key)
		if errors.Is(err, plat.ErrNotFound) {
			continue
		}
		if err != nil {
			return 0, false, errors.Join(err, (&merged{in: in}).close())
		}
		in, from = append(in, s), append(from, key)
	}
	m, err := newMerged(in)
	if err != nil {
		return 0, false, err
	}
	var src source = m
	if len(above) == 0 && len(from) == len(keys) {
		// There is nothing older: what ended long ago needs no entry any more.
		src = &withoutEnds{source: m, before: j.now().Add(-endsKept).UnixMicro()}
	}
	if err := errors.Join(j.writeSegment(ctx, tier+1, src), m.close()); err != nil {
		return 0, false, err
	}
	return len(from), true, j.remove(ctx, from)
}

// withoutEnds leaves out what ended before a time, and the files of such channels.
type withoutEnds struct {
	source
	before int64
	dead   string // prefix of the last channel that ended
}

func (w *withoutEnds) next() (Entry, error) {
	for {
		e, err := w.source.next()
		if err != nil {
			return e, err
		}
		k := e.key()
		if w.dead != "" && strings.HasPrefix(k, w.dead) {
			continue
		}
		if e.Gone == 0 || e.Gone >= w.before {
			return e, nil
		}
		if e.File == "" {
			w.dead = k
		}
	}
}

// writeSegment stores what src holds as one object, in constant memory.
func (j *Journal) writeSegment(ctx context.Context, tier int, src source) error {
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		pw.CloseWithError(encodeSegment(pw, src))
	}()
	_, err := j.blobs.Put(ctx, j.key(tierPrefix(tier)+"s"), pr, -1, blob.PutOptions{})
	pr.CloseWithError(io.ErrClosedPipe) // the writer ends when the storage did not read to the end
	<-done
	return err
}

func encodeSegment(w io.Writer, src source) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true), zstd.WithWindowSize(1<<20))
	if err != nil {
		return err
	}
	buf := bufio.NewWriterSize(z, 64<<10)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	for n := int64(0); ; n++ {
		e, err := src.next()
		if errors.Is(err, io.EOF) {
			err = errors.Join(enc.Encode(segmentEnd{&n}), buf.Flush(), z.Close())
			return err
		}
		if err == nil {
			err = enc.Encode(&e)
		}
		if err != nil {
			return errors.Join(err, z.Close())
		}
	}
}

func (j *Journal) remove(ctx context.Context, keys []string) error {
	for _, key := range keys {
		if err := j.blobs.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}
