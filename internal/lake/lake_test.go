// SPDX-License-Identifier: Apache-2.0

package lake_test

import (
	"encoding/base64"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"panal/internal/lake"
	"panal/internal/plat"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

func fromWire(strict bool, pairs ...string) (lake.Metadata, error) {
	return lake.FromWire(func(yield func(string, string) bool) {
		for i := 0; i+1 < len(pairs); i += 2 {
			if !yield(pairs[i], pairs[i+1]) {
				return
			}
		}
	}, strict)
}

// data.md §11.
func TestMetadataFromWire(t *testing.T) {
	m, err := fromWire(false, "X-Abeja-Meta-Label_id", "1", "x-abeja-meta-%E3%83%86", "%E7%8C%AB", "Host", "x", "X-ABEJA-SYS-META-organizationid", "evil",
		"x-abeja-meta-x-abeja-meta-filename", "odd", "x-abeja-meta-bad", "%zz 100%")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"x-abeja-meta-label_id": "1", "x-abeja-meta-%e3%83%86": "%E7%8C%AB", "x-abeja-meta-x-abeja-meta-filename": "odd", "x-abeja-meta-bad": "%zz 100%",
		"x-abeja-sys-meta-organizationid": "7",
	}
	if d := cmp.Diff(want, m.Wire("7")); d != "" {
		t.Error(d)
	}
	for key, want := range map[string]string{"label_id": "1", "テ": "猫", "bad": "%zz 100%", "x-abeja-meta-filename": "odd"} {
		if got, ok := m.Get(key); !ok || got != want {
			t.Errorf("Get(%s) = %q, %v", key, got, ok)
		}
	}
	if _, ok := m.Get("%e3%83%86"); ok {
		t.Error("an encoded name is found as if it were an index key")
	}

	big := []string{}
	for k := range strings.SplitSeq("abcdefghi", "") {
		big = append(big, "x-abeja-meta-"+k, strings.Repeat("v", 1900))
	}
	for what, c := range map[string]struct {
		field string
		pairs []string
	}{
		"no prefix":      {"label", []string{"label", "1"}},
		"empty name":     {"x-abeja-meta-", []string{"x-abeja-meta-", "1"}},
		"twice":          {"x-abeja-meta-a", []string{"x-abeja-meta-a", "1", "X-Abeja-Meta-A", "2"}},
		"twice, encoded": {"x-abeja-meta-a", []string{"x-abeja-meta-a", "1", "x-abeja-meta-%61", "2"}},
		"long value":     {"x-abeja-meta-a", []string{"x-abeja-meta-a", strings.Repeat("v", 2049)}},
		"several":        {"x-abeja-meta-a", []string{"x-abeja-meta-c", "\xff", "x-abeja-meta-a", strings.Repeat("v", 2049), "x-abeja-meta-b", "\xff"}},
		"total":          {"metadata", big},
		"NUL":            {"x-abeja-meta-a", []string{"x-abeja-meta-a", "x%00"}},
		"raw NUL":        {"x-abeja-meta-a", []string{"x-abeja-meta-a", "x\x00%zz"}},
		"NUL in a name":  {"x-abeja-meta-%00", []string{"x-abeja-meta-%00", "x"}},
		"not UTF-8":      {"x-abeja-meta-a", []string{"x-abeja-meta-a", "\xff"}},
	} {
		_, err := fromWire(true, c.pairs...)
		var pe *plat.Error
		if !errors.Is(err, plat.ErrInvalid) || !errors.As(err, &pe) {
			t.Errorf("%s = %v, want ErrInvalid", what, err)
			continue
		}
		if fields := slices.Collect(maps.Keys(pe.Detail)); c.field != "" && !slices.Equal(fields, []string{c.field}) {
			t.Errorf("%s names %q, want %q", what, fields, c.field)
		}
	}
}

// data.md §12.1: what each kind of value matches.
func TestMatch(t *testing.T) {
	f := lake.File{
		ID: "20240315T081502-5f0d9c1e-7a43-4b7e-9f53-0c2e6a1d8b11", ContentType: "image/PNG",
		UploadedAt: time.Date(2024, 3, 15, 8, 15, 2, 123456000, time.UTC),
		Metadata:   lake.Metadata{"label": "black%20Cat", "file": "cat-1.jpg", "kind": "category", "empty": "", "dash": "-", "uploaded_at": "x"},
	}
	for q, want := range map[string]bool{
		"label:cat": true, "label:CAT": true, "label:black": true, "label:black-cat": true, "label:cat-black": false, "LABEL:cat": true, "x-abeja-meta-label:cat": true,
		"X-Abeja-Meta-Label:cat": true, "file:cat": true, "file:1.jpg": true, "file:cat.jpg": false, "kind:cat": false,
		`label:"black Cat"`: true, `label:"black cat"`: false, `label:"black%20Cat"`: false, `label:"cat"`: false,
		"label:black*": true, "label:*CAT": true, "label:*a*c*": true, "label:bl?ck?cat": true, "label:c*": false, "kind:cat*": true,
		`empty:""`: true, `missing:""`: false, "empty:*": true, "missing:*": false, "dash:-": true, "dash:--": false, "NOT missing:x": true,
		"content_type:image/png": true, "content_type:png": true, `content_type:"image/PNG"`: true, `content_type:"image/png"`: false, "content_type:image/*": true,
		"file_id:20240315T081502": true, "file_id:20240315t081502-5f0d9c1e": true, "file_id:2024*": true, "file_id:20240315": false, "file_id:5f0d9c1e": true,
		"uploaded_at:2024": true, "uploaded_at:2024-03": true, "uploaded_at:2024-03-15": true, "uploaded_at:20240315": true, "uploaded_at:2024-03-15T08": true,
		"uploaded_at:2024-03-15T08:15": true, "uploaded_at:2024-03-15T08:15:02Z": true, "uploaded_at:2024-03-15T08:15:03": false, "uploaded_at:2024-04": false,
		`uploaded_at:"2024-03-15T08:15:02+00:00"`: true, "uploaded_at:2024-03-*": true, "x-abeja-meta-uploaded_at:x": true,
	} {
		n, err := lake.ParseQuery(q)
		if err != nil {
			t.Errorf("%s: %v", q, err)
			continue
		}
		if lake.Match(n, f) != want {
			t.Errorf("%s = %v", q, !want)
		}
	}
	if !lake.Match(nil, f) {
		t.Error("no query matches nothing")
	}
	for _, q := range []string{"uploaded_at:yesterday", "a:1 OR NOT uploaded_at:2024-13"} {
		if _, err := lake.ParseQuery(q); !errors.Is(err, plat.ErrInvalid) {
			t.Errorf("ParseQuery(%s) = %v", q, err)
		}
	}
}

func TestLifetimes(t *testing.T) {
	for l, days := range map[string]int{"": 0, "1day": 1, "1week": 7, "1month": 30, "6months": 180, "1year": 365} {
		if got, err := lake.ParseLifetime(l); err != nil || got.Duration() != time.Duration(days)*24*time.Hour {
			t.Errorf("%q = %v, %v", l, got.Duration(), err)
		}
	}
	for _, l := range []string{"2days", "1Day", "forever"} {
		if _, err := lake.ParseLifetime(l); !errors.Is(err, plat.ErrInvalid) {
			t.Errorf("%q = %v", l, err)
		}
	}
}

// data.md §10.4, §22 check 12: whole days in a zone.
func TestParseDays(t *testing.T) {
	from, to, err := lake.ParseDays("20240315", "20240316", "Asia/Tokyo")
	if err != nil || from.Format(plat.TimeSecZ) != "2024-03-14T15:00:00Z" || to.Format(plat.TimeSecZ) != "2024-03-16T15:00:00Z" {
		t.Errorf("Tokyo: %v %v %v", from, to, err)
	}
	// The day that summer time begins has 23 hours.
	from, to, err = lake.ParseDays("20240310", "20240310", "America/New_York")
	if err != nil || to.Sub(from) != 23*time.Hour {
		t.Errorf("New York: %v, %v", to.Sub(from), err)
	}
	if from, to, err := lake.ParseDays("", "", "Asia/Tokyo"); err != nil || !from.IsZero() || !to.IsZero() {
		t.Errorf("no days: %v %v %v", from, to, err)
	}
	for _, c := range [][3]string{{"", "", "nonsense"}, {"20240315", "", ""}, {"", "20240315", ""}, {"2024-03-15", "20240315", ""}, {"20240315", "x", ""}, {"20240315", "20240315", "Mars"}, {"20240315", "20240315", "Local"}} {
		if _, _, err := lake.ParseDays(c[0], c[1], c[2]); !errors.Is(err, plat.ErrInvalid) {
			t.Errorf("ParseDays(%q) = %v", c, err)
		}
	}
}

func TestParseSort(t *testing.T) {
	got, err := lake.ParseSort("-uploaded_at, file_id,X-Abeja-Meta-Label")
	want := []lake.SortKey{{Field: "uploaded_at", Desc: true}, {Field: "file_id"}, {Field: "X-Abeja-Meta-Label"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, s := range []string{"size", ",", "--file_id", "x-abeja-meta-", strings.Repeat("file_id,", 8) + "file_id"} {
		if _, err := lake.ParseSort(s); !errors.Is(err, plat.ErrInvalid) {
			t.Errorf("ParseSort(%q) = %v", s, err)
		}
	}
}

// Terms of values that are one token as they stand need one index entry, not two.
func TestTerms(t *testing.T) {
	got := lake.Terms("png", lake.Metadata{"a": "train", "b": "Black cat cat", "c": "", "d%20e": "7"})
	slices.SortFunc(got, func(a, b lake.Term) int { return strings.Compare(a.Key+" "+a.Token, b.Key+" "+b.Token) })
	want := []lake.Term{
		{Key: "", Token: "png", Whole: true},
		{Key: "a", Token: "train", Whole: true},
		{Key: "b", Token: "=Black cat cat", Whole: true},
		{Key: "b", Token: "black"},
		{Key: "b", Token: "cat"},
		{Key: "c", Token: "=", Whole: true},
		{Key: "d e", Token: "7", Whole: true},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// Signatures are stored: what is computed for a query must be among the bits that an
// earlier version stored.
func TestSignature(t *testing.T) {
	cat, train := lake.Term{Key: "label", Token: "cat", Whole: true}, lake.Term{Key: "split", Token: "train"}
	for _, c := range []struct {
		terms []lake.Term
		want  uint64
	}{
		{nil, 0},
		{[]lake.Term{cat}, 0x800000000200000},
		{[]lake.Term{train}, 0x40000000000004},
		{[]lake.Term{train, cat}, 0x840000000200004},
	} {
		if got := uint64(lake.Signature(c.terms)); got != c.want {
			t.Errorf("Signature(%v) = %#x, want %#x", c.terms, got, c.want)
		}
	}
}

// FuzzMetadata: whatever passes the check indexes within bounds and is found under
// its own decoded name and value.
func FuzzMetadata(f *testing.F) {
	f.Add("label", "black%20cat")
	f.Add("%E3%83%86", "%ff%")
	f.Add("~", "=")
	f.Fuzz(func(t *testing.T, key, value string) {
		m, err := fromWire(true, "x-abeja-meta-"+key, value)
		if err != nil {
			if !errors.Is(err, plat.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		for raw, v := range m {
			if v != value {
				t.Fatalf("%q became %q", value, v)
			}
			got, ok := m.Get(lake.IndexKey(raw))
			if !ok || got != lake.Decode(value) {
				t.Fatalf("Get(IndexKey(%q)) = %q, %v", raw, got, ok)
			}
			whole := 0
			for _, term := range lake.Terms("", m) {
				if len(term.Token) > 70 || len(term.Key) > 70 || strings.ContainsRune(term.Token+term.Key, 0) {
					t.Fatalf("term %+v", term)
				}
				if term.Whole && term.Key == lake.TermKey(lake.IndexKey(raw)) && term.Token == lake.WholeToken(got) {
					whole++
				}
			}
			if whole != 1 {
				t.Fatalf("%d whole terms of %q", whole, value)
			}
		}
	})
}

// FuzzParseToken: a token is refused, or is a search that its own channel can run.
func FuzzParseToken(f *testing.F) {
	for _, s := range []string{
		`{"c":"1","n":5,"a":{"t":7}}`, `{"c":"1","q":"a:1 OR b:2","s":[{"Field":"file_id","Desc":true}],"n":5,"a":{"t":7,"i":"x","v":["x"]}}`,
		`{"c":"2","n":5,"a":{"t":7}}`, `{"c":"1","n":0,"a":{"t":7}}`, `{"c":"1","n":5}`, `{"c":"1","s":[{"Field":"file_id"}],"n":5,"a":{"t":7}}`,
	} {
		f.Add(base64.RawURLEncoding.EncodeToString([]byte(s)))
	}
	f.Fuzz(func(t *testing.T, s string) {
		in, err := lake.ParseToken("1", s)
		if err != nil {
			if !errors.Is(err, plat.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if in.Channel != "1" || in.Limit < 1 || in.After == nil {
			t.Fatalf("%+v", in)
		}
		_ = in.After.Compare(in.After, in.Sort) // must not reach past its values
	})
}
