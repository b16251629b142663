// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"encoding/json"
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
	"panal/internal/org"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
	"panal/internal/train"
	"panal/internal/x/signedurl"
)

// shell runs commands against an API of its own.
type shell struct {
	t     *testing.T
	store *sqlstore.Training
	blobs *blob.Store
	args  []string
}

func newShell(t *testing.T) *shell {
	t.Helper()
	db := sqlstoretest.SQLite(t)
	orgs := sqlstore.NewOrgs(db)
	s := &shell{t: t, store: sqlstore.NewTraining(db), blobs: blob.New(memblob.New())}
	svc := org.NewService(orgs, orgs, plat.SystemClock, "")
	o, err := svc.Create(t.Context(), "default")
	s.must(err)
	u, err := svc.AddUser(t.Context(), o.ID, "a@example.com", "", authn.RoleAdmin)
	s.must(err)
	secret, err := svc.NewToken(t.Context(), u)
	s.must(err)
	srv := httptest.NewServer(api.New(api.Deps{
		Auth: authn.New(orgs, plat.SystemClock), Orgs: svc, Blobs: s.blobs, Signer: signedurl.New([]byte(strings.Repeat("k", 32))),
		Train: train.NewService(train.Options{Store: s.store, Blobs: s.blobs, Now: plat.SystemClock}), TempDir: t.TempDir(),
	}).Handler())
	t.Cleanup(srv.Close)
	s.args = []string{"--api-url", srv.URL, "--user", string(u.ID), "--token", secret}
	return s
}

func (s *shell) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// run runs a command line and returns what it says.
func (s *shell) run(args ...string) (code int, stdout, stderr string) {
	s.t.Helper()
	var out, errs bytes.Buffer
	code = cli.Main(s.t.Context(), append(args, s.args...), strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

// ok wants success and returns the JSON answer.
func (s *shell) ok(out any, args ...string) {
	s.t.Helper()
	code, stdout, stderr := s.run(append(args, "-o", "json")...)
	if code != 0 {
		s.t.Fatalf("panal %s: exit %d: %s", strings.Join(args, " "), code, stderr)
	}
	if out != nil {
		if err := json.Unmarshal([]byte(stdout), out); err != nil {
			s.t.Fatalf("panal %s: %v: %s", strings.Join(args, " "), err, stdout)
		}
	}
}

func (s *shell) become(id string, status train.Status, message string) {
	s.t.Helper()
	_, err := s.store.UpdateJob(s.t.Context(), plat.JobID(id), func(j *train.Job) (*train.Model, error) {
		j.Status, j.StatusMessage = status, message
		if status != train.Complete {
			return nil, nil
		}
		return train.ModelOf(*j, plat.ModelID(plat.NewDecimalID())), nil
	})
	s.must(err)
}

func TestTrainingByCommand(t *testing.T) {
	s := newShell(t)
	code := t.TempDir()
	s.must(os.WriteFile(filepath.Join(code, "train.py"), []byte("def handler(context): pass"), 0o600))
	s.ok(nil, "job", "define", "leaf")
	if code, _, stderr := s.run("job", "create", "leaf"); code != 5 || !strings.Contains(stderr, "panal job version leaf") {
		t.Errorf("a job without a version: exit %d, %s", code, stderr)
	}
	var v struct {
		Number      int               `json:"job_definition_version"`
		Environment map[string]string `json:"environment"`
	}
	s.ok(&v, "job", "version", "leaf", code, "--env", "EPOCHS=5", "--env", "LIST=a;b,c=d", "--dataset", "train=1550000000077")
	s.ok(&v, "job", "version", "leaf", code, "--env", "EPOCHS=5", "--env", "LIST=a;b,c=d", "--dataset", "train=1550000000077")
	if v.Number != 2 || v.Environment["LIST"] != "a;b,c=d" || v.Environment["EPOCHS"] != "5" {
		t.Errorf("version = %+v", v)
	}
	var j struct {
		ID      string `json:"id"`
		Version int    `json:"job_definition_version"`
	}
	s.ok(&j, "job", "create", "leaf", "--env", "EPOCHS=6")
	if j.Version != 2 {
		t.Errorf("the job runs version %d, want the latest", j.Version)
	}
	if _, err := s.store.AddReport(t.Context(), plat.JobID(j.ID), train.Report{Time: plat.SystemClock(), Statistics: json.RawMessage(
		`{"epoch":4,"num_epochs":10,"progress_percentage":0.4,"stages":{"train":{"loss":0.25}}}`)}); err != nil {
		t.Fatal(err)
	}
	s.become(j.ID, train.Active, "")
	if _, stdout, _ := s.run("job", "list", "leaf"); !strings.Contains(stdout, "40% epoch 4/10 train.loss=0.25") {
		t.Errorf("list does not show the progress:\n%s", stdout)
	}
	if code, _, stderr := s.run("job", "wait", "leaf", j.ID, "--timeout", "2s"); code != 8 || !strings.Contains(stderr, "has not ended") || !strings.Contains(stderr, "40%") {
		t.Errorf("wait with a timeout: exit %d, %s", code, stderr)
	}
	s.must(func() error {
		_, err := s.blobs.Put(t.Context(), s.result(j.ID), strings.NewReader("PK-zip"), 6, blob.PutOptions{})
		return err
	}())
	s.become(j.ID, train.Complete, "")
	if code, stdout, stderr := s.run("job", "wait", "leaf", j.ID); code != 0 || !strings.Contains(stdout, "Complete") {
		t.Errorf("wait: exit %d, %s %s", code, stdout, stderr)
	}
	to := filepath.Join(t.TempDir(), "r.zip")
	s.ok(nil, "job", "result", "leaf", j.ID, "--to", to)
	if b, err := os.ReadFile(to); err != nil || string(b) != "PK-zip" {
		t.Errorf("result = %q, %v", b, err)
	}
	var models []struct {
		ID  string `json:"id"`
		Job string `json:"training_job_id"`
	}
	s.ok(&models, "model", "list", "leaf")
	if len(models) != 1 || models[0].Job != j.ID {
		t.Fatalf("models = %+v", models)
	}
	if code, stdout, _ := s.run("model", "download", "leaf", models[0].ID, "--to", "-"); code != 0 || stdout != "PK-zip" {
		t.Errorf("download: exit %d, %q", code, stdout)
	}
	s.ok(nil, "model", "create", "leaf", code, "--metric", "acc=0.97", "--metric", "loss=NaN")
	if code, stdout, _ := s.run("model", "list", "leaf"); code != 0 || !strings.Contains(stdout, "acc=0.97,loss=NaN") {
		t.Errorf("models:\n%s", stdout)
	}
	if code, _, stderr := s.run("model", "create", "leaf", code, "--metric", "acc=high"); code != 2 || !strings.Contains(stderr, "not a number") {
		t.Errorf("bad metric: exit %d, %s", code, stderr)
	}
	s.ok(nil, "model", "archive", "leaf", models[0].ID)
	s.ok(&models, "model", "list", "leaf")
	if len(models) != 1 {
		t.Errorf("archived models are listed: %+v", models)
	}

	// A failure is an exit code, and the traceback is shown whole.
	s.ok(&j, "job", "create", "leaf", "--version", "1")
	s.become(j.ID, train.Active, "")
	s.become(j.ID, train.Failed, "handler raised\nTraceback:\nValueError: planted")
	if code, stdout, stderr := s.run("job", "wait", "leaf", j.ID); code != 1 || !strings.Contains(stdout, "ValueError: planted") || !strings.Contains(stderr, "is Failed: handler raised") {
		t.Errorf("wait for a failure: exit %d, %s %s", code, stdout, stderr)
	}
	for args, want := range map[string]int{
		"job stop leaf " + j.ID: 2, "job get leaf 1": 5, "job get nobody 1": 5, "job result leaf " + j.ID: 5,
		"job version leaf /nonexistent": 2, "job define 123": 2, "job get leaf": 2, "job create leaf --instance-type h200-1": 2,
	} {
		if code, _, stderr := s.run(strings.Fields(args)...); code != want || stderr == "" {
			t.Errorf("panal %s: exit %d (%s), want %d", args, code, stderr, want)
		}
	}
	s.ok(nil, "job", "undefine", "leaf")
	var defs []any
	s.ok(&defs, "job", "definitions")
	if len(defs) != 0 {
		t.Errorf("definitions = %v", defs)
	}
}

func (s *shell) result(id string) string {
	s.t.Helper()
	j, err := s.store.Job(s.t.Context(), plat.JobID(id))
	s.must(err)
	return j.ResultKey()
}
