// SPDX-License-Identifier: Apache-2.0

package sqlstore

import "database/sql"

// WriterOf returns the pool that writes.
func WriterOf(db *DB) *sql.DB { return db.write }
