// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"panal/internal/plat"
)

const (
	// MaxChanges is how many lines of an alias' history are kept.
	MaxChanges = 10_000
	// MaxParts is how many services may share an endpoint's requests.
	MaxParts = 10
	// SplitTotal is what the weights of a split add up to.
	SplitTotal = 100
)

// Part is a service's share of an endpoint's requests.
type Part struct {
	Service plat.ServiceID `json:"service_id"`
	Weight  int            `json:"weight"` // percent
}

// ChangeKind tells what was done to an endpoint. The spelling is the wire's.
type ChangeKind string

// Changes of an endpoint.
const (
	Created    ChangeKind = "created"
	Switched   ChangeKind = "switched"
	Splitted   ChangeKind = "split"
	RolledBack ChangeKind = "rolled_back"
	Deleted    ChangeKind = "deleted"
)

// Change is one line of an alias' history: from when on which services answered.
type Change struct {
	Number   int64 // 1, 2, … of the alias in its deployment; the store gives it
	Endpoint plat.EndpointID
	Kind     ChangeKind
	From, To plat.ServiceID // Endpoint.Service before and after; From is empty for the first
	Split    []Part         // Endpoint.Split after it
	By       plat.UserID
	At       time.Time
}

// Settle decides what becomes of a pending switch now that its target is as s
// says. It returns the history line to write (nil when the endpoint does not
// move) and whether the endpoint changed.
func (e *Endpoint) Settle(s Service, at time.Time) (*Change, bool) {
	if e.Pending != s.ID {
		return nil, false
	}
	switch s.Status {
	case Ready:
		return e.point(Switched, s.ID, nil, e.PendingBy, at), true
	case Failed, Stopped:
		e.StatusMessage = fmt.Sprintf("the switch to %s did not happen: it is %s; %s goes on answering", s.ID, s.Status, e.Service)
		if why := firstLine(s.StatusMessage); why != "" {
			e.StatusMessage += ". Reason: " + why
		}
		e.Pending, e.PendingBy, e.ModifiedAt = "", "", at
		return nil, true
	case InProgress:
	}
	return nil, false
}

// aim points e to target now, or once target is READY.
func (e *Endpoint) aim(current, target Service, by plat.UserID, at time.Time) *Change {
	switch {
	case target.ID == e.Service && len(e.Split) == 0:
		e.stay(at)
		return nil
	case target.Answering() || len(e.Split) == 0 && (current.Status == Failed || current.Status == Stopped):
		return e.point(Switched, target.ID, nil, by, at)
	}
	e.Pending, e.PendingBy, e.ModifiedAt = target.ID, by, at
	e.StatusMessage = fmt.Sprintf("switches to %s when it is %s; until then %s answers", target.ID, Ready, e.Service)
	return nil
}

// stay takes a pending switch back.
func (e *Endpoint) stay(at time.Time) {
	e.Pending, e.PendingBy, e.StatusMessage, e.ModifiedAt = "", "", "", at
}

// point makes the endpoint answer from a service, or from those of a split.
func (e *Endpoint) point(kind ChangeKind, to plat.ServiceID, split []Part, by plat.UserID, at time.Time) *Change {
	c := &Change{Endpoint: e.ID, Kind: kind, From: e.Service, To: to, Split: split, By: by, At: at}
	e.Service, e.Split, e.Pending, e.PendingBy, e.StatusMessage, e.ModifiedAt = to, split, "", "", "", at
	return c
}

// parts is what the change made the endpoint answer from.
func (c Change) parts() []Part {
	if len(c.Split) == 0 {
		return []Part{{c.To, SplitTotal}}
	}
	return c.Split
}

// largest returns the service with the largest share, the first of several.
func largest(parts []Part) plat.ServiceID {
	return slices.MaxFunc(parts, func(a, b Part) int { return cmp.Compare(a.Weight, b.Weight) }).Service
}

func partServices(parts []Part) []plat.ServiceID {
	ids := make([]plat.ServiceID, len(parts))
	for i, p := range parts {
		ids[i] = p.Service
	}
	return ids
}

// checkParts returns ErrInvalid unless parts share all requests.
func checkParts(parts []Part) error {
	if len(parts) == 0 || len(parts) > MaxParts {
		return plat.InvalidField("split", "must name 1 to %d services", MaxParts)
	}
	total := 0
	for i, p := range parts {
		switch {
		case p.Service == "":
			return plat.InvalidField("split", "service_id is required in each part")
		case p.Weight < 1 || p.Weight > SplitTotal:
			return plat.InvalidField("split", "the weight of %.60s must be 1 to %d; leave a service without requests out", p.Service, SplitTotal)
		case slices.ContainsFunc(parts[:i], func(q Part) bool { return q.Service == p.Service }):
			return plat.InvalidField("split", "names %.60s twice", p.Service)
		}
		total += p.Weight
	}
	if total != SplitTotal {
		return plat.InvalidField("split", "weights must add up to %d, not %d", SplitTotal, total)
	}
	return nil
}
