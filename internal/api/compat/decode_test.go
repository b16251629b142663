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
		Calls       uint             `json:"calls"`
		Rate        float64          `json:"rate_limit"`
		Name        string           `json:"name"`
		Flag        bool             `json:"flag"`
		List        []string         `json:"list"`
		Inner       struct{}         `json:"inner"`
	}
	for _, c := range []struct{ in, field, what string }{
		{`{"environment":{"A":[]}}`, "environment", "A must be a string"},
		{`{"environment":[]}`, "environment", "must be an object of strings"},
		{`{"enable_autoscale":"maybe"}`, "enable_autoscale", "not true or false"},
		{`{"instance_number":1e99}`, "instance_number", "must be a whole number in digits, such as 2, not 1e99"},
		{`{"instance_number":2.0}`, "instance_number", "must be a whole number in digits, such as 2, not 2.0"},
		{`{"instance_number":99999999999999999999}`, "instance_number", "99999999999999999999 is out of range"},
		{`{"instance_number":"x","unknown":1}`, "instance_number", "must be a whole number in digits, such as 2, not a string"},
		{`{"calls":-1}`, "calls", "-1 is out of range"},
		{`{"rate_limit":1e999}`, "rate_limit", "1e999 is out of range"},
		{`{"rate_limit":[]}`, "rate_limit", "must be a number, not an array"},
		{`{"name":5}`, "name", "must be a string, not a number"},
		{`{"flag":"yes"}`, "flag", "must be true or false, not a string"},
		{`{"list":{}}`, "list", "must be an array, not an object"},
		{`{"inner":true}`, "inner", "must be an object, not true or false"},
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
