// SPDX-License-Identifier: Apache-2.0

// Package feed is the port to where storage events of foreign buckets come from
// (docs/adr/0017), and the reader of what they say.
//
// A feed is at-least-once: it may repeat, delay, reorder and, being others'
// machinery, lose. So an event is only a hint that an object may have changed; whoever
// receives it looks at the object. Messages are never parsed by the feed: what can't be
// read is a dead letter of the subscriber, with its reason, not a stuck queue.
package feed
