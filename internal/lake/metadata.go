// SPDX-License-Identifier: Apache-2.0

package lake

import (
	"cmp"
	"iter"
	"maps"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"

	"panal/internal/lake/query"
	"panal/internal/plat"
)

// Default limits of a file's metadata (data.md §11).
const (
	MaxMetadataValue = 2 << 10
	MaxMetadataTotal = 16 << 10
	maxMetadataKey   = 512
)

// Limits bound a file's metadata, in bytes as it is sent; zero fields are the
// defaults. Total counts full names and values.
type Limits struct{ Key, Value, Total int }

func limitsOf(given []Limits) Limits {
	var l Limits
	if len(given) > 0 {
		l = given[0]
	}
	l.Key, l.Value, l.Total = cmp.Or(l.Key, maxMetadataKey), cmp.Or(l.Value, MaxMetadataValue), cmp.Or(l.Total, MaxMetadataTotal)
	return l
}

// Prefixes of metadata names on the wire. They come back in lower case.
const (
	MetaPrefix = "x-abeja-meta-"
	SysPrefix  = "x-abeja-sys-meta-"
)

// Metadata is a file's user metadata as it was sent: names without MetaPrefix,
// folded to lower case, and values, both still percent-encoded where the client
// encoded them.
type Metadata map[string]string

// FromWire reads prefixed names (headers, or the keys of a JSON object). Names
// with SysPrefix are the server's own and are left out. When strict, a name with
// neither prefix is ErrInvalid; else it is left out too.
func FromWire(each func(yield func(name, value string) bool), strict bool, limits ...Limits) (Metadata, error) {
	m := Metadata{}
	var err error
	each(func(name, value string) bool {
		folded := query.Fold(name)
		key, ok := strings.CutPrefix(folded, MetaPrefix)
		switch {
		case ok && m.has(key):
			err = plat.InvalidField(folded, "is given twice")
		case ok:
			m[key] = value
		case strings.HasPrefix(folded, SysPrefix) || !strict:
		default:
			err = plat.InvalidField(name, "metadata names begin with %s", MetaPrefix)
		}
		return err == nil
	})
	if err == nil {
		err = m.Check(limits...)
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (m Metadata) has(key string) bool { _, ok := m[key]; return ok }

// Check returns ErrInvalid, naming the field, unless m keeps the limits and can
// be stored and compared.
func (m Metadata) Check(limits ...Limits) error {
	lim := limitsOf(limits)
	if m.check(maps.Keys(m), lim) == nil {
		return nil
	}
	// Of several the first by name is told, each time.
	return m.check(slices.Values(slices.Sorted(maps.Keys(m))), lim)
}

func (m Metadata) check(names iter.Seq[string], lim Limits) error {
	total := 0
	decoded := map[string]string{}
	for raw := range names {
		value := m[raw]
		field := MetaPrefix + raw
		total += len(field) + len(value)
		key := IndexKey(raw)
		switch {
		case key == "":
			return plat.InvalidField(field, "the metadata name is empty")
		case len(raw) > lim.Key:
			return plat.InvalidField(field[:min(64, len(field))]+"…", "the metadata name has %d bytes; the limit is %d", len(raw), lim.Key)
		case len(value) > lim.Value:
			return plat.InvalidField(field, "is %d bytes long; the limit is %d", len(value), lim.Value)
		case !utf8.ValidString(raw) || !utf8.ValidString(value):
			return plat.InvalidField(strings.ToValidUTF8(field, "�"), "is not UTF-8; percent-encode it")
		case strings.ContainsRune(key, 0) || strings.ContainsRune(Decode(value), 0) || strings.ContainsRune(raw, 0) || strings.ContainsRune(value, 0):
			return plat.InvalidField(strings.ReplaceAll(field, "\x00", ""), "contains a NUL character")
		}
		if other, twice := decoded[key]; twice {
			return plat.InvalidField(field, "is the same name as %s%s", MetaPrefix, other)
		}
		decoded[key] = raw
	}
	if total > lim.Total {
		return plat.InvalidField("metadata", "is %d bytes in all; the limit is %d", total, lim.Total)
	}
	return nil
}

// Get returns the decoded value under an index key.
func (m Metadata) Get(key string) (string, bool) {
	if v, ok := m[key]; ok && IndexKey(key) == key { // as nearly every name is: plain
		return Decode(v), true
	}
	for raw, v := range m {
		if IndexKey(raw) == key {
			return Decode(v), true
		}
	}
	return "", false
}

// Wire returns the metadata as clients see it, with the server's own names.
func (m Metadata) Wire(org plat.OrgID) map[string]string {
	out := make(map[string]string, len(m)+1)
	for k, v := range m {
		out[MetaPrefix+k] = v
	}
	out[SysPrefix+"organizationid"] = string(org)
	return out
}

// Decode undoes percent-encoding. A text with an invalid escape, or one that does
// not decode to UTF-8, stands for itself.
func Decode(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	d, err := url.PathUnescape(s)
	if err != nil || !utf8.ValidString(d) {
		return s
	}
	return d
}

// IndexKey is the form of a metadata name that is compared: decoded, folded.
func IndexKey(raw string) string { return query.Fold(Decode(raw)) }

// storable tells whether an index key can be one of a file's: PostgreSQL takes any
// other text for an error, even to compare with.
func storable(key string) bool { return strings.IndexByte(key, 0) < 0 && utf8.ValidString(key) }

// FieldKey is IndexKey of a query's field or of a conflict target: a full
// metadata name or a bare one.
func FieldKey(field string) string {
	return IndexKey(strings.TrimPrefix(query.Fold(field), MetaPrefix))
}

// Terms of the index.

// Term is one entry of the index about a file: its value under Key has Token.
type Term struct {
	Key   string
	Token string
	Whole bool // Token stands for the whole value, exactly
}

// KeyContentType is the index key of the content type. No metadata name is empty.
const KeyContentType = ""

// Terms returns what the index holds about a file, in no order, without repeats.
func Terms(contentType string, m Metadata) []Term {
	out := valueTerms(nil, KeyContentType, contentType)
	for raw, v := range m {
		out = valueTerms(out, TermKey(IndexKey(raw)), Decode(v))
	}
	return out
}

// Signature is a Bloom filter of terms: two bits for each. Each entry of the index
// carries its file's, so that a search for several terms reads one range and looks up
// in the others only what may be there. A file of a dozen terms seems to have another
// in a tenth of all cases; one of a hundred always does, and costs what it would
// without. What is stored may have more bits, never fewer.
func Signature(terms []Term) int64 {
	sig := uint64(0)
	for _, t := range terms {
		var h xxhash.Digest
		h.Reset()
		_, _ = h.WriteString(t.Key)
		_, _ = h.WriteString("\x00")
		_, _ = h.WriteString(t.Token)
		sum := h.Sum64()
		sig |= 1<<(sum&63) | 1<<(sum>>6&63)
	}
	return int64(sig)
}

func valueTerms(out []Term, key, value string) []Term {
	whole := WholeToken(value)
	out = append(out, Term{Key: key, Token: whole, Whole: true})
	first := len(out)
	for _, tok := range query.Tokens(value) {
		t := Term{Key: key, Token: TermToken(tok)}
		if t.Token != whole && !slices.Contains(out[first:], t) {
			out = append(out, t)
		}
	}
	return out
}

// maxTerm is how long a key or token stands in the index as it is. Longer ones
// are replaced by their hash: database indexes bound their entries.
const maxTerm = 64

// TermKey is the form of an index key in Term.Key.
func TermKey(key string) string {
	if len(key) > maxTerm || strings.HasPrefix(key, "~") {
		return "~" + digest(key)
	}
	return key
}

// TermToken is the form of one of query.Tokens in Term.Token.
func TermToken(tok string) string {
	if len(tok) > maxTerm {
		return "~" + digest(tok)
	}
	return tok
}

// WholeToken is the token under which a whole value is found (with Term.Whole):
// the value itself when it is a single token as it stands, which most labels and
// numbers are and which saves an entry; else "=" and the value or its hash.
func WholeToken(value string) string {
	switch toks := query.Tokens(value); {
	case len(toks) == 1 && toks[0] == value:
		return TermToken(value)
	case len(value) > maxTerm:
		return "=~" + digest(value)
	case strings.HasPrefix(value, "~"):
		return "=~" + digest(value)
	}
	return "=" + value
}
