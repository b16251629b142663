// SPDX-License-Identifier: Apache-2.0

// Package deploytest is the suite that every deploy.Store passes: each sentence
// of the contract is a named subtest.
package deploytest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"panal/internal/deploy"
	"panal/internal/outbox"
	"panal/internal/plat"
)

// Harness is what a subtest gets: an empty store, an organization that exists in
// it, and the events of its database.
type Harness struct {
	Store  deploy.Store
	Org    plat.OrgID
	Events outbox.Log
}

// Run runs the suite; fresh returns a harness over an empty store.
func Run(t *testing.T, fresh func(t *testing.T) Harness) {
	for _, c := range []struct {
		name  string
		check func(*testing.T, Harness)
	}{
		{"Deployment/round_trip_and_lookup_by_organization", deployments},
		{"Deployment/delete_is_refused_while_it_has_services", deploymentDelete},
		{"Version/label_is_unique_in_the_deployment", versions},
		{"Version/delete_is_refused_while_a_service_uses_it", versionDelete},
		{"Service/round_trip", services},
		{"Service/changes_only_along_the_state_machine", transitions},
		{"Service/every_transition_is_an_event", events},
		{"Service/concurrent_updates_are_not_lost", concurrent},
		{"Service/an_error_of_change_stores_nothing", refused},
		{"Service/delete_is_refused_while_an_endpoint_uses_it", serviceDelete},
		{"Service/of_model", serviceOfModel},
		{"Service/of_a_command", commands},
		{"Instance/outlives_its_service", instances},
		{"Endpoint/alias_is_unique_and_found_by_either_name", endpoints},
		{"Endpoint/target_must_be_of_the_deployment", endpointTarget},
		{"Endpoint/a_pending_switch_takes_effect_with_READY", pendingReady},
		{"Endpoint/a_pending_switch_is_dropped_with_FAILED", pendingFailed},
		{"Endpoint/a_switch_and_READY_at_once_never_leave_it_waiting", pendingRace},
		{"Endpoint/history", history},
		{"Endpoint/split", split},
		{"Service/of_an_organization", orgServices},
		{"Routed/says_of_a_deployment_what_its_records_say", routed},
		{"Routed/pages_cover_everything_once", routedPages},
		{"Async/first_result_stays", asyncFinish},
		{"Async/limit_and_lists", asyncLists},
		{"Async/recorded", asyncRecord},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t, fresh(t)) })
	}
}

func at(n int) time.Time { return time.UnixMicro(1_770_000_000_000_000 + int64(n)).UTC() }

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func get[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		ok(t, err)
		return v
	}
}

func isKind(t *testing.T, what string, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s = %v, want %v", what, err, kind)
	}
}

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func (h Harness) deployment(t *testing.T, n int) deploy.Deployment {
	t.Helper()
	d := deploy.Deployment{
		ID: plat.DeploymentID(plat.NewDecimalID()), Org: h.Org, Name: "leaf", Description: "ä", Environment: map[string]string{"A": "1"},
		Creator: "1650000000031", CreatedAt: at(n), ModifiedAt: at(n + 1),
	}
	ok(t, h.Store.CreateDeployment(t.Context(), d))
	return d
}

func (h Harness) version(t *testing.T, d deploy.Deployment, label string) deploy.Version {
	t.Helper()
	v := deploy.Version{
		Git: plat.Git{URL: "https://git.example.com/x", Ref: "v1", Commit: "c0ffee"},
		ID:  plat.VersionID(plat.NewHexID("ver")), Org: d.Org, Deployment: d.ID, Label: label, Handler: "main:handler",
		Image: "abeja-inc/all-cpu:19.10", Environment: map[string]string{"B": ""}, Description: "x", Creator: "1650000000031",
		CreatedAt: at(1), ModifiedAt: at(1),
	}
	ok(t, h.Store.CreateVersion(t.Context(), v))
	return v
}

func (h Harness) service(t *testing.T, v deploy.Version, n int) deploy.Service {
	t.Helper()
	s := deploy.Service{
		ID: plat.ServiceID(plat.NewHexID("ser")), Org: v.Org, Deployment: v.Deployment, Version: v.ID, VersionLabel: v.Label,
		Models: map[string]plat.ModelID{"alias": "1720000000055"}, Status: deploy.InProgress, StatusMessage: "waiting", InstanceType: "cpu-0.25",
		Number: 2, Min: 1, Max: 4, Autoscale: true, RecordChannel: "1590000000099", Environment: map[string]string{"C": "3"},
		Merged: map[string]string{"A": "1", "B": "", "C": "3"}, Creator: "1650000000031", CreatedAt: at(n), ModifiedAt: at(n),
		Generation: 1, Target: 0.75, IdleTimeout: 1500 * time.Millisecond, Desired: 3, ScaledAt: at(n), ScaleMessage: "so", RecordOutputs: true, RateLimit: 2.5, CallLimit: 7,
	}
	ok(t, h.Store.CreateService(t.Context(), s))
	return s
}

func (h Harness) become(t *testing.T, id plat.ServiceID, path ...deploy.Status) deploy.Service {
	t.Helper()
	var s deploy.Service
	for _, next := range path {
		s = get(h.Store.UpdateService(t.Context(), id, func(s *deploy.Service) error {
			s.Status, s.ModifiedAt = next, s.ModifiedAt.Add(time.Second)
			return nil
		}))(t)
	}
	return s
}

func always(deploy.Service) error { return nil }

func (h Harness) endpoint(t *testing.T, s deploy.Service, alias string) deploy.Endpoint {
	t.Helper()
	e := deploy.Endpoint{
		ID: plat.EndpointID(plat.NewHexID("pnt")), Org: s.Org, Deployment: s.Deployment, Alias: alias, Service: s.ID, CreatedAt: at(5), ModifiedAt: at(5),
		RateLimit: 1.5, CallLimit: 9,
	}
	ok(t, h.Store.CreateEndpoint(t.Context(), e, "1650000000031", always))
	return e
}

func deployments(t *testing.T, h Harness) {
	ctx, a, b := t.Context(), h.deployment(t, 2), h.deployment(t, 1)
	same(t, "Deployment", a, get(h.Store.Deployment(ctx, h.Org, a.ID))(t))
	same(t, "Deployments, oldest first", []deploy.Deployment{b, a}, get(h.Store.Deployments(ctx, h.Org))(t))
	_, err := h.Store.Deployment(ctx, "1000000000000", a.ID)
	isKind(t, "another organization's deployment", err, plat.ErrNotFound)
	_, err = h.Store.UpdateDeployment(ctx, "1000000000000", a.ID, func(*deploy.Deployment) error { return nil })
	isKind(t, "another organization's update", err, plat.ErrNotFound)
	a.Name, a.Description, a.Environment, a.ModifiedAt = "new", "", map[string]string{"Z": "z"}, at(9)
	same(t, "UpdateDeployment", a, get(h.Store.UpdateDeployment(ctx, h.Org, a.ID, func(d *deploy.Deployment) error {
		d.Name, d.Description, d.Environment, d.ModifiedAt = a.Name, a.Description, a.Environment, a.ModifiedAt
		return nil
	}))(t))
	same(t, "after it", a, get(h.Store.Deployment(ctx, h.Org, a.ID))(t))
}

func deploymentDelete(t *testing.T, h Harness) {
	ctx, d := t.Context(), h.deployment(t, 1)
	v := h.version(t, d, "1")
	s := h.service(t, v, 1)
	_, err := h.Store.DeleteDeployment(ctx, h.Org, d.ID)
	isKind(t, "delete with a service", err, plat.ErrConflict)
	if err == nil || !strings.Contains(err.Error(), string(s.ID)) {
		t.Errorf("%v does not name %s", err, s.ID)
	}
	ok(t, h.Store.DeleteService(ctx, s.ID))
	same(t, "deleted versions", []deploy.Version{v}, get(h.Store.DeleteDeployment(ctx, h.Org, d.ID))(t))
	_, err = h.Store.DeleteDeployment(ctx, h.Org, d.ID)
	isKind(t, "second delete", err, plat.ErrNotFound)
	isKind(t, "version of a deleted deployment", h.Store.CreateVersion(ctx, v), plat.ErrNotFound)
}

func versions(t *testing.T, h Harness) {
	ctx, d, other := t.Context(), h.deployment(t, 1), h.deployment(t, 2)
	v := h.version(t, d, "0.0.1")
	w := h.version(t, d, "0.0.2")
	h.version(t, other, "0.0.1") // another deployment's label does not count
	same(t, "Version", v, get(h.Store.Version(ctx, d.ID, v.ID))(t))
	if got := get(h.Store.Versions(ctx, d.ID))(t); len(got) != 2 {
		t.Errorf("Versions = %v", got)
	}
	w.ID, w.Label = plat.VersionID(plat.NewHexID("ver")), "0.0.1"
	isKind(t, "second 0.0.1", h.Store.CreateVersion(ctx, w), plat.ErrExists)
	_, err := h.Store.Version(ctx, other.ID, v.ID)
	isKind(t, "version of another deployment", err, plat.ErrNotFound)
}

func versionDelete(t *testing.T, h Harness) {
	ctx, d, other := t.Context(), h.deployment(t, 1), h.deployment(t, 2)
	v := h.version(t, d, "1")
	s := h.service(t, v, 1)
	err := h.Store.DeleteVersion(ctx, d.ID, v.ID)
	isKind(t, "delete of a used version", err, plat.ErrConflict)
	if err == nil || !strings.Contains(err.Error(), string(s.ID)) {
		t.Errorf("%v does not name %s", err, s.ID)
	}
	ok(t, h.Store.DeleteService(ctx, s.ID))
	isKind(t, "delete through another deployment", h.Store.DeleteVersion(ctx, other.ID, v.ID), plat.ErrNotFound)
	ok(t, h.Store.DeleteVersion(ctx, d.ID, v.ID))
	isKind(t, "second delete", h.Store.DeleteVersion(ctx, d.ID, v.ID), plat.ErrNotFound)
	isKind(t, "service of a deleted version", h.Store.CreateService(ctx, s), plat.ErrNotFound)
}

// commands: a version keeps the words of its command, and services of such
// versions are found.
func commands(t *testing.T, h Harness) {
	ctx, d := t.Context(), h.deployment(t, 1)
	v := h.version(t, d, "1")
	plain := h.service(t, v, 1)
	if got := get(h.Store.CommandServices(ctx, 5))(t); len(got) != 0 {
		t.Errorf("CommandServices without one = %v", got)
	}
	v.ID, v.Label = plat.VersionID(plat.NewHexID("ver")), "2"
	v.Command, v.HealthPath = []string{"./server", "--port=$PORT", "", "ä \"b\""}, "/v2/health/ready"
	ok(t, h.Store.CreateVersion(ctx, v))
	same(t, "Version", v, get(h.Store.Version(ctx, d.ID, v.ID))(t))
	s := plain
	s.ID, s.Version, s.VersionLabel, s.Command = plat.ServiceID(plat.NewHexID("ser")), v.ID, v.Label, true
	ok(t, h.Store.CreateService(ctx, s))
	same(t, "Service", s, get(h.Store.Service(ctx, s.ID))(t))
	s.ModifiedAt = at(9)
	same(t, "updated service", s, get(h.Store.UpdateService(ctx, s.ID, func(c *deploy.Service) error { c.ModifiedAt = at(9); return nil }))(t))
	same(t, "CommandServices", []plat.ServiceID{s.ID}, get(h.Store.CommandServices(ctx, 5))(t))
	if got := get(h.Store.CommandServices(ctx, 0))(t); len(got) != 0 {
		t.Errorf("CommandServices of at most 0 = %v", got)
	}
}

func services(t *testing.T, h Harness) {
	ctx, d := t.Context(), h.deployment(t, 1)
	v := h.version(t, d, "1")
	a, b := h.service(t, v, 2), h.service(t, v, 1)
	same(t, "Service", a, get(h.Store.Service(ctx, a.ID))(t))
	same(t, "Services", []deploy.Service{b, a}, get(h.Store.Services(ctx, d.ID))(t))
	same(t, "all Services", []deploy.Service{b, a}, get(h.Store.Services(ctx, ""))(t))
	same(t, "another deployment's", []deploy.Service{}, get(h.Store.Services(ctx, "1000000000000"))(t))
	_, err := h.Store.Service(ctx, "ser-0000000000000000")
	isKind(t, "unknown service", err, plat.ErrNotFound)
	want := a
	want.Models, want.Status, want.StatusMessage, want.InstanceType = map[string]plat.ModelID{}, deploy.Failed, "boom\nTraceback", "cpu-1"
	want.Number, want.Min, want.Max, want.Autoscale, want.RecordChannel = 3, 2, 6, false, ""
	want.Environment, want.Merged, want.ModifiedAt = map[string]string{}, map[string]string{"A": "1"}, at(50)
	want.Generation, want.ReadyGeneration, want.Failures, want.LastFailure, want.RetryAt = 4, 3, 2, at(40), at(60)
	want.Target, want.IdleTimeout, want.Desired, want.ScaledAt, want.ScaleMessage, want.RecordOutputs, want.RateLimit, want.CallLimit = 0, 0, 0, at(70), "", false, 0, 0
	same(t, "UpdateService", want, get(h.Store.UpdateService(ctx, a.ID, func(s *deploy.Service) error { *s = want; return nil }))(t))
	same(t, "after it", want, get(h.Store.Service(ctx, a.ID))(t))
	same(t, "ServiceCounts", map[deploy.Status]int{deploy.Failed: 1, b.Status: 1}, get(h.Store.ServiceCounts(ctx))(t))
}

// transitions walks the state machine at random: what the table has is stored,
// what it lacks is refused and changes nothing.
func transitions(t *testing.T, h Harness) {
	v := h.version(t, h.deployment(t, 1), "1")
	all := []deploy.Status{deploy.InProgress, deploy.Ready, deploy.Failed, deploy.Stopped}
	rapid.Check(t, func(r *rapid.T) {
		s := h.service(t, v, 1)
		now := s.Status
		for range rapid.IntRange(1, 6).Draw(r, "steps") {
			next := rapid.SampledFrom(all).Draw(r, "next")
			_, err := h.Store.UpdateService(t.Context(), s.ID, func(s *deploy.Service) error { s.Status = next; return nil })
			if legal := now == next || now.CanBecome(next); legal != (err == nil) || !legal && !errors.Is(err, plat.ErrConflict) {
				r.Fatalf("%s → %s = %v", now, next, err)
			} else if legal {
				now = next
			}
			if got := get(h.Store.Service(t.Context(), s.ID))(t).Status; got != now {
				r.Fatalf("status is %s, want %s", got, now)
			}
		}
	})
}

func events(t *testing.T, h Harness) {
	s := h.service(t, h.version(t, h.deployment(t, 1), "1"), 1)
	h.become(t, s.ID, deploy.Ready, deploy.InProgress, deploy.Failed, deploy.Stopped)
	ok(t, h.Store.DeleteService(t.Context(), s.ID))
	want := []string{"created", "READY", "IN_PROGRESS", "FAILED", "STOPPED", "deleted"}
	var got []string
	for deadline := time.Now().Add(20 * time.Second); len(got) < len(want) && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		got = nil
		for _, e := range get(h.Events.Read(t.Context(), deploy.TopicService, outbox.Cursor{}, 100))(t) {
			if e.Subject == string(s.ID) {
				got = append(got, e.What)
			}
		}
	}
	same(t, "events", want, got)
}

func concurrent(t *testing.T, h Harness) {
	s := h.service(t, h.version(t, h.deployment(t, 1), "1"), 1)
	var wg sync.WaitGroup
	const n = 8
	for range n {
		wg.Go(func() {
			for range 5 {
				if _, err := h.Store.UpdateService(t.Context(), s.ID, func(s *deploy.Service) error { s.Failures++; return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := get(h.Store.Service(t.Context(), s.ID))(t).Failures; got != 5*n {
		t.Errorf("%d of %d updates are there", got, 5*n)
	}
}

func refused(t *testing.T, h Harness) {
	s, boom := h.service(t, h.version(t, h.deployment(t, 1), "1"), 1), errors.New("boom")
	_, err := h.Store.UpdateService(t.Context(), s.ID, func(s *deploy.Service) error { s.Number = 9; return boom })
	isKind(t, "UpdateService", err, boom)
	same(t, "after it", s, get(h.Store.Service(t.Context(), s.ID))(t))
}

func orgServices(t *testing.T, h Harness) {
	ctx, v := t.Context(), h.version(t, h.deployment(t, 1), "1")
	a, b, c := h.service(t, v, 1), h.service(t, v, 2), h.service(t, h.version(t, h.deployment(t, 2), "1"), 3)
	same(t, "newest first", []deploy.Service{c, b, a}, get(h.Store.OrgServices(ctx, a.Org, 10))(t))
	same(t, "limited", []deploy.Service{c, b}, get(h.Store.OrgServices(ctx, a.Org, 2))(t))
	same(t, "of another organization", []deploy.Service{}, get(h.Store.OrgServices(ctx, "1000000000000", 10))(t))
}

func serviceDelete(t *testing.T, h Harness) {
	ctx, v := t.Context(), h.version(t, h.deployment(t, 1), "1")
	a, b := h.service(t, v, 1), h.service(t, v, 2)
	e := h.endpoint(t, a, "default")
	h.pend(t, e, b)
	for _, s := range []deploy.Service{a, b} {
		err := h.Store.DeleteService(ctx, s.ID)
		isKind(t, "delete of a used service", err, plat.ErrConflict)
		if err == nil || !strings.Contains(err.Error(), "default") {
			t.Errorf("%v does not name the endpoint", err)
		}
	}
	get(h.Store.DeleteEndpoint(ctx, e.Deployment, "default", "u", at(200)))(t)
	ok(t, h.Store.DeleteService(ctx, a.ID))
	isKind(t, "second delete", h.Store.DeleteService(ctx, a.ID), plat.ErrNotFound)
}

func serviceOfModel(t *testing.T, h Harness) {
	ctx, s := t.Context(), h.service(t, h.version(t, h.deployment(t, 1), "1"), 1)
	same(t, "of its model", []plat.ServiceID{s.ID}, get(h.Store.ServicesOfModel(ctx, h.Org, "1720000000055"))(t))
	for _, id := range []plat.ModelID{"172000000005", "720000000055", "1720000000056", "%", "", "alias"} {
		if got := get(h.Store.ServicesOfModel(ctx, h.Org, id))(t); len(got) != 0 {
			t.Errorf("of model %q: %v", id, got)
		}
	}
}

func instances(t *testing.T, h Harness) {
	ctx, s := t.Context(), h.service(t, h.version(t, h.deployment(t, 1), "1"), 1)
	i := deploy.Instance{
		Workload: plat.WorkloadID(plat.NewHexID("wl")), Org: s.Org, Deployment: s.Deployment, Service: s.ID, Generation: 3, State: deploy.InstanceUp, CreatedAt: at(1),
	}
	ok(t, h.Store.CreateInstance(ctx, i))
	isKind(t, "second", h.Store.CreateInstance(ctx, i), plat.ErrExists)
	i.State, i.ReadyAt = deploy.InstanceDraining, at(7)
	ok(t, h.Store.UpdateInstance(ctx, i))
	ok(t, h.Store.DeleteService(ctx, s.ID))
	same(t, "Instances of the deleted service", []deploy.Instance{i}, get(h.Store.Instances(ctx, s.ID))(t))
	same(t, "Instance", i, get(h.Store.Instance(ctx, i.Workload))(t))
	same(t, "CountInstances", int64(1), get(h.Store.CountInstances(ctx, i.Org))(t))
	same(t, "of another organization", int64(0), get(h.Store.CountInstances(ctx, "1000000000000"))(t))
	ok(t, h.Store.DeleteInstance(ctx, i.Workload))
	ok(t, h.Store.DeleteInstance(ctx, i.Workload))
	isKind(t, "update of a forgotten one", h.Store.UpdateInstance(ctx, i), plat.ErrNotFound)
	same(t, "none left", []deploy.Instance{}, get(h.Store.Instances(ctx, s.ID))(t))
	same(t, "none to count", int64(0), get(h.Store.CountInstances(ctx, i.Org))(t))
	_, err := h.Store.Instance(ctx, i.Workload)
	isKind(t, "a forgotten one", err, plat.ErrNotFound)
}

func endpoints(t *testing.T, h Harness) {
	ctx, s := t.Context(), h.service(t, h.version(t, h.deployment(t, 1), "1"), 1)
	e := h.endpoint(t, s, "default")
	for _, name := range []string{"default", string(e.ID)} {
		same(t, "Endpoint "+name, e, get(h.Store.Endpoint(ctx, e.Deployment, name))(t))
	}
	twin := e
	twin.ID = "pnt-0000000000000000"
	isKind(t, "second default", h.Store.CreateEndpoint(ctx, twin, "", always), plat.ErrExists)
	f := h.endpoint(t, s, "canary")
	if got := get(h.Store.Endpoints(ctx, e.Deployment))(t); len(got) != 2 {
		t.Errorf("Endpoints = %v", got)
	}
	if got := get(h.Store.Endpoints(ctx, ""))(t); len(got) != 2 {
		t.Errorf("all Endpoints = %v", got)
	}
	same(t, "deleted", f, get(h.Store.DeleteEndpoint(ctx, f.Deployment, string(f.ID), "u", at(200)))(t))
	_, err := h.Store.DeleteEndpoint(ctx, f.Deployment, "canary", "u", at(200))
	isKind(t, "second delete", err, plat.ErrNotFound)
	_, err = h.Store.Endpoint(ctx, "1000000000000", "default")
	isKind(t, "another deployment's", err, plat.ErrNotFound)
}

func endpointTarget(t *testing.T, h Harness) {
	ctx := t.Context()
	a, b := h.service(t, h.version(t, h.deployment(t, 1), "1"), 1), h.service(t, h.version(t, h.deployment(t, 2), "1"), 1)
	e := h.endpoint(t, a, "default")
	_, err := h.Store.UpdateEndpoint(ctx, e.Deployment, "default", []plat.ServiceID{b.ID}, func(*deploy.Endpoint, deploy.Service, []deploy.Service) (*deploy.Change, error) {
		t.Error("change was asked")
		return nil, nil
	})
	isKind(t, "switch to another deployment's service", err, plat.ErrNotFound)
	e.ID, e.Alias, e.Service = "pnt-0000000000000000", "x", b.ID
	isKind(t, "create on another deployment's service", h.Store.CreateEndpoint(ctx, e, "", always), plat.ErrNotFound)
	no := plat.Errorf(plat.ErrInvalid, "no")
	e.Service = a.ID
	isKind(t, "create that check refuses", h.Store.CreateEndpoint(ctx, e, "", func(deploy.Service) error { return no }), no)
	_, err = h.Store.Endpoint(ctx, e.Deployment, "x")
	isKind(t, "after it", err, plat.ErrNotFound)
}

// pend makes e wait for s.
func (h Harness) pend(t *testing.T, e deploy.Endpoint, s deploy.Service) {
	t.Helper()
	get(h.Store.UpdateEndpoint(t.Context(), e.Deployment, e.Alias, []plat.ServiceID{s.ID}, func(e *deploy.Endpoint, current deploy.Service, targets []deploy.Service) (*deploy.Change, error) {
		if current.ID != e.Service || len(targets) != 1 || targets[0].ID != s.ID {
			t.Errorf("change got current %s and targets %v", current.ID, targets)
		}
		e.Pending, e.PendingBy, e.StatusMessage, e.ModifiedAt = s.ID, "1650000000032", "waiting", at(20)
		return nil, nil
	}))(t)
}

func pendingReady(t *testing.T, h Harness) {
	ctx, v := t.Context(), h.version(t, h.deployment(t, 1), "1")
	a, b := h.service(t, v, 1), h.service(t, v, 2)
	e := h.endpoint(t, a, "default")
	h.pend(t, e, b)
	b = h.become(t, b.ID, deploy.Ready)
	e.Service, e.ModifiedAt = b.ID, b.ModifiedAt
	same(t, "endpoint", e, get(h.Store.Endpoint(ctx, e.Deployment, "default"))(t))
	same(t, "history", []deploy.Change{
		{Number: 2, Endpoint: e.ID, Kind: deploy.Switched, From: a.ID, To: b.ID, By: "1650000000032", At: b.ModifiedAt},
		{Number: 1, Endpoint: e.ID, Kind: deploy.Created, To: a.ID, By: "1650000000031", At: at(5)},
	}, get(h.Store.Changes(ctx, e.Deployment, "default", 0, 10))(t))
}

func pendingFailed(t *testing.T, h Harness) {
	ctx, v := t.Context(), h.version(t, h.deployment(t, 1), "1")
	a, b := h.service(t, v, 1), h.service(t, v, 2)
	e := h.endpoint(t, a, "default")
	h.pend(t, e, b)
	h.become(t, b.ID, deploy.InProgress) // no news
	if got := get(h.Store.Endpoint(ctx, e.Deployment, "default"))(t); got.Pending != b.ID {
		t.Errorf("pending = %q before the end", got.Pending)
	}
	h.become(t, b.ID, deploy.Failed)
	got := get(h.Store.Endpoint(ctx, e.Deployment, "default"))(t)
	if got.Service != a.ID || got.Pending != "" || !strings.Contains(got.StatusMessage, string(b.ID)+" did not happen") {
		t.Errorf("endpoint = %+v", got)
	}
	h.become(t, b.ID, deploy.InProgress, deploy.Ready)
	if got := get(h.Store.Endpoint(ctx, e.Deployment, "default"))(t); got.Service != a.ID {
		t.Error("a switch that was given up happened after all")
	}
}

// pendingRace switches while the target becomes READY: whoever is first, the
// endpoint ends on the target.
func pendingRace(t *testing.T, h Harness) {
	ctx, v := t.Context(), h.version(t, h.deployment(t, 1), "1")
	for n := range 10 {
		a, b := h.service(t, v, 1), h.service(t, v, 2)
		e := h.endpoint(t, a, fmt.Sprintf("alias-%d", n))
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := h.Store.UpdateService(ctx, b.ID, func(s *deploy.Service) error { s.Status = deploy.Ready; return nil })
			if err != nil {
				t.Error(err)
			}
		})
		_, err := h.Store.UpdateEndpoint(ctx, e.Deployment, e.Alias, []plat.ServiceID{b.ID}, func(e *deploy.Endpoint, _ deploy.Service, targets []deploy.Service) (*deploy.Change, error) {
			if targets[0].Status == deploy.Ready {
				e.Service = b.ID
			} else {
				e.Pending = b.ID
			}
			return nil, nil
		})
		ok(t, err)
		wg.Wait()
		if got := get(h.Store.Endpoint(ctx, e.Deployment, e.Alias))(t); got.Service != b.ID || got.Pending != "" {
			t.Fatalf("round %d: endpoint answers from %s and waits for %q, want %s", n, got.Service, got.Pending, b.ID)
		}
	}
}

func history(t *testing.T, h Harness) {
	ctx, v := t.Context(), h.version(t, h.deployment(t, 1), "1")
	a, b := h.service(t, v, 1), h.service(t, v, 2)
	e := h.endpoint(t, a, "default")
	h.endpoint(t, a, "other") // has a history of its own
	from, to := a, b
	for n := range 5 {
		get(h.Store.UpdateEndpoint(ctx, e.Deployment, "default", []plat.ServiceID{to.ID}, func(e *deploy.Endpoint, _ deploy.Service, targets []deploy.Service) (*deploy.Change, error) {
			c := &deploy.Change{Kind: deploy.Switched, From: e.Service, To: targets[0].ID, By: "u", At: at(100 + n)}
			e.Service = targets[0].ID
			return c, nil
		}))(t)
		from, to = to, from
	}
	changes := func(name string, before int64, limit int) []deploy.Change {
		t.Helper()
		return get(h.Store.Changes(ctx, e.Deployment, name, before, limit))(t)
	}
	got := changes("default", 0, 3)
	if len(got) != 3 || got[0].Number != 6 || got[0].At != at(104) || got[0].To != b.ID || got[2].At != at(102) {
		t.Errorf("history = %+v", got)
	}
	if got := changes("default", 4, 10); len(got) != 3 || got[0].Number != 3 || got[2].Kind != deploy.Created {
		t.Errorf("next page = %+v", got)
	}
	if c := get(h.Store.ChangeAt(ctx, e.Deployment, string(e.ID), at(102)))(t); c.At != at(102) {
		t.Errorf("as of 102 = %+v", c)
	}
	if c := get(h.Store.ChangeAt(ctx, e.Deployment, "default", at(99)))(t); c.Kind != deploy.Created {
		t.Errorf("as of 99 = %+v", c)
	}
	_, err := h.Store.ChangeAt(ctx, e.Deployment, "default", at(4))
	isKind(t, "before it was made", err, plat.ErrNotFound)

	// The history outlives the endpoint, and the next one of that alias goes on with it.
	get(h.Store.DeleteEndpoint(ctx, e.Deployment, "default", "w", at(200)))(t)
	want := deploy.Change{Number: 7, Endpoint: e.ID, Kind: deploy.Deleted, From: b.ID, By: "w", At: at(200)}
	same(t, "after delete", []deploy.Change{want}, changes(string(e.ID), 0, 1))
	next := h.endpoint(t, a, "default")
	for _, name := range []string{"default", string(e.ID), string(next.ID)} {
		if got := changes(name, 0, 2); len(got) != 2 || got[0].Number != 8 || got[0].Endpoint != next.ID || got[1].Number != 7 {
			t.Errorf("history by %s = %+v", name, got)
		}
	}
	same(t, "of another deployment", []deploy.Change{}, get(h.Store.Changes(ctx, "1000000000000", "default", 0, 3))(t))

	// It goes with the deployment.
	for _, alias := range []string{"default", "other"} {
		get(h.Store.DeleteEndpoint(ctx, e.Deployment, alias, "w", at(201)))(t)
	}
	ok(t, h.Store.DeleteService(ctx, a.ID))
	ok(t, h.Store.DeleteService(ctx, b.ID))
	get(h.Store.DeleteDeployment(ctx, a.Org, e.Deployment))(t)
	same(t, "of a deleted deployment", []deploy.Change{}, changes("default", 0, 3))
}

func split(t *testing.T, h Harness) {
	ctx, v := t.Context(), h.version(t, h.deployment(t, 1), "1")
	a, b := h.service(t, v, 1), h.service(t, v, 2)
	stranger := h.service(t, h.version(t, h.deployment(t, 2), "1"), 1)
	e := h.endpoint(t, a, "default")
	update := func(e deploy.Endpoint, parts []deploy.Part, targets ...plat.ServiceID) (deploy.Endpoint, error) {
		return h.Store.UpdateEndpoint(ctx, e.Deployment, e.Alias, targets, func(e *deploy.Endpoint, _ deploy.Service, got []deploy.Service) (*deploy.Change, error) {
			for i := range targets {
				if got[i].ID != targets[i] {
					t.Errorf("target %d is %s, want %s", i, got[i].ID, targets[i])
				}
			}
			e.Split, e.ModifiedAt = parts, at(30)
			return &deploy.Change{Kind: deploy.Splitted, From: e.Service, To: e.Service, Split: parts, By: "u", At: at(30)}, nil
		})
	}
	parts := []deploy.Part{{Service: b.ID, Weight: 10}, {Service: a.ID, Weight: 90}}
	got := get(update(e, parts, b.ID, a.ID))(t)
	e.Split, e.ModifiedAt = parts, at(30)
	same(t, "answer", e, got)
	same(t, "record", e, get(h.Store.Endpoint(ctx, e.Deployment, "default"))(t))
	same(t, "history", parts, get(h.Store.Changes(ctx, e.Deployment, "default", 0, 1))(t)[0].Split)
	isKind(t, "delete of a part", h.Store.DeleteService(ctx, b.ID), plat.ErrConflict)
	_, err := update(e, parts, a.ID, stranger.ID)
	isKind(t, "another deployment's service", err, plat.ErrNotFound)
	// Two splits that name the same services in another order don't lock each other up.
	var wg sync.WaitGroup
	f := h.endpoint(t, a, "canary")
	for range 10 {
		wg.Go(func() { _, err := update(e, parts, a.ID, b.ID); ok(t, err) })
		wg.Go(func() { _, err := update(f, parts, b.ID, a.ID); ok(t, err) })
	}
	wg.Wait()
	get(update(e, nil, a.ID))(t)
	get(update(f, nil, a.ID))(t)
	ok(t, h.Store.DeleteService(ctx, b.ID))
}
