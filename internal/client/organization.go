// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// Organization is a tenant of the installation.
type Organization struct {
	ID           string `json:"id"`
	Name         string `json:"name"`
	State        string `json:"state"`
	StorageQuota int64  `json:"storage_quota_bytes"`
	CreatedAt    string `json:"created_at"`
	UpdatedAt    string `json:"updated_at"`
}

// NewOrganization is what an organization is made of; only the name is needed.
type NewOrganization struct {
	Name         string `json:"name"`
	AdminEmail   string `json:"admin_email,omitempty"`
	AdminName    string `json:"admin_display_name,omitempty"`
	StorageQuota int64  `json:"storage_quota_bytes,omitempty"`
}

// FoundedOrganization is a new organization with its first admin, whose token is
// seen only here.
type FoundedOrganization struct {
	Organization
	Admin struct {
		ID    string `json:"id"`
		Email string `json:"email"`
	} `json:"admin"`
	Token string `json:"personal_access_token"`
}

// OrganizationUsage is what an organization holds.
type OrganizationUsage struct {
	OrganizationID string `json:"organization_id"`
	Files          int64  `json:"files"`
	Bytes          int64  `json:"bytes"`
	StorageQuota   int64  `json:"storage_quota_bytes"`
	Jobs           int64  `json:"jobs"`
	Services       int64  `json:"services"`
	LogBytes       int64  `json:"log_bytes"`
	Users          int64  `json:"users"`
}

// CreateOrganization makes an organization with its first admin.
func (c *Client) CreateOrganization(ctx context.Context, in NewOrganization) (FoundedOrganization, error) {
	var out FoundedOrganization
	err := c.JSON(ctx, http.MethodPost, "/organizations", nil, in, &out)
	return out, err
}

// Organizations returns all organizations, oldest first.
func (c *Client) Organizations(ctx context.Context) ([]Organization, error) {
	const limit = 1000
	all := []Organization{}
	for {
		q := url.Values{"limit": {strconv.Itoa(limit)}, "offset": {strconv.Itoa(len(all))}}
		var page struct {
			Organizations []Organization `json:"organizations"`
			HasNext       bool           `json:"has_next"`
		}
		if err := c.JSON(ctx, http.MethodGet, "/organizations", q, nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Organizations...)
		if !page.HasNext || len(page.Organizations) == 0 {
			return all, nil
		}
	}
}

func (c *Client) organization(ctx context.Context, method, org, verb string, q url.Values, in any) (Organization, error) {
	segments := []string{"organizations", org}
	if verb != "" {
		segments = append(segments, verb)
	}
	var out Organization
	err := c.JSON(ctx, method, Path(segments...), q, in, &out)
	return out, err
}

// Organization returns one organization.
func (c *Client) Organization(ctx context.Context, org string) (Organization, error) {
	return c.organization(ctx, http.MethodGet, org, "", nil, nil)
}

// SetQuota changes how many bytes an organization's files may take; 0 is no limit.
func (c *Client) SetQuota(ctx context.Context, org string, bytes int64) (Organization, error) {
	return c.organization(ctx, http.MethodPatch, org, "", nil, map[string]int64{"storage_quota_bytes": bytes})
}

// SuspendOrganization stops serving an organization.
func (c *Client) SuspendOrganization(ctx context.Context, org string) (Organization, error) {
	return c.organization(ctx, http.MethodPost, org, "suspend", nil, nil)
}

// ResumeOrganization serves a suspended organization again.
func (c *Client) ResumeOrganization(ctx context.Context, org string) (Organization, error) {
	return c.organization(ctx, http.MethodPost, org, "resume", nil, nil)
}

// DeleteOrganization begins to delete a suspended organization with everything of
// it; confirm is its name.
func (c *Client) DeleteOrganization(ctx context.Context, org, confirm string) (Organization, error) {
	return c.organization(ctx, http.MethodDelete, org, "", url.Values{"confirm": {confirm}}, nil)
}

// OrganizationUsage tells what an organization holds.
func (c *Client) OrganizationUsage(ctx context.Context, org string) (OrganizationUsage, error) {
	var out OrganizationUsage
	err := c.JSON(ctx, http.MethodGet, Path("organizations", org, "usage"), nil, nil, &out)
	return out, err
}
