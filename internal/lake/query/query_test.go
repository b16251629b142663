// SPDX-License-Identifier: Apache-2.0

package query_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"panal/internal/lake/query"
	"panal/internal/plat"
)

func c(field, value string) query.Clause {
	k := query.Word
	if strings.ContainsAny(value, "*?") {
		k = query.Glob
	}
	return query.Clause{Field: field, Kind: k, Value: value}
}

func q(field, value string) query.Clause {
	return query.Clause{Field: field, Kind: query.Quoted, Value: value}
}

// data.md §12.1: the grammar.
func TestParse(t *testing.T) {
	for in, want := range map[string]query.Node{
		"":                          nil,
		" \t　":                      nil,
		"label:cat":                 c("label", "cat"),
		"x-abeja-meta-filename:cat": c("x-abeja-meta-filename", "cat"),
		"a:1 AND b:2":               query.And{c("a", "1"), c("b", "2")},
		"a:1 b:2":                   query.And{c("a", "1"), c("b", "2")},
		"a:1 OR b:2 AND c:3":        query.Or{c("a", "1"), query.And{c("b", "2"), c("c", "3")}},
		"(a:1 OR b:2) c:3":          query.And{query.Or{c("a", "1"), c("b", "2")}, c("c", "3")},
		"(a:1 OR b:2) OR c:3":       query.Or{c("a", "1"), c("b", "2"), c("c", "3")},
		"a:1 (b:2 (c:3))":           query.And{c("a", "1"), c("b", "2"), c("c", "3")},
		"NOT a:1":                   query.Not{X: c("a", "1")},
		"a:1 NOT b:2":               query.And{c("a", "1"), query.Not{X: c("b", "2")}},
		"NOT (a:1 b:2)":             query.Not{X: query.And{c("a", "1"), c("b", "2")}},
		`a:"black cat"`:             q("a", "black cat"),
		`a:""`:                      q("a", ""),
		`a:"say \"hi\" \\ \n"`:      q("a", `say "hi" \ \n`),
		"url:http://x:80/y":         c("url", "http://x:80/y"),
		"a:IMG_*.jp?":               c("a", "IMG_*.jp?"),
		`a:"*"`:                     q("a", "*"),
		"AND:1":                     c("AND", "1"),
		"a:AND":                     c("a", "AND"),
		"and:or":                    c("and", "or"),
		"ラベル:猫":                     c("ラベル", "猫"),
	} {
		got, err := query.Parse(in)
		if err != nil {
			t.Errorf("Parse(%q) = %v", in, err)
			continue
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("Parse(%q): %s", in, d)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{
		"cat", "a:", ":x", "a:1 AND", "OR a:1", "a:1 OR OR b:2", "NOT", "NOT NOT a:1", "(a:1", "a:1)", "()", `a:"x`, `"x"`, "a :1", `a:"x"b:1`,
		"a:\x00", "a:\xff",
		strings.Repeat("a", query.MaxLen) + ":1",
		strings.Repeat("(", query.MaxDepth+1) + "a:1" + strings.Repeat(")", query.MaxDepth+1),
		strings.Repeat("a:1 ", query.MaxClauses+1),
	} {
		_, err := query.Parse(in)
		var pe *plat.Error
		if !errors.As(err, &pe) || !errors.Is(err, plat.ErrInvalid) || len(pe.Detail["q"]) != 1 {
			t.Errorf("Parse(%.40q) = %v, want ErrInvalid with error_detail q", in, err)
		}
	}
}

func TestTokens(t *testing.T) {
	for in, want := range map[string][]string{
		"":              nil,
		"-_./":          nil,
		"Black cat":     {"black", "cat"},
		"cat-1.jpg":     {"cat", "1", "jpg"},
		"IMG_0001.JPG":  {"img", "0001", "jpg"},
		"Ünïcode、猫です":   {"ünïcode", "猫です"},
		"e\u0301te":     {"e\u0301te"},
		"a\u00a0b":      {"a", "b"},
		"category":      {"category"},
		"x=1;y=2":       {"x", "1", "y", "2"},
		"\u0e01\u0e33x": {"\u0e01\u0e33x"},
	} {
		if d := cmp.Diff(want, query.Tokens(in)); d != "" && len(want)+len(query.Tokens(in)) > 0 {
			t.Errorf("Tokens(%q): %s", in, d)
		}
	}
}

func TestGlobMatch(t *testing.T) {
	for _, x := range []struct {
		pattern, text string
		want          bool
	}{
		{"*", "", true},
		{"?", "", false},
		{"?", "猫", true},
		{"a*c", "abbc", true},
		{"a*c", "abbcd", false},
		{"*a*b*", "xxaxxbxx", true},
		{"*a*b*", "xxbxxaxx", false},
		{"a**b", "ab", true},
		{"*.jpg", "cat.jpg", true},
		{"*.jpg", "cat.jpeg", false},
		{"*x", "*x", true},
		{"*aab", "aaaab", true},
		{strings.Repeat("*a", 50) + "b", strings.Repeat("a", 2000), false},
	} {
		if got := query.GlobMatch(x.pattern, x.text); got != x.want {
			t.Errorf("GlobMatch(%q, %q) = %v", x.pattern, x.text, got)
		}
	}
}

// FuzzParse: whatever parses is within the bounds and prints as itself.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"a:1", `a:"x\"y" OR NOT (b:* c:?)`, "a:1 AND", "((a:1))", "　a:　", `a:"\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := query.Parse(s)
		if err != nil {
			if !errors.Is(err, plat.ErrInvalid) {
				t.Fatalf("Parse(%q) = %v", s, err)
			}
			return
		}
		if n == nil {
			return
		}
		clauses := 0
		query.Clauses(n, func(query.Clause) { clauses++ })
		if clauses == 0 || clauses > query.MaxClauses {
			t.Fatalf("%q has %d clauses", s, clauses)
		}
		text := n.String()
		if len(text) > len(s) {
			t.Fatalf("Parse(%q).String() = %q is longer", s, text)
		}
		again, err := query.Parse(text)
		if err != nil {
			t.Fatalf("Parse(%q).String() = %q, which does not parse: %v", s, text, err)
		}
		if !reflect.DeepEqual(n, again) { // not cmp: it is slow on deep trees
			t.Fatalf("%q reads again as %q", text, again)
		}
	})
}
