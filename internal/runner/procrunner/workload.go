// SPDX-License-Identifier: Apache-2.0

package procrunner

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/agentctl"
)

// workload is one workload as this runner knows it. Two goroutines follow it
// while it runs: one waits for the process to end, one holds the control stream.
type workload struct {
	r         *Runner
	dir       string
	launched  chan struct{} // closed when Start is through with it
	launchErr error
	graceText atomic.Pointer[time.Duration]
	envWake   chan struct{} // capacity 1: an environment that was waited for may be there
	client    *http.Client
	gone      chan struct{} // closed when the process has ended
	// life ends with the process, or with the runner.
	life      context.Context //nolint:containedctx // see above
	endLife   context.CancelFunc
	heard     chan struct{} // closed when the agent has told its state
	heardOnce sync.Once

	// Guarded by r.mu.
	rec       record
	status    runner.Status
	proc      *process
	killText  string // why this runner killed it
	killTimer *time.Timer
	stopSent  bool
}

func newWorkload(r *Runner, rec record) *workload {
	w := &workload{
		r: r, dir: filepath.Join(r.cfg.RunDir, string(rec.ID)), rec: rec,
		launched: make(chan struct{}), envWake: make(chan struct{}, 1), gone: make(chan struct{}), heard: make(chan struct{}),
		status: runner.Status{ID: rec.ID, Org: rec.Org, Kind: rec.Kind, LogStream: rec.LogStream, StartedAt: rec.StartedAt},
	}
	w.life, w.endLife = context.WithCancel(r.ctx)
	if rec.Kind == runner.KindService {
		w.status.Addr = runner.Addr{Network: "unix", Address: filepath.Join(w.dir, dirSocket, "serve.sock"), Key: rec.Key}
	}
	socket := filepath.Join(w.dir, dirSocket, "control.sock")
	w.client = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		MaxIdleConns: 1, MaxResponseHeaderBytes: 16 << 10,
	}}
	return w
}

func (w *workload) ended() bool { return w.status.Phase == runner.PhaseExited }

func (w *workload) saveRecord() error { return saveJSON(filepath.Join(w.dir, fileSpec), w.rec) }

// follow starts the goroutines. The caller holds r.mu, or nobody else has w yet.
func (w *workload) follow() {
	if w.r.closed {
		w.proc.close()
		return
	}
	w.r.wg.Go(w.awaitEnd)
	w.r.wg.Go(w.control)
}

// detach lets go of a workload that goes on. The caller holds r.mu.
func (w *workload) detach() {
	if w.killTimer != nil {
		w.killTimer.Stop()
	}
	if w.proc != nil {
		w.proc.close()
	}
}

func (w *workload) awaitEnd() {
	status, err := w.proc.wait()
	if err != nil {
		// Close ends the wait; what it then fails with has no name of its own.
		if !w.r.isClosed() {
			w.log(slog.LevelError, "wait for workload", err)
		}
		return
	}
	close(w.gone)
	w.endLife()
	if err := w.finish(status); err != nil {
		w.log(slog.LevelError, "record the end of a workload", err)
	}
}

// finish finds out how the workload ended, puts it on record and reports it.
func (w *workload) finish(status exitStatus) error {
	r := w.r
	if !r.iso.namespaces {
		// The reaper has done this, unless it was killed itself.
		killGroups(w.rec.Groups)
		if w.rec.UID != 0 {
			killUID(w.rec.UID)
		}
	}
	count := readCounters(w.rec.Groups)
	work := filepath.Join(w.dir, dirWork)
	exit, known := readExit(work, r.cfg.off.reads)
	r.mu.Lock()
	end := endRecord{EndedAt: r.cfg.Now(), Stopped: w.status.Stopped}
	killText := w.killText
	r.mu.Unlock()
	end.ExitCode, end.Reason = w.verdict(status, exit, known, count, killText)
	// Reported even when it can't be recorded (a full disk): the next runner
	// finds the process gone and comes to the same verdict, less the counters.
	err := saveJSON(filepath.Join(w.dir, fileEnd), end)
	removeGroups(w.rec.Groups)
	r.envs.release(w.rec.ID)
	w.client.CloseIdleConnections()
	r.mu.Lock()
	w.setEnd(end)
	if w.killTimer != nil {
		w.killTimer.Stop()
	}
	if w.proc != nil {
		w.proc.close()
	}
	r.mu.Unlock()
	r.hub.Notify(w.rec.ID)
	return err
}

// verdict turns what is known of an end into exit code and reason.
func (w *workload) verdict(status exitStatus, exit agentctl.Exit, known bool, count counters, killText string) (int, string) {
	withTail := func(reason string) string {
		if exit.Tail != "" {
			reason += "\n" + exit.Tail
		}
		return reason
	}
	memory := "killed: memory limit " + showGiB(w.rec.Resources.Memory) + " reached"
	processes := fmt.Sprintf("limit of %d processes reached", w.r.cfg.Processes)
	switch {
	case killText != "":
		return 137, withTail(killText)
	case known && exit.Code == 0:
		return 0, ""
	case known && count.oomKills > 0:
		return 1, withTail(memory)
	case known && count.pidsMax > 0:
		return 1, withTail(cmp.Or(exit.Reason, "it failed") + " (" + processes + ")")
	case known:
		return 1, withTail(cmp.Or(exit.Reason, "it failed without a reason"))
	case count.oomKills > 0:
		return 137, memory
	case status.exited && status.code == 0:
		return 0, ""
	case status.exited && status.code != 137: // which is what the reaper says of a killed agent
		reason := fmt.Sprintf("the agent ended with status %d and left no word", status.code)
		if tail := w.logTail(); tail != "" {
			reason += "\n" + tail
		}
		return 1, reason
	case count.pidsMax > 0:
		return 137, "the agent was killed; " + processes
	}
	return 137, "the agent was killed"
}

// logTail returns the last lines of what the agent itself printed.
func (w *workload) logTail() string {
	f, err := os.Open(filepath.Join(w.dir, fileLog))
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if fi, err := f.Stat(); err == nil && fi.Size() > 4096 {
		if _, err := f.Seek(-4096, io.SeekEnd); err != nil {
			return ""
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return ""
	}
	return clip(string(bytes.TrimSpace(data)), 4096)
}

func (w *workload) setEnd(end endRecord) {
	w.status.Phase, w.status.Healthy, w.status.Suspect, w.status.Problem = runner.PhaseExited, false, false, ""
	w.status.EndedAt, w.status.ExitCode = end.EndedAt, end.ExitCode
	w.status.Reason, w.status.Stopped = end.Reason, end.Stopped
	w.status.PID = w.rec.PID
}

// stopAt asks the agent to end and kills what is left at the deadline.
func (w *workload) stopAt(deadline time.Time) {
	r := w.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.ended() || r.closed || w.proc == nil {
		return
	}
	if w.killTimer != nil {
		w.killTimer.Stop()
	}
	w.killTimer = time.AfterFunc(deadline.Sub(r.cfg.Now()), func() {
		text := "killed: it did not end in time after it was stopped"
		if g := w.graceText.Load(); g != nil {
			text = fmt.Sprintf("killed: it did not end within %v of being stopped", *g)
		}
		w.kill(text)
	})
	if w.stopSent {
		return
	}
	w.stopSent = true
	r.wg.Go(func() {
		// An agent that has not come up yet knows SIGTERM only; one that has knows
		// both, and is asked once.
		if err := w.post(r.ctx, "/v1/stop", nil); err == nil {
			return
		}
		if err := w.proc.signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrClosed) {
			w.log(slog.LevelWarn, "signal the agent", err)
		}
	})
}

// kill ends the workload now, with text as the reason.
func (w *workload) kill(text string) {
	r := w.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.ended() || r.closed || w.proc == nil || w.killText != "" {
		return
	}
	w.killText = text
	if !r.iso.namespaces {
		// The reaper must not go before those it reaps.
		killGroups(w.rec.Groups)
		if table, err := processTable(); err == nil {
			for _, pid := range family(table, w.rec.PID)[1:] {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
	if err := w.proc.signal(unix.SIGKILL); err != nil {
		r.cfg.Log.Error("kill workload", slog.String(plat.LogWorkload, string(w.rec.ID)), slog.String(plat.LogError, err.Error()))
	}
}

// control holds the stream of the agent's states, and takes it up again when it
// breaks, until the process has ended.
func (w *workload) control() {
	ctx := w.life
	defer w.client.CloseIdleConnections()
	pause := 10 * time.Millisecond
	for ctx.Err() == nil {
		began := time.Now()
		err := w.stream(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 10*time.Second {
			pause = 10 * time.Millisecond
		}
		if pause > time.Second {
			w.log(slog.LevelDebug, "control stream of the agent broke", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// greet waits for a place among the agents that are asked for their first state.
func (w *workload) greet(ctx context.Context) (greeted func(), err error) {
	select {
	case w.r.greetings <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	leave := sync.OnceFunc(func() { <-w.r.greetings })
	limit := time.AfterFunc(greetingLimit, leave)
	return func() { limit.Stop(); leave() }, nil
}

// stream reads states until the stream breaks.
func (w *workload) stream(ctx context.Context) error {
	greeted, err := w.greet(ctx)
	if err != nil {
		return err
	}
	defer greeted()
	req, err := w.request(ctx, http.MethodGet, "/v1/watch", nil)
	if err != nil {
		return err
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return err
	}
	var reader sync.WaitGroup
	defer reader.Wait()
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the agent answered %s", resp.Status)
	}
	// States go through a channel so that this goroutine can also be woken for an
	// environment.
	states := make(chan agentctl.State)
	errs := make(chan error, 1)
	done := make(chan struct{})
	defer close(done)
	reader.Go(func() {
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 64<<10)
		for lines.Scan() {
			var st agentctl.State
			if err := json.Unmarshal(lines.Bytes(), &st); err != nil {
				errs <- err
				return
			}
			select {
			case states <- st:
			case <-done:
				return
			}
		}
		errs <- cmp.Or(lines.Err(), io.EOF)
	})
	var last agentctl.State
	var sent agentctl.EnvReply
	silence := time.NewTimer(time.Hour)
	defer silence.Stop()
	doubted := false
	for {
		select {
		case last = <-states:
			w.takeState(last)
			greeted()
			if doubted = false; last.BeatMS > 0 {
				silence.Reset(2 * time.Duration(last.BeatMS) * time.Millisecond)
			} else {
				silence.Stop() // one that does not repeat itself may be silent
			}
		case <-silence.C:
			if !doubted { // perhaps it was this process that stood still: what has come is read first
				doubted = true
				silence.Reset(doubtTime)
				continue
			}
			w.takeSilence()
			continue
		case <-w.envWake:
		case err := <-errs:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
		reply, ok := w.environmentReply(last.EnvRequest) //nolint:contextcheck // it only logs
		if !ok {
			sent = agentctl.EnvReply{}
			continue
		}
		if reply == sent {
			continue
		}
		if err := w.post(ctx, "/v1/environment", reply); err != nil {
			return err // with the next connection comes the same request
		}
		sent = reply
	}
}

// takeState moves the status; phases only go forward, and only the end of the
// process is the end.
func (w *workload) takeState(st agentctl.State) {
	w.r.mu.Lock()
	old := w.status
	if !w.ended() {
		if runner.Phase(st.Phase) == runner.PhaseRunning {
			w.status.Phase = runner.PhaseRunning
		}
		w.status.Healthy = st.Healthy && w.status.Phase == runner.PhaseRunning && w.rec.Kind == runner.KindService
		w.status.Suspect = w.status.Healthy && st.Suspect
		if w.rec.Kind == runner.KindService {
			w.status.Addr.Limit = min(max(st.Limit, 0), runner.MaxLimit)
			if w.status.Problem = ""; (!w.status.Healthy || w.status.Suspect) && st.Problem != "" {
				first, tail, _ := strings.Cut(st.Problem, "\n")
				w.status.Problem = strings.TrimSuffix(clip(first, 1024)+"\n"+clip(tail, 4096), "\n")
			}
		}
	}
	changed := w.status != old
	w.r.mu.Unlock()
	w.heardOnce.Do(func() { w.r.answered.Add(1); close(w.heard) })
	if changed {
		w.r.hub.Notify(w.rec.ID)
	}
}

// takeSilence marks a service whose agent does not repeat its state as it said it would:
// it gets no requests until the next state comes.
func (w *workload) takeSilence() {
	w.r.mu.Lock()
	was := w.status.Healthy && !w.ended()
	if was {
		w.status.Healthy, w.status.Suspect, w.status.Problem = false, false, "its agent hangs: it does not say any more that it is healthy"
	}
	w.r.mu.Unlock()
	if was {
		w.r.hub.Notify(w.rec.ID)
	}
}

// environmentReply works out what to answer an agent that needs an environment;
// ok is false while it has to wait.
func (w *workload) environmentReply(req *agentctl.EnvRequest) (reply agentctl.EnvReply, ok bool) {
	if req == nil {
		return reply, false
	}
	envs, id, org := w.r.envs, w.rec.ID, w.rec.Org
	if !envKeyPattern.MatchString(req.Key) {
		w.kill("refused: the key of its environment is malformed")
		return reply, false
	}
	switch {
	case req.Error != "":
		envs.abandon(org, req.Key, id)
		return reply, false
	case req.Built:
		if err := envs.adopt(w.r.ctx, org, req.Key, filepath.Join(w.dir, dirWork), agentctl.DirEnv); err != nil {
			envs.abandon(org, req.Key, id)
			if w.r.ctx.Err() == nil {
				w.log(slog.LevelWarn, "adopt environment", err)
				w.kill("refused: the environment that it built can't be kept: " + publicText(err))
			}
			return reply, false
		}
		envs.abandon(org, req.Key, id)
	}
	path, build := envs.request(org, req.Key, id, w.wakeEnv)
	switch {
	case path != "":
		w.r.mu.Lock()
		w.rec.EnvKey = req.Key
		rec := w.rec
		w.r.mu.Unlock()
		// On record before it is used, so that collection leaves it alone for good.
		if err := saveJSON(filepath.Join(w.dir, fileSpec), rec); err != nil {
			w.log(slog.LevelError, "record the environment", err)
			return reply, false
		}
		return agentctl.EnvReply{Key: req.Key, Path: path}, true
	case build:
		return agentctl.EnvReply{Key: req.Key, Build: true}, true
	}
	return reply, false
}

func (w *workload) wakeEnv() {
	select {
	case w.envWake <- struct{}{}:
	default:
	}
}

func (w *workload) request(ctx context.Context, method, path string, body any) (*http.Request, error) {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	req.Header.Set(agentctl.HeaderInstanceKey, w.rec.Key)
	return req, nil
}

func (w *workload) post(ctx context.Context, path string, body any) error {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	req, err := w.request(ctx, http.MethodPost, path, body)
	if err != nil {
		return err
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4096))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the agent answered %s to %s", resp.Status, path)
	}
	return nil
}

func (w *workload) log(level slog.Level, msg string, err error) {
	w.r.cfg.Log.LogAttrs(context.Background(), level, msg, //nolint:sloglint // constants, from the callers
		slog.String(plat.LogWorkload, string(w.rec.ID)), slog.String(plat.LogError, err.Error()))
}

// publicText is what of an error the user may read.
func publicText(err error) string {
	if e, ok := errors.AsType[*plat.Error](err); ok {
		return e.Public
	}
	return "internal error"
}

func showGiB(n int64) string {
	if n < 1<<30 {
		return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}
