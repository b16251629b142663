// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"testing"

	"panal/internal/blob"
	"panal/internal/blob/memblob"
	"panal/internal/lake"
	"panal/internal/lake/journal"
	"panal/internal/lake/laketest"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
)

// TestLakeJournaled: a store with a journal is a store.
func TestLakeJournaled(t *testing.T) {
	laketest.Run(t, laketest.Harness{New: func(t *testing.T, now plat.Clock) (lake.Store, lake.Store) {
		db, b := sqlstoretest.SQLite(t), blob.New(memblob.New())
		return journal.NewStore(sqlstore.NewLake(db, now), journal.New(b, now)), journal.NewStore(sqlstore.NewLake(db, now), journal.New(b, now))
	}})
}
