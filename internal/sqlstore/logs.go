// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"panal/internal/logs"
	"panal/internal/plat"
)

// workloadMemory is how long the last number of a silent workload is kept once the
// days that it wrote in are dropped.
const workloadMemory = 400 * 24 * time.Hour

// Logs keeps log records. It implements logs.Store: the SQL is here, where the days
// live is the business of logDays (files on SQLite, partitions on PostgreSQL).
type Logs struct {
	days logDays

	appendMu sync.Mutex // one append of this process at a time

	cleanMu sync.Mutex
	clean   map[int64]bool // past days known to have no hot record left
}

var _ logs.Store = (*Logs)(nil)

// daySpan is a run of days that one database holds.
type daySpan struct{ lo, hi int64 } // days, both inclusive

func (s daySpan) first() logs.Pos { return logs.DayStart(s.lo) }
func (s daySpan) end() logs.Pos   { return logs.DayStart(s.hi + 1) }

// logDays is where days of ingest live.
type logDays interface {
	// ensure makes a day to append to, or returns a later one that exists already.
	ensure(ctx context.Context, day int64) (int64, error)
	// spans lists, in order, what holds the days from lo to hi.
	spans(ctx context.Context, lo, hi int64) ([]daySpan, error)
	// open returns the database of a day and releases it when done; ErrNotFound for
	// a day that is not there (any more).
	open(ctx context.Context, day int64) (db *DB, release func(), err error)
	// older returns the last number of a workload from before the given day, 0 for none.
	older(ctx context.Context, day int64, workload string) (int64, error)
	// dropBefore drops every day before the given one but keeps the workloads' numbers.
	dropBefore(ctx context.Context, day int64) (int, error)
	size(ctx context.Context) (int64, error)
	close() error
}

// NewLogs returns the store on one PostgreSQL database that has the concern "logs".
func NewLogs(db *DB) *Logs { return newLogs(&logPartitions{db: db, made: map[int64]bool{}}) }

// OpenLogFiles returns the store on a directory of SQLite files, one per day. open
// opens or creates a file with the concern "logs".
func OpenLogFiles(ctx context.Context, dir string, open func(ctx context.Context, path string) (*DB, error)) (*Logs, error) {
	f, err := openLogFiles(ctx, dir, open)
	if err != nil {
		return nil, err
	}
	return newLogs(f), nil
}

func newLogs(d logDays) *Logs { return &Logs{days: d, clean: map[int64]bool{}} }

// Close closes the files. A PostgreSQL database stays its opener's to close.
func (s *Logs) Close() error { return s.days.close() }

// errOtherDay tells that another process has begun a later day.
var errOtherDay = errors.New("another day is current")

// errNothing ends a transaction that has nothing to commit.
var errNothing = errors.New("nothing to commit")

// Append implements logs.Store. The sequencer's row is locked before anything is
// read, and until the commit: positions, and what workloads were acknowledged,
// change one append at a time.
func (s *Logs) Append(ctx context.Context, now time.Time, workloads []string, build func(last map[string]int64) (*logs.Flush, error)) error {
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	want := logs.DayOf(now)
	for range 5 {
		day, err := s.days.ensure(ctx, want)
		if err != nil {
			return fmt.Errorf("make log day: %w", err)
		}
		want, err = s.appendTo(ctx, day, now, workloads, build)
		if !errors.Is(err, errOtherDay) {
			return err
		}
	}
	return plat.Errorf(plat.ErrUnavailable, "the log store can't settle on a day; check the servers' clocks")
}

func (s *Logs) appendTo(ctx context.Context, day int64, now time.Time, workloads []string, build func(last map[string]int64) (*logs.Flush, error)) (current int64, err error) {
	db, release, err := s.days.open(ctx, day)
	if err != nil {
		return day, err
	}
	defer release()
	err = db.Write(ctx, func(tx *Tx) error {
		var next logs.Pos
		row := tx.QueryRowContext(ctx, `UPDATE log_sequence SET next = CASE WHEN next < $1 THEN $1 ELSE next END WHERE one = 1 RETURNING next`, int64(logs.DayStart(day)))
		if err := row.Scan(&next); err != nil {
			return err
		}
		if current = next.Day(); current != day {
			return errOtherDay
		}
		last, err := s.lastSeqs(ctx, tx, day, workloads)
		if err != nil {
			return err
		}
		f, err := build(last)
		if err != nil {
			return err
		}
		if f == nil {
			return errNothing
		}
		r := &f.Record
		r.First, r.Last = next, next+logs.Pos(r.Count)-1
		if err := insertHot(ctx, tx, *r); err != nil {
			return err
		}
		if err := setLastSeqs(ctx, tx, f.Last, now); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE log_sequence SET next = $1 WHERE one = 1`, int64(r.Last)+1)
		return err
	})
	if errors.Is(err, errNothing) {
		err = nil
	}
	if err != nil && !errors.Is(err, errOtherDay) {
		return day, fmt.Errorf("append log record: %w", full(err))
	}
	return current, err
}

// full gives what the file system says of a full disk the kind that a full
// database has.
func full(err error) error {
	if plat.KindOf(err) == nil && isNoSpace(err) {
		return fmt.Errorf("%w: %w", plat.ErrExhausted, err)
	}
	return err
}

func (s *Logs) lastSeqs(ctx context.Context, tx *Tx, day int64, workloads []string) (map[string]int64, error) {
	last := make(map[string]int64, len(workloads))
	for part := range slices.Chunk(workloads, 500) {
		args := make([]any, len(part))
		for i, w := range part {
			args[i] = w
		}
		found, err := scanAll(ctx, tx.db, tx, scanSeq, `SELECT workload, last_seq FROM log_workload WHERE workload IN (`+holders(1, len(part))+`)`, args...)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			last[f.workload] = f.last
		}
	}
	for _, w := range workloads {
		if _, ok := last[w]; ok {
			continue
		}
		n, err := s.days.older(ctx, day, w)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			last[w] = n
		}
	}
	return last, nil
}

type workloadSeq struct {
	workload string
	last     int64
}

func scanSeq(r interface{ Scan(...any) error }) (workloadSeq, error) {
	var s workloadSeq
	err := r.Scan(&s.workload, &s.last)
	return s, err
}

func setLastSeqs(ctx context.Context, tx *Tx, last map[string]int64, now time.Time) error {
	names := make([]string, 0, len(last))
	for w := range last {
		names = append(names, w)
	}
	for part := range slices.Chunk(names, 500) {
		args := make([]any, 0, 3*len(part))
		values := make([]string, len(part))
		for i, w := range part {
			values[i] = "(" + holders(3*i+1, 3) + ")"
			args = append(args, w, last[w], micros(now))
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO log_workload (workload, last_seq, updated_at) VALUES `+strings.Join(values, ", ")+`
			ON CONFLICT (workload) DO UPDATE SET last_seq = excluded.last_seq, updated_at = excluded.updated_at`, args...)
		if err != nil {
			return err
		}
	}
	return nil
}

func insertHot(ctx context.Context, tx *Tx, r logs.Record) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO log_hot (first_pos, last_pos, t_min, t_max, n, streams, data) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		int64(r.First), int64(r.Last), r.MinTime, r.MaxTime, r.Count, "\n"+strings.Join(r.Streams, "\n")+"\n", r.Data)
	return err
}

// Find implements logs.Store. Hot and packed records are read by one statement, so
// that a repack in between can't hide lines.
func (s *Logs) Find(ctx context.Context, q logs.Scan) ([]logs.Record, error) {
	lo := int64(0)
	if q.After >= 0 {
		lo = q.After.Day() // a record does not reach over a day's end
	}
	all, err := s.days.spans(ctx, lo, q.Before.Day())
	if err != nil {
		return nil, err
	}
	var out []logs.Record
	for i := range all {
		d := all[i]
		if q.Descending {
			d = all[len(all)-1-i]
		}
		db, release, err := s.days.open(ctx, d.hi)
		if errors.Is(err, plat.ErrNotFound) {
			continue // expired meanwhile
		}
		if err != nil {
			return nil, err
		}
		found, err := find(ctx, db, max(d.first(), logs.DayStart(lo)), min(d.end(), q.Before), q, q.Limit-len(out))
		release()
		if err != nil {
			return nil, fmt.Errorf("find log records: %w", err)
		}
		if out = append(out, found...); len(out) >= q.Limit {
			break
		}
	}
	return out, nil
}

func find(ctx context.Context, db *DB, lo, hi logs.Pos, q logs.Scan, limit int) ([]logs.Record, error) {
	has, order := "instr(streams, $7) > 0", "ASC"
	if db.Dialect().Name == "postgres" {
		has = "strpos(streams, $7) > 0"
	}
	if q.Descending {
		order = "DESC"
	}
	const bounds = `first_pos >= $1 AND first_pos < $2 AND last_pos > $3 AND t_max >= $4 AND t_min < $5`
	return scanAll(ctx, db, db.Read(), scanRecord,
		`SELECT stream, first_pos, last_pos, t_min, t_max, n FROM (
			SELECT stream, first_pos, last_pos, t_min, t_max, n FROM log_packed WHERE stream = $6 AND `+bounds+`
			UNION ALL
			SELECT '' AS stream, first_pos, last_pos, t_min, t_max, n FROM log_hot WHERE `+has+` AND `+bounds+`
		) AS r ORDER BY first_pos `+order+` LIMIT $8`,
		int64(lo), int64(hi), int64(q.After), q.From, q.To, q.Stream, "\n"+q.Stream+"\n", limit)
}

func scanRecord(r interface{ Scan(...any) error }) (logs.Record, error) {
	var rec logs.Record
	err := r.Scan(&rec.Stream, &rec.First, &rec.Last, &rec.MinTime, &rec.MaxTime, &rec.Count)
	return rec, err
}

// Load implements logs.Store.
func (s *Logs) Load(ctx context.Context, r logs.Record) ([]byte, error) {
	db, release, err := s.days.open(ctx, r.First.Day())
	if err != nil {
		return nil, err
	}
	defer release()
	var row *sql.Row
	if r.Hot() {
		row = db.Read().QueryRowContext(ctx, `SELECT data FROM log_hot WHERE first_pos = $1 AND last_pos = $2`, int64(r.First), int64(r.Last))
	} else {
		row = db.Read().QueryRowContext(ctx, `SELECT data FROM log_packed WHERE stream = $1 AND first_pos = $2 AND last_pos = $3`, r.Stream, int64(r.First), int64(r.Last))
	}
	var data []byte
	if err := db.one(row, "log record", int64(r.First), &data); err != nil {
		return nil, err
	}
	return data, nil
}

// Hot implements logs.Store.
func (s *Logs) Hot(ctx context.Context, maxBytes int64) ([]logs.Record, error) {
	all, err := s.days.spans(ctx, 0, logs.MaxPos.Day())
	if err != nil {
		return nil, err
	}
	for i, d := range all {
		s.cleanMu.Lock()
		skip := s.clean[d.hi]
		s.cleanMu.Unlock()
		if skip {
			continue
		}
		hot, err := s.hotOf(ctx, d, maxBytes)
		if err != nil && !errors.Is(err, plat.ErrNotFound) {
			return nil, fmt.Errorf("read hot log records: %w", err)
		}
		if len(hot) > 0 {
			return hot, nil
		}
		if i < len(all)-1 { // nothing is appended to it any more
			s.cleanMu.Lock()
			s.clean[d.hi] = true
			s.cleanMu.Unlock()
		}
	}
	return nil, nil
}

func (s *Logs) hotOf(ctx context.Context, d daySpan, maxBytes int64) ([]logs.Record, error) {
	db, release, err := s.days.open(ctx, d.hi)
	if err != nil {
		return nil, err
	}
	defer release()
	rows, err := db.Read().QueryContext(ctx, `SELECT first_pos, last_pos, t_min, t_max, n, streams, data FROM log_hot ORDER BY first_pos LIMIT 256`)
	if err != nil {
		return nil, db.translate(err)
	}
	defer func() { _ = rows.Close() }()
	var out []logs.Record
	for rows.Next() {
		var r logs.Record
		var streams string
		if err := rows.Scan(&r.First, &r.Last, &r.MinTime, &r.MaxTime, &r.Count, &streams, &r.Data); err != nil {
			return nil, db.translate(err)
		}
		if len(out) > 0 && (out[0].First.Day() != r.First.Day() || maxBytes < int64(len(r.Data))) {
			return out, nil
		}
		maxBytes -= int64(len(r.Data))
		r.Streams = strings.Split(strings.Trim(streams, "\n"), "\n")
		out = append(out, r)
	}
	return out, db.translate(rows.Err())
}

// Tail implements logs.Store.
func (s *Logs) Tail(ctx context.Context, stream string, before logs.Pos) (logs.Record, error) {
	db, release, err := s.days.open(ctx, before.Day())
	if err != nil {
		return logs.Record{}, err
	}
	defer release()
	row := db.Read().QueryRowContext(ctx,
		`SELECT stream, first_pos, last_pos, t_min, t_max, n FROM log_packed WHERE stream = $1 AND first_pos >= $2 AND first_pos < $3 ORDER BY first_pos DESC LIMIT 1`,
		stream, int64(logs.DayStart(before.Day())), int64(before))
	var r logs.Record
	err = db.one(row, "log record of", stream, &r.Stream, &r.First, &r.Last, &r.MinTime, &r.MaxTime, &r.Count)
	return r, err
}

// Replace implements logs.Store.
func (s *Logs) Replace(ctx context.Context, drop, add []logs.Record) error {
	if len(drop) == 0 {
		panic("BUG: sqlstore: Replace without records to drop")
	}
	db, release, err := s.days.open(ctx, drop[0].First.Day())
	if err != nil {
		return err
	}
	defer release()
	err = db.Write(ctx, func(tx *Tx) error {
		// Packed before hot: see lockLogTables.
		for _, r := range drop {
			if !r.Hot() {
				err := deleteRecord(ctx, tx, r, `DELETE FROM log_packed WHERE first_pos = $1 AND last_pos = $2 AND stream = $3`, r.Stream)
				if err != nil {
					return err
				}
			}
		}
		for _, r := range add {
			_, err := tx.ExecContext(ctx, `INSERT INTO log_packed (stream, first_pos, last_pos, t_min, t_max, n, data) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
				r.Stream, int64(r.First), int64(r.Last), r.MinTime, r.MaxTime, r.Count, r.Data)
			if err != nil {
				return err
			}
		}
		for _, r := range drop {
			if r.Hot() {
				if err := deleteRecord(ctx, tx, r, `DELETE FROM log_hot WHERE first_pos = $1 AND last_pos = $2`); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("replace log records: %w", full(err))
	}
	return nil
}

func deleteRecord(ctx context.Context, tx *Tx, r logs.Record, stmt string, more ...any) error {
	res, err := tx.ExecContext(ctx, stmt, append([]any{int64(r.First), int64(r.Last)}, more...)...)
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err == nil && n != 1 {
		err = plat.Errorf(plat.ErrConflict, "the log record at %d was replaced by somebody else", r.First)
	}
	return err
}

// Expire implements logs.Store.
func (s *Logs) Expire(ctx context.Context, t time.Time) (int, error) {
	return s.days.dropBefore(ctx, logs.DayOf(t))
}

// Size implements logs.Store.
func (s *Logs) Size(ctx context.Context) (int64, error) { return s.days.size(ctx) }

// holders returns n placeholders, $from and on.
func holders(from, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(from + i))
	}
	return b.String()
}
