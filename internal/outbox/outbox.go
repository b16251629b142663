// SPDX-License-Identifier: Apache-2.0

// Package outbox is how a change tells of itself: an event row written in the
// transaction of the change, read back by cursor. A wake-up only says "look";
// the rows are the truth, and every reader also looks again from time to time.
//
// Invariant: a cursor never passes an open transaction. Serial ids commit out of
// order, so a reader that took the highest id it saw would skip a slower
// writer's event for ever. See Log.Read.
package outbox

import (
	"context"
	"sync"
	"time"
)

// Event tells that something happened to a subject.
type Event struct {
	Pos     Cursor
	Time    time.Time
	Topic   string // the kind of subject: "job", "service", "file"
	Subject string // its id
	What    string // what happened: "created", "Active", "deleted"
}

// Cursor is a position in the log: everything before it has been read. The zero
// cursor is the beginning. Positions order first by transaction, then by row.
type Cursor struct {
	TxID int64 // transaction id on PostgreSQL, 0 on SQLite
	Seq  int64
}

// Less orders cursors.
func (c Cursor) Less(d Cursor) bool {
	return c.TxID < d.TxID || c.TxID == d.TxID && c.Seq < d.Seq
}

// Log reads events. Implemented by sqlstore.
type Log interface {
	// Read returns up to limit events of topic ("" for all) after the cursor, in
	// cursor order. It returns only events that no transaction still open could
	// precede: an event once skipped over by a cursor can't appear later.
	Read(ctx context.Context, topic string, after Cursor, limit int) ([]Event, error)
	// Trim deletes events older than t.
	Trim(ctx context.Context, t time.Time) error
}

// Hub wakes whoever watches a topic, in this process. It is safe for concurrent use.
type Hub struct {
	mu       sync.Mutex
	watchers map[string]map[chan struct{}]bool
}

// NewHub returns an empty Hub.
func NewHub() *Hub { return &Hub{watchers: map[string]map[chan struct{}]bool{}} }

// Watch returns a channel that receives after events of topic were committed
// (coalesced: at most one wake-up waits), until ctx ends.
func (h *Hub) Watch(ctx context.Context, topic string) <-chan struct{} {
	ch := make(chan struct{}, 1)
	h.mu.Lock()
	if h.watchers[topic] == nil {
		h.watchers[topic] = map[chan struct{}]bool{}
	}
	h.watchers[topic][ch] = true
	h.mu.Unlock()
	context.AfterFunc(ctx, func() {
		h.mu.Lock()
		delete(h.watchers[topic], ch)
		h.mu.Unlock()
	})
	return ch
}

// Wake wakes the watchers of topic.
func (h *Hub) Wake(topic string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ch := range h.watchers[topic] {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}
