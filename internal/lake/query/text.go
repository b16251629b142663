// SPDX-License-Identifier: Apache-2.0

package query

import (
	"slices"
	"strings"
	"unicode"
)

// Fold makes a text comparable without regard to case.
func Fold(s string) string { return strings.ToLower(s) }

// Tokens cuts a text into its folded runs of letters, marks and digits.
func Tokens(s string) []string {
	return strings.FieldsFunc(Fold(s), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsNumber(r) && !unicode.IsMark(r)
	})
}

// HasRun tells whether want occurs in have without a gap.
func HasRun(have, want []string) bool {
	for i := 0; i+len(want) <= len(have); i++ {
		if slices.Equal(have[i:i+len(want)], want) {
			return true
		}
	}
	return false
}

// GlobMatch tells whether the whole of text fits pattern, in which * stands for
// any run of characters and ? for one. Nothing else is special.
func GlobMatch(pattern, text string) bool {
	p, t := []rune(pattern), []rune(text)
	pi, star, mark := 0, -1, 0
	for ti := 0; ti < len(t); {
		switch {
		case pi < len(p) && p[pi] == '*': // first: a text may hold a star itself
			star, mark = pi, ti
			pi++
		case pi < len(p) && (p[pi] == '?' || p[pi] == t[ti]):
			pi++
			ti++
		case star >= 0: // let the last star take one more
			mark++
			pi, ti = star+1, mark
		default:
			return false
		}
	}
	for pi < len(p) && p[pi] == '*' {
		pi++
	}
	return pi == len(p)
}
