// SPDX-License-Identifier: Apache-2.0

package lake

import (
	"context"
	"fmt"
	"time"

	"panal/internal/plat"
)

const (
	// sweepRows bounds one transaction of a sweep.
	sweepRows = 5000
	// sweepAtOnce is how long the call that deletes a channel works at returning what
	// it held; the rest is Reap's.
	sweepAtOnce = 10 * time.Second
	// sweepGrace is how long after its deletion a channel is swept again: far longer
	// than a commit that had seen the channel may take.
	sweepGrace = 20 * commitLimit
)

// DeleteChannel deletes a channel with everything in it. For every reader it is
// gone when this returns; its bytes return at once where that is a matter of
// seconds, else in the background. Whether something still refers to it is for the
// caller to ask first.
func (s *Service) DeleteChannel(ctx context.Context, org plat.OrgID, id plat.ChannelID) (Channel, error) {
	c, err := s.Channel(ctx, org, id)
	if err != nil {
		return Channel{}, err
	}
	return s.drop(ctx, c)
}

func (s *Service) drop(ctx context.Context, c Channel) (Channel, error) {
	now := s.now()
	defer s.takers.drop(c.ID)
	if err := s.store.DropChannel(ctx, c.ID, now); err != nil {
		return Channel{}, fmt.Errorf("delete channel %s: %w", c.ID, err)
	}
	sweep, cancel := context.WithTimeout(ctx, sweepAtOnce)
	defer cancel()
	// The channel is deleted; what fails or takes longer here is repeated by Reap.
	_ = s.sweep(sweep, GoneChannel{ID: c.ID, Org: c.Org, DeletedAt: now})
	return c, nil
}

// sweepGone removes what deleted channels have left.
func (s *Service) sweepGone(ctx context.Context) error {
	gone, err := s.store.Gone(ctx, s.now())
	if err != nil {
		return fmt.Errorf("sweep deleted channels: %w", err)
	}
	for _, g := range gone {
		old := s.now().Sub(g.DeletedAt) > sweepGrace // nobody adds to it any more
		if err := s.sweep(ctx, g); err != nil {
			return fmt.Errorf("sweep deleted channel %s: %w", g.ID, err)
		}
		if !old {
			continue
		}
		if err := s.store.Forget(ctx, g.ID); err != nil {
			return fmt.Errorf("sweep deleted channel %s: %w", g.ID, err)
		}
	}
	return nil
}

// sweep deletes a deleted channel's objects and rows.
func (s *Service) sweep(ctx context.Context, g GoneChannel) error {
	for _, prefix := range []string{ChannelPrefix(g.Org, g.ID), IncomingKey(g.Org, g.ID, "")} {
		if err := s.sweepObjects(ctx, prefix); err != nil {
			return err
		}
	}
	for {
		clean, err := s.store.Sweep(ctx, g.ID, sweepRows)
		if err != nil || clean {
			return err
		}
	}
}

func (s *Service) sweepObjects(ctx context.Context, prefix string) error {
	for {
		infos, more, err := s.blobs.List(ctx, prefix, "", 1000)
		if err != nil {
			return err
		}
		keys := make([]string, len(infos))
		for i, info := range infos {
			keys[i] = info.Key
		}
		if err := s.deleteObjects(ctx, keys); err != nil || !more {
			return err
		}
	}
}
