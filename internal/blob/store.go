// SPDX-License-Identifier: Apache-2.0

package blob

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"panal/internal/plat"
	"panal/internal/x/etag"
)

// MaxKeyLen is the longest key in bytes, as on S3.
const MaxKeyLen = 1024

// Store is the portable object store. It is safe for concurrent use.
type Store struct {
	d    Driver
	hold atomic.Pointer[Hold] // nil but while a backup is made
}

// New returns a Store over d.
func New(d Driver) *Store { return &Store{d: d} }

// Written describes a stored object.
type Written struct {
	Size int64
	ETag string // S3 style over 5 MiB chunks (data.md §13), unquoted
}

// Put stores everything r yields under key; see Driver.Put. It returns the
// length and ETag of what was stored.
func (s *Store) Put(ctx context.Context, key string, r io.Reader, size int64, opt PutOptions) (Written, error) {
	if err := CheckKey(key); err != nil {
		return Written{}, err
	}
	if h := s.hold.Load(); h != nil {
		if err := h.replace(ctx, key); err != nil {
			return Written{}, fmt.Errorf("put %s: %w", key, err)
		}
	}
	e := newSum(size)
	defer e.Close()
	if err := s.d.Put(ctx, key, io.TeeReader(r, e), size, opt); err != nil {
		return Written{}, fmt.Errorf("put %s: %w", key, err)
	}
	return Written{Size: e.Size(), ETag: e.ETag()}, nil
}

// sharedFrom is the length from which bodies are hashed together: for a shorter one
// handing it over costs more than that saves.
const sharedFrom = 256 << 10

func newSum(size int64) *etag.Sum {
	if size >= 0 && size < sharedFrom {
		return etag.New()
	}
	return etag.NewShared(size)
}

// Open returns a reader over bytes [off, off+n) of the object (n < 0: to the
// end). A range that starts past the end is ErrInvalid.
func (s *Store) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, Info, error) {
	if err := CheckKey(key); err != nil {
		return nil, Info{}, err
	}
	if off < 0 {
		return nil, Info{}, plat.Errorf(plat.ErrInvalid, "range starts at %d", off)
	}
	if s.hidden(key) {
		return nil, Info{}, fmt.Errorf("open %s: %w", key, errHidden())
	}
	rc, info, err := s.d.Open(ctx, key, off, n)
	if err != nil {
		return nil, Info{}, fmt.Errorf("open %s: %w", key, err)
	}
	if off > info.Size {
		_ = rc.Close()
		return nil, Info{}, plat.Errorf(plat.ErrInvalid, "range starts at %d, past the end (%d bytes)", off, info.Size)
	}
	return rc, info, nil
}

// Stat describes the object.
func (s *Store) Stat(ctx context.Context, key string) (Info, error) {
	if err := CheckKey(key); err != nil {
		return Info{}, err
	}
	if s.hidden(key) {
		return Info{}, fmt.Errorf("stat %s: %w", key, errHidden())
	}
	info, err := s.d.Stat(ctx, key)
	if err != nil {
		return Info{}, fmt.Errorf("stat %s: %w", key, err)
	}
	return info, nil
}

// Delete removes the object; a missing key is not an error.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	del := s.d.Delete
	if h := s.hold.Load(); h != nil {
		del = h.delete
	}
	if err := del(ctx, key); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// List returns up to limit objects under prefix after the key after, in byte order.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]Info, bool, error) {
	if limit < 1 {
		return nil, false, plat.Errorf(plat.ErrInvalid, "list limit %d", limit)
	}
	list := s.d.List
	if h := s.hold.Load(); h != nil {
		list = h.list
	}
	infos, more, err := list(ctx, prefix, after, limit)
	if err != nil {
		return nil, false, fmt.Errorf("list %s: %w", prefix, err)
	}
	return infos, more, nil
}

// Reclaim has the bytes of what is deleted given back, as far as the driver keeps them.
func (s *Store) Reclaim() {
	if r, ok := s.d.(Reclaimer); ok {
		r.Reclaim()
	}
}

// SpendReserve gives up the room that the driver keeps for deletions on a full disk, if it
// does: the index needs some for them, too.
func (s *Store) SpendReserve() {
	if r, ok := s.d.(Reserver); ok {
		r.SpendReserve()
	}
}

// PresignGet returns a direct URL where the driver has one; ok is false where not.
func (s *Store) PresignGet(ctx context.Context, key, contentType string, expiry time.Duration) (url string, ok bool, err error) {
	p, ok := s.d.(Presigner)
	if !ok {
		return "", false, nil
	}
	url, err = p.PresignGet(ctx, key, contentType, expiry)
	return url, url != "" && err == nil, err
}

// PresignPut returns a direct upload URL where the driver has one; ok is false where not.
func (s *Store) PresignPut(ctx context.Context, key string, expiry time.Duration) (url string, ok bool, err error) {
	p, ok := s.d.(Presigner)
	if !ok {
		return "", false, nil
	}
	url, err = p.PresignPut(ctx, key, expiry)
	return url, url != "" && err == nil, err
}

// Copies tells whether the driver is a Copier that can copy.
func (s *Store) Copies() bool {
	c, ok := s.d.(Copier)
	return ok && c.CanCopy()
}

// Tagged describes the object with a tag for Copy; ErrUnsupported without a Copier.
func (s *Store) Tagged(ctx context.Context, key string) (Info, string, error) {
	c, ok := s.d.(Copier)
	switch {
	case !ok:
		return Info{}, "", plat.Errorf(plat.ErrUnsupported, "the object store copies nothing")
	case s.hidden(key):
		return Info{}, "", fmt.Errorf("stat %s: %w", key, errHidden())
	}
	info, tag, err := c.Tagged(ctx, key)
	if err != nil {
		return Info{}, "", fmt.Errorf("stat %s: %w", key, err)
	}
	return info, tag, nil
}

// Copy stores under to what Tagged described; see Copier. Where the engine does not know
// the ETag, the copy is read once.
func (s *Store) Copy(ctx context.Context, from Info, tag, to, contentType string) (Written, error) {
	c, ok := s.d.(Copier)
	if !ok {
		return Written{}, plat.Errorf(plat.ErrUnsupported, "the object store copies nothing")
	}
	if err := CheckKey(to); err != nil {
		return Written{}, err
	}
	if h := s.hold.Load(); h != nil {
		if err := h.replace(ctx, to); err != nil {
			return Written{}, fmt.Errorf("copy to %s: %w", to, err)
		}
	}
	sum, err := c.Copy(ctx, from, tag, to, contentType)
	if err != nil {
		return Written{}, fmt.Errorf("copy to %s: %w", to, err)
	}
	if sum != "" {
		return Written{Size: from.Size, ETag: sum}, nil
	}
	return s.Sum(ctx, to)
}

// Sum reads an object and returns its length and ETag.
func (s *Store) Sum(ctx context.Context, key string) (Written, error) {
	rc, info, err := s.Open(ctx, key, 0, -1)
	if err != nil {
		return Written{}, err
	}
	defer func() { _ = rc.Close() }()
	e := newSum(info.Size)
	defer e.Close()
	if _, err := io.Copy(e, rc); err != nil {
		return Written{}, fmt.Errorf("read %s: %w", key, err)
	}
	return Written{Size: e.Size(), ETag: e.ETag()}, nil
}

// Close closes the driver.
func (s *Store) Close() error { return s.d.Close() }

// CheckKey returns ErrInvalid unless key fits the rules of the package comment.
func CheckKey(key string) error {
	switch {
	case key == "" || len(key) > MaxKeyLen:
		return plat.Errorf(plat.ErrInvalid, "object key has %d bytes; it must have 1 to %d", len(key), MaxKeyLen)
	case !utf8.ValidString(key):
		return plat.Errorf(plat.ErrInvalid, "object key is not UTF-8")
	}
	for seg := range strings.SplitSeq(key, "/") {
		if seg == "" || seg == "." || seg == ".." {
			return plat.Errorf(plat.ErrInvalid, "object key has an empty, \".\" or \"..\" segment")
		}
	}
	for _, r := range key {
		if r < 0x20 || r == 0x7f {
			return plat.Errorf(plat.ErrInvalid, "object key has a control character")
		}
	}
	return nil
}
