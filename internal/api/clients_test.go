// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The tests of this file behave as data.md says that each known client does: the
// Python SDK, the CLI and the Go model-proxy, written anew from the document.

// client is what the three have in common. It follows no redirect: one would turn
// a POST into a GET (§1).
type wireClient struct {
	*wire
	http *http.Client
}

func newWireClient(t *testing.T, w *wire) *wireClient {
	t.Helper()
	c := *w.srv.Client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return errors.New("redirected") }
	return &wireClient{wire: w, http: &c}
}

// request sends headers exactly as they are spelled, Basic credentials unless
// header says otherwise, and returns the answer.
func (c *wireClient) request(method, u string, body io.Reader, header map[string]string) (*http.Response, []byte) {
	c.t.Helper()
	if !strings.HasPrefix(u, "http") {
		u = c.srv.URL + u
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, u, body)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("User-Agent", "abeja-platform-sdk/2.3.5")
	if strings.HasPrefix(u, c.srv.URL) && !strings.Contains(u, "sig=") { // signed URLs get none (§10.6)
		req.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(c.token[c.as])))
	}
	for k, v := range header {
		req.Header[k] = []string{v}
	}
	res, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return res, b
}

// sdk is a call of the Python SDK: it parses every body below 400 as JSON and dies
// of what is none (§1), and wants an object with error texts otherwise (§5.1).
func (c *wireClient) sdk(method, u string, in any, header map[string]string) (status int, out any) {
	c.t.Helper()
	var body io.Reader
	if header == nil {
		header = map[string]string{}
	}
	switch in := in.(type) {
	case nil:
	case io.Reader: // a file object: chunked where its length is not known
		body = in
	default: // Content-Type only with a JSON body
		raw, err := json.Marshal(in)
		if err != nil {
			c.t.Fatal(err)
		}
		body, header["Content-Type"] = strings.NewReader(string(raw)), "application/json"
	}
	res, b := c.request(method, u, body, header)
	if err := json.Unmarshal(b, &out); err != nil || res.StatusCode == http.StatusNoContent {
		c.t.Fatalf("SDK: %s %s = %d, JSONDecodeError: %q", method, u, res.StatusCode, b)
	}
	if ct := res.Header.Get("Content-Type"); ct != "application/json" {
		c.t.Errorf("SDK: %s %s: content type %q", method, u, ct)
	}
	if res.StatusCode >= 400 {
		o, ok := out.(obj)
		if !ok || o["error"] == nil || o["error_description"] == nil {
			c.t.Errorf("SDK: AttributeError: %s %s: %s", method, u, b)
		}
	} else if res.StatusCode != 200 {
		c.t.Errorf("SDK: %s %s = %d", method, u, res.StatusCode)
	}
	return res.StatusCode, out
}

// quote is Python's urllib.parse.quote: "/" stays (§11).
func quote(s string) string {
	parts := strings.Split(s, "/")
	for i, p := range parts {
		parts[i] = strings.ReplaceAll(url.QueryEscape(p), "+", "%20")
	}
	return strings.Join(parts, "/")
}

// §1, §4, §10, §11, §22 checks 3, 4, 5, 6, 8: a day of the SDK.
func TestClientSDK(t *testing.T) {
	w := newWire(t)
	c := newWireClient(t, w)
	call := func(method, u string, in any, header map[string]string) obj {
		t.Helper()
		status, out := c.sdk(method, u, in, header)
		if status != 200 {
			t.Fatalf("%s %s = %d %v", method, u, status, out)
		}
		return out.(obj)
	}
	ch := call("POST", w.org+"/channels", obj{"name": "raw", "description": "d", "storage_type": "datalake"}, nil)["channel"].(obj)["channel_id"].(string)
	base := "/channels/" + ch

	// upload_file: metadata percent-encoded, names with an underscore, any case; no
	// content type when it can't be guessed; an empty file goes chunked.
	name := "写真/猫 と 犬.jpg"
	for what, body := range map[string]io.Reader{"known": strings.NewReader("bytes"), "empty, chunked": io.MultiReader()} {
		up := call("POST", base+"/upload", body, map[string]string{
			"x-abeja-meta-filename": quote(name), "X-ABEJA-META-Label_ID": "1", "x-abeja-meta-" + quote("テ"): quote("ラベル"), "x-abeja-sys-meta-organizationid": "0",
		})
		f := call("GET", base+"/"+up["file_id"].(string), nil, nil)
		meta := f["metadata"].(obj)
		for k, v := range meta {
			if _, ok := v.(string); !ok || k != strings.ToLower(k) {
				t.Errorf("%s: SDK: metadata %q is %v", what, k, v) // §10.1: every value a string
			}
		}
		if got, _ := url.PathUnescape(meta["x-abeja-meta-filename"].(string)); got != name || meta["x-abeja-meta-label_id"] != "1" ||
			meta["x-abeja-sys-meta-organizationid"] != string(w.orgs["acme"].ID) || f["content_type"] != "application/octet-stream" {
			t.Errorf("%s: %v", what, f)
		}
		for _, taboo := range []string{"uri", "type"} { // §10.1: they would override the SDK's own
			if _, there := f[taboo]; there {
				t.Errorf("%s: the file has %q", what, taboo)
			}
		}
		// get_content: without credentials, by the URL alone.
		res, got := c.request("GET", f["download_uri"].(string), nil, nil)
		if res.StatusCode != 200 || what == "known" && string(got) != "bytes" || what != "known" && len(got) != 0 {
			t.Errorf("%s: content = %d %q", what, res.StatusCode, got)
		}
	}

	// DatalakeFile.commit: GET, PUT metadata, PUT lifetime; when the last fails, the old
	// metadata again, encoded twice and with the system's keys (§10.5, §22 "defects").
	up := call("POST", base+"/upload?lifetime=1day", strings.NewReader("x"), map[string]string{"Content-Type": "text/plain", "x-abeja-meta-filename": quote("a b.csv")})
	one := base + "/" + up["file_id"].(string)
	old := call("GET", one, nil, nil)["metadata"].(obj)
	if f := call("PUT", one+"/metadata", obj{"x-abeja-meta-filename": quote("c d.csv"), "x-abeja-meta-n": "1"}, nil); f["metadata"].(obj)["x-abeja-meta-filename"] != "c%20d.csv" {
		t.Errorf("PUT metadata = %v", f)
	}
	if status, _ := c.sdk("PUT", one+"/lifetime", obj{"lifetime": "never"}, nil); status != 400 {
		t.Errorf("PUT lifetime = %d", status)
	}
	rollback := obj{}
	for k, v := range old {
		rollback[quote(k)] = quote(v.(string))
	}
	if f := call("PUT", one+"/metadata", rollback, nil); f["metadata"].(obj)["x-abeja-meta-filename"] != "a%2520b.csv" || f["metadata"].(obj)["x-abeja-meta-n"] != nil {
		t.Errorf("rollback = %v", f)
	}
	if a := call("PUT", one+"/lifetime", obj{"lifetime": "1week"}, nil); a["lifetime"] != "1week" {
		t.Errorf("PUT lifetime = %v", a)
	}

	// channel.list_files: the first page with parameters, the next by its token alone;
	// unknown parameters are ignored; "files" is always there (§6, §10.4).
	var ids []string
	query := url.Values{"items_per_page": {"2"}, "sort": {"uploaded_at"}, "unknown": {"1"}}
	for pages := 0; ; pages++ {
		page := call("GET", base+"?"+query.Encode(), nil, nil)
		for _, f := range page["files"].([]any) {
			ids = append(ids, f.(obj)["file_id"].(string))
			if l := f.(obj)["lifetime"]; l != nil && l != "1week" {
				t.Errorf("SDK: lifetime %v", l)
			}
		}
		if page["next_page_token"] == nil {
			break
		}
		query = url.Values{"next_page_token": {page["next_page_token"].(string)}}
		if pages == 0 { // a new upload neither repeats nor skips old ones
			call("POST", base+"/upload", strings.NewReader("late"), nil)
		}
	}
	if len(ids) != 4 || !slices.IsSorted(stamps(ids)) {
		t.Errorf("listed %v", ids) // §4: sorting ids sorts by time
	}
	for _, id := range ids { // §22 check 3
		if a := call("DELETE", base+"/"+id, nil, nil); a["message"] != "deleted file ("+id+")" {
			t.Errorf("DELETE = %v", a)
		}
	}
	if page := call("GET", base, nil, nil); len(page["files"].([]any)) != 0 {
		t.Errorf("after the deletes: %v", page)
	}

	// channels.list(filter_archived): what its two values send (§8).
	call("POST", w.org+"/channels/"+ch+"/archive", nil, nil)
	for filter, n := range map[string]int{"exclude_archived": 0, "include_archived": 1} {
		if got := len(call("GET", w.org+"/channels?filter_archived="+filter, nil, nil)["channels"].([]any)); got != n {
			t.Errorf("%s lists %d", filter, got)
		}
	}
	call("POST", w.org+"/channels/"+ch+"/unarchive", nil, nil)
	if a := call("PATCH", w.org+"/channels/"+ch, obj{"name": "new"}, nil); a["channel"].(obj)["name"] != "new" || a["channel"].(obj)["description"] != "d" {
		t.Errorf("PATCH = %v", a)
	}

	// No credential at all: the SDK sends no header (§2).
	if status, _ := c.sdk("GET", base, nil, map[string]string{"Authorization": ""}); status != 401 {
		t.Errorf("without credentials = %d", status)
	}
}

// stamps are the beginnings of file ids.
func stamps(ids []string) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id[:15]
	}
	return out
}

// §1, §6, §7, §10.2, §10.6, §22 checks 8, 9, 11: a day of the CLI. It sends
// Content-Type: application/json on every call but uploads, with a body or not, and
// pastes tokens and queries into the URL as they are.
func TestClientCLI(t *testing.T) {
	w, pass := timedWire(t)
	c := newWireClient(t, w)
	call := func(method, u, body string) obj {
		t.Helper()
		var r io.Reader
		if body != "" {
			r = strings.NewReader(body)
		}
		res, b := c.request(method, u, r, map[string]string{"Content-Type": "application/json", "User-Agent": "abeja-platform-cli/2.2.7"})
		var o obj
		if err := json.Unmarshal(b, &o); err != nil || res.StatusCode != 200 {
			t.Fatalf("%s %s = %d %s", method, u, res.StatusCode, b)
		}
		return o
	}
	ch := call("POST", w.org+"/channels", "{}")["channel"].(obj)["channel_id"].(string)
	list := call("GET", w.org+"/channels?limit=1000&offset=0", "")
	for _, k := range []string{"organization_id", "created_at", "updated_at", "channels"} { // §7: a KeyError otherwise
		if list[k] == nil {
			t.Errorf("CLI: KeyError: %s", k)
		}
	}
	if e := list["channels"].([]any)[0].(obj); e["storage_type"] != "datalake" {
		t.Errorf("CLI: storage_type of %v", e)
	}
	call("POST", w.org+"/channels/"+ch+"/archive", "") // check 11
	call("POST", w.org+"/channels/"+ch+"/unarchive", "")

	// upload --skip-duplicate-files: a 409 with the file that is there is success.
	upload := func(name string) (int, obj) {
		t.Helper()
		res, b := c.request("POST", "/channels/"+ch+"/upload?conflict_target=filename", strings.NewReader(name), map[string]string{"x-abeja-meta-filename": quote(name), "Content-Type": "image/png"})
		var o obj
		if err := json.Unmarshal(b, &o); err != nil {
			t.Fatalf("CLI: JSONDecodeError: %s", b)
		}
		return res.StatusCode, o
	}
	var want []string
	for i := range 5 {
		status, o := upload(fmt.Sprintf("画像 %d.png", i))
		again, dup := upload(fmt.Sprintf("画像 %d.png", i))
		if status != 200 || again != 409 || dup["file_id"] != o["file_id"] || dup["metadata"].(obj)["x-abeja-meta-filename"] == nil {
			t.Fatalf("%d %v, again %d %v", status, o, again, dup)
		}
		want = append(want, o["file_id"].(string))
		pass(time.Second)
	}

	// download: the whole list first, then each file; by then a URL has expired: 403,
	// which makes it read the file anew (§10.6).
	var got []string
	files := map[string]obj{}
	for u := "/channels/" + ch + "?items_per_page=2"; ; {
		page := call("GET", u, "")
		for _, f := range page["files"].([]any) {
			got = append(got, f.(obj)["file_id"].(string))
			files[got[len(got)-1]] = f.(obj)
			if f.(obj)["content_type"] == nil || f.(obj)["download_uri"] == nil {
				t.Errorf("CLI: KeyError in %v", f)
			}
		}
		token, ok := page["next_page_token"]
		if !ok {
			t.Fatal("CLI: KeyError: next_page_token")
		}
		if token == nil {
			break
		}
		u = "/channels/" + ch + "?next_page_token=" + token.(string)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	pass(2 * time.Hour)
	for id, f := range files {
		res, _ := c.request("GET", f["download_uri"].(string), nil, nil)
		if res.StatusCode != 403 {
			t.Errorf("CLI: an old URL = %d, it would give up", res.StatusCode)
		}
		res, b := c.request("GET", call("GET", "/channels/"+ch+"/"+id, "")["download_uri"].(string), nil, nil)
		name, _ := url.PathUnescape(f["metadata"].(obj)["x-abeja-meta-filename"].(string))
		if res.StatusCode != 200 || string(b) != name || res.ContentLength != int64(len(name)) || res.Header.Get("Content-Type") != "image/png" {
			t.Errorf("download = %d %q %v", res.StatusCode, b, res.Header)
		}
	}
}

// §5.3, §10.1, §10.6: the model-proxy reads only download_url, takes nothing but 200,
// retries 5xx, and stores a run's output by a direct upload.
func TestClientModelProxy(t *testing.T) {
	w := newWire(t)
	c := newWireClient(t, w)
	ch := w.channel()
	id := w.upload(ch, "input", "Content-Type", "text/plain")["file_id"].(string)
	_, b := c.request("GET", "/channels/"+ch+"/"+id, nil, nil)
	var f struct {
		DownloadURL string `json:"download_url"`
		ContentType string `json:"content_type"`
	}
	if err := json.Unmarshal(b, &f); err != nil || f.DownloadURL == "" || f.ContentType != "text/plain" {
		t.Fatalf("%s", b)
	}
	res, b := c.request("GET", f.DownloadURL, nil, nil)
	if res.StatusCode != http.StatusOK || string(b) != "input" || res.Header.Get("Content-Type") != "text/plain" {
		t.Errorf("%d %q %v", res.StatusCode, b, res.Header)
	}
	if res, b := c.request("POST", "/channels/"+ch+"/upload", strings.NewReader("output"), map[string]string{"Content-Type": "application/json; charset=utf-8"}); res.StatusCode != http.StatusOK {
		t.Errorf("output = %d %s", res.StatusCode, b)
	}
}

// §1: slashes. None of these is redirected.
func TestClientSlashes(t *testing.T) {
	w := newWire(t)
	c := newWireClient(t, w)
	ch := w.channel()
	id := w.upload(ch, "x")["file_id"].(string)
	for _, p := range []string{
		"//channels/" + ch, "/channels/" + ch + "/", "//channels/" + ch + "/" + id + "/", "/channels//" + ch + "/count/", "//organizations/acme/channels/", "/organizations//acme/channels/" + ch,
	} {
		if status, out := c.sdk("GET", p, nil, nil); status != 200 {
			t.Errorf("GET %s = %d %v", p, status, out)
		}
	}
	for p, body := range map[string]any{
		"//channels/" + ch + "/upload":                        strings.NewReader("y"),
		"//channels/" + ch + "/upload/?lifetime=1day":         strings.NewReader("y"),
		"//channels/" + ch:                                    nil,
		"//organizations/acme/channels/" + ch + "/unarchive/": nil,
	} {
		if status, out := c.sdk("POST", p, body, nil); status != 200 {
			t.Errorf("POST %s = %d %v", p, status, out)
		}
	}
}

// §22 check 12, §10.4: days in a time zone have that zone's boundaries.
func TestClientDays(t *testing.T) {
	w, pass := timedWire(t)
	ch := w.channel()
	now := time.Now().UTC()
	midnight := time.Date(now.Year(), now.Month(), now.Day(), 15, 0, 0, 0, time.UTC).AddDate(0, 0, 1) // of Tokyo
	pass(midnight.Sub(now) - 10*time.Minute)
	before := w.upload(ch, "x")["file_id"]
	pass(20 * time.Minute)
	after := w.upload(ch, "x")["file_id"]
	tokyo := func(t time.Time) string { return t.Add(9 * time.Hour).Format("20060102") }
	for query, want := range map[string][]any{
		"start=" + tokyo(midnight.Add(-time.Hour)) + "&end=" + tokyo(midnight.Add(-time.Hour)) + "&timezone=Asia%2FTokyo": {before},
		"start=" + tokyo(midnight) + "&end=" + tokyo(midnight) + "&timezone=Asia/Tokyo":                                   {after},
		"start=" + tokyo(midnight.Add(-time.Hour)) + "&end=" + tokyo(midnight) + "&timezone=Asia/Tokyo":                   {before, after},
		"start=" + midnight.Format("20060102") + "&end=" + midnight.Format("20060102"):                                    {before, after}, // default UTC
		"start=" + tokyo(midnight) + "&end=" + tokyo(midnight.Add(-time.Hour)) + "&timezone=Asia/Tokyo":                   nil,
	} {
		var got []any
		for _, f := range w.call("GET", "/channels/"+ch+"?"+query, nil)["files"].([]any) {
			got = append(got, f.(obj)["file_id"])
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", query, d)
		}
	}
}

// §5.1, §5.3: every refusal is a JSON object with a known code; a body that is too
// large carries no Retry-After, or clients would send it again and again.
func TestClientErrors(t *testing.T) {
	w := newWire(t)
	c := newWireClient(t, w)
	ch := w.channel()
	w.as = "acme/admin"
	for _, e := range []struct {
		method, path string
		body         any
		status       int
		code         string
	}{
		{"GET", "/channels/1", nil, 404, "not_found"},
		{"GET", "/channels/" + ch + "?items_per_page=x", nil, 400, "bad_request"},
		{"PUT", "/channels/" + ch, obj{}, 405, "method_not_allowed"},
		{"PATCH", "/channels/" + ch + "/upload", nil, 405, "method_not_allowed"},
		{"GET", "/nowhere", nil, 404, "not_found"},
		{"POST", "/channels/" + ch + "/upload?lifetime=1", strings.NewReader("x"), 400, "bad_request"},
		{"GET", "/organizations/1234567890123/channels", nil, 403, "forbidden"},
	} {
		status, out := c.sdk(e.method, e.path, e.body, nil)
		if o, _ := out.(obj); status != e.status || o["error"] != e.code {
			t.Errorf("%s %s = %d %v", e.method, e.path, status, out)
		}
	}
	res, _ := c.request("PUT", "/channels/"+ch+"/x/metadata", strings.NewReader(strings.Repeat(" ", 2<<20)), map[string]string{"Content-Type": "application/json"})
	if res.StatusCode != 413 || res.Header.Get("Retry-After") != "" {
		t.Errorf("too large = %d, Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
	}
	// §11: 16 KiB of metadata headers are taken.
	h := map[string]string{}
	for i := range 7 {
		h[fmt.Sprintf("x-abeja-meta-k%d", i)] = strings.Repeat("v", 2048)
	}
	if status, out := c.sdk("POST", "/channels/"+ch+"/upload", strings.NewReader("x"), h); status != 200 {
		t.Errorf("14 KiB of metadata = %d %v", status, out)
	}
}
