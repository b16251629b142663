// SPDX-License-Identifier: Apache-2.0

package link_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"panal/internal/feed"
	"panal/internal/lake/link"
	"panal/internal/lake/link/linktest"
	"panal/internal/plat"
)

var (
	histories = flag.Int("histories", 300, "random histories of the simulation")
	seedFlag  = flag.Uint64("seed", 0, "the one history to run, as a failure printed it")
)

// TestIndexConvergesToStorage runs random histories: objects are put, overwritten and
// deleted by others while two subscribers and the reconciler work, with a feed that drops,
// repeats, delays and reorders 30 % of the events; each of the workers dies at random
// before and after every call that leaves it, and storage changes between any two of them.
// At the end the index must be what storage is.
func TestIndexConvergesToStorage(t *testing.T) {
	base, n := rand.Uint64(), *histories
	if *seedFlag != 0 {
		base, n = *seedFlag, 1
	}
	for i := range n {
		seed := base + uint64(i)
		// Every third history loses no event: then, after the import, events alone must do.
		s := newSimulation(seed, seed%3 != 0)
		if err := s.run(t.Context()); err != nil {
			t.Fatalf("seed %d: %v\nagain: go test ./internal/lake/link -run TestIndexConvergesToStorage -seed %d\n%s",
				seed, err, seed, strings.Join(s.trace, "\n"))
		}
	}
}

// TestTheSimulationSeesTheRace takes the generations away, which the whole argument
// stands on: some history must fail then, or the simulation proves nothing.
func TestTheSimulationSeesTheRace(t *testing.T) {
	for seed := range uint64(2000) {
		s := newSimulation(seed, seed%2 == 0)
		s.blind = true
		if s.run(t.Context()) != nil {
			return
		}
	}
	t.Fatal("2,000 histories without generations, and none failed")
}

const simChannel = plat.ChannelID("1000000000001")

// simulation is one history; nothing in it is concurrent, and its seed decides everything.
type simulation struct {
	rng   *rand.Rand
	clock time.Time
	lossy bool
	blind bool // writes whatever was read, as one does without generations
	trace []string

	objects map[string]link.Object // the storage
	writes  int                    // ever done to it: sequencers and ETags
	feed    *chaos
	store   *linktest.Mem

	depth   int  // of workers that run within others' calls
	quiet   bool // nothing happens meanwhile, and nobody dies
	changes int  // still to be made
}

func newSimulation(seed uint64, lossy bool) *simulation {
	s := &simulation{
		rng: rand.New(rand.NewPCG(seed, 1)), clock: time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC), lossy: lossy,
		objects: map[string]link.Object{},
	}
	s.feed = &chaos{s: s, leased: map[string]feed.Message{}}
	s.store = linktest.NewMem(s.now)
	s.changes = 5 + s.rng.IntN(40)
	return s
}

func (s *simulation) now() time.Time { return s.clock }

func (s *simulation) note(format string, args ...any) {
	s.trace = append(s.trace, strings.Repeat("  ", s.depth)+fmt.Sprintf(format, args...))
}

func (s *simulation) chance(percent int) bool { return s.rng.IntN(100) < percent }

func (s *simulation) run(ctx context.Context) error {
	s.store.AddChannel(simChannel, false)
	l := link.Link{Channel: simChannel, Org: "org", Place: link.Place{Bucket: "b", Prefix: "p/"}}
	if err := s.store.CreateLink(ctx, l); err != nil {
		return err
	}
	for range s.rng.IntN(5) {
		s.change(false) // there before the link: no events
	}
	if !s.lossy { // the import, whole; then events alone must do
		s.quiet = true
		if err := s.pass(ctx); err != nil {
			return err
		}
		s.quiet = false
	}
	for s.changes > 0 {
		switch n := s.rng.IntN(10); {
		case n < 4:
			s.change(true)
		case n < 8 || !s.lossy:
			s.subscribe(ctx)
		default:
			s.reconcile(ctx)
		}
	}
	for range s.rng.IntN(4) {
		s.subscribe(ctx)
	}
	if s.lossy { // one pass that begins when no look from before the last change is under way
		if err := s.pass(ctx); err != nil {
			return err
		}
	}
	// What was delayed or is not acknowledged yet comes now, after the last pass.
	s.quiet = true
	for s.feed.left() > 0 {
		s.subscribe(ctx)
	}
	return s.check(ctx)
}

// pass is a whole pass of the reconciler, begun anew by whoever is next when it dies.
func (s *simulation) pass(ctx context.Context) error {
	s.depth++
	defer func() { s.depth-- }()
	s.note("a whole pass")
	w := s.walker()
	w.Link.Walk = link.Walk{}
	for tries := 0; ; tries++ {
		passed, err := w.Step(ctx)
		switch {
		case passed && err == nil:
			return nil
		case err != nil && tries == 10_000:
			return fmt.Errorf("the last pass: %w", err)
		case err != nil:
			walk := w.Link.Walk
			w = s.walker()
			w.Link.Walk = walk
		}
	}
}

// check compares the index with storage.
func (s *simulation) check(ctx context.Context) error {
	files := map[string]string{}
	for _, f := range s.store.Files(simChannel) {
		key := f.Metadata["s3-key"]
		if files[key] != "" {
			return fmt.Errorf("%s is two files", key)
		}
		files[key] = f.ETag
		if row, err := s.store.OfFile(ctx, simChannel, f.ID); err != nil || row.Key != key || row.ETag != f.ETag {
			return fmt.Errorf("the row of file %s of %s is %+v, %w", f.ID, key, row, err)
		}
	}
	want := map[string]string{}
	for k, o := range s.objects {
		want[k] = o.ETag
	}
	if !maps.Equal(files, want) {
		return fmt.Errorf("index %v, storage %v", files, want)
	}
	if n, err := s.store.Lettered(ctx, simChannel); err != nil || n != 0 {
		return fmt.Errorf("%d dead letters, %w", n, err)
	}
	return nil
}

// change puts, overwrites or deletes an object, and tells the feed.
func (s *simulation) change(tell bool) {
	s.changes--
	s.writes++
	s.clock = s.clock.Add(time.Duration(s.rng.IntN(3)) * 400 * time.Millisecond)
	key := fmt.Sprintf("p/%c+ é", 'a'+rune(s.rng.IntN(4)))
	name := "ObjectCreated:Put"
	if _, there := s.objects[key]; there && s.chance(40) {
		delete(s.objects, key)
		name = "ObjectRemoved:Delete"
	} else {
		s.objects[key] = link.Object{Key: key, ETag: fmt.Sprint("e", s.writes), Size: int64(s.rng.IntN(3)), Modified: s.clock, ContentType: "text/plain"}
	}
	s.note("%s %s e%d", name, key, s.writes)
	if tell {
		s.feed.send(name, key, s.writes)
	}
}

// meanwhile is called wherever a worker waits for something outside.
func (s *simulation) meanwhile(ctx context.Context) {
	if s.quiet {
		return
	}
	if s.changes > 0 && s.chance(15) {
		s.change(true)
	}
	if s.depth < 3 && s.chance(10) {
		s.subscribe(ctx)
	}
	if s.lossy && s.depth < 3 && s.chance(3) {
		s.reconcile(ctx)
	}
	// A pass while others hold what they saw before it, and write it after it.
	if s.lossy && s.depth < 3 && s.chance(1) {
		_ = s.pass(ctx)
	}
}

// worker stands between a subscriber or walker and all that is outside of it. It dies by
// having none of its calls do anything any more.
type worker struct {
	s    *simulation
	dead bool
}

var errDied = plat.Errorf(plat.ErrUnavailable, "the process is dead")

// call does f unless the worker is dead, or dies before it, and says so also when it dies
// just after it.
func (w *worker) call(ctx context.Context, what string, f func() error) error {
	if w != nil && !w.s.quiet && !w.dead && w.s.chance(4) {
		w.dead = true
		w.s.note("dies before %s", what)
	}
	if w != nil && w.dead {
		return errDied
	}
	if w != nil {
		w.s.meanwhile(ctx)
	}
	err := f()
	if w != nil {
		w.s.note("%s: %v", what, err)
		w.s.meanwhile(ctx)
		if !w.s.quiet && w.s.chance(4) {
			w.dead = true
			w.s.note("dies after %s", what)
			return errDied
		}
	}
	return err
}

func (s *simulation) subscribe(ctx context.Context) {
	s.depth++
	defer func() { s.depth-- }()
	w := &worker{s: s}
	l, _ := s.store.Link(ctx, simChannel)
	sub := link.New(link.Config{
		Link: l, Source: simFeed{w}, Rows: simRows{w}, Bucket: simBucket{w}, Now: s.now, Looks: 1,
		Log: slog.New(slog.DiscardHandler), MaxReceipts: 1000,
	})
	batch := s.feed.receive(1 + s.rng.IntN(6))
	if len(batch) == 0 {
		return
	}
	s.note("a subscriber takes %d messages", len(batch))
	_ = sub.Process(ctx, batch)
	s.feed.expire() // leases end at any time
}

func (s *simulation) walker() *link.Walker {
	l, _ := s.store.Link(context.Background(), simChannel)
	w := &worker{s: s}
	return &link.Walker{Link: l, Rows: simRows{w}, Bucket: simBucket{w}, Now: s.now, PageSize: 2}
}

func (s *simulation) reconcile(ctx context.Context) {
	s.depth++
	defer func() { s.depth-- }()
	w := s.walker()
	for range 1 + s.rng.IntN(3) {
		if _, err := w.Step(ctx); err != nil {
			return
		}
	}
}

// chaos is the feed: messages in no order, each possibly lost or repeated.
type chaos struct {
	s       *simulation
	waiting []feed.Message
	leased  map[string]feed.Message
	n       int
}

func (c *chaos) send(name, key string, seq int) {
	sequencer := fmt.Sprintf(`,"sequencer":"%08X"`, seq)
	if c.s.chance(10) {
		sequencer = "" // as some storages send none
	}
	body := fmt.Sprintf(`{"Records":[{"eventVersion":"2.1","eventName":"%s","s3":{"bucket":{"name":"b"},"object":{"key":"%s"%s}}}]}`, name, url.QueryEscape(key), sequencer)
	copies := 1
	if c.s.chance(30) {
		if copies = c.s.rng.IntN(4); !c.s.lossy {
			copies = max(copies, 1)
		}
	}
	for range copies {
		c.n++
		c.waiting = append(c.waiting, feed.Message{Handle: fmt.Sprint(c.n), Body: []byte(body), Receipts: 1})
	}
}

// receive takes mostly the oldest, and any other in 30 % of the cases.
func (c *chaos) receive(n int) []feed.Message {
	var out []feed.Message
	for len(out) < n && len(c.waiting) > 0 {
		i := 0
		if c.s.chance(30) {
			i = c.s.rng.IntN(len(c.waiting))
		}
		m := c.waiting[i]
		c.waiting = slices.Delete(c.waiting, i, i+1)
		c.leased[m.Handle] = m
		out = append(out, m)
	}
	return out
}

// expire ends some leases: of the dead, and of those that are only slow.
func (c *chaos) expire() {
	for _, h := range slices.SortedFunc(maps.Keys(c.leased), cmp.Compare[string]) {
		if c.s.quiet || c.s.chance(50) {
			c.waiting = append(c.waiting, c.leased[h])
			delete(c.leased, h)
		}
	}
}

func (c *chaos) left() int {
	if c.s.quiet {
		c.expire()
	}
	return len(c.waiting) + len(c.leased)
}

func (c *chaos) ack(handles []string) {
	for _, h := range handles {
		delete(c.leased, h)
		c.waiting = slices.DeleteFunc(c.waiting, func(m feed.Message) bool { return m.Handle == h })
	}
}

type simFeed struct{ w *worker }

func (f simFeed) Receive(context.Context, int, time.Duration) ([]feed.Message, error) {
	return nil, nil
}
func (f simFeed) Backlog(context.Context) (feed.Backlog, error) { return feed.Backlog{}, nil }
func (f simFeed) Close() error                                  { return nil }

func (f simFeed) Ack(ctx context.Context, handles []string) error {
	return f.w.call(ctx, fmt.Sprint("ack ", handles), func() error { f.w.s.feed.ack(handles); return nil })
}

func (f simFeed) Extend(ctx context.Context, handles []string, _ time.Duration) error {
	return f.w.call(ctx, fmt.Sprint("give back ", handles), func() error { return nil })
}

type simBucket struct{ w *worker }

func (b simBucket) Look(ctx context.Context, key string) (o link.Object, err error) {
	err = b.w.call(ctx, "look at "+key, func() error {
		var ok bool
		if o, ok = b.w.s.objects[key]; !ok {
			return plat.NotFound("object", key)
		}
		return nil
	})
	return o, err
}

func (b simBucket) List(ctx context.Context, prefix, after string, limit int) (page []link.Object, more bool, err error) {
	err = b.w.call(ctx, "list after "+after, func() error {
		for _, k := range slices.Sorted(maps.Keys(b.w.s.objects)) {
			if !strings.HasPrefix(k, prefix) || k <= after {
				continue
			}
			if len(page) == limit {
				more = true
				break
			}
			o := b.w.s.objects[k]
			page = append(page, link.Object{Key: k, ETag: o.ETag, Size: o.Size, Modified: o.Modified})
		}
		return nil
	})
	return page, more, err
}

func (b simBucket) Open(context.Context, link.Row, int64, int64) (io.ReadCloser, error) {
	return nil, nil
}

// simRows is the store, and without generations when the simulation is blind.
type simRows struct{ w *worker }

func (r simRows) Rows(ctx context.Context, ch plat.ChannelID, keys []string) (out map[string]link.Row, err error) {
	err = r.w.call(ctx, fmt.Sprint("rows ", keys), func() (err error) { out, err = r.w.s.store.Rows(ctx, ch, keys); return err })
	return out, err
}

func (r simRows) Live(ctx context.Context, ch plat.ChannelID, after, upTo string, limit int) (out []link.Row, err error) {
	err = r.w.call(ctx, "live rows", func() (err error) { out, err = r.w.s.store.Live(ctx, ch, after, upTo, limit); return err })
	return out, err
}

func (r simRows) OfFile(ctx context.Context, ch plat.ChannelID, id plat.FileID) (link.Row, error) {
	return r.w.s.store.OfFile(ctx, ch, id)
}

func (r simRows) Write(ctx context.Context, ch plat.ChannelID, all []link.Observation) (out []link.Outcome, err error) {
	err = r.w.call(ctx, fmt.Sprint("write ", len(all)), func() (err error) {
		if r.w.s.blind {
			for i, o := range all {
				now, err := r.w.s.store.Rows(ctx, ch, []string{o.Was.Key})
				if err != nil {
					return err
				}
				key := o.Was.Key
				all[i].Was = now[key]
				all[i].Was.Key = key
			}
		}
		out, err = r.w.s.store.Write(ctx, ch, all)
		return err
	})
	return out, err
}

func (r simRows) SetWalk(ctx context.Context, ch plat.ChannelID, walk link.Walk) error {
	return r.w.call(ctx, "set walk", func() error { return r.w.s.store.SetWalk(ctx, ch, walk) })
}

func (r simRows) Bury(ctx context.Context, all []link.Letter) error {
	return r.w.call(ctx, "bury", func() error { return r.w.s.store.Bury(ctx, all) })
}
