// SPDX-License-Identifier: Apache-2.0

package service

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"panal/internal/deploy"
)

// replay lets a day of testdata/day.csv pass for a service, and returns the
// instance-seconds, and how many seconds calls waited on the average.
func replay(t *testing.T, s deploy.Service, autoscale bool) (instances, wait float64) {
	t.Helper()
	f, err := os.Open("testdata/day.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	m := newMachine(s)
	m.s.Autoscale = autoscale
	m.up = nil
	for range m.s.Goal() {
		m.up = append(m.up, &simulated{readyAt: t0})
	}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		var start, length, each int
		var rate float64
		if _, err := fmt.Sscanf(lines.Text(), "%d,%d,%g,%d", &start, &length, &rate, &each); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		m.run(time.Duration(start)*time.Second-m.now.Sub(t0), 0, 0)
		m.run(time.Duration(length)*time.Second, rate, time.Duration(each)*time.Millisecond)
	}
	m.run(24*time.Hour-m.now.Sub(t0), 0, 0)
	if m.load.InFlight != 0 {
		t.Errorf("%d calls were never answered", m.load.InFlight)
	}
	return m.instance, m.waited / float64(m.load.Arrivals)
}

// TestTrace prints what scaling saves on a (made-up) day of calls.
func TestTrace(t *testing.T) {
	fixed, fixedWait := replay(t, deploy.Service{Number: 8, Desired: 8, Min: 8, Max: 8}, false)
	one, oneWait := replay(t, deploy.Service{Number: 1, Desired: 1, Min: 1, Max: 8}, true)
	zero, zeroWait := replay(t, deploy.Service{Number: 1, Desired: 1, Min: 0, Max: 8}, true)
	t.Logf("instance-seconds of a day: 8 always %.0f (calls wait %.3f s), 1 to 8 %.0f (%.3f s), 0 to 8 %.0f (%.3f s)",
		fixed, fixedWait, one, oneWait, zero, zeroWait)
	if one > fixed/3 || zero > one/2 {
		t.Errorf("instance-seconds: %.0f fixed, %.0f from 1, %.0f from 0", fixed, one, zero)
	}
	if zeroWait > 0.5 {
		t.Errorf("calls wait %.3f s on the average", zeroWait)
	}
}
