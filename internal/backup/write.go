// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"time"
)

// Writer writes a backup. After an error it is of no use, and what it wrote is not
// a backup: readers refuse what has no end. It is not safe for concurrent use.
type Writer struct {
	buf  *bufio.Writer
	tar  *tar.Writer
	at   time.Time
	last Entry
	end  End

	sums  bytes.Buffer
	lines int
	parts int64
	alive int64
	all   hash.Hash // of all sums
	copy  []byte
}

// NewWriter begins a backup with its header.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	buf := bufio.NewWriterSize(w, 256<<10)
	b := &Writer{buf: buf, tar: tar.NewWriter(buf), at: h.Begun.UTC().Truncate(time.Second), all: sha256.New(), copy: make([]byte, 256<<10)}
	h.Format = Format
	raw, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode header: %w", err)
	}
	return b, b.entry(nameHeader, int64(len(raw)), bytes.NewReader(raw), true)
}

// Add writes an entry; they come in order (Entry.Less). r must yield e.Size bytes.
func (w *Writer) Add(e Entry, r io.Reader) error {
	if _, err := parse(e.Name()); err != nil {
		return err
	}
	if !w.last.Less(e) && w.last != (Entry{}) {
		panic("BUG: backup: " + e.Name() + " comes after " + w.last.Name())
	}
	w.last = Entry{Object: e.Object, Database: e.Database}
	if err := w.entry(e.Name(), e.Size, r, true); err != nil {
		return err
	}
	w.end.Bytes += e.Size
	if e.Object != "" {
		w.end.Objects++
	} else {
		w.end.Databases++
	}
	if w.lines >= sumsEntries || w.sums.Len() >= sumsBytes {
		return w.flushSums()
	}
	return nil
}

// Alive tells the reader that the writer is at work, and sends what is buffered.
func (w *Writer) Alive() error {
	w.alive++
	if err := w.entry(fmt.Sprintf("%s%08d", dirAlive, w.alive), 0, bytes.NewReader(nil), false); err != nil {
		return err
	}
	return w.buf.Flush()
}

// Close ends the backup. Counts of entries and bytes are the writer's; the rest of
// end is the caller's.
func (w *Writer) Close(end End) (End, error) {
	if err := w.flushSums(); err != nil {
		return End{}, err
	}
	end.Objects, end.Databases, end.Bytes = w.end.Objects, w.end.Databases, w.end.Bytes
	end.Entries, end.Sums = w.end.Entries, hex.EncodeToString(w.all.Sum(nil))
	raw, err := json.Marshal(end)
	if err != nil {
		return End{}, fmt.Errorf("encode end: %w", err)
	}
	if err := w.entry(nameEnd, int64(len(raw)), bytes.NewReader(raw), false); err != nil {
		return End{}, err
	}
	if err := w.tar.Close(); err != nil {
		return End{}, fmt.Errorf("write backup: %w", err)
	}
	return end, w.buf.Flush()
}

func (w *Writer) flushSums() error {
	if w.lines == 0 {
		return nil
	}
	w.parts++
	_, _ = w.all.Write(w.sums.Bytes()) // never fails (hash.Hash)
	err := w.entry(fmt.Sprintf("%s%08d", dirSums, w.parts), int64(w.sums.Len()), bytes.NewReader(w.sums.Bytes()), false)
	w.sums.Reset()
	w.lines = 0
	return err
}

// entry writes a file, and with sum its line.
func (w *Writer) entry(name string, size int64, r io.Reader, sum bool) error {
	err := w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: w.at})
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	h := sha256.New()
	// Not WriterTo or ReaderFrom: one buffer, whatever the two ends could do.
	n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(w.tar, h)}, struct{ io.Reader }{io.LimitReader(r, size+1)}, w.copy)
	switch {
	case err != nil:
		return fmt.Errorf("write backup: %s: %w", name, err)
	case n != size:
		return fmt.Errorf("write backup: %s ended after %d of %d bytes", name, n, size)
	}
	w.end.Entries++
	if !sum {
		return nil
	}
	line, err := json.Marshal(Sum{Name: name, Size: size, SHA256: hex.EncodeToString(h.Sum(nil))})
	if err != nil {
		return fmt.Errorf("encode sum: %w", err)
	}
	w.sums.Write(append(line, '\n'))
	w.lines++
	return nil
}
