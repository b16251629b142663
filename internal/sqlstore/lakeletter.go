// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"errors"
	"strings"

	"panal/internal/lake/link"
	"panal/internal/plat"
)

// Bury implements link.Store. Letters of a link that is gone go with it.
func (s *Links) Bury(ctx context.Context, all []link.Letter) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		for _, l := range all {
			body := l.Body
			if body == nil {
				body = []byte{}
			}
			num, err := s.num(ctx, tx, l.Channel)
			if errors.Is(err, plat.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO feed_letter (channel, reason, body, at) VALUES ($1, $2, $3, $4)`,
				num, l.Reason, body, micros(l.At)); err != nil {
				return err
			}
		}
		return nil
	})
}

// ofFeed is the predicate of a channel's ($1) letters and messages.
const ofFeed = ` WHERE channel = (SELECT num FROM channel WHERE id = $1)`

// Letters implements link.Store.
func (s *Links) Letters(ctx context.Context, channel plat.ChannelID, after int64, limit int) ([]link.Letter, error) {
	scan := func(r interface{ Scan(...any) error }) (link.Letter, error) {
		l := link.Letter{Channel: channel}
		var at int64
		err := r.Scan(&l.ID, &l.Reason, &l.Body, &at)
		l.At = fromMicros(at)
		return l, err
	}
	return scanAll(ctx, s.db, s.db.Read(), scan, `SELECT id, reason, body, at FROM feed_letter`+ofFeed+` AND id > $2 ORDER BY id LIMIT $3`, string(channel), after, limit)
}

// Lettered implements link.Store.
func (s *Links) Lettered(ctx context.Context, channel plat.ChannelID) (int64, error) {
	var n int64
	err := s.db.Read().QueryRowContext(ctx, `SELECT COUNT(*) FROM feed_letter`+ofFeed, string(channel)).Scan(&n)
	return n, s.db.translate(err)
}

// DropLetters implements link.Store.
func (s *Links) DropLetters(ctx context.Context, channel plat.ChannelID, ids []int64) (int64, error) {
	var a sqlArgs
	a.add(string(channel))
	where := ofFeed
	if len(ids) > 0 {
		marks := make([]string, len(ids))
		for i, id := range ids {
			marks[i] = a.add(id)
		}
		where += ` AND id IN (` + strings.Join(marks, ",") + `)`
	}
	var n int64
	err := s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx, `DELETE FROM feed_letter`+where, a.list...)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	return n, err
}
