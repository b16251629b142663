// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"panal/internal/plat"
	"panal/internal/x/handed"
)

// How a server goes (docs/adr/0025-hand-over.md). One whose sockets are held by its
// starter first goes on as usual while its answers say Connection: close (it is a lame
// duck), then accepts no more, finishes what it has and gives the data directory
// up; callers wait in the socket's queue for the next server. Told to hand over, it
// stays as the carrier of the calls that instances have: those need nothing of what it
// has given up.

// Starter is who started the process, as far as that matters: nobody, for the zero value.
type Starter struct {
	// Sockets are listening sockets that it holds.
	Sockets handed.Sockets
	// Tell tells it how the server does.
	Tell handed.Notifier
	// Supervisor is its process, if it starts another server in the place of one that ends.
	Supervisor int
}

// SupervisorEnv is the environment variable that holds the supervisor's process id.
const SupervisorEnv = "PANAL_SUPERVISOR"

// Names of sockets.
const (
	socketHTTP  = "http"
	socketHTTPS = "https"
	socketAdmin = "admin"
)

// TakeStarter reads the process' environment, once and before files are opened.
func TakeStarter() (Starter, error) {
	sockets, err := handed.Take(socketHTTP)
	if err != nil {
		return Starter{}, plat.Errorf(plat.ErrInvalid, "the sockets that the starter passed on: %v", err)
	}
	tell, err := handed.NewNotifier()
	supervisor, _ := strconv.Atoi(os.Getenv(SupervisorEnv))
	if supervisor != os.Getppid() { // it came by way of a shell
		supervisor = alone
	}
	return Starter{sockets, tell, supervisor}, errors.Join(err, os.Unsetenv(SupervisorEnv))
}

// checkSockets refuses sockets that nothing would be served on.
func (a *App) checkSockets() error {
	used := map[string]bool{socketHTTP: true, socketHTTPS: a.cfg.TLSListen != "", socketAdmin: a.cfg.Admin != ""}
	for name, l := range a.starter.Sockets {
		if !used[name] {
			return plat.Errorf(plat.ErrInvalid, "the starter passed on a socket %q (%s) that the configuration has no use for; the names are %s, and %s and %s where --tls-listen and --admin-listen are set",
				name, l.Addr(), socketHTTP, socketHTTPS, socketAdmin)
		}
		tcp, ok := l.Addr().(*net.TCPAddr)
		open := name == socketHTTPS || name == socketHTTP && a.cfg.Insecure
		if !open && (!ok || !tcp.IP.IsLoopback()) {
			return plat.Errorf(plat.ErrInvalid, "the starter passed on the socket %q on %s, which is not a loopback address; see --listen and --admin-listen", name, l.Addr())
		}
	}
	return nil
}

// open returns the starter's socket of that name, or one on the address.
func (a *App) open(ctx context.Context, name, address string) (net.Listener, error) {
	if l := a.starter.Sockets[name]; l != nil {
		return l, nil
	}
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", address)
}

// tell tells the starter.
func (a *App) tell(ctx context.Context, state string) {
	if err := a.starter.Tell.Tell(state); err != nil {
		a.log.LogAttrs(ctx, slog.LevelWarn, "the starter can't be told", slog.String("state", state), slog.String(plat.LogError, err.Error()))
	}
}

// leaving is how far the server is on its way out.
type leaving struct {
	lame atomic.Bool // it was told to end
	over atomic.Bool // there is a server to come that waits for this one
	// round tells the requests that begin now from those before. active are those in flight, of
	// this round and the one before, by their number modulo 2.
	round  atomic.Uint32
	active [2]atomic.Int64
	// carried returns how many of a round's are calls that instances have, and countRound
	// has those that begin now counted under a round.
	carried    func(round uint32) int64
	countRound func(round uint32)
}

// next begins a round. Of the one before this nothing may be left but what is carried.
func (l *leaving) next() {
	l.countRound(l.round.Add(1))
}

// counted counts the requests of h, and has the last ones close their connections.
func (l *leaving) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, last := &l.active[l.round.Load()&1], l.lame.Load()
		n.Add(1)
		defer n.Add(-1)
		if c, ok := r.Context().Value(connKey{}).(*countedConn); ok {
			c.called(r.ProtoMajor > 1)
			last = last || c.door.last.Load()
			if isInference(r.URL.Path) {
				c.boundUnsent()
			}
		}
		if last {
			w.Header().Set("Connection", "close") // HTTP/2 says it in its own way then
		}
		h.ServeHTTP(w, r)
	})
}

// lulled tells whether the requests from before this round are done, but for those that need
// nothing but their connections.
func (l *leaving) lulled() bool {
	// Nothing begins any more in what is counted, so a call that is carried when the
	// second number is read was active when the first was.
	before := l.round.Load() - 1
	active := l.active[before&1].Load()
	return active <= l.carried(before)
}

// quiet is lulled of all requests, when nobody is let in any more.
func (l *leaving) quiet() bool {
	active := l.active[0].Load() + l.active[1].Load()
	return active <= l.carried(0)+l.carried(1)
}

// done tells whether all requests are done, those that are carried too.
func (l *leaving) done() bool { return l.active[0].Load()+l.active[1].Load() == 0 }

// lullTime is what the longest request in flight may take at a good moment to leave.
const lullTime = 500 * time.Millisecond

// lull waits until the requests of a moment have all ended soon after it: then nothing is in
// flight that takes long and can't be carried (an upload). Callers are served meanwhile, but
// wait as long as that takes once nobody is let in any more.
func (l *leaving) lull(ctx context.Context) {
	for {
		begun := time.Now()
		if !settle(ctx, l.lulled) || time.Since(begun) < lullTime {
			return
		}
		l.next()
	}
}

// leavePoll is how often a server that ends looks whether it may go on to.
const leavePoll = 2 * time.Millisecond

// settle waits until something is so, and tells whether it is.
func settle(ctx context.Context, so func() bool) bool {
	t := time.NewTicker(leavePoll)
	defer t.Stop()
	for !so() {
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
	}
	return true
}

// awaitEnd is the actor that ends the server: it returns when that may stop to accept.
func (a *App) awaitEnd(told context.Context, handOver <-chan os.Signal) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-ctx.Done(): // another part has failed
			return nil
		case <-told.Done():
		case <-handOver:
			a.leaving.over.Store(true)
		}
		over := a.leaving.over.Load()
		a.draining.Store(!over) // in a hand-over the next one answers /readyz
		a.tell(ctx, handed.Stopping)
		if len(a.starter.Sockets) == 0 {
			return nil
		}
		a.log.LogAttrs(ctx, slog.LevelInfo, "leaving", slog.Bool("hand_over", over), slog.Duration(plat.LogDuration, a.cfg.LameDuck))
		a.leaving.lame.Store(true)
		a.leaving.next()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(a.cfg.LameDuck):
		}
		wait := a.cfg.Drain
		if over { // it costs nobody anything but the next server's patience
			wait = max(wait, a.cfg.StreamGrace)
		}
		limited, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		if over {
			defer context.AfterFunc(told, cancel)()
		}
		a.leaving.lull(limited)
		return nil
	}
}

// serve is the actor of a listener that faces callers: run is to serve until its context
// ends, and then to let nobody in, and to drain for as long as it is told then. In a hand-over the actor ends before
// run does, once only calls are left that are carried.
func (a *App) serve(run func(ctx context.Context, drain func() time.Duration) error) func(context.Context) error {
	return func(ctx context.Context) error {
		done, closed := make(chan error, 1), make(chan struct{})
		go func() {
			over := func() {}
			err := run(ctx, func() time.Duration {
				close(closed) // nobody is let in any more
				limit := a.cfg.Drain
				if a.leaving.over.Load() {
					limit = a.cfg.StreamGrace
				}
				over = a.endStreams(limit)
				return limit
			})
			over()
			done <- err
		}()
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
		}
		if !a.leaving.over.Load() {
			return <-done
		}
		select {
		case err := <-done:
			return err
		case <-closed:
		}
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.cfg.Drain)
		defer cancel()
		if !settle(limited, a.leaving.quiet) {
			a.log.LogAttrs(ctx, slog.LevelWarn, "requests that need the database were still running when the drain ended")
		}
		a.carrying.Go(func() error { return <-done })
		return nil
	}
}

// carry stays until the calls that are carried have ended, their grace is over, or the
// server is told to end.
func (a *App) carry(told context.Context) {
	start := time.Now()
	lctx, end := context.WithCancel(context.WithoutCancel(told))
	var lines sync.WaitGroup
	lines.Go(func() {
		a.lines.Carry(lctx, func(err error) {
			a.log.LogAttrs(told, slog.LevelWarn, "a line of the access log is lost", slog.String(plat.LogError, err.Error()))
		})
	})
	n := a.leaving.carried(0) + a.leaving.carried(1)
	a.log.LogAttrs(told, slog.LevelInfo, "handed over", slog.Int64("carrying", n))
	done := make(chan struct{})
	go func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(told), a.cfg.StreamGrace)
		defer cancel()
		a.drainTunnels(ctx)
		if err := a.carrying.Wait(); err != nil {
			a.log.LogAttrs(ctx, slog.LevelWarn, "a listener failed", slog.String(plat.LogError, err.Error()))
		}
	}()
	select {
	case <-done:
	case <-told.Done():
		select { // the process' end cuts the rest
		case <-done:
		case <-time.After(a.cfg.Drain):
		}
	}
	last, cancel := context.WithTimeout(lctx, time.Second)
	defer cancel()
	settle(last, a.leaving.done) // a call's last act is its line in the access log
	end()
	lines.Wait()
	a.log.LogAttrs(told, slog.LevelInfo, "carried to the end", slog.Int64("carried", n), slog.Duration(plat.LogDuration, time.Since(start)))
}

// carrying is the listeners' servers that go on after the hand-over.
type carrying = errgroup.Group
