// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"
	"time"

	"panal/internal/authn"
	"panal/internal/authz"
	"panal/internal/org"
	"panal/internal/plat"
)

// UsersAnswer is a page of users in its envelope.
type UsersAnswer struct {
	Envelope
	Users   []OrgUser `json:"users"`
	Limit   int       `json:"limit"`
	Offset  int       `json:"offset"`
	HasNext bool      `json:"has_next"`
}

// NewUser is what a user is made of.
type NewUser struct {
	Email             string  `json:"email"`
	DisplayName       *string `json:"display_name" nullable:"true"`
	PreferredLanguage *string `json:"preferred_language" nullable:"true" doc:"ja or en (default)"`
	Role              string  `json:"role" doc:"admin, developer or regular"`
}

// UserChange is what a PATCH changes; what is absent or null stays.
type UserChange struct {
	Email             *string `json:"email" nullable:"true"`
	DisplayName       *string `json:"display_name" nullable:"true"`
	PreferredLanguage *string `json:"preferred_language" nullable:"true"`
	Role              *string `json:"role" nullable:"true"`
}

// OffsetPage is the query of lists by offset.
type OffsetPage struct {
	Limit  string `query:"limit" doc:"1 to 1000, default 50"`
	Offset string `query:"offset"`
}

func (in OffsetPage) page() (p org.Page, err error) {
	if p.Limit, err = pageSize("limit", in.Limit, 50); err != nil {
		return p, err
	}
	p.Offset, err = pageOffset(in.Offset)
	return p, err
}

// UserPath is the path parameters of a user.
type UserPath struct {
	OrgPath
	User string `path:"user_id"`
}

// TokenOwner is the path parameter of a user's tokens.
type TokenOwner struct {
	User string `path:"user_id"`
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func userAnswer(u org.User, err error) (*OrgUser, error) {
	if err != nil {
		return nil, err
	}
	out := userWire(u)
	return &out, nil
}

// addUsers adds the users of an organization (data.md §3).
func (a *API) addUsers() {
	const base, one = "/organizations/{organization_id}/users", "/organizations/{organization_id}/users/{user_id}"
	op := func(id, method, path, summary string, row authz.Op) operation {
		return operation{ID: id, Method: method, Path: path, Summary: summary, Tag: "user", Family: familyLake, Op: row}
	}

	type createIn struct {
		OrgPath
		Body *NewUser
	}
	register(a, op("create-user", http.MethodPost, base, "Add a user; give it a token next", authz.UserAdmin), func(ctx context.Context, in *createIn) (*OrgUser, error) {
		var n NewUser
		if in.Body != nil {
			n = *in.Body
		}
		u, err := a.Orgs.CreateUser(ctx, caller(ctx).Org, org.NewUser{
			Email: n.Email, DisplayName: text(n.DisplayName), PreferredLanguage: text(n.PreferredLanguage), Role: authn.Role(n.Role),
		})
		touched(ctx, "user_id", string(u.ID))
		touched(ctx, "role", string(u.Role))
		return userAnswer(u, err)
	})

	type listIn struct {
		OrgPath
		OffsetPage
	}
	register(a, op("list-users", http.MethodGet, base, "List users, oldest first", authz.UserRead), func(ctx context.Context, in *listIn) (*UsersAnswer, error) {
		p, err := in.page()
		if err != nil {
			return nil, err
		}
		env, err := a.envelope(ctx)
		if err != nil {
			return nil, err
		}
		all, more, err := a.Orgs.Users(ctx, caller(ctx).Org, p)
		if err != nil {
			return nil, err
		}
		out := &UsersAnswer{Envelope: env, Users: make([]OrgUser, len(all)), Limit: p.Limit, Offset: p.Offset, HasNext: more}
		for i, u := range all {
			out.Users[i] = userWire(u)
		}
		return out, nil
	})

	register(a, op("get-user", http.MethodGet, one, "Get a user", authz.UserRead), func(ctx context.Context, in *UserPath) (*OrgUser, error) {
		return userAnswer(a.Orgs.Member(ctx, caller(ctx).Org, plat.UserID(in.User)))
	})

	type patchIn struct {
		UserPath
		Body *UserChange
	}
	register(a, op("update-user", http.MethodPatch, one, "Change a user, its role too; the last admin can't be demoted", authz.UserAdmin), func(ctx context.Context, in *patchIn) (*OrgUser, error) {
		var c org.UserChange
		if b := in.Body; b != nil {
			c = org.UserChange{Email: b.Email, DisplayName: b.DisplayName, PreferredLanguage: b.PreferredLanguage, Role: (*authn.Role)(b.Role)}
		}
		u, err := a.Orgs.UpdateUser(ctx, caller(ctx).Org, plat.UserID(in.User), c)
		a.Auth.ForgetUser(plat.UserID(in.User)) // the role counts at once
		if c.Role != nil {
			touched(ctx, "role", string(u.Role))
		}
		return userAnswer(u, err)
	})

	register(a, op("delete-user", http.MethodDelete, one, "Delete a user and end its tokens; the last admin can't be deleted", authz.UserAdmin), func(ctx context.Context, in *UserPath) (*OrgUser, error) {
		u, err := a.Orgs.DeleteUser(ctx, caller(ctx).Org, plat.UserID(in.User))
		a.Auth.ForgetUser(plat.UserID(in.User))
		return userAnswer(u, err)
	})
}

// Token is a personal access token, without its secret.
type Token struct {
	ID        string  `json:"id" example:"tok-0123456789abcdef"`
	Name      string  `json:"name"`
	UserID    string  `json:"user_id"`
	CreatedAt string  `json:"created_at"`
	ExpiresAt *string `json:"expires_at" doc:"null: never"`
}

// IssuedToken is a token and its secret, which is shown this once.
type IssuedToken struct {
	Token
	Secret string `json:"token" doc:"40 lower-case hex digits; it is not shown again"`
}

// TokensAnswer is all tokens of a user.
type TokensAnswer struct {
	UserID string  `json:"user_id"`
	Tokens []Token `json:"tokens"`
}

// NewToken is what a token is made of; all of it is optional.
type NewToken struct {
	Name      *string `json:"name" nullable:"true" doc:"what it is for"`
	ExpiresAt *string `json:"expires_at" nullable:"true" doc:"for example 2030-01-31T00:00:00Z; absent: never"`
}

func tokenWire(t authn.Token) Token {
	out := Token{ID: string(t.ID), Name: t.Name, UserID: string(t.User), CreatedAt: t.CreatedAt.Format(plat.TimeSecZ)}
	if !t.ExpiresAt.IsZero() {
		at := t.ExpiresAt.UTC().Format(plat.TimeSecZ)
		out.ExpiresAt = &at
	}
	return out
}

// addTokens adds personal access tokens (data.md §3): each user manages its own, an
// admin everybody's of the organization.
func (a *API) addTokens() {
	const base, one = "/users/{user_id}/tokens", "/users/{user_id}/tokens/{token_id}"
	op := func(id, method, path, summary string) operation {
		return operation{ID: id, Method: method, Path: path, Summary: summary, Tag: "user", Family: familyLake, Op: authz.TokenAdmin}
	}
	register(a, op("list-tokens", http.MethodGet, base, "List a user's tokens, without their secrets"), func(ctx context.Context, in *TokenOwner) (*TokensAnswer, error) {
		all, err := a.Orgs.Tokens(ctx, caller(ctx).Org, plat.UserID(in.User))
		if err != nil {
			return nil, err
		}
		out := &TokensAnswer{UserID: in.User, Tokens: make([]Token, len(all))}
		for i, t := range all {
			out.Tokens[i] = tokenWire(t)
		}
		return out, nil
	})

	type createIn struct {
		TokenOwner
		Body *NewToken
	}
	register(a, op("create-token", http.MethodPost, base, "Make a token; its secret is in this answer only"), func(ctx context.Context, in *createIn) (*IssuedToken, error) {
		var n org.NewToken
		if in.Body != nil {
			n.Name = text(in.Body.Name)
			if s := text(in.Body.ExpiresAt); s != "" {
				at, err := time.Parse(time.RFC3339, s)
				if err != nil {
					return nil, plat.InvalidField("expires_at", "%.40q is not a time such as 2030-01-31T00:00:00Z", s)
				}
				n.ExpiresAt = at
			}
		}
		t, secret, err := a.Orgs.CreateToken(ctx, caller(ctx).Org, plat.UserID(in.User), n)
		if err != nil {
			return nil, err
		}
		touched(ctx, "token_id", string(t.ID))
		return &IssuedToken{Token: tokenWire(t), Secret: secret}, nil
	})

	type tokenPath struct {
		TokenOwner
		Token string `path:"token_id"`
	}
	register(a, op("revoke-token", http.MethodDelete, one, "End a token; the last one of the last admin can't be ended"), func(ctx context.Context, in *tokenPath) (*Token, error) {
		t, err := a.Orgs.RevokeToken(ctx, caller(ctx).Org, plat.UserID(in.User), plat.TokenID(in.Token))
		a.Auth.ForgetUser(plat.UserID(in.User))
		if err != nil {
			return nil, err
		}
		out := tokenWire(t)
		return &out, nil
	})
}
