// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"time"

	"panal/internal/lake"
	"panal/internal/plat"
)

// OrgUsage implements lake.Store.
func (s *Lake) OrgUsage(ctx context.Context, org plat.OrgID) (lake.Usage, error) {
	var u lake.Usage
	err := s.db.Read().QueryRowContext(ctx,
		`SELECT CAST(COALESCE(SUM(d.files), 0) AS BIGINT), CAST(COALESCE(SUM(d.bytes), 0) AS BIGINT)
		 FROM channel c JOIN file_delta d ON d.channel = c.num WHERE c.org_id = $1`, string(org)).Scan(&u.Files, &u.Bytes)
	return u, s.db.translate(err)
}

// DeleteFiles implements lake.Store.
func (s *Lake) DeleteFiles(ctx context.Context, channel plat.ChannelID, now time.Time, limit int) ([]lake.File, error) {
	var gone []lake.File
	err := s.db.Write(ctx, func(tx *Tx) error {
		num, err := s.channelNum(ctx, tx, channel)
		if err != nil {
			return err
		}
		gone, err = scanAll(ctx, s.db, tx, scanFile(channel),
			`DELETE FROM file WHERE channel = $1 AND at IN (SELECT at FROM file WHERE channel = $1 ORDER BY at LIMIT $2`+s.db.dialect.SkipLocked+`)
			 RETURNING `+returning, num, limit)
		if err != nil {
			return err
		}
		for _, f := range gone {
			if err := s.forget(ctx, tx, num, f, "deleted", now); err != nil {
				return err
			}
		}
		return nil
	})
	return gone, err
}

// DeleteChannel implements lake.Store.
func (s *Lake) DeleteChannel(ctx context.Context, channel plat.ChannelID, now time.Time) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		if err := lock(ctx, tx, "channel", string(channel)); err != nil {
			return err
		}
		num, err := s.channelNum(ctx, tx, channel)
		if err != nil {
			return err
		}
		var files int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM (SELECT 1 FROM file WHERE channel = $1 LIMIT 1) AS f`, num).Scan(&files); err != nil {
			return err
		}
		if files > 0 {
			return plat.Errorf(plat.ErrConflict, "channel %s has files", channel)
		}
		for _, stmt := range []string{`DELETE FROM file_delta WHERE channel = $1`, `DELETE FROM posting WHERE channel = $1`, `DELETE FROM channel WHERE num = $1`} {
			if _, err := tx.ExecContext(ctx, stmt, num); err != nil {
				return err
			}
		}
		return tx.Event(ctx, "channel", string(channel), "deleted", now)
	})
}
