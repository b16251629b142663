// SPDX-License-Identifier: Apache-2.0

// Package s3blob is the blob adapter for a bucket of any S3 compatible service.
//
// An object's key in the bucket is the prefix and Panal's key, unescaped: whoever
// looks into the bucket finds what Panal's records name, and a rebuild can read it.
// The price: a key is at most 1,024 bytes with the prefix, and a service that keeps its
// objects in a tree of directories refuses what a tree can't hold (an object "a"
// beside "a/b", a segment of some 200 bytes or more). Each is an error, ErrInvalid,
// never silence; the keys that Panal makes meet neither.
//
// A body of known length is one PUT, streamed, up to 5 GiB; a longer one is streamed
// in parts; one of unknown length is sent in parts from pooled buffers (ADR 0007).
package s3blob
