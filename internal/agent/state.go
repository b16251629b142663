// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"panal/internal/runner"
	"panal/internal/runner/agentctl"
)

// beatEvery is how often a healthy agent says that it is, to those who watch.
const beatEvery = 2 * time.Second

// state is what the agent says of itself; watchers see each change.
type state struct {
	mu      sync.Mutex
	s       agentctl.State
	changed chan struct{}
	replies chan agentctl.EnvReply
}

func newState() *state {
	return &state{
		s:       agentctl.State{Phase: string(runner.PhaseStarting)},
		changed: make(chan struct{}),
		replies: make(chan agentctl.EnvReply, 1),
	}
}

func (s *state) update(change func(*agentctl.State)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.s)
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *state) step(name string) {
	s.update(func(st *agentctl.State) { st.Step = name })
}

func (s *state) get() (agentctl.State, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.s, s.changed
}

// control serves the runner's questions (agentctl) until Shutdown.
func (s *state) control(stop func()) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		st, _ := s.get()
		writeJSON(w, http.StatusOK, st)
	})
	mux.HandleFunc("GET /v1/watch", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		rc := http.NewResponseController(w)
		for {
			st, changed := s.get()
			var again <-chan time.Time
			if st.Healthy { // whoever sends this agent requests has to know that it is still there
				st.BeatMS = int(beatEvery.Milliseconds())
				again = time.After(beatEvery)
			}
			if json.NewEncoder(w).Encode(st) != nil || rc.Flush() != nil || st.Exit != nil {
				return
			}
			select {
			case <-changed:
			case <-again:
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, _ *http.Request) {
		stop()
		writeJSON(w, http.StatusAccepted, struct{}{})
	})
	mux.HandleFunc("POST /v1/environment", func(w http.ResponseWriter, r *http.Request) {
		var reply agentctl.EnvReply
		if err := json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&reply); err != nil {
			writeJSON(w, http.StatusBadRequest, statusBody("the environment reply is no JSON"))
			return
		}
		st, _ := s.get()
		if st.EnvRequest == nil || st.EnvRequest.Key != reply.Key || (reply.Path != "") == reply.Build {
			writeJSON(w, http.StatusConflict, statusBody("no such environment was asked for"))
			return
		}
		select {
		case s.replies <- reply:
		default: // the same answer again: one is enough
		}
		writeJSON(w, http.StatusOK, struct{}{})
	})
	return mux
}

// askEnvironment asks the runner and waits for its answer, however long the
// runner is away.
func (s *state) askEnvironment(ctx context.Context, req agentctl.EnvRequest) (agentctl.EnvReply, error) {
	select { // an answer to an earlier question
	case <-s.replies:
	default:
	}
	s.update(func(st *agentctl.State) { st.EnvRequest = &req })
	for {
		select {
		case reply := <-s.replies:
			if reply.Key != req.Key || req.Built && reply.Build {
				continue
			}
			if reply.Path != "" {
				s.update(func(st *agentctl.State) { st.EnvRequest = nil })
			}
			return reply, nil
		case <-ctx.Done():
			return agentctl.EnvReply{}, ctx.Err()
		}
	}
}

// demandKey lets only those in who know the instance's key (agentctl); without a
// key the agent was started by hand, and everybody.
func demandKey(key string, next http.Handler) http.Handler {
	if key == "" {
		return next
	}
	want := sha256.Sum256([]byte(key))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Sums of equal length: the comparison takes the same time whatever is sent.
		sum := sha256.Sum256([]byte(r.Header.Get(agentctl.HeaderInstanceKey)))
		if subtle.ConstantTimeCompare(sum[:], want[:]) != 1 {
			writeJSON(w, http.StatusForbidden, statusBody("forbidden"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// inherited returns the listener that was passed on as fd. The number itself is
// closed, so that user code does not get it.
func inherited(fd int) (net.Listener, error) {
	syscall.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "listener")
	if f == nil {
		return nil, fmt.Errorf("file descriptor %d is not open", fd)
	}
	defer func() { _ = f.Close() }()
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listener on file descriptor %d: %w", fd, err)
	}
	return ln, nil
}

// serveHTTP runs a server in the background; the returned function ends it,
// waiting for open requests at most as long as told, and for the goroutine.
func serveHTTP(ln net.Listener, h http.Handler, onError func(error)) func(time.Duration) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 1 << 20}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			onError(err)
		}
	}()
	return func(grace time.Duration) {
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			_ = srv.Close()
		}
		<-done
	}
}

// statusBody is the body of the agent's own answers (compute.md §8.2).
func statusBody(text string) map[string]string { return map[string]string{"status": text} }

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}
