// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"panal/internal/deploy"
	"panal/internal/plat"
)

// view is an instance that is meant to be up, as it is now.
type view struct {
	deploy.Instance
	healthy bool
	problem string // why it is not, as it says
}

// decision is what a service needs next.
type decision struct {
	drain []plat.WorkloadID
	start int
	ready bool // all minimum instances of the current generation are healthy
	now   int  // healthy instances of the current generation
	older int  // instances of older generations that were ready once
}

// decide compares a service with its instances (those that are up). It keeps
// capacity: an instance of an older generation leaves only once a healthy one of
// the current generation takes its place, and while there are older ones the
// current ones start one at a time.
func decide(s deploy.Service, up []view, now time.Time) decision {
	var d decision
	var current, older []view
	for _, v := range up {
		switch {
		case v.Generation == s.Generation:
			current = append(current, v)
		case v.ReadyAt.IsZero(): // it never was capacity, and won't be
			d.drain = append(d.drain, v.Workload)
		default:
			older = append(older, v)
		}
	}
	leave := func(vs []view, keep int) {
		slices.SortStableFunc(vs, func(a, b view) int { // the healthy and the old stay
			if a.healthy != b.healthy {
				if a.healthy {
					return -1
				}
				return 1
			}
			return a.CreatedAt.Compare(b.CreatedAt)
		})
		for _, v := range vs[min(max(keep, 0), len(vs)):] {
			d.drain = append(d.drain, v.Workload)
		}
	}
	healthy := func(vs []view) (n int) {
		for _, v := range vs {
			if v.healthy {
				n++
			}
		}
		return n
	}
	d.now, d.older = healthy(current), len(older)
	switch s.Status {
	case deploy.Stopped:
		leave(current, 0)
		leave(older, 0)
		return d
	case deploy.Failed: // what still answers of the last good generation goes on
		leave(current, 0)
		leave(older, min(healthy(older), s.Goal()))
		return d
	case deploy.InProgress, deploy.Ready:
	}
	d.ready = d.now >= s.Wanted()
	goal := s.Goal()
	leave(current, goal)
	leave(older, goal-d.now)
	if missing := goal - len(current); missing > 0 && s.BacksOff(now) == 0 {
		d.start = missing
		if len(older) > 0 {
			d.start = min(missing, max(0, 1-(len(current)-d.now)))
		}
	}
	return d
}

// Limits of the restarts.
const (
	// maxStartFailures is how many rounds of instances in a row may fail before a
	// generation that was never READY is FAILED.
	maxStartFailures = 3
	firstBackoff     = 500 * time.Millisecond
	// stableAfter is how long an instance must have answered for its failure to
	// count as the first again.
	stableAfter = time.Minute
)

func backoff(failures int) time.Duration {
	return min(firstBackoff<<min(max(failures-1, 0), 16), deploy.MaxBackoff)
}

// fail notes that an instance of the service ended, and decides what follows. A
// service that was READY is restarted for ever, ever more slowly; one that never
// was is FAILED after a few rounds. Instances that were started before the last
// failure are of the same round and don't count again, so the same end may also
// be noted twice.
func fail(s *deploy.Service, i deploy.Instance, reason string, now time.Time) {
	if s.Status == deploy.Stopped || s.Status == deploy.Failed || i.Generation != s.Generation {
		return
	}
	if i.CreatedAt.After(s.LastFailure) || s.LastFailure.After(now) { // the clock was set back since
		if !i.ReadyAt.IsZero() && now.Sub(i.ReadyAt) >= stableAfter {
			s.Failures = 0
		}
		s.Failures++
		s.LastFailure, s.RetryAt = now, now.Add(backoff(s.Failures))
	}
	if !s.Rolled() && s.Failures >= maxStartFailures {
		s.Status = deploy.Failed
		s.StatusMessage = message(fmt.Sprintf("its instances failed to start %d times in a row: %s", s.Failures, reason))
	} else {
		s.StatusMessage = message(fmt.Sprintf("an instance ended, the next one starts in %s (failures in a row: %d): %s",
			s.RetryAt.Sub(s.LastFailure), s.Failures, reason))
	}
	s.ModifiedAt = now
}

// maxMessage bounds a status message.
const maxMessage = 16 << 10

// message makes user code's words fit to be stored: no NUL, no broken UTF-8, and
// of a long text the first line and the end, where a traceback says what it is.
func message(s string) string {
	s = strings.TrimSpace(strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD"))
	if len(s) <= maxMessage {
		return s
	}
	head, rest, _ := strings.Cut(s, "\n")
	if len(head) > maxMessage/4 {
		head, rest = strings.ToValidUTF8(head[:maxMessage/4], ""), s
	}
	tail := rest[max(0, len(rest)-maxMessage/2):]
	for len(tail) > 0 && !utf8.RuneStart(tail[0]) {
		tail = tail[1:]
	}
	return head + "\n…\n" + tail
}
