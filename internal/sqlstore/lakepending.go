// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"panal/internal/lake"
	"panal/internal/plat"
)

// CreatePending implements lake.Store.
func (s *Lake) CreatePending(ctx context.Context, p lake.Pending) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		num, err := s.channelNum(ctx, tx, p.File.Channel)
		if err != nil {
			return err
		}
		meta := "{}"
		if len(p.File.Metadata) > 0 {
			meta = toJSON(p.File.Metadata)
		}
		_, err = tx.ExecContext(ctx,
			`INSERT INTO file_pending (channel, id, content_type, metadata, lifetime, conflict_key, until, straight) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			num, string(p.File.ID), p.File.ContentType, meta, string(p.File.Lifetime), p.File.Conflict, micros(p.Until), p.Straight)
		return err
	})
}

const pendingColumns = `c.id, p.id, p.content_type, p.metadata, p.lifetime, p.conflict_key, p.until, p.straight, p.tag, p.size, p.refused`

func scanPending(r interface{ Scan(...any) error }) (lake.Pending, error) {
	var p lake.Pending
	var meta string
	var until int64
	if err := r.Scan(&p.File.Channel, &p.File.ID, &p.File.ContentType, &meta, &p.File.Lifetime, &p.File.Conflict, &until, &p.Straight, &p.Tag, &p.Size, &p.Refused); err != nil {
		return lake.Pending{}, err
	}
	p.Until = fromMicros(until)
	return p, fromJSON(meta, &p.File.Metadata)
}

// Pending implements lake.Store.
func (s *Lake) Pending(ctx context.Context, channel plat.ChannelID, id plat.FileID) (lake.Pending, error) {
	p, err := scanPending(s.db.Read().QueryRowContext(ctx,
		`SELECT `+pendingColumns+`
		 FROM channel c CROSS JOIN file_pending p WHERE c.id = $1 AND p.channel = c.num AND p.id = $2`, string(channel), string(id)))
	if errors.Is(err, sql.ErrNoRows) {
		return lake.Pending{}, plat.NotFound("promised upload", id)
	}
	return p, s.db.translate(err)
}

// BindPending implements lake.Store.
func (s *Lake) BindPending(ctx context.Context, all []lake.Arrival) ([]*lake.Pending, error) {
	var out []*lake.Pending
	order := make([]int, len(all)) // of locks
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(all[a].Channel, all[b].Channel), cmp.Compare(all[a].ID, all[b].ID))
	})
	err := s.db.Write(ctx, func(tx *Tx) error {
		out = make([]*lake.Pending, len(all))
		for _, i := range order {
			if _, err := tx.ExecContext(ctx,
				`UPDATE file_pending SET tag = $3, size = $4 WHERE channel = (SELECT num FROM channel WHERE id = $1) AND id = $2 AND tag = '' AND refused = '' AND straight`,
				string(all[i].Channel), string(all[i].ID), all[i].Tag, all[i].Size); err != nil {
				return err
			}
			p, err := scanPending(tx.QueryRowContext(ctx,
				`SELECT `+pendingColumns+` FROM channel c CROSS JOIN file_pending p WHERE c.id = $1 AND p.channel = c.num AND p.id = $2`,
				string(all[i].Channel), string(all[i].ID)))
			switch {
			case errors.Is(err, sql.ErrNoRows):
			case err != nil:
				return err
			default:
				out[i] = &p
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// RefusePending implements lake.Store.
func (s *Lake) RefusePending(ctx context.Context, channel plat.ChannelID, id plat.FileID, reason string) (did bool, err error) {
	err = s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx,
			`UPDATE file_pending SET refused = $3 WHERE channel = (SELECT num FROM channel WHERE id = $1) AND id = $2 AND refused = ''`,
			string(channel), string(id), reason)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		did = n == 1
		return err
	})
	return did, err
}

// AwaitedUntil implements lake.Store.
func (s *Lake) AwaitedUntil(ctx context.Context) (time.Time, error) {
	var until sql.NullInt64
	err := s.db.Read().QueryRowContext(ctx, `SELECT MAX(until) FROM file_pending WHERE straight AND refused = ''`).Scan(&until)
	if err != nil || !until.Valid {
		return time.Time{}, s.db.translate(err)
	}
	return fromMicros(until.Int64), nil
}

// takePending removes a promise that was not refused, and tells whether it was there. Of
// two transactions that take the same one, the second waits for the first.
func takePending(ctx context.Context, tx *Tx, num int64, id plat.FileID) (bool, error) {
	res, err := tx.ExecContext(ctx, `DELETE FROM file_pending WHERE channel = $1 AND id = $2 AND refused = ''`, num, string(id))
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// DeletePending implements lake.Store. A promise whose channel is gone too is not
// among those: Sweep removes it.
func (s *Lake) DeletePending(ctx context.Context, before time.Time, limit int) ([]lake.Pending, error) {
	var gone []lake.Pending
	err := s.db.Write(ctx, func(tx *Tx) error {
		gone = nil
		old, err := scanAll(ctx, s.db, tx, scanPending,
			`SELECT `+pendingColumns+`
			 FROM file_pending p JOIN channel c ON c.num = p.channel WHERE p.until < $1 ORDER BY p.until LIMIT $2`, micros(before), limit)
		if err != nil {
			return err
		}
		for _, p := range old {
			num, err := s.channelNum(ctx, tx, p.File.Channel)
			if err != nil {
				return err
			}
			res, err := tx.ExecContext(ctx, `DELETE FROM file_pending WHERE channel = $1 AND id = $2`, num, string(p.File.ID))
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			if err != nil {
				return err
			}
			if n == 1 { // else it was committed meanwhile
				gone = append(gone, p)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return gone, nil
}
