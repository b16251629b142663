// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"panal/internal/feed"
	"panal/internal/plat"
)

// Sealer keeps credentials; keyring.Ring is one.
type Sealer interface {
	// Active is the id of the key that Seal uses.
	Active() string
	// Seal seals text for a place.
	Seal(text []byte, place string) []byte
	// Unseal opens what was sealed for the place.
	Unseal(sealed []byte, place string) ([]byte, error)
}

// Options is what a Manager works with.
type Options struct {
	Store Store
	Seal  Sealer
	Now   plat.Clock
	Log   *slog.Logger
	// Dial opens a place with its credentials in the clear; it asks nothing.
	Dial func(p Place, accessKey, secretKey string) (Bucket, error)
	// Posts makes the feed of a link whose events are posted.
	Posts func(channel plat.ChannelID, lease time.Duration) Posts
	// Queue opens an SQS queue; it asks nothing.
	Queue func(queue, region, accessKey, secretKey string, lease time.Duration) (feed.Source, error)
	// Endpoints are those that may be linked; see Manager.Create.
	Endpoints []string
	// WalkRate is how many objects a second the reconciler lists, of each link; 0: 2,000.
	WalkRate int
	// WalkEvery is the rest between its passes; 0: 10 minutes.
	WalkEvery time.Duration
}

// Posts is a feed whose messages are posted to us.
type Posts interface {
	feed.Source
	// Push puts a message in; it is durable when this returns.
	Push(ctx context.Context, body []byte) error
}

// Manager runs what keeps the links in step. Several, on several servers, do no harm.
type Manager struct {
	opt Options

	linked atomic.Pointer[map[plat.ChannelID]Link]

	mu    sync.Mutex
	posts map[plat.ChannelID]Posts
	// By the Num of the link.
	running map[int64]*running
	buckets map[int64]Bucket
	queues  map[int64]feed.Source
}

type running struct {
	cancel context.CancelFunc
	done   chan struct{}
	sub    *Subscriber // nil without a feed
}

// NewManager returns a manager; Run works.
func NewManager(opt Options) *Manager {
	if opt.WalkRate == 0 {
		opt.WalkRate = 2000
	}
	if opt.WalkEvery == 0 {
		opt.WalkEvery = 10 * time.Minute
	}
	m := &Manager{opt: opt, running: map[int64]*running{}, buckets: map[int64]Bucket{}, posts: map[plat.ChannelID]Posts{}, queues: map[int64]feed.Source{}}
	m.linked.Store(&map[plat.ChannelID]Link{})
	return m
}

const (
	lease = time.Minute
	// resync is how soon a link that another server made or paused is seen.
	resync = time.Second
	// tombstonesFor is longer than any feed repeats or delays.
	tombstonesFor = 24 * time.Hour
	sweepEvery    = time.Minute
)

// Run works until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	tick := time.NewTicker(resync)
	defer tick.Stop()
	defer m.stopAll()
	var swept time.Time
	for {
		if err := m.Refresh(ctx); err != nil && ctx.Err() == nil {
			m.opt.Log.LogAttrs(ctx, slog.LevelWarn, "links can't be read; it is tried again", slog.String(plat.LogError, err.Error()))
		} else {
			m.start(ctx)
		}
		if now := m.opt.Now(); now.Sub(swept).Abs() > sweepEvery {
			swept = now
			if _, err := m.opt.Store.DropTombstones(ctx, now.Add(-tombstonesFor), 10_000); err != nil && ctx.Err() == nil {
				m.opt.Log.LogAttrs(ctx, slog.LevelWarn, "old tombstones can't be dropped; it is tried again", slog.String(plat.LogError, err.Error()))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Refresh reads which links there are.
func (m *Manager) Refresh(ctx context.Context) error {
	all, err := m.opt.Store.Links(ctx)
	if err != nil {
		return err
	}
	by := make(map[plat.ChannelID]Link, len(all))
	for _, l := range all {
		by[l.Channel] = l
	}
	m.linked.Store(&by)
	return nil
}

// Linked tells whether a channel's files are a foreign bucket's objects.
func (m *Manager) Linked(channel plat.ChannelID) bool {
	_, ok := (*m.linked.Load())[channel]
	return ok
}

// start starts what should run and does not, and stops what should not.
func (m *Manager) start(ctx context.Context) {
	links := map[int64]Link{}
	for _, l := range *m.linked.Load() {
		links[l.Num] = l
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for num, r := range m.running {
		if l, ok := links[num]; !ok || l.Paused {
			r.cancel()
			<-r.done
			delete(m.running, num)
		}
	}
	for num, q := range m.queues {
		if _, ok := links[num]; !ok {
			_ = q.Close() // nothing runs on it
			delete(m.queues, num)
		}
	}
	maps.DeleteFunc(m.buckets, func(num int64, _ Bucket) bool { _, ok := links[num]; return !ok })
	for num, l := range links {
		id := l.Channel
		if l.Paused || m.running[num] != nil {
			continue
		}
		bucket, err := m.bucketLocked(l)
		if err != nil {
			m.opt.Log.LogAttrs(ctx, slog.LevelWarn, "a linked bucket can't be opened; it is tried again",
				slog.String("channel", string(id)), slog.String(plat.LogError, err.Error()))
			continue
		}
		src, err := m.sourceLocked(l)
		if err != nil {
			m.opt.Log.LogAttrs(ctx, slog.LevelWarn, "a link's queue can't be opened; it is tried again",
				slog.String("channel", string(id)), slog.String(plat.LogError, err.Error()))
			continue
		}
		m.running[num] = m.run(ctx, l, bucket, src)
	}
}

// run starts subscriber, where there is a feed, and reconciler of a link.
func (m *Manager) run(ctx context.Context, l Link, bucket Bucket, src feed.Source) *running {
	ctx, cancel := context.WithCancel(ctx)
	r := &running{cancel: cancel, done: make(chan struct{})}
	var wg sync.WaitGroup
	if src != nil {
		r.sub = New(Config{Link: l, Source: src, Rows: m.opt.Store.Bound(l.Num), Bucket: bucket, Now: m.opt.Now, Log: m.opt.Log, Lease: lease})
		wg.Go(func() { _ = r.sub.Run(ctx) }) // ends with ctx alone
	}
	wg.Go(func() { m.walk(ctx, l, bucket) })
	go func() {
		wg.Wait()
		close(r.done)
	}()
	return r
}

// walk reconciles a link pass after pass, a bounded number of objects a second.
func (m *Manager) walk(ctx context.Context, l Link, bucket Bucket) {
	w := Walker{Link: l, Rows: m.opt.Store.Bound(l.Num), Bucket: bucket, Now: m.opt.Now, Looks: 16}
	for failures := 0; ctx.Err() == nil; {
		before := w.Link.Walk.Seen
		passed, err := w.Step(ctx)
		switch {
		case err != nil:
			if failures == 0 && ctx.Err() == nil {
				m.opt.Log.LogAttrs(ctx, slog.LevelWarn, "a linked bucket can't be compared; it is tried again",
					slog.String("channel", string(l.Channel)), slog.String(plat.LogError, err.Error()))
			}
			failures++
			sleep(ctx, min(time.Second<<min(failures, 6), time.Minute))
			continue
		case passed:
			sleep(ctx, m.opt.WalkEvery)
		default:
			sleep(ctx, time.Duration(w.Link.Walk.Seen-before)*time.Second/time.Duration(m.opt.WalkRate))
		}
		failures = 0
	}
}

func (m *Manager) stopAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.running {
		r.cancel()
	}
	for id, r := range m.running {
		<-r.done
		delete(m.running, id)
	}
}

// sourceLocked returns a link's feed, nil without one.
func (m *Manager) sourceLocked(l Link) (feed.Source, error) {
	switch l.Feed.Kind {
	case FeedWebhook:
		return m.postsLocked(l.Channel), nil
	case FeedSQS:
		if q := m.queues[l.Num]; q != nil {
			return q, nil
		}
		k, err := m.unseal(l)
		if err != nil {
			return nil, err
		}
		q, err := m.opt.Queue(l.Feed.Queue, l.Place.Region, k.queueAccess(), k.queueSecret(), lease)
		if err != nil {
			return nil, err
		}
		m.queues[l.Num] = q
		return q, nil
	case FeedNone:
	}
	return nil, nil
}

func (m *Manager) postsLocked(id plat.ChannelID) Posts {
	if m.posts[id] == nil {
		m.posts[id] = m.opt.Posts(id, lease)
	}
	return m.posts[id]
}

// bucketLocked opens a link's bucket once.
func (m *Manager) bucketLocked(l Link) (Bucket, error) {
	if b := m.buckets[l.Num]; b != nil {
		return b, nil
	}
	k, err := m.unseal(l)
	if err != nil {
		return nil, err
	}
	b, err := m.opt.Dial(l.Place, k[0], k[1])
	if err != nil {
		return nil, err
	}
	m.buckets[l.Num] = b
	return b, nil
}

func (m *Manager) bucket(l Link) (Bucket, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bucketLocked(l)
}

// Totals are the figures of all links of this server together.
type Totals struct {
	Figures
	Links, Drift int64
	Oldest       time.Duration // age of the oldest message that waits anywhere
	Waiting      int64
}

// Totals returns them.
func (m *Manager) Totals(ctx context.Context) (Totals, error) {
	var t Totals
	for _, l := range *m.linked.Load() {
		t.Links++
		t.Drift += l.Walk.Drift
		m.mu.Lock()
		src, err := m.sourceLocked(l)
		r := m.running[l.Num]
		m.mu.Unlock()
		if err != nil || src == nil {
			continue // the log tells
		}
		if r != nil && r.sub != nil {
			f := r.sub.Figures()
			t.Messages, t.Batches, t.Looked, t.Changed = t.Messages+f.Messages, t.Batches+f.Batches, t.Looked+f.Looked, t.Changed+f.Changed
			t.Dead, t.Failed, t.Concurrency = t.Dead+f.Dead, t.Failed+f.Failed, t.Concurrency+f.Concurrency
			t.Rate += f.Rate
			t.LastBatch, t.Lag = max(t.LastBatch, f.LastBatch), max(t.Lag, f.Lag)
		}
		b, err := src.Backlog(ctx)
		switch {
		case err != nil && l.Feed.Kind == FeedSQS: // another's machine must not take the other figures along
			continue
		case err != nil:
			return t, err
		}
		t.Waiting += b.Messages
		if !b.Oldest.IsZero() {
			t.Oldest = max(t.Oldest, m.opt.Now().Sub(b.Oldest))
		}
	}
	return t, nil
}
