// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"panal/internal/client"
)

// TestScaleToZeroSavesInstances replays the same short trace against two services
// with real processes, one that sleeps and one that does not, and prints the
// instance-seconds of both. Every call is answered.
func TestScaleToZeroSavesInstances(t *testing.T) {
	p := startPlatform(t, "--scale-window", "3s")
	code := map[string]string{"main.py": "import time\ndef handler(request, context):\n    time.sleep(0.05)\n    return {'content': 'ok'}\n"}
	type served struct {
		dep, id string
	}
	var all [2]served
	for i, change := range []map[string]any{{"enable_autoscale": false}, {"min_instance_number": 0, "max_instance_number": 2, "idle_timeout": 2}} {
		all[i].dep, all[i].id = p.service(code, 1)
		path := p.api.OrgPath("deployments", all[i].dep, "services", all[i].id)
		p.call(http.MethodPatch, path, change)
		p.until("READY", time.Minute, func() bool { return p.call(http.MethodGet, path, nil)["status"] == "READY" })
	}
	ctx, stop := context.WithCancel(context.Background())
	var look, calls sync.WaitGroup
	began := time.Now()
	var seconds [2]float64
	look.Go(func() {
		last := began
		for ctx.Err() == nil {
			time.Sleep(100 * time.Millisecond)
			now := time.Now()
			for i := range all {
				list, err := p.api.Instances(context.Background(), all[i].dep, all[i].id)
				if err != nil {
					t.Error(err)
				}
				seconds[i] += float64(len(list)) * now.Sub(last).Seconds()
			}
			last = now
		}
	})
	for _, phase := range []struct {
		calls int
		quiet time.Duration
	}{{20, 10 * time.Second}, {40, 10 * time.Second}} {
		for _, s := range all {
			for range phase.calls {
				calls.Go(func() {
					res, err := p.api.Do(context.Background(), client.Request{
						Method: http.MethodGet, Path: client.Path("deployments", s.dep, "services", s.id),
					})
					if err != nil {
						t.Errorf("%s: %v", s.id, err)
						return
					}
					_ = res.Body.Close()
				})
			}
		}
		calls.Wait()
		time.Sleep(phase.quiet)
	}
	took := time.Since(began)
	stop()
	look.Wait()
	t.Logf("%.0f s: %.1f instance-seconds always on, %.1f with scale to zero", took.Seconds(), seconds[0], seconds[1])
	if seconds[1] >= 0.8*seconds[0] {
		t.Errorf("scale to zero took %.1f instance-seconds, always on %.1f", seconds[1], seconds[0])
	}
}
