// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"panal/internal/plat"
	"panal/internal/secret"
)

// Secrets keeps secrets, sealed. It implements secret.Store.
type Secrets struct{ db *DB }

var _ secret.Store = (*Secrets)(nil)

// NewSecrets returns the store on the control database.
func NewSecrets(db *DB) *Secrets { return &Secrets{db: db} }

// CreateSecret implements secret.Store.
func (s *Secrets) CreateSecret(ctx context.Context, sec secret.Secret) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		last := 0
		if n := len(sec.Versions); n > 0 {
			last = sec.Versions[n-1].Number
		}
		_, err := tx.ExecContext(ctx,
			`INSERT INTO secret (id, org_id, creator, name, description, expires_at, integration, integration_ids, last_number, created_at, updated_at)
			 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
			string(sec.ID), string(sec.Org), string(sec.Creator), sec.Name, sec.Description, micros(sec.ExpiresAt), sec.Integration,
			toJSON(sec.IntegrationIDs), last, micros(sec.CreatedAt), micros(sec.UpdatedAt))
		if err != nil {
			return err
		}
		for _, v := range sec.Versions {
			if err := insertSecretVersion(ctx, tx, v); err != nil {
				return err
			}
		}
		return nil
	})
}

func insertSecretVersion(ctx context.Context, tx *Tx, v secret.Version) error {
	_, err := tx.ExecContext(ctx,
		`INSERT INTO secret_version (id, secret_id, org_id, number, active, sealed, key_id, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		string(v.ID), string(v.Secret), string(v.Org), v.Number, v.Active, v.Sealed, v.KeyID, micros(v.CreatedAt), micros(v.UpdatedAt))
	return err
}

const secretColumns = `id, org_id, creator, name, description, expires_at, integration, integration_ids, created_at, updated_at` //nolint:gosec // names of columns

func scanSecret(r interface{ Scan(...any) error }) (secret.Secret, error) {
	var s secret.Secret
	var ids string
	var expires, created, updated int64
	if err := r.Scan(&s.ID, &s.Org, &s.Creator, &s.Name, &s.Description, &expires, &s.Integration, &ids, &created, &updated); err != nil {
		return s, err
	}
	s.ExpiresAt, s.CreatedAt, s.UpdatedAt = fromMicros(expires), fromMicros(created), fromMicros(updated)
	return s, fromJSON(ids, &s.IntegrationIDs)
}

const secretVersionColumns = `id, secret_id, org_id, number, active, sealed, key_id, created_at, updated_at` //nolint:gosec // names of columns

func scanSecretVersion(r interface{ Scan(...any) error }) (secret.Version, error) {
	var v secret.Version
	var created, updated int64
	err := r.Scan(&v.ID, &v.Secret, &v.Org, &v.Number, &v.Active, &v.Sealed, &v.KeyID, &created, &updated)
	v.CreatedAt, v.UpdatedAt = fromMicros(created), fromMicros(updated)
	return v, err
}

// Secret implements secret.Store.
func (s *Secrets) Secret(ctx context.Context, org plat.OrgID, id plat.SecretID) (secret.Secret, error) {
	sec, err := scanSecret(s.db.Read().QueryRowContext(ctx, `SELECT `+secretColumns+` FROM secret WHERE id = $1 AND org_id = $2`, string(id), string(org)))
	if errors.Is(err, sql.ErrNoRows) {
		return secret.Secret{}, plat.NotFound("secret", id)
	}
	if err != nil {
		return secret.Secret{}, s.db.translate(err)
	}
	all := []secret.Secret{sec}
	err = s.addVersions(ctx, all)
	return all[0], err
}

// Secrets implements secret.Store.
func (s *Secrets) Secrets(ctx context.Context, org plat.OrgID, offset, limit int) ([]secret.Secret, bool, error) {
	all, err := scanAll(ctx, s.db, s.db.Read(), scanSecret,
		`SELECT `+secretColumns+` FROM secret WHERE org_id = $1 ORDER BY created_at, id LIMIT $2 OFFSET $3`, string(org), limit+1, offset)
	if err != nil {
		return nil, false, err
	}
	more := len(all) > limit
	all = all[:min(len(all), limit)]
	return all, more, s.addVersions(ctx, all)
}

// addVersions reads the versions of all the secrets at once.
func (s *Secrets) addVersions(ctx context.Context, all []secret.Secret) error {
	if len(all) == 0 {
		return nil
	}
	var a sqlArgs
	var in []string
	place := map[plat.SecretID]*secret.Secret{}
	for i := range all {
		in = append(in, a.add(string(all[i].ID)))
		place[all[i].ID] = &all[i]
	}
	versions, err := scanAll(ctx, s.db, s.db.Read(), scanSecretVersion,
		`SELECT `+secretVersionColumns+` FROM secret_version WHERE secret_id IN (`+strings.Join(in, ",")+`) ORDER BY secret_id, number`, a.list...)
	for _, v := range versions {
		sec := place[v.Secret]
		sec.Versions = append(sec.Versions, v)
	}
	return err
}

// UpdateSecret implements secret.Store.
func (s *Secrets) UpdateSecret(ctx context.Context, sec secret.Secret) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx,
			`UPDATE secret SET description = $1, expires_at = $2, integration = $3, integration_ids = $4, updated_at = $5 WHERE id = $6 AND org_id = $7`,
			sec.Description, micros(sec.ExpiresAt), sec.Integration, toJSON(sec.IntegrationIDs), micros(sec.UpdatedAt), string(sec.ID), string(sec.Org))
		if err != nil {
			return err
		}
		return mustAffect(res, "secret", sec.ID)
	})
}

// DeleteSecret implements secret.Store.
func (s *Secrets) DeleteSecret(ctx context.Context, org plat.OrgID, id plat.SecretID) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx, `DELETE FROM secret WHERE id = $1 AND org_id = $2`, string(id), string(org))
		if err != nil {
			return err
		}
		return mustAffect(res, "secret", id)
	})
}

// AddVersion implements secret.Store.
func (s *Secrets) AddVersion(ctx context.Context, v secret.Version, limit int) (secret.Version, error) {
	err := s.db.Write(ctx, func(tx *Tx) error {
		// The update locks the secret's row: numbers ascend and the limit holds.
		err := tx.QueryRowContext(ctx, `UPDATE secret SET last_number = last_number + 1, updated_at = $1 WHERE id = $2 AND org_id = $3 RETURNING last_number`,
			micros(v.CreatedAt), string(v.Secret), string(v.Org)).Scan(&v.Number)
		if errors.Is(err, sql.ErrNoRows) {
			return plat.NotFound("secret", v.Secret)
		}
		if err != nil {
			return err
		}
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM secret_version WHERE secret_id = $1`, string(v.Secret)).Scan(&n); err != nil {
			return err
		}
		if n >= limit {
			return plat.Errorf(plat.ErrExhausted, "the secret has %d versions", n)
		}
		return insertSecretVersion(ctx, tx, v)
	})
	return v, err
}

// SetVersion implements secret.Store.
func (s *Secrets) SetVersion(ctx context.Context, v secret.Version) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE secret_version SET active = $1, updated_at = $2 WHERE id = $3 AND secret_id = $4 AND org_id = $5`,
			v.Active, micros(v.UpdatedAt), string(v.ID), string(v.Secret), string(v.Org))
		if err != nil {
			return err
		}
		return mustAffect(res, "secret version", v.ID)
	})
}

// DeleteVersion implements secret.Store.
func (s *Secrets) DeleteVersion(ctx context.Context, org plat.OrgID, sec plat.SecretID, id plat.SecretVersionID) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx, `DELETE FROM secret_version WHERE id = $1 AND secret_id = $2 AND org_id = $3`, string(id), string(sec), string(org))
		if err != nil {
			return err
		}
		return mustAffect(res, "secret version", id)
	})
}

// SealedOtherwise implements secret.Store.
func (s *Secrets) SealedOtherwise(ctx context.Context, keyID string, after plat.SecretVersionID, limit int) ([]secret.Version, error) {
	return scanAll(ctx, s.db, s.db.Read(), scanSecretVersion,
		`SELECT `+secretVersionColumns+` FROM secret_version WHERE key_id <> $1 AND id > $2 ORDER BY id LIMIT $3`, keyID, string(after), limit)
}

// Reseal implements secret.Store.
func (s *Secrets) Reseal(ctx context.Context, v secret.Version, sealed []byte, keyID string) (bool, error) {
	var n int64
	err := s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE secret_version SET sealed = $1, key_id = $2 WHERE id = $3 AND sealed = $4`, sealed, keyID, string(v.ID), v.Sealed)
		if err == nil {
			n, err = res.RowsAffected()
		}
		return err
	})
	return n > 0, err
}

// SealedBy counts what each key has sealed in a control database.
func SealedBy(ctx context.Context, db *DB) (map[string]int, error) {
	return countBy[string](ctx, db, `SELECT key_id, COUNT(*) FROM secret_version GROUP BY key_id`)
}
