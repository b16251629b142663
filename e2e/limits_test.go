// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"panal/internal/client"
)

// TestLimits: every limit that an operator can set, met by real requests: the answer
// names the field and the limit, what is within it is taken, and the server goes on.
func TestLimits(t *testing.T) {
	t.Parallel()
	p := startPlatform(t, "--max-header-bytes", "4096", "--max-metadata-bytes", "1024", "--max-metadata-key-bytes", "20", "--max-metadata-value-bytes", "400",
		"--max-items-per-call", "3", "--max-page-size", "1500")
	org, user, token := adminOf(t, p.data)
	ask := func(method, path string, body io.Reader, header ...string) (int, http.Header, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.listen+path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("user-"+user, token)
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		defer func() { _ = res.Body.Close() }()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, res.Header, string(b)
	}
	ch, err := p.api.CreateChannel(t.Context(), "limits", "")
	if err != nil {
		t.Fatal(err)
	}
	set, err := p.api.CreateDataset(t.Context(), "bolts", "classification", map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	in, upload := client.Path("organizations", org), "/channels/"+ch.ID+"/upload"
	items := func(n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(`{"source_data":[{"data_type":"image/jpeg","data_uri":"datalake://1/2"}],"attributes":{}},`, n), ",") + "]"
	}
	long := func(n int) string { return strings.Repeat("v", n) }
	const meta, kind = "x-abeja-meta-", "application/json"
	for _, c := range []struct {
		what, method, path, body string
		header                   []string
		status                   int
		texts                    []string // of the error: the field and the limit
	}{
		{"headers", "GET", in + "/channels", "", []string{"X-Filler", long(5000)}, 431, []string{"headers", "4096", "--max-header-bytes"}},
		{"a metadata name", "POST", upload, "x", []string{meta + strings.Repeat("k", 21), "v"}, 400, []string{"kkkk", "the limit is 20"}},
		{"a metadata name at the limit", "POST", upload, "x", []string{meta + strings.Repeat("k", 20), "v"}, 200, nil},
		{"a metadata value", "POST", upload, "x", []string{meta + "label", long(401)}, 400, []string{"label", "the limit is 400"}},
		{"a metadata value at the limit", "POST", upload, "x", []string{meta + "label", long(400)}, 200, nil},
		{"all metadata", "POST", upload, "x", []string{meta + "a", long(390), meta + "b", long(390), meta + "c", long(390)}, 400, []string{"metadata", "the limit is 1024"}},
		{"items", "POST", in + "/datasets/" + set.ID + "/items", items(4), []string{"Content-Type", kind}, 400, []string{"items", "the limit is 3"}},
		{"items at the limit", "POST", in + "/datasets/" + set.ID + "/items", items(3), []string{"Content-Type", kind}, 200, nil},
		{"a page size that is none", "GET", in + "/channels?limit=0", "", nil, 400, []string{"limit", "1 or more"}},
		{"a body", "POST", in + "/channels", `{"name":"` + long(20<<20) + `"}`, []string{"Content-Type", kind}, 413, []string{"body is larger"}},
	} {
		status, _, answer := ask(c.method, c.path, strings.NewReader(c.body), c.header...)
		if status != c.status {
			t.Errorf("%s: %d, want %d: %s", c.what, status, c.status, answer)
		}
		for _, text := range c.texts {
			var e struct {
				Error       string `json:"error"`
				Description string `json:"error_description"`
			}
			if err := json.Unmarshal([]byte(answer), &e); err != nil || e.Error == "" || !strings.Contains(e.Description, text) {
				t.Errorf("%s: the error does not say %q: %s", c.what, text, answer)
			}
		}
	}
	// A page is cut to the limit, and says so.
	if _, _, answer := ask("GET", in+"/channels?limit=99999", nil); !strings.Contains(answer, `"limit":1500`) {
		t.Errorf("a page beyond the limit: %s", answer)
	}
	// The quota of an organization.
	panal := func(args ...string) {
		t.Helper()
		cmd := exec.Command(binary, args...)
		cmd.Env = append(os.Environ(), "PANAL_API_URL=http://"+p.listen, "PANAL_ORGANIZATION_ID="+org, "PANAL_USER_ID="+user, "PANAL_PERSONAL_ACCESS_TOKEN="+token)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("panal %v: %v\n%s", args, err, out)
		}
	}
	panal("org", "quota", "default", "100000")
	if status, _, answer := ask("POST", upload, strings.NewReader(long(100_000))); status != http.StatusInsufficientStorage || !strings.Contains(answer, "storage quota of 100000 bytes") {
		t.Errorf("beyond the quota: %d %s", status, answer)
	}
	panal("org", "quota", "default", "0")
	if status, _, answer := ask("POST", upload, strings.NewReader(long(100_000))); status != http.StatusOK {
		t.Errorf("without a quota: %d %s", status, answer)
	}

	// The rate of one token: as long as Retry-After says, and no longer.
	p.kill()
	p.flags = append(p.flags, "--rate-limit", "2")
	p.start()
	refused := 0
	for range 20 {
		status, header, answer := ask("GET", in+"/channels", nil)
		if status == http.StatusOK {
			continue
		}
		wait, err := strconv.Atoi(header.Get("Retry-After"))
		if status != http.StatusTooManyRequests || err != nil || wait < 1 || !strings.Contains(answer, "too_many_requests") || !strings.Contains(answer, "2") {
			t.Fatalf("beyond the rate: %d, Retry-After %q: %s", status, header.Get("Retry-After"), answer)
		}
		if refused++; refused > 2 {
			break
		}
		time.Sleep(time.Duration(wait) * time.Second)
		if status, _, answer := ask("GET", in+"/channels", nil); status != http.StatusOK {
			t.Errorf("after Retry-After: %d %s", status, answer)
		}
	}
	if refused == 0 {
		t.Error("no call was beyond the rate")
	}
	if res, err := http.Get("http://" + p.listen + "/readyz"); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("the server does not go on: %v", err)
	} else {
		_ = res.Body.Close()
	}
	log, err := os.ReadFile(p.log.Name())
	if err != nil || strings.Contains(string(log), "panicked") {
		t.Error(fmt.Errorf("the log tells of a panic (%w)", err))
	}
}
