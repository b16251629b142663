// SPDX-License-Identifier: Apache-2.0

package compat_test

import (
	"strings"
	"testing"

	"panal/internal/api/compat"
)

// TestDecodeNamesTheField: a type that decodes itself can't say where it stands,
// and a client can't mend what is not named.
// compute.md §1.5.
func TestDecodeNamesTheField(t *testing.T) {
	type body struct {
		Environment compat.StringMap `json:"environment"`
		Autoscale   compat.Bool      `json:"enable_autoscale"`
		Number      *int             `json:"instance_number"`
	}
	for _, c := range []struct{ in, field, what string }{
		{`{"environment":{"A":[]}}`, "environment", "A must be a string"},
		{`{"environment":[]}`, "environment", "must be an object of strings"},
		{`{"enable_autoscale":"maybe"}`, "enable_autoscale", "not true or false"},
		{`{"instance_number":1e99}`, "instance_number", "out of range"},
		{`{"instance_number":"x","unknown":1}`, "instance_number", "must not be string"},
	} {
		var b *body
		err := compat.Decode([]byte(c.in), &b)
		if err == nil {
			t.Errorf("%s was taken", c.in)
			continue
		}
		field, what, ok := compat.SplitFieldError(err.Error())
		if !ok || field != c.field || !strings.Contains(what, c.what) || strings.Contains(what, "Go ") {
			t.Errorf("%s: %v; want field %s: %s", c.in, err, c.field, c.what)
		}
	}
	for _, in := range []string{`{"a":`, `[]`, `"x"`, `{"a":1e999}`} {
		var b *body
		if err := compat.Decode([]byte(in), &b); err != nil {
			if _, _, ok := compat.SplitFieldError(err.Error()); ok {
				t.Errorf("%s: %v names a field", in, err)
			}
		}
	}
	var b *body
	if err := compat.Decode([]byte("{\"environment\":{\"A\":\"\xff\"}}"), &b); err == nil || !strings.Contains(err.Error(), "UTF-8") {
		t.Errorf("text that is no UTF-8: %v", err)
	}
	for _, text := range []string{"field x: y", `field "x`, `field "x" y`, "", "expected object"} {
		if f, _, ok := compat.SplitFieldError(text); ok {
			t.Errorf("%q was split to field %q", text, f)
		}
	}
}
