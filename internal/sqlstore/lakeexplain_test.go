// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"panal/internal/lake"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
)

// TestExplain: every shape of a search reads ranges of an index, on a table that is
// large enough for the planners to care: none reads a table from end to end,
// and nothing that is to be looked up row by row becomes a join.
func TestExplain(t *testing.T) {
	t.Parallel()
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		ctx := t.Context()
		s := sqlstore.NewLake(db, plat.SystemClock)
		for _, id := range []plat.ChannelID{"1", "2"} {
			if err := s.CreateChannel(ctx, lake.Channel{ID: id, CreatedAt: plat.SystemClock()}); err != nil {
				t.Fatal(err)
			}
		}
		postgres := db.Dialect().Name == "postgres"
		series, pad := `(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 10000) SELECT n FROM s) AS s`, "printf('%07d', n)"
		if postgres {
			series, pad = `generate_series(1, 10000) AS s(n)`, "lpad(n::text, 7, '0')"
		}
		fill := []string{`INSERT INTO file (channel, at, id, size, etag, content_type, metadata, lifetime, expires_at)
			SELECT c.num, 1700000000000000 + n, 'id' || ` + pad + `, 1, '', 'a/b', '{}', '', 0 FROM channel c CROSS JOIN ` + series}
		for key, token := range map[string]string{"label": "'l' || (n % 10)", "camera": "'c' || (n % 200)", "split": "'t' || (n % 2)", "name": "'n' || n"} {
			fill = append(fill, `INSERT INTO posting (channel, key, token, at, whole, expires_at)
				SELECT c.num, '`+key+`', `+token+`, 1700000000000000 + n, TRUE, 0 FROM channel c CROSS JOIN `+series)
		}
		for _, stmt := range append(fill, "ANALYZE") {
			err := db.Write(ctx, func(tx *sqlstore.Tx) error {
				_, err := tx.ExecContext(ctx, stmt)
				return err
			})
			if err != nil {
				t.Fatalf("%s: %v", stmt, err)
			}
		}
		explain := func(what string, stmt sqlstore.Statement) {
			bad := []string{"SCAN f\n", "SCAN d\n", "SCAN p\n", "SCAN x\n"}
			if postgres {
				bad = []string{"Seq Scan on file", "Seq Scan on posting", "Hash Join", "Hash Anti", "Hash Semi", "Merge Anti", "Merge Semi"}
			}
			plan := planOf(t, db, postgres, stmt.SQL, stmt.Args)
			for _, word := range bad {
				if strings.Contains(plan, word) {
					t.Errorf("%s: %q in the plan of\n%s\n%s", what, word, stmt.SQL, plan)
				}
			}
		}
		now := time.UnixMicro(1700000000100000)
		for _, text := range []string{
			"", "camera:c7", "split:t1", "name:n77", `name:"n77"`, "label:l3 AND camera:c3 AND split:t1", "split:t1 AND label:l3",
			"camera:c7 AND NOT split:t1", "camera:c7 OR camera:c8", "NOT split:t1", "label:l* AND camera:c7", "uploaded_at:2023-11-14 AND camera:c7",
			"(camera:c7 OR name:n5) AND NOT label:l1", `file_id:"id0000007"`,
		} {
			n, err := lake.ParseQuery(text)
			if err != nil {
				t.Fatal(err)
			}
			f := lake.Filter{Channel: "2", Query: n}
			for _, after := range []int64{0, 1700000000005000} {
				for _, desc := range []bool{false, true} {
					all, err := s.SearchStatements(ctx, f, after, desc, now)
					if err != nil {
						t.Fatal(err)
					}
					for _, stmt := range all {
						explain(fmt.Sprintf("page of %q after %d, descending %v", text, after, desc), stmt)
					}
				}
			}
			switch text {
			case "", "NOT split:t1": // the sum of the deltas, less another count
				continue
			}
			stmt, err := s.CountStatement(ctx, f, now)
			if err != nil {
				t.Fatal(err)
			}
			explain(fmt.Sprintf("count of %q", text), stmt)
		}
	})
}

// TestExplainLinkBatch: what a batch of events does looks up each key and each file, also
// in a channel that has got all of its rows since statistics were gathered last, when
// there were many others.
func TestExplainLinkBatch(t *testing.T) {
	t.Parallel()
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		ctx := t.Context()
		s := sqlstore.NewLake(db, plat.SystemClock)
		exec := func(stmt string) {
			t.Helper()
			err := db.Write(ctx, func(tx *sqlstore.Tx) error {
				_, err := tx.ExecContext(ctx, stmt)
				return err
			})
			if err != nil {
				t.Fatalf("%s: %v", stmt, err)
			}
		}
		postgres := db.Dialect().Name == "postgres"
		fill := func(channel string, rows int) {
			series := fmt.Sprintf(`(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < %d) SELECT n FROM s) AS s`, rows)
			if postgres {
				series = fmt.Sprintf(`generate_series(1, %d) AS s(n)`, rows)
			}
			exec(`INSERT INTO link_object (channel, key, gen, sequencer, file, version, etag, size, modified, mark, written_at)
				SELECT c.num, 'k' || n, 1, '', 'f' || n, '', '', 1, 1, '', 1 FROM channel c CROSS JOIN ` + series + ` WHERE c.id = '` + channel + `'`)
			exec(`INSERT INTO file (channel, at, id, size, etag, content_type, metadata, lifetime, expires_at)
				SELECT c.num, n, 'f' || n, 1, '', 'a/b', '{}', '', 0 FROM channel c CROSS JOIN ` + series + ` WHERE c.id = '` + channel + `'`)
		}
		for i := range 20 {
			id := plat.ChannelID(fmt.Sprint(i))
			if err := s.CreateChannel(ctx, lake.Channel{ID: id, CreatedAt: plat.SystemClock()}); err != nil {
				t.Fatal(err)
			}
			if i > 0 {
				fill(string(id), 100)
			}
		}
		exec("ANALYZE")
		fill("0", 20_000)
		var keys []string
		var ids []plat.FileID
		for i := range 256 {
			keys, ids = append(keys, fmt.Sprint("k", i*7)), append(ids, plat.FileID(fmt.Sprint("f", i*7)))
		}
		all, err := s.LinkStatements(ctx, "0", keys, ids)
		if err != nil {
			t.Fatal(err)
		}
		for i, stmt := range all {
			plan := planOf(t, db, postgres, stmt.SQL, stmt.Args)
			good := [][]string{
				{"SEARCH link_object USING INDEX sqlite_autoindex_link_object_1 (channel=? AND key=?)", "SEARCH link_object USING PRIMARY KEY (channel=? AND key=?)"},
				{"(channel=? AND at=?)"},
			}
			if postgres {
				good = [][]string{{"key = probe.value"}, {"at = ANY"}}
			}
			if !slices.ContainsFunc(good[i], func(g string) bool { return strings.Contains(plan, g) }) || postgres && (strings.Contains(plan, "Seq Scan on file") || strings.Contains(plan, "Seq Scan on link_object")) || postgres && strings.Contains(plan, "Filter: (key") {
				t.Errorf("%s\nhas the plan\n%s", stmt.SQL, plan)
			}
		}
	})
}

// planOf returns how the engine would answer a statement, a line a step.
func planOf(t *testing.T, db *sqlstore.DB, postgres bool, stmt string, args []any) string {
	t.Helper()
	prefix := "EXPLAIN QUERY PLAN "
	if postgres {
		prefix = "EXPLAIN "
	}
	rows, err := db.Read().QueryContext(t.Context(), prefix+stmt, args...)
	if err != nil {
		t.Fatalf("%s: %v", stmt, err)
	}
	defer func() { _ = rows.Close() }()
	var plan strings.Builder
	for rows.Next() {
		var line string
		into := []any{&line}
		if !postgres {
			into = []any{new(int), new(int), new(int), &line}
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		plan.WriteString(line + "\n")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return plan.String()
}
