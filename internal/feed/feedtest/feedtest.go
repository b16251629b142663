// SPDX-License-Identifier: Apache-2.0

// Package feedtest holds every feed.Source to the port's contract. An adapter's test
// is one call of Run.
package feedtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"panal/internal/feed"
)

// Lease is the lease of received messages that the suite needs: as long as nothing else
// is asked for, no message comes back while it runs.
const Lease = 10 * time.Minute

// patience is how long the suite waits for what must come, briefly for what must not.
const (
	patience = 30 * time.Second
	briefly  = 50 * time.Millisecond
)

// Harness is what an adapter supplies.
type Harness struct {
	// New returns an empty feed with leases of Lease, and how to put a message in.
	New func(t *testing.T) (src feed.Source, send func(body []byte))
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	for _, c := range []struct {
		name  string
		check func(*testing.T, feed.Source, func([]byte))
	}{
		{"Receive/empty_feed_gives_none_after_the_wait", emptyGivesNone},
		{"Receive/waits_for_what_comes", waitsForNews},
		{"Receive/bodies_come_as_they_were_sent", bodies},
		{"Receive/no_more_than_limit", limited},
		{"Receive/no_more_than_MaxReceive_bytes_and_all_in_the_end", bounded},
		{"Receive/a_leased_message_is_not_received_again", leased},
		{"Receive/ends_with_its_context", cancelled},
		{"Ack/acknowledged_messages_are_gone", acked},
		{"Ack/unknown_and_repeated_handles_are_not_an_error", ackedTwice},
		{"Extend/zero_gives_back_with_one_more_receipt", givenBack},
		{"Extend/an_old_handle_changes_nothing", oldHandle},
		{"Concurrent/every_message_is_received_once", concurrent},
		{"Backlog/counts_what_waits", backlog},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			src, send := h.New(t)
			t.Cleanup(func() {
				if err := src.Close(); err != nil {
					t.Errorf("Close = %v", err)
				}
			})
			c.check(t, src, send)
		})
	}
}

// take receives until it has n messages.
func take(t *testing.T, src feed.Source, n int) []feed.Message {
	t.Helper()
	var all []feed.Message
	for end := time.Now().Add(patience); len(all) < n && time.Now().Before(end); {
		got, err := src.Receive(t.Context(), n-len(all), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, got...)
	}
	if len(all) != n {
		t.Fatalf("received %d messages, want %d", len(all), n)
	}
	return all
}

func none(t *testing.T, src feed.Source) {
	t.Helper()
	if got, err := src.Receive(t.Context(), 10, briefly); err != nil || len(got) != 0 {
		t.Fatalf("Receive = %d messages, %v, want none", len(got), err)
	}
}

func handles(all []feed.Message) []string {
	out := make([]string, len(all))
	for i, m := range all {
		out[i] = m.Handle
	}
	return out
}

func emptyGivesNone(t *testing.T, src feed.Source, _ func([]byte)) { none(t, src) }

func waitsForNews(t *testing.T, src feed.Source, send func([]byte)) {
	got := make(chan []feed.Message, 1)
	go func() {
		all, err := src.Receive(t.Context(), 10, patience)
		if err != nil {
			t.Error(err)
		}
		got <- all
	}()
	send([]byte("late"))
	if all := <-got; len(all) != 1 || string(all[0].Body) != "late" {
		t.Fatalf("received %v", all)
	}
}

func bodies(t *testing.T, src feed.Source, send func([]byte)) {
	want := []string{"plain", `{"a": "蜂 \u0001"}`, "<>&'\" line\nbreak\ttab", "x"}
	for _, b := range want {
		send([]byte(b))
	}
	var got []string
	for _, m := range take(t, src, len(want)) {
		got = append(got, string(m.Body))
		if m.Sent.IsZero() || m.Receipts > 1 {
			t.Errorf("message %+v", m)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func bounded(t *testing.T, src feed.Source, send func([]byte)) {
	const each, n = 250_000, 25
	for i := range n {
		send(bytes.Repeat([]byte{'a' + byte(i)}, each))
	}
	seen := map[byte]bool{}
	for end := time.Now().Add(patience); len(seen) < n && time.Now().Before(end); {
		got, err := src.Receive(t.Context(), 100, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		for _, m := range got {
			if size >= feed.MaxReceive+9*each {
				t.Fatalf("%d messages of %d bytes in one call", len(got), each)
			}
			size += len(m.Body)
			seen[m.Body[0]] = len(m.Body) == each
		}
	}
	if len(seen) != n {
		t.Errorf("received %d of %d", len(seen), n)
	}
}

func limited(t *testing.T, src feed.Source, send func([]byte)) {
	for range 5 {
		send([]byte("m"))
	}
	got, err := src.Receive(t.Context(), 2, time.Second)
	if err != nil || len(got) == 0 || len(got) > 2 {
		t.Fatalf("Receive(2) = %d, %v", len(got), err)
	}
	take(t, src, 5-len(got))
	none(t, src)
}

func leased(t *testing.T, src feed.Source, send func([]byte)) {
	send([]byte("m"))
	take(t, src, 1)
	none(t, src)
}

func cancelled(t *testing.T, src feed.Source, _ func([]byte)) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := src.Receive(ctx, 10, patience)
		done <- err
	}()
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Receive = %v, want context.Canceled", err)
		}
	case <-time.After(patience / 2):
		t.Error("Receive did not end with its context")
	}
}

func acked(t *testing.T, src feed.Source, send func([]byte)) {
	for i := range 25 { // more than one batch of any service
		send(fmt.Appendf(nil, "m%d", i))
	}
	all := take(t, src, 25)
	if err := src.Ack(t.Context(), handles(all)[:24]); err != nil {
		t.Fatal(err)
	}
	if err := src.Extend(t.Context(), handles(all)[24:], 0); err != nil {
		t.Fatal(err)
	}
	if left := take(t, src, 1); string(left[0].Body) != string(all[24].Body) {
		t.Errorf("left %q, want %q", left[0].Body, all[24].Body)
	}
	none(t, src)
}

func ackedTwice(t *testing.T, src feed.Source, send func([]byte)) {
	send([]byte("m"))
	all := take(t, src, 1)
	for range 2 {
		if err := src.Ack(t.Context(), handles(all)); err != nil {
			t.Fatal(err)
		}
	}
	if err := src.Extend(t.Context(), handles(all), 0); err != nil {
		t.Fatal(err)
	}
	none(t, src)
}

func givenBack(t *testing.T, src feed.Source, send func([]byte)) {
	send([]byte("m"))
	first := take(t, src, 1)
	if err := src.Extend(t.Context(), handles(first), 0); err != nil {
		t.Fatal(err)
	}
	again := take(t, src, 1)
	if string(again[0].Body) != "m" || first[0].Receipts > 0 && again[0].Receipts != first[0].Receipts+1 {
		t.Errorf("again %+v after %+v", again[0], first[0])
	}
}

func oldHandle(t *testing.T, src feed.Source, send func([]byte)) {
	send([]byte("m"))
	first := take(t, src, 1)
	if err := src.Extend(t.Context(), handles(first), 0); err != nil {
		t.Fatal(err)
	}
	take(t, src, 1)
	if err := src.Extend(t.Context(), handles(first), 0); err != nil {
		t.Fatal(err)
	}
	none(t, src) // it is leased to the second receipt
}

func concurrent(t *testing.T, src feed.Source, send func([]byte)) {
	const n, workers = 100, 8
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				got, err := src.Receive(ctx, 10, briefly)
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				for _, m := range got {
					seen[string(m.Body)]++
				}
				done := len(seen) == n
				mu.Unlock()
				if err := src.Ack(ctx, handles(got)); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				if done {
					cancel()
				}
			}
		})
	}
	for i := range n {
		send(fmt.Appendf(nil, "m%d", i))
	}
	wg.Wait()
	if len(seen) != n {
		t.Errorf("received %d different messages, want %d", len(seen), n)
	}
	for body, times := range seen {
		if times != 1 {
			t.Errorf("%s was received %d times", body, times)
		}
	}
}

func backlog(t *testing.T, src feed.Source, send func([]byte)) {
	if b, err := src.Backlog(t.Context()); err != nil || b.Messages != 0 || !b.Oldest.IsZero() {
		t.Fatalf("Backlog of an empty feed = %+v, %v", b, err)
	}
	for range 3 {
		send([]byte("m"))
	}
	all := take(t, src, 1)
	if b, err := src.Backlog(t.Context()); err != nil || b.Messages != 3 {
		t.Errorf("Backlog = %+v, %v, want 3 messages", b, err)
	}
	if err := src.Ack(t.Context(), handles(all)); err != nil {
		t.Fatal(err)
	}
	if b, err := src.Backlog(t.Context()); err != nil || b.Messages != 2 {
		t.Errorf("Backlog = %+v, %v, want 2 messages", b, err)
	}
}
