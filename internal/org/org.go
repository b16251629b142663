// SPDX-License-Identifier: Apache-2.0

// Package org holds organizations, their users and tokens, their datasources, and
// the addresses that they may be reached from.
//
// Invariants: an organization's name and id each name it, anywhere an
// organization is named (data.md §1); where the machine has no wall between
// workloads, there is at most one organization; exactly one organization, the first
// that there was, is the operator's, and it is never suspended or deleted; an
// organization is suspended before it is deleted, and its row goes last. No change by
// the API leaves an organization that had one without an admin who holds a lasting token. A
// secret is stored as its SHA-256; a datasource's, which can be shown again, sealed beside it.
package org

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"panal/internal/authn"
	"panal/internal/plat"
	"panal/internal/x/outage"
)

// State says whether an organization is served.
type State string

// States. An organization that is Deleting never comes back.
const (
	Active    State = "active"
	Suspended State = "suspended"
	Deleting  State = "deleting"
)

// Organization is a tenant.
type Organization struct {
	ID   plat.OrgID
	Name string
	// Operator: its admins run the installation (ADR 0009).
	Operator bool
	State    State
	// Quota is how many bytes its files may take; 0 is no limit.
	Quota     int64
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

// TopicOrganization is the topic of the events that a Store writes with changes of
// organizations.
const TopicOrganization = "organization"

// Store keeps organizations and users.
type Store interface {
	UserStore
	// CreateOrganization stores o and returns it; the first of all becomes the
	// operator's. ErrExists when id or name are taken.
	CreateOrganization(ctx context.Context, o Organization) (Organization, error)
	// Organization returns the organization with that id or name.
	Organization(ctx context.Context, idOrName string) (Organization, error)
	// Organizations returns all of them, oldest first.
	Organizations(ctx context.Context) ([]Organization, error)
	// UpdateOrganization changes name, state, quota and the update time in one
	// transaction: change gets the record as it is, edits it, and may refuse.
	// ErrExists when the name is taken.
	UpdateOrganization(ctx context.Context, id plat.OrgID, change func(*Organization) error) (Organization, error)
	// DeleteOrganization removes an organization that is Deleting, with its users
	// and tokens; ErrConflict, with nothing changed, for any other and while records
	// refer to it. One that is gone is not an error.
	DeleteOrganization(ctx context.Context, id plat.OrgID, at time.Time) error
	// CreateUser stores u; ErrExists when id or e-mail are taken.
	CreateUser(ctx context.Context, u User) error
	// User returns one user.
	User(ctx context.Context, id plat.UserID) (User, error)
	// CountUsers returns how many users an organization has.
	CountUsers(ctx context.Context, id plat.OrgID) (int64, error)
}

// Service is the rules around organizations. It is safe for concurrent use.
type Service struct {
	store  Store
	tokens authn.Store
	now    plat.Clock
	// single is the reason why a second organization is refused; "" allows many.
	single string
	// oneWhile tells why there may be only one organization for now; see OneWhile.
	oneWhile func(ctx context.Context) (string, error)
	watch    *outage.Watch

	mu     sync.Mutex
	seen   map[plat.OrgID]seen
	purges []Purge
	// operator is the operator's organization, once it is known.
	operator plat.OrgID
}

// NewService returns a Service. singleReason, when not empty, says why this
// installation may hold only one organization (no isolation between workloads).
func NewService(s Store, tokens authn.Store, now plat.Clock, singleReason string) *Service {
	return &Service{store: s, tokens: tokens, now: now, single: singleReason, watch: new(outage.Watch), seen: map[plat.OrgID]seen{}}
}

// Share is authn.Authenticator.Share, for what Standing knows.
func (s *Service) Share(w *outage.Watch) { s.watch = w }

// OneWhile sets who is asked before a second organization is made: a reason that
// is not empty refuses it. Call it before the service is used.
func (s *Service) OneWhile(why func(ctx context.Context) (string, error)) { s.oneWhile = why }

var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func checkName(name string) error {
	if !namePattern.MatchString(name) || strings.Trim(name, "0123456789") == "" {
		return plat.InvalidField("name", "must be 1 to 63 of a-z, 0-9 and -, not only digits (it becomes a host name)")
	}
	return nil
}

// Create makes an organization.
func (s *Service) Create(ctx context.Context, name string) (Organization, error) {
	if err := checkName(name); err != nil {
		return Organization{}, err
	}
	why := s.single
	if why == "" && s.oneWhile != nil {
		var err error
		if why, err = s.oneWhile(ctx); err != nil {
			return Organization{}, err
		}
	}
	if why != "" {
		all, err := s.store.Organizations(ctx)
		if err != nil {
			return Organization{}, err
		}
		if len(all) > 0 {
			return Organization{}, plat.Errorf(plat.ErrForbidden, "a second organization needs walls between workloads, and this machine gives none: %s", why)
		}
	}
	now := s.now()
	o, err := s.store.CreateOrganization(ctx, Organization{ID: plat.OrgID(plat.NewDecimalID()), Name: name, State: Active, CreatedAt: now, UpdatedAt: now})
	if err != nil {
		return Organization{}, taken(name, fmt.Errorf("create organization %s: %w", name, err))
	}
	return o, nil
}

// Recover makes an organization anew that is known by its id alone.
func (s *Service) Recover(ctx context.Context, id plat.OrgID) (Organization, error) {
	now := s.now()
	return s.store.CreateOrganization(ctx, Organization{ID: id, Name: "recovered-" + string(id), State: Active, CreatedAt: now, UpdatedAt: now})
}

// AddUser makes a user of the organization.
func (s *Service) AddUser(ctx context.Context, org plat.OrgID, email, displayName string, role authn.Role) (User, error) {
	return s.CreateUser(ctx, org, NewUser{Email: email, DisplayName: displayName, Role: role})
}

func checkEmail(email string) error {
	if !strings.Contains(email, "@") || len(email) > 254 {
		return plat.InvalidField("email", "%q is not an e-mail address", email)
	}
	return nil
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

// CountUsers returns how many users an organization has.
func (s *Service) CountUsers(ctx context.Context, id plat.OrgID) (int64, error) {
	return s.store.CountUsers(ctx, id)
}
