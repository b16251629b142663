// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"
	"time"
)

// TestJudge: a command that gives no sign of life is out of the way after two probe
// intervals. While it has requests it is only suspect: it may be at work on them.
func TestJudge(t *testing.T) {
	for what, tt := range map[string]struct {
		bad             int
		silent          bool
		alive           time.Duration // ago
		inflight, later int
		want            condition
	}{
		"one bad answer":     {bad: 1, alive: time.Hour, want: well},
		"two":                {bad: 2, alive: 3 * time.Second, want: sick},
		"two, with requests": {bad: 2, alive: 3 * time.Second, inflight: 1, want: suspect},
		"two, with requests, answers all the time":            {bad: 2, inflight: 1, want: suspect},
		"silence, not long enough":                            {bad: 2, silent: true, alive: silenceLimit - time.Second, want: well},
		"silent probes, answers all the time":                 {bad: 9, silent: true, inflight: 7, want: well},
		"silence":                                             {bad: 2, silent: true, alive: silenceLimit, want: sick},
		"silence, with a request":                             {bad: 2, silent: true, alive: silenceLimit, inflight: 1, want: suspect},
		"silence for long, with a request":                    {bad: 9, silent: true, alive: busyLimit, inflight: 1, want: sick},
		"silence for long, at work on what is answered later": {bad: 9, silent: true, alive: time.Hour, later: 1, want: suspect},
		"silence for long, with both":                         {bad: 9, silent: true, alive: time.Hour, inflight: 3, later: 1, want: suspect},
	} {
		c := &command{alive: time.Now().Add(-tt.alive), inflight: tt.inflight, later: tt.later}
		if got := c.judge(tt.bad, tt.silent); got != tt.want {
			t.Errorf("%s: %v, want %v", what, got, tt.want)
		}
	}
}
