// SPDX-License-Identifier: Apache-2.0

package procrunner_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/agentctl"
	"panal/internal/runner/procrunner"
	"panal/internal/runner/runnertest"
)

// world is what an attack is aimed at: a server's data directory, a process of
// the server's, another workload and another server's socket.
type world struct {
	cfg    procrunner.Config
	r      *procrunner.Runner
	peer   plat.WorkloadID
	victim *exec.Cmd
}

type off []func(*procrunner.Walls)

// newWorld builds it, with some walls taken down.
func newWorld(t *testing.T, noNamespaces bool, down off, change func(*procrunner.Config)) *world {
	t.Helper()
	w := &world{cfg: config(tempDir(t))}
	openUp(t, w.cfg.Dir)
	w.cfg.SwitchOff(down...)
	w.cfg.Force(noNamespaces, false)
	if change != nil {
		change(&w.cfg)
	}
	for _, name := range []string{"admin.json", "control.db", "key"} {
		if err := os.WriteFile(filepath.Join(w.cfg.Dir, name), []byte(`{"code":1,"reason":"SECRET"}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Of the server's kind: its uid, a secret in its memory.
	w.victim = exec.CommandContext(t.Context(), "/bin/sleep", "600")
	w.victim.Env = []string{"TOKEN=SECRET"}
	if err := w.victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = w.victim.Process.Kill()
		_ = w.victim.Wait()
	})
	w.r = open(t, w.cfg)
	w.peer = start(t, w.r, runnertest.Spec(runner.KindService, runnertest.DoServe))
	runnertest.AwaitRunning(t, w.r, w.peer)
	secret := filepath.Join(workDir(w.cfg, w.peer), "result", "secret")
	if err := os.WriteFile(secret, []byte("SECRET"), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

func attackSpec(name, arg string) runner.Spec {
	spec := runnertest.Spec(runner.KindTraining, "attack")
	spec.Org = "1000000000002"
	spec.Env["ATTACK"], spec.Env["ATTACK_ARG"] = name, arg
	return spec
}

func readResult(t *testing.T, cfg procrunner.Config, id plat.WorkloadID) result {
	t.Helper()
	var res result
	data, err := os.ReadFile(filepath.Join(workDir(cfg, id), "result", "attack.json"))
	if err == nil {
		err = json.Unmarshal(data, &res)
	}
	if err != nil {
		t.Fatalf("result of the attack: %v", err)
	}
	return res
}

func awaitResult(t *testing.T, cfg procrunner.Config, id plat.WorkloadID) result {
	t.Helper()
	path := filepath.Join(workDir(cfg, id), "result", "attack.json")
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return readResult(t, cfg, id)
		}
	}
	t.Fatal("the attack did not report")
	return result{}
}

// TestWalls runs each attack twice: against the wall, and with the wall down,
// where it must succeed. One that can't succeed proves nothing.
func TestWalls(t *testing.T) {
	root := os.Geteuid() == 0
	pick := func(asRoot, unprivileged off) off {
		if root {
			return asRoot
		}
		return unprivileged
	}
	uid, mounts, pids, privs, landlock := procrunner.OffUID, procrunner.OffMounts, procrunner.OffPIDs, procrunner.OffPrivs, procrunner.OffLandlock
	files := pick(off{uid, mounts, privs}, off{landlock, mounts})
	reach := pick(off{uid, pids, privs}, off{landlock, pids})
	inDir := func(names ...string) func(*world) string {
		return func(w *world) string {
			for i, n := range names {
				names[i] = filepath.Join(w.cfg.Dir, filepath.Base(n))
			}
			return strings.Join(names, "\n")
		}
	}
	tests := []struct {
		name   string
		attack string
		target func(w *world) string
		down   off
		// noNamespaces: with the wall down, leave the user namespace away too, which
		// is a wall of its own for someone who is not root.
		noNamespaces bool
		harm         func(w *world) bool // seen from outside
	}{
		{name: "read_admin.json", attack: "read", target: inDir("admin.json"), down: files},
		{name: "read_the_database_and_the_key", attack: "read", target: inDir("control.db", "key"), down: files},
		{name: "truncate_the_database", attack: "truncate", target: inDir("control.db"), down: files},
		{name: "write_into_the_data_directory", attack: "write", target: inDir("new"), down: files},
		{name: "write_where_everybody_may", attack: "write", down: pick(off{mounts}, off{landlock, mounts}), target: func(w *world) string {
			return fmt.Sprintf("/var/tmp/%s\n/dev/shm/%[1]s", filepath.Base(w.cfg.Dir))
		}, harm: func(w *world) bool {
			for _, d := range []string{"/var/tmp", "/dev/shm"} {
				if p := filepath.Join(d, filepath.Base(w.cfg.Dir)); os.Remove(p) == nil {
					return true
				}
			}
			return false
		}},
		{name: "write_own_record", attack: "write", down: files, target: func(w *world) string {
			return filepath.Join(w.cfg.Dir, "run", string(w.peer), "end.json")
		}},
		{name: "read_another_workload", attack: "read", down: files, target: func(w *world) string {
			return filepath.Join(workDir(w.cfg, w.peer), "result", "secret")
		}},
		{name: "connect_to_another_instance", attack: "connect", down: files, target: func(w *world) string {
			s := filepath.Join(w.cfg.Dir, "run", string(w.peer), "s")
			return filepath.Join(s, "serve.sock") + "\n" + filepath.Join(s, "control.sock")
		}},
		{name: "read_the_server's_memory", attack: "memory-of", down: reach, noNamespaces: !root, target: func(w *world) string {
			return strconv.Itoa(w.victim.Process.Pid)
		}},
		{name: "kill_the_server", attack: "signal", down: reach, target: func(w *world) string {
			return strconv.Itoa(w.victim.Process.Pid)
		}},
		{name: "kill_another_workload", attack: "signal", down: reach, target: func(w *world) string {
			st, err := w.r.Get(t.Context(), w.peer)
			if err != nil {
				panic(err)
			}
			return strconv.Itoa(st.PID)
		}},
		{name: "mount", attack: "mount", down: pick(off{uid, privs}, off{privs, landlock}), target: func(*world) string { return "" }},
	}
	for _, tt := range tests {
		once := func(t *testing.T, noNamespaces bool, down off) (bool, string) {
			w := newWorld(t, noNamespaces, down, nil)
			id := start(t, w.r, attackSpec(tt.attack, tt.target(w)))
			st := runnertest.AwaitExit(t, w.r, id)
			if st.ExitCode != 0 {
				t.Fatalf("the attacker failed: %+v", st)
			}
			res := readResult(t, w.cfg, id)
			if tt.harm != nil {
				res.OK = tt.harm(w)
			}
			return res.OK, res.Text
		}
		t.Run(tt.name, func(t *testing.T) {
			if ok, text := once(t, false, nil); ok {
				t.Fatalf("the wall did not hold: %s", text)
			}
		})
		t.Run(tt.name+"/wall_down", func(t *testing.T) {
			if ok, text := once(t, tt.noNamespaces, tt.down); !ok {
				t.Fatalf("the attack fails without the wall, so it proves nothing: %s", text)
			}
		})
	}
}

// TestWithoutNamespaces: the walls that hold by uid, or by Landlock, alone. What
// everybody may write is then open to a uid.
func TestWithoutNamespaces(t *testing.T) {
	attacks, want := []string{"read", "memory-of", "signal", "orphan"}, "uid"
	if os.Geteuid() != 0 {
		attacks, want = append(attacks, "write"), "landlock"
	}
	for _, attack := range attacks {
		t.Run(attack, func(t *testing.T) {
			w := newWorld(t, true, nil, nil)
			if level, reason := w.r.Isolation(); level != want {
				t.Fatalf("isolation %s: %s", level, reason)
			}
			target := map[string]string{
				"read": filepath.Join(w.cfg.Dir, "admin.json"), "signal": strconv.Itoa(w.victim.Process.Pid),
				"memory-of": strconv.Itoa(w.victim.Process.Pid),
				"write":     filepath.Join("/var/tmp", filepath.Base(w.cfg.Dir)), "orphan": marker(),
			}[attack]
			id := start(t, w.r, attackSpec(attack, target))
			runnertest.AwaitExit(t, w.r, id)
			if attack == "orphan" {
				if pids := findProcess(target); len(pids) > 0 {
					t.Fatalf("the daemon outlived its agent: %v", pids)
				}
				return
			}
			if res := readResult(t, w.cfg, id); res.OK {
				t.Fatalf("the wall did not hold: %s", res.Text)
			}
		})
	}
}

func TestSetuidProgramsGiveNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a setuid program")
	}
	once := func(t *testing.T, down off) result {
		w := newWorld(t, false, down, nil)
		spec := attackSpec("setuid", "")
		helper := filepath.Join(workDir(w.cfg, spec.ID), "code", "helper")
		spec.Env["ATTACK_ARG"] = helper
		start(t, w.r, spec)
		copyFile(t, "/proc/self/exe", helper+".new", 0o755)
		if err := os.Chmod(helper+".new", 0o4755|os.ModeSetuid); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(helper+".new", helper); err != nil {
			t.Fatal(err)
		}
		runnertest.AwaitExit(t, w.r, spec.ID)
		return readResult(t, w.cfg, spec.ID)
	}
	if res := once(t, nil); res.OK {
		t.Fatalf("a setuid program made it root: %s", res.Text)
	}
	// Both no_new_privs and the nosuid mounts hold alone; down with both.
	if res := once(t, off{procrunner.OffPrivs, procrunner.OffMounts}); !res.OK {
		t.Fatalf("the attack fails without the wall, so it proves nothing: %s", res.Text)
	}
}

func TestProcessLimit(t *testing.T) {
	once := func(t *testing.T, down off) (runner.Status, result) {
		w := newWorld(t, false, down, func(c *procrunner.Config) { c.Processes = 100 })
		id := start(t, w.r, attackSpec("forks", ""))
		st := runnertest.AwaitExit(t, w.r, id)
		return st, readResult(t, w.cfg, id)
	}
	st, res := once(t, nil)
	if res.OK || st.ExitCode != 1 {
		t.Fatalf("the wall did not hold: %+v %+v", st, res)
	}
	if os.Geteuid() == 0 && !strings.Contains(st.Reason, "limit of 100 processes reached") {
		t.Fatalf("reason = %q", st.Reason)
	}
	if st, res := once(t, off{procrunner.OffProcesses}); !res.OK {
		t.Fatalf("the attack fails without the wall, so it proves nothing: %+v %+v", st, res)
	}
}

func TestMemoryLimit(t *testing.T) {
	for _, cgroups := range []bool{true, false} {
		if cgroups && os.Geteuid() != 0 {
			continue
		}
		t.Run(fmt.Sprintf("cgroups=%v", cgroups), func(t *testing.T) {
			change := func(c *procrunner.Config) { c.Force(false, !cgroups) }
			w := newWorld(t, false, nil, change)
			if w.r.HasCgroups() != cgroups {
				t.Fatalf("control groups: %v, want %v", w.r.HasCgroups(), cgroups)
			}
			st := runnertest.AwaitExit(t, w.r, start(t, w.r, attackSpec("memory", "")))
			if st.ExitCode == 0 || !strings.HasPrefix(st.Reason, "killed: memory limit 128 MiB reached") {
				t.Fatalf("status = %+v", st)
			}
			w = newWorld(t, false, off{procrunner.OffMemory}, change)
			if res := awaitResult(t, w.cfg, start(t, w.r, attackSpec("memory", ""))); !res.OK {
				t.Fatal("the attack fails without the wall, so it proves nothing")
			}
		})
	}
}

func TestDiskLimit(t *testing.T) {
	change := func(c *procrunner.Config) { c.DiskBytes = 32 << 20 }
	for _, attack := range []string{"disk", "disk-nameless"} {
		t.Run(attack, func(t *testing.T) {
			w := newWorld(t, false, nil, change)
			id := start(t, w.r, attackSpec(attack, ""))
			st := runnertest.AwaitExit(t, w.r, id)
			if st.ExitCode != 137 || st.Reason != "killed: disk limit 32 MiB reached" {
				t.Fatalf("status = %+v", st)
			}
			if err := w.r.Remove(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("one_file", func(t *testing.T) {
		for _, down := range []off{nil, {procrunner.OffDisk}} {
			w := newWorld(t, false, down, change)
			id := start(t, w.r, attackSpec("big-file", ""))
			runnertest.AwaitExit(t, w.r, id)
			if res := readResult(t, w.cfg, id); res.OK != (down != nil) {
				t.Fatalf("walls down %v: %+v", down != nil, res)
			}
		}
	})
	for _, attack := range []string{"disk", "disk-nameless"} {
		t.Run(attack+"/wall_down", func(t *testing.T) {
			w := newWorld(t, false, off{procrunner.OffDisk}, change)
			id := start(t, w.r, attackSpec(attack, ""))
			if res := awaitResult(t, w.cfg, id); !res.OK {
				t.Fatalf("the attack fails without the wall, so it proves nothing: %+v", res)
			}
			// The watch looks every second: three would have seen it.
			select {
			case <-time.After(3 * time.Second):
			case <-t.Context().Done():
			}
			if st, err := w.r.Get(t.Context(), id); err != nil || st.Phase != runner.PhaseRunning {
				t.Fatalf("Get = %+v, %v", st, err)
			}
		})
	}
}

// marker is a number of seconds to sleep that no other process sleeps.
func marker() string {
	return "1" + strings.TrimLeft(plat.NewDecimalID()[:9], "0")
}

func findProcess(mark string) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		data, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if string(data) == "/bin/sleep\x00"+mark+"\x00" {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestDaemonsEndWithTheirAgent(t *testing.T) {
	tests := []struct {
		name         string
		noNamespaces bool
		down         off
		survives     bool
	}{
		{"pid namespace", false, nil, false},
		{"reaper", true, nil, false},
		{"wall down", false, off{procrunner.OffPIDs}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, tt.noNamespaces, tt.down, nil)
			mark := marker()
			id := start(t, w.r, attackSpec("orphan", mark))
			if st := runnertest.AwaitExit(t, w.r, id); st.ExitCode != 0 {
				t.Fatalf("status = %+v", st)
			}
			if res := readResult(t, w.cfg, id); !res.OK {
				t.Fatalf("the daemon did not start: %s", res.Text)
			}
			pids := findProcess(mark)
			for _, pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			if got := len(pids) > 0; got != tt.survives {
				t.Fatalf("the daemon outlives its agent: %v, want %v", got, tt.survives)
			}
		})
	}
}

func TestHostileExitFile(t *testing.T) {
	secret := func(w *world) string { return filepath.Join(w.cfg.Dir, "admin.json") }
	for _, attack := range []string{"exit-link", "exit-fifo", "exit-huge"} {
		t.Run(attack, func(t *testing.T) {
			w := newWorld(t, false, nil, nil)
			st := runnertest.AwaitExit(t, w.r, start(t, w.r, attackSpec(attack, secret(w))))
			if st.ExitCode != 1 || strings.Contains(st.Reason, "SECRET") || strings.Contains(st.Reason, "HUGE") || len(st.Reason) > 8<<10 {
				t.Fatalf("status = %+v", st)
			}
		})
	}
	t.Run("exit-link/wall_down", func(t *testing.T) {
		w := newWorld(t, false, off{procrunner.OffReads}, nil)
		st := runnertest.AwaitExit(t, w.r, start(t, w.r, attackSpec("exit-link", secret(w))))
		if !strings.Contains(st.Reason, "SECRET") {
			t.Fatalf("the attack fails without the wall, so it proves nothing: %+v", st)
		}
	})
	t.Run("exit-huge/wall_down", func(t *testing.T) {
		w := newWorld(t, false, off{procrunner.OffReads}, nil)
		st := runnertest.AwaitExit(t, w.r, start(t, w.r, attackSpec("exit-huge", "")))
		if !strings.Contains(st.Reason, "HUGE") {
			t.Fatalf("the attack fails without the wall, so it proves nothing: %+v", st)
		}
	})
	t.Run("exit-fifo/wall_down", func(t *testing.T) {
		w := newWorld(t, false, off{procrunner.OffReads}, nil)
		id := start(t, w.r, attackSpec("exit-fifo", ""))
		// A naive reader opens the FIFO and waits for ever: opening it for writing
		// without waiting succeeds only while somebody reads.
		fifo := filepath.Join(w.cfg.Dir, "run", string(id), "work", agentctl.ExitFile)
		var f *os.File
		for deadline := time.Now().Add(20 * time.Second); f == nil && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			f, _ = os.OpenFile(fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0) // not there yet, or nobody reads yet
		}
		if f == nil {
			t.Fatal("the attack fails without the wall, so it proves nothing: nobody waits at the FIFO")
		}
		if st, err := w.r.Get(t.Context(), id); err != nil || st.Phase == runner.PhaseExited {
			t.Errorf("Get = %+v, %v while the reader is stuck", st, err)
		}
		if err := f.Close(); err != nil { // lets it go
			t.Fatal(err)
		}
		runnertest.AwaitExit(t, w.r, id)
	})
	t.Run("spool-files/wall_down", func(t *testing.T) {
		w := newWorld(t, false, off{procrunner.OffReads}, nil)
		id := start(t, w.r, attackSpec("spool-files", secret(w)))
		runnertest.AwaitExit(t, w.r, id)
		got, err := w.r.Spool(t.Context(), id)
		if err != nil || !strings.Contains(fmt.Sprintf("%s", got), "forged") {
			t.Fatalf("Spool = %q, %v: the attack fails without the wall, so it proves nothing", got, err)
		}
	})
	t.Run("spool-files", func(t *testing.T) {
		w := newWorld(t, false, nil, nil)
		id := start(t, w.r, attackSpec("spool-files", secret(w)))
		runnertest.AwaitExit(t, w.r, id)
		if got, err := w.r.Spool(t.Context(), id); err != nil || len(got) != 0 {
			t.Fatalf("Spool = %q, %v: a link, a FIFO, junk and another's lines must be left out", got, err)
		}
	})
	t.Run("spool-link", func(t *testing.T) {
		w := newWorld(t, false, nil, nil)
		if err := os.WriteFile(filepath.Join(w.cfg.Dir, "00000000000000000001.batch"), runnertest.Spooled("wl-0000000000000001")[0], 0o600); err != nil {
			t.Fatal(err)
		}
		id := start(t, w.r, attackSpec("spool-link", w.cfg.Dir))
		runnertest.AwaitExit(t, w.r, id)
		if got, err := w.r.Spool(t.Context(), id); err != nil || len(got) != 0 {
			t.Fatalf("Spool = %q, %v", got, err)
		}
	})
	t.Run("closed-dirs", func(t *testing.T) {
		w := newWorld(t, false, nil, nil)
		id := start(t, w.r, attackSpec("closed-dirs", ""))
		runnertest.AwaitExit(t, w.r, id)
		if err := w.r.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(workDir(w.cfg, id)); !os.IsNotExist(err) {
			t.Fatalf("the directory is still there: %v", err)
		}
	})
}

func TestServersEnvironmentAndFilesStayOut(t *testing.T) {
	t.Setenv("SERVER_PASSWORD", "SECRET")
	for _, down := range []off{nil, {procrunner.OffEnviron}} {
		w := newWorld(t, false, down, nil)
		id := start(t, w.r, attackSpec("environ", ""))
		runnertest.AwaitExit(t, w.r, id)
		if got := strings.Contains(readResult(t, w.cfg, id).Text, "SECRET"); got != (down != nil) {
			t.Fatalf("the server's environment is seen: %v, walls down: %v", got, down != nil)
		}
	}
	for _, down := range []off{nil, {procrunner.OffFiles}} {
		w := newWorld(t, false, down, nil)
		// As a library of C would open it: without O_CLOEXEC.
		fd, err := syscall.Open(filepath.Join(w.cfg.Dir, "admin.json"), syscall.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(fd)
		id := start(t, w.r, attackSpec("files", ""))
		runnertest.AwaitExit(t, w.r, id)
		if res := readResult(t, w.cfg, id); res.OK != (down != nil) {
			t.Fatalf("walls down: %v, files:\n%s", down != nil, res.Text)
		}
	}
}

func TestNothingIsLeftToGainRightsWith(t *testing.T) {
	w := newWorld(t, false, nil, nil)
	id := start(t, w.r, attackSpec("self", ""))
	runnertest.AwaitExit(t, w.r, id)
	text := readResult(t, w.cfg, id).Text
	want := []string{"NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000", "Core:\t0", "SID:\ttrue"}
	if os.Geteuid() == 0 {
		want = append(want, "CapBnd:\t0000000000000000", "GroupsSeen:\t[]")
	}
	for _, s := range want {
		if !strings.Contains(text, s) {
			t.Errorf("lacks %q:\n%s", s, text)
		}
	}
}

func TestWhatUserCodeNeedsWorks(t *testing.T) {
	w := newWorld(t, false, nil, nil)
	id := start(t, w.r, attackSpec("shm", ""))
	runnertest.AwaitExit(t, w.r, id)
	if res := readResult(t, w.cfg, id); !res.OK {
		t.Fatal(res.Text)
	}
}

func TestWorkloadsHaveUIDsOfTheirOwn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	cfg := config(tempDir(t))
	cfg.UIDs = [2]int{231000, 231002}
	r := open(t, cfg)
	seen := map[uint32]bool{}
	var ids []plat.WorkloadID
	for range 3 {
		id := start(t, r, runnertest.Spec(runner.KindTraining, runnertest.DoSucceed))
		runnertest.AwaitExit(t, r, id)
		ids = append(ids, id)
		var st unix.Stat_t
		if err := unix.Stat(workDir(cfg, id), &st); err != nil {
			t.Fatal(err)
		}
		if seen[st.Uid] || st.Mode&0o777 != 0o700 || st.Uid < 231000 || st.Uid > 231002 {
			t.Fatalf("uid %d mode %o, taken: %v", st.Uid, st.Mode, seen)
		}
		seen[st.Uid] = true
	}
	// Ended ones keep theirs as long as their files are there.
	err := r.Start(t.Context(), runnertest.Spec(runner.KindTraining, runnertest.DoSucceed))
	if !errors.Is(err, plat.ErrExhausted) {
		t.Fatalf("Start = %v, want ErrExhausted", err)
	}
	if err := r.Remove(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	start(t, r, runnertest.Spec(runner.KindTraining, runnertest.DoSucceed))
}

// TestUnprivileged runs the contract and the walls again as a user who is not
// root, where Landlock and user namespaces take the place of uids.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this is the run itself")
	}
	unprivileged(t, "^(TestContract|TestWalls|TestProcessLimit|TestMemoryLimit|TestDiskLimit|TestDaemonsEndWithTheirAgent|TestHostileExitFile|TestServersEnvironmentAndFilesStayOut|TestNothingIsLeftToGainRightsWith|TestWhatUserCodeNeedsWorks|TestSecondServerAdoptsAfterKill|TestEnvironment.*|TestLongDataDirectoryStillHasSockets|TestWithoutNamespaces|TestIsolationLevel)$")
}

// unprivileged runs tests of this binary as another user.
func unprivileged(t *testing.T, pattern string) {
	t.Helper()
	const uid = 230077
	dir := tempDir(t)
	bin := filepath.Join(dir, "procrunner.test")
	copyFile(t, "/proc/self/exe", bin, 0o755)
	for _, d := range []string{dir, filepath.Join(dir, "t")} {
		_ = os.Mkdir(d, 0o700)
		if err := os.Chown(d, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), bin, "-test.run", pattern, "-test.v="+strconv.FormatBool(testing.Verbose()))
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + dir, "TMPDIR=" + filepath.Join(dir, "t"), "CI=" + os.Getenv("CI")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	if err != nil || testing.Verbose() {
		t.Logf("%s", out)
	}
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "no tests to run") {
		t.Fatal("nothing was run")
	}
}

func TestIsolationLevel(t *testing.T) {
	r := open(t, config(tempDir(t)))
	want := "uid"
	if os.Geteuid() != 0 {
		want = "landlock"
	}
	level, reason := r.Isolation()
	if level != want || reason != "" || !r.Namespaces() {
		t.Fatalf("isolation %q (%s), namespaces %v", level, reason, r.Namespaces())
	}
}

func copyFile(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
