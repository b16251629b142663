// SPDX-License-Identifier: Apache-2.0

// Package registry keeps the records of an organization's image repositories and
// their tags (data.md §21). The images themselves live in a registry of their own; who
// pushes there records the tag here.
//
// Invariants: a repository's name is unique in its organization; a tag is one row
// of its repository, and recording it again moves it.
package registry

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"panal/internal/plat"
)

// Repository is a named place for images.
type Repository struct {
	ID          plat.RepositoryID
	Org         plat.OrgID
	Creator     plat.UserID
	Name        string
	Description *string
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// Tag names an image of a repository.
type Tag struct {
	ID         int64 // given by the store
	Repository plat.RepositoryID
	Creator    plat.UserID
	Name       string
	Digest     string // sha256:…
	Size       int64
	MediaType  string
	CreatedAt  time.Time
	UpdatedAt  time.Time
}

// Store keeps repositories. Implemented by sqlstore; package registrytest holds
// every implementation to this contract.
type Store interface {
	// CreateRepository stores r; ErrExists when the organization has one of that name.
	CreateRepository(ctx context.Context, r Repository) error
	// Repository returns a repository of the organization.
	Repository(ctx context.Context, org plat.OrgID, id plat.RepositoryID) (Repository, error)
	// Repositories returns a page of the organization's repositories in order of the
	// name, and whether more follow.
	Repositories(ctx context.Context, org plat.OrgID, offset, limit int) (all []Repository, more bool, err error)
	// DeleteRepository removes a repository with its tags.
	DeleteRepository(ctx context.Context, org plat.OrgID, id plat.RepositoryID) error
	// PutTag stores t, or moves the tag of that name; it returns it with its id.
	PutTag(ctx context.Context, t Tag) (Tag, error)
	// Tags returns a page of a repository's tags in order of the name, and whether more
	// follow.
	Tags(ctx context.Context, id plat.RepositoryID, offset, limit int) (all []Tag, more bool, err error)
	// DeleteTag removes a tag and returns what it was.
	DeleteTag(ctx context.Context, id plat.RepositoryID, name string) (Tag, error)
}

// Service is the rules around repositories.
type Service struct {
	store Store
	now   plat.Clock
}

// NewService returns a Service over s.
func NewService(s Store, now plat.Clock) *Service { return &Service{store: s, now: now} }

const (
	maxName        = 255
	maxDescription = 2048
	// MaxPage is the longest page.
	MaxPage = 1000
)

// The rules of the registry protocol (OCI distribution specification, "Pulling
// manifests").
var (
	namePattern   = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern    = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	mediaPattern  = regexp.MustCompile(`^[a-zA-Z0-9!#$&^_.+-]{1,127}/[a-zA-Z0-9!#$&^_.+-]{1,127}$`)
)

// Create makes a repository.
func (s *Service) Create(ctx context.Context, org plat.OrgID, creator plat.UserID, name string, description *string) (Repository, error) {
	switch {
	case name == "":
		return Repository{}, plat.InvalidField("name", "is required")
	case len(name) > maxName || !namePattern.MatchString(name):
		return Repository{}, plat.InvalidField("name", "must be at most %d of a-z and 0-9, parts joined by . _ __ - or /", maxName)
	case description != nil && (len(*description) > maxDescription || !utf8.ValidString(*description) || strings.ContainsRune(*description, 0)):
		return Repository{}, plat.InvalidField("description", "must be at most %d bytes of UTF-8 text without NUL", maxDescription)
	}
	now := s.now()
	r := Repository{ID: plat.RepositoryID(plat.NewDecimalID()), Org: org, Creator: creator, Name: name, Description: description, CreatedAt: now, UpdatedAt: now}
	switch err := s.store.CreateRepository(ctx, r); {
	case errors.Is(err, plat.ErrExists):
		return Repository{}, &plat.Error{
			Kind: plat.ErrExists, Public: fmt.Sprintf("there is a repository named %q already", name),
			Detail: map[string][]string{"name": {"is taken"}}, Err: err,
		}
	case err != nil:
		return Repository{}, fmt.Errorf("create repository: %w", err)
	}
	return r, nil
}

// Get returns a repository of the organization with all its tags, up to MaxPage.
func (s *Service) Get(ctx context.Context, org plat.OrgID, id plat.RepositoryID) (Repository, []Tag, error) {
	r, err := s.store.Repository(ctx, org, id)
	if err != nil {
		return Repository{}, nil, err
	}
	tags, _, err := s.store.Tags(ctx, id, 0, MaxPage)
	return r, tags, err
}

// List returns a page of the organization's repositories and whether more follow.
func (s *Service) List(ctx context.Context, org plat.OrgID, offset, limit int) ([]Repository, bool, error) {
	return s.store.Repositories(ctx, org, offset, limit)
}

// Delete removes a repository with its tags and returns what they were.
func (s *Service) Delete(ctx context.Context, org plat.OrgID, id plat.RepositoryID) (Repository, []Tag, error) {
	r, tags, err := s.Get(ctx, org, id)
	if err != nil {
		return Repository{}, nil, err
	}
	return r, tags, s.store.DeleteRepository(ctx, org, id)
}

// Tags returns a page of a repository's tags and whether more follow.
func (s *Service) Tags(ctx context.Context, org plat.OrgID, id plat.RepositoryID, offset, limit int) ([]Tag, bool, error) {
	if _, err := s.store.Repository(ctx, org, id); err != nil {
		return nil, false, err
	}
	return s.store.Tags(ctx, id, offset, limit)
}

// PutTag records a tag, or moves it to another image.
func (s *Service) PutTag(ctx context.Context, org plat.OrgID, creator plat.UserID, t Tag) (Tag, error) {
	if _, err := s.store.Repository(ctx, org, t.Repository); err != nil {
		return Tag{}, err
	}
	if t.MediaType == "" {
		t.MediaType = "application/vnd.oci.image.manifest.v1+json"
	}
	switch {
	case !tagPattern.MatchString(t.Name):
		return Tag{}, plat.InvalidField("name", "must be 1 to 128 of A-Z, a-z, 0-9, _, . and -, and not begin with . or -")
	case !digestPattern.MatchString(t.Digest):
		return Tag{}, plat.InvalidField("digest", "must be sha256: and 64 hexadecimal digits")
	case t.Size < 0:
		return Tag{}, plat.InvalidField("size", "can't be negative")
	case !mediaPattern.MatchString(t.MediaType):
		return Tag{}, plat.InvalidField("media_type", "is not a media type")
	}
	t.Creator, t.CreatedAt = creator, s.now()
	t.UpdatedAt = t.CreatedAt
	return s.store.PutTag(ctx, t)
}

// DeleteTag removes a tag and returns what it was.
func (s *Service) DeleteTag(ctx context.Context, org plat.OrgID, id plat.RepositoryID, name string) (Tag, error) {
	if _, err := s.store.Repository(ctx, org, id); err != nil {
		return Tag{}, err
	}
	return s.store.DeleteTag(ctx, id, name)
}
