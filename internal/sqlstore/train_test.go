// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"testing"

	"panal/internal/org"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
	"panal/internal/train/traintest"
)

func TestTraining(t *testing.T) {
	run := func(open func(*testing.T) *sqlstore.DB) func(*testing.T) {
		return func(t *testing.T) {
			traintest.Run(t, func(t *testing.T) traintest.Harness {
				db := open(t)
				orgs := sqlstore.NewOrgs(db)
				o, err := org.NewService(orgs, orgs, plat.SystemClock, "").Create(t.Context(), "acme")
				if err != nil {
					t.Fatal(err)
				}
				return traintest.Harness{Store: sqlstore.NewTraining(db), Events: sqlstore.NewEvents(db), Org: o.ID}
			})
		}
	}
	t.Run("sqlite", run(sqlstoretest.SQLite))
	t.Run("postgres", run(sqlstoretest.Postgres))
}
