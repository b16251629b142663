// SPDX-License-Identifier: Apache-2.0

// Package agent is what runs beside user code (panal agent …): it fetches code
// and model, prepares the Python environment, supervises the runtime, answers
// requests and health checks, ships log lines and uploads results.
//
// Invariants.
//   - It has no more rights than user code: same uid, same walls. What it guards
//     it guards against accidents of user code, and it trusts nothing that user
//     code can write (frames, files, lines).
//   - User code ends with it.
//   - A line that was read from user code is on disk before the next is read, and
//     stays until the server acknowledged it; when the disk share is full, user
//     code waits.
//   - A training result is uploaded before the exit is told.
//   - Memory does not grow with bodies, archives, results or logs.
package agent
