// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"encoding/json"
	"mime"
	"mime/multipart"
	"strings"
	"syscall"
	"testing"
)

// later asks for the case to be answered later.
func (p *proc) later(id, name string) answer {
	p.t.Helper()
	return p.call("POST", "/", "text/plain", "body of "+id, "X-Case", name, "X-Abeja-Request-Id", "req-"+id,
		"X-Abeja-Arms-Async-Request-Id", id, "X-Abeja-Arms-Async-Request-Token", "tok-"+id)
}

// parts returns status, headers and body of a result, whose parts' names have no
// quotes (compute.md §8.3).
func (b brought) parts(t *testing.T) (status string, headers map[string]string, body string) {
	t.Helper()
	if !strings.Contains(b.body, "form-data; name=status\r\n") {
		t.Errorf("the names of the parts: %q", b.body)
	}
	_, params, err := mime.ParseMediaType(b.kind)
	if err != nil {
		t.Fatal(err)
	}
	form, err := multipart.NewReader(strings.NewReader(b.body), params["boundary"]).ReadForm(1 << 30)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(form.Value["headers"][0]), &headers); err != nil {
		t.Fatal(err)
	}
	return form.Value["status"][0], headers, form.Value["body"][0]
}

// TestAsync: 202 with an empty body at once; the result comes to the API with the
// call's own token, again when that fails (compute.md §8.3).
func TestAsync(t *testing.T) {
	s, p := startContract(t, nil)
	s.set(func(s *server) { s.putFail = 2 })
	for _, name := range []string{"meta", "raises", "big", "notdict"} {
		if a := p.later(name, name); a.code != 202 || a.body != "" {
			t.Fatalf("%s: %d %q", name, a.code, a.body)
		}
	}
	b := s.result("meta")
	status, headers, body := b.parts(t)
	if b.auth != "Bearer tok-meta" || status != "418" || headers["x-note"] != "ok" || headers["content-type"] != "text/plain" ||
		headers["x-abeja-service-id"] != "ser-1" || body != "hi" {
		t.Errorf("%s: %s %v %q", b.auth, status, headers, body)
	}
	p.later("forged", "forged")
	if _, headers, _ := s.result("forged").parts(t); headers["x-abeja-service-id"] != "ser-1" || headers["x-note"] != "ok" {
		t.Errorf("user code speaks for the platform: %v", headers)
	}
	if _, _, body := s.result("big").parts(t); len(body) != 20_000_000 {
		t.Errorf("a long body came with %d bytes", len(body))
	}
	for _, name := range []string{"raises", "notdict"} {
		b := s.result(name)
		var f struct {
			Status int
			Body   map[string]string
		}
		if err := json.Unmarshal([]byte(b.body), &f); err != nil || b.kind != "application/json" || f.Status != 502 || f.Body["error"] != "internal_server_error" {
			t.Errorf("%s: %+v, %v", name, b, err)
		}
	}
	if a := p.call("POST", "/", "text/plain", "x", "X-Case", "alive", "X-Abeja-Arms-Async-Request-Id", "x"); a.code != 400 {
		t.Errorf("without a token: %d %s", a.code, a.body)
	}
	if a := p.call("POST", "/", "", "x", "X-Case", "alive", "X-Abeja-Arms-Async-Request-Id", "x", "X-Abeja-Arms-Async-Request-Token", "y"); a.code != 501 {
		t.Errorf("without a content type: %d %s", a.code, a.body)
	}
}

// What a service has taken and not answered when it ends, fails in words.
func TestAsyncEnds(t *testing.T) {
	s := newServer(t)
	s.pack("main.py", "import time\ndef handler(r, c):\n    print('began', flush=True)\n    time.sleep(600)\n")
	p := start(t, s, "service", nil)
	p.ready()
	for _, id := range []string{"one", "two", "three"} {
		if a := p.later(id, ""); a.code != 202 {
			t.Fatalf("%s: %d %s", id, a.code, a.body)
		}
	}
	p.signal(syscall.SIGTERM)
	p.wait()
	for _, id := range []string{"one", "two", "three"} {
		if b := s.result(id); b.kind != "application/json" || !strings.Contains(b.body, `"status":502`) || !strings.Contains(b.body, "the service was ended before") {
			t.Errorf("%s: %+v", id, b)
		}
	}
}
