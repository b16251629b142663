// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"panal/internal/authn"
	"panal/internal/org"
	"panal/internal/plat"
)

// Orgs keeps organizations, users and tokens. It implements org.Store and authn.Store.
type Orgs struct{ db *DB }

var (
	_ org.Store   = (*Orgs)(nil)
	_ authn.Store = (*Orgs)(nil)
)

// NewOrgs returns the store on the control database.
func NewOrgs(db *DB) *Orgs { return &Orgs{db: db} }

// CreateOrganization implements org.Store.
func (s *Orgs) CreateOrganization(ctx context.Context, o org.Organization) (org.Organization, error) {
	err := s.db.Write(ctx, func(tx *Tx) error {
		err := tx.QueryRowContext(ctx, `INSERT INTO organization (id, name, operator, state, quota, created_at, updated_at)
			VALUES ($1, $2, NOT EXISTS (SELECT 1 FROM organization), $3, $4, $5, $6) RETURNING operator`,
			string(o.ID), o.Name, string(o.State), o.Quota, micros(o.CreatedAt), micros(o.UpdatedAt)).Scan(&o.Operator)
		if err != nil {
			return err
		}
		return tx.Event(ctx, org.TopicOrganization, string(o.ID), "created", o.CreatedAt)
	})
	return o, err
}

const orgColumns = `id, name, operator, state, quota, created_at, updated_at`

func scanOrg(r interface{ Scan(...any) error }) (org.Organization, error) {
	var o org.Organization
	var created, updated int64
	err := r.Scan(&o.ID, &o.Name, &o.Operator, &o.State, &o.Quota, &created, &updated)
	o.CreatedAt, o.UpdatedAt = fromMicros(created), fromMicros(updated)
	return o, err
}

// Organization implements org.Store.
func (s *Orgs) Organization(ctx context.Context, idOrName string) (org.Organization, error) {
	all, err := scanAll(ctx, s.db, s.db.Read(), scanOrg, `SELECT `+orgColumns+` FROM organization WHERE id = $1 OR name = $1`, idOrName)
	if err != nil {
		return org.Organization{}, err
	}
	if len(all) == 0 {
		return org.Organization{}, plat.NotFound("organization", idOrName)
	}
	return all[0], nil
}

// Organizations implements org.Store.
func (s *Orgs) Organizations(ctx context.Context) ([]org.Organization, error) {
	return scanAll(ctx, s.db, s.db.Read(), scanOrg, `SELECT `+orgColumns+` FROM organization ORDER BY created_at, id`)
}

// UpdateOrganization implements org.Store.
func (s *Orgs) UpdateOrganization(ctx context.Context, id plat.OrgID, change func(*org.Organization) error) (org.Organization, error) {
	var o org.Organization
	err := s.db.Write(ctx, func(tx *Tx) error {
		if err := lock(ctx, tx, "organization", string(id)); err != nil {
			return err
		}
		all, err := scanAll(ctx, s.db, tx, scanOrg, `SELECT `+orgColumns+` FROM organization WHERE id = $1`, string(id))
		if err != nil {
			return err
		}
		if len(all) == 0 {
			return plat.NotFound("organization", id)
		}
		o = all[0]
		if err := change(&o); err != nil || o == all[0] {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE organization SET name = $1, state = $2, quota = $3, updated_at = $4 WHERE id = $5`,
			o.Name, string(o.State), o.Quota, micros(o.UpdatedAt), string(id)); err != nil {
			return err
		}
		return tx.Event(ctx, org.TopicOrganization, string(id), string(o.State), o.UpdatedAt)
	})
	return o, err
}

// DeleteOrganization implements org.Store.
func (s *Orgs) DeleteOrganization(ctx context.Context, id plat.OrgID, at time.Time) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		var state org.State
		err := tx.QueryRowContext(ctx, `SELECT state FROM organization WHERE id = $1`, string(id)).Scan(&state)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return nil
		case err != nil:
			return err
		case state != org.Deleting:
			return plat.Errorf(plat.ErrConflict, "organization %s is %s", id, state)
		}
		for _, stmt := range []string{
			`DELETE FROM token WHERE org_id = $1`, `DELETE FROM person WHERE org_id = $1`, `DELETE FROM organization WHERE id = $1`,
		} {
			if _, err := tx.ExecContext(ctx, stmt, string(id)); err != nil {
				return err
			}
		}
		return tx.Event(ctx, org.TopicOrganization, string(id), "deleted", at)
	})
}

// CountUsers implements org.Store.
func (s *Orgs) CountUsers(ctx context.Context, id plat.OrgID) (int64, error) {
	var n int64
	err := s.db.Read().QueryRowContext(ctx, `SELECT COUNT(*) FROM person WHERE org_id = $1`, string(id)).Scan(&n)
	return n, s.db.translate(err)
}

// CreateToken implements authn.Store.
func (s *Orgs) CreateToken(ctx context.Context, t authn.Token) error {
	return s.db.Write(ctx, func(tx *Tx) error { return tx.createToken(ctx, t) })
}

func (tx *Tx) createToken(ctx context.Context, t authn.Token) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO token (hash, id, name, kind, org_id, user_id, datasource_id, workload, scope, created_at, ended_at, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`,
		t.Hash, string(t.ID), t.Name, string(t.Kind), string(t.Org), string(t.User), string(t.Datasource), string(t.Scope.Workload), toJSON(t.Scope),
		micros(t.CreatedAt), micros(t.EndedAt), micros(t.ExpiresAt))
	return err
}

// TokenByHash implements authn.Store.
func (s *Orgs) TokenByHash(ctx context.Context, hash string) (authn.Token, authn.Role, error) {
	t := authn.Token{Hash: hash}
	var role, scope string
	var created, ended, expires int64
	row := s.db.Read().QueryRowContext(ctx,
		`SELECT t.id, t.name, t.kind, t.org_id, t.user_id, t.datasource_id, t.scope, t.created_at, t.ended_at, t.expires_at, COALESCE(p.role, '')
		 FROM token t LEFT JOIN person p ON p.id = t.user_id WHERE t.hash = $1`, hash)
	if err := s.db.one(row, "token", "", &t.ID, &t.Name, &t.Kind, &t.Org, &t.User, &t.Datasource, &scope, &created, &ended, &expires, &role); err != nil {
		return authn.Token{}, "", err
	}
	if err := fromJSON(scope, &t.Scope); err != nil {
		return authn.Token{}, "", err
	}
	t.CreatedAt, t.EndedAt, t.ExpiresAt = fromMicros(created), fromMicros(ended), fromMicros(expires)
	switch t.Kind {
	case authn.KindContainer:
		role = "" // a container never has its owner's role
	case authn.KindDatasource:
		var err error
		if t.Channels, err = s.linksOf(ctx, t.Datasource); err != nil {
			return authn.Token{}, "", err
		}
		role = ""
	default:
		if role == "" {
			return authn.Token{}, "", plat.NotFound("token", "") // its user is gone
		}
	}
	return t, authn.Role(role), nil
}

// EndWorkloadTokens implements authn.Store.
func (s *Orgs) EndWorkloadTokens(ctx context.Context, w plat.WorkloadID, at, expires time.Time) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE token SET ended_at = $1, expires_at = $2 WHERE workload = $3 AND ended_at = 0`,
			micros(at), micros(expires), string(w))
		return err
	})
}

// DeleteExpiredTokens implements authn.Store.
func (s *Orgs) DeleteExpiredTokens(ctx context.Context, t time.Time) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM token WHERE expires_at > 0 AND expires_at < $1`, micros(t))
		return err
	})
}
