// SPDX-License-Identifier: Apache-2.0

package httpx_test

import (
	"net/textproto"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"panal/internal/x/httpx"
)

func TestFieldName(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(
			rapid.String(),
			rapid.StringOf(rapid.SampledFrom([]rune("aAzZ09-_.!: \x00\x7f"))),
			rapid.StringMatching(`([A-Z][a-z0-9]*-){0,3}[A-Z][a-z0-9]*`),
		).Draw(t, "name")
		token := s != "" && strings.IndexFunc(s, func(r rune) bool {
			return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r)
		}) < 0
		name, ok := httpx.FieldName(s)
		switch {
		case ok != token:
			t.Fatalf("FieldName(%q): ok is %v", s, ok)
		case ok && name != textproto.CanonicalMIMEHeaderKey(s):
			t.Fatalf("FieldName(%q) = %q, not %q", s, name, textproto.CanonicalMIMEHeaderKey(s))
		}
	})
}

func TestIsText(t *testing.T) {
	for s, want := range map[string]bool{"": true, "a b\tc~": true, "a\rb": false, "a\nb": false, "\x00": false, "\x7f": false, "é": false} {
		if got := httpx.IsText(s); got != want {
			t.Errorf("IsText(%q) = %v", s, got)
		}
	}
}
