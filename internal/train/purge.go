// SPDX-License-Identifier: Apache-2.0

package train

import (
	"context"
	"errors"
	"fmt"

	"panal/internal/plat"
)

// Purge stops the jobs of an organization and deletes its definitions with their
// versions, jobs and models; the bytes follow by the trash. It can be repeated; nil
// means that there was nothing left, ErrUnavailable that jobs still have to end.
func (s *Service) Purge(ctx context.Context, org plat.OrgID) error {
	jobs, err := s.store.Unsettled(ctx)
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	running, now := 0, s.now()
	for _, j := range jobs {
		if j.Org != org {
			continue
		}
		running++
		_, err := s.store.UpdateJob(ctx, j.ID, func(j *Job) (*Model, error) {
			if !j.Status.Terminal() {
				j.Status, j.CompletedAt, j.ModifiedAt = Stopped, now, now
				j.StatusMessage = "its organization is being deleted"
			}
			return nil, nil
		})
		if err != nil && !errors.Is(err, plat.ErrNotFound) {
			return fmt.Errorf("stop job %s: %w", j.ID, err)
		}
	}
	if running > 0 {
		return plat.Errorf(plat.ErrUnavailable, "%d jobs still have to end", running)
	}
	for {
		all, _, err := s.store.Definitions(ctx, org, Page{Limit: 100})
		if err != nil {
			return fmt.Errorf("list job definitions: %w", err)
		}
		if len(all) == 0 {
			return nil
		}
		for _, d := range all {
			err := s.store.DeleteDefinition(ctx, d.ID, definitionPrefix(d.Org, d.ID), now)
			if err != nil && !errors.Is(err, plat.ErrNotFound) {
				return fmt.Errorf("delete job definition %s: %w", d.ID, err)
			}
		}
	}
}

// CountJobs returns how many jobs an organization has, ended ones too.
func (s *Service) CountJobs(ctx context.Context, org plat.OrgID) (int64, error) {
	n, err := s.store.CountJobs(ctx, org)
	if err != nil {
		return 0, fmt.Errorf("count jobs of organization %s: %w", org, err)
	}
	return n, nil
}
