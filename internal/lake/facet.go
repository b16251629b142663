// SPDX-License-Identifier: Apache-2.0

package lake

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"panal/internal/plat"
)

// Facet is how many files have a value.
type Facet struct {
	Value string // decoded
	Count int64
}

// CompareFacets orders by count, most first, then by value in byte order. Values that
// the index holds as a hash (longer than 64 bytes, or beginning with "~") come after
// the others of the same count, by that hash: their order is stable, and no more.
func CompareFacets(a, b Facet) int {
	at, bt := WholeToken(a.Value), WholeToken(b.Value)
	ah, bh := HashedToken(at), HashedToken(bt)
	switch {
	case a.Count != b.Count:
		return cmp.Compare(b.Count, a.Count)
	case ah && bh:
		return strings.Compare(at, bt)
	case ah:
		return 1
	case bh:
		return -1
	}
	return strings.Compare(a.Value, b.Value)
}

// HashedToken tells whether a whole value's token is a hash, from which the value
// can't be read.
func HashedToken(token string) bool {
	return strings.HasPrefix(token, "~") || strings.HasPrefix(token, "=~")
}

// FacetValue returns a file's value of a field as Store.Facets counts it.
func FacetValue(f File, field string) (string, bool) {
	if field == FieldContentType {
		return f.ContentType, true
	}
	return f.Metadata.Get(FieldKey(field))
}

// Facets counts the channel's files that match by the values of a field.
func (s *Service) Facets(ctx context.Context, org plat.OrgID, f Filter, field string, limit int) ([]Facet, bool, error) {
	switch field {
	case "":
		return nil, false, plat.InvalidField("key", "is missing: give a metadata name, or content_type")
	case FieldFileID, FieldUploadedAt:
		return nil, false, plat.InvalidField("key", "%s is different for each file; give a metadata name, or content_type", field)
	}
	if _, err := s.channel(ctx, org, f.Channel); err != nil {
		return nil, false, err
	}
	all, more, err := s.store.Facets(ctx, f, field, limit, s.now())
	if err != nil {
		return nil, false, fmt.Errorf("facets of channel %s: %w", f.Channel, err)
	}
	return all, more, nil
}
