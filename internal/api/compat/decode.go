// SPDX-License-Identifier: Apache-2.0

package compat

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// FieldError says which field of a JSON object does not decode. Its text can be
// taken apart again by SplitFieldError, for it passes through huma as a text.
type FieldError struct {
	Field string
	What  string
}

// Error implements error.
func (e *FieldError) Error() string { return fieldMark + strconv.Quote(e.Field) + ": " + e.What }

const fieldMark = "field "

// SplitFieldError finds a FieldError's parts in its text.
func SplitFieldError(text string) (field, what string, ok bool) {
	rest, ok := strings.CutPrefix(text, fieldMark)
	if !ok {
		return "", "", false
	}
	quoted, err := strconv.QuotedPrefix(rest)
	if err != nil {
		return "", "", false
	}
	what, ok = strings.CutPrefix(rest[len(quoted):], ": ")
	if field, err = strconv.Unquote(quoted); err != nil || !ok {
		return "", "", false
	}
	return field, what, true
}

var errNotUTF8 = errors.New("must be UTF-8")

// Decode is json.Unmarshal whose errors name the field and no Go type: types that
// decode themselves (StringMap, Bool) do not know in which field they stand. Text that
// is no UTF-8 is an error: package json would put other characters in its place.
func Decode(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errNotUTF8
	}
	err := json.Unmarshal(data, v)
	if err == nil {
		return nil
	}
	t := reflect.TypeOf(v)
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var fields map[string]json.RawMessage
	if t == nil || t.Kind() != reflect.Struct || json.Unmarshal(data, &fields) != nil {
		return plain(err)
	}
	for name, raw := range fields {
		one, merr := json.Marshal(map[string]json.RawMessage{name: raw})
		if merr != nil {
			continue
		}
		if err := json.Unmarshal(one, reflect.New(t).Interface()); err != nil {
			return &FieldError{Field: name, What: plain(err).Error()}
		}
	}
	return plain(err)
}

// plain says what is wrong in JSON's terms, without the names of our types.
func plain(err error) error {
	wrong, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return err
	}
	want, whole := "a string", false
	switch wrong.Type.Kind() {
	case reflect.String:
	case reflect.Bool:
		want = "true or false"
	case reflect.Float32, reflect.Float64:
		want = "a number"
	case reflect.Slice, reflect.Array:
		want = "an array"
	case reflect.Struct, reflect.Map:
		want = "an object"
	default:
		want, whole = "a whole number in digits, such as 2", true
	}
	number, isNumber := strings.CutPrefix(wrong.Value, "number ")
	switch {
	case isNumber && (want == "a number" || whole && !strings.ContainsAny(number, ".eE")):
		return fmt.Errorf("%.40s is out of range", number)
	case isNumber:
		return fmt.Errorf("must be %s, not %.40s", want, number)
	}
	got := map[string]string{"string": "a string", "bool": "true or false", "array": "an array", "object": "an object", "number": "a number"}[wrong.Value]
	return fmt.Errorf("must be %s, not %s", want, cmp.Or(got, wrong.Value))
}
