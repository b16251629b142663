// SPDX-License-Identifier: Apache-2.0

package journal_test

import (
	"flag"
	"os"
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
func TestStoreContract(t *testing.T) {
	laketest.Run(t, laketest.Harness{New: func(t *testing.T, now plat.Clock) (lake.Store, lake.Store) {
		db, b := sqlstoretest.SQLite(t), blob.New(memblob.New())
		return journal.NewStore(sqlstore.NewLake(db, now), journal.New(b, now)), journal.NewStore(sqlstore.NewLake(db, now), journal.New(b, now))
	}})
}

// TestMain keeps the property tests of this package short: each check is a whole
// history on a database. -rapid.checks=100 takes a minute and a half.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if !given {
		if err := flag.Set("rapid.checks", "12"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
