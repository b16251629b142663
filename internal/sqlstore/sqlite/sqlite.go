// SPDX-License-Identifier: Apache-2.0

// Package sqlite opens SQLite databases for sqlstore: one file per concern, WAL,
// synchronous=FULL (an acknowledged commit survives a power cut), one writer.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"runtime"
	"slices"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"modernc.org/sqlite"
	sqlitelib "modernc.org/sqlite/lib"

	"panal/internal/plat"
	"panal/internal/sqlstore"
)

//go:embed migrations
var migrations embed.FS

// Open opens (or creates) the database file at path and brings it to the newest
// schema of the concerns ("outbox", "control", "lake"): folders of migrations.
func Open(ctx context.Context, path string, concerns ...string) (*sqlstore.DB, error) {
	if err := private(path); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	// What a cache hasn't is in the system's. A page takes twice its bytes in one. Only the
	// postings of files lie so far apart that a large one spares their writer much.
	cache := 2000
	if slices.Contains(concerns, "lake") {
		cache = 8000
	}
	write, err := pool(path, fmt.Sprintf("&_txlock=immediate&_pragma=cache_size(-%d)", cache), 1)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	for _, c := range concerns {
		if err := migrate(ctx, write, c); err != nil {
			return nil, errors.Join(fmt.Errorf("migrate %s to %s: %w", path, c, translate(err)), write.Close())
		}
	}
	read, err := pool(path, "&_pragma=query_only(1)&_pragma=cache_size(-1000)", max(4, runtime.GOMAXPROCS(0)))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), write.Close())
	}
	return sqlstore.NewDB(read, write, Dialect()), nil
}

// private makes the file its owner's alone, wherever it stands; SQLite gives its
// journals the same mode. A file that is there is not opened: closing it would drop
// the locks that this process holds on it.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	switch {
	case err == nil:
		return f.Close()
	case errors.Is(err, fs.ErrExist):
		return os.Chmod(path, 0o600)
	}
	return err
}

// pool opens a connection pool of at most n connections, all kept.
func pool(path, extra string, n int) (*sql.DB, error) {
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() +
		"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)" +
		"&_pragma=foreign_keys(1)&_pragma=temp_store(MEMORY)" + extra
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}

func migrate(ctx context.Context, db *sql.DB, concern string) error {
	folder, err := fs.Sub(migrations, "migrations/"+concern)
	if err != nil {
		return err
	}
	store, err := database.NewStore(goose.DialectSQLite3, "goose_"+concern)
	if err != nil {
		return err
	}
	p, err := goose.NewProvider("", db, folder, goose.WithStore(store))
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// Dialect returns SQLite's dialect.
func Dialect() sqlstore.Dialect {
	return sqlstore.Dialect{
		Name:         "sqlite",
		Translate:    translate,
		MaxParams:    32_000,
		Positional:   true,
		EventXID:     "0",
		EventVisible: "1 = 1",
		Keep:         true,
		Whole:        true,
		Late:         true,
		Checkpoint:   "PRAGMA wal_checkpoint(RESTART)",
		Backup:       copyTo,
	}
}

// translate maps SQLite's result codes to kinds.
func translate(err error) error {
	var se *sqlite.Error
	if !errors.As(err, &se) {
		return err
	}
	kind := error(nil)
	switch se.Code() {
	case sqlitelib.SQLITE_CONSTRAINT_PRIMARYKEY, sqlitelib.SQLITE_CONSTRAINT_UNIQUE:
		kind = plat.ErrExists
	case sqlitelib.SQLITE_CONSTRAINT_FOREIGNKEY:
		kind = plat.ErrConflict
	default:
		switch se.Code() & 0xff {
		case sqlitelib.SQLITE_FULL:
			kind = plat.ErrExhausted
		case sqlitelib.SQLITE_IOERR:
			// What opens a database needs room for the file that its connections share.
			if se.Code() == sqlitelib.SQLITE_IOERR_SHMSIZE {
				return fmt.Errorf("%w: the disk is full: %w", plat.ErrExhausted, err)
			}
		case sqlitelib.SQLITE_BUSY, sqlitelib.SQLITE_LOCKED:
			kind = plat.ErrUnavailable
		}
	}
	if kind == nil {
		return err
	}
	return fmt.Errorf("%w: %w", kind, err)
}
