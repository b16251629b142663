// SPDX-License-Identifier: Apache-2.0

// Package journal keeps the DataLake's change journal: small objects beside the
// files' bytes that say what the bytes cannot (id, metadata, lifetime, upload time,
// channels, deletions), so that the index can be made again from storage alone
// (docs/adr/0012).
//
// Invariants:
//   - Entries are facts. The change is committed to the index first, its entry is
//     durable second, and only then is the call answered.
//   - An entry is the whole state of one file or channel at one revision, which the
//     index counts. Of two entries the one with the greater revision holds, and an
//     end holds against everything. So the order and the number of times in which
//     entries are read do not matter, nor which process wrote them.
//   - Compaction writes the merged object before it deletes what it merged.
//
// Store wraps a lake.Store and journals its changes; Rebuild and Verify read.
package journal
