// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"panal/internal/plat"
)

// A JSON body that ends early or is chunked wrongly is the client's fault. As a 5xx
// known clients would send it five times more (data.md §5.3).
func TestBrokenJSONBodies(t *testing.T) {
	w := newWire(t)
	head := "POST " + w.org + "/channels HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Basic " +
		base64.StdEncoding.EncodeToString([]byte(w.token[w.as])) + "\r\n"
	for what, rest := range map[string]string{
		"length":          "Content-Length: 100\r\n\r\n{",
		"nothing":         "Content-Length: 10\r\n\r\n",
		"chunked":         "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
		"broken chunking": "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
	} {
		status, body := w.raw(head + rest)
		isError(t, what, status, body, 400, "bad_request")
	}
	status, body := w.do(http.MethodPost, w.org+"/channels", w.as, strings.NewReader(strings.Repeat(" ", 2<<20)), "Content-Type", "application/json")
	isError(t, "too large", status, body, 413, "request_entity_too_large")
	status, body = w.do(http.MethodPost, w.org+"/channels", w.as, strings.NewReader("{}"), "Content-Type", "text/plain")
	isError(t, "not JSON", status, body, 415, "unsupported_media_type")
	if !strings.Contains(body, "Content-Type: application/json") {
		t.Errorf("415 does not say what to send: %s", body)
	}
}

// A parameter that can't be decoded is refused, never left out (data.md §6.4, §10.2, §12.1).
func TestBadEscapesInQueries(t *testing.T) {
	w := newWire(t)
	c := w.channel()
	w.call("POST", "/channels/"+c+"/upload?lifetime=1day&x=%25", "x")
	for _, q := range []struct{ method, path, name string }{
		{"GET", "/channels/" + c + "/count?q=label:100%", "q"},
		{"GET", "/channels/" + c + "?items_per_page=1&next_page_token=%zz", "next_page_token"},
		{"GET", w.org + "/datasets?%g=1", "%g"},
		{"POST", "/channels/" + c + "/upload?lifetime=1day%", "lifetime"},
		{"POST", "/channels/" + c + "/upload?conflict_target=filename%", "conflict_target"},
		{"POST", "/channels/" + c + "?lifetime=1day%2", "lifetime"},
	} {
		got := w.refused(q.path, 400, q.method, q.path, nil)
		if text, _ := got["error_description"].(string); !strings.HasPrefix(text, q.name+":") || !strings.Contains(text, "percent escape") {
			t.Errorf("%s %s: %v", q.method, q.path, got)
		}
	}
	for _, q := range []string{"lifetime=1day;", "conflict_target=file;name", "lifetime=", "conflict_target=", "lifetime"} {
		for _, path := range []string{"/upload?", "?"} {
			got := w.refused(q, 400, "POST", "/channels/"+c+path+q, nil)
			if name, _, _ := strings.Cut(q, "="); got["error_detail"].(obj)[name] == nil {
				t.Errorf("POST %s%s: %v", path, q, got)
			}
		}
	}
	if n := w.call("GET", "/channels/"+c+"/count", nil)["count"]; n != 1.0 {
		t.Errorf("%v files were stored, want 1", n)
	}
}

// What asks for something that can't be is told so, and by the right name.
func TestSmallRefusals(t *testing.T) {
	w := newWire(t)
	c := "/channels/" + w.channel()
	w.call("POST", c+"/upload", "x", "x-abeja-meta-label", "cat")
	w.call("POST", c+"/upload", "x", "x-abeja-meta-label", "dog")
	if got := w.call("GET", c+"/facets?key=label&query=label:cat", nil); got["files"] != 1.0 {
		t.Errorf("facets with query = %v", got)
	}
	for path, field := range map[string]string{
		c + "?timezone=Nope/X":                            "timezone",
		c + "/facets?key=file_id":                         "key",
		c + "/facets?key=uploaded_at":                     "key",
		w.org + "/datasets?next_token=foo":                "next_token",
		c + "/facets?key=X-Abeja-Sys-Meta-organizationid": "key",
	} {
		if got := w.refused(path, 400, "GET", path, nil); got["error_detail"].(obj)[field] == nil {
			t.Errorf("GET %s: %v", path, got)
		}
	}
	for confirm, want := range map[string]string{"": "is required", "wrong": "is not what a dry run gave"} {
		got := w.refused("confirm", 400, "POST", c+"/delete", obj{"q": "file_id:*", "dry_run": false, "confirm": confirm})
		if text := got["error_description"].(string); !strings.Contains(text, want) {
			t.Errorf("confirm %q: %s", confirm, text)
		}
	}
	w.call("POST", w.org+"/channels", `{"name":"x"}`, "Content-Type", "Application/JSON")
	bucket := w.call("POST", w.org+"/buckets", obj{})["bucket"].(obj)["bucket_id"].(string)
	got := w.refused("no part", 400, "POST", w.org+"/buckets/"+bucket+"/files", "", "Content-Type", "multipart/form-data; boundary=b")
	if text := got["error_description"].(string); !strings.Contains(text, "at least one part") {
		t.Errorf("an empty form: %s", text)
	}
	status, body := w.do("POST", "/organizations", "operator/admin", strings.NewReader(`{"name":"`+strings.Repeat("x", 300)+`"}`), "Content-Type", "application/json")
	if isError(t, "a long name", status, body, 400, "bad_request"); !strings.Contains(body, `"error_detail":{"name"`) {
		t.Errorf("a long name: %s", body)
	}
}

// An error names what it refuses, however it was written, and not at any length.
func TestErrorsQuoteWhatTheyRefuse(t *testing.T) {
	w := newWire(t)
	for path, says := range map[string]string{
		"/channels/a%2Fb/upload":                        "channel a/b was not found", // a plain handler, as the others do
		"/channels/%00/upload":                          `channel "\x00" was not found`,
		w.org + "/channels/%ff/archive":                 `channel "\xff" was not found`,
		w.org + "/channels/1/datasources/%ff":           `datasource "\xff" was not found`,
		w.org + "/datasets/2290000000456/items/%ff":     `dataset item "\xff" was not found`,
		"/channels/" + w.channel() + "%2f/upload":       "/ was not found",
		w.org + "/channels?limit=" + plenty("9"):        "…",
		w.org + "/channels/" + plenty("é"):              "…",
		"/channels/" + plenty("x") + "/upload":          "…",
		"/channels/" + plenty("deadbeef") + "/metadata": "…",
	} {
		method := "GET"
		switch {
		case strings.HasSuffix(path, "/upload"), strings.HasSuffix(path, "/archive"):
			method = "POST"
		case strings.Contains(path, "/datasources/"):
			method = "PUT"
		}
		status, body := w.do(method, path, w.as, nil)
		var got struct {
			Description string `json:"error_description"`
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		if status/100 != 4 || !strings.Contains(got.Description, says) || len(body) > 5000 {
			t.Errorf("%s %.80s: %d %.200s", method, path, status, body)
		}
	}
}

func plenty(of string) string { return strings.Repeat(of, 3000) }

// error_detail names the field also for what decodes itself, and never our types.
func TestErrorsNameTheField(t *testing.T) {
	w := newDeployWorld(t)
	for field, body := range map[string]string{
		"default_environment": `{"name":"x","default_environment":{"A":[]}}`,
		"name":                `{"name":[]}`,
	} {
		status, answer := w.do(http.MethodPost, "/organizations/acme/deployments", "acme/admin", strings.NewReader(body), "Content-Type", "application/json")
		isError(t, body, status, answer, 400, "bad_request")
		if !strings.Contains(answer, `"error_detail":{"`+field+`":[`) || strings.Contains(answer, "Go ") {
			t.Errorf("%s: %s", body, answer)
		}
	}
}

// RFC 9110 §15.5.6: 405 says what is allowed.
func TestMethodNotAllowedSaysWhatIs(t *testing.T) {
	w := newWire(t)
	for path, want := range map[string]string{
		w.org + "/channels":                 "GET, POST",
		"//organizations/acme//channels///": "GET, POST",
		"/blobs/a/b":                        "GET, HEAD, PUT",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, w.srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := w.srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if got := res.Header.Get("Allow"); res.StatusCode != 405 || got != want {
			t.Errorf("PATCH %s = %d, Allow: %s; want %s", path, res.StatusCode, got, want)
		}
	}
}

// An error is read by people too: no \\u003c for a <.
func TestErrorsAreReadable(t *testing.T) {
	w := newWorld(t)
	_, body := w.do(http.MethodGet, "/organizations/acme", "", nil)
	if !strings.Contains(body, "Basic user-<id>:<token>") {
		t.Error(body)
	}
}

// A container makes models of its own job, not in the name of another.
func TestContainerModelOfAnotherJob(t *testing.T) {
	w := newTrainWorld(t)
	w.version()
	create := w.defs + "/leaf/versions/1/jobs"
	mine, other := w.call("POST", create, "")["id"].(string), w.call("POST", create, "")["id"].(string)
	me := w.container("wl-0000000000000001", w.job(mine))
	zipped := string(zipOf(map[string]string{"m": "1"}))
	for job, want := range map[string]int{mine: 200, other: 403, string(plat.NewDecimalID()): 403} {
		status, answer := w.postForm(me, w.defs+"/leaf/models", part{"model_data", "model.zip", "application/zip", zipped},
			part{"parameters", "params.json", "application/json", `{"training_job_id":"` + job + `"}`})
		if status != want {
			t.Errorf("model of job %s as %s = %d %s, want %d", job, mine, status, answer, want)
		}
	}
}

// A client that is still sending sees the answer to a request that is refused early.
// With a broken pipe instead it would send it all again, five times.
func TestRefusedBodiesAreReadOn(t *testing.T) {
	w := newWire(t)
	auth := "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(w.token[w.as])) + "\r\n"
	const size = 24 << 20 // more than sockets buffer
	for _, c := range []struct {
		what, head string
		status     int
	}{
		{"nobody's upload", "POST /channels/1/upload HTTP/1.1\r\n", 401},
		{"unknown channel", "POST /channels/1/upload HTTP/1.1\r\n" + auth, 404},
		{"too large JSON", "POST " + w.org + "/channels HTTP/1.1\r\nContent-Type: application/json\r\n" + auth, 413},
		{"unknown path", "POST /nonsense HTTP/1.1\r\n" + auth, 404},
		{"no form", "POST " + w.org + "/training/definitions/x/versions HTTP/1.1\r\n" + auth, 400},
	} {
		status, body := w.whole(c.head + "Host: x\r\nContent-Length: " + strconv.Itoa(size) + "\r\n\r\n" + strings.Repeat("x", size))
		if status != c.status {
			t.Errorf("%s = %d %s, want %d", c.what, status, body, c.status)
		}
	}
}
