// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// User is a user of the organization.
type User struct {
	ID                string  `json:"id"`
	Email             string  `json:"email"`
	DisplayName       *string `json:"display_name"`
	PreferredLanguage string  `json:"preferred_language"`
	Role              string  `json:"role"`
	CreatedAt         string  `json:"created_at"`
}

// NewUser is what a user is made of; what is empty is left out.
type NewUser struct {
	Email             string `json:"email"`
	DisplayName       string `json:"display_name,omitempty"`
	PreferredLanguage string `json:"preferred_language,omitempty"`
	Role              string `json:"role"`
}

// byOffset reads a list page after page; page returns what one answer holds.
func byOffset[T, A any](ctx context.Context, c *Client, path string, page func(A) (items []T, more bool)) ([]T, error) {
	const limit = 1000
	all := []T{}
	for {
		var answer A
		q := url.Values{"limit": {strconv.Itoa(limit)}, "offset": {strconv.Itoa(len(all))}}
		if err := c.JSON(ctx, http.MethodGet, path, q, nil, &answer); err != nil {
			return nil, err
		}
		items, more := page(answer)
		if all = append(all, items...); !more || len(items) == 0 {
			return all, nil
		}
	}
}

// Users returns all users, oldest first.
func (c *Client) Users(ctx context.Context) ([]User, error) {
	type answer struct {
		Users   []User `json:"users"`
		HasNext bool   `json:"has_next"`
	}
	return byOffset(ctx, c, c.OrgPath("users"), func(a answer) ([]User, bool) { return a.Users, a.HasNext })
}

// CreateUser adds a user.
func (c *Client) CreateUser(ctx context.Context, n NewUser) (u User, err error) {
	err = c.JSON(ctx, http.MethodPost, c.OrgPath("users"), nil, n, &u)
	return u, err
}

// SetRole changes a user's role.
func (c *Client) SetRole(ctx context.Context, id, role string) (u User, err error) {
	err = c.JSON(ctx, http.MethodPatch, c.OrgPath("users", id), nil, map[string]string{"role": role}, &u)
	return u, err
}

// DeleteUser deletes a user and returns what it was.
func (c *Client) DeleteUser(ctx context.Context, id string) (u User, err error) {
	err = c.JSON(ctx, http.MethodDelete, c.OrgPath("users", id), nil, nil, &u)
	return u, err
}

// Token is a personal access token. Secret is known at its creation only.
type Token struct {
	ID        string  `json:"id"`
	Name      string  `json:"name"`
	UserID    string  `json:"user_id"`
	CreatedAt string  `json:"created_at"`
	ExpiresAt *string `json:"expires_at"`
	Secret    string  `json:"token,omitempty"`
}

// User returns the id of the user that the client acts for; "" when its credentials
// do not tell.
func (c *Client) User() string { return c.user }

// Tokens returns a user's tokens, oldest first.
func (c *Client) Tokens(ctx context.Context, user string) ([]Token, error) {
	out := struct {
		Tokens []Token `json:"tokens"`
	}{[]Token{}}
	err := c.JSON(ctx, http.MethodGet, Path("users", user, "tokens"), nil, nil, &out)
	return out.Tokens, err
}

// CreateToken makes a token; expires is a time as in RFC 3339, or "" for never.
func (c *Client) CreateToken(ctx context.Context, user, name, expires string) (t Token, err error) {
	in := map[string]string{"name": name}
	if expires != "" {
		in["expires_at"] = expires
	}
	err = c.JSON(ctx, http.MethodPost, Path("users", user, "tokens"), nil, in, &t)
	return t, err
}

// RevokeToken ends a token and returns what it was.
func (c *Client) RevokeToken(ctx context.Context, user, id string) (t Token, err error) {
	err = c.JSON(ctx, http.MethodDelete, Path("users", user, "tokens", id), nil, nil, &t)
	return t, err
}

// Datasource is a machine's credential. Secret is shown to admins only.
type Datasource struct {
	ID        string `json:"datasource_id"`
	Name      string `json:"display_name"`
	Secret    string `json:"secret,omitempty"`
	CreatedAt string `json:"created_at"`
}

type datasourceAnswer struct {
	Datasource Datasource `json:"datasource"`
}

func (c *Client) datasource(ctx context.Context, method, path string, in any) (Datasource, error) {
	var out datasourceAnswer
	err := c.JSON(ctx, method, path, nil, in, &out)
	return out.Datasource, err
}

func (c *Client) datasources(ctx context.Context, path string) ([]Datasource, error) {
	type answer struct {
		Datasources []Datasource `json:"datasources"`
		HasNext     bool         `json:"has_next"`
	}
	return byOffset(ctx, c, path, func(a answer) ([]Datasource, bool) { return a.Datasources, a.HasNext })
}

// CreateDatasource makes a datasource.
func (c *Client) CreateDatasource(ctx context.Context, name string) (Datasource, error) {
	return c.datasource(ctx, http.MethodPost, c.OrgPath("datasources"), map[string]string{"display_name": name})
}

// Datasource returns a datasource.
func (c *Client) Datasource(ctx context.Context, id string) (Datasource, error) {
	return c.datasource(ctx, http.MethodGet, c.OrgPath("datasources", id), nil)
}

// Datasources returns all datasources, oldest first.
func (c *Client) Datasources(ctx context.Context) ([]Datasource, error) {
	return c.datasources(ctx, c.OrgPath("datasources"))
}

// RenameDatasource changes a datasource's name.
func (c *Client) RenameDatasource(ctx context.Context, id, name string) (Datasource, error) {
	return c.datasource(ctx, http.MethodPatch, c.OrgPath("datasources", id), map[string]string{"display_name": name})
}

// DeleteDatasource deletes a datasource and returns what it was.
func (c *Client) DeleteDatasource(ctx context.Context, id string) (Datasource, error) {
	return c.datasource(ctx, http.MethodDelete, c.OrgPath("datasources", id), nil)
}

// LinkedDatasources returns the datasources of a channel.
func (c *Client) LinkedDatasources(ctx context.Context, channel string) ([]Datasource, error) {
	return c.datasources(ctx, c.OrgPath("channels", channel, "datasources"))
}

// LinkDatasource links a datasource to a channel.
func (c *Client) LinkDatasource(ctx context.Context, channel, id string) (Datasource, error) {
	return c.datasource(ctx, http.MethodPut, c.OrgPath("channels", channel, "datasources", id), nil)
}

// UnlinkDatasource ends a link.
func (c *Client) UnlinkDatasource(ctx context.Context, channel, id string) (Datasource, error) {
	return c.datasource(ctx, http.MethodDelete, c.OrgPath("channels", channel, "datasources", id), nil)
}

// IPRule is a line of the organization's allow-list.
type IPRule struct {
	ID          string `json:"id"`
	CIDR        string `json:"cidr"`
	Description string `json:"description"`
	CreatedAt   string `json:"created_at"`
}

// IPRuleChange is what an update changes; nil stays.
type IPRuleChange struct {
	CIDR        *string `json:"cidr,omitempty"`
	Description *string `json:"description,omitempty"`
}

func (c *Client) ipRule(ctx context.Context, method, path string, force bool, in any) (r IPRule, err error) {
	var q url.Values
	if force {
		q = url.Values{"force": {"true"}}
	}
	err = c.JSON(ctx, method, path, q, in, &r)
	return r, err
}

// IPRules returns the whole allow-list; empty means that everybody is let in.
func (c *Client) IPRules(ctx context.Context) ([]IPRule, error) {
	type answer struct {
		Entries []IPRule `json:"entries"`
		HasNext bool     `json:"has_next"`
	}
	return byOffset(ctx, c, c.OrgPath("security", "cidrs"), func(a answer) ([]IPRule, bool) { return a.Entries, a.HasNext })
}

// IPRule returns a rule.
func (c *Client) IPRule(ctx context.Context, id string) (IPRule, error) {
	return c.ipRule(ctx, http.MethodGet, c.OrgPath("security", "cidrs", id), false, nil)
}

// CreateIPRule adds a rule; force, also when it shuts the caller out.
func (c *Client) CreateIPRule(ctx context.Context, cidr, description string, force bool) (IPRule, error) {
	return c.ipRule(ctx, http.MethodPost, c.OrgPath("security", "cidrs"), force, map[string]string{"cidr": cidr, "description": description})
}

// UpdateIPRule changes a rule.
func (c *Client) UpdateIPRule(ctx context.Context, id string, ch IPRuleChange, force bool) (IPRule, error) {
	return c.ipRule(ctx, http.MethodPatch, c.OrgPath("security", "cidrs", id), force, ch)
}

// DeleteIPRule removes a rule and returns what it was.
func (c *Client) DeleteIPRule(ctx context.Context, id string, force bool) (IPRule, error) {
	return c.ipRule(ctx, http.MethodDelete, c.OrgPath("security", "cidrs", id), force, nil)
}

// CheckIP tells whether the rules let an address in.
func (c *Client) CheckIP(ctx context.Context, addr string) (bool, error) {
	var out struct {
		Accessible bool `json:"accessible"`
	}
	err := c.JSON(ctx, http.MethodPost, c.OrgPath("security", "cidrs", "check"), nil, map[string]string{"ip_address": addr}, &out)
	return out.Accessible, err
}
