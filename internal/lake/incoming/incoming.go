// SPDX-License-Identifier: Apache-2.0

// Package incoming finds the bodies that clients have put straight into our bucket, by
// the storage's own URLs of promised uploads (docs/adr/0028): the storage's events tell of
// them at once where they are set up, listings find them in any case. What is then done
// with a body is lake.Service's.
package incoming

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"strings"
	"sync"
	"time"

	"panal/internal/feed"
	"panal/internal/lake"
	"panal/internal/plat"
)

// Lake takes bodies in; lake.Service is one.
type Lake interface {
	// Take takes in the bodies under keys. It may be repeated.
	Take(ctx context.Context, keys []string) error
	// TakeAll takes in what a listing finds.
	TakeAll(ctx context.Context) error
	// AwaitedUntil tells until when bodies may begin to arrive; zero: none is awaited.
	AwaitedUntil(ctx context.Context) (time.Time, error)
}

// Options is what a Finder works with.
type Options struct {
	Lake Lake
	// Bucket is ours, and Prefix what all our keys in it begin with.
	Bucket, Prefix string
	// Queue is where the storage sends its events; nil: nowhere.
	Queue feed.Source
	// Secret is what the storage shows when it posts its events; empty: it does not.
	Secret string
	Now    plat.Clock
	Log    *slog.Logger
}

// Finder finds bodies. Several, on several servers, do no harm.
type Finder struct{ opt Options }

// New returns a finder; Run works.
func New(opt Options) *Finder { return &Finder{opt} }

const (
	// pollEvery is the rest between two listings while a body may come at any time, pollSeldom
	// that where events tell of them, or only a slow body can still be on its way.
	pollEvery  = time.Second
	pollSeldom = 30 * time.Second
	// late is how long after its URL's end an upload is not unusual.
	late = 5 * time.Minute

	passes      = 4
	receivers   = 2
	receiveMost = 50 // each may have a megabyte
	receiveWait = 20 * time.Second
	maxPause    = 30 * time.Second
)

// Run works until ctx ends.
func (f *Finder) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	if f.opt.Queue != nil {
		for range receivers {
			wg.Go(func() { f.receive(ctx) })
		}
	}
	f.poll(ctx)
	return nil
}

// poll lists now and then, and only while somebody has a URL to put a body by. A few
// passes may be under way at a time: large bodies take a while.
func (f *Finder) poll(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	room, results := make(chan struct{}, passes), make(chan error, 2*passes) // of those that ended, and those under way
	var listed time.Time
	var failed failures
	const what = "not all that a listing found could be taken in; it is tried again"
	for ctx.Err() == nil {
		rest := pollEvery
		until, err := f.opt.Lake.AwaitedUntil(ctx)
		if err != nil {
			rest = f.after(ctx, &failed, what, err, rest)
		}
		if now := f.opt.Now(); err == nil && f.due(now, until, listed) {
			select {
			case room <- struct{}{}:
				listed = now
				wg.Go(func() {
					results <- f.opt.Lake.TakeAll(ctx)
					<-room
				})
			default:
			}
		}
		select {
		case err := <-results:
			rest = f.after(ctx, &failed, what, err, rest)
		default:
		}
		sleep(ctx, rest)
	}
}

// due tells whether to list.
func (f *Finder) due(now, until, listed time.Time) bool {
	every := pollEvery
	switch {
	case until.IsZero() || now.After(until.Add(lake.Grace)):
		return false
	case now.After(until.Add(late)) || f.opt.Queue != nil || f.opt.Secret != "":
		every = pollSeldom
	}
	return now.Sub(listed) >= every || now.Before(listed)
}

// receive takes in what the queue's events name.
func (f *Finder) receive(ctx context.Context) {
	var failed failures
	for ctx.Err() == nil {
		got, err := f.opt.Queue.Receive(ctx, receiveMost, receiveWait)
		if err == nil {
			err = f.work(ctx, got)
		}
		sleep(ctx, f.after(ctx, &failed, "events of the storage can't be worked off; listings find what they tell of", err, 0))
	}
}

// work does messages and acknowledges them; those of an error come again. Whatever no
// message can be made of is no loss: a listing finds what it told of.
func (f *Finder) work(ctx context.Context, all []feed.Message) error {
	if len(all) == 0 {
		return nil
	}
	var keys, handles []string
	for _, m := range all {
		named, err := f.keys(m.Body)
		if err != nil {
			f.opt.Log.LogAttrs(ctx, slog.LevelWarn, "an event of the storage can't be read and is dropped", slog.String(plat.LogError, err.Error()))
		}
		keys, handles = append(keys, named...), append(handles, m.Handle)
	}
	if err := f.opt.Lake.Take(ctx, keys); err != nil {
		return err
	}
	return f.opt.Queue.Ack(ctx, handles)
}

// keys are those of incoming bodies that a message names. Others, of the files that are
// made of them for instance, are none of its business.
func (f *Finder) keys(message []byte) ([]string, error) {
	events, err := feed.Parse(message)
	if err != nil {
		return nil, err
	}
	var keys []string
	seen := map[string]bool{}
	for _, e := range events {
		key, ours := strings.CutPrefix(e.Key, f.opt.Prefix)
		if ours && e.Bucket == f.opt.Bucket && strings.HasPrefix(key, lake.IncomingPrefix) && !seen[key] {
			seen[key] = true
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// Allowed tells whether a secret is that of who posts the storage's events.
func (f *Finder) Allowed(secret string) error {
	a, b := sha256.Sum256([]byte(secret)), sha256.Sum256([]byte(f.opt.Secret))
	if f.opt.Secret == "" || subtle.ConstantTimeCompare(a[:], b[:]) != 1 {
		return plat.Errorf(plat.ErrUnauthenticated, "send the secret of --upload-secret as Authorization: Bearer <secret>")
	}
	return nil
}

// Post does a message that the storage has posted; nil means that what it names is taken
// in, or no business of ours. The sender was Allowed to.
func (f *Finder) Post(ctx context.Context, message []byte) error {
	keys, err := f.keys(message)
	if err != nil {
		return err
	}
	return f.opt.Lake.Take(ctx, keys)
}

// failures counts those in a row.
type failures int

// after returns how long to rest: longer and longer while it fails. The first failure is told.
func (f *Finder) after(ctx context.Context, n *failures, what string, err error, rest time.Duration) time.Duration {
	if err == nil {
		*n = 0
		return rest
	}
	if *n == 0 && ctx.Err() == nil {
		f.opt.Log.LogAttrs(ctx, slog.LevelWarn, "finding uploads in the storage is disturbed; it goes on", slog.String(plat.LogReason, what), slog.String(plat.LogError, err.Error()))
	}
	*n++
	return min(time.Second<<min(*n-1, 5), maxPause)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
