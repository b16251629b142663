// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"panal/internal/gitsource"
	"panal/internal/gitsource/gittest"
	"panal/internal/x/archive"
)

// fetched wants an archive that can be unpacked at a URL.
func (w *world) fetched(uri string) {
	w.t.Helper()
	res, err := w.srv.Client().Get(uri)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 || res.ContentLength != int64(len(body)) {
		w.t.Fatalf("GET %s = %d, %v", uri, res.StatusCode, err)
	}
	if err := archive.Check(strings.NewReader(string(body)), int64(len(body)), archive.Limits{RefuseEmpty: true}); err != nil {
		w.t.Errorf("the source can't be unpacked: %v", err)
	}
}

// TestCodeVersionFromGit: compute.md §5.2: the source is there when the version is, and
// stays what it was when the branch moves.
func TestCodeVersionFromGit(t *testing.T) {
	srv := gittest.NewServer(t)
	url := srv.Init("leaf.git")
	first := srv.Commit("leaf.git", "master", "main.py", "def handler(r, c): return {}\n")
	srv.Commit("leaf.git", "dev", "main.py", "x")
	srv.User, srv.Password = "bot", "s3cr3t-t0ken"
	with := strings.Replace(url, "http://", "http://bot:s3cr3t-t0ken@", 1)
	w := newDeployWorld(t, func(w *world) { w.deps.Git = gitsource.New(gitsource.Config{Dir: t.TempDir(), AllowPrivate: true}) })
	dep := w.deployment()
	create := dep + "/git/versions"
	got := w.call("POST", create, `{"git_url":"`+with+`","version":"1","image":"abeja-inc/all-cpu:19.10","user_parameters":{"TOP_K":3}}`)
	if got["git_url"] != url || got["git_branch"] != "master" || got["git_commit"] != first || got["upload_url"] != nil ||
		got["handler"] != "main:handler" || got["user_parameters"].(map[string]any)["TOP_K"] != "3" || got["version"] != "1" {
		t.Errorf("created %v", got)
	}
	second := srv.Commit("leaf.git", "master", "main.py", "broken")
	one := dep + "/versions/" + got["version_id"].(string)
	if again := w.call("GET", one, ""); again["git_commit"] != first {
		t.Errorf("after the branch moved: %v", again)
	}
	w.fetched(w.call("GET", one+"/download", "")["download_uri"].(string))
	if s := w.service(dep, got["version_id"].(string), ""); s == "" {
		t.Error("no service")
	}
	if got := w.call("POST", create, `{"git_url":"`+with+`","git_branch":"`+second+`","version":"2","image":"a/b:1","command":["./x"]}`); got["git_commit"] != second || got["git_branch"] != second {
		t.Errorf("by its commit: %v", got)
	}
	n := srv.Requests.Load()
	for what, body := range map[string]string{
		"no URL": `{"version":"3","image":"a/b:1"}`, "no body": ``, "duplicate label": `{"git_url":"` + with + `","version":"1","image":"a/b:1"}`,
		"no label": `{"git_url":"` + with + `","image":"a/b:1"}`, "no image": `{"git_url":"` + with + `","version":"3"}`,
		"bad handler": `{"git_url":"` + with + `","version":"3","image":"a/b:1","handler":"a b"}`, "ssh": `{"git_url":"ssh://git@h/x","version":"3","image":"a/b:1"}`,
		"a file": `{"git_url":"file:///etc","version":"3","image":"a/b:1"}`, "wrong type": `{"git_url":["` + with + `"],"version":"3","image":"a/b:1"}`,
	} {
		w.refused(what, "POST", create, body, 400)
	}
	if srv.Requests.Load() != n {
		t.Error("what is refused anyway was fetched")
	}
	for what, body := range map[string]string{
		"no such branch":    `{"git_url":"` + with + `","git_branch":"main","version":"3","image":"a/b:1"}`,
		"no credentials":    `{"git_url":"` + url + `","version":"3","image":"a/b:1"}`,
		"wrong credentials": `{"git_url":"` + strings.Replace(with, "s3cr3t", "wr0ng", 1) + `","version":"3","image":"a/b:1"}`,
		"no such server":    `{"git_url":"http://127.0.0.1:1/x","version":"3","image":"a/b:1"}`,
	} {
		status, text := w.do("POST", create, "acme/developer", strings.NewReader(body), "Content-Type", "application/json")
		isError(t, what, status, text, 400, "bad_request")
		if strings.Contains(text, "s3cr3t") || strings.Contains(text, "wr0ng") {
			t.Errorf("%s: the answer holds the credentials: %s", what, text)
		}
	}
	if all := w.call("GET", dep+"/versions", "")["entries"].([]any); len(all) != 2 {
		t.Errorf("refused versions are there: %v", all)
	}
	status, text := w.do("POST", create, "acme/regular", strings.NewReader(`{}`))
	isError(t, "regular members only read", status, text, 403, "forbidden")
	w.refused("unknown deployment", "POST", w.deps+"/1740000000088/git/versions", `{"git_url":"`+with+`","version":"3","image":"a/b:1"}`, 404)
}

// TestVersionFromGit: compute.md §2.4.
func TestVersionFromGit(t *testing.T) {
	srv := gittest.NewServer(t)
	url := srv.Init("leaf.git")
	commit := srv.Commit("leaf.git", "trunk", "train.py", "def handler(c): pass\n")
	w := newTrainWorld(t, func(w *world) { w.deps.Git = gitsource.New(gitsource.Config{Dir: t.TempDir(), AllowPrivate: true}) })
	w.call("POST", w.defs, `{"name":"leaf"}`)
	create := w.defs + "/leaf/git/versions"
	got := w.call("POST", create, `{"git_url":"`+url+`","git_branch":"trunk","handler":"train:handler","image":"abeja-inc/all-cpu:19.10","environment":{"E":5},"description":"d"}`)
	if got["git_url"] != url || got["git_branch"] != "trunk" || got["git_commit"] != commit || got["environment"].(object)["E"] != "5" || got["description"] != "d" {
		t.Errorf("created %v", got)
	}
	one := w.call("GET", w.defs+"/leaf/versions/1", "")
	if one["git_commit"] != commit {
		t.Errorf("read again: %v", one)
	}
	w.fetched(w.call("GET", w.defs+"/leaf/versions/1/source", "")["download_uri"].(string))
	w.call("POST", w.defs+"/leaf/versions/1/jobs", "")
	for _, body := range []string{
		`{"git_url":"` + url + `","handler":"train:handler","image":"abeja-inc/all-cpu:19.10","git_branch":"nope"}`,
		`{"git_url":"` + url + `","handler":"train:handler","image":"python:3"}`, `{"handler":"train:handler","image":"a/b:1"}`, ``,
	} {
		w.fails("POST", create, body, 400, "bad_request")
	}
	if all := w.call("GET", w.defs+"/leaf/versions", ""); fmt.Sprint(all["total"]) != "1" {
		t.Errorf("refused versions are there: %v", all)
	}
}
