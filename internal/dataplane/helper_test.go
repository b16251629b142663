// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"panal/internal/dataplane"
	"panal/internal/plat"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	org = plat.OrgID("1480000000017")
	dep = plat.DeploymentID("1740000000088")
	svA = plat.ServiceID("ser-000000000000000a")
	svB = plat.ServiceID("ser-000000000000000b")
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

var nextWorkload atomic.Int64

func workload() plat.WorkloadID {
	return plat.WorkloadID("wl-" + time.Unix(nextWorkload.Add(1), 0).UTC().Format("0102150405"))
}

// listen opens a Unix socket. (Temporary directories of tests have long names;
// a socket's path has room for 107 bytes.)
func listen(t testing.TB) net.Listener {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	if len(path) > 100 {
		t.Fatalf("socket path too long: %s", path)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// upstream serves h on a Unix socket and returns its instance.
func upstream(t testing.TB, limit int, h http.HandlerFunc) (dataplane.Instance, *http.Server) {
	t.Helper()
	l := listen(t)
	s := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return dataplane.Instance{ID: workload(), Network: "unix", Address: l.Addr().String(), Key: "k3y", Limit: limit}, s
}

// rawUpstream lets h speak on each connection as it likes.
func rawUpstream(t testing.TB, h func(c net.Conn)) dataplane.Instance {
	t.Helper()
	l := listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return dataplane.Instance{ID: workload(), Network: "unix", Address: l.Addr().String()}
}

// gateway serves calls of /<path> to alias default, with table and proxy.
func gateway(t testing.TB, opt dataplane.Options) (*dataplane.Table, *httptest.Server) {
	t.Helper()
	table := dataplane.NewTable()
	t.Cleanup(func() { table.Replace(dataplane.Snapshot{Version: 1 << 60}) })
	s := server(t, dataplane.NewProxy(table, opt))
	return table, s
}

// serving is a gateway's URL.
func serving(t testing.TB, p *dataplane.Proxy) string { return server(t, p).URL }

func server(t testing.TB, p *dataplane.Proxy) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.ServeCall(w, r, dataplane.Call{
			Target: dataplane.Target{Org: org, Deployment: dep, Service: plat.ServiceID(r.Header.Get("Test-Service"))},
			User:   "1650000000031", RequestID: "req-1", Path: r.URL.EscapedPath(),
		})
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.Start()
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func routes(alias plat.ServiceID, services ...dataplane.Service) dataplane.Deployment {
	return dataplane.Deployment{ID: dep, Org: org, Aliases: map[string]plat.ServiceID{"default": alias}, Services: services}
}

func serviceOf(id plat.ServiceID, in ...dataplane.Instance) dataplane.Service {
	return dataplane.Service{ID: id, Command: true, Instances: in}
}

func apply(t testing.TB, table *dataplane.Table, version uint64, d dataplane.Deployment) {
	t.Helper()
	if !table.Apply(dataplane.Delta{Version: version, Deployment: d}) {
		t.Fatalf("Apply(version %d) was refused", version)
	}
}

// call sends one request and returns status and body.
func call(t testing.TB, c *http.Client, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: body: %v", method, err)
	}
	return resp.StatusCode, string(b)
}

// eventually polls until ok or the test's patience ends.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func say(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, text)
	}
}
