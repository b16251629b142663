// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"panal/internal/authn"
	"panal/internal/blob"
	"panal/internal/blob/memblob"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/train"
)

// trainWorld is a world with training in it.
type trainWorld struct {
	*world
	store *sqlstore.Training
	toks  *sqlstore.Orgs
	defs  string // path of definitions
}

func newTrainWorld(t *testing.T, extend ...func(*world)) *trainWorld {
	t.Helper()
	tw := &trainWorld{}
	tw.world = newWorld(t, func(w *world, db *sqlstore.DB) {
		w.deps.Blobs = blob.New(memblob.New())
		tw.store, tw.toks = sqlstore.NewTraining(db), sqlstore.NewOrgs(db)
		w.deps.TempDir = t.TempDir()
		w.deps.Train = train.NewService(train.Options{Store: tw.store, Blobs: w.deps.Blobs, Now: plat.SystemClock})
		for _, f := range extend {
			f(w)
		}
	})
	tw.defs = "/organizations/acme/training/definitions"
	return tw
}

type object = map[string]any

// call sends JSON as acme's developer and wants 200 with a JSON object (compute.md §1.4).
func (w *trainWorld) call(method, path, body string) object {
	w.t.Helper()
	return w.callAs("acme/developer", method, path, body)
}

func (w *trainWorld) callAs(as, method, path, body string) object {
	w.t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	status, answer := w.do(method, path, as, r, "Content-Type", "application/json")
	return w.decode(method+" "+path, status, answer)
}

func (w *trainWorld) decode(what string, status int, answer string) object {
	w.t.Helper()
	var out object
	dec := json.NewDecoder(strings.NewReader(answer))
	dec.UseNumber()
	if err := dec.Decode(&out); status != 200 || err != nil || out == nil {
		w.t.Fatalf("%s = %d %s, want 200 and an object", what, status, answer)
	}
	return out
}

func (w *trainWorld) fails(method, path, body string, status int, code string) {
	w.t.Helper()
	got, answer := w.do(method, path, "acme/developer", strings.NewReader(body), "Content-Type", "application/json")
	isError(w.t, method+" "+path+" "+body, got, answer, status, code)
}

func zipOf(files map[string]string) []byte {
	var b bytes.Buffer
	zw := zip.NewWriter(&b)
	for name, text := range files {
		f, err := zw.Create(name)
		if err == nil {
			_, err = io.WriteString(f, text)
		}
		if err != nil {
			panic(err)
		}
	}
	if err := zw.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func tarGzOf(name, text string) []byte {
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	tw := tar.NewWriter(gz)
	err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))})
	if err == nil {
		_, err = io.WriteString(tw, text)
	}
	if err != nil || tw.Close() != nil || gz.Close() != nil {
		panic(err)
	}
	return b.Bytes()
}

// part is one part of a form.
type part struct{ name, file, contentType, body string }

func form(parts ...part) (contentType string, body *bytes.Buffer) {
	body = &bytes.Buffer{}
	mw := multipart.NewWriter(body)
	for _, p := range parts {
		h := textproto.MIMEHeader{}
		h.Set("Content-Disposition", fmt.Sprintf(`form-data; name=%q; filename=%q`, p.name, p.file))
		h.Set("Content-Type", p.contentType)
		f, err := mw.CreatePart(h)
		if err == nil {
			_, err = io.WriteString(f, p.body)
		}
		if err != nil {
			panic(err)
		}
	}
	if err := mw.Close(); err != nil {
		panic(err)
	}
	return mw.FormDataContentType(), body
}

func (w *trainWorld) postForm(as, path string, parts ...part) (int, string) {
	w.t.Helper()
	ct, body := form(parts...)
	return w.do(http.MethodPost, path, as, body, "Content-Type", ct)
}

const goodParameters = `{"handler":"train:handler","image":"abeja-inc/all-cpu:19.10","environment":{"EPOCHS":5,"ON":true,"NIL":null,"A":"v"},"datasets":{"train":1550000000077},"description":"first cut"}`

// version makes a definition "leaf" if need be, and a version of it.
func (w *trainWorld) version() {
	w.t.Helper()
	if status, _ := w.do(http.MethodGet, w.defs+"/leaf", "acme/developer", nil); status == 404 {
		w.call("POST", w.defs, `{"name":"leaf"}`)
	}
	status, answer := w.postForm("acme/developer", w.defs+"/leaf/versions",
		part{"source_code", "source_code.zip", "application/zip", string(zipOf(map[string]string{"train.py": "def handler(c): pass"}))},
		part{"parameters", "params.json", "application/json", goodParameters})
	w.decode("POST versions", status, answer)
}

var (
	timePattern = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$`)
	idPattern   = regexp.MustCompile(`^\d{13}$`)
)

// scrub checks what is new each time (ids, times) and takes it out.
func (w *trainWorld) scrub(o object) object {
	w.t.Helper()
	for k, v := range o {
		s, isString := v.(string)
		switch {
		case k == "created_at" || k == "modified_at" || k == "updated_at" || (k == "start_time" || k == "completion_time") && v != nil:
			if !timePattern.MatchString(s) {
				w.t.Errorf("%s = %v, want UTC with microseconds and Z (compute.md §1.3)", k, v)
			}
			o[k] = "T"
		case strings.HasSuffix(k, "_id") && isString || k == "id":
			if !idPattern.MatchString(s) {
				w.t.Errorf("%s = %v, want 13 digits (compute.md §1.3)", k, v)
			}
			o[k] = "ID"
		}
		if sub, ok := v.(object); ok {
			w.scrub(sub)
		}
	}
	return o
}

func (w *trainWorld) shape(what string, got object, want string) {
	w.t.Helper()
	dec := json.NewDecoder(strings.NewReader(want))
	dec.UseNumber()
	var o object
	if err := dec.Decode(&o); err != nil {
		w.t.Fatal(err)
	}
	if d := cmp.Diff(o, w.scrub(got)); d != "" {
		w.t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

const (
	wireUser = `{"id":"ID","email":"developer@acme.example","display_name":"acme","is_registered":true,"role":"developer","preferred_language":"en","created_at":"T","updated_at":"T"}`
	wireEnv  = `{"EPOCHS":"5","ON":"true","NIL":"","A":"v"}`
)

// TestDefinitionWire holds job definitions to compute.md §2.1 and §2.2.
func TestDefinitionWire(t *testing.T) {
	w := newTrainWorld(t)
	empty := `{"job_definition_id":"ID","organization_id":"ID","name":"leaf","archived":false,"version_count":0,"model_count":0,
		"notebook_count":0,"tensorboard_count":0,"versions":[],"jobs":null,"created_at":"T","modified_at":"T"}`
	// compute.md §1.5.1: with a trailing slash and without, no redirect.
	made := w.call("POST", w.defs+"/", `{"name":"leaf","unknown":1}`)
	id, _ := made["job_definition_id"].(string)
	w.shape("create", made, empty)
	w.call("POST", w.defs, `{"name":"tree"}`)

	t.Run("errors", func(t *testing.T) {
		for _, body := range []string{``, `{}`, `{"name":""}`, `{"name":"leaf"}`, `{"name":"12345"}`, `{"name":"a/b"}`, `{"name":5}`, `{"name":`, `[]`, `"x"`} {
			w.fails("POST", w.defs, body, 400, "bad_request")
		}
		w.fails("GET", w.defs+"/nobody", "", 404, "not_found")
		w.fails("GET", w.defs+"?limit=x", "", 400, "bad_request")
		w.fails("GET", w.defs+"?offset=-1", "", 400, "bad_request")
		status, body := w.do("POST", w.defs, "acme/regular", strings.NewReader(`{"name":"x"}`))
		isError(t, "regular creates", status, body, 403, "forbidden")
		status, body = w.do("GET", w.defs+"/"+id, "other/admin", nil)
		isError(t, "another organization reads", status, body, 403, "forbidden")
		status, body = w.do("GET", "/organizations/other/training/definitions/"+id, "other/admin", nil)
		isError(t, "another organization reads by id in its own", status, body, 404, "not_found")
	})

	for _, ref := range []string{id, "leaf"} { // compute.md §1.3: name or id
		got := w.callAs("acme/regular", "GET", w.defs+"/"+ref, "")
		if jobs, ok := got["jobs"].([]any); !ok || len(jobs) != 0 {
			t.Errorf("include_jobs absent = true, but jobs = %v", got["jobs"])
		}
		for _, b := range []string{"False", "false"} { // compute.md §1.5.3
			w.shape("get", w.call("GET", w.defs+"/"+ref+"?include_jobs="+b, ""), empty)
		}
	}
	for query, want := range map[string]string{
		"":                                  "0/50/2 tree leaf",
		"?offset=1&limit=1":                 "1/1/2 leaf",
		"?limit=1":                          "0/1/2 tree",
		"?filter_archived=include_archived": "0/50/2 tree leaf",
	} {
		if got := w.names(w.call("GET", w.defs+query, "")); got != want {
			t.Errorf("list%s = %s, want %s", query, got, want)
		}
	}
	// compute.md §1.5.2: an empty body with Content-Type: application/json.
	w.shape("archive", w.call("POST", w.defs+"/leaf/archive", ""), `{"message":"leaf archived"}`)
	if got := w.names(w.call("GET", w.defs+"/?filter_archived=exclude_archived", "")); got != "0/50/1 tree" {
		t.Errorf("without archived = %s", got)
	}
	w.shape("unarchive", w.call("POST", w.defs+"/"+id+"/unarchive", "{}"), `{"message":"leaf unarchived"}`)

	w.version()
	job := w.call("POST", w.defs+"/leaf/versions/1/jobs", "")
	w.fails("DELETE", w.defs+"/leaf", "", 400, "bad_request") // a live job
	w.call("POST", fmt.Sprintf("%s/leaf/jobs/%s/stop", w.defs, job["id"]), "")
	w.shape("delete", w.call("DELETE", w.defs+"/leaf", ""), `{"message":"leaf deleted"}`)
	w.fails("GET", w.defs+"/leaf", "", 404, "not_found")
	w.fails("GET", fmt.Sprintf("%s/tree/jobs/%s", w.defs, job["id"]), "", 404, "not_found")
}

// names sums a page up: offset/limit/total and the names.
func (w *trainWorld) names(p object) string {
	var out []string
	for _, e := range p["entries"].([]any) {
		out = append(out, e.(object)["name"].(string))
	}
	return fmt.Sprintf("%v/%v/%v %s", p["offset"], p["limit"], p["total"], strings.Join(out, " "))
}

// TestVersionWire holds versions to compute.md §2.3, §2.4 and §15.1.
func TestVersionWire(t *testing.T) {
	w := newTrainWorld(t)
	w.call("POST", w.defs, `{"name":"leaf"}`)
	path := w.defs + "/leaf/versions"
	src := string(zipOf(map[string]string{"train.py": "def handler(c): pass"}))
	params := part{"parameters", "params.json", "application/json", goodParameters}
	wireV := func(n int, description string) string {
		return fmt.Sprintf(`{"job_definition_id":"ID","job_definition_version":%d,"handler":"train:handler","image":"abeja-inc/all-cpu:19.10",
			"environment":%s,"user_parameters":%s,"datasets":{"train":"1550000000077"},"datalakes":[],"buckets":[],"dataset_premounted":false,
			"description":%s,"archived":false,"created_at":"T","modified_at":"T"}`, n, wireEnv, wireEnv, description)
	}
	// Parts in any order; the CLI's type for tar.gz, and the SDK's wrong one (compute.md §2.4).
	targz := string(tarGzOf("train.py", "def handler(c): pass"))
	for n, parts := range [][]part{
		{{"source_code", "source_code.zip", "application/zip", src}, params},
		{params, {"source_code", "archive.tar.gz", "application/tar+gzip", targz}},
		{params, {"source_code", "source_code.zip", "application/zip", targz}, {"extra", "x", "text/plain", "ignored"}},
	} {
		status, answer := w.postForm("acme/developer", path, parts...)
		w.shape("create", w.decode("POST versions", status, answer), wireV(n+1, `"first cut"`))
	}
	t.Run("older and absent names", func(t *testing.T) {
		status, answer := w.postForm("acme/developer", path, part{"source_code", "s", "application/zip", src},
			part{"parameters", "p", "application/json", `{"handler":"a:b","image":"x/y:1","environment":null,"user_parameters":{"OLD":1.50},"datasets":null,"description":null,"dataset_premounted":"True","datalakes":["1"]}`})
		got := w.decode("POST versions", status, answer)
		want := object{"OLD": "1.50"}
		if d := cmp.Diff([]any{want, want, object{}, nil, true, []any{"1"}},
			[]any{got["environment"], got["user_parameters"], got["datasets"], got["description"], got["dataset_premounted"], got["datalakes"]}); d != "" {
			t.Error(d)
		}
		w.call("DELETE", path+"/4", "")
	})
	t.Run("bad input", func(t *testing.T) {
		with := func(json string) []part {
			return []part{{"source_code", "s", "application/zip", src}, {"parameters", "p", "application/json", json}}
		}
		source := func(body string) []part { return []part{{"source_code", "s", "application/zip", body}, params} }
		for what, parts := range map[string][]part{
			"no source":             {params},
			"empty source":          source(""),
			"text as source":        source("import os"),
			"cut zip":               source(src[:len(src)/2]),
			"cut tar.gz":            source(targz[:len(targz)/2]),
			"zip without a file":    source(string(zipOf(nil))),
			"zip that leads out":    source(string(zipOf(map[string]string{"../../etc/passwd": "x"}))),
			"absolute tar":          source(string(tarGzOf("/etc/passwd", "x"))),
			"source twice":          append(source(src), part{"source_code", "s", "application/zip", src}),
			"no parameters":         {{"source_code", "s", "application/zip", src}},
			"broken JSON":           with(`{"handler":`),
			"a list":                with(`[]`),
			"no handler":            with(`{"image":"a/b:1"}`),
			"no image":              with(`{"handler":"a:b"}`),
			"image of one part":     with(`{"handler":"a:b","image":"python:3.11"}`),
			"handler is a number":   with(`{"handler":5,"image":"a/b:1"}`),
			"reserved name":         with(`{"handler":"a:b","image":"a/b:1","environment":{"PLATFORM_AUTH_TOKEN":"x"}}`),
			"nested environment":    with(`{"handler":"a:b","image":"a/b:1","environment":{"A":{}}}`),
			"alias with a space":    with(`{"handler":"a:b","image":"a/b:1","datasets":{"a b":"1"}}`),
			"description too long":  with(`{"handler":"a:b","image":"a/b:1","description":"` + strings.Repeat("x", 257) + `"}`),
			"another org's image":   with(`{"handler":"a:b","image":"custom/1/r:1"}`),
			"parameters over 1 MiB": with(`{"handler":"` + strings.Repeat("x", 2<<20) + `"}`),
		} {
			status, answer := w.postForm("acme/developer", path, parts...)
			isError(t, what, status, answer, 400, "bad_request")
		}
		status, answer := w.do("POST", path, "acme/developer", strings.NewReader("{}"), "Content-Type", "application/json")
		isError(t, "JSON instead of a form", status, answer, 400, "bad_request")
		status, answer = w.postForm("acme/developer", w.defs+"/nobody/versions", source(src)...)
		isError(t, "unknown definition", status, answer, 404, "not_found")
		status, answer = w.postForm("acme/regular", path, source(src)...)
		isError(t, "regular", status, answer, 403, "forbidden")
		ct, cut := form(source(src)...)
		status, answer = w.do("POST", path, "acme/developer", bytes.NewReader(cut.Bytes()[:cut.Len()-40]), "Content-Type", ct)
		isError(t, "form that ends early", status, answer, 400, "bad_request")
	})
	// Nothing of all that was stored, and no number was used up.
	list := w.call("GET", path, "")
	if n := len(list["entries"].([]any)); n != 3 || fmt.Sprint(list["total"]) != "3" {
		t.Errorf("versions = %d, total %v", n, list["total"])
	}
	infos, _, err := w.deps.Blobs.List(t.Context(), "", "", 100)
	if err != nil || len(infos) != 4 { // three, and that of the deleted one until the trash is emptied
		t.Errorf("objects = %v, %v", infos, err)
	}
	w.shape("get", w.call("GET", path+"/2", ""), wireV(2, `"first cut"`))
	w.shape("patch", w.call("PATCH", path+"/2", `{"description":"new"}`), wireV(2, `"new"`))
	for _, nothing := range []string{"", "{}", `{"description":null}`} {
		w.shape("patch with "+nothing, w.call("PATCH", path+"/2", nothing), wireV(2, `"new"`))
	}
	w.shape("archive", w.call("POST", path+"/2/archive", ""), `{"message":"archived"}`)
	if l := w.call("GET", path+"?filter_archived=exclude_archived", ""); fmt.Sprint(l["total"]) != "2" {
		t.Errorf("without archived = %v", l["total"])
	}
	w.shape("unarchive", w.call("POST", path+"/2/unarchive", ""), `{"message":"unarchived"}`)
	w.fails("GET", path+"/9", "", 404, "not_found")
	w.fails("GET", path+"/x", "", 400, "bad_request")
	w.fails("GET", path+"/0", "", 400, "bad_request")

	// compute.md §13.3: the URL of the source answers without credentials, 200, what was sent.
	for n, want := range map[int]string{1: src, 2: targz} {
		uri := w.call("GET", fmt.Sprintf("%s/%d/source", path, n), "")["download_uri"].(string)
		w.fetches(uri, want)
	}
	w.call("POST", path+"/1/jobs", "")
	w.fails("DELETE", path+"/1", "", 400, "bad_request") // a job refers to it
	w.shape("delete", w.call("DELETE", path+"/2", ""), `{"message":"deleted"}`)
	w.fails("DELETE", path+"/2", "", 404, "not_found")
	// Nested in the definition each version is whole (compute.md §15.1).
	for _, v := range w.call("GET", w.defs+"/leaf", "")["versions"].([]any) {
		if image, _ := v.(object)["image"].(string); strings.Count(image, "/") != 1 {
			t.Errorf("nested version has image %q", image)
		}
	}
}

// fetches asserts what compute.md §2.6, §15.3 want of a URL that is handed out: a "?", no
// credentials, 200, Content-Length.
func (w *trainWorld) fetches(uri, want string) {
	w.t.Helper()
	if !strings.Contains(uri, "?") || !strings.HasPrefix(uri, "http") {
		w.t.Errorf("%s is no absolute URL with a ?", uri)
	}
	res, err := http.Get(uri)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 || string(b) != want || res.ContentLength != int64(len(want)) {
		w.t.Errorf("GET %s = %s, %d bytes (Content-Length %d), %v; want %d bytes", uri, res.Status, len(b), res.ContentLength, err, len(want))
	}
}

const wireJob = `{"training_job_id":"ID","id":"ID","job_definition_id":"ID","job_definition_version":1,"status":"Pending","status_message":null,
	"instance_type":"cpu-1","exec_env":"cloud","environment":` + wireEnv + `,"user_parameters":` + wireEnv + `,"datasets":{"train":"1550000000077"},
	"statistics":null,"description":null,"creator":` + wireUser + `,"archived":false,"export_log":false,
	"start_time":null,"completion_time":null,"created_at":"T","modified_at":"T"}`

// TestJobWire holds jobs to compute.md §2.5, §2.6, §2.7 and §15.1.
func TestJobWire(t *testing.T) {
	w := newTrainWorld(t)
	w.version()
	create, jobs := w.defs+"/leaf/versions/1/jobs", w.defs+"/leaf/jobs"
	made := w.call("POST", create, "") // compute.md §2.6: all optional
	if made["id"] != made["training_job_id"] {
		t.Errorf("id %v, training_job_id %v", made["id"], made["training_job_id"])
	}
	if _, ok := made["token"]; ok {
		t.Error("the answer holds a token though exec_env is not local")
	}
	first := made["id"].(string)
	w.shape("create", made, wireJob)
	got := w.call("POST", create, `{"user_parameters":{"A":2,"B":false},"datasets":{"test":"9"},"instance_type":"cpu-0.25","description":"d","export_log":"True","datalakes":null,"exec_env":null}`)
	if d := cmp.Diff([]any{
		object{"EPOCHS": "5", "ON": "true", "NIL": "", "A": "2", "B": "false"},
		got["environment"],
		object{"train": "1550000000077", "test": "9"},
		"cpu-0.25", "d", true,
	}, []any{got["environment"], got["user_parameters"], got["datasets"], got["instance_type"], got["description"], got["export_log"]}); d != "" {
		t.Errorf("merged job: %s", d)
	}
	for body, want := range map[string][2]string{
		`{"instance_type":"h200-1"}`: {"400", "bad_request"}, `{"instance_type":"cpu-10"}`: {"400", "bad_request"},
		`{"environment":{"HANDLER":"x"}}`: {"400", "bad_request"}, `{"environment":[]}`: {"400", "bad_request"}, `{`: {"400", "bad_request"},
		`{"datasets":{"a":"x"}}`: {"400", "bad_request"}, `{"exec_env":"edge"}`: {"400", "bad_request"},
		`{"exec_env":"local"}`: {"501", "not_implemented"},
	} {
		status, answer := w.do("POST", create, "acme/developer", strings.NewReader(body))
		if fmt.Sprint(status) != want[0] || !strings.Contains(answer, `"error":"`+want[1]+`"`) {
			t.Errorf("POST %s = %d %s, want %v", body, status, answer, want)
		}
	}
	w.fails("POST", w.defs+"/leaf/versions/9/jobs", "", 404, "not_found")
	status, answer := w.do("POST", create, "acme/regular", nil)
	isError(t, "regular", status, answer, 403, "forbidden")
	for _, c := range []struct {
		query               string
		entries, off, limit int
	}{{"", 2, 0, 10}, {"?offset=1&limit=5", 1, 1, 5}, {"?limit=1", 1, 0, 1}} {
		p := w.callAs("acme/regular", "GET", jobs+c.query, "")
		if n := len(p["entries"].([]any)); n != c.entries || fmt.Sprintf("%v %v %v", p["offset"], p["limit"], p["total"]) != fmt.Sprintf("%d %d 2", c.off, c.limit) {
			t.Errorf("jobs%s = %d entries, %v %v %v", c.query, n, p["offset"], p["limit"], p["total"])
		}
	}
	newest := w.call("GET", jobs+"?limit=1", "")["entries"].([]any)[0].(object)
	if newest["id"] != got["id"] || newest["instance_type"] != "cpu-0.25" {
		t.Errorf("newest = %v", newest["id"])
	}
	w.shape("get", w.callAs("acme/regular", "GET", jobs+"/"+first, ""), wireJob)
	if n := len(w.call("GET", w.defs+"/leaf?include_jobs=True", "")["jobs"].([]any)); n != 2 {
		t.Errorf("jobs in the definition = %d", n)
	}
	w.fails("GET", jobs+"/1712000000044", "", 404, "not_found")
	w.fails("GET", jobs+"/x%00y", "", 404, "not_found")
	w.call("POST", w.defs, `{"name":"tree"}`)
	w.fails("GET", w.defs+"/tree/jobs/"+first, "", 404, "not_found") // of another definition

	w.fails("POST", jobs+"/"+first+"/archive", "", 400, "bad_request") // still Pending
	w.shape("stop", w.call("POST", jobs+"/"+first+"/stop", "{}"), `{"message":"leaf:`+first+` stopped"}`)
	stopped := w.call("GET", jobs+"/"+first, "")
	if stopped["status"] != "Stopped" || stopped["completion_time"] == nil {
		t.Errorf("stopped job = %v", stopped)
	}
	w.fails("POST", jobs+"/"+first+"/stop", "", 400, "bad_request") // terminal states never change
	w.shape("archive", w.call("POST", jobs+"/"+first+"/archive", ""), `{"message":"leaf:`+first+` archived"}`)
	if p := w.call("GET", jobs+"?filter_archived=exclude_archived", ""); fmt.Sprint(p["total"]) != "1" {
		t.Errorf("without archived = %v", p["total"])
	}
	w.shape("unarchive", w.call("POST", jobs+"/"+first+"/unarchive", ""), `{"message":"leaf:`+first+` unarchived"}`)
	if w.call("GET", jobs+"/"+first, "")["status"] != "Stopped" {
		t.Error("archiving changed the state")
	}
}

// container returns a name for do that acts as the job's container.
func (w *trainWorld) container(name string, j train.Job) string {
	w.t.Helper()
	secret := plat.NewToken()
	if err := w.toks.CreateToken(w.t.Context(), authn.Token{
		Hash: authn.HashToken(secret), Kind: authn.KindContainer, Org: j.Org, User: j.Creator, CreatedAt: plat.SystemClock(),
		Scope: authn.Scope{Workload: plat.WorkloadID(name), Definition: j.Definition, Version: j.Version, Job: j.ID},
	}); err != nil {
		w.t.Fatal(err)
	}
	w.bearer[name] = secret
	return name
}

func (w *trainWorld) job(id any) train.Job {
	w.t.Helper()
	j, err := w.store.Job(w.t.Context(), plat.JobID(id.(string)))
	if err != nil {
		w.t.Fatal(err)
	}
	return j
}

// TestContainer plays the calls of a training container (compute.md §13.3, §15.10: GET job at
// the start, POST statistics, POST models, all with its own token) and tries those
// that are none of its business.
func TestContainer(t *testing.T) {
	w := newTrainWorld(t)
	w.version()
	w.version()
	create, jobs := w.defs+"/leaf/versions/1/jobs", w.defs+"/leaf/jobs"
	mine, other := w.call("POST", create, "")["id"].(string), w.call("POST", create, "")["id"].(string)
	me := w.container("wl-0000000000000001", w.job(mine))
	// A name in the path is as good as the id: the SDK takes it from its environment.
	w.callAs(me, "GET", jobs+"/"+mine, "")
	w.callAs(me, "GET", w.defs+"/"+string(w.job(mine).Definition)+"/jobs/"+mine, "")
	w.callAs(me, "GET", w.defs+"/leaf/versions/1/source", "")
	// compute.md §2.8: each report replaces the last one; the answer is the whole job (compute.md §2.6).
	for _, s := range []string{`{"epoch":1,"stages":{"train":{"loss":"NaN"}}}`, `{"epoch":2,"lr":0.0010,"progress_percentage":0.5}`} {
		got := w.callAs(me, "POST", jobs+"/"+mine+"/statistics", `{"statistics":`+s+`}`)
		b, err := json.Marshal(got["statistics"])
		if err != nil || string(b) != s {
			t.Errorf("statistics = %s, want %s", b, s)
		}
		got["statistics"] = nil
		w.shape("report", got, wireJob)
	}
	history := w.call("GET", jobs+"/"+mine+"/statistics", "")
	if n := len(history["entries"].([]any)); n != 2 {
		t.Errorf("history has %d entries", n)
	}
	for _, bad := range []string{``, `{}`, `{"statistics":null}`, `{"statistics":[1]}`, `{"statistics":{"stages":{"train":{"name":"x"}}}}`, `{"statistics":{"a":NaN}}`} {
		status, answer := w.do("POST", jobs+"/"+mine+"/statistics", me, strings.NewReader(bad))
		isError(t, "report "+bad, status, answer, 400, "bad_request")
	}
	// The result: a signed PUT without credentials, any content type (compute.md §15.6).
	w.fails("GET", jobs+"/"+mine+"/result", "", 404, "not_found")
	up := w.callAs(me, "POST", jobs+"/"+mine+"/result", "")["uri"].(string)
	result := string(zipOf(map[string]string{"model.txt": strings.Repeat("x", 10<<10)}))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, up, strings.NewReader(result))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("PUT result = %v, %v", res, err)
	}
	_ = res.Body.Close()
	got := w.callAs("acme/regular", "GET", jobs+"/"+mine+"/result", "")
	uri := got["artifacts"].(object)["complete"].(object)["uri"].(string)
	if got["download_uri"] != uri {
		t.Errorf("download_uri = %v, uri %v", got["download_uri"], uri)
	}
	w.fetches(uri, result)
	// It is written once: the model is the same object, and user code may have kept the URL.
	again, err := http.NewRequestWithContext(t.Context(), http.MethodPut, up, strings.NewReader("other"))
	if err != nil {
		t.Fatal(err)
	}
	if res, err = http.DefaultClient.Do(again); err != nil || res.StatusCode != http.StatusConflict {
		t.Fatalf("second PUT = %v, %v, want 409", res, err)
	}
	_ = res.Body.Close()
	w.fetches(uri, result)
	// POST models from inside the job.
	zipped := string(zipOf(map[string]string{"m": "1"}))
	status, answer := w.postForm(me, w.defs+"/leaf/models", part{"model_data", "model.zip", "application/zip", zipped},
		part{"parameters", "params.json", "application/json", `{"training_job_id":"` + mine + `","user_parameters":{"E":5},"metrics":{"main_acc":0.910,"test_loss":"NaN"},"description":"STEP 4. ok"}`})
	m := w.decode("POST models", status, answer)
	w.shape("model", m, `{"training_model_id":"ID","id":"ID","job_definition_id":"ID","training_job_id":"ID","user_parameters":{"E":"5"},"environment":{"E":"5"},
		"metrics":{"main_acc":0.910,"test_loss":"NaN"},"description":"STEP 4. ok","exec_env":"cloud","archived":false,"user":`+wireUser+`,"created_at":"T","modified_at":"T"}`)

	w.call("POST", w.defs, `{"name":"tree"}`)
	forbidden := [][2]string{
		{"GET", jobs + "/" + other},
		{"POST", jobs + "/" + other + "/statistics"},
		{"POST", jobs + "/" + other + "/result"},
		{"GET", jobs + "/" + other + "/result"},
		{"GET", w.defs + "/leaf/versions/2/source"},
		{"GET", w.defs + "/leaf"},
		{"GET", jobs},
		{"GET", w.defs},
		{"POST", w.defs},
		{"DELETE", w.defs + "/leaf"},
		{"POST", create},
		{"POST", jobs + "/" + mine + "/stop"},
		{"GET", w.defs + "/leaf/models"},
		{"POST", w.defs + "/tree/models"},
		{"GET", w.defs + "/tree/jobs/" + mine},
		{"GET", w.defs + "/nobody/jobs/" + mine},
		{"POST", w.defs + "/leaf/versions"},
		{"DELETE", w.defs + "/leaf/versions/1"},
	}
	for _, c := range forbidden {
		status, answer := w.do(c[0], c[1], me, strings.NewReader(`{"statistics":{}}`))
		isError(t, c[0]+" "+c[1], status, answer, 403, "forbidden")
	}
	// Nobody but the container writes a result; once Complete, nobody at all.
	w.fails("POST", jobs+"/"+mine+"/result", "", 403, "forbidden")
	for _, s := range []train.Status{train.Active, train.Complete} {
		if _, err := w.store.UpdateJob(t.Context(), plat.JobID(mine), func(j *train.Job) (*train.Model, error) { j.Status = s; return nil, nil }); err != nil {
			t.Fatal(err)
		}
	}
	status, answer = w.do("POST", jobs+"/"+mine+"/result", me, nil)
	isError(t, "result of a Complete job", status, answer, 400, "bad_request")
	// After the end: results and logs only.
	late := w.container("wl-0000000000000002", w.job(other))
	if err := w.toks.EndWorkloadTokens(t.Context(), "wl-0000000000000002", plat.SystemClock(), plat.SystemClock().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	w.callAs(late, "POST", jobs+"/"+other+"/result", "")
	status, answer = w.do("POST", jobs+"/"+other+"/statistics", late, strings.NewReader(`{"statistics":{}}`))
	isError(t, "statistics after the end", status, answer, 403, "forbidden")
	if !strings.Contains(answer, "has ended") {
		t.Errorf("the answer does not say why: %s", answer)
	}
}

// TestModelWire holds models to compute.md §2.10, §2.11 and §1.6.
func TestModelWire(t *testing.T) {
	w := newTrainWorld(t)
	w.version()
	models := w.defs + "/leaf/models"
	data := string(zipOf(map[string]string{"m": "1"}))
	upload := func(params string) object {
		status, answer := w.postForm("acme/developer", models, part{"parameters", "params.json", "application/json", params}, part{"model_data", "model_data.zip", "application/zip", data})
		return w.decode("POST models", status, answer)
	}
	wireM := `{"training_model_id":"ID","id":"ID","job_definition_id":"ID","training_job_id":null,"user_parameters":{},"environment":{},"metrics":{},
		"description":%s,"exec_env":"none","archived":false,"user":` + wireUser + `,"created_at":"T","modified_at":"T"}`
	m := upload(`{}`) // compute.md §2.11: parameters may be {}
	id := m["id"].(string)
	w.shape("create", m, fmt.Sprintf(wireM, "null"))
	for range 11 {
		upload(`{"environment":{"A":1}}`)
	}
	t.Run("bad input", func(t *testing.T) {
		for what, parts := range map[string][]part{
			"no model_data": {{"parameters", "p", "application/json", "{}"}},
			"tar.gz":        {{"model_data", "m", "application/zip", string(tarGzOf("m", "1"))}},
			"text":          {{"model_data", "m", "application/zip", "text"}},
			"unknown job":   {{"model_data", "m", "application/zip", data}, {"parameters", "p", "application/json", `{"training_job_id":"1712000000044"}`}},
			"metric":        {{"model_data", "m", "application/zip", data}, {"parameters", "p", "application/json", `{"metrics":{"a":"high"}}`}},
		} {
			status, answer := w.postForm("acme/developer", models, parts...)
			isError(t, what, status, answer, 400, "bad_request")
		}
	})
	// compute.md §1.6: without paging everything, with total == len(entries).
	all := w.callAs("acme/regular", "GET", models+"?filter_archived=include_archived", "")
	if n := len(all["entries"].([]any)); n != 12 || fmt.Sprintf("%v %v %v", all["total"], all["offset"], all["limit"]) != "12 0 12" {
		t.Errorf("models = %d entries, total offset limit %v %v %v", n, all["total"], all["offset"], all["limit"])
	}
	w.shape("get", w.callAs("acme/regular", "GET", models+"/"+id, ""), fmt.Sprintf(wireM, "null"))
	w.shape("patch", w.call("PATCH", models+"/"+id, `{"description":"d"}`), fmt.Sprintf(wireM, `"d"`))
	w.shape("patch with {}", w.call("PATCH", models+"/"+id, `{}`), fmt.Sprintf(wireM, `"d"`))
	w.fetches(w.call("GET", models+"/"+id+"/download", "")["download_uri"].(string), data)
	w.shape("archive", w.call("POST", models+"/"+id+"/archive", ""), `{"message":"leaf:`+id+` archived"}`)
	if p := w.call("GET", models+"?filter_archived=exclude_archived", ""); fmt.Sprint(p["total"]) != "11" {
		t.Errorf("without archived = %v", p["total"])
	}
	w.shape("unarchive", w.call("POST", models+"/"+id+"/unarchive", ""), `{"message":"leaf:`+id+` unarchived"}`)
	w.fails("GET", models+"/1720000000055", "", 404, "not_found")
	w.fails("DELETE", models+"/"+id, "", 405, "method_not_allowed")
	status, answer := w.do("GET", models+"/"+id+"/download", "acme/regular", nil)
	isError(t, "regular downloads", status, answer, 403, "forbidden")
}

// TestNotBuiltTraining: what this version leaves out says so (501), to those who may ask.
func TestNotBuiltTraining(t *testing.T) {
	w := newTrainWorld(t)
	for _, c := range [][2]string{
		{"PUT", "/leaf/jobs/1/status"},
		{"POST", "/leaf/jobs/1/logs"},
		{"GET", "/leaf/notebooks"},
		{"POST", "/leaf/tensorboards"},
	} {
		w.fails(c[0], w.defs+c[1], "", 501, "not_implemented")
	}
}
