// SPDX-License-Identifier: Apache-2.0

package fakerunner_test

import (
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/fakerunner"
	"panal/internal/runner/runnertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func script(spec runner.Spec) fakerunner.Script {
	switch spec.Env[runnertest.EnvDo] {
	case runnertest.DoServe:
		return fakerunner.Script{Running: true}
	case runnertest.DoSucceed:
		return fakerunner.Script{Running: true, Exit: &fakerunner.Exit{}}
	case runnertest.DoFail:
		return fakerunner.Script{Exit: &fakerunner.Exit{Code: 1, Reason: runnertest.FailReason + "\n" + runnertest.FailTail}}
	case runnertest.DoHang:
		return fakerunner.Script{Running: true, IgnoreStop: true}
	case runnertest.DoCrash:
		return fakerunner.Script{Running: true, Exit: &fakerunner.Exit{Code: 137, Reason: "the agent was killed"}}
	case runnertest.DoSpool:
		return fakerunner.Script{Running: true, Exit: &fakerunner.Exit{}, Spool: runnertest.Spooled(spec.ID)}
	}
	return fakerunner.Script{}
}

func subject(t *testing.T, r *fakerunner.Runner) runnertest.Subject {
	t.Cleanup(func() { _ = r.Close() })
	return runnertest.Subject{Runner: r, Reopen: func(t *testing.T) runnertest.Subject { return subject(t, r.Reopen()) }}
}

func TestContract(t *testing.T) {
	runnertest.Run(t, runnertest.Harness{New: func(t *testing.T) runnertest.Subject {
		return subject(t, fakerunner.New(fakerunner.Config{
			Total: runnertest.Total, JobShare: runnertest.JobShare,
			Images: []string{"abeja-inc/"}, Script: script,
		}))
	}})
}

func TestByHand(t *testing.T) {
	r := fakerunner.New(fakerunner.Config{})
	defer r.Close()
	spec := runnertest.Spec(runner.KindService, "")
	if err := r.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	r.SetPhase(spec.ID, runner.PhaseRunning, true)
	r.SetAddr(spec.ID, runner.Addr{Network: "tcp", Address: "127.0.0.1:1"})
	st, err := r.Get(t.Context(), spec.ID)
	if err != nil || !st.Healthy || st.Addr.Network != "tcp" {
		t.Fatalf("Get = %+v, %v", st, err)
	}
	r.Exit(spec.ID, 1, "planted")
	r.Exit(spec.ID, 0, "the second end does not count")
	if st, _ = r.Get(t.Context(), spec.ID); st.ExitCode != 1 || st.Reason != "planted" {
		t.Fatalf("status = %+v", st)
	}
	if got := r.Started(); len(got) != 1 || got[0].Token != spec.Token {
		t.Fatalf("Started = %+v", got)
	}
}

func TestScriptedErrorStartsNothing(t *testing.T) {
	r := fakerunner.New(fakerunner.Config{Script: func(runner.Spec) fakerunner.Script {
		return fakerunner.Script{Err: plat.Errorf(plat.ErrUnavailable, "planted")}
	}})
	defer r.Close()
	if err := r.Start(t.Context(), runnertest.Spec(runner.KindTraining, "")); !errors.Is(err, plat.ErrUnavailable) {
		t.Fatalf("Start = %v", err)
	}
	if got := r.Started(); len(got) != 0 {
		t.Fatalf("Started = %+v", got)
	}
	_ = r.Stop(t.Context(), "wl-00000000000000ff", time.Second)
}
