// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"

	"panal/internal/org"
	"panal/internal/plat"
)

// User is the user that compute resources embed (compute.md §1.7).
type User struct {
	ID                string  `json:"id" doc:"13 digits, without user-"`
	Email             string  `json:"email"`
	DisplayName       *string `json:"display_name"`
	IsRegistered      bool    `json:"is_registered" doc:"always true: an admin makes users, there are no invitations"`
	Role              string  `json:"role" doc:"admin, developer or regular"`
	PreferredLanguage string  `json:"preferred_language" doc:"ja or en"`
	CreatedAt         string  `json:"created_at"`
	UpdatedAt         string  `json:"updated_at"`
}

// OrgUser is a user as the data side has it, by itself and embedded (data.md §3).
type OrgUser struct {
	User
	ProfileIcon *ProfileIcon `json:"profile_icon" doc:"always null: there are no pictures"`
}

// ProfileIcon is where a user's picture is.
type ProfileIcon struct {
	Original  string `json:"original_icon_url"`
	Thumbnail string `json:"thumbnail_icon_url"`
	Mini      string `json:"mini_icon_url"`
}

func userWire(u org.User) OrgUser { return OrgUser{User: userOf(u, plat.TimeSecZ)} }

func userOf(u org.User, layout string) User {
	return User{
		ID: string(u.ID), Email: u.Email, DisplayName: orNull(u.DisplayName), IsRegistered: true, Role: string(u.Role), PreferredLanguage: u.PreferredLanguage,
		CreatedAt: u.CreatedAt.Format(layout), UpdatedAt: u.UpdatedAt.Format(layout),
	}
}

// users looks users up for one answer, each once.
type users struct {
	a    *API
	ctx  context.Context //nolint:containedctx // lives as long as one answer
	seen map[plat.UserID]*org.User
}

func (a *API) users(ctx context.Context) *users {
	return &users{a: a, ctx: ctx, seen: map[plat.UserID]*org.User{}}
}

// get returns the user as compute resources embed it, with microseconds (compute.md §1.3);
// nil when there is none (any more).
func (u *users) get(id plat.UserID) (*User, error) {
	found, err := u.find(id)
	if found == nil {
		return nil, err
	}
	out := userOf(*found, plat.TimeMicroZ)
	return &out, nil
}

// whole is get for the resources of the data side.
func (u *users) whole(id plat.UserID) (*OrgUser, error) {
	found, err := u.find(id)
	if found == nil {
		return nil, err
	}
	out := userWire(*found)
	return &out, nil
}

func (u *users) find(id plat.UserID) (*org.User, error) {
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
	u.seen[id] = &found
	return &found, nil
}
