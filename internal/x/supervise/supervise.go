// SPDX-License-Identifier: Apache-2.0

// Package supervise keeps one server running behind listening sockets that outlive
// it: while there is no server, the kernel keeps callers waiting instead of refusing
// them. A server that dies is started again; one that is asked to go hands over
// to its successor (docs/adr/0025-hand-over.md).
package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"panal/internal/plat"
	"panal/internal/x/handed"
)

// HandOver asks a server to give its place to the next one, and to stay only as
// long as it carries streams. (SIGTERM asks it to end.)
const HandOver = syscall.SIGUSR2

// Config is what a supervisor works with.
type Config struct {
	// Command is the server's, by its path: a new program there is what a replacement runs.
	Command []string
	// Env is its environment. SuccessorEnv is added to it for every server but the first.
	Env, SuccessorEnv []string
	// Listen are the addresses that are held, by the names that the server knows them by.
	Listen []Address
	// GiveUp tells of which exit codes another start would change nothing, while no server
	// has been ready: what has worked is worth waiting for until it is mended.
	GiveUp func(code int) bool
	// Limit is how long a hand-over may take before the old server is killed; 0: 2 min.
	Limit time.Duration
	// Output is the servers' standard error.
	Output io.Writer
	Log    *slog.Logger
}

// Address is one that is held.
type Address struct{ Name, Address string }

const (
	// stableAfter is how long a server must have been ready for its death to be the first again.
	stableAfter  = time.Second
	firstBackoff = 200 * time.Millisecond
	maxBackoff   = 10 * time.Second
)

// backoff is how long the next start waits after so many deaths in a row: the first
// one is made good at once.
func backoff(deaths int) time.Duration {
	if deaths <= 1 {
		return 0
	}
	return min(firstBackoff<<min(deaths-2, 16), maxBackoff)
}

// server is a process.
type server struct {
	cmd     *exec.Cmd
	ear     *handed.Ear
	readyAt time.Time // zero before
	asked   time.Time // when it was asked to hand over; zero before
}

// news is what has become of a server: what it told, or that it has ended.
type news struct {
	of    *server
	told  string // "" when it has ended
	state *os.ProcessState
}

// supervisor is a Run.
type supervisor struct {
	Config
	dir   string
	files []*os.File
	names []string
	news  chan news
	count int

	current *server   // it has, or will have, the data directory; nil between two
	next    *server   // it is to take its place, and is not known to be able to yet
	former  []*server // they carry streams
	wanted  bool      // a replacement was asked for that had to be put off
	deaths  int       // in a row
	ending  bool
	worked  bool // a server has been ready
}

// Run holds the sockets and keeps a server running until ctx ends, the server ends by
// itself with code 0, or can't be started. Each value of replace has it replaced.
// It returns the last server's exit code.
func Run(ctx context.Context, cfg Config, replace <-chan os.Signal) (int, error) {
	if cfg.Limit == 0 {
		cfg.Limit = 2 * time.Minute
	}
	// The kernel ends the servers with the thread that started them.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dir, err := os.MkdirTemp("", "panal-supervise-") // 0700: nobody else speaks for a server
	if err != nil {
		return 1, err
	}
	s := &supervisor{Config: cfg, dir: dir, news: make(chan news)}
	defer func() {
		for _, f := range s.files {
			_ = f.Close()
		}
		_ = os.RemoveAll(dir)
	}()
	for _, a := range cfg.Listen {
		if err := s.hold(ctx, a); err != nil {
			return 1, err
		}
	}
	return s.run(ctx, replace)
}

// hold opens a listening socket that nobody here accepts from.
func (s *supervisor) hold(ctx context.Context, a Address) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", a.Address)
	if err != nil {
		return plat.Errorf(plat.ErrConflict, "can't listen on %s: %v", a.Address, errors.Unwrap(err))
	}
	f, err := l.(*net.TCPListener).File()
	if cerr := l.Close(); err == nil { // f is the same socket
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("hold %s: %w", a.Address, err)
	}
	s.files, s.names = append(s.files, f), append(s.names, a.Name)
	s.Log.LogAttrs(ctx, slog.LevelInfo, "holding a listening socket", slog.String(plat.LogAddress, l.Addr().String()))
	return nil
}

func (s *supervisor) run(ctx context.Context, replace <-chan os.Signal) (int, error) {
	var err error
	if s.current, err = s.start(ctx); err != nil {
		return 1, err
	}
	retry, late := time.NewTimer(time.Hour), time.NewTimer(time.Hour)
	retry.Stop()
	late.Stop()
	defer retry.Stop()
	defer late.Stop()
	end := ctx.Done()
	code := 0
	for {
		select {
		case <-end:
			end, s.ending = nil, true
			retry.Stop()
			for _, p := range s.all() {
				s.signal(p, syscall.SIGTERM)
			}
		case <-replace:
			s.replace(ctx)
		case <-retry.C:
			if s.current, err = s.start(ctx); err != nil { // a program that is being replaced, say
				s.deaths++
				s.Log.LogAttrs(ctx, slog.LevelWarn, "the server can't be started", slog.String(plat.LogError, err.Error()))
				retry.Reset(backoff(s.deaths + 1))
			}
		case <-late.C:
			for _, p := range s.former {
				if s.current != nil && s.current.readyAt.IsZero() && !p.asked.IsZero() {
					s.Log.LogAttrs(ctx, slog.LevelWarn, "the old server does not give its place up, and is killed", slog.Int(plat.LogPID, p.cmd.Process.Pid))
					s.signal(p, syscall.SIGKILL)
				}
			}
		case n := <-s.news:
			switch {
			case n.told != "":
				if s.heard(ctx, n) {
					late.Reset(s.Limit)
				}
			default:
				was := n.of == s.current
				c, again := s.ended(ctx, n)
				if was {
					code = c
				}
				if again {
					retry.Reset(backoff(s.deaths))
				} else if s.current == nil && !s.ending { // it ended as it meant to, or for good
					s.ending = true
					for _, p := range s.all() {
						s.signal(p, syscall.SIGTERM)
					}
				}
			}
		}
		if s.wanted && s.next == nil && s.current != nil && !s.current.readyAt.IsZero() {
			s.wanted = false
			s.replace(ctx)
		}
		if s.ending && len(s.all()) == 0 {
			return code, nil
		}
	}
}

// all returns the servers that run.
func (s *supervisor) all() []*server {
	all := slices.Clone(s.former)
	for _, p := range []*server{s.current, s.next} {
		if p != nil {
			all = append(all, p)
		}
	}
	return all
}

// replace starts the next server. The one there is goes on until that is able to take over.
func (s *supervisor) replace(ctx context.Context) {
	switch {
	case s.ending:
		return
	case s.next != nil, s.current == nil || s.current.readyAt.IsZero():
		s.wanted = true // what starts may be the program of a moment ago
		s.Log.LogAttrs(ctx, slog.LevelInfo, "a server is starting; it is replaced once it is ready")
		return
	}
	next, err := s.start(ctx)
	if err != nil {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "the new server can't be started; the old one goes on", slog.String(plat.LogError, err.Error()))
		return
	}
	s.next = next
	s.Log.LogAttrs(ctx, slog.LevelInfo, "replacing the server", slog.Int("old", s.current.cmd.Process.Pid), slog.Int("new", next.cmd.Process.Pid))
}

// heard takes up what a server told, and tells whether a hand-over begins.
func (s *supervisor) heard(ctx context.Context, n news) bool {
	if n.told == handed.Ready && n.of.readyAt.IsZero() {
		n.of.readyAt, s.worked = time.Now(), true
		s.Log.LogAttrs(ctx, slog.LevelInfo, "the server is ready", slog.Int(plat.LogPID, n.of.cmd.Process.Pid))
	}
	if n.of != s.next || n.told != handed.Ready && n.told != handed.Waiting {
		return false
	}
	old := s.current
	s.current, s.next = s.next, nil
	if old == nil {
		return false
	}
	old.asked = time.Now()
	s.former = append(s.former, old)
	s.signal(old, HandOver)
	return true
}

// ended takes up the end of a server, and tells its exit code and whether another one
// is to be started in its place.
func (s *supervisor) ended(ctx context.Context, n news) (code int, again bool) {
	if code = n.state.ExitCode(); code < 0 {
		code = 128
		if ws, ok := n.state.Sys().(syscall.WaitStatus); ok {
			code += int(ws.Signal())
		}
	}
	pid := slog.Int(plat.LogPID, n.of.cmd.Process.Pid)
	how := slog.String(plat.LogReason, n.state.String())
	switch {
	case s.ending:
	case n.of == s.next:
		s.Log.LogAttrs(ctx, slog.LevelWarn, "the new server did not start; the old one goes on", pid, how)
	case n.of != s.current:
		s.Log.LogAttrs(ctx, slog.LevelInfo, "the old server has ended", pid, how)
	case s.next != nil: // the next one was on its way already
		s.Log.LogAttrs(ctx, slog.LevelWarn, "the server ended while it was being replaced", pid, how)
		s.current, s.next = s.next, nil
		return code, false
	case code == 0:
		s.Log.LogAttrs(ctx, slog.LevelInfo, "the server was told to end, and has", pid)
	case !s.worked && s.GiveUp(code):
		s.Log.LogAttrs(ctx, slog.LevelWarn, "the server can't run as it is configured; another start would change nothing", pid, how)
	default:
		if !n.of.readyAt.IsZero() && time.Since(n.of.readyAt) >= stableAfter {
			s.deaths = 0
		}
		s.deaths++
		again = true
		s.Log.LogAttrs(ctx, slog.LevelWarn, "the server died; it is started again", pid, how, slog.Duration("after", backoff(s.deaths)))
	}
	switch n.of {
	case s.current:
		s.current = nil
	case s.next:
		s.next = nil
	default:
		s.former = slices.DeleteFunc(s.former, func(p *server) bool { return p == n.of })
	}
	return code, again
}

// start starts a server.
func (s *supervisor) start(ctx context.Context) (*server, error) {
	s.count++
	ear, err := handed.Listen(filepath.Join(s.dir, strconv.Itoa(s.count)))
	if err != nil {
		return nil, err
	}
	// It ends by a signal of its own, which gives it time.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), s.Command[0], s.Command[1:]...)
	cmd.Env = append(slices.Clone(s.Env), handed.Env(s.names)...)
	cmd.Env = append(cmd.Env, ear.Env())
	if s.count > 1 {
		cmd.Env = append(cmd.Env, s.SuccessorEnv...)
	}
	cmd.Stderr, cmd.ExtraFiles = s.Output, s.files
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true, // a terminal's Ctrl-C is for the supervisor, which passes it on
		Pdeathsig: syscall.SIGTERM,
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, ear.Close())
	}
	p := &server{cmd: cmd, ear: ear}
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		for {
			states, err := ear.Next()
			for _, state := range states {
				if state != "" {
					s.news <- news{of: p, told: state}
				}
			}
			if err != nil {
				return
			}
		}
	}()
	go func() {
		_ = cmd.Wait() // the state tells all
		_ = ear.Close()
		<-heard
		s.news <- news{of: p, state: cmd.ProcessState}
	}()
	return p, nil
}

// signal sends a signal to a server; one that has ended meanwhile needs none.
func (s *supervisor) signal(p *server, sig syscall.Signal) { _ = p.cmd.Process.Signal(sig) }
