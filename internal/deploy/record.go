// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"panal/internal/plat"
)

// RecordPercentVariable of a service's environment is how many of its calls are
// recorded, in percent: a whole number from 0 to 100.
const RecordPercentVariable = "PANAL_RECORD_PERCENT"

// RecordPercent is how many of the service's calls are recorded.
func (s Service) RecordPercent() int {
	text, ok := s.Merged[RecordPercentVariable]
	if !ok {
		return 100
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > 100 {
		return 0 // checkRecord refused it
	}
	return n
}

// checkRecord returns ErrInvalid unless the service's calls can be recorded as it says.
func (m *Manager) checkRecord(ctx context.Context, s Service) error {
	switch {
	case s.RecordChannel != "":
	case s.RecordOutputs:
		return plat.InvalidField("record_outputs", "needs record_channel_id, the channel that gets them beside the inputs")
	default:
		return nil
	}
	if text, ok := s.Merged[RecordPercentVariable]; ok {
		if n, err := strconv.Atoi(text); err != nil || n < 0 || n > 100 {
			return plat.InvalidField("environment", "%s=%.20q must be a whole number from 0 to 100", RecordPercentVariable, text)
		}
	}
	if m.RecordChannel == nil {
		return plat.Errorf(plat.ErrUnsupported, "record_channel_id: inputs can't be recorded here")
	}
	switch err := m.RecordChannel(ctx, s.Org, s.RecordChannel); {
	case errors.Is(err, plat.ErrNotFound), errors.Is(err, plat.ErrForbidden), errors.Is(err, plat.ErrInvalid):
		return plat.InvalidField("record_channel_id", "this organization has no channel %.60s that takes uploads; name another one, or \"\" to record nothing", s.RecordChannel)
	case err != nil:
		return fmt.Errorf("find channel %s: %w", s.RecordChannel, err)
	}
	return nil
}
