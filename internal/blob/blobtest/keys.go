// SPDX-License-Identifier: Apache-2.0

package blobtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"panal/internal/blob"
)

// hostileKeys are keys that file systems, URLs and collations get wrong. They
// are all valid and all different.
func hostileKeys() []string {
	keys := []string{
		// a key that is a prefix of others, with neighbours on both sides of "/"
		"a", "a/b", "a/b/c", "a!", "a!b", "a.", "a-b", "a0", "ab", "a b", "a,b",
		// case, composed and decomposed, look-alikes
		"A", "A/b", "a/B", "A/B", "é", "e\u0301", "É", "ß", "ss", "SS", "ı", "I", "i", "K", "\u212a",
		// escapes and what they could decode to
		"%", "%2F", "%2f", "%252F", "a%2Fb", "a%2fb", "a=b", "=a", "==a", "%41", "%61", "a+b", "a%20b",
		// suffixes and names that a layout could use for itself
		"a.o", "a.d", "a.c", ".o", ".d", ".c", "a.o/b", "a.d/b", "tmp", "tmp/x", "objects", "format", "objects/a", ".tmp", "..a", "...", ".../a", "a/...",
		// spaces, punctuation, other scripts, beyond the BMP, the last code points
		" ", " a", "a ", " / ", "~", "$HOME", "*", "?", `\`, `a\b`, `"`, "'", ":", "a:b", "|", "<", "con", "nul", "aux.txt",
		"日本語/ファイル名", "العربية", "🐝", "🐝/🐝", "\u00a0", "\u200b", "\ufeff", "\U0010ffff", "\u0080", "a\u2028b",
		"-rf", "--", "#", "&", ";", "@", "[", "]", "^", "_", "`", "{", "}",
	}
	long := strings.Repeat("x", blob.MaxKeyLen)
	keys = append(keys,
		// the longest keys: one segment, nothing but separators, bytes that escape
		long, long[1:], long[:blob.MaxKeyLen-1]+"y",
		strings.Repeat("X", blob.MaxKeyLen), strings.Repeat("X", blob.MaxKeyLen-1)+"x",
		strings.Repeat("a/", blob.MaxKeyLen/2-1)+"aa", strings.Repeat("é/", 341)+"a",
		strings.Repeat("日", 341), strings.Repeat("日", 340)+"本", strings.Repeat(" ", blob.MaxKeyLen), strings.Repeat("🐝", blob.MaxKeyLen/4),
	)
	// Around the lengths at which names get cut: the key, a child, a neighbour.
	for n := 75; n <= 85; n++ {
		keys = append(keys, strings.Repeat("%", n), strings.Repeat("%", n)+"/b", strings.Repeat("%", n)+"!")
	}
	for n := 230; n <= 260; n++ {
		x := long[:n]
		keys = append(keys, x, x+"/b", x+"!", x+"é", "d/"+x)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func keyCases() []Case {
	return []Case{
		{"Keys/hostile_keys_round_trip_and_do_not_collide", nil, func(t *testing.T, h Harness) {
			d, keys := h.New(t), h.Caps.holds(hostileKeys()...)
			for i, key := range keys {
				if err := blob.CheckKey(key); err != nil {
					t.Fatalf("the suite has an invalid key %q: %v", key, err)
				}
				put(t, d, key, fmt.Sprint(i))
			}
			for i, key := range keys {
				wantObject(t, d, key, fmt.Sprint(i))
			}
			if diff := cmp.Diff(keys, keysOf(t, d, "", 50)); diff != "" {
				t.Errorf("List (-want +got):\n%s", diff)
			}
			// Deleting every other one must leave the rest alone.
			for i, key := range keys {
				if i%2 == 0 {
					if err := d.Delete(t.Context(), key); err != nil {
						t.Fatalf("Delete(%q) = %v", key, err)
					}
				}
			}
			for i, key := range keys {
				if i%2 == 0 {
					wantMissing(t, d, key)
				} else {
					wantObject(t, d, key, fmt.Sprint(i))
				}
			}
		}},
	}
}

func listCases() []Case {
	return []Case{
		{"List/empty_store", nil, on(func(t *testing.T, d blob.Driver) {
			for _, prefix := range []string{"", "a", "a/", "a/b"} {
				if infos, more, err := d.List(t.Context(), prefix, "", 10); len(infos) > 0 || more || err != nil {
					t.Errorf("List(%q) = %v, %v, %v", prefix, infos, more, err)
				}
			}
		})},
		{"List/byte_order_with_every_page_size", nil, func(t *testing.T, h Harness) {
			d := h.New(t)
			keys := []string{"a", "a b", "a!", "a!/x", "a-b", "a/a", "a/b", "a/b/c", "a/é", "a0", "aB", "ab", "B", "b/1", "b/2", "b/3/4", "é", "z", "日"}
			keys = h.Caps.holds(keys...)
			for i, key := range keys {
				put(t, d, key, strings.Repeat("x", i))
			}
			slices.Sort(keys)
			for _, limit := range []int{1, 2, 3, len(keys) - 1, len(keys), len(keys) + 1, 1000} {
				if diff := cmp.Diff(keys, keysOf(t, d, "", limit)); diff != "" {
					t.Errorf("limit %d (-want +got):\n%s", limit, diff)
				}
			}
		}},
		{"List/more_tells_whether_others_follow", nil, on(func(t *testing.T, d blob.Driver) {
			for _, key := range []string{"a/1", "a/2", "b"} {
				put(t, d, key, "x")
			}
			for _, c := range []struct {
				prefix, after string
				limit, n      int
				more          bool
			}{
				{"", "", 2, 2, true},
				{"", "", 3, 3, false},
				{"a/", "", 2, 2, false}, // "b" follows, but not under the prefix
				{"a/", "", 1, 1, true},
				{"", "a/2", 1, 1, false},
				{"", "b", 5, 0, false},
			} {
				infos, more, err := d.List(t.Context(), c.prefix, c.after, c.limit)
				if err != nil || len(infos) != c.n || more != c.more {
					t.Errorf("List(%q, %q, %d) = %d objects, more %v, %v; want %d, %v", c.prefix, c.after, c.limit, len(infos), more, err, c.n, c.more)
				}
			}
		})},
		{"List/prefixes_and_starts_of_all_kinds", nil, func(t *testing.T, h Harness) {
			d := h.New(t)
			keys := []string{
				"A/1", "a", "a/1", "a/12", "a/2/x", "a/2/y", "a/3", "a1", "ab/c", "b", "é/x", "日本/1",
				strings.Repeat("x", 300), strings.Repeat("x", 300) + "/y", strings.Repeat("x", 300) + "z", strings.Repeat("x", 900) + "/q",
				"a/" + strings.Repeat("x", 238), "a/" + strings.Repeat("x", 239), "x/" + strings.Repeat("é", 120),
			}
			keys = h.Caps.holds(keys...)
			for _, key := range keys {
				put(t, d, key, "x")
			}
			slices.Sort(keys)
			marks := []string{
				"", "a", "a/", "a/1", "a/2", "a/2/", "a/2/x", "a/2/xx", "a/2/y/", "a/9", "A", "A/", "a0", "b", "b/", "c", "é", "\xc3", "\xe6\x97", "日本/",
				"/", "//", "a//", ".", "..", "../", "a/../", "\x00", "\xff", "%", "=a", "zz",
				strings.Repeat("x", 10), strings.Repeat("x", 237), strings.Repeat("x", 238), strings.Repeat("x", 239), strings.Repeat("x", 300), strings.Repeat("x", 300) + "/",
				strings.Repeat("x", 301), strings.Repeat("x", 5000), strings.Repeat("\xff", 3000), "a/" + strings.Repeat("é", 2000),
			}
			for _, prefix := range marks {
				for _, after := range marks {
					var want []string
					for _, k := range keys {
						if strings.HasPrefix(k, prefix) && k > after {
							want = append(want, k)
						}
					}
					infos, more, err := d.List(t.Context(), prefix, after, 100)
					var got []string
					for _, i := range infos {
						got = append(got, i.Key)
					}
					if diff := cmp.Diff(want, got); diff != "" || more || err != nil {
						t.Errorf("List(%q, %q) = more %v, %v (-want +got):\n%s", brief(prefix), brief(after), more, err, diff)
					}
				}
			}
		}},
		{"List/infos_are_those_of_Stat", nil, on(func(t *testing.T, d blob.Driver) {
			for i, key := range []string{"a", "b/c", "b/d"} {
				put(t, d, key, strings.Repeat("x", i*100))
			}
			infos, _, err := d.List(t.Context(), "", "", 10)
			if err != nil || len(infos) != 3 {
				t.Fatalf("List = %v, %v", infos, err)
			}
			for _, info := range infos {
				stat, err := d.Stat(t.Context(), info.Key)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(stat, info); diff != "" {
					t.Errorf("(-Stat +List):\n%s", diff)
				}
			}
		})},
		{"List/many_keys_side_by_side", nil, on(func(t *testing.T, d blob.Driver) {
			var keys []string
			for i := range 300 {
				key := fmt.Sprintf("m/%03d", (i*7)%300)
				put(t, d, key, "x")
				keys = append(keys, key)
			}
			slices.Sort(keys)
			for _, limit := range []int{7, 100, 300} {
				if diff := cmp.Diff(keys, keysOf(t, d, "m/", limit)); diff != "" {
					t.Errorf("limit %d (-want +got):\n%s", limit, diff)
				}
			}
			// What was emptied does not end a listing early.
			for _, key := range keys[:250] {
				if err := d.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(keys[250:], keysOf(t, d, "", 10)); diff != "" {
				t.Errorf("after deletes (-want +got):\n%s", diff)
			}
		})},
	}
}
