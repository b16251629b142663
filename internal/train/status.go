// SPDX-License-Identifier: Apache-2.0

package train

import (
	"slices"

	"panal/internal/plat"
)

// Status is the state of a job. The spelling is the wire's.
type Status string

// States of a job (compute.md §2.7).
const (
	Pending  Status = "Pending"
	Active   Status = "Active"
	Complete Status = "Complete"
	Failed   Status = "Failed"
	Stopped  Status = "Stopped"
)

// Transitions is the state machine: the states that each state may become. A
// state without an entry to leave by is terminal.
func Transitions() map[Status][]Status {
	return map[Status][]Status{
		Pending:  {Active, Failed, Stopped},
		Active:   {Complete, Failed, Stopped},
		Complete: nil,
		Failed:   nil,
		Stopped:  nil,
	}
}

// CanBecome tells whether the state machine has the transition. Staying is not one.
func (s Status) CanBecome(next Status) bool { return slices.Contains(Transitions()[s], next) }

// Terminal tells whether the state is final.
func (s Status) Terminal() bool {
	out, known := Transitions()[s]
	return known && len(out) == 0
}

// CheckChange returns ErrConflict unless old may become next, or is it. Every
// store calls it on the record it is about to replace.
func CheckChange(id plat.JobID, old, next Status) error {
	if old == next || old.CanBecome(next) {
		return nil
	}
	if old.Terminal() {
		return plat.Errorf(plat.ErrConflict, "training job %s is %s already; that is final", id, old)
	}
	return plat.Errorf(plat.ErrConflict, "training job %s is %s and can't become %s", id, old, next)
}
