// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"slices"
	"strings"

	"panal/internal/plat"
)

// Status is the state of a service. The spelling is the wire's.
type Status string

// States of a service (compute.md §6.2).
const (
	InProgress Status = "IN_PROGRESS"
	Ready      Status = "READY"
	Failed     Status = "FAILED"
	Stopped    Status = "STOPPED"
)

// Transitions is the state machine: the states that each state may become.
//
//   - IN_PROGRESS → READY when all minimum instances are healthy; → FAILED on a
//     start-up error or crash loop; → STOPPED by stop.
//   - READY → IN_PROGRESS by a patch, or while it is short of instances; →
//     STOPPED by stop.
//   - FAILED and STOPPED → IN_PROGRESS by start (a patch restarts only FAILED);
//     FAILED → STOPPED by stop, which ends what still answers of an older
//     generation.
func Transitions() map[Status][]Status {
	return map[Status][]Status{
		InProgress: {Ready, Failed, Stopped},
		Ready:      {InProgress, Stopped},
		Failed:     {InProgress, Stopped},
		Stopped:    {InProgress},
	}
}

// CanBecome tells whether the state machine has the transition. Staying is not one.
func (s Status) CanBecome(next Status) bool { return slices.Contains(Transitions()[s], next) }

// CheckChange returns ErrConflict unless old may become next, or is it. Every
// store calls it on the record it is about to replace.
func CheckChange(id plat.ServiceID, old, next Status) error {
	if old == next || old.CanBecome(next) {
		return nil
	}
	return plat.Errorf(plat.ErrConflict, "service %s is %s and can't become %s", id, old, next)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
