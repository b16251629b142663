// SPDX-License-Identifier: Apache-2.0

package blob

import (
	"context"
	"errors"
	"io"
	"time"
)

// ErrDamaged says that a driver has an object, and knows that its bytes are not those
// that were put.
var ErrDamaged = errors.New("damaged")

// Driver is what an adapter implements: a flat, byte-ordered map of keys to
// immutable-until-overwritten objects, shaped after S3. Callers use Store, which
// has already validated keys and ranges; a driver need not repeat that.
//
// All methods are safe for concurrent use. Errors match plat kinds: ErrNotFound,
// ErrExists (a conditional put lost), ErrExhausted (disk or quota full),
// ErrUnavailable (passing, or the driver is closed), ErrInvalid (a body whose
// length is not the declared one); a cancelled context's error is returned as it
// is. ErrDamaged is of this package. What a call has done is seen by every call that starts after it returned.
type Driver interface {
	// Put stores everything that r yields under key. It is atomic and durable:
	// when it returns nil the object survives a power cut, whole; when it returns
	// an error nothing is visible under key (or what was there before still is).
	// size is the exact length, or -1 when unknown; a body that is shorter or
	// longer than a known size is ErrInvalid, and an error of r is returned wrapped.
	// r is read at most once, is not closed and not used after the return. Memory
	// use does not depend on size.
	Put(ctx context.Context, key string, r io.Reader, size int64, opt PutOptions) error
	// Open returns a reader over the object's bytes [off, off+n); n < 0 means to
	// the end. A range is cut at the object's end; one that starts there or later is
	// empty. The reader sees one version of the object even when the key is
	// overwritten or deleted meanwhile. Info describes the whole of that version.
	// The caller closes the reader.
	Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, Info, error)
	// Stat describes the object.
	Stat(ctx context.Context, key string) (Info, error)
	// Delete removes the object, as durably as Put stores. A missing key is not an error.
	Delete(ctx context.Context, key string) error
	// List returns up to limit objects whose key starts with prefix and is
	// greater than after, in byte order of the key. more tells whether others follow.
	// Any prefix and any after will do, also ones that no key could be. Objects that
	// come or go during the call may or may not be in the result.
	List(ctx context.Context, prefix, after string, limit int) (infos []Info, more bool, err error)
	// Close releases what the driver holds. Later calls fail with ErrUnavailable, and
	// nothing changes any more once it has returned. A second Close does nothing.
	Close() error
}

// PutOptions modifies a Put. The zero value overwrites.
type PutOptions struct {
	// IfNoneMatch makes the put fail with ErrExists when the key exists. Check
	// and put are one atomic step.
	IfNoneMatch bool
	// New says that the key was never used: a driver need not look for what it would
	// replace. Where that is not so the put still replaces it, but its space may stay taken
	// until the next change of the key.
	New bool
	// ContentType is kept beside the object where the engine can (S3); the index
	// row is the truth, so a driver may drop it.
	ContentType string
}

// Info describes an object.
type Info struct {
	Key     string
	Size    int64
	ModTime time.Time // UTC
}

// Presigner is optional: a driver that can hand out URLs which give direct,
// self-authorising access to one object for a limited time (S3). Where it is
// missing the platform serves signed URLs of its own, and also where one is empty
// without an error: the driver has none for so short a time.
type Presigner interface {
	// PresignGet returns a URL for GET that works until expiry, answering with contentType.
	PresignGet(ctx context.Context, key, contentType string, expiry time.Duration) (string, error)
	// PresignPut returns a URL for one PUT of the object. The signature binds no content type.
	PresignPut(ctx context.Context, key string, expiry time.Duration) (string, error)
}

// Reclaimer is optional: a driver that keeps what is deleted for a while, because that is
// cheaper.
type Reclaimer interface {
	// Reclaim has the driver give back the bytes of all that is deleted by now, soon and
	// beside other work. It does not wait for that.
	Reclaim()
}

// Reserver is optional: a driver on the disk of other parts, that keeps room there for what
// must go on when the disk is full.
type Reserver interface {
	// SpendReserve gives that room up. It is kept again once the disk has some.
	SpendReserve()
}

// Copier is optional: a driver that copies objects without their bytes passing here. Where it
// is a Presigner too, clients can put bodies there that are taken in afterwards.
type Copier interface {
	// CanCopy tells whether Copy can be relied on. It asks nobody.
	CanCopy() bool
	// Tagged is Stat, with a text that tells these bytes from all others that the key has
	// held, as far as the engine does.
	Tagged(ctx context.Context, key string) (info Info, tag string, err error)
	// Copy stores under to the object that Tagged described, atomically and durably, as Put
	// does. ErrNotFound when from is gone, ErrConflict when it has another tag; then
	// nothing is stored. etag is that of data.md §13 where the engine knows it for certain, else empty.
	Copy(ctx context.Context, from Info, tag, to, contentType string) (etag string, err error)
}
