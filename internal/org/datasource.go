// SPDX-License-Identifier: Apache-2.0

package org

import (
	"context"
	"errors"
	"fmt"
	"time"

	"panal/internal/authn"
	"panal/internal/plat"
)

// Datasource is a machine's credential: it may send to, and read from, the channels
// that it is linked to (data.md §9).
type Datasource struct {
	ID          plat.DatasourceID
	Org         plat.OrgID
	DisplayName string
	// Sealed is the secret, sealed by the key with that id.
	Sealed    []byte
	KeyID     string
	CreatedAt time.Time
	UpdatedAt time.Time
}

// DatasourceStore keeps datasources and their links to channels. A datasource of
// another organization is ErrNotFound. Whether a channel exists is the caller's to
// know: channels may be in another database.
type DatasourceStore interface {
	// CreateDatasource stores d and its credential, whose hash is that of the secret.
	CreateDatasource(ctx context.Context, d Datasource, hash string) error
	// Datasource returns one.
	Datasource(ctx context.Context, org plat.OrgID, id plat.DatasourceID) (Datasource, error)
	// Datasources returns a page of an organization's datasources, oldest first; with
	// a channel only those that are linked to it.
	Datasources(ctx context.Context, org plat.OrgID, channel plat.ChannelID, p Page) ([]Datasource, error)
	// RenameDatasource changes the name and returns the datasource.
	RenameDatasource(ctx context.Context, org plat.OrgID, id plat.DatasourceID, name string, at time.Time) (Datasource, error)
	// DeleteDatasource removes a datasource, its links and its credential, and returns
	// what it was.
	DeleteDatasource(ctx context.Context, org plat.OrgID, id plat.DatasourceID) (Datasource, error)
	// Link links a datasource to a channel; ErrExists when it is already.
	Link(ctx context.Context, org plat.OrgID, channel plat.ChannelID, id plat.DatasourceID, at time.Time) (Datasource, error)
	// Unlink ends a link; ErrNotFound when there is none.
	Unlink(ctx context.Context, org plat.OrgID, channel plat.ChannelID, id plat.DatasourceID) (Datasource, error)
	// DatasourcesNotSealedBy returns up to limit datasources of all organizations whose
	// id is after the given one and whose secret another key has sealed, in the order of their ids.
	DatasourcesNotSealedBy(ctx context.Context, key string, after plat.DatasourceID, limit int) ([]Datasource, error)
	// ResealDatasource replaces what d was sealed as, if it still is that; it reports
	// whether it was.
	ResealDatasource(ctx context.Context, d Datasource, sealed []byte, key string) (bool, error)
	// DatasourceKeys returns how many secrets each key has sealed.
	DatasourceKeys(ctx context.Context) (map[string]int, error)
}

// Sealer hides secrets that must be shown again. It is safe for concurrent use.
type Sealer interface {
	// Seal returns text so that only Unseal can read it, and only for the same place.
	Seal(text []byte, place string) []byte
	// Unseal returns what was sealed for the place; an error when it was changed, moved
	// or sealed with a key that is gone.
	Unseal(sealed []byte, place string) ([]byte, error)
	// Active is the id of the key that seals.
	Active() string
}

// Datasources is the rules around datasources.
type Datasources struct {
	store DatasourceStore
	seal  Sealer
	now   plat.Clock
}

// NewDatasources returns the service; secrets are sealed by seal.
func NewDatasources(s DatasourceStore, seal Sealer, now plat.Clock) *Datasources {
	return &Datasources{store: s, seal: seal, now: now}
}

// Create makes a datasource with a new secret.
func (s *Datasources) Create(ctx context.Context, org plat.OrgID, name string) (Datasource, error) {
	if err := checkText("display_name", name); err != nil {
		return Datasource{}, err
	}
	secret, now := plat.NewToken(), s.now()
	d := Datasource{ID: plat.DatasourceID(plat.NewDecimalID()), Org: org, DisplayName: name, KeyID: s.seal.Active(), CreatedAt: now, UpdatedAt: now}
	d.Sealed = s.seal.Seal([]byte(secret), d.place())
	if err := s.store.CreateDatasource(ctx, d, authn.HashToken(secret)); err != nil {
		return Datasource{}, fmt.Errorf("create datasource: %w", err)
	}
	return d, nil
}

// Secret returns a datasource's secret in clear.
func (s *Datasources) Secret(d Datasource) (string, error) {
	text, err := s.seal.Unseal(d.Sealed, d.place())
	if err != nil {
		return "", fmt.Errorf("unseal the secret of datasource %s: %w", d.ID, err)
	}
	return string(text), nil
}

// place is where the secret stands: it opens nowhere else.
func (d Datasource) place() string { return "datasource/" + string(d.ID) }

// Reseal seals with the active key what was sealed with another, and returns how
// many secrets those were. One that does not open is left alone, and told of when
// the others are done: the datasource itself goes on, for its secret is checked by its hash.
func (s *Datasources) Reseal(ctx context.Context) (n int, err error) {
	const batch = 100
	var bad error
	key := s.seal.Active()
	for after := plat.DatasourceID(""); ; {
		all, err := s.store.DatasourcesNotSealedBy(ctx, key, after, batch)
		if err != nil {
			return n, err
		}
		if len(all) == 0 {
			return n, bad
		}
		for _, d := range all {
			after = d.ID
			secret, err := s.Secret(d)
			if err != nil {
				bad = err
				continue
			}
			done, err := s.store.ResealDatasource(ctx, d, s.seal.Seal([]byte(secret), d.place()), key)
			if err != nil {
				return n, err
			}
			if done {
				n++
			}
		}
	}
}

// Keys returns how many secrets each key has sealed.
func (s *Datasources) Keys(ctx context.Context) (map[string]int, error) {
	return s.store.DatasourceKeys(ctx)
}

// Get returns a datasource.
func (s *Datasources) Get(ctx context.Context, org plat.OrgID, id plat.DatasourceID) (Datasource, error) {
	return s.store.Datasource(ctx, org, id)
}

// List returns a page of datasources, oldest first, and whether there are more; with
// a channel only those that are linked to it.
func (s *Datasources) List(ctx context.Context, org plat.OrgID, channel plat.ChannelID, p Page) ([]Datasource, bool, error) {
	all, err := s.store.Datasources(ctx, org, channel, Page{Limit: p.Limit + 1, Offset: p.Offset})
	if err != nil {
		return nil, false, err
	}
	page, more := cut(all, p)
	return page, more, nil
}

// Rename changes a datasource's name.
func (s *Datasources) Rename(ctx context.Context, org plat.OrgID, id plat.DatasourceID, name string) (Datasource, error) {
	if err := checkText("display_name", name); err != nil {
		return Datasource{}, err
	}
	return s.store.RenameDatasource(ctx, org, id, name, s.now())
}

// Delete removes a datasource and ends its credential.
func (s *Datasources) Delete(ctx context.Context, org plat.OrgID, id plat.DatasourceID) (Datasource, error) {
	return s.store.DeleteDatasource(ctx, org, id)
}

// Link links a datasource to a channel of the organization.
func (s *Datasources) Link(ctx context.Context, org plat.OrgID, channel plat.ChannelID, id plat.DatasourceID) (Datasource, error) {
	d, err := s.store.Link(ctx, org, channel, id, s.now())
	if errors.Is(err, plat.ErrExists) {
		return Datasource{}, plat.Errorf(plat.ErrExists, "datasource %s is linked to channel %s already", id, channel)
	}
	return d, err
}

// Unlink ends a link.
func (s *Datasources) Unlink(ctx context.Context, org plat.OrgID, channel plat.ChannelID, id plat.DatasourceID) (Datasource, error) {
	return s.store.Unlink(ctx, org, channel, id)
}
