// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"fmt"
)

const (
	// shrinkBytes is how much has to be free before a file is written anew.
	shrinkBytes = 4 << 20
	// shrinkShare: and one part in so many of it.
	shrinkShare = 4
)

// Shrink gives free space back to the file system where the engine doesn't by itself
// and there is enough of it: a SQLite file is written anew, which holds up its writer
// meanwhile. PostgreSQL's vacuum makes the space free for others in the database.
func (db *DB) Shrink(ctx context.Context) error {
	if db.dialect.Name != "sqlite" {
		return nil
	}
	var free, pages, size int64
	for pragma, to := range map[string]*int64{"freelist_count": &free, "page_count": &pages, "page_size": &size} {
		if err := db.read.QueryRowContext(ctx, "PRAGMA "+pragma).Scan(to); err != nil {
			return fmt.Errorf("read %s: %w", pragma, db.translate(err))
		}
	}
	if free*size < shrinkBytes || free < pages/shrinkShare {
		return nil
	}
	for _, stmt := range []string{"VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"} {
		if _, err := db.write.ExecContext(ctx, stmt); err != nil {
			return fmt.Errorf("shrink: %w", db.translate(err))
		}
	}
	return nil
}
