// SPDX-License-Identifier: Apache-2.0

// Package logs stores and reads log lines: agents ship batches, ingest packs
// them into records and acknowledges what is durable, readers page through a
// stream by time range with stable tokens.
//
// Invariants: an acknowledged line is never lost and never doubled; order within
// a workload is the order written; a token never skips or repeats a line; only
// the time to live deletes.
package logs
