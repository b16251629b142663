// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the proxy's figures. Their number is fixed: no label names a
// service, an organization or an instance.
type metrics struct {
	calls    [len(classes)]prometheus.Counter
	duration prometheus.Histogram
	retries  prometheus.Counter
	limited  [len(limited)]prometheus.Counter
}

// classes of outcomes. "gone": the caller left before an answer began. "cut": the
// answer began and could not be finished.
var classes = [...]string{"2xx", "3xx", "4xx", "5xx", "gone", "cut"} //nolint:gochecknoglobals // a constant: Go has no constant arrays

const (
	class5xx  = 3
	classGone = 4
	classCut  = 5
)

func newMetrics(reg prometheus.Registerer, t *Table) *metrics {
	m := &metrics{
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "panal_gateway_call_duration_seconds",
			Help:    "Time from the arrival of an inference call to the end of its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "panal_gateway_retries_total",
			Help: "Calls sent again because an instance could not be reached or died.",
		}),
	}
	calls := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "panal_gateway_calls_total",
		Help: "Inference calls by the class of their outcome.",
	}, []string{"class"})
	for i, c := range classes {
		m.calls[i] = calls.WithLabelValues(c)
	}
	over := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "panal_gateway_limited_total",
		Help: "Inference calls refused with 429, by the limit that they were over.",
	}, []string{"limit"})
	for i, c := range limited {
		m.limited[i] = over.WithLabelValues(c)
	}
	if reg != nil {
		reg.MustRegister(m.duration, m.retries, calls, over,
			gauge("panal_gateway_outstanding", "Inference calls under way on an instance.", t.outstanding.Load),
			gauge("panal_gateway_held", "Inference calls that wait for an instance.", t.held.Load),
			gauge("panal_gateway_held_bytes", "Memory held by inference calls that wait.", t.heldBytes.Load),
			gauge("panal_gateway_spooled_bytes", "Disk taken by bodies of calls that wait for an instance.", t.spooled.Load),
			gauge("panal_gateway_split_parts_idle", "Parts of split endpoints without a ready instance, whose share others get.", t.splitIdle),
			prometheus.NewCounterFunc(prometheus.CounterOpts{
				Name: "panal_gateway_ejections_total", Help: "Times that an instance was left out for a while because it gave no answers.",
			}, func() float64 { return float64(t.ejections.Load()) }),
			gauge("panal_gateway_route_version", "Version of the routes in use.", func() int64 { return int64(t.Version()) }),
		)
	}
	return m
}

// recordings registers what is recorded of calls.
func (m *metrics) recordings(reg prometheus.Registerer, r *recorder) {
	if reg != nil {
		reg.MustRegister(gauge("panal_gateway_recording_bytes", "Memory held by inputs and outputs that are being recorded.", r.bytes.Load),
			prometheus.NewCounterFunc(prometheus.CounterOpts{
				Name: "panal_gateway_recordings_lost_total", Help: "Calls that should have been recorded: there was no room, or they could not be stored.",
			}, func() float64 { return float64(r.dropped.Load() + r.failed.Load()) }))
	}
}

// tunnels registers the number of upgraded calls under way.
func (m *metrics) tunnels(reg prometheus.Registerer, read func() int64) {
	if reg != nil {
		reg.MustRegister(gauge("panal_gateway_tunnels", "Upgraded calls (WebSocket) under way.", read))
	}
}

func gauge(name, help string, read func() int64) prometheus.GaugeFunc {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(read()) })
}

func (m *metrics) done(class int, took time.Duration) {
	m.calls[class].Inc()
	m.duration.Observe(took.Seconds())
}

// classOf maps a status to its class.
func classOf(status int) int { return min(max(status/100-2, 0), 3) }
