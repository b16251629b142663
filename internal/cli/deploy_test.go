// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"panal/internal/api"
	"panal/internal/authn"
	"panal/internal/blob"
	"panal/internal/blob/memblob"
	"panal/internal/client"
	"panal/internal/control/service"
	"panal/internal/dataplane"
	"panal/internal/deploy"
	"panal/internal/org"
	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/fakerunner"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
	"panal/internal/x/signedurl"
)

type noModels struct{}

func (noModels) ModelRef(_ context.Context, _ plat.OrgID, id plat.ModelID) (deploy.ModelRef, error) {
	return deploy.ModelRef{}, plat.NotFound("model", id)
}

// newServing returns a shell over an API that serves, on a fake machine whose
// instances start at once unless their MODE is fail or never.
func newServing(t *testing.T) (*shell, *fakerunner.Runner) {
	t.Helper()
	db := sqlstoretest.SQLite(t)
	orgs, store, table := sqlstore.NewOrgs(db), sqlstore.NewDeploys(db), dataplane.NewTable()
	s := &shell{t: t, blobs: blob.New(memblob.New())}
	svc := org.NewService(orgs, orgs, plat.SystemClock, "")
	o, err := svc.Create(t.Context(), "default")
	s.must(err)
	u, err := svc.AddUser(t.Context(), o.ID, "a@example.com", "", authn.RoleAdmin)
	s.must(err)
	secret, err := svc.NewToken(t.Context(), u)
	s.must(err)
	run := fakerunner.New(fakerunner.Config{Script: func(spec runner.Spec) fakerunner.Script {
		switch spec.Env["MODE"] {
		case "fail":
			return fakerunner.Script{Exit: &fakerunner.Exit{Code: 1, Reason: "handler raised on import\nTraceback (most recent call last):\nImportError: planted"}}
		case "never":
			return fakerunner.Script{}
		}
		return fakerunner.Script{Running: true}
	}})
	ctl := service.New(service.Config{
		Log: slog.New(slog.DiscardHandler), Now: plat.SystemClock, Store: store, Models: noModels{}, Runner: run, Tokens: orgs, Routes: table,
		APIURL: "http://127.0.0.1:1", IngestSpool: func(context.Context, runner.Status, []runner.SpoolBatch) error { return nil },
	})
	man := deploy.NewManager(deploy.Config{Store: store, Blobs: s.blobs, Models: noModels{}, Publisher: ctl, Now: plat.SystemClock})
	s.must(ctl.Prime(t.Context()))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = ctl.Run(ctx) })
	srv := httptest.NewServer(api.New(api.Deps{
		Auth: authn.New(orgs, plat.SystemClock), Orgs: svc, Blobs: s.blobs, Signer: signedurl.New([]byte(strings.Repeat("k", 32))),
		Deploy: man, Gateway: dataplane.NewProxy(table, dataplane.Options{Hold: time.Second}),
	}).Handler())
	t.Cleanup(func() {
		srv.Close()
		cancel()
		wg.Wait()
		_ = run.Close()
	})
	s.args = []string{"--api-url", srv.URL, "--user", string(u.ID), "--token", secret}
	return s, run
}

// fails wants an exit code and a text on stderr.
func (s *shell) fails(code int, text string, args ...string) {
	s.t.Helper()
	got, _, stderr := s.run(args...)
	if got != code || !strings.Contains(stderr, text) {
		s.t.Errorf("panal %s: exit %d, stderr %q; want %d and %q", strings.Join(args, " "), got, stderr, code, text)
	}
}

func TestServingByCommand(t *testing.T) {
	s, run := newServing(t)
	srcDir := t.TempDir()
	s.must(os.WriteFile(filepath.Join(srcDir, "main.py"), []byte("def handler(request, context): pass"), 0o600))
	s.must(os.Mkdir(filepath.Join(srcDir, "__pycache__"), 0o700))
	s.must(os.WriteFile(filepath.Join(srcDir, "__pycache__", "x"), nil, 0o600))

	var dep client.Deployment
	s.ok(&dep, "deployment", "create", "leaf-api", "--env", "STAGE=test")
	var ver client.Code
	s.ok(&ver, "deployment", "version", "create", "leaf-api", srcDir, "--label", "0.0.1")
	s.fails(2, "0.0.1", "deployment", "version", "create", dep.ID, srcDir, "--label", "0.0.1")
	to := filepath.Join(t.TempDir(), "source.tar.gz")
	s.ok(nil, "deployment", "version", "download", "leaf-api", "0.0.1", "--to", to)
	if names := tarNames(t, to); len(names) != 1 || names[0] != "main.py" {
		t.Errorf("uploaded %v", names)
	}

	var a, b client.Service
	s.ok(&a, "service", "create", "leaf-api", "0.0.1", "--wait")
	if a.Status != "READY" || a.Merged["STAGE"] != "test" {
		t.Errorf("service %+v", a)
	}
	var e client.Endpoint
	s.ok(&e, "endpoint", "create", "leaf-api", a.ID)
	s.ok(&b, "service", "create", dep.ID, ver.ID, "--env", "MODE=never")
	s.ok(&e, "endpoint", "switch", "leaf-api", "default", b.ID)
	if e.Service != a.ID || e.Pending != b.ID {
		t.Errorf("switch to a starting service: %+v", e)
	}
	// A number that can't be is no number that was not said.
	s.fails(2, "instance_number: must be 1 to 300", "service", "create", "leaf-api", "0.0.1", "--number", "0")
	s.fails(2, "max_instance_number: must be 1 to 600", "service", "update", "leaf-api", b.ID, "--max", "0")
	s.fails(8, "within", "service", "wait", "leaf-api", b.ID, "--timeout", "10ms")
	for _, spec := range run.Started() {
		run.SetPhase(spec.ID, runner.PhaseRunning, true)
	}
	s.ok(&b, "service", "wait", "leaf-api", b.ID)
	s.ok(&e, "endpoint", "switch", "leaf-api", "default", b.ID, "--wait")
	if e.Service != b.ID || e.Pending != "" {
		t.Errorf("after the switch: %+v", e)
	}
	var history []client.EndpointChange
	s.ok(&history, "endpoint", "history", "leaf-api", "default")
	if len(history) != 2 || history[0].To != b.ID {
		t.Errorf("history %+v", history)
	}

	// One that fails: the exit code and the traceback say so, and the endpoint stays.
	var bad client.Service
	s.ok(&bad, "service", "create", "leaf-api", "0.0.1", "--env", "MODE=fail")
	got, stdout, stderr := s.run("service", "wait", "leaf-api", bad.ID)
	if got != 1 || !strings.Contains(stdout, "ImportError: planted") || !strings.Contains(stderr, "FAILED") {
		t.Errorf("wait for a failing service: exit %d\n%s\n%s", got, stdout, stderr)
	}
	s.fails(2, "FAILED", "endpoint", "switch", "leaf-api", "default", bad.ID)

	// A call reaches the instance and prints its answer.
	l, err := net.Listen("unix", shortSocket(t))
	s.must(err)
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) == "blank" {
			http.Error(w, `{"detail":"nothing is on it"}`, http.StatusUnprocessableEntity)
			return
		}
		_, _ = io.WriteString(w, r.Header.Get("Content-Type")+" "+string(body))
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	for _, spec := range run.Started() {
		if st, err := run.Get(t.Context(), spec.ID); err == nil && st.Phase == runner.PhaseRunning {
			run.SetAddr(spec.ID, runner.Addr{Network: "unix", Address: l.Addr().String()})
		}
	}
	picture := filepath.Join(t.TempDir(), "x.png")
	s.must(os.WriteFile(picture, []byte("pixels"), 0o600))
	for _, args := range [][]string{{"endpoint", "call", "leaf-api", picture}, {"endpoint", "call", dep.ID, picture, "--service", a.ID}} {
		deadline, code := time.Now().Add(20*time.Second), 0
		for { // the new address is routed in a moment
			code, stdout, stderr = s.run(args...)
			if code == 0 || time.Now().After(deadline) {
				break
			}
		}
		if stdout != "image/png pixels" {
			t.Errorf("panal %s: exit %d %q %s", strings.Join(args, " "), code, stdout, stderr)
		}
	}

	// What a model says of an error is for who called it.
	s.must(os.WriteFile(picture, []byte("blank"), 0o600))
	s.fails(1, `422 Unprocessable Entity: {"detail":"nothing is on it"}`, "endpoint", "call", "leaf-api", picture)

	s.fails(2, "default", "service", "delete", "leaf-api", b.ID)
	s.ok(nil, "service", "stop", "leaf-api", b.ID)
	s.ok(nil, "service", "start", "leaf-api", b.ID)
	s.ok(nil, "service", "update", "leaf-api", a.ID, "--number", "2", "--wait")
	s.ok(nil, "endpoint", "delete", "leaf-api", "default")
	for _, id := range []string{a.ID, b.ID, bad.ID} {
		s.ok(nil, "service", "delete", "leaf-api", id)
	}
	s.ok(nil, "deployment", "version", "delete", "leaf-api", "0.0.1")
	s.ok(nil, "deployment", "delete", "leaf-api")
	s.fails(5, "leaf-api", "deployment", "get", "leaf-api")
	for range 2 {
		s.ok(nil, "deployment", "create", "twin")
	}
	s.fails(6, "use an id", "deployment", "get", "twin")
	if got, stdout, _ := s.run("deployment", "list"); got != 0 || !strings.HasPrefix(stdout, "ID ") {
		t.Errorf("table: exit %d %q", got, stdout)
	}
}

func shortSocket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pc") //nolint:usetesting // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func tarNames(t *testing.T, path string) (names []string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	gz, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	for tr := tar.NewReader(gz); ; {
		h, err := tr.Next()
		if err != nil {
			return names
		}
		names = append(names, h.Name)
	}
}
