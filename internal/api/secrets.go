// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"panal/internal/api/compat"
	"panal/internal/authz"
	"panal/internal/plat"
	"panal/internal/secret"
)

// secretProvider is what the original calls its store; known clients show it.
const secretProvider = "aws-secret-manager"

// Secret is the wire's secret (data.md §18).
type Secret struct {
	ID             string          `json:"id" example:"7700000000111"`
	OrganizationID string          `json:"organization_id"`
	UserID         string          `json:"user_id" doc:"who created it"`
	Name           string          `json:"name"`
	Description    *string         `json:"description"`
	ExpiredAt      *string         `json:"expired_at" doc:"past it the versions are inactive and give out no value"`
	Properties     *string         `json:"properties" doc:"always null"`
	Provider       string          `json:"provider"`
	Rotation       bool            `json:"rotation" doc:"always false"`
	Integration    *string         `json:"integration_service_type"`
	IntegrationIDs []string        `json:"integration_service_ids" nullable:"true"`
	CreatedAt      string          `json:"created_at"`
	UpdatedAt      string          `json:"updated_at"`
	Versions       []SecretVersion `json:"versions"`
}

// SecretVersion is the wire's version of a secret (data.md §19).
type SecretVersion struct {
	ID             string  `json:"id" example:"7710000000321"`
	OrganizationID string  `json:"organization_id"`
	SecretID       string  `json:"secret_id"`
	Version        int     `json:"version"`
	Status         string  `json:"status" doc:"active or inactive"`
	Value          *string `json:"value,omitempty" doc:"base64; only on request, of active versions, and not for the role regular"`
	Provider       string  `json:"provider"`
	CreatedAt      string  `json:"created_at"`
	UpdatedAt      string  `json:"updated_at"`
}

// SecretsAnswer is a page of secrets.
type SecretsAnswer struct {
	OrganizationID string   `json:"organization_id"`
	Secrets        []Secret `json:"secrets"`
	Offset         int      `json:"offset"`
	Limit          int      `json:"limit"`
	HasNext        bool     `json:"has_next"`
}

// VersionsAnswer is a page of versions. The paging stands in it twice: one client
// reads it nested, another flat.
type VersionsAnswer struct {
	Versions   []SecretVersion `json:"versions"`
	Pagination struct {
		Count   int  `json:"count"`
		HasNext bool `json:"has_next"`
		Limit   int  `json:"limit"`
		Offset  int  `json:"offset"`
	} `json:"pagination"`
	HasNext bool `json:"has_next"`
	Offset  int  `json:"offset"`
	Limit   int  `json:"limit"`
	Total   int  `json:"total"`
}

// NewSecret is what a secret is made of.
type NewSecret struct {
	Name           string     `json:"name"`
	Value          string     `json:"value" doc:"base64 of UTF-8 text"`
	Description    *string    `json:"description" nullable:"true"`
	ExpiredAt      compat.Any `json:"expired_at" doc:"time, or null"`
	Integration    *string    `json:"integration_service_type" nullable:"true"`
	IntegrationIDs compat.Any `json:"integration_service_ids" doc:"array, comma-joined text, or null"`
}

// SecretChange is what a PATCH changes; what is absent stays, null takes away.
type SecretChange struct {
	Description    compat.Any `json:"description"`
	ExpiredAt      compat.Any `json:"expired_at"`
	Integration    compat.Any `json:"integration_service_type"`
	IntegrationIDs compat.Any `json:"integration_service_ids" doc:"array, comma-joined text, or null"`
}

// given tells whether a value is there and not null.
func given(raw compat.Any) bool { return len(raw) > 0 && string(raw) != "null" }

func textField(field string, raw compat.Any) (string, error) {
	var s string
	if given(raw) && json.Unmarshal(raw, &s) != nil {
		return "", plat.InvalidField(field, "must be a string or null")
	}
	return s, nil
}

func expiryField(raw compat.Any) (time.Time, error) {
	s, err := textField("expired_at", raw)
	if err != nil || s == "" {
		return time.Time{}, err
	}
	t, err := plat.ParseTime(s)
	if err != nil {
		return time.Time{}, plat.InvalidField("expired_at", "%q is not a time; write it like 2026-01-02T15:04:05+09:00", s)
	}
	return t, nil
}

// idsField reads an array, or the comma-joined text that the original CLI's update
// sends (data.md §18).
func idsField(raw compat.Any) ([]string, error) {
	if !given(raw) {
		return nil, nil
	}
	var ids []string
	if json.Unmarshal(raw, &ids) == nil {
		return ids, nil
	}
	var joined string
	if json.Unmarshal(raw, &joined) != nil {
		return nil, plat.InvalidField("integration_service_ids", "must be an array of strings, or one string with commas")
	}
	for id := range strings.SplitSeq(joined, ",") {
		if id = strings.TrimSpace(id); id != "" {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// ReturnValue is the query parameter that asks for values. Clients send "True".
type ReturnValue struct {
	Return compat.Bool `query:"return_secret_value" doc:"true: with the values"`
}

// mayOpen tells whether the caller gets values at all.
func mayOpen(ctx context.Context) bool {
	id := caller(ctx)
	return authz.Check(id, authz.SecretValue, authz.Target{Org: id.Org}) == nil
}

func (a *API) secretWire(ctx context.Context, s secret.Secret, values bool) (*Secret, error) {
	out := &Secret{
		ID: string(s.ID), OrganizationID: string(s.Org), UserID: string(s.Creator), Name: s.Name, Description: s.Description,
		Provider: secretProvider, Integration: orNull(s.Integration), IntegrationIDs: s.IntegrationIDs,
		CreatedAt: s.CreatedAt.Format(plat.TimeMicroZ), UpdatedAt: s.UpdatedAt.Format(plat.TimeMicroZ), Versions: make([]SecretVersion, len(s.Versions)),
	}
	if !s.ExpiresAt.IsZero() {
		out.ExpiredAt = orNull(s.ExpiresAt.Format(plat.TimeMicroZ))
	}
	for i, v := range s.Versions {
		wire, err := a.secretVersionWire(ctx, s, v, values)
		if err != nil {
			return nil, err
		}
		out.Versions[i] = *wire
	}
	return out, nil
}

func (a *API) secretVersionWire(ctx context.Context, s secret.Secret, v secret.Version, values bool) (*SecretVersion, error) {
	out := &SecretVersion{
		ID: string(v.ID), OrganizationID: string(v.Org), SecretID: string(v.Secret), Version: v.Number, Status: "inactive", Provider: secretProvider,
		CreatedAt: v.CreatedAt.Format(plat.TimeMicroZ), UpdatedAt: v.UpdatedAt.Format(plat.TimeMicroZ),
	}
	if !v.Active || s.Expired(a.Now()) {
		return out, nil
	}
	out.Status = "active"
	if !values || !mayOpen(ctx) {
		return out, nil
	}
	value, err := a.Secrets.Value(s, v)
	if err != nil {
		return nil, err
	}
	out.Value = &value
	return out, nil
}

// SecretPath is the path parameters of everything below a secret.
type SecretPath struct {
	OrgPath
	Secret string `path:"secret_id"`
}

func (p SecretPath) id() plat.SecretID { return plat.SecretID(p.Secret) }

// SecretVersionPath is the path parameters of one version.
type SecretVersionPath struct {
	SecretPath
	Version string `path:"secret_version_id"`
}

func (p SecretVersionPath) version() plat.SecretVersionID { return plat.SecretVersionID(p.Version) }

// secretPage reads offset and limit (data.md §18: 1 to 100, anything else is an error).
func secretPage(offset, limit string) (o, l int, err error) {
	if o, err = pageOffset(offset); err != nil {
		return 0, 0, err
	}
	if l, err = pageSize("limit", limit, 50); err != nil || l > secret.MaxPage {
		return 0, 0, plat.InvalidField("limit", "must be 1 to %d", secret.MaxPage)
	}
	return o, l, nil
}

func (a *API) addSecrets() {
	const base = "/secret-manager/organizations/{organization_id}/secrets"
	const one = base + "/{secret_id}"
	op := func(id, method, path, summary string, row authz.Op) operation {
		return operation{ID: id, Method: method, Path: path, Summary: summary, Tag: "secret", Family: familyLake, Op: row}
	}

	type listIn struct {
		OrgPath
		ReturnValue
		Offset string `query:"offset"`
		Limit  string `query:"limit" doc:"1 to 100, default 50"`
	}
	register(a, op("list-secrets", http.MethodGet, base, "List secrets", authz.SecretRead), func(ctx context.Context, in *listIn) (*SecretsAnswer, error) {
		offset, limit, err := secretPage(in.Offset, in.Limit)
		if err != nil {
			return nil, err
		}
		org := caller(ctx).Org
		all, more, err := a.Secrets.List(ctx, org, offset, limit)
		if err != nil {
			return nil, err
		}
		out := &SecretsAnswer{OrganizationID: string(org), Secrets: make([]Secret, len(all)), Offset: offset, Limit: limit, HasNext: more}
		for i, s := range all {
			wire, err := a.secretWire(ctx, s, bool(in.Return))
			if err != nil {
				return nil, err
			}
			out.Secrets[i] = *wire
		}
		return out, nil
	})

	type createIn struct {
		OrgPath
		Body *NewSecret
	}
	register(a, op("create-secret", http.MethodPost, base, "Create a secret with its first version", authz.SecretWrite), func(ctx context.Context, in *createIn) (*Secret, error) {
		if in.Body == nil {
			return nil, plat.InvalidField("name", "name and value are required")
		}
		expires, err := expiryField(in.Body.ExpiredAt)
		if err != nil {
			return nil, err
		}
		ids, err := idsField(in.Body.IntegrationIDs)
		if err != nil {
			return nil, err
		}
		n := secret.New{Name: in.Body.Name, Value: in.Body.Value, Description: in.Body.Description, ExpiresAt: expires, IntegrationIDs: ids}
		if in.Body.Integration != nil {
			n.Integration = *in.Body.Integration
		}
		s, err := a.Secrets.Create(ctx, caller(ctx).Org, caller(ctx).User, n)
		if err != nil {
			return nil, err
		}
		touched(ctx, "secret_id", string(s.ID))
		return a.secretWire(ctx, s, true)
	})

	type getIn struct {
		SecretPath
		ReturnValue
	}
	register(a, op("get-secret", http.MethodGet, one, "Get a secret", authz.SecretRead), func(ctx context.Context, in *getIn) (*Secret, error) {
		s, err := a.Secrets.Get(ctx, caller(ctx).Org, in.id())
		if err != nil {
			return nil, err
		}
		return a.secretWire(ctx, s, bool(in.Return))
	})

	type patchIn struct {
		SecretPath
		Body *SecretChange
	}
	register(a, op("update-secret", http.MethodPatch, one, "Change a secret's description, expiry or services", authz.SecretWrite), func(ctx context.Context, in *patchIn) (*Secret, error) {
		var ch secret.Change
		if in.Body != nil {
			var err error
			if ch, err = secretChange(*in.Body); err != nil {
				return nil, err
			}
		}
		s, err := a.Secrets.Update(ctx, caller(ctx).Org, in.id(), ch)
		if err != nil {
			return nil, err
		}
		return a.secretWire(ctx, s, false)
	})

	register(a, op("delete-secret", http.MethodDelete, one, "Delete a secret with its versions", authz.SecretWrite), func(ctx context.Context, in *SecretPath) (*Message, error) {
		err := a.Secrets.Delete(ctx, caller(ctx).Org, in.id())
		return &Message{Message: "secret_id " + in.Secret + " successfully deleted"}, err
	})
	a.addSecretVersions(op, one+"/versions")
}

func secretChange(in SecretChange) (ch secret.Change, err error) {
	if len(in.Description) > 0 {
		s, err := textField("description", in.Description)
		if err != nil {
			return ch, err
		}
		d := &s
		if !given(in.Description) {
			d = nil
		}
		ch.Description = &d
	}
	if len(in.ExpiredAt) > 0 {
		t, err := expiryField(in.ExpiredAt)
		if err != nil {
			return ch, err
		}
		ch.ExpiresAt = &t
	}
	if len(in.Integration) > 0 {
		s, err := textField("integration_service_type", in.Integration)
		if err != nil {
			return ch, err
		}
		ch.Integration = &s
	}
	if len(in.IntegrationIDs) > 0 {
		ids, err := idsField(in.IntegrationIDs)
		if err != nil {
			return ch, err
		}
		ch.IntegrationIDs = &ids
	}
	return ch, nil
}

func (a *API) addSecretVersions(op func(id, method, path, summary string, row authz.Op) operation, base string) {
	const one = "/{secret_version_id}"
	type listIn struct {
		SecretPath
		ReturnValue
		Offset string `query:"offset"`
		Limit  string `query:"limit" doc:"1 to 100, default 50"`
	}
	register(a, op("list-secret-versions", http.MethodGet, base, "List a secret's versions", authz.SecretRead), func(ctx context.Context, in *listIn) (*VersionsAnswer, error) {
		offset, limit, err := secretPage(in.Offset, in.Limit)
		if err != nil {
			return nil, err
		}
		s, err := a.Secrets.Get(ctx, caller(ctx).Org, in.id())
		if err != nil {
			return nil, err
		}
		total := len(s.Versions)
		from := min(offset, total)
		s.Versions = s.Versions[from:min(from+limit, total)]
		wire, err := a.secretWire(ctx, s, bool(in.Return))
		if err != nil {
			return nil, err
		}
		out := &VersionsAnswer{Versions: wire.Versions, HasNext: from+len(s.Versions) < total, Offset: offset, Limit: limit, Total: total}
		out.Pagination.Count, out.Pagination.HasNext, out.Pagination.Limit, out.Pagination.Offset = total, out.HasNext, limit, offset
		return out, nil
	})

	type getIn struct {
		SecretVersionPath
		ReturnValue
	}
	register(a, op("get-secret-version", http.MethodGet, base+one, "Get a version of a secret", authz.SecretRead), func(ctx context.Context, in *getIn) (*SecretVersion, error) {
		s, v, err := a.Secrets.Version(ctx, caller(ctx).Org, in.id(), in.version())
		if err != nil {
			return nil, err
		}
		return a.secretVersionWire(ctx, s, v, bool(in.Return))
	})

	type createIn struct {
		SecretPath
		ReturnValue
		Body *struct {
			Value string `json:"value" doc:"base64 of UTF-8 text"`
		}
	}
	register(a, op("create-secret-version", http.MethodPost, base, "Add the next version of a secret", authz.SecretWrite), func(ctx context.Context, in *createIn) (*SecretVersion, error) {
		value := ""
		if in.Body != nil {
			value = in.Body.Value
		}
		v, err := a.Secrets.AddVersion(ctx, caller(ctx).Org, in.id(), value)
		if err != nil {
			return nil, err
		}
		touched(ctx, "secret_version_id", string(v.ID))
		s, v, err := a.Secrets.Version(ctx, caller(ctx).Org, in.id(), v.ID)
		if err != nil {
			return nil, err
		}
		return a.secretVersionWire(ctx, s, v, bool(in.Return))
	})

	type patchIn struct {
		SecretVersionPath
		Body *struct {
			Status string `json:"status" doc:"active or inactive"`
		}
	}
	register(a, op("update-secret-version", http.MethodPatch, base+one, "Make a version active or inactive", authz.SecretWrite), func(ctx context.Context, in *patchIn) (*SecretVersion, error) {
		if in.Body == nil || in.Body.Status != "active" && in.Body.Status != "inactive" {
			return nil, plat.InvalidField("status", "must be active or inactive")
		}
		if _, err := a.Secrets.SetStatus(ctx, caller(ctx).Org, in.id(), in.version(), in.Body.Status == "active"); err != nil {
			return nil, err
		}
		s, v, err := a.Secrets.Version(ctx, caller(ctx).Org, in.id(), in.version())
		if err != nil {
			return nil, err
		}
		return a.secretVersionWire(ctx, s, v, false)
	})

	register(a, op("delete-secret-version", http.MethodDelete, base+one, "Delete a version of a secret", authz.SecretWrite), func(ctx context.Context, in *SecretVersionPath) (*Message, error) {
		err := a.Secrets.DeleteVersion(ctx, caller(ctx).Org, in.id(), in.version())
		return &Message{Message: "secret_version_id " + in.Version + " successfully deleted"}, err
	})
}
