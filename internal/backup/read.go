// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"panal/internal/plat"
)

// Reader reads a backup entry by entry. Nothing that it gave is to be believed before
// Next has returned io.EOF: then the whole backup was there, as it was written.
type Reader struct {
	tar  *tar.Reader
	head Header
	last Entry
	got  End
	end  *End

	open    *body
	pending []Sum // read since the last sums
	size    int   // bytes of the pending lines, about
	parts   int64
	alive   int64
	all     hash.Hash
}

// NewReader reads the header. A backup of a newer format is ErrUnsupported.
func NewReader(r io.Reader) (*Reader, error) {
	b := &Reader{tar: tar.NewReader(r), all: sha256.New()}
	h, err := b.next()
	if errors.Is(err, io.EOF) {
		return nil, refuse("it is empty")
	}
	if err != nil {
		return nil, err
	}
	if h.Name != nameHeader {
		return nil, refuse("it is a tar file, but none that panal backup has made")
	}
	raw, err := b.small(h, maxHeader, true)
	if err != nil {
		return nil, err
	}
	var form struct {
		Format int    `json:"format"`
		Panal  string `json:"panal"`
	}
	if err := json.Unmarshal(raw, &form); err != nil || form.Format < 1 {
		return nil, refuse("its header is not what panal wrote")
	}
	if form.Format > Format {
		return nil, plat.Errorf(plat.ErrUnsupported, "the backup has format %d and was made by Panal %.40q; this Panal reads up to format %d: restore with that version or a newer one", form.Format, form.Panal, Format)
	}
	if err := json.Unmarshal(raw, &b.head); err != nil {
		return nil, refuse("its header is not what panal wrote")
	}
	return b, nil
}

// Header returns the header.
func (r *Reader) Header() Header { return r.head }

// End returns the end, once Next has returned io.EOF.
func (r *Reader) End() End { return *r.end }

// Next returns the next object or database and a reader of its bytes, which is good
// until the next call; what was not read of it is read then. io.EOF is the end of a
// backup that is whole.
func (r *Reader) Next() (Entry, io.Reader, error) {
	for {
		if err := r.finish(); err != nil {
			return Entry{}, nil, err
		}
		h, err := r.next()
		if errors.Is(err, io.EOF) {
			if r.end == nil {
				return Entry{}, nil, refuse("it is not whole: its end is missing")
			}
			return Entry{}, nil, io.EOF
		}
		if err != nil {
			return Entry{}, nil, err
		}
		switch {
		case r.end != nil:
			return Entry{}, nil, refuse("something follows its end")
		case h.Name == nameEnd:
			err = r.readEnd(h)
		case strings.HasPrefix(h.Name, dirSums):
			err = r.readSums(h)
		case strings.HasPrefix(h.Name, dirAlive):
			r.alive++
			if h.Name != fmt.Sprintf("%s%08d", dirAlive, r.alive) || h.Size != 0 {
				err = refuse("%.200q is not what panal wrote", h.Name)
			}
		default:
			return r.entry(h)
		}
		if err != nil {
			return Entry{}, nil, err
		}
	}
}

// next reads a tar header. Only plain files without anything special are taken.
func (r *Reader) next() (*tar.Header, error) {
	h, err := r.tar.Next()
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
		return nil, unreadable(err)
	}
	if h.Typeflag != tar.TypeReg {
		return nil, refuse("%.200q is no plain file", h.Name)
	}
	for k := range h.PAXRecords {
		if k != "path" && k != "size" && k != "mtime" {
			return nil, refuse("%.200q has the record %.60q, which panal does not write", h.Name, k)
		}
	}
	r.got.Entries++
	return h, nil
}

// unreadable tells a source that failed from one that ended or is no tar.
func unreadable(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return refuse("it is not whole: it was cut")
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong):
		return refuse("it is no readable tar file (a compressed one is unpacked first: zstd -dc FILE | panal restore - …)")
	}
	return fmt.Errorf("read backup: %w", err)
}

func (r *Reader) entry(h *tar.Header) (Entry, io.Reader, error) {
	e, err := parse(h.Name)
	if err != nil {
		return Entry{}, nil, err
	}
	if r.last != (Entry{}) && !r.last.Less(e) {
		return Entry{}, nil, refuse("%.200q is there twice, or not in its place", h.Name)
	}
	r.last = e
	e.Size = h.Size
	if e.Database != "" {
		r.got.Databases++
	} else {
		r.got.Objects++
	}
	if r.got.Databases > maxDBs {
		return Entry{}, nil, refuse("it holds more than %d databases", maxDBs)
	}
	r.got.Bytes += h.Size
	r.open = &body{r: r.tar, name: h.Name, size: h.Size, hash: sha256.New()}
	return e, r.open, nil
}

// finish reads the rest of the open entry and notes its sum.
func (r *Reader) finish() error {
	if r.open == nil {
		return nil
	}
	b := r.open
	r.open = nil
	if _, err := io.Copy(io.Discard, b); err != nil {
		return err
	}
	return r.note(b.name, b.size, b.hash)
}

func (r *Reader) note(name string, size int64, h hash.Hash) error {
	r.pending = append(r.pending, Sum{Name: name, Size: size, SHA256: hex.EncodeToString(h.Sum(nil))})
	if r.size += len(name) + 100; len(r.pending) > sumsEntries || r.size > maxSums {
		return refuse("its sums are missing")
	}
	return nil
}

// small reads an entry that is held in memory.
func (r *Reader) small(h *tar.Header, limit int64, sum bool) ([]byte, error) {
	if h.Size > limit {
		return nil, refuse("%.200q has %d bytes", h.Name, h.Size)
	}
	b := &body{r: r.tar, name: h.Name, size: h.Size, hash: sha256.New()}
	raw, err := io.ReadAll(b)
	if err != nil || !sum {
		return raw, err
	}
	return raw, r.note(h.Name, h.Size, b.hash)
}

func (r *Reader) readSums(h *tar.Header) error {
	raw, err := r.small(h, maxSums, false)
	if err != nil {
		return err
	}
	if r.parts++; h.Name != fmt.Sprintf("%s%08d", dirSums, r.parts) {
		return refuse("%.200q is not in its place", h.Name)
	}
	_, _ = r.all.Write(raw) // never fails (hash.Hash)
	i := 0
	for line := range bytes.Lines(raw) {
		var s Sum
		if json.Unmarshal(line, &s) != nil || i >= len(r.pending) {
			return refuse("%.200q does not fit what is before it", h.Name)
		}
		if got := r.pending[i]; got != s {
			return refuse("%.200q is damaged: its bytes are not those that were written", got.Name)
		}
		i++
	}
	if i != len(r.pending) {
		return refuse("%.200q does not fit what is before it", h.Name)
	}
	r.pending, r.size = r.pending[:0], 0
	return nil
}

func (r *Reader) readEnd(h *tar.Header) error {
	before := r.got.Entries - 1
	raw, err := r.small(h, maxHeader, false)
	if err != nil {
		return err
	}
	var e End
	if json.Unmarshal(raw, &e) != nil {
		return refuse("its end is not what panal wrote")
	}
	switch {
	case len(r.pending) > 0:
		return refuse("its sums are missing")
	case e.Sums != hex.EncodeToString(r.all.Sum(nil)), e.Entries != before, e.Bytes != r.got.Bytes, e.Objects != r.got.Objects, e.Databases != r.got.Databases:
		return refuse("it is not whole: its end tells of %d entries with %d bytes, and there are %d with %d", e.Entries, e.Bytes, before, r.got.Bytes)
	}
	r.end = &e
	return nil
}

// body is the bytes of one entry. One that ends early is an error, not an end.
type body struct {
	r    io.Reader
	name string
	size int64
	hash hash.Hash
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	_, _ = b.hash.Write(p[:n]) // never fails (hash.Hash)
	if err != nil && !errors.Is(err, io.EOF) {
		err = unreadable(err)
	}
	return n, err
}
