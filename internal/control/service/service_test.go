// SPDX-License-Identifier: Apache-2.0

package service_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"panal/internal/authn"
	"panal/internal/blob"
	"panal/internal/blob/memblob"
	"panal/internal/control/service"
	"panal/internal/dataplane"
	"panal/internal/deploy"
	"panal/internal/org"
	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/fakerunner"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

// models is one model.
type models struct{ org plat.OrgID }

func (m models) ModelRef(_ context.Context, org plat.OrgID, id plat.ModelID) (deploy.ModelRef, error) {
	if org != m.org || id != "1720000000055" {
		return deploy.ModelRef{}, plat.NotFound("model", id)
	}
	return deploy.ModelRef{ID: id, DefinitionName: "leaf classifier", Job: "1712000000044", Datasets: map[string]plat.DatasetID{"train": "1550000000077"}}, nil
}

// routes records what the table holds, and lets a test hold drains up.
type routes struct {
	*dataplane.Table
	mu   sync.Mutex
	deps map[plat.DeploymentID]dataplane.Deployment
	hold chan struct{} // nil: drained at once

	end   func() // what End does
	ended map[plat.WorkloadID]dataplane.Ending
}

func (r *routes) End(id plat.WorkloadID, why dataplane.Ending) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended[id] = why
	r.end()
}

func (r *routes) Apply(d dataplane.Delta) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	ok := r.Table.Apply(d)
	if d.Deleted {
		delete(r.deps, d.ID)
	} else if ok {
		r.deps[d.ID] = d.Deployment
	}
	return ok
}

func (r *routes) Replace(s dataplane.Snapshot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Table.Replace(s)
	clear(r.deps)
	for _, d := range s.Deployments {
		r.deps[d.ID] = d
	}
}

func (r *routes) Drained(ctx context.Context, id plat.WorkloadID) error {
	r.mu.Lock()
	hold := r.hold
	r.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return r.Table.Drained(ctx, id)
}

// instances returns the ids that a service's requests may go to.
func (r *routes) instances(dep plat.DeploymentID, id plat.ServiceID) []plat.WorkloadID {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := []plat.WorkloadID{}
	for _, s := range r.deps[dep].Services {
		if s.ID == id {
			for _, i := range s.Instances {
				ids = append(ids, i.ID)
			}
		}
	}
	slices.Sort(ids)
	return ids
}

func (r *routes) alias(dep plat.DeploymentID, alias string) plat.ServiceID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.deps[dep].Aliases[alias]
}

type world struct {
	t      *testing.T
	org    plat.OrgID
	user   plat.UserID
	store  deploy.Store
	tokens *sqlstore.Orgs
	run    *fakerunner.Runner
	routes *routes
	ctl    *service.Controller
	man    *deploy.Manager
	dep    deploy.Deployment
	ver    deploy.Version
	stop   func()

	leapt atomic.Int64 // nanoseconds that the clock is off

	mu    sync.Mutex
	spool map[plat.WorkloadID]int
	full  bool // the log store is
	deaf  bool // nobody is told of anything; see newDeafWorld
	late  *late
}

func (w *world) now() time.Time { return plat.SystemClock().Add(time.Duration(w.leapt.Load())) }

// newWorld makes a deployment with one version on a fake machine. The controller
// is primed but does not run yet.
func newWorld(t *testing.T, cfg fakerunner.Config) *world {
	t.Helper()
	db := sqlstoretest.SQLite(t)
	w := &world{t: t, user: "1650000000031", store: sqlstore.NewDeploys(db), tokens: sqlstore.NewOrgs(db), run: fakerunner.New(cfg), spool: map[plat.WorkloadID]int{}}
	o, err := org.NewService(w.tokens, w.tokens, plat.SystemClock, "").Create(t.Context(), "acme")
	w.ok(err)
	w.org = o.ID
	w.open()
	t.Cleanup(func() { w.close(); _ = w.run.Close() })
	w.dep, err = w.man.CreateDeployment(t.Context(), w.org, w.user, deploy.NewDeployment{Name: "leaf", Environment: map[string]string{"STAGE": "stg", "A": "dep"}})
	w.ok(err)
	w.ver, err = w.man.CreateVersion(t.Context(), w.org, w.user, w.dep.ID, deploy.NewVersion{Label: "0.0.1", Image: "abeja-inc/all-cpu:19.10", Environment: map[string]string{"A": "ver", "B": "ver"}})
	w.ok(err)
	_, err = w.man.Blobs.Put(t.Context(), w.ver.SourceKey(), strings.NewReader("x"), 1, blob.PutOptions{})
	w.ok(err)
	return w
}

// open makes a controller and a manager, as a start of the server does.
func (w *world) open() {
	w.t.Helper()
	w.routes = &routes{Table: dataplane.NewTable(), deps: map[plat.DeploymentID]dataplane.Deployment{}, ended: map[plat.WorkloadID]dataplane.Ending{}}
	run := runner.Runner(w.run)
	if w.deaf {
		run = deaf{w.run}
	}
	if w.late != nil {
		w.late.Runner, run = w.run, w.late
	}
	w.ctl = service.New(service.Config{
		Log: slogTo(w.t), Now: w.now, Store: w.store, Models: models{w.org}, Runner: run, Tokens: w.tokens, Routes: w.routes,
		APIURL: "http://127.0.0.1:8600", Resync: 200 * time.Millisecond, SickLimit: 300 * time.Millisecond,
		IngestSpool: func(_ context.Context, st runner.Status, b []runner.SpoolBatch) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.full {
				return plat.Errorf(plat.ErrExhausted, "full")
			}
			w.spool[st.ID] = len(b)
			return nil
		},
	})
	blobs := (*blob.Store)(nil)
	if w.man != nil {
		blobs = w.man.Blobs
	} else {
		blobs = blob.New(memblob.New())
	}
	w.man = deploy.NewManager(deploy.Config{Store: w.store, Blobs: blobs, Models: models{w.org}, Publisher: w.ctl, Now: w.now})
	if w.deaf {
		w.man.Publisher = mute{}
	}
	w.ok(w.ctl.Prime(w.t.Context()))
}

func (w *world) start() {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	ctl := w.ctl
	go func() { done <- ctl.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		w.ok(<-done)
	})
}

func (w *world) close() {
	if w.stop != nil {
		w.stop()
	}
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	w.t.Fatalf("%s did not happen", what)
}

func (w *world) create(number int) deploy.Service {
	w.t.Helper()
	s, err := w.man.CreateService(w.t.Context(), w.org, w.user, w.dep.ID, w.ver.ID, deploy.ServiceSpec{
		Number: &number, Models: map[string]plat.ModelID{"alias": "1720000000055"}, Environment: map[string]string{"B": "own"},
	})
	w.ok(err)
	return s
}

func (w *world) get(id plat.ServiceID) deploy.Service {
	w.t.Helper()
	s, err := w.store.Service(w.t.Context(), id)
	w.ok(err)
	return s
}

func (w *world) instances(id plat.ServiceID) []deploy.Instance {
	w.t.Helper()
	list, err := w.store.Instances(w.t.Context(), id)
	w.ok(err)
	return list
}

func (w *world) becomes(id plat.ServiceID, status deploy.Status) deploy.Service {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%s becoming %s", id, status), func() bool { return w.get(id).Status == status })
	return w.get(id)
}

func running(runner.Spec) fakerunner.Script { return fakerunner.Script{Running: true} }

// TestServiceBecomesReady: states (compute.md §6.2) and what an instance is given (§13.2).
func TestServiceBecomesReady(t *testing.T) {
	w := newWorld(t, fakerunner.Config{})
	s := w.create(2)
	if s.Status != deploy.InProgress || s.Min != 2 || s.Max != 4 || !s.Autoscale {
		t.Errorf("created %+v", s)
	}
	if _, err := w.routes.Lookup(dataplane.Target{Org: w.org, Deployment: w.dep.ID, Service: s.ID}); err != nil {
		t.Errorf("a service that was just made is not routed: %v", err)
	}
	w.start()
	w.eventually("two starts", func() bool { return len(w.run.Started()) == 2 })
	specs := w.run.Started()
	w.run.SetPhase(specs[0].ID, runner.PhaseRunning, true)
	w.eventually("the first in rotation", func() bool { return len(w.routes.instances(s.Deployment, s.ID)) == 1 })
	if got := w.get(s.ID); got.Status != deploy.InProgress {
		t.Errorf("%s with one of two instances", got.Status)
	}
	w.run.SetPhase(specs[1].ID, runner.PhaseRunning, true)
	if got := w.becomes(s.ID, deploy.Ready); got.StatusMessage != "" || got.ReadyGeneration != 1 {
		t.Errorf("ready %+v", got)
	}
	spec := specs[0]
	org, dep := string(w.org), string(w.dep.ID)
	want := map[string]string{
		"STAGE": "stg", "A": "ver", "B": "own", // compute.md §12.3
		"ABEJA_API_URL": "http://127.0.0.1:8600", "ABEJA_ORGANIZATION_ID": org, "ABEJA_DEPLOYMENT_ID": dep,
		"ABEJA_SERVICE_ID": string(s.ID), "ABEJA_MODEL_ID": dep, "ABEJA_MODEL_VERSION": "0.0.1", "ABEJA_MODEL_VERSION_ID": string(w.ver.ID),
		"ABEJA_DEPLOYMENT_CODE_DOWNLOAD": "organizations/" + org + "/deployments/" + dep + "/versions/" + string(w.ver.ID) + "/download",
		"ABEJA_TRAINING_MODEL_DOWNLOAD":  "organizations/" + org + "/training/definitions/leaf%20classifier/models/1720000000055/download",
		"TRAINING_JOB_DATASETS":          `{"train":"1550000000077"}`,
		"HANDLER":                        "main:handler", "SERVICE_TYPE": "HTTP", "PYTHONUNBUFFERED": "x",
	}
	if d := cmp.Diff(want, spec.Env); d != "" {
		t.Errorf("environment (-want +got):\n%s", d)
	}
	if spec.LogStream != "service/"+string(s.ID) || !spec.Reserve || spec.Kind != runner.KindService || spec.Resources.MilliCPU != 250 {
		t.Errorf("spec %+v", spec)
	}
	tok, _, err := w.tokens.TokenByHash(t.Context(), authn.HashToken(spec.Token))
	w.ok(err)
	if d := cmp.Diff(authn.Scope{Workload: spec.ID, Deployment: w.dep.ID, CodeVersion: w.ver.ID, Service: s.ID, Models: []plat.ModelID{"1720000000055"}}, tok.Scope); d != "" {
		t.Errorf("token scope (-want +got):\n%s", d)
	}
}

// Handlers of the oldest images are called in their own way (compute.md §12.2, §13.11), and
// one that may take long is waited for.
func TestSpecAndRoutesFollowTheVersion(t *testing.T) {
	w := newWorld(t, fakerunner.Config{Script: running})
	w.start()
	for i, c := range []struct {
		image string
		env   map[string]string
		style string
		first time.Duration
	}{
		{"abeja-inc/all-cpu:18.10", nil, "old", 0},
		{"abeja-inc/minimal:0.1.0", nil, "old", 0},
		{"abeja-inc/all-cpu:18.10", map[string]string{"PANAL_HANDLER_STYLE": "new"}, "new", 0},
		{"abeja-inc/all-cpu:19.04", map[string]string{"PANAL_HANDLER_TIMEOUT": "2m"}, "", 125 * time.Second},
		{"custom/" + string(w.org) + "/mine:18.10", map[string]string{"PANAL_HANDLER_TIMEOUT": "1s"}, "", 0},
	} {
		v, err := w.man.CreateVersion(t.Context(), w.org, w.user, w.dep.ID, deploy.NewVersion{Label: fmt.Sprint("style-", i), Image: c.image})
		w.ok(err)
		_, err = w.man.Blobs.Put(t.Context(), v.SourceKey(), strings.NewReader("x"), 1, blob.PutOptions{})
		w.ok(err)
		s, err := w.man.CreateService(t.Context(), w.org, w.user, w.dep.ID, v.ID, deploy.ServiceSpec{Environment: c.env})
		w.ok(err)
		var spec runner.Spec
		w.eventually("its instance", func() bool {
			for _, started := range w.run.Started() {
				if started.Env["ABEJA_SERVICE_ID"] == string(s.ID) {
					spec = started
				}
			}
			return spec.ID != ""
		})
		if got := spec.Env["PANAL_HANDLER_STYLE"]; got != c.style {
			t.Errorf("%s: style %q, want %q", c.image, got, c.style)
		}
		w.becomes(s.ID, deploy.Ready)
		w.routes.mu.Lock()
		for _, r := range w.routes.deps[w.dep.ID].Services {
			if r.ID == s.ID && (r.FirstByte != c.first || r.Idle != c.first) {
				t.Errorf("%s: the gateway waits %v, want %v", c.image, r.FirstByte, c.first)
			}
		}
		w.routes.mu.Unlock()
	}
}

func TestStartErrorsEndFailed(t *testing.T) {
	const reason = "handler raised on import\nTraceback (most recent call last):\n  ImportError: no weights"
	w := newWorld(t, fakerunner.Config{Script: func(s runner.Spec) fakerunner.Script {
		if s.Env["B"] == "good" {
			return running(s)
		}
		return fakerunner.Script{Exit: &fakerunner.Exit{Code: 1, Reason: reason}, Spool: []runner.SpoolBatch{{}, {}}}
	}})
	w.start()
	number := 1
	good, err := w.man.CreateService(t.Context(), w.org, w.user, w.dep.ID, w.ver.ID, deploy.ServiceSpec{Number: &number, Environment: map[string]string{"B": "good"}})
	w.ok(err)
	w.becomes(good.ID, deploy.Ready)
	_, err = w.man.CreateEndpoint(t.Context(), w.org, w.user, w.dep.ID, "", good.ID, deploy.Limits{})
	w.ok(err)
	bad := w.create(2)
	e, err := w.man.SwitchEndpoint(t.Context(), w.org, w.user, w.dep.ID, "default", bad.ID, deploy.Limits{})
	w.ok(err)
	if e.Service != good.ID || e.Pending != bad.ID || e.StatusMessage == "" {
		t.Errorf("switch to a starting service: %+v", e)
	}
	got := w.becomes(bad.ID, deploy.Failed)
	if !strings.Contains(got.StatusMessage, reason) {
		t.Errorf("status message = %q", got.StatusMessage)
	}
	if got.Failures != 3 {
		t.Errorf("failed after %d rounds", got.Failures)
	}
	w.eventually("cleaning up", func() bool { return len(w.instances(bad.ID)) == 0 })
	list, err := w.run.List(t.Context())
	w.ok(err)
	if len(list) != 1 {
		t.Errorf("workloads left: %v", list)
	}
	for _, spec := range w.run.Started()[1:] {
		w.mu.Lock()
		if w.spool[spec.ID] != 2 {
			t.Errorf("%d spooled batches of %s were stored", w.spool[spec.ID], spec.ID)
		}
		w.mu.Unlock()
		if tok, _, err := w.tokens.TokenByHash(t.Context(), authn.HashToken(spec.Token)); err != nil || tok.EndedAt.IsZero() {
			t.Errorf("token of an ended instance: %+v, %v", tok, err)
		}
	}
	e, err = w.man.Endpoint(t.Context(), w.org, w.dep.ID, "default")
	w.ok(err)
	if e.Service != good.ID || e.Pending != "" || !strings.Contains(e.StatusMessage, "handler raised on import") || strings.Contains(e.StatusMessage, "Traceback") {
		t.Errorf("endpoint after the failure: %+v", e)
	}
	if got := w.routes.alias(w.dep.ID, "default"); got != good.ID {
		t.Errorf("default is routed to %s", got)
	}
	// Targets that can't answer are refused.
	if _, err := w.man.SwitchEndpoint(t.Context(), w.org, w.user, w.dep.ID, "default", bad.ID, deploy.Limits{}); !errors.Is(err, plat.ErrInvalid) {
		t.Errorf("switch to a FAILED service = %v", err)
	}
	// Mended and started again, it comes up.
	_, err = w.man.PatchService(t.Context(), w.org, w.dep.ID, bad.ID, deploy.ServiceSpec{Environment: map[string]string{"B": "good"}})
	w.ok(err)
	w.becomes(bad.ID, deploy.Ready)
	if e, err = w.man.Endpoint(t.Context(), w.org, w.dep.ID, "default"); err != nil || e.Service != good.ID {
		t.Errorf("a switch that was given up took effect: %+v, %v", e, err)
	}
}

func TestPendingSwitchTakesEffectWhenReady(t *testing.T) {
	w := newWorld(t, fakerunner.Config{})
	w.start()
	a, b := w.create(1), w.create(1)
	w.eventually("two starts", func() bool { return len(w.run.Started()) == 2 })
	of := func(id plat.ServiceID) plat.WorkloadID {
		for _, s := range w.run.Started() {
			if s.Env["ABEJA_SERVICE_ID"] == string(id) {
				return s.ID
			}
		}
		return ""
	}
	// The first endpoint may point at a starting service.
	e, err := w.man.CreateEndpoint(t.Context(), w.org, w.user, w.dep.ID, "", a.ID, deploy.Limits{})
	w.ok(err)
	if e.Service != a.ID || w.routes.alias(w.dep.ID, "default") != a.ID {
		t.Errorf("first endpoint: %+v", e)
	}
	w.run.SetPhase(of(a.ID), runner.PhaseRunning, true)
	w.becomes(a.ID, deploy.Ready)
	_, err = w.man.SwitchEndpoint(t.Context(), w.org, w.user, w.dep.ID, e.Alias, b.ID, deploy.Limits{})
	w.ok(err)
	if got := w.routes.alias(w.dep.ID, "default"); got != a.ID {
		t.Errorf("routed to %s before it is READY", got)
	}
	w.run.SetPhase(of(b.ID), runner.PhaseRunning, true)
	w.becomes(b.ID, deploy.Ready)
	w.eventually("the switch", func() bool { return w.routes.alias(w.dep.ID, "default") == b.ID })
	e, err = w.man.Endpoint(t.Context(), w.org, w.dep.ID, string(e.ID))
	w.ok(err)
	hist, err := w.man.Switches(t.Context(), e)
	w.ok(err)
	if e.Service != b.ID || e.Pending != "" || e.StatusMessage != "" || len(hist) != 2 || hist[0].From != a.ID || hist[0].By != w.user {
		t.Errorf("endpoint %+v, history %+v", e, hist)
	}
	// Back again, to a service that is READY: routed when answered.
	_, err = w.man.SwitchEndpoint(t.Context(), w.org, w.user, w.dep.ID, "default", a.ID, deploy.Limits{})
	w.ok(err)
	if got := w.routes.alias(w.dep.ID, "default"); got != a.ID {
		t.Errorf("routed to %s after the switch was answered", got)
	}
}

func TestDeadInstanceLeavesRotationAndIsReplaced(t *testing.T) {
	w := newWorld(t, fakerunner.Config{Script: running})
	w.start()
	s := w.create(2)
	w.becomes(s.ID, deploy.Ready)
	before := w.routes.instances(s.Deployment, s.ID)
	begin := time.Now()
	w.run.Exit(before[0], 137, "the agent was killed")
	w.eventually("the dead leaving the routes", func() bool { return !slices.Contains(w.routes.instances(s.Deployment, s.ID), before[0]) })
	t.Logf("out of rotation after %s", time.Since(begin))
	w.eventually("a replacement", func() bool {
		now := w.routes.instances(s.Deployment, s.ID)
		return len(now) == 2 && slices.Contains(now, before[1]) && !slices.Contains(now, before[0])
	})
	if got := w.becomes(s.ID, deploy.Ready); got.StatusMessage != "" {
		t.Errorf("message of a READY service: %q", got.StatusMessage)
	}
}

func TestServiceThatWasReadyIsRestartedForEver(t *testing.T) {
	w := newWorld(t, fakerunner.Config{}) // instances start when the test says so
	w.start()
	s := w.create(1)
	for n := range 5 {
		// Don't wait the back-off out.
		_, err := w.store.UpdateService(t.Context(), s.ID, func(s *deploy.Service) error { s.RetryAt = time.Time{}; return nil })
		w.ok(err)
		w.eventually("a start", func() bool { return len(w.run.Started()) == n+1 })
		id := w.run.Started()[n].ID
		w.run.SetPhase(id, runner.PhaseRunning, true)
		w.becomes(s.ID, deploy.Ready)
		w.run.Exit(id, 1, "out of memory\nKilled")
		if got := w.becomes(s.ID, deploy.InProgress); !strings.Contains(got.StatusMessage, "out of memory\nKilled") {
			t.Errorf("message = %q", got.StatusMessage)
		}
	}
	if got := w.get(s.ID); got.Failures != 5 {
		t.Errorf("failures = %d", got.Failures)
	}
}

func TestSickInstanceIsReplaced(t *testing.T) {
	w := newWorld(t, fakerunner.Config{Script: running})
	w.start()
	s := w.create(1)
	w.becomes(s.ID, deploy.Ready)
	sick := w.routes.instances(s.Deployment, s.ID)[0]
	w.run.SetPhase(sick, runner.PhaseRunning, false)
	w.eventually("leaving the routes", func() bool { return len(w.routes.instances(s.Deployment, s.ID)) == 0 })
	w.eventually("replacement", func() bool {
		now := w.routes.instances(s.Deployment, s.ID)
		return len(now) == 1 && now[0] != sick
	})
}

// TestSuspectKeepsItsPlace: the gateway hears of a suspicion and of its end, and nothing is
// replaced for it, however long it goes on.
func TestSuspectKeepsItsPlace(t *testing.T) {
	w := newWorld(t, fakerunner.Config{Script: running})
	w.start()
	s := w.create(2)
	w.becomes(s.ID, deploy.Ready)
	before := w.routes.instances(s.Deployment, s.ID)
	suspect := func(id plat.WorkloadID) bool {
		w.routes.mu.Lock()
		defer w.routes.mu.Unlock()
		for _, of := range w.routes.deps[s.Deployment].Services {
			for _, i := range of.Instances {
				if i.ID == id {
					return i.Suspect
				}
			}
		}
		t.Errorf("%s left the routes", id)
		return false
	}
	w.run.SetSuspect(before[0], true)
	w.eventually("the suspicion in the routes", func() bool { return suspect(before[0]) })
	w.leapt.Add(int64(time.Hour))
	w.run.SetProblem(before[0], "another word of it")
	time.Sleep(200 * time.Millisecond)
	if now := w.routes.instances(s.Deployment, s.ID); !slices.Equal(now, before) || suspect(before[1]) || w.get(s.ID).Status != deploy.Ready {
		t.Errorf("instances %v, then %v; %s", before, now, w.get(s.ID).Status)
	}
	w.run.SetSuspect(before[0], false)
	w.eventually("its end in the routes", func() bool { return !suspect(before[0]) })
}

// TestClockLeaps: a clock that leaps by hours, forward or back, holds nothing up: what dies
// or hangs is replaced, what is new starts.
func TestClockLeaps(t *testing.T) {
	w := newWorld(t, fakerunner.Config{Script: running})
	w.start()
	s := w.create(1)
	w.becomes(s.ID, deploy.Ready)
	replaced := func(what string, end func(plat.WorkloadID)) {
		t.Helper()
		old := w.routes.instances(s.Deployment, s.ID)[0]
		end(old)
		w.eventually(what, func() bool {
			now := w.routes.instances(s.Deployment, s.ID)
			return len(now) == 1 && now[0] != old
		})
		w.becomes(s.ID, deploy.Ready)
	}
	die := func(id plat.WorkloadID) { w.run.Exit(id, 1, "boom") }
	hang := func(id plat.WorkloadID) { w.run.SetPhase(id, runner.PhaseRunning, false) }
	for _, leap := range []time.Duration{5 * time.Hour, -24 * time.Hour} {
		replaced("replacement before the leap", die) // leaves a time to try again
		w.leapt.Add(int64(leap))
		replaced("replacement of what died after a leap of "+leap.String(), die)
		w.leapt.Add(int64(-leap / 2))
		replaced("replacement of what hung after a leap of "+leap.String(), hang)
		w.becomes(w.create(1).ID, deploy.Ready)
	}
}

func TestStopDrainsFirst(t *testing.T) {
	w := newWorld(t, fakerunner.Config{Script: running})
	w.routes.hold = make(chan struct{})
	w.start()
	s := w.create(1)
	w.becomes(s.ID, deploy.Ready)
	id := w.routes.instances(s.Deployment, s.ID)[0]
	w.ok(w.man.StopService(t.Context(), w.org, w.dep.ID, s.ID))
	if got := w.routes.instances(s.Deployment, s.ID); len(got) != 0 {
		t.Errorf("a stopped service is routed to %v", got)
	}
	w.eventually("draining", func() bool {
		list := w.instances(s.ID)
		return len(list) == 1 && list[0].State == deploy.InstanceDraining
	})
	if st, err := w.run.Get(t.Context(), id); err != nil || st.Stopped {
		t.Errorf("told to end with a request under way: %+v, %v", st, err)
	}
	close(w.routes.hold)
	w.eventually("the end", func() bool { return len(w.instances(s.ID)) == 0 })
	if _, err := w.run.Get(t.Context(), id); !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("workload after stop: %v", err)
	}
	if err := w.man.StopService(t.Context(), w.org, w.dep.ID, s.ID); !errors.Is(err, plat.ErrConflict) {
		t.Errorf("second stop = %v", err)
	}
	w.ok(w.man.StartService(t.Context(), w.org, w.dep.ID, s.ID))
	if err := w.man.StartService(t.Context(), w.org, w.dep.ID, s.ID); !errors.Is(err, plat.ErrConflict) {
		t.Errorf("second start = %v", err)
	}
	w.becomes(s.ID, deploy.Ready)
}

// TestStatusMessageOfTheUnready: a service that isn't READY because an instance starts
// slowly, or fails its health check, says what the instance says, with its last lines;
// so does one whose instance was given up for that.
func TestStatusMessageOfTheUnready(t *testing.T) {
	w := newWorld(t, fakerunner.Config{}) // instances start when the test says so
	w.ctl.StartLimit = time.Second
	w.start()
	s := w.create(1)
	says := func(want ...string) {
		t.Helper()
		w.eventually(fmt.Sprint(want), func() bool {
			got := w.get(s.ID).StatusMessage
			return !slices.ContainsFunc(want, func(part string) bool { return !strings.Contains(got, part) })
		})
	}
	w.eventually("a start", func() bool { return len(w.run.Started()) == 1 })
	w.run.SetProblem(w.run.Started()[0].ID, "it is at the step import\nreading weights")
	says("an instance is not ready: it is at the step import\nreading weights")
	says("it was not ready within 1s of its start: it is at the step import\nreading weights", "failures in a row: 1")
	// The next one gets ready, and sick.
	w.eventually("another start", func() bool { return len(w.run.Started()) == 2 })
	id := w.run.Started()[1].ID
	w.run.SetPhase(id, runner.PhaseRunning, true)
	if got := w.becomes(s.ID, deploy.Ready); got.StatusMessage != "" {
		t.Errorf("message of a READY service: %q", got.StatusMessage)
	}
	w.run.SetPhase(id, runner.PhaseRunning, false)
	w.run.SetProblem(id, "its health check fails: GET / answers 500\nTraceback")
	says("it failed its health check for 300ms: its health check fails: GET / answers 500\nTraceback")
}

// TestStreamsEndWithTheirGrace: what an instance still has when the grace is over is
// ended, with the reason, and only then is the instance told to end.
func TestStreamsEndWithTheirGrace(t *testing.T) {
	w := newWorld(t, fakerunner.Config{Script: running})
	w.ctl.DrainLimit = 50 * time.Millisecond
	w.start()
	s := w.create(1)
	w.becomes(s.ID, deploy.Ready)
	leaves := func(why dataplane.Ending, leave func()) {
		t.Helper()
		id := w.routes.instances(s.Deployment, s.ID)[0]
		hold := make(chan struct{})
		w.routes.mu.Lock()
		w.routes.hold, w.routes.end = hold, func() {
			if st, err := w.run.Get(t.Context(), id); err != nil || st.Stopped {
				t.Errorf("told to end before its streams: %+v, %v", st, err)
			}
			close(hold)
		}
		w.routes.mu.Unlock()
		leave()
		w.eventually("the end", func() bool { _, err := w.run.Get(t.Context(), id); return errors.Is(err, plat.ErrNotFound) })
		w.routes.mu.Lock()
		defer w.routes.mu.Unlock()
		if got := w.routes.ended[id]; got != why {
			t.Errorf("its streams ended by %q, want %q", got, why)
		}
	}
	leaves(dataplane.EndReplaced, func() {
		_, err := w.man.PatchService(t.Context(), w.org, w.dep.ID, s.ID, deploy.ServiceSpec{Environment: map[string]string{"B": "new"}})
		w.ok(err)
	})
	w.becomes(s.ID, deploy.Ready)
	leaves(dataplane.EndStopped, func() { w.ok(w.man.StopService(t.Context(), w.org, w.dep.ID, s.ID)) })
}

func TestPatchRollsWithCapacityKept(t *testing.T) {
	w := newWorld(t, fakerunner.Config{})
	w.start()
	s := w.create(2)
	healthy := func(n int) {
		t.Helper()
		w.eventually(fmt.Sprint("start ", n), func() bool { return len(w.run.Started()) >= n })
		w.run.SetPhase(w.run.Started()[n-1].ID, runner.PhaseRunning, true)
	}
	healthy(1)
	healthy(2)
	w.becomes(s.ID, deploy.Ready)
	old := w.routes.instances(s.Deployment, s.ID)
	got, err := w.man.PatchService(t.Context(), w.org, w.dep.ID, s.ID, deploy.ServiceSpec{Environment: map[string]string{"B": "new"}})
	w.ok(err)
	if got.Status != deploy.InProgress || got.Merged["B"] != "new" {
		t.Errorf("patched %+v", got)
	}
	w.eventually("one more", func() bool { return len(w.run.Started()) == 3 })
	if now := w.routes.instances(s.Deployment, s.ID); !slices.Equal(now, old) {
		t.Errorf("routes while the new one starts: %v, want %v", now, old)
	}
	if w.run.Started()[2].Env["B"] != "new" {
		t.Error("the new instance has the old environment")
	}
	healthy(3)
	healthy(4)
	w.becomes(s.ID, deploy.Ready)
	w.eventually("the old ending", func() bool { return len(w.instances(s.ID)) == 2 })
	for _, id := range w.routes.instances(s.Deployment, s.ID) {
		if slices.Contains(old, id) {
			t.Errorf("old instance %s is still routed", id)
		}
	}
	// A patch that changes nothing that instances are made of starts none. The scaler's
	// reason stands until its bounds are others.
	_, err = w.store.UpdateService(t.Context(), s.ID, func(s *deploy.Service) error { s.ScaleMessage = "so"; return nil })
	w.ok(err)
	for _, c := range []struct {
		spec deploy.ServiceSpec
		want string
	}{{deploy.ServiceSpec{}, "so"}, {deploy.ServiceSpec{Max: new(5)}, ""}} {
		got, err = w.man.PatchService(t.Context(), w.org, w.dep.ID, s.ID, c.spec)
		w.ok(err)
		if got.ScaleMessage != c.want {
			t.Errorf("scaled because %q, want %q", got.ScaleMessage, c.want)
		}
	}
	w.becomes(s.ID, deploy.Ready)
	if n := len(w.run.Started()); n != 4 {
		t.Errorf("%d starts after an empty patch", n)
	}
}

func TestRestartLosesNoInstance(t *testing.T) {
	w := newWorld(t, fakerunner.Config{Script: running})
	w.start()
	s := w.create(2)
	w.becomes(s.ID, deploy.Ready)
	_, err := w.man.CreateEndpoint(t.Context(), w.org, w.user, w.dep.ID, "", s.ID, deploy.Limits{})
	w.ok(err)
	before := w.routes.instances(s.Deployment, s.ID)
	w.stop()
	w.run = w.run.Reopen()
	w.open() // Prime: the listener does not accept before this has returned
	if now := w.routes.instances(s.Deployment, s.ID); !slices.Equal(now, before) || w.routes.alias(w.dep.ID, "default") != s.ID {
		t.Fatalf("routes after the restart: %v, want %v", now, before)
	}
	w.start()
	w.eventually("a pass", func() bool { return w.get(s.ID).Status == deploy.Ready })
	time.Sleep(3 * 200 * time.Millisecond) // some resyncs: nothing may happen in them
	if n := len(w.run.Started()); n != 2 {
		t.Errorf("%d starts", n)
	}
	if got := w.get(s.ID); got.Status != deploy.Ready || got.ModifiedAt.IsZero() {
		t.Errorf("after the restart: %+v", got)
	}
}

// late is a runner that hears from its instances one group after the other: with each
// question that an instance is asked for, the word of one more group has come.
type late struct {
	runner.Runner
	order     map[plat.WorkloadID]int
	group     int
	pause     time.Duration
	questions atomic.Int64
	rounds    []atomic.Int32 // how often each instance was asked for
}

func (l *late) Get(ctx context.Context, id plat.WorkloadID) (runner.Status, error) {
	l.questions.Add(1)
	st, err := l.Runner.Get(ctx, id)
	n := l.order[id]
	round := int(l.rounds[n].Add(1))
	if round <= n/l.group {
		st.Phase, st.Healthy = runner.PhaseStarting, false
	}
	if n == len(l.rounds)-1 && round <= n/l.group {
		time.Sleep(l.pause) // all in all longer than Prime waits for one of them
	}
	return st, err
}

// TestRestartWithThousands: a server that starts again beside thousands of instances routes
// every one that was ready before it accepts, however late the runner hears of some, asks
// a bounded number of questions for that, and starts none anew.
func TestRestartWithThousands(t *testing.T) {
	const services, each, groups = 1000, 3, 10
	w := newWorld(t, fakerunner.Config{Script: running})
	w.late = &late{order: map[plat.WorkloadID]int{}, group: services * each / groups, pause: 250 * time.Millisecond, rounds: make([]atomic.Int32, services*each)}
	var ids []plat.ServiceID
	for range services {
		s := deploy.Service{
			ID: plat.ServiceID(plat.NewHexID("ser")), Org: w.org, Deployment: w.dep.ID, Version: w.ver.ID, VersionLabel: w.ver.Label,
			Status: deploy.Ready, InstanceType: deploy.DefaultInstanceType, Number: each, Min: each, Max: each, Desired: each, Generation: 1, ReadyGeneration: 1,
		}
		w.ok(w.store.CreateService(t.Context(), s))
		ids = append(ids, s.ID)
		for range each {
			i := deploy.Instance{
				Workload: plat.WorkloadID(plat.NewHexID("wl")), Org: w.org, Deployment: w.dep.ID, Service: s.ID, Generation: 1,
				State: deploy.InstanceUp, CreatedAt: w.now(), ReadyAt: w.now(),
			}
			w.ok(w.store.CreateInstance(t.Context(), i))
			w.ok(w.run.Start(t.Context(), runner.Spec{
				ID: i.Workload, Org: w.org, Kind: runner.KindService, Image: w.ver.Image, Command: []string{"x"},
				Resources: plat.Resources{MilliCPU: 10, Memory: 1 << 20}, Reserve: true,
			}))
			w.late.order[i.Workload] = len(w.late.order)
		}
	}
	started := len(w.run.Started())
	w.run = w.run.Reopen()
	w.open() // Prime: the listener does not accept before this has returned
	if asked := w.late.questions.Load(); asked < services*each || asked > services*each*(groups+1) {
		t.Errorf("the runner was asked %d questions", asked)
	}
	lost := 0
	for _, id := range ids {
		lost += each - len(w.routes.instances(w.dep.ID, id))
	}
	if lost > 0 {
		t.Fatalf("%d of %d instances are lost", lost, services*each)
	}
	primed := w.late.questions.Load()
	w.start()
	w.eventually("a round of the walk", func() bool { return w.late.questions.Load() > primed+2*services*each })
	counts, err := w.store.ServiceCounts(t.Context())
	w.ok(err)
	if n := len(w.run.Started()); counts[deploy.Ready] != services || n != started {
		t.Errorf("afterwards %d services are ready, of %d; %d instances were started anew", counts[deploy.Ready], services, n-started)
	}
}

// TestCrashBetweenRecordAndStart: the record of an instance that was never started
// is dropped, and the instance is started anew.
func TestCrashBetweenRecordAndStart(t *testing.T) {
	w := newWorld(t, fakerunner.Config{Script: running})
	s := w.create(1)
	w.ok(w.store.CreateInstance(t.Context(), deploy.Instance{
		Workload: "wl-00000000000000aa", Org: w.org, Deployment: w.dep.ID, Service: s.ID, Generation: 1, State: deploy.InstanceUp, CreatedAt: plat.SystemClock(),
	}))
	// And a workload without a record (a database that was restored) is ended.
	orphan := runner.Spec{ID: "wl-00000000000000bb", Org: w.org, Kind: runner.KindService, Image: "x/y", Resources: plat.Resources{MilliCPU: 1, Memory: 1}}
	w.ok(w.run.Start(t.Context(), orphan))
	w.start()
	w.becomes(s.ID, deploy.Ready)
	list := w.instances(s.ID)
	if len(list) != 1 || list[0].Workload == "wl-00000000000000aa" || w.get(s.ID).Failures != 0 {
		t.Errorf("instances %v", list)
	}
	w.eventually("the orphan's end", func() bool {
		_, err := w.run.Get(t.Context(), orphan.ID)
		return errors.Is(err, plat.ErrNotFound)
	})
}

func TestNoRoomIsAReasonToWait(t *testing.T) {
	room := plat.Resources{MilliCPU: 250, Memory: 1 << 30}
	w := newWorld(t, fakerunner.Config{Total: room, JobShare: room, Script: running})
	w.start()
	a := w.create(1)
	w.becomes(a.ID, deploy.Ready)
	b := w.create(1)
	w.eventually("the reason", func() bool { return strings.Contains(w.get(b.ID).StatusMessage, "waiting for CPU") })
	if got := w.get(b.ID); got.Status != deploy.InProgress || got.Failures != 0 || len(w.instances(b.ID)) != 0 {
		t.Errorf("while it waits: %+v", got)
	}
	w.ok(w.man.DeleteService(t.Context(), w.org, w.dep.ID, a.ID))
	w.becomes(b.ID, deploy.Ready)
	if _, err := w.store.Service(t.Context(), a.ID); !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("deleted service: %v", err)
	}
	if list := w.instances(a.ID); len(list) != 0 {
		w.eventually("no instance of the deleted service", func() bool { return len(w.instances(a.ID)) == 0 })
	}
	// What never fits ends FAILED at once.
	big := "cpu-2"
	s, err := w.man.CreateService(t.Context(), w.org, w.user, w.dep.ID, w.ver.ID, deploy.ServiceSpec{InstanceType: &big})
	w.ok(err)
	if got := w.becomes(s.ID, deploy.Failed); !strings.Contains(got.StatusMessage, "CPU") {
		t.Errorf("message = %q", got.StatusMessage)
	}
}

// TestRollWaitsForRoom: a change to what there is no room for, now or at all, costs
// nothing that answers, and goes through once there is.
func TestRollWaitsForRoom(t *testing.T) {
	room := plat.Resources{MilliCPU: 1250, Memory: 8 << 30}
	w := newWorld(t, fakerunner.Config{Total: room, JobShare: room, Script: running})
	w.start()
	s, other := w.create(1), w.create(1)
	w.becomes(s.ID, deploy.Ready)
	w.becomes(other.ID, deploy.Ready)
	old := w.routes.instances(s.Deployment, s.ID)
	waits := func(kind, why string) {
		t.Helper()
		_, err := w.man.PatchService(t.Context(), w.org, w.dep.ID, s.ID, deploy.ServiceSpec{InstanceType: &kind})
		w.ok(err)
		w.eventually("the reason: "+why, func() bool {
			m := w.get(s.ID).StatusMessage
			return strings.HasPrefix(m, "no room for an instance of "+kind+"; those from before the change go on") && strings.Contains(m, why)
		})
		if got := w.get(s.ID); got.Status != deploy.InProgress || got.Failures != 0 || !slices.Equal(w.routes.instances(s.Deployment, s.ID), old) {
			t.Errorf("while it waits: %+v, %v", got, w.routes.instances(s.Deployment, s.ID))
		}
	}
	waits("cpu-2", "only 1.25 vCPU at all; choose a smaller instance type")
	waits("cpu-1", "1 vCPU needed, 0.75 vCPU of 1.25 vCPU free")
	w.ok(w.man.DeleteService(t.Context(), w.org, w.dep.ID, other.ID))
	w.becomes(s.ID, deploy.Ready)
	w.eventually("the new instance alone", func() bool {
		now := w.routes.instances(s.Deployment, s.ID)
		return len(now) == 1 && now[0] != old[0]
	})
}

func TestUnknownImageSaysSo(t *testing.T) {
	w := newWorld(t, fakerunner.Config{Images: []string{"abeja-inc/other"}})
	w.start()
	s := w.create(1)
	if got := w.becomes(s.ID, deploy.Failed); !strings.Contains(got.StatusMessage, "configuration key profiles") {
		t.Errorf("message = %q", got.StatusMessage)
	}
}

// TestFullLogStoreLosesNoLine: an ended workload is kept until its lines are stored.
func TestFullLogStoreLosesNoLine(t *testing.T) {
	w := newWorld(t, fakerunner.Config{Script: func(runner.Spec) fakerunner.Script {
		return fakerunner.Script{Running: true, Spool: []runner.SpoolBatch{{}}}
	}})
	w.start()
	s := w.create(1)
	w.becomes(s.ID, deploy.Ready)
	id := w.routes.instances(s.Deployment, s.ID)[0]
	w.mu.Lock()
	w.full = true
	w.mu.Unlock()
	w.run.Exit(id, 1, "boom")
	w.eventually("the replacement", func() bool { n := w.routes.instances(s.Deployment, s.ID); return len(n) == 1 && n[0] != id })
	if _, err := w.run.Get(t.Context(), id); err != nil {
		t.Fatalf("the workload is forgotten before its lines are stored: %v", err)
	}
	w.mu.Lock()
	w.full = false
	w.mu.Unlock()
	w.eventually("removal", func() bool { _, err := w.run.Get(t.Context(), id); return errors.Is(err, plat.ErrNotFound) })
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.spool[id] != 1 {
		t.Error("the lines were not stored")
	}
	if got := w.get(s.ID); got.Failures != 1 {
		t.Errorf("one end counted %d times", got.Failures)
	}
}

// TestFailedRollKeepsTheOldAnswering: a patch whose instances don't start costs
// nothing that worked.
func TestFailedRollKeepsTheOldAnswering(t *testing.T) {
	w := newWorld(t, fakerunner.Config{Script: func(s runner.Spec) fakerunner.Script {
		if s.Env["B"] == "bad" {
			return fakerunner.Script{Exit: &fakerunner.Exit{Code: 1, Reason: "boom"}}
		}
		return running(s)
	}})
	w.start()
	s := w.create(2)
	w.becomes(s.ID, deploy.Ready)
	before := w.routes.instances(s.Deployment, s.ID)
	_, err := w.man.PatchService(t.Context(), w.org, w.dep.ID, s.ID, deploy.ServiceSpec{Environment: map[string]string{"B": "bad"}})
	w.ok(err)
	if got := w.becomes(s.ID, deploy.Failed); !strings.Contains(got.StatusMessage, "boom") {
		t.Errorf("message = %q", got.StatusMessage)
	}
	w.eventually("only the old left", func() bool { return len(w.instances(s.ID)) == 2 })
	if now := w.routes.instances(s.Deployment, s.ID); !slices.Equal(now, before) {
		t.Errorf("routes after the failed roll: %v, want %v", now, before)
	}
	_, err = w.man.PatchService(t.Context(), w.org, w.dep.ID, s.ID, deploy.ServiceSpec{Environment: map[string]string{"B": "good"}})
	w.ok(err)
	w.becomes(s.ID, deploy.Ready)
	w.eventually("the old ending", func() bool { return len(w.instances(s.ID)) == 2 })
	for _, id := range w.routes.instances(s.Deployment, s.ID) {
		if slices.Contains(before, id) {
			t.Errorf("old instance %s is still routed", id)
		}
	}
}
