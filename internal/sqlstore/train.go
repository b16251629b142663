// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"panal/internal/plat"
	"panal/internal/train"
)

// Training keeps job definitions, versions, jobs and models on the control
// database. It implements train.Store.
type Training struct{ db *DB }

var _ train.Store = (*Training)(nil)

// NewTraining returns the store on the control database.
func NewTraining(db *DB) *Training { return &Training{db: db} }

type scanner = interface{ Scan(...any) error }

// CreateDefinition implements train.Store.
func (s *Training) CreateDefinition(ctx context.Context, d train.Definition) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO train_definition (id, org_id, name, archived, next_version, created_at, modified_at) VALUES ($1, $2, $3, $4, 1, $5, $6)`,
			string(d.ID), string(d.Org), d.Name, d.Archived, micros(d.CreatedAt), micros(d.ModifiedAt))
		if err != nil {
			return err
		}
		return tx.Event(ctx, train.TopicDefinition, string(d.ID), "created", d.CreatedAt)
	})
}

const definitionColumns = `d.id, d.org_id, d.name, d.archived, d.created_at, d.modified_at,
	(SELECT COUNT(*) FROM train_version v WHERE v.definition_id = d.id),
	(SELECT COUNT(*) FROM train_model m WHERE m.definition_id = d.id)`

func scanDefinition(r scanner) (train.Definition, error) {
	var d train.Definition
	var created, modified int64
	err := r.Scan(&d.ID, &d.Org, &d.Name, &d.Archived, &created, &modified, &d.VersionCount, &d.ModelCount)
	d.CreatedAt, d.ModifiedAt = fromMicros(created), fromMicros(modified)
	return d, err
}

// Definition implements train.Store. A name is never only digits, so it can't be
// taken for an id.
func (s *Training) Definition(ctx context.Context, org plat.OrgID, idOrName string) (train.Definition, error) {
	all, err := scanAll(ctx, s.db, s.db.Read(), scanDefinition,
		`SELECT `+definitionColumns+` FROM train_definition d WHERE d.org_id = $1 AND (d.id = $2 OR d.name = $2)`, string(org), textParam(idOrName))
	if err != nil {
		return train.Definition{}, err
	}
	if len(all) == 0 {
		return train.Definition{}, plat.NotFound("job definition", idOrName)
	}
	return all[0], nil
}

// textParam makes text from a path fit to be compared: PostgreSQL refuses NUL and
// bytes that are not UTF-8 even in a comparison. Nothing stored holds either.
func textParam(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// Definitions implements train.Store.
func (s *Training) Definitions(ctx context.Context, org plat.OrgID, p train.Page) ([]train.Definition, int, error) {
	where := `d.org_id = $1` + archivedFilter("d", p)
	all, err := scanAll(ctx, s.db, s.db.Read(), scanDefinition,
		`SELECT `+definitionColumns+` FROM train_definition d WHERE `+where+` ORDER BY d.created_at DESC, d.id DESC`+limit(p), string(org))
	if err != nil {
		return nil, 0, err
	}
	n, err := s.count(ctx, `train_definition d WHERE `+where, string(org))
	return all, n, err
}

func archivedFilter(table string, p train.Page) string {
	if p.ExcludeArchived {
		return ` AND NOT ` + table + `.archived`
	}
	return ""
}

func limit(p train.Page) string {
	out := ""
	if p.Limit > 0 {
		out = ` LIMIT ` + strconv.Itoa(p.Limit)
	}
	if p.Offset > 0 {
		if out == "" {
			out = ` LIMIT 9223372036854775807` // SQLite has no OFFSET without a LIMIT
		}
		out += ` OFFSET ` + strconv.Itoa(p.Offset)
	}
	return out
}

func (s *Training) count(ctx context.Context, from string, args ...any) (int, error) {
	var n int
	err := s.db.Read().QueryRowContext(ctx, `SELECT COUNT(*) FROM `+from, args...).Scan(&n)
	return n, s.db.translate(err)
}

// ArchiveDefinition implements train.Store.
func (s *Training) ArchiveDefinition(ctx context.Context, id plat.JobDefinitionID, archived bool, at time.Time) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE train_definition SET archived = $1, modified_at = $2 WHERE id = $3`, archived, micros(at), string(id))
		if err != nil {
			return err
		}
		return mustAffect(res, "job definition", id)
	})
}

// DeleteDefinition implements train.Store. The definition's row is touched first:
// on PostgreSQL that keeps new versions (and with them jobs) out until the end.
func (s *Training) DeleteDefinition(ctx context.Context, id plat.JobDefinitionID, prefix string, at time.Time) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE train_definition SET next_version = next_version WHERE id = $1`, string(id))
		if err != nil {
			return err
		}
		if err := mustAffect(res, "job definition", id); err != nil {
			return err
		}
		var live int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM train_job WHERE definition_id = $1 AND status IN ($2, $3)`,
			string(id), string(train.Pending), string(train.Active)).Scan(&live); err != nil {
			return err
		}
		if live > 0 {
			return plat.Errorf(plat.ErrConflict, "job definition %s has %d jobs that are Pending or Active; stop them first", id, live)
		}
		for _, stmt := range []string{
			`DELETE FROM train_report WHERE job_id IN (SELECT id FROM train_job WHERE definition_id = $1)`,
			`DELETE FROM train_job WHERE definition_id = $1`,
			`DELETE FROM train_model WHERE definition_id = $1`,
			`DELETE FROM train_version WHERE definition_id = $1`,
			`DELETE FROM train_definition WHERE id = $1`,
		} {
			if _, err := tx.ExecContext(ctx, stmt, string(id)); err != nil {
				return err
			}
		}
		if err := trash(ctx, tx, prefix, at); err != nil {
			return err
		}
		return tx.Event(ctx, train.TopicDefinition, string(id), "deleted", at)
	})
}

func trash(ctx context.Context, tx *Tx, prefix string, at time.Time) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO train_trash (prefix, created_at) VALUES ($1, $2) ON CONFLICT DO NOTHING`, prefix, micros(at))
	return err
}

// NextVersion implements train.Store.
func (s *Training) NextVersion(ctx context.Context, id plat.JobDefinitionID) (int, error) {
	var n int
	err := s.db.Write(ctx, func(tx *Tx) error {
		row := tx.QueryRowContext(ctx, `UPDATE train_definition SET next_version = next_version + 1 WHERE id = $1 RETURNING next_version - 1`, string(id))
		return s.db.one(row, "job definition", id, &n)
	})
	return n, err
}

// CreateVersion implements train.Store.
func (s *Training) CreateVersion(ctx context.Context, v train.Version) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO train_version (`+versionColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`,
			string(v.Definition), v.Number, string(v.Org), v.Handler, v.Image, toJSON(v.Environment), toJSON(v.Datasets), toJSON(v.Premounts),
			v.Description, v.Archived, v.Source, v.SourceType, micros(v.CreatedAt), micros(v.ModifiedAt), toJSON(v.Git))
		return s.parent(err, "job definition", v.Definition)
	})
}

// parent makes ErrNotFound of the violation of a foreign key.
func (s *Training) parent(err error, noun string, id any) error {
	if err = s.db.translate(err); errors.Is(err, plat.ErrConflict) {
		return plat.NotFound(noun, id)
	}
	return err
}

const versionColumns = `definition_id, number, org_id, handler, image, environment, datasets, premounts, description, archived, source, source_type, created_at, modified_at, git`

func scanVersion(r scanner) (train.Version, error) {
	var v train.Version
	var env, datasets, premounts, git string
	var created, modified int64
	err := r.Scan(&v.Definition, &v.Number, &v.Org, &v.Handler, &v.Image, &env, &datasets, &premounts, &v.Description, &v.Archived, &v.Source, &v.SourceType, &created, &modified, &git)
	if err != nil {
		return v, err
	}
	v.CreatedAt, v.ModifiedAt = fromMicros(created), fromMicros(modified)
	return v, errors.Join(fromJSON(git, &v.Git), fromJSON(env, &v.Environment), fromJSON(datasets, &v.Datasets), fromJSON(premounts, &v.Premounts))
}

// Version implements train.Store.
func (s *Training) Version(ctx context.Context, def plat.JobDefinitionID, number int) (train.Version, error) {
	all, err := scanAll(ctx, s.db, s.db.Read(), scanVersion,
		`SELECT `+versionColumns+` FROM train_version WHERE definition_id = $1 AND number = $2`, string(def), number)
	if err != nil {
		return train.Version{}, err
	}
	if len(all) == 0 {
		return train.Version{}, plat.NotFound("job definition version", number)
	}
	return all[0], nil
}

// Versions implements train.Store.
func (s *Training) Versions(ctx context.Context, excludeArchived bool, defs ...plat.JobDefinitionID) ([]train.Version, error) {
	out := []train.Version{}
	for len(defs) > 0 {
		n := min(len(defs), 1000)
		marks, args := make([]string, n), make([]any, n)
		for i, id := range defs[:n] {
			marks[i], args[i] = "$"+strconv.Itoa(i+1), string(id)
		}
		part, err := scanAll(ctx, s.db, s.db.Read(), scanVersion,
			`SELECT `+versionColumns+` FROM train_version v WHERE definition_id IN (`+strings.Join(marks, ", ")+`)`+
				archivedFilter("v", train.Page{ExcludeArchived: excludeArchived})+` ORDER BY definition_id, number`, args...)
		if err != nil {
			return nil, err
		}
		out, defs = append(out, part...), defs[n:]
	}
	return out, nil
}

// UpdateVersion implements train.Store.
func (s *Training) UpdateVersion(ctx context.Context, v train.Version) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE train_version SET description = $1, archived = $2, modified_at = $3 WHERE definition_id = $4 AND number = $5`,
			v.Description, v.Archived, micros(v.ModifiedAt), string(v.Definition), v.Number)
		if err != nil {
			return err
		}
		return mustAffect(res, "job definition version", v.Number)
	})
}

// DeleteVersion implements train.Store.
func (s *Training) DeleteVersion(ctx context.Context, def plat.JobDefinitionID, number int, prefix string, at time.Time) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx, `DELETE FROM train_version WHERE definition_id = $1 AND number = $2`, string(def), number)
		if err := s.db.translate(err); errors.Is(err, plat.ErrConflict) {
			return plat.Errorf(plat.ErrConflict, "version %d has jobs; archive it instead", number)
		} else if err != nil {
			return err
		}
		if err := mustAffect(res, "job definition version", number); err != nil {
			return err
		}
		return trash(ctx, tx, prefix, at)
	})
}

// CreateModel implements train.Store.
func (s *Training) CreateModel(ctx context.Context, m train.Model) error {
	return s.db.Write(ctx, func(tx *Tx) error { return s.insertModel(ctx, tx, m) })
}

func (s *Training) insertModel(ctx context.Context, tx *Tx, m train.Model) error {
	res, err := tx.ExecContext(ctx, `INSERT INTO train_model (`+modelColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
		ON CONFLICT (job_id) WHERE from_result DO NOTHING`,
		string(m.ID), string(m.Org), string(m.Definition), string(m.Job), toJSON(m.Environment), toJSON(m.Metrics), m.Description, string(m.ExecEnv),
		m.Archived, string(m.User), m.Object, m.FromResult, micros(m.CreatedAt), micros(m.ModifiedAt))
	if err != nil {
		return s.parent(err, "job definition", m.Definition)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err // the job's result is a model already
	}
	return tx.Event(ctx, train.TopicModel, string(m.ID), "created", m.CreatedAt)
}

const modelColumns = `id, org_id, definition_id, job_id, environment, metrics, description, exec_env, archived, user_id, object, from_result, created_at, modified_at`

func scanModel(r scanner) (train.Model, error) {
	var m train.Model
	var env, metrics string
	var created, modified int64
	err := r.Scan(&m.ID, &m.Org, &m.Definition, &m.Job, &env, &metrics, &m.Description, &m.ExecEnv, &m.Archived, &m.User, &m.Object, &m.FromResult, &created, &modified)
	if err != nil {
		return m, err
	}
	m.CreatedAt, m.ModifiedAt = fromMicros(created), fromMicros(modified)
	return m, errors.Join(fromJSON(env, &m.Environment), fromJSON(metrics, &m.Metrics))
}

// Model implements train.Store.
func (s *Training) Model(ctx context.Context, id plat.ModelID) (train.Model, error) {
	all, err := scanAll(ctx, s.db, s.db.Read(), scanModel, `SELECT `+modelColumns+` FROM train_model WHERE id = $1`, textParam(string(id)))
	if err != nil {
		return train.Model{}, err
	}
	if len(all) == 0 {
		return train.Model{}, plat.NotFound("training model", id)
	}
	return all[0], nil
}

// Models implements train.Store.
func (s *Training) Models(ctx context.Context, def plat.JobDefinitionID, p train.Page) ([]train.Model, int, error) {
	where := `m.definition_id = $1` + archivedFilter("m", p)
	all, err := scanAll(ctx, s.db, s.db.Read(), scanModel,
		`SELECT `+modelColumns+` FROM train_model m WHERE `+where+` ORDER BY created_at DESC, id DESC`+limit(p), string(def))
	if err != nil {
		return nil, 0, err
	}
	n, err := s.count(ctx, `train_model m WHERE `+where, string(def))
	return all, n, err
}

// UpdateModel implements train.Store.
func (s *Training) UpdateModel(ctx context.Context, m train.Model) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE train_model SET description = $1, archived = $2, modified_at = $3 WHERE id = $4`,
			m.Description, m.Archived, micros(m.ModifiedAt), string(m.ID))
		if err != nil {
			return err
		}
		return mustAffect(res, "training model", m.ID)
	})
}

// Trash implements train.Store.
func (s *Training) Trash(ctx context.Context, limit int) ([]string, error) {
	scan := func(r scanner) (string, error) {
		var prefix string
		err := r.Scan(&prefix)
		return prefix, err
	}
	return scanAll(ctx, s.db, s.db.Read(), scan, `SELECT prefix FROM train_trash ORDER BY created_at, prefix LIMIT $1`, limit)
}

// Emptied implements train.Store.
func (s *Training) Emptied(ctx context.Context, prefix string) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM train_trash WHERE prefix = $1`, prefix)
		return err
	})
}
