// SPDX-License-Identifier: Apache-2.0

package blobtest

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"panal/internal/blob"
	"panal/internal/plat"
)

// keyGen draws keys from few parts, so that they often share a beginning.
func keyGen() *rapid.Generator[string] {
	seg := rapid.OneOf(
		rapid.SampledFrom([]string{"a", "b", "ab", "A", "a!", "a0", "é", "%2F", "a.o", ".d", " ", strings.Repeat("x", 238), strings.Repeat("x", 239), strings.Repeat("日", 80)}),
		rapid.StringMatching(`[a-cA-C =%.!0é🐝-]{1,4}`),
	)
	return rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(seg, 1, 3).Draw(t, "segments"), "/")
	}).Filter(func(key string) bool { return blob.CheckKey(key) == nil })
}

// checkModel runs random calls on the driver and on a map.
func checkModel(t *testing.T, h Harness) {
	rapid.Check(t, func(rt *rapid.T) {
		d := h.New(t)
		defer func() { _ = d.Close() }()
		model := map[string]string{}
		gen := keyGen()
		var drawn []string // a directory may outlive its last object: what was ever tried must fit
		// Often a key that is there.
		drawKey := func(rt *rapid.T) string {
			if len(model) > 0 && rapid.Bool().Draw(rt, "known") {
				return rapid.SampledFrom(slices.Sorted(maps.Keys(model))).Draw(rt, "key")
			}
			key := gen.Filter(func(key string) bool {
				return slices.Contains(drawn, key) || len(h.Caps.holds(append(slices.Clone(drawn), key)...)) == len(drawn)+1
			}).Draw(rt, "key")
			if !slices.Contains(drawn, key) {
				drawn = append(drawn, key)
			}
			return key
		}
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				key, text := drawKey(rt), rapid.StringN(0, 20, -1).Draw(rt, "body")
				size := int64(len(text)) + int64(rapid.SampledFrom([]int{0, 0, 0, 1, -1}).Draw(rt, "lie"))
				if size < -1 {
					size = 0
				}
				opt := blob.PutOptions{IfNoneMatch: rapid.Bool().Draw(rt, "if none match"), New: rapid.Bool().Draw(rt, "new")}
				err := d.Put(t.Context(), key, body(text), size, opt)
				_, exists := model[key]
				switch {
				case opt.IfNoneMatch && exists:
					// Which of two wrongs is told first is the driver's choice.
					if !errors.Is(err, plat.ErrExists) && (size < 0 || size == int64(len(text)) || !errors.Is(err, plat.ErrInvalid)) {
						rt.Fatalf("Put over an existing key = %v", err)
					}
				case size >= 0 && size != int64(len(text)):
					if !errors.Is(err, plat.ErrInvalid) {
						rt.Fatalf("Put of %d bytes as %d = %v", len(text), size, err)
					}
				case err != nil:
					rt.Fatalf("Put = %v", err)
				default:
					model[key] = text
				}
			},
			"delete": func(rt *rapid.T) {
				key := drawKey(rt)
				if err := d.Delete(t.Context(), key); err != nil {
					rt.Fatalf("Delete(%q) = %v", key, err)
				}
				delete(model, key)
			},
			"open": func(rt *rapid.T) {
				key := drawKey(rt)
				off, n := rapid.Int64Range(0, 25).Draw(rt, "off"), rapid.Int64Range(-1, 25).Draw(rt, "n")
				got, info, err := get(t.Context(), d, key, off, n)
				text, exists := model[key]
				if !exists {
					if !errors.Is(err, plat.ErrNotFound) {
						rt.Fatalf("Open(missing %q) = %v", key, err)
					}
					return
				}
				want := text[min(off, int64(len(text))):]
				if n >= 0 {
					want = want[:min(n, int64(len(want)))]
				}
				if err != nil || got != want || info.Size != int64(len(text)) {
					rt.Fatalf("Open(%q, %d, %d) = %q, %+v, %v; want %q", key, off, n, got, info, err, want)
				}
			},
			"list": func(rt *rapid.T) {
				cut := func(label string) string {
					key := drawKey(rt)
					return key[:rapid.IntRange(0, len(key)).Draw(rt, label)]
				}
				prefix, after, limit := cut("prefix"), cut("after"), rapid.IntRange(1, 5).Draw(rt, "limit")
				var want []string
				for _, key := range slices.Sorted(maps.Keys(model)) {
					if strings.HasPrefix(key, prefix) && key > after {
						want = append(want, key)
					}
				}
				wantMore := len(want) > limit
				want = want[:min(limit, len(want))]
				infos, more, err := d.List(t.Context(), prefix, after, limit)
				var got []string
				for _, i := range infos {
					got = append(got, i.Key)
					if i.Size != int64(len(model[i.Key])) {
						rt.Fatalf("List: %+v, want size %d", i, len(model[i.Key]))
					}
				}
				if diff := cmp.Diff(want, got); diff != "" || more != wantMore || err != nil {
					rt.Fatalf("List(%q, %q, %d) = more %v, %v, want more %v (-want +got):\n%s", prefix, after, limit, more, err, wantMore, diff)
				}
			},
		})
	})
}
