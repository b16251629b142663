// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"panal/internal/client"
)

// rss is the server's resident memory in bytes.
func (p *platform) rss() int64 {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return kib << 10
		}
	}
	p.t.Fatal("no VmRSS")
	return 0
}

// held is how many goroutines and open files the server has.
func (p *platform) held() (goroutines, files int) {
	p.t.Helper()
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + p.listen + "/metrics")
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		if n, ok := strings.CutPrefix(lines.Text(), "go_goroutines "); ok {
			if goroutines, err = strconv.Atoi(n); err != nil {
				p.t.Fatal(err)
			}
		}
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil || goroutines == 0 {
		p.t.Fatalf("goroutines %d, files: %v", goroutines, err)
	}
	return goroutines, len(open)
}

// load sends n requests of one kind over some connections and wants their status.
func (p *platform) load(n int, kind request) {
	p.t.Helper()
	const workers = 8
	pool := &http.Transport{MaxIdleConnsPerHost: workers}
	defer pool.CloseIdleConnections()
	c := &http.Client{Transport: pool, Timeout: time.Minute}
	var wg sync.WaitGroup
	var next, bad atomic.Int64
	for range workers {
		wg.Go(func() {
			for next.Add(1) <= int64(n) && bad.Load() == 0 {
				if err := kind.send(c); err != nil {
					if bad.Add(1) == 1 {
						p.t.Errorf("%s: %v", kind.name, err)
					}
				}
			}
		})
	}
	wg.Wait()
	if p.t.Failed() {
		p.t.FailNow()
	}
}

// request is a kind of request.
type request struct {
	name, method, url string
	header            http.Header
	body              string
	status            int
}

func (r request) send(c *http.Client) error {
	req, err := http.NewRequest(r.method, r.url, strings.NewReader(r.body))
	if err != nil {
		return err
	}
	req.Header = r.header
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != r.status {
		err = fmt.Errorf("status %d, want %d: %.300s", res.StatusCode, r.status, b)
	}
	return err
}

// TestNoLeaks: a server is small when idle and stays so after 10,000 uploads; no kind
// of request leaves a goroutine or an open file behind.
func TestNoLeaks(t *testing.T) {
	t.Parallel()
	p := startPlatform(t)
	const limit = 200 << 20
	if n := p.rss(); n > limit {
		t.Errorf("idle, the server takes %d MiB", n>>20)
	}
	_, user, token := adminOf(t, p.data)
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("user-"+user+":"+token))
	auth := http.Header{"Authorization": {basic}, "Content-Type": {"application/json"}}
	text := http.Header{"Authorization": {basic}, "Content-Type": {"text/plain"}, "X-Abeja-Meta-Label": {"7"}, "X-Abeja-Meta-Filename": {"seven.txt"}}

	channel := p.call(http.MethodPost, p.api.OrgPath("channels"), map[string]string{"name": "many"})["channel"].(map[string]any)["channel_id"].(string)
	file, err := p.put(channel, "one.txt", bytes.Repeat([]byte("x"), 100_000), false)
	if err != nil {
		t.Fatal(err)
	}
	uri := p.call(http.MethodGet, client.Path("channels", channel, file), nil)["download_uri"].(string)
	dataset := p.call(http.MethodPost, p.api.OrgPath("datasets"), map[string]any{"name": "d", "type": "x", "props": map[string]any{}})["dataset_id"].(string)
	p.call(http.MethodPost, p.api.OrgPath("training", "definitions"), map[string]string{"name": "small"})
	job := p.job("small", p.version("small", map[string]string{"train.py": "def handler(context):\n    print('hello')\n"}), nil)
	p.waitJob("small", job, time.Minute)
	dep, svc := p.service(map[string]string{"main.py": "def handler(request, context):\n    return {'content': request.read()}\n"}, 1)
	servicePath := p.api.OrgPath("deployments", dep, "services", svc)
	p.until("READY", time.Minute, func() bool { return p.call(http.MethodGet, servicePath, nil)["status"] == "READY" })

	base := "http://" + p.listen
	get := func(name, path string, status int) request {
		return request{name, http.MethodGet, base + path, auth, "", status}
	}
	post := func(name, path, body string, status int) request {
		return request{name, http.MethodPost, base + path, auth, body, status}
	}
	upload := request{"upload", http.MethodPost, base + client.Path("channels", channel, "upload"), text, "seven", 200}
	kinds := []request{
		upload,
		{"upload of a duplicate", http.MethodPost, upload.url + "?conflict_target=filename", text, "seven", 409},
		{"download", http.MethodGet, uri, nil, "", 200},
		{"a bad signature", http.MethodGet, uri + "0", nil, "", 403},
		{"without credentials", http.MethodGet, base + p.api.OrgPath("channels"), nil, "", 401},
		{"infer", http.MethodPost, base + client.Path("deployments", dep, "services", svc), text, "hello", 200},
		{"infer nowhere", http.MethodPost, base + client.Path("deployments", dep), text, "hello", 404},
		get("readiness", "/readyz", 200),
		get("channels", p.api.OrgPath("channels"), 200),
		get("search", client.Path("channels", channel)+"?items_per_page=1&q="+url.QueryEscape("label:7"), 200),
		get("count", client.Path("channels", channel, "count")+"?q="+url.QueryEscape("label:7 AND NOT filename:one*"), 200),
		get("bad search", client.Path("channels", channel)+"?q=label:", 400),
		post("items", p.api.OrgPath("datasets", dataset, "items"), `{"source_data":[{"data_uri":"http://x/y"}]}`, 200),
		post("broken JSON", p.api.OrgPath("datasets"), `{"name":`, 400),
		get("job", p.def("small", "jobs", job), 200),
		get("log", p.def("small", "jobs", job, "logs"), 200),
		get("recent log", p.def("small", "jobs", job, "recentlogs"), 200),
		get("service", servicePath, 200),
		get("nothing", p.def("small", "jobs", "1999999999999"), 404),
		get("not built", p.api.OrgPath("training", "definitions", "x", "notebooks"), 501),
	}
	for _, k := range kinds { // every pool and cache has what it keeps
		p.load(32, k)
	}
	goroutines, files := p.held()
	for _, k := range kinds {
		p.load(1000, k)
		var g, f int
		what := k.name + ": what its requests held to be let go"
		p.until(what, 20*time.Second, func() bool {
			g, f = p.held()
			return g <= goroutines+20 && f <= files+20
		})
	}
	p.load(9000, upload)
	if n := p.rss(); n > limit {
		t.Errorf("after 10,000 uploads and 1,000 requests of each kind, the server takes %d MiB", n>>20)
	}
	t.Logf("goroutines %d, open files %d before; resident now %d MiB", goroutines, files, p.rss()>>20)
}
