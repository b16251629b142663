// SPDX-License-Identifier: Apache-2.0

package link_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"panal/internal/feed"
	"panal/internal/feed/memfeed"
	"panal/internal/lake/link"
	"panal/internal/lake/link/linktest"
	"panal/internal/plat"
)

// shelf is a bucket in memory.
type shelf struct {
	mu      sync.Mutex
	objects map[string]link.Object
	errs    map[string]error
	looks   int
}

func newShelf() *shelf { return &shelf{objects: map[string]link.Object{}, errs: map[string]error{}} }

func (s *shelf) put(key, etag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[key] = link.Object{Key: key, ETag: etag, Size: 1, Modified: time.Unix(1, 0)}
}

func (s *shelf) Look(_ context.Context, key string) (link.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks++
	if err := s.errs[key]; err != nil {
		return link.Object{}, err
	}
	if o, ok := s.objects[key]; ok {
		return o, nil
	}
	return link.Object{}, plat.NotFound("object", key)
}

func (s *shelf) List(context.Context, string, string, int) ([]link.Object, bool, error) {
	return nil, false, nil
}

func (s *shelf) Open(context.Context, link.Row, int64, int64) (io.ReadCloser, error) {
	return nil, nil
}

type bench struct {
	*link.Subscriber
	shelf *shelf
	feed  *memfeed.Source
	store *linktest.Mem
}

func newBench(t *testing.T, change func(*link.Config)) bench {
	t.Helper()
	b := bench{shelf: newShelf(), feed: memfeed.New(plat.SystemClock, time.Hour), store: linktest.NewMem(plat.SystemClock)}
	b.store.AddChannel(simChannel, false)
	l := link.Link{Channel: simChannel, Place: link.Place{Bucket: "b", Prefix: "p/"}}
	if err := b.store.CreateLink(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	cfg := link.Config{
		Link: l, Source: b.feed, Rows: b.store, Bucket: b.shelf, Now: plat.SystemClock, Log: slog.New(slog.DiscardHandler),
		Gather: time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	b.Subscriber = link.New(cfg)
	return b
}

// The rate is that of the last half minute or so, and dies away.
func TestRate(t *testing.T) {
	now := time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)
	b := newBench(t, func(c *link.Config) { c.Now = func() time.Time { return now } })
	is := func(lo, hi float64) {
		t.Helper()
		if r := b.Figures().Rate; r < lo || r > hi {
			t.Errorf("rate %.1f, want %.1f to %.1f", r, lo, hi)
		}
	}
	is(0, 0)
	for range 300 {
		for i := range 10 {
			b.feed.Send(event(fmt.Sprint("p/", i), ""))
		}
		if err := b.process(t); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
	}
	is(9, 11)
	now = now.Add(10 * time.Minute)
	is(0, 0.01)
}

func event(key, sequencer string) []byte {
	return fmt.Appendf(nil, `{"Records":[{"eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"b"},"object":{"key":"%s","sequencer":"%s"}}}]}`, key, sequencer)
}

// process receives what is there and processes it as one batch.
func (b bench) process(t *testing.T) error {
	t.Helper()
	batch, err := b.feed.Receive(t.Context(), 1000, time.Second)
	for more := batch; err == nil && len(more) > 0; batch = append(batch, more...) {
		more, err = b.feed.Receive(t.Context(), 1000, time.Nanosecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Process(t.Context(), batch)
}

func (b bench) left(t *testing.T) int64 {
	t.Helper()
	l, err := b.feed.Backlog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return l.Messages
}

func TestPoisonIsBuriedWithItsReasonAndStopsNothing(t *testing.T) {
	b := newBench(t, func(c *link.Config) { c.MaxReceipts = 1 })
	b.shelf.put("p/good", "e")
	b.shelf.errs["p/refused"] = plat.Errorf(plat.ErrForbidden, "access denied")
	poison := map[string]string{
		"broken JSON":    `{"Records":[`,
		"limit":          strings.Repeat("x", feed.MaxBody+1),
		"version":        `{"Records":[{"eventVersion":"9.0","eventName":"ObjectCreated:Put"}]}`,
		"not UTF-8":      "\xff\xfe",
		"URL-encoded":    string(event("%zz", "1")),
		"not of this":    string(event("elsewhere", "1")),
		"access denied":  string(event("p/refused", "1")),
		"neither":        `{}`,
		"bucket \"bad\"": strings.Replace(string(event("p/x", "1")), `"name":"b"`, `"name":"bad"`, 1),
	}
	for _, body := range poison {
		b.feed.Send([]byte(body))
	}
	b.feed.Send(event("p/good", "1"))
	b.feed.Send(event("p/missing", "1")) // no object: that is its state, not a fault
	if err := b.process(t); err != nil {
		t.Fatal(err)
	}
	letters, err := b.store.Letters(t.Context(), simChannel, 0, 100)
	if err != nil || len(letters) != len(poison) {
		t.Fatalf("%d letters, %v, want %d", len(letters), err, len(poison))
	}
	for reason, body := range poison {
		if !slices.ContainsFunc(letters, func(l link.Letter) bool {
			return string(l.Body) == body && (reason == "broken JSON" || strings.Contains(l.Reason, reason))
		}) {
			t.Errorf("no letter with reason %q", reason)
		}
	}
	if files := b.store.Files(simChannel); len(files) != 1 || b.left(t) != 0 {
		t.Errorf("%d files, %d messages left", len(files), b.left(t))
	}
}

func TestWhatIsDownKillsNoMessage(t *testing.T) {
	b := newBench(t, func(c *link.Config) { c.MaxReceipts = 1 })
	b.shelf.errs["p/a"] = plat.Errorf(plat.ErrUnavailable, "no answer")
	b.feed.Send(event("p/a", "1"))
	if err := b.process(t); err == nil {
		t.Error("Process = nil, want what is down")
	}
	if n, _ := b.store.Lettered(t.Context(), simChannel); n != 0 || b.left(t) != 1 {
		t.Errorf("%d letters, %d messages left, want 0 and 1", n, b.left(t))
	}
}

func TestAFailingMessageIsGivenBackUntilItsReceiptsEnd(t *testing.T) {
	b := newBench(t, func(c *link.Config) { c.MaxReceipts = 2 })
	b.shelf.errs["p/a"] = plat.Errorf(plat.ErrForbidden, "access denied")
	b.feed.Send(event("p/a", "1"))
	for try, want := range []int64{0, 1} {
		batch, err := b.feed.Receive(t.Context(), 10, time.Minute)
		if err != nil || len(batch) != 1 {
			t.Fatal(len(batch), err)
		}
		if err := b.Process(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		if n, _ := b.store.Lettered(t.Context(), simChannel); n != want {
			t.Errorf("after receipt %d: %d letters", try+1, n)
		}
		if err := b.feed.Extend(t.Context(), []string{batch[0].Handle}, 0); err != nil { // time passes
			t.Fatal(err)
		}
	}
	if b.left(t) != 0 {
		t.Error("the dead message is still in the feed")
	}
}

func TestRepeatsAndOldEventsCostNoLook(t *testing.T) {
	b := newBench(t, nil)
	b.shelf.put("p/a", "e")
	for _, seq := range []string{"02", "01", "02", "02"} {
		b.feed.Send(event("p/a", seq))
	}
	if err := b.process(t); err != nil {
		t.Fatal(err)
	}
	b.feed.Send(event("p/a", "02"))
	b.feed.Send(event("p/a", "01"))
	if err := b.process(t); err != nil {
		t.Fatal(err)
	}
	if b.shelf.looks != 1 || b.left(t) != 0 {
		t.Errorf("%d looks, %d messages left, want 1 and 0", b.shelf.looks, b.left(t))
	}
	b.feed.Send(event("p/a", "")) // nobody knows how old that is
	if err := b.process(t); err != nil {
		t.Fatal(err)
	}
	if b.shelf.looks != 2 || len(b.store.Files(simChannel)) != 1 {
		t.Errorf("%d looks, %d files", b.shelf.looks, len(b.store.Files(simChannel)))
	}
}

func TestMetadataThatBreaksTheRulesHidesNoFile(t *testing.T) {
	b := newBench(t, nil)
	b.shelf.objects["p/100%25/ü.jpg"] = link.Object{ETag: "e", ContentType: strings.Repeat("x", 2000), Metadata: map[string]string{
		"Label": "cat", "label": "dog", "bad": "\xff", "long": strings.Repeat("v", 5000), "": "empty", "filename": "own.jpg",
	}}
	b.feed.Send(event("p/100%2525/%C3%BC.jpg", "1"))
	if err := b.process(t); err != nil {
		t.Fatal(err)
	}
	files := b.store.Files(simChannel)
	if len(files) != 1 {
		t.Fatalf("%d files", len(files))
	}
	m := files[0].Metadata
	key, _ := m.Get("s3-key")
	if key != "p/100%25/ü.jpg" || m["filename"] != "own.jpg" || m["label"] == "" || m["bad"]+m["long"] != "" || files[0].ContentType != "application/octet-stream" {
		t.Errorf("metadata %q, type %q", m, files[0].ContentType)
	}
}

func TestRunDrainsAFeedAndEnds(t *testing.T) {
	defer goleak.VerifyNone(t)
	b := newBench(t, func(c *link.Config) { c.Batch, c.Lease = 20, 50*time.Millisecond })
	const n = 200
	for i := range n {
		key := fmt.Sprintf("p/%d", i%50)
		b.shelf.put(key, "e")
		b.feed.Send(event(key, fmt.Sprintf("%04d", i)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	for end := time.Now().Add(30 * time.Second); b.left(t) > 0 && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if files := b.store.Files(simChannel); len(files) != 50 || b.left(t) != 0 {
		t.Errorf("%d files, %d messages left", len(files), b.left(t))
	}
	if f := b.Figures(); f.Messages < n || f.Batches == 0 || f.Concurrency < 1 || f.Changed != 50 {
		t.Errorf("figures %+v", f)
	}
}
