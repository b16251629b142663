// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/agentctl"
)

const (
	// drainLimit is how long requests in flight may go on after the stop.
	drainLimit = 28 * time.Second
	// endLimit is the time from the stop within which the workers are gone, so that
	// the grace of the platform (35 s) is kept.
	endLimit = 32 * time.Second
	// turnAway is how long a service whose runtime has died still answers that it has:
	// the gateway learns meanwhile that it is gone. Closing at once would cut
	// calls that are on their way here, of which nobody could say whether user
	// code has seen them.
	turnAway = 250 * time.Millisecond
	// explainEvery is how often a service that is not healthy says why.
	explainEvery = 3 * time.Second
	// protocolVersion is what the agent calls itself in answers.
	protocolVersion = "panal/1"
)

// Answers of compute.md §8.2.
const (
	textUnavailable = "service unavailable"
	textRaised      = "unexpected error occurred"
	textLost        = "Internal Server Error: unexpected error of the runtime"
)

// errUnhandled is the end of a request that user code has not seen: the service
// isn't ready yet, or has ended.
var errUnhandled = errors.New("the service takes no requests")

// Health of a service.
const (
	healthStarting int32 = iota
	healthReady
	healthEnded   // stopping, or crashed
	healthMissing // the runtime ended by itself, without an error
)

type service struct {
	a       *agent
	pool    *pool                   // of a handler
	command atomic.Pointer[command] // instead
	async   *asyncs
	health  atomic.Int32
	ready   atomic.Int32  // workers
	slots   chan struct{} // requests that are being read, waiting or answered
	ended   chan struct{} // closed when the runtime has ended by itself
	bodies  string
	common  http.Header // of each answer
}

// serve runs a service until it is stopped or its runtime ends (§13.5).
func (a *agent) serve(ctx context.Context) error {
	s := &service{a: a, slots: make(chan struct{}, a.cfg.workers+a.cfg.queue), ended: make(chan struct{}), bodies: filepath.Join(a.tmp, "bodies")}
	s.common = http.Header{}
	for k, v := range map[string]string{
		"X-Abeja-Deployment-Id": a.cfg.deployment, "X-Abeja-Service-Id": a.cfg.service,
		"X-Abeja-Model-Id": a.cfg.modelID, "X-Abeja-Model-Version": url.QueryEscape(a.cfg.modelVersion),
		"X-Abeja-Sys-Meta-Proxy-Version": protocolVersion, "X-Abeja-Sys-Meta-Runtime-Version": protocolVersion,
	} {
		s.common.Set(k, strings.Map(printable, v))
	}
	if err := os.MkdirAll(s.bodies, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	// The listeners come first: 503 until ready.
	var stops []func(time.Duration)
	if a.cfg.execute {
		lns, err := a.listeners(ctx)
		if err != nil {
			return err
		}
		for i, ln := range lns {
			stops = append(stops, serveHTTP(ln, s.handler(i == 1), func(err error) { a.sink.say("error", "listener: %v", err) }))
		}
	}
	telling, told := context.WithCancel(ctx)
	var explain sync.WaitGroup
	explain.Go(func() { s.explain(telling) })
	err := s.run(ctx)
	told()
	explain.Wait()
	a.state.update(func(st *agentctl.State) { st.Healthy, st.Problem = false, "" })
	s.health.CompareAndSwap(healthStarting, healthEnded)
	s.health.CompareAndSwap(healthReady, healthEnded)
	begun := time.Now()
	if a.cfg.execute && ctx.Err() == nil {
		close(s.ended)
		time.Sleep(turnAway)
	}
	if s.async != nil {
		s.async.halt(ctx.Err() != nil)
	}
	for _, stop := range stops {
		stop(max(drainLimit-time.Since(begun), 100*time.Millisecond))
	}
	grace := min(childGrace, endLimit-time.Since(begun))
	if s.pool != nil {
		s.pool.stop(grace)
	}
	if c := s.command.Load(); c != nil {
		c.stop(grace)
	}
	if s.async != nil {
		s.async.finish()
	}
	return err
}

// listeners opens the request listener and, in a container, the one for probes.
func (a *agent) listeners(ctx context.Context) ([]net.Listener, error) {
	if a.cfg.serveFD >= 0 {
		ln, err := inherited(a.cfg.serveFD)
		if err != nil {
			return nil, fmt.Errorf("serve socket: %w", err)
		}
		return []net.Listener{ln}, nil
	}
	var lns []net.Listener
	for _, port := range []int{a.cfg.port, a.cfg.healthPort} {
		var lc net.ListenConfig
		ln, err := lc.Listen(ctx, "tcp", ":"+strconv.Itoa(port))
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		lns = append(lns, ln)
	}
	return lns, nil
}

func (s *service) run(ctx context.Context) error {
	a := s.a
	if a.cfg.download {
		a.state.step("download")
		if err := a.api.fetch(ctx, "code", a.cfg.codePath, a.cfg.codeDir, a.tmp); err != nil {
			return err
		}
		if path := orDefault(a.cfg.modelPath, a.cfg.resultPath); path != "" {
			if err := a.api.fetch(ctx, "model", path, a.cfg.resultDir, a.tmp); err != nil {
				return err
			}
		}
	}
	if !a.cfg.execute {
		return nil
	}
	root := codeRoot(a.cfg.codeDir)
	a.state.step("environment")
	site, err := a.environment(ctx, root)
	if err != nil {
		return err
	}
	if len(a.cfg.command) > 0 {
		return s.runCommand(ctx, root, site)
	}
	a.state.step("import")
	s.pool = a.newPool(a.sink.ctx, root, site, s.readyChanged, s.runtimeEnded)
	unhook := context.AfterFunc(ctx, s.pool.cancel) // a stop also ends a start
	defer unhook()
	if err := s.pool.start(); err != nil {
		return err
	}
	a.tasks.Go(s.pool.watch)
	s.startAsync(a.cfg.workers, s.readAsync)
	s.health.CompareAndSwap(healthStarting, healthReady)
	a.state.update(func(st *agentctl.State) {
		st.Phase, st.Step, st.Healthy, st.Limit = string(runner.PhaseRunning), "", s.ready.Load() > 0, a.cfg.workers
	})
	a.sink.say("info", "ready")
	select {
	case <-ctx.Done():
		return nil // asked to end: the drain follows
	case err := <-s.pool.failed:
		if err == nil {
			a.sink.say("warning", "the runtime ended by itself")
		}
		return err
	}
}

// explain says, while the service is not healthy, what it is at and what it wrote last.
func (s *service) explain(ctx context.Context) {
	tick := time.NewTicker(explainEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		problem := s.problem()
		if problem != "" {
			problem = strings.TrimSpace(problem + "\n" + s.a.sink.lastLines())
		}
		if st, _ := s.a.state.get(); st.Problem != problem {
			s.a.state.update(func(st *agentctl.State) { st.Problem = problem })
		}
	}
}

// problem says why the service is not healthy; "" when it is.
func (s *service) problem() string {
	healthy := s.health.Load() == healthReady && s.ready.Load() > 0
	st, _ := s.a.state.get()
	if c := s.command.Load(); c != nil && (!healthy || st.Suspect) {
		if text := c.failing.Load(); text != nil {
			if st.Suspect {
				return "its health check fails while it has requests: " + *text
			}
			return "its health check fails: " + *text
		}
	}
	switch {
	case healthy:
		return ""
	case st.Step != "":
		return "it is at the step " + st.Step
	}
	return "no worker of it answers"
}

// readyChanged notes how many workers there are.
func (s *service) readyChanged(n int) {
	was := s.ready.Swap(int32(n))
	if s.health.Load() == healthReady && (was > 0) != (n > 0) {
		s.a.state.update(func(st *agentctl.State) { st.Healthy = n > 0 })
	}
}

// runtimeEnded notes how the runtime ended by itself.
func (s *service) runtimeEnded(err error) {
	if err == nil {
		s.health.Store(healthMissing)
	}
}

// handler routes the requests of a listener.
func (s *service) handler(probesOnly bool) http.Handler {
	return demandKey(s.a.cfg.key, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case len(s.a.cfg.command) > 0 && !probesOnly:
			s.pass(w, r) // all paths are the command's
		case r.URL.Path == "/health_check":
			s.healthCheck(w)
		case probesOnly:
			writeJSON(w, http.StatusNotFound, statusBody("not found"))
		default:
			s.infer(w, r)
		}
	}))
}

// pass hands a request to the command.
func (s *service) pass(w http.ResponseWriter, r *http.Request) {
	c := s.command.Load()
	switch {
	case c == nil || s.health.Load() != healthReady:
		maps.Copy(w.Header(), s.common)
		s.refuse(w, requestID(r), errUnhandled)
	case asksAsync(r):
		maps.Copy(w.Header(), s.common)
		s.refuse(w, requestID(r), s.async.accept(w, r, requestID(r)))
	default:
		c.serve(w, r)
	}
}

func (s *service) healthCheck(w http.ResponseWriter) {
	switch {
	case s.health.Load() == healthMissing:
		writeJSON(w, http.StatusNotFound, statusBody("service not found"))
	case s.health.Load() == healthReady && s.ready.Load() > 0:
		writeJSON(w, http.StatusOK, statusBody("ok"))
	default:
		writeJSON(w, http.StatusServiceUnavailable, statusBody(textUnavailable))
	}
}

// infer answers one request by user code.
func (s *service) infer(w http.ResponseWriter, r *http.Request) {
	maps.Copy(w.Header(), s.common)
	id := requestID(r)
	s.refuse(w, id, s.tryInfer(w, r, id))
}

// refuse answers a request that ended with an error; nil is none.
func (s *service) refuse(w http.ResponseWriter, id string, err error) {
	var he *httpError
	switch {
	case err == nil:
	case errors.Is(err, errUnhandled):
		w.Header().Set(agentctl.HeaderUnhandled, "1")
		writeJSON(w, http.StatusServiceUnavailable, statusBody(textUnavailable))
	case errors.As(err, &he):
		if he.code == http.StatusGatewayTimeout { // user code's time
			w.Header().Set(agentctl.HeaderFailed, "1")
		}
		writeJSON(w, he.code, statusBody(he.text))
	default:
		s.a.sink.sayFor(id, "error", "request: %v", err)
		w.Header().Set(agentctl.HeaderFailed, "1")
		writeJSON(w, http.StatusInternalServerError, statusBody(textLost))
	}
}

func (s *service) tryInfer(w http.ResponseWriter, r *http.Request, id string) error {
	if s.health.Load() != healthReady {
		return errUnhandled
	}
	if asksAsync(r) {
		return s.async.accept(w, r, id)
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return &httpError{http.StatusServiceUnavailable, textUnavailable}
	}
	// The body first: a slow sender keeps no worker waiting.
	req, files, err := readRequest(w, r, s.bodies, s.a.cfg.maxRequest, true)
	defer files.remove()
	if err != nil {
		return err
	}
	var wk *worker
	wait := time.NewTimer(s.a.cfg.handlerTimeout)
	defer wait.Stop()
	select {
	case wk = <-s.pool.idle:
		select {
		case <-wk.child.done: // it died idle
			return errUnhandled
		default:
		}
	case <-s.ended:
		return errUnhandled
	case <-s.pool.muted():
		return errUnhandled
	case <-wait.C:
		return &httpError{http.StatusServiceUnavailable, textUnavailable}
	case <-r.Context().Done():
		return &httpError{http.StatusServiceUnavailable, textUnavailable} // nobody reads it
	}
	wk.child.tag(id)
	resp, err := wk.call(req, s.a.cfg.handlerTimeout)
	if err != nil {
		wk.child.tag("")
		return s.lost(wk, id, err)
	}
	out, err := s.open(resp)
	if resp.Stream && err == nil {
		return s.relay(r.Context(), w, wk, resp, id)
	}
	s.release(wk, resp)
	if resp.ErrorMessage != "" { // the runtime has logged the traceback
		return &httpError{http.StatusInternalServerError, textRaised}
	}
	if err != nil {
		s.a.sink.sayFor(id, "error", "bad answer of the runtime: %v", err)
		return &httpError{http.StatusInternalServerError, textRaised}
	}
	if out != nil {
		defer func() { _ = out.Close() }()
	}
	return respond(w, resp, out)
}

// release gives a worker back. What it still streams is not wanted.
func (s *service) release(wk *worker, resp runtimeResponse) {
	if resp.Stream {
		s.recall(&pieces{wk: wk})
		return
	}
	s.free(wk)
}

// lost handles a worker that gave no answer.
func (s *service) lost(wk *worker, id string, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.a.sink.sayFor(id, "error", "the handler took longer than %v; its worker is replaced", s.a.cfg.handlerTimeout)
		s.a.tasks.Go(func() { s.pool.replace(wk) })
		return &httpError{http.StatusGatewayTimeout, "the handler took too long"}
	}
	// Did it die, or only talk nonsense? A dead one ends the service (run).
	if !wk.outlives(deathTime) {
		return fmt.Errorf("the runtime ended during the request: it %s", wk.child.describe())
	}
	s.a.tasks.Go(func() { s.pool.replace(wk) })
	return err
}

// open checks the runtime's answer and opens the file with the body, which has
// no name any more then. The path is user code's word: it must lie in our
// temporary directory and be a regular file.
func (s *service) open(resp runtimeResponse) (*os.File, error) {
	if resp.StatusCode != nil && (*resp.StatusCode < 200 || *resp.StatusCode > 599) {
		return nil, plat.Errorf(plat.ErrInvalid, "status code %d", *resp.StatusCode)
	}
	if resp.ContentType != nil && strings.HasPrefix(strings.ToLower(*resp.ContentType), "multipart/form-data") {
		return nil, plat.Errorf(plat.ErrUnsupported, "multipart/form-data")
	}
	for k, v := range resp.Metadata {
		if !validHeader(k, v) {
			return nil, plat.Errorf(plat.ErrInvalid, "the metadata %q can't be a header", k)
		}
	}
	if resp.Stream || resp.Path == nil || *resp.Path == "" {
		return nil, nil
	}
	rel, err := filepath.Rel(s.a.tmp, *resp.Path)
	if err != nil || !filepath.IsLocal(rel) {
		return nil, plat.Errorf(plat.ErrInvalid, "its body is not in the temporary directory")
	}
	root, err := os.OpenRoot(s.a.tmp)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	f, err := root.OpenFile(rel, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	_ = root.Remove(rel)
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(plat.Errorf(plat.ErrInvalid, "its body is no regular file"), f.Close())
	}
	return f, nil
}

// respond writes the answer of user code.
func respond(w http.ResponseWriter, resp runtimeResponse, out *os.File) error {
	size := int64(len(resp.small))
	if out != nil {
		info, err := out.Stat()
		if err != nil {
			return err
		}
		size = info.Size()
	}
	code := begin(w, resp)
	if resp.bare() {
		w.WriteHeader(code)
		return nil
	}
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	w.WriteHeader(code)
	rc := http.NewResponseController(w)
	if out == nil {
		_, _ = w.Write(resp.small) // fits into the buffers
		return nil
	}
	for size > 0 {
		_ = rc.SetWriteDeadline(time.Now().Add(ioIdle))
		n, err := io.CopyN(w, out, min(size, 4<<20))
		if size -= n; err != nil || n == 0 {
			panic(http.ErrAbortHandler) // the client must see that it is cut
		}
	}
	_ = rc.SetWriteDeadline(time.Time{})
	return nil
}

// begin sets the headers of an answer of user code and returns its status. Those
// that are there already are the platform's word.
func begin(w http.ResponseWriter, resp runtimeResponse) int {
	h := w.Header()
	for k, v := range resp.Metadata {
		k = strings.ToLower(k)
		if _, ours := h[http.CanonicalHeaderKey(k)]; !ours && !isHopHeader(k) && k != "content-length" && k != "content-type" && !strings.HasPrefix(k, "x-panal-") {
			h.Set(k, v)
		}
	}
	h.Set("Content-Type", resp.kind())
	return resp.status()
}

// requestID is the gateway's id, bounded.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Abeja-Request-Id")
	return strings.Map(printable, id[:min(len(id), 128)])
}

// printable drops what may not be in a header.
func printable(r rune) rune {
	if r < ' ' || r > '~' {
		return -1
	}
	return r
}

// validHeader tells whether name and value can be sent as they are.
func validHeader(name, value string) bool {
	if name == "" || len(name) > 256 || len(value) > 16<<10 {
		return false
	}
	for _, c := range []byte(name) {
		if !strings.ContainsRune("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", rune(c)) {
			return false
		}
	}
	for _, c := range []byte(value) {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
