// SPDX-License-Identifier: Apache-2.0

package procrunner_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/agentctl"
	"panal/internal/runner/procrunner"
)

// TestThousandsAreTakenBack: a runner that opens over thousands of workloads has every one
// that is healthy as healthy when it is open, though it asks few at a time, and some agents
// never answer.
func TestThousandsAreTakenBack(t *testing.T) {
	const hung = 3
	n := 3000
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	if most := (int(min(files.Cur, 1<<20)) - 500) / 5; n > most { // listener, connection's ends, pidfd
		n = most
	}
	// One process stands for all that the agents are.
	process := exec.CommandContext(t.Context(), "sleep", "1h")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = process.Process.Kill(), process.Wait() }()

	dir := tempDir(t)
	var agents sync.WaitGroup
	var asked, peak atomic.Int64
	listeners := make([]net.Listener, n)
	silent := map[plat.WorkloadID]bool{}
	for i := range n {
		id := plat.WorkloadID(plat.NewHexID("wl"))
		key := plat.NewToken()
		if err := procrunner.Leave(dir, id, process.Process.Pid, key); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", filepath.Join(dir, "run", string(id), "s", "control.sock"))
		if err != nil {
			t.Fatal(err)
		}
		listeners[i] = l
		mute := i%(n/hung) == 0 && len(silent) < hung
		if mute {
			silent[id] = true
		}
		agents.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				agents.Go(func() {
					defer func() { _ = c.Close() }()
					r := bufio.NewReaderSize(c, 512)
					req, err := http.ReadRequest(r)
					if err != nil || req.Header.Get(agentctl.HeaderInstanceKey) != key {
						t.Errorf("an agent was asked %+v, %v", req, err)
						return
					}
					if !mute {
						now := asked.Add(1)
						for old := peak.Load(); now > old && !peak.CompareAndSwap(old, now); old = peak.Load() {
						}
						time.Sleep(60 * time.Millisecond) // a few at a time, so all need longer than one may
						asked.Add(-1)
						_, _ = fmt.Fprint(c, "HTTP/1.1 200 OK\r\n\r\n", `{"phase":"running","healthy":true}`, "\n") // the runner may have closed
					}
					_, _ = r.ReadByte() // until the runner lets go
				})
			}
		})
	}
	r, err := procrunner.New(config(dir))
	if err != nil {
		t.Fatal(err)
	}
	list, err := r.List(t.Context())
	if err != nil || len(list) != n {
		t.Fatalf("%d workloads, %v; want %d", len(list), err, n)
	}
	lost := 0
	for _, st := range list {
		if answers := st.Phase == runner.PhaseRunning && st.Healthy; answers == silent[st.ID] {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d are not as their agents are", lost, n)
	}
	if p := peak.Load(); p > procrunner.MaxGreetings {
		t.Errorf("%d agents were asked at once, want at most %d", p, procrunner.MaxGreetings)
	}
	t.Logf("%d taken back, %d at a time", n, peak.Load())
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	for _, l := range listeners {
		_ = l.Close()
	}
	agents.Wait()
}
