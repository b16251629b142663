// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"panal/internal/agent"
	"panal/internal/logs"
	"panal/internal/logs/spool"
	"panal/internal/runner/agentctl"
)

// The test binary is also the agent: it runs itself with this variable set.
const beAgent = "AGENT_TEST_RUN"

const python = "/usr/bin/python3"

func TestMain(m *testing.M) {
	if os.Getenv(beAgent) != "" {
		os.Unsetenv(beAgent)
		code := agent.Main(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
		if os.Getenv("AGENT_TEST_LEAKS") != "" {
			if err := goleak.Find(goleak.IgnoreTopFunction("os/signal.signal_recv"), goleak.IgnoreTopFunction("os/signal.loop")); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(99)
			}
		}
		os.Exit(code)
	}
	if err := exec.Command(python, "-c", "import pip, numpy").Run(); err != nil {
		fmt.Fprintf(os.Stderr, "these tests need %s with pip and numpy (packages python3-pip, python3-numpy): %v\n", python, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// server is the control API as far as an agent sees it.
type server struct {
	*httptest.Server
	t testing.TB

	mu      sync.Mutex
	code    []byte
	model   []byte
	entries []logs.Entry // of the one workload, in order
	logDown int          // status that ingest answers instead; 0: works
	allDown bool         // every request gets 503
	failGet int          // so many downloads get 500 first
	results [][]byte
	putFail int // so many result uploads are cut first
	brought []brought
}

// brought is the result of an asynchronous request.
type brought struct{ id, auth, kind, body string }

// result waits for the result of an asynchronous request.
func (s *server) result(id string) brought {
	s.t.Helper()
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		s.mu.Lock()
		for _, b := range s.brought {
			if b.id == id {
				s.mu.Unlock()
				return b
			}
		}
		s.mu.Unlock()
	}
	s.t.Fatalf("no result for %s", id)
	return brought{}
}

const (
	token = "container-token"
	org   = "1480000000017"
)

func newServer(t testing.TB) *server {
	s := &server{t: t}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *server) set(f func(*server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// pack makes the code archive: name, content, name, content, …
func (s *server) pack(files ...string) {
	b := tgz(s.t, files...)
	s.set(func(s *server) { s.code = b })
}

func (s *server) stored() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.results
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	say := func(code int, v any) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(v)
	}
	if s.allDown {
		say(503, map[string]string{})
		return
	}
	if strings.HasPrefix(r.URL.Path, "/blob/") {
		if r.Header.Get("Authorization") != "" {
			s.t.Errorf("%s came with a token", r.URL.Path)
		}
		switch r.Method + r.URL.Path {
		case "GET/blob/code":
			if s.failGet > 0 {
				s.failGet--
				say(500, map[string]string{})
				return
			}
			_, _ = w.Write(s.code)
		case "GET/blob/model":
			_, _ = w.Write(s.model)
		case "PUT/blob/result":
			body, err := io.ReadAll(r.Body)
			if s.putFail > 0 {
				s.putFail--
				panic(http.ErrAbortHandler)
			}
			if err != nil || r.ContentLength != int64(len(body)) || r.Header.Get("Content-Type") != "application/zip" {
				s.t.Errorf("result: %v, length %d of %d", err, len(body), r.ContentLength)
			}
			s.results = append(s.results, body)
		}
		return
	}
	if id, ok := strings.CutPrefix(r.URL.Path, "/organizations/"+org+"/deployments/174/results/"); ok && r.Method == http.MethodPut {
		body, err := io.ReadAll(r.Body)
		if s.putFail > 0 {
			s.putFail--
			panic(http.ErrAbortHandler)
		}
		if err != nil || r.ContentLength != int64(len(body)) {
			s.t.Errorf("result: %v, length %d of %d", err, len(body), r.ContentLength)
		}
		s.brought = append(s.brought, brought{id, r.Header.Get("Authorization"), r.Header.Get("Content-Type"), string(body)})
		say(200, map[string]string{})
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+token {
		say(401, map[string]string{"error": "unauthorized"})
		return
	}
	base := "/organizations/" + org
	switch r.Method + " " + r.URL.Path {
	case "GET " + base + "/training/definitions/digits/versions/3/source", "GET " + base + "/deployments/174/versions/ver-1/download":
		say(200, map[string]string{"download_uri": s.URL + "/blob/code?sig=1"})
	case "GET " + base + "/training/definitions/digits/models/172/download":
		say(200, map[string]string{"download_uri": "/blob/model?sig=1"})
	case "GET " + base + "/training/definitions/digits/jobs/171/result":
		say(200, map[string]any{"artifacts": map[string]any{"complete": map[string]string{"uri": s.URL + "/blob/model?x"}}})
	case "POST " + base + "/training/definitions/digits/jobs/171/result":
		say(200, map[string]string{"uri": s.URL + "/blob/result?sig=1"})
	case "POST " + base + "/workloads/wl-1/logs":
		if s.logDown != 0 {
			w.Header().Set("Retry-After", "1")
			say(s.logDown, map[string]string{})
			return
		}
		var b logs.Batch
		switch err := json.NewDecoder(io.LimitReader(r.Body, logs.MaxBatchBytes)).Decode(&b); {
		case errors.Is(err, io.ErrUnexpectedEOF): // the agent has given the call up, and sends the batch again
			return
		case err != nil:
			s.t.Errorf("batch: %v", err)
		}
		last := int64(len(s.entries))
		if b.FirstSeq > last+1 {
			say(409, map[string]any{"error": "conflict", "last_seq": last})
			return
		}
		if skip := last + 1 - b.FirstSeq; skip < int64(len(b.Entries)) {
			s.entries = append(s.entries, b.Entries[skip:]...)
		}
		say(200, logs.Ack{LastSeq: int64(len(s.entries))})
	default:
		say(404, map[string]string{"error": "not_found", "error_description": r.URL.Path + " was not found"})
	}
}

// messages returns the lines that arrived.
func (s *server) messages() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, e := range s.entries {
		out = append(out, e.Message)
	}
	return out
}

func (s *server) entry(message string) logs.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		if strings.Contains(e.Message, message) {
			return e
		}
	}
	return logs.Entry{}
}

// proc is a running agent.
type proc struct {
	t       testing.TB
	cmd     *exec.Cmd
	work    string
	stderr  bytes.Buffer
	control *http.Client
	serve   *http.Client
	exited  chan struct{}
}

const key = "instance-key"

// withKey sends the instance's key, as the runner does.
type withKey struct{ http.RoundTripper }

func (k withKey) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set(agentctl.HeaderInstanceKey, key)
	return k.RoundTripper.RoundTrip(r)
}

// start runs an agent with inherited sockets. env overrides; a "-NAME" key unsets.
func start(t testing.TB, s *server, kind string, env map[string]string) *proc {
	t.Helper()
	return startIn(t, s, kind, env, nil)
}

func startIn(t testing.TB, s *server, kind string, env map[string]string, attr *syscall.SysProcAttr) *proc {
	t.Helper()
	p := &proc{t: t, work: t.TempDir(), exited: make(chan struct{})}
	sockets, err := os.MkdirTemp("", "sock") //nolint:usetesting // short: a socket path is bounded
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(sockets) })
	vars := map[string]string{
		beAgent: "1", "AGENT_TEST_LEAKS": "1", "PATH": os.Getenv("PATH"),
		"ABEJA_API_URL": s.URL, "ABEJA_ORGANIZATION_ID": org, "PLATFORM_AUTH_TOKEN": token,
		agentctl.EnvWorkDir: p.work, agentctl.EnvPython: python, agentctl.EnvWorkloadID: "wl-1", agentctl.EnvLogStream: "x/1",
		agentctl.EnvControlFD: "3", agentctl.EnvInstanceKey: key,
	}
	p.cmd = exec.Command(os.Args[0], kind)
	p.cmd.SysProcAttr = attr
	listen := func(name string) *http.Client {
		path := filepath.Join(sockets, name)
		ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		f, err := ln.File()
		if err != nil {
			t.Fatal(err)
		}
		ln.SetUnlinkOnClose(false)
		_ = ln.Close()
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, f)
		tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: 60 * time.Second}
	}
	p.control = listen("c")
	p.control.Transport = withKey{p.control.Transport}
	if kind == "service" {
		p.serve = listen("s")
		maps.Copy(vars, map[string]string{
			agentctl.EnvServeFD: "4", "ABEJA_MODEL_ID": "174", "ABEJA_MODEL_VERSION_ID": "ver-1", "ABEJA_MODEL_VERSION": "1.0 ä",
			"ABEJA_DEPLOYMENT_ID": "174", "ABEJA_SERVICE_ID": "ser-1", "ABEJA_DEPLOYMENT_CODE_DOWNLOAD": "organizations/" + org + "/deployments/174/versions/ver-1/download",
		})
	} else {
		maps.Copy(vars, map[string]string{
			"HANDLER": "train:handler", "TRAINING_JOB_DEFINITION_NAME": "digits", "TRAINING_JOB_DEFINITION_VERSION": "3", "TRAINING_JOB_ID": "171",
		})
	}
	if _, ok := env["+dial"]; ok {
		vars[agentctl.EnvDialFD] = p.helper()
	}
	for k, v := range env {
		if k == "+dial" {
			continue
		}
		vars[k] = v
		if k[0] == '-' {
			delete(vars, k)
			delete(vars, k[1:])
		}
	}
	p.work = vars[agentctl.EnvWorkDir]
	for k, v := range vars {
		p.cmd.Env = append(p.cmd.Env, k+"="+v)
	}
	p.cmd.Stderr, p.cmd.Stdout = &p.stderr, &p.stderr
	p.cmd.WaitDelay = 5 * time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range p.cmd.ExtraFiles {
		_ = f.Close()
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		if t.Failed() {
			t.Logf("agent said: %s", &p.stderr)
			for _, m := range s.messages()[max(0, len(s.messages())-30):] {
				t.Logf("log: %.100s", m)
			}
		}
	})
	return p
}

// helper starts the program that dials for an agent without network, and returns
// the number of the agent's end of the socket between them.
func (p *proc) helper() string {
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, os.NewFile(uintptr(ends[0]), "agent"))
	theirs := os.NewFile(uintptr(ends[1]), "helper")
	cmd := exec.Command(os.Args[0], "dial")
	cmd.Env = []string{beAgent + "=1", agentctl.EnvDialFD + "=3"}
	cmd.ExtraFiles, cmd.Stderr = []*os.File{theirs}, os.Stderr
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	_ = theirs.Close()
	p.t.Cleanup(func() { // it ends with the agent
		if err := cmd.Wait(); err != nil {
			p.t.Errorf("the helper: %v", err)
		}
	})
	return fmt.Sprint(2 + len(p.cmd.ExtraFiles))
}

// wait waits for the agent's end and returns the exit it told.
func (p *proc) wait() agentctl.Exit {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(90 * time.Second):
		p.t.Fatal("the agent does not end")
	}
	data, err := os.ReadFile(filepath.Join(p.work, agentctl.ExitFile))
	if err != nil {
		p.t.Fatalf("no exit file: %v", err)
	}
	var e agentctl.Exit
	if err := json.Unmarshal(data, &e); err != nil {
		p.t.Fatal(err)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != e.Code {
		p.t.Fatalf("exit code %d, but the file says %d", code, e.Code)
	}
	if left, _ := filepath.Glob(filepath.Join(p.work, "code", "*.py")); len(left) == 0 && e.Code == 0 {
		p.t.Log("no code was unpacked")
	}
	return e
}

// until waits for a state.
func (p *proc) until(what string, ok func(agentctl.State) bool) agentctl.State {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 60*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://agent/v1/watch", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := p.control.Do(req)
	if err != nil {
		p.t.Fatalf("watch for %s: %v", what, err)
	}
	defer resp.Body.Close()
	var last string
	for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
		last = sc.Text()
		var st agentctl.State
		if err := json.Unmarshal(sc.Bytes(), &st); err != nil {
			p.t.Fatal(err)
		}
		if ok(st) {
			return st
		}
	}
	p.t.Fatalf("the watch ended without %s; last state %s", what, last)
	return agentctl.State{}
}

func (p *proc) ready() {
	p.t.Helper()
	p.until("readiness", func(s agentctl.State) bool { return s.Healthy })
}

func (p *proc) reply(r agentctl.EnvReply) {
	p.t.Helper()
	body, _ := json.Marshal(r)
	resp, err := p.control.Post("http://agent/v1/environment", "application/json", bytes.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		p.t.Fatalf("environment reply: %d", resp.StatusCode)
	}
}

func (p *proc) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

type answer struct {
	code   int
	body   string
	header http.Header
}

func (p *proc) call(method, path, contentType, body string, headers ...string) answer {
	p.t.Helper()
	a, err := p.try(method, path, contentType, body, headers...)
	if err != nil {
		p.t.Fatal(err)
	}
	return a
}

func (p *proc) try(method, path, contentType, body string, headers ...string) (answer, error) {
	req, err := http.NewRequest(method, "http://agent"+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set(agentctl.HeaderInstanceKey, key)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := p.serve.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(b), resp.Header}, err
}

// leftovers are the lines that a gone agent could not ship.
func (p *proc) leftovers() []string { return p.leftAfter(0) }

// leftAfter leaves out the lines up to a number: those that the server has, though
// the agent did not learn of it.
func (p *proc) leftAfter(seq int) []string {
	p.t.Helper()
	root, err := os.OpenRoot(filepath.Join(p.work, agentctl.DirSpool))
	if err != nil {
		p.t.Fatal(err)
	}
	defer root.Close()
	batches, err := spool.Read(root, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	var out []string
	for _, b := range batches {
		var l logs.Batch
		if err := json.Unmarshal(b.JSON, &l); err != nil {
			p.t.Fatal(err)
		}
		for i, e := range l.Entries {
			if int(l.FirstSeq)+i > seq {
				out = append(out, e.Message)
			}
		}
	}
	return out
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// tgz packs name, content, name, content, …
func tgz(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	w := tar.NewWriter(gz)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := gz.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unzip(t testing.TB, b []byte) map[string]string {
	t.Helper()
	zr, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range zr.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Close()
		out[f.Name] = string(data)
	}
	return out
}

func zipped(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		f, err := w.Create(files[i])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, files[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
