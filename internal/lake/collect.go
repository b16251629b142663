// SPDX-License-Identifier: Apache-2.0

package lake

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"panal/internal/plat"
)

// Grace is how old an object without an index row is before it counts as garbage:
// far longer than the moment between an upload's bytes and its row.
const Grace = 24 * time.Hour

// Reap deletes the files that have expired, and returns how many there were. Their
// absence does not wait for it: expiry is part of every read. It also forgets
// promised uploads that did not come, and what deleted channels have left.
func (s *Service) Reap(ctx context.Context) (int, error) {
	n, err := s.reapExpired(ctx)
	return n, errors.Join(err, s.reapPending(ctx), s.sweepGone(ctx))
}

func (s *Service) reapExpired(ctx context.Context) (int, error) {
	channels := map[plat.ChannelID]plat.OrgID{}
	total := 0
	for {
		files, err := s.store.DeleteExpired(ctx, s.now(), maxBatch)
		if err != nil {
			return total, fmt.Errorf("reap expired files: %w", err)
		}
		if len(files) == 0 {
			return total, nil
		}
		total += len(files)
		var failed error
		for _, f := range files {
			org, ok := channels[f.Channel]
			if !ok {
				c, err := s.store.Channel(ctx, f.Channel)
				if errors.Is(err, plat.ErrNotFound) { // deleted meanwhile: its bytes go with it
					continue
				}
				if err != nil {
					return total, fmt.Errorf("reap expired files: %w", err)
				}
				org = c.Org
				channels[f.Channel] = org
			}
			// What can't be deleted now has no row any more: Collect finds it.
			failed = errors.Join(failed, s.blobs.Delete(ctx, BlobKey(org, f.Channel, f.ID)))
		}
		if failed != nil {
			return total, fmt.Errorf("reap expired files: %w", failed)
		}
	}
}

// Record is what is kept beside the index of which files there are.
type Record interface {
	// Alive returns which of the objects, by their keys, are files that were neither
	// deleted nor have expired.
	Alive(ctx context.Context, keys []string) (map[string]bool, error)
}

// RecordedBy makes Collect leave alone what r knows. Called while wiring.
func (s *Service) RecordedBy(r Record) { s.record = r }

// Collect deletes objects that no index row refers to and that are older than
// grace, and returns how many there were. Bodies that clients put into the storage are
// taken in, or deleted where nobody was promised anything.
//
// What the record has as a file stays, and is an error: then it is the index that is
// lost, or older than the storage, and its bytes are all there is to mend it from.
func (s *Service) Collect(ctx context.Context, grace time.Duration) (int, error) {
	const page, atOnce = 1000, 10_000
	if err := s.TakeAll(ctx); err != nil {
		return 0, fmt.Errorf("collect garbage: %w", err)
	}
	deleted, lost, after := 0, 0, ""
	var garbage []string
	for {
		infos, more, err := s.blobs.List(ctx, blobPrefix, after, page)
		if err != nil {
			return deleted, fmt.Errorf("collect garbage: %w", err)
		}
		old := map[plat.ChannelID][]plat.FileID{}
		keys := map[plat.FileID]string{}
		for _, info := range infos {
			after = info.Key
			parts := strings.Split(info.Key, "/")
			if len(parts) != 5 || s.now().Sub(info.ModTime) < grace {
				continue
			}
			channel, id := plat.ChannelID(parts[2]), plat.FileID(parts[4])
			old[channel] = append(old[channel], id)
			keys[id] = info.Key
		}
		for channel, ids := range old {
			known, err := s.store.Known(ctx, channel, ids)
			if err != nil {
				return deleted, fmt.Errorf("collect garbage: %w", err)
			}
			for _, id := range ids {
				if !known[id] {
					garbage = append(garbage, keys[id])
				}
			}
		}
		if more && len(garbage) < atOnce {
			continue
		}
		n, kept, err := s.remove(ctx, garbage)
		deleted, lost = deleted+n, lost+kept
		if err != nil {
			return deleted, fmt.Errorf("collect garbage: %w", err)
		}
		garbage = garbage[:0]
		if !more {
			break
		}
	}
	if lost > 0 {
		return deleted, fmt.Errorf("collect garbage: %d files have bytes and a record and no row in the index; they are kept: panal channel verify --repair brings single ones back, panal lake rebuild a lost index", lost)
	}
	return deleted, nil
}

// remove deletes objects but for those that are files by the record.
func (s *Service) remove(ctx context.Context, keys []string) (deleted, kept int, err error) {
	var alive map[string]bool
	if s.record != nil && len(keys) > 0 {
		if alive, err = s.record.Alive(ctx, keys); err != nil {
			return 0, 0, err
		}
	}
	for _, key := range keys {
		if alive[key] {
			kept++
			continue
		}
		if err := s.blobs.Delete(ctx, key); err != nil {
			return deleted, kept, err
		}
		deleted++
	}
	return deleted, kept, nil
}
