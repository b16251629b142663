// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"panal/internal/logs/spool"
	"panal/internal/runner"
	"panal/internal/runner/agentctl"
)

// logGrace is how long a service, or a workload that was stopped, waits for its
// last lines to be acknowledged; the runner takes what is left.
const logGrace = 3 * time.Second

type agent struct {
	cfg     *config
	api     *apiClient
	sink    *sink
	state   *state
	procs   *processes
	tasks   sync.WaitGroup // everything that runs beside
	tmp     string
	scripts string
}

// Main runs `panal agent ARGS…` to its end and returns the exit code: 0 or 1.
// It belongs to the process as a whole: it reaps all of its children.
func Main(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	if len(args) == 1 && args[0] == "dial" {
		return dialMain(environ, stderr)
	}
	cfg, err := parse(args, environ)
	if err != nil {
		return notBegun(environ, stderr, err)
	}
	conn, err := dialSocketOf(environ)
	if err != nil {
		return notBegun(environ, stderr, err)
	}
	if conn != nil {
		defer func() { _ = conn.Close() }()
		cfg.dial = &dialer{conn}
	}
	a := &agent{cfg: cfg, api: newAPIClient(cfg), state: newState()}
	code, err := a.run(ctx, stdout)
	if err != nil {
		return notBegun(environ, stderr, err)
	}
	return code
}

// notBegun tells of an agent that could not begin: on standard error, and to the
// runner if it wants to know.
func notBegun(environ []string, stderr io.Writer, err error) int {
	_, _ = fmt.Fprintf(stderr, "panal agent: %v\n", err)
	for _, kv := range environ {
		if dir, ok := strings.CutPrefix(kv, agentctl.EnvWorkDir+"="); ok && filepath.IsAbs(dir) {
			if err := writeExit(dir, agentctl.Exit{Code: 1, Reason: err.Error()}); err != nil {
				_, _ = fmt.Fprintf(stderr, "panal agent: %v\n", err)
			}
		}
	}
	return 1
}

// run does the agent's work; an error means that it could not even begin, or
// could not tell how it ended.
func (a *agent) run(ctx context.Context, stdout io.Writer) (code int, err error) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// Background work ends last, after the workload's end has been told.
	back, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer a.tasks.Wait()
	defer cancel()
	defer a.api.close()

	if a.procs, err = newProcesses(); err != nil {
		return 1, err
	}
	a.tmp = filepath.Join(a.cfg.workDir, agentctl.DirTmp)
	a.scripts = filepath.Join(a.tmp, "runtime")
	for _, dir := range []string{a.tmp, a.cfg.codeDir, a.cfg.resultDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return 1, fmt.Errorf("make directory: %w", err)
		}
	}
	if err := writeScripts(a.scripts); err != nil {
		return 1, err
	}
	ending, giveUp := context.WithCancel(back)
	defer giveUp()
	a.sink = &sink{out: stdout, ctx: ending, labels: labels{Service: a.cfg.service, Job: a.cfg.job, Org: a.cfg.org, Deployment: a.cfg.deployment}}
	ship, err := a.openSpool()
	if err != nil {
		return 1, err
	}
	shipped := make(chan struct{})
	if ship != nil {
		a.tasks.Go(func() {
			defer close(shipped)
			_ = ship.run(back) // ends with back, or when all is acknowledged
		})
	} else {
		close(shipped)
	}
	a.tasks.Go(func() { a.procs.reap(back) })
	if a.cfg.controlFD >= 0 {
		ln, err := inherited(a.cfg.controlFD)
		if err != nil {
			return 1, fmt.Errorf("control socket: %w", err)
		}
		end := serveHTTP(ln, demandKey(a.cfg.key, a.state.control(stop)), func(err error) { a.sink.say("error", "control socket: %v", err) })
		defer end(time.Second)
	}

	endProxy, err := a.openWayOut()
	if err != nil {
		return 1, err
	}
	defer endProxy()
	work := a.training
	if a.cfg.kind == runner.KindService {
		work = a.serve
	}
	err = work(ctx)
	stopped := ctx.Err() != nil
	exit := agentctl.Exit{}
	if err != nil {
		exit.Code, exit.Reason = 1, reason(err, stopped)
		a.sink.say("error", "%s", exit.Reason)
	}
	a.procs.killOrphans()
	exit.Tail = a.sink.lastLines()
	a.sink.endExport()
	if a.cfg.kind == runner.KindTraining && !stopped && a.cfg.execute {
		a.drain(ctx, ship, shipped, patience)
	} else {
		a.drain(context.WithoutCancel(ctx), ship, shipped, logGrace)
	}
	giveUp()
	if err := writeExit(a.cfg.workDir, exit); err != nil {
		a.state.update(func(s *agentctl.State) { s.Phase, s.Healthy, s.Exit = string(runner.PhaseExited), false, &exit })
		return 1, err
	}
	a.state.update(func(s *agentctl.State) {
		s.Phase, s.Healthy, s.Step, s.Exit = string(runner.PhaseExited), false, "", &exit
	})
	return exit.Code, nil
}

// reason is the sentence that people read.
func reason(err error, stopped bool) string {
	if stopped && (errors.Is(err, context.Canceled) || errors.Is(err, errStopped)) {
		return "stopped"
	}
	return err.Error()
}

// openSpool begins shipping if somebody takes the lines.
func (a *agent) openSpool() (*shipper, error) {
	if a.cfg.workload == "" {
		return nil, nil
	}
	dir := filepath.Join(a.cfg.workDir, agentctl.DirSpool)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	sp, err := spool.Open(root, spool.Options{Workload: a.cfg.workload, Stream: a.cfg.stream})
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	a.sink.spool = sp
	return newShipper(a.api, sp, a.cfg, a.sink.say), nil
}

// drain ends the spool's input and waits until all lines are acknowledged, the
// server refuses them for good, or time is up. Asking the workload to end cuts the
// wait to logGrace.
func (a *agent) drain(ctx context.Context, ship *shipper, shipped <-chan struct{}, limit time.Duration) {
	if ship == nil {
		return
	}
	ship.spool.CloseInput()
	deadline := time.After(limit)
	select {
	case <-shipped:
		return
	case <-ship.refused:
	case <-deadline:
		return
	case <-ctx.Done():
	}
	select {
	case <-shipped:
	case <-deadline:
	case <-time.After(logGrace):
	}
}

// writeExit tells the runner how it ended, atomically.
func writeExit(workDir string, exit agentctl.Exit) error {
	exit.Reason = strings.ToValidUTF8(exit.Reason[:min(len(exit.Reason), 8<<10)], "")
	data, err := json.Marshal(exit)
	if err != nil {
		return fmt.Errorf("write exit: %w", err)
	}
	path := filepath.Join(workDir, agentctl.ExitFile)
	if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
		return fmt.Errorf("write exit: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("write exit: %w", err)
	}
	return nil
}

// python starts one of our scripts on the user's code. The returned function
// reads the sentence that the script left behind.
func (a *agent) python(script, dir, site, name string, env []string) (*child, func() string, error) {
	why := filepath.Join(a.tmp, name+".reason")
	settings, err := json.Marshal(map[string]any{"site": site, "reason": why})
	if err != nil {
		return nil, nil, fmt.Errorf("start python: %w", err)
	}
	c, err := a.startChild([]string{a.cfg.python, filepath.Join(a.scripts, script), string(settings)}, dir, append(slices.Clip(a.cfg.environ), env...))
	if err != nil {
		return nil, nil, err
	}
	return c, func() string {
		data, err := readSmall(why)
		if err != nil {
			return ""
		}
		return message(data[:min(len(data), 2000)])
	}, nil
}
