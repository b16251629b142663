// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"

	"panal/internal/authz"
	"panal/internal/plat"
)

// Organization is the wire's organization (data.md §3.1).
type Organization struct {
	ID        string `json:"id" example:"1580000000123"`
	Name      string `json:"name" example:"acme-vision"`
	CreatedAt string `json:"created_at"`
	UpdatedAt string `json:"updated_at"`
}

// orgPath is the path parameter of nearly every operation.
type orgPath struct {
	Org string `path:"organization_id" doc:"organization id or name"`
}

func (a *API) addOrganization() {
	register(a, operation{
		ID: "get-organization", Method: http.MethodGet, Path: "/organizations/{organization_id}",
		Summary: "Get an organization", Tag: "organization", Family: familyLake, Op: authz.OrgRead,
	}, func(ctx context.Context, _ *orgPath) (*Organization, error) {
		o, err := a.Orgs.Get(ctx, string(caller(ctx).Org))
		if err != nil {
			return nil, err
		}
		return &Organization{
			ID: string(o.ID), Name: o.Name,
			CreatedAt: o.CreatedAt.Format(plat.TimeSecZ), UpdatedAt: o.UpdatedAt.Format(plat.TimeSecZ),
		}, nil
	})
}
