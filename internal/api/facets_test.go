// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Facets are ours, beyond data.md, in its style.
func TestWireFacets(t *testing.T) {
	w := newWire(t)
	ch := w.channel()
	for _, label := range []string{"%E7%8C%AB", "dog", "dog", "a cow"} {
		w.upload(ch, "x", "x-abeja-meta-label", label, "x-abeja-meta-split", "train")
	}
	w.upload(ch, "x", "x-abeja-meta-split", "test")
	path := "/channels/" + ch + "/facets"
	got := w.call("GET", path+"?key=label", nil)
	want := obj{"key": "label", "distinct": 3.0, "files": 4.0, "values": []any{
		obj{"value": "dog", "count": 2.0}, obj{"value": "a cow", "count": 1.0}, obj{"value": "猫", "count": 1.0},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	got = w.call("GET", path+"?key=x-abeja-meta-split&limit=1&q="+url.QueryEscape("NOT label:dog"), nil)
	want = obj{"key": "x-abeja-meta-split", "distinct": 2.0, "files": 3.0, "values": []any{obj{"value": "train", "count": 2.0}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"", "?key=", "?key=x-abeja-meta-", "?key=%00", "?key=label%00", "?key=%2500", "?key=label&q=%2500:x", "?key=label&limit=0", "?key=label&q=AND", "?key=label&start=20240101"} {
		w.refused("facets"+bad, 400, "GET", path+bad, nil)
	}
	w.refused("an unknown channel", 404, "GET", "/channels/2999999999999/facets?key=label", nil)
}
