// SPDX-License-Identifier: Apache-2.0

package lake

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"panal/internal/lake/query"
	"panal/internal/plat"
)

// Facet is a value of a metadata key and how many files have it.
type Facet struct {
	Value string // decoded
	Files int64
}

// Facets are the values of a key among the files of a filter.
type Facets struct {
	Top      []Facet // the most frequent ones, by count and then by value
	Distinct int64   // how many values there are
	Files    int64   // how many files have the key
}

// FacetKey is the index key that a facet's key means: of content_type or of a
// metadata name, bare or in full.
func FacetKey(key string) string {
	if key == FieldContentType {
		return KeyContentType
	}
	return TermKey(FieldKey(key))
}

// TopFacets returns the facets of counted values: the limit most frequent ones.
func TopFacets(counts map[string]int64, limit int) Facets {
	f := Facets{Distinct: int64(len(counts)), Top: make([]Facet, 0, len(counts))}
	for value, n := range counts {
		f.Files += n
		f.Top = append(f.Top, Facet{value, n})
	}
	SortFacets(f.Top)
	f.Top = f.Top[:min(limit, len(f.Top))]
	return f
}

// SortFacets orders by count, greatest first, and then by value.
func SortFacets(all []Facet) {
	slices.SortFunc(all, func(a, b Facet) int {
		return cmp.Or(cmp.Compare(b.Files, a.Files), strings.Compare(a.Value, b.Value))
	})
}

// FacetValue returns a file's value of a facet's key; ok is false where it has none.
func FacetValue(f File, key string) (value string, ok bool) {
	if key == FieldContentType {
		return f.ContentType, true
	}
	return f.Metadata.Get(FieldKey(key))
}

// TokenValue returns the value for which WholeToken is token; ok is false where the
// token holds a hash in its place.
func TokenValue(token string) (value string, ok bool) {
	if strings.HasPrefix(token, "~") || strings.HasPrefix(token, "=~") {
		return "", false
	}
	return strings.TrimPrefix(token, "="), true
}

// Facets returns the most frequent values of a metadata key (bare or in full, or
// content_type) among the files that match f.
func (s *Service) Facets(ctx context.Context, org plat.OrgID, f Filter, key string, limit int) (Facets, error) {
	if key == "" {
		return Facets{}, plat.InvalidField("key", "say of which metadata name, for example key=label")
	}
	if !storable(FieldKey(key)) {
		return Facets{}, plat.InvalidField("key", "no metadata name holds a NUL, or what is not UTF-8")
	}
	if key != FieldContentType && FieldKey(key) == "" {
		return Facets{}, plat.InvalidField("key", "no metadata name is empty")
	}
	if key == FieldFileID || key == FieldUploadedAt || strings.HasPrefix(query.Fold(key), SysPrefix) {
		return Facets{}, plat.InvalidField("key", "%s is no metadata name of files: it has no facets", key)
	}
	if _, err := s.channel(ctx, org, f.Channel); err != nil {
		return Facets{}, err
	}
	out, err := s.store.Facets(ctx, f, key, limit, s.now())
	if err != nil {
		return Facets{}, fmt.Errorf("facets of channel %s: %w", f.Channel, err)
	}
	return out, nil
}
