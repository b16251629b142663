// SPDX-License-Identifier: Apache-2.0

package org

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"panal/internal/authn"
	"panal/internal/plat"
)

// UserStore keeps users and what each may do with its tokens. A user or token of
// another organization is ErrNotFound.
type UserStore interface {
	// Users returns a page of an organization's users, oldest first.
	Users(ctx context.Context, org plat.OrgID, p Page) ([]User, error)
	// UpdateUser changes a user and returns it. ErrConflict, and nothing changes,
	// when it was an admin and the organization would be left without an admin who
	// holds a token that does not expire; changes at the same time wait for each other.
	UpdateUser(ctx context.Context, org plat.OrgID, id plat.UserID, c UserChange, at time.Time) (User, error)
	// DeleteUser removes a user and its tokens, and returns what it was. ErrConflict
	// as UpdateUser. The tokens of its workloads go on: they are its organization's.
	DeleteUser(ctx context.Context, org plat.OrgID, id plat.UserID, at time.Time) (User, error)
	// CreateUserToken stores a token of kind user; ErrInvalid when its user has limit
	// tokens already, ErrNotFound when the user is not of the token's organization.
	CreateUserToken(ctx context.Context, t authn.Token, limit int) error
	// UserTokens returns a user's tokens, oldest first.
	UserTokens(ctx context.Context, org plat.OrgID, user plat.UserID) ([]authn.Token, error)
	// DeleteToken removes a user's token and returns what it was. ErrConflict as
	// UpdateUser.
	DeleteToken(ctx context.Context, org plat.OrgID, user plat.UserID, id plat.TokenID) (authn.Token, error)
}

// Page is a part of a list.
type Page struct{ Limit, Offset int }

// cut returns the page of all, of which one more was asked for, and whether there is more.
func cut[T any](all []T, p Page) ([]T, bool) {
	if len(all) > p.Limit {
		return all[:p.Limit], true
	}
	return all, false
}

// ErrLastAdmin is what a UserStore answers instead of locking everybody out.
func ErrLastAdmin() error {
	return plat.Errorf(plat.ErrConflict, "the organization would be left without an admin who holds a token that does not expire: it can't lose its last admin; give another user the role admin and a token first")
}

// NewUser is what a user is made of. The language defaults to en.
type NewUser struct {
	Email             string
	DisplayName       string
	PreferredLanguage string
	Role              authn.Role
}

// UserChange is what an update changes; nil stays.
type UserChange struct {
	Email             *string
	DisplayName       *string
	PreferredLanguage *string
	Role              *authn.Role
}

// NewToken is what a token is made of.
type NewToken struct {
	Name string
	// ExpiresAt is when it ends by itself; zero is never.
	ExpiresAt time.Time
}

const (
	maxText = 255
	// maxTokens is how many tokens a user may have.
	maxTokens = 100
)

// checkText holds a text that people write to a length and to one line.
func checkText(field, s string) error {
	if utf8.RuneCountInString(s) > maxText || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return plat.InvalidField(field, "must be at most %d characters, on one line", maxText)
	}
	return nil
}

func (c UserChange) validate() error {
	if c.Email != nil {
		at := strings.LastIndexByte(*c.Email, '@')
		if at < 1 || at == len(*c.Email)-1 || len(*c.Email) > 254 || !utf8.ValidString(*c.Email) || strings.ContainsFunc(*c.Email, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
			return plat.InvalidField("email", "%q is not an e-mail address", *c.Email)
		}
	}
	if c.DisplayName != nil {
		if err := checkText("display_name", *c.DisplayName); err != nil {
			return err
		}
	}
	if c.PreferredLanguage != nil && *c.PreferredLanguage != "ja" && *c.PreferredLanguage != "en" {
		return plat.InvalidField("preferred_language", "must be ja or en")
	}
	if c.Role != nil {
		switch *c.Role {
		case authn.RoleAdmin, authn.RoleDeveloper, authn.RoleRegular:
		default:
			return plat.InvalidField("role", "must be one of admin, developer, regular")
		}
	}
	return nil
}

// CreateUser makes a user of the organization.
func (s *Service) CreateUser(ctx context.Context, org plat.OrgID, n NewUser) (User, error) {
	if n.PreferredLanguage == "" {
		n.PreferredLanguage = "en"
	}
	if err := (UserChange{&n.Email, &n.DisplayName, &n.PreferredLanguage, &n.Role}).validate(); err != nil {
		return User{}, err
	}
	now := s.now()
	u := User{
		ID: plat.UserID(plat.NewDecimalID()), Org: org, Email: n.Email, DisplayName: n.DisplayName,
		PreferredLanguage: n.PreferredLanguage, Role: n.Role, CreatedAt: now, UpdatedAt: now,
	}
	if err := s.store.CreateUser(ctx, u); err != nil {
		return User{}, emailTaken(err, n.Email)
	}
	return u, nil
}

func emailTaken(err error, email string) error {
	if errors.Is(err, plat.ErrExists) {
		return &plat.Error{
			Kind: plat.ErrExists, Public: fmt.Sprintf("email: a user of this organization has the address %s already", email),
			Detail: map[string][]string{"email": {"is taken"}}, Err: err,
		}
	}
	return err
}

// Users returns a page of the organization's users, oldest first, and whether there are more.
func (s *Service) Users(ctx context.Context, org plat.OrgID, p Page) ([]User, bool, error) {
	all, err := s.store.Users(ctx, org, Page{Limit: p.Limit + 1, Offset: p.Offset})
	if err != nil {
		return nil, false, err
	}
	page, more := cut(all, p)
	return page, more, nil
}

// Member returns a user of the organization.
func (s *Service) Member(ctx context.Context, org plat.OrgID, id plat.UserID) (User, error) {
	u, err := s.store.User(ctx, id)
	if err == nil && u.Org != org {
		err = plat.NotFound("user", id)
	}
	if err != nil {
		return User{}, err
	}
	return u, nil
}

// UpdateUser changes a user. The last admin can't be demoted.
func (s *Service) UpdateUser(ctx context.Context, org plat.OrgID, id plat.UserID, c UserChange) (User, error) {
	if err := c.validate(); err != nil {
		return User{}, err
	}
	u, err := s.store.UpdateUser(ctx, org, id, c, s.now())
	if err != nil && c.Email != nil {
		err = emailTaken(err, *c.Email)
	}
	return u, err
}

// DeleteUser removes a user and ends its tokens. The last admin can't be deleted.
func (s *Service) DeleteUser(ctx context.Context, org plat.OrgID, id plat.UserID) (User, error) {
	return s.store.DeleteUser(ctx, org, id, s.now())
}

// CreateToken makes a personal access token and returns it with its secret: the
// only time that it is seen.
func (s *Service) CreateToken(ctx context.Context, org plat.OrgID, user plat.UserID, n NewToken) (authn.Token, string, error) {
	if err := checkText("name", n.Name); err != nil {
		return authn.Token{}, "", err
	}
	now := s.now()
	if !n.ExpiresAt.IsZero() && !n.ExpiresAt.After(now) {
		return authn.Token{}, "", plat.InvalidField("expires_at", "is in the past")
	}
	secret := plat.NewToken()
	t := authn.Token{
		Hash: authn.HashToken(secret), ID: plat.TokenID(plat.NewHexID("tok")), Name: n.Name, Kind: authn.KindUser,
		Org: org, User: user, CreatedAt: now, ExpiresAt: n.ExpiresAt,
	}
	if err := s.store.CreateUserToken(ctx, t, maxTokens); err != nil {
		return authn.Token{}, "", fmt.Errorf("create token: %w", err)
	}
	return t, secret, nil
}

// Tokens returns a user's tokens, oldest first, without their secrets.
func (s *Service) Tokens(ctx context.Context, org plat.OrgID, user plat.UserID) ([]authn.Token, error) {
	if _, err := s.Member(ctx, org, user); err != nil {
		return nil, err
	}
	return s.store.UserTokens(ctx, org, user)
}

// RevokeToken ends a token. The last one of the last admin can't be revoked.
func (s *Service) RevokeToken(ctx context.Context, org plat.OrgID, user plat.UserID, id plat.TokenID) (authn.Token, error) {
	return s.store.DeleteToken(ctx, org, user, id)
}
