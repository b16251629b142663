// SPDX-License-Identifier: Apache-2.0

// Package runnertest is the contract of runner.Runner as a suite. Each sentence
// of the contract is a named subtest; an adapter's whole test is one call to Run.
//
// What the suite's workloads do stands in their environment under EnvDo; the
// adapter's harness sees to it (a fake agent, or a script).
package runnertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/plat"
	"panal/internal/runner"
)

// EnvDo is the variable of Spec.Env that says what a workload does.
const EnvDo = "RUNNERTEST_DO"

// What a workload can be told to do under EnvDo. All but DoHang end with code 0
// soon after Stop unless they have ended before.
const (
	// DoServe runs (a service: healthy) until it is stopped.
	DoServe = "serve"
	// DoStart stays in PhaseStarting.
	DoStart = "start"
	// DoSucceed runs and ends with code 0.
	DoSucceed = "succeed"
	// DoFail ends with code 1, reason FailReason and tail FailTail.
	DoFail = "fail"
	// DoHang runs and takes no notice of being asked to end.
	DoHang = "hang"
	// DoCrash runs and then kills its own agent (signal 9).
	DoCrash = "crash"
	// DoSpool leaves the batches of Spooled and ends with code 0.
	DoSpool = "spool"
)

// What DoFail and DoSpool leave behind.
const (
	FailReason = "handler raised on import"
	FailTail   = "Traceback (most recent call last):\nValueError: planted"
)

// Spooled returns the batches that DoSpool leaves, in order: lines 1 and 2, then 3.
func Spooled(id plat.WorkloadID) []runner.SpoolBatch {
	head := `{"workload_id":"` + string(id) + `","stream":"job/1","first_seq":`
	return []runner.SpoolBatch{
		runner.SpoolBatch(head + `1,"entries":[{"t":1,"m":"one"},{"t":2,"m":"two"}]}`),
		runner.SpoolBatch(head + `3,"entries":[{"t":3,"m":"three"}]}`),
	}
}

// Total and JobShare are the machine that a harness must provide.
var (
	Total    = plat.Resources{MilliCPU: 4000, Memory: 4 << 30, GPUs: 2}
	JobShare = plat.Resources{MilliCPU: 3000, Memory: 3 << 30, GPUs: 2}
)

// Image is a profile that the harness must know; UnknownImage one that it may not.
const (
	Image        = "abeja-inc/all-cpu:19.10"
	UnknownImage = "example.com/nobody/knows:1"
)

// Harness makes runners for the suite.
type Harness struct {
	// New returns a runner over fresh state, with Total, JobShare and Image, and
	// cleans it and its workloads up through t.Cleanup.
	New func(t *testing.T) Subject
}

// Subject is one runner under test.
type Subject struct {
	runner.Runner
	// Reopen closes the runner and returns a new one over the same state.
	Reopen func(t *testing.T) Subject
}

// Run holds an adapter to the contract.
func Run(t *testing.T, h Harness) {
	for _, c := range contract {
		t.Run(c.name, func(t *testing.T) { c.check(t, h.New(t)) })
	}
}

// patience is how long the suite waits for what must happen, on a loaded machine.
const patience = 30 * time.Second

// Spec returns a spec of a workload that does what do says.
func Spec(kind runner.Kind, do string) runner.Spec {
	id := plat.WorkloadID(plat.NewHexID("wl"))
	return runner.Spec{
		ID: id, Org: "1000000000001", Kind: kind, Image: Image,
		Resources: plat.Resources{MilliCPU: 250, Memory: 128 << 20},
		Env:       map[string]string{EnvDo: do}, Token: "secret-token-of-" + string(id),
		LogStream: "job/1", Reserve: kind == runner.KindService,
	}
}

// Await polls until the status of id satisfies ok, and returns it.
func Await(t *testing.T, r runner.Runner, id plat.WorkloadID, what string, ok func(runner.Status) bool) runner.Status {
	t.Helper()
	var last runner.Status
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		st, err := r.Get(t.Context(), id)
		if err != nil {
			t.Fatalf("Get(%s): %v", id, err)
		}
		if ok(st) {
			return st
		}
		last = st
	}
	t.Fatalf("workload %s is not %s after %v: %+v", id, what, patience, last)
	return last
}

// AwaitExit waits until the workload has ended.
func AwaitExit(t *testing.T, r runner.Runner, id plat.WorkloadID) runner.Status {
	t.Helper()
	return Await(t, r, id, "exited", func(s runner.Status) bool { return s.Phase == runner.PhaseExited })
}

// AwaitRunning waits until the workload runs (and a service is healthy).
func AwaitRunning(t *testing.T, r runner.Runner, id plat.WorkloadID) runner.Status {
	t.Helper()
	return Await(t, r, id, "running", func(s runner.Status) bool {
		return s.Phase == runner.PhaseRunning && (s.Healthy || s.Kind != runner.KindService)
	})
}

func start(t *testing.T, r runner.Runner, spec runner.Spec) plat.WorkloadID {
	t.Helper()
	if err := r.Start(t.Context(), spec); err != nil {
		t.Fatalf("Start: %v", err)
	}
	return spec.ID
}

func wantKind(t *testing.T, err, kind error, texts ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("error = %v, want %v", err, kind)
	}
	for _, s := range texts {
		if !strings.Contains(err.Error(), s) {
			t.Fatalf("error %q does not say %q", err, s)
		}
	}
}

func wantNothing(t *testing.T, r runner.Runner) {
	t.Helper()
	list, err := r.List(t.Context())
	if err != nil || len(list) != 0 {
		t.Fatalf("List = %+v, %v, want nothing", list, err)
	}
	c, err := r.Capacity(t.Context())
	if err != nil || c.Used != (plat.Resources{}) {
		t.Fatalf("Capacity = %+v, %v, want nothing used", c, err)
	}
}

var contract = []struct {
	name  string
	check func(*testing.T, Subject)
}{
	{"Start/the_agent_runs_and_is_listed", func(t *testing.T, r Subject) {
		spec := Spec(runner.KindTraining, DoStart)
		before := time.Now().Add(-time.Second)
		id := start(t, r, spec)
		st, err := r.Get(t.Context(), id)
		if err != nil || st.Phase != runner.PhaseStarting || st.PID == 0 || st.StartedAt.Before(before) {
			t.Fatalf("Get = %+v, %v", st, err)
		}
		want := runner.Status{ID: id, Org: spec.Org, Kind: spec.Kind, LogStream: spec.LogStream, Phase: runner.PhaseStarting, PID: st.PID, StartedAt: st.StartedAt}
		if diff := cmp.Diff(want, st); diff != "" {
			t.Fatal(diff)
		}
		if list, err := r.List(t.Context()); err != nil || len(list) != 1 || list[0] != st {
			t.Fatalf("List = %+v, %v", list, err)
		}
	}},
	{"Start/a_known_id_starts_nothing", func(t *testing.T, r Subject) {
		spec := Spec(runner.KindService, DoServe)
		first := AwaitRunning(t, r, start(t, r, spec))
		start(t, r, spec)
		if st, err := r.Get(t.Context(), spec.ID); err != nil || st.PID != first.PID || st.StartedAt != first.StartedAt {
			t.Fatalf("after the second Start: %+v, %v; was %+v", st, err, first)
		}
		if c, err := r.Capacity(t.Context()); err != nil || c.Used != spec.Resources {
			t.Fatalf("Capacity = %+v, %v: counted twice", c, err)
		}
	}},
	{"Start/an_ended_id_starts_nothing", func(t *testing.T, r Subject) {
		spec := Spec(runner.KindTraining, DoSucceed)
		st := AwaitExit(t, r, start(t, r, spec))
		start(t, r, spec)
		if again, err := r.Get(t.Context(), spec.ID); err != nil || again != st {
			t.Fatalf("after the second Start: %+v, %v; was %+v", again, err, st)
		}
	}},
	{"Start/concurrent_calls_start_one", func(t *testing.T, r Subject) {
		spec := Spec(runner.KindTraining, DoServe)
		var wg sync.WaitGroup
		errs := make([]error, 4)
		for i := range errs {
			wg.Go(func() { errs[i] = r.Start(t.Context(), spec) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if c, err := r.Capacity(t.Context()); err != nil || c.Used != spec.Resources {
			t.Fatalf("Capacity = %+v, %v, want one workload's", c, err)
		}
		AwaitRunning(t, r, spec.ID)
	}},
	{"Start/concurrent_calls_never_overcommit", func(t *testing.T, r Subject) {
		var wg sync.WaitGroup
		errs := make([]error, 6)
		for i := range errs {
			spec := Spec(runner.KindService, DoStart)
			spec.Resources.MilliCPU = 1500
			wg.Go(func() { errs[i] = r.Start(t.Context(), spec) })
		}
		wg.Wait()
		ok := 0
		for _, err := range errs {
			if err == nil {
				ok++
			} else {
				wantKind(t, err, plat.ErrExhausted)
			}
		}
		if ok != 2 {
			t.Fatalf("%d workloads of 1.5 vCPU started on 4 vCPU, want 2", ok)
		}
	}},
	{"Start/an_unknown_image_is_ErrInvalid_and_names_the_configuration_key", func(t *testing.T, r Subject) {
		spec := Spec(runner.KindTraining, DoServe)
		spec.Image = UnknownImage
		wantKind(t, r.Start(t.Context(), spec), plat.ErrInvalid, UnknownImage, "profiles")
		wantNothing(t, r)
	}},
	{"Start/what_can_never_fit_is_ErrInvalid", func(t *testing.T, r Subject) {
		for _, res := range []plat.Resources{
			{MilliCPU: Total.MilliCPU + 1, Memory: 1},
			{MilliCPU: 1, Memory: Total.Memory + 1},
			{MilliCPU: 1, Memory: 1, GPUs: Total.GPUs + 1},
		} {
			spec := Spec(runner.KindService, DoServe)
			spec.Resources = res
			wantKind(t, r.Start(t.Context(), spec), plat.ErrInvalid)
		}
		wantNothing(t, r)
	}},
	{"Start/bad_specs_are_ErrInvalid", func(t *testing.T, r Subject) {
		for name, spoil := range map[string]func(*runner.Spec){
			"path as id":         func(s *runner.Spec) { s.ID = "../wl-0000000000000000" },
			"empty id":           func(s *runner.Spec) { s.ID = "" },
			"path as org":        func(s *runner.Spec) { s.Org = "../../etc" },
			"unknown kind":       func(s *runner.Spec) { s.Kind = "notebook" },
			"no image":           func(s *runner.Spec) { s.Image = "" },
			"no memory":          func(s *runner.Spec) { s.Resources.Memory = 0 },
			"zero byte in env":   func(s *runner.Spec) { s.Env["A"] = "x\x00y" },
			"equals sign in env": func(s *runner.Spec) { s.Env["A=B"] = "x" },
			"reserved name":      func(s *runner.Spec) { s.Env["PANAL_AGENT_CONTROL_FD"] = "9" },
		} {
			spec := Spec(runner.KindTraining, DoServe)
			spoil(&spec)
			if err := r.Start(t.Context(), spec); !errors.Is(err, plat.ErrInvalid) {
				t.Errorf("%s: %v, want ErrInvalid", name, err)
			}
		}
		wantNothing(t, r)
	}},
	{"Start/cancelled_context_starts_nothing", func(t *testing.T, r Subject) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.Start(ctx, Spec(runner.KindTraining, DoServe)); !errors.Is(err, context.Canceled) {
			t.Fatalf("Start = %v, want context.Canceled", err)
		}
		wantNothing(t, r)
	}},
	{"Admission/what_does_not_fit_now_is_ErrExhausted_and_fits_when_room_is_made", func(t *testing.T, r Subject) {
		big := Spec(runner.KindService, DoServe)
		big.Resources = plat.Resources{MilliCPU: 3000, Memory: 1 << 30}
		start(t, r, big)
		next := Spec(runner.KindService, DoServe)
		next.Resources = plat.Resources{MilliCPU: 2000, Memory: 1 << 30}
		wantKind(t, r.Start(t.Context(), next), plat.ErrExhausted, "CPU", "2 vCPU needed", "1 vCPU")
		if _, err := r.Get(t.Context(), next.ID); !errors.Is(err, plat.ErrNotFound) {
			t.Fatalf("Get(refused) = %v, want ErrNotFound", err)
		}
		if err := r.Stop(t.Context(), big.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		AwaitExit(t, r, big.ID)
		start(t, r, next)
	}},
	{"Admission/services_have_a_reserve_that_jobs_do_not_touch", func(t *testing.T, r Subject) {
		job := Spec(runner.KindTraining, DoServe)
		job.Resources = plat.Resources{MilliCPU: 2000, Memory: 1 << 30}
		start(t, r, job)
		second := Spec(runner.KindTraining, DoServe)
		second.Resources = plat.Resources{MilliCPU: 2000, Memory: 1 << 30}
		wantKind(t, r.Start(t.Context(), second), plat.ErrExhausted, "CPU")
		service := Spec(runner.KindService, DoServe)
		service.Resources = second.Resources
		start(t, r, service)
	}},
	{"Admission/a_lone_job_may_be_larger_than_the_share", func(t *testing.T, r Subject) {
		job := Spec(runner.KindTraining, DoServe)
		job.Resources = Total
		start(t, r, job)
	}},
	{"Admission/GPUs_are_exclusive", func(t *testing.T, r Subject) {
		for range Total.GPUs {
			spec := Spec(runner.KindService, DoServe)
			spec.Resources.GPUs = 1
			start(t, r, spec)
		}
		spec := Spec(runner.KindService, DoServe)
		spec.Resources.GPUs = 1
		wantKind(t, r.Start(t.Context(), spec), plat.ErrExhausted, "GPU", "0 of 2 free")
	}},
	{"Capacity/tells_total_share_and_use", func(t *testing.T, r Subject) {
		job, service := Spec(runner.KindTraining, DoServe), Spec(runner.KindService, DoServe)
		service.Resources.MilliCPU = 500
		start(t, r, job)
		start(t, r, service)
		want := runner.Capacity{Total: Total, JobShare: JobShare}
		want.Take(job.Resources, false)
		want.Take(service.Resources, true)
		got, err := r.Capacity(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	}},
	{"Capacity/ended_workloads_use_nothing", func(t *testing.T, r Subject) {
		AwaitExit(t, r, start(t, r, Spec(runner.KindTraining, DoSucceed)))
		if c, err := r.Capacity(t.Context()); err != nil || c.Used != (plat.Resources{}) {
			t.Fatalf("Capacity = %+v, %v", c, err)
		}
	}},
	{"Status/a_training_runs_and_succeeds", func(t *testing.T, r Subject) {
		id := start(t, r, Spec(runner.KindTraining, DoSucceed))
		st := AwaitExit(t, r, id)
		if st.ExitCode != 0 || st.Reason != "" || st.Stopped || st.EndedAt.Before(st.StartedAt) || st.Healthy {
			t.Fatalf("status = %+v", st)
		}
	}},
	{"Status/a_failure_says_why_with_the_last_lines", func(t *testing.T, r Subject) {
		st := AwaitExit(t, r, start(t, r, Spec(runner.KindTraining, DoFail)))
		if st.ExitCode != 1 || st.Reason != FailReason+"\n"+FailTail {
			t.Fatalf("status = %+v", st)
		}
	}},
	{"Status/a_killed_agent_is_137_with_a_reason", func(t *testing.T, r Subject) {
		st := AwaitExit(t, r, start(t, r, Spec(runner.KindTraining, DoCrash)))
		if st.ExitCode != 137 || !strings.Contains(st.Reason, "killed") || st.Stopped {
			t.Fatalf("status = %+v", st)
		}
	}},
	{"Status/a_running_service_is_healthy_and_has_an_address", func(t *testing.T, r Subject) {
		st := AwaitRunning(t, r, start(t, r, Spec(runner.KindService, DoServe)))
		if !slices.Contains([]string{"unix", "tcp"}, st.Addr.Network) || st.Addr.Address == "" {
			t.Fatalf("Addr = %+v", st.Addr)
		}
		training := AwaitRunning(t, r, start(t, r, Spec(runner.KindTraining, DoServe)))
		if training.Addr != (runner.Addr{}) {
			t.Fatalf("a training has an address: %+v", training.Addr)
		}
	}},
	{"Status/the_end_is_reported_until_Remove", func(t *testing.T, r Subject) {
		id := start(t, r, Spec(runner.KindTraining, DoFail))
		st := AwaitExit(t, r, id)
		for range 2 {
			r = r.Reopen(t)
			list, err := r.List(t.Context())
			if err != nil || len(list) != 1 || list[0] != st {
				t.Fatalf("List after reopening = %+v, %v, want %+v", list, err, st)
			}
		}
		if err := r.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		wantNothing(t, r)
		wantNothing(t, r.Reopen(t))
	}},
	{"Get/an_unknown_id_is_ErrNotFound", func(t *testing.T, r Subject) {
		for _, id := range []plat.WorkloadID{"wl-00000000000000ff", "", "../x"} {
			_, err := r.Get(t.Context(), id)
			wantKind(t, err, plat.ErrNotFound)
		}
	}},
	{"Watch/a_change_arrives_soon", func(t *testing.T, r Subject) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		a, b := r.Watch(ctx), r.Watch(ctx)
		id := start(t, r, Spec(runner.KindService, DoServe))
		awaitByWatch(t, r, a, id, runner.PhaseRunning)
		if err := r.Stop(t.Context(), id, time.Minute); err != nil {
			t.Fatal(err)
		}
		awaitByWatch(t, r, a, id, runner.PhaseExited)
		awaitByWatch(t, r, b, id, runner.PhaseExited) // it did not listen before: nothing is held up, nothing lost
	}},
	{"Watch/the_channel_closes_when_ctx_ends_or_the_runner_closes", func(t *testing.T, r Subject) {
		ctx, cancel := context.WithCancel(t.Context())
		ended, kept := r.Watch(ctx), r.Watch(t.Context())
		start(t, r, Spec(runner.KindTraining, DoServe))
		cancel()
		drain(t, ended)
		r.Reopen(t)
		drain(t, kept)
	}},
	{"Stop/a_workload_ends_and_says_that_it_was_stopped", func(t *testing.T, r Subject) {
		id := start(t, r, Spec(runner.KindService, DoServe))
		AwaitRunning(t, r, id)
		if err := r.Stop(t.Context(), id, time.Minute); err != nil {
			t.Fatal(err)
		}
		if st := AwaitExit(t, r, id); !st.Stopped || st.ExitCode != 0 {
			t.Fatalf("status = %+v", st)
		}
	}},
	{"Stop/returns_at_once_and_kills_after_grace", func(t *testing.T, r Subject) {
		id := start(t, r, Spec(runner.KindTraining, DoHang))
		AwaitRunning(t, r, id)
		began := time.Now()
		const grace = 1500 * time.Millisecond
		if err := r.Stop(t.Context(), id, grace); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d >= grace {
			t.Fatalf("Stop took %v", d)
		}
		st := AwaitExit(t, r, id)
		if d := time.Since(began); d < grace {
			t.Fatalf("killed after %v, before the grace of %v was over", d, grace)
		}
		if st.ExitCode != 137 || !st.Stopped || !strings.Contains(st.Reason, "killed") {
			t.Fatalf("status = %+v", st)
		}
	}},
	{"Stop/works_while_starting", func(t *testing.T, r Subject) {
		id := start(t, r, Spec(runner.KindService, DoStart))
		if err := r.Stop(t.Context(), id, time.Minute); err != nil {
			t.Fatal(err)
		}
		if st := AwaitExit(t, r, id); !st.Stopped {
			t.Fatalf("status = %+v", st)
		}
	}},
	{"Stop/a_second_call_may_shorten_the_grace", func(t *testing.T, r Subject) {
		id := start(t, r, Spec(runner.KindTraining, DoHang))
		AwaitRunning(t, r, id)
		for _, grace := range []time.Duration{time.Hour, 0} {
			if err := r.Stop(t.Context(), id, grace); err != nil {
				t.Fatal(err)
			}
		}
		AwaitExit(t, r, id)
	}},
	{"Stop/unknown_and_ended_ids_are_not_errors", func(t *testing.T, r Subject) {
		id := start(t, r, Spec(runner.KindTraining, DoSucceed))
		st := AwaitExit(t, r, id)
		for _, id := range []plat.WorkloadID{id, "wl-00000000000000ff"} {
			if err := r.Stop(t.Context(), id, 0); err != nil {
				t.Fatalf("Stop(%s) = %v", id, err)
			}
		}
		if again, err := r.Get(t.Context(), id); err != nil || again != st {
			t.Fatalf("Stop changed an ended workload: %+v, %v", again, err)
		}
	}},
	{"Spool/is_nothing_for_a_clean_end", func(t *testing.T, r Subject) {
		id := start(t, r, Spec(runner.KindTraining, DoSucceed))
		AwaitExit(t, r, id)
		if got, err := r.Spool(t.Context(), id); err != nil || len(got) != 0 {
			t.Fatalf("Spool = %q, %v", got, err)
		}
	}},
	{"Spool/gives_what_was_not_shipped_in_order_until_Remove", func(t *testing.T, r Subject) {
		id := start(t, r, Spec(runner.KindTraining, DoSpool))
		AwaitExit(t, r, id)
		for range 2 {
			got, err := r.Spool(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(Spooled(id), got); diff != "" {
				t.Fatal(diff)
			}
			r = r.Reopen(t)
		}
	}},
	{"Spool/of_an_unknown_id_is_ErrNotFound", func(t *testing.T, r Subject) {
		_, err := r.Spool(t.Context(), "wl-00000000000000ff")
		wantKind(t, err, plat.ErrNotFound)
	}},
	{"Remove/a_running_workload_is_ErrConflict", func(t *testing.T, r Subject) {
		id := start(t, r, Spec(runner.KindTraining, DoServe))
		wantKind(t, r.Remove(t.Context(), id), plat.ErrConflict)
		if _, err := r.Get(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}},
	{"Remove/forgets_an_ended_workload", func(t *testing.T, r Subject) {
		id := start(t, r, Spec(runner.KindTraining, DoSucceed))
		AwaitExit(t, r, id)
		for range 2 { // the second time it is unknown, which is no error
			if err := r.Remove(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		_, err := r.Get(t.Context(), id)
		wantKind(t, err, plat.ErrNotFound)
		wantNothing(t, r)
	}},
	{"Reopen/workloads_go_on_as_the_same_process", func(t *testing.T, r Subject) {
		service, training := Spec(runner.KindService, DoServe), Spec(runner.KindTraining, DoServe)
		start(t, r, service)
		start(t, r, training)
		was := []runner.Status{AwaitRunning(t, r, service.ID), AwaitRunning(t, r, training.ID)}
		used, err := r.Capacity(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r = r.Reopen(t)
		for _, want := range was {
			got := AwaitRunning(t, r, want.ID)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatal(diff)
			}
		}
		if c, err := r.Capacity(t.Context()); err != nil || c != used {
			t.Fatalf("Capacity = %+v, %v, was %+v", c, err, used)
		}
		start(t, r, service) // still known
		if err := r.Stop(t.Context(), service.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		if st := AwaitExit(t, r, service.ID); st.PID != was[0].PID || !st.Stopped {
			t.Fatalf("status = %+v, was %+v", st, was[0])
		}
	}},
	{"Reopen/a_stop_goes_on", func(t *testing.T, r Subject) {
		id := start(t, r, Spec(runner.KindTraining, DoHang))
		AwaitRunning(t, r, id)
		if err := r.Stop(t.Context(), id, time.Second); err != nil {
			t.Fatal(err)
		}
		r = r.Reopen(t)
		if st := AwaitExit(t, r, id); !st.Stopped || st.ExitCode != 137 {
			t.Fatalf("status = %+v", st)
		}
	}},
	{"Isolation/names_a_level_and_gives_a_reason_for_none", func(t *testing.T, r Subject) {
		level, reason := r.Isolation()
		if level == "" || level == "none" && reason == "" {
			t.Fatalf("Isolation = %q, %q", level, reason)
		}
	}},
}

func awaitByWatch(t *testing.T, r runner.Runner, ch <-chan plat.WorkloadID, id plat.WorkloadID, phase runner.Phase) {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case got, ok := <-ch:
			if !ok {
				t.Fatal("the channel closed")
			}
			if got != id {
				continue
			}
			if st, err := r.Get(t.Context(), id); err != nil {
				t.Fatal(err)
			} else if st.Phase == phase {
				return
			}
		case <-timeout:
			t.Fatalf("no wake-up told of phase %s", phase)
		}
	}
}

func drain(t *testing.T, ch <-chan plat.WorkloadID) {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case _, ok := <-ch:
			if !ok {
				return
			}
		case <-timeout:
			t.Fatal(fmt.Errorf("the channel did not close in %v", patience))
		}
	}
}
