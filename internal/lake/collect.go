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

// Collect deletes objects that no index row refers to and that are older than
// grace, and returns how many there were. Bodies that clients put into the storage are
// taken in, or deleted where nobody was promised anything.
func (s *Service) Collect(ctx context.Context, grace time.Duration) (int, error) {
	const page = 1000
	if err := s.TakeAll(ctx); err != nil {
		return 0, fmt.Errorf("collect garbage: %w", err)
	}
	deleted, after := 0, ""
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
				if known[id] {
					continue
				}
				if err := s.blobs.Delete(ctx, keys[id]); err != nil {
					return deleted, fmt.Errorf("collect garbage: %w", err)
				}
				deleted++
			}
		}
		if !more {
			return deleted, nil
		}
	}
}
