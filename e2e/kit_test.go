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
	"testing"
	"time"

	"panal/internal/client"
)

const image = "abeja-inc/all-cpu:19.10"

// platform is a running server and a client of it, for tests written in Go.
type platform struct {
	t      *testing.T
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

// startPlatformAt starts a server on a directory; it and its workloads end with the
// test.
func startPlatformAt(t *testing.T, data string, flags ...string) *platform {
	t.Helper()
	lookAtSources()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &platform{t: t, data: data, listen: l.Addr().String(), flags: flags}
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
	return p
}

func (p *platform) start() {
	p.t.Helper()
	p.cmd = exec.Command(binary, append([]string{"serve", "--data", p.data, "--listen", p.listen}, p.flags...)...)
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
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
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

// service deploys code as a service and returns deployment and service ids.
func (p *platform) service(files map[string]string, instances int) (deployment, service string) {
	p.t.Helper()
	deployment = p.call(http.MethodPost, p.api.OrgPath("deployments"), map[string]string{"name": "hostile"})["deployment_id"].(string)
	v := p.call(http.MethodPost, p.api.OrgPath("deployments", deployment, "versions"), map[string]string{"version": "1", "image": image, "handler": "main:handler"})
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
