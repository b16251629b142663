// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"panal/internal/authn"
	"panal/internal/client"
)

// envOutage is how long the database is away; make torture sets ten minutes.
const envOutage = "PANAL_OUTAGE"

// signal sends a signal to an engine and all its processes.
func (e *engine) signal(s syscall.Signal) {
	for _, pid := range append(childrenOf(e.proc.Process.Pid), e.proc.Process.Pid) {
		_ = syscall.Kill(pid, s) // one that has ended meanwhile needs none
	}
}

// stop is pg_ctl stop -m fast.
func (e *engine) stop() {
	e.t.Helper()
	if err := e.proc.Process.Signal(syscall.SIGINT); err != nil {
		e.t.Fatal(err)
	}
	<-e.done
	e.proc = nil
}

// caller sends inference calls with one token.
type caller struct {
	url, token string
	http       *http.Client
}

func (c *caller) call() (status int, body string, retry string, err error) {
	req, err := http.NewRequest(http.MethodPost, c.url, strings.NewReader("x"))
	if err != nil {
		return 0, "", "", err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", "text/plain")
	res, err := c.http.Do(req)
	if err != nil {
		return 0, "", "", err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), res.Header.Get("Retry-After"), err
}

// TestDatabaseOutage: PostgreSQL is stopped, and then hangs, under load. Every call with
// a token that was known is answered all the while; one that was not gets 503 and
// not 401. Once the database answers again, what was revoked there is refused
// within moments, and new tokens work.
func TestDatabaseOutage(t *testing.T) {
	outage := 5 * time.Second
	if s := os.Getenv(envOutage); s != "" {
		var err error
		if outage, err = time.ParseDuration(s); err != nil {
			t.Fatal(envOutage, err)
		}
	}
	database, dsn := startPostgres(t)
	p := startPlatform(t, "--database", dsn)
	dep, svc := p.service(map[string]string{"main.py": "def handler(request, context):\n    return {'content': 'well'}\n"}, 2)
	path := p.api.OrgPath("deployments", dep, "services", svc)
	p.until("READY", time.Minute, func() bool { return p.call(http.MethodGet, path, nil)["status"] == "READY" })

	_, user, _ := adminOf(t, p.data)
	newToken := func() string {
		t.Helper()
		return p.call(http.MethodPost, client.Path("users", user, "tokens"), map[string]any{"name": "caller"})["token"].(string)
	}
	pool := &http.Transport{MaxIdleConnsPerHost: 8}
	defer pool.CloseIdleConnections()
	as := func(token string) *caller {
		return &caller{"http://" + p.listen + client.Path("deployments", dep, "services", svc), token, &http.Client{Transport: pool, Timeout: time.Minute}}
	}
	known, revoked, unseen := as(newToken()), as(newToken()), as(newToken())
	for _, c := range []*caller{known, revoked} {
		if status, body, _, err := c.call(); status != http.StatusOK || err != nil {
			t.Fatalf("before: %d %s %v", status, body, err)
		}
	}

	var answered, failed atomic.Int64
	end := make(chan struct{})
	var load sync.WaitGroup
	for range 3 {
		load.Go(func() {
			for {
				select {
				case <-end:
					return
				case <-time.After(5 * time.Millisecond):
				}
				status, body, _, err := known.call()
				if status == http.StatusOK && err == nil {
					answered.Add(1)
				} else if failed.Add(1) <= 5 {
					t.Errorf("a call with a known token: %d %s %v", status, body, err)
				}
			}
		})
	}
	stopLoad := sync.OnceFunc(func() { close(end); load.Wait() })
	defer stopLoad()

	is503 := func(when string) {
		t.Helper()
		status, body, retry, err := unseen.call()
		var e struct{ Error, ErrorDescription string }
		if bad := json.Unmarshal([]byte(body), &e); err != nil || status != http.StatusServiceUnavailable || retry == "" || bad != nil || e.Error != "service_unavailable" {
			t.Errorf("%s, a token that was not seen: %d %s, Retry-After %q, %v; want 503", when, status, body, retry, err)
		}
	}
	away := func(when string, take, back func()) {
		t.Helper()
		before := answered.Load()
		take()
		until := time.Now().Add(outage)
		is503(when)
		if status, body, _, err := revoked.call(); status != http.StatusOK || err != nil { // known, and quiet for a while
			t.Errorf("%s, another known token: %d %s %v", when, status, body, err)
		}
		time.Sleep(time.Until(until))
		is503(when)
		t.Logf("%s: %d calls in %s, %d failed in all", when, answered.Load()-before, outage, failed.Load())
		if answered.Load() == before {
			t.Errorf("%s: nothing was answered", when)
		}
		back()
		p.until("the database's return", time.Minute, func() bool {
			res, err := http.Get("http://" + p.listen + "/readyz")
			if err != nil {
				return false
			}
			_ = res.Body.Close()
			return res.StatusCode == http.StatusOK
		})
	}
	away("stopped", database.stop, database.start)
	away("hanging", func() { database.signal(syscall.SIGSTOP) }, func() { database.signal(syscall.SIGCONT) })

	// Revoked behind the server's back: it holds as ever.
	sql := fmt.Sprintf("DELETE FROM token WHERE hash = '%s'", authn.HashToken(revoked.token))
	if out, err := exec.Command(postgresTool("psql"), dsn, "-v", "ON_ERROR_STOP=1", "-c", sql).CombinedOutput(); err != nil || !strings.Contains(string(out), "DELETE 1") {
		t.Fatalf("psql: %v: %s", err, out)
	}
	p.until("the end of a revoked token", 20*time.Second, func() bool {
		status, _, _, err := revoked.call()
		return status == http.StatusUnauthorized && err == nil
	})
	p.until("the new token's first answer", 20*time.Second, func() bool {
		status, _, _, err := unseen.call()
		return status == http.StatusOK && err == nil
	})
	stopLoad()
	if failed.Load() > 0 {
		t.Errorf("%d calls failed, %d were answered", failed.Load(), answered.Load())
	}
}

// postgresTool is a program of the server's version.
func postgresTool(name string) string {
	bin := os.Getenv("PG_BIN")
	if bin == "" {
		bin = "/usr/lib/postgresql/15/bin"
	}
	return filepath.Join(bin, name)
}
