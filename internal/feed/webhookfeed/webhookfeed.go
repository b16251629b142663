// SPDX-License-Identifier: Apache-2.0

// Package webhookfeed is a feed whose messages are posted to Panal: a queue in the
// database, so that a message is durable before its sender is answered.
package webhookfeed

import (
	"context"
	"time"

	"panal/internal/feed"
	"panal/internal/plat"
)

// Queue keeps the messages of all such feeds. Implemented by sqlstore. A message leased
// is not taken again until its lease ends.
type Queue interface {
	// Push keeps a message, durably. ErrNotFound without the feed.
	Push(ctx context.Context, id plat.ChannelID, body []byte) error
	// Take leases up to limit messages for a time, oldest first: no more than those whose
	// bodies come to feed.MaxReceive bytes.
	Take(ctx context.Context, id plat.ChannelID, limit int, lease time.Duration) ([]feed.Message, error)
	// End removes messages.
	End(ctx context.Context, id plat.ChannelID, handles []string) error
	// Lease sets the leases of messages that are still held under these handles.
	Lease(ctx context.Context, id plat.ChannelID, handles []string, d time.Duration) error
	// Waiting tells what is there.
	Waiting(ctx context.Context, id plat.ChannelID) (feed.Backlog, error)
}

// Source is one feed. New makes it.
type Source struct {
	queue  Queue
	id     plat.ChannelID
	lease  time.Duration
	news   chan struct{}
	closed chan struct{}
}

var _ feed.Source = (*Source)(nil)

// New returns the feed with an id.
func New(q Queue, id plat.ChannelID, lease time.Duration) *Source {
	return &Source{queue: q, id: id, lease: lease, news: make(chan struct{}, 1), closed: make(chan struct{})}
}

// Push puts a message in; it is durable when this returns.
func (s *Source) Push(ctx context.Context, body []byte) error {
	if err := s.queue.Push(ctx, s.id, body); err != nil {
		return err
	}
	select {
	case s.news <- struct{}{}:
	default: // somebody is being woken already
	}
	return nil
}

// What another process pushes, or gives back, is found by asking: seldom when nothing comes.
const (
	pollMin = 50 * time.Millisecond
	pollMax = 500 * time.Millisecond
)

// Receive implements feed.Source.
func (s *Source) Receive(ctx context.Context, limit int, wait time.Duration) ([]feed.Message, error) {
	end := time.NewTimer(wait)
	defer end.Stop()
	for pause := pollMin; ; pause = min(2*pause, pollMax) {
		select {
		case <-s.closed:
			return nil, plat.Errorf(plat.ErrUnavailable, "the feed is closed")
		default:
		}
		got, err := s.queue.Take(ctx, s.id, limit, s.lease)
		if err != nil || len(got) > 0 {
			return got, err
		}
		poll := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-end.C:
			poll.Stop()
			return nil, nil
		case <-s.closed:
		case <-s.news:
		case <-poll.C:
		}
		poll.Stop()
		if err != nil {
			return nil, err
		}
	}
}

// Ack implements feed.Source.
func (s *Source) Ack(ctx context.Context, handles []string) error {
	return s.queue.End(ctx, s.id, handles)
}

// Extend implements feed.Source.
func (s *Source) Extend(ctx context.Context, handles []string, d time.Duration) error {
	return s.queue.Lease(ctx, s.id, handles, d)
}

// Backlog implements feed.Source.
func (s *Source) Backlog(ctx context.Context) (feed.Backlog, error) {
	return s.queue.Waiting(ctx, s.id)
}

// Close implements feed.Source. It is called once.
func (s *Source) Close() error {
	close(s.closed)
	return nil
}
