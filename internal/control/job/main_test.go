// SPDX-License-Identifier: Apache-2.0

package job_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"panal/internal/authn"
	"panal/internal/blob"
	"panal/internal/blob/memblob"
	"panal/internal/control/job"
	"panal/internal/org"
	"panal/internal/outbox"
	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/fakerunner"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
	"panal/internal/train"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

// world is a reconciler over a real store, a fake machine and blobs in memory.
type world struct {
	t       *testing.T
	db      *sqlstore.DB
	store   *sqlstore.Training
	tokens  *sqlstore.Orgs
	blobs   *blob.Store
	run     *fakerunner.Runner
	version train.Version
	def     train.Definition
	spooled map[plat.WorkloadID][]string // what was ingested, repeats left out
	ingest  func() error                 // what the log store answers
	rec     *job.Reconciler
	mu      sync.Mutex
	clock   time.Time
}

func newWorld(t *testing.T, cfg fakerunner.Config) *world {
	t.Helper()
	db := sqlstoretest.SQLite(t)
	w := &world{
		t: t, db: db, store: sqlstore.NewTraining(db), tokens: sqlstore.NewOrgs(db), blobs: blob.New(memblob.New()),
		spooled: map[plat.WorkloadID][]string{}, clock: time.Date(2026, 2, 1, 3, 0, 0, 0, time.UTC),
		ingest: func() error { return nil },
	}
	cfg.Now = w.now
	w.run = fakerunner.New(cfg)
	t.Cleanup(func() { _ = w.run.Close() })
	o, err := org.NewService(w.tokens, w.tokens, plat.SystemClock, "").Create(t.Context(), "acme")
	w.must(err)
	w.def = train.Definition{ID: "1701000000012", Org: o.ID, Name: "leaf", CreatedAt: w.now(), ModifiedAt: w.now()}
	w.must(w.store.CreateDefinition(t.Context(), w.def))
	n, err := w.store.NextVersion(t.Context(), w.def.ID)
	w.must(err)
	w.version = train.Version{
		Org: o.ID, Definition: w.def.ID, Number: n, Handler: "train:handler", Image: "abeja-inc/all-cpu:19.10",
		Environment: map[string]string{"EPOCHS": "5"}, CreatedAt: w.now(), ModifiedAt: w.now(),
	}
	w.must(w.store.CreateVersion(t.Context(), w.version))
	w.rec = job.New(w.config())
	return w
}

func (w *world) config() job.Config {
	return job.Config{
		Log: slog.New(slog.DiscardHandler), Now: w.now, Store: w.store, Runner: w.run, Tokens: w.tokens, Blobs: w.blobs,
		APIURL: "http://127.0.0.1:8600", Resync: 50 * time.Millisecond,
		IngestSpool: func(_ context.Context, st runner.Status, batches []runner.SpoolBatch) error {
			if err := w.ingest(); err != nil {
				return err
			}
			var lines []string
			for _, b := range batches {
				lines = append(lines, string(b))
			}
			w.spooled[st.ID] = lines
			return nil
		},
	}
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(time.Millisecond)
	return w.clock
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// job queues a job.
func (w *world) job(change ...func(*train.Job)) train.Job {
	w.t.Helper()
	j := train.Job{
		ID: plat.JobID(plat.NewDecimalID()), Org: w.version.Org, Definition: w.def.ID, Version: w.version.Number, Status: train.Pending,
		InstanceType: "cpu-1", ExecEnv: train.ExecCloud, Environment: map[string]string{"EPOCHS": "5"},
		Datasets: map[string]plat.DatasetID{"train": "1550000000077"}, Creator: "1650000000031",
	}
	j.CreatedAt = w.now()
	j.ModifiedAt = j.CreatedAt
	for _, f := range change {
		f(&j)
	}
	w.must(w.store.CreateJob(w.t.Context(), j))
	return j
}

func (w *world) pass(times int) {
	w.t.Helper()
	for range times {
		w.must(w.rec.Pass(w.t.Context()))
	}
}

func (w *world) get(id plat.JobID) train.Job {
	w.t.Helper()
	j, err := w.store.Job(w.t.Context(), id)
	w.must(err)
	return j
}

// is asserts a job's state and that its message holds a text.
func (w *world) is(id plat.JobID, status train.Status, message string) train.Job {
	w.t.Helper()
	j := w.get(id)
	if j.Status != status || message == "" && j.StatusMessage != "" || !strings.Contains(j.StatusMessage, message) {
		w.t.Errorf("job is %s %q, want %s %q", j.Status, j.StatusMessage, status, message)
	}
	return j
}

func (w *world) upload(j train.Job) {
	w.t.Helper()
	_, err := w.blobs.Put(w.t.Context(), j.ResultKey(), strings.NewReader("PK zip"), 6, blob.PutOptions{})
	w.must(err)
}

func (w *world) models() []train.Model {
	w.t.Helper()
	ms, _, err := w.store.Models(w.t.Context(), w.def.ID, train.Page{})
	w.must(err)
	return ms
}

func (w *world) told(id plat.JobID) string {
	w.t.Helper()
	evs, err := sqlstore.NewEvents(w.db).Read(w.t.Context(), train.TopicJob, outbox.Cursor{}, 10_000)
	w.must(err)
	var what []string
	for _, e := range evs {
		if e.Subject == string(id) {
			what = append(what, e.What)
		}
	}
	return strings.Join(what, " ")
}

// token returns the token that a spec carries.
func (w *world) token(s runner.Spec) authn.Token {
	w.t.Helper()
	tok, _, err := w.tokens.TokenByHash(w.t.Context(), authn.HashToken(s.Token))
	w.must(err)
	return tok
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("%s did not happen", what)
}

var errDown = errors.New("down")
