// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"strings"
	"testing"

	"panal/internal/deploy/deploytest"
	"panal/internal/org"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
)

func TestDeployContract(t *testing.T) {
	for name, open := range map[string]func(*testing.T) *sqlstore.DB{"sqlite": sqlstoretest.SQLite, "postgres": sqlstoretest.Postgres} {
		t.Run(name, func(t *testing.T) {
			deploytest.Run(t, func(t *testing.T) deploytest.Harness {
				db := open(t)
				orgs := sqlstore.NewOrgs(db)
				o, err := org.NewService(orgs, orgs, plat.SystemClock, "").Create(t.Context(), "acme")
				if err != nil {
					t.Fatal(err)
				}
				return deploytest.Harness{Store: sqlstore.NewDeploys(db), Org: o.ID, Events: sqlstore.NewEvents(db)}
			})
		})
	}
}

// TestExplainPending: which switches wait for a service is found by an index, however many
// endpoints there are.
func TestExplainPending(t *testing.T) {
	stmt := sqlstore.PendingStatement("ser-1")
	if plan := planOf(t, sqlstoretest.SQLite(t), false, stmt.SQL, stmt.Args); !strings.Contains(plan, "endpoint_by_pending") {
		t.Errorf("%s\nhas the plan\n%s", stmt.SQL, plan)
	}
}
