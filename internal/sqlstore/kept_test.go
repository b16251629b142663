// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"panal/internal/lake"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlite"
	"panal/internal/sqlstore/sqlstoretest"
)

// TestKeptStatements: commits of all sizes beside each other use and fill the kept
// statements while the only connection changes hands; nothing waits for itself, and
// what was written is there, also after the schema has changed and the file was
// written anew, which end prepared statements.
func TestKeptStatements(t *testing.T) {
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "lake.db"), sqlstoretest.Concerns()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s := sqlstore.NewLake(db, plat.SystemClock)
	c := lake.Channel{ID: "1", Org: "2", CreatedAt: plat.SystemClock()}
	if err := s.CreateChannel(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for round, change := range []string{"SELECT 1", "CREATE INDEX kept_test ON file (etag)", "VACUUM"} {
		if _, err := sqlstore.WriterOf(db).ExecContext(t.Context(), change); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for n := range 8 {
			wg.Go(func() {
				files := make([]lake.NewFile, 1+5*n)
				for i := range files {
					files[i].File = lake.File{
						ID: plat.NewFileID(plat.SystemClock()), Channel: c.ID, ContentType: "text/plain",
						Metadata: lake.Metadata{"label": fmt.Sprint(i), "round": fmt.Sprint(round)},
					}
				}
				out, err := s.Commit(t.Context(), files)
				if err != nil {
					t.Error(err)
					return
				}
				for i := range out {
					f, err := s.File(t.Context(), c.ID, files[i].ID, plat.SystemClock())
					if err != nil || f.Metadata["round"] != fmt.Sprint(round) {
						t.Errorf("%+v, %v", f, err)
					}
				}
			})
			total += int64(1 + 5*n)
		}
		wg.Wait()
		if got, err := s.Channel(t.Context(), c.ID); err != nil || got.Org != c.Org {
			t.Errorf("%+v, %v", got, err)
		}
		if u, err := s.Usage(t.Context(), c.ID, plat.SystemClock()); err != nil || u.Files != total {
			t.Errorf("%d files, %v, want %d", u.Files, err, total)
		}
	}
}
