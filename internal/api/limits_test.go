// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"panal/internal/api"
	"panal/internal/lake"
	"panal/internal/plat"
	"panal/internal/sqlstore"
)

func withLimits(l api.Limits) func(*world, *sqlstore.DB) {
	return func(w *world, _ *sqlstore.DB) {
		w.deps.Limits = l
		w.deps.Lake.LimitMetadata(l.Metadata)
	}
}

func TestLimitsOfOneCall(t *testing.T) {
	w := newWorld(t, withData(nil, plat.SystemClock), withLimits(api.Limits{
		HeaderBytes: 4096, Page: 1500, Metadata: lake.Limits{Key: 20, Value: 100, Total: 300},
	}), func(w *world, _ *sqlstore.DB) { w.deps.Datasets.LimitItems(3) })
	x := &wire{world: w, as: "acme/admin", org: "/organizations/acme"}
	ch := x.channel()
	up := func(header ...string) (int, string) {
		t.Helper()
		return w.do(http.MethodPost, "/channels/"+ch+"/upload", "acme/admin", strings.NewReader("x"), header...)
	}
	refused := func(what string, status int, code, text string, header ...string) {
		t.Helper()
		got, body := up(header...)
		isError(t, what, got, body, status, code)
		if !strings.Contains(body, text) {
			t.Errorf("%s does not say %q: %s", what, text, body)
		}
	}
	// 431 in the API's own words; data.md §5.1: an error is always an object.
	refused("headers", 431, "request_header_fields_too_large", "--max-header-bytes", "X-Filler", strings.Repeat("x", 5000))
	// data.md §11: excess is 400.
	refused("a metadata name", 400, "bad_request", "the limit is 20", "x-abeja-meta-"+strings.Repeat("k", 21), "v")
	refused("a metadata value", 400, "bad_request", "the limit is 100", "x-abeja-meta-k", strings.Repeat("v", 101))
	refused("all metadata", 400, "bad_request", "the limit is 300",
		"x-abeja-meta-a", strings.Repeat("v", 99), "x-abeja-meta-b", strings.Repeat("v", 99), "x-abeja-meta-c", strings.Repeat("v", 99))
	if status, body := up("x-abeja-meta-"+strings.Repeat("k", 20), strings.Repeat("v", 100)); status != 200 {
		t.Errorf("at the limits = %d %s", status, body)
	}
	// A change is held to the same, counted with what stays.
	status, body := w.do(http.MethodPost, "/channels/"+ch+"/upload", "acme/admin", strings.NewReader("x"), "x-abeja-meta-a", strings.Repeat("v", 99), "x-abeja-meta-b", strings.Repeat("v", 99))
	var made struct {
		ID string `json:"file_id"`
	}
	if err := json.Unmarshal([]byte(body), &made); err != nil || status != 200 {
		t.Fatalf("upload = %d %s", status, body)
	}
	for text, change := range map[string]obj{
		"the limit is 20":  {"x-abeja-meta-" + strings.Repeat("k", 21): "v"},
		"the limit is 100": {"x-abeja-meta-c": strings.Repeat("v", 101)},
		"the limit is 300": {"x-abeja-meta-c": strings.Repeat("v", 99)},
	} {
		status, body := x.send(http.MethodPatch, "/channels/"+ch+"/"+made.ID+"/metadata", change)
		isError(t, "PATCH beyond a limit", status, body, 400, "bad_request")
		if !strings.Contains(body, text) {
			t.Errorf("PATCH does not say %q: %s", text, body)
		}
	}
	// Pages: data.md §6 and §22.9: 1000 is accepted; more than the limit gets the limit.
	for asked, got := range map[string]float64{"1000": 1000, "1500": 1500, "99999": 1500} {
		if out := x.call(http.MethodGet, x.org+"/channels?limit="+asked, nil); out["limit"] != got {
			t.Errorf("limit=%s gives %v", asked, out["limit"])
		}
		x.call(http.MethodGet, "/channels/"+ch+"?items_per_page="+asked, nil)
	}
	// Items of one call.
	id := x.call(http.MethodPost, x.org+"/datasets", obj{"name": "d", "type": "classification", "props": obj{}})["dataset_id"].(string)
	item := `{"source_data":[{"data_type":"image/jpeg","data_uri":"datalake://1/2"}],"attributes":{}}`
	for n, want := range map[int]int{3: 200, 4: 400} {
		items := "[" + strings.TrimSuffix(strings.Repeat(item+",", n), ",") + "]"
		status, body := w.do(http.MethodPost, x.org+"/datasets/"+id+"/items", "acme/admin", strings.NewReader(items), "Content-Type", "application/json")
		if status != want {
			t.Errorf("%d items = %d %s", n, status, body)
		}
	}
}

// TestRateLimit: data.md §5.3 and §22.13: 429 with Retry-After, which the SDK waits
// for and tries again; per token; nobody else pays for it.
func TestRateLimit(t *testing.T) {
	var now atomic.Int64
	now.Store(plat.SystemClock().UnixNano())
	clock := func() time.Time { return time.Unix(0, now.Load()) }
	w := newWorld(t, withData(nil, clock), withLimits(api.Limits{Rate: 0.5, Burst: 3}))
	const path = "/organizations/acme/channels"
	for i := range 3 {
		if status, body := w.do(http.MethodGet, path, "acme/admin", nil); status != 200 {
			t.Fatalf("call %d of the burst = %d %s", i, status, body)
		}
	}
	for _, what := range []struct{ method, path string }{
		{http.MethodGet, path}, {http.MethodPost, path}, {http.MethodPost, "/channels/1/upload"},
	} { // a huma operation, one that mutates, a plain handler
		status, body := w.do(what.method, what.path, "acme/admin", nil)
		isError(t, what.path, status, body, 429, "too_many_requests")
	}
	if status, _ := w.do(http.MethodGet, path, "acme/developer", nil); status != 200 {
		t.Errorf("another token = %d", status)
	}
	status, body := w.do(http.MethodGet, path, "", nil)
	isError(t, "without credentials", status, body, 401, "unauthorized")

	// The SDK's way: wait as told, send again (POST too). Its sleep moves the clock.
	tries := 0
	res := sdkRetry(t, func() *http.Response {
		tries++
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.srv.URL+path, strings.NewReader(`{"name":"late"}`))
		if err != nil {
			t.Fatal(err)
		}
		user, pass, _ := strings.Cut(w.token["acme/admin"], ":")
		req.SetBasicAuth(user, pass)
		req.Header.Set("Content-Type", "application/json")
		res, err := w.srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}, func(seconds int) {
		if seconds != 2 { // half a call a second
			t.Errorf("Retry-After: %d, want 2", seconds)
		}
		now.Add(int64(seconds) * int64(time.Second))
	})
	if res.StatusCode != 200 || tries != 2 {
		t.Errorf("with retries = %d after %d tries", res.StatusCode, tries)
	}
}

// sdkRetry is the retrying of data.md §5.3: 429, 413 and 503 when Retry-After is
// present, 5 times.
func sdkRetry(t *testing.T, send func() *http.Response, sleep func(seconds int)) *http.Response {
	t.Helper()
	for try := 0; ; try++ {
		res := send()
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		after := res.Header.Get("Retry-After")
		if after == "" || try == 5 || res.StatusCode != 429 && res.StatusCode != 413 && res.StatusCode != 503 {
			return res
		}
		n, err := strconv.Atoi(after)
		if err != nil || n < 1 {
			t.Fatalf("Retry-After: %q is not whole seconds, 1 or more", after)
		}
		sleep(n)
	}
}

// TestRateLimitIsOffByDefault, and Retry-After is at least 1 with any rate.
func TestRateLimitIsOffByDefault(t *testing.T) {
	w := newWorld(t, withData(nil, plat.SystemClock))
	for range 200 {
		if status, body := w.do(http.MethodGet, "/organizations/acme", "acme/admin", nil); status != 200 {
			t.Fatalf("= %d %s", status, body)
		}
	}
	frozen := plat.SystemClock()
	w = newWorld(t, withData(nil, func() time.Time { return frozen }), withLimits(api.Limits{Rate: 1000, Burst: 1}))
	w.do(http.MethodGet, "/organizations/acme", "acme/admin", nil)
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, w.srv.URL+"/organizations/acme", nil)
	user, pass, _ := strings.Cut(w.token["acme/admin"], ":")
	req.SetBasicAuth(user, pass)
	res, err := w.srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 429 || res.Header.Get("Retry-After") != "1" {
		t.Errorf("= %d, Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
	}
}
