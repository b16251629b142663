// SPDX-License-Identifier: Apache-2.0

package httpx

import "net/textproto"

// FieldName returns a field's name in canonical form; ok is false for what is no name
// (RFC 9110: a token). A name that is in that form already, as most are, is looked at once.
func FieldName(s string) (name string, ok bool) {
	first := true // of a word
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z' && !first, 'A' <= c && c <= 'Z' && first, '0' <= c && c <= '9', c == '-':
			first = c == '-'
		default:
			return fieldName(s)
		}
	}
	return s, s != ""
}

func fieldName(s string) (string, bool) {
	for i := range len(s) {
		if !isToken(s[i]) {
			return "", false
		}
	}
	return textproto.CanonicalMIMEHeaderKey(s), true
}

func isToken(c byte) bool {
	switch c {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~':
		return true
	}
	return 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'
}

// IsText tells whether s may be a field's value and is plain: visible ASCII, spaces, tabs.
func IsText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c >= 0x7f {
			return false
		}
	}
	return true
}
