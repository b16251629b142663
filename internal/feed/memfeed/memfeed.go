// SPDX-License-Identifier: Apache-2.0

// Package memfeed is a feed in memory, for tests: the simplest adapter of the port.
package memfeed

import (
	"bytes"
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"panal/internal/feed"
	"panal/internal/plat"
)

// Source is the feed. New makes it.
type Source struct {
	now   plat.Clock
	lease time.Duration

	mu     sync.Mutex
	closed chan struct{}
	news   chan struct{} // closed and replaced when messages may be there
	next   int64
	all    []*message // in the order they came, from the first that is not ended
	left   int64      // how many of them are not
}

type message struct {
	id       int64
	body     []byte
	sent     time.Time
	until    time.Time // leased until
	receipts int
	ended    bool
}

var _ feed.Source = (*Source)(nil)

// New returns an empty feed that leases messages for a time.
func New(now plat.Clock, lease time.Duration) *Source {
	return &Source{now: now, lease: lease, closed: make(chan struct{}), news: make(chan struct{})}
}

// Send puts a message in.
func (s *Source) Send(body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	s.all = append(s.all, &message{id: s.next, body: bytes.Clone(body), sent: s.now()})
	s.left++
	s.wake()
}

func (s *Source) wake() {
	close(s.news)
	s.news = make(chan struct{})
}

// Receive implements feed.Source.
func (s *Source) Receive(ctx context.Context, limit int, wait time.Duration) ([]feed.Message, error) {
	end := time.NewTimer(wait)
	defer end.Stop()
	for {
		out, news := s.take(limit)
		if len(out) > 0 {
			return out, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.closed:
			return nil, plat.Errorf(plat.ErrUnavailable, "the feed is closed")
		case <-end.C:
			return nil, nil
		case <-news:
		}
	}
}

func (s *Source) take(limit int) ([]feed.Message, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []feed.Message
	now := s.now()
	size := 0
	for _, m := range s.all {
		if len(out) == limit || size >= feed.MaxReceive {
			break
		}
		if m.ended || m.until.After(now) {
			continue
		}
		m.receipts++
		size += len(m.body)
		m.until = now.Add(s.lease)
		out = append(out, feed.Message{Handle: m.handle(), Body: bytes.Clone(m.body), Receipts: m.receipts, Sent: m.sent})
	}
	return out, s.news
}

func (m *message) handle() string {
	return strconv.FormatInt(m.id, 10) + "." + strconv.Itoa(m.receipts)
}

// Ack implements feed.Source.
func (s *Source) Ack(_ context.Context, handles []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range handles {
		if m := s.find(h); m != nil && !m.ended {
			m.ended, m.body = true, nil
			s.left--
		}
	}
	ended := 0
	for ended < len(s.all) && s.all[ended].ended {
		s.all[ended] = nil
		ended++
	}
	s.all = s.all[ended:]
	return nil
}

// find returns the message of a handle, of whatever receipt; nil when it is ended.
func (s *Source) find(handle string) *message {
	text, _, _ := strings.Cut(handle, ".")
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || len(s.all) == 0 {
		return nil
	}
	i := id - s.all[0].id // they are numbered as they come
	if i < 0 || i >= int64(len(s.all)) {
		return nil
	}
	return s.all[i]
}

// Extend implements feed.Source.
func (s *Source) Extend(_ context.Context, handles []string, d time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range handles {
		if m := s.find(h); m != nil && !m.ended && m.handle() == h {
			m.until = s.now().Add(d)
		}
	}
	if d == 0 {
		s.wake()
	}
	return nil
}

// Backlog implements feed.Source.
func (s *Source) Backlog(context.Context) (feed.Backlog, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := feed.Backlog{Messages: s.left}
	if len(s.all) > 0 {
		b.Oldest = s.all[0].sent
	}
	return b, nil
}

// Close implements feed.Source.
func (s *Source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	return nil
}
