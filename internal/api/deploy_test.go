// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/authn"
	"panal/internal/blob"
	"panal/internal/blob/memblob"
	"panal/internal/control/service"
	"panal/internal/dataplane"
	"panal/internal/deploy"
	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/fakerunner"
	"panal/internal/sqlstore"
)

// oneModel is acme's only model.
type oneModel struct{ w *world }

func (m oneModel) ModelRef(_ context.Context, org plat.OrgID, id plat.ModelID) (deploy.ModelRef, error) {
	if id != "1720000000055" || org != m.w.orgs["acme"].ID {
		return deploy.ModelRef{}, plat.NotFound("model", id)
	}
	return deploy.ModelRef{ID: id, DefinitionName: "leaf"}, nil
}

// deployWorld is an API with deployments, a controller that runs, the real
// gateway, and instances that are servers of this process on Unix sockets.
type deployWorld struct {
	*world
	run  *fakerunner.Runner
	toks *sqlstore.Orgs
	deps string // path of deployments
	dir  string

	slow    atomic.Int64 // requests that reached an instance with MODE=slow
	servers sync.Map     // of *http.Server by workload
	asyncs  chan asyncCall

	mu   sync.Mutex
	hold map[string]chan struct{} // MODE=hold:<name> → closed when it may become healthy
}

func newDeployWorld(t *testing.T, extend ...func(*world)) *deployWorld {
	t.Helper()
	dir, err := os.MkdirTemp("", "pa") //nolint:usetesting // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	w := &deployWorld{run: fakerunner.New(fakerunner.Config{}), deps: "/organizations/acme/deployments", dir: dir, hold: map[string]chan struct{}{}, asyncs: make(chan asyncCall, 10)}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { // after the server was closed
		cancel()
		wg.Wait()
		_ = w.run.Close()
		_ = os.RemoveAll(dir)
	})
	w.world = newWorld(t, func(base *world, db *sqlstore.DB) {
		store, table := sqlstore.NewDeploys(db), dataplane.NewTable()
		w.toks = sqlstore.NewOrgs(db)
		base.deps.Blobs = blob.New(memblob.New())
		models := oneModel{base}
		ctl := service.New(service.Config{
			Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: plat.SystemClock, Store: store, Models: models, Runner: w.run, Tokens: w.toks,
			Routes: table, APIURL: "http://127.0.0.1:1", Resync: time.Second,
			IngestSpool: func(context.Context, runner.Status, []runner.SpoolBatch) error { return nil },
		})
		base.deps.Deploy = deploy.NewManager(deploy.Config{Store: store, Blobs: base.deps.Blobs, Models: models, Publisher: ctl, Now: plat.SystemClock})
		base.deps.Gateway = dataplane.NewProxy(table, dataplane.Options{Hold: 15 * time.Second})
		if err := ctl.Prime(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, f := range extend {
			f(base)
		}
		started := w.run.Watch(ctx)
		wg.Go(func() { w.serveInstances(ctx, started) })
		wg.Go(func() {
			if err := ctl.Run(ctx); err != nil {
				t.Errorf("controller: %v", err)
			}
		})
	})
	return w
}

// serveInstances gives each started workload a server. The variable MODE says how
// it behaves.
func (w *deployWorld) serveInstances(ctx context.Context, started <-chan plat.WorkloadID) {
	var wg sync.WaitGroup
	defer wg.Wait()
	seen := map[plat.WorkloadID]bool{}
	for id := range started {
		if seen[id] {
			continue
		}
		seen[id] = true
		for _, spec := range w.run.Started() {
			if spec.ID == id {
				wg.Go(func() { w.serveInstance(ctx, spec) })
			}
		}
	}
}

func (w *deployWorld) serveInstance(ctx context.Context, spec runner.Spec) {
	mode, name, _ := strings.Cut(spec.Env["MODE"], ":")
	switch mode {
	case "fail":
		w.run.Exit(spec.ID, 1, "handler raised on import\nTraceback (most recent call last):\nImportError: planted")
		return
	case "hold":
		select {
		case <-w.held(name):
		case <-ctx.Done():
			return
		}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", filepath.Join(w.dir, string(spec.ID)))
	if err != nil {
		w.t.Error(err)
		return
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if mode == "slow" {
			w.slow.Add(1)
			time.Sleep(time.Duration(len(body)) * time.Millisecond)
		}
		if id := r.Header.Get("X-Abeja-Arms-Async-Request-Id"); id != "" {
			w.asyncs <- asyncCall{id, r.Header.Get("X-Abeja-Arms-Async-Request-Token"), spec.ID}
			rw.WriteHeader(http.StatusAccepted)
			return
		}
		rw.Header().Set("X-Abeja-Service-Id", spec.Env["ABEJA_SERVICE_ID"])
		rw.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(rw).Encode(map[string]any{
			"service": spec.Env["ABEJA_SERVICE_ID"], "method": r.Method, "path": r.URL.Path, "query": r.URL.RawQuery, "length": len(body),
			"authorization": r.Header.Get("Authorization"), "cookie": r.Header.Get("Cookie"), "async": r.Header.Get("X-Abeja-Arms-Async-Request-Id"),
			"request": r.Header.Get("X-Abeja-Request-Id"), "requester": r.Header.Get("X-Abeja-Requester-Id"),
		})
	}), ReadHeaderTimeout: time.Minute}
	w.servers.Store(spec.ID, srv)
	unhook := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer unhook()
	w.run.SetAddr(spec.ID, runner.Addr{Network: "unix", Address: l.Addr().String()})
	w.run.SetPhase(spec.ID, runner.PhaseRunning, true)
	_ = srv.Serve(l)
}

// held returns the gate of MODE=hold:name.
func (w *deployWorld) held(name string) chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hold[name] == nil {
		w.hold[name] = make(chan struct{})
	}
	return w.hold[name]
}

// call sends JSON as acme's developer and wants 200 with a JSON object (compute.md §1.4).
func (w *deployWorld) call(method, path, body string) map[string]any {
	w.t.Helper()
	status, got := w.do(method, path, "acme/developer", reader(body), "Content-Type", "application/json")
	var out map[string]any
	if err := json.Unmarshal([]byte(got), &out); err != nil || status != 200 || out == nil {
		w.t.Fatalf("%s %s = %d %s", method, path, status, got)
	}
	return out
}

func reader(body string) io.Reader {
	if body == "" {
		return nil
	}
	return strings.NewReader(body)
}

// refused wants the API's error body with a status.
func (w *deployWorld) refused(what, method, path, body string, status int) {
	w.t.Helper()
	code := map[int]string{400: "bad_request", 403: "forbidden", 404: "not_found", 501: "not_implemented"}[status]
	got, text := w.do(method, path, "acme/developer", reader(body), "Content-Type", "application/json")
	isError(w.t, what, got, text, status, code)
}

// deployment makes one and returns its path; version one with a source, and
// returns its id.
func (w *deployWorld) deployment() string {
	w.t.Helper()
	return w.deps + "/" + w.call("POST", w.deps, `{"name":"leaf-api","default_environment":{"STAGE":"stg"}}`)["deployment_id"].(string)
}

func (w *deployWorld) version(dep, label string) string {
	w.t.Helper()
	v := w.call("POST", dep+"/versions", `{"version":"`+label+`","image":"abeja-inc/all-cpu:19.10"}`)
	w.upload(v["upload_url"].(string))
	return v["version_id"].(string)
}

func (w *deployWorld) upload(url string) {
	w.t.Helper()
	// no credentials, no content type (compute.md §5.2)
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPut, url, strings.NewReader("source"))
	if err != nil {
		w.t.Fatal(err)
	}
	res, err := w.srv.Client().Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 200 {
		w.t.Fatalf("PUT upload_url = %d", res.StatusCode)
	}
}

func (w *deployWorld) service(dep, version, mode string) string {
	w.t.Helper()
	return w.call("POST", dep+"/services", `{"version_id":"`+version+`","environment":{"MODE":"`+mode+`"}}`)["service_id"].(string)
}

func (w *deployWorld) becomes(dep, id, status string) map[string]any {
	w.t.Helper()
	var s map[string]any
	eventually(w.t, id+" becoming "+status, func() bool {
		s = w.call("GET", dep+"/services/"+id, "")
		return s["status"] == status
	})
	return s
}

// infer calls the gateway and returns status and the decoded answer.
func (w *deployWorld) infer(method, path, body string, header ...string) (int, map[string]any) {
	w.t.Helper()
	status, text := w.do(method, path, "acme/regular", reader(body), header...)
	var out map[string]any
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		w.t.Fatalf("%s %s = %d %q", method, path, status, text)
	}
	return status, out
}

// TestDeploymentWire: compute.md §5.1.
func TestDeploymentWire(t *testing.T) {
	w := newDeployWorld(t)
	got := w.call("POST", w.deps, `{"name":"leaf-api","default_environment":{"STAGE":"stg","N":5,"B":true,"Z":null},"unknown":1}`)
	id := got["deployment_id"].(string)
	creator := got["creator"].(map[string]any)
	want := map[string]any{
		"deployment_id": id, "name": "leaf-api", "description": "", "default_environment": map[string]any{"STAGE": "stg", "N": "5", "B": "true", "Z": ""},
		"creator": creator, "services": []any{}, "runs": []any{}, "triggers": []any{}, "endpoints": []any{}, "codes": []any{}, "daemons": []any{},
		"model_id": nil, "created_at": got["created_at"], "modified_at": got["modified_at"],
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("created (-want +got):\n%s", d)
	}
	if len(id) != 13 || creator["role"] != "developer" || !strings.HasSuffix(got["created_at"].(string), "Z") {
		t.Errorf("created %v", got)
	}
	dep := w.deps + "/" + id
	if list := w.call("GET", w.deps+"/", ""); len(list["entries"].([]any)) != 1 {
		t.Errorf("list = %v", list)
	}
	patched := w.call("PATCH", dep, `{"name":"new","description":"d","default_environment":null}`)
	if patched["name"] != "new" || patched["description"] != "d" || patched["default_environment"].(map[string]any)["STAGE"] != "stg" {
		t.Errorf("patched %v", patched)
	}
	w.refused("no name", "POST", w.deps, `{}`, 400)
	w.refused("empty body", "POST", w.deps, ``, 400)
	w.refused("broken JSON", "POST", w.deps, `{"name":`, 400)
	w.refused("reserved variable", "POST", w.deps, `{"name":"x","default_environment":{"HANDLER":"x"}}`, 400)
	w.refused("bad variable", "PATCH", dep, `{"default_environment":{"a-b":"x"}}`, 400)
	w.refused("unknown", "GET", w.deps+"/1740000000088", ``, 404)
	status, text := w.do("POST", w.deps, "acme/regular", strings.NewReader(`{"name":"x"}`))
	isError(t, "regular members only read", status, text, 403, "forbidden")
	status, text = w.do("GET", "/organizations/other/deployments/"+id, "other/admin", nil)
	isError(t, "another organization's", status, text, 404, "not_found")

	v := w.version(dep, "1")
	s := w.service(dep, v, "")
	w.refused("delete with a service", "DELETE", dep, ``, 400)
	if got := w.call("GET", dep, ""); len(got["services"].([]any)) != 1 {
		t.Errorf("children = %v", got["services"])
	}
	w.call("DELETE", dep+"/services/"+s, "")
	if got := w.call("DELETE", dep, "{}"); got["message"] != id+" deleted" {
		t.Errorf("delete = %v", got)
	}
}

// TestCodeVersionWire: compute.md §5.2.
func TestCodeVersionWire(t *testing.T) {
	w := newDeployWorld(t)
	dep := w.deployment()
	got := w.call("POST", dep+"/versions", `{"version":"0.0.1","image":"abeja-inc/all-cpu:19.10","user_parameters":{"TOP_K":3}}`)
	id, upload := got["version_id"].(string), got["upload_url"].(string)
	delete(got, "upload_url")
	want := map[string]any{
		"version_id": id, "version": "0.0.1", "deployment_id": dep[len(w.deps)+1:], "handler": "main:handler", "image": "abeja-inc/all-cpu:19.10",
		"user_parameters": map[string]any{"TOP_K": "3"}, "description": "", "creator": got["creator"], "job_definition_id": nil,
		"job_definition_version": nil, "training_job_id": nil, "model_id": nil, "command": nil, "health_path": nil, "created_at": got["created_at"], "modified_at": got["modified_at"],
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("created (-want +got):\n%s", d)
	}
	if !strings.HasPrefix(id, "ver-") || len(id) != 20 || !strings.Contains(upload, "?") {
		t.Errorf("id %s, upload_url %s", id, upload)
	}
	one := dep + "/versions/" + id
	if d := cmp.Diff(got, w.call("GET", one, "")); d != "" {
		t.Errorf("GET has no upload_url (-created +got):\n%s", d)
	}
	w.refused("download before upload", "GET", one+"/download", ``, 404)
	w.refused("service before upload", "POST", dep+"/services", `{"version_id":"`+id+`"}`, 400)
	w.upload(upload)
	uri := w.call("GET", one+"/download", "")["download_uri"].(string)
	res, err := w.srv.Client().Get(uri)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if string(body) != "source" || res.ContentLength != 6 || !strings.Contains(uri, "?") { // compute.md §15.3
		t.Errorf("download = %d %q, length %d", res.StatusCode, body, res.ContentLength)
	}
	for what, body := range map[string]string{
		"duplicate label": `{"version":"0.0.1","image":"abeja-inc/all-cpu:19.10"}`, "no label": `{"image":"abeja-inc/all-cpu:19.10"}`,
		"no image": `{"version":"2"}`, "bare image": `{"version":"2","image":"python:3.11"}`, "bad handler": `{"version":"2","image":"a/b:1","handler":"a b"}`,
		"another organization's image": `{"version":"2","image":"custom/1480000000017/x:1"}`,
		"reserved variable":            `{"version":"2","image":"a/b:1","user_parameters":{"PORT":"1"}}`,
	} {
		w.refused(what, "POST", dep+"/versions", body, 400)
	}
	s := w.service(dep, id, "")
	w.refused("delete of a used version", "DELETE", one, ``, 400)
	w.call("DELETE", dep+"/services/"+s, "")
	if got := w.call("DELETE", one, ""); got["message"] != id+" deleted" {
		t.Errorf("delete = %v", got)
	}
	w.refused("after it", "GET", one, ``, 404)
}

// TestTemplateWire: compute.md §5.2; a version from a template has its source from the start.
func TestTemplateWire(t *testing.T) {
	w := newDeployWorld(t)
	dep := w.deployment()
	create := dep + "/code_templates"
	all := w.call("GET", create, "")["entries"].([]any)
	for n, e := range all {
		template := e.(map[string]any)
		got := w.call("POST", create, fmt.Sprintf(`{"template_id":%v,"version":"%d","handler":"main:handler","image":"abeja-inc/all-cpu:19.10","user_parameters":{"TOP_K":3}}`, template["template_id"], n))
		if got["version"] != strconv.Itoa(n) || got["upload_url"] != nil || got["user_parameters"].(map[string]any)["TOP_K"] != "3" {
			t.Errorf("%v: %v", template["name"], got)
		}
		w.fetched(w.call("GET", dep+"/versions/"+got["version_id"].(string)+"/download", "")["download_uri"].(string))
		w.service(dep, got["version_id"].(string), "")
	}
	if len(all) < 3 {
		t.Errorf("templates %v", all)
	}
	for what, body := range map[string]string{
		"unknown template": `{"template_id":99,"version":"x","handler":"main:handler","image":"a/b:1"}`, "no template": `{"version":"x","image":"a/b:1"}`,
		"no number": `{"template_id":"echo","version":"x","image":"a/b:1"}`, "duplicate label": `{"template_id":1,"version":"0","image":"a/b:1"}`,
		"no image": `{"template_id":1,"version":"x"}`, "bad handler": `{"template_id":1,"version":"x","image":"a/b:1","handler":"a b"}`,
	} {
		w.refused(what, "POST", create, body, 400)
	}
	w.refused("no deployment", "GET", w.deps+"/1/code_templates", "", 404)
}

// TestCommandWire: a version that names a command (compute.md §8.1, extension).
func TestCommandWire(t *testing.T) {
	w := newDeployWorld(t)
	dep := w.deployment()
	got := w.call("POST", dep+"/versions", `{"version":"1","image":"a/b:1","command":["./server","$PORT"],"health_path":"/v2/health/ready?x=1"}`)
	if cmd, ok := got["command"].([]any); !ok || len(cmd) != 2 || cmd[1] != "$PORT" || got["health_path"] != "/v2/health/ready?x=1" || got["handler"] != "main:handler" {
		t.Errorf("version = %v", got)
	}
	got = w.call("POST", dep+"/versions", `{"version":"2","image":"a/b:1","command":"exec ./server","handler":null}`)
	if cmd, ok := got["command"].([]any); !ok || len(cmd) != 3 || cmd[0] != "/bin/sh" || cmd[2] != "exec ./server" || got["health_path"] != "/" {
		t.Errorf("a line for the shell = %v", got)
	}
	got = w.call("POST", dep+"/versions", `{"version":"3","image":"a/b:1","command":null}`)
	if got["command"] != nil || got["health_path"] != nil {
		t.Errorf("a handler's version = %v", got)
	}
	for what, body := range map[string]string{
		"a handler too": `"command":["x"],"handler":"a:b"`, "no words": `"command":[" "]`, "numbers": `"command":[1]`, "object": `"command":{}`,
		"NUL": `"command":["a\u0000"]`, "long": `"command":["` + strings.Repeat("x", 17<<10) + `"]`,
		"health of a handler": `"health_path":"/x"`, "relative health path": `"command":["x"],"health_path":"x"`,
		"two lines": `"command":["x"],"health_path":"/x\r\nHost: y"`, "its variable": `"user_parameters":{"PANAL_COMMAND":"[]"}`,
	} {
		w.refused(what, "POST", dep+"/versions", `{"version":"4","image":"a/b:1",`+body+`}`, 400)
	}
}

// TestServiceWire: compute.md §6.
func TestServiceWire(t *testing.T) {
	w := newDeployWorld(t)
	dep := w.deployment()
	ver := w.version(dep, "0.0.1")
	got := w.call("POST", dep+"/services", `{"version_id":"`+ver+`","models":{"alias":"1720000000055"},"environment":{"TOP_K":5},"instance_type":"cpu-1","instance_number":2,"enable_autoscale":"False","max_instance_number":null}`)
	id := got["service_id"].(string)
	want := map[string]any{
		"service_id": id, "deployment_id": dep[len(w.deps)+1:], "model_version": "0.0.1", "model_version_id": ver,
		"models": map[string]any{"alias": "1720000000055"}, "status": "IN_PROGRESS", "status_message": got["status_message"], "instance_type": "cpu-1",
		"instance_number": 2.0, "min_instance_number": 2.0, "max_instance_number": 4.0, "enable_autoscale": false, "record_channel_id": nil, "record_outputs": false,
		"rate_limit": nil, "concurrency_limit": nil,
		"user_env_vars": map[string]any{"TOP_K": "5"}, "merged_env_vars": map[string]any{"STAGE": "stg", "TOP_K": "5"}, "metrics_url": nil,
		"target_concurrency": nil, "idle_timeout": nil, "desired_instance_number": 2.0, "scale_message": nil,
		"service_process_type": "multi", "disruptable": true, "creator": got["creator"], "created_at": got["created_at"], "modified_at": got["modified_at"],
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("created (-want +got):\n%s", d)
	}
	one := dep + "/services/" + id
	if s := w.becomes(dep, id, "READY"); s["status_message"] != nil {
		t.Errorf("ready %v", s)
	}
	for what, body := range map[string]string{
		"no version": `{}`, "unknown version": `{"version_id":"ver-0000000000000000"}`,
		"unknown model":         `{"version_id":"` + ver + `","models":{"alias":"1720000000056"}}`,
		"two models":            `{"version_id":"` + ver + `","models":{"a":"1720000000055","b":"1720000000055"}}`,
		"unknown instance type": `{"version_id":"` + ver + `","instance_type":"h200-1"}`,
		"no instance":           `{"version_id":"` + ver + `","instance_number":0}`,
		"too many":              `{"version_id":"` + ver + `","instance_number":301}`,
		"min over max":          `{"version_id":"` + ver + `","min_instance_number":9}`,
		"negative min":          `{"version_id":"` + ver + `","min_instance_number":-1}`,
		"target too small":      `{"version_id":"` + ver + `","target_concurrency":0.001}`,
		"target too large":      `{"version_id":"` + ver + `","target_concurrency":1e300}`,
		"idle too short":        `{"version_id":"` + ver + `","idle_timeout":0.5}`,
		"idle too long":         `{"version_id":"` + ver + `","idle_timeout":1e300}`,
		"negative idle":         `{"version_id":"` + ver + `","idle_timeout":-1}`,
		"reserved variable":     `{"version_id":"` + ver + `","environment":{"ABEJA_SERVICE_ID":"x"}}`,
		"wrong type":            `{"version_id":"` + ver + `","instance_number":"two"}`,
		"negative rate":         `{"version_id":"` + ver + `","rate_limit":-1}`,
		"rate too small":        `{"version_id":"` + ver + `","rate_limit":0.0001}`,
		"rate too large":        `{"version_id":"` + ver + `","rate_limit":1e300}`,
		"negative concurrency":  `{"version_id":"` + ver + `","concurrency_limit":-1}`,
		"concurrency too large": `{"version_id":"` + ver + `","concurrency_limit":1000001}`,
		"part of a call":        `{"version_id":"` + ver + `","concurrency_limit":1.5}`,
		"outputs without place": `{"version_id":"` + ver + `","record_outputs":true}`,
	} {
		w.refused(what, "POST", dep+"/services", body, 400)
	}
	for value, says := range map[string]string{
		`"idle_timeout":1e300`:       "must be 1 to 2592000 seconds",
		`"rate_limit":1e300`:         "must be 0.001 to 1000000 calls a second",
		`"target_concurrency":1e300`: "must be 0.01 to 10000",
		`"instance_number":2.0`:      "instance_number: must be a whole number in digits, such as 2, not 2.0",
	} {
		if _, text := w.do("POST", dep+"/services", "acme/developer", reader(`{"version_id":"`+ver+`",`+value+`}`), "Content-Type", "application/json"); !strings.Contains(text, says) {
			t.Errorf("%s: %s; want it to say %q", value, text, says)
		}
	}
	w.refused("recording", "POST", dep+"/services", `{"version_id":"`+ver+`","record_channel_id":"1590000000099"}`, 501)
	if got := w.call("PATCH", one, `{"enable_autoscale":"true","environment":{"TOP_K":"6"}}`); got["status"] != "IN_PROGRESS" || got["enable_autoscale"] != true ||
		got["merged_env_vars"].(map[string]any)["TOP_K"] != "6" {
		t.Errorf("patched %v", got)
	}
	w.becomes(dep, id, "READY")
	list := w.call("GET", one+"/instances", "")
	if all := list["entries"].([]any); len(all) < 2 {
		t.Errorf("instances %v", list)
	} else if i := all[len(all)-1].(map[string]any); i["state"] != "ready" || i["current"] != true || i["ready_at"] == nil {
		t.Errorf("instance %v", i)
	}
	if got := w.call("PATCH", one, `{"min_instance_number":0,"target_concurrency":1.5,"idle_timeout":90}`); got["min_instance_number"] != 0.0 || got["target_concurrency"] != 1.5 || got["idle_timeout"] != 90.0 {
		t.Errorf("patched %v", got)
	}
	if got := w.call("PATCH", one, `{"target_concurrency":0,"idle_timeout":0}`); got["target_concurrency"] != nil || got["idle_timeout"] != nil {
		t.Errorf("patched back %v", got)
	}
	if got := w.call("PATCH", one, `{"rate_limit":0.5,"concurrency_limit":3}`); got["rate_limit"] != 0.5 || got["concurrency_limit"] != 3.0 {
		t.Errorf("patched %v", got)
	}
	if got := w.call("PATCH", one, `{"rate_limit":0}`); got["rate_limit"] != nil || got["concurrency_limit"] != 3.0 {
		t.Errorf("patched back %v", got)
	}
	// What an answer shows as null can be sent back: it takes away.
	w.call("PATCH", one, `{"target_concurrency":1.5,"idle_timeout":90,"rate_limit":0.5}`)
	if got := w.call("PATCH", one, `{"concurrency_limit":null}`); got["concurrency_limit"] != nil || got["rate_limit"] != 0.5 || got["target_concurrency"] != 1.5 || got["idle_timeout"] != 90.0 {
		t.Errorf("null leaves %v", got)
	}
	if got := w.call("PATCH", one, `{"target_concurrency":null,"idle_timeout":null,"rate_limit":null}`); got["rate_limit"] != nil || got["target_concurrency"] != nil || got["idle_timeout"] != nil {
		t.Errorf("null leaves %v", got)
	}
	w.call("PATCH", one, ``) // may be empty
	w.becomes(dep, id, "READY")
	w.refused("start of a running one", "POST", one+"/start", ``, 400)
	if got := w.call("POST", one+"/stop", ""); got["message"] != id+" stopped" {
		t.Errorf("stop = %v", got)
	}
	w.becomes(dep, id, "STOPPED")
	w.refused("second stop", "POST", one+"/stop", `{}`, 400)
	if got := w.call("POST", one+"/start", "{}"); got["message"] != id+" started" {
		t.Errorf("start = %v", got)
	}
	w.becomes(dep, id, "READY")
	bad := w.service(dep, ver, "fail")
	if s := w.becomes(dep, bad, "FAILED"); !strings.Contains(s["status_message"].(string), "Traceback (most recent call last):\nImportError: planted") {
		t.Errorf("status_message = %v", s["status_message"])
	}
	e := w.call("POST", dep+"/endpoints", `{"service_id":"`+id+`"}`)
	w.refused("delete of a used service", "DELETE", one, ``, 400)
	w.call("DELETE", dep+"/endpoints/"+e["endpoint_id"].(string), "")
	if got := w.call("DELETE", one, ""); got["message"] != id+" deleted" {
		t.Errorf("delete = %v", got)
	}
	w.refused("after it", "GET", one, ``, 404)
	w.refused("of another deployment", "GET", w.deployment()+"/services/"+bad, ``, 404)
}

// TestEndpointWire: compute.md §7.
func TestEndpointWire(t *testing.T) {
	w := newDeployWorld(t)
	dep, other := w.deployment(), w.deployment()
	ver := w.version(dep, "1")
	a, b, bad := w.service(dep, ver, ""), w.service(dep, ver, "hold:b"), w.service(dep, ver, "fail")
	foreign := w.service(other, w.version(other, "1"), "")
	// The first endpoint may point at a service that is still starting.
	got := w.call("POST", dep+"/endpoints", `{"service_id":"`+a+`"}`)
	id := got["endpoint_id"].(string)
	want := map[string]any{
		"endpoint_id": id, "custom_alias": "default", "service_id": a, "pending_service_id": nil, "status_message": nil,
		"rate_limit": nil, "concurrency_limit": nil, "created_at": got["created_at"], "modified_at": got["modified_at"],
	}
	if d := cmp.Diff(want, got); d != "" || !strings.HasPrefix(id, "pnt-") {
		t.Errorf("created (-want +got):\n%s", d)
	}
	w.becomes(dep, a, "READY")
	w.becomes(dep, bad, "FAILED")
	for what, body := range map[string]string{
		"duplicate alias": `{"service_id":"` + a + `","custom_alias":"default"}`, "no service": `{"custom_alias":"x"}`,
		"bad alias": `{"service_id":"` + a + `","custom_alias":"a b"}`, "failed service": `{"service_id":"` + bad + `","custom_alias":"x"}`,
		"another deployment's service": `{"service_id":"` + foreign + `","custom_alias":"x"}`,
	} {
		w.refused(what, "POST", dep+"/endpoints", body, 400)
	}
	for _, alias := range []string{"services", "endpoints", "results", "versions", "runs", "triggers", "git", "code_templates", "daemons"} {
		w.refused("reserved alias "+alias, "POST", dep+"/endpoints", `{"service_id":"`+a+`","custom_alias":"`+alias+`"}`, 400)
	}
	one := dep + "/endpoints/default"
	w.refused("switch to a failed service", "PATCH", one, `{"service_id":"`+bad+`"}`, 400)
	w.refused("switch to another deployment's", "PATCH", one, `{"service_id":"`+foreign+`"}`, 400)
	w.refused("switch to nothing", "PATCH", one, `{}`, 400)
	w.refused("unknown endpoint", "PATCH", dep+"/endpoints/nope", `{"service_id":"`+a+`"}`, 404)
	// Accepted at once, effective when READY (design compute.md §6.4).
	if got := w.call("PATCH", one, `{"service_id":"`+b+`"}`); got["message"] != id+" updated" || got["service_id"] != a || got["pending_service_id"] != b {
		t.Errorf("switch to a starting service = %v", got)
	}
	if got := w.call("GET", dep+"/endpoints/"+id, ""); got["service_id"] != a || got["pending_service_id"] != b || got["status_message"] == nil {
		t.Errorf("meanwhile %v", got)
	}
	w.refused("delete of a service that is waited for", "DELETE", dep+"/services/"+b, ``, 400)
	close(w.held("b"))
	w.becomes(dep, b, "READY")
	got = w.call("GET", one, "")
	history := got["history"].([]any)
	if got["service_id"] != b || got["pending_service_id"] != nil || len(history) != 2 || history[0].(map[string]any)["from_service_id"] != a {
		t.Errorf("after READY %v", got)
	}
	w.call("POST", dep+"/services/"+a+"/stop", "")
	w.refused("switch to a stopped service", "PATCH", one, `{"service_id":"`+a+`"}`, 400)
	if list := w.call("GET", dep+"/endpoints", ""); len(list["entries"].([]any)) != 1 {
		t.Errorf("list = %v", list)
	}
	if got := w.call("DELETE", one, ""); got["message"] != id+" deleted" {
		t.Errorf("delete = %v", got)
	}
	w.refused("after it", "GET", one, ``, 404)
}

// TestInferenceWire: compute.md §8.1, §8.2.
func TestInferenceWire(t *testing.T) {
	w := newDeployWorld(t)
	dep := w.deployment()
	id := dep[len(w.deps)+1:]
	ver := w.version(dep, "1")
	a, b := w.service(dep, ver, ""), w.service(dep, ver, "hold:b")
	w.call("POST", dep+"/endpoints", `{"service_id":"`+a+`"}`)
	w.call("POST", dep+"/endpoints", `{"service_id":"`+b+`","custom_alias":"canary"}`)
	user, _, _ := strings.Cut(w.token["acme/regular"], ":")
	for _, path := range []string{
		"/deployments/" + id, "/deployments/" + id + "/", "//deployments//" + id, "/deployments/" + id + "/default", "/deployments/" + id + "/services/" + a,
		"/deployments/" + id + "/default/what//ever/", "/deployments/" + id + "/services/" + a + "/x?y=1",
	} {
		for _, m := range []string{"POST", "GET", "PUT"} {
			status, got := w.infer(m, path, "hello", "Content-Type", "text/plain", "Cookie", "c=1", "X-Abeja-Arms-Async-Request-Id", "x", "X-Abeja-Request-Id", "forged")
			if status != 200 || got["service"] != a || got["method"] != m {
				t.Errorf("%s %s = %d %v", m, path, status, got)
				continue
			}
			if got["authorization"] != "" || got["cookie"] != "" || got["async"] != "" || got["requester"] != strings.TrimPrefix(user, "user-") ||
				got["request"] == "forged" || got["request"] == "" || got["path"] != "/" { // compute.md §8.1: the path is not passed to handlers
				t.Errorf("%s %s reached user code as %v", m, path, got)
			}
		}
	}
	// A starting service holds its requests.
	answered := make(chan string, 1)
	go func() {
		_, text := w.do("POST", "/deployments/"+id+"/canary", "acme/regular", strings.NewReader("x"), "Content-Type", "text/plain")
		answered <- text
	}()
	select {
	case text := <-answered:
		t.Errorf("answered before the service is READY: %s", text)
	case <-time.After(100 * time.Millisecond):
	}
	close(w.held("b"))
	if text := <-answered; !strings.Contains(text, b) {
		t.Errorf("the held request = %s", text)
	}

	infer := "/deployments/" + id
	for _, c := range []struct {
		what, as, path string
		status         int
		code           string
	}{
		{"nobody", "", infer, 401, "unauthorized"},
		{"another organization", "other/admin", infer, 403, "forbidden"},
		{"unknown deployment", "acme/regular", "/deployments/1740000000088", 404, "not_found"},
		{"unknown service", "acme/regular", infer + "/services/ser-0000000000000000", 404, "not_found"},
		{"no service", "acme/regular", infer + "/services", 404, "not_found"},
		{"unknown alias", "acme/regular", infer + "/nope", 404, "not_found"},
	} {
		status, text := w.do("POST", c.path, c.as, strings.NewReader("x"))
		isError(t, c.what, status, text, c.status, c.code)
	}
	w.call("POST", dep+"/services/"+a+"/stop", "")
	status, text := w.do("POST", infer, "acme/regular", strings.NewReader("x"))
	isError(t, "stopped service", status, text, 503, "service_unavailable")

	// A container's token is for its own work, not for calling models (compute.md §13.3).
	tok := plat.NewToken()
	if err := w.toks.CreateToken(t.Context(), authn.Token{
		Hash: authn.HashToken(tok), Kind: authn.KindContainer, Org: w.orgs["acme"].ID,
		Scope: authn.Scope{Workload: "wl-1", Deployment: plat.DeploymentID(id), CodeVersion: plat.VersionID(ver), Service: plat.ServiceID(a)},
	}); err != nil {
		t.Fatal(err)
	}
	status, text = w.do("POST", infer, "", strings.NewReader("x"), "Authorization", "Bearer "+tok)
	isError(t, "container", status, text, 403, "forbidden")
	if status, text := w.do("GET", dep+"/versions/"+ver+"/download", "", nil, "Authorization", "Bearer "+tok); status != 200 {
		t.Errorf("a container's download of its own code = %d %s", status, text)
	}
	status, text = w.do("GET", dep+"/versions/"+w.version(dep, "2")+"/download", "", nil, "Authorization", "Bearer "+tok)
	isError(t, "a container's download of other code", status, text, 403, "forbidden")
}

// TestInferenceByHost: a sub-domain restricts to its organization, id or name
// (compute.md §1.1, §8.1).
func TestInferenceByHost(t *testing.T) {
	w := newDeployWorld(t)
	dep := w.deployment()
	s := w.service(dep, w.version(dep, "1"), "")
	w.call("POST", dep+"/endpoints", `{"service_id":"`+s+`"}`)
	w.becomes(dep, s, "READY")
	path := "/deployments/" + dep[len(w.deps)+1:]
	for host, want := range map[string]int{
		string(w.orgs["acme"].ID) + ".localhost:8600": 200, "acme.localhost": 200, "ACME.api.example.com": 200, "localhost:8600": 200,
		"127.0.0.1:8600": 200, "models.example.com": 200,
		string(w.orgs["other"].ID) + ".localhost:8600": 403, "other.localhost": 403, "1234567890123.localhost": 403,
	} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", w.srv.URL+path, strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		user, secret, _ := strings.Cut(w.token["acme/regular"], ":")
		req.SetBasicAuth(user, secret)
		req.Host = host
		res, err := w.srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("on host %s = %d, want %d", host, res.StatusCode, want)
		}
	}
}

// TestAliasSwitchUnderLoad: no request fails, and none that begins after the PATCH
// was answered reaches the old service (issue: step serve; compute.md §7).
func TestAliasSwitchUnderLoad(t *testing.T) {
	w := newDeployWorld(t)
	dep := w.deployment()
	ver := w.version(dep, "1")
	two := `{"version_id":"` + ver + `","instance_number":2,"environment":{"MODE":"slow"}}`
	ids := []string{w.call("POST", dep+"/services", two)["service_id"].(string), w.call("POST", dep+"/services", two)["service_id"].(string)}
	for _, id := range ids {
		w.becomes(dep, id, "READY")
	}
	w.call("POST", dep+"/endpoints", `{"service_id":"`+ids[0]+`"}`)
	path := "/deployments/" + dep[len(w.deps)+1:]

	var current atomic.Pointer[string] // what the last answered switch pointed to, and no switch is under way
	current.Store(&ids[0])
	var sent, failed, wrong atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for n := range 6 {
		wg.Go(func() {
			for ctx.Err() == nil {
				must := current.Load()
				status, text := w.do("POST", path, "acme/regular", strings.NewReader(strings.Repeat("x", n)), "Content-Type", "text/plain")
				sent.Add(1)
				if status != 200 {
					failed.Add(1)
					t.Errorf("%d %s", status, text)
					return
				}
				// Judge only when nothing was switched while the request was under way.
				if must != nil && current.Load() == must && !strings.Contains(text, *must) {
					wrong.Add(1)
				}
			}
		})
	}
	for n := range 20 {
		to := ids[(n+1)%2] // a pointer of its own for each switch
		current.Store(nil)
		w.call("PATCH", dep+"/endpoints/default", fmt.Sprintf(`{"service_id":%q}`, to))
		current.Store(&to)
		before := sent.Load()
		eventually(t, "some requests", func() bool { return sent.Load() >= before+12 || failed.Load() > 0 })
	}
	cancel()
	wg.Wait()
	if failed.Load() != 0 || wrong.Load() != 0 {
		t.Errorf("sent %d, failed %d, answered by the old service after the switch %d", sent.Load(), failed.Load(), wrong.Load())
	}
	t.Logf("sent %d", sent.Load())
}

// TestStopFinishesWhatIsUnderWay: a request that a service has when it is stopped
// is answered; the next one is refused (compute.md §13.5, design compute.md §6.4).
func TestStopFinishesWhatIsUnderWay(t *testing.T) {
	w := newDeployWorld(t)
	dep := w.deployment()
	s := w.service(dep, w.version(dep, "1"), "slow")
	w.becomes(dep, s, "READY")
	path := "/deployments/" + dep[len(w.deps)+1:] + "/services/" + s
	answered := make(chan int, 1)
	go func() {
		status, _ := w.do("POST", path, "acme/regular", strings.NewReader(strings.Repeat("x", 700)), "Content-Type", "text/plain")
		answered <- status
	}()
	eventually(t, "the request under way", func() bool { return w.slow.Load() > 0 })
	w.call("POST", dep+"/services/"+s+"/stop", "")
	status, text := w.do("POST", path, "acme/regular", strings.NewReader("x"))
	isError(t, "a call on a stopped service", status, text, 503, "service_unavailable")
	if status := <-answered; status != 200 {
		t.Errorf("the request under way = %d", status)
	}
}

// TestKilledInstanceUnderLoad: what fails is at most what was under way on it.
func TestKilledInstanceUnderLoad(t *testing.T) {
	w := newDeployWorld(t)
	dep := w.deployment()
	ver := w.version(dep, "1")
	s := w.call("POST", dep+"/services", `{"version_id":"`+ver+`","instance_number":3,"environment":{"MODE":"slow"}}`)["service_id"].(string)
	w.becomes(dep, s, "READY")
	path := "/deployments/" + dep[len(w.deps)+1:] + "/services/" + s
	var sent, failed atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if status, _ := w.do("POST", path, "acme/regular", strings.NewReader(strings.Repeat("x", n+1)), "Content-Type", "text/plain"); status != 200 {
					failed.Add(1)
				}
				sent.Add(1)
			}
		})
	}
	const kills = 5
	for range kills {
		before := sent.Load()
		eventually(t, "some requests", func() bool { return sent.Load() >= before+20 })
		w.kill(s)
		w.becomes(dep, s, "READY")
	}
	cancel()
	wg.Wait()
	if failed.Load() > kills { // one request at a time on an instance
		t.Errorf("sent %d, failed %d with %d instances killed", sent.Load(), failed.Load(), kills)
	}
	t.Logf("sent %d, failed %d", sent.Load(), failed.Load())
}

// kill ends one instance of a service as a crash does: first its socket, then the
// runner's word.
func (w *deployWorld) kill(service string) {
	w.t.Helper()
	for _, spec := range w.run.Started() {
		st, err := w.run.Get(w.t.Context(), spec.ID)
		if err != nil || spec.Env["ABEJA_SERVICE_ID"] != service || st.Phase != runner.PhaseRunning {
			continue
		}
		if srv, ok := w.servers.Load(spec.ID); ok {
			_ = srv.(*http.Server).Close()
		}
		w.run.Exit(spec.ID, 137, "the agent was killed")
		return
	}
	w.t.Fatal("no instance to kill")
}
