// SPDX-License-Identifier: Apache-2.0

// Package authz is the one authorisation table: operation × role → allow. Every
// API operation names its row; a test walks the API and fails on one that does
// not. The cells follow data.md §3 and compute.md §13.3.
package authz

import (
	"slices"

	"panal/internal/authn"
	"panal/internal/plat"
)

// Op names an operation: a row of the table.
type Op string

// Target is what a request wants to touch, as far as its path tells. Container
// tokens are held to their own scope by it.
type Target struct {
	Org         plat.OrgID
	Workload    plat.WorkloadID
	Definition  plat.JobDefinitionID
	Version     int
	Job         plat.JobID
	Model       plat.ModelID
	Deployment  plat.DeploymentID
	CodeVersion plat.VersionID
	Service     plat.ServiceID
	Channel     plat.ChannelID
	User        plat.UserID
}

// Reach is what a container token may do with an operation.
type Reach int

// Reaches.
const (
	Never      Reach = iota // no container
	InOrg                   // any container of the organization (data)
	OwnWork                 // the container's own workload, job, definition, deployment or model
	OwnWorkEnd              // as OwnWork, and also for an hour after the workload ended (results, logs)
)

// Operators says what the operator of the installation, an admin of the first
// organization, may do with an operation (ADR 0009).
type Operators int

// What operators may.
const (
	LikeOthers     Operators = iota // nothing more than others: its own organization
	AnyOrg                          // also in any other organization
	OnlyByOperator                  // and nobody else may
)

// Row is one line of the table.
type Row struct {
	Roles     []authn.Role
	Container Reach
	// Self: also every user for itself.
	Self bool
	// Datasource: also a datasource, in the channels that it is linked to (data.md §2).
	Datasource bool
	Operators  Operators
}

// Operates tells whether id runs the installation.
func Operates(id authn.Identity) bool {
	return id.Operator && id.Kind == authn.KindUser && id.Role == authn.RoleAdmin
}

// ReachesAll tells whether id may do op in whatever organization.
func ReachesAll(id authn.Identity, op Op) bool {
	return Operates(id) && table()[op].Operators != LikeOthers
}

// Survives tells whether an operation by a container goes on while its organization
// is suspended: what is its workload's own, so that nothing that ran is lost.
func Survives(id authn.Identity, op Op) bool {
	reach := table()[op].Container
	return id.Kind == authn.KindContainer && (reach == OwnWork || reach == OwnWorkEnd)
}

// Check returns nil when id may do op on t: ErrForbidden otherwise. An op
// without a row is a bug and is refused.
func Check(id authn.Identity, op Op, t Target) error {
	row, ok := table()[op]
	if !ok {
		return plat.Errorf(plat.ErrForbidden, "operation %s has no row in the authorisation table", op)
	}
	switch {
	case ReachesAll(id, op):
		return nil
	case row.Operators == OnlyByOperator:
		return plat.Errorf(plat.ErrForbidden, "only an operator of this installation, an admin of its first organization, may do this (%s)", op)
	}
	if t.Org != "" && t.Org != id.Org {
		return plat.Errorf(plat.ErrForbidden, "these credentials belong to another organization")
	}
	switch id.Kind {
	case authn.KindUser:
		if slices.Contains(row.Roles, id.Role) || row.Self && t.User != "" && t.User == id.User {
			return nil
		}
		return plat.Errorf(plat.ErrForbidden, "the role %q may not do this (%s)", id.Role, op)
	case authn.KindContainer:
		if containerMay(row.Container, id, t) {
			return nil
		}
		if id.Ended && row.Container != Never {
			return plat.Errorf(plat.ErrForbidden, "the workload of this token has ended; its token is good for results and logs only")
		}
		return plat.Errorf(plat.ErrForbidden, "a container's token may not do this (%s)", op)
	case authn.KindDatasource:
		if !row.Datasource {
			return plat.Errorf(plat.ErrForbidden, "a datasource may not do this (%s)", op)
		}
		if _, linked := slices.BinarySearch(id.Channels, t.Channel); linked && t.Channel != "" {
			return nil
		}
		return plat.Errorf(plat.ErrForbidden, "this datasource is not linked to the channel")
	}
	return plat.Errorf(plat.ErrForbidden, "unknown kind of identity %q", id.Kind)
}

func containerMay(reach Reach, id authn.Identity, t Target) bool {
	switch reach {
	case Never:
		return false
	case InOrg:
		return !id.Ended
	case OwnWork:
		return !id.Ended && within(id.Scope, t)
	case OwnWorkEnd:
		return within(id.Scope, t)
	}
	return false
}

// within tells whether everything that t names is the scope's own, and that t
// names at least one thing.
func within(s authn.Scope, t Target) bool {
	named := false
	own := func(want, have string) bool {
		if want == "" {
			return true
		}
		named = true
		return want == have
	}
	ok := own(string(t.Workload), string(s.Workload)) &&
		own(string(t.Job), string(s.Job)) &&
		own(string(t.Deployment), string(s.Deployment)) &&
		own(string(t.CodeVersion), string(s.CodeVersion)) &&
		own(string(t.Service), string(s.Service))
	if !ok {
		return false
	}
	if t.Version != 0 {
		if named = true; t.Version != s.Version {
			return false
		}
	}
	if t.Model != "" { // a service may read its models, which live under another definition
		return slices.Contains(s.Models, t.Model)
	}
	if t.Definition != "" {
		named = true
		return string(t.Definition) == string(s.Definition) || string(t.Definition) == s.DefinitionName
	}
	return named
}
