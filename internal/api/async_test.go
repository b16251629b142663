// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/deploy"
	"panal/internal/plat"
	"panal/internal/x/accesslog"
)

// asyncCall is what an instance got of an asynchronous call.
type asyncCall struct {
	id, token string
	workload  plat.WorkloadID
}

// send does one request; headers come in pairs.
func (w *deployWorld) send(method, path, body string, headers ...string) (*http.Response, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.srv.URL+path, io.NopCloser(strings.NewReader(body)))
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := w.srv.Client().Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp, string(text)
}

// TestAsyncInAccessLog: the line of an asynchronous call names the call, so that it can be
// found with those of its result; neither has a token or a body.
func TestAsyncInAccessLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	lines, err := accesslog.Open(accesslog.Options{Path: path, MaxBytes: 1 << 20, Sample: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- lines.Run(ctx, func(err error) { t.Error(err) }) }()
	w := newDeployWorld(t, func(w *world) { w.deps.AccessLog = lines })
	dep := w.deployment()
	id := dep[len(w.deps)+1:]
	user := "Basic " + base64.StdEncoding.EncodeToString([]byte(w.token["acme/regular"]))
	svc := w.service(dep, w.version(dep, "1"), "echo")
	if resp, body := w.send("POST", "/deployments/"+id+"/services/"+svc, "body in question", "Authorization", user, "X-Abeja-Arms-Async", "true"); resp.StatusCode != 202 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	call := <-w.asyncs
	if resp, body := w.send("PUT", dep+"/results/"+call.id, `{"status":200,"body":{"answer":"in question"}}`, "Authorization", "Bearer "+call.token, "Content-Type", "application/json"); resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	w.srv.Close() // each request has ended with its line
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(b); strings.Contains(text, call.token) || strings.Contains(text, "in question") || strings.Contains(text, w.token["acme/regular"]) {
		t.Errorf("a token or a body is in the access log:\n%s", text)
	}
	var got []string
	for line := range strings.Lines(string(b)) {
		var e struct {
			Operation, Path, Async string
			Status                 int
			Received               int64
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if e.Async != "" || strings.Contains(e.Path, call.id) {
			got = append(got, fmt.Sprint(e.Operation, " ", e.Status, " ", e.Async == call.id, " ", e.Received > 0))
		}
	}
	if diff := cmp.Diff([]string{"infer-service 202 true true", "put-result 200 false true"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestAsyncWire: compute.md §8.3, both sides.
func TestAsyncWire(t *testing.T) {
	w := newDeployWorld(t)
	dep := w.deployment()
	id := dep[len(w.deps)+1:]
	user, other := "Basic "+base64.StdEncoding.EncodeToString([]byte(w.token["acme/regular"])), "Basic "+base64.StdEncoding.EncodeToString([]byte(w.token["other/admin"]))
	svc := w.service(dep, w.version(dep, "1"), "echo")
	path := "/deployments/" + id + "/services/" + svc
	begin := func() (string, asyncCall) {
		resp, body := w.send("POST", path, "x", "Authorization", user, "Content-Type", "text/plain", "X-Abeja-Arms-Async", "true",
			"X-Abeja-Arms-Async-Request-Token", "forged")
		c := <-w.asyncs
		if resp.StatusCode != 202 || body != `{"request_id":"`+c.id+`"}`+"\n" || c.token == "" || c.token == "forged" {
			t.Fatalf("%d %s, the instance got %+v", resp.StatusCode, body, c)
		}
		return c.id, c
	}
	req, call := begin()
	gateway, control := "/deployments/"+id+"/results/"+req, dep+"/results/"+req
	for _, p := range []string{gateway, control} {
		if resp, body := w.send("GET", p, "", "Authorization", user); resp.StatusCode != 202 || body != `{"request_id":"`+req+`","status":"processing"}`+"\n" || resp.Header.Get("X-Panal-Result") != "" {
			t.Errorf("GET %s = %d %s", p, resp.StatusCode, body)
		}
	}
	// The original agent's form: chunked, and no quotes around the names.
	form := "--b\r\nContent-Disposition: form-data; name=status\r\nContent-Type: text/plain\r\n\r\n418\r\n" +
		"--b\r\nContent-Disposition: form-data; name=headers\r\nContent-Type: application/json\r\n\r\n" +
		`{"X-Note":"ok","connection":"close","set-cookie":"a=b","content-length":"99","x-panal-instance-key":"k","x-panal-result":"forged","X-Abeja-Request-Id":"forged"}` + "\r\n" +
		"--b\r\nContent-Disposition: form-data; name=body\r\nContent-Type: text/x-tea\r\n\r\nshort\r\nand stout\r\n--b--\r\n"
	kind := "multipart/form-data; boundary=b"
	for what, headers := range map[string][]string{
		"no token": {"Content-Type", kind}, "a user": {"Content-Type", kind, "Authorization", user},
		"another token": {"Content-Type", kind, "Authorization", "Bearer " + call.token + "x"},
	} {
		if resp, body := w.send("PUT", control, form, headers...); resp.StatusCode != 401 {
			t.Errorf("PUT by %s = %d %s", what, resp.StatusCode, body)
		}
	}
	mine := []string{"Authorization", "Bearer " + call.token, "Content-Type"}
	for what, tt := range map[string]struct{ body, kind string }{
		"cut": {form[:len(form)-12], kind}, "no status": {form[strings.Index(form[3:], "--b")+3:], kind}, "no parts": {"--b--\r\n", kind},
		"no boundary": {form, "multipart/form-data"}, "not JSON": {"x", "application/json"}, "a picture": {"x", "image/png"},
		"status": {`{"status":99,"body":{}}`, "application/json"}, "long headers": {strings.Replace(form, "ok", strings.Repeat("x", 70<<10), 1), kind},
	} {
		if resp, body := w.send("PUT", control, tt.body, append(mine, tt.kind)...); resp.StatusCode != 400 {
			t.Errorf("PUT of %s = %d %s", what, resp.StatusCode, body)
		}
	}
	if resp, body := w.send("PUT", control, form, append(mine, kind)...); resp.StatusCode != 200 {
		t.Fatalf("PUT = %d %s", resp.StatusCode, body)
	}
	if resp, body := w.send("PUT", control, `{"status":502,"body":{}}`, append(mine, "application/json")...); resp.StatusCode != 200 {
		t.Errorf("a second PUT = %d %s", resp.StatusCode, body)
	}
	for _, p := range []string{gateway, control} {
		resp, body := w.send("GET", p, "", "Authorization", user)
		h := resp.Header
		if resp.StatusCode != 418 || body != "short\r\nand stout" || h.Get("X-Note") != "ok" || h.Get("Content-Type") != "text/x-tea" ||
			h.Get("Set-Cookie") != "" || h.Get("X-Panal-Instance-Key") != "" || h.Get("X-Abeja-Request-Id") == "forged" || h.Get("X-Panal-Result") != "stored" || resp.ContentLength != 16 {
			t.Errorf("GET %s = %d %q %v", p, resp.StatusCode, body, h)
		}
		if resp, _ := w.send("GET", strings.Replace(p, "acme", "other", 1), "", "Authorization", other); resp.StatusCode != 404 {
			t.Errorf("another organization's GET = %d", resp.StatusCode)
		}
		if resp, _ := w.send("GET", p, ""); resp.StatusCode != 401 {
			t.Errorf("nobody's GET = %d", resp.StatusCode)
		}
	}
	// A failure, as the agent tells it.
	req, call = begin()
	if resp, body := w.send("PUT", dep+"/results/"+req, `{"status":502,"headers":{"content-type":"application/json"},"body":{"error":"internal_server_error"}}`,
		"Authorization", "Bearer "+call.token, "Content-Type", "application/json"); resp.StatusCode != 200 {
		t.Fatalf("PUT = %d %s", resp.StatusCode, body)
	}
	if resp, body := w.send("GET", "/deployments/"+id+"/results/"+req, "", "Authorization", user); resp.StatusCode != 502 || body != `{"error":"internal_server_error"}` {
		t.Errorf("GET of a failure = %d %s", resp.StatusCode, body)
	}
	// An instance that dies takes its calls with it; the sweep says so.
	req, call = begin()
	if lost, _, err := w.world.deps.Deploy.SweepAsync(t.Context()); lost != 0 || err != nil {
		t.Errorf("sweep of a live instance: %d, %v", lost, err)
	}
	w.call("POST", dep+"/services/"+svc+"/stop", "")
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if lost, _, err := w.world.deps.Deploy.SweepAsync(t.Context()); err != nil || time.Now().After(end) {
			t.Fatalf("no call was lost: %v", err)
		} else if lost == 1 {
			break
		}
	}
	if resp, body := w.send("GET", "/deployments/"+id+"/results/"+req, "", "Authorization", user); resp.StatusCode != 502 || !strings.Contains(body, "ended before") {
		t.Errorf("GET of a lost call = %d %s", resp.StatusCode, body)
	}
	// What nobody takes is refused at once, and leaves nothing.
	if resp, body := w.send("POST", path, "x", "Authorization", user, "X-Abeja-Arms-Async", "true"); resp.StatusCode != 503 {
		t.Errorf("a stopped service = %d %s", resp.StatusCode, body)
	}
	if resp, _ := w.send("POST", "/deployments/"+id+"/nothing", "x", "Authorization", user, "X-Abeja-Arms-Async", "true"); resp.StatusCode != 404 {
		t.Errorf("an unknown alias = %d", resp.StatusCode)
	}
}

// TestRecordResults: each result that is to be recorded is, whichever came first of it and
// the note, one that can't be now is tried again, and one that never can be is given up.
func TestRecordResults(t *testing.T) {
	w := newDeployWorld(t)
	m := w.world.deps.Deploy
	fail := map[plat.FileID]error{
		"later": plat.Errorf(plat.ErrUnavailable, "storage is away"),
		"never": plat.NotFound("channel", "1"),
	}
	var got []string
	m.RecordResult = func(_ context.Context, c deploy.AsyncCall, body io.Reader) error {
		if err := fail[c.Record.Input]; err != nil {
			return err
		}
		text, err := io.ReadAll(body)
		got = append(got, fmt.Sprintf("%s %d %s", c.Record.Input, c.Status, text))
		return err
	}
	call := func(input plat.FileID, noteFirst bool) deploy.AsyncCall {
		c, err := m.StartAsync(t.Context(), "1", "2", "hash")
		if err != nil {
			t.Fatal(err)
		}
		note := func() {
			if err := m.RecordAsync(t.Context(), c.ID, deploy.AsyncRecord{Input: input}); err != nil {
				t.Fatal(err)
			}
		}
		if noteFirst {
			note()
		}
		if _, err := m.RecordResults(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := m.FinishAsync(t.Context(), c, 200, nil, strings.NewReader("of "+string(input))); err != nil {
			t.Fatal(err)
		}
		if !noteFirst {
			if n, err := m.RecordResults(t.Context()); n != 0 || err != nil {
				t.Fatalf("nothing is noted, %d were recorded, %v", n, err)
			}
			note()
		}
		return c
	}
	want := func(what string, n int, wrong bool, all ...string) {
		t.Helper()
		recorded, err := m.RecordResults(t.Context())
		if recorded != n || (err != nil) != wrong || !cmp.Equal(got, all) {
			t.Errorf("%s: %d, %v, %q; want %d and %q", what, recorded, err, got, n, all)
		}
	}
	call("a", true)
	want("the note first", 1, false, "a 200 of a")
	call("b", false)
	want("the result first", 1, false, "a 200 of a", "b 200 of b")
	call("never", true)
	want("its channel is gone", 0, false, "a 200 of a", "b 200 of b")
	delete(fail, "never")
	want("given up", 0, false, "a 200 of a", "b 200 of b")
	call("later", false)
	want("not now", 0, true, "a 200 of a", "b 200 of b")
	delete(fail, "later")
	want("now", 1, false, "a 200 of a", "b 200 of b", "later 200 of later")
	want("done", 0, false, "a 200 of a", "b 200 of b", "later 200 of later")
	if err := m.RecordAsync(t.Context(), "gone", deploy.AsyncRecord{}); err != nil {
		t.Errorf("note of a call that is gone: %v", err)
	}
}
