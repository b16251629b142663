// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"net/http"

	"panal/internal/authn"
	"panal/internal/authz"
	"panal/internal/org"
	"panal/internal/plat"
)

// Organization is the wire's organization (data.md §3.1), with what is ours.
type Organization struct {
	ID           string `json:"id" example:"1580000000123"`
	Name         string `json:"name" example:"acme-vision"`
	State        string `json:"state" doc:"active, suspended or deleting"`
	StorageQuota int64  `json:"storage_quota_bytes" doc:"bytes that its files may take; 0 is no limit"`
	CreatedAt    string `json:"created_at"`
	UpdatedAt    string `json:"updated_at"`
}

func organizationWire(o org.Organization) *Organization {
	return &Organization{
		ID: string(o.ID), Name: o.Name, State: string(o.State), StorageQuota: o.Quota,
		CreatedAt: o.CreatedAt.Format(plat.TimeSecZ), UpdatedAt: o.UpdatedAt.Format(plat.TimeSecZ),
	}
}

// OrganizationsAnswer is a page of organizations.
type OrganizationsAnswer struct {
	Organizations []*Organization `json:"organizations"`
	Limit         int             `json:"limit"`
	Offset        int             `json:"offset"`
	HasNext       bool            `json:"has_next"`
}

// NewOrganization is what an organization is made of.
type NewOrganization struct {
	Name         string `json:"name" required:"true" doc:"1 to 63 of a-z, 0-9 and -"`
	AdminEmail   string `json:"admin_email" doc:"of the first admin; default admin@<name>.localdomain"`
	AdminName    string `json:"admin_display_name"`
	StorageQuota int64  `json:"storage_quota_bytes" doc:"0 (default) is no limit"`
}

// FoundedOrganization is a new organization with its first admin. The token is
// shown only here.
type FoundedOrganization struct {
	*Organization
	Admin *OrgUser `json:"admin"`
	Token string   `json:"personal_access_token" doc:"of the admin; it can't be read again"`
}

// OrganizationChange is what a PATCH changes; what is absent or null stays.
type OrganizationChange struct {
	Name         *string `json:"name" nullable:"true"`
	StorageQuota *int64  `json:"storage_quota_bytes" nullable:"true" doc:"0 is no limit"`
}

// OrganizationUsage is what an organization holds.
type OrganizationUsage struct {
	OrganizationID string `json:"organization_id"`
	Files          int64  `json:"files"`
	Bytes          int64  `json:"bytes" doc:"of the files; the quota is about these"`
	StorageQuota   int64  `json:"storage_quota_bytes"`
	Jobs           int64  `json:"jobs"`
	Services       int64  `json:"services"`
	LogBytes       int64  `json:"log_bytes" doc:"of packed log lines; the last moments' are not counted"`
	Users          int64  `json:"users"`
}

// orgPath is the path parameter of nearly every operation.
type orgPath struct {
	Org string `path:"organization_id" doc:"organization id or name"`
}

// standing looks up the caller's organization: whether it is served, and whether it
// is the operator's.
func (a *API) standing(ctx context.Context, id authn.Identity, op authz.Op) (authn.Identity, error) {
	o, err := a.Orgs.Standing(ctx, id.Org)
	switch {
	case errors.Is(err, plat.ErrNotFound): // its tokens go with it, a moment later
		return id, plat.Errorf(plat.ErrForbidden, "the organization of these credentials was deleted")
	case err != nil:
		return id, err
	}
	id.Operator = o.Operator
	if err := o.Served(); err != nil && !authz.Survives(id, op) {
		return id, err
	}
	return id, nil
}

// blobStanding holds a signed URL to the organization that its key names: it works
// while that is served.
func (a *API) blobStanding(ctx context.Context, id plat.OrgID) error {
	switch o, err := a.Orgs.Standing(ctx, id); {
	case errors.Is(err, plat.ErrNotFound):
		return nil // a key that names none
	case err != nil:
		return err
	default:
		return o.Served()
	}
}

func (a *API) addOrganization() {
	const base, one = "/organizations", "/organizations/{organization_id}"
	op := func(id, method, path, summary string, row authz.Op) operation {
		return operation{ID: id, Method: method, Path: path, Summary: summary, Tag: "organization", Family: familyLake, Op: row}
	}
	// found returns the organization of the path: an operator's calls name others.
	found := a.Orgs.Get
	answer := func(o org.Organization, err error) (*Organization, error) {
		if err != nil {
			return nil, err
		}
		return organizationWire(o), nil
	}

	register(a, op("get-organization", http.MethodGet, one, "Get an organization", authz.OrgRead), func(ctx context.Context, in *orgPath) (*Organization, error) {
		return answer(found(ctx, in.Org))
	})

	type createIn struct{ Body *NewOrganization }
	register(a, op("create-organization", http.MethodPost, base, "Create an organization with its first admin (operators only)", authz.OrgManage), func(ctx context.Context, in *createIn) (*FoundedOrganization, error) {
		if in.Body == nil {
			return nil, plat.InvalidField("name", "is required")
		}
		b := in.Body
		f, err := a.Orgs.Found(ctx, b.Name, b.AdminEmail, b.AdminName, b.StorageQuota)
		if err != nil {
			return nil, err
		}
		touched(ctx, "organization_id", string(f.Organization.ID))
		touched(ctx, "user_id", string(f.Admin.ID))
		admin, err := a.users(ctx).whole(f.Admin.ID)
		return &FoundedOrganization{Organization: organizationWire(f.Organization), Admin: admin, Token: f.Token}, err
	})

	type listIn struct {
		Limit  string `query:"limit" doc:"1 to 1000, default 50"`
		Offset string `query:"offset"`
	}
	register(a, op("list-organizations", http.MethodGet, base, "List organizations, oldest first (operators only)", authz.OrgManage), func(ctx context.Context, in *listIn) (*OrganizationsAnswer, error) {
		limit, err := a.pageSize("limit", in.Limit, 50)
		if err != nil {
			return nil, err
		}
		offset, err := pageOffset(in.Offset)
		if err != nil {
			return nil, err
		}
		all, err := a.Orgs.List(ctx)
		if err != nil {
			return nil, err
		}
		out := &OrganizationsAnswer{Organizations: []*Organization{}, Limit: limit, Offset: offset, HasNext: len(all)-limit > offset}
		all = all[min(offset, len(all)):]
		for _, o := range all[:min(limit, len(all))] {
			out.Organizations = append(out.Organizations, organizationWire(o))
		}
		return out, nil
	})

	type patchIn struct {
		OrgPath
		Body *OrganizationChange
	}
	register(a, op("update-organization", http.MethodPatch, one, "Change an organization's name or storage quota (operators only)", authz.OrgManage), func(ctx context.Context, in *patchIn) (*Organization, error) {
		o, err := found(ctx, in.Org)
		if err != nil || in.Body == nil {
			return answer(o, err)
		}
		return answer(a.Orgs.Change(ctx, o.ID, org.Edit{Name: in.Body.Name, Quota: in.Body.StorageQuota}))
	})

	type deleteIn struct {
		OrgPath
		Confirm string `query:"confirm" doc:"the organization's name"`
	}
	register(a, op("delete-organization", http.MethodDelete, one, "Delete a suspended organization with everything of it (operators only): its state is deleting until nothing is left, then it is 404", authz.OrgManage), func(ctx context.Context, in *deleteIn) (*Organization, error) {
		o, err := found(ctx, in.Org)
		if err != nil {
			return nil, err
		}
		return answer(a.Orgs.Delete(ctx, o.ID, in.Confirm))
	})

	for verb, do := range map[string]func(*org.Service, context.Context, plat.OrgID) (org.Organization, error){
		"suspend": (*org.Service).Suspend, "resume": (*org.Service).Resume,
	} {
		register(a, op(verb+"-organization", http.MethodPost, one+"/"+verb, "Suspend or resume an organization (operators only): while suspended its requests are 403, and nothing of it is lost", authz.OrgManage),
			func(ctx context.Context, in *orgPath) (*Organization, error) {
				o, err := found(ctx, in.Org)
				if err != nil {
					return nil, err
				}
				return answer(do(a.Orgs, ctx, o.ID))
			})
	}

	register(a, op("get-organization-usage", http.MethodGet, one+"/usage", "Tell what an organization holds (its admins, and operators)", authz.OrgUsage), func(ctx context.Context, in *orgPath) (*OrganizationUsage, error) {
		o, err := found(ctx, in.Org)
		if err != nil {
			return nil, err
		}
		return a.usage(ctx, o)
	})
}

func (a *API) usage(ctx context.Context, o org.Organization) (*OrganizationUsage, error) {
	u := &OrganizationUsage{OrganizationID: string(o.ID), StorageQuota: o.Quota}
	files, err := a.Lake.OrgUsage(ctx, o.ID)
	if err != nil {
		return nil, err
	}
	u.Files, u.Bytes = files.Files, files.Bytes
	for _, c := range []struct {
		to    *int64
		count func(context.Context, plat.OrgID) (int64, error)
	}{
		{&u.Jobs, a.Train.CountJobs}, {&u.Services, a.Deploy.CountServices}, {&u.LogBytes, a.Logs.OrgBytes}, {&u.Users, a.Orgs.CountUsers},
	} {
		if *c.to, err = c.count(ctx, o.ID); err != nil {
			return nil, err
		}
	}
	return u, nil
}
