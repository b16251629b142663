// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"panal/internal/api"
	"panal/internal/authn"
	"panal/internal/blob"
	"panal/internal/blob/memblob"
	"panal/internal/cli"
	"panal/internal/dataset"
	"panal/internal/lake"
	"panal/internal/org"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
	"panal/internal/x/signedurl"
)

// dataServer is a server with the data side, and a command line that calls it.
type dataServer struct {
	*testing.T
	flags []string
	blobs *blob.Store
}

func newDataServer(t *testing.T, limits ...api.Limits) *dataServer {
	t.Helper()
	db := sqlstoretest.SQLite(t)
	store := sqlstore.NewOrgs(db)
	orgs := org.NewService(store, store, plat.SystemClock, "")
	o, err := orgs.Create(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	u, err := orgs.AddUser(t.Context(), o.ID, "a@example.com", "A", authn.RoleDeveloper)
	if err != nil {
		t.Fatal(err)
	}
	token, err := orgs.NewToken(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	blobs := blob.New(memblob.New())
	var limit api.Limits
	for _, limit = range limits {
	}
	srv := httptest.NewServer(api.New(api.Deps{
		Limits: limit,
		Now:    plat.SystemClock, Version: "test", Auth: authn.New(store, plat.SystemClock), Orgs: orgs, Blobs: blobs,
		Signer:   signedurl.New([]byte(strings.Repeat("k", 32))),
		Lake:     lake.NewService(sqlstore.NewLake(db, plat.SystemClock), blobs, plat.SystemClock),
		Datasets: dataset.NewService(sqlstore.NewDatasets(db), plat.SystemClock),
	}).Handler())
	t.Cleanup(srv.Close)
	return &dataServer{t, []string{"--api-url", srv.URL, "--organization", string(o.ID), "--user", string(u.ID), "--token", token}, blobs}
}

// run runs a command and returns its exit code and outputs.
func (s *dataServer) run(stdin string, args ...string) (code int, stdout, stderr string) {
	s.Helper()
	var out, errs bytes.Buffer
	code = cli.Main(s.Context(), append(s.flags, args...), strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

// json runs a command that must succeed and decodes what it prints.
func (s *dataServer) json(into any, args ...string) {
	s.Helper()
	code, out, errs := s.run("", append([]string{"--output", "json"}, args...)...)
	if code != 0 {
		s.Fatalf("panal %v = %d: %s", args, code, errs)
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		s.Fatalf("panal %v printed no JSON: %s", args, out)
	}
}

// fails runs a command and wants an exit code.
func (s *dataServer) fails(want int, args ...string) {
	s.Helper()
	if code, _, errs := s.run("", args...); code != want || errs == "" {
		s.Errorf("panal %v = %d (%s), want %d", args, code, errs, want)
	}
}

type uploadReport struct {
	Files []struct {
		Path    string `json:"path"`
		FileID  string `json:"file_id"`
		Skipped bool   `json:"skipped"`
	} `json:"files"`
	Skipped int `json:"skipped"`
}

func TestDataCommands(t *testing.T) {
	s := newDataServer(t)
	var ch struct {
		ID       string `json:"channel_id"`
		Archived bool   `json:"archived"`
		Files    int    `json:"files"`
	}
	s.json(&ch, "channel", "create", "raw", "--description", "frames")
	var all []any
	if s.json(&all, "channel", "list"); len(all) != 1 {
		t.Errorf("channel list: %v", all)
	}

	dir := t.TempDir()
	for i := range 30 {
		path := filepath.Join(dir, []string{"cat", "dog"}[i%2], fmt.Sprintf("%d ü.png", i))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(fmt.Sprint("picture ", i)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	upload := func(label string) (r uploadReport) {
		s.json(&r, "file", "upload", "raw", filepath.Join(dir, label), "-m", "label="+label, "-m", "note=a=b, c;d", "--skip-duplicates")
		return r
	}
	if r := upload("cat"); len(r.Files) != 15 || r.Skipped != 0 {
		t.Errorf("upload: %+v", r)
	}
	if r := upload("cat"); len(r.Files) != 15 || r.Skipped != 15 {
		t.Errorf("upload again: %+v", r)
	}
	upload("dog")

	count := func(want int, args ...string) {
		t.Helper()
		var n struct{ Count int }
		if s.json(&n, append([]string{"file"}, args...)...); n.Count != want {
			t.Errorf("panal file %v = %d, want %d", args, n.Count, want)
		}
	}
	count(30, "count", "raw")
	count(15, "count", ch.ID, "label:cat")
	count(1, "find", "raw", `filename:"2 ü.png" AND label:cat`, "--count")
	count(30, "count", "raw", `note:"a=b, c;d"`)
	if s.json(&ch, "channel", "get", "raw"); ch.Files != 30 {
		t.Errorf("channel get: %+v", ch)
	}
	var files []struct {
		ID string `json:"file_id"`
	}
	if s.json(&files, "file", "list", "raw", "--limit", "7"); len(files) != 7 {
		t.Errorf("file list: %d", len(files))
	}

	to := filepath.Join(t.TempDir(), "out")
	if code, _, errs := s.run("", "file", "download", "raw", "-q", "label:cat", "--to", to, "-j", "3"); code != 0 {
		t.Fatalf("download: %s", errs)
	}
	for i := 0; i < 30; i += 2 {
		b, err := os.ReadFile(filepath.Join(to, fmt.Sprintf("%d ü.png", i)))
		if err != nil || string(b) != fmt.Sprint("picture ", i) {
			t.Errorf("downloaded %q, %v", b, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(to, ".panal-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}

	// Standard input has no known length.
	if code, _, errs := s.run("from stdin", "file", "upload", "raw", "-", "-m", "filename=../../evil"); code != 0 {
		t.Fatalf("upload -: %s", errs)
	}
	if code, _, errs := s.run("", "file", "download", "raw", "-q", "filename:evil", "--to", to); code != 0 {
		t.Fatalf("download: %s", errs)
	}
	if b, err := os.ReadFile(filepath.Join(to, "..-..-evil")); err != nil || string(b) != "from stdin" {
		t.Errorf("a hostile name became %q, %v", b, err)
	}

	s.json(&files, "file", "find", "raw", "filename:evil")
	var gone struct{ Deleted []string }
	if s.json(&gone, "file", "delete", "raw", files[0].ID); len(gone.Deleted) != 1 {
		t.Errorf("delete: %v", gone)
	}
	s.fails(5, "file", "get", "raw", files[0].ID)
	s.fails(5, "channel", "get", "nobody")
	s.fails(2, "file", "find", "raw", "label:")
	s.fails(2, "file", "upload", "raw", filepath.Join(dir, "missing"))
	s.fails(2, "file", "download", "raw")
	if s.json(&ch, "channel", "archive", "raw"); !ch.Archived {
		t.Error("archive did nothing")
	}
	s.fails(4, "file", "upload", "raw", filepath.Join(dir, "cat"), "--force")
	if s.json(&ch, "channel", "unarchive", "raw"); ch.Archived {
		t.Error("unarchive did nothing")
	}
	s.json(&ch, "channel", "create", "raw")
	s.fails(2, "channel", "get", "raw") // two have the name now
}

func TestDatasetCommands(t *testing.T) {
	s := newDataServer(t)
	var d struct {
		ID    string `json:"dataset_id"`
		Items int    `json:"total_count"`
	}
	s.json(&d, "dataset", "create", "animals", "--labels", "cat,dog")
	s.fails(2, "dataset", "create", "animals")
	var ch struct {
		ID string `json:"channel_id"`
	}
	s.json(&ch, "channel", "create", "raw")
	dir := t.TempDir()
	for _, label := range []string{"cat", "dog", "cow"} {
		if err := os.WriteFile(filepath.Join(dir, label), []byte(label), 0o600); err != nil {
			t.Fatal(err)
		}
		var r uploadReport
		s.json(&r, "file", "upload", "raw", filepath.Join(dir, label), "-m", "label="+label)
	}
	var done struct{ Imported int }
	if s.json(&done, "dataset", "import", "animals", "--channel", "raw", "-q", "NOT label:cow"); done.Imported != 2 {
		t.Errorf("import: %+v", done)
	}
	s.fails(2, "dataset", "import", "animals", "--channel", "raw") // a cow is no label
	s.fails(2, "dataset", "import", "animals")

	// More lines than one call takes.
	lines := strings.Repeat(`{"source_data":[{"data_uri":"https://example.com/x"}],"attributes":{"tag":"v1"}}`+"\n\n", 700)
	if code, _, errs := s.run(lines, "dataset", "import", "animals", "-"); code != 0 {
		t.Fatalf("import: %s", errs)
	}
	if code, _, errs := s.run(`{"source_data":7}`, "dataset", "import", "animals", "-"); code != 2 || errs == "" {
		t.Errorf("a bad item = %d %s", code, errs)
	}
	if s.json(&d, "dataset", "get", "animals"); d.Items != 702 {
		t.Errorf("dataset get: %+v", d)
	}
	var items []struct {
		ID int `json:"dataset_item_id"`
	}
	if s.json(&items, "dataset", "items", d.ID, "-q", "label:dog"); len(items) != 1 {
		t.Errorf("items: %v", items)
	}
	if s.json(&items, "dataset", "items", "animals", "--limit", "0"); len(items) != 702 {
		t.Errorf("items: %d", len(items))
	}
	code, out, _ := s.run("", "dataset", "list")
	if code != 0 || !strings.HasPrefix(out, "DATASET") || !strings.Contains(out, "animals") {
		t.Errorf("dataset list = %d %s", code, out)
	}
	s.fails(2, "dataset", "delete", "animals")
	s.json(&d, "dataset", "delete", "animals", "--yes")
	s.fails(5, "dataset", "get", "animals")
}

// Who gives no credentials is told how.
func TestNoCredentials(t *testing.T) {
	for _, v := range []string{"PANAL_PERSONAL_ACCESS_TOKEN", "ABEJA_PLATFORM_PERSONAL_ACCESS_TOKEN", "PANAL_DATASOURCE_ID", "ABEJA_PLATFORM_DATASOURCE_ID"} {
		t.Setenv(v, "")
	}
	s := newDataServer(t)
	all := s.flags
	s.flags = all[:4:4] // without --user and --token
	if code, _, errs := s.run("", "channel", "list"); code != 3 || !strings.Contains(errs, `eval "$(panal env --data DIR)"`) || !strings.Contains(errs, "PANAL_PERSONAL_ACCESS_TOKEN") {
		t.Errorf("without = %d %s", code, errs)
	}
	s.flags = append(all[:6:6], "--token", "wrong")
	if code, _, errs := s.run("", "channel", "list"); code != 3 || strings.Contains(errs, "panal env") {
		t.Errorf("with wrong ones = %d %s", code, errs)
	}
}
