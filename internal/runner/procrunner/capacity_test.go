// SPDX-License-Identifier: Apache-2.0

package procrunner_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/procrunner"
	"panal/internal/runner/runnertest"
)

func TestDetectedCapacity(t *testing.T) {
	cfg := config(tempDir(t))
	cfg.Capacity = plat.Resources{}
	r := open(t, cfg)
	once, err := r.Capacity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if once.Total.MilliCPU < 1 || once.Total.Memory < 64<<20 {
		t.Fatalf("Capacity = %+v", once)
	}
	if got, want := once.JobShare.MilliCPU, once.Total.MilliCPU*3/4; got != want {
		t.Fatalf("jobs may use %d of %d, want three quarters", got, once.Total.MilliCPU)
	}
	cfg.Dir, cfg.CPUOvercommit = tempDir(t), 6
	other, err := open(t, cfg).Capacity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// The default is 2; memory is never promised twice.
	if other.Total.MilliCPU != 3*once.Total.MilliCPU || other.Total.Memory != once.Total.Memory {
		t.Fatalf("overcommitted 6 times: %+v, 2 times: %+v", other.Total, once.Total)
	}
}

// The demo on a small laptop: two jobs of cpu-1 and four services of cpu-0.25.
func TestTwoCoresHoldTheDemo(t *testing.T) {
	total := plat.Resources{MilliCPU: 2 * 2000, Memory: 8 << 30 / 10 * 9}
	c := runner.Capacity{Total: total, JobShare: plat.Resources{MilliCPU: 3000, Memory: total.Memory / 4 * 3}}
	for _, name := range []string{"cpu-1", "cpu-1", "cpu-0.25", "cpu-0.25", "cpu-0.25", "cpu-0.25"} {
		it, err := plat.ParseInstanceType(name)
		if err != nil {
			t.Fatal(err)
		}
		service := name != "cpu-1"
		if err := c.Admit(it.Resources, service); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c.Take(it.Resources, service)
	}
}

func TestControlGroupsOfVersion2(t *testing.T) {
	root := t.TempDir() // stands for the mount: what is written is what counts
	dirs, err := procrunner.MakeGroupsV2(root, 1<<30, 512, 250, 1000)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"cgroup.subtree_control":            "+memory +pids +cpu",
		"panal-test/cgroup.subtree_control": "+memory +pids +cpu",
		"panal-test/wl-1/memory.max":        "1073741824",
		"panal-test/wl-1/memory.swap.max":   "0",
		"panal-test/wl-1/memory.oom.group":  "1",
		"panal-test/wl-1/pids.max":          "512",
		"panal-test/wl-1/cpu.weight":        "25",
		"panal-test/wl-1/cpu.max":           "100000 100000",
	}
	got := map[string]string{}
	for name := range want {
		_ = os.Chmod(filepath.Join(root, name), 0o600)
		data, _ := os.ReadFile(filepath.Join(root, name))
		got[name] = string(data)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	for name, text := range map[string]string{"memory.events": "low 0\nhigh 0\nmax 7\noom 2\noom_kill 2\n", "pids.events": "max 3\n"} {
		if err := os.WriteFile(filepath.Join(dirs[0], name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if oom, pids := procrunner.ReadCounters(dirs); oom != 2 || pids != 3 {
		t.Fatalf("counters %d, %d", oom, pids)
	}
}

func TestStopAll(t *testing.T) {
	r := open(t, config(tempDir(t)))
	for _, do := range []string{runnertest.DoServe, runnertest.DoHang} {
		id := start(t, r, runnertest.Spec(runner.KindTraining, do))
		runnertest.AwaitRunning(t, r, id)
	}
	if err := r.StopAll(t.Context(), 500_000_000); err != nil {
		t.Fatal(err)
	}
	list, err := r.List(t.Context())
	if err != nil || len(list) != 2 {
		t.Fatalf("List = %+v, %v", list, err)
	}
	for _, st := range list {
		if st.Phase != runner.PhaseExited || !st.Stopped {
			t.Errorf("status = %+v", st)
		}
	}
}

func TestBadConfigurations(t *testing.T) {
	for name, spoil := range map[string]func(*procrunner.Config){
		"no directory":         func(c *procrunner.Config) { c.Dir = "" },
		"relative interpreter": func(c *procrunner.Config) { c.Profiles["x"] = procrunner.Profile{Python: "python3"} },
		"root as workload":     func(c *procrunner.Config) { c.UIDs = [2]int{0, 10} },
		"reserve":              func(c *procrunner.Config) { c.ServiceReserve = 2 },
		"run directory": func(c *procrunner.Config) {
			c.RunDir = "/" + strings.Repeat("x", 200)
			t.Setenv("HOME", "/"+strings.Repeat("y", 200))
		},
	} {
		cfg := config(tempDir(t))
		spoil(&cfg)
		if name == "run directory" && os.Geteuid() == 0 {
			continue // /var/lib is always short enough
		}
		if r, err := procrunner.New(cfg); err == nil {
			_ = r.Close()
			t.Errorf("%s: no error", name)
		}
	}
}

func TestLongestPatternWins(t *testing.T) {
	cfg := config(tempDir(t))
	cfg.Profiles["abeja-inc/all-gpu:*"] = procrunner.Profile{Python: "/opt/gpu/bin/python3"}
	cfg.Profiles["abeja-inc/all-gpu:19.10"] = procrunner.Profile{Python: "/opt/exact/bin/python3"}
	r := open(t, cfg)
	for image, want := range map[string]string{
		"abeja-inc/all-cpu:19.10": "/usr/bin/python3",
		"abeja-inc/all-gpu:20.10": "/opt/gpu/bin/python3",
		"abeja-inc/all-gpu:19.10": "/opt/exact/bin/python3",
	} {
		spec := attackSpec("environ", "")
		spec.Image = image
		start(t, r, spec)
		runnertest.AwaitExit(t, r, spec.ID)
		if text := readResult(t, cfg, spec.ID).Text; !strings.Contains(text, "PANAL_AGENT_PYTHON="+want+"\n") {
			t.Errorf("%s: the interpreter is not %s", image, want)
		}
	}
}
