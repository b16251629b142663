// SPDX-License-Identifier: Apache-2.0

package lake

import (
	"context"
	"maps"
	"slices"
	"strings"

	"panal/internal/lake/query"
	"panal/internal/plat"
)

// Patch says which names of a file's metadata change: a text sets the name, nil
// removes it. Names are as in Metadata.
type Patch map[string]*string

// ParsePatch reads prefixed names, as FromWire does when strict.
func ParsePatch(fields map[string]*string) (Patch, error) {
	p := Patch{}
	for _, name := range slices.Sorted(maps.Keys(fields)) { // so that the same bad name is told each time
		v, folded := fields[name], query.Fold(name)
		key, ok := strings.CutPrefix(folded, MetaPrefix)
		switch {
		case ok && p.has(key):
			return nil, plat.InvalidField(folded, "is given twice")
		case ok:
			p[key] = v
		case strings.HasPrefix(folded, SysPrefix):
		default:
			return nil, plat.InvalidField(name, "metadata names begin with %s", MetaPrefix)
		}
	}
	return p, p.check()
}

func (p Patch) has(key string) bool { _, ok := p[key]; return ok }

// With returns m with the changes of p, checked. A name that m has in another
// spelling (%e3 for %E3) is the same name: it is replaced, not doubled. Removing
// what is not there changes nothing.
func (m Metadata) With(p Patch, lim Limits) (Metadata, error) {
	out := maps.Clone(m)
	if out == nil {
		out = Metadata{}
	}
	for raw := range p {
		key := IndexKey(raw)
		maps.DeleteFunc(out, func(have, _ string) bool { return IndexKey(have) == key })
	}
	for raw, v := range p {
		if v != nil {
			out[raw] = *v
		}
	}
	return out, out.Check(lim)
}

// check refuses two spellings of one name: which of them is meant?
func (p Patch) check() error {
	spelled := map[string]string{}
	for _, raw := range slices.Sorted(maps.Keys(p)) {
		key := IndexKey(raw)
		if other, twice := spelled[key]; twice {
			return plat.InvalidField(MetaPrefix+raw, "is the same name as %s%s", MetaPrefix, other)
		}
		spelled[key] = raw
	}
	return nil
}

// PatchMetadata changes single names of a file's user metadata.
func (s *Service) PatchMetadata(ctx context.Context, org plat.OrgID, channel plat.ChannelID, id plat.FileID, p Patch) (File, error) {
	if _, err := s.own(ctx, org, channel); err != nil {
		return File{}, err
	}
	if err := p.check(); err != nil {
		return File{}, err
	}
	return s.store.PatchMetadata(ctx, channel, id, p, s.limits, s.now())
}
