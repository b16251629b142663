// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"panal/internal/lake"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlite"
	"panal/internal/sqlstore/sqlstoretest"
)

// BenchmarkLakeCommit commits batches of files with three metadata keys; one
// operation is one file.
func BenchmarkLakeCommit(b *testing.B) {
	for _, batch := range []int{8, 100} {
		b.Run(fmt.Sprint(batch), func(b *testing.B) { lakeCommit(b, batch) })
	}
}

func lakeCommit(b *testing.B, batch int) {
	db, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "lake.db"), sqlstoretest.Concerns()...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	s := sqlstore.NewLake(db, plat.SystemClock)
	c := lake.Channel{ID: "1", CreatedAt: plat.SystemClock()}
	if err := s.CreateChannel(b.Context(), c); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if n++; n%batch != 0 {
			continue
		}
		files := make([]lake.NewFile, batch)
		for i := range files {
			files[i].File = lake.File{
				ID: plat.NewFileID(plat.SystemClock()), Channel: c.ID, Size: 200, ETag: "d41d8cd98f00b204e9800998ecf8427e", ContentType: "image/jpeg",
				Metadata: lake.Metadata{"filename": fmt.Sprintf("line-%d/IMG_%07d.jpg", i%7, n+i), "label": fmt.Sprint(i % 10), "split": "train"},
			}
		}
		if _, err := s.Commit(b.Context(), files); err != nil {
			b.Fatal(err)
		}
	}
}
