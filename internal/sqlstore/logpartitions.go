// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"panal/internal/logs"
	"panal/internal/plat"
)

// logPartitions keeps days as partitions of one PostgreSQL database.
type logPartitions struct {
	db   *DB
	mu   sync.Mutex
	made map[int64]bool // days known to have partitions
}

// partitionLock is the advisory lock under which partitions are made and dropped.
const partitionLock = 7_310_579_001

// lockLogTables comes before every change of partitions. Everybody locks in one
// order (log_sequence, log_packed, log_hot), so nobody waits in a circle.
const lockLogTables = `LOCK TABLE log_packed, log_hot IN ACCESS EXCLUSIVE MODE`

func (p *logPartitions) ensure(ctx context.Context, day int64) (int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.made[day] {
		return day, nil
	}
	err := p.alter(ctx, func(exec func(string) error) error {
		if err := exec(lockLogTables); err != nil {
			return err
		}
		for _, table := range []string{"log_hot", "log_packed"} {
			err := exec(fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %s_%d PARTITION OF %s FOR VALUES FROM (%d) TO (%d)`,
				table, day, table, int64(logs.DayStart(day)), int64(logs.DayStart(day+1))))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		p.made[day] = true
	}
	return day, err
}

func (p *logPartitions) alter(ctx context.Context, fn func(exec func(string) error) error) error {
	return p.db.Write(ctx, func(tx *Tx) error {
		if _, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock($1)`, partitionLock); err != nil {
			return err
		}
		return fn(func(stmt string) error {
			_, err := tx.ExecContext(ctx, stmt)
			return err
		})
	})
}

// spans is one span: the planner finds the partitions.
func (p *logPartitions) spans(_ context.Context, lo, hi int64) ([]daySpan, error) {
	return []daySpan{{lo, min(hi, logs.MaxPos.Day()-1)}}, nil
}

func (p *logPartitions) open(context.Context, int64) (*DB, func(), error) {
	return p.db, func() {}, nil
}

// older has nothing to add: log_workload spans the days.
func (p *logPartitions) older(context.Context, int64, string) (int64, error) { return 0, nil }

func (p *logPartitions) dropBefore(ctx context.Context, day int64) (int, error) {
	names, err := scanAll(ctx, p.db, p.db.Read(), func(r interface{ Scan(...any) error }) (string, error) {
		var name string
		err := r.Scan(&name)
		return name, err
	}, `SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'log_hot'::regclass ORDER BY c.relname`)
	if err != nil {
		return 0, fmt.Errorf("list log partitions: %w", err)
	}
	dropped := 0
	for _, name := range names {
		d, err := strconv.ParseInt(strings.TrimPrefix(name, "log_hot_"), 10, 64)
		if err != nil {
			return dropped, plat.Errorf(plat.ErrConflict, "the log partition %s is not ours", name)
		}
		if d >= day {
			continue
		}
		// The sequencer is past the day, or appends to it would go on.
		err = p.alter(ctx, func(exec func(string) error) error {
			if err := exec(fmt.Sprintf(`UPDATE log_sequence SET next = %d WHERE one = 1 AND next < %[1]d`, int64(logs.DayStart(day)))); err != nil {
				return err
			}
			if err := exec(lockLogTables); err != nil {
				return err
			}
			return exec(fmt.Sprintf(`DROP TABLE IF EXISTS log_hot_%d, log_packed_%[1]d`, d))
		})
		if err != nil {
			return dropped, fmt.Errorf("drop log partition: %w", err)
		}
		p.mu.Lock()
		delete(p.made, d)
		p.mu.Unlock()
		dropped++
	}
	if dropped > 0 {
		err = p.db.Write(ctx, func(tx *Tx) error {
			_, err := tx.ExecContext(ctx, `DELETE FROM log_workload WHERE updated_at < $1`, micros(dayTime(day).Add(-workloadMemory)))
			return err
		})
	}
	return dropped, err
}

func (p *logPartitions) size(ctx context.Context) (int64, error) {
	var n int64
	row := p.db.Read().QueryRowContext(ctx, `SELECT COALESCE(sum(pg_total_relation_size(inhrelid)), 0)::bigint FROM pg_inherits
		WHERE inhparent IN ('log_hot'::regclass, 'log_packed'::regclass)`)
	err := p.db.one(row, "log tables", "", &n)
	return n, err
}

func (p *logPartitions) close() error { return nil }

// dayTime is when a day begins.
func dayTime(day int64) time.Time { return time.Unix(day*86_400, 0).UTC() }
