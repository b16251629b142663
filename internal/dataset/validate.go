// SPDX-License-Identifier: Apache-2.0

package dataset

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"panal/internal/lake"
	"panal/internal/lake/query"
	"panal/internal/plat"
)

// checkSource checks source_data: an array of objects with a data_uri (data.md §17).
func checkSource(raw json.RawMessage) (json.RawMessage, error) {
	const field = "source_data"
	if len(raw) == 0 || string(raw) == "null" {
		return nil, plat.InvalidField(field, "is required: an array of objects with a data_uri")
	}
	var entries []map[string]any
	if err := decode(raw, &entries); err != nil || entries == nil {
		return nil, plat.InvalidField(field, "must be an array of objects with a data_uri")
	}
	for i, e := range entries {
		name := func(key string) string { return fmt.Sprintf("%s.%d.%s", field, i, key) }
		uri, _ := e["data_uri"].(string)
		scheme, rest, ok := strings.Cut(uri, "://")
		if !ok || rest == "" || scheme != "datalake" && scheme != "http" && scheme != "https" {
			return nil, plat.InvalidField(name("data_uri"), "must be a datalake://, http:// or https:// URI")
		}
		for key, v := range e {
			switch key {
			case "data_uri":
				continue
			case "api", "client", "uri", "type":
				return nil, plat.InvalidField(name(key), "is a name that known clients can't read")
			case "lifetime":
				if s, ok := v.(string); v != nil && (!ok || lake.Lifetime(s).Duration() == 0) {
					return nil, plat.InvalidField(name(key), "must be one of 1day, 1week, 1month, 6months, 1year")
				}
			case "data_type":
				if _, ok := v.(string); v != nil && !ok {
					return nil, plat.InvalidField(name(key), "must be a string")
				}
			case "height", "width":
				if n, ok := v.(json.Number); v != nil && (!ok || strings.ContainsAny(n.String(), ".eE")) {
					return nil, plat.InvalidField(name(key), "must be an integer")
				}
			}
			switch v.(type) {
			case map[string]any, []any:
				return nil, plat.InvalidField(name(key), "must be text, a number, true, false or null")
			}
		}
	}
	return tidy(field, raw)
}

// maxDepth is how deep objects and arrays may stand in each other: known clients decode
// by recursion, and one item that is too deep would make its whole list unreadable.
const maxDepth = 100

func checkDepth(field string, raw json.RawMessage) error {
	depth, quoted := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return plat.InvalidField(field, "is nested more than %d deep", maxDepth)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

// decode reads one JSON value, numbers as they were written.
func decode(raw json.RawMessage, v any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	return dec.Decode(v)
}

// rules are the categories that a dataset allows: category id → label ids, as
// text. Nil allows everything.
type rules map[string]map[string]bool

// rulesOf reads props.categories. Props of another shape are allowed, and rule nothing.
func rulesOf(props json.RawMessage) rules {
	var p struct {
		Categories []struct {
			ID     any `json:"category_id"`
			Labels []struct {
				ID any `json:"label_id"`
			} `json:"labels"`
		} `json:"categories"`
	}
	if decode(props, &p) != nil || p.Categories == nil {
		return nil
	}
	r := rules{}
	for _, c := range p.Categories {
		id := text(c.ID)
		if r[id] == nil {
			r[id] = map[string]bool{}
		}
		for _, l := range c.Labels {
			r[id][text(l.ID)] = true
		}
	}
	return r
}

// check checks attributes and returns them tidied; absent is null.
func (r rules) check(raw json.RawMessage) (json.RawMessage, error) {
	const field = "attributes"
	if len(raw) == 0 || string(raw) == "null" {
		return json.RawMessage("null"), nil
	}
	var tasks map[string]any
	if decode(raw, &tasks) != nil {
		return nil, plat.InvalidField(field, "must be an object or null")
	}
	if r != nil {
		for _, task := range []string{"classification", "detection"} {
			entries, ok := tasks[task].([]any)
			if !ok {
				entries = []any{tasks[task]} // the old form: one object
			}
			for i, e := range entries {
				entry, ok := e.(map[string]any)
				if !ok {
					continue
				}
				if err := r.entry(fmt.Sprintf("%s.%s.%d", field, task, i), entry); err != nil {
					return nil, err
				}
			}
		}
	}
	return tidy(field, raw)
}

func (r rules) entry(field string, e map[string]any) error {
	category, ok := e["category_id"]
	if !ok {
		// Without a category, a label of any of them.
		label, ok := e["label_id"]
		if !ok || slices.ContainsFunc(slices.Collect(maps.Values(r)), func(labels map[string]bool) bool { return labels[text(label)] }) {
			return nil
		}
		return plat.InvalidField(field+".label_id", "%s is no label of this dataset", text(label))
	}
	labels, known := r[text(category)]
	if !known {
		return plat.InvalidField(field+".category_id", "%s is no category of this dataset", text(category))
	}
	if label, ok := e["label_id"]; ok && !labels[text(label)] {
		return plat.InvalidField(field+".label_id", "%s is no label of category %s", text(label), text(category))
	}
	return nil
}

// text is how a JSON value compares: 1 is "1".
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		if v {
			return "true"
		}
		return "false"
	}
	return ""
}

// Match tells whether attributes satisfy q: a clause is true when any object
// anywhere inside has the field with the value, compared as text and whole; with *
// or ? as a glob (data.md §12.2).
func Match(q query.Node, attributes json.RawMessage) bool {
	var v any
	if err := decode(attributes, &v); err != nil {
		return false
	}
	return query.Match(q, func(c query.Clause) bool { return has(v, c) })
}

func has(v any, c query.Clause) bool {
	switch v := v.(type) {
	case map[string]any:
		if x, ok := v[c.Field]; ok && is(x, c) {
			return true
		}
		for _, x := range v {
			if has(x, c) {
				return true
			}
		}
	case []any:
		for _, x := range v {
			if has(x, c) {
				return true
			}
		}
	}
	return false
}

func is(v any, c query.Clause) bool {
	switch v.(type) {
	case map[string]any, []any:
		return false
	}
	if c.Kind == query.Glob {
		return query.GlobMatch(c.Value, text(v))
	}
	return text(v) == c.Value
}
