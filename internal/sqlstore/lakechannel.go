// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"time"

	"panal/internal/lake"
	"panal/internal/plat"
)

// channelTables are the tables that hold rows of a channel, by its number, and
// their primary keys: what Sweep empties. A table that is added to the index of the
// lake belongs here.
func channelTables() [][2]string {
	return [][2]string{
		{"posting", "channel, key, token, at"},
		{"file", "channel, at"},
		{"file_pending", "channel, id"},
		{"file_delta", "id"},
		{"link_object", "channel, key"},
		{"link", "channel"},
		{"feed_letter", "id"},
		{"feed_message", "id"},
	}
}

// DropChannel implements lake.Store. Every read begins with the channel's row, so
// taking that is enough, however much the channel holds.
func (s *Lake) DropChannel(ctx context.Context, id plat.ChannelID, now time.Time) error {
	return s.db.WriteFreeing(ctx, func(tx *Tx) error {
		num, err := s.channelNum(ctx, tx, id)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx,
			`INSERT INTO channel_gone (num, id, org_id, deleted_at) SELECT num, id, org_id, $1 FROM channel WHERE num = $2`, micros(now), num); err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `DELETE FROM channel WHERE num = $1`, num)
		if err != nil {
			return err
		}
		if err := mustAffect(res, "channel", id); err != nil {
			return err
		}
		// Few rows, as they are folded: what the organization holds shrinks at once.
		if _, err := tx.ExecContext(ctx, `DELETE FROM file_delta WHERE channel = $1`, num); err != nil {
			return err
		}
		return tx.Event(ctx, "channel", string(id), "deleted", now)
	})
}

// Gone implements lake.Store.
func (s *Lake) Gone(ctx context.Context, before time.Time) ([]lake.GoneChannel, error) {
	return scanAll(ctx, s.db, s.db.Read(), func(r interface{ Scan(...any) error }) (lake.GoneChannel, error) {
		var g lake.GoneChannel
		var at int64
		err := r.Scan(&g.ID, &g.Org, &at)
		g.DeletedAt = fromMicros(at)
		return g, err
	}, `SELECT id, org_id, deleted_at FROM channel_gone WHERE deleted_at < $1 ORDER BY deleted_at, id LIMIT 1000`, micros(before))
}

// Sweep implements lake.Store.
func (s *Lake) Sweep(ctx context.Context, id plat.ChannelID, limit int) (bool, error) {
	var clean bool
	err := s.db.WriteFreeing(ctx, func(tx *Tx) error {
		clean = true
		if err := tx.postLate(ctx); err != nil { // not after they are swept
			return err
		}
		var num int64
		if err := s.db.one(tx.QueryRowContext(ctx, `SELECT num FROM channel_gone WHERE id = $1`, string(id)), "deleted channel", id, &num); err != nil {
			return err
		}
		left := int64(limit)
		for _, t := range channelTables() {
			res, err := tx.ExecContext(ctx,
				`DELETE FROM `+t[0]+` WHERE (`+t[1]+`) IN (SELECT `+t[1]+` FROM `+t[0]+` WHERE channel = $1 LIMIT $2)`, num, left)
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			if err != nil {
				return err
			}
			if left -= n; left <= 0 {
				clean = false
				break
			}
		}
		return nil
	})
	return clean, err
}

// Forget implements lake.Store.
func (s *Lake) Forget(ctx context.Context, id plat.ChannelID) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM channel_gone WHERE id = $1`, string(id))
		return err
	})
}
