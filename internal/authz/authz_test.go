// SPDX-License-Identifier: Apache-2.0

package authz_test

import (
	"errors"
	"strings"
	"testing"

	"panal/internal/authn"
	"panal/internal/authz"
	"panal/internal/plat"
)

// TestRoles holds every row to data.md §3: reading is for everyone in the
// organization, changing is not for regular members, and no row is empty.
func TestRoles(t *testing.T) {
	for op, row := range authz.Table() {
		if len(row.Roles) == 0 && row.Container == authz.Never && row.Operators != authz.OnlyByOperator {
			t.Errorf("%s: nobody may do it", op)
		}
		for _, role := range []authn.Role{authn.RoleAdmin, authn.RoleDeveloper, authn.RoleRegular, "owner", ""} {
			err := authz.Check(authn.Identity{Kind: authn.KindUser, Org: "o", Role: role}, op, authz.Target{Org: "o"})
			read := strings.HasSuffix(string(op), ".read") || op == authz.Infer || op == authz.NotBuilt || op == authz.SourceDownload
			admin := strings.HasSuffix(string(op), ".admin") || op == authz.OrgUsage || op == authz.AuditList
			want := len(row.Roles) > 0 && (role == authn.RoleAdmin || role == authn.RoleDeveloper && !admin || role == authn.RoleRegular && read)
			if (err == nil) != want {
				t.Errorf("%s by %q = %v, want allowed %v", op, role, err, want)
			}
		}
	}
}

func TestOtherOrganizationIsForbiddenToEveryone(t *testing.T) {
	for op := range authz.Table() {
		for _, id := range []authn.Identity{
			{Kind: authn.KindUser, Org: "o", Role: authn.RoleAdmin},
			{Kind: authn.KindContainer, Org: "o", Scope: authn.Scope{Job: "j"}},
			{Kind: authn.KindDatasource, Org: "o", Channels: []plat.ChannelID{"c"}},
			{Kind: authn.KindUser, Org: "o", User: "u", Role: authn.RoleRegular},
		} {
			if err := authz.Check(id, op, authz.Target{Org: "other", Job: "j", Channel: "c", User: "u"}); !errors.Is(err, plat.ErrForbidden) {
				t.Errorf("%s in another organization by a %s = %v", op, id.Kind, err)
			}
		}
	}
}

// TestOperators: what an operator may is what its row says, an admin of another
// organization is none, and neither is anybody else of the operator's.
func TestOperators(t *testing.T) {
	for op, row := range authz.Table() {
		for _, role := range []authn.Role{authn.RoleAdmin, authn.RoleDeveloper, authn.RoleRegular} {
			id := authn.Identity{Kind: authn.KindUser, Org: "first", Role: role, Operator: true}
			err := authz.Check(id, op, authz.Target{Org: "other"})
			if want := row.Operators != authz.LikeOthers && role == authn.RoleAdmin; (err == nil) != want {
				t.Errorf("%s in another organization by the operator's %s = %v", op, role, err)
			}
			id.Operator = false
			if row.Operators == authz.OnlyByOperator {
				if err := authz.Check(id, op, authz.Target{Org: "first"}); !errors.Is(err, plat.ErrForbidden) {
					t.Errorf("%s by the %s of an organization = %v", op, role, err)
				}
			}
		}
		id := authn.Identity{Kind: authn.KindContainer, Org: "first", Role: authn.RoleAdmin, Operator: true, Scope: authn.Scope{Job: "j"}}
		if err := authz.Check(id, op, authz.Target{Org: "other", Job: "j"}); err == nil {
			t.Errorf("%s in another organization by the operator's container", op)
		}
	}
}

func TestUnknownOperationIsForbidden(t *testing.T) {
	if err := authz.Check(authn.Identity{Kind: authn.KindUser, Role: authn.RoleAdmin}, "nonsense", authz.Target{}); !errors.Is(err, plat.ErrForbidden) {
		t.Errorf("= %v", err)
	}
}

func TestContainers(t *testing.T) {
	job := authn.Scope{Workload: "wl-1", Definition: "d1", DefinitionName: "leaf", Version: 2, Job: "j1"}
	svc := authn.Scope{Workload: "wl-2", Deployment: "p1", CodeVersion: "ver-1", Service: "ser-1", Models: []plat.ModelID{"m1"}}
	for _, c := range []struct {
		what  string
		scope authn.Scope
		ended bool
		op    authz.Op
		t     authz.Target
		want  bool
	}{
		{"own job", job, false, authz.JobRead, authz.Target{Definition: "d1", Job: "j1"}, true},
		{"own job, definition by name", job, false, authz.JobRead, authz.Target{Definition: "leaf", Job: "j1"}, true},
		{"other job", job, false, authz.JobRead, authz.Target{Definition: "d1", Job: "j2"}, false},
		{"own job under another definition", job, false, authz.JobRead, authz.Target{Definition: "d2", Job: "j1"}, false},
		{"own source", job, false, authz.SourceDownload, authz.Target{Definition: "d1", Version: 2}, true},
		{"other version's source", job, false, authz.SourceDownload, authz.Target{Definition: "d1", Version: 3}, false},
		{"own statistics", job, false, authz.JobReport, authz.Target{Definition: "d1", Job: "j1"}, true},
		{"own statistics after the end", job, true, authz.JobReport, authz.Target{Definition: "d1", Job: "j1"}, false},
		{"own result after the end", job, true, authz.JobResultWrite, authz.Target{Definition: "d1", Job: "j1"}, true},
		{"own logs after the end", job, true, authz.LogIngest, authz.Target{Workload: "wl-1"}, true},
		{"other logs", job, false, authz.LogIngest, authz.Target{Workload: "wl-2"}, false},
		{"dataset", job, false, authz.DatasetRead, authz.Target{}, true},
		{"dataset after the end", job, true, authz.DatasetRead, authz.Target{}, false},
		{"upload", job, false, authz.FileUpload, authz.Target{}, true},
		{"delete a file", job, false, authz.FileDelete, authz.Target{}, false},
		{"register a model", job, false, authz.ModelCreate, authz.Target{Definition: "d1"}, true},
		{"start a job", job, false, authz.JobCreate, authz.Target{Definition: "d1", Version: 2}, false},
		{"nothing named", job, false, authz.JobRead, authz.Target{}, false},
		{"own code", svc, false, authz.CodeDownload, authz.Target{Deployment: "p1", CodeVersion: "ver-1"}, true},
		{"other code", svc, false, authz.CodeDownload, authz.Target{Deployment: "p1", CodeVersion: "ver-2"}, false},
		{"own model", svc, false, authz.ModelDownload, authz.Target{Definition: "d9", Model: "m1"}, true},
		{"other model", svc, false, authz.ModelDownload, authz.Target{Definition: "d9", Model: "m2"}, false},
		{"create a service", svc, false, authz.ServiceCreate, authz.Target{Deployment: "p1"}, false},
		{"call inference", svc, false, authz.Infer, authz.Target{Deployment: "p1"}, false},
		{"read all logs", svc, false, authz.LogRead, authz.Target{Service: "ser-1"}, false},
	} {
		err := authz.Check(authn.Identity{Kind: authn.KindContainer, Org: "o", Scope: c.scope, Ended: c.ended}, c.op, c.t)
		if (err == nil) != c.want {
			t.Errorf("%s = %v, want allowed %v", c.what, err, c.want)
		}
	}
}

// TestDatasources holds the datasource's column to data.md §2: uploads to and reads of
// files in linked channels, and nothing else.
func TestDatasources(t *testing.T) {
	id := authn.Identity{Kind: authn.KindDatasource, Org: "o", Datasource: "d", Channels: []plat.ChannelID{"1", "3"}}
	for op := range authz.Table() {
		for channel, linked := range map[plat.ChannelID]bool{"1": true, "2": false, "3": true, "4": false, "": false} {
			err := authz.Check(id, op, authz.Target{Channel: channel})
			want := linked && (op == authz.FileUpload || op == authz.FileRead)
			if (err == nil) != want || err != nil && !errors.Is(err, plat.ErrForbidden) {
				t.Errorf("%s in channel %q by a datasource = %v, want allowed %v", op, channel, err, want)
			}
		}
	}
	id.Channels = nil
	if err := authz.Check(id, authz.FileRead, authz.Target{}); err == nil {
		t.Error("a datasource without links reads where no channel is named")
	}
}

// TestSelf: a user manages its own tokens, an admin everybody's.
func TestSelf(t *testing.T) {
	for _, c := range []struct {
		id   authn.Identity
		user plat.UserID
		want bool
	}{
		{authn.Identity{Kind: authn.KindUser, User: "u", Role: authn.RoleRegular}, "u", true},
		{authn.Identity{Kind: authn.KindUser, User: "u", Role: authn.RoleDeveloper}, "v", false},
		{authn.Identity{Kind: authn.KindUser, User: "u", Role: authn.RoleAdmin}, "v", true},
		{authn.Identity{Kind: authn.KindContainer, User: "u"}, "u", false},
		{authn.Identity{Kind: authn.KindDatasource}, "", false},
		{authn.Identity{Kind: authn.KindUser}, "", false},
	} {
		if err := authz.Check(c.id, authz.TokenAdmin, authz.Target{User: c.user}); (err == nil) != c.want {
			t.Errorf("%+v on %s's tokens = %v, want allowed %v", c.id, c.user, err, c.want)
		}
	}
}
