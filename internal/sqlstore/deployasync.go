// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"time"

	"panal/internal/deploy"
	"panal/internal/plat"
)

const asyncColumns = `id, org_id, deployment_id, workload, token_hash, created_at, finished_at, status, headers, size, record`

func scanAsync(r scanner) (deploy.AsyncCall, error) {
	var c deploy.AsyncCall
	var headers, record string
	var created, finished int64
	if err := r.Scan(&c.ID, &c.Org, &c.Deployment, &c.Workload, &c.TokenHash, &created, &finished, &c.Status, &headers, &c.Size, &record); err != nil {
		return c, err
	}
	c.CreatedAt, c.FinishedAt = fromMicros(created), fromMicros(finished)
	if record != "" {
		c.Record = &deploy.AsyncRecord{}
		if err := fromJSON(record, c.Record); err != nil {
			return c, err
		}
	}
	return c, fromJSON(headers, &c.Headers)
}

func (s *Deploys) asyncs(ctx context.Context, q Querier, where string, args ...any) ([]deploy.AsyncCall, error) {
	return scanAll(ctx, s.db, q, scanAsync, `SELECT `+asyncColumns+` FROM async_call WHERE `+where, args...)
}

// CreateAsync implements deploy.Store. Two at once may pass the limit by one each:
// it bounds what is stored, and nothing counts on it.
func (s *Deploys) CreateAsync(ctx context.Context, c deploy.AsyncCall, limit int) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		var open int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM (SELECT 1 FROM async_call WHERE org_id = $1 AND finished_at = 0 LIMIT $2) AS o`,
			string(c.Org), limit).Scan(&open); err != nil {
			return err
		}
		if open >= limit {
			return plat.Errorf(plat.ErrExhausted, "%d asynchronous calls of the organization have no result yet; fetch later, or call less at a time", open)
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO async_call (`+asyncColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
			c.ID, string(c.Org), string(c.Deployment), string(c.Workload), c.TokenHash, micros(c.CreatedAt), micros(c.FinishedAt), c.Status, toJSON(c.Headers), c.Size, recordJSON(c.Record))
		return err
	})
}

// Async implements deploy.Store.
func (s *Deploys) Async(ctx context.Context, id string) (deploy.AsyncCall, error) {
	return first(s.asyncs(ctx, s.db.Read(), `id = $1`, id))("result", id)
}

// TakeAsync implements deploy.Store.
func (s *Deploys) TakeAsync(ctx context.Context, id string, w plat.WorkloadID) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE async_call SET workload = $1 WHERE id = $2 AND finished_at = 0`, string(w), id)
		return err
	})
}

// FinishAsync implements deploy.Store.
func (s *Deploys) FinishAsync(ctx context.Context, c deploy.AsyncCall) (bool, error) {
	done := false
	err := s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE async_call SET finished_at = $1, status = $2, headers = $3, size = $4 WHERE id = $5 AND finished_at = 0`,
			micros(c.FinishedAt), c.Status, toJSON(c.Headers), c.Size, c.ID)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if done = n > 0; err != nil || done {
			return err
		}
		_, err = first(s.asyncs(ctx, tx, `id = $1`, c.ID))("result", c.ID)
		return err
	})
	return done && err == nil, err
}

// LostAsync implements deploy.Store.
func (s *Deploys) LostAsync(ctx context.Context, limit int) ([]deploy.AsyncCall, error) {
	return s.asyncs(ctx, s.db.Read(), `finished_at = 0 AND workload <> '' AND NOT EXISTS (SELECT 1 FROM instance i WHERE i.workload = async_call.workload)
		ORDER BY created_at, id LIMIT $1`, limit)
}

func recordJSON(r *deploy.AsyncRecord) string {
	if r == nil {
		return ""
	}
	return toJSON(r)
}

// RecordAsync implements deploy.Store.
func (s *Deploys) RecordAsync(ctx context.Context, id string, r *deploy.AsyncRecord) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE async_call SET record = $1 WHERE id = $2`, recordJSON(r), id)
		if err != nil {
			return err
		}
		return mustAffect(res, "result", id)
	})
}

// UnrecordedAsync implements deploy.Store.
func (s *Deploys) UnrecordedAsync(ctx context.Context, after deploy.AsyncCall, limit int) ([]deploy.AsyncCall, error) {
	return s.asyncs(ctx, s.db.Read(), `record <> '' AND finished_at <> 0 AND (finished_at > $1 OR finished_at = $1 AND id > $2) ORDER BY finished_at, id LIMIT $3`,
		micros(after.FinishedAt), after.ID, limit)
}

// CountOpenAsync implements deploy.Store.
func (s *Deploys) CountOpenAsync(ctx context.Context, w plat.WorkloadID) (int, error) {
	var n int
	err := s.db.Read().QueryRowContext(ctx, `SELECT COUNT(*) FROM async_call WHERE workload = $1 AND finished_at = 0`, string(w)).Scan(&n)
	return n, s.db.translate(err)
}

// OldAsync implements deploy.Store.
func (s *Deploys) OldAsync(ctx context.Context, before time.Time, limit int) ([]deploy.AsyncCall, error) {
	done, err := s.asyncs(ctx, s.db.Read(), `finished_at <> 0 AND finished_at <= $1 ORDER BY finished_at, id LIMIT $2`, micros(before), limit)
	if err != nil {
		return nil, err
	}
	open, err := s.asyncs(ctx, s.db.Read(), `finished_at = 0 AND created_at <= $1 ORDER BY created_at, id LIMIT $2`, micros(before), limit)
	return append(done, open...), err
}

// DeleteAsync implements deploy.Store.
func (s *Deploys) DeleteAsync(ctx context.Context, id string) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM async_call WHERE id = $1`, id)
		return err
	})
}
