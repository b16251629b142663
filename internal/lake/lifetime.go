// SPDX-License-Identifier: Apache-2.0

package lake

import (
	"context"
	"fmt"

	"panal/internal/plat"
)

// SetLifetime gives a file another lifetime (data.md §10.5): it can be changed and
// never taken away. It counts from the upload; where that has elapsed already, the
// file ends at once.
func (s *Service) SetLifetime(ctx context.Context, org plat.OrgID, channel plat.ChannelID, id plat.FileID, lifetime string) (File, error) {
	if _, err := s.own(ctx, org, channel); err != nil {
		return File{}, err
	}
	l, err := ParseLifetime(lifetime)
	if err == nil && l == "" {
		err = errLifetime()
	}
	if err != nil {
		return File{}, err
	}
	f, err := s.store.SetLifetime(ctx, channel, id, l, s.now())
	if err != nil {
		return File{}, err
	}
	if !f.Live(s.now()) {
		// Its row waits for Reap; its bytes go now, so that a download URL given out
		// before ends with it.
		if err := s.blobs.Delete(ctx, BlobKey(org, channel, id)); err != nil && !later(err) {
			return File{}, fmt.Errorf("end file %s: %w", id, err)
		}
	}
	return f, nil
}
