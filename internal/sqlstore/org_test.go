// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"testing"

	"panal/internal/org/orgtest"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
)

func TestIdentitySQLite(t *testing.T) {
	orgtest.Run(t, func(t *testing.T) orgtest.Store { return sqlstore.NewOrgs(sqlstoretest.SQLite(t)) })
}

func TestIdentityPostgres(t *testing.T) {
	orgtest.Run(t, func(t *testing.T) orgtest.Store { return sqlstore.NewOrgs(sqlstoretest.Postgres(t)) })
}
