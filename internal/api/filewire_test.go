// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/blob/faultblob"
	"panal/internal/blob/memblob"
	"panal/internal/plat"
)

// timedWire is a wire whose clock the test moves.
func timedWire(t *testing.T) (w *wire, pass func(time.Duration)) {
	t.Helper()
	var mu sync.Mutex
	now := plat.SystemClock()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	w = &wire{world: newWorld(t, withData(nil, clock)), as: "acme/developer"}
	w.org = "/organizations/" + string(w.orgs["acme"].ID)
	return w, func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
}

// anonymous sends a request to a whole URL without credentials.
func (w *wire) anonymous(method, u string, body io.Reader, header ...string) (*http.Response, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, u, body)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := w.srv.Client().Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res, string(b)
}

func md5Of(s string) string { sum := md5.Sum([]byte(s)); return hex.EncodeToString(sum[:]) }

// objects asserts how many objects the storage holds.
func (w *wire) objects(want int) {
	w.t.Helper()
	if infos, _, err := w.deps.Blobs.List(w.t.Context(), "", "", 1000); err != nil || len(infos) != want {
		w.t.Errorf("%d objects, want %d (%v)", len(infos), want, err)
	}
}

// §10.3: a signed upload.
func TestWireSignedUpload(t *testing.T) {
	w, _ := timedWire(t)
	ch := w.channel()
	p := w.call("POST", "/channels/"+ch, nil, "Content-Type", "image/jpeg", "x-abeja-meta-label_id", "7", "x-abeja-meta-filename", "%E7%8C%AB.jpg")
	w.hasKeys("promise", p, "file_id", "content_type", "lifetime", "uploaded_at", "metadata", "channel_id", "url_expires_on", "upload_url")
	w.matches("file_id", fileID, p["file_id"])
	w.matches("url_expires_on", secOffset, p["url_expires_on"])
	if p["uploaded_at"] != nil || p["content_type"] != "image/jpeg" || p["metadata"].(obj)["x-abeja-meta-label_id"] != "7" {
		t.Errorf("promise %v", p)
	}
	id, u := p["file_id"].(string), p["upload_url"].(string)
	if !strings.HasPrefix(u, w.srv.URL+"/") {
		t.Errorf("upload_url %s is not absolute", u)
	}
	one := "/channels/" + ch + "/" + id
	nothing := func() {
		t.Helper()
		w.refused("get before the PUT", 404, "GET", one, nil)
		w.refused("metadata before the PUT", 404, "PUT", one+"/metadata", obj{})
		w.refused("lifetime before the PUT", 404, "PUT", one+"/lifetime", obj{"lifetime": "1day"})
		w.refused("delete before the PUT", 404, "DELETE", one, nil)
		if l := w.call("GET", "/channels/"+ch+"?q=label_id:7", nil); len(l["files"].([]any)) != 0 {
			t.Errorf("listed before the PUT: %v", l)
		}
		if c := w.call("GET", "/channels/"+ch+"/count", nil)["count"]; c != 0.0 {
			t.Errorf("counted before the PUT: %v", c)
		}
	}
	nothing()

	// A body that is cut stores nothing (§5.3) and does not use the URL up.
	target := strings.TrimPrefix(u, w.srv.URL)
	for what, rest := range map[string]string{
		"length": "Content-Length: 10\r\n\r\nshort", "chunked": "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
	} {
		status, body := w.raw("PUT " + target + " HTTP/1.1\r\nHost: x\r\n" + rest)
		isError(t, what, status, body, 400, "bad_request")
	}
	nothing()
	w.objects(0)

	// The promise's content type and metadata count, not the PUT's; no Authorization.
	res, body := w.anonymous("PUT", u, io.MultiReader(strings.NewReader("hello")), "Content-Type", "image/jpeg", "x-abeja-meta-label_id", "8")
	if res.StatusCode != 200 || res.Header.Get("ETag") != `"`+md5Of("hello")+`"` || !strings.HasPrefix(body, "{") {
		t.Fatalf("PUT = %d %v %s", res.StatusCode, res.Header, body)
	}
	f := w.call("GET", one, nil)
	if f["content_type"] != "image/jpeg" || f["metadata"].(obj)["x-abeja-meta-label_id"] != "7" || f["etag"] != md5Of("hello") || f["size"] != 5.0 {
		t.Errorf("file %v", f)
	}
	w.matches("uploaded_at", secOffset, f["uploaded_at"])
	if res, body := w.download(f["download_uri"].(string)); res.StatusCode != 200 || body != "hello" || res.Header.Get("Content-Type") != "image/jpeg" {
		t.Errorf("download = %d %q", res.StatusCode, body)
	}
	if c := w.call("GET", "/channels/"+ch+"/count?q=label_id:7+AND+filename:"+url.QueryEscape("猫"), nil)["count"]; c != 1.0 {
		t.Errorf("count = %v", c)
	}

	// Once: the bytes of a file never change.
	for _, again := range []string{"hello", "other"} {
		res, body = w.anonymous("PUT", u, strings.NewReader(again))
		isError(t, "PUT again", res.StatusCode, body, 409, "conflict")
	}
	if _, body := w.download(f["download_uri"].(string)); body != "hello" {
		t.Errorf("after a second PUT: %q", body)
	}
	w.call("DELETE", one, nil)
	res, body = w.anonymous("PUT", u, strings.NewReader("x"))
	isError(t, "PUT after the delete", res.StatusCode, body, 404, "not_found")
	w.objects(0)

	// The URL is good for one file and one method, and unchanged (§10.6).
	p = w.call("POST", "/channels/"+ch, nil)
	u = p["upload_url"].(string)
	for what, bad := range map[string]string{
		"another file": strings.Replace(u, p["file_id"].(string), id, 1), "longer": strings.Replace(u, "e=", "e=9", 1),
		"no signature": strings.SplitN(u, "?", 2)[0], "another signature": u + "x",
	} {
		res, body := w.anonymous("PUT", bad, strings.NewReader("x"))
		isError(t, what, res.StatusCode, body, 403, "forbidden")
	}
	escaped := url.PathEscape(strings.TrimPrefix(strings.SplitN(u, "?", 2)[0], w.srv.URL))
	res, body = w.anonymous("PUT", w.srv.URL+"/blobs/"+escaped+"?"+strings.SplitN(u, "?", 2)[1], http.NoBody)
	if res.StatusCode < 400 {
		t.Errorf("an upload URL writes an object: %d %s", res.StatusCode, body)
	}
	if p["content_type"] != "application/octet-stream" {
		t.Errorf("content type %v", p["content_type"])
	}
	// A zero-byte body is a file (§10.2).
	if res, _ := w.anonymous("PUT", u, http.NoBody); res.StatusCode != 200 || res.Header.Get("ETag") != `"d41d8cd98f00b204e9800998ecf8427e"` {
		t.Errorf("empty PUT = %d %v", res.StatusCode, res.Header)
	}
}

// §10.3, §10.2: who may ask, and what is refused when it is asked.
func TestWireSignedUploadRefusals(t *testing.T) {
	w, pass := timedWire(t)
	ch := w.channel()
	w.refused("unknown channel", 404, "POST", "/channels/1", nil)
	w.refused("metadata", 400, "POST", "/channels/"+ch, nil, "x-abeja-meta-a", strings.Repeat("v", 2049))
	for as, want := range map[string]int{"": 401, "other/admin": 403, "acme/regular": 403} {
		w.as = as
		w.refused("as "+as, want, "POST", "/channels/"+ch, nil)
	}
	w.as = "acme/developer"
	ask := func() string { return w.call("POST", "/channels/"+ch, nil)["upload_url"].(string) }

	// §8: an archived channel takes none, and the URL works again when it is back.
	u := ask()
	w.call("POST", w.org+"/channels/"+ch+"/archive", nil)
	w.refused("promise of an archived channel", 403, "POST", "/channels/"+ch, nil)
	res, body := w.anonymous("PUT", u, strings.NewReader("x"))
	isError(t, "PUT to an archived channel", res.StatusCode, body, 403, "forbidden")
	w.objects(0)
	w.call("POST", w.org+"/channels/"+ch+"/unarchive", nil)
	if res, body := w.anonymous("PUT", u, strings.NewReader("x")); res.StatusCode != 200 {
		t.Errorf("PUT after unarchive = %d %s", res.StatusCode, body)
	}

	// §10.6: expired is 403; later the promise is forgotten.
	u = ask()
	pass(time.Hour)
	res, body = w.anonymous("PUT", u, strings.NewReader("x"))
	isError(t, "expired", res.StatusCode, body, 403, "forbidden")
	pass(25 * time.Hour)
	if _, err := w.deps.Lake.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.objects(1)
	if n := w.call("GET", "/channels/"+ch+"/count", nil)["count"]; n != 1.0 {
		t.Errorf("%v files", n)
	}
}

// §10.3: twenty bodies by one URL at once make one file, whole.
func TestWireSignedUploadParallel(t *testing.T) {
	w := newWire(t)
	ch := w.channel()
	p := w.call("POST", "/channels/"+ch, nil)
	u := p["upload_url"].(string)
	const n = 20
	type answer struct {
		status int
		etag   string
	}
	answers := make(chan answer, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, u, strings.NewReader(strings.Repeat(fmt.Sprint(i), 10000)))
			res, err := w.srv.Client().Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			_ = res.Body.Close()
			answers <- answer{res.StatusCode, res.Header.Get("ETag")}
		})
	}
	wg.Wait()
	close(answers)
	var won []string
	for a := range answers {
		switch a.status {
		case 200:
			won = append(won, a.etag)
		case 409:
		default:
			t.Errorf("status %d", a.status)
		}
	}
	if len(won) != 1 {
		t.Fatalf("%d of %d bodies won", len(won), n)
	}
	f := w.call("GET", "/channels/"+ch+"/"+p["file_id"].(string), nil)
	if _, body := w.download(f["download_uri"].(string)); `"`+md5Of(body)+`"` != won[0] || f["etag"] != md5Of(body) {
		t.Error("the bytes are not those that were answered")
	}
	w.objects(1)
}

// §10.5: lifetimes change and end; then every endpoint says 404 and lists omit the
// file.
func TestWireLifetime(t *testing.T) {
	w, pass := timedWire(t)
	ch := w.channel()
	up := w.call("POST", "/channels/"+ch+"/upload?lifetime=1week", "hello", "x-abeja-meta-filename", "a", "x-abeja-meta-label", "cat")
	id := up["file_id"].(string)
	one := "/channels/" + ch + "/" + id
	got := w.call("PUT", one+"/lifetime", obj{"lifetime": "1month"})
	if d := cmp.Diff(obj{"channel_id": ch, "file_id": id, "lifetime": "1month"}, got); d != "" {
		t.Error(d)
	}
	if f := w.call("GET", one, nil); f["lifetime"] != "1month" || f["uploaded_at"] != up["uploaded_at"] {
		t.Errorf("file %v", f)
	}
	for what, body := range map[string]any{
		"other value": obj{"lifetime": "2days"}, "null": obj{"lifetime": nil}, "empty": obj{"lifetime": ""}, "absent": obj{}, "no body": nil, "number": obj{"lifetime": 1},
	} {
		if o := w.refused(what, 400, "PUT", one+"/lifetime", body); o["error_detail"].(obj)["lifetime"] == nil {
			t.Errorf("%s: %v", what, o)
		}
	}
	w.refused("unknown file", 404, "PUT", "/channels/"+ch+"/nope/lifetime", obj{"lifetime": "1day"})
	w.as = "acme/regular"
	w.refused("regular", 403, "PUT", one+"/lifetime", obj{"lifetime": "1day"})
	w.as = "other/admin"
	w.refused("another organization", 403, "PUT", one+"/lifetime", obj{"lifetime": "1day"})
	w.as = "acme/developer"

	gone := func(one, uri string) {
		t.Helper()
		for _, c := range []struct {
			method, path string
			body         any
		}{
			{"GET", one, nil}, {"DELETE", one, nil}, {"PUT", one + "/metadata", obj{}}, {"PATCH", one + "/metadata", obj{}}, {"PUT", one + "/lifetime", obj{"lifetime": "1year"}},
		} {
			w.refused(c.method+" "+c.path, 404, c.method, c.path, c.body)
		}
		if l := w.call("GET", "/channels/"+ch, nil); len(l["files"].([]any)) != 0 {
			t.Errorf("listed: %v", l)
		}
		if c := w.call("GET", "/channels/"+ch+"/count?q=label:cat", nil)["count"]; c != 0.0 {
			t.Errorf("counted: %v", c)
		}
		if c := w.call("POST", "/channels/"+ch+"/delete", obj{"q": "label:cat"})["count"]; c != 0.0 {
			t.Errorf("counted by a dry run: %v", c)
		}
		if res, _ := w.download(uri); res.StatusCode != 403 && res.StatusCode != 404 {
			t.Errorf("its URL answers %d", res.StatusCode)
		}
	}
	pass(30*24*time.Hour - time.Minute)
	f := w.call("GET", one, nil)
	pass(2 * time.Minute)
	gone(one, f["download_uri"].(string))
	if n, err := w.deps.Lake.Reap(t.Context()); err != nil || n != 1 {
		t.Errorf("reaped %d, %v", n, err)
	}
	w.objects(0)

	// One that has elapsed already ends the file at once, and its URLs.
	one = "/channels/" + ch + "/" + w.upload(ch, "x", "x-abeja-meta-label", "cat")["file_id"].(string)
	pass(25 * time.Hour)
	uri := w.call("GET", one, nil)["download_uri"].(string)
	if a := w.call("PUT", one+"/lifetime", obj{"lifetime": "1day"}); a["lifetime"] != "1day" {
		t.Errorf("answer %v", a)
	}
	gone(one, uri)
	w.objects(0)
}

// Extension: PATCH of single metadata names.
func TestWireMetadataPatch(t *testing.T) {
	w := newWire(t)
	ch := w.channel()
	id := w.upload(ch, "x", "x-abeja-meta-label", "cat", "x-abeja-meta-split", "train")["file_id"].(string)
	path := "/channels/" + ch + "/" + id + "/metadata"
	f := w.call("PATCH", path, obj{"x-abeja-meta-Label": "dog%20b", "x-abeja-meta-split": nil, "x-abeja-meta-n": "", "x-abeja-sys-meta-organizationid": "evil"})
	want := obj{"x-abeja-sys-meta-organizationid": string(w.orgs["acme"].ID), "x-abeja-meta-label": "dog%20b", "x-abeja-meta-n": ""}
	if d := cmp.Diff(any(want), f["metadata"]); d != "" || f["download_uri"] == nil || f["download_uri"] != f["download_url"] {
		t.Errorf("%v: %s", f, d)
	}
	for q, n := range map[string]float64{"label:cat": 0, `label:"dog b"`: 1, "split:train": 0, `n:""`: 1} {
		if c := w.call("GET", "/channels/"+ch+"/count?q="+url.QueryEscape(q), nil)["count"]; c != n {
			t.Errorf("count %s = %v", q, c)
		}
	}
	for what, body := range map[string]any{
		"number": obj{"x-abeja-meta-a": 1}, "array": obj{"x-abeja-meta-a": []string{"x"}}, "no prefix": obj{"a": "b"}, "not an object": "[]", "no body": nil,
		"NUL": obj{"x-abeja-meta-a": "\x00"}, "twice": obj{"x-abeja-meta-%e3%83%86": "1", "x-abeja-meta-%E3%83%86": nil}, "long": obj{"x-abeja-meta-a": strings.Repeat("v", 2049)},
		"twice by case": obj{"x-abeja-meta-a": "1", "x-abeja-meta-A": "2"}, "no name": obj{"x-abeja-meta-": "1"},
	} {
		w.refused(what, 400, "PATCH", path, body)
	}
	w.refused("unknown", 404, "PATCH", "/channels/"+ch+"/nope/metadata", obj{})
	if f := w.call("PATCH", path, obj{}); !cmp.Equal(any(want), f["metadata"]) {
		t.Errorf("an empty patch changed %v", f["metadata"])
	}
	w.as = "acme/regular"
	w.refused("regular", 403, "PATCH", path, obj{})
}

// Extension: deletion by query, dry run first.
func TestWireDeleteByQuery(t *testing.T) {
	w, pass := timedWire(t)
	ch := w.channel()
	for i := range 14 {
		w.upload(ch, "12345", "x-abeja-meta-label", []string{"cat", "dog"}[i%2], "x-abeja-meta-n", fmt.Sprint(i))
	}
	path, q := "/channels/"+ch+"/delete", "label:cat AND NOT n:0"
	dry := w.call("POST", path, obj{"q": q})
	w.hasKeys("dry run", dry, "dry_run", "count", "sample", "deleted", "deleted_bytes", "remaining", "confirm", "confirm_expires_on")
	if dry["dry_run"] != true || dry["count"] != 6.0 || len(dry["sample"].([]any)) != 6 || dry["deleted"] != 0.0 {
		t.Errorf("dry run %v", dry)
	}
	if f := dry["sample"].([]any)[0].(obj); f["metadata"].(obj)["x-abeja-meta-n"] != "2" || f["download_uri"] == nil {
		t.Errorf("sample %v", f)
	}
	w.matches("confirm", `[A-Za-z0-9_.-]+`, dry["confirm"])
	confirm := dry["confirm"].(string)
	pass(time.Second)
	w.upload(ch, "late", "x-abeja-meta-label", "cat") // what came after the dry run stays

	other := w.channel()
	if _, sig, _ := strings.Cut(confirm, "."); sig == "" {
		t.Fatalf("confirm %s", confirm)
	}
	forged := base64.RawURLEncoding.EncodeToString([]byte(`{"c":"` + ch + `","q":"label:dog","u":99999999999999999,"e":99999999999}`))
	for what, c := range map[string]struct {
		path string
		body obj
	}{
		"no query":                 {path, obj{}},
		"no query, for real":       {path, obj{"dry_run": false, "confirm": confirm}},
		"broken query":             {path, obj{"q": "label:"}},
		"without a dry run":        {path, obj{"q": q, "dry_run": false}},
		"another query":            {path, obj{"q": "label:dog", "dry_run": false, "confirm": confirm}},
		"another channel":          {"/channels/" + other + "/delete", obj{"q": q, "dry_run": false, "confirm": confirm}},
		"other days":               {path, obj{"q": q, "dry_run": false, "confirm": confirm, "start": "20240101", "end": "20990101"}},
		"forged":                   {path, obj{"q": "label:dog", "dry_run": false, "confirm": forged + "." + strings.SplitN(confirm, ".", 2)[1]}},
		"cut":                      {path, obj{"q": q, "dry_run": false, "confirm": confirm[:len(confirm)-2]}},
		"limit":                    {path, obj{"q": q, "dry_run": false, "confirm": confirm, "limit": 0}},
		"one day":                  {path, obj{"q": q, "start": "20240101"}},
		"dry_run of no known kind": {path, obj{"q": q, "dry_run": "perhaps"}},
	} {
		w.refused(what, 400, "POST", c.path, c.body)
	}
	w.as = "acme/regular"
	w.refused("regular", 403, "POST", path, obj{"q": q})
	w.as = "acme/developer"
	w.refused("unknown channel", 404, "POST", "/channels/1/delete", obj{"q": q})

	// In steps, each giving the confirmation of the next; the same one may come again.
	var left []float64
	for range 3 {
		a := w.call("POST", path, obj{"q": " label:cat  NOT n:0", "dry_run": "False", "confirm": confirm, "limit": 4})
		left = append(left, a["deleted"].(float64), a["remaining"].(float64))
		if a["deleted_bytes"] != 5*a["deleted"].(float64) || (a["confirm"] == nil) != (a["remaining"] == 0.0) {
			t.Errorf("answer %v", a)
		}
	}
	if d := cmp.Diff([]float64{4, 2, 2, 0, 0, 0}, left); d != "" {
		t.Error(d)
	}
	for q, n := range map[string]float64{"": 9, "label:cat": 2, "label:dog": 7} {
		if c := w.call("GET", "/channels/"+ch+"/count?q="+url.QueryEscape(q), nil)["count"]; c != n {
			t.Errorf("count %q = %v", q, c)
		}
	}
	w.objects(9)
	if dry := w.call("POST", path, obj{"q": "label:none"}); dry["count"] != 0.0 || dry["confirm"] != nil {
		t.Errorf("nothing to delete: %v", dry)
	}
	dry = w.call("POST", path, obj{"q": "file_id:*"})
	if dry["count"] != 9.0 {
		t.Errorf("all: %v", dry)
	}
	pass(time.Hour)
	w.refused("an old confirmation", 400, "POST", path, obj{"q": "file_id:*", "dry_run": false, "confirm": dry["confirm"]})
}

// Extension: Range, conditions and HEAD on downloads (§10.6: support is useful), §13.
func TestWireRangesAndConditions(t *testing.T) {
	w := newWire(t)
	ch := w.channel()
	const chunk = 5 << 20
	big := strings.Repeat("0123456789abcdef", chunk/16+1)
	up := w.upload(ch, big, "Content-Type", "text/x-log")
	// §13: over one chunk the tag is of the chunks' binary sums.
	first, second := md5.Sum([]byte(big[:chunk])), md5.Sum([]byte(big[chunk:]))
	all := md5.Sum(append(first[:], second[:]...))
	tag := `"` + hex.EncodeToString(all[:]) + `-2"`
	if `"`+up["etag"].(string)+`"` != tag {
		t.Errorf("etag %v, want %s", up["etag"], tag)
	}
	u := w.call("GET", "/channels/"+ch+"/"+up["file_id"].(string), nil)["download_uri"].(string)
	size := len(big)
	for _, c := range []struct {
		method string
		header []string
		status int
		from   int // of the body; -1: none
		to     int
	}{
		{"GET", nil, 200, 0, size},
		{"GET", []string{"Range", "bytes=3-9"}, 206, 3, 10},
		{"GET", []string{"Range", "bytes=5242879-5242881"}, 206, chunk - 1, chunk + 2},
		{"GET", []string{"Range", "bytes=-5"}, 206, size - 5, size},
		{"GET", []string{"Range", "bytes=0-"}, 206, 0, size},
		{"GET", []string{"Range", "bytes=1-2,4-5"}, 200, 0, size},
		{"GET", []string{"Range", "bytes=3-9", "If-Range", tag}, 206, 3, 10},
		{"GET", []string{"Range", "bytes=3-9", "If-Range", `"old"`}, 200, 0, size},
		{"GET", []string{"If-None-Match", `"x", ` + tag}, 304, -1, 0},
		{"GET", []string{"If-Match", `"x"`}, 412, -1, 0},
		{"GET", []string{"Range", fmt.Sprintf("bytes=%d-", size)}, 416, -1, 0},
		{"HEAD", nil, 200, -1, 0},
		{"HEAD", []string{"Range", "bytes=3-9"}, 200, -1, 0}, // RFC 9110 §14.2: of GET alone
		{"HEAD", []string{"If-None-Match", tag}, 304, -1, 0},
	} {
		what := fmt.Sprint(c.method, " ", c.header)
		res, body := w.anonymous(c.method, u, nil, c.header...)
		if res.StatusCode != c.status || res.Header.Get("ETag") != tag || res.Header.Get("Accept-Ranges") != "bytes" || res.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s = %d %v", what, res.StatusCode, res.Header)
		}
		if c.from >= 0 && (body != big[c.from:c.to] || res.ContentLength != int64(c.to-c.from) || res.Header.Get("Content-Type") != "text/x-log") {
			t.Errorf("%s: %d bytes, length %d, %v", what, len(body), res.ContentLength, res.Header)
		}
		wantRange := ""
		switch c.status {
		case 206:
			wantRange = fmt.Sprintf("bytes %d-%d/%d", c.from, c.to-1, size)
		case 416:
			wantRange = fmt.Sprintf("bytes */%d", size)
		}
		if got := res.Header.Get("Content-Range"); got != wantRange {
			t.Errorf("%s: Content-Range %q, want %q", what, got, wantRange)
		}
		if c.method == "HEAD" && c.status == 200 && res.ContentLength != int64(size) {
			t.Errorf("%s: length %d", what, res.ContentLength)
		}
	}
	// A changed ETag in the URL is a changed URL.
	if res, _ := w.download(strings.Replace(u, "v=", "v=0", 1)); res.StatusCode != 403 {
		t.Errorf("changed tag = %d", res.StatusCode)
	}
}

// Extension: If-None-Match: * on uploads.
func TestWireUploadIfNoneMatch(t *testing.T) {
	w := newWire(t)
	ch := w.channel()
	path := "/channels/" + ch + "/upload"
	name := []string{"x-abeja-meta-filename", "a b.jpg", "x-abeja-meta-key", "k"}
	first := w.call("POST", path, "x", append(name, "If-None-Match", "*")...)
	o := w.refused("the name is taken", 412, "POST", path, "y", "x-abeja-meta-filename", "a%20b.jpg", "If-None-Match", "*")
	if o["file_id"] != first["file_id"] || o["metadata"].(obj)["x-abeja-meta-filename"] != "a b.jpg" {
		t.Errorf("412 tells %v", o)
	}
	// An explicit conflict_target says which key, and keeps its status.
	w.refused("both", 409, "POST", path+"?conflict_target=key", "y", "x-abeja-meta-key", "k", "x-abeja-meta-filename", "other", "If-None-Match", "*")
	w.refused("no name", 400, "POST", path, "y", "If-None-Match", "*")
	w.refused("a tag", 400, "POST", path, "y", "x-abeja-meta-filename", "c", "If-None-Match", `"abc"`)
	w.call("DELETE", "/channels/"+ch+"/"+first["file_id"].(string), nil)
	w.call("POST", path, "x", append(name, "If-None-Match", "*")...)
	w.upload(ch, "x", name...) // without it names repeat
}

// Design §6.6: deleting a channel (extension; data.md §8 had 405).
func TestWireChannelDelete(t *testing.T) {
	w := newWire(t)
	ch, keep := w.channel(), w.channel()
	path := w.org + "/channels/" + ch
	id := w.upload(ch, "hello")["file_id"].(string)
	w.upload(keep, "stays")
	d := w.call("POST", w.org+"/datasets", obj{"name": "bolts", "type": "classification", "props": obj{"categories": []any{}}})["dataset_id"].(string)
	// The same text, escaped as some JSON writers do.
	item := w.call("POST", w.org+"/datasets/"+d+"/items", `{"source_data":[{"data_uri":"https://example.com/`+ch+`"},{"data_uri":"datalake:\/\/`+ch+`\/`+id+`"}]}`, "Content-Type", "application/json")
	w.call("POST", w.org+"/datasets/"+d+"/items", obj{"source_data": []any{obj{"data_uri": "https://example.com/" + keep}}})
	uri := w.call("GET", "/channels/"+ch+"/"+id, nil)["download_uri"].(string)

	for as, want := range map[string]int{"": 401, "other/admin": 403, "acme/regular": 403} {
		w.as = as
		w.refused("as "+as, want, "DELETE", path, nil)
	}
	w.as = "acme/developer"
	o := w.refused("in use", 400, "DELETE", path, nil)
	if text := o["error_description"].(string); !strings.Contains(text, "bolts ("+d+")") {
		t.Errorf("the users are not named: %s", text)
	}
	w.call("GET", path, nil)
	w.call("DELETE", fmt.Sprintf("%s/datasets/%s/items/%v", w.org, d, int64(item["dataset_item_id"].(float64))), nil)

	a := w.call("DELETE", path, nil)
	w.hasKeys("answer", a, "organization_id", "organization_name", "created_at", "updated_at", "channel")
	if a["channel"].(obj)["channel_id"] != ch {
		t.Errorf("answer %v", a)
	}
	w.objects(1) // keep's
	for _, c := range []struct{ method, path string }{
		{"GET", path}, {"DELETE", path}, {"GET", "/channels/" + ch}, {"GET", "/channels/" + ch + "/" + id}, {"POST", "/channels/" + ch}, {"POST", "/channels/" + ch + "/upload"},
	} {
		w.refused(c.method+" "+c.path, 404, c.method, c.path, nil)
	}
	if res, _ := w.download(uri); res.StatusCode != 404 {
		t.Errorf("a URL of a deleted channel's file = %d", res.StatusCode)
	}
	if l := w.call("GET", w.org+"/channels?filter_archived=include_archived", nil); len(l["channels"].([]any)) != 1 {
		t.Errorf("list %v", l)
	}
	w.call("DELETE", w.org+"/channels/"+keep, nil) // a URL that happens to hold its id is no reference
}

// A storage that fails while a promised body is committed leaves nothing behind,
// and the URL good.
func TestWireSignedUploadFullDisk(t *testing.T) {
	full := faultblob.New(memblob.New(), faultblob.Fault{Op: faultblob.OpPut, Err: plat.ErrExhausted, AfterBytes: 1000, Times: 1})
	w := &wire{world: newWorld(t, withData(full, plat.SystemClock)), as: "acme/admin", org: "/organizations/acme"}
	ch := w.channel()
	u := w.call("POST", "/channels/"+ch, nil)["upload_url"].(string)
	res, body := w.anonymous("PUT", u, strings.NewReader(strings.Repeat("x", 1<<20)))
	isError(t, "full disk", res.StatusCode, body, 507, "insufficient_storage")
	w.objects(0)
	if res, body := w.anonymous("PUT", u, strings.NewReader("x")); res.StatusCode != 200 {
		t.Errorf("again = %d %s", res.StatusCode, body)
	}
}
