// SPDX-License-Identifier: Apache-2.0

// Package sqlstoretest runs a store's suite on every SQL engine: SQLite in the
// test's directory, and a real PostgreSQL that the test run starts itself.
package sqlstoretest

import (
	"context"
	"database/sql"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the test's own connections

	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/postgres"
	"panal/internal/sqlstore/sqlite"
)

// EnvPostgres names the variable that holds the PostgreSQL URL of the test run.
// scripts/with-postgres starts a server and sets it.
const EnvPostgres = "PANAL_TEST_POSTGRES"

// Concerns are all folders of migrations.
func Concerns() []string { return []string{"outbox", "control", "lake", "logs"} }

// Each runs fn once per engine, each time on an empty, migrated database.
func Each(t *testing.T, fn func(t *testing.T, db *sqlstore.DB)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { fn(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { fn(t, Postgres(t)) })
}

// SQLite returns an empty database in the test's directory.
func SQLite(t *testing.T) *sqlstore.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), Concerns()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return db
}

// Postgres returns an empty database: a schema of its own on the run's server.
// Without a server it fails in CI and skips elsewhere, saying how to get one.
func Postgres(t *testing.T) *sqlstore.DB {
	t.Helper()
	db, err := postgres.Open(t.Context(), PostgresURL(t), 8, Concerns()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// PostgresURL returns a URL whose search path is a fresh, empty schema, dropped
// when the test ends.
func PostgresURL(t testing.TB) string {
	t.Helper()
	base := os.Getenv(EnvPostgres)
	if base == "" {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not set: run the tests through scripts/with-postgres (make test does)", EnvPostgres)
		}
		t.Skipf("%s is not set: scripts/with-postgres go test … starts a server", EnvPostgres)
	}
	schema := "t_" + strings.ReplaceAll(plat.NewUUID(), "-", "")
	exec := func(stmt string) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		db, err := sql.Open("pgx", base)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		if _, err := db.ExecContext(ctx, stmt); err != nil {
			t.Fatalf("%s: %v", stmt, err)
		}
	}
	exec("CREATE SCHEMA " + schema)
	t.Cleanup(func() { exec("DROP SCHEMA " + schema + " CASCADE") })
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return u.String()
}
