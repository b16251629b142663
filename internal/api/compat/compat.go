// SPDX-License-Identifier: Apache-2.0

// Package compat holds the wire shapes that known clients force on us: booleans
// that arrive as strings, string maps that hold numbers, null for an absent object
// (compute.md §1.5).
package compat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// Bool reads true, false, "true", "True", "False", …; null is false.
type Bool bool

// UnmarshalJSON implements json.Unmarshaler.
func (b *Bool) UnmarshalJSON(data []byte) error {
	return b.UnmarshalText(bytes.Trim(data, `"`))
}

// UnmarshalText implements encoding.TextUnmarshaler, for query parameters.
func (b *Bool) UnmarshalText(text []byte) error {
	switch strings.ToLower(string(text)) {
	case "true", "1":
		*b = true
	case "false", "0", "null", "":
		*b = false
	default:
		return fmt.Errorf("%q is not true or false", text)
	}
	return nil
}

// Schema implements huma.SchemaProvider: a boolean, or its name as a string.
func (Bool) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Description: "boolean; the strings true and false in any case are read too"}
}

// Number is a number that may be absent (nil). Null is 0, as it is shown where 0
// stands for "none": whoever sends an answer's null back means that.
type Number[T int | float64] struct{ Value *T }

// UnmarshalJSON implements json.Unmarshaler. It is called for null too.
func (n *Number[T]) UnmarshalJSON(data []byte) error {
	n.Value = new(T)
	return json.Unmarshal(data, n.Value)
}

// Schema implements huma.SchemaProvider: that of the number, or null.
func (Number[T]) Schema(r huma.Registry) *huma.Schema {
	return r.Schema(reflect.TypeFor[*T](), false, "")
}

// StringMap is an object of strings. Numbers and booleans are read as their JSON
// text, null as "" (compute.md §1.5); a null object is nil.
type StringMap map[string]string

// UnmarshalJSON implements json.Unmarshaler.
func (m *StringMap) UnmarshalJSON(data []byte) error {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return fmt.Errorf("must be an object of strings")
	}
	if raw == nil {
		*m = nil
		return nil
	}
	out := make(StringMap, len(raw))
	for k, v := range raw {
		switch {
		case len(v) > 0 && v[0] == '"':
			var s string
			if err := json.Unmarshal(v, &s); err != nil {
				return err
			}
			out[k] = s
		case string(v) == "null":
			out[k] = ""
		case len(v) > 0 && (v[0] == '{' || v[0] == '['):
			return fmt.Errorf("%s must be a string", k)
		default:
			out[k] = string(v)
		}
	}
	*m = out
	return nil
}

// MarshalJSON implements json.Marshaler: never null.
func (m StringMap) MarshalJSON() ([]byte, error) {
	if m == nil {
		return []byte("{}"), nil
	}
	return json.Marshal(map[string]string(m))
}

// Schema implements huma.SchemaProvider.
func (StringMap) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Description: "object of strings; numbers, booleans and null are read as text"}
}

// Any is JSON that is kept as it is. Empty means absent.
type Any json.RawMessage

// UnmarshalJSON implements json.Unmarshaler.
func (a *Any) UnmarshalJSON(data []byte) error {
	*a = append((*a)[:0], data...)
	return nil
}

// MarshalJSON implements json.Marshaler.
func (a Any) MarshalJSON() ([]byte, error) {
	if len(a) == 0 {
		return []byte("null"), nil
	}
	return a, nil
}

// Schema implements huma.SchemaProvider: anything.
func (Any) Schema(huma.Registry) *huma.Schema { return &huma.Schema{Description: "any JSON"} }

var (
	_ huma.SchemaProvider = Bool(false)
	_ huma.SchemaProvider = Number[int]{}
	_ huma.SchemaProvider = StringMap(nil)
	_ huma.SchemaProvider = Any(nil)
)
