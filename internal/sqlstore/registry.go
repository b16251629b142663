// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"database/sql"
	"errors"

	"panal/internal/plat"
	"panal/internal/registry"
)

// Registry keeps the records of image repositories. It implements registry.Store.
type Registry struct{ db *DB }

var _ registry.Store = (*Registry)(nil)

// NewRegistry returns the store on the control database.
func NewRegistry(db *DB) *Registry { return &Registry{db: db} }

const repositoryColumns = `id, org_id, creator, name, description, created_at, updated_at`

func scanRepository(r interface{ Scan(...any) error }) (registry.Repository, error) {
	var v registry.Repository
	var created, updated int64
	err := r.Scan(&v.ID, &v.Org, &v.Creator, &v.Name, &v.Description, &created, &updated)
	v.CreatedAt, v.UpdatedAt = fromMicros(created), fromMicros(updated)
	return v, err
}

// CreateRepository implements registry.Store.
func (s *Registry) CreateRepository(ctx context.Context, r registry.Repository) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO repository (`+repositoryColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			string(r.ID), string(r.Org), string(r.Creator), r.Name, r.Description, micros(r.CreatedAt), micros(r.UpdatedAt))
		return err
	})
}

// Repository implements registry.Store.
func (s *Registry) Repository(ctx context.Context, org plat.OrgID, id plat.RepositoryID) (registry.Repository, error) {
	r, err := scanRepository(s.db.Read().QueryRowContext(ctx, `SELECT `+repositoryColumns+` FROM repository WHERE id = $1 AND org_id = $2`, string(id), string(org)))
	if errors.Is(err, sql.ErrNoRows) {
		return registry.Repository{}, plat.NotFound("repository", id)
	}
	return r, s.db.translate(err)
}

// Repositories implements registry.Store.
func (s *Registry) Repositories(ctx context.Context, org plat.OrgID, offset, limit int) ([]registry.Repository, bool, error) {
	all, err := scanAll(ctx, s.db, s.db.Read(), scanRepository,
		`SELECT `+repositoryColumns+` FROM repository WHERE org_id = $1 ORDER BY name LIMIT $2 OFFSET $3`, string(org), limit+1, offset)
	return all[:min(len(all), limit)], len(all) > limit, err
}

// DeleteRepository implements registry.Store.
func (s *Registry) DeleteRepository(ctx context.Context, org plat.OrgID, id plat.RepositoryID) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx, `DELETE FROM repository WHERE id = $1 AND org_id = $2`, string(id), string(org))
		if err != nil {
			return err
		}
		return mustAffect(res, "repository", id)
	})
}

const tagColumns = `id, repository_id, creator, name, digest, size, media_type, created_at, updated_at`

func scanTag(r interface{ Scan(...any) error }) (registry.Tag, error) {
	var t registry.Tag
	var created, updated int64
	err := r.Scan(&t.ID, &t.Repository, &t.Creator, &t.Name, &t.Digest, &t.Size, &t.MediaType, &created, &updated)
	t.CreatedAt, t.UpdatedAt = fromMicros(created), fromMicros(updated)
	return t, err
}

// PutTag implements registry.Store.
func (s *Registry) PutTag(ctx context.Context, t registry.Tag) (registry.Tag, error) {
	err := s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE repository SET updated_at = $1 WHERE id = $2`, micros(t.UpdatedAt), string(t.Repository))
		if err != nil {
			return err
		}
		if err := mustAffect(res, "repository", t.Repository); err != nil {
			return err
		}
		t, err = scanTag(tx.QueryRowContext(ctx,
			`INSERT INTO repository_tag (repository_id, creator, name, digest, size, media_type, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
			 ON CONFLICT (repository_id, name) DO UPDATE SET creator = excluded.creator, digest = excluded.digest, size = excluded.size,
			 media_type = excluded.media_type, updated_at = excluded.updated_at RETURNING `+tagColumns,
			string(t.Repository), string(t.Creator), t.Name, t.Digest, t.Size, t.MediaType, micros(t.CreatedAt), micros(t.UpdatedAt)))
		return err
	})
	return t, err
}

// Tags implements registry.Store.
func (s *Registry) Tags(ctx context.Context, id plat.RepositoryID, offset, limit int) ([]registry.Tag, bool, error) {
	all, err := scanAll(ctx, s.db, s.db.Read(), scanTag,
		`SELECT `+tagColumns+` FROM repository_tag WHERE repository_id = $1 ORDER BY name LIMIT $2 OFFSET $3`, string(id), limit+1, offset)
	return all[:min(len(all), limit)], len(all) > limit, err
}

// DeleteTag implements registry.Store.
func (s *Registry) DeleteTag(ctx context.Context, id plat.RepositoryID, name string) (registry.Tag, error) {
	var t registry.Tag
	err := s.db.Write(ctx, func(tx *Tx) error {
		var err error
		t, err = scanTag(tx.QueryRowContext(ctx, `DELETE FROM repository_tag WHERE repository_id = $1 AND name = $2 RETURNING `+tagColumns, string(id), name))
		if errors.Is(err, sql.ErrNoRows) {
			return plat.NotFound("tag", name)
		}
		return err
	})
	return t, err
}
