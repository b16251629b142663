// SPDX-License-Identifier: Apache-2.0

package lake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"panal/internal/blob"
	"panal/internal/plat"
)

// How the bodies are taken in that clients put into the storage by its own URLs
// (docs/adr/0028). A body is under IncomingKey until then; the URL stays good for its
// hour, so the file's own key is another one, to which the storage copies. Any number of
// processes may take the same body in at any time, and die at any step:
//
//  1. the promise is bound to the tag of the first body that is seen, once and for all;
//  2. only bytes with that tag are ever copied under the file's key, so it does not matter who
//     copies, how often, and when;
//  3. the commit takes the promise, so that one of them makes the file;
//  4. a promise is refused by a mark that no commit gets past, and only then are the bytes
//     under the file's key deleted.

// Arrival is a body that was seen under its incoming key.
type Arrival struct {
	Channel plat.ChannelID
	ID      plat.FileID
	Tag     string // see blob.Copier
	Size    int64
}

// Intake counts bodies. It is safe for concurrent use.
type Intake struct {
	taken, refused atomic.Int64
}

// Figures returns how many became files since the start, and how many were refused.
func (i *Intake) Figures() (taken, refused int64) { return i.taken.Load(), i.refused.Load() }

// Intake returns the figures of what was put straight into the storage.
func (s *Service) Intake() *Intake { return &s.intake }

const (
	takeBatch    = 500 // bodies whose promises are bound in one transaction
	takeParallel = 32  // bodies that are looked at, or copied, at a time
)

// AwaitedUntil tells until when bodies may begin to arrive straight in the storage; zero
// when none is awaited.
func (s *Service) AwaitedUntil(ctx context.Context) (time.Time, error) {
	if !s.blobs.Copies() {
		return time.Time{}, nil
	}
	return s.store.AwaitedUntil(ctx)
}

// TakeAll takes in every body that is there and that no other call of it is at: a
// long copy keeps nothing else waiting where a few calls are made at a time. One listing finds
// hundreds, and none asks for those that have not come. What can't be taken in now does not keep
// others from it, and is taken in by the next call.
func (s *Service) TakeAll(ctx context.Context) error {
	if !s.blobs.Copies() {
		return nil
	}
	var failed error
	for after := ""; ; {
		infos, more, err := s.blobs.List(ctx, IncomingPrefix, after, takeBatch)
		if err != nil {
			return fmt.Errorf("list bodies put into the storage: %w", err)
		}
		keys := make([]string, 0, len(infos))
		for _, info := range infos {
			after = info.Key
			if _, busy := s.listed.LoadOrStore(info.Key, nil); !busy {
				keys = append(keys, info.Key)
			}
		}
		err = s.Take(ctx, keys)
		for _, key := range keys {
			s.listed.Delete(key)
		}
		if err != nil && failed == nil {
			failed = err
		}
		if !more || ctx.Err() != nil {
			return failed
		}
	}
}

// Take takes in the bodies under incoming keys; other keys, and those where nothing is, are
// left alone. It returns the first error of those that must be tried again.
func (s *Service) Take(ctx context.Context, keys []string) error {
	for len(keys) > 0 {
		n := min(len(keys), takeBatch)
		if err := s.takeSome(ctx, keys[:n]); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

// body is one under its incoming key, and whose it is.
type body struct {
	Arrival
	org  plat.OrgID
	info blob.Info
}

func (s *Service) takeSome(ctx context.Context, keys []string) error {
	var mu sync.Mutex
	var there []body
	failed := s.each(ctx, len(keys), func(i int) error {
		parts := strings.Split(strings.TrimPrefix(keys[i], IncomingPrefix), "/")
		if len(parts) != 3 || !strings.HasPrefix(keys[i], IncomingPrefix) {
			return nil // nobody was given a URL for it
		}
		info, tag, err := s.blobs.Tagged(ctx, keys[i])
		if errors.Is(err, plat.ErrNotFound) {
			return nil
		}
		if err == nil && tag == "" {
			err = plat.Errorf(plat.ErrUnavailable, "the object storage tells no ETag of %s", keys[i])
		}
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		there = append(there, body{Arrival{plat.ChannelID(parts[1]), plat.FileID(parts[2]), tag, info.Size}, plat.OrgID(parts[0]), info})
		return nil
	})
	if len(there) == 0 {
		return failed
	}
	arrivals := make([]Arrival, len(there))
	for i, b := range there {
		arrivals[i] = b.Arrival
	}
	promises, err := s.store.BindPending(ctx, arrivals)
	if err != nil {
		return fmt.Errorf("bind promised uploads: %w", err)
	}
	err = s.each(ctx, len(there), func(i int) error {
		// One at a time of each: a reservation of quota must not stand in its own way.
		key := there[i].info.Key
		_, err, _ := s.taking.Do(key, func() (any, error) { return nil, s.take(ctx, there[i], promises[i]) })
		if err != nil {
			return fmt.Errorf("take in upload %s to channel %s: %w", there[i].ID, there[i].Channel, err)
		}
		return nil
	})
	return errors.Join(failed, err)
}

// each does n things, several at a time, all of them whatever fails, and returns one error.
func (s *Service) each(ctx context.Context, n int, do func(i int) error) error {
	var g errgroup.Group
	g.SetLimit(takeParallel)
	for i := range n {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return do(i)
		})
	}
	return g.Wait()
}

// take makes a body the file that was promised. A nil error means that it is settled:
// nothing is under the incoming key any more, or something came there later.
func (s *Service) take(ctx context.Context, b body, p *Pending) error {
	if p == nil || p.Refused != "" || !p.Straight { // done already, or nobody was promised anything
		return s.blobs.Delete(ctx, b.info.Key)
	}
	c, err := s.store.Channel(ctx, b.Channel)
	switch {
	case errors.Is(err, plat.ErrNotFound):
		return s.blobs.Delete(ctx, b.info.Key)
	case err != nil:
		return err
	case c.Org != b.org:
		return s.blobs.Delete(ctx, b.info.Key)
	case c.Archived:
		return s.refuse(ctx, b, errArchived(c))
	}
	if err := s.standing(ctx, c.Org); err != nil {
		return s.refuseFor(ctx, b, err, plat.ErrForbidden)
	}
	room, err := s.quota.Reserve(ctx, c.Org, p.Size)
	if err != nil {
		return s.refuseFor(ctx, b, err, plat.ErrExhausted)
	}
	defer room.Drop()
	to := BlobKey(c.Org, b.Channel, b.ID)
	b.info.Size = p.Size // that of the tag's
	stored, err := s.blobs.Copy(ctx, b.info, p.Tag, to, p.File.ContentType)
	if errors.Is(err, plat.ErrConflict) || errors.Is(err, plat.ErrNotFound) {
		stored, err = s.copied(ctx, b, to)
		if errors.Is(err, plat.ErrNotFound) {
			return s.refuse(ctx, b, plat.Errorf(plat.ErrConflict, "another body came by the upload's URL while the first was being taken in"))
		}
		if isTaken(err) {
			return nil
		}
	}
	if err != nil {
		return err
	}
	f := p.File
	f.Size, f.ETag, f.Pending = stored.Size, stored.ETag, true
	_, err = s.group.do(ctx, f)
	switch {
	case err == nil:
		room.Stored(f.Size)
		s.intake.taken.Add(1)
		return s.blobs.Delete(ctx, b.info.Key)
	case isTaken(err): // another has made the file, or refused it
		return s.blobs.Delete(ctx, b.info.Key)
	}
	return s.refuseFor(ctx, b, err, plat.ErrForbidden, plat.ErrInvalid, plat.ErrConflict, plat.ErrNotFound)
}

// copied returns what was copied under a file's key before its source went; ErrConflict
// when the promise has gone since.
func (s *Service) copied(ctx context.Context, b body, to string) (blob.Written, error) {
	switch p, err := s.store.Pending(ctx, b.Channel, b.ID); {
	case errors.Is(err, plat.ErrNotFound), err == nil && p.Refused != "":
		return blob.Written{}, errUsed()
	case err != nil:
		return blob.Written{}, err
	}
	return s.blobs.Sum(ctx, to)
}

// isTaken tells the conflict of a promise that is gone from that of a conflict target.
func isTaken(err error) bool {
	_, target := errors.AsType[*ConflictError](err)
	return errors.Is(err, plat.ErrConflict) && !target
}

// refuseFor refuses an upload when the error's kind is one of those that trying again does
// not help; else it returns the error.
func (s *Service) refuseFor(ctx context.Context, b body, err error, kinds ...error) error {
	if slices.ContainsFunc(kinds, func(kind error) bool { return errors.Is(err, kind) }) {
		return s.refuse(ctx, b, err)
	}
	return err
}

func (s *Service) refuse(ctx context.Context, b body, reason error) error {
	did, err := s.store.RefusePending(ctx, b.Channel, b.ID, reasonText(reason))
	if err != nil {
		return err
	}
	if did {
		s.intake.refused.Add(1)
		if err := s.blobs.Delete(ctx, BlobKey(b.org, b.Channel, b.ID)); err != nil {
			return err
		}
	}
	return s.blobs.Delete(ctx, b.info.Key)
}

// reasonText is what of an error whoever asks for the file may read.
func reasonText(err error) string {
	if p, ok := errors.AsType[*plat.Error](err); ok && p.Public != "" {
		return p.Public
	}
	return err.Error() // one of the conflict's own
}

// arrived looks for a file that no index row is of among the bodies that were put
// straight into the storage, so that whoever asks for a file right after its PUT finds
// it. missing is the error without any.
func (s *Service) arrived(ctx context.Context, org plat.OrgID, channel plat.ChannelID, id plat.FileID, missing error) (File, error) {
	p, err := s.store.Pending(ctx, channel, id)
	if err == nil && p.Straight && p.Refused == "" {
		if err := s.Take(ctx, []string{IncomingKey(org, channel, id)}); err != nil {
			return File{}, err
		}
		p, err = s.store.Pending(ctx, channel, id)
	}
	switch {
	case errors.Is(err, plat.ErrNotFound): // there never was one, or it is a file by now
		return s.store.File(ctx, channel, id, s.now())
	case err != nil:
		return File{}, err
	case p.Refused != "":
		return File{}, plat.Errorf(plat.ErrNotFound, "file %s does not exist: what was put to its upload URL was refused: %s", id, p.Refused)
	}
	return File{}, missing
}
