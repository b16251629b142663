// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"panal/internal/plat"
)

// worker is one runtime process and the connection to it. It answers one
// request at a time.
type worker struct {
	name     string
	dir      string // its socket and the bodies it writes
	child    *child
	why      func() string
	conn     net.Conn
	in       *bufio.Reader
	replaced atomic.Bool // its end is our doing
	alive    time.Time   // its last sign of life; of whoever has the worker
	silent   bool        // it was asked for one and gave none; pool.mu guards it
}

// startWorker starts a runtime and waits until it has imported the handler,
// however long that takes: the deadline is the platform's.
func (a *agent) startWorker(ctx context.Context, name, root, site string) (*worker, error) {
	w := &worker{name: name, dir: filepath.Join(a.tmp, name)}
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	sock := filepath.Join(w.dir, "ipc")
	var err error
	w.child, w.why, err = a.python("serve.py", root, site, name, []string{"ABEJA_IPC_PATH=" + sock})
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if w.conn, err = dialSocket(ctx, w.dir, sock); err == nil {
			w.in = bufio.NewReader(w.conn)
			return w, nil
		}
		select {
		case <-tick.C:
		case <-w.child.done:
			return nil, plat.Errorf(plat.ErrInvalid, "%s", orDefault(w.why(), "the runtime "+w.child.describe()+" before it was ready"))
		case <-ctx.Done():
			w.stop(childGrace)
			return nil, ctx.Err()
		}
	}
}

// dialSocket connects to a Unix socket whose path may be longer than the 108
// bytes that the kernel takes.
func dialSocket(ctx context.Context, dir, sock string) (net.Conn, error) {
	var dialer net.Dialer
	if len(sock) <= 100 {
		return dialer.DialContext(ctx, "unix", sock)
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	return dialer.DialContext(ctx, "unix", "/proc/self/fd/"+strconv.Itoa(int(d.Fd()))+"/"+filepath.Base(sock))
}

// call sends one request and waits for its answer, at most as long as limit.
func (w *worker) call(req runtimeRequest, limit time.Duration) (runtimeResponse, error) {
	var resp runtimeResponse
	if err := w.conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return resp, err
	}
	if err := writeFrame(w.conn, req, req.small); err != nil {
		return resp, err
	}
	if err := readFrame(w.in, &resp); err != nil {
		return resp, err
	}
	if resp.Inline < 0 || resp.Inline > maxInline || resp.Inline > 0 && (resp.Stream || resp.Path != nil) {
		return resp, fmt.Errorf("read frame: bad inline length %d", resp.Inline)
	}
	resp.small = make([]byte, resp.Inline)
	if _, err := io.ReadFull(w.in, resp.small); err != nil {
		return resp, fmt.Errorf("read frame: %w", err)
	}
	return resp, nil
}

// ping asks an idle worker for a sign of life, and waits for it as long as limit.
func (w *worker) ping(limit time.Duration) error {
	if err := w.conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	return writeFrame(w.conn, pingFrame{Ping: true}, nil)
}

// pong waits for the answer to ping. It can be called again when time was too short.
func (w *worker) pong(limit time.Duration) error {
	if err := w.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := w.in.Peek(1); err != nil { // nothing is lost so far
		return err
	}
	var answer pingFrame
	return readFrame(w.in, &answer)
}

// stop ends the worker in order.
func (w *worker) stop(grace time.Duration) {
	w.replaced.Store(true)
	if w.conn != nil {
		_ = w.conn.Close()
	}
	w.child.interrupt(grace)
	_ = os.RemoveAll(w.dir)
}

// abandon ends the worker at once.
func (w *worker) abandon() {
	w.replaced.Store(true)
	w.child.kill()
	w.stop(0)
}

// pool keeps the workers of a service.
type pool struct {
	a          *agent
	root, site string
	ctx        context.Context // of starting workers; ends with stop
	cancel     context.CancelFunc
	changed    func(ready int) // told whenever the number of ready workers changes
	idle       chan *worker
	ended      func(error) // told of the first worker that died on its own; nil: it ended well
	failed     chan error  // the same, after it
	first      sync.Once
	made       atomic.Int64

	mu      sync.Mutex
	all     map[*worker]bool
	mute    chan struct{} // closed while all workers are silent
	stopped bool
}

func (a *agent) newPool(ctx context.Context, root, site string, changed func(int), ended func(error)) *pool {
	p := &pool{a: a, root: root, site: site, changed: changed, ended: ended, idle: make(chan *worker, a.cfg.workers), failed: make(chan error, 1), all: map[*worker]bool{}, mute: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(ctx)
	return p
}

// start starts all workers, and fails with the first that fails.
func (p *pool) start() error {
	errs := make(chan error, p.a.cfg.workers)
	for range p.a.cfg.workers {
		p.a.tasks.Go(func() { errs <- p.add() })
	}
	var first error
	for range p.a.cfg.workers {
		if err := <-errs; err != nil && first == nil {
			first = err
			p.cancel()
		}
	}
	return first
}

// add starts one worker, watches it and makes it available.
func (p *pool) add() error {
	w, err := p.a.startWorker(p.ctx, "worker-"+strconv.FormatInt(p.made.Add(1), 10), p.root, p.site)
	if err != nil {
		return err
	}
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		w.abandon()
		return context.Canceled
	}
	p.all[w] = true
	p.tell()
	p.mu.Unlock()
	p.a.tasks.Go(func() {
		<-w.child.done
		// How it ended before that it is gone: whoever asks for the health between
		// the two must not hear of a crash that was none.
		switch code := w.child.code(); {
		case w.replaced.Load():
		case code == 0 || code == 120:
			p.fail(nil)
		default:
			p.fail(plat.Errorf(plat.ErrInvalid, "the runtime %s", w.child.describe()))
		}
		p.mu.Lock()
		delete(p.all, w)
		p.tell()
		p.mu.Unlock()
	})
	p.give(w)
	return nil
}

// give makes a worker available that has just answered.
func (p *pool) give(w *worker) {
	w.alive = time.Now()
	p.idle <- w
}

// tell says how many workers can be expected to answer. The caller holds mu.
func (p *pool) tell() {
	n := 0
	for w := range p.all {
		if !w.silent {
			n++
		}
	}
	closed := false
	select {
	case <-p.mute:
		closed = true
	default:
	}
	switch mute := n == 0 && len(p.all) > 0; {
	case mute && !closed:
		close(p.mute)
	case !mute && closed:
		p.mute = make(chan struct{})
	}
	p.changed(n)
}

// muted returns what is closed once no worker answers.
func (p *pool) muted() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mute
}

// watch asks idle workers for signs of life until the pool ends. Those that work have the
// time limit of their requests.
func (p *pool) watch() {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-tick.C:
		}
		for range len(p.idle) {
			select {
			case w := <-p.idle:
				if time.Since(w.alive) < probeEvery/2 {
					p.idle <- w
				} else {
					p.a.tasks.Go(func() { p.ask(w) })
				}
			default: // requests have taken them
			}
		}
	}
}

// ask has an idle worker give a sign of life. One that gives none gets no request until it
// does; when a request would have had to end, it is replaced.
func (p *pool) ask(w *worker) {
	err := w.ping(probeLimit)
	if err == nil {
		err = w.pong(min(max(time.Until(w.alive.Add(silenceLimit)), probeAgain), probeLimit))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) { // perhaps it was this process that stood still
		err = w.pong(probeAgain)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.a.sink.say("warning", "%s hangs while it is idle: it gets no requests until it answers, and is replaced after %v", w.name, p.a.cfg.handlerTimeout)
		p.silence(w, true)
		if err = w.pong(p.a.cfg.handlerTimeout); err == nil {
			p.a.sink.say("info", "%s answers again", w.name)
			p.silence(w, false)
		}
	}
	switch {
	case err == nil:
		p.give(w)
	case p.ctx.Err() == nil && w.outlives(deathTime):
		p.replace(w)
	}
}

// silence notes whether a worker is silent.
func (p *pool) silence(w *worker, silent bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w.silent = silent
	p.tell()
}

// deathTime is how long the end of a worker may take to be seen after that of its connection.
const deathTime = 3 * time.Second

// outlives tells whether the worker's process goes on for longer than d.
func (w *worker) outlives(d time.Duration) bool {
	select {
	case <-w.child.done:
		return false
	case <-time.After(d):
		return true
	}
}

func (p *pool) fail(err error) {
	p.first.Do(func() {
		p.ended(err)
		p.failed <- err
	})
}

// replace ends a worker that can't be used any more and starts another.
func (p *pool) replace(w *worker) {
	w.abandon()
	if err := p.add(); err != nil && p.ctx.Err() == nil {
		p.fail(err)
	}
}

// stop ends all workers, also those that still answer a request.
func (p *pool) stop(grace time.Duration) {
	p.cancel()
	p.mu.Lock()
	p.stopped = true
	var all []*worker
	for w := range p.all {
		all = append(all, w)
	}
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, w := range all {
		wg.Go(func() { w.stop(grace) })
	}
	wg.Wait()
}
