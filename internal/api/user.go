// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"

	"panal/internal/plat"
)

// User is the user that compute resources embed (compute.md §1.7).
type User struct {
	ID           string  `json:"id" doc:"13 digits, without user-"`
	Email        string  `json:"email"`
	DisplayName  *string `json:"display_name"`
	IsRegistered bool    `json:"is_registered"`
	Role         string  `json:"role" doc:"admin, developer or regular"`
	CreatedAt    string  `json:"created_at"`
	UpdatedAt    string  `json:"updated_at"`
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
	out := &User{
		ID: string(found.ID), Email: found.Email, IsRegistered: true, Role: string(found.Role),
		CreatedAt: found.CreatedAt.Format(plat.TimeMicroZ), UpdatedAt: found.UpdatedAt.Format(plat.TimeMicroZ),
	}
	if found.DisplayName != "" {
		out.DisplayName = &found.DisplayName
	}
	u.seen[id] = out
	return out, nil
}
