// SPDX-License-Identifier: Apache-2.0

package api

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/dataplane"
	"panal/internal/deploy"
	"panal/internal/plat"
)

// TestExplain: what the rarer states read like; e2e/testdata/script/why.txtar has the rest.
func TestExplain(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	ready := deploy.Service{ID: "ser-1", Status: deploy.Ready, Number: 2, Min: 2, Max: 2, Generation: 2, ReadyGeneration: 2}
	instance := func(id plat.WorkloadID, h deploy.Health, state deploy.InstanceState) deploy.Seen {
		return deploy.Seen{Instance: deploy.Instance{Workload: id, State: state, CreatedAt: now.Add(-90 * time.Second)}, Health: h, Current: true}
	}
	two := []deploy.Seen{instance("wl-1", deploy.Taking, deploy.InstanceUp), instance("wl-2", deploy.Taking, deploy.InstanceUp)}
	with := func(change func(s *deploy.Service)) deploy.Service {
		s := ready
		change(&s)
		return s
	}
	for _, c := range []struct {
		what string
		f    facts
		want []string // the last but those of the endpoints
	}{
		{"stopped", facts{service: with(func(s *deploy.Service) { s.Status = deploy.Stopped })}, []string{
			"It is STOPPED: its requests get 503 until it is started.",
		}},
		{"a crash loop", facts{
			service: with(func(s *deploy.Service) {
				s.Status, s.StatusMessage = deploy.InProgress, "an instance ended\nTraceback"
				s.Failures, s.RetryAt = 4, now.Add(4*time.Second)
			}),
			instances: two[:1],
			ends:      []deploy.End{{Workload: "wl-3", At: now.Add(-time.Second), Lived: 3 * time.Minute, ExitCode: 137, Reason: "killed: memory limit\nlast line"}},
		}, []string{
			"It is IN_PROGRESS: 1 of 2 instances take requests. An instance ended",
			"Its instances failed 4 times in a row; the next one starts in 4s.",
			"Instance wl-3 was killed (signal 9) 1s ago, after 3m0s: killed: memory limit",
		}},
		{"a back-off of a clock that was set back", facts{
			service: with(func(s *deploy.Service) { s.Failures, s.RetryAt = 4, now.Add(5*time.Hour) }), instances: two[:1],
		}, []string{"It is READY: 1 of 2 instances take requests."}},
		{"a hung instance", facts{
			service:   ready,
			instances: []deploy.Seen{two[0], instance("wl-2", deploy.Unhealthy, deploy.InstanceUp)},
			ends:      []deploy.End{{Workload: "wl-0", At: now.Add(-time.Hour), Lived: time.Minute, ExitCode: -1, Reason: "it failed its health check for 1m0s"}},
		}, []string{
			"It is READY: 1 of 2 instances take requests.",
			"Instance wl-2 does not answer its health check; it gets no requests, and is replaced if that goes on.",
			"Instance wl-0 was ended 1h0m0s ago, after 1m0s: it failed its health check for 1m0s",
		}},
		{"a roll", facts{
			service:   with(func(s *deploy.Service) { s.Status, s.ReadyGeneration = deploy.InProgress, 1 }),
			instances: []deploy.Seen{two[0], instance("wl-2", deploy.Draining, deploy.InstanceDraining), instance("wl-3", deploy.Starting, deploy.InstanceUp), instance("wl-4", deploy.Stopping, deploy.InstanceStopping)},
		}, []string{
			"It is IN_PROGRESS: 1 of 2 instances take requests.",
			"A change is being rolled out: instances of generation 2 take the place of older ones, one at a time.",
			"Instance wl-2 gets no new requests and ends when those it has are answered.",
			"Instance wl-3 has been starting for 1m30s: it fetches its code, prepares its environment, or starts up.",
			"Instance wl-4 was told to end.",
		}},
		{"busy, one left out", facts{
			service: ready, instances: two, traffic: ServiceTraffic{InFlight: 2, Waiting: 5}, window: 30 * time.Second,
			look: dataplane.Look{
				Instances: []dataplane.InstanceLook{{ID: "wl-1", InFlight: 2}, {ID: "wl-2", Refusals: 3, SkippedUntil: now.Add(200 * time.Millisecond)}},
				Turned:    map[string]int{"token_rate": 2, "organization_concurrency": 1},
			},
		}, []string{
			"It is READY: 2 of 2 instances take requests.",
			"Instance wl-2 could not be reached 3 times in a row and gets no requests for 200ms.",
			"5 requests wait for an instance: its 2 instances are busy with 2 requests.",
			"The limit organization_concurrency turned 1 request away (429) in the last minutes.",
			"The limit token_rate turned 2 requests away (429) in the last minutes.",
		}},
		{"failing, suspect and new ones", facts{
			service: ready, instances: two,
			look: dataplane.Look{Instances: []dataplane.InstanceLook{
				{ID: "wl-1", Failures: 4, SkippedUntil: now.Add(2 * time.Second)}, {ID: "wl-2", InFlight: 1, Failures: 1, Suspect: true, Share: .25},
			}},
		}, []string{
			"It is READY: 2 of 2 instances take requests.",
			"Instance wl-1 gave no answer to 4 requests in a row (it broke off, answered nonsense, or not in time) and gets none for 2s.",
			"Instance wl-2 gave no answer to its last 1 request (it broke off, answered nonsense, or not in time).",
			"Instance wl-2 fails its health check while it works on 1 request: it gets no others while an instance is well.",
			"Instance wl-2 is new: it gets 25 % of its share of the requests, and more from moment to moment.",
		}},
		{"scaled", facts{
			service: with(func(s *deploy.Service) {
				s.Autoscale, s.Desired, s.Max, s.ScaledAt, s.ScaleMessage = true, 3, 4, now.Add(-time.Minute), "2.00 requests at a time"
			}),
			instances: two,
			room:      plat.Errorf(plat.ErrExhausted, "waiting for CPU"),
		}, []string{
			"It is READY: 2 of 3 instances take requests.",
			"There is no room for another instance: waiting for CPU.",
			"The scaler has wanted 3 instances (of 2 to 4) for 1m0s: 2.00 requests at a time.",
		}},
		{"too large for the machine", facts{
			service: with(func(s *deploy.Service) { s.Status, s.StatusMessage = deploy.InProgress, "" }),
			room:    plat.Errorf(plat.ErrInvalid, "memory: 99 GiB are needed"),
		}, []string{
			"It is IN_PROGRESS: 0 of 2 instances take requests.",
			"There never is room for an instance: memory: 99 GiB are needed.",
		}},
	} {
		c.f.now = now
		got := slices.DeleteFunc(c.f.explain(), func(s string) bool { return strings.HasPrefix(s, "No endpoint points to it") })
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.what, d)
		}
	}

	f := facts{now: now, service: ready, endpoints: []deploy.Endpoint{
		{Alias: "all", Service: "ser-1"},
		{Alias: "part", Service: "ser-2", Split: []deploy.Part{{Service: "ser-2", Weight: 70}, {Service: "ser-1", Weight: 30}}},
		{Alias: "soon", Service: "ser-2", Pending: "ser-1"},
	}}
	want := []string{"Endpoint all sends its requests here.", "Endpoint part sends 30 % of its requests here.", "Endpoint soon switches to it once it is READY."}
	if d := cmp.Diff(want, f.explainEndpoints()); d != "" {
		t.Errorf("endpoints (-want +got):\n%s", d)
	}
}
