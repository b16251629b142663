// SPDX-License-Identifier: Apache-2.0

// Package logs stores and reads log lines: agents ship batches, ingest packs
// them into records and acknowledges what is durable, readers page through a
// stream by time range with stable tokens.
//
// Invariants: an acknowledged line is never lost and never doubled; order within
// a workload is the order written; a token never skips or repeats a line; only
// the time to live deletes.
//
// How it hangs together. Every line gets a position (Pos) when it is committed,
// from one sequencer, so positions become visible in order and a cursor is just a
// position. A flush becomes one hot record that mixes streams; Repack later turns
// hot records into packed ones, each of one stream, in a single transaction and
// without touching positions. Store (implemented by sqlstore) keeps records;
// everything that decides what they hold is here.
package logs
