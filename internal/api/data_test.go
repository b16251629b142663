// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/blob"
	"panal/internal/blob/faultblob"
	"panal/internal/blob/memblob"
	"panal/internal/dataset"
	"panal/internal/lake"
	"panal/internal/lake/journal"
	"panal/internal/plat"
	"panal/internal/sqlstore"
)

// The tests of this file speak the wire as the documents' clients do; each names
// the section of data.md that it holds the server to.

type obj = map[string]any

// wire is a client written from data.md: plain net/http, answers as decoded JSON.
type wire struct {
	*world
	as  string
	org string // /organizations/{id}
}

// withData adds the DataLake and datasets over d (nil: memory) and a clock.
func withData(d blob.Driver, now plat.Clock) func(*world, *sqlstore.DB) {
	return func(w *world, db *sqlstore.DB) {
		if d == nil {
			d = memblob.New()
		}
		w.deps.Now = now
		w.deps.Blobs = blob.New(d)
		index, changes := sqlstore.NewLake(db, now), journal.New(w.deps.Blobs, now)
		w.deps.Lake = lake.NewService(index, w.deps.Blobs, now) // without its journal: tests count objects
		w.deps.Verify = func(ctx context.Context, c lake.Channel, opt journal.VerifyOptions) (journal.Report, error) {
			return changes.Verify(ctx, index, c, opt)
		}
		w.deps.Datasets = dataset.NewService(sqlstore.NewDatasets(db), now)
	}
}

func newWire(t *testing.T) *wire {
	t.Helper()
	w := newWorld(t, withData(nil, plat.SystemClock))
	return &wire{world: w, as: "acme/developer", org: "/organizations/" + string(w.orgs["acme"].ID)}
}

// call sends body (nil, string, []byte or JSON) and wants an answer of 200 with JSON.
func (w *wire) call(method, path string, body any, header ...string) obj {
	w.t.Helper()
	status, text := w.send(method, path, body, header...)
	if status != 200 {
		w.t.Fatalf("%s %s = %d %s", method, path, status, text)
	}
	var o obj
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		w.t.Fatalf("%s %s: the answer is no JSON object: %s", method, path, text)
	}
	return o
}

func (w *wire) send(method, path string, body any, header ...string) (int, string) {
	w.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			w.t.Fatal(err)
		}
		r = bytes.NewReader(raw)
		header = append(header, "Content-Type", "application/json")
	}
	return w.do(method, path, w.as, r, header...)
}

func (w *wire) refused(what string, wantStatus int, method, path string, body any, header ...string) obj {
	w.t.Helper()
	status, text := w.send(method, path, body, header...)
	code := strings.ReplaceAll(strings.ToLower(http.StatusText(wantStatus)), " ", "_")
	isError(w.t, what, status, text, wantStatus, code)
	var o obj
	_ = json.Unmarshal([]byte(text), &o)
	return o
}

func (w *wire) channel() string {
	w.t.Helper()
	return w.call("POST", w.org+"/channels", obj{"name": "raw"})["channel"].(obj)["channel_id"].(string)
}

func (w *wire) upload(channel, body string, header ...string) obj {
	w.t.Helper()
	return w.call("POST", "/channels/"+channel+"/upload", body, header...)
}

func keys(o obj) []string { return slices.Sorted(maps.Keys(o)) }

func (w *wire) hasKeys(what string, o obj, want ...string) {
	w.t.Helper()
	slices.Sort(want)
	if d := cmp.Diff(want, keys(o)); d != "" {
		w.t.Errorf("%s: %s", what, d)
	}
}

func (w *wire) matches(what, pattern string, v any) {
	w.t.Helper()
	if s, ok := v.(string); !ok || !regexp.MustCompile("^"+pattern+"$").MatchString(s) {
		w.t.Errorf("%s = %v, want %s", what, v, pattern)
	}
}

const (
	secZ      = `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`
	secOffset = `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00`
	naive     = `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}`
	fileID    = `\d{8}T\d{6}-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`
)

// §4, §7, §8: channels and their envelope.
func TestWireChannels(t *testing.T) {
	w := newWire(t)
	a := w.call("POST", w.org+"/channels", obj{"name": "line-3", "description": "raw frames", "storage_type": "file"})
	w.hasKeys("envelope", a, "organization_id", "organization_name", "created_at", "updated_at", "channel")
	if a["organization_id"] != string(w.orgs["acme"].ID) || a["organization_name"] != "acme" {
		t.Errorf("envelope %v", a)
	}
	c := a["channel"].(obj)
	w.hasKeys("channel", c, "channel_id", "name", "description", "display_name", "storage_type", "security_method", "archived", "created_at", "updated_at")
	w.matches("channel_id", `[1-9]\d{12}`, c["channel_id"])
	w.matches("created_at", secZ, c["created_at"])
	if c["display_name"] != "line-3" || c["storage_type"] != "file" || c["security_method"] != "organization" || c["archived"] != false {
		t.Errorf("channel %v", c)
	}
	id := c["channel_id"].(string)
	// All of the body is optional; an empty one with a content type too (§1).
	for _, body := range []any{"", "{}", `{"name":"","description":null,"unknown":1}`} {
		got := w.call("POST", w.org+"/channels", body, "Content-Type", "application/json")["channel"].(obj)
		if got["storage_type"] != "datalake" || got["name"] != "" || got["description"] != nil {
			t.Errorf("POST %q = %v", body, got)
		}
	}
	if got := w.call("PATCH", w.org+"/channels/"+id, obj{"name": "line-4"})["channel"].(obj); got["name"] != "line-4" || got["description"] != "raw frames" {
		t.Errorf("PATCH = %v", got)
	}
	if got := w.call("GET", w.org+"/channels/"+id+"/", nil, "Content-Type", "application/json")["channel"].(obj); got["name"] != "line-4" {
		t.Errorf("GET = %v", got)
	}

	w.refused("storage type", 400, "POST", w.org+"/channels", obj{"storage_type": "tape"})
	w.refused("name of the wrong type", 400, "POST", w.org+"/channels", obj{"name": 7})
	w.refused("broken JSON", 400, "POST", w.org+"/channels", `{"name":`, "Content-Type", "application/json")
	w.refused("unknown", 404, "GET", w.org+"/channels/1", nil)
	w.refused("PATCH unknown", 404, "PATCH", w.org+"/channels/1", obj{})
	w.refused("archive unknown", 404, "POST", w.org+"/channels/1/archive", nil)
	w.as = "other/admin"
	w.refused("another organization's under its path", 403, "GET", w.org+"/channels/"+id, nil)
	w.refused("another organization's under mine", 404, "GET", "/organizations/other/channels/"+id, nil)
	w.as = "acme/regular"
	w.refused("regular creates", 403, "POST", w.org+"/channels", nil)
}

// §6, §8, §22 checks 9 and 11: lists, paging, archive.
func TestWireChannelLists(t *testing.T) {
	w := newWire(t)
	var ids []string
	for range 3 {
		ids = append(ids, w.channel())
	}
	// §22 check 11: a body-less POST with a content type.
	if c := w.call("POST", w.org+"/channels/"+ids[1]+"/archive", "", "Content-Type", "application/json")["channel"].(obj); c["archived"] != true {
		t.Errorf("archive = %v", c)
	}
	w.call("POST", w.org+"/channels/"+ids[1]+"/archive", nil) // idempotent
	list := func(query string) (got []string, a obj) {
		a = w.call("GET", w.org+"/channels"+query, nil)
		for _, c := range a["channels"].([]any) {
			got = append(got, c.(obj)["channel_id"].(string))
			if c.(obj)["storage_type"] != "datalake" {
				t.Errorf("list entry %v", c)
			}
		}
		return got, a
	}
	got, a := list("?limit=1000")
	w.hasKeys("list", a, "organization_id", "organization_name", "created_at", "updated_at", "channels", "limit", "offset", "has_next")
	if d := cmp.Diff([]string{ids[2], ids[0]}, got); d != "" || a["has_next"] != false || a["limit"] != 1000.0 {
		t.Errorf("default list %v: %s", a, d)
	}
	if got, a := list("?filter_archived=include_archived&limit=2&offset=1"); !slices.Equal(got, []string{ids[1], ids[0]}) || a["has_next"] != false {
		t.Errorf("second page = %v %v", got, a)
	}
	if got, a := list("?filter_archived=exclude_archived&limit=1"); len(got) != 1 || a["has_next"] != true {
		t.Errorf("first page = %v %v", got, a)
	}
	if got, a := list("?offset=9"); len(got) != 0 || a["limit"] != 50.0 {
		t.Errorf("past the end = %v %v", got, a)
	}
	for _, q := range []string{"limit=0", "limit=x", "offset=-1", "filter_archived=yes"} {
		w.refused(q, 400, "GET", w.org+"/channels?"+q, nil)
	}
	// §8: archived ones stay readable and refuse uploads with 403.
	w.refused("upload to an archived channel", 403, "POST", "/channels/"+ids[1]+"/upload", "x")
	w.call("GET", "/channels/"+ids[1], nil)
	w.call("POST", w.org+"/channels/"+ids[1]+"/unarchive", nil)
	w.upload(ids[1], "x")
}

// §10.2, §10.1, §11: an upload and the file object.
func TestWireUpload(t *testing.T) {
	w := newWire(t)
	ch := w.channel()
	up := w.upload(ch, "hello", "Content-Type", "Text/Plain;q", "x-abeja-meta-filename", "a.jpg", "X-Abeja-Sys-Meta-Organizationid", "evil", "X-Other", "1")
	w.matches("file_id", fileID, up["file_id"])
	w.matches("uploaded_at", secOffset, up["uploaded_at"])
	wantMeta := obj{"x-abeja-sys-meta-organizationid": string(w.orgs["acme"].ID), "x-abeja-meta-filename": "a.jpg"}
	if d := cmp.Diff(wantMeta, up["metadata"]); d != "" || up["content_type"] != "Text/Plain;q" || up["lifetime"] != nil {
		t.Errorf("upload %v: %s", up, d)
	}
	id := up["file_id"].(string)
	f := w.call("GET", "/channels/"+ch+"/"+id, nil)
	w.hasKeys("file", f, "file_id", "content_type", "metadata", "uploaded_at", "lifetime", "download_uri", "download_url", "url_expires_on", "channel_id", "size", "etag")
	w.matches("url_expires_on", secOffset, f["url_expires_on"])
	// §10.1: both names, the same value (check 6).
	if f["download_uri"] != f["download_url"] || !strings.HasPrefix(f["download_uri"].(string), w.srv.URL+"/") {
		t.Errorf("download %v, %v", f["download_uri"], f["download_url"])
	}
	res, body := w.download(f["download_uri"].(string))
	if res.StatusCode != 200 || body != "hello" || res.Header.Get("Content-Type") != "Text/Plain;q" || res.ContentLength != 5 || res.Header.Get("Content-Encoding") != "" {
		t.Errorf("download = %d %q %v", res.StatusCode, body, res.Header)
	}
	// Listed at once; deleted with a JSON answer (check 3).
	if l := w.call("GET", "/channels/"+ch, nil); len(l["files"].([]any)) != 1 || l["next_page_token"] != nil {
		t.Errorf("list %v", l)
	}
	if d := w.call("DELETE", "/channels/"+ch+"/"+id, nil); d["message"] != "deleted file ("+id+")" {
		t.Errorf("delete %v", d)
	}
	w.refused("deleted", 404, "GET", "/channels/"+ch+"/"+id, nil)
	w.refused("delete again", 404, "DELETE", "/channels/"+ch+"/"+id, nil)
	if l := w.call("GET", "/channels/"+ch, nil); len(l["files"].([]any)) != 0 {
		t.Errorf("list %v", l)
	}
	if res, _ := w.download(f["download_uri"].(string)); res.StatusCode != 404 {
		t.Errorf("download after delete = %d", res.StatusCode)
	}
}

// download follows a signed URL without credentials (§10.6).
func (w *wire) download(u string, headers ...string) (*http.Response, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, u, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] != "" {
			req.Header.Set(headers[i], headers[i+1])
		}
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

// §10.6, check 6: an expired or changed URL is 403.
func TestWireSignedURLs(t *testing.T) {
	var mu sync.Mutex
	now := plat.SystemClock()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	world := newWorld(t, withData(nil, clock))
	w := &wire{world: world, as: "acme/admin", org: "/organizations/acme"}
	ch := w.channel()
	f := w.call("GET", "/channels/"+ch+"/"+w.upload(ch, "hello")["file_id"].(string), nil)
	u := f["download_uri"].(string)
	if res, _ := w.download(u); res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("fresh = %d %v", res.StatusCode, res.Header)
	}
	if res, _ := w.download(strings.Replace(u, "t=application", "t=text", 1)); res.StatusCode != 403 {
		t.Errorf("changed = %d", res.StatusCode)
	}
	mu.Lock()
	now = now.Add(time.Hour + time.Second)
	mu.Unlock()
	if res, _ := w.download(u); res.StatusCode != 403 {
		t.Errorf("expired = %d", res.StatusCode)
	}
}

// §1, §10.2, check 4: chunked and zero-byte bodies.
func TestWireBodies(t *testing.T) {
	w := newWire(t)
	ch := w.channel()
	send := func(body io.Reader) obj {
		status, text := w.do("POST", "/channels/"+ch+"/upload", w.as, body, "x-abeja-meta-label_id", "1")
		var o obj
		if err := json.Unmarshal([]byte(text), &o); err != nil || status != 200 {
			t.Fatalf("%d %s", status, text)
		}
		return o
	}
	big := strings.Repeat("0123456789", 1<<18)
	for what, c := range map[string]struct {
		body io.Reader
		want string
	}{
		"chunked":       {io.MultiReader(strings.NewReader(big)), big}, // of no known length
		"chunked empty": {io.MultiReader(), ""},
		"empty":         {http.NoBody, ""},
		"length":        {strings.NewReader("x"), "x"},
	} {
		o := send(c.body)
		f := w.call("GET", "/channels/"+ch+"/"+o["file_id"].(string), nil)
		if _, body := w.download(f["download_url"].(string)); body != c.want {
			t.Errorf("%s: %d bytes came back, want %d", what, len(body), len(c.want))
		}
		if m := f["metadata"].(obj); m["x-abeja-meta-label_id"] != "1" {
			t.Errorf("%s: metadata %v", what, m)
		}
	}
}

// §1, §11, checks 4 and 5: header names with _, % and mixed case; encoded text
// comes back as it was sent, the prefix in lower case; compared decoded.
func TestWireMetadata(t *testing.T) {
	w := newWire(t)
	ch := w.channel()
	name := "テスト 画像.png"
	raw := fmt.Sprintf("POST /channels/%s/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Basic %s\r\nContent-Length: 2\r\n"+
		"X-ABEJA-META-Label_ID: 7\r\nx-Abeja-Meta-%%E3%%83%%86: %%E7%%8C%%AB\r\nx-abeja-meta-filename: %s\r\nx-abeja-meta-pct: 100%%\r\n"+
		"x-abeja-meta-x-abeja-meta-filename: odd\r\nConnection: close\r\n\r\nhi",
		ch, base64.StdEncoding.EncodeToString([]byte(w.token[w.as])), url.PathEscape(name))
	status, body := w.whole(raw)
	var up obj
	if err := json.Unmarshal([]byte(body), &up); err != nil || status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	want := obj{
		"x-abeja-sys-meta-organizationid": string(w.orgs["acme"].ID), "x-abeja-meta-label_id": "7", "x-abeja-meta-%e3%83%86": "%E7%8C%AB",
		"x-abeja-meta-filename": url.PathEscape(name), "x-abeja-meta-pct": "100%", "x-abeja-meta-x-abeja-meta-filename": "odd",
	}
	got := w.call("GET", "/channels/"+ch+"/"+up["file_id"].(string), nil)["metadata"]
	if d := cmp.Diff(any(want), got); d != "" {
		t.Error(d)
	}
	for q, n := range map[string]float64{
		"label_id:7": 1, "x-abeja-meta-label_id:7": 1, "テ:猫": 1, "x-abeja-meta-%E3%83%86:猫": 1, `filename:"テスト 画像.png"`: 1, "filename:画像": 1,
		`pct:"100%"`: 1, "x-abeja-meta-x-abeja-meta-filename:odd": 1, "filename:画": 0, "NOT label_id:7": 0,
	} {
		if c := w.call("GET", "/channels/"+ch+"/count?q="+url.QueryEscape(q), nil)["count"]; c != n {
			t.Errorf("count %s = %v, want %v", q, c, n)
		}
	}

	// §11: limits; §5.1: the field is named.
	for what, h := range map[string][]string{
		"x-abeja-meta-long": {"x-abeja-meta-long", strings.Repeat("v", 2049)},
		"x-abeja-meta-nul":  {"x-abeja-meta-nul", "a%00b"},
		"x-abeja-meta-utf":  {"x-abeja-meta-utf", "a\xff"},
		"metadata":          {},
	} {
		if what == "metadata" {
			for i := range 9 {
				h = append(h, fmt.Sprintf("x-abeja-meta-k%d", i), strings.Repeat("v", 2000))
			}
		}
		o := w.refused(what, 400, "POST", "/channels/"+ch+"/upload", "x", h...)
		if detail, _ := o["error_detail"].(obj); detail[what] == nil {
			t.Errorf("%s: %v", what, o)
		}
	}
}

// raw sends bytes and returns the answer's status and body.
func (w *wire) raw(request string) (int, string) { return w.speak(request, true) }

// whole is raw for a request that is not cut: the sender stays, for net/http takes one
// who closes its side for one who has left.
func (w *wire) whole(request string) (int, string) { return w.speak(request, false) }

func (w *wire) speak(request string, leave bool) (int, string) {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.srv.Listener.Addr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, request); err != nil {
		w.t.Fatal(err)
	}
	if c, ok := conn.(*net.TCPConn); ok && leave {
		_ = c.CloseWrite()
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

// §5.3, §10.2: a body that ends early is 400 and leaves nothing.
func TestWireTruncatedBodies(t *testing.T) {
	w := newWire(t)
	ch := w.channel()
	head := fmt.Sprintf("POST /channels/%s/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Basic %s\r\n", ch, base64.StdEncoding.EncodeToString([]byte(w.token[w.as])))
	for what, rest := range map[string]string{
		"length":          "Content-Length: 10\r\n\r\nshort",
		"nothing":         "Content-Length: 10\r\n\r\n",
		"chunked":         "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"broken chunking": "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
	} {
		status, body := w.raw(head + rest)
		isError(t, what, status, body, 400, "bad_request")
	}
	if n := w.call("GET", "/channels/"+ch+"/count", nil)["count"]; n != 0.0 {
		t.Errorf("%v files after truncated uploads", n)
	}
	if infos, _, err := w.deps.Blobs.List(t.Context(), "", "", 10); err != nil || len(infos) != 0 {
		t.Errorf("left in storage: %v %v", infos, err)
	}
}

// §10.2: errors of an upload.
func TestWireUploadErrors(t *testing.T) {
	w := newWire(t)
	ch := w.channel()
	w.refused("unknown channel", 404, "POST", "/channels/1/upload", "x")
	if o := w.refused("lifetime", 400, "POST", "/channels/"+ch+"/upload?lifetime=2days", "x"); o["error_detail"].(obj)["lifetime"] == nil {
		t.Errorf("lifetime: %v", o)
	}
	w.refused("conflict_target without the key", 400, "POST", "/channels/"+ch+"/upload?conflict_target=filename", "x")
	for as, want := range map[string]int{"": 401, "other/admin": 403, "acme/regular": 403} {
		w.as = as
		w.refused("as "+as, want, "POST", "/channels/"+ch+"/upload", "x")
	}
	w.as = "other/admin"
	for _, c := range []struct{ method, path string }{
		{"GET", "/channels/" + ch}, {"GET", "/channels/" + ch + "/count"}, {"GET", "/channels/" + ch + "/x"}, {"DELETE", "/channels/" + ch + "/x"},
	} {
		w.refused(c.method+" "+c.path, 403, c.method, c.path, nil)
	}
	w.refused("metadata of another organization's", 403, "PUT", "/channels/"+ch+"/x/metadata", obj{})
	w.as = "acme/regular"
	w.call("GET", "/channels/"+ch, nil)
	w.as = "acme/developer"
	for l, days := range map[string]int{"1day": 1, "1week": 7, "1month": 30, "6months": 180, "1year": 365} {
		if up := w.call("POST", "/channels/"+ch+"/upload?lifetime="+l, "x"); up["lifetime"] != l {
			t.Errorf("%s (%d days): %v", l, days, up)
		}
	}
	// A large body that is refused gets its answer, not a broken pipe.
	w.refused("refused, large", 404, "POST", "/channels/1/upload", bytes.Repeat([]byte("x"), 8<<20))
}

// Design §6.9: a full disk is 507 and leaves nothing; later uploads work.
func TestWireFullDisk(t *testing.T) {
	full := faultblob.New(memblob.New(), faultblob.Fault{Op: faultblob.OpPut, Err: plat.ErrExhausted, AfterBytes: 1000, Times: 1})
	world := newWorld(t, withData(full, plat.SystemClock))
	w := &wire{world: world, as: "acme/admin", org: "/organizations/acme"}
	ch := w.channel()
	w.refused("full disk", 507, "POST", "/channels/"+ch+"/upload", strings.Repeat("x", 1<<20))
	if n := w.call("GET", "/channels/"+ch+"/count", nil)["count"]; n != 0.0 {
		t.Errorf("%v files", n)
	}
	w.upload(ch, "x")
}

// §10.2, check 8: conflict_target.
func TestWireConflictTarget(t *testing.T) {
	w := newWire(t)
	ch := w.channel()
	path := "/channels/" + ch + "/upload?conflict_target=filename"
	first := w.call("POST", path, "a", "x-abeja-meta-filename", "a.jpg")
	o := w.refused("again", 409, "POST", path, strings.Repeat("b", 1<<20), "x-abeja-meta-filename", "a.jpg")
	if o["file_id"] != first["file_id"] || o["metadata"].(obj)["x-abeja-meta-filename"] != "a.jpg" {
		t.Errorf("409 body %v", o)
	}
	const n = 20
	codes := make(chan int, n)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			req, _ := http.NewRequestWithContext(t.Context(), "POST", w.srv.URL+path, strings.NewReader("c"))
			user, pass, _ := strings.Cut(w.token[w.as], ":")
			req.SetBasicAuth(user, pass)
			req.Header.Set("X-Abeja-Meta-Filename", "same.jpg")
			res, err := w.srv.Client().Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			_ = res.Body.Close()
			codes <- res.StatusCode
		})
	}
	wg.Wait()
	close(codes)
	got := map[int]int{}
	for c := range codes {
		got[c]++
	}
	if got[200] != 1 || got[409] != n-1 {
		t.Errorf("20 parallel uploads: %v", got)
	}
	if c := w.call("GET", "/channels/"+ch+"/count?q=filename:same.jpg", nil)["count"]; c != 1.0 {
		t.Errorf("%v files of one name", c)
	}
	// Nothing of the losers stays in storage.
	if infos, _, err := w.deps.Blobs.List(t.Context(), "", "", 100); err != nil || len(infos) != 2 {
		t.Errorf("%d objects for 2 files, %v", len(infos), err)
	}
}

// §6 rules 1 and 4, §10.4: paging of files.
func TestWireFilePages(t *testing.T) {
	w := newWire(t)
	ch := w.channel()
	var want []string
	for i := range 7 {
		up := w.upload(ch, "x", "x-abeja-meta-label", []string{"cat", "dog"}[i%2], "x-abeja-meta-n", fmt.Sprint(i))
		want = append(want, up["file_id"].(string))
	}
	walk := func(query string) (got []string) {
		for pages := 0; ; pages++ {
			a := w.call("GET", "/channels/"+ch+"?"+query, nil)
			w.hasKeys("list", a, "files", "next_page_token")
			files := a["files"].([]any)
			for _, f := range files {
				got = append(got, f.(obj)["file_id"].(string))
				if f.(obj)["download_uri"] != f.(obj)["download_url"] || f.(obj)["content_type"] == nil {
					t.Errorf("list entry %v", f)
				}
			}
			if a["next_page_token"] == nil {
				return got
			}
			if len(files) == 0 || pages > 20 {
				t.Fatalf("%s: an empty page with a token", query)
			}
			w.matches("token", `[A-Za-z0-9_-]+`, a["next_page_token"])
			query = "items_per_page=junk&sort=junk&next_page_token=" + a["next_page_token"].(string) // the others are ignored
		}
	}
	for query, want := range map[string][]string{
		"":                                      want,
		"items_per_page=1000":                   want, // check 9
		"items_per_page=3":                      want,
		"items_per_page=7":                      want,
		"items_per_page=2&q=label:cat":          {want[0], want[2], want[4], want[6]},
		"items_per_page=2&query=label:dog":      {want[1], want[3], want[5]},
		"items_per_page=2&q=label:cat+NOT+n:2":  {want[0], want[4], want[6]},
		"items_per_page=3&sort=-uploaded_at":    {want[6], want[5], want[4], want[3], want[2], want[1], want[0]},
		"items_per_page=3&sort=-x-abeja-meta-n": {want[6], want[5], want[4], want[3], want[2], want[1], want[0]},
		"start=20000101&end=20000102":           nil,
	} {
		if d := cmp.Diff(want, walk(query)); d != "" {
			t.Errorf("%s: %s", query, d)
		}
	}
	today := time.Now().In(time.FixedZone("", 9*3600)).Format("20060102")
	if got := walk("start=" + today + "&end=" + today + "&timezone=Asia/Tokyo"); len(got) != 7 {
		t.Errorf("today in Tokyo: %d", len(got))
	}
	other := w.channel()
	token := w.call("GET", "/channels/"+ch+"?items_per_page=1", nil)["next_page_token"].(string)
	for what, path := range map[string]string{
		"foreign token": "/channels/" + other + "?next_page_token=" + token, "bad token": "/channels/" + ch + "?next_page_token=xyz",
		"cut token": "/channels/" + ch + "?next_page_token=" + token[:len(token)-4], "items_per_page": "/channels/" + ch + "?items_per_page=0",
		"sort": "/channels/" + ch + "?sort=size", "only start": "/channels/" + ch + "?start=20240101", "bad day": "/channels/" + ch + "?start=2024&end=20240101",
		"time zone": "/channels/" + ch + "?start=20240101&end=20240101&timezone=Mars/Base", "unknown channel": "/channels/1",
	} {
		status := 400
		if what == "unknown channel" {
			status = 404
		}
		w.refused(what, status, "GET", path, nil)
	}
	o := w.refused("q", 400, "GET", "/channels/"+ch+"?q=label:cat+AND", nil)
	if detail, _ := o["error_detail"].(obj); detail["q"] == nil {
		t.Errorf("a syntax error tells %v", o)
	}
}

// §10.5: metadata PUT.
func TestWireMetadataPut(t *testing.T) {
	w := newWire(t)
	ch := w.channel()
	id := w.upload(ch, "x", "x-abeja-meta-label", "cat")["file_id"].(string)
	path := "/channels/" + ch + "/" + id + "/metadata"
	f := w.call("PUT", path, obj{"x-abeja-meta-Filename": "b%20c.csv", "x-abeja-sys-meta-organizationid": "evil"})
	want := obj{"x-abeja-sys-meta-organizationid": string(w.orgs["acme"].ID), "x-abeja-meta-filename": "b%20c.csv"}
	if d := cmp.Diff(any(want), f["metadata"]); d != "" || f["download_uri"] == nil || f["download_uri"] != f["download_url"] {
		t.Errorf("%v: %s", f, d)
	}
	for q, n := range map[string]float64{"label:cat": 0, `filename:"b c.csv"`: 1} {
		if c := w.call("GET", "/channels/"+ch+"/count?q="+url.QueryEscape(q), nil)["count"]; c != n {
			t.Errorf("count %s = %v", q, c)
		}
	}
	for what, body := range map[string]any{
		"number": obj{"x-abeja-meta-a": 1}, "null": obj{"x-abeja-meta-a": nil}, "array": obj{"x-abeja-meta-a": []string{"x"}}, "no prefix": obj{"a": "b"},
		"not an object": "[]", "no body": nil, "NUL": obj{"x-abeja-meta-a": "\x00"}, "twice": obj{"x-abeja-meta-a": "1", "x-abeja-meta-A": "2"},
	} {
		w.refused(what, 400, "PUT", path, body)
	}
	w.refused("unknown", 404, "PUT", "/channels/"+ch+"/nope/metadata", obj{})
	w.call("PUT", path, obj{})
}

// §16: datasets.
func TestWireDatasets(t *testing.T) {
	w := newWire(t)
	props := `{"categories":[{"category_id":0,"name":"state","labels":[{"label_id":0,"label":"ok","x":1.50},{"label_id":"2","label":"rust"}]}]}`
	d := w.call("POST", w.org+"/datasets", fmt.Sprintf(`{"name":"bolts","type":"classification","props":%s}`, props), "Content-Type", "application/json")
	w.hasKeys("dataset", d, "dataset_id", "organization_id", "name", "type", "props", "total_count", "created_at", "updated_at")
	w.matches("created_at", naive, d["created_at"])
	w.matches("dataset_id", `[1-9]\d{12}`, d["dataset_id"])
	id := d["dataset_id"].(string)
	if _, text := w.send("GET", w.org+"/datasets/"+id, nil); !strings.Contains(text, `"props":`+props) {
		t.Errorf("props did not survive: %s", text)
	}
	w.refused("duplicate is 400, not 409", 400, "POST", w.org+"/datasets", obj{"name": "bolts", "type": "x", "props": obj{}})
	for _, missing := range []string{"name", "type", "props"} {
		in := obj{"name": "n", "type": "t", "props": obj{}}
		delete(in, missing)
		if o := w.refused("without "+missing, 400, "POST", w.org+"/datasets", in); o["error_detail"].(obj)[missing] == nil {
			t.Errorf("without %s: %v", missing, o)
		}
	}
	w.refused("no body", 400, "POST", w.org+"/datasets", nil)
	// Known clients decode by recursion: what is too deep for them is refused (§17).
	deep := func(n int) json.RawMessage {
		return json.RawMessage(strings.Repeat(`{"a":[`, n/2) + "1" + strings.Repeat("]}", n/2))
	}
	if o := w.refused("deep props", 400, "POST", w.org+"/datasets", obj{"name": "deep", "type": "custom", "props": deep(102)}); o["error_detail"].(obj)["props"] == nil {
		t.Errorf("deep props: %v", o)
	}
	items := w.org + "/datasets/" + w.call("POST", w.org+"/datasets", obj{"name": "deep", "type": "custom", "props": deep(100)})["dataset_id"].(string) + "/items"
	source := []obj{{"data_uri": "http://x/" + strings.Repeat(`[{\"`, 200)}}
	item := w.call("POST", items, obj{"source_data": source, "attributes": deep(100)})
	if o := w.refused("deep attributes", 400, "POST", items, obj{"source_data": source, "attributes": deep(1000)}); o["error_detail"].(obj)["attributes"] == nil {
		t.Errorf("deep attributes: %v", o)
	}
	w.refused("deep change", 400, "PUT", items+fmt.Sprintf("/%.0f", item["dataset_item_id"]), obj{"attributes": deep(102)})
	w.call("DELETE", strings.TrimSuffix(items, "/items"), nil)
	ids := []string{id}
	for i := range 3 {
		ids = append(ids, w.call("POST", w.org+"/datasets", obj{"name": fmt.Sprint(i), "type": "custom", "props": []int{1}})["dataset_id"].(string))
	}
	slices.Sort(ids)
	list := func(q string) (got []string) {
		status, text := w.send("GET", w.org+"/datasets"+q, nil)
		var all []obj // a bare array
		if err := json.Unmarshal([]byte(text), &all); err != nil || status != 200 {
			t.Fatalf("%d %s", status, text)
		}
		for _, d := range all {
			got = append(got, d["dataset_id"].(string))
		}
		return got
	}
	if d := cmp.Diff(ids, list("")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(ids[2:3], list("?max_results=1&next_token="+ids[1])); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"%00", "%ff"} { // PostgreSQL fails on either
		w.refused("next_token="+bad, 400, "GET", w.org+"/datasets?next_token="+bad, nil)
	}
	if got := w.call("DELETE", w.org+"/datasets/"+id, nil); got["name"] != "bolts" {
		t.Errorf("DELETE = %v", got)
	}
	w.refused("deleted", 404, "GET", w.org+"/datasets/"+id, nil)
	w.refused("delete again", 404, "DELETE", w.org+"/datasets/"+id, nil)
	w.as = "other/admin"
	w.refused("another organization", 404, "GET", "/organizations/other/datasets/"+ids[0], nil)
}

// sdkItems walks the items as the documented SDK does: it stops only on an empty
// page, and starts over when a page that is not empty has no token (§6 rule 2).
func (w *wire) sdkItems(base, query string) (ids []float64, total float64) {
	w.t.Helper()
	path := base + "/items?limit=2&" + query
	for range 20 {
		a := w.call("GET", path, nil)
		w.hasKeys("items", a, "items", "total_count", "next_page_token")
		items := a["items"].([]any)
		total = a["total_count"].(float64)
		if len(items) == 0 {
			if a["next_page_token"] != nil {
				w.t.Errorf("the empty page has a token")
			}
			return ids, total
		}
		for _, it := range items {
			w.hasKeys("item", it.(obj), "dataset_id", "dataset_item_id", "source_data", "attributes", "created_at", "updated_at")
			ids = append(ids, it.(obj)["dataset_item_id"].(float64))
		}
		next, ok := a["next_page_token"].(string)
		if !ok {
			w.t.Fatal("a page that is not empty has no token: the SDK would start over for ever")
		}
		w.matches("token", `[A-Za-z0-9_-]+`, next)
		path = base + "/items?limit=2&next_page_token=" + next
	}
	w.t.Fatal("the walk does not end")
	return nil, 0
}

func item(attributes any) obj {
	return obj{"source_data": []obj{{"data_uri": "datalake://2290000000456/x", "data_type": "image/jpeg", "height": 480}}, "attributes": attributes, "unknown": 1}
}

// cliItems walks the items as the CLI does: it stops on a null token, and wants the key
// to be there (§6 rule 2).
func (w *wire) cliItems(base, query string) (ids []float64) {
	w.t.Helper()
	path := base + "/items?" + query
	for range 20 {
		a := w.call("GET", path, nil)
		next, ok := a["next_page_token"]
		if !ok {
			w.t.Fatal("CLI: KeyError: next_page_token")
		}
		for _, it := range a["items"].([]any) {
			ids = append(ids, it.(obj)["dataset_item_id"].(float64))
		}
		if next == nil {
			return ids
		}
		path = base + "/items?next_page_token=" + next.(string) // raw, and alone (§6 rule 4)
	}
	w.t.Fatal("the walk does not end")
	return nil
}

// §22 check 1, §6 rules 2 and 4: the CLI's walk ends too, for none, one and many items,
// and with a search; a total stays what the first page counted.
func TestWireDatasetItemsCLI(t *testing.T) {
	w := newWire(t)
	base := w.org + "/datasets/" + w.call("POST", w.org+"/datasets", obj{"name": "d", "type": "custom", "props": obj{}})["dataset_id"].(string)
	if ids := w.cliItems(base, ""); len(ids) != 0 {
		t.Errorf("an empty dataset lists %v", ids)
	}
	w.call("POST", base+"/items", item(obj{"custom": obj{"tag": "odd"}}))
	if ids := w.cliItems(base, ""); len(ids) != 1 {
		t.Errorf("one item lists %v", ids)
	}
	for i := range 6 {
		w.call("POST", base+"/items", item(obj{"custom": obj{"tag": []string{"even", "odd"}[i%2]}}))
	}
	for query, want := range map[string]int{"": 7, "limit=1": 7, "limit=7": 7, "limit=1000": 7, "limit=2&q=tag:odd": 4, "limit=4&q=tag:odd": 4, "limit=1&q=tag:none": 0} {
		if ids := w.cliItems(base, query); len(ids) != want || !slices.IsSorted(ids) {
			t.Errorf("%s: %v, want %d", query, ids, want)
		}
	}
	first := w.call("GET", base+"/items?limit=1&q=tag:odd", nil)
	second := w.call("GET", base+"/items?next_page_token="+first["next_page_token"].(string), nil)
	if first["total_count"] != 4.0 || second["total_count"] != 4.0 {
		t.Errorf("totals %v, %v", first["total_count"], second["total_count"])
	}
	forged := base64.RawURLEncoding.EncodeToString([]byte(`{"d":"` + base[strings.LastIndexByte(base, '/')+1:] + `","a":0,"q":"tag:odd","n":1,"t":-1}`))
	w.refused("a total below nothing", 400, "GET", base+"/items?next_page_token="+forged, nil)
}

// §12.2, §17, §22 checks 1 and 2: items.
func TestWireDatasetItems(t *testing.T) {
	w := newWire(t)
	props := obj{"categories": []obj{{"category_id": 1, "name": "n", "labels": []obj{{"label_id": 2, "label": "rust"}, {"label_id": 3, "label": "ok"}}}}}
	base := w.org + "/datasets/" + w.call("POST", w.org+"/datasets", obj{"name": "bolts", "type": "classification", "props": props})["dataset_id"].(string)
	if ids, total := w.sdkItems(base, ""); len(ids) != 0 || total != 0 {
		t.Errorf("an empty dataset lists %v", ids)
	}
	class := func(label any, more ...any) obj {
		e := obj{"category_id": 1, "label_id": label}
		for i := 0; i+1 < len(more); i += 2 {
			e[more[i].(string)] = more[i+1]
		}
		return obj{"classification": []obj{e}}
	}
	one := w.call("POST", base+"/items", item(class(2, "label", "rust")))
	w.hasKeys("item", one, "dataset_id", "dataset_item_id", "source_data", "attributes", "created_at", "updated_at")
	w.matches("created_at", naive, one["created_at"])
	// Check 1: the walk over one item ends.
	if ids, total := w.sdkItems(base, ""); len(ids) != 1 || total != 1 {
		t.Errorf("one item lists %v", ids)
	}
	status, text := w.send("POST", base+"/items", []obj{item(class("2", "tag", "v1")), item(nil), item(obj{"custom": obj{"deep": []any{obj{"tag": "v1", "n": 1.5}}}})})
	var many []obj
	if err := json.Unmarshal([]byte(text), &many); err != nil || status != 200 || len(many) != 3 {
		t.Fatalf("%d %s", status, text)
	}
	if many[1]["attributes"] != nil || many[1]["source_data"] == nil {
		t.Errorf("attributes null became %v", many[1])
	}
	first := one["dataset_item_id"].(float64)
	for q, want := range map[string][]float64{
		"":                                    {first, first + 1, first + 2, first + 3},
		"q=label_id:2":                        {first, first + 1},
		"q=label_id:2+AND+tag:v1":             {first + 1},
		"q=tag:v1":                            {first + 1, first + 3},
		"q=label_id:2+AND+n:1.5+OR+tag:x":     nil,
		"q=NOT+tag:v1":                        {first, first + 2},
		"q=label:rus":                         nil, // whole values
		`q=label:"rust"`:                      {first},
		"q=label:r*":                          {first},
		"preceding_id=" + fmt.Sprint(first+1): {first + 2, first + 3},
	} {
		ids, total := w.sdkItems(base, q)
		if d := cmp.Diff(want, ids); d != "" {
			t.Errorf("%s: %s", q, d)
		}
		if !strings.HasPrefix(q, "preceding") && total != float64(len(want)) {
			t.Errorf("%s: total_count %v, want %d", q, total, len(want))
		}
	}
	path := fmt.Sprintf("%s/items/%v", base, first)
	if got := w.call("PUT", path, obj{"attributes": class(3), "source_data": "ignored"}); got["attributes"].(obj)["classification"].([]any)[0].(obj)["label_id"] != 3.0 {
		t.Errorf("PUT = %v", got)
	}
	// Attributes that are left out change nothing: they are not null.
	status, text = w.send("PUT", base+"/items", []obj{{"dataset_item_id": first}})
	isError(t, "bulk PUT without attributes", status, text, 400, "bad_request")
	status, text = w.send("PUT", base+"/items", []obj{{"dataset_item_id": first, "attributes": nil}, {"dataset_item_id": first + 1, "attributes": obj{}}})
	if status != 200 || !strings.HasPrefix(text, "[") {
		t.Errorf("bulk PUT = %d %s", status, text)
	}
	w.refused("bulk PUT with an unknown id", 400, "PUT", base+"/items", []obj{{"dataset_item_id": first, "attributes": class(2)}, {"dataset_item_id": 999, "attributes": obj{}}})
	if got := w.call("GET", path, nil); got["attributes"] != nil {
		t.Errorf("a failed bulk PUT changed %v", got)
	}
	if got := w.call("DELETE", path, nil); got["dataset_item_id"] != first || got["source_data"] == nil {
		t.Errorf("DELETE = %v", got)
	}
	for _, m := range []string{"GET", "DELETE"} {
		w.refused(m+" deleted", 404, m, path, nil)
		w.refused(m+" nonsense", 404, m, base+"/items/x", nil)
	}
	w.refused("PUT deleted", 404, "PUT", path, obj{"attributes": nil})
	if n := w.call("GET", base, nil)["total_count"]; n != 3.0 {
		t.Errorf("total_count %v", n)
	}

	unknown := w.org + "/datasets/1"
	w.refused("POST items to an unknown dataset is 400", 400, "POST", unknown+"/items", item(nil))
	w.refused("bulk PUT to an unknown dataset is 400", 400, "PUT", unknown+"/items", []obj{{"dataset_item_id": 1, "attributes": obj{}}})
	w.refused("list of an unknown dataset", 404, "GET", unknown+"/items", nil)
	w.refused("item of an unknown dataset", 404, "GET", unknown+"/items/1", nil)
	source := func(entry obj) obj { return obj{"source_data": []obj{entry}, "attributes": obj{}} }
	for what, body := range map[string]any{
		"no body": nil, "text": `"x"`, "no source": obj{"attributes": obj{}}, "source null": obj{"source_data": nil}, "source object": obj{"source_data": obj{}},
		"scheme": source(obj{"data_uri": "s3://b/k"}), "no uri": source(obj{"data_type": "x"}), "name uri": source(obj{"data_uri": "http://x/y", "uri": "z"}),
		"lifetime": source(obj{"data_uri": "http://x/y", "lifetime": "2days"}), "nested": source(obj{"data_uri": "http://x/y", "k": obj{}}),
		"attributes array": obj{"source_data": []obj{{"data_uri": "http://x/y"}}, "attributes": []int{}},
		"category":         item(obj{"classification": []obj{{"category_id": 9, "label_id": 2}}}), "label": item(obj{"detection": []obj{{"category_id": 1, "label_id": 9}}}),
		"label without category": item(obj{"detection": []obj{{"label_id": 9, "rect": obj{}}}}),
		"old form":               item(obj{"classification": obj{"category_id": 1, "label_id": 9}}), "one of two": []any{item(nil), obj{}},
		"501": slices.Repeat([]obj{item(nil)}, 501), "null in an array": []any{nil},
	} {
		w.refused(what, 400, "POST", base+"/items", body)
	}
	if n := w.call("GET", base, nil)["total_count"]; n != 3.0 {
		t.Errorf("refused items were stored: total_count %v", n)
	}
	if status, text := w.send("POST", base+"/items", slices.Repeat([]obj{item(nil)}, 500)); status != 200 {
		t.Errorf("500 items = %d %.200s", status, text)
	}
	other := w.call("POST", w.org+"/datasets", obj{"name": "other", "type": "x", "props": obj{}})["dataset_id"].(string)
	token := w.call("GET", base+"/items", nil)["next_page_token"].(string)
	w.refused("foreign token", 400, "GET", w.org+"/datasets/"+other+"/items?next_page_token="+token, nil)
	w.refused("bad token", 400, "GET", base+"/items?next_page_token=zzz", nil)
	w.refused("limit", 400, "GET", base+"/items?limit=0", nil)
	w.refused("q", 400, "GET", base+"/items?q=label", nil)
	w.as = "acme/regular"
	w.refused("regular adds", 403, "POST", base+"/items", item(nil))
	w.call("GET", base+"/items?limit=1000", nil)
}

// Routes of the documents that are not built answer 501 with the error body.
func TestWireNotBuilt(t *testing.T) {
	w := newWire(t)
	for _, c := range []struct{ method, path string }{
		{"GET", w.org + "/training/definitions/x/notebooks"},
	} {
		w.refused(c.method+" "+c.path, 501, c.method, c.path, nil)
	}
}

// A commit that the database refuses stores nothing and says so.
func TestWireDatabaseGone(t *testing.T) {
	var gone func() error
	world := newWorld(t, withData(nil, plat.SystemClock), func(w *world, db *sqlstore.DB) {
		gone = func() error {
			return db.Write(t.Context(), func(tx *sqlstore.Tx) error {
				_, err := tx.ExecContext(t.Context(), `DROP TABLE file`)
				return err
			})
		}
	})
	w := &wire{world: world, as: "acme/admin", org: "/organizations/acme"}
	ch := w.channel()
	if err := errors.Join(gone()); err != nil {
		t.Fatal(err)
	}
	w.refused("broken database", 500, "POST", "/channels/"+ch+"/upload", "x")
}
