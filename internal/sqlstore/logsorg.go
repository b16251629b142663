// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"errors"
	"fmt"

	"panal/internal/logs"
	"panal/internal/plat"
)

// DeletePacked implements logs.Store.
func (s *Logs) DeletePacked(ctx context.Context, prefix string) (int64, error) {
	var total int64
	err := s.eachDay(ctx, func(db *DB) error {
		var n int64
		err := db.Write(ctx, func(tx *Tx) error {
			res, err := tx.ExecContext(ctx, `DELETE FROM log_packed WHERE `+streamsOf, prefix, prefixEnd(prefix))
			if err != nil {
				return err
			}
			n, err = res.RowsAffected()
			return err
		})
		if total += n; err != nil || n == 0 {
			return err
		}
		return db.Shrink(ctx)
	})
	if err != nil {
		return total, fmt.Errorf("delete log records: %w", full(err))
	}
	return total, nil
}

// PackedBytes implements logs.Store.
func (s *Logs) PackedBytes(ctx context.Context, prefix string) (int64, error) {
	var total int64
	err := s.eachDay(ctx, func(db *DB) error {
		var n int64
		err := db.Read().QueryRowContext(ctx, `SELECT CAST(COALESCE(SUM(LENGTH(data)), 0) AS BIGINT) FROM log_packed WHERE `+streamsOf, prefix, prefixEnd(prefix)).Scan(&n)
		total += n
		return db.translate(err)
	})
	if err != nil {
		return 0, fmt.Errorf("sum log records: %w", err)
	}
	return total, nil
}

const streamsOf = `stream >= $1 AND stream < $2`

// prefixEnd is the first text after all that begin with prefix (which ends in an
// ASCII character).
func prefixEnd(prefix string) string {
	last := len(prefix) - 1
	return prefix[:last] + string(prefix[last]+1)
}

// eachDay calls f with the database of each day, or once where one holds all.
func (s *Logs) eachDay(ctx context.Context, f func(*DB) error) error {
	all, err := s.days.spans(ctx, 0, logs.MaxPos.Day())
	if err != nil {
		return err
	}
	for _, d := range all {
		db, release, err := s.days.open(ctx, d.hi)
		if errors.Is(err, plat.ErrNotFound) {
			continue // expired meanwhile
		}
		if err == nil {
			err = f(db)
			release()
		}
		if err != nil {
			return err
		}
	}
	return nil
}
