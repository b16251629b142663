// SPDX-License-Identifier: Apache-2.0

package postgres_test

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"testing"

	"golang.org/x/sync/errgroup"

	"panal/internal/plat"
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

// TestTranslateLostConnection: a server that dies under a statement ends the connection.
// That is a passing failure (503) and not a definite no: were it an error without a kind,
// a group of commits would be tried again one by one, the rows that the lost COMMIT had
// stored would be duplicates, and the bytes of acknowledged files would be dropped.
func TestTranslateLostConnection(t *testing.T) {
	for _, cause := range []error{io.EOF, io.ErrUnexpectedEOF, driver.ErrBadConn} {
		err := postgres.Dialect().Translate(fmt.Errorf("commit: %w", cause))
		if !errors.Is(err, plat.ErrUnavailable) || !errors.Is(err, cause) {
			t.Errorf("%v is %v", cause, err)
		}
	}
}
