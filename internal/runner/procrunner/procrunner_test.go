// SPDX-License-Identifier: Apache-2.0

package procrunner_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/agentctl"
	"panal/internal/runner/procrunner"
	"panal/internal/runner/runnertest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		// Not os.Exit: under the race detector it sleeps for a second.
		case "agent-init":
			unix.Exit(procrunner.InitMain(os.Args[2:]))
		case "agent":
			unix.Exit(fakeAgentMain())
		case "attacker":
			unix.Exit(attackerMain(os.Args[2:]))
		case "server":
			unix.Exit(serverMain(os.Args[2]))
		}
	}
	goleak.VerifyTestMain(m)
}

// tempDir is short: sockets lie below it.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pr") //nolint:usetesting // sockets lie below it: its name must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func config(dir string) procrunner.Config {
	return procrunner.Config{
		Dir:      dir,
		Capacity: runnertest.Total,
		Profiles: map[string]procrunner.Profile{"abeja-inc/*": {Python: "/usr/bin/python3"}},
		Log:      slog.New(slog.DiscardHandler),
	}
}

// open makes a runner whose workloads end with the test.
func open(t *testing.T, cfg procrunner.Config) *procrunner.Runner {
	t.Helper()
	r, err := procrunner.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The last one of several over one directory ends what is left.
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := r.StopAll(ctx, 0); err != nil && !errors.Is(err, plat.ErrUnavailable) {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func subject(t *testing.T, cfg procrunner.Config) runnertest.Subject {
	r := open(t, cfg)
	return runnertest.Subject{Runner: r, Reopen: func(t *testing.T) runnertest.Subject {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		return subject(t, cfg)
	}}
}

func TestContract(t *testing.T) {
	runnertest.Run(t, runnertest.Harness{New: func(t *testing.T) runnertest.Subject {
		return subject(t, config(tempDir(t)))
	}})
}

func TestContractWithoutNamespacesAndCgroups(t *testing.T) {
	runnertest.Run(t, runnertest.Harness{New: func(t *testing.T) runnertest.Subject {
		cfg := config(tempDir(t))
		openUp(t, cfg.Dir)
		cfg.Force(true, true)
		return subject(t, cfg)
	}})
}

// openUp lets other users walk to a temporary directory, as to /var/lib/panal.
func openUp(t *testing.T, dir string) {
	t.Helper()
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T, r runner.Runner, spec runner.Spec) plat.WorkloadID {
	t.Helper()
	if err := r.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	return spec.ID
}

func workDir(cfg procrunner.Config, id plat.WorkloadID) string {
	return filepath.Join(cfg.Dir, "run", string(id), "work")
}

func TestInstanceIsReachedOverItsSocketWithItsKey(t *testing.T) {
	r := open(t, config(tempDir(t)))
	st := runnertest.AwaitRunning(t, r, start(t, r, runnertest.Spec(runner.KindService, runnertest.DoServe)))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, st.Addr.Network, st.Addr.Address)
	}}}
	for key, want := range map[string]int{st.Addr.Key: 200, "wrong": 403} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://i/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(agentctl.HeaderInstanceKey, key)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Fatalf("status %d with key %q, want %d", resp.StatusCode, key, want)
		}
	}
}

// TestSuspicionIsPassedOn: what an agent suspects is told with its reason, and only of a healthy
// service that goes on.
func TestSuspicionIsPassedOn(t *testing.T) {
	r := open(t, config(tempDir(t)))
	id := start(t, r, runnertest.Spec(runner.KindService, "suspect"))
	st := runnertest.Await(t, r, id, "suspicion", func(st runner.Status) bool { return st.Suspect })
	if !st.Healthy || st.Problem != "its health check fails" {
		t.Errorf("one that is suspect is %+v", st)
	}
	if err := r.Stop(t.Context(), id, time.Minute); err != nil {
		t.Fatal(err)
	}
	if st := runnertest.Await(t, r, id, "the end", func(st runner.Status) bool { return st.Phase == runner.PhaseExited }); st.Suspect {
		t.Errorf("one that has ended is %+v", st)
	}
}

// TestSilenceIsSickness: a service whose agent hangs is not healthy, within two of the
// times after which it was to speak, and healthy again when it speaks again. One that never
// said it would is left alone.
func TestSilenceIsSickness(t *testing.T) {
	r := open(t, config(tempDir(t)))
	beats := runnertest.AwaitRunning(t, r, start(t, r, runnertest.Spec(runner.KindService, "beat")))
	quiet := runnertest.AwaitRunning(t, r, start(t, r, runnertest.Spec(runner.KindService, runnertest.DoServe)))
	healthy := func(st runner.Status) bool { return st.Healthy }
	for _, id := range []plat.WorkloadID{beats.ID, quiet.ID} {
		runnertest.Await(t, r, id, "health", healthy)
	}
	began := time.Now()
	for time.Since(began) < 1500*time.Millisecond { // several beats
		if st, err := r.Get(t.Context(), beats.ID); err != nil || !st.Healthy {
			t.Fatalf("one that speaks became %+v, %v", st, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, st := range []runner.Status{beats, quiet} {
		if err := syscall.Kill(st.PID, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	began = time.Now()
	st := runnertest.Await(t, r, beats.ID, "sickness", func(st runner.Status) bool { return !st.Healthy })
	t.Logf("seen after %v", time.Since(began))
	if st.Phase != runner.PhaseRunning || !strings.Contains(st.Problem, "its agent hangs") {
		t.Errorf("one that hangs is %+v", st)
	}
	if st, err := r.Get(t.Context(), quiet.ID); err != nil || !st.Healthy {
		t.Errorf("one that never said when it speaks again is %+v, %v", st, err)
	}
	for _, st := range []runner.Status{beats, quiet} {
		if err := syscall.Kill(st.PID, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	if st := runnertest.Await(t, r, beats.ID, "health", healthy); st.Problem != "" {
		t.Errorf("one that speaks again has the problem %q", st.Problem)
	}
}

func TestExitIsSeenAtOnce(t *testing.T) {
	r := open(t, config(tempDir(t)))
	id := start(t, r, runnertest.Spec(runner.KindTraining, runnertest.DoHang))
	st := runnertest.AwaitRunning(t, r, id)
	ch := r.Watch(t.Context())
	// Best of three: a loaded machine may be late once, not always.
	began := time.Now()
	if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range ch {
		if st, _ := r.Get(t.Context(), id); st.Phase == runner.PhaseExited {
			break
		}
	}
	if d := time.Since(began); d > 2*time.Second {
		t.Fatalf("the exit was seen after %v", d)
	} else {
		t.Logf("the exit was seen after %v", d)
	}
}

func TestRecordHoldsNoSecret(t *testing.T) {
	cfg := config(tempDir(t))
	r := open(t, cfg)
	spec := runnertest.Spec(runner.KindTraining, runnertest.DoServe)
	spec.Env["USER_SECRET"] = "user-secret-value"
	start(t, r, spec)
	path := filepath.Join(cfg.Dir, "run", string(spec.ID), "spec.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{spec.Token, "user-secret-value"} {
		if bytes.Contains(data, []byte(s)) {
			t.Fatalf("spec.json holds %q", s)
		}
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("spec.json: %v, %v", fi.Mode(), err)
	}
}

func TestProfiles(t *testing.T) {
	cfg := config(tempDir(t))
	cfg.Profiles["acme/gpu:*"] = procrunner.Profile{Python: "/opt/acme/bin/python3", SiteDirs: []string{"/opt/acme/site"}}
	r := open(t, cfg)
	spec := runnertest.Spec(runner.KindTraining, "attack")
	spec.Image = "acme/gpu:12"
	spec.Env["ATTACK"] = "environ"
	id := start(t, r, spec)
	runnertest.AwaitExit(t, r, id)
	got := readResult(t, cfg, id).Text
	for _, want := range []string{agentctl.EnvPython + "=/opt/acme/bin/python3", "PYTHONPATH=/opt/acme/site", "PLATFORM_AUTH_TOKEN=" + spec.Token, "CUDA_VISIBLE_DEVICES=\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("the environment lacks %q:\n%s", want, got)
		}
	}
}

func TestGPUsAreNamedAndNotShared(t *testing.T) {
	cfg := config(tempDir(t))
	r := open(t, cfg)
	seen := map[string]bool{}
	for range 2 {
		spec := runnertest.Spec(runner.KindTraining, "attack")
		spec.Resources.GPUs = 1
		spec.Env["ATTACK"] = "environ-and-wait"
		id := start(t, r, spec)
		text := awaitResult(t, cfg, id).Text
		_, after, _ := strings.Cut(text, "CUDA_VISIBLE_DEVICES=")
		dev, _, _ := strings.Cut(after, "\n")
		if dev == "" || seen[dev] {
			t.Fatalf("CUDA_VISIBLE_DEVICES=%q, taken: %v", dev, seen)
		}
		seen[dev] = true
	}
}

func TestSecondServerAdoptsAfterKill(t *testing.T) {
	dir := tempDir(t)
	openUp(t, dir)
	cfg := config(dir)
	service, training := runnertest.Spec(runner.KindService, runnertest.DoServe), runnertest.Spec(runner.KindTraining, runnertest.DoHang)
	dies := runnertest.Spec(runner.KindTraining, runnertest.DoHang)
	// A server process starts three and is killed.
	server := exec.CommandContext(t.Context(), "/proc/self/exe", "server", dir)
	server.Env = append(os.Environ(), "IDS="+strings.Join([]string{string(service.ID), string(training.ID), string(dies.ID)}, ","))
	server.Stderr = os.Stderr
	server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	pids := map[plat.WorkloadID]int{}
	for range 3 {
		var id plat.WorkloadID
		var pid int
		if _, err := fmt.Fscan(out, &id, &pid); err != nil {
			t.Fatal(err)
		}
		pids[id] = pid
	}
	// First the signals that a terminal or service manager sends to the group.
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		if err := syscall.Kill(-server.Process.Pid, sig); err != nil {
			t.Fatal(err)
		}
	}
	_ = server.Wait()
	if err := syscall.Kill(pids[dies.ID], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); syscall.Kill(pids[dies.ID], 0) == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			break // a zombie whose new parent does not reap: it is gone all the same
		}
	}

	r := open(t, cfg)
	for _, id := range []plat.WorkloadID{service.ID, training.ID} {
		if st := runnertest.AwaitRunning(t, r, id); st.PID != pids[id] {
			t.Fatalf("%s runs as %d, was %d", id, st.PID, pids[id])
		}
	}
	if st := runnertest.AwaitExit(t, r, dies.ID); st.ExitCode != 137 || !strings.Contains(st.Reason, "the agent was killed") {
		t.Fatalf("status = %+v", st)
	}
	if err := r.Stop(t.Context(), service.ID, time.Minute); err != nil {
		t.Fatal(err)
	}
	if st := runnertest.AwaitExit(t, r, service.ID); st.ExitCode != 0 || !st.Stopped {
		t.Fatalf("status = %+v", st)
	}
}

// serverMain is the server of TestSecondServerAdoptsAfterKill.
func serverMain(dir string) int {
	r, err := procrunner.New(config(dir))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for i, id := range strings.Split(os.Getenv("IDS"), ",") {
		spec := runnertest.Spec(runner.KindTraining, runnertest.DoHang)
		if i == 0 {
			spec = runnertest.Spec(runner.KindService, runnertest.DoServe)
		}
		spec.ID = plat.WorkloadID(id)
		if err := r.Start(context.Background(), spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		for {
			st, err := r.Get(context.Background(), spec.ID)
			if err != nil || st.Phase == runner.PhaseExited {
				fmt.Fprintln(os.Stderr, st, err)
				return 1
			}
			if st.Phase == runner.PhaseRunning {
				fmt.Println(st.ID, st.PID)
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	time.Sleep(time.Hour)
	return 0
}

func TestHalfStartedWorkloadIsForgotten(t *testing.T) {
	cfg := config(tempDir(t))
	dir := filepath.Join(cfg.Dir, "run", "wl-00000000000000aa")
	if err := os.MkdirAll(filepath.Join(dir, "work"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := open(t, cfg)
	if list, err := r.List(t.Context()); err != nil || len(list) != 0 {
		t.Fatalf("List = %+v, %v", list, err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the rest is still there: %v", err)
	}
}

func TestLongDataDirectoryStillHasSockets(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Setenv("HOME", tempDir(t))
	}
	cfg := config(filepath.Join(tempDir(t), strings.Repeat("x", 100)))
	r := open(t, cfg)
	st := runnertest.AwaitRunning(t, r, start(t, r, runnertest.Spec(runner.KindService, runnertest.DoServe)))
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Dir(filepath.Dir(filepath.Dir(st.Addr.Address)))) })
	c, err := net.Dial("unix", st.Addr.Address)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

// BenchmarkStart is the time from Start to an agent that runs, and to its end.
func BenchmarkStart(b *testing.B) {
	dir, err := os.MkdirTemp("", "pr") //nolint:usetesting // as in tempDir
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	r, err := procrunner.New(config(dir))
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	ch := r.Watch(b.Context())
	for b.Loop() {
		spec := runnertest.Spec(runner.KindTraining, runnertest.DoSucceed)
		if err := r.Start(b.Context(), spec); err != nil {
			b.Fatal(err)
		}
		for id := range ch {
			if st, err := r.Get(b.Context(), id); err == nil && id == spec.ID && st.Phase == runner.PhaseExited {
				break
			}
		}
		if err := r.Remove(b.Context(), spec.ID); err != nil {
			b.Fatal(err)
		}
	}
}

func TestTidiedControlGroupsAreMadeAgain(t *testing.T) {
	r := open(t, config(tempDir(t)))
	if !r.HasCgroups() {
		t.Skip("no control groups without root")
	}
	r.RemoveOwnGroups()
	runnertest.AwaitExit(t, r, start(t, r, runnertest.Spec(runner.KindTraining, runnertest.DoSucceed)))
}
