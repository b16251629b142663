// SPDX-License-Identifier: Apache-2.0

// Package blob is the port to object storage. Domains hold a *Store, the
// portable type: it validates keys and ranges, hashes what passes through and
// counts it, once for every adapter. Adapters implement Driver and live beside
// it (memblob, dirblob, …); wrappers (faultblob, …) implement Driver over Driver.
// One suite, blobtest, holds each to the contract on Driver.
//
// Keys are 1 to 1,024 bytes of UTF-8, "/" separated, without empty, "." or ".."
// segments and without control characters; any such key round-trips on every
// adapter, distinct keys never collide, and order is byte order.
package blob
