// SPDX-License-Identifier: Apache-2.0

// Package spool keeps log lines on disk between the agent that reads them and
// the server that acknowledges them. The agent writes, ships and deletes; the
// runner reads what is left when the agent is gone.
//
// A spool is a directory of files, each one a logs.Batch as JSON, named by its
// first line's number in 20 digits: N.batch is finished, N.open is still written
// (at most one). An open file ends after some line, without the closing "]}";
// readers add it and ignore a line cut short. N.acked is empty and says that all
// lines up to N are acknowledged.
//
// What holds: when Append has returned, its lines survive the end of the process
// (kill -9 included), because they were handed to the kernel; they do not
// survive the machine, and neither does the workload. Numbers have no gap and are
// never given twice, also over a reopening. Files are deleted only by Ack.
package spool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"panal/internal/logs"
	"panal/internal/plat"
)

// Options are the settings of a spool. Zero fields take the defaults named.
type Options struct {
	Workload string
	Stream   string
	// MaxBytes is what the spool holds before Append waits (256 MiB).
	MaxBytes int64
	// BatchBytes is the size from which a batch is finished (1 MiB).
	BatchBytes int64
	// FlushAfter is how long the first line of a batch waits for more (200 ms).
	FlushAfter time.Duration
}

// Batch is one run of lines: numbers First to Last, and the logs.Batch as JSON.
type Batch struct {
	First, Last int64
	JSON        []byte
}

// Spool is an open spool. Append, Next, Ack and Close are safe to call from
// several goroutines; a directory has one Spool at a time.
type Spool struct {
	root *os.Root
	opt  Options

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when something may have become possible
	sealed  []extent      // oldest first
	bytes   int64         // of all files
	next    int64         // number of the next line
	acked   int64
	open    *os.File
	cur     extent
	curAt   time.Time // when cur got its first line
	closed  bool
	buf     bytes.Buffer
}

// extent is one file: lines first to last.
type extent struct {
	first, last, size int64
}

const (
	extBatch, extOpen, extAcked = ".batch", ".open", ".acked"
	tail                        = "]}\n"
	// reserve is the room above MaxBytes for lines that must not wait.
	reserve = 4 << 20
	// maxFile bounds one file: a batch of the largest size and one largest line.
	maxFile = 4 << 20
)

func fileName(n int64, ext string) string { return fmt.Sprintf("%020d%s", n, ext) }

// Open opens the spool in root, which it keeps using but does not close. Lines
// of an earlier opening are there still.
func Open(root *os.Root, opt Options) (*Spool, error) {
	if opt.MaxBytes == 0 {
		opt.MaxBytes = 256 << 20
	}
	if opt.BatchBytes == 0 {
		opt.BatchBytes = 1 << 20
	}
	if opt.FlushAfter == 0 {
		opt.FlushAfter = 200 * time.Millisecond
	}
	s := &Spool{root: root, opt: opt, changed: make(chan struct{}), next: 1}
	files, err := list(root)
	if err != nil {
		return nil, err
	}
	s.acked = files.acked
	s.next = files.acked + 1
	for _, f := range files.batches {
		b, err := load(root, f)
		if err != nil {
			return nil, err
		}
		// Nothing in it, acknowledged, or an open file whose finished form is there.
		if b.Last < s.next {
			if err := root.Remove(f.name); err != nil {
				return nil, fmt.Errorf("open spool: %w", err)
			}
			continue
		}
		if f.open {
			// A batch is finished under its own name or not at all: write, then rename.
			tmp := fileName(b.First, ".tmp")
			if err := root.WriteFile(tmp, b.JSON, 0o600); err != nil {
				return nil, fmt.Errorf("open spool: %w", err)
			}
			if err := root.Rename(tmp, fileName(b.First, extBatch)); err != nil {
				return nil, fmt.Errorf("open spool: %w", err)
			}
			if err := root.Remove(f.name); err != nil {
				return nil, fmt.Errorf("open spool: %w", err)
			}
		}
		s.sealed = append(s.sealed, extent{first: b.First, last: b.Last, size: int64(len(b.JSON))})
		s.bytes += int64(len(b.JSON))
		s.next = b.Last + 1
	}
	return s, nil
}

// Append writes the entries and returns when they are safe from the end of the
// process. While the spool is full it waits for Ack, which is how a program that
// prints faster than the server takes is slowed down instead of losing lines. It
// returns how many entries are written, all of them unless there is an error.
func (s *Spool) Append(ctx context.Context, entries ...logs.Entry) (int, error) {
	return s.append(ctx, entries, 0)
}

// AppendNow is Append for lines that must not wait (the agent's own): it may use
// a little room beyond the limit, and returns plat.ErrExhausted when that is
// gone, too.
func (s *Spool) AppendNow(entries ...logs.Entry) error {
	_, err := s.append(context.Background(), entries, reserve)
	return err
}

// append waits for room, or uses extra room and never waits.
func (s *Spool) append(ctx context.Context, entries []logs.Entry, extra int64) (int, error) {
	done := 0
	for done < len(entries) {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return done, fmt.Errorf("append to spool: %w", fs.ErrClosed)
		}
		if s.bytes >= s.opt.MaxBytes+extra {
			wake := s.changed
			s.mu.Unlock()
			if extra > 0 {
				return done, plat.Errorf(plat.ErrExhausted, "the log spool is full")
			}
			select {
			case <-wake:
				continue
			case <-ctx.Done():
				return done, ctx.Err()
			}
		}
		n, err := s.write(entries[done:])
		s.mu.Unlock()
		done += n
		if err != nil {
			return done, fmt.Errorf("append to spool: %w", err)
		}
	}
	return done, nil
}

// write appends as many entries as go into the current batch, at least one, by
// one write, and returns how many. The caller holds the lock.
func (s *Spool) write(entries []logs.Entry) (int, error) {
	if s.open != nil && s.cur.size >= s.opt.BatchBytes {
		if err := s.seal(); err != nil {
			return 0, err
		}
	}
	s.buf.Reset()
	fresh := s.open == nil
	if fresh {
		f, err := s.root.OpenFile(fileName(s.next, extOpen), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return 0, err
		}
		head, err := json.Marshal(logs.Batch{Workload: s.opt.Workload, Stream: s.opt.Stream, FirstSeq: s.next, Entries: []logs.Entry{}})
		if err != nil {
			return 0, errors.Join(err, f.Close())
		}
		s.open, s.cur, s.curAt = f, extent{first: s.next, last: s.next - 1}, time.Now()
		s.buf.Write(bytes.TrimSuffix(head, []byte("]}")))
		s.buf.WriteByte('\n')
	}
	enc := json.NewEncoder(&s.buf)
	enc.SetEscapeHTML(false)
	n := 0
	for n < len(entries) {
		mark := s.buf.Len()
		if s.cur.last >= s.cur.first || n > 0 {
			s.buf.WriteByte(',')
		}
		if err := enc.Encode(entries[n]); err != nil {
			return 0, err
		}
		// A line that would make the batch too large begins the next one, unless
		// the batch has nothing else.
		if s.cur.size+int64(s.buf.Len()) > s.opt.BatchBytes && (n > 0 || s.cur.last >= s.cur.first) {
			s.buf.Truncate(mark)
			break
		}
		n++
	}
	if s.buf.Len() > 0 {
		w, err := s.open.Write(s.buf.Bytes())
		if err != nil {
			// A full disk: take back what was written of it, so that the file ends
			// after a whole line and the next try continues it.
			s.undo(fresh, w)
			return 0, err
		}
	}
	size := int64(s.buf.Len())
	s.cur.size += size
	s.bytes += size
	s.cur.last += int64(n)
	s.next += int64(n)
	if n < len(entries) || s.cur.size >= s.opt.BatchBytes {
		// When lines were written, the next write tries again and says what is wrong.
		if err := s.seal(); err != nil && n == 0 {
			return 0, err
		}
	}
	s.wake()
	return n, nil
}

// undo makes the open file as long as it was before a write that failed.
func (s *Spool) undo(fresh bool, wrote int) {
	if fresh {
		_ = s.open.Close()
		_ = s.root.Remove(fileName(s.cur.first, extOpen))
		s.open = nil
		return
	}
	if wrote > 0 && s.open.Truncate(s.cur.size) == nil {
		_, _ = s.open.Seek(s.cur.size, io.SeekStart)
	}
}

// seal finishes the current batch. The caller holds the lock.
func (s *Spool) seal() error {
	if _, err := s.open.WriteString(tail); err != nil {
		s.undo(false, len(tail))
		return err
	}
	if err := s.open.Close(); err != nil {
		return err
	}
	if err := s.root.Rename(fileName(s.cur.first, extOpen), fileName(s.cur.first, extBatch)); err != nil {
		return err
	}
	s.cur.size += int64(len(tail))
	s.bytes += int64(len(tail))
	s.sealed = append(s.sealed, s.cur)
	s.open = nil
	return nil
}

func (s *Spool) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Next returns the oldest batch that is not acknowledged, and waits for one
// while there is none: a batch is ready when it is large enough, old enough, or
// the spool is closed. After Close it returns io.EOF once everything is
// acknowledged. It returns the same batch again until Ack covers it.
func (s *Spool) Next(ctx context.Context) (Batch, error) {
	for {
		s.mu.Lock()
		if len(s.sealed) == 0 && s.open != nil && (s.closed || time.Since(s.curAt) >= s.opt.FlushAfter) {
			if err := s.seal(); err != nil {
				s.mu.Unlock()
				return Batch{}, fmt.Errorf("finish batch: %w", err)
			}
		}
		if len(s.sealed) > 0 {
			e := s.sealed[0]
			s.mu.Unlock()
			b, err := load(s.root, file{name: fileName(e.first, extBatch), first: e.first})
			if err == nil && b.Last != e.last {
				err = fmt.Errorf("batch %d holds lines to %d, want %d", e.first, b.Last, e.last)
			}
			return b, err
		}
		if s.closed {
			s.mu.Unlock()
			return Batch{}, io.EOF
		}
		var timer <-chan time.Time
		if s.open != nil {
			timer = time.After(s.opt.FlushAfter - time.Since(s.curAt))
		}
		wake := s.changed
		s.mu.Unlock()
		select {
		case <-wake:
			// New lines don't make a young batch older: wait out its time, unless it
			// is finished already.
		case <-timer:
		case <-ctx.Done():
			return Batch{}, ctx.Err()
		}
	}
}

// Ack deletes the batches whose lines are all acknowledged.
func (s *Spool) Ack(last int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last <= s.acked {
		return nil
	}
	if last >= s.next {
		return plat.Errorf(plat.ErrInvalid, "line %d was acknowledged, but the last one written is %d", last, s.next-1)
	}
	// The mark first: a number must not be given twice after its file is gone.
	f, err := s.root.OpenFile(fileName(last, extAcked), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("acknowledge: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("acknowledge: %w", err)
	}
	old := s.acked
	s.acked = last
	for len(s.sealed) > 0 && s.sealed[0].last <= last {
		if err := s.root.Remove(fileName(s.sealed[0].first, extBatch)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("acknowledge: %w", err)
		}
		s.bytes -= s.sealed[0].size
		s.sealed = s.sealed[1:]
	}
	if old > 0 {
		if err := s.root.Remove(fileName(old, extAcked)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("acknowledge: %w", err)
		}
	}
	s.wake()
	return nil
}

// Pending tells how many lines are written but not acknowledged.
func (s *Spool) Pending() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next - 1 - s.acked
}

// CloseInput ends writing: Append fails from now on, and Next hands out the
// last batch without waiting for its age.
func (s *Spool) CloseInput() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.wake()
	}
}

// Close ends writing and lets go of the open file. What is not acknowledged
// stays for Read.
func (s *Spool) Close() error {
	s.CloseInput()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		return nil
	}
	return s.seal()
}

// Read returns what a spool holds whose writer is gone, oldest first, without
// changing it: batches that are not wholly acknowledged. It trusts nothing in the
// directory: the workload's own user may have written there. Files that are no
// batch are left out; at most limit bytes are returned (0: no bound).
func Read(root *os.Root, limit int64) ([]Batch, error) {
	files, err := list(root)
	if err != nil {
		return nil, err
	}
	var out []Batch
	var total, last int64
	for _, f := range files.batches {
		b, err := load(root, f)
		if errors.Is(err, plat.ErrInvalid) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		// An open file and its finished form are there both for a moment.
		if b.Last <= files.acked || b.Last <= last {
			continue
		}
		if total += int64(len(b.JSON)); limit > 0 && total > limit {
			break
		}
		last = b.Last
		out = append(out, b)
	}
	return out, nil
}

type file struct {
	name  string
	first int64
	open  bool
}

type listing struct {
	batches []file // by number; a finished file before an open one
	acked   int64
}

func list(root *os.Root) (listing, error) {
	dir, err := root.Open(".")
	if err != nil {
		return listing{}, fmt.Errorf("list spool: %w", err)
	}
	defer func() { _ = dir.Close() }()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return listing{}, fmt.Errorf("list spool: %w", err)
	}
	var l listing
	for _, e := range entries {
		num, ext, _ := strings.Cut(e.Name(), ".")
		n, err := strconv.ParseInt(num, 10, 64)
		if err != nil || n < 1 || len(num) != 20 || !e.Type().IsRegular() {
			continue
		}
		switch "." + ext {
		case extAcked:
			l.acked = max(l.acked, n)
		case extBatch, extOpen:
			l.batches = append(l.batches, file{name: e.Name(), first: n, open: "."+ext == extOpen})
		}
	}
	sortFiles(l.batches)
	return l, nil
}
