// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"panal/internal/app"
	"panal/internal/client"
)

const image = "abeja-inc/all-cpu:19.10"

// platform is a running server and a client of it, for tests written in Go.
type platform struct {
	t      *testing.T
	binary string
	verb   string // serve or supervise
	data   string
	listen string
	flags  []string
	cmd    *exec.Cmd
	done   chan error
	log    *os.File
	api    *client.Client
}

// startPlatform starts a server on an empty directory; it and its workloads end
// with the test.
func startPlatform(t *testing.T, flags ...string) *platform {
	t.Helper()
	return startPlatformAt(t, filepath.Join(t.TempDir(), "data"), flags...)
}

// startSupervised starts a supervised server, of a program of its own that the test may
// replace.
func startSupervised(t *testing.T, flags ...string) *platform {
	t.Helper()
	p := &platform{t: t, binary: filepath.Join(t.TempDir(), "panal"), verb: "supervise", data: filepath.Join(t.TempDir(), "data"), flags: flags}
	p.install(binary)
	p.open()
	return p
}

// install puts a program in the place of the platform's, as a package manager does.
func (p *platform) install(from string) {
	p.t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(p.binary+".new", b, 0o755)
	}
	if err == nil {
		err = os.Rename(p.binary+".new", p.binary)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// server is the process that has the data directory.
func (p *platform) server() int {
	pid, err := app.ServerPID(p.data)
	if err != nil {
		return 0
	}
	return pid
}

// startPlatformAt starts a server on a directory; it and its workloads end with the
// test.
func startPlatformAt(t *testing.T, data string, flags ...string) *platform {
	t.Helper()
	p := &platform{t: t, binary: binary, verb: "serve", data: data, flags: flags}
	p.open()
	return p
}

func (p *platform) open() {
	t := p.t
	t.Helper()
	lookAtSources()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.listen = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if p.log, err = os.Create(filepath.Join(t.TempDir(), "server.log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd != nil {
			p.kill()
		}
		if out, err := exec.Command(binary, "stop", "--workloads", "--data", p.data).CombinedOutput(); err != nil {
			t.Errorf("stop --workloads: %v\n%s", err, out)
		}
		if t.Failed() {
			b, _ := os.ReadFile(p.log.Name())
			t.Logf("the server's log:\n%s", b)
		}
		_ = p.log.Close()
	})
	p.start()
	org, user, token := adminOf(t, p.data)
	p.api = client.New("http://"+p.listen, org, user, token)
}

func (p *platform) start() {
	p.t.Helper()
	p.cmd = exec.Command(p.binary, append([]string{p.verb, "--data", p.data, "--listen", p.listen}, p.flags...)...)
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan error) { done <- cmd.Wait() }(p.cmd, p.done)
	p.until("the server's readiness", 30*time.Second, func() bool {
		res, err := http.Get("http://" + p.listen + "/readyz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

func (p *platform) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
	p.cmd = nil
}

func (p *platform) until(what string, limit time.Duration, ok func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	p.t.Fatalf("%s did not come in %s", what, limit)
}

// call sends JSON and returns the decoded answer; any error fails the test.
func (p *platform) call(method, path string, in any) map[string]any {
	p.t.Helper()
	var out map[string]any
	if err := p.api.JSON(context.Background(), method, path, nil, in, &out); err != nil {
		p.t.Fatalf("%s %s: %v", method, path, err)
	}
	return out
}

// archiveOf packs files (name → content) as tar.gz.
func archiveOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	tw := tar.NewWriter(zw)
	for name, text := range files {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// version makes (once) the definition "hostile" and a version of it from code.
func (p *platform) version(definition string, files map[string]string) string {
	p.t.Helper()
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	part := func(name, file, contentType string, content []byte) {
		h := textproto.MIMEHeader{"Content-Type": {contentType}}
		h.Set("Content-Disposition", fmt.Sprintf(`form-data; name="%s"; filename="%s"`, name, file))
		pw, err := w.CreatePart(h)
		if err != nil {
			p.t.Fatal(err)
		}
		if _, err := pw.Write(content); err != nil {
			p.t.Fatal(err)
		}
	}
	part("parameters", "params.json", "application/json", []byte(`{"handler":"train:handler","image":"`+image+`"}`))
	part("source_code", "source_code.zip", "application/zip", archiveOf(p.t, files)) // the SDK labels a tar.gz so
	if err := w.Close(); err != nil {
		p.t.Fatal(err)
	}
	res, err := p.api.Do(context.Background(), client.Request{
		Method: http.MethodPost, Path: p.def(definition, "versions"), Body: &buf, Size: int64(buf.Len()),
		Header: http.Header{"Content-Type": {w.FormDataContentType()}},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	var v struct {
		N int `json:"job_definition_version"`
	}
	if err := json.NewDecoder(res.Body).Decode(&v); err != nil {
		p.t.Fatal(err)
	}
	return fmt.Sprint(v.N)
}

func (p *platform) def(definition string, more ...string) string {
	return p.api.OrgPath(append([]string{"training", "definitions", definition}, more...)...)
}

// job starts a job of a version and returns its id.
func (p *platform) job(definition, version string, env map[string]string) string {
	p.t.Helper()
	out := p.call(http.MethodPost, p.def(definition, "versions", version, "jobs"), map[string]any{"instance_type": "cpu-0.25", "environment": env})
	return out["training_job_id"].(string)
}

// waitJob waits for a terminal status and returns the job.
func (p *platform) waitJob(definition, id string, limit time.Duration) map[string]any {
	p.t.Helper()
	var j map[string]any
	p.until("the end of job "+id, limit, func() bool {
		j = p.call(http.MethodGet, p.def(definition, "jobs", id), nil)
		return j["status"] == "Complete" || j["status"] == "Failed" || j["status"] == "Stopped"
	})
	return j
}

// lines reads a whole log.
func (p *platform) lines(path string) []string {
	p.t.Helper()
	var all []string
	query := url.Values{"limit": {"1000"}}
	for {
		var page struct {
			Events []struct {
				Message string `json:"message"`
			} `json:"events"`
			Next string `json:"next_token"`
		}
		if err := p.api.JSON(context.Background(), http.MethodGet, path, query, nil, &page); err != nil {
			p.t.Fatal(err)
		}
		for _, e := range page.Events {
			all = append(all, e.Message)
		}
		if page.Next == "" {
			return all
		}
		query = url.Values{"next_token": {page.Next}, "limit": {"1000"}}
	}
}

// command deploys the example server as a service of some instances, waits until it is
// READY and returns deployment and service ids.
func (p *platform) command(instances int) (deployment, service string) {
	p.t.Helper()
	program, err := os.ReadFile(exampleServer)
	if err != nil {
		p.t.Fatal(err)
	}
	deployment, service = p.deploy(map[string]any{"image": image, "command": []string{"./server"}, "health_path": "/healthz"}, map[string]string{"server": string(program)}, instances)
	path := p.api.OrgPath("deployments", deployment, "services", service)
	p.until("READY", time.Minute, func() bool { return p.call(http.MethodGet, path, nil)["status"] == "READY" })
	return deployment, service
}

// service deploys code as a service and returns deployment and service ids.
func (p *platform) service(files map[string]string, instances int) (deployment, service string) {
	p.t.Helper()
	return p.deploy(map[string]any{"image": image, "handler": "main:handler"}, files, instances)
}

// deploy deploys a version as a service and returns deployment and service ids.
func (p *platform) deploy(version map[string]any, files map[string]string, instances int) (deployment, service string) {
	p.t.Helper()
	version["version"] = "1"
	deployment = p.call(http.MethodPost, p.api.OrgPath("deployments"), map[string]string{"name": "hostile"})["deployment_id"].(string)
	v := p.call(http.MethodPost, p.api.OrgPath("deployments", deployment, "versions"), version)
	source := archiveOf(p.t, files)
	res, err := p.api.Do(context.Background(), client.Request{Method: http.MethodPut, Path: v["upload_url"].(string), Body: bytes.NewReader(source), Size: int64(len(source))})
	if err != nil {
		p.t.Fatal(err)
	}
	_ = res.Body.Close()
	service = p.call(http.MethodPost, p.api.OrgPath("deployments", deployment, "services"), map[string]any{
		"version_id": v["version_id"], "instance_type": "cpu-0.25", "instance_number": instances,
	})["service_id"].(string)
	return deployment, service
}

// infer posts to a service and returns status and body.
func (p *platform) infer(deployment, service, body string) (int, string) {
	p.t.Helper()
	res, err := p.api.Do(context.Background(), client.Request{
		Method: http.MethodPost, Path: client.Path("deployments", deployment, "services", service),
		Body: strings.NewReader(body), Size: int64(len(body)), Header: http.Header{"Content-Type": {"text/plain"}},
	})
	if err != nil {
		if e, ok := err.(*client.Error); ok { //nolint:errorlint // Do returns it bare
			return e.Status, string(e.Body)
		}
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// signal sends a signal to the process that the test started.
func (p *platform) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// logText is what the server has logged so far.
func (p *platform) logText() string {
	b, err := os.ReadFile(p.log.Name())
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

// stop ends the server by panal stop, and its supervisor with it.
func (p *platform) stop(t *testing.T) {
	t.Helper()
	if out, err := exec.Command(binary, "stop", "--data", p.data).CombinedOutput(); err != nil {
		t.Fatalf("stop: %v\n%s", err, out)
	}
	select {
	case err := <-p.done:
		if err != nil {
			t.Errorf("the server ended with %v", err)
		}
		p.cmd = nil
	case <-time.After(time.Minute):
		t.Fatal("the server goes on")
	}
}
