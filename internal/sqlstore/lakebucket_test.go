// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"strings"
	"testing"

	"panal/internal/lake"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
)

// TestExplainBucket: a directory and a path are ranges of the index by path, read in its
// order: nothing is sorted, and no bucket read from end to end.
func TestExplainBucket(t *testing.T) {
	t.Parallel()
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		ctx := t.Context()
		s := sqlstore.NewLake(db, plat.SystemClock)
		if err := s.CreateChannel(ctx, lake.Channel{ID: "1", Storage: lake.StorageBucket, CreatedAt: plat.SystemClock()}); err != nil {
			t.Fatal(err)
		}
		postgres := db.Dialect().Name == "postgres"
		series := `(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 10000) SELECT n FROM s) AS s`
		if postgres {
			series = `generate_series(1, 10000) AS s(n)`
		}
		for _, stmt := range []string{
			`INSERT INTO file (channel, at, id, size, etag, content_type, metadata, lifetime, expires_at, path)
			 SELECT c.num, 1700000000000000 + n, 'id' || n, 1, '', 'a/b', '{}', '', 0, 'd' || (n % 100) || '/' || n FROM channel c CROSS JOIN ` + series,
			"ANALYZE",
		} {
			if err := db.Write(ctx, func(tx *sqlstore.Tx) error {
				_, err := tx.ExecContext(ctx, stmt)
				return err
			}); err != nil {
				t.Fatalf("%s: %v", stmt, err)
			}
		}
		var num int64
		if err := db.Read().QueryRowContext(ctx, `SELECT num FROM channel WHERE id = '1'`).Scan(&num); err != nil {
			t.Fatal(err)
		}
		for what, c := range map[string]struct{ prefix, from, op string }{
			"the root": {"", "", ">"}, "behind a directory": {"", "d50" + "0", ">="}, "a directory": {"d7/", "d7/", ">"}, "a page of it": {"d7/", "d7/5007", ">"},
		} {
			q, args := sqlstore.EntriesSQL(num, c.prefix, c.from, c.op, 100, plat.SystemClock())
			p := planOf(t, db, postgres, q, args)
			if !strings.Contains(p, "file_by_path") || strings.Contains(p, "Sort") || strings.Contains(p, "TEMP B-TREE") {
				t.Errorf("%s: %s", what, p)
			}
		}
		// A page of directories passes by what is in them.
		page, more, err := s.Entries(ctx, lake.Directory{Bucket: "1", Limit: 1000}, plat.SystemClock())
		if err != nil || more || len(page) != 100 {
			t.Errorf("%d entries, %v, %v", len(page), more, err)
		}
	})
}
