// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"testing"

	"panal/internal/org"
	"panal/internal/plat"
	"panal/internal/registry"
	"panal/internal/registry/registrytest"
	"panal/internal/secret"
	"panal/internal/secret/secrettest"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
)

// withOrgs makes the organizations that rows refer to.
func withOrgs(t *testing.T, db *sqlstore.DB, ids ...plat.OrgID) *sqlstore.DB {
	t.Helper()
	for _, id := range ids {
		if _, err := sqlstore.NewOrgs(db).CreateOrganization(t.Context(), org.Organization{ID: id, Name: "org-" + string(id), State: org.Active}); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

func TestSecretsSQLite(t *testing.T) {
	secrettest.Run(t, func(t *testing.T) secret.Store {
		return sqlstore.NewSecrets(withOrgs(t, sqlstoretest.SQLite(t), secrettest.Org, secrettest.Other))
	})
}

func TestSecretsPostgres(t *testing.T) {
	secrettest.Run(t, func(t *testing.T) secret.Store {
		return sqlstore.NewSecrets(withOrgs(t, sqlstoretest.Postgres(t), secrettest.Org, secrettest.Other))
	})
}

func TestRegistrySQLite(t *testing.T) {
	registrytest.Run(t, func(t *testing.T) registry.Store {
		return sqlstore.NewRegistry(withOrgs(t, sqlstoretest.SQLite(t), registrytest.Org, registrytest.Other))
	})
}

func TestRegistryPostgres(t *testing.T) {
	registrytest.Run(t, func(t *testing.T) registry.Store {
		return sqlstore.NewRegistry(withOrgs(t, sqlstoretest.Postgres(t), registrytest.Org, registrytest.Other))
	})
}
