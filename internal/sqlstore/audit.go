// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"panal/internal/audit"
	"panal/internal/plat"
)

// Audit keeps audit rows. It implements audit.Store.
type Audit struct{ db *DB }

var _ audit.Store = (*Audit)(nil)

// NewAudit returns the store on the control database.
func NewAudit(db *DB) *Audit { return &Audit{db: db} }

const (
	auditColumns = `org_id, at, id, actor, actor_id, operation, method, path, targets, status, source, missed`
	auditWidth   = 12
)

// Append implements audit.Store.
func (s *Audit) Append(ctx context.Context, rows []audit.Row) error {
	args := make([]any, 0, len(rows)*auditWidth)
	for _, r := range rows {
		targets := ""
		if len(r.Targets) > 0 {
			targets = toJSON(r.Targets)
		}
		args = append(args, string(r.Org), micros(r.Time), r.ID, r.Actor, r.ActorID, r.Operation, r.Method, r.Path, targets, r.Status, r.Source, r.Missed)
	}
	err := s.db.Write(ctx, func(tx *Tx) error {
		return tx.insert(ctx, "audit ("+auditColumns+")", "", auditWidth, args)
	})
	if !errors.Is(err, plat.ErrExists) {
		return err
	}
	// A repeat, after an answer that was lost: leave what is there.
	return s.db.Write(ctx, func(tx *Tx) error {
		for row := range slices.Chunk(args, auditWidth) {
			if _, err := tx.ExecContext(ctx, `INSERT INTO audit (`+auditColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING`, row...); err != nil {
				return err
			}
		}
		return nil
	})
}

// List implements audit.Store.
func (s *Audit) List(ctx context.Context, q audit.Query) ([]audit.Row, bool, error) {
	var a sqlArgs
	where := []string{`org_id = ` + a.add(string(q.Org))}
	if !q.From.IsZero() {
		where = append(where, `at >= `+a.add(micros(q.From)))
	}
	if !q.To.IsZero() {
		where = append(where, `at < `+a.add(micros(q.To)))
	}
	if q.Actor != "" {
		where = append(where, `actor_id = `+a.add(q.Actor))
	}
	if q.Operation != "" {
		where = append(where, `operation = `+a.add(q.Operation))
	}
	if !q.AfterTime.IsZero() {
		where = append(where, `(at, id) < (`+a.add(micros(q.AfterTime))+`, `+a.add(q.AfterID)+`)`)
	}
	rows, err := scanAll(ctx, s.db, s.db.Read(), scanAudit,
		`SELECT `+auditColumns+` FROM audit WHERE `+strings.Join(where, ` AND `)+` ORDER BY at DESC, id DESC LIMIT `+a.add(q.Limit+1), a.list...)
	if err != nil || len(rows) <= q.Limit {
		return rows, false, err
	}
	return rows[:q.Limit], true, nil
}

func scanAudit(r interface{ Scan(...any) error }) (audit.Row, error) {
	var row audit.Row
	var at int64
	var targets string
	err := r.Scan(&row.Org, &at, &row.ID, &row.Actor, &row.ActorID, &row.Operation, &row.Method, &row.Path, &targets, &row.Status, &row.Source, &row.Missed)
	if err != nil {
		return row, err
	}
	row.Time = fromMicros(at)
	return row, fromJSON(targets, &row.Targets)
}

// Trim implements audit.Store. It goes from organization to organization by the
// primary key: there is no index by time alone.
func (s *Audit) Trim(ctx context.Context, t time.Time, limit int) (int64, error) {
	var total int64
	for org := (*string)(nil); total < int64(limit); {
		next, err := s.orgAfter(ctx, org)
		if err != nil || next == nil {
			return total, err
		}
		org = next
		err = s.db.Write(ctx, func(tx *Tx) error {
			res, err := tx.ExecContext(ctx, `DELETE FROM audit WHERE org_id = $1 AND (at, id) IN
				(SELECT at, id FROM audit WHERE org_id = $1 AND at < $2 ORDER BY at, id LIMIT $3)`, *org, micros(t), int64(limit)-total)
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			total += n
			return err
		})
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// orgAfter returns the next organization that has rows; nil after the last.
func (s *Audit) orgAfter(ctx context.Context, org *string) (*string, error) {
	where, args := "", []any(nil)
	if org != nil {
		where, args = ` WHERE org_id > $1`, []any{*org}
	}
	all, err := scanAll(ctx, s.db, s.db.Read(), func(r interface{ Scan(...any) error }) (plat.OrgID, error) {
		var id plat.OrgID
		err := r.Scan(&id)
		return id, err
	}, `SELECT org_id FROM audit`+where+` ORDER BY org_id LIMIT 1`, args...)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	next := string(all[0])
	return &next, nil
}
