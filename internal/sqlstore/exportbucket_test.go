// SPDX-License-Identifier: Apache-2.0

package sqlstore

import "time"

// EntriesSQL lets a test ask how a directory is listed.
func EntriesSQL(num int64, prefix, from, op string, size int, now time.Time) (string, []any) {
	return entriesSQL(num, prefix, from, op, size, now)
}
