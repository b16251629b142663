// SPDX-License-Identifier: Apache-2.0

package etag

// paired tells whether two messages at once cost less than one after the other.
const paired = true

// blocks hashes n blocks of two messages, from p and from q, into the states s and t. Nothing
// interrupts it: n is to be small.
//
//go:noescape
func blocks(s, t *[4]uint32, p, q *byte, n int)
