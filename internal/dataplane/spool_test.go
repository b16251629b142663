// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"panal/internal/dataplane"
)

// counter says how long the body was.
func counter(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	_, _ = fmt.Fprint(w, n, err)
}

// metricOf reads a gauge.
func metricOf(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.GetName() == name {
			return m.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// endless is a body of n bytes of unknown length.
func endless(n int64) io.Reader { return io.LimitReader(letters{}, n) }

type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func post(t *testing.T, ctx context.Context, url string, body io.Reader) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
	if err != nil {
		t.Error(err)
		return 0, "", nil
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return 0, err.Error(), nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), resp.Header
}

// TestSleepingServiceTakesBodies: callers send whole bodies to a service without
// an instance, in flat memory; all are answered once there is one, and the disk is
// given back. One knock tells of all of them.
func TestSleepingServiceTakesBodies(t *testing.T) {
	reg := prometheus.NewRegistry()
	table, s := gateway(t, dataplane.Options{SpoolDir: t.TempDir(), MaxSpool: 512 << 20, Metrics: reg})
	apply(t, table, 1, routes(svA, serviceOf(svA)))
	const calls, size = 8, 20 << 20
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() {
			if status, body, _ := post(t, t.Context(), s.URL, endless(size)); status != 200 || body != fmt.Sprint(size, " <nil>") && body != fmt.Sprint(size, error(nil)) {
				t.Errorf("%d %q", status, body)
			}
		})
	}
	eventually(t, "all bodies are on disk", func() bool { return metricOf(t, reg, "panal_gateway_spooled_bytes") >= calls*size })
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("the heap grew by %d bytes for %d on disk", grown, calls*size)
	}
	<-table.Knocks()
	if ids := table.Knocked(); len(ids) != 1 || ids[0] != svA {
		t.Errorf("knocked: %v", ids)
	}
	if l, ok := table.Load(dep, svA); !ok || l.InFlight != calls || l.Waiting != calls || l.Arrivals != calls || l.CallSeconds <= 0 {
		t.Errorf("load %+v %v", l, ok)
	}
	in, _ := upstream(t, 4, counter)
	apply(t, table, 2, routes(svA, serviceOf(svA, in)))
	wg.Wait()
	eventually(t, "the disk is given back", func() bool { return metricOf(t, reg, "panal_gateway_spooled_bytes") == 0 })
	if l, _ := table.Load(dep, svA); l.InFlight != 0 {
		t.Errorf("load after all: %+v", l)
	}
}

// TestSpoolIsBounded: an organization alone gets half of the disk. A body that has no room waits in the caller, and
// comes through whole; a call that finds no room at all is refused and told when to
// come again.
func TestSpoolIsBounded(t *testing.T) {
	reg := prometheus.NewRegistry()
	table, s := gateway(t, dataplane.Options{SpoolDir: t.TempDir(), MaxSpool: 4 << 20, Metrics: reg})
	apply(t, table, 1, routes(svA, serviceOf(svA)))
	var wg sync.WaitGroup
	wg.Go(func() {
		if status, body, _ := post(t, t.Context(), s.URL, endless(9<<20)); status != 200 || !strings.HasPrefix(body, fmt.Sprint(9<<20)) {
			t.Errorf("%d %q", status, body)
		}
	})
	eventually(t, "the disk is full", func() bool { return metricOf(t, reg, "panal_gateway_spooled_bytes") == 2<<20 })
	status, body, h := post(t, t.Context(), s.URL, strings.NewReader(strings.Repeat("x", 40<<10)))
	if status != 503 || !strings.Contains(body, "too many bytes wait") || h.Get("Retry-After") == "" {
		t.Errorf("over the bound: %d %s %v", status, body, h)
	}
	in, _ := upstream(t, 4, counter)
	apply(t, table, 2, routes(svA, serviceOf(svA, in)))
	wg.Wait()
	eventually(t, "the disk is given back", func() bool { return metricOf(t, reg, "panal_gateway_spooled_bytes") == 0 })
}

// TestLeavingFreesThePlace: callers that leave while they wait, with their body sent
// or midway, free their place; those who stay too long are told so.
func TestLeavingFreesThePlace(t *testing.T) {
	reg := prometheus.NewRegistry()
	table, s := gateway(t, dataplane.Options{SpoolDir: t.TempDir(), MaxHeld: 2, Metrics: reg})
	apply(t, table, 1, routes(svA, serviceOf(svA)))
	ctx, leave := context.WithCancel(t.Context())
	midway, feed := io.Pipe()
	defer func() { _ = feed.Close() }()
	var wg sync.WaitGroup
	wg.Go(func() { post(t, ctx, s.URL, endless(1<<20)) })
	wg.Go(func() { post(t, ctx, s.URL, midway) })
	go func() { _, _ = feed.Write(make([]byte, 100)) }()
	eventually(t, "both wait", func() bool { l, _ := table.Load(dep, svA); return l.Waiting == 2 })
	status, body, h := post(t, t.Context(), s.URL, strings.NewReader("x"))
	if status != 503 || h.Get("Retry-After") == "" {
		t.Errorf("a third: %d %s %v", status, body, h)
	}
	leave()
	_ = feed.CloseWithError(io.ErrUnexpectedEOF) // the transport waits for the body it sends
	wg.Wait()
	eventually(t, "both places are free", func() bool { l, _ := table.Load(dep, svA); return l.InFlight == 0 })
	eventually(t, "the disk is free", func() bool { return metricOf(t, reg, "panal_gateway_spooled_bytes") == 0 })

	table2, s2 := gateway(t, dataplane.Options{SpoolDir: t.TempDir(), Hold: 50 * time.Millisecond})
	apply(t, table2, 1, routes(svA, serviceOf(svA)))
	status, body, h = post(t, t.Context(), s2.URL, endless(1<<20))
	if status != 503 || !strings.Contains(body, "became ready in time") || h.Get("Retry-After") == "" {
		t.Errorf("too long: %d %s %v", status, body, h)
	}
}

// TestWaitingUploadsHoldUpNoOther: by HTTP/2 calls share a connection and its window.
// Those that wait for a busy instance leave it to the one that the instance reads:
// their bodies are taken, or they are refused where the disk has no room.
func TestWaitingUploadsHoldUpNoOther(t *testing.T) {
	for _, room := range []int64{512 << 20, 4 << 20, 1} {
		reg := prometheus.NewRegistry()
		table, plain := gateway(t, dataplane.Options{SpoolDir: t.TempDir(), MaxSpool: room, Metrics: reg})
		s := httptest.NewUnstartedServer(plain.Config.Handler)
		s.EnableHTTP2 = true
		s.StartTLS()
		t.Cleanup(s.Close)
		in, _ := upstream(t, 1, counter)
		apply(t, table, 1, routes(svA, serviceOf(svA, in)))
		const size, waiting = 6 << 20, 3 // longer than the window
		upload := func(body io.Reader, want string) {
			resp, err := s.Client().Post(s.URL, "a/b", body)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			if got := fmt.Sprintf("%s %d %s", resp.Proto, resp.StatusCode, b); !strings.HasPrefix(got, want) {
				t.Errorf("%d bytes of room: %s, want %s", room, got, want)
			}
		}
		answered := fmt.Sprint("HTTP/2.0 200 ", size)
		first, feed := io.Pipe()
		var one, others sync.WaitGroup
		one.Go(func() { upload(first, answered) })
		_, _ = feed.Write([]byte("x"))
		eventually(t, "the instance is taken", func() bool { l, _ := table.Load(dep, svA); return l.InFlight == 1 })
		for range waiting {
			others.Go(func() {
				if room > waiting*size {
					upload(endless(size), answered)
				} else {
					upload(endless(size), `HTTP/2.0 503 {"error":"service_unavailable","error_description":"too many bytes wait`)
				}
			})
		}
		if room > waiting*size {
			eventually(t, "their bodies are taken", func() bool { return metricOf(t, reg, "panal_gateway_spooled_bytes") >= waiting*size })
		} else {
			others.Wait()
		}
		_, _ = feed.Write(make([]byte, size-1))
		_ = feed.Close()
		one.Wait()
		others.Wait()
		eventually(t, "the disk is given back", func() bool { return metricOf(t, reg, "panal_gateway_spooled_bytes") == 0 })
	}
}
