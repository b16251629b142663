// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"strconv"
)

// Secret is a secret of the secret manager.
type Secret struct {
	ID             string          `json:"id"`
	Name           string          `json:"name"`
	Description    *string         `json:"description"`
	ExpiredAt      *string         `json:"expired_at"`
	Integration    *string         `json:"integration_service_type"`
	IntegrationIDs []string        `json:"integration_service_ids"`
	CreatedAt      string          `json:"created_at"`
	UpdatedAt      string          `json:"updated_at"`
	Versions       []SecretVersion `json:"versions"`
}

// SecretVersion is one value of a secret.
type SecretVersion struct {
	ID        string `json:"id"`
	SecretID  string `json:"secret_id"`
	Version   int    `json:"version"`
	Status    string `json:"status"`
	Value     string `json:"value,omitempty"` // base64, as on the wire
	CreatedAt string `json:"created_at"`
	UpdatedAt string `json:"updated_at"`
}

func (c *Client) secretPath(segments ...string) string {
	return Path(append([]string{"secret-manager", "organizations", c.Org, "secrets"}, segments...)...)
}

func wantValue(v bool) url.Values {
	if v {
		return url.Values{"return_secret_value": {"true"}}
	}
	return nil
}

// Secrets returns all secrets, oldest first, without values.
func (c *Client) Secrets(ctx context.Context) ([]Secret, error) {
	const limit = 100
	all := []Secret{}
	for {
		var page struct {
			Secrets []Secret `json:"secrets"`
			HasNext bool     `json:"has_next"`
		}
		q := url.Values{"limit": {strconv.Itoa(limit)}, "offset": {strconv.Itoa(len(all))}}
		if err := c.JSON(ctx, http.MethodGet, c.secretPath(), q, nil, &page); err != nil {
			return nil, err
		}
		if all = append(all, page.Secrets...); !page.HasNext || len(page.Secrets) == 0 {
			return all, nil
		}
	}
}

// Secret returns a secret, with its values if asked.
func (c *Client) Secret(ctx context.Context, id string, values bool) (Secret, error) {
	var out Secret
	err := c.JSON(ctx, http.MethodGet, c.secretPath(id), wantValue(values), nil, &out)
	return out, err
}

// CreateSecret makes a secret; fields holds what of description, expired_at and
// the integration is wanted.
func (c *Client) CreateSecret(ctx context.Context, name string, value []byte, fields map[string]any) (Secret, error) {
	in := map[string]any{"name": name, "value": base64.StdEncoding.EncodeToString(value)}
	maps.Copy(in, fields)
	var out Secret
	err := c.JSON(ctx, http.MethodPost, c.secretPath(), nil, in, &out)
	return out, err
}

// UpdateSecret changes a secret; nil values take away.
func (c *Client) UpdateSecret(ctx context.Context, id string, fields map[string]any) (Secret, error) {
	var out Secret
	err := c.JSON(ctx, http.MethodPatch, c.secretPath(id), nil, fields, &out)
	return out, err
}

// DeleteSecret removes a secret with its versions.
func (c *Client) DeleteSecret(ctx context.Context, id string) error {
	return c.JSON(ctx, http.MethodDelete, c.secretPath(id), nil, nil, nil)
}

// AddSecretVersion adds the next version.
func (c *Client) AddSecretVersion(ctx context.Context, id string, value []byte) (SecretVersion, error) {
	var out SecretVersion
	err := c.JSON(ctx, http.MethodPost, c.secretPath(id, "versions"), nil, map[string]string{"value": base64.StdEncoding.EncodeToString(value)}, &out)
	return out, err
}

// SetSecretVersion makes a version active or inactive.
func (c *Client) SetSecretVersion(ctx context.Context, id, version, status string) (SecretVersion, error) {
	var out SecretVersion
	err := c.JSON(ctx, http.MethodPatch, c.secretPath(id, "versions", version), nil, map[string]string{"status": status}, &out)
	return out, err
}

// DeleteSecretVersion removes a version.
func (c *Client) DeleteSecretVersion(ctx context.Context, id, version string) error {
	return c.JSON(ctx, http.MethodDelete, c.secretPath(id, "versions", version), nil, nil, nil)
}
