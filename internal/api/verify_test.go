// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"strings"
	"testing"

	"panal/internal/blob"
	"panal/internal/lake"
	"panal/internal/lake/journal"
)

// TestVerifyChannel: an operation of ours. Damage is told by kind, mended on request,
// and only by those who may delete the channel.
func TestVerifyChannel(t *testing.T) {
	w := newWire(t)
	ch := w.channel()
	f := w.upload(ch, "body", "x-abeja-meta-label", "cat")
	path := w.org + "/channels/" + ch + "/verify"
	if o := w.call("POST", path+"?deep=true", nil); o["left"] != 0.0 || o["files"] != 1.0 || len(o["findings"].([]any)) != 0 {
		t.Errorf("a sound channel: %v", o)
	}
	infos, _, err := w.deps.Blobs.List(t.Context(), lake.ObjectPrefix, "", 10)
	if err != nil || len(infos) != 1 {
		t.Fatal(infos, err)
	}
	// One that was cut is not given out as a whole one, however it is asked for.
	uri := w.call("GET", "/channels/"+ch+"/"+f["file_id"].(string), nil)["download_uri"].(string)
	if res, body := w.download(uri); res.StatusCode != 200 || body != "body" {
		t.Errorf("a sound object: %d %s", res.StatusCode, body)
	}
	if _, err := w.deps.Blobs.Put(t.Context(), infos[0].Key, strings.NewReader("bo"), 2, blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, h := range []string{"", "bytes=0-"} {
		if res, body := w.download(uri, "Range", h); res.StatusCode != 500 || !strings.Contains(body, "is damaged") || strings.Contains(body, `"bo"`) {
			t.Errorf("a cut object, Range %q: %d %s", h, res.StatusCode, body)
		}
	}
	if err := w.deps.Blobs.Delete(t.Context(), infos[0].Key); err != nil {
		t.Fatal(err)
	}
	o := w.call("POST", path+"?repair=true", nil) // it can't be
	x := o["findings"].([]any)[0].(obj)
	if o["left"] != 1.0 || x["kind"] != string(journal.KindObjectMissing) || x["examples"].([]any)[0] != f["file_id"] {
		t.Errorf("a missing object: %v", o)
	}
	for _, name := range []string{"deep", "repair"} {
		got := w.refused(name+" in the body", 400, "POST", path, obj{name: true})
		if text, _ := got["error_description"].(string); got["error_detail"].(obj)[name] == nil || !strings.Contains(text, "verify?"+name+"=true") {
			t.Errorf("%s in the body: %v", name, got)
		}
	}
	for _, empty := range []any{obj{}, "{", "null"} { // what known clients send where nothing is to be sent
		w.call("POST", path, empty)
	}
	w.refused("a wrong flag", 400, "POST", path+"?deep=1", nil)
	w.refused("an unknown channel", 404, "POST", w.org+"/channels/2290000000456/verify", nil)
	w.as = "acme/regular"
	w.refused("a regular user", 403, "POST", path, nil)
	w.as = "other/admin"
	w.refused("another organization", 403, "POST", path, nil)
}
