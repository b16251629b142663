// SPDX-License-Identifier: Apache-2.0

package logstest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"panal/internal/logs"
	"panal/internal/plat"
)

const org = plat.OrgID("1480000000017")

// batch is lines from..to of a workload; each says which it is.
func batch(workload, stream string, from, to int64) logs.Batch {
	b := logs.Batch{Workload: workload, Stream: stream, FirstSeq: from}
	for i := from; i <= to; i++ {
		b.Entries = append(b.Entries, logs.Entry{Time: day0().UnixMicro() + i, Level: "info", Message: fmt.Sprintf("%s line %d", workload, i)})
	}
	return b
}

// inOrder checks that got holds lines 1..n of each workload, once, in order.
func inOrder(t *testing.T, got []string, workloads, n int) {
	t.Helper()
	if len(got) != workloads*n {
		t.Errorf("%d lines, want %d", len(got), workloads*n)
	}
	next := map[string]int{}
	for _, m := range got {
		w, _, _ := strings.Cut(m, " ")
		next[w]++
		if want := fmt.Sprintf("%s line %d", w, next[w]); m != want {
			t.Fatalf("got %q, want %q", m, want)
		}
	}
}

func twoProcesses(t *testing.T, h Harness) {
	o := h.New(t)
	a, _ := serve(t, open(t, o), logs.Config{})
	b := a
	if h.Shared {
		b, _ = serve(t, open(t, o), logs.Config{})
	}
	const workloads, n = 6, 60
	stream := logs.JobStream("1")
	got, followErr := []string(nil), error(nil)
	var wg sync.WaitGroup
	first, err := a.Read(t.Context(), logs.Query{Org: org, Stream: stream, Descending: true})
	if err != nil || len(first.Lines) != 0 || first.Forward == "" || first.Backward == "" {
		t.Fatalf("an empty stream: %+v, %v", first, err)
	}
	wg.Go(func() { got, followErr = followFrom(t.Context(), b, stream, first.Forward, workloads*n) })
	for w := range workloads {
		wg.Go(func() {
			for i := int64(1); i <= n; i += 3 {
				svc := a
				if (i/3)%2 == 1 {
					svc = b
				}
				if _, err := svc.Ingest(t.Context(), org, batch(fmt.Sprintf("wl-%d", w), stream, i, i+2)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if followErr != nil {
		t.Fatal(followErr)
	}
	inOrder(t, got, workloads, n)
}

// followFrom polls a forward token and collects messages in the order of arrival
// until it has n, or the deadline comes.
func followFrom(ctx context.Context, svc *logs.Service, stream, token string, n int) ([]string, error) {
	var got []string
	for deadline := time.Now().Add(60 * time.Second); len(got) < n && time.Now().Before(deadline); {
		p, err := svc.Read(ctx, logs.Query{Org: org, Stream: stream, Descending: true, Cursor: token, Limit: 7})
		if err != nil {
			return got, err
		}
		for i := range p.Lines {
			got = append(got, p.Lines[len(p.Lines)-1-i].Message)
		}
		if token = p.Forward; len(p.Lines) == 0 {
			select {
			case <-time.After(2 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
	return got, nil
}

func concurrentDuplicates(t *testing.T, h Harness) {
	svc, _ := serve(t, open(t, h.New(t)), logs.Config{Flush: 5 * time.Millisecond})
	stream := logs.ServiceStream("ser-1")
	for round := range int64(5) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				ack, err := svc.Ingest(t.Context(), org, batch("wl-1", stream, round*10+1, round*10+10))
				if err != nil || ack.LastSeq != round*10+10 {
					t.Errorf("round %d: %+v, %v", round, ack, err)
				}
			})
		}
		wg.Wait()
	}
	p, err := svc.Read(t.Context(), logs.Query{Org: org, Stream: stream, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range p.Lines {
		got = append(got, l.Message)
	}
	inOrder(t, got, 1, 50)
}

func followDuringRepack(t *testing.T, h Harness) {
	svc, _ := serve(t, open(t, h.New(t)), logs.Config{Repack: 10 * time.Millisecond})
	const n = 120
	stream := logs.JobStream("1")
	first, err := svc.Read(t.Context(), logs.Query{Org: org, Stream: stream, Descending: true})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	results := make([][]string, 3)
	for i := range results {
		wg.Go(func() {
			var err error
			if results[i], err = followFrom(t.Context(), svc, stream, first.Forward, 2*n); err != nil {
				t.Error(err)
			}
		})
	}
	for w := range 2 {
		wg.Go(func() {
			for i := int64(1); i <= n; i += 4 {
				if _, err := svc.Ingest(t.Context(), org, batch(fmt.Sprintf("wl-%d", w), stream, i, i+3)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, got := range results {
		inOrder(t, got, 2, n)
	}
}

func ceiling(t *testing.T, h Harness) {
	s := open(t, h.New(t))
	now := day0()
	clock := sync.Mutex{}
	cfg := logs.Config{Ceiling: 12 << 20, TTL: 48 * time.Hour, Now: func() time.Time {
		clock.Lock()
		defer clock.Unlock()
		return now
	}}
	svc, stop := serve(t, s, cfg)
	stream := logs.JobStream("1")
	noise := []byte(strings.Repeat("x", 100_000))
	seed := uint64(1)
	next := int64(1)
	send := func() (logs.Ack, error) {
		b := logs.Batch{Workload: "wl-1", Stream: stream, FirstSeq: next}
		for range 10 {
			for i := range noise { // does not compress
				seed = seed*6364136223846793005 + 1442695040888963407
				noise[i] = byte(seed>>57) | 0x20
			}
			b.Entries = append(b.Entries, logs.Entry{Time: 1, Message: string(noise)})
		}
		return svc.Ingest(t.Context(), org, b)
	}
	acknowledged := int64(0)
	for next < 2000 {
		ack, err := send()
		if err != nil {
			if !errors.Is(err, plat.ErrExhausted) {
				t.Fatal(err)
			}
			break
		}
		acknowledged, next = ack.LastSeq, ack.LastSeq+1
	}
	if next < 20 || next >= 2000 {
		t.Fatalf("the ceiling came after %d lines", next-1)
	}
	if size, err := s.Size(t.Context()); err != nil || size > cfg.Ceiling+8<<20 {
		t.Errorf("size at the ceiling %d, %v", size, err)
	}
	// What was acknowledged can be read; a restart changes nothing.
	stop()
	svc, _ = serve(t, s, cfg)
	if _, err := send(); !errors.Is(err, plat.ErrExhausted) {
		t.Errorf("after a restart at the ceiling: %v", err)
	}
	count, token := int64(0), ""
	for {
		p, err := svc.Read(t.Context(), logs.Query{Org: org, Stream: stream, Cursor: token})
		if err != nil {
			t.Fatal(err)
		}
		count += int64(len(p.Lines))
		if token = p.Next; token == "" {
			break
		}
	}
	if count != acknowledged {
		t.Errorf("%d lines are there, %d were acknowledged", count, acknowledged)
	}
	// Only time makes room.
	clock.Lock()
	now = now.Add(4 * 24 * time.Hour)
	clock.Unlock()
	if err := svc.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ack, err := send(); err != nil || ack.LastSeq != acknowledged+10 {
		t.Errorf("after expiry: %+v, %v", ack, err)
	}
}
