// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"context"
	"fmt"

	"panal/internal/plat"
)

// Purge deletes the lines of all streams of an organization whose workloads have
// ended. It can be repeated; nil means that there was nothing left.
//
// A repack that is under way (here or in another process) may put lines back that it
// had read before; a pass that deleted anything is therefore not the last.
func (s *Service) Purge(ctx context.Context, org plat.OrgID) error {
	if err := s.Repack(ctx); err != nil {
		return fmt.Errorf("repack: %w", err)
	}
	n, err := s.store.DeletePacked(ctx, streamKey(org, ""))
	if err != nil {
		return fmt.Errorf("delete packed records: %w", err)
	}
	if n > 0 {
		s.sizeMu.Lock()
		s.sizeAt = s.sizeAt.Add(-sizeFresh) // measure again
		s.sizeMu.Unlock()
		return plat.Errorf(plat.ErrUnavailable, "%d log records were deleted; looking again", n)
	}
	return nil
}

// OrgBytes returns the bytes that an organization's packed lines take. What came
// within the last moments is not packed yet, and not counted.
func (s *Service) OrgBytes(ctx context.Context, org plat.OrgID) (int64, error) {
	n, err := s.store.PackedBytes(ctx, streamKey(org, ""))
	if err != nil {
		return 0, fmt.Errorf("sum log records of organization %s: %w", org, err)
	}
	return n, nil
}
