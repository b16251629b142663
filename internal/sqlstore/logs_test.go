// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"context"
	"testing"

	"panal/internal/logs"
	"panal/internal/logs/logstest"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/postgres"
	"panal/internal/sqlstore/sqlite"
	"panal/internal/sqlstore/sqlstoretest"
)

func openLogFile(ctx context.Context, path string) (*sqlstore.DB, error) {
	return sqlite.Open(ctx, path, "logs")
}

func TestLogs(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		logstest.Run(t, logstest.Harness{New: func(t *testing.T) logstest.Opener {
			dir := t.TempDir()
			return func() (logs.Store, func() error, error) {
				s, err := sqlstore.OpenLogFiles(context.Background(), dir, openLogFile)
				if err != nil {
					return nil, nil, err
				}
				return s, s.Close, nil
			}
		}})
	})
	t.Run("postgres", func(t *testing.T) {
		logstest.Run(t, logstest.Harness{Shared: true, New: func(t *testing.T) logstest.Opener {
			url := sqlstoretest.PostgresURL(t)
			return func() (logs.Store, func() error, error) {
				db, err := postgres.Open(context.Background(), url, 8, "logs")
				if err != nil {
					return nil, nil, err
				}
				return sqlstore.NewLogs(db), db.Close, nil
			}
		}})
	})
}
