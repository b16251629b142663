// SPDX-License-Identifier: Apache-2.0

// Package link makes the objects of a foreign bucket files of a channel, and keeps them
// in step with it (docs/adr/0017).
//
// Invariants:
//   - Nothing is believed that an event says but its key. What is written is what a look
//     at the object found, and only if nobody else wrote the key since before that look.
//   - A message is acknowledged after what it led to is durable: a file, its absence, or a
//     dead letter.
//   - The bucket is only read.
package link
