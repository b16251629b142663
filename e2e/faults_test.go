// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"panal/internal/client"
)

// faulty is a server that does what its callers ask of it, and worse.
const faulty = `
import http.server, os, socketserver, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def do_GET(self):
        what = self.path.split("?")[0].strip("/")
        if what == "die":
            os._exit(7)
        if what == "hang":
            time.sleep(3600)
        if what == "garbage":
            self.wfile.write(b"\x00\x01 this is no HTTP\r\n\r\n")
            self.close_connection = True
            return
        if what == "early":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"ten bytes.")
            self.close_connection = True
            return
        if what == "glutton":
            hog = []
            while True:
                hog.append(b"x" * 50_000_000)
        if what == "slow":
            time.sleep(0.2)
        body = b"well"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_GET

class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128

time.sleep(1) # it is slow to start
Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
`

// TestInstanceFaults: what can go wrong with an instance goes wrong with one of two, as
// real processes, while callers go on. The call that met the fault is told so; all others
// are answered, and two instances are there again.
func TestInstanceFaults(t *testing.T) {
	t.Parallel()
	// Only the call that hangs may meet the timeout: eating all memory on a quarter of a
	// busy core has taken 14 s.
	p := startPlatform(t, "--idle-timeout", "30s")
	dep, svc := p.deploy(map[string]any{"image": image, "command": []string{"/usr/bin/python3", "server.py"}, "health_path": "/health"}, map[string]string{"server.py": faulty}, 2)
	path := p.api.OrgPath("deployments", dep, "services", svc)
	whole := func() bool {
		var list struct {
			Entries []client.Instance `json:"entries"`
		}
		if err := p.api.JSON(context.Background(), http.MethodGet, path+"/instances", nil, nil, &list); err != nil {
			t.Fatal(err)
		}
		ready := 0
		for _, i := range list.Entries {
			if i.State == "ready" {
				ready++
			}
		}
		return ready == 2 && len(list.Entries) == 2
	}
	p.until("two instances", time.Minute, whole)
	_, user, token := adminOf(t, p.data)
	ask := func(ctx context.Context, h *http.Client, method, what string) (int, string, error) {
		req, err := http.NewRequestWithContext(ctx, method, "http://"+p.listen+client.Path("deployments", dep, "services", svc)+"/"+what, http.NoBody)
		if err != nil {
			return 0, "", err
		}
		req.SetBasicAuth("user-"+user, token)
		res, err := h.Do(req)
		if err != nil {
			return 0, "", err
		}
		b, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		return res.StatusCode, string(b), err
	}
	pool := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}, Timeout: time.Minute}
	defer pool.CloseIdleConnections()
	goroutines, files := p.held()

	// The agent outlives its program, and says of the calls that the program had that it
	// failed: these are met by the fault too.
	var mu sync.Mutex
	var from, to time.Time
	c := &crowd{t: t, end: make(chan struct{}), spared: func(_ bool, begun, ended time.Time) bool {
		mu.Lock()
		defer mu.Unlock()
		return ended.After(from) && (to.IsZero() || begun.Before(to))
	}}
	to = time.Now() // nothing is spared before the first fault
	from = to
	for range 4 {
		c.join("a safe call", 10*time.Millisecond, func() error {
			status, body, err := ask(context.Background(), pool, http.MethodGet, "well")
			if err == nil && (status != http.StatusOK || body != "well") {
				err = fmt.Errorf("%d %s", status, body)
			}
			return err
		})
	}
	for _, f := range []struct {
		what string
		want int
	}{
		{"die", http.StatusBadGateway},
		{"glutton", http.StatusBadGateway},
		{"hang", http.StatusGatewayTimeout},
		{"garbage", http.StatusBadGateway},
		{"early", http.StatusBadGateway},
	} {
		deadly := f.what == "die" || f.what == "glutton"
		if deadly {
			mu.Lock()
			from, to = time.Now(), time.Time{}
			mu.Unlock()
		}
		asked := time.Now()
		status, body, err := ask(t.Context(), pool, http.MethodPost, f.what)
		t.Logf("%s was answered after %s", f.what, time.Since(asked))
		if deadly {
			mu.Lock()
			to = time.Now()
			mu.Unlock()
		}
		if err != nil || status != f.want || !strings.Contains(body, "failed") && !strings.Contains(body, "did not answer in time") {
			t.Errorf("%s = %d %q, %v; want %d and why", f.what, status, body, err, f.want)
		}
		time.Sleep(200 * time.Millisecond) // news of an exit
		p.until("two instances after "+f.what, time.Minute, whole)
	}

	// A storm of callers who leave, at every moment of their calls.
	random := rand.New(rand.NewPCG(5, 5))
	var storm sync.WaitGroup
	for range 20 {
		patience := make([]time.Duration, 25)
		for i := range patience {
			patience[i] = time.Duration(random.Int64N(int64(250 * time.Millisecond)))
		}
		storm.Go(func() {
			for _, d := range patience {
				ctx, cancel := context.WithTimeout(context.Background(), d)
				_, _, _ = ask(ctx, pool, http.MethodPost, "slow") // answered or not
				cancel()
			}
		})
	}
	storm.Wait()
	c.leave()
	pool.CloseIdleConnections()
	var g, n int
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if g, n = p.held(); g <= goroutines+10 && n <= files+150 { // each of two instances may keep a connection, which has two descriptors, of each of 24 callers, and the databases some
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the storm left %d goroutines and %d files; %d and %d before", g, n, goroutines, files)
		}
	}
	t.Logf("goroutines %d, files %d before; %d, %d after", goroutines, files, g, n)
}

// TestSwitchedUnderLoad: an alias is switched a thousand times under load, and no call
// fails.
func TestSwitchedUnderLoad(t *testing.T) {
	t.Parallel()
	p := startPlatform(t)
	code := map[string]string{"main.py": "def handler(request, context):\n    return {'content': 'well'}\n"}
	dep, first := p.service(code, 1)
	versions := p.call(http.MethodGet, p.api.OrgPath("deployments", dep, "versions"), nil)["entries"].([]any)
	second := p.call(http.MethodPost, p.api.OrgPath("deployments", dep, "services"), map[string]any{
		"version_id": versions[0].(map[string]any)["version_id"], "instance_type": "cpu-0.25", "instance_number": 1,
	})["service_id"].(string)
	for _, svc := range []string{first, second} {
		path := p.api.OrgPath("deployments", dep, "services", svc)
		p.until("READY", time.Minute, func() bool { return p.call(http.MethodGet, path, nil)["status"] == "READY" })
	}
	p.call(http.MethodPost, p.api.OrgPath("deployments", dep, "endpoints"), map[string]string{"custom_alias": "default", "service_id": first})
	_, _, token := adminOf(t, p.data)
	pool := &http.Transport{MaxIdleConnsPerHost: 8}
	defer pool.CloseIdleConnections()
	c := &crowd{t: t, end: make(chan struct{})}
	call := &caller{"http://" + p.listen + client.Path("deployments", dep), token, &http.Client{Transport: pool, Timeout: time.Minute}}
	for range 4 {
		c.join("a call", 2*time.Millisecond, func() error {
			status, body, _, err := call.call()
			if err == nil && (status != http.StatusOK || body != "well") {
				err = fmt.Errorf("%d %s", status, body)
			}
			return err
		})
	}
	const switches = 1000
	start := time.Now()
	for i := range switches {
		p.call(http.MethodPatch, p.api.OrgPath("deployments", dep, "endpoints", "default"), map[string]string{"service_id": []string{second, first}[i%2]})
	}
	t.Logf("%d switches in %s", switches, time.Since(start))
	c.leave()
}

// TestKilledMidRollout: the server is killed again and again while instances are
// replaced. Only what was in flight fails, and in the end there are the instances that
// were asked for, all of the new generation.
func TestKilledMidRollout(t *testing.T) {
	t.Parallel()
	const instances = 3
	p := startSupervised(t)
	dep, svc := p.command(instances)
	path := p.api.OrgPath("deployments", dep, "services", svc)
	var mu sync.Mutex
	var killed [][2]time.Time
	var inFlight atomic.Int64
	c := gather(p, dep, svc, func(kept bool, begun, ended time.Time) bool {
		mu.Lock()
		defer mu.Unlock()
		for _, k := range killed {
			if begun.Before(newsOf(k[1], kept)) && ended.After(k[0]) {
				inFlight.Add(1)
				return true
			}
		}
		return false
	})
	random := rand.New(rand.NewPCG(7, 7))
	for roll := range 3 {
		p.patient(http.MethodPatch, path, map[string]any{"environment": map[string]string{"ROLL": fmt.Sprint(roll)}})
		for range 2 {
			time.Sleep(1100*time.Millisecond + time.Duration(random.Int64N(int64(400*time.Millisecond))))
			pid := p.server()
			mu.Lock()
			begun := time.Now()
			err := syscall.Kill(pid, syscall.SIGKILL)
			for err == nil && syscall.Kill(pid, 0) == nil {
				time.Sleep(time.Millisecond)
			}
			killed = append(killed, [2]time.Time{begun, time.Now()})
			mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			p.until("the next server", 30*time.Second, func() bool { now := p.server(); return now != 0 && now != pid })
		}
		var last any
		p.until(fmt.Sprintf("the end of roll %d", roll), 2*time.Minute, func() bool {
			all := p.patient(http.MethodGet, path+"/instances", nil)["entries"].([]any)
			last = all
			for _, i := range all {
				if i := i.(map[string]any); i["state"] != "ready" || i["current"] != true {
					return false
				}
			}
			return len(all) == instances && p.patient(http.MethodGet, path, nil)["status"] == "READY"
		})
		t.Logf("roll %d: %v", roll, last)
	}
	c.leave()
	t.Logf("%d kills, %d requests that were in flight failed", len(killed), inFlight.Load())
	p.stop(t)
}

// patient calls the API, again when the server was killed under the call.
func (p *platform) patient(method, path string, in any) map[string]any {
	p.t.Helper()
	var out map[string]any
	p.until("an answer to "+method+" "+path, time.Minute, func() bool {
		out = nil
		err := p.api.JSON(context.Background(), method, path, nil, in, &out)
		if refused, ok := errors.AsType[*client.Error](err); ok {
			p.t.Fatalf("%s %s: %v", method, path, refused)
		}
		return err == nil
	})
	return out
}
