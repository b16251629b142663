// SPDX-License-Identifier: Apache-2.0

// Command events measures how storage events become searchable files: the subscriber
// of internal/lake/link beside the way in which the platform that this design learns from
// did it, in one run on one PostgreSQL.
//
//   - The old way: one message per call, -parallel calls at a time, a look at the object, one
//     transaction for one row, one acknowledgement.
//   - Panal: batches, bounded looks, one transaction per batch, adaptive concurrency.
//
// The feed and the bucket are in this process, so that a million objects need no
// storage: a look takes -look, and no CPU, which a real one would cost both alike. The old way
// has -parallel calls and 16 connections to the database. The index is the real one. CPU is that of this process
// and of PostgreSQL's together. Run it under scripts/with-postgres, as make bench-events does.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"panal/bench/proc"
	"panal/internal/feed"
	"panal/internal/feed/memfeed"
	"panal/internal/lake"
	"panal/internal/lake/link"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/postgres"
)

type options struct {
	old, ours, backlog, parallel, rate int
	seconds                            int
	look                               time.Duration
	profile, report                    string
}

func main() {
	var o options
	flag.IntVar(&o.old, "old", 4000, "events of the old way")
	flag.IntVar(&o.ours, "ours", 60_000, "events of Panal's way")
	flag.IntVar(&o.backlog, "backlog", 200_000, "events that wait when searches are measured")
	flag.IntVar(&o.parallel, "parallel", 200, "calls at a time of the old way")
	flag.IntVar(&o.rate, "rate", 2000, "events a second of the part that measures the time until they are searchable")
	flag.IntVar(&o.seconds, "seconds", 15, "its length")
	flag.DurationVar(&o.look, "look", 2*time.Millisecond, "what a look at an object takes")
	flag.StringVar(&o.profile, "profile", "", "write a CPU profile of this process to a file")
	flag.StringVar(&o.report, "report", "bench-events.json", "where to write the figures")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "events:", err)
		os.Exit(1)
	}
}

// figures are those of one part.
type figures struct {
	Part     string  `json:"part"`
	Events   int     `json:"events"`
	Rate     float64 `json:"events_per_second"`
	CPU      float64 `json:"cpu_us_per_event"` // PostgreSQL's included
	Server   float64 `json:"postgresql_cpu_us_per_event"`
	P50      float64 `json:"p50_ms,omitempty"`
	P99      float64 `json:"p99_ms,omitempty"`
	Search95 float64 `json:"search_p95_ms,omitempty"`
	Searches int     `json:"searches,omitempty"`
	HeapMB   float64 `json:"heap_mb"` // of the process, with the feed's messages
}

type bench struct {
	o        options
	db       *sqlstore.DB
	index    *sqlstore.Lake
	links    *sqlstore.Links
	pid      int // PostgreSQL's first process
	channels int
	all      []figures
}

const bucketName = "camera"

func run(ctx context.Context, o options) (err error) {
	dsn := os.Getenv("PANAL_TEST_POSTGRES")
	if dsn == "" {
		return plat.Errorf(plat.ErrInvalid, "PANAL_TEST_POSTGRES is not set: run under scripts/with-postgres, as make bench-events does")
	}
	db, err := postgres.Open(ctx, dsn, 16, "outbox", "lake")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	b := &bench{o: o, db: db, index: sqlstore.NewLake(db, plat.SystemClock)}
	b.links = sqlstore.NewLinks(b.index)
	if o.profile != "" {
		f, err := os.Create(o.profile)
		if err != nil {
			return fmt.Errorf("profile: %w", err)
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if err := pprof.StartCPUProfile(f); err != nil {
			return fmt.Errorf("profile: %w", err)
		}
		defer pprof.StopCPUProfile()
	}
	if b.pid, err = postmaster(ctx, db); err != nil {
		return err
	}
	fmt.Printf("%-34s %9s %10s %12s %11s %8s %8s %14s %8s\n", "", "events", "events/s", "CPU us/event", "PostgreSQL", "p50 ms", "p99 ms", "search p95 ms", "heap MB")
	for _, part := range []func(context.Context) (figures, error){
		func(ctx context.Context) (figures, error) { return b.fresh(ctx, "the old way", b.o.old, b.call) },
		func(ctx context.Context) (figures, error) { return b.fresh(ctx, "Panal", b.o.ours, b.ours) },
		func(ctx context.Context) (figures, error) {
			return b.overwrites(ctx, "the old way, a third overwrites", b.o.old, b.call)
		},
		func(ctx context.Context) (figures, error) {
			return b.overwrites(ctx, "Panal, a third overwrites", b.o.ours, b.ours)
		},
		b.latency,
		func(ctx context.Context) (figures, error) { return b.drain(ctx, "backlog, adaptive", 0, 0) },
		func(ctx context.Context) (figures, error) {
			return b.drain(ctx, "backlog, 64 writes at a time", 64, 64)
		},
	} {
		f, err := part(ctx)
		if err != nil {
			return err
		}
		b.all = append(b.all, f)
		fmt.Printf("%-34s %9d %10.0f %12.1f %11.1f %8s %8s %14s %8.0f\n", f.Part, f.Events, f.Rate, f.CPU, f.Server, cell(f.P50), cell(f.P99), cell(f.Search95), f.HeapMB)
	}
	for i, what := range []string{"", ", a third overwrites"} {
		old, ours := b.all[2*i], b.all[2*i+1]
		fmt.Printf("Panal / the old way%s: events/s %.1fx, CPU per event %.3fx\n", what, ours.Rate/old.Rate, ours.CPU/old.CPU)
	}
	out, err := json.MarshalIndent(b.all, "", "  ")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return os.WriteFile(o.report, append(out, '\n'), 0o600)
}

func cell(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f", v)
}

// postmaster is the parent of all of PostgreSQL's processes.
func postmaster(ctx context.Context, db *sqlstore.DB) (int, error) {
	var backend int
	if err := db.Read().QueryRowContext(ctx, `SELECT pg_backend_pid()`).Scan(&backend); err != nil {
		return 0, fmt.Errorf("PostgreSQL's process: %w", err)
	}
	return proc.Parent(backend)
}

// cpu returns the CPU time of this process and of PostgreSQL so far.
func (b *bench) cpu() (own, server time.Duration, err error) {
	if own, err = proc.CPU(os.Getpid()); err != nil {
		return 0, 0, err
	}
	server, err = proc.FamilyCPU(b.pid)
	return own, server, err
}

// bucket is the objects that the events tell of: what a key has follows from it.
type bucket struct {
	look    time.Duration
	version atomic.Int64 // of every object: what an overwrite changes
}

func (b *bucket) Look(ctx context.Context, key string) (link.Object, error) {
	t := time.NewTimer(b.look)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return link.Object{}, ctx.Err()
	case <-t.C:
	}
	n, _ := strconv.Atoi(key[strings.LastIndexByte(key, '-')+1:])
	return link.Object{
		Key: key, ETag: fmt.Sprintf("%032x", int64(n)<<8+b.version.Load()), Size: 200_000, Modified: time.Now(), ContentType: "image/jpeg",
		Metadata: map[string]string{"label": strconv.Itoa(n % 10), "camera": fmt.Sprintf("cam%03d", n%200), "split": "train"},
	}, nil
}

func (b *bucket) List(context.Context, string, string, int) ([]link.Object, bool, error) {
	return nil, false, nil
}

func (b *bucket) Open(context.Context, link.Row, int64, int64) (io.ReadCloser, error) {
	return nil, plat.Errorf(plat.ErrNotFound, "no bytes are here")
}

func event(n int) []byte {
	return fmt.Appendf(nil, `{"Records":[{"eventVersion":"2.1","eventSource":"aws:s3","awsRegion":"eu-central-1","eventTime":"2026-11-26T08:00:00.000Z","eventName":"ObjectCreated:Put","s3":{"s3SchemaVersion":"1.0","bucket":{"name":"%s","arn":"arn:aws:s3:::%s"},"object":{"key":"line/img-%d","size":200000,"eTag":"d41d8cd98f00b204e9800998ecf8427e"}}}]}`, bucketName, bucketName, n)
}

// channel makes a linked channel.
func (b *bench) channel(ctx context.Context) (link.Link, error) {
	b.channels++
	id := plat.ChannelID(strconv.Itoa(1000 + b.channels))
	l := link.Link{Channel: id, Org: "1", Place: link.Place{Endpoint: "http://bench", Bucket: bucketName}, Feed: link.Feed{Kind: link.FeedSQS}, CreatedAt: plat.SystemClock()}
	if err := b.index.CreateChannel(ctx, lake.Channel{ID: id, Org: "1", CreatedAt: l.CreatedAt, UpdatedAt: l.CreatedAt}); err != nil {
		return l, err
	}
	return l, b.links.CreateLink(ctx, l)
}

// counted is a feed that knows when each of its messages was acknowledged.
type counted struct {
	*memfeed.Source
	mu   sync.Mutex
	sent map[string]time.Time // by handle, of those that were received
	took []time.Duration
	done atomic.Int64
	last time.Time // of the newest acknowledgement
}

func newFeed() *counted {
	return &counted{Source: memfeed.New(plat.SystemClock, time.Minute), sent: map[string]time.Time{}}
}

func (c *counted) Receive(ctx context.Context, limit int, wait time.Duration) ([]feed.Message, error) {
	all, err := c.Source.Receive(ctx, limit, wait)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range all {
		c.sent[m.Handle] = m.Sent
	}
	return all, err
}

func (c *counted) Ack(ctx context.Context, handles []string) error {
	if err := c.Source.Ack(ctx, handles); err != nil {
		return err
	}
	now := plat.SystemClock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range handles {
		c.took = append(c.took, now.Sub(c.sent[h]))
		delete(c.sent, h)
	}
	c.last = time.Now()
	c.done.Add(int64(len(handles)))
	return nil
}

// part measures do, which returns when n events are done.
func (b *bench) part(name string, n int, src *counted, do func() error) (figures, error) {
	runtime.GC()
	own, server, err := b.cpu()
	if err != nil {
		return figures{}, err
	}
	start := time.Now()
	if err := do(); err != nil {
		return figures{}, fmt.Errorf("%s: %w", name, err)
	}
	took := src.last.Sub(start)
	own2, server2, err := b.cpu()
	own, server = own2-own, server2-server
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return figures{
		Part: name, Events: n, Rate: float64(n) / took.Seconds(), CPU: float64((own + server).Microseconds()) / float64(n),
		Server: float64(server.Microseconds()) / float64(n), HeapMB: float64(m.HeapSys-m.HeapReleased) / 1e6,
	}, err
}

// oldCall is one call of the old way.
func (b *bench) oldCall(ctx context.Context, l link.Link, src *counted, objects *bucket) error {
	all, err := src.Receive(ctx, 1, time.Second)
	if err != nil || len(all) == 0 {
		return err
	}
	events, err := feed.Parse(all[0].Body)
	if err != nil {
		return err
	}
	key := events[0].Key
	rows, err := b.links.Rows(ctx, l.Channel, []string{key})
	if err != nil {
		return err
	}
	o, err := objects.Look(ctx, key)
	if err != nil {
		return err
	}
	was := rows[key]
	was.Key = key
	if _, err := b.links.Write(ctx, l.Channel, []link.Observation{{Was: was, Object: &o}}); err != nil {
		return err
	}
	return src.Ack(ctx, []string{all[0].Handle})
}

// call works the old way until n messages of the feed are done.
func (b *bench) call(ctx context.Context, l link.Link, src *counted, objects *bucket, n int) error {
	errs := make(chan error, b.o.parallel)
	for range b.o.parallel {
		go func() {
			for src.done.Load() < int64(n) {
				if err := b.oldCall(ctx, l, src, objects); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	var failed error
	for range b.o.parallel {
		failed = errors.Join(failed, <-errs)
	}
	return failed
}

// subscribe runs Panal's subscriber until n messages of the feed are done.
func (b *bench) subscribe(ctx context.Context, l link.Link, src *counted, objects *bucket, n int, low, high uint) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sub := link.New(link.Config{
		Link: l, Source: src, Rows: b.links, Bucket: objects, Now: plat.SystemClock, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		MinWrites: low, MaxWrites: high,
	})
	done := make(chan error, 1)
	go func() { done <- sub.Run(ctx) }()
	for src.done.Load() < int64(n) && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if f := sub.Figures(); f.Dead+f.Failed > 0 {
		return plat.Errorf(plat.ErrInvalid, "%d dead, %d failed", f.Dead, f.Failed)
	}
	cancel()
	return <-done
}

// way works until n messages of the feed are done.
type way func(ctx context.Context, l link.Link, src *counted, objects *bucket, n int) error

func (b *bench) ours(ctx context.Context, l link.Link, src *counted, objects *bucket, n int) error {
	return b.subscribe(ctx, l, src, objects, n, 0, 0)
}

// fresh is n events of objects that were not there before.
func (b *bench) fresh(ctx context.Context, name string, n int, work way) (figures, error) {
	l, err := b.channel(ctx)
	if err != nil {
		return figures{}, err
	}
	src, objects := newFeed(), &bucket{look: b.o.look}
	for i := range n {
		src.Send(event(i))
	}
	return b.part(name, n, src, func() error { return work(ctx, l, src, objects, n) })
}

// overwrites is n events, the last third of which are of objects that are there.
func (b *bench) overwrites(ctx context.Context, name string, n int, work way) (figures, error) {
	l, err := b.channel(ctx)
	if err != nil {
		return figures{}, err
	}
	src, objects := newFeed(), &bucket{look: b.o.look}
	for i := range n * 2 / 3 {
		src.Send(event(i))
	}
	return b.part(name, n, src, func() error {
		if err := work(ctx, l, src, objects, n*2/3); err != nil {
			return err
		}
		objects.version.Add(1)
		for i := range n - n*2/3 {
			src.Send(event(i))
		}
		return work(ctx, l, src, objects, n)
	})
}

func (b *bench) latency(ctx context.Context) (figures, error) {
	l, err := b.channel(ctx)
	if err != nil {
		return figures{}, err
	}
	src, objects, n := newFeed(), &bucket{look: b.o.look}, b.o.rate*b.o.seconds
	f, err := b.part(fmt.Sprintf("Panal at %d events/s", b.o.rate), n, src, func() error {
		go func() {
			start := time.Now()
			for i := range n {
				time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(b.o.rate))))
				src.Send(event(i))
			}
		}()
		return b.subscribe(ctx, l, src, objects, n, 0, 0)
	})
	f.P50, f.P99 = quantile(src.took, 0.5), quantile(src.took, 0.99)
	return f, err
}

// drain works a backlog off while people search another channel.
func (b *bench) drain(ctx context.Context, name string, low, high uint) (figures, error) {
	l, err := b.channel(ctx)
	if err != nil {
		return figures{}, err
	}
	src, objects, n := newFeed(), &bucket{look: b.o.look}, b.o.backlog
	for i := range n {
		src.Send(event(i))
	}
	searching, stop := context.WithCancel(ctx)
	defer stop()
	searched := make(chan []time.Duration, 1)
	go func() { searched <- b.search(searching, plat.ChannelID("1002")) }()
	f, err := b.part(name, n, src, func() error { return b.subscribe(ctx, l, src, objects, n, low, high) })
	stop()
	took := <-searched
	f.Search95, f.Searches = quantile(took, 0.95), len(took)
	return f, err
}

// search asks twenty times a second as someone at a page would.
func (b *bench) search(ctx context.Context, channel plat.ChannelID) (took []time.Duration) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return took
		case <-tick.C:
		}
		q, err := lake.ParseQuery(fmt.Sprintf("camera:cam%03d AND label:%d", i%200, i%10))
		if err != nil {
			return took
		}
		start := time.Now()
		if _, _, err := b.index.Files(ctx, lake.Search{Filter: lake.Filter{Channel: channel, Query: q}, Limit: 100}, plat.SystemClock()); err != nil {
			if ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "search:", err)
			}
			return took
		}
		took = append(took, time.Since(start))
	}
}

func quantile(d []time.Duration, q float64) float64 {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return float64(d[int(q*float64(len(d)-1))].Microseconds()) / 1000
}
