// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"testing"

	"panal/internal/lake"
	"panal/internal/lake/laketest"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/postgres"
	"panal/internal/sqlstore/sqlstoretest"
)

func TestLakeSQLite(t *testing.T) {
	laketest.Run(t, laketest.Harness{New: func(t *testing.T, now plat.Clock) (lake.Store, lake.Store) {
		db := sqlstoretest.SQLite(t) // one process has it; two handles on it still share nothing but the database
		return sqlstore.NewLake(db, now), sqlstore.NewLake(db, now)
	}})
}

func TestLakePostgres(t *testing.T) {
	laketest.Run(t, laketest.Harness{New: func(t *testing.T, now plat.Clock) (lake.Store, lake.Store) {
		url := sqlstoretest.PostgresURL(t)
		open := func() lake.Store {
			db, err := postgres.Open(t.Context(), url, 8, sqlstoretest.Concerns()...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			return sqlstore.NewLake(db, now)
		}
		return open(), open()
	}})
}
