// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"errors"
	"sync"
	"time"

	"panal/internal/lake"
	"panal/internal/plat"
)

// Store is a lake.Store whose changes are in the journal when they are answered.
// What only reads, and promises of uploads, which are no files, pass unchanged.
type Store struct {
	lake.Store
	j *Journal

	mu   sync.Mutex
	orgs map[plat.ChannelID]plat.OrgID // never changes for a channel
}

var _ lake.Store = (*Store)(nil)

// NewStore returns inner with a journal.
func NewStore(inner lake.Store, j *Journal) *Store {
	return &Store{Store: inner, j: j, orgs: map[plat.ChannelID]plat.OrgID{}}
}

const maxOrgs = 100_000

func (s *Store) org(ctx context.Context, channel plat.ChannelID) (plat.OrgID, error) {
	s.mu.Lock()
	org, ok := s.orgs[channel]
	s.mu.Unlock()
	if ok {
		return org, nil
	}
	c, err := s.Channel(ctx, channel)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.orgs) >= maxOrgs {
		clear(s.orgs)
	}
	s.orgs[channel] = c.Org
	return c.Org, nil
}

func (s *Store) append(ctx context.Context, entries ...Entry) error {
	if err := s.j.Append(ctx, entries...); err != nil {
		return unavailable(err)
	}
	return nil
}

// appendEnds journals what is deleted. With a full storage the entries stay owed and
// the deletion goes on: it makes room, and what it deletes can't come back without its object.
func (s *Store) appendEnds(ctx context.Context, entries ...Entry) error {
	err := s.j.Append(ctx, entries...)
	if err == nil || errors.Is(err, plat.ErrExhausted) {
		return nil
	}
	return unavailable(err)
}

// freeing makes a deletion, and once more where the index found no room on its disk: with
// that which the storage keeps there for deletions.
func (s *Store) freeing(do func() error) error {
	err := do()
	if !errors.Is(err, plat.ErrExhausted) {
		return err
	}
	s.j.blobs.SpendReserve()
	return do()
}

// CreateChannel implements lake.Store.
func (s *Store) CreateChannel(ctx context.Context, c lake.Channel) error {
	if err := s.j.Ready(ctx, false); err != nil {
		return err
	}
	if err := s.Store.CreateChannel(ctx, c); err != nil {
		return s.j.doubt(err)
	}
	c.Rev = 0
	err := s.append(ctx, channelEntry(c))
	if err != nil {
		s.undo(ctx, ended(c.Org, c.ID, "", s.j.now()), func(ctx context.Context, now time.Time) error { return s.Store.DropChannel(ctx, c.ID, now) })
	}
	return err
}

// UpdateChannel implements lake.Store. The state that is journaled is read after the
// change: whoever changed it meanwhile, it is a state that was.
func (s *Store) UpdateChannel(ctx context.Context, c lake.Channel) error {
	if err := s.j.Ready(ctx, false); err != nil {
		return err
	}
	if err := s.Store.UpdateChannel(ctx, c); err != nil {
		return s.j.doubt(err)
	}
	now, err := s.Channel(context.WithoutCancel(ctx), c.ID)
	if errors.Is(err, plat.ErrNotFound) { // deleted meanwhile, which is journaled there
		return nil
	}
	if err != nil {
		return unavailable(err)
	}
	return s.append(ctx, channelEntry(now))
}

// DropChannel implements lake.Store. The end of a channel is that of its files.
func (s *Store) DropChannel(ctx context.Context, id plat.ChannelID, now time.Time) error {
	if err := s.j.Ready(ctx, true); err != nil {
		return err
	}
	org, err := s.org(ctx, id)
	if err != nil {
		return err
	}
	if err := s.freeing(func() error { return s.Store.DropChannel(ctx, id, now) }); err != nil {
		return s.j.doubt(err)
	}
	return s.appendEnds(ctx, ended(org, id, "", now))
}

// Commit implements lake.Store.
func (s *Store) Commit(ctx context.Context, files []lake.NewFile) ([]lake.Outcome, error) {
	if err := s.j.Ready(ctx, false); err != nil {
		return nil, err
	}
	for i := range files { // known before anything is done; unknown channels get their answer there
		if _, err := s.org(ctx, files[i].Channel); err != nil && !errors.Is(err, plat.ErrNotFound) {
			return nil, err
		}
	}
	out, err := s.Store.Commit(ctx, files)
	if err != nil {
		return nil, s.j.doubt(err)
	}
	entries := make([]Entry, 0, len(out))
	for i := range out {
		if out[i].Err != nil {
			continue
		}
		org, err := s.org(ctx, out[i].File.Channel)
		switch {
		case errors.Is(err, plat.ErrNotFound): // its channel has been deleted since
			continue
		case err != nil:
			return nil, unavailable(err)
		}
		entries = append(entries, fileEntry(org, out[i].File))
		if old := out[i].Replaced; old != nil {
			entries = append(entries, ended(org, old.Channel, old.ID, out[i].File.UploadedAt))
		}
	}
	err = s.append(ctx, entries...)
	if err == nil {
		return out, nil
	}
	for i := range out {
		f := out[i].File
		org, oerr := s.org(ctx, f.Channel)
		// What took another's place stays, for that is gone; and what was promised: its id is known, another try makes no second.
		if out[i].Err != nil || oerr != nil || out[i].Replaced != nil || files[i].Pending {
			continue
		}
		s.undo(ctx, ended(org, f.Channel, f.ID, s.j.now()), func(ctx context.Context, now time.Time) error {
			_, err := s.Store.DeleteFile(ctx, f.Channel, f.ID, now)
			return err
		})
	}
	return nil, err
}

// undoLimit ends an attempt to undo.
const undoLimit = 10 * time.Second

// undo takes back what was made and could not be journaled: whoever asked for it is told to do it
// again, and would have it twice. When the index can't either it stays, as after a crash.
func (s *Store) undo(ctx context.Context, end Entry, do func(ctx context.Context, now time.Time) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	if err := do(ctx, s.j.now()); err != nil {
		_ = s.j.doubt(err) // the caller has an error already
		return
	}
	s.j.owe(end)
}

// SetMetadata implements lake.Store.
func (s *Store) SetMetadata(ctx context.Context, channel plat.ChannelID, id plat.FileID, m lake.Metadata, now time.Time) (lake.File, error) {
	return s.change(ctx, channel, func() (lake.File, error) { return s.Store.SetMetadata(ctx, channel, id, m, now) })
}

// PatchMetadata implements lake.Store.
func (s *Store) PatchMetadata(ctx context.Context, channel plat.ChannelID, id plat.FileID, p lake.Patch, lim lake.Limits, now time.Time) (lake.File, error) {
	return s.change(ctx, channel, func() (lake.File, error) { return s.Store.PatchMetadata(ctx, channel, id, p, lim, now) })
}

// SetLifetime implements lake.Store.
func (s *Store) SetLifetime(ctx context.Context, channel plat.ChannelID, id plat.FileID, l lake.Lifetime, now time.Time) (lake.File, error) {
	return s.change(ctx, channel, func() (lake.File, error) { return s.Store.SetLifetime(ctx, channel, id, l, now) })
}

func (s *Store) change(ctx context.Context, channel plat.ChannelID, do func() (lake.File, error)) (lake.File, error) {
	if err := s.j.Ready(ctx, false); err != nil {
		return lake.File{}, err
	}
	org, err := s.org(ctx, channel)
	if err != nil {
		return lake.File{}, err
	}
	f, err := do()
	if err != nil {
		return lake.File{}, s.j.doubt(err)
	}
	if err := s.append(ctx, fileEntry(org, f)); err != nil {
		return lake.File{}, err
	}
	return f, nil
}

// DeleteFile implements lake.Store.
func (s *Store) DeleteFile(ctx context.Context, channel plat.ChannelID, id plat.FileID, now time.Time) (lake.File, error) {
	if err := s.j.Ready(ctx, true); err != nil {
		return lake.File{}, err
	}
	var f lake.File
	err := s.freeing(func() (err error) {
		f, err = s.Store.DeleteFile(ctx, channel, id, now)
		return err
	})
	if err != nil {
		return lake.File{}, s.j.doubt(err)
	}
	return f, s.deleted(ctx, []lake.File{f}, now)
}

// Sweep implements lake.Store.
func (s *Store) Sweep(ctx context.Context, id plat.ChannelID, limit int) (clean bool, err error) {
	err = s.freeing(func() (err error) {
		clean, err = s.Store.Sweep(ctx, id, limit)
		return err
	})
	return clean, err
}

// DeleteExpired implements lake.Store.
func (s *Store) DeleteExpired(ctx context.Context, now time.Time, limit int) ([]lake.File, error) {
	return s.deleteMany(ctx, now, func() ([]lake.File, error) { return s.Store.DeleteExpired(ctx, now, limit) })
}

// DeleteMatching implements lake.Store.
func (s *Store) DeleteMatching(ctx context.Context, f lake.Filter, ids []plat.FileID, now time.Time) ([]lake.File, error) {
	return s.deleteMany(ctx, now, func() ([]lake.File, error) { return s.Store.DeleteMatching(ctx, f, ids, now) })
}

func (s *Store) deleteMany(ctx context.Context, now time.Time, do func() ([]lake.File, error)) ([]lake.File, error) {
	if err := s.j.Ready(ctx, true); err != nil {
		return nil, err
	}
	var gone []lake.File
	err := s.freeing(func() (err error) {
		gone, err = do()
		return err
	})
	if err != nil {
		return nil, s.j.doubt(err)
	}
	return gone, s.deleted(ctx, gone, now)
}

func (s *Store) deleted(ctx context.Context, gone []lake.File, now time.Time) error {
	entries := make([]Entry, 0, len(gone))
	for _, f := range gone {
		org, err := s.org(ctx, f.Channel)
		switch {
		case errors.Is(err, plat.ErrNotFound): // the end of the channel is the file's
			continue
		case err != nil:
			return unavailable(err)
		}
		entries = append(entries, ended(org, f.Channel, f.ID, now))
	}
	return s.appendEnds(ctx, entries...)
}
