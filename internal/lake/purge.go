// SPDX-License-Identifier: Apache-2.0

package lake

import (
	"context"
	"errors"
	"fmt"

	"panal/internal/plat"
)

// Purge deletes every channel of an organization with its files and their bytes. It
// can be repeated; nil means that there was nothing left.
func (s *Service) Purge(ctx context.Context, org plat.OrgID) error {
	for {
		all, _, err := s.store.Channels(ctx, org, ChannelPage{IncludeArchived: true, Limit: 100})
		if err != nil {
			return fmt.Errorf("list channels: %w", err)
		}
		if len(all) == 0 {
			return nil
		}
		for _, c := range all {
			if err := s.purgeChannel(ctx, c); err != nil {
				return fmt.Errorf("purge channel %s: %w", c.ID, err)
			}
		}
	}
}

func (s *Service) purgeChannel(ctx context.Context, c Channel) error {
	if !c.Archived { // an upload that is still on its way is refused at its commit
		c.Archived, c.UpdatedAt = true, s.now()
		if err := s.store.UpdateChannel(ctx, c); err != nil {
			return err
		}
	}
	for {
		files, err := s.store.DeleteFiles(ctx, c.ID, s.now(), maxBatch)
		if err != nil {
			return err
		}
		if len(files) == 0 {
			break
		}
		var failed error
		for _, f := range files {
			// What can't be deleted now has no row any more: whoever deletes the
			// organization sweeps its keys in the end.
			failed = errors.Join(failed, s.blobs.Delete(ctx, BlobKey(c.Org, c.ID, f.ID)))
		}
		if failed != nil {
			return failed
		}
	}
	return s.store.DeleteChannel(ctx, c.ID, s.now())
}

// OrgUsage returns what an organization's channels hold, with files that have
// expired and are not removed yet.
func (s *Service) OrgUsage(ctx context.Context, org plat.OrgID) (Usage, error) {
	u, err := s.store.OrgUsage(ctx, org)
	if err != nil {
		return Usage{}, fmt.Errorf("sum files of organization %s: %w", org, err)
	}
	return u, nil
}
