// SPDX-License-Identifier: Apache-2.0

package laketest

import (
	"slices"

	"panal/internal/lake"
)

// language is data.md §12.1, rule by rule: the engine and lake.Match must both say
// what the document says. The property test compares the two with each other; this
// table pins them to the text.
func language(w *world) {
	files := map[string]lake.File{}
	for _, f := range []struct {
		name string
		meta []string
	}{
		{"black", []string{"label", "black cat", "split", "train", "n", "1"}},
		{"file", []string{"label", "cat-1.jpg", "split", "test", "n", "2"}},
		{"category", []string{"label", "category", "split", "train"}},
		{"upper", []string{"label", "CAT", "split", "test", "url", "http://host:80/x"}},
		{"encoded", []string{"label", "black%20cat", "%E3%83%86", "%E7%8C%AB"}},
		{"broken", []string{"label", "100%25 %zz"}},
		{"empty", []string{"label", "", "content_type", "cat"}},
		{"star", []string{"label", "*", "and", "or"}},
		{"none", []string{"other", "cat"}},
	} {
		files[f.name] = w.stored(w.file(f.meta...))[0]
	}
	all := []string{"black", "file", "category", "upper", "encoded", "broken", "empty", "star", "none"}
	for _, c := range []struct {
		q    string
		want []string
	}{
		// A bare word: case-insensitive; its tokens occur as a run in the value's.
		{"label:cat", []string{"black", "file", "upper", "encoded"}},
		{"label:CAT", []string{"black", "file", "upper", "encoded"}},
		{"label:black-cat", []string{"black", "encoded"}},
		{"label:cat-black", nil},
		{"label:categor", nil},
		{"label:1.jpg", []string{"file"}},
		// Field: the full key, the bare one, in any case; or one of three.
		{"x-abeja-meta-label:cat", []string{"black", "file", "upper", "encoded"}},
		{"X-Abeja-Meta-LABEL:cat", []string{"black", "file", "upper", "encoded"}},
		{"content_type:png", all},
		{`content_type:"image/png"`, all},
		{"x-abeja-meta-content_type:cat", []string{"empty"}},
		{"file_id:" + string(files["upper"].ID), []string{"upper"}},
		{`file_id:"` + string(files["upper"].ID) + `"`, []string{"upper"}},
		{"uploaded_at:2024-03-15", all},
		{"uploaded_at:2024-03-16", nil},
		// Quoted text: equality of the whole value, to the letter.
		{`label:"black cat"`, []string{"black", "encoded"}},
		{`label:"cat"`, nil},
		{`label:"CAT"`, []string{"upper"}},
		{`label:""`, []string{"empty"}},
		{`label:"*"`, []string{"star"}},
		// With * or ?: a glob of the whole value.
		{"label:cat*", []string{"file", "category", "upper"}},
		{"label:*cat", []string{"black", "upper", "encoded"}},
		{"label:?at", []string{"upper"}},
		{"label:*", []string{"black", "file", "category", "upper", "encoded", "broken", "empty", "star"}},
		// Only the first colon splits.
		{"url:http://host:80/x", []string{"upper"}},
		{`url:"http://host:80/x"`, []string{"upper"}},
		// Decoded metadata is compared; what does not decode stands for itself.
		{"テ:猫", []string{"encoded"}},
		{"%E3%83%86:猫", []string{"encoded"}},
		{`label:"100%25 %zz"`, []string{"broken"}},
		// AND binds tighter than OR; side by side means AND; NOT; parentheses.
		{"label:cat AND split:test", []string{"file", "upper"}},
		{"label:cat split:test", []string{"file", "upper"}},
		{"n:1 OR split:test AND label:cat-1", []string{"black", "file"}},
		{"(n:1 OR split:test) AND label:cat-1", []string{"file"}},
		{"label:cat NOT split:test", []string{"black", "encoded"}},
		{"label:cat AND NOT (split:test OR n:1)", []string{"encoded"}},
		{"NOT label:cat", []string{"category", "broken", "empty", "star", "none"}},
		{"NOT (label:cat split:test)", []string{"black", "category", "encoded", "broken", "empty", "star", "none"}},
		// Operators are upper case: in lower case they are words.
		{"and:or", []string{"star"}},
	} {
		want, naive := []lake.File{}, []string(nil)
		for _, name := range all {
			if slices.Contains(c.want, name) {
				want = append(want, files[name])
			}
			if lake.Match(w.search(c.q).Query, files[name]) {
				naive = append(naive, name)
			}
		}
		w.found(c.q, want...)
		if !slices.Equal(naive, c.want) {
			w.Errorf("lake.Match of %s: %v, want %v", c.q, naive, c.want)
		}
	}
}
