// SPDX-License-Identifier: Apache-2.0

package procrunner_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/agentctl"
	"panal/internal/runner/runnertest"
)

// fakeAgent is the test binary as an agent: it speaks agentctl and does what
// runnertest.EnvDo says.
type fakeAgent struct {
	work string
	key  string

	mu      sync.Mutex
	state   agentctl.State
	changed chan struct{} // closed and replaced on each change
	stop    chan struct{}
	stopped sync.Once
	reply   chan agentctl.EnvReply
}

func fakeAgentMain() int {
	if os.Args[len(os.Args)-1] == "dial" { // the helper beside an agent without network
		fd, err := strconv.Atoi(os.Getenv(agentctl.EnvDialFD))
		if err != nil {
			panic(err)
		}
		var b [1]byte
		_, _ = os.NewFile(uintptr(fd), "dial").Read(b[:]) // until the agent is gone
		return 0
	}
	a := &fakeAgent{
		work: os.Getenv(agentctl.EnvWorkDir), key: os.Getenv(agentctl.EnvInstanceKey),
		state: agentctl.State{Phase: "starting"}, changed: make(chan struct{}), stop: make(chan struct{}),
		reply: make(chan agentctl.EnvReply, 8),
	}
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		for range terms {
			a.askedToStop()
		}
	}()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/watch", a.watch)
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		a.askedToStop()
	})
	mux.HandleFunc("POST /v1/environment", func(_ http.ResponseWriter, r *http.Request) {
		var reply agentctl.EnvReply
		if err := json.NewDecoder(r.Body).Decode(&reply); err != nil {
			panic(err)
		}
		a.reply <- reply
	})
	go func() {
		panic(http.Serve(listener(agentctl.EnvControlFD), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get(agentctl.HeaderInstanceKey) != a.key {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			mux.ServeHTTP(w, r)
		})))
	}()
	if os.Getenv(agentctl.EnvServeFD) != "" {
		go func() {
			panic(http.Serve(listener(agentctl.EnvServeFD), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get(agentctl.HeaderInstanceKey) != a.key {
					w.WriteHeader(http.StatusForbidden)
					return
				}
				fmt.Fprint(w, "served")
			})))
		}()
	}
	return a.do(os.Args[len(os.Args)-1])
}

func listener(env string) net.Listener {
	fd, err := strconv.Atoi(os.Getenv(env))
	if err != nil {
		panic(err)
	}
	f := os.NewFile(uintptr(fd), env)
	l, err := net.FileListener(f)
	if err != nil {
		panic(err)
	}
	_ = f.Close()
	return l
}

func (a *fakeAgent) askedToStop() { a.stopped.Do(func() { close(a.stop) }) }

func (a *fakeAgent) set(change func(*agentctl.State)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(&a.state)
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *fakeAgent) watch(w http.ResponseWriter, r *http.Request) {
	for {
		a.mu.Lock()
		st, changed := a.state, a.changed
		a.mu.Unlock()
		if err := json.NewEncoder(w).Encode(st); err != nil {
			return
		}
		w.(http.Flusher).Flush()
		var again <-chan time.Time
		if st.BeatMS > 0 {
			again = time.After(time.Duration(st.BeatMS) * time.Millisecond)
		}
		select {
		case <-changed:
		case <-again:
		case <-r.Context().Done():
			return
		}
	}
}

func (a *fakeAgent) run(kind string) {
	a.set(func(s *agentctl.State) {
		s.Phase, s.Healthy, s.EnvRequest = "running", kind == string(runner.KindService), nil
	})
}

func (a *fakeAgent) exit(e agentctl.Exit) int {
	data, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	path := filepath.Join(a.work, agentctl.ExitFile)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		panic(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		panic(err)
	}
	return e.Code
}

func (a *fakeAgent) do(kind string) int {
	switch do := os.Getenv(runnertest.EnvDo); do {
	case runnertest.DoServe:
		a.run(kind)
		<-a.stop
		return a.exit(agentctl.Exit{})
	case "suspect":
		a.run(kind)
		a.set(func(s *agentctl.State) { s.Suspect, s.Problem = true, "its health check fails" })
		<-a.stop
		a.set(func(s *agentctl.State) { s.Healthy, s.Suspect, s.Problem = false, true, "ends" })
		return a.exit(agentctl.Exit{})
	case "beat":
		a.set(func(s *agentctl.State) { s.BeatMS = 200 })
		a.run(kind)
		<-a.stop
		return a.exit(agentctl.Exit{})
	case runnertest.DoStart:
		<-a.stop
		return a.exit(agentctl.Exit{})
	case runnertest.DoSucceed:
		a.run(kind)
		return a.exit(agentctl.Exit{})
	case runnertest.DoFail:
		return a.exit(agentctl.Exit{Code: 1, Reason: runnertest.FailReason, Tail: runnertest.FailTail})
	case runnertest.DoHang:
		a.run(kind)
		select {}
	case runnertest.DoCrash:
		a.run(kind)
		if os.Getpid() == 1 {
			unix.Exit(137) // pid 1 can't kill itself with signal 9
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case runnertest.DoSpool:
		for i, b := range runnertest.Spooled(plat.WorkloadID(os.Getenv(agentctl.EnvWorkloadID))) { // first lines 1 and 3
			name := filepath.Join(a.work, agentctl.DirSpool, fmt.Sprintf("%020d.batch", 2*i+1))
			if err := os.WriteFile(name, b, 0o600); err != nil {
				panic(err)
			}
		}
		return a.exit(agentctl.Exit{})
	case "environment":
		return a.environment(kind)
	case "attack":
		return a.attack(kind)
	default:
		panic("unknown " + do)
	}
}

// environment asks for the environment TEST_KEY, builds it when told to, and
// serves with it. TEST_BUILD says how the build goes.
func (a *fakeAgent) environment(kind string) int {
	key := os.Getenv("TEST_KEY")
	a.set(func(s *agentctl.State) { s.Step, s.EnvRequest = "environment", &agentctl.EnvRequest{Key: key} })
	for {
		var reply agentctl.EnvReply
		select {
		case reply = <-a.reply:
		case <-a.stop:
			return a.exit(agentctl.Exit{})
		}
		if reply.Path != "" {
			data, err := os.ReadFile(filepath.Join(reply.Path, "pkg", "mod.py"))
			if err != nil {
				return a.exit(agentctl.Exit{Code: 1, Reason: err.Error()})
			}
			if err := os.WriteFile(filepath.Join(reply.Path, "pkg", "mine.py"), nil, 0o600); err == nil {
				return a.exit(agentctl.Exit{Code: 1, Reason: "the environment can be written"})
			}
			a.run(kind)
			// At once: whoever waits for the file reads it as soon as it is there.
			env := filepath.Join(a.work, "result", "env")
			_ = os.WriteFile(env+".new", []byte(reply.Path+"\n"+string(data)), 0o600)
			_ = os.Rename(env+".new", env)
			<-a.stop
			return a.exit(agentctl.Exit{})
		}
		_ = os.WriteFile(filepath.Join(a.work, "result", "building"), nil, 0o600)
		build := os.Getenv("TEST_BUILD")
		for build == "wait" {
			if _, err := os.Stat(filepath.Join(a.work, "result", "go")); err == nil {
				break
			}
			select {
			case <-a.stop:
				return a.exit(agentctl.Exit{})
			case <-time.After(10 * time.Millisecond):
			}
		}
		if build == "fail" {
			a.set(func(s *agentctl.State) { s.EnvRequest = &agentctl.EnvRequest{Key: key, Error: "planted"} })
			time.Sleep(200 * time.Millisecond) // let the error be seen first
			return a.exit(agentctl.Exit{Code: 1, Reason: "pip failed"})
		}
		dir := filepath.Join(a.work, agentctl.DirEnv, "pkg")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			panic(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "mod.py"), []byte("built by "+os.Getenv(agentctl.EnvWorkloadID)), 0o4711); err != nil {
			panic(err)
		}
		if build == "link" {
			_ = os.Symlink("/etc/passwd", filepath.Join(dir, "evil"))
		}
		if build == "fifo" {
			_ = syscall.Mkfifo(filepath.Join(dir, "evil"), 0o600)
		}
		a.set(func(s *agentctl.State) { s.EnvRequest = &agentctl.EnvRequest{Key: key, Built: true} })
	}
}
