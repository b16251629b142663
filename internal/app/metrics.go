// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"panal/internal/deploy"
	"panal/internal/lake"
	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/train"
)

const (
	// gaugesFresh is how long figures are given out again: whoever reads /metrics
	// costs the database nothing much.
	gaugesFresh   = 5 * time.Second
	gaugesTimeout = 5 * time.Second
)

// gaugeSources are the questions behind the gauges. Each is cheap: sums and counts
// of what is not finished.
type gaugeSources struct {
	capacity func(context.Context) (runner.Capacity, error)
	jobs     func(context.Context) (map[train.Status]int, error)
	services func(context.Context) (map[deploy.Status]int, error)
	logBytes func(context.Context) (int64, error)
	lake     func(context.Context) (lake.Usage, error)
}

// gauges collects figures of the whole installation when they are asked for. One
// that can't be had is left out, and the log says why.
type gauges struct {
	log *slog.Logger
	now plat.Clock
	src gaugeSources

	vcpus, vcpusUsed, memory, memoryUsed, gpus, gpusUsed   *prometheus.Desc
	jobs, services, logBytes, lakeFiles, lakeBytes, failed *prometheus.Desc

	mu       sync.Mutex
	at       time.Time
	last     []prometheus.Metric
	failures float64
}

func newGauges(log *slog.Logger, now plat.Clock, src gaugeSources) *gauges {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("panal_"+name, help, labels, nil)
	}
	return &gauges{
		log: log, now: now, src: src,
		vcpus:      d("runner_vcpus", "vCPUs that workloads may reserve."),
		vcpusUsed:  d("runner_vcpus_used", "vCPUs that workloads have reserved."),
		memory:     d("runner_memory_bytes", "Memory that workloads may reserve."),
		memoryUsed: d("runner_memory_used_bytes", "Memory that workloads have reserved."),
		gpus:       d("runner_gpus", "GPU slots that workloads may reserve."),
		gpusUsed:   d("runner_gpus_used", "GPU slots that workloads have reserved."),
		jobs:       d("jobs", "Training jobs that wait or run, by status.", "status"),
		services:   d("services", "Services by status.", "status"),
		logBytes:   d("log_store_bytes", "Disk that the log lines of workloads take."),
		lakeFiles:  d("lake_files", "Files of all channels, with expired ones that are not removed yet."),
		lakeBytes:  d("lake_bytes", "Bytes of the files of all channels."),
		failed:     d("gauge_failures_total", "Questions behind gauges that failed; the gauge is missing meanwhile."),
	}
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		g.vcpus, g.vcpusUsed, g.memory, g.memoryUsed, g.gpus, g.gpusUsed,
		g.jobs, g.services, g.logBytes, g.lakeFiles, g.lakeBytes, g.failed,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(out chan<- prometheus.Metric) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := g.now(); g.at.IsZero() || now.Sub(g.at) >= gaugesFresh || now.Before(g.at) {
		g.last, g.at = g.ask(), now
	}
	for _, m := range g.last {
		out <- m
	}
}

func (g *gauges) ask() []prometheus.Metric {
	ctx, cancel := context.WithTimeout(context.Background(), gaugesTimeout) // a collector is given none
	defer cancel()
	var all []prometheus.Metric
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		all = append(all, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...))
	}
	got := func(what string, err error) bool {
		if err != nil {
			g.failures++
			g.log.LogAttrs(ctx, slog.LevelWarn, "a figure for the metrics is missing", slog.String("figure", what), slog.String(plat.LogError, err.Error()))
		}
		return err == nil
	}
	if c, err := g.src.capacity(ctx); got("capacity", err) {
		gauge(g.vcpus, float64(c.Total.MilliCPU)/1000)
		gauge(g.vcpusUsed, float64(c.Used.MilliCPU)/1000)
		gauge(g.memory, float64(c.Total.Memory))
		gauge(g.memoryUsed, float64(c.Used.Memory))
		gauge(g.gpus, float64(c.Total.GPUs))
		gauge(g.gpusUsed, float64(c.Used.GPUs))
	}
	if n, err := g.src.jobs(ctx); got("jobs", err) {
		for _, s := range []train.Status{train.Pending, train.Active} {
			gauge(g.jobs, float64(n[s]), string(s))
		}
	}
	if n, err := g.src.services(ctx); got("services", err) {
		for s := range deploy.Transitions() {
			gauge(g.services, float64(n[s]), string(s))
		}
	}
	if n, err := g.src.logBytes(ctx); got("log store", err) {
		gauge(g.logBytes, float64(n))
	}
	if u, err := g.src.lake(ctx); got("lake", err) {
		gauge(g.lakeFiles, float64(u.Files))
		gauge(g.lakeBytes, float64(u.Bytes))
	}
	return append(all, prometheus.MustNewConstMetric(g.failed, prometheus.CounterValue, g.failures))
}
