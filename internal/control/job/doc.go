// SPDX-License-Identifier: Apache-2.0

// Package job makes training jobs run: a level-triggered reconciler compares the
// records with the runner's view and takes the next step of each job. Imported by
// app only.
//
// Invariants. Every step is idempotent and the order of steps is such that the
// server may be killed between any two: the workload's id is on the record before
// it is started, so nothing starts twice; log lines and the end of a job are
// recorded before the runner forgets the workload; a job's end and the model of
// its result are one transaction. Nothing is kept in memory but what was last
// logged.
package job
