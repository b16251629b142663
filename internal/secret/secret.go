// SPDX-License-Identifier: Apache-2.0

// Package secret is the secret manager (data.md §18–19): named values with
// versions, sealed before they reach the store.
//
// Invariants: a value stands nowhere in clear but in the memory of the call that
// brings or fetches it; a sealed value opens only as the version that it was
// sealed for; a secret that has expired gives out no value, and neither does a
// version that is inactive.
package secret

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"panal/internal/plat"
)

// Secret is a named value. Its versions hold what it is.
type Secret struct {
	ID          plat.SecretID
	Org         plat.OrgID
	Creator     plat.UserID
	Name        string
	Description *string
	ExpiresAt   time.Time // zero: never
	// Integration is the type of service that the secret is attached to, IDs which
	// of them; both may be empty.
	Integration    string
	IntegrationIDs []string
	CreatedAt      time.Time
	UpdatedAt      time.Time
	Versions       []Version // in order of the number
}

// Expired tells whether the secret gives out no value any more.
func (s Secret) Expired(now time.Time) bool { return !s.ExpiresAt.IsZero() && !s.ExpiresAt.After(now) }

// Version is one value of a secret.
type Version struct {
	ID        plat.SecretVersionID
	Secret    plat.SecretID
	Org       plat.OrgID
	Number    int // from 1, never used again
	Active    bool
	Sealed    []byte
	KeyID     string // of the key that sealed it
	CreatedAt time.Time
	UpdatedAt time.Time
}

// place binds a sealed value to its version.
func (v Version) place() string {
	return "secret/" + string(v.Org) + "/" + string(v.Secret) + "/" + string(v.ID)
}

// Limits.
const (
	// MaxValue is the longest value in bytes, as with the service that the API's
	// provider names.
	MaxValue = 64 << 10
	// MaxVersions is how many versions a secret keeps.
	MaxVersions = 100
	maxName     = 512
	maxText     = 2048
	maxIDs      = 100
	// MaxPage is the longest page (data.md §18: 1 to 100).
	MaxPage = 100
)

// IntegrationLabs is the only type of service that secrets attach to.
const IntegrationLabs = "abeja-platform-labs"

// Store keeps secrets. Implemented by sqlstore; package secrettest holds every
// implementation to this contract.
type Store interface {
	// CreateSecret stores s with its versions; ErrExists when the organization has
	// one of that name.
	CreateSecret(ctx context.Context, s Secret) error
	// Secret returns a secret of the organization with its versions.
	Secret(ctx context.Context, org plat.OrgID, id plat.SecretID) (Secret, error)
	// Secrets returns a page of the organization's secrets with their versions, oldest
	// first (by id where two are as old), and whether more follow.
	Secrets(ctx context.Context, org plat.OrgID, offset, limit int) (all []Secret, more bool, err error)
	// UpdateSecret changes description, expiry, integration and update time to s's.
	UpdateSecret(ctx context.Context, s Secret) error
	// DeleteSecret removes a secret with its versions.
	DeleteSecret(ctx context.Context, org plat.OrgID, id plat.SecretID) error

	// AddVersion stores v under the secret's next number, which it returns. ErrExhausted when
	// the secret has limit versions.
	AddVersion(ctx context.Context, v Version, limit int) (Version, error)
	// SetVersion changes active and the update time of the version with v's id to v's.
	SetVersion(ctx context.Context, v Version) error
	// DeleteVersion removes a version.
	DeleteVersion(ctx context.Context, org plat.OrgID, secret plat.SecretID, id plat.SecretVersionID) error

	// SealedOtherwise returns up to limit versions, of all organizations, that were
	// not sealed with the key, in order of the id, which is greater than after.
	SealedOtherwise(ctx context.Context, keyID string, after plat.SecretVersionID, limit int) ([]Version, error)
	// Reseal replaces what v was sealed as by sealed, if it still is that; it reports
	// whether it was.
	Reseal(ctx context.Context, v Version, sealed []byte, keyID string) (bool, error)
}

// Sealer seals values; keyring.Ring is one.
type Sealer interface {
	// Seal seals text for a place.
	Seal(text []byte, place string) []byte
	// Unseal opens what was sealed for the place.
	Unseal(sealed []byte, place string) ([]byte, error)
	// Active is the id of the key that seals.
	Active() string
}

// Service is the rules around secrets.
type Service struct {
	store Store
	seal  Sealer
	now   plat.Clock
}

// NewService returns a Service.
func NewService(s Store, seal Sealer, now plat.Clock) *Service {
	return &Service{store: s, seal: seal, now: now}
}

// New is what a secret is made of. Value is base64 of UTF-8 text.
type New struct {
	Name, Value    string
	Description    *string
	ExpiresAt      time.Time
	Integration    string
	IntegrationIDs []string
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// suffix is the end that the original's store keeps for itself.
var suffix = regexp.MustCompile(`-.{6}$`)

// Create makes a secret with its first version, active.
func (s *Service) Create(ctx context.Context, org plat.OrgID, creator plat.UserID, in New) (Secret, error) {
	now := s.now()
	sec := Secret{
		ID: plat.SecretID(plat.NewDecimalID()), Org: org, Creator: creator, Name: in.Name, Description: in.Description,
		ExpiresAt: in.ExpiresAt, Integration: in.Integration, IntegrationIDs: in.IntegrationIDs, CreatedAt: now, UpdatedAt: now,
	}
	switch {
	case sec.Name == "":
		return Secret{}, plat.InvalidField("name", "is required")
	case len(sec.Name) > maxName || !namePattern.MatchString(sec.Name):
		return Secret{}, plat.InvalidField("name", "must be 1 to %d of A-Z, a-z, 0-9, _ and -", maxName)
	case suffix.MatchString(sec.Name):
		return Secret{}, plat.InvalidField("name", "must not end in - and six characters")
	}
	v, err := s.version(sec, 1, in.Value)
	if err = errors.Join(sec.check(), err); err != nil {
		return Secret{}, err
	}
	sec.Versions = []Version{v}
	switch err := s.store.CreateSecret(ctx, sec); {
	case errors.Is(err, plat.ErrExists):
		return Secret{}, &plat.Error{
			Kind: plat.ErrExists, Public: fmt.Sprintf("there is a secret named %q already", sec.Name),
			Detail: map[string][]string{"name": {"is taken"}}, Err: err,
		}
	case err != nil:
		return Secret{}, fmt.Errorf("create secret: %w", err)
	}
	return sec, nil
}

// version seals a value as a version of the secret.
func (s *Service) version(sec Secret, number int, value string) (Version, error) {
	text, err := base64.StdEncoding.DecodeString(value)
	switch {
	case value == "":
		return Version{}, plat.InvalidField("value", "is required: base64 of the text")
	case err != nil:
		return Version{}, plat.InvalidField("value", "is not base64")
	case len(text) > MaxValue:
		return Version{}, plat.InvalidField("value", "has %d bytes; the limit is %d", len(text), MaxValue)
	case !utf8.Valid(text):
		return Version{}, plat.InvalidField("value", "is not base64 of UTF-8 text")
	}
	now := s.now()
	v := Version{
		ID: plat.SecretVersionID(plat.NewDecimalID()), Secret: sec.ID, Org: sec.Org, Number: number, Active: true,
		CreatedAt: now, UpdatedAt: now,
	}
	v.KeyID = s.seal.Active()
	v.Sealed = s.seal.Seal(text, v.place())
	return v, nil
}

func (s Secret) check() error {
	switch {
	case s.Description != nil && (len(*s.Description) > maxText || !plain(*s.Description)):
		return plat.InvalidField("description", "must be at most %d bytes of UTF-8 text without NUL", maxText)
	case s.Integration != "" && s.Integration != IntegrationLabs:
		return plat.InvalidField("integration_service_type", "must be %s", IntegrationLabs)
	case len(s.IntegrationIDs) > maxIDs:
		return plat.InvalidField("integration_service_ids", "has more than %d entries", maxIDs)
	}
	for _, id := range s.IntegrationIDs {
		if id == "" || len(id) > 64 || !plain(id) || strings.Contains(id, ",") {
			return plat.InvalidField("integration_service_ids", "%.70q is not the id of a service", id)
		}
	}
	return nil
}

func plain(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// Get returns a secret of the organization.
func (s *Service) Get(ctx context.Context, org plat.OrgID, id plat.SecretID) (Secret, error) {
	return s.store.Secret(ctx, org, id)
}

// List returns a page of the organization's secrets and whether more follow.
func (s *Service) List(ctx context.Context, org plat.OrgID, offset, limit int) ([]Secret, bool, error) {
	return s.store.Secrets(ctx, org, offset, limit)
}

// Change says what to change; nil fields stay. An empty description and a zero time
// take away what there was.
type Change struct {
	Description    **string
	ExpiresAt      *time.Time
	Integration    *string
	IntegrationIDs *[]string
}

// Update changes a secret.
func (s *Service) Update(ctx context.Context, org plat.OrgID, id plat.SecretID, ch Change) (Secret, error) {
	sec, err := s.store.Secret(ctx, org, id)
	if err != nil {
		return Secret{}, err
	}
	if ch.Description != nil {
		sec.Description = *ch.Description
	}
	if ch.ExpiresAt != nil {
		sec.ExpiresAt = *ch.ExpiresAt
	}
	if ch.Integration != nil {
		sec.Integration = *ch.Integration
	}
	if ch.IntegrationIDs != nil {
		sec.IntegrationIDs = *ch.IntegrationIDs
	}
	if err := sec.check(); err != nil {
		return Secret{}, err
	}
	sec.UpdatedAt = s.now()
	if err := s.store.UpdateSecret(ctx, sec); err != nil {
		return Secret{}, fmt.Errorf("update secret %s: %w", id, err)
	}
	return sec, nil
}

// Delete removes a secret with all its versions.
func (s *Service) Delete(ctx context.Context, org plat.OrgID, id plat.SecretID) error {
	return s.store.DeleteSecret(ctx, org, id)
}

// AddVersion makes the next version, active; older ones keep their status.
func (s *Service) AddVersion(ctx context.Context, org plat.OrgID, id plat.SecretID, value string) (Version, error) {
	sec, err := s.store.Secret(ctx, org, id)
	if err != nil {
		return Version{}, err
	}
	v, err := s.version(sec, 0, value)
	if err != nil {
		return Version{}, err
	}
	v, err = s.store.AddVersion(ctx, v, MaxVersions)
	if errors.Is(err, plat.ErrExhausted) {
		return Version{}, plat.InvalidField("value", "the secret has %d versions, which is the limit; delete old ones first", MaxVersions)
	}
	return v, err
}

// Version returns a version and the secret that it is of.
func (s *Service) Version(ctx context.Context, org plat.OrgID, id plat.SecretID, version plat.SecretVersionID) (Secret, Version, error) {
	sec, err := s.store.Secret(ctx, org, id)
	if err != nil {
		return Secret{}, Version{}, err
	}
	i := slices.IndexFunc(sec.Versions, func(v Version) bool { return v.ID == version })
	if i < 0 {
		return Secret{}, Version{}, plat.NotFound("secret version", version)
	}
	return sec, sec.Versions[i], nil
}

// SetStatus makes a version active or inactive.
func (s *Service) SetStatus(ctx context.Context, org plat.OrgID, id plat.SecretID, version plat.SecretVersionID, active bool) (Version, error) {
	_, v, err := s.Version(ctx, org, id, version)
	if err != nil {
		return Version{}, err
	}
	v.Active, v.UpdatedAt = active, s.now()
	return v, s.store.SetVersion(ctx, v)
}

// DeleteVersion removes a version.
func (s *Service) DeleteVersion(ctx context.Context, org plat.OrgID, id plat.SecretID, version plat.SecretVersionID) error {
	return s.store.DeleteVersion(ctx, org, id, version)
}

// Value opens a version: base64, as it came. ErrForbidden when it is inactive or its secret
// has expired.
func (s *Service) Value(sec Secret, v Version) (string, error) {
	if sec.Expired(s.now()) || !v.Active {
		return "", plat.Errorf(plat.ErrForbidden, "the version is inactive")
	}
	text, err := s.seal.Unseal(v.Sealed, v.place())
	if err != nil {
		return "", fmt.Errorf("secret %s version %d: %w", sec.ID, v.Number, err)
	}
	return base64.StdEncoding.EncodeToString(text), nil
}

// Now is the clock by which secrets expire.
func (s *Service) Now() time.Time { return s.now() }

// Reseal seals with the active key what was sealed with another, and returns how
// many values those were. A value that does not open is left alone and logged: the others
// go on.
func (s *Service) Reseal(ctx context.Context, log *slog.Logger) (n int, err error) {
	key := s.seal.Active()
	for after := plat.SecretVersionID(""); ; {
		batch, err := s.store.SealedOtherwise(ctx, key, after, resealBatch)
		if err != nil || len(batch) == 0 {
			return n, err
		}
		for _, v := range batch {
			after = v.ID
			text, err := s.seal.Unseal(v.Sealed, v.place())
			if err != nil {
				log.LogAttrs(ctx, slog.LevelError, "a secret does not open", slog.String("secret_version_id", string(v.ID)),
					slog.String("key", v.KeyID), slog.String(plat.LogError, err.Error()))
				continue
			}
			done, err := s.store.Reseal(ctx, v, s.seal.Seal(text, v.place()), key)
			if err != nil {
				return n, err
			}
			if done {
				n++
			}
		}
	}
}

// resealBatch is how many values Reseal holds at once.
const resealBatch = 100
