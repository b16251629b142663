// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	seriesLine = regexp.MustCompile(`^([a-z_0-9]+)(?:\{(.*)\})? (\S+)$`)
	labelPair  = regexp.MustCompile(`([a-z_]+)="((?:[^"\\]|\\.)*)"`)
)

// TestMetrics scrapes a server that has had callers of every kind: the names are
// what docs/architecture.md lists, and no label holds anything that a caller chose.
func TestMetrics(t *testing.T) {
	p := startPlatform(t)
	channel := p.call(http.MethodPost, p.api.OrgPath("channels"), map[string]string{"name": "chosen"})["channel"].(map[string]any)["channel_id"].(string)
	p.call(http.MethodGet, p.api.OrgPath("instance_types"), nil)
	req, err := http.NewRequest(http.MethodPost, "http://"+p.listen+"/channels/"+channel+"/upload", strings.NewReader("chosen"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req) // without credentials
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	p.call(http.MethodPost, p.api.OrgPath("training", "definitions"), map[string]string{"name": "chosen"})
	p.infer("chosen", "chosen", "chosen")

	res, err = http.Get("http://" + p.listen + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("metrics = %d %v", res.StatusCode, err)
	}
	allowed := map[string]func(string) bool{
		"operation": regexp.MustCompile(`^(none|not-built|infer-(default|alias|service)|(list|get|head|create|update|delete|upload|archive|put)-[a-z-]+)$`).MatchString,
		"class": func(v string) bool {
			return slices.Contains([]string{"2xx", "3xx", "4xx", "5xx", "none", "gone", "cut"}, v)
		},
		"status": func(v string) bool {
			return slices.Contains([]string{"Pending", "Active", "IN_PROGRESS", "READY", "FAILED", "STOPPED"}, v)
		},
		"direction": func(v string) bool { return slices.Contains([]string{"up", "down", "sleep", "wake"}, v) },
		"limit": func(v string) bool {
			return slices.Contains([]string{
				"all", "address", "token_rate", "token_concurrency", "organization_rate", "organization_concurrency",
				"service_rate", "service_concurrency", "endpoint_rate", "endpoint_concurrency", "gateway_concurrency",
			}, v)
		},
		"le": regexp.MustCompile(`^([0-9.]+|\+Inf)$`).MatchString,
	}
	values, help := map[string]string{}, map[string]bool{}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, text, _ := strings.Cut(rest, " ")
			help[name] = text != ""
		}
		m := seriesLine.FindStringSubmatch(line)
		if m == nil || !strings.HasPrefix(m[1], "panal_") {
			continue
		}
		values[m[1]+"{"+m[2]+"}"] = m[3]
		for _, l := range labelPair.FindAllStringSubmatch(m[2], -1) {
			if ok := allowed[l[1]]; ok == nil || !ok(l[2]) {
				t.Errorf("a label that somebody could have chosen: %s", line)
			}
		}
	}
	if strings.Contains(string(b), "chosen") || strings.Contains(string(b), channel) {
		t.Error("the metrics tell what a caller sent")
	}
	for _, name := range []string{
		"panal_api_requests_total", "panal_api_request_duration_seconds", "panal_api_received_bytes_total", "panal_api_sent_bytes_total",
		"panal_gateway_calls_total", "panal_gateway_call_duration_seconds", "panal_gateway_retries_total", "panal_gateway_ejections_total", "panal_gateway_outstanding",
		"panal_gateway_held", "panal_gateway_held_bytes", "panal_gateway_route_version",
		"panal_runner_vcpus", "panal_runner_vcpus_used", "panal_runner_memory_bytes", "panal_runner_memory_used_bytes",
		"panal_runner_gpus", "panal_runner_gpus_used", "panal_jobs", "panal_services", "panal_log_store_bytes",
		"panal_lake_files", "panal_lake_bytes", "panal_gauge_failures_total",
	} {
		if !help[name] {
			t.Errorf("%s is missing, or has no help", name)
		}
	}
	for series, want := range map[string]string{
		`panal_api_requests_total{class="2xx",operation="create-channel"}`:      "1",
		`panal_api_requests_total{class="2xx",operation="list-instance-types"}`: "1",
		`panal_api_requests_total{class="4xx",operation="upload-file"}`:         "1",
		`panal_jobs{status="Pending"}`:                                          "0",
		`panal_services{status="READY"}`:                                        "0",
		`panal_lake_files{}`:                                                    "0",
		`panal_gauge_failures_total{}`:                                          "0",
	} {
		if values[series] != want {
			t.Errorf("%s = %q, want %s", series, values[series], want)
		}
	}
}
