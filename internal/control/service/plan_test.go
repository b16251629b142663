// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"panal/internal/deploy"
	"panal/internal/plat"
)

var t0 = time.UnixMicro(1_770_000_000_000_000).UTC()

// inst writes an instance as "name:generation:age:state" where state is h (healthy),
// s (sick, was healthy once) or n (not ready yet).
func inst(t *testing.T, text string) view {
	t.Helper()
	var name, state string
	var gen int64
	var age int
	parts := strings.Split(text, ":")
	name, state = parts[0], parts[3]
	if _, err := fmt.Sscan(parts[1]+" "+parts[2], &gen, &age); err != nil {
		t.Fatal(err)
	}
	v := view{Instance: deploy.Instance{Workload: plat.WorkloadID(name), Generation: gen, State: deploy.InstanceUp, CreatedAt: t0.Add(-time.Duration(age) * time.Second)}}
	if state != "n" {
		v.ReadyAt = v.CreatedAt
	}
	v.healthy = state == "h"
	return v
}

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		what   string
		status deploy.Status
		number int
		least  int
		retry  time.Duration
		up     string
		drain  string
		start  int
		ready  bool
	}{
		{"nothing yet: start all", deploy.InProgress, 2, 2, 0, "", "", 2, false},
		{"back-off", deploy.InProgress, 2, 2, time.Second, "", "", 0, false},
		{"starting", deploy.InProgress, 2, 2, 0, "a:2:1:n b:2:1:n", "", 0, false},
		{"all healthy", deploy.InProgress, 2, 2, 0, "a:2:1:h b:2:1:h", "", 0, true},
		{"the minimum is enough for READY", deploy.InProgress, 3, 1, 0, "a:2:1:h", "", 2, true},
		{"one died", deploy.Ready, 2, 2, 0, "a:2:9:h", "", 1, false},
		{"one is sick: it is not replaced here", deploy.Ready, 2, 2, 0, "a:2:9:h b:2:9:s", "", 0, false},
		{"fewer wanted: the youngest leaves", deploy.Ready, 1, 1, 0, "a:2:9:h b:2:5:h", "b", 0, true},
		{"fewer wanted: the sick leaves first", deploy.Ready, 1, 1, 0, "a:2:9:s b:2:5:h", "a", 0, true},
		{"roll: one more than wanted, the old stay", deploy.InProgress, 2, 2, 0, "a:1:9:h b:1:9:h", "", 1, false},
		{"roll: wait for it", deploy.InProgress, 2, 2, 0, "a:1:9:h b:1:8:h c:2:1:n", "", 0, false},
		{"roll: one for one", deploy.InProgress, 2, 2, 0, "a:1:9:h b:1:8:h c:2:1:h", "b", 1, false},
		{"roll: the last old one leaves", deploy.InProgress, 2, 2, 0, "a:1:9:h c:2:2:h d:2:1:h", "a", 0, true},
		{"roll: old ones that never answered are no capacity", deploy.InProgress, 2, 2, 0, "a:1:9:n b:1:9:n", "a b", 2, false},
		{"roll after a failure keeps the old while backing off", deploy.InProgress, 2, 2, time.Second, "a:1:9:h b:1:9:h", "", 0, false},
		{"stopped: all leave", deploy.Stopped, 2, 2, 0, "a:1:9:h b:2:9:h c:2:1:n", "a b c", 0, false},
		{"failed: the old that answer stay", deploy.Failed, 2, 2, 0, "a:1:9:h b:1:9:s c:2:1:h d:2:1:n", "b c d", 0, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := deploy.Service{Status: c.status, Number: c.number, Min: c.least, Generation: 2, RetryAt: t0.Add(c.retry)}
			var up []view
			for text := range strings.FieldsSeq(c.up) {
				up = append(up, inst(t, text))
			}
			d := decide(s, up, t0)
			var drain []string
			for _, id := range d.drain {
				drain = append(drain, string(id))
			}
			slices.Sort(drain)
			got := fmt.Sprintf("drain %v start %d ready %v", drain, d.start, d.ready)
			if want := fmt.Sprintf("drain %v start %d ready %v", strings.Fields(c.drain), c.start, c.ready); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

// TestRollKeepsCapacity plays rolls with instances that become healthy and die at
// random: what answers never gets fewer by our own doing than what is wanted.
func TestRollKeepsCapacity(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		number := rapid.IntRange(1, 5).Draw(r, "number")
		s := deploy.Service{Status: deploy.InProgress, Number: number, Min: number, Generation: 2}
		var up []view
		for i := range number {
			up = append(up, view{Instance: deploy.Instance{Workload: plat.WorkloadID(fmt.Sprint("old", i)), Generation: 1, ReadyAt: t0, CreatedAt: t0}, healthy: true})
		}
		healthy := func() (n int) {
			for _, v := range up {
				if v.healthy {
					n++
				}
			}
			return n
		}
		for n := range 200 {
			before := healthy()
			d := decide(s, up, t0.Add(time.Hour))
			up = slices.DeleteFunc(up, func(v view) bool { return slices.Contains(d.drain, v.Workload) })
			if after := healthy(); after < min(before, number) {
				r.Fatalf("%d answered, %d wanted, and the decision left %d", before, number, after)
			}
			if d.ready && len(up) == number {
				return
			}
			for i := range d.start {
				up = append(up, view{Instance: deploy.Instance{Workload: plat.WorkloadID(fmt.Sprint("new", n, ".", i)), Generation: 2, CreatedAt: t0.Add(time.Duration(n) * time.Second)}})
			}
			if len(up) > 2*number {
				r.Fatalf("%d instances for %d wanted", len(up), number)
			}
			for i := range up {
				if up[i].Generation == 2 && !up[i].healthy && rapid.Bool().Draw(r, "becomes healthy") {
					up[i].healthy, up[i].ReadyAt = true, t0
				}
			}
			if len(up) > 0 && rapid.IntRange(0, 9).Draw(r, "one dies") == 0 {
				up = slices.Delete(up, 0, 1)
			}
		}
		r.Fatalf("the roll does not end: %v", up)
	})
}

func TestFail(t *testing.T) {
	s := deploy.Service{Status: deploy.InProgress, Generation: 1}
	now := t0
	die := func(created, ready time.Time, reason string) {
		fail(&s, deploy.Instance{Generation: 1, CreatedAt: created, ReadyAt: ready}, reason, now)
	}
	die(t0.Add(-2*time.Second), time.Time{}, "boom")
	die(t0.Add(-time.Second), time.Time{}, "boom") // of the same round
	if s.Failures != 1 || s.Status != deploy.InProgress || s.RetryAt.Sub(now) != firstBackoff {
		t.Fatalf("after one round: %+v", s)
	}
	now = now.Add(time.Minute)
	die(now.Add(-time.Second), time.Time{}, "boom")
	now = now.Add(time.Minute)
	die(now.Add(-time.Second), time.Time{}, "ImportError\nTraceback\n  boom")
	if s.Failures != 3 || s.Status != deploy.Failed || !strings.Contains(s.StatusMessage, "Traceback\n  boom") {
		t.Fatalf("after three rounds: %+v", s)
	}

	s = deploy.Service{Status: deploy.Ready, Generation: 1, ReadyGeneration: 1}
	last := time.Duration(0)
	for n := range 20 { // a crash loop of a service that was READY
		now = now.Add(time.Hour)
		die(now.Add(-time.Second), now, "boom")
		if s.Status == deploy.Failed {
			t.Fatalf("FAILED after %d", n)
		}
		if wait := s.RetryAt.Sub(now); wait < last || wait > deploy.MaxBackoff {
			t.Fatalf("back-off %s after %s", wait, last)
		} else {
			last = wait
		}
	}
	if last != deploy.MaxBackoff {
		t.Errorf("back-off ends at %s", last)
	}
	die(now.Add(time.Second), now.Add(-2*stableAfter), "boom") // that one had been stable
	if s.Failures != 1 {
		t.Errorf("failures = %d after a stable instance's end", s.Failures)
	}
	before := s
	fail(&s, deploy.Instance{Generation: 0, CreatedAt: now.Add(time.Hour)}, "old", now)
	if d := cmp.Diff(before, s); d != "" {
		t.Errorf("an old generation's end changed the service:\n%s", d)
	}
}

// TestBackoffUnderClockLeaps: a clock that is set back neither holds the next instance up
// nor lets a crash loop run without a pause, or for ever.
func TestBackoffUnderClockLeaps(t *testing.T) {
	s := deploy.Service{Status: deploy.InProgress, Generation: 1, Number: 1, Min: 1, Max: 1}
	now := t0
	starts := func() bool { return decide(s, nil, now).start == 1 }
	die := func() {
		fail(&s, deploy.Instance{Generation: 1, CreatedAt: now.Add(-time.Second)}, "boom", now)
	}
	die()
	if starts() {
		t.Error("it starts without a pause")
	}
	now = now.Add(-5 * time.Hour)
	if !starts() {
		t.Error("a clock set back holds the next instance up")
	}
	die()
	if s.Failures != 2 || starts() {
		t.Errorf("after a second failure, with the clock set back: %d failures, starts: %t", s.Failures, starts())
	}
	now = now.Add(48 * time.Hour)
	if !starts() {
		t.Error("a clock set forward holds the next instance up")
	}
	now = now.Add(-72 * time.Hour)
	if die(); s.Status != deploy.Failed {
		t.Errorf("after three failures it is %s", s.Status)
	}
}

func TestMessage(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		got := message(string(rapid.SliceOf(rapid.Byte()).Draw(r, "bytes")) + strings.Repeat("é\n", rapid.IntRange(0, 20_000).Draw(r, "n")) + "ValueError: the end")
		if len(got) > maxMessage || strings.ContainsRune(got, 0) || strings.ToValidUTF8(got, "") != got {
			t.Fatalf("bad message of %d bytes", len(got))
		}
		if !strings.HasSuffix(got, "ValueError: the end") {
			t.Fatalf("the end is lost: …%q", got[max(0, len(got)-30):])
		}
	})
}
