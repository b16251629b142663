// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"panal/internal/api"
	"panal/internal/blob"
	"panal/internal/blob/memblob"
	"panal/internal/lake"
	"panal/internal/plat"
	"panal/internal/sqlstore"
)

// Whoever calls, and with whatever, decides no label: the number of series is
// bounded by the operations that there are.
func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	w := newWorld(t, func(w *world, db *sqlstore.DB) {
		w.deps.Metrics, w.deps.Blobs = reg, blob.New(memblob.New())
		w.deps.Lake = lake.NewService(sqlstore.NewLake(db, plat.SystemClock), w.deps.Blobs, plat.SystemClock)
	})
	const channels = "/organizations/acme/channels"
	created := (&trainWorld{world: w}).callAs("acme/admin", http.MethodPost, channels, `{"name":"evil-channel"}`)
	channel := created["channel"].(object)["channel_id"].(string)
	payload := strings.Repeat("evil", 2500)
	if status, body := w.do(http.MethodPost, "/channels/"+channel+"/upload", "acme/admin", strings.NewReader(payload), "Content-Type", "text/evil", "x-abeja-meta-label", "evil"); status != 200 {
		t.Fatalf("upload = %d %s", status, body)
	}
	for _, c := range []struct{ method, path, as string }{
		{"GET", "/evil-path", "acme/admin"},
		{"EVIL", "/evil-path?evil=evil", ""},
		{"EVIL", "/deployments/evil/evil", ""},
		{"GET", "/deployments/evil/evil", ""},
		{"GET", "/organizations/evil/channels", "acme/admin"},
		{"PATCH", channels, "acme/admin"},
		{"GET", "/channels/evil/evil", "acme/admin"},
		{"GET", "/organizations/acme/training/definitions/evil/notebooks/evil", "acme/admin"},
		{"GET", "/blobs/evil/evil?sig=evil", ""},
	} {
		w.do(c.method, c.path, c.as, nil, "User-Agent", "evil", "X-Abeja-Request-Id", "evil")
	}
	families := map[string]*dto.MetricFamily{}
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	spec, err := api.SpecJSON()
	if err != nil {
		t.Fatal(err)
	}
	known := []string{"none", "not-built", "infer-default", "infer-alias", "infer-service"}
	for _, m := range regexp.MustCompile(`"operationId": "([a-z-]+)"`).FindAllStringSubmatch(string(spec), -1) {
		known = append(known, m[1])
	}
	for _, f := range all {
		families[f.GetName()] = f
		if !strings.HasPrefix(f.GetName(), "panal_api_") || f.GetHelp() == "" {
			t.Errorf("%s: %q", f.GetName(), f.GetHelp())
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				switch v := l.GetValue(); {
				case l.GetName() == "operation" && slices.Contains(known, v):
				case l.GetName() == "class" && slices.Contains([]string{"2xx", "3xx", "4xx", "5xx", "none"}, v):
				default:
					t.Errorf("%s has %s=%q", f.GetName(), l.GetName(), v)
				}
			}
		}
	}
	value := func(name, operation, class string) float64 {
		for _, m := range families[name].GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["operation"] == operation && labels["class"] == class {
				return m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
		return -1
	}
	for _, c := range []struct {
		name, operation, class string
		want                   float64
	}{
		{"panal_api_requests_total", "create-channel", "2xx", 1},
		{"panal_api_requests_total", "upload-file", "2xx", 1},
		{"panal_api_request_duration_seconds", "upload-file", "2xx", 1},
		{"panal_api_received_bytes_total", "upload-file", "", 10_000},
		{"panal_api_requests_total", "list-channels", "4xx", 1}, // refused before it ran: it counts all the same
		{"panal_api_requests_total", "infer-alias", "4xx", 2},
		{"panal_api_requests_total", "not-built", "5xx", 1},
		{"panal_api_requests_total", "get-blob", "4xx", 1},
		{"panal_api_requests_total", "none", "4xx", 3},
		{"panal_api_sent_bytes_total", "list-jobs", "", -1}, // never called: no series
	} {
		if got := value(c.name, c.operation, c.class); got != c.want {
			t.Errorf("%s{%s %s} = %v, want %v", c.name, c.operation, c.class, got, c.want)
		}
	}
	if sent := value("panal_api_sent_bytes_total", "create-channel", ""); sent < 100 {
		t.Errorf("%v bytes were sent to who created a channel", sent)
	}
}
