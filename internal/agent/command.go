// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/agentctl"
)

const (
	// probeEvery is how often a command that works, or an idle worker, is asked whether it
	// does, and probeStart how often a command that starts.
	probeEvery = 2 * time.Second
	probeStart = 100 * time.Millisecond
	// probeLimit is how long the answer may take, and probeAgain how long at least that of the
	// last try counts: perhaps it was this process that stood still.
	probeLimit = 2 * time.Second
	probeAgain = 300 * time.Millisecond
	// silenceLimit is how long a command may give no sign of life.
	silenceLimit = 2 * probeEvery
	// sickAfter is how many bad answers in a row, no silence, make it sick.
	sickAfter = 2
	// busyLimit is how long bad answers and silence may come from the requests that it works on:
	// many servers do one thing at a time.
	busyLimit = 30 * time.Second
)

// command is a program of the user that listens on a port of its own.
type command struct {
	s      *service
	child  *child
	addr   string
	client *http.Transport
	proxy  *httputil.ReverseProxy
	bufs   copyBuffers
	// taking has a token for each request that the command works on, so that those
	// which are answered later count as the others do.
	taking chan struct{}

	now     condition              // as watch said it last
	failing atomic.Pointer[string] // why its last probe failed; nil: it did not

	mu       sync.Mutex
	inflight int       // requests whose callers wait
	later    int       // those that are answered later
	alive    time.Time // its last sign of life: a good probe, or the beginning of an answer
}

// runCommand runs a version's command until it is asked to end or ends by itself.
func (s *service) runCommand(ctx context.Context, root, site string) error {
	a := s.a
	a.state.step("command")
	addr, err := freePort(ctx)
	if err != nil {
		return err
	}
	c := &command{s: s, addr: addr, taking: make(chan struct{}, a.cfg.concurrency), client: &http.Transport{
		DisableCompression: true, MaxIdleConnsPerHost: a.cfg.concurrency, IdleConnTimeout: time.Minute, Proxy: nil,
	}}
	c.proxy = &httputil.ReverseProxy{
		// Answers of unknown length are flushed at once whatever the interval is; one of a
		// known length goes out in one piece when it is done by then.
		FlushInterval: 50 * time.Millisecond, BufferPool: &c.bufs,
		Rewrite: c.rewrite, Transport: c.client, ModifyResponse: c.decorate, ErrorHandler: c.failed,
		ErrorLog: log.New(io.Discard, "", 0), // copies that break off: the caller sees them
	}
	defer c.client.CloseIdleConnections()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	argv, env, err := a.commandLine(root, site, port)
	if err != nil {
		return err
	}
	if c.child, err = a.startChild(argv, root, env); err != nil {
		return plat.Errorf(plat.ErrInvalid, "the command can't be started: %v", err)
	}
	s.startAsync(a.cfg.concurrency, c.readAsync)
	s.command.Store(c)
	return c.watch(ctx)
}

// copyBuffers spares the proxy a buffer for each request.
type copyBuffers struct{ pool sync.Pool }

const copyBuffer = 64 << 10

// Get implements httputil.BufferPool.
func (c *copyBuffers) Get() []byte {
	if b, ok := c.pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, copyBuffer)
}

// Put implements httputil.BufferPool.
func (c *copyBuffers) Put(b []byte) { c.pool.Put(&b) }

// freePort returns an address of loopback that nothing listens on. In a network
// of its own nobody can take it meanwhile.
func freePort(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

// commandLine is what to run: $PORT and ${PORT} in the words stand for the port.
// The profile's interpreter and what the requirements installed come first.
func (a *agent) commandLine(root, site, port string) (argv, env []string, err error) {
	path := filepath.Dir(a.cfg.python)
	modules := ""
	for _, kv := range a.cfg.environ {
		name, value, _ := strings.Cut(kv, "=")
		switch name {
		case "PORT", "HEALTHCHECK_PORT", agentctl.EnvCommand, agentctl.EnvHealthPath:
			continue
		case "PATH":
			path += ":" + value
			continue
		case "PYTHONPATH":
			modules = value
			continue
		}
		env = append(env, kv)
	}
	if site != "" {
		path = filepath.Join(site, "bin") + ":" + path
		modules = strings.TrimSuffix(site+":"+modules, ":")
	}
	env = append(env, "PATH="+path, "PORT="+port)
	if modules != "" {
		env = append(env, "PYTHONPATH="+modules)
	}
	words := strings.NewReplacer("${PORT}", port, "$PORT", port)
	for _, w := range a.cfg.command {
		argv = append(argv, words.Replace(w))
	}
	if argv[0], err = find(argv[0], root, path); err != nil {
		return nil, nil, err
	}
	return argv, env, nil
}

// find returns where a program is: a name without a slash is looked for on the
// path, a path is relative to the code.
func find(name, root, path string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(root, name)
		}
		return name, executable(name)
	}
	for _, dir := range filepath.SplitList(path) {
		if file := filepath.Join(dir, name); filepath.IsAbs(dir) && executable(file) == nil {
			return file, nil
		}
	}
	return "", plat.Errorf(plat.ErrInvalid, "the command %q was not found on the path %s; write ./%s for a file of the code", name, path, name)
}

func executable(file string) error {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return plat.Errorf(plat.ErrInvalid, "the command %s is not there: %v", file, err)
	case info.IsDir() || info.Mode()&0o111 == 0:
		return plat.Errorf(plat.ErrInvalid, "the command %s is no executable file", file)
	}
	return nil
}

// watch probes the command and says how it is.
func (c *command) watch(ctx context.Context) error {
	s, bad := c.s, 0
	tick := time.NewTicker(probeStart)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.child.done:
			return plat.Errorf(plat.ErrInvalid, "the command %s", c.child.describe())
		case <-tick.C:
		}
		limit := probeLimit
		if bad == 1 {
			limit = min(max(time.Until(c.lastSign().Add(silenceLimit)), probeAgain), probeLimit)
		}
		err := c.probe(ctx, limit)
		if ctx.Err() != nil {
			return nil
		}
		c.failing.Store(nil)
		if err != nil {
			text := err.Error()
			if pe, ok := errors.AsType[*plat.Error](err); ok {
				text = pe.Public
			}
			c.failing.Store(&text)
		}
		switch {
		case err == nil:
			if bad = 0; s.health.Load() == healthStarting {
				tick.Reset(probeEvery)
			}
			c.sign()
			c.become(well, nil)
		case s.health.Load() != healthStarting:
			bad++
			c.become(c.judge(bad, errors.Is(err, context.DeadlineExceeded)), err)
		}
	}
}

// condition is how a command is.
type condition int

const (
	well    condition = iota
	suspect           // it works, or hangs: calls had better go elsewhere
	sick
)

// judge tells how a command is after so many bad probes in a row. Silence counts by its
// length, whatever the probes' number.
func (c *command) judge(bad int, silent bool) condition {
	c.mu.Lock()
	defer c.mu.Unlock()
	gone := time.Since(c.alive)
	switch {
	case bad < sickAfter, silent && gone < silenceLimit:
		return well
	case c.later > 0, c.inflight > 0 && gone < busyLimit:
		return suspect // a request that is answered later may take as long as it likes
	}
	return sick
}

// become says how the command is now, if that is news.
func (c *command) become(now condition, why error) {
	s, was := c.s, c.now
	c.now = now
	switch {
	case s.health.CompareAndSwap(healthStarting, healthReady):
		s.ready.Store(1)
		s.a.state.update(func(st *agentctl.State) {
			st.Phase, st.Step, st.Healthy, st.Limit = string(runner.PhaseRunning), "", true, s.a.cfg.concurrency
		})
		s.a.sink.say("info", "ready")
		return
	case now == was:
		return
	case now == sick:
		s.a.sink.say("warning", "not healthy: %v", why)
	case was == sick:
		s.a.sink.say("info", "healthy again")
	}
	if s.ready.Store(1); now == sick {
		s.ready.Store(0)
	}
	s.a.state.update(func(st *agentctl.State) { st.Healthy, st.Suspect = now != sick, now == suspect })
}

// lastSign returns when the command gave its last sign of life.
func (c *command) lastSign() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.alive
}

// sign notes that the command gives one.
func (c *command) sign() {
	c.mu.Lock()
	c.alive = time.Now()
	c.mu.Unlock()
}

// probe asks the command whether it works.
func (c *command) probe(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.addr+c.s.a.cfg.healthPath, nil)
	if err != nil {
		return err
	}
	resp, err := c.client.RoundTrip(req)
	if err != nil {
		return err
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be kept
	_ = resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return plat.Errorf(plat.ErrUnavailable, "GET %s answers %s", c.s.a.cfg.healthPath, resp.Status)
	}
	return nil
}

// serve passes one request on, whatever it is: bodies as they come, upgrades too.
func (c *command) serve(w http.ResponseWriter, r *http.Request) {
	// Without, net/http closes the request's body when the answer begins; a
	// Transport that has just sent the last byte of it then takes the connection,
	// and the answer with it, for broken.
	_ = http.NewResponseController(w).EnableFullDuplex() // only HTTP/1.0 can't
	w.Header()["Content-Type"] = nil                     // one that the command doesn't give is not guessed
	select {
	case c.taking <- struct{}{}:
	default:
		wait := time.NewTimer(c.s.a.cfg.handlerTimeout)
		defer wait.Stop()
		select {
		case c.taking <- struct{}{}:
		case <-wait.C:
			maps.Copy(w.Header(), c.s.common)
			c.s.refuse(w, requestID(r), errUnhandled)
			return
		case <-r.Context().Done():
			return // nobody reads the answer
		}
	}
	defer c.begin(&c.inflight)()
	c.proxy.ServeHTTP(w, r)
}

// begin counts a request that has its token among those under way; the returned
// function counts it out and gives the token back.
func (c *command) begin(n *int) (end func()) {
	c.mu.Lock()
	*n++
	c.mu.Unlock()
	return func() {
		c.mu.Lock()
		*n--
		c.mu.Unlock()
		<-c.taking
	}
}

// rewrite keeps the request as the gateway made it.
func (c *command) rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme, r.Out.URL.Host = "http", c.addr
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	for name := range r.Out.Header {
		if strings.HasPrefix(name, "X-Panal-") {
			delete(r.Out.Header, name)
		}
	}
	if _, ok := r.Out.Header["User-Agent"]; !ok {
		r.Out.Header["User-Agent"] = nil // not Go's own
	}
}

// decorate adds the headers of every answer (compute.md §8.2).
func (c *command) decorate(resp *http.Response) error {
	c.sign()
	for name := range resp.Header {
		if strings.HasPrefix(name, "X-Panal-") {
			delete(resp.Header, name)
		}
	}
	maps.Copy(resp.Header, c.s.common)
	return nil
}

// failed answers a request that the command did not.
func (c *command) failed(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, syscall.ECONNREFUSED) { // it has seen nothing of it
		w.Header().Set(agentctl.HeaderUnhandled, "1")
		writeJSON(w, http.StatusServiceUnavailable, statusBody(textUnavailable))
		return
	}
	if r.Context().Err() == nil {
		c.s.a.sink.sayFor(requestID(r), "error", "request: %v", err)
	}
	w.Header().Set(agentctl.HeaderFailed, "1")
	writeJSON(w, http.StatusBadGateway, statusBody(textCommandFailed))
}

// stop asks the command and all that it started to end, and kills what is left.
func (c *command) stop(grace time.Duration) {
	_ = unix.Kill(-c.child.cmd.Process.Pid, unix.SIGTERM)
	select {
	case <-c.child.done:
	case <-time.After(grace):
		c.child.kill()
		<-c.child.done
	}
	c.client.CloseIdleConnections()
}
