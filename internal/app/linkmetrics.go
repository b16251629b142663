// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"panal/internal/lake/link"
	"panal/internal/plat"
)

// linkGauges are the figures of all links together: no channel is named.
type linkGauges struct {
	log    *slog.Logger
	totals func(context.Context) (link.Totals, error)
	rows   []linkGauge
}

type linkGauge struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(link.Totals) float64
}

func newLinkGauges(log *slog.Logger, totals func(context.Context) (link.Totals, error)) *linkGauges {
	g := &linkGauges{log: log, totals: totals}
	add := func(kind prometheus.ValueType, name, help string, of func(link.Totals) float64) {
		g.rows = append(g.rows, linkGauge{prometheus.NewDesc("panal_"+name, help, nil, nil), kind, of})
	}
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	add(gauge, "links", "Channels linked to buckets.", func(t link.Totals) float64 { return float64(t.Links) })
	add(gauge, "link_drift", "Keys that the reconciler's last whole passes found out of step.", func(t link.Totals) float64 { return float64(t.Drift) })
	add(gauge, "feed_waiting", "Messages of feeds that wait.", func(t link.Totals) float64 { return float64(t.Waiting) })
	add(gauge, "feed_oldest_seconds", "Age of the oldest message that waits.", func(t link.Totals) float64 { return t.Oldest.Seconds() })
	add(gauge, "feed_lag_seconds", "From a message's arrival to its end, of the last batch of the slowest link.", func(t link.Totals) float64 { return t.Lag.Seconds() })
	add(gauge, "feed_batch", "Messages of the last batch of the busiest link.", func(t link.Totals) float64 { return float64(t.LastBatch) })
	add(gauge, "feed_concurrency", "Batches that may be written at a time now.", func(t link.Totals) float64 { return float64(t.Concurrency) })
	add(gauge, "feed_rate", "Messages done a second, lately.", func(t link.Totals) float64 { return t.Rate })
	add(counter, "feed_messages_total", "Messages done.", func(t link.Totals) float64 { return float64(t.Messages) })
	add(counter, "feed_batches_total", "Batches done.", func(t link.Totals) float64 { return float64(t.Batches) })
	add(counter, "feed_looks_total", "Objects looked at.", func(t link.Totals) float64 { return float64(t.Looked) })
	add(counter, "feed_changes_total", "Files that came or went by messages.", func(t link.Totals) float64 { return float64(t.Changed) })
	add(counter, "feed_dead_total", "Messages that became dead letters.", func(t link.Totals) float64 { return float64(t.Dead) })
	return g
}

// Describe implements prometheus.Collector.
func (g *linkGauges) Describe(out chan<- *prometheus.Desc) {
	for _, r := range g.rows {
		out <- r.desc
	}
}

// Collect implements prometheus.Collector. What can't be had is left out.
func (g *linkGauges) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), gaugesTimeout)
	defer cancel()
	t, err := g.totals(ctx)
	if err != nil {
		g.log.LogAttrs(ctx, slog.LevelWarn, "a figure of links can't be had", slog.String(plat.LogError, err.Error()))
		return
	}
	for _, r := range g.rows {
		out <- prometheus.MustNewConstMetric(r.desc, r.kind, r.of(t))
	}
}
