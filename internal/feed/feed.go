// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"context"
	"time"
)

// Source is one feed. Implementations: sqsfeed, webhookfeed, memfeed; package feedtest
// holds them to this contract. All methods are safe for concurrent use.
//
// There is no method for giving a message up: dead letters of all feeds are in one
// table, and a message that is there is acknowledged like any other.
type Source interface {
	// Receive returns up to limit messages, at least one unless the feed stays empty for
	// wait (then none, without error). Until its lease ends (see Extend), a received
	// message is not received again. A call ends, however few messages it has, with the one
	// that brings its bodies to MaxReceive bytes, or up to nine later. ErrUnavailable when the feed does not answer. When ctx
	// ends, what a call had received is received again after its lease.
	Receive(ctx context.Context, limit int, wait time.Duration) ([]Message, error)
	// Ack ends messages: they are not received again. A message whose lease ended may have
	// been received by another meanwhile and be received once more. Unknown ones are not an
	// error. After an error some may be ended.
	Ack(ctx context.Context, handles []string) error
	// Extend sets the leases of messages to d from now; 0 gives them back, to be received
	// again at once. Messages that are ended, or leased to another meanwhile, are left alone.
	Extend(ctx context.Context, handles []string, d time.Duration) error
	// Backlog tells what waits in the feed, received or not.
	Backlog(ctx context.Context) (Backlog, error)
	// Close ends the feed's own work; calls under way fail. The messages stay.
	Close() error
}

// Message is what a feed delivers, unread.
type Message struct {
	// Handle names this receipt of the message to Ack and Extend; a message that is
	// received again has another.
	Handle string
	Body   []byte
	// Receipts is how often it was received, this time included; 0 when unknown.
	Receipts int
	// Sent is when it came into the feed; zero when unknown.
	Sent time.Time
}

// Backlog is what waits in a feed.
type Backlog struct {
	Messages int64
	Oldest   time.Time // when the oldest came in; zero when none or not known
}

// MaxBody bounds a message: what is larger is not accepted by a feed of ours, and is a
// dead letter when a foreign one delivers it. SQS allows 1 MiB.
const MaxBody = 1 << 20

// MaxReceive bounds what one call of Receive holds in memory, whatever a feed has.
const MaxReceive = 1 << 20
