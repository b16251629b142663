// SPDX-License-Identifier: Apache-2.0

package dataset

import (
	"context"
	"encoding/json"
	"strings"

	"panal/internal/plat"
)

// maxReferring is how many datasets are named when something is in use.
const maxReferring = 10

// Referring returns datasets of the organization with an item whose source data is
// in the channel, up to ten, and whether there are more.
func (s *Service) Referring(ctx context.Context, org plat.OrgID, channel plat.ChannelID) (users []Dataset, more bool, err error) {
	all, err := s.store.Datasets(ctx, org, "", 0)
	if err != nil {
		return nil, false, err
	}
	prefix := "datalake://" + string(channel) + "/"
	for _, d := range all {
		refers, err := s.store.AnySource(ctx, d.ID, string(channel), func(source json.RawMessage) bool { return within(source, prefix) })
		switch {
		case err != nil:
			return nil, false, err
		case !refers:
		case len(users) == maxReferring:
			return users, true, nil
		default:
			users = append(users, d)
		}
	}
	return users, false, nil
}

// within tells whether an entry of an item's source data begins with prefix. The
// JSON is as it was sent: its text may be escaped.
func within(source json.RawMessage, prefix string) bool {
	var entries []struct {
		URI string `json:"data_uri"`
	}
	if json.Unmarshal(source, &entries) != nil {
		return true // better one too many than a channel that is missed
	}
	for _, e := range entries {
		if strings.HasPrefix(strings.ToLower(e.URI), prefix) {
			return true
		}
	}
	return false
}
