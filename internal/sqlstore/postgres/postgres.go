// SPDX-License-Identifier: Apache-2.0

// Package postgres opens PostgreSQL (15 or newer) for sqlstore.
package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"

	"panal/internal/plat"
	"panal/internal/sqlstore"
)

//go:embed migrations
var migrations embed.FS

// Open connects to the database at dsn (postgres://…) and brings it to the newest
// schema of the given concerns, under a lock, so that several servers may start at once.
func Open(ctx context.Context, dsn string, maxConns int, concerns ...string) (*sqlstore.DB, error) {
	db, err := connect(dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	for _, c := range concerns {
		if err := migrate(ctx, db, c); err != nil {
			return nil, errors.Join(fmt.Errorf("migrate %s: %w", c, translate(err)), db.Close())
		}
	}
	return sqlstore.NewDB(db, db, Dialect()), nil
}

// Ping tells whether the database at dsn answers. It changes nothing there.
func Ping(ctx context.Context, dsn string) error {
	db, err := connect(dsn)
	if err != nil {
		return err
	}
	if err := db.PingContext(ctx); err != nil {
		return errors.Join(fmt.Errorf("ask the database: %w", translate(err)), db.Close())
	}
	return db.Close()
}

func connect(dsn string) (*sql.DB, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		// The parser's error repeats the DSN, password included.
		return nil, plat.Errorf(plat.ErrInvalid, "the database URL can't be read; write postgres://user:password@host:port/name")
	}
	return stdlib.OpenDB(*cfg), nil
}

func migrate(ctx context.Context, db *sql.DB, concern string) error {
	folder, err := fs.Sub(migrations, "migrations/"+concern)
	if err != nil {
		return err
	}
	store, err := database.NewStore(goose.DialectPostgres, "goose_"+concern)
	if err != nil {
		return err
	}
	p, err := goose.NewProvider("", db, folder, goose.WithStore(store), goose.WithSessionLocker(schemaLock{}))
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// schemaLock is the lock that migrations of one schema run under. goose's own asks
// for the lock every 5 s, so that of two servers that start at once one would be late
// by that much; this one waits in the database. Its session's end frees it.
type schemaLock struct{}

var _ lock.SessionLocker = schemaLock{}

// SessionLock implements lock.SessionLocker.
func (schemaLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock(hashtextextended('panal migrations of ' || current_schema(), 0))")
	return err
}

// SessionUnlock implements lock.SessionLocker.
func (schemaLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, "SELECT pg_advisory_unlock(hashtextextended('panal migrations of ' || current_schema(), 0))")
	return err
}

// Dialect returns PostgreSQL's dialect.
func Dialect() sqlstore.Dialect {
	return sqlstore.Dialect{
		Name:         "postgres",
		Snapshot:     sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true},
		SkipLocked:   " FOR UPDATE SKIP LOCKED",
		Translate:    translate,
		MaxParams:    65_000,
		Unnest:       true,
		Copy:         copyIn,
		Fence:        " OFFSET 0",
		AdvisoryLock: "SELECT pg_advisory_xact_lock($1)",
		EventXID:     "pg_current_xact_id()::text::bigint",
		EventVisible: "txid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint",
	}
}

// translate maps SQLSTATEs and connection failures to kinds. A server that dies under a
// statement shows as the end of the connection, without a word of the server's: whether
// the statement, or a COMMIT, was done is not known then, which is ErrUnavailable too.
func translate(err error) error {
	kind := error(nil)
	var pe *pgconn.PgError
	var ne net.Error
	var ce *pgconn.ConnectError
	switch {
	case errors.As(err, &pe):
		kind = kindOfState(pe.Code)
	case errors.As(err, &ce), errors.As(err, &ne), errors.Is(err, sql.ErrConnDone), errors.Is(err, driver.ErrBadConn),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), pgconn.SafeToRetry(err):
		kind = plat.ErrUnavailable
	}
	if kind == nil {
		return err
	}
	return fmt.Errorf("%w: %w", kind, err)
}

func kindOfState(state string) error {
	switch state {
	case "23505":
		return plat.ErrExists
	case "23503":
		return plat.ErrConflict
	case "53100", "53200", "53400":
		return plat.ErrExhausted
	case "40001", "40P01", "53300", "55P03":
		return plat.ErrUnavailable
	}
	if len(state) == 5 && (state[:2] == "08" || state[:2] == "57") {
		return plat.ErrUnavailable
	}
	return nil
}
