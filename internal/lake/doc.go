// SPDX-License-Identifier: Apache-2.0

// Package lake is the DataLake: channels of immutable files with metadata, found
// by a search language, exactly and at once (data.md §8, §10–13).
//
// Invariants:
//   - The index row decides visibility. The object is stored first, the row after
//     it: a row without an object can't exist, an object without a row is garbage
//     and is collected after a grace period.
//   - Metadata is kept as it was sent and compared decoded.
//   - A file's upload time is unique within its channel and is its place in every
//     index: the store moves a stamp by microseconds where two would be equal.
//   - A file past its lifetime does not exist for any reader, reaped or not.
package lake
