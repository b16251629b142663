// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"panal/bench/proc"
	"panal/internal/client"
	"panal/internal/plat"
)

type bench struct {
	o       options
	dir     string
	started []*proc.Process
	pids    []int // of Panal's workloads, which outlive it
}

func (b *bench) stop() {
	for _, p := range b.started {
		p.Stop()
	}
	for _, pid := range b.pids {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone
	}
}

// answer is what both servers say.
const answer = `{"label": "oak"}`

// plainServer is the handler without a platform: it keeps connections, and each has a
// thread.
const plainServer = `
import http.server, json, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1                   # head and body in one write: two would wait for an
    disable_nagle_algorithm = True  # acknowledgement, 40 ms each
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"label": "oak"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
`

const handler = `
def handler(request, context):
    request.read()
    return {"content": {"label": "oak"}, "content_type": "application/json"}
`

func (b *bench) plain(ctx context.Context) (*server, error) {
	addr, err := proc.FreeAddr()
	if err != nil {
		return nil, err
	}
	script := filepath.Join(b.dir, "plain.py")
	if err := os.WriteFile(script, []byte(plainServer), 0o600); err != nil {
		return nil, fmt.Errorf("script: %w", err)
	}
	p, err := proc.Start("plain", "", filepath.Join(b.dir, "plain.log"), nil, b.o.python, script, addr[strings.LastIndexByte(addr, ':')+1:])
	if err != nil {
		return nil, err
	}
	b.started = append(b.started, p)
	return &server{name: "plain", addr: addr, path: "/", Process: p, kind: func(int) string { return "python" }}, p.Listens(ctx, addr)
}

// panal is a real installation with one service of one instance.
func (b *bench) panal(ctx context.Context) (*server, error) {
	addr, err := proc.FreeAddr()
	if err != nil {
		return nil, err
	}
	data := filepath.Join(b.dir, "panal")
	argv := []string{b.o.panal, "serve", "--data", data, "--listen", addr, "--python", b.o.python}
	if b.o.pprof != "" {
		argv = append(argv, "--admin-listen", b.o.pprof)
	}
	p, err := proc.Start("panal", "", filepath.Join(b.dir, "panal.log"), nil, argv...)
	if err != nil {
		return nil, err
	}
	b.started = append(b.started, p)
	if err := p.Listens(ctx, addr); err != nil {
		return nil, err
	}
	admin, err := proc.ReadAdmin(filepath.Join(data, "admin.json"))
	if err != nil {
		return nil, err
	}
	path, err := b.deploy(ctx, client.New("http://"+addr, admin.Org, admin.User, admin.Token))
	if err != nil {
		return nil, err
	}
	if b.pids, err = proc.Children(p.PID); err != nil {
		return nil, err
	}
	auth := "Basic " + base64.StdEncoding.EncodeToString([]byte("user-"+admin.User+":"+admin.Token))
	return &server{name: "panal", addr: addr, path: path, auth: auth, Process: p, kind: func(pid int) string {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		switch {
		case pid == p.PID:
			return "gateway"
		case err == nil && bytes.Contains(line, []byte("serve.py")):
			return "python"
		case err == nil && bytes.Contains(line, []byte("agent\x00service")):
			return "agent"
		}
		return "other"
	}}, nil
}

// deploy makes the service and waits until it is READY; it returns its path.
func (b *bench) deploy(ctx context.Context, api *client.Client) (string, error) {
	var source bytes.Buffer
	z := zip.NewWriter(&source)
	w, err := z.Create("main.py")
	if err == nil {
		_, err = w.Write([]byte(handler))
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return "", fmt.Errorf("pack handler: %w", err)
	}
	name := "bench"
	dep, err := api.CreateDeployment(ctx, client.DeploymentParams{Name: &name})
	if err != nil {
		return "", fmt.Errorf("create deployment: %w", err)
	}
	code, err := api.CreateCode(ctx, dep.ID, client.CodeParams{
		Label: "1", Image: "abeja-inc/all-cpu:19.10", Environment: map[string]string{"PANAL_WORKERS": strconv.Itoa(b.o.workers)},
	}, bytes.NewReader(source.Bytes()), int64(source.Len()))
	if err != nil {
		return "", fmt.Errorf("create version: %w", err)
	}
	s, err := api.CreateService(ctx, dep.ID, client.ServiceParams{Version: code.ID, Number: new(1), Autoscale: new(bool)})
	if err != nil {
		return "", fmt.Errorf("create service: %w", err)
	}
	for range 600 {
		if s, err = api.Service(ctx, dep.ID, s.ID); err != nil {
			return "", fmt.Errorf("service: %w", err)
		}
		if s.Status == "READY" {
			return "/deployments/" + dep.ID + "/services/" + s.ID, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return "", plat.Errorf(plat.ErrUnavailable, "the service is %s: %s", s.Status, s.StatusMessage)
}

// request is one call of the server.
func (s *server) request(length int) []byte {
	auth := ""
	if s.auth != "" {
		auth = "Authorization: " + s.auth + "\r\n"
	}
	return fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		http.MethodPost, s.path, s.addr, auth, length, strings.Repeat("1", length))
}
