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
	for buckets := false; ; {
		all, _, err := s.store.Channels(ctx, org, ChannelPage{Buckets: buckets, IncludeArchived: true, Limit: 100})
		if err != nil {
			return fmt.Errorf("list channels: %w", err)
		}
		if len(all) == 0 && buckets {
			break
		}
		buckets = buckets || len(all) == 0
		for _, c := range all {
			now := s.now()
			if err := s.store.DropChannel(ctx, c.ID, now); err != nil && !errors.Is(err, plat.ErrNotFound) {
				return fmt.Errorf("purge channel %s: %w", c.ID, err)
			}
			if err := s.sweep(ctx, GoneChannel{ID: c.ID, Org: org, DeletedAt: now}); err != nil {
				return fmt.Errorf("purge channel %s: %w", c.ID, err)
			}
		}
	}
	// What a try before this one had dropped and not swept to the end.
	gone, err := s.store.Gone(ctx, s.now())
	if err != nil {
		return fmt.Errorf("list deleted channels: %w", err)
	}
	for _, g := range gone {
		if g.Org != org {
			continue
		}
		if err := s.sweep(ctx, g); err != nil {
			return fmt.Errorf("purge channel %s: %w", g.ID, err)
		}
	}
	return nil
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
