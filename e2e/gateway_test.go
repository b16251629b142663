// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"panal/internal/client"
)

// TestGatewayEdges: limits, hostile bytes, too many connections and the access log, on
// the built binary, as a caller meets them.
func TestGatewayEdges(t *testing.T) {
	t.Parallel()
	access := filepath.Join(t.TempDir(), "access.log")
	p := startPlatform(t, "--infer-token-rate", "0.02", "--max-connections-per-address", "40", "--access-log", access)
	dep, svc := p.service(map[string]string{"main.py": "def handler(request, context):\n    return {'content': request.read()}\n"}, 1)
	path := p.api.OrgPath("deployments", dep, "services", svc)
	p.until("READY", time.Minute, func() bool { return p.call(http.MethodGet, path, nil)["status"] == "READY" })
	goroutines, files := p.held()

	// The limit of a token: the burst, then 429.
	_, user, admin := adminOf(t, p.data)
	second := p.call(http.MethodPost, client.Path("users", user, "tokens"), map[string]any{"name": "second"})["token"].(string)
	infer := client.Path("deployments", dep, "services", svc)
	pool := &http.Transport{}
	defer pool.CloseIdleConnections()
	one := &caller{"http://" + p.listen + infer + "?planted=secret", admin, &http.Client{Transport: pool, Timeout: time.Minute}}
	two := &caller{one.url, second, one.http}
	if status, body, _, err := one.call(); status != http.StatusOK || body != "x" || err != nil {
		t.Errorf("the first call = %d %q %v", status, body, err)
	}
	status, body, retry, err := one.call()
	var refused struct {
		Error  string              `json:"error"`
		Detail map[string][]string `json:"error_detail"`
	}
	if bad := json.Unmarshal([]byte(body), &refused); err != nil || bad != nil || status != http.StatusTooManyRequests || retry == "" ||
		refused.Error != "too_many_requests" || len(refused.Detail["token_rate"]) == 0 {
		t.Errorf("over the limit: %d %s, Retry-After %q, %v", status, body, retry, err)
	}
	if status, body, _, err := two.call(); status != http.StatusOK || err != nil {
		t.Errorf("another token = %d %s %v", status, body, err)
	}

	// Bytes that can be read in two ways, and headers without end.
	raw := func(send string) string {
		t.Helper()
		c, err := net.Dial("tcp", p.listen)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		go func() { _, _ = io.WriteString(c, send) }() // the server may close before the end
		b, _ := io.ReadAll(c)                          // a reset after the answer is fine
		return string(b)
	}
	head := "POST " + infer + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + second + "\r\nConnection: close\r\n"
	for _, c := range []struct{ what, send, want string }{
		{"two lengths", head + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", `{"error":"bad_request"`},
		{"two codings", head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", `{"error":"not_implemented"`},
		{"NUL", head + "A: \x00\r\n\r\n", `{"error":"bad_request"`},
		{"many fields", head + strings.Repeat("a:\r\n", 5000) + "\r\n", "header fields; the limit is"},
		{"long fields", head + "A: " + strings.Repeat("b", 100_000) + "\r\n\r\n", "--max-header-bytes"},
		{"longer fields", head + "A: " + strings.Repeat("b", 1_000_000) + "\r\n\r\n", `{"error":"request_header_fields_too_large"`},
		{"an HTTP/2 preface that goes wrong", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", ""},
	} {
		if got := raw(c.send); !strings.Contains(got, c.want) || strings.HasPrefix(got, "HTTP/1.1 2") {
			t.Errorf("%s: %.300q, want %q", c.what, got, c.want)
		}
	}

	// Connections from one address; another one is let in all the while.
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 7)}}
	told := 0
	for range 60 {
		c, err := d.DialContext(t.Context(), "tcp", p.listen)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if b, _ := io.ReadAll(c); strings.HasPrefix(string(b), "HTTP/1.1 503 ") && bytes.Contains(b, []byte("--max-connections-per-address")) {
			told++
		}
	}
	if told != 20 {
		t.Errorf("%d of 60 connections were turned away, want 20", told)
	}
	p.call(http.MethodGet, path, nil)

	// What was held is let go (silent connections end after 10 s), and counted.
	p.until("all to be let go", 30*time.Second, func() bool {
		g, f := p.held()
		return g <= goroutines+10 && f <= files+10
	})
	res, err := http.Get("http://" + p.listen + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`panal_gateway_limited_total{limit="token_rate"} 1`, `panal_connections_refused_total{limit="address"} 20`,
		"panal_access_log_dropped_total 0", "panal_access_log_lines_total ", `panal_api_requests_total{class="2xx",operation="infer-service"} 2`,
	} {
		if !bytes.Contains(metrics, []byte(want)) {
			t.Errorf("/metrics has no %s", want)
		}
	}

	// The access log: the calls are there, in JSON, and no secret is.
	p.until("the access log's lines", 10*time.Second, func() bool {
		b, err := os.ReadFile(access)
		return err == nil && strings.Count(string(b), `"infer-service"`) >= 3
	})
	b, err := os.ReadFile(access)
	if err != nil {
		t.Fatal(err)
	}
	statuses := map[int]int{}
	for line := range strings.Lines(string(b)) {
		var e struct {
			Path, Operation, Method, Peer string
			Status                        int
			MS                            float64
			Org                           string `json:"organization_id"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if e.Operation == "infer-service" {
			statuses[e.Status]++
			if e.Path != infer || e.Method != http.MethodPost || e.Peer != "127.0.0.1" || e.MS <= 0 || e.Org == "" && e.Status == 200 {
				t.Errorf("line %s", line)
			}
		}
	}
	if fmt.Sprint(statuses) != "map[200:2 429:1]" {
		t.Errorf("statuses of the calls: %v", statuses)
	}
	for _, secret := range []string{"planted", admin, second} {
		if bytes.Contains(b, []byte(secret)) {
			t.Errorf("the access log holds %.10q…", secret)
		}
	}
}

// TestNoisyNeighbour: two organizations on one server, with the same limit; one sends
// ten times what it may, from many connections. All calls of the other one, which
// sends what it may, are answered.
func TestNoisyNeighbour(t *testing.T) {
	t.Parallel()
	const rate, burst = 10, 20
	p := startPlatform(t, "--infer-organization-rate", fmt.Sprint(rate))
	code := map[string]string{"main.py": "def handler(request, context):\n    return {'content': request.read()}\n"}
	founded := p.call(http.MethodPost, "/organizations", map[string]string{"name": "quiet"})
	other := *p // the same server, for the other organization
	other.api = client.New("http://"+p.listen, founded["id"].(string), founded["admin"].(map[string]any)["id"].(string), founded["personal_access_token"].(string))
	pool := &http.Transport{MaxIdleConnsPerHost: 32}
	defer pool.CloseIdleConnections()
	callerOf := func(p *platform, token string) *caller {
		dep, svc := p.service(code, 1)
		path := p.api.OrgPath("deployments", dep, "services", svc)
		p.until("READY", time.Minute, func() bool { return p.call(http.MethodGet, path, nil)["status"] == "READY" })
		return &caller{"http://" + p.listen + client.Path("deployments", dep, "services", svc), token, &http.Client{Transport: pool, Timeout: time.Minute}}
	}
	_, _, admin := adminOf(t, p.data)
	noisy, quiet := callerOf(p, admin), callerOf(&other, founded["personal_access_token"].(string))

	start := time.Now()
	var served, refused atomic.Int64
	var noise sync.WaitGroup
	for range 10 {
		noise.Go(func() {
			for range burst {
				switch status, body, retry, err := noisy.call(); {
				case err == nil && status == http.StatusOK:
					served.Add(1)
				case err == nil && status == http.StatusTooManyRequests && retry != "" && strings.Contains(body, "organization_rate"):
					refused.Add(1)
				default:
					t.Errorf("the noisy one got %d %s %v", status, body, err)
				}
			}
		})
	}
	for i := range burst {
		if status, body, _, err := quiet.call(); status != http.StatusOK || err != nil {
			t.Errorf("call %d of the quiet one: %d %s %v", i, status, body, err)
		}
	}
	noise.Wait()
	most := burst + int64(rate*time.Since(start).Seconds()) + 1
	if n := served.Load(); n < burst || n > most || refused.Load() == 0 {
		t.Errorf("the noisy one: %d served, %d refused; want %d to %d served", n, refused.Load(), burst, most)
	}
	t.Logf("noisy: %d served, %d refused; quiet: %d served, none refused", served.Load(), refused.Load(), burst)
}
