// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"

	"panal/internal/org"
	"panal/internal/plat"
)

// User is a user, also as compute resources embed it (data.md §3, compute.md §1.7).
type User struct {
	ID                string       `json:"id" doc:"13 digits, without user-"`
	Email             string       `json:"email"`
	DisplayName       *string      `json:"display_name"`
	PreferredLanguage string       `json:"preferred_language" doc:"ja or en"`
	IsRegistered      bool         `json:"is_registered" doc:"always true: users are made by an admin, not invited"`
	ProfileIcon       *ProfileIcon `json:"profile_icon" doc:"always null: there are none"`
	Role              string       `json:"role" doc:"admin, developer or regular"`
	CreatedAt         string       `json:"created_at" doc:"seconds, Z"`
	UpdatedAt         string       `json:"updated_at"`
}

// ProfileIcon is where a user's picture is.
type ProfileIcon struct {
	Original  string `json:"original_icon_url"`
	Thumbnail string `json:"thumbnail_icon_url"`
	Mini      string `json:"mini_icon_url"`
}

func userWire(u org.User) User {
	return User{
		ID: string(u.ID), Email: u.Email, DisplayName: orNull(u.DisplayName), PreferredLanguage: u.PreferredLanguage, IsRegistered: true,
		Role: string(u.Role), CreatedAt: u.CreatedAt.Format(plat.TimeSecZ), UpdatedAt: u.UpdatedAt.Format(plat.TimeSecZ),
	}
}

// users looks users up for one answer, each once.
type users struct {
	a    *API
	ctx  context.Context //nolint:containedctx // lives as long as one answer
	seen map[plat.UserID]*User
}

func (a *API) users(ctx context.Context) *users {
	return &users{a: a, ctx: ctx, seen: map[plat.UserID]*User{}}
}

// get returns the user, or nil when there is none (any more).
func (u *users) get(id plat.UserID) (*User, error) {
	if id == "" {
		return nil, nil
	}
	if have, ok := u.seen[id]; ok {
		return have, nil
	}
	found, err := u.a.Orgs.User(u.ctx, id)
	switch {
	case errors.Is(err, plat.ErrNotFound):
		u.seen[id] = nil
		return nil, nil
	case err != nil:
		return nil, err
	}
	out := userWire(found)
	u.seen[id] = &out
	return &out, nil
}
