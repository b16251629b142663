// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"panal/internal/lake"
	"panal/internal/plat"
)

// lockFile reads a live file's row and holds it until the transaction ends.
func lockFile(ctx context.Context, tx *Tx, num int64, channel plat.ChannelID, id plat.FileID, now time.Time) (lake.File, error) {
	// An update that changes nothing locks the row and reads it.
	f, err := scanFile(channel)(tx.QueryRowContext(ctx,
		`UPDATE file AS f SET size = size WHERE f.channel = $1 AND f.id = $2 AND `+live("f", "$3")+` RETURNING `+returning, num, string(id), micros(now)))
	if errors.Is(err, sql.ErrNoRows) {
		return lake.File{}, plat.NotFound("file", id)
	}
	return f, err
}

// SetLifetime implements lake.Store. Every posting carries the expiry: they change
// with the row, so that no read needs both.
func (s *Lake) SetLifetime(ctx context.Context, channel plat.ChannelID, id plat.FileID, l lake.Lifetime, now time.Time) (lake.File, error) {
	var f lake.File
	err := s.db.Write(ctx, func(tx *Tx) error {
		if err := tx.postLate(ctx); err != nil {
			return err
		}
		num, err := s.channelNum(ctx, tx, channel)
		if err != nil {
			return err
		}
		if f, err = lockFile(ctx, tx, num, channel, id, now); err != nil {
			return err
		}
		f.Lifetime, f.ExpiresAt, f.Rev = l, l.Expiry(f.UploadedAt), f.Rev+1
		at, expires := micros(f.UploadedAt), micros(f.ExpiresAt)
		if _, err := tx.ExecContext(ctx, `UPDATE file SET lifetime = $1, expires_at = $2, rev = rev + 1 WHERE channel = $3 AND at = $4`, string(l), expires, num, at); err != nil {
			return err
		}
		for _, t := range lake.Terms(f.ContentType, f.Metadata) {
			if _, err := tx.ExecContext(ctx, `UPDATE posting SET expires_at = $1 WHERE channel = $2 AND key = $3 AND token = $4 AND at = $5`,
				expires, num, t.Key, t.Token, at); err != nil {
				return err
			}
		}
		return tx.Event(ctx, "file", string(channel)+"/"+string(id), "lifetime", now)
	})
	return f, err
}

// DeleteMatching implements lake.Store.
func (s *Lake) DeleteMatching(ctx context.Context, in lake.Filter, ids []plat.FileID, now time.Time) ([]lake.File, error) {
	var gone []lake.File
	err := s.db.WriteFreeing(ctx, func(tx *Tx) error {
		gone = nil
		num, err := s.channelNum(ctx, tx, in.Channel)
		if err != nil {
			return err
		}
		for _, id := range ids {
			f, err := lockFile(ctx, tx, num, in.Channel, id, now)
			switch {
			case errors.Is(err, plat.ErrNotFound): // somebody else was faster
				continue
			case err != nil:
				return err
			case !lake.Match(in.Query, f), !in.From.IsZero() && f.UploadedAt.Before(in.From), !in.To.IsZero() && !f.UploadedAt.Before(in.To):
				continue
			}
			if _, err := tx.ExecContext(ctx, `DELETE FROM file WHERE channel = $1 AND at = $2`, num, micros(f.UploadedAt)); err != nil {
				return err
			}
			if err := s.forget(ctx, tx, num, f, "deleted", now); err != nil {
				return err
			}
			gone = append(gone, f)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return gone, nil
}
