// SPDX-License-Identifier: Apache-2.0

package link

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
	"golang.org/x/sync/semaphore"

	"panal/internal/feed"
	"panal/internal/plat"
)

// Config is what a Subscriber works with; zero numbers are the defaults.
type Config struct {
	Link   Link
	Source feed.Source
	Rows   Rows
	Bucket Bucket
	Now    plat.Clock
	Log    *slog.Logger

	// Batch is how many messages are gathered at most, and Gather how long.
	Batch  int
	Gather time.Duration
	// Receivers ask the feed at the same time.
	Receivers int
	// Looks is how many objects of a batch are looked at at a time.
	Looks int
	// MinWrites and MaxWrites bound how many batches write at a time; between them it
	// follows the time that the database takes, for writes and for reads beside them. Equal: it's fixed.
	MinWrites, MaxWrites uint
	// Lease is what received messages are held for, again and again while at work.
	Lease time.Duration
	// MaxReceipts makes a message that keeps failing a dead letter.
	MaxReceipts int
}

func (c Config) withDefaults() Config {
	c.Batch, c.Gather = cmp.Or(c.Batch, 1000), cmp.Or(c.Gather, 200*time.Millisecond)
	c.Receivers, c.Looks = cmp.Or(c.Receivers, 4), cmp.Or(c.Looks, 32)
	c.MinWrites, c.MaxWrites = cmp.Or(c.MinWrites, 1), cmp.Or(c.MaxWrites, 8)
	c.Lease, c.MaxReceipts = cmp.Or(c.Lease, time.Minute), cmp.Or(c.MaxReceipts, 10)
	return c
}

// Figures are what a subscriber tells of itself.
type Figures struct {
	Messages, Batches, Looked, Changed, Dead, Failed int64   // since its start
	LastBatch                                        int64   // messages in the last one
	Concurrency                                      int64   // writes that may be under way now
	Rate                                             float64 // messages a second, lately
	Lag                                              time.Duration
}

// Subscriber takes a link's events and keeps its channel in step. New makes it; Run works.
type Subscriber struct {
	cfg     Config
	limiter adaptivelimiter.AdaptiveLimiter[any]
	pace    *pace
	room    *semaphore.Weighted // for bodies of messages, in bytes

	messages, batches, looked, changed, dead, failed, last, lag atomic.Int64
	rate                                                        rate
}

// rate is how many a second there were lately: what was is worth half after some 20 s.
type rate struct {
	mu   sync.Mutex
	sum  float64
	last time.Time
}

const rateOver = 30 * time.Second

func (r *rate) add(n int, now time.Time) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := now.Sub(r.last); d > 0 {
		r.sum *= math.Exp(-d.Seconds() / rateOver.Seconds())
		r.last = now
	}
	r.sum += float64(n)
	return r.sum / rateOver.Seconds()
}

// New returns a subscriber.
func New(cfg Config) *Subscriber {
	cfg = cfg.withDefaults()
	// Samples of half a second to five: a batch's write takes some tens of milliseconds.
	l := adaptivelimiter.NewBuilder[any]().
		WithLimits(cfg.MinWrites, cfg.MaxWrites, min(2*cfg.MinWrites, cfg.MaxWrites)).
		WithRecentWindow(500*time.Millisecond, 5*time.Second, 5).
		Build()
	return &Subscriber{cfg: cfg, limiter: l, pace: newPace(cfg.MinWrites, cfg.MaxWrites), room: semaphore.NewWeighted(maxHeld)}
}

// Figures returns the current figures.
func (s *Subscriber) Figures() Figures {
	return Figures{
		Messages: s.messages.Load(), Batches: s.batches.Load(), Looked: s.looked.Load(), Changed: s.changed.Load(),
		Dead: s.dead.Load(), Failed: s.failed.Load(), LastBatch: s.last.Load(), Concurrency: min(int64(s.limiter.Limit()), s.pace.now()),
		Lag: time.Duration(s.lag.Load()), Rate: s.rate.add(0, s.cfg.Now()),
	}
}

// maxHeld bounds the bodies of messages that are at work, in bytes: what is made of them
// takes some times as much. Batches of common events (a kilobyte each) are never held up by it.
const maxHeld = 6 << 20

func sizeOf(all []feed.Message) (n int64) {
	for _, m := range all {
		n += int64(len(m.Body))
	}
	return min(n, maxHeld)
}

// Run works until ctx ends. What is under way then is given up: its messages come again.
func (s *Subscriber) Run(ctx context.Context) error {
	in := make(chan []feed.Message) // unbuffered: who can't work doesn't receive
	var wg sync.WaitGroup
	defer wg.Wait()
	for range s.cfg.Receivers {
		wg.Go(func() { s.receive(ctx, in) })
	}
	// As many batches as may write, and one that looks meanwhile.
	room := make(chan struct{}, s.cfg.MaxWrites+1)
	for {
		select {
		case <-ctx.Done():
			return nil
		case room <- struct{}{}:
		}
		batch, held := s.gather(ctx, in)
		if len(batch) == 0 {
			return nil
		}
		wg.Go(func() {
			defer func() { <-room }()
			s.work(ctx, batch)
			for _, got := range held {
				s.room.Release(got)
			}
		})
	}
}

const (
	receiveWait = 20 * time.Second // SQS's most
	maxPause    = 30 * time.Second
)

// receive passes on what comes. A feed that does not answer is asked more and more seldom.
func (s *Subscriber) receive(ctx context.Context, in chan<- []feed.Message) {
	pause := time.Duration(0)
	for ctx.Err() == nil {
		got, err := s.cfg.Source.Receive(ctx, s.cfg.Batch, receiveWait)
		if err != nil {
			if pause == 0 && ctx.Err() == nil {
				s.warn(ctx, "the feed can't be read; it is tried again", err)
			}
			pause = min(max(2*pause, 100*time.Millisecond), maxPause)
			sleep(ctx, pause)
			continue
		}
		pause = 0
		if len(got) == 0 {
			continue
		}
		if s.room.Acquire(ctx, sizeOf(got)) != nil {
			return
		}
		select {
		case in <- got:
		case <-ctx.Done():
		}
	}
}

// gather returns a batch: what came until it is full, or for a time since its first
// message; and the room that each part of it holds. Receivers give at most Batch, so it has
// less than twice that.
func (s *Subscriber) gather(ctx context.Context, in <-chan []feed.Message) (batch []feed.Message, held []int64) {
	select {
	case <-ctx.Done():
		return nil, nil
	case batch = <-in:
		held = append(held, sizeOf(batch))
	}
	end := time.NewTimer(s.cfg.Gather)
	defer end.Stop()
	for len(batch) < s.cfg.Batch {
		select {
		case <-ctx.Done():
			return batch, held
		case <-end.C:
			return batch, held
		case more := <-in:
			batch, held = append(batch, more...), append(held, sizeOf(more))
		}
	}
	return batch, held
}

// work processes a batch and holds its messages meanwhile.
func (s *Subscriber) work(ctx context.Context, batch []feed.Message) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		t := time.NewTicker(s.cfg.Lease / 3)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				if err := s.cfg.Source.Extend(ctx, handlesOf(batch), s.cfg.Lease); err != nil && ctx.Err() == nil {
					s.warn(ctx, "leases of messages can't be extended; they may come twice", err)
				}
			}
		}
	})
	if err := s.Process(ctx, batch); err != nil && ctx.Err() == nil {
		s.warn(ctx, "a batch of events is not done; its messages come again", err)
		sleep(ctx, time.Second) // whatever is down needs no storm
	}
}

func handlesOf(all []feed.Message) []string {
	out := make([]string, len(all))
	for i, m := range all {
		out[i] = m.Handle
	}
	return out
}

// Process does one batch: it brings the keys that the messages name in step, keeps what
// can't be done as dead letters, and acknowledges both. Messages whose time may yet come are
// given back with a delay. An error tells of what is down; it can be repeated.
func (s *Subscriber) Process(ctx context.Context, batch []feed.Message) error {
	reasons := make([]error, len(batch)) // of death
	events := make([][]feed.Event, len(batch))
	keys := map[string]feed.Sequencer{}
	unsequenced := map[string]bool{}
	for i, m := range batch {
		if events[i], reasons[i] = s.read(m); reasons[i] != nil {
			continue
		}
		for _, e := range events[i] {
			if old, ok := keys[e.Key]; !ok || e.Sequencer.Compare(old) > 0 {
				keys[e.Key] = e.Sequencer
			}
			unsequenced[e.Key] = unsequenced[e.Key] || e.Sequencer == ""
		}
	}
	for k, without := range unsequenced {
		if without { // looked at in any case
			keys[k] = ""
		}
	}
	o := observer{channel: s.cfg.Link.Channel, rows: pacedRows{s.cfg.Rows, s.pace}, bucket: s.cfg.Bucket, looks: s.cfg.Looks, write: s.write}
	res := o.observe(ctx, keys)

	var done []string
	var letters []Letter
	var down error
	later := map[int][]string{} // by receipts
	for i, m := range batch {
		reason := reasons[i]
		var failed error
		for _, e := range events[i] {
			if err := res.failed[e.Key]; err != nil && (failed == nil || errors.Is(err, plat.ErrUnavailable)) {
				failed = err
			}
		}
		switch {
		case failed == nil:
		case errors.Is(failed, plat.ErrUnavailable), ctx.Err() != nil:
			down = failed // nothing dies of this; the lease brings it again
			continue
		case m.Receipts < s.cfg.MaxReceipts:
			later[m.Receipts] = append(later[m.Receipts], m.Handle)
			continue
		default:
			reason = failed
		}
		if reason != nil {
			letters = append(letters, Letter{Channel: s.cfg.Link.Channel, Reason: reasonText(reason), Body: m.Body, At: s.cfg.Now()})
		}
		done = append(done, m.Handle)
		if !m.Sent.IsZero() {
			s.lag.Store(int64(s.cfg.Now().Sub(m.Sent)))
		}
	}
	if len(letters) > 0 {
		if err := s.cfg.Rows.Bury(ctx, letters); err != nil {
			return err
		}
	}
	s.messages.Add(int64(len(batch)))
	s.rate.add(len(batch), s.cfg.Now())
	s.batches.Add(1)
	s.last.Store(int64(len(batch)))
	s.looked.Add(int64(res.looked))
	s.changed.Add(int64(res.changed))
	s.dead.Add(int64(len(letters)))
	s.failed.Add(int64(len(res.failed)))
	for receipts, handles := range later {
		delay := min(time.Second<<min(receipts, 8), 5*time.Minute)
		if err := s.cfg.Source.Extend(ctx, handles, delay); err != nil {
			return err
		}
	}
	if len(done) > 0 {
		if err := s.cfg.Source.Ack(ctx, done); err != nil {
			return err
		}
	}
	return down
}

// read returns the events of a message that are this link's business, or why it's dead.
func (s *Subscriber) read(m feed.Message) ([]feed.Event, error) {
	all, err := feed.Parse(m.Body)
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		if !s.cfg.Link.Place.within(e.Bucket, e.Key) {
			return nil, plat.Errorf(plat.ErrInvalid, "the message is about object %.200q of bucket %.63q, which is not of this link", e.Key, e.Bucket)
		}
	}
	return all, nil
}

// reasonText is bounded: reasons quote what strangers send.
func reasonText(err error) string {
	const most = 1000
	text := strings.ToValidUTF8(strings.ReplaceAll(err.Error(), "\x00", ""), "�")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// write waits for its turn, as many at a time as the database and its other users bear.
func (s *Subscriber) write(ctx context.Context, all []Observation) ([]Outcome, error) {
	if err := s.pace.enter(ctx); err != nil {
		return nil, err
	}
	defer s.pace.leave()
	permit, err := s.limiter.AcquirePermit(ctx)
	if err != nil {
		return nil, err
	}
	out, err := s.cfg.Rows.Write(ctx, s.cfg.Link.Channel, all)
	if err != nil {
		permit.Drop() // says nothing about how fast it is
		return nil, err
	}
	permit.Record()
	return out, nil
}

func (s *Subscriber) warn(ctx context.Context, what string, err error) {
	s.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "following a linked bucket is disturbed; it goes on", slog.String(plat.LogReason, what), slog.String("channel", string(s.cfg.Link.Channel)), slog.String(plat.LogError, err.Error()))
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
