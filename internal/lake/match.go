// SPDX-License-Identifier: Apache-2.0

package lake

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"panal/internal/lake/query"
	"panal/internal/plat"
)

// digest is 128 bits of SHA-256: no two values of a channel share it.
func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}

// Fields of the query language that are not metadata.
const (
	FieldContentType = "content_type"
	FieldFileID      = "file_id"
	FieldUploadedAt  = "uploaded_at"
)

// ParseQuery reads a query over files; see package query. A clause on the upload
// time must hold a time, or the beginning of one.
func ParseQuery(s string) (query.Node, error) {
	n, err := query.Parse(s)
	if err != nil || n == nil {
		return nil, err
	}
	query.Clauses(n, func(c query.Clause) {
		if err == nil && c.Field == FieldUploadedAt && c.Kind == query.Word {
			_, _, err = TimeRange(c.Value)
		}
		if err == nil && !storable(FieldKey(c.Field)) {
			err = plat.InvalidField("q", "the field %q holds a NUL; no metadata name does", c.Field)
		}
	})
	if err != nil {
		return nil, err
	}
	return n, nil
}

// Match tells whether f satisfies n, by looking at the file alone: it defines what
// the index must answer, and decides where the index only narrows.
func Match(n query.Node, f File) bool {
	if n == nil {
		return true
	}
	return query.Match(n, func(c query.Clause) bool {
		switch c.Field {
		case FieldContentType:
			return matchText(c, f.ContentType)
		case FieldFileID:
			return matchText(c, string(f.ID))
		case FieldUploadedAt:
			return matchTime(c, f.UploadedAt)
		}
		v, ok := f.Metadata.Get(FieldKey(c.Field))
		return ok && matchText(c, v)
	})
}

// matchText compares one value (data.md §12.1). A bare word without any letter or
// digit has no tokens to look for and is compared whole.
func matchText(c query.Clause, value string) bool {
	switch c.Kind {
	case query.Quoted:
		return value == c.Value
	case query.Glob:
		return query.GlobMatch(query.Fold(c.Value), query.Fold(value))
	case query.Word:
	}
	want := query.Tokens(c.Value)
	if len(want) == 0 {
		return value == c.Value
	}
	return query.HasRun(query.Tokens(value), want)
}

// matchTime compares the upload time: a bare word is the beginning of a time and
// means that whole span; quotes and globs see the text of the wire.
func matchTime(c query.Clause, at time.Time) bool {
	if c.Kind == query.Word {
		from, to, err := TimeRange(c.Value)
		return err == nil && !at.Before(from) && at.Before(to)
	}
	return matchText(c, at.UTC().Format(plat.TimeSecOffset))
}

// TimeRange reads the beginning of a UTC time (2024, 2024-03, 2024-03-15,
// 20240315, 2024-03-15T08, …:15, …:02, with or without Z) as the span it names.
func TimeRange(s string) (from, to time.Time, err error) {
	text := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(s), "Z"), "+00:00")
	for _, l := range []struct {
		layout string
		end    func(time.Time) time.Time
	}{
		{"2006-01-02T15:04:05", func(t time.Time) time.Time { return t.Add(time.Second) }},
		{"2006-01-02T15:04", func(t time.Time) time.Time { return t.Add(time.Minute) }},
		{"2006-01-02T15", func(t time.Time) time.Time { return t.Add(time.Hour) }},
		{"2006-01-02", func(t time.Time) time.Time { return t.AddDate(0, 0, 1) }},
		{"20060102", func(t time.Time) time.Time { return t.AddDate(0, 0, 1) }},
		{"2006-01", func(t time.Time) time.Time { return t.AddDate(0, 1, 0) }},
		{"2006", func(t time.Time) time.Time { return t.AddDate(1, 0, 0) }},
	} {
		if t, err := time.ParseInLocation(l.layout, text, time.UTC); err == nil {
			return t, l.end(t), nil
		}
	}
	return time.Time{}, time.Time{}, query.Invalid("%s:%s is not a time; write uploaded_at:2024-03-15, or the beginning of a time", FieldUploadedAt, s)
}

// SortKey is one key of an order.
type SortKey struct {
	Field string // one of the Fields, or a full metadata name
	Desc  bool
}

// ParseSort reads a comma list of keys, each with "-" in front for descending
// (data.md §10.4). Empty means by upload time.
func ParseSort(s string) ([]SortKey, error) {
	var keys []SortKey
	if s == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		k := SortKey{}
		k.Field, k.Desc = strings.CutPrefix(strings.TrimSpace(part), "-")
		switch meta := strings.HasPrefix(query.Fold(k.Field), MetaPrefix); {
		case k.Field == FieldUploadedAt, k.Field == FieldFileID, k.Field == FieldContentType, meta && len(k.Field) > len(MetaPrefix):
		default:
			return nil, plat.InvalidField("sort", "%q is not a sort key; use uploaded_at, file_id, content_type or %s<key>", k.Field, MetaPrefix)
		}
		if keys = append(keys, k); len(keys) > 8 {
			return nil, plat.InvalidField("sort", "has more than 8 keys")
		}
	}
	return keys, nil
}

// ByUploadTime tells whether an order is by upload time alone, which is the order
// of the index, and whether it descends.
func ByUploadTime(keys []SortKey) (desc, ok bool) {
	if len(keys) == 0 {
		return false, true
	}
	// Upload times are unique in a channel: what follows them decides nothing.
	return keys[0].Desc, keys[0].Field == FieldUploadedAt
}

// PositionOf returns the position just after f in an order.
func PositionOf(f File, keys []SortKey) *Position {
	p := &Position{At: f.UploadedAt.UnixMicro()}
	if _, ok := ByUploadTime(keys); ok {
		return p
	}
	p.ID, p.Values = string(f.ID), make([]string, len(keys))
	for i, k := range keys {
		switch k.Field {
		case FieldUploadedAt:
			p.Values[i] = f.UploadedAt.UTC().Format(plat.TimeMicroZ)
		case FieldFileID:
			p.Values[i] = string(f.ID)
		case FieldContentType:
			p.Values[i] = f.ContentType
		default:
			p.Values[i], _ = f.Metadata.Get(FieldKey(k.Field)) // a file without the key sorts as if empty
		}
	}
	return p
}

// Compare orders positions of the order keys: by the values byte for byte, then
// by file id.
func (p *Position) Compare(q *Position, keys []SortKey) int {
	if desc, ok := ByUploadTime(keys); ok {
		switch {
		case p.At == q.At:
			return 0
		case (p.At < q.At) != desc:
			return -1
		}
		return 1
	}
	for i, k := range keys {
		if c := strings.Compare(p.Values[i], q.Values[i]); c != 0 {
			if k.Desc {
				return -c
			}
			return c
		}
	}
	return strings.Compare(p.ID, q.ID)
}
