// SPDX-License-Identifier: Apache-2.0

package pagequery_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"panal/internal/lake/pagequery"
	"panal/internal/plat"
)

func page() pagequery.Page {
	return pagequery.Page{
		Contents: []pagequery.Object{
			{Key: "a.txt", Size: 4, LastModified: "2024-03-15T08:15:02+00:00", ETag: "x"},
			{Key: "b.bin", Size: 400, LastModified: "2024-03-16T08:15:02+00:00", ETag: "y"},
			{Key: "ü.bin", Size: 40, LastModified: "2024-03-17T08:15:02+00:00", ETag: "z"},
		},
		CommonPrefixes: []string{"img/", "txt/"},
	}
}

// TestSelect: data.md §12.3.
func TestSelect(t *testing.T) {
	for _, c := range []struct{ q, want string }{
		{"Contents[?Size > `100`]", "[1] []"},
		{"Contents[?Size > `100`][]", "[1] []"},
		{"Contents[?Size > 100]", "[1] []"}, // as the document writes it
		{"Contents[?Size>=400 || Size == 40][]", "[1 2] []"},
		{"Contents[?Size > -1.5]", "[0 1 2] []"},
		{"Contents[?Key != '> 1' && Size < 100]", "[0 2] []"}, // not within text
		{"Contents", "[0 1 2] []"},
		{"Contents[0]", "[0] []"},
		{"Contents[-1]", "[2] []"},
		{"Contents[:2]", "[0 1] []"},
		{"Contents[?ends_with(Key, '.bin') && Size < `100`]", "[2] []"},
		{"Contents[?contains(Key, 'ü')]", "[2] []"},
		{"Contents[?ETag == 'y' || Key == 'a.txt']", "[0 1] []"},
		{"sort_by(Contents, &Size)[-1]", "[1] []"},
		{"CommonPrefixes[?Prefix == 'img/']", "[] [0]"},
		{"[Contents[?Size > `100`], CommonPrefixes][]", "[1] [0 1]"},
		{"Nothing", "[] []"},
		{"Contents[?Nothing]", "[] []"},
	} {
		q, err := pagequery.Parse(c.q)
		if err != nil {
			t.Errorf("%s: %v", c.q, err)
			continue
		}
		contents, prefixes, err := q.Select(page())
		slices.Sort(contents)
		slices.Sort(prefixes)
		if got := fmt.Sprint(contents, prefixes); err != nil || got != c.want {
			t.Errorf("%s = %s, %v; want %s", c.q, got, err, c.want)
		}
	}
}

// TestRefused: what gives no elements, and what could take forever or all memory.
func TestRefused(t *testing.T) {
	for _, q := range []string{
		"", "Contents[", "Contents[].Key", "length(Contents)", "@", "Contents[].{Key: Key}", "[Contents]", "'x'", "Contents[0].Size",
		"Contents[?length($.Contents) > `1`]", "let $x = Contents in $x", "map(&@, Contents)", "pad_left('a', `1000000000`)",
		"Contents[?`[1,2,3]`[?`[1,2,3]`]]", "join('', Contents[].Key)", "items(@)", "group_by(Contents, &Key)", "zip(Contents, Contents)",
		"[Contents,Contents][]|[@,@][]|[@,@][]|[@,@][]|[@,@][]", strings.Repeat("!", 1023) + "a" + "b", "foo(", "nosuch(Contents)",
		"Contents[?Size > 'a'].nosuch.foo(@)", "\x00", "\xff",
		strings.Repeat("[", 2000),
	} {
		p, err := pagequery.Parse(q)
		if err == nil {
			_, _, err = p.Select(page())
		}
		if !errors.Is(err, plat.ErrInvalid) {
			t.Errorf("%.60q = %v, want ErrInvalid", q, err)
		}
	}
}

func FuzzSelect(f *testing.F) {
	for _, q := range []string{"Contents[?Size > `100`]", "sort_by(Contents, &Size)[:2]", "[Contents, CommonPrefixes][]", "Contents[?contains(Key, 'a')] | [0]"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, text string) {
		q, err := pagequery.Parse(text)
		if err == nil {
			_, _, err = q.Select(page())
		}
		if err != nil && !errors.Is(err, plat.ErrInvalid) {
			t.Fatal(err)
		}
	})
}
