// SPDX-License-Identifier: Apache-2.0

// Package org holds organizations and their users.
//
// Invariants: an organization's name and id each name it, anywhere an
// organization is named (data.md §1); where the machine has no wall between
// workloads, there is at most one organization.
package org

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"panal/internal/authn"
	"panal/internal/plat"
)

// Organization is a tenant.
type Organization struct {
	ID        plat.OrgID
	Name      string
	CreatedAt time.Time
	UpdatedAt time.Time
}

// User is a member of an organization.
type User struct {
	ID          plat.UserID
	Org         plat.OrgID
	Email       string
	DisplayName string
	Role        authn.Role
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// Store keeps organizations and users.
type Store interface {
	// CreateOrganization stores o; ErrExists when id or name are taken.
	CreateOrganization(ctx context.Context, o Organization) error
	// Organization returns the organization with that id or name.
	Organization(ctx context.Context, idOrName string) (Organization, error)
	// Organizations returns all of them, oldest first.
	Organizations(ctx context.Context) ([]Organization, error)
	// CreateUser stores u; ErrExists when id or e-mail are taken.
	CreateUser(ctx context.Context, u User) error
	// User returns one user.
	User(ctx context.Context, id plat.UserID) (User, error)
}

// Service is the rules around organizations.
type Service struct {
	store  Store
	tokens authn.Store
	now    plat.Clock
	// single is the reason why a second organization is refused; "" allows many.
	single string
}

// NewService returns a Service. singleReason, when not empty, says why this
// installation may hold only one organization (no isolation between workloads).
func NewService(s Store, tokens authn.Store, now plat.Clock, singleReason string) *Service {
	return &Service{store: s, tokens: tokens, now: now, single: singleReason}
}

var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Create makes an organization.
func (s *Service) Create(ctx context.Context, name string) (Organization, error) {
	if !namePattern.MatchString(name) || strings.Trim(name, "0123456789") == "" {
		return Organization{}, plat.InvalidField("name", "must be 1 to 63 of a-z, 0-9 and -, not only digits (it becomes a host name)")
	}
	if s.single != "" {
		all, err := s.store.Organizations(ctx)
		if err != nil {
			return Organization{}, err
		}
		if len(all) > 0 {
			return Organization{}, plat.Errorf(plat.ErrForbidden, "a second organization needs walls between workloads, and this machine gives none: %s", s.single)
		}
	}
	now := s.now()
	o := Organization{ID: plat.OrgID(plat.NewDecimalID()), Name: name, CreatedAt: now, UpdatedAt: now}
	if err := s.store.CreateOrganization(ctx, o); err != nil {
		return Organization{}, fmt.Errorf("create organization %s: %w", name, err)
	}
	return o, nil
}

// AddUser makes a user of the organization.
func (s *Service) AddUser(ctx context.Context, org plat.OrgID, email, displayName string, role authn.Role) (User, error) {
	switch role {
	case authn.RoleAdmin, authn.RoleDeveloper, authn.RoleRegular:
	default:
		return User{}, plat.InvalidField("role", "must be one of admin, developer, regular")
	}
	if !strings.Contains(email, "@") || len(email) > 254 {
		return User{}, plat.InvalidField("email", "%q is not an e-mail address", email)
	}
	now := s.now()
	u := User{ID: plat.UserID(plat.NewDecimalID()), Org: org, Email: email, DisplayName: displayName, Role: role, CreatedAt: now, UpdatedAt: now}
	if err := s.store.CreateUser(ctx, u); err != nil {
		return User{}, fmt.Errorf("add user %s: %w", email, err)
	}
	return u, nil
}

// NewToken makes a personal access token of the user and returns its secret: the
// only time that it is seen.
func (s *Service) NewToken(ctx context.Context, u User) (string, error) {
	secret := plat.NewToken()
	t := authn.Token{Hash: authn.HashToken(secret), Kind: authn.KindUser, Org: u.Org, User: u.ID, CreatedAt: s.now()}
	if err := s.tokens.CreateToken(ctx, t); err != nil {
		return "", fmt.Errorf("create token: %w", err)
	}
	return secret, nil
}

// Get returns an organization by id or name.
func (s *Service) Get(ctx context.Context, idOrName string) (Organization, error) {
	return s.store.Organization(ctx, idOrName)
}

// List returns all organizations, oldest first.
func (s *Service) List(ctx context.Context) ([]Organization, error) {
	return s.store.Organizations(ctx)
}

// User returns one user.
func (s *Service) User(ctx context.Context, id plat.UserID) (User, error) {
	return s.store.User(ctx, id)
}
