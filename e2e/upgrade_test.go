// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/client"
)

// TestUpgrade opens the data directories that released versions left behind
// (scripts/make-upgrade-fixture): everything in them reads back.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	fixtures, err := filepath.Glob("../testdata/upgrade/*.tar.gz")
	if err != nil || len(fixtures) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, name := range fixtures {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".tar.gz"), func(t *testing.T) { upgrade(t, name) })
	}
}

func upgrade(t *testing.T, fixture string) {
	dir := t.TempDir()
	if out, err := exec.Command("tar", "-xzf", fixture, "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var want struct {
		Channel string `json:"channel"`
		Files   map[string]struct {
			Metadata map[string]string `json:"metadata"`
			SHA256   string            `json:"sha256"`
		} `json:"files"`
		Definition  string   `json:"definition"`
		Job         string   `json:"job"`
		Model       string   `json:"model"`
		ModelSHA256 string   `json:"model_sha256"`
		Dataset     string   `json:"dataset"`
		Items       float64  `json:"items"`
		Dogs        float64  `json:"dogs"`
		Log         []string `json:"log"`
		Deployment  string   `json:"deployment"`
		Service     string   `json:"service"`
		Request     string   `json:"request"`
		Answer      string   `json:"answer"`
	}
	b, err := os.ReadFile(filepath.Join(dir, "expect.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	// The fixture's log lines grow old; they are looked at all the same.
	p := startPlatformAt(t, filepath.Join(dir, "data"), "--log-ttl", "876000h")
	digest := func(b []byte) string {
		sum := sha256.Sum256(b)
		return hex.EncodeToString(sum[:])
	}
	check := func() {
		t.Helper()
		listed := p.call(http.MethodGet, client.Path("channels", want.Channel), nil)["files"].([]any)
		if len(listed) != len(want.Files) {
			t.Errorf("%d files are listed, want %d", len(listed), len(want.Files))
		}
		for _, f := range listed {
			f := f.(map[string]any)
			w := want.Files[f["file_id"].(string)]
			got := map[string]string{}
			for k, v := range f["metadata"].(map[string]any) {
				got[k] = v.(string)
			}
			if d := cmp.Diff(w.Metadata, got); d != "" {
				t.Errorf("metadata of %v (-want +got):\n%s", f["file_id"], d)
			}
			if got := digest(p.fetch(f["download_uri"].(string))); got != w.SHA256 {
				t.Errorf("bytes of %v have digest %s, want %s", f["file_id"], got, w.SHA256)
			}
		}
		for q, n := range map[string]float64{"": 3, "split:train": 3, "filename:noise.bin": 1, "filename:gone": 0, "NOT filename:words*": 2} {
			var out map[string]any
			if err := p.api.JSON(t.Context(), http.MethodGet, client.Path("channels", want.Channel, "count"), url.Values{"q": {q}}, nil, &out); err != nil || out["count"] != n {
				t.Errorf("count of %q is %v, %v; want %v", q, out["count"], err, n)
			}
		}
		var datasets []map[string]any
		if err := p.api.JSON(t.Context(), http.MethodGet, p.api.OrgPath("datasets"), nil, nil, &datasets); err != nil || len(datasets) != 1 || datasets[0]["name"] != want.Dataset {
			t.Fatalf("datasets: %v, %v", datasets, err)
		}
		for q, n := range map[string]float64{"": want.Items, "label_id:1": want.Dogs} {
			var out map[string]any
			if err := p.api.JSON(t.Context(), http.MethodGet, p.api.OrgPath("datasets", datasets[0]["dataset_id"].(string), "items"), url.Values{"q": {q}}, nil, &out); err != nil || out["total_count"] != n {
				t.Errorf("items of %q: %v, %v; want %v", q, out["total_count"], err, n)
			}
		}
		if s := p.call(http.MethodGet, p.def(want.Definition, "jobs", want.Job), nil)["status"]; s != "Complete" {
			t.Errorf("the job is %v", s)
		}
		model := p.call(http.MethodGet, p.def(want.Definition, "models", want.Model, "download"), nil)
		if got := digest(p.fetch(model["download_uri"].(string))); got != want.ModelSHA256 {
			t.Errorf("the model's digest is %s, want %s", got, want.ModelSHA256)
		}
		if d := cmp.Diff(want.Log, p.lines(p.def(want.Definition, "jobs", want.Job, "logs"))); d != "" {
			t.Errorf("log (-want +got):\n%s", d)
		}
	}
	check()

	// It works on: serving, training, new files beside the old.
	service := p.api.OrgPath("deployments", want.Deployment, "services", want.Service)
	if s := p.call(http.MethodGet, service, nil)["status"]; s != "STOPPED" {
		t.Errorf("the service is %v", s)
	}
	if e := p.call(http.MethodGet, p.api.OrgPath("deployments", want.Deployment, "endpoints", "default"), nil)["service_id"]; e != want.Service {
		t.Errorf("the endpoint points to %v", e)
	}
	p.call(http.MethodPost, service+"/start", nil)
	p.until("READY", time.Minute, func() bool { return p.call(http.MethodGet, service, nil)["status"] == "READY" })
	if status, answer := p.infer(want.Deployment, want.Service, want.Request); status != http.StatusOK || answer != want.Answer {
		t.Errorf("inference = %d %q, want %q", status, answer, want.Answer)
	}
	id := p.call(http.MethodPost, p.def(want.Definition, "versions", "1", "jobs"), map[string]string{"instance_type": "cpu-0.25"})["id"].(string)
	if j := p.waitJob(want.Definition, id, time.Minute); j["status"] != "Complete" {
		t.Errorf("a new job is %v: %v", j["status"], j["status_message"])
	}
	file, err := p.put(want.Channel, "new", []byte("new"), false)
	if err != nil {
		t.Fatal(err)
	}
	p.call(http.MethodDelete, client.Path("channels", want.Channel, file), nil)

	// What this version has migrated, it opens again.
	p.kill()
	p.start()
	check()
}
