// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/api"
	"panal/internal/blob"
	"panal/internal/blob/memblob"
	"panal/internal/plat"
)

const boundary = "0123456789abcdef0123456789abcdef" // as urllib3's

// formPart writes a part of a form as urllib3 does: headers, then raw bytes (§15.2).
func formPart(disposition, contentType, body string) string {
	h := "--" + boundary + "\r\nContent-Disposition: form-data; " + disposition + "\r\n"
	if contentType != "" {
		h += "Content-Type: " + contentType + "\r\n"
	}
	return h + "\r\n" + body + "\r\n"
}

const formEnd = "--" + boundary + "--\r\n"

const formType = "multipart/form-data; boundary=" + boundary

// sdkForm is the body that the SDK sends: file, then parameters.
func sdkForm(key, contentType, body, params string) string {
	return formPart(`name="file"; filename="`+key+`"`, contentType, body) +
		formPart(`name="parameters"; filename="params.json"`, "application/json", params) + formEnd
}

func (w *wire) bucket() string {
	w.t.Helper()
	return w.call("POST", w.org+"/buckets", obj{"name": "models"})["bucket"].(obj)["bucket_id"].(string)
}

// put uploads a file to a bucket as the SDK does.
func (w *wire) put(bucket, key, body string, header ...string) obj {
	w.t.Helper()
	return w.call("POST", w.org+"/buckets/"+bucket+"/files", sdkForm(key, "", body, "{}"), append(header, "Content-Type", formType)...)
}

// names lists a directory's file_ids.
func (w *wire) names(bucket, query string) []string {
	w.t.Helper()
	out := []string{}
	for _, f := range w.call("GET", w.org+"/buckets/"+bucket+"/files?"+query, nil)["files"].([]any) {
		out = append(out, f.(obj)["file_id"].(string))
	}
	return out
}

// §14: buckets are as channels without a storage type; §7: the envelope.
func TestWireBuckets(t *testing.T) {
	w := newWire(t)
	created := w.call("POST", w.org+"/buckets", obj{"name": "models", "description": "weights"})
	w.hasKeys("envelope", created, "organization_id", "organization_name", "created_at", "updated_at", "bucket")
	b := created["bucket"].(obj)
	w.hasKeys("bucket", b, "bucket_id", "name", "description", "display_name", "security_method", "archived", "created_at", "updated_at")
	w.matches("bucket_id", `[1-9][0-9]{12}`, b["bucket_id"])
	w.matches("created_at", `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`, b["created_at"])
	if b["name"] != "models" || b["display_name"] != "models" || b["description"] != "weights" || b["security_method"] != "organization" || b["archived"] != false {
		t.Errorf("bucket %v", b)
	}
	one := w.org + "/buckets/" + b["bucket_id"].(string)
	// The CLI sends {} and, with archive, a content type and no body (§1, §22 check 11).
	empty := w.call("POST", w.org+"/buckets", obj{})["bucket"].(obj)
	if empty["name"] != "" || empty["description"] != nil {
		t.Errorf("without a name: %v", empty)
	}
	for _, verb := range []string{"archive", "archive"} {
		if o := w.call("POST", one+"/"+verb, "", "Content-Type", "application/json"); o["bucket"].(obj)["archived"] != true {
			t.Errorf("%s: %v", verb, o)
		}
	}
	list := w.call("GET", w.org+"/buckets?limit=1000", nil) // check 9
	w.hasKeys("list", list, "organization_id", "organization_name", "created_at", "updated_at", "buckets", "limit", "offset", "has_next")
	if all := list["buckets"].([]any); len(all) != 1 || all[0].(obj)["bucket_id"] != empty["bucket_id"] || list["limit"] != 1000.0 || list["has_next"] != false {
		t.Errorf("without the archived one: %v", list)
	}
	if all := w.call("GET", w.org+"/buckets?filter_archived=include_archived&limit=1", nil); len(all["buckets"].([]any)) != 1 || all["has_next"] != true {
		t.Errorf("with it: %v", all)
	}
	w.refused("an upload to an archived one", 403, "POST", one+"/files", sdkForm("a", "", "x", "{}"), "Content-Type", formType)
	w.objects(0)
	w.call("POST", one+"/unarchive", nil)
	if o := w.call("PATCH", one, obj{"name": "weights"})["bucket"].(obj); o["name"] != "weights" || o["description"] != "weights" {
		t.Errorf("patched %v", o)
	}
	w.refused("a bad limit", 400, "GET", w.org+"/buckets?limit=0", nil)
	w.refused("a bad filter", 400, "GET", w.org+"/buckets?filter_archived=all", nil)
	w.refused("an unknown one", 404, "GET", w.org+"/buckets/2290000000456", nil)
	w.refused("of another organization", 404, "GET", "/organizations/acme/buckets/2290000000456", nil)

	// Neither API shows the other's.
	ch := w.channel()
	id := b["bucket_id"].(string)
	w.refused("a channel as a bucket", 404, "GET", w.org+"/buckets/"+ch, nil)
	w.refused("a channel's files as a bucket's", 404, "GET", w.org+"/buckets/"+ch+"/files", nil)
	w.refused("an upload to a channel as a bucket", 404, "POST", w.org+"/buckets/"+ch+"/files", sdkForm("a", "", "x", "{}"), "Content-Type", formType)
	w.refused("a bucket as a channel", 404, "GET", w.org+"/channels/"+id, nil)
	w.refused("its files", 404, "GET", "/channels/"+id, nil)
	w.refused("an upload", 404, "POST", "/channels/"+id+"/upload", "x")
	w.refused("a promise", 404, "POST", "/channels/"+id, nil)
	w.refused("deleting it", 404, "DELETE", w.org+"/channels/"+id, nil)
	w.refused("a storage type", 400, "POST", w.org+"/channels", obj{"storage_type": "bucket"})
	for _, c := range w.call("GET", w.org+"/channels", nil)["channels"].([]any) {
		if c.(obj)["channel_id"] != ch {
			t.Errorf("among the channels: %v", c)
		}
	}
	w.put(id, "a/b", "12345")
	if u := w.call("GET", one+"/usage", nil); u["files"] != 1.0 || u["bytes"] != 5.0 {
		t.Errorf("usage %v", u)
	}
	w.as = "acme/regular"
	w.refused("a regular user", 403, "DELETE", one, nil)
	w.as = "acme/developer"
	w.call("DELETE", one, nil)
	w.refused("deleted", 404, "GET", one, nil)
	w.refused("its file", 404, "GET", one+"/files/a/b", nil)
	w.objects(0)
}

// §15.1, §15.2, §15.3, §22 check 7: a key keeps its slashes, is found by its own form
// and with a slash in front; bytes come back by the signed URL (§10.6, check 6).
func TestWireBucketFile(t *testing.T) {
	w := newWire(t)
	b := w.bucket()
	files := w.org + "/buckets/" + b + "/files"
	up := w.call("POST", files, sdkForm("sub/dir/x.txt", "text/plain", "hello", `{"lifetime":"1day"}`),
		"Content-Type", formType, "x-abeja-meta-label_id", "7", "x-abeja-meta-x-abeja-meta-filename", "x.txt", "X-Abeja-Meta-Filename", "%E7%8C%AB.txt")
	w.hasKeys("answer", up, "file_id", "content_type", "lifetime", "uploaded_at", "metadata", "bucket_id", "size", "etag")
	meta := obj{
		"x-abeja-sys-meta-organizationid": string(w.orgs["acme"].ID), "x-abeja-meta-label_id": "7",
		"x-abeja-meta-x-abeja-meta-filename": "x.txt", "x-abeja-meta-filename": "%E7%8C%AB.txt",
	}
	if d := cmp.Diff(meta, up["metadata"]); d != "" {
		t.Error(d)
	}
	if up["file_id"] != "sub/dir/x.txt" || up["content_type"] != "text/plain" || up["lifetime"] != "1day" || up["size"] != 5.0 || up["etag"] != md5Of("hello") {
		t.Errorf("answer %v", up)
	}
	w.matches("uploaded_at", secOffset, up["uploaded_at"])
	// A condition is held to, or refused: never ignored, for the file would be replaced.
	other := sdkForm("sub/dir/x.txt", "", "other", "{}")
	w.refused("If-Match", 400, "POST", files, other, "Content-Type", formType, "If-Match", "*")
	w.refused("another If-None-Match", 400, "POST", files, other, "Content-Type", formType, "If-None-Match", `"x"`)
	if o := w.refused("the key is taken", 412, "POST", files, other, "Content-Type", formType, "If-None-Match", "*"); o["error_description"] != "file already exists" || o["file_id"] != "sub/dir/x.txt" {
		t.Errorf("412 tells %v", o)
	}
	for _, path := range []string{"/sub/dir/x.txt", "//sub/dir/x.txt", "/sub%2Fdir%2Fx.txt", "/%2Fsub/dir/x.txt"} {
		f := w.call("GET", files+path, nil)
		w.hasKeys("file", f, "file_id", "is_file", "size", "etag", "metadata", "content_type", "lifetime", "last_modified", "uploaded_at",
			"download_uri", "download_url", "url_expires_on")
		if f["file_id"] != "/sub/dir/x.txt" || f["is_file"] != true || f["size"] != 5.0 || f["etag"] != md5Of("hello") || f["download_uri"] != f["download_url"] {
			t.Errorf("%s: %v", path, f)
		}
		if d := cmp.Diff(meta, f["metadata"]); d != "" {
			t.Error(d)
		}
		w.matches("last_modified", secOffset, f["last_modified"])
		res, body := w.download(f["download_uri"].(string))
		if res.StatusCode != 200 || body != "hello" || res.Header.Get("Content-Type") != "text/plain" || res.Header.Get("ETag") != `"`+md5Of("hello")+`"` {
			t.Errorf("download = %d %q %v", res.StatusCode, body, res.Header)
		}
	}
	for _, path := range []string{"/sub/dir", "/sub//dir/x.txt", "/sub/dir/x.txt/", "///sub/dir/x.txt", "/sub/dir/../dir/x.txt", "/sub/dir/X.txt", "/%00", "/%ff"} {
		if status, body := w.send("GET", files+path, nil); status != 404 {
			t.Errorf("GET %s = %d %s", path, status, body)
		}
	}
	// A part without a content type, an empty file, no parameters at all.
	if o := w.call("POST", files, formPart(`name="file"; filename="empty"`, "", "")+formEnd, "Content-Type", formType); o["content_type"] != "application/octet-stream" || o["size"] != 0.0 || o["lifetime"] != nil {
		t.Errorf("empty: %v", o)
	}
	// Parameters may come first, and be empty.
	if o := w.call("POST", files, formPart(`name="parameters"; filename="params.json"`, "application/json", `{"lifetime":"1week"}`)+formPart(`name="file"; filename="first"`, "", "x")+formEnd,
		"Content-Type", formType); o["lifetime"] != "1week" {
		t.Errorf("parameters first: %v", o)
	}
	w.call("POST", files, sdkForm("none", "", "x", ""), "Content-Type", formType)
	// Names: raw UTF-8, RFC 5987 (which wins), quotes as browsers and curl write them.
	for disposition, key := range map[string]string{
		`name="file"; filename="写真/猫 1.jpg"`:                                                        "写真/猫 1.jpg",
		`name="file"; filename*=utf-8''%E5%86%99%E7%9C%9F%2F%E7%8C%AB.jpg`:                          "写真/猫.jpg",
		`name="file"; filename="plain"; filename*=utf-8''pl%C3%A4in`:                                "pläin",
		`name="file"; filename="a\"b\\c"`:                                                           `a"b\c`,
		`name="file"; filename="q%22?#&+%.txt"`:                                                     "q%22?#&+%.txt",
		`name="file"; filename="a b/` + "\U0001F40D" + `/..dots../...x"`:                            "a b/\U0001F40D/..dots../...x",
		`filename="order"; name="file"`:                                                             "order",
		`name="file"; filename="` + strings.Repeat("k", 100) + "/" + strings.Repeat("é", 400) + `"`: strings.Repeat("k", 100) + "/" + strings.Repeat("é", 400),
	} {
		if o := w.call("POST", files, formPart(disposition, "", key)+formEnd, "Content-Type", formType); o["file_id"] != key {
			t.Errorf("%s: %v", disposition, o["file_id"])
		}
		segs := strings.Split(key, "/")
		for i, s := range segs {
			segs[i] = url.PathEscape(s)
		}
		f := w.call("GET", files+"/"+strings.Join(segs, "/"), nil)
		if _, body := w.download(f["download_uri"].(string)); f["file_id"] != "/"+key || body != key {
			t.Errorf("%s: %v, %q", key, f["file_id"], body)
		}
	}
	// §15.3: DELETE, with JSON (check 3).
	if o := w.call("DELETE", files+"//sub/dir/x.txt", nil); o["message"] != "deleted file (sub/dir/x.txt)" {
		t.Errorf("deleted: %v", o)
	}
	w.refused("deleted", 404, "GET", files+"/sub/dir/x.txt", nil)
	w.refused("twice", 404, "DELETE", files+"/sub/dir/x.txt", nil)
	w.refused("no key", 405, "DELETE", files+"/", nil)
}

// §15.2: the same key again overwrites: one file is there, the bytes of the one before
// and its URL are gone, and parallel uploads leave one whole file.
func TestWireBucketOverwrite(t *testing.T) {
	w := newWire(t)
	b := w.bucket()
	w.put(b, "a/b", "first", "x-abeja-meta-n", "1")
	old := w.call("GET", w.org+"/buckets/"+b+"/files/a/b", nil)["download_uri"].(string)
	w.put(b, "a/b", "second!", "x-abeja-meta-n", "2")
	f := w.call("GET", w.org+"/buckets/"+b+"/files/a/b", nil)
	if _, body := w.download(f["download_uri"].(string)); body != "second!" || f["metadata"].(obj)["x-abeja-meta-n"] != "2" || f["size"] != 7.0 {
		t.Errorf("%q, %v", body, f)
	}
	if res, _ := w.download(old); res.StatusCode != 404 {
		t.Errorf("the old URL = %d", res.StatusCode)
	}
	w.objects(1)
	// A refused upload leaves what was there.
	w.refused("a bad lifetime behind the bytes", 400, "POST", w.org+"/buckets/"+b+"/files", sdkForm("a/b", "", "third", `{"lifetime":"2days"}`), "Content-Type", formType)
	if _, body := w.download(w.call("GET", w.org+"/buckets/"+b+"/files/a/b", nil)["download_uri"].(string)); body != "second!" {
		t.Errorf("after a refused upload: %q", body)
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() { w.put(b, "p/q", fmt.Sprint("body ", i)) })
	}
	wg.Wait()
	w.objects(2)
	if u := w.call("GET", w.org+"/buckets/"+b+"/usage", nil); u["files"] != 2.0 {
		t.Errorf("usage %v", u)
	}
}

// §10.5 for buckets: a file ends with its lifetime, everywhere.
func TestWireBucketLifetime(t *testing.T) {
	w, pass := timedWire(t)
	b := w.bucket()
	w.call("POST", w.org+"/buckets/"+b+"/files", sdkForm("d/x", "", "x", `{"lifetime":"1day"}`), "Content-Type", formType)
	if got := w.names(b, "target_dir=/"); !slices.Equal(got, []string{"/d/"}) {
		t.Errorf("%v", got)
	}
	pass(25 * time.Hour)
	w.refused("expired", 404, "GET", w.org+"/buckets/"+b+"/files/d/x", nil)
	if got := w.names(b, "target_dir=/"); len(got) != 0 {
		t.Errorf("expired: %v", got)
	}
	if n, err := w.deps.Lake.Reap(t.Context()); n != 1 || err != nil {
		t.Errorf("reaped %d, %v", n, err)
	}
	w.objects(0)
}

// §15.4, §6 rule 3, §22 check 7: one level at a time, in byte order; a directory once;
// the CLI's walk ends and finds all.
func TestWireBucketList(t *testing.T) {
	w := newWire(t)
	b := w.bucket()
	keys := []string{"a.txt", "img/1.jpg", "img/2.jpg", "img/deep/er/3.jpg", "img.txt", "img0", "sub/x.txt", "ü/ö.txt"}
	for _, k := range keys {
		w.put(b, k, k)
	}
	list := w.call("GET", w.org+"/buckets/"+b+"/files?target_dir=/", nil)
	w.hasKeys("list", list, "files", "next_start_after", "last_file_id")
	root := []string{"/a.txt", "/img.txt", "/img/", "/img0", "/sub/", "/ü/"}
	if d := cmp.Diff(root, w.names(b, "target_dir=/&items_per_page=1000")); d != "" { // check 9
		t.Error(d)
	}
	if list["next_start_after"] != "/ü/" || list["last_file_id"] != "/ü/" {
		t.Errorf("next %v, last %v", list["next_start_after"], list["last_file_id"])
	}
	dir := list["files"].([]any)[2].(obj)
	if d := cmp.Diff(obj{
		"file_id": "/img/", "is_file": false, "size": 0.0, "metadata": obj{}, "etag": nil, "content_type": nil, "lifetime": nil, "last_modified": nil,
		"uploaded_at": nil, "url_expires_on": nil, "download_uri": nil, "download_url": nil,
	}, dir); d != "" {
		t.Error(d)
	}
	if f := list["files"].([]any)[0].(obj); f["is_file"] != true || f["size"] != 5.0 || f["etag"] != md5Of("a.txt") || f["download_uri"] == nil {
		t.Errorf("file %v", f)
	}
	for query, want := range map[string][]string{
		"":                                   root,
		"target_dir=":                        root,
		"target_dir=/img/":                   {"/img/1.jpg", "/img/2.jpg", "/img/deep/"},
		"target_dir=img":                     {"/img/1.jpg", "/img/2.jpg", "/img/deep/"},
		"target_dir=/img":                    {"/img/1.jpg", "/img/2.jpg", "/img/deep/"},
		"target_dir=/img/&start_after=/img/": {"/img/1.jpg", "/img/2.jpg", "/img/deep/"},
		"target_dir=/img/&start_after=/img/1.jpg":           {"/img/2.jpg", "/img/deep/"},
		"target_dir=/img/&start_after=/img/deep/":           {},
		"target_dir=/img/&start_after=/zzz":                 {},
		"target_dir=/&start_after=/img/":                    {"/img0", "/sub/", "/ü/"},
		"target_dir=/&last_file_id=/img0":                   {"/sub/", "/ü/"},
		"target_dir=/&start_after=/img.txt&last_file_id=/a": {"/img/", "/img0", "/sub/", "/ü/"},
		"target_dir=/&start_after=/%C3%BC/":                 {},
		"target_dir=/nothing/":                              {},
		"target_dir=/a.txt":                                 {},
		"target_dir=..":                                     {},
		"items_per_page=2":                                  {"/a.txt", "/img.txt"},
	} {
		if d := cmp.Diff(want, w.names(b, query)); d != "" {
			t.Errorf("%s: %s", query, d)
		}
	}
	if end := w.call("GET", w.org+"/buckets/"+b+"/files?target_dir=/&start_after=/%C3%BC/", nil); end["next_start_after"] != nil || end["last_file_id"] != nil {
		t.Errorf("the end: %v", end)
	}
	for query, field := range map[string]string{
		"items_per_page=0": "items_per_page", "items_per_page=x": "items_per_page", "target_dir=%00": "target_dir", "start_after=/%ff": "start_after",
		"target_dir=" + strings.Repeat("x", 5000): "target_dir", "q=Contents%5B": "q", "q=length(Contents)": "q", "q=Contents%5B%5D.Key": "q",
	} {
		if e := w.refused(query[:min(len(query), 40)], 400, "GET", w.org+"/buckets/"+b+"/files?"+query, nil); e["error_detail"].(obj)[field] == nil {
			t.Errorf("%.40s: %v", query, e)
		}
	}
	// With or without a slash at the end of the path (§1).
	w.call("GET", w.org+"/buckets/"+b+"/files/", nil)

	// The CLI (§15.4): pages of the root until an empty one, then each directory that it
	// remembers, beginning after the directory itself.
	for _, size := range []int{1, 2, 1000} {
		var found []string
		dirs := []string{"/"}
		for calls := 0; len(dirs) > 0; {
			dir, after := dirs[0], ""
			if dirs = dirs[1:]; dir != "/" {
				after = dir
			}
			for {
				if calls++; calls > 100 {
					t.Fatal("the walk does not end")
				}
				q := url.Values{"target_dir": {dir}, "items_per_page": {fmt.Sprint(size)}}
				if after != "" {
					q.Set("start_after", after)
				}
				page := w.call("GET", w.org+"/buckets/"+b+"/files?"+q.Encode(), nil)
				all := page["files"].([]any)
				if len(all) == 0 {
					break
				}
				for _, f := range all {
					if id := f.(obj)["file_id"].(string); f.(obj)["is_file"].(bool) {
						found = append(found, id[1:])
					} else {
						dirs = append(dirs, id)
					}
				}
				after = page["next_start_after"].(string)
			}
		}
		slices.Sort(found)
		want := slices.Sorted(slices.Values(keys))
		if d := cmp.Diff(want, found); d != "" {
			t.Errorf("by %d: %s", size, d)
		}
	}
}

// §12.3: q is JMESPath over the page as S3 shows it; what it skips is no end.
func TestWireBucketQuery(t *testing.T) {
	w := newWire(t)
	b := w.bucket()
	for i := range 9 {
		w.put(b, fmt.Sprintf("f%d", i), strings.Repeat("x", 10*i))
	}
	w.put(b, "sub/x", "x")
	for q, want := range map[string][]string{
		"Contents[?Size > `60`]":                           {"/f7", "/f8"},
		"Contents[?Key == 'f3' || Key == 'f1']":            {"/f1", "/f3"},
		"CommonPrefixes":                                   {"/sub/"},
		"[Contents[?Size == `0`], CommonPrefixes][]":       {"/f0", "/sub/"},
		"Contents[?ETag == '" + md5Of("xxxxxxxxxx") + "']": {"/f1"},
		"Contents[?starts_with(LastModified, '1999')]":     {},
		"reverse(sort_by(Contents, &Size))[:2]":            {"/f7", "/f8"},
	} {
		if d := cmp.Diff(want, w.names(b, "target_dir=/&q="+url.QueryEscape(q))); d != "" {
			t.Errorf("%s: %s", q, d)
		}
		// A walk of small pages ends on an empty one and has found the same, where the
		// expression looks at each entry alone.
		if strings.Contains(q, "sort_by") {
			continue
		}
		found, after := []string{}, ""
		for range 20 {
			page := w.call("GET", w.org+"/buckets/"+b+"/files?target_dir=/&items_per_page=2&q="+url.QueryEscape(q)+"&start_after="+url.QueryEscape(after), nil)
			if len(page["files"].([]any)) == 0 {
				break
			}
			for _, f := range page["files"].([]any) {
				found = append(found, f.(obj)["file_id"].(string))
			}
			after = page["next_start_after"].(string)
		}
		if d := cmp.Diff(want, found); d != "" {
			t.Errorf("%s by 2: %s", q, d)
		}
	}
}

// §15.2: keys that can't be are 400 before anything is stored, and so are forms that are
// no forms; the error names what is wrong.
func TestWireBucketHostile(t *testing.T) {
	w := newWire(t)
	b := w.bucket()
	files := w.org + "/buckets/" + b + "/files"
	for _, key := range []string{
		"", "/a", "a//b", "a/", "/", ".", "..", "a/../b", "../../etc/passwd", "a/./b", "a/..", "nul\x00", "tab\tx", "\x7f", "\xff\xfe", "a/\xc3",
		strings.Repeat("x", 1025), strings.Repeat("a/", 600) + "b",
	} {
		e := w.refused(fmt.Sprintf("%.30q", key), 400, "POST", files, sdkForm(key, "", "x", "{}"), "Content-Type", formType)
		if strings.ContainsAny(key, "\x00\t\x7f") || key == "" { // no header can hold the first ones
			continue
		}
		if e["error_detail"].(obj)["file"] == nil {
			t.Errorf("%.30q: %v", key, e)
		}
	}
	file := formPart(`name="file"; filename="k"`, "", "x")
	many := strings.Repeat(formPart(`name="x"`, "", "y"), 20)
	for what, c := range map[string]struct{ contentType, body string }{
		"no form":                   {"text/plain", "x"},
		"JSON":                      {"application/json", "{}"},
		"no boundary":               {"multipart/form-data", file + formEnd},
		"another boundary":          {"multipart/form-data; boundary=xyz", file + formEnd},
		"endless boundary":          {"multipart/form-data; boundary=" + strings.Repeat("b", 71), file + formEnd},
		"nothing":                   {formType, ""},
		"no parts":                  {formType, formEnd},
		"no file":                   {formType, formPart(`name="parameters"`, "", "{}") + formEnd},
		"no name":                   {formType, formPart(`filename="k"`, "", "x") + formEnd},
		"no filename":               {formType, formPart(`name="file"`, "", "x") + formEnd},
		"two files":                 {formType, file + formPart(`name="file"; filename="k2"`, "", "y") + formEnd},
		"two names":                 {formType, formPart(`name="file"; filename="k"; filename="l"`, "", "x") + formEnd},
		"cut in the file":           {formType, strings.TrimSuffix(file, "x\r\n")},
		"cut after the file":        {formType, file},
		"cut before the end":        {formType, file + "--" + boundary},
		"cut before the parameters": {formType, file + "--" + boundary + "\r\n"},
		"cut in the boundary":       {formType, file + formEnd[:20]},
		"cut in the parameters":     {formType, file + formPart(`name="parameters"`, "", `{"lifetime":`)},
		"parameters no object":      {formType, sdkForm("k", "", "x", "[]")},
		"parameters no JSON":        {formType, sdkForm("k", "", "x", "{")},
		"a lifetime of no text":     {formType, sdkForm("k", "", "x", `{"lifetime":[1]}`)},
		"an unknown lifetime":       {formType, sdkForm("k", "", "x", `{"lifetime":"1hour"}`)},
		"long parameters":           {formType, sdkForm("k", "", "x", `{"a":"`+strings.Repeat("x", 1<<17)+`"}`)},
		"long headers":              {formType, "--" + boundary + "\r\nX: " + strings.Repeat("x", 1<<18) + "\r\n" + file + formEnd},
		"many headers":              {formType, "--" + boundary + "\r\n" + strings.Repeat("X: y\r\n", 1<<16) + "\r\nx\r\n" + formEnd},
		"a long preamble":           {formType, strings.Repeat("x\r\n", 1<<17) + file + formEnd},
		"many parts":                {formType, many + file + formEnd},
		"many parts after":          {formType, file + many + formEnd},
		"a broken header":           {formType, "--" + boundary + "\r\nno header\r\n\r\nx\r\n" + formEnd},
		"no disposition":            {formType, "--" + boundary + "\r\nContent-Type: text/plain\r\n\r\nx\r\n" + formEnd},
		"another disposition":       {formType, "--" + boundary + "\r\nContent-Disposition: attachment; name=\"file\"; filename=\"k\"\r\n\r\nx\r\n" + formEnd},
		"a content type too long":   {formType, formPart(`name="file"; filename="k"`, "a/"+strings.Repeat("x", 2000), "x") + formEnd},
	} {
		w.refused(what, 400, "POST", files, c.body, "Content-Type", c.contentType)
	}
	w.refused("metadata", 400, "POST", files, sdkForm("k", "", "x", "{}"), "Content-Type", formType, "x-abeja-meta-k", strings.Repeat("v", 3000))
	// §5.3: a body that ends before its length.
	head := "POST " + files + " HTTP/1.1\r\nHost: x\r\nContent-Type: " + formType + "\r\nAuthorization: Basic " +
		base64.StdEncoding.EncodeToString([]byte(w.token[w.as])) + "\r\n"
	whole := sdkForm("k", "", strings.Repeat("x", 1000), "{}")
	for what, rest := range map[string]string{
		"short":   fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(whole), whole[:500]),
		"chunked": "Transfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n", 500, whole[:500]),
	} {
		status, body := w.raw(head + rest)
		isError(t, what, status, body, 400, "bad_request")
	}
	if got := w.names(b, "target_dir=/"); len(got) != 0 {
		t.Errorf("stored: %v", got)
	}
	w.objects(0)
}

// slowPart is a body of n bytes that makes itself as it is read.
type slowPart struct{ n int64 }

func (s *slowPart) Read(p []byte) (int, error) {
	if s.n <= 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), s.n)
	for i := range p[:n] {
		p[i] = 'x'
	}
	s.n -= n
	return int(n), nil
}

// watermark is a storage that looks at what is held while it takes a body.
type watermark struct {
	blob.Driver
	taken int64
	ahead int64 // most bytes that the server had read before the storage took them
	sent  *slowPart
	total int64
}

func (d *watermark) Put(ctx context.Context, key string, r io.Reader, size int64, opt blob.PutOptions) error {
	return d.Driver.Put(ctx, key, io.TeeReader(r, writerFunc(func(p []byte) {
		d.taken += int64(len(p))
		d.ahead = max(d.ahead, d.total-d.sent.n-d.taken)
	})), size, opt)
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

// The bytes of a file go straight to the storage: what is read ahead of it does not
// grow with the file.
func TestWireBucketStreams(t *testing.T) {
	const size = 6 << 20
	src := &slowPart{n: size}
	d := &watermark{Driver: memblob.New(), sent: src, total: size}
	base := newWorld(t, withData(d, plat.SystemClock))
	w := &wire{world: base, as: "acme/developer", org: "/organizations/acme"}
	b := w.bucket()
	whole := formPart(`name="file"; filename="big"`, "", "")
	body := io.MultiReader(strings.NewReader(strings.TrimSuffix(whole, "\r\n")), src, strings.NewReader("\r\n"+formEnd))
	// Not over a socket, whose buffers read ahead themselves.
	user, pass, _ := strings.Cut(w.token[w.as], ":")
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, w.org+"/buckets/"+b+"/files", body)
	req.SetBasicAuth(user, pass)
	req.Header.Set("Content-Type", formType)
	rec := httptest.NewRecorder()
	api.New(w.deps).Handler().ServeHTTP(rec, req)
	if rec.Code != 200 || d.taken != size {
		t.Fatalf("%d %s, %d bytes stored", rec.Code, rec.Body, d.taken)
	}
	if d.ahead > 1<<20 {
		t.Errorf("%d bytes were read ahead of the storage", d.ahead)
	}
}
