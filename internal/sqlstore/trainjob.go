// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"errors"

	"panal/internal/plat"
	"panal/internal/train"
)

// CreateJob implements train.Store.
func (s *Training) CreateJob(ctx context.Context, j train.Job) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO train_job (`+jobColumns+`)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, 0)`,
			string(j.ID), string(j.Org), string(j.Definition), j.Version, string(j.Status), j.StatusMessage, j.InstanceType, string(j.ExecEnv),
			toJSON(j.Environment), toJSON(j.Datasets), toJSON(j.Premounts), j.ExportLog, j.Description, string(j.Creator), j.Archived,
			string(j.Statistics), micros(j.StartTime), micros(j.CompletedAt), micros(j.CreatedAt), micros(j.ModifiedAt), string(j.Workload), j.Settled)
		if err != nil {
			return s.parent(err, "job definition version", j.Version)
		}
		return tx.Event(ctx, train.TopicJob, string(j.ID), "created", j.CreatedAt)
	})
}

const jobColumns = `id, org_id, definition_id, version, status, status_message, instance_type, exec_env,
	environment, datasets, premounts, export_log, description, creator, archived,
	statistics, start_time, completed_at, created_at, modified_at, workload, settled, revision`

// jobRow is a job with its revision, which tells one writer of another.
type jobRow struct {
	train.Job
	revision int64
}

func scanJobRow(r scanner) (jobRow, error) {
	var j jobRow
	var env, datasets, premounts, statistics string
	var start, completed, created, modified int64
	err := r.Scan(&j.ID, &j.Org, &j.Definition, &j.Version, &j.Status, &j.StatusMessage, &j.InstanceType, &j.ExecEnv,
		&env, &datasets, &premounts, &j.ExportLog, &j.Description, &j.Creator, &j.Archived,
		&statistics, &start, &completed, &created, &modified, &j.Workload, &j.Settled, &j.revision)
	if err != nil {
		return j, err
	}
	if statistics != "" {
		j.Statistics = []byte(statistics)
	}
	j.StartTime, j.CompletedAt, j.CreatedAt, j.ModifiedAt = fromMicros(start), fromMicros(completed), fromMicros(created), fromMicros(modified)
	return j, errors.Join(fromJSON(env, &j.Environment), fromJSON(datasets, &j.Datasets), fromJSON(premounts, &j.Premounts))
}

func scanJob(r scanner) (train.Job, error) {
	row, err := scanJobRow(r)
	return row.Job, err
}

func (s *Training) jobRow(ctx context.Context, q Querier, id plat.JobID) (jobRow, error) {
	all, err := scanAll(ctx, s.db, q, scanJobRow, `SELECT `+jobColumns+` FROM train_job WHERE id = $1`, textParam(string(id)))
	if err != nil {
		return jobRow{}, err
	}
	if len(all) == 0 {
		return jobRow{}, plat.NotFound("training job", id)
	}
	return all[0], nil
}

// Job implements train.Store.
func (s *Training) Job(ctx context.Context, id plat.JobID) (train.Job, error) {
	row, err := s.jobRow(ctx, s.db.Read(), id)
	return row.Job, err
}

// Jobs implements train.Store.
func (s *Training) Jobs(ctx context.Context, def plat.JobDefinitionID, p train.Page) ([]train.Job, int, error) {
	where := `j.definition_id = $1` + archivedFilter("j", p)
	all, err := scanAll(ctx, s.db, s.db.Read(), scanJob,
		`SELECT `+jobColumns+` FROM train_job j WHERE `+where+` ORDER BY created_at DESC, id DESC`+limit(p), string(def))
	if err != nil {
		return nil, 0, err
	}
	n, err := s.count(ctx, `train_job j WHERE `+where, string(def))
	return all, n, err
}

// Unsettled implements train.Store.
func (s *Training) Unsettled(ctx context.Context) ([]train.Job, error) {
	return scanAll(ctx, s.db, s.db.Read(), scanJob, `SELECT `+jobColumns+` FROM train_job WHERE NOT settled ORDER BY created_at, id`)
}

// JobCounts implements train.Store.
func (s *Training) JobCounts(ctx context.Context) (map[train.Status]int, error) {
	return countBy[train.Status](ctx, s.db, `SELECT status, COUNT(*) FROM train_job WHERE NOT settled GROUP BY status`)
}

// CountJobs implements train.Store.
func (s *Training) CountJobs(ctx context.Context, org plat.OrgID) (int64, error) {
	var n int64
	err := s.db.Read().QueryRowContext(ctx,
		`SELECT COUNT(*) FROM train_job WHERE definition_id IN (SELECT id FROM train_definition WHERE org_id = $1)`, string(org)).Scan(&n)
	return n, s.db.translate(err)
}

// UpdateJob implements train.Store. The row is replaced only if its revision is
// still the one that was read: on PostgreSQL, where writers are many, a slower one
// reads again.
func (s *Training) UpdateJob(ctx context.Context, id plat.JobID, change func(j *train.Job) (*train.Model, error)) (train.Job, error) {
	var after train.Job
	stale := errors.New("another writer was faster")
	attempt := func(tx *Tx) error {
		row, err := s.jobRow(ctx, tx, id)
		if err != nil {
			return err
		}
		j := row.Job
		model, err := change(&j)
		if err != nil {
			return err
		}
		if err := train.CheckChange(id, row.Status, j.Status); err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `UPDATE train_job SET status = $1, status_message = $2, archived = $3, start_time = $4, completed_at = $5,
			modified_at = $6, workload = $7, settled = $8, revision = revision + 1 WHERE id = $9 AND revision = $10`,
			string(j.Status), j.StatusMessage, j.Archived, micros(j.StartTime), micros(j.CompletedAt),
			micros(j.ModifiedAt), string(j.Workload), j.Settled, string(id), row.revision)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			return stale
		}
		if j.Status != row.Status {
			if err := tx.Event(ctx, train.TopicJob, string(id), string(j.Status), j.ModifiedAt); err != nil {
				return err
			}
		}
		if model != nil {
			if err := s.insertModel(ctx, tx, *model); err != nil {
				return err
			}
		}
		after = j
		return nil
	}
	for {
		err := s.db.Write(ctx, attempt)
		if errors.Is(err, stale) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return train.Job{}, err
		}
		return after, nil
	}
}

// AddReport implements train.Store. The job's row is updated first: that orders
// concurrent reports of one job.
func (s *Training) AddReport(ctx context.Context, id plat.JobID, r train.Report) (train.Job, error) {
	var after train.Job
	err := s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE train_job SET statistics = $1, modified_at = $2 WHERE id = $3`,
			string(r.Statistics), micros(r.Time), string(id))
		if err != nil {
			return err
		}
		if err := mustAffect(res, "training job", id); err != nil {
			return err
		}
		var seq int64
		err = tx.QueryRowContext(ctx, `INSERT INTO train_report (job_id, seq, time, statistics)
			VALUES ($1, (SELECT COALESCE(MAX(seq), 0) + 1 FROM train_report WHERE job_id = $1), $2, $3) RETURNING seq`,
			string(id), micros(r.Time), string(r.Statistics)).Scan(&seq)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM train_report WHERE job_id = $1 AND seq <= $2`, string(id), seq-train.MaxReports); err != nil {
			return err
		}
		row, err := s.jobRow(ctx, tx, id)
		after = row.Job
		return err
	})
	return after, err
}

// Reports implements train.Store.
func (s *Training) Reports(ctx context.Context, id plat.JobID) ([]train.Report, error) {
	scan := func(r scanner) (train.Report, error) {
		var at int64
		var statistics string
		err := r.Scan(&at, &statistics)
		return train.Report{Time: fromMicros(at), Statistics: []byte(statistics)}, err
	}
	return scanAll(ctx, s.db, s.db.Read(), scan, `SELECT time, statistics FROM train_report WHERE job_id = $1 ORDER BY seq`, string(id))
}
