// SPDX-License-Identifier: Apache-2.0

package logs_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"panal/internal/logs"
	"panal/internal/plat"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gateStore is a store whose commits wait for a word, or fail.
type gateStore struct {
	logs.Store // nil: only what the tests use is there

	gate  chan struct{} // nil: commits at once
	fail  error
	mu    sync.Mutex
	last  map[string]int64
	lines []int // of each commit
}

func (s *gateStore) Append(_ context.Context, _ time.Time, workloads []string, build func(map[string]int64) (*logs.Flush, error)) error {
	if s.gate != nil {
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	last := map[string]int64{}
	for _, w := range workloads {
		last[w] = s.last[w]
	}
	f, err := build(last)
	if err != nil || f == nil || s.fail != nil {
		return errors.Join(err, s.fail)
	}
	maps.Copy(s.last, f.Last)
	s.lines = append(s.lines, f.Record.Count)
	return nil
}

func (*gateStore) Size(context.Context) (int64, error)               { return 0, nil }
func (*gateStore) Expire(context.Context, time.Time) (int, error)    { return 0, nil }
func (*gateStore) Hot(context.Context, int64) ([]logs.Record, error) { return nil, nil }

func (s *gateStore) commits() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines
}

func newGate(gated bool) *gateStore {
	s := &gateStore{last: map[string]int64{}}
	if gated {
		s.gate = make(chan struct{})
	}
	return s
}

func run(t *testing.T, s logs.Store, cfg logs.Config) (*logs.Service, context.CancelFunc, <-chan struct{}) {
	t.Helper()
	svc, err := logs.New(s, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = svc.Run(ctx)
	}()
	return svc, cancel, ended
}

func lines(workload string, n, size int) logs.Batch {
	b := logs.Batch{Workload: workload, Stream: "job/1", FirstSeq: 1}
	for range n {
		b.Entries = append(b.Entries, logs.Entry{Time: 1, Message: strings.Repeat("x", size)})
	}
	return b
}

// What comes while a commit is under way shares the next one.
func TestBatchesShareACommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newGate(true)
		svc, cancel, ended := run(t, s, logs.Config{})
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if ack, err := svc.Ingest(t.Context(), "1", lines(fmt.Sprint("wl-", i), 2, 10)); err != nil || ack.LastSeq != 2 {
					t.Errorf("%+v, %v", ack, err)
				}
			})
			if i == 0 {
				synctest.Wait() // the first is being committed
			}
		}
		synctest.Wait()
		if got := s.commits(); len(got) != 0 {
			t.Fatalf("committed %v behind a closed gate", got)
		}
		s.gate <- struct{}{}
		s.gate <- struct{}{}
		wg.Wait()
		if got := s.commits(); len(got) != 2 || got[0] != 2 || got[1] != 38 {
			t.Errorf("commits of %v lines, want 2 and 38", got)
		}
		cancel()
		<-ended
	})
}

// An idle store commits at once; a busy one at most every Flush.
func TestFlushLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		svc, cancel, ended := run(t, newGate(false), logs.Config{Flush: 200 * time.Millisecond})
		time.Sleep(time.Second)
		for i, want := range []time.Duration{0, 200 * time.Millisecond} {
			start := time.Now()
			if _, err := svc.Ingest(t.Context(), "1", lines(fmt.Sprint("wl-", i), 1, 10)); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took != want {
				t.Errorf("batch %d took %v, want %v", i, took, want)
			}
		}
		// A full flush does not wait.
		start := time.Now()
		if _, err := svc.Ingest(t.Context(), "1", lines("wl-big", 20, 100<<10)); err != nil || time.Since(start) != 0 {
			t.Errorf("a full flush took %v, %v", time.Since(start), err)
		}
		cancel()
		<-ended
	})
}

// Beyond MaxWaiting callers wait, then are told to come again; a body is held to
// the same bound before it is read.
func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newGate(true)
		svc, cancel, ended := run(t, s, logs.Config{MaxWaiting: 1}) // raised to the least that makes sense, 8 MiB
		var ok, refused atomic.Int64
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				_, err := svc.Ingest(t.Context(), "1", lines(fmt.Sprint("wl-", i), 15, 100<<10)) // 1.5 MB
				switch {
				case err == nil:
					ok.Add(1)
				case errors.Is(err, plat.ErrUnavailable):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		time.Sleep(time.Minute)
		if n := refused.Load(); n != 7 {
			t.Errorf("%d of 12 batches were refused, want 7: five fit into 8 MiB", n)
		}
		if _, err := svc.ReadBatch(t.Context(), strings.NewReader("{}"), -1, ""); !errors.Is(err, plat.ErrUnavailable) {
			t.Errorf("ReadBatch while full = %v, want ErrUnavailable", err)
		}
		close(s.gate)
		wg.Wait()
		if ok.Load() != 5 {
			t.Errorf("%d were stored", ok.Load())
		}
		if _, err := svc.ReadBatch(t.Context(), strings.NewReader("{}"), -1, ""); err != nil {
			t.Errorf("ReadBatch after = %v", err)
		}
		cancel()
		<-ended
	})
}

// At the end what waits is committed; what comes later is refused, not lost silently.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newGate(true)
		svc, cancel, ended := run(t, s, logs.Config{})
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				if _, err := svc.Ingest(t.Context(), "1", lines(fmt.Sprint("wl-", i), 1, 1)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(s.gate)
		<-ended
		wg.Wait()
		n := 0
		for _, k := range s.commits() {
			n += k
		}
		if n != 5 {
			t.Errorf("%d lines were committed, want 5", n)
		}
		if _, err := svc.Ingest(t.Context(), "1", lines("wl-9", 1, 1)); !errors.Is(err, plat.ErrUnavailable) {
			t.Errorf("Ingest after the end = %v, want ErrUnavailable", err)
		}
	})
}

// A commit that fails acknowledges nobody, and does not spoil the next one.
func TestFailedCommit(t *testing.T) {
	s := newGate(false)
	s.fail = plat.ErrExhausted
	svc, cancel, ended := run(t, s, logs.Config{Flush: time.Nanosecond})
	ack, err := svc.Ingest(t.Context(), "1", lines("wl-1", 3, 1))
	if !errors.Is(err, plat.ErrExhausted) || ack.LastSeq != 0 {
		t.Errorf("%+v, %v", ack, err)
	}
	s.mu.Lock()
	s.fail = nil
	s.mu.Unlock()
	if ack, err := svc.Ingest(t.Context(), "1", lines("wl-1", 3, 1)); err != nil || ack.LastSeq != 3 {
		t.Errorf("%+v, %v", ack, err)
	}
	cancel()
	<-ended
}

func TestIngestRefuses(t *testing.T) {
	svc, cancel, ended := run(t, newGate(false), logs.Config{Flush: time.Nanosecond})
	with := func(change func(*logs.Batch)) logs.Batch {
		b := lines("wl-1", 1, 1)
		change(&b)
		return b
	}
	for name, b := range map[string]logs.Batch{
		"no workload":        with(func(b *logs.Batch) { b.Workload = "" }),
		"line feed in names": with(func(b *logs.Batch) { b.Stream = "job/1\njob/2" }),
		"no stream":          with(func(b *logs.Batch) { b.Stream = "" }),
		"line 0":             with(func(b *logs.Batch) { b.FirstSeq = 0 }),
		"overflow":           with(func(b *logs.Batch) { b.FirstSeq = 1<<63 - 1 }),
		"long message":       with(func(b *logs.Batch) { b.Entries[0].Message = strings.Repeat("x", logs.MaxMessageBytes+1) }),
		"no UTF-8":           with(func(b *logs.Batch) { b.Entries[0].Message = "\xff" }),
		"before 1970":        with(func(b *logs.Batch) { b.Entries[0].Time = -1 }),
		"after 9999":         with(func(b *logs.Batch) { b.Entries[0].Time = 1 << 62 }),
		"long level":         with(func(b *logs.Batch) { b.Entries[0].Level = strings.Repeat("x", 17) }),
		"long request id":    with(func(b *logs.Batch) { b.Entries[0].RequestID = strings.Repeat("x", 129) }),
		"too much":           lines("wl-1", 200, 100<<10),
	} {
		if _, err := svc.Ingest(t.Context(), "1", b); !errors.Is(err, plat.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	// An empty batch asks what is durable.
	if ack, err := svc.Ingest(t.Context(), "1", lines("wl-1", 0, 0)); err != nil || ack.LastSeq != 0 {
		t.Errorf("empty: %+v, %v", ack, err)
	}
	cancel()
	<-ended
}
