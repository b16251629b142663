// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"panal/internal/deploy"
	"panal/internal/lake"
	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/train"
)

// A figure that can't be had is missing, not 0, and takes no other along; and
// however often somebody asks, the stores are asked once in a while.
func TestGauges(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	asked, boom := 0, error(nil)
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(newGauges(slog.New(slog.DiscardHandler), func() time.Time { return now }, gaugeSources{
		capacity: func(context.Context) (runner.Capacity, error) {
			return runner.Capacity{Total: plat.Resources{MilliCPU: 2500, Memory: 1 << 30, GPUs: 2}, Used: plat.Resources{MilliCPU: 500, Memory: 1 << 20, GPUs: 1}}, nil
		},
		jobs: func(context.Context) (map[train.Status]int, error) {
			asked++
			return map[train.Status]int{train.Pending: 3}, boom
		},
		services: func(context.Context) (map[deploy.Status]int, error) {
			return map[deploy.Status]int{deploy.Ready: 4}, nil
		},
		logBytes: func(context.Context) (int64, error) { return 5, nil },
		lake:     func(context.Context) (lake.Usage, error) { return lake.Usage{Files: 6, Bytes: 7}, nil },
	}))
	scrape := func() map[string]float64 {
		t.Helper()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				name := strings.TrimPrefix(f.GetName(), "panal_")
				for _, l := range m.GetLabel() {
					name += " " + l.GetValue()
				}
				out[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
		return out
	}
	want := map[string]float64{
		"runner_vcpus": 2.5, "runner_vcpus_used": 0.5, "runner_memory_bytes": 1 << 30, "runner_memory_used_bytes": 1 << 20,
		"runner_gpus": 2, "runner_gpus_used": 1, "jobs Pending": 3, "jobs Active": 0,
		"services IN_PROGRESS": 0, "services READY": 4, "services FAILED": 0, "services STOPPED": 0,
		"log_store_bytes": 5, "lake_files": 6, "lake_bytes": 7, "gauge_failures_total": 0,
	}
	check := func(what string) {
		t.Helper()
		got := scrape()
		for name, v := range want {
			if have, ok := got[name]; !ok || have != v {
				t.Errorf("%s: %s = %v (there: %v), want %v", what, name, have, ok, v)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d figures, want %d: %v", what, len(got), len(want), got)
		}
	}
	check("first")
	boom = errors.New("boom")
	check("at once again")
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	now = now.Add(gaugesFresh)
	delete(want, "jobs Pending")
	delete(want, "jobs Active")
	want["gauge_failures_total"] = 1
	check("after a failure")
}
