// SPDX-License-Identifier: Apache-2.0

package job_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/authn"
	"panal/internal/blob"
	"panal/internal/control/job"
	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/fakerunner"
	"panal/internal/train"
)

func TestLifeOfAJob(t *testing.T) {
	w := newWorld(t, fakerunner.Config{})
	j := w.job(func(j *train.Job) { j.ExportLog = true; j.Environment["HANDLER"] = "user's" })
	w.pass(1)
	got := w.is(j.ID, train.Active, "")
	if got.StartTime.IsZero() || got.Workload == "" {
		t.Errorf("active job = %+v", got)
	}
	w.pass(3)
	specs := w.run.Started()
	if len(specs) != 1 {
		t.Fatalf("started %d workloads", len(specs))
	}
	spec := specs[0]
	want := map[string]string{
		"ABEJA_API_URL": "http://127.0.0.1:8600", "ABEJA_ORGANIZATION_ID": string(j.Org), "TRAINING_JOB_DEFINITION_NAME": "leaf",
		"TRAINING_JOB_DEFINITION_ID": string(w.def.ID), "TRAINING_JOB_DEFINITION_VERSION": "1", "TRAINING_JOB_ID": string(j.ID),
		"ABEJA_TRAINING_JOB_ID": string(j.ID), "HANDLER": "train:handler", "DATASETS": `{"train":"1550000000077"}`,
		"PYTHONUNBUFFERED": "x", "EPOCHS": "5", "ABEJA_EXPORT_TRAIN_LOG": "1",
	}
	if d := cmp.Diff(want, spec.Env); d != "" {
		t.Errorf("environment (-want +got):\n%s", d)
	}
	if spec.ID != got.Workload || spec.Kind != runner.KindTraining || spec.Image != w.version.Image || spec.Reserve || spec.LogStream != "job/"+string(j.ID) {
		t.Errorf("spec = %+v", spec)
	}
	tok := w.token(spec)
	if d := cmp.Diff(authn.Scope{Workload: spec.ID, Definition: w.def.ID, Version: 1, Job: j.ID}, tok.Scope); d != "" || tok.Kind != authn.KindContainer || tok.User != j.Creator {
		t.Errorf("token = %+v\n%s", tok, d)
	}

	_, err := w.store.AddReport(t.Context(), j.ID, train.Report{Time: w.now(), Statistics: json.RawMessage(`{"acc":0.9}`)})
	w.must(err)
	w.upload(j)
	w.run.SetSpool(spec.ID, runner.SpoolBatch("lines"))
	w.run.Exit(spec.ID, 0, "")
	w.pass(1)
	end := w.is(j.ID, train.Complete, "")
	if end.CompletedAt.IsZero() || !end.Settled {
		t.Errorf("ended job = %+v", end)
	}
	ms := w.models()
	if len(ms) != 1 || ms[0].Job != j.ID || string(ms[0].Metrics["acc"]) != "0.9" || ms[0].ExecEnv != train.ExecCloud || ms[0].Object != j.ResultKey() || ms[0].Environment["EPOCHS"] != "5" {
		t.Errorf("models = %+v", ms)
	}
	if d := cmp.Diff(map[plat.WorkloadID][]string{spec.ID: {"lines"}}, w.spooled); d != "" {
		t.Errorf("spool (-want +got):\n%s", d)
	}
	tok = w.token(spec)
	if life := tok.ExpiresAt.Sub(tok.EndedAt); tok.EndedAt.IsZero() || life < 59*time.Minute || life > 61*time.Minute {
		t.Errorf("token ends %v, expires %v", tok.EndedAt, tok.ExpiresAt)
	}
	if list, _ := w.run.List(t.Context()); len(list) != 0 {
		t.Errorf("the runner still knows %v", list)
	}
	if got := w.told(j.ID); got != "created Active Complete" {
		t.Errorf("events = %s", got)
	}
}

// TestEnds is the table of §2.7: what the workload does, and what becomes of the job.
func TestEnds(t *testing.T) {
	trace := "handler raised\nTraceback (most recent call last):\nValueError: planted"
	for _, c := range []struct {
		name    string
		script  fakerunner.Script
		stop    bool // by the API, while it runs
		result  bool
		status  train.Status
		message string
		models  int
		events  string
	}{
		{"exit 0", fakerunner.Script{Exit: &fakerunner.Exit{}}, false, true, train.Complete, "", 1, "created Active Complete"},
		{"exit 0 without a result", fakerunner.Script{Exit: &fakerunner.Exit{}}, false, false, train.Complete, "", 0, "created Active Complete"},
		{"exit 1", fakerunner.Script{Exit: &fakerunner.Exit{Code: 1, Reason: trace}}, false, true, train.Failed, "ValueError: planted", 0, "created Active Failed"},
		{"exit 3 without a reason", fakerunner.Script{Exit: &fakerunner.Exit{Code: 3}}, false, false, train.Failed, "ended with code 3", 0, "created Active Failed"},
		{"killed", fakerunner.Script{Exit: &fakerunner.Exit{Code: 137, Reason: "killed: memory limit 2.00 GiB reached"}}, false, false, train.Failed, "memory limit", 0, "created Active Failed"},
		{"words that no database takes", fakerunner.Script{Exit: &fakerunner.Exit{Code: 1, Reason: "a\x00b\xff" + strings.Repeat("é", 20_000) + "end"}}, false, false, train.Failed, "end", 0, "created Active Failed"},
		{"stopped by the user", fakerunner.Script{Running: true}, true, true, train.Stopped, "", 0, "created Active Stopped"},
		{"can never start", fakerunner.Script{Err: plat.Errorf(plat.ErrInvalid, "image \"x\" is not known here: add it to the configuration key profiles")}, false, false, train.Failed, "configuration key profiles", 0, "created Failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, fakerunner.Config{Script: func(runner.Spec) fakerunner.Script { return c.script }})
			j := w.job()
			if c.result {
				w.upload(j)
			}
			w.pass(2)
			if c.stop {
				svc := train.NewService(train.Options{Store: w.store, Blobs: w.blobs, Now: w.now})
				if _, err := svc.StopJob(t.Context(), j.Org, "leaf", j.ID); err != nil {
					t.Fatal(err)
				}
			}
			w.pass(3)
			got := w.is(j.ID, c.status, c.message)
			if !got.Settled || got.CompletedAt.IsZero() {
				t.Errorf("settled %v, completed at %v", got.Settled, got.CompletedAt)
			}
			if n := len(w.models()); n != c.models {
				t.Errorf("models = %d, want %d", n, c.models)
			}
			if list, _ := w.run.List(t.Context()); len(list) != 0 {
				t.Errorf("the runner still knows %v", list)
			}
			if got := w.told(j.ID); got != c.events {
				t.Errorf("events = %s, want %s", got, c.events)
			}
		})
	}
}

// TestStopKeepsItsGrace: the runner is asked once, however often we look.
func TestStopKeepsItsGrace(t *testing.T) {
	w := newWorld(t, fakerunner.Config{Script: func(runner.Spec) fakerunner.Script {
		return fakerunner.Script{Running: true, IgnoreStop: true}
	}})
	stops := &countStops{Runner: w.run}
	cfg := w.config()
	cfg.Runner = stops
	w.rec = job.New(cfg)
	j := w.job()
	w.pass(1)
	svc := train.NewService(train.Options{Store: w.store, Blobs: w.blobs, Now: w.now})
	if _, err := svc.StopJob(t.Context(), j.Org, "leaf", j.ID); err != nil {
		t.Fatal(err)
	}
	w.pass(5)
	if len(stops.graces) != 1 || stops.graces[0] < 35*time.Second {
		t.Errorf("stops = %v, want one with at least 35 s (compute.md §2.7)", stops.graces)
	}
	if got := w.get(j.ID); got.Settled || got.Status != train.Stopped {
		t.Errorf("job = %s settled %v while its workload lives", got.Status, got.Settled)
	}
	w.run.Exit(w.get(j.ID).Workload, 1, "")
	w.pass(1)
	if !w.get(j.ID).Settled {
		t.Error("not settled after the end")
	}
}

type countStops struct {
	runner.Runner
	graces []time.Duration
}

func (c *countStops) Stop(ctx context.Context, id plat.WorkloadID, grace time.Duration) error {
	c.graces = append(c.graces, grace)
	return c.Runner.Stop(ctx, id, grace)
}

func TestStopBeforeTheStart(t *testing.T) {
	w := newWorld(t, fakerunner.Config{})
	j := w.job()
	svc := train.NewService(train.Options{Store: w.store, Blobs: w.blobs, Now: w.now})
	if _, err := svc.StopJob(t.Context(), j.Org, "leaf", j.ID); err != nil {
		t.Fatal(err)
	}
	w.pass(2)
	if got := w.is(j.ID, train.Stopped, ""); !got.Settled || len(w.run.Started()) != 0 {
		t.Errorf("job = %+v, started %v", got, w.run.Started())
	}
}

func gib(n int64) int64 { return n << 30 }

func TestQueueIsFairAndSaysWhy(t *testing.T) {
	w := newWorld(t, fakerunner.Config{Total: plat.Resources{MilliCPU: 4000, Memory: gib(8), GPUs: 1}})
	typed := func(name string) func(*train.Job) { return func(j *train.Job) { j.InstanceType = name } }
	a := w.job(typed("cpu-2"))
	big := w.job(typed("cpu-4"))
	small := w.job(typed("cpu-1"))
	never := w.job(typed("cpu-8"))
	w.pass(1)
	w.is(a.ID, train.Active, "")
	w.is(big.ID, train.Pending, "waiting for CPU: 4 vCPU needed, 2 vCPU of 4 vCPU free")
	w.is(small.ID, train.Pending, "waiting its turn")
	w.is(never.ID, train.Failed, "choose a smaller instance type")
	// A stream of small jobs must not starve the big one.
	for range 3 {
		w.job()
	}
	w.pass(3)
	if n := len(w.run.Started()); n != 1 {
		t.Fatalf("started %d while an older job waits for what they take", n)
	}
	w.run.Exit(w.get(a.ID).Workload, 0, "")
	w.pass(2)
	w.is(big.ID, train.Active, "")
	w.is(small.ID, train.Pending, "waiting for CPU")
	w.run.Exit(w.get(big.ID).Workload, 0, "")
	w.pass(2)
	w.is(small.ID, train.Active, "")
	if n := len(w.run.Started()); n != 6 {
		t.Errorf("started %d, want all 6 that fit", n)
	}
}

func TestWaitingForAGPUHoldsUpOnlyItsClaim(t *testing.T) {
	w := newWorld(t, fakerunner.Config{Total: plat.Resources{MilliCPU: 10_000, Memory: gib(64), GPUs: 1}})
	typed := func(name string) func(*train.Job) { return func(j *train.Job) { j.InstanceType = name } }
	first, second := w.job(typed("gpu-1")), w.job(typed("gpu-1"))
	cpu := w.job(typed("cpu-1"))
	w.pass(1)
	w.is(first.ID, train.Active, "")
	w.is(second.ID, train.Pending, "GPU")
	w.is(cpu.ID, train.Active, "")
}

// TestARefusedStartIsTriedAgain: the runner says for itself that there is no room.
func TestARefusedStartIsTriedAgain(t *testing.T) {
	full := true
	w := newWorld(t, fakerunner.Config{Script: func(runner.Spec) fakerunner.Script {
		if full {
			return fakerunner.Script{Err: plat.Errorf(plat.ErrExhausted, "waiting for pids")}
		}
		return fakerunner.Script{Running: true}
	}})
	j := w.job()
	w.pass(2)
	planned := w.is(j.ID, train.Pending, "waiting for pids").Workload
	full = false
	w.pass(1)
	if got := w.is(j.ID, train.Active, ""); got.Workload != planned || planned == "" {
		t.Errorf("workload %q became %q", planned, got.Workload)
	}
}

func TestALostWorkloadFailsItsJob(t *testing.T) {
	w := newWorld(t, fakerunner.Config{})
	j := w.job()
	w.pass(1)
	w.run = fakerunner.New(fakerunner.Config{}) // another machine: the first one's disk is gone
	w.rec = job.New(w.config())
	w.pass(2)
	if got := w.is(j.ID, train.Failed, "is gone"); !got.Settled || len(w.run.Started()) != 0 {
		t.Errorf("job = %+v, started again %v", got, w.run.Started())
	}
}

// TestALogStoreThatIsFullDoesNotHoldUpTheEnd, but the lines stay until they are stored.
func TestALogStoreThatIsFullDoesNotHoldUpTheEnd(t *testing.T) {
	w := newWorld(t, fakerunner.Config{Script: func(runner.Spec) fakerunner.Script {
		return fakerunner.Script{Exit: &fakerunner.Exit{}, Spool: []runner.SpoolBatch{runner.SpoolBatch("line")}}
	}})
	w.ingest = func() error { return plat.Errorf(plat.ErrUnavailable, "full") }
	j := w.job()
	w.pass(3)
	got := w.is(j.ID, train.Complete, "")
	if list, _ := w.run.List(t.Context()); got.Settled || len(list) != 1 {
		t.Fatalf("settled %v with the lines only in %v", got.Settled, list)
	}
	w.ingest = func() error { return nil }
	w.pass(1)
	if got := w.get(j.ID); !got.Settled || len(w.spooled[got.Workload]) != 1 {
		t.Errorf("settled %v, spooled %v", got.Settled, w.spooled)
	}
}

func TestASpoolOfNonsenseDoesNotHoldUpAJobForEver(t *testing.T) {
	w := newWorld(t, fakerunner.Config{Script: func(runner.Spec) fakerunner.Script {
		return fakerunner.Script{Exit: &fakerunner.Exit{}, Spool: []runner.SpoolBatch{runner.SpoolBatch("\x00")}}
	}})
	w.ingest = func() error { return plat.Errorf(plat.ErrInvalid, "no JSON") }
	j := w.job()
	w.pass(2)
	if !w.get(j.ID).Settled {
		t.Error("not settled")
	}
}

func TestDeletingADefinitionEndsWhatWindsDownAndEmptiesItsTrash(t *testing.T) {
	w := newWorld(t, fakerunner.Config{})
	j := w.job()
	w.pass(1)
	w.upload(j)
	if _, err := w.blobs.Put(t.Context(), "train/other", strings.NewReader("x"), 1, blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	svc := train.NewService(train.Options{Store: w.store, Blobs: w.blobs, Now: w.now})
	if _, err := svc.StopJob(t.Context(), j.Org, "leaf", j.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := svc.DeleteDefinition(t.Context(), j.Org, "leaf"); err != nil {
		t.Fatal(err)
	}
	w.pass(2)
	if list, _ := w.run.List(t.Context()); len(list) != 0 {
		t.Errorf("the workload of a deleted job lives: %v", list)
	}
	infos, _, err := w.blobs.List(t.Context(), "train/", "", 10)
	if err != nil || len(infos) != 1 || infos[0].Key != "train/other" {
		t.Errorf("objects left: %v %v", infos, err)
	}
	if trash, _ := w.store.Trash(t.Context(), 10); len(trash) != 0 {
		t.Errorf("trash = %v", trash)
	}
}

// TestOtherWorkloadsAreLeftAlone: services, and training that is not a job's.
func TestOtherWorkloadsAreLeftAlone(t *testing.T) {
	w := newWorld(t, fakerunner.Config{})
	for id, s := range map[plat.WorkloadID]runner.Spec{
		"wl-0000000000000001": {Kind: runner.KindService, LogStream: "service/ser-1"},
		"wl-0000000000000002": {Kind: runner.KindTraining, LogStream: "other/1"},
	} {
		s.ID, s.Org, s.Image, s.Resources = id, w.def.Org, "a/b", plat.Resources{MilliCPU: 1, Memory: 1}
		w.must(w.run.Start(t.Context(), s))
	}
	w.pass(2)
	list, _ := w.run.List(t.Context())
	for _, st := range list {
		if st.Stopped || st.Phase == runner.PhaseExited {
			t.Errorf("touched %+v", st)
		}
	}
	if len(list) != 2 {
		t.Errorf("workloads = %v", list)
	}
}

// TestRunIsWoken: nothing but wake-ups drives this job, the resync is an hour away.
func TestRunIsWoken(t *testing.T) {
	w := newWorld(t, fakerunner.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cfg := w.config()
	cfg.Resync, cfg.Now = time.Hour, plat.SystemClock
	cfg.Wake = w.db.Hub().Watch(ctx, train.TopicJob)
	w.rec = job.New(cfg)
	done := make(chan error, 1)
	go func() { done <- w.rec.Run(ctx) }()
	j := w.job()
	eventually(t, "the start", func() bool { return w.get(j.ID).Status == train.Active })
	w.run.Exit(w.get(j.ID).Workload, 0, "")
	eventually(t, "the end", func() bool { return w.get(j.ID).Settled })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestMessageKeepsFirstLineAndTail(t *testing.T) {
	s := "handler raised\n" + strings.Repeat("x\n", 20_000) + "ValueError: planted"
	got := job.Message(s)
	if len(got) > 17<<10 || !strings.HasPrefix(got, "handler raised\n") || !strings.HasSuffix(got, "ValueError: planted") {
		t.Errorf("%d bytes: %.40q … %q", len(got), got, got[len(got)-30:])
	}
}

// TestHeldOrganization: jobs of an organization that is not served wait, say why, and
// claim nothing; then they run.
func TestHeldOrganization(t *testing.T) {
	w := newWorld(t, fakerunner.Config{})
	why := "waiting: organization acme is suspended"
	cfg := w.config()
	cfg.Held = func(context.Context, plat.OrgID) (string, error) { return why, nil }
	w.rec = job.New(cfg)
	j := w.job()
	w.pass(2)
	w.is(j.ID, train.Pending, why)
	if n := len(w.run.Started()); n != 0 {
		t.Errorf("%d workloads started", n)
	}
	why = ""
	w.pass(1)
	w.is(j.ID, train.Active, "")
}
