// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Names of operations that stand in no document: not an operation at all, and one
// that this version has not built.
const (
	operationNone     = "none"
	operationNotBuilt = "not-built"
)

// answerClasses are the classes of a request's outcome. "none": nothing was
// answered (the caller left, or the connection was taken over).
var answerClasses = [...]string{"2xx", "3xx", "4xx", "5xx", "none"} //nolint:gochecknoglobals // a constant: Go has no constant arrays

// metrics are the API's figures. Their number is bounded by the operations that
// there are: no label is taken from a request.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	received *prometheus.CounterVec
	sent     *prometheus.CounterVec
	none     *operationMetrics
}

// operationMetrics are the figures of one operation, looked up once instead of
// with each request. What never happens has no series.
type operationMetrics struct {
	all            *metrics
	id             string
	bytes          sync.Once
	received, sent prometheus.Counter
	class          [len(answerClasses)]struct {
		once     sync.Once
		requests prometheus.Counter
		duration prometheus.Observer
	}
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		requests: counter("panal_api_requests_total", "Requests by operation and class of their answer; the operation none is no path of the API.", "operation", "class"),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "panal_api_request_duration_seconds",
			Help:    "Time from the arrival of a request to the end of its answer, by operation and class of the answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60, 300},
		}, []string{"operation", "class"}),
		received: counter("panal_api_received_bytes_total", "Bytes of request bodies, by operation; counted when the request ends.", "operation"),
		sent:     counter("panal_api_sent_bytes_total", "Bytes of answers' bodies, by operation; counted when the request ends.", "operation"),
	}
	m.none = m.operation(operationNone)
	if reg != nil {
		reg.MustRegister(m.requests, m.duration, m.received, m.sent)
	}
	return m
}

func (m *metrics) operation(id string) *operationMetrics {
	return &operationMetrics{all: m, id: id}
}

// took says on which operation a request's figures count.
func (o *operationMetrics) took(ctx context.Context) {
	if info := infoOf(ctx); info != nil {
		info.operation = o
	}
}

// counting makes a handler count as the operation id.
func (m *metrics) counting(id string, next http.HandlerFunc) http.HandlerFunc {
	o := m.operation(id)
	return func(w http.ResponseWriter, r *http.Request) {
		o.took(r.Context())
		next(w, r)
	}
}

// done counts a request. status is 0 when nothing was answered.
func (o *operationMetrics) done(status int, took time.Duration, received, sent int64) {
	i := len(answerClasses) - 1
	if status != 0 {
		i = min(max(status/100-2, 0), i-1)
	}
	c := &o.class[i]
	c.once.Do(func() {
		c.requests = o.all.requests.WithLabelValues(o.id, answerClasses[i])
		c.duration = o.all.duration.WithLabelValues(o.id, answerClasses[i])
	})
	c.requests.Inc()
	if status != http.StatusSwitchingProtocols { // how long a tunnel stood says nothing of how fast it was answered
		c.duration.Observe(took.Seconds())
	}
	o.bytes.Do(func() {
		o.received, o.sent = o.all.received.WithLabelValues(o.id), o.all.sent.WithLabelValues(o.id)
	})
	o.received.Add(float64(received))
	o.sent.Add(float64(sent))
}

// countedBody counts what is read of a request's body. A proxy may read on in the
// background, hence the atomic.
type countedBody struct {
	io.ReadCloser
	n atomic.Int64
}

// Read implements io.Reader.
func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}
