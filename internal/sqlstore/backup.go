// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"panal/internal/logs"
	"panal/internal/plat"
)

// freezeLimit bounds how long writers wait for a snapshot, and it for them.
const freezeLimit = 10 * time.Second

// Snapshot is an embedded database as it was at one moment, while it changes.
type Snapshot struct {
	db   *DB
	conn *sql.Conn
}

// Freeze takes snapshots of several databases at the same moment: for some
// milliseconds nothing is written to any of them. Each holds a connection, and the
// space of what is written meanwhile, until it is closed.
func Freeze(ctx context.Context, dbs ...*DB) (_ []*Snapshot, err error) {
	var taken []*Snapshot
	defer func() {
		if err != nil {
			for _, s := range taken {
				s.Close()
			}
			err = fmt.Errorf("snapshot: %w", err)
		}
	}()
	for _, db := range dbs {
		if db.dialect.Backup == nil {
			return nil, plat.Errorf(plat.ErrUnsupported, "only the embedded database is backed up this way; pg_dump is PostgreSQL's tool")
		}
		conn, err := db.read.Conn(ctx)
		if err != nil {
			return taken, db.translate(err)
		}
		taken = append(taken, &Snapshot{db: db, conn: conn})
	}
	ctx, cancel := context.WithTimeout(ctx, freezeLimit)
	defer cancel()
	for _, db := range dbs {
		tx, err := db.write.BeginTx(ctx, nil)
		if err != nil {
			return taken, db.translate(err)
		}
		defer func() { _ = tx.Rollback() }() // it has written nothing
	}
	for _, s := range taken {
		// A read transaction sees the database as of its first read.
		if _, err := s.conn.ExecContext(ctx, "BEGIN"); err != nil {
			return taken, s.db.translate(err)
		}
		var n int
		if err := s.conn.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master").Scan(&n); err != nil {
			return taken, s.db.translate(err)
		}
	}
	return taken, nil
}

// CopyTo writes the snapshot to a new file and calls step now and then; its error
// ends the copy.
func (s *Snapshot) CopyTo(ctx context.Context, path string, step func() error) error {
	err := s.conn.Raw(func(raw any) error {
		return s.db.dialect.Backup(raw, path, func() error { return errors.Join(ctx.Err(), step()) })
	})
	if err != nil {
		return fmt.Errorf("copy database: %w", s.db.translate(err))
	}
	return nil
}

// Close lets go of the snapshot.
func (s *Snapshot) Close() {
	_, _ = s.conn.ExecContext(context.Background(), "ROLLBACK") // fails when none was begun
	_ = s.conn.Close()
}

// EachFile calls each for the files of embedded logs, days first, with their names. A
// line that was acknowledged before is in one of them, also when days come and go
// meanwhile: a day that is dropped has left its workloads' numbers in the index, which
// is last.
func (s *Logs) EachFile(ctx context.Context, each func(name string, db *DB) error) error {
	f, ok := s.days.(*logFiles)
	if !ok {
		return plat.Errorf(plat.ErrUnsupported, "logs in PostgreSQL are no files; pg_dump is PostgreSQL's tool")
	}
	all, err := f.spans(ctx, 0, logs.DayOf(time.Unix(1<<40, 0)))
	if err != nil {
		return err
	}
	for _, d := range all {
		db, release, err := f.open(ctx, d.lo)
		if errors.Is(err, plat.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		err = each(dayTime(d.lo).Format("2006-01-02")+".db", db)
		release()
		if err != nil {
			return err
		}
	}
	return each("index.db", f.index)
}

// CountFiles counts the rows of files, expired or not.
func (s *Lake) CountFiles(ctx context.Context) (int64, error) {
	var n int64
	err := s.db.Read().QueryRowContext(ctx, `SELECT count(*) FROM file`).Scan(&n)
	return n, s.db.translate(err)
}
