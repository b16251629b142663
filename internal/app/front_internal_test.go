// SPDX-License-Identifier: Apache-2.0

package app

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"panal/internal/x/httpx/httpxtest"
)

// TestProbesTakeNoBodies: a body of a probe that never comes does not hold its connection.
func TestProbesTakeNoBodies(t *testing.T) {
	for _, path := range []string{"/livez", "/metrics"} {
		synctest.Test(t, func(t *testing.T) {
			h := (&App{metrics: prometheus.NewRegistry()}).front(http.NotFoundHandler())
			ours, end := httpxtest.Serve(h)
			defer end()
			_, _ = io.WriteString(ours, "GET "+path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
			start := time.Now()
			all, err := io.ReadAll(ours)
			if took := time.Since(start); !strings.HasPrefix(string(all), "HTTP/1.1 200 ") || err != nil || took > time.Minute {
				t.Errorf("GET %s after %s: %.60q, %v", path, took, all, err)
			}
		})
	}
}
