// SPDX-License-Identifier: Apache-2.0

package lake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"panal/internal/blob"
	"panal/internal/plat"
)

// PendingLife is how long the URL of a promised upload works (data.md §10.3).
const PendingLife = time.Hour

// Pending is an upload that was promised and has not come yet: whoever has its
// signed URL may send the bytes, once. It is no file: no reader sees it.
type Pending struct {
	File  NewFile   // what it will be; size and ETag are not known
	Until time.Time // the body must begin to arrive before
	// Straight: the URL is the storage's own, and the body goes under IncomingKey.
	Straight bool
	// Tag and Size are of the bytes that are taken in: those that were seen there first.
	// Tag is empty before.
	Tag  string
	Size int64
	// Refused is why what came did not become a file, and nothing will; empty: nothing was refused.
	Refused string
}

// Promised is a promise with the storage's own URL; the URL is empty where the caller
// makes one, whose body it passes to Fulfil.
type Promised struct {
	Pending
	URL string
}

// Promise keeps everything about an upload but its body, which comes to Fulfil or straight
// to the storage. in.Body is not looked at. Errors are those of Upload that don't need the body.
func (s *Service) Promise(ctx context.Context, in Upload) (Promised, error) {
	f, err := s.prepare(ctx, in)
	if err != nil {
		return Promised{}, err
	}
	p := Promised{Pending: Pending{File: f, Until: s.now().Add(PendingLife)}}
	if s.blobs.Copies() {
		room, err := s.quota.Reserve(ctx, in.Org, 0) // what will come is not known, but none for who is full
		if err != nil {
			return Promised{}, err
		}
		room.Drop()
		if p.URL, p.Straight, err = s.blobs.PresignPut(ctx, IncomingKey(in.Org, f.Channel, f.ID), PendingLife); err != nil {
			return Promised{}, fmt.Errorf("promise an upload to channel %s: %w", f.Channel, err)
		}
	}
	if err := s.store.CreatePending(ctx, p.Pending); err != nil {
		return Promised{}, fmt.Errorf("promise an upload to channel %s: %w", f.Channel, err)
	}
	return p, nil
}

// Fulfil stores the body of a promised upload, with the promises of Upload. The
// caller has checked the signature that stands in for an identity.
//
// Errors: those of Upload; ErrConflict when the promise has been kept already, or
// another body is on its way; ErrNotFound when there is no such promise (any more).
func (s *Service) Fulfil(ctx context.Context, channel plat.ChannelID, id plat.FileID, body io.Reader, size int64) (File, error) {
	c, err := s.store.Channel(ctx, channel)
	if err != nil {
		return File{}, err
	}
	if c.Archived {
		return File{}, errArchived(c)
	}
	p, err := s.store.Pending(ctx, channel, id)
	if errors.Is(err, plat.ErrNotFound) {
		if _, there := s.store.File(ctx, channel, id, s.now()); there == nil {
			return File{}, errUsed()
		}
	}
	if err == nil && p.Straight {
		err = errUsed() // its URL was not ours
	}
	if err == nil {
		err = s.standing(ctx, c.Org)
	}
	if err != nil {
		return File{}, err
	}
	room, err := s.quota.Reserve(ctx, c.Org, size)
	if err != nil {
		return File{}, err
	}
	defer room.Drop()
	key := BlobKey(c.Org, channel, id)
	// Bytes under a file's key never change: of two bodies sent at once the later one
	// must not take the place of the one that is being committed.
	stored, err := s.blobs.Put(ctx, key, room.Reader(body, size), size, blob.PutOptions{ContentType: p.File.ContentType, IfNoneMatch: true})
	switch {
	case errors.Is(err, plat.ErrExists):
		return File{}, errUsed()
	case err != nil:
		return File{}, fmt.Errorf("upload to channel %s: %w", channel, err)
	}
	f := p.File
	f.Size, f.ETag, f.Pending = stored.Size, stored.ETag, true
	return s.commit(ctx, key, f, room)
}

func errUsed() error {
	return plat.Errorf(plat.ErrConflict, "this upload URL has been used, or another body is arriving by it; ask for a new one")
}

// reapPending forgets promises that were not kept, and the bytes of bodies that
// came and could not be committed.
func (s *Service) reapPending(ctx context.Context) error {
	for {
		// A body that began to arrive in time may still be on its way.
		old, err := s.store.DeletePending(ctx, s.now().Add(-Grace), maxBatch)
		if err != nil {
			return fmt.Errorf("reap promised uploads: %w", err)
		}
		for _, p := range old {
			c, err := s.store.Channel(ctx, p.File.Channel)
			if errors.Is(err, plat.ErrNotFound) { // its bytes are returned with it
				continue
			}
			if err == nil {
				err = s.blobs.Delete(ctx, BlobKey(c.Org, c.ID, p.File.ID))
			}
			if err == nil && p.Straight {
				err = s.blobs.Delete(ctx, IncomingKey(c.Org, c.ID, p.File.ID))
			}
			if err != nil {
				return fmt.Errorf("reap promised uploads: %w", err)
			}
		}
		if len(old) < maxBatch {
			return nil
		}
	}
}
