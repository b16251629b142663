// SPDX-License-Identifier: Apache-2.0

package postgres_test

import (
	"testing"

	"golang.org/x/sync/errgroup"

	"panal/internal/sqlstore/postgres"
	"panal/internal/sqlstore/sqlstoretest"
)

// TestOpenTogether: servers that start at once on an empty database make its schema
// once, and wait for each other.
func TestOpenTogether(t *testing.T) {
	url := sqlstoretest.PostgresURL(t)
	var g errgroup.Group
	for range 6 {
		g.Go(func() error {
			db, err := postgres.Open(t.Context(), url, 2, sqlstoretest.Concerns()...)
			if err != nil {
				return err
			}
			return db.Close()
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}
