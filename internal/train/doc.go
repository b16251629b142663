// SPDX-License-Identifier: Apache-2.0

// Package train holds job definitions, their versions, training jobs and training
// models (compute.md §2): the nouns, their defaults and rules, the state machine
// of a job, and the store that keeps them. What makes a job run is control/job.
//
// Invariants: a terminal job never changes its status, whatever a caller asks for
// (the store refuses it); every transition is an event in the transaction of the
// change; version numbers are never used twice; the bytes of a version or model
// are stored before its row, so a row without bytes can't exist; a job has at
// most one model that was registered from its result.
package train
