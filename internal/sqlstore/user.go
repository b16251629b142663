// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"slices"
	"strings"
	"time"

	"panal/internal/authn"
	"panal/internal/org"
	"panal/internal/plat"
)

const userColumns = `id, org_id, email, display_name, preferred_language, role, created_at, updated_at`

func scanUser(r interface{ Scan(...any) error }) (org.User, error) {
	var u org.User
	var created, updated int64
	err := r.Scan(&u.ID, &u.Org, &u.Email, &u.DisplayName, &u.PreferredLanguage, &u.Role, &created, &updated)
	u.CreatedAt, u.UpdatedAt = fromMicros(created), fromMicros(updated)
	return u, err
}

// CreateUser implements org.Store.
func (s *Orgs) CreateUser(ctx context.Context, u org.User) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		if err := tx.lockOrg(ctx, u.Org); err != nil {
			return err
		}
		if err := tx.freeEmail(ctx, u); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO person (`+userColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			string(u.ID), string(u.Org), u.Email, u.DisplayName, u.PreferredLanguage, string(u.Role), micros(u.CreatedAt), micros(u.UpdatedAt))
		return err
	})
}

// User implements org.Store.
func (s *Orgs) User(ctx context.Context, id plat.UserID) (org.User, error) {
	return first(scanAll(ctx, s.db, s.db.Read(), scanUser, `SELECT `+userColumns+` FROM person WHERE id = $1`, string(id)))("user", id)
}

// Users implements org.UserStore.
func (s *Orgs) Users(ctx context.Context, o plat.OrgID, p org.Page) ([]org.User, error) {
	return scanAll(ctx, s.db, s.db.Read(), scanUser,
		`SELECT `+userColumns+` FROM person WHERE org_id = $1 ORDER BY created_at, id LIMIT $2 OFFSET $3`, string(o), p.Limit, p.Offset)
}

// lockOrg makes changes of one organization's people and rules wait for each other
// until the transaction ends: an update that changes nothing takes the row on
// PostgreSQL, and SQLite has one writer.
func (tx *Tx) lockOrg(ctx context.Context, o plat.OrgID) error {
	res, err := tx.ExecContext(ctx, `UPDATE organization SET updated_at = updated_at WHERE id = $1`, string(o))
	if err != nil {
		return err
	}
	return mustAffect(res, "organization", o)
}

// keepAdmin runs change, which may take an admin or a token away, and refuses what
// would leave the organization without an admin who can log in.
func (s *Orgs) keepAdmin(ctx context.Context, o plat.OrgID, change func(tx *Tx) error) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		if err := tx.lockOrg(ctx, o); err != nil {
			return err
		}
		admins := func() (n int, err error) {
			err = tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM person p WHERE p.org_id = $1 AND p.role = 'admin'
				AND EXISTS (SELECT 1 FROM token t WHERE t.user_id = p.id AND t.kind = 'user' AND t.expires_at = 0)`, string(o)).Scan(&n)
			return n, err
		}
		before, err := admins()
		if err != nil {
			return err
		}
		if err := change(tx); err != nil {
			return err
		}
		after, err := admins()
		if err == nil && before > 0 && after == 0 {
			err = org.ErrLastAdmin()
		}
		return err
	})
}

func (tx *Tx) user(ctx context.Context, o plat.OrgID, id plat.UserID) (org.User, error) {
	return first(scanAll(ctx, tx.db, tx, scanUser, `SELECT `+userColumns+` FROM person WHERE id = $1 AND org_id = $2`, string(id), string(o)))("user", id)
}

// freeEmail is ErrExists where another user of the organization has u's address, in
// whatever case. The caller holds the organization's lock. The engines don't agree on
// what LOWER makes of letters beyond ASCII, so we compare.
func (tx *Tx) freeEmail(ctx context.Context, u org.User) error {
	all, err := scanAll(ctx, tx.db, tx, func(r scanner) (s string, err error) { return s, r.Scan(&s) }, `SELECT email FROM person WHERE org_id = $1 AND id <> $2`, string(u.Org), string(u.ID))
	if err == nil && slices.ContainsFunc(all, func(other string) bool { return strings.EqualFold(other, u.Email) }) {
		err = plat.Errorf(plat.ErrExists, "a user has the address %s", u.Email)
	}
	return err
}

// UpdateUser implements org.UserStore.
func (s *Orgs) UpdateUser(ctx context.Context, o plat.OrgID, id plat.UserID, c org.UserChange, at time.Time) (u org.User, err error) {
	err = s.keepAdmin(ctx, o, func(tx *Tx) error {
		if u, err = tx.user(ctx, o, id); err != nil {
			return err
		}
		set(&u.Email, c.Email)
		set(&u.DisplayName, c.DisplayName)
		set(&u.PreferredLanguage, c.PreferredLanguage)
		set(&u.Role, c.Role)
		u.UpdatedAt = fromMicros(micros(at))
		if c.Email != nil {
			if err := tx.freeEmail(ctx, u); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `UPDATE person SET email = $1, display_name = $2, preferred_language = $3, role = $4, updated_at = $5 WHERE id = $6`,
			u.Email, u.DisplayName, u.PreferredLanguage, string(u.Role), micros(at), string(id))
		return err
	})
	return u, err
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// DeleteUser implements org.UserStore.
func (s *Orgs) DeleteUser(ctx context.Context, o plat.OrgID, id plat.UserID, at time.Time) (u org.User, err error) {
	err = s.keepAdmin(ctx, o, func(tx *Tx) error {
		if u, err = tx.user(ctx, o, id); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM token WHERE user_id = $1 AND kind = 'user'`, string(id)); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM person WHERE id = $1`, string(id)); err != nil {
			return err
		}
		return tx.Event(ctx, "user", string(id), "deleted", at)
	})
	return u, err
}

// CreateUserToken implements org.UserStore.
func (s *Orgs) CreateUserToken(ctx context.Context, t authn.Token, limit int) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		if err := tx.lockOrg(ctx, t.Org); err != nil {
			return err
		}
		if _, err := tx.user(ctx, t.Org, t.User); err != nil {
			return err
		}
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM token WHERE user_id = $1 AND kind = 'user'`, string(t.User)).Scan(&n); err != nil {
			return err
		}
		if n >= limit {
			return plat.Errorf(plat.ErrInvalid, "a user has at most %d tokens; revoke one first", limit)
		}
		return tx.createToken(ctx, t)
	})
}

const userTokenColumns = `hash, id, name, kind, org_id, user_id, created_at, expires_at` //nolint:gosec // names of columns

func scanToken(r interface{ Scan(...any) error }) (authn.Token, error) {
	var t authn.Token
	var created, expires int64
	err := r.Scan(&t.Hash, &t.ID, &t.Name, &t.Kind, &t.Org, &t.User, &created, &expires)
	t.CreatedAt, t.ExpiresAt = fromMicros(created), fromMicros(expires)
	return t, err
}

// UserTokens implements org.UserStore.
func (s *Orgs) UserTokens(ctx context.Context, o plat.OrgID, u plat.UserID) ([]authn.Token, error) {
	return scanAll(ctx, s.db, s.db.Read(), scanToken,
		`SELECT `+userTokenColumns+` FROM token WHERE user_id = $1 AND kind = 'user' AND org_id = $2 ORDER BY created_at, id`, string(u), string(o))
}

// DeleteToken implements org.UserStore.
func (s *Orgs) DeleteToken(ctx context.Context, o plat.OrgID, u plat.UserID, id plat.TokenID) (t authn.Token, err error) {
	err = s.keepAdmin(ctx, o, func(tx *Tx) error {
		t, err = first(scanAll(ctx, s.db, tx, scanToken, `SELECT `+userTokenColumns+` FROM token WHERE id = $1 AND id <> '' AND user_id = $2 AND kind = 'user' AND org_id = $3`,
			string(id), string(u), string(o)))("token", id)
		if err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM token WHERE hash = $1`, t.Hash)
		return err
	})
	return t, err
}
