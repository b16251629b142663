// SPDX-License-Identifier: Apache-2.0

// Package org holds organizations, their users and tokens, their datasources, and
// the addresses that they may be reached from.
//
// Invariants: an organization's name and id each name it, anywhere an
// organization is named (data.md §1); where the machine has no wall between
// workloads, there is at most one organization. No change by the API leaves an
// organization that had one without an admin who holds a lasting token. A secret is
// stored as its SHA-256; a datasource's, which can be shown again, sealed beside it.
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
	// PreferredLanguage is ja or en.
	PreferredLanguage string
	Role              authn.Role
	CreatedAt         time.Time
	UpdatedAt         time.Time
}

// Store keeps organizations and users.
type Store interface {
	UserStore
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
	return s.CreateUser(ctx, org, NewUser{Email: email, DisplayName: displayName, Role: role})
}

// NewToken makes a personal access token of the user and returns its secret: the
// only time that it is seen.
func (s *Service) NewToken(ctx context.Context, u User) (string, error) {
	_, secret, err := s.CreateToken(ctx, u.Org, u.ID, NewToken{})
	return secret, err
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
