// SPDX-License-Identifier: Apache-2.0

package procrunner_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/procrunner"
	"panal/internal/runner/runnertest"
)

const envKey = "00112233445566778899aabbccddeeff"

func envSpec(key, build string) runner.Spec {
	spec := runnertest.Spec(runner.KindTraining, "environment")
	spec.Env["TEST_KEY"], spec.Env["TEST_BUILD"] = key, build
	return spec
}

func awaitFile(t *testing.T, path string) string {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if data, err := os.ReadFile(path); err == nil {
			return string(data)
		}
	}
	t.Fatalf("%s did not appear", path)
	return ""
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestEnvironmentIsBuiltOnceAndShared(t *testing.T) {
	cfg := config(tempDir(t))
	r := open(t, cfg)
	builder := start(t, r, envSpec(envKey, "wait"))
	awaitFile(t, filepath.Join(workDir(cfg, builder), "result", "building"))
	waiter := start(t, r, envSpec(envKey, ""))
	other := envSpec(envKey, "")
	other.Org = "1000000000009"
	start(t, r, other) // another organization shares nothing and builds its own
	otherText := awaitFile(t, filepath.Join(workDir(cfg, other.ID), "result", "env"))
	if exists(filepath.Join(workDir(cfg, waiter), "result", "building")) {
		t.Fatal("two build the same environment at once")
	}
	if err := os.WriteFile(filepath.Join(workDir(cfg, builder), "result", "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	want := "built by " + string(builder)
	for _, id := range []plat.WorkloadID{builder, waiter} {
		runnertest.AwaitRunning(t, r, id)
		text := awaitFile(t, filepath.Join(workDir(cfg, id), "result", "env"))
		if !strings.HasSuffix(text, want) || !strings.HasPrefix(text, filepath.Join(cfg.Dir, "envs", "1000000000001", envKey, "site")) {
			t.Fatalf("%s uses %q", id, text)
		}
	}
	if !strings.HasSuffix(otherText, "built by "+string(other.ID)) {
		t.Fatalf("the other organization uses %q", otherText)
	}
	if exists(filepath.Join(workDir(cfg, waiter), "result", "building")) {
		t.Fatal("the waiter built as well")
	}
	// Nobody's but the server's, and no setuid bit of the builder's.
	mod := filepath.Join(cfg.Dir, "envs", "1000000000001", envKey, "site", "pkg", "mod.py")
	var st unix.Stat_t
	if err := unix.Stat(mod, &st); err != nil {
		t.Fatal(err)
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o7777 != 0o755 {
		t.Fatalf("uid %d, mode %o", st.Uid, st.Mode)
	}
	// A later one finds it at once, after a restart too.
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = open(t, cfg)
	late := start(t, r, envSpec(envKey, ""))
	runnertest.AwaitRunning(t, r, late)
	if exists(filepath.Join(workDir(cfg, late), "result", "building")) {
		t.Fatal("it was built again")
	}
}

func TestEnvironmentBuildPassesOnWhenTheBuilderEnds(t *testing.T) {
	for _, how := range []string{"fail", "killed"} {
		t.Run(how, func(t *testing.T) {
			cfg := config(tempDir(t))
			r := open(t, cfg)
			build := how
			if how == "killed" {
				build = "wait"
			}
			spec := envSpec(envKey, build)
			start(t, r, spec)
			awaitFile(t, filepath.Join(workDir(cfg, spec.ID), "result", "building"))
			waiter := start(t, r, envSpec(envKey, ""))
			if how == "killed" {
				if err := r.Stop(t.Context(), spec.ID, 0); err != nil {
					t.Fatal(err)
				}
			}
			runnertest.AwaitExit(t, r, spec.ID)
			runnertest.AwaitRunning(t, r, waiter)
			if !exists(filepath.Join(workDir(cfg, waiter), "result", "building")) {
				t.Fatal("the waiter did not build")
			}
		})
	}
}

func TestEnvironmentOfAHostileBuilderIsRefused(t *testing.T) {
	for build, text := range map[string]string{"link": "leads outside", "fifo": "is no file"} {
		t.Run(build, func(t *testing.T) {
			cfg := config(tempDir(t))
			r := open(t, cfg)
			st := runnertest.AwaitExit(t, r, start(t, r, envSpec(envKey, build)))
			if st.ExitCode != 137 || !strings.Contains(st.Reason, text) {
				t.Fatalf("status = %+v", st)
			}
			var left []string
			_ = filepath.WalkDir(filepath.Join(cfg.Dir, "envs"), func(p string, d fs.DirEntry, _ error) error {
				if !d.IsDir() {
					left = append(left, p)
				}
				return nil
			})
			if len(left) > 0 {
				t.Fatalf("left behind: %v", left)
			}
		})
	}
	t.Run("key", func(t *testing.T) {
		r := open(t, config(tempDir(t)))
		st := runnertest.AwaitExit(t, r, start(t, r, envSpec("../../../etc", "")))
		if st.ExitCode != 137 || !strings.Contains(st.Reason, "key") {
			t.Fatalf("status = %+v", st)
		}
	})
}

func TestEnvironmentsAreCollectedBySizeButNotInUse(t *testing.T) {
	cfg := config(tempDir(t))
	cfg.EnvBytes = 60 // each is 28 bytes: two fit
	r := open(t, cfg)
	key := func(c string) string { return strings.Repeat(c, 32) }
	path := func(c string) string { return filepath.Join(cfg.Dir, "envs", "1000000000001", key(c)) }
	used := start(t, r, envSpec(key("a"), ""))
	runnertest.AwaitRunning(t, r, used)
	for _, c := range []string{"b", "c"} {
		id := start(t, r, envSpec(key(c), ""))
		runnertest.AwaitRunning(t, r, id)
		if err := r.Stop(t.Context(), id, time.Minute); err != nil {
			t.Fatal(err)
		}
		runnertest.AwaitExit(t, r, id)
	}
	if !exists(path("a")) || exists(path("b")) || !exists(path("c")) {
		t.Fatalf("a (oldest, in use) %v, b %v, c %v", exists(path("a")), exists(path("b")), exists(path("c")))
	}
	// A restart does not forget that a is in use.
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = open(t, cfg)
	runnertest.AwaitRunning(t, r, start(t, r, envSpec(key("d"), "")))
	if !exists(path("a")) || exists(path("c")) || !exists(path("d")) {
		t.Fatalf("a (in use) %v, c %v, d %v", exists(path("a")), exists(path("c")), exists(path("d")))
	}
}

func TestLinksStayInside(t *testing.T) {
	for _, tt := range []struct {
		target string
		depth  int
		want   bool
	}{
		{"x", 0, true},
		{"a/b/./c", 0, true},
		{"../x", 1, true},
		{"../../x", 2, true},
		{"..", 0, false},
		{"../x", 0, false},
		{"../../x", 1, false},
		{"a/../b", 3, false}, // a may be a link
		{"../a/../..", 5, false},
		{"/etc/passwd", 5, false},
		{"", 1, false},
	} {
		if got := procrunner.StaysInside(tt.target, tt.depth); got != tt.want {
			t.Errorf("StaysInside(%q, %d) = %v", tt.target, tt.depth, got)
		}
	}
}
