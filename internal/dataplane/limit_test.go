// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"panal/internal/dataplane"
	"panal/internal/plat"
)

const otherOrg = plat.OrgID("1480000000018")

// tenants is a gateway for two organizations with a deployment each; headers say who
// calls.
func tenants(t *testing.T, opt dataplane.Options, noisy, quiet dataplane.Instance) *httptest.Server {
	t.Helper()
	table := dataplane.NewTable()
	t.Cleanup(func() { table.Replace(dataplane.Snapshot{Version: 1 << 60}) })
	apply(t, table, 1, dataplane.Deployment{ID: "1", Org: org, Services: []dataplane.Service{serviceOf(svA, noisy), serviceOf(svB, noisy)}})
	apply(t, table, 1, dataplane.Deployment{ID: "2", Org: otherOrg, Services: []dataplane.Service{serviceOf(svA, quiet), serviceOf(svB)}})
	p := dataplane.NewProxy(table, opt)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := dataplane.Call{User: "1", RequestID: "req-1", Credential: r.Header.Get("Test-Token")}
		c.Service, c.Org, c.Deployment = svA, org, "1"
		if r.Header.Get("Test-Org") == "other" {
			c.Org, c.Deployment = otherOrg, "2"
		}
		if r.Header.Get("Test-Service") != "" {
			c.Service = plat.ServiceID(r.Header.Get("Test-Service"))
		}
		p.ServeCall(w, r, c)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.Start()
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

type limitedAnswer struct {
	status      int
	retry       string
	Code        string              `json:"error"`
	Description string              `json:"error_description"`
	Detail      map[string][]string `json:"error_detail"`
}

// as calls with the given headers, by pairs.
func as(ctx context.Context, t *testing.T, s *httptest.Server, headers ...string) limitedAnswer {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, strings.NewReader("x"))
	if err != nil {
		t.Error(err)
		return limitedAnswer{}
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		if ctx.Err() == nil {
			t.Error(err)
		}
		return limitedAnswer{}
	}
	defer resp.Body.Close()
	a := limitedAnswer{status: resp.StatusCode, retry: resp.Header.Get("Retry-After")}
	b, err := io.ReadAll(resp.Body)
	if err == nil && a.status != 200 {
		err = json.Unmarshal(b, &a)
	}
	if err != nil {
		t.Errorf("%d %s: %v", a.status, b, err)
	}
	return a
}

// is429 checks everything that a caller learns of a limit.
func is429(t *testing.T, a limitedAnswer, limit string) {
	t.Helper()
	wait, err := strconv.Atoi(a.retry)
	if a.status != 429 || a.Code != "too_many_requests" || err != nil || wait < 1 ||
		!strings.Contains(a.Description, limit) || len(a.Detail[limit]) != 1 {
		t.Errorf("answer = %+v, want 429 with Retry-After that names %s", a, limit)
	}
}

// TestLimits: each limit refuses what is over it, says which it is, and leaves what
// is not counted by it alone.
func TestLimits(t *testing.T) {
	slow := dataplane.Limit{Rate: 0.001} // one call, and the next in a quarter of an hour
	for _, c := range []struct {
		limit  string
		limits dataplane.Limits
		apart  []string // headers of a call that another meter counts
	}{
		{"token_rate", dataplane.Limits{Token: slow}, []string{"Test-Token", "b"}},
		{"organization_rate", dataplane.Limits{Org: slow}, []string{"Test-Org", "other"}},
		{"service_rate", dataplane.Limits{Service: slow}, []string{"Test-Service", string(svB)}},
	} {
		t.Run(c.limit, func(t *testing.T) {
			reg := newGauges(t)
			a, _ := upstream(t, 8, say("ok"))
			b, _ := upstream(t, 8, say("ok"))
			s := tenants(t, dataplane.Options{Limits: c.limits, Metrics: reg}, a, b)
			if a := as(t.Context(), t, s, "Test-Token", "a"); a.status != 200 {
				t.Errorf("the first call = %+v", a)
			}
			is429(t, as(t.Context(), t, s, "Test-Token", "a"), c.limit)
			if a := as(t.Context(), t, s, append([]string{"Test-Token", "a"}, c.apart...)...); a.status != 200 {
				t.Errorf("a call that is counted apart = %+v", a)
			}
		})
	}
	for _, c := range []struct {
		limit  string
		limits dataplane.Limits
		apart  []string
	}{
		{"token_concurrency", dataplane.Limits{Token: dataplane.Limit{Calls: 1}}, []string{"Test-Token", "b"}},
		{"organization_concurrency", dataplane.Limits{Org: dataplane.Limit{Calls: 1}}, []string{"Test-Org", "other"}},
		{"service_concurrency", dataplane.Limits{Service: dataplane.Limit{Calls: 1}}, []string{"Test-Service", string(svB)}},
		{"gateway_concurrency", dataplane.Limits{Calls: 2}, []string{"Test-Org", "other"}},
	} {
		t.Run(c.limit, func(t *testing.T) {
			release := make(chan struct{})
			var running atomic.Int64
			block := func(w http.ResponseWriter, r *http.Request) {
				if running.Add(1) == 1 {
					<-release
				}
				say("ok")(w, r)
			}
			a, _ := upstream(t, 8, block)
			b, _ := upstream(t, 8, block)
			s := tenants(t, dataplane.Options{Limits: c.limits}, a, b)
			first := make(chan limitedAnswer, 1)
			go func() { first <- as(t.Context(), t, s, "Test-Token", "a") }()
			eventually(t, "the first call runs", func() bool { return running.Load() == 1 })
			is429(t, as(t.Context(), t, s, "Test-Token", "a"), c.limit)
			if a := as(t.Context(), t, s, append([]string{"Test-Token", "a"}, c.apart...)...); a.status != 200 {
				t.Errorf("a call that is counted apart = %+v", a)
			}
			close(release)
			if a := <-first; a.status != 200 {
				t.Errorf("the first call = %+v", a)
			}
			eventually(t, "the call is counted out", func() bool { return as(t.Context(), t, s, "Test-Token", "a").status == 200 })
		})
	}
}

// TestServiceLimit: a service's own limit holds beside the one for all, of both the
// lower, and as it is now: it is set, changed and ended while calls go on, whose
// numbers are right all the while.
func TestServiceLimit(t *testing.T) {
	for _, all := range []dataplane.Limit{{}, {Calls: 3}} {
		table := dataplane.NewTable()
		t.Cleanup(func() { table.Replace(dataplane.Snapshot{Version: 1 << 60}) })
		release, running := make(chan struct{}), atomic.Int64{}
		in, _ := upstream(t, 16, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Test-Token") == "hold" {
				running.Add(1)
				<-release
			}
			say("ok")(w, r)
		})
		version := uint64(0)
		limit := func(l dataplane.Limit) {
			version++
			a, b := serviceOf(svA, in), serviceOf(svB, in)
			a.Limit = l
			apply(t, table, version, routes(svA, a, b))
		}
		s := server(t, dataplane.NewProxy(table, dataplane.Options{Limits: dataplane.Limits{Service: all}}))
		status := func(service plat.ServiceID) int {
			return as(t.Context(), t, s, "Test-Service", string(service)).status
		}
		limit(dataplane.Limit{Calls: 2})
		var held sync.WaitGroup
		hold := func() {
			n := running.Load()
			held.Go(func() {
				if a := as(t.Context(), t, s, "Test-Token", "hold"); a.status != 200 {
					t.Errorf("a held call = %+v", a)
				}
			})
			eventually(t, "the call runs", func() bool { return running.Load() == n+1 })
		}
		hold()
		hold()
		is429(t, as(t.Context(), t, s), "service_concurrency")
		if got := status(svB); got != 200 {
			t.Errorf("the other service = %d", got)
		}
		limit(dataplane.Limit{Calls: 5}) // changed: where all have 3, that is the lower
		hold()
		if got, want := status(svA), 200; all.Calls == 0 && got != want || all.Calls > 0 && got != 429 {
			t.Errorf("with 3 under way, a limit of 5 and one of %d for all: %d", all.Calls, got)
		}
		limit(dataplane.Limit{Rate: 0.001})
		if all.Calls == 0 {
			if got := status(svA); got != 200 { // the only one in a quarter of an hour
				t.Errorf("the first call = %d", got)
			}
			is429(t, as(t.Context(), t, s), "service_rate")
		}
		limit(dataplane.Limit{})
		close(release)
		held.Wait()
		limit(dataplane.Limit{Calls: 1})
		eventually(t, "the calls are counted out", func() bool { return status(svA) == 200 })
	}
}

// TestNoisyNeighbour: two organizations with the same share; one asks for ten times
// its own. The other one, within its share, has every call answered, and the noisy
// one still gets what is its.
func TestNoisyNeighbour(t *testing.T) {
	const rate, burst = 20, 40
	a, _ := upstream(t, 4, say("ok"))
	b, _ := upstream(t, 4, say("ok"))
	s := tenants(t, dataplane.Options{Limits: dataplane.Limits{Org: dataplane.Limit{Rate: rate}}}, a, b)
	start := time.Now()
	var served, refused atomic.Int64
	var noise sync.WaitGroup
	for range 10 {
		noise.Go(func() {
			for range burst {
				switch a := as(t.Context(), t, s); a.status {
				case 200:
					served.Add(1)
				case 429:
					refused.Add(1)
				default:
					t.Errorf("the noisy one got %+v", a)
				}
			}
		})
	}
	for i := range burst {
		if a := as(t.Context(), t, s, "Test-Org", "other"); a.status != 200 {
			t.Errorf("call %d of the quiet one = %+v", i, a)
		}
	}
	noise.Wait()
	most := burst + int64(rate*time.Since(start).Seconds()) + 1
	if n := served.Load(); n < burst || n > most || refused.Load() == 0 {
		t.Errorf("the noisy one: %d served, %d refused; want %d to %d served, the rest refused", n, refused.Load(), burst, most)
	}
}

// TestNoisyNeighbourWithoutLimits: nothing is configured but the bounds on everything,
// and the noisy one's instances answer nothing. It fills neither the gateway nor
// the queues: the quiet one's calls are all answered, and its waiting ones wait.
func TestNoisyNeighbourWithoutLimits(t *testing.T) {
	const room = 40
	stuck, ctx := make(chan struct{}), t.Context()
	a, _ := upstream(t, 2, func(http.ResponseWriter, *http.Request) { <-stuck })
	b, _ := upstream(t, 2, say("ok"))
	reg := newGauges(t)
	s := tenants(t, dataplane.Options{Metrics: reg, MaxHeldBytes: 8 * (16<<10 + 1), Limits: dataplane.Limits{Calls: room}}, a, b)
	t.Cleanup(func() { close(stuck) })
	ctx, cancel := context.WithCancel(ctx)
	var noise sync.WaitGroup
	var limited, full atomic.Int64
	for range 10 * room {
		noise.Go(func() {
			switch as(ctx, t, s).status {
			case 429:
				limited.Add(1)
			case 503:
				full.Add(1)
			}
		})
	}
	eventually(t, "the noisy one has all that it gets", func() bool {
		return reg.get("panal_gateway_held") == 4 && full.Load()+limited.Load() == 10*room-6
	})
	for i := range 3 * room {
		if a := as(ctx, t, s, "Test-Org", "other"); a.status != 200 {
			t.Errorf("call %d of the quiet one = %+v", i, a)
		}
	}
	// Its own service without instances: the call waits for one, as it would alone.
	noise.Go(func() { as(ctx, t, s, "Test-Org", "other", "Test-Service", string(svB)) })
	eventually(t, "the quiet one's call waits", func() bool { return reg.get("panal_gateway_held") == 5 })
	cancel()
	noise.Wait()
	eventually(t, "all are gone", func() bool {
		return reg.get("panal_gateway_held_bytes") == 0 && reg.get("panal_gateway_held") == 0
	})
}

// TestEndpointLimit: an alias' limit holds for calls that come by it, whichever service answers, and
// for no others; its meter goes on through changes of the routes, and its end is at once.
func TestEndpointLimit(t *testing.T) {
	table, gw := gateway(t, dataplane.Options{})
	hold, there := make(chan struct{}), make(chan struct{})
	in, _ := upstream(t, 8, func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); string(body) == "wait" {
			close(there)
			<-hold
		}
	})
	other, _ := upstream(t, 8, say("ok"))
	limited := func(version uint64, to plat.ServiceID, l dataplane.Limit) {
		d := routes(to, serviceOf(svA, in), serviceOf(svB, other))
		d.Limits = map[string]dataplane.Limit{"default": l}
		apply(t, table, version, d)
	}
	limited(1, svA, dataplane.Limit{Calls: 1})
	first := make(chan int, 1)
	go func() {
		status, _ := call(t, gw.Client(), "POST", gw.URL, "wait")
		first <- status
	}()
	post := func() (int, string) { return call(t, gw.Client(), "POST", gw.URL, "x") }
	<-there
	if status, body := post(); status != 429 || !strings.Contains(body, "endpoint_concurrency") {
		t.Errorf("over it: %d %s", status, body)
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", gw.URL, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Test-Service", string(svA))
	res, err := gw.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 200 {
		t.Errorf("not by the alias: %d", res.StatusCode)
	}
	limited(2, svB, dataplane.Limit{Calls: 1})
	if status, _ := post(); status != 429 {
		t.Errorf("after a switch: %d, though the first call is still under way", status)
	}
	limited(3, svB, dataplane.Limit{Calls: 2})
	if status, _ := post(); status != 200 {
		t.Errorf("with room: %d", status)
	}
	limited(4, svB, dataplane.Limit{})
	if status, _ := post(); status != 200 {
		t.Errorf("without a limit: %d", status)
	}
	close(hold)
	if status := <-first; status != 200 {
		t.Errorf("the call under way: %d", status)
	}
	limited(5, svB, dataplane.Limit{Rate: 0.001})
	statuses := map[int]int{}
	for range 5 {
		status, _ := post()
		statuses[status]++
	}
	if statuses[200] != 1 || statuses[429] != 4 {
		t.Errorf("a rate of one in a thousand seconds: %v", statuses)
	}
}
