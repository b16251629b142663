// SPDX-License-Identifier: Apache-2.0

// Package traintest is the contract of train.Store as a suite: each sentence of
// the contract is a named subtest. A store's whole test is one call to Run.
package traintest

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"panal/internal/outbox"
	"panal/internal/plat"
	"panal/internal/train"
)

// Harness is an empty store with one organization, and its outbox.
type Harness struct {
	Store  train.Store
	Events outbox.Log
	Org    plat.OrgID
}

// Run checks the store that each call of fresh returns.
func Run(t *testing.T, fresh func(t *testing.T) Harness) {
	t.Helper()
	for _, c := range []struct {
		name  string
		check func(*testing.T, Harness)
	}{
		{"Definition/is_found_by_id_and_by_name_in_its_organization_only", definitionLookup},
		{"Definition/a_second_one_of_the_name_is_ErrExists", definitionExists},
		{"Definition/pages_are_newest_first_and_count_everything", definitionPages},
		{"Definition/delete_takes_all_with_it_and_leaves_the_prefix_in_the_trash", definitionDelete},
		{"Definition/delete_with_a_live_job_is_ErrConflict", definitionDeleteLive},
		{"Version/numbers_are_given_once_to_concurrent_callers", versionNumbers},
		{"Version/round_trip_and_edit", versionRoundTrip},
		{"Version/of_a_missing_definition_is_ErrNotFound", versionOrphan},
		{"Version/delete_with_a_job_is_ErrConflict", versionDelete},
		{"Job/round_trip", jobRoundTrip},
		{"Job/of_a_missing_version_is_ErrNotFound", jobOrphan},
		{"Job/pages_are_newest_first", jobPages},
		{"Job/the_queue_is_oldest_first_and_leaves_out_settled_ones", jobQueue},
		{"UpdateJob/stores_only_what_may_change", updateFields},
		{"UpdateJob/an_error_of_change_stores_nothing", updateError},
		{"UpdateJob/concurrent_changes_are_not_lost", updateConcurrent},
		{"UpdateJob/keeps_to_the_state_machine_and_tells_of_each_transition", updateStateMachine},
		{"UpdateJob/registers_one_model_from_the_result", updateModel},
		{"Report/replaces_the_statistics_and_keeps_the_history", reports},
		{"Model/round_trip_pages_and_edit", models},
		{"Lookup/nonsense_ids_are_ErrNotFound", nonsense},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t, fresh(t)) })
	}
}

// start is the first moment of every test; at(n) is n seconds later.
func at(n int) time.Time {
	return time.Date(2026, 2, 1, 3, 0, 0, 1000, time.UTC).Add(time.Duration(n) * time.Second)
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func isKind(t *testing.T, what string, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s = %v, want %v", what, err, kind)
	}
}

func diff(t *testing.T, what string, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func definition(t *testing.T, h Harness, name string, n int) train.Definition {
	t.Helper()
	d := train.Definition{ID: plat.JobDefinitionID(plat.NewDecimalID()), Org: h.Org, Name: name, CreatedAt: at(n), ModifiedAt: at(n)}
	ok(t, h.Store.CreateDefinition(t.Context(), d))
	return d
}

func version(t *testing.T, h Harness, d train.Definition) train.Version {
	t.Helper()
	n := must(h.Store.NextVersion(t.Context(), d.ID))(t)
	v := train.Version{
		Git: plat.Git{URL: "https://git.example.com/x", Ref: "v1", Commit: "c0ffee"},
		Org: h.Org, Definition: d.ID, Number: n, Handler: "train:handler", Image: "abeja-inc/all-cpu:19.10",
		Environment: map[string]string{"EPOCHS": "5", "EMPTY": "", "TEXT": "é\n\"<"}, Datasets: map[string]plat.DatasetID{"train": "1550000000077"},
		Premounts: train.Premounts{Datalakes: []string{"1"}, DatasetPremounted: true}, Description: "first cut",
		Source: "train/o/d/1/source", SourceType: "application/zip", CreatedAt: at(n), ModifiedAt: at(n),
	}
	ok(t, h.Store.CreateVersion(t.Context(), v))
	return v
}

func job(t *testing.T, h Harness, v train.Version, n int) train.Job {
	t.Helper()
	j := train.Job{
		ID: plat.JobID(plat.NewDecimalID()), Org: h.Org, Definition: v.Definition, Version: v.Number, Status: train.Pending,
		InstanceType: "cpu-1", ExecEnv: train.ExecCloud, Environment: map[string]string{"A": "1"}, Datasets: map[string]plat.DatasetID{"d": "9"},
		ExportLog: true, Description: "baseline", Creator: "1650000000031", CreatedAt: at(n), ModifiedAt: at(n),
	}
	ok(t, h.Store.CreateJob(t.Context(), j))
	return j
}

// become moves a job along a path.
func become(t *testing.T, h Harness, id plat.JobID, path ...train.Status) train.Job {
	t.Helper()
	var j train.Job
	for _, s := range path {
		j = must(h.Store.UpdateJob(t.Context(), id, func(j *train.Job) (*train.Model, error) {
			j.Status = s
			return nil, nil
		}))(t)
	}
	return j
}

// told returns what the outbox says of a subject.
func told(t interface {
	Fatal(...any)
	Helper()
}, read func() ([]outbox.Event, error), subject string,
) []string {
	t.Helper()
	evs, err := read()
	if err != nil {
		t.Fatal(err)
	}
	var what []string
	for _, e := range evs {
		if e.Subject == subject {
			what = append(what, e.What)
		}
	}
	return what
}

func definitionLookup(t *testing.T, h Harness) {
	d := definition(t, h, "leaf.classifier-1", 0)
	for _, ref := range []string{string(d.ID), d.Name} {
		diff(t, "Definition("+ref+")", d, must(h.Store.Definition(t.Context(), h.Org, ref))(t))
		_, err := h.Store.Definition(t.Context(), "1", ref)
		isKind(t, "of another organization", err, plat.ErrNotFound)
	}
	_, err := h.Store.Definition(t.Context(), h.Org, "LEAF.classifier-1")
	isKind(t, "another case", err, plat.ErrNotFound)
	version(t, h, d)
	version(t, h, d)
	ok(t, h.Store.ArchiveDefinition(t.Context(), d.ID, true, at(5)))
	d.VersionCount, d.Archived, d.ModifiedAt = 2, true, at(5)
	diff(t, "after two versions and archiving", d, must(h.Store.Definition(t.Context(), h.Org, d.Name))(t))
	isKind(t, "archive a missing one", h.Store.ArchiveDefinition(t.Context(), "1", true, at(1)), plat.ErrNotFound)
}

func definitionExists(t *testing.T, h Harness) {
	d := definition(t, h, "leaf", 0)
	d.ID = "1701000000012"
	isKind(t, "the same name", h.Store.CreateDefinition(t.Context(), d), plat.ErrExists)
}

func definitionPages(t *testing.T, h Harness) {
	for i, name := range []string{"a", "b", "c", "d"} {
		d := definition(t, h, name, i)
		if name == "b" {
			ok(t, h.Store.ArchiveDefinition(t.Context(), d.ID, true, at(9)))
		}
	}
	for _, c := range []struct {
		page  train.Page
		want  string
		total int
	}{
		{train.Page{}, "d c b a", 4},
		{train.Page{Limit: 2}, "d c", 4},
		{train.Page{Offset: 1, Limit: 2}, "c b", 4},
		{train.Page{Offset: 3}, "a", 4},
		{train.Page{Offset: 9, Limit: 2}, "", 4},
		{train.Page{ExcludeArchived: true}, "d c a", 3},
	} {
		list, total, err := h.Store.Definitions(t.Context(), h.Org, c.page)
		ok(t, err)
		var names []string
		for _, d := range list {
			names = append(names, d.Name)
		}
		if got := strings.Join(names, " "); got != c.want || total != c.total {
			t.Errorf("%+v = %q of %d, want %q of %d", c.page, got, total, c.want, c.total)
		}
	}
}

func definitionDelete(t *testing.T, h Harness) {
	ctx := t.Context()
	d, keep := definition(t, h, "gone", 0), definition(t, h, "stays", 1)
	v := version(t, h, d)
	kept := job(t, h, version(t, h, keep), 1)
	j := job(t, h, v, 2)
	become(t, h, j.ID, train.Active)
	must(h.Store.AddReport(ctx, j.ID, train.Report{Time: at(3), Statistics: json.RawMessage(`{}`)}))(t)
	become(t, h, j.ID, train.Complete)
	m := train.Model{ID: "1720000000055", Org: h.Org, Definition: d.ID, Job: j.ID, CreatedAt: at(1), ModifiedAt: at(1)}
	ok(t, h.Store.CreateModel(ctx, m))
	ok(t, h.Store.DeleteDefinition(ctx, d.ID, "train/gone/", at(9)))
	_, err := h.Store.Definition(ctx, h.Org, "gone")
	isKind(t, "the definition", err, plat.ErrNotFound)
	_, err = h.Store.Version(ctx, d.ID, v.Number)
	isKind(t, "its version", err, plat.ErrNotFound)
	_, err = h.Store.Job(ctx, j.ID)
	isKind(t, "its job", err, plat.ErrNotFound)
	_, err = h.Store.Model(ctx, m.ID)
	isKind(t, "its model", err, plat.ErrNotFound)
	if _, err := h.Store.Job(ctx, kept.ID); err != nil {
		t.Errorf("another definition's job: %v", err)
	}
	diff(t, "trash", []string{"train/gone/"}, must(h.Store.Trash(ctx, 10))(t))
	ok(t, h.Store.Emptied(ctx, "train/gone/"))
	diff(t, "emptied trash", []string{}, must(h.Store.Trash(ctx, 10))(t))
	isKind(t, "deleting twice", h.Store.DeleteDefinition(ctx, d.ID, "x/", at(9)), plat.ErrNotFound)
	definition(t, h, "gone", 3) // the name is free again
}

func definitionDeleteLive(t *testing.T, h Harness) {
	d := definition(t, h, "leaf", 0)
	j := job(t, h, version(t, h, d), 1)
	isKind(t, "with a Pending job", h.Store.DeleteDefinition(t.Context(), d.ID, "p/", at(1)), plat.ErrConflict)
	become(t, h, j.ID, train.Active)
	isKind(t, "with an Active job", h.Store.DeleteDefinition(t.Context(), d.ID, "p/", at(1)), plat.ErrConflict)
	diff(t, "trash", []string{}, must(h.Store.Trash(t.Context(), 10))(t))
	become(t, h, j.ID, train.Stopped)
	ok(t, h.Store.DeleteDefinition(t.Context(), d.ID, "p/", at(1)))
}

func versionNumbers(t *testing.T, h Harness) {
	d, other := definition(t, h, "leaf", 0), definition(t, h, "tree", 0)
	const callers = 12
	got, errs := make([]int, callers), make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() { got[i], errs[i] = h.Store.NextVersion(t.Context(), d.ID) })
	}
	wg.Wait()
	ok(t, errors.Join(errs...))
	slices.Sort(got)
	for i, n := range got {
		if n != i+1 {
			t.Fatalf("numbers = %v, want 1 to %d", got, callers)
		}
	}
	if n := must(h.Store.NextVersion(t.Context(), other.ID))(t); n != 1 {
		t.Errorf("another definition's first number = %d", n)
	}
	_, err := h.Store.NextVersion(t.Context(), "1")
	isKind(t, "of a missing definition", err, plat.ErrNotFound)
}

func versionRoundTrip(t *testing.T, h Harness) {
	ctx, d := t.Context(), definition(t, h, "leaf", 0)
	v1, v2 := version(t, h, d), version(t, h, d)
	diff(t, "Version", v1, must(h.Store.Version(ctx, d.ID, 1))(t))
	v1.Description, v1.Archived, v1.ModifiedAt, v1.Handler = "new", true, at(50), "not:stored"
	ok(t, h.Store.UpdateVersion(ctx, v1))
	v1.Handler = "train:handler"
	diff(t, "Versions", []train.Version{v1, v2}, must(h.Store.Versions(ctx, false, d.ID, "1"))(t))
	diff(t, "Versions without archived", []train.Version{v2}, must(h.Store.Versions(ctx, true, d.ID))(t))
	diff(t, "Versions of nothing", []train.Version{}, must(h.Store.Versions(ctx, true))(t))
	v1.Number = 99
	isKind(t, "edit a missing one", h.Store.UpdateVersion(ctx, v1), plat.ErrNotFound)
	ok(t, h.Store.DeleteVersion(ctx, d.ID, 2, v2.Source, at(1)))
	if n := must(h.Store.NextVersion(ctx, d.ID))(t); n != 3 {
		t.Errorf("number after the delete of 2 = %d, want 3", n)
	}
}

func versionOrphan(t *testing.T, h Harness) {
	isKind(t, "CreateVersion", h.Store.CreateVersion(t.Context(), train.Version{Org: h.Org, Definition: "1", Number: 1}), plat.ErrNotFound)
	_, err := h.Store.Version(t.Context(), "1", 1)
	isKind(t, "Version", err, plat.ErrNotFound)
}

func versionDelete(t *testing.T, h Harness) {
	v := version(t, h, definition(t, h, "leaf", 0))
	job(t, h, v, 1)
	isKind(t, "DeleteVersion", h.Store.DeleteVersion(t.Context(), v.Definition, 1, v.Source, at(1)), plat.ErrConflict)
	isKind(t, "of a missing one", h.Store.DeleteVersion(t.Context(), v.Definition, 2, v.Source, at(1)), plat.ErrNotFound)
	diff(t, "trash", []string{}, must(h.Store.Trash(t.Context(), 10))(t))
}

func jobRoundTrip(t *testing.T, h Harness) {
	v := version(t, h, definition(t, h, "leaf", 0))
	j := job(t, h, v, 1)
	diff(t, "Job", j, must(h.Store.Job(t.Context(), j.ID))(t))
	isKind(t, "a second one of the id", h.Store.CreateJob(t.Context(), j), plat.ErrExists)
	diff(t, "events", []string{"created"}, told(t, func() ([]outbox.Event, error) {
		return h.Events.Read(t.Context(), train.TopicJob, outbox.Cursor{}, 100)
	}, string(j.ID)))
}

func jobOrphan(t *testing.T, h Harness) {
	d := definition(t, h, "leaf", 0)
	j := train.Job{ID: "1712000000044", Org: h.Org, Definition: d.ID, Version: 7, Status: train.Pending, CreatedAt: at(0)}
	isKind(t, "CreateJob", h.Store.CreateJob(t.Context(), j), plat.ErrNotFound)
}

func jobPages(t *testing.T, h Harness) {
	d := definition(t, h, "leaf", 0)
	v := version(t, h, d)
	a, b, c := job(t, h, v, 1), job(t, h, v, 2), job(t, h, v, 3)
	job(t, h, version(t, h, definition(t, h, "tree", 0)), 4)
	b = must(h.Store.UpdateJob(t.Context(), b.ID, func(j *train.Job) (*train.Model, error) { j.Archived = true; return nil, nil }))(t)
	for _, x := range []struct {
		page  train.Page
		want  []train.Job
		total int
	}{
		{train.Page{}, []train.Job{c, b, a}, 3},
		{train.Page{Offset: 1, Limit: 1}, []train.Job{b}, 3},
		{train.Page{ExcludeArchived: true, Limit: 9}, []train.Job{c, a}, 2},
	} {
		list, total, err := h.Store.Jobs(t.Context(), d.ID, x.page)
		ok(t, err)
		diff(t, "page", x.want, list)
		if total != x.total {
			t.Errorf("%+v: total = %d, want %d", x.page, total, x.total)
		}
	}
}

func jobQueue(t *testing.T, h Harness) {
	v := version(t, h, definition(t, h, "leaf", 0))
	late, early, done := job(t, h, v, 9), job(t, h, v, 1), job(t, h, v, 5)
	become(t, h, done.ID, train.Stopped)
	list := must(h.Store.Unsettled(t.Context()))(t)
	ids := func(js []train.Job) (out []plat.JobID) {
		for _, j := range js {
			out = append(out, j.ID)
		}
		return out
	}
	diff(t, "unsettled", []plat.JobID{early.ID, done.ID, late.ID}, ids(list))
	must(h.Store.UpdateJob(t.Context(), done.ID, func(j *train.Job) (*train.Model, error) { j.Settled = true; return nil, nil }))(t)
	diff(t, "after settling one", []plat.JobID{early.ID, late.ID}, ids(must(h.Store.Unsettled(t.Context()))(t)))
	become(t, h, late.ID, train.Active)
	diff(t, "counts", map[train.Status]int{train.Pending: 1, train.Active: 1}, must(h.Store.JobCounts(t.Context()))(t))
}

func updateFields(t *testing.T, h Harness) {
	j := job(t, h, version(t, h, definition(t, h, "leaf", 0)), 1)
	got := must(h.Store.UpdateJob(t.Context(), j.ID, func(j *train.Job) (*train.Model, error) {
		j.Status, j.StatusMessage, j.StartTime, j.ModifiedAt, j.Workload = train.Active, "m", at(3), at(4), "wl-1"
		j.CompletedAt, j.Archived, j.Settled = at(5), true, true
		return nil, nil
	}))(t)
	j.Status, j.StatusMessage, j.StartTime, j.ModifiedAt, j.Workload = train.Active, "m", at(3), at(4), "wl-1"
	j.CompletedAt, j.Archived, j.Settled = at(5), true, true
	diff(t, "answer", j, got)
	must(h.Store.UpdateJob(t.Context(), j.ID, func(j *train.Job) (*train.Model, error) {
		j.InstanceType, j.Environment["A"], j.Creator = "gpu-1", "2", "x"
		return nil, nil
	}))(t)
	diff(t, "stored", j, must(h.Store.Job(t.Context(), j.ID))(t))
	_, err := h.Store.UpdateJob(t.Context(), "1", func(*train.Job) (*train.Model, error) { return nil, nil })
	isKind(t, "of a missing job", err, plat.ErrNotFound)
}

func updateError(t *testing.T, h Harness) {
	j := job(t, h, version(t, h, definition(t, h, "leaf", 0)), 1)
	boom := errors.New("boom")
	_, err := h.Store.UpdateJob(t.Context(), j.ID, func(j *train.Job) (*train.Model, error) {
		j.Status, j.StatusMessage = train.Active, "half"
		return nil, boom
	})
	isKind(t, "UpdateJob", err, boom)
	diff(t, "stored", j, must(h.Store.Job(t.Context(), j.ID))(t))
}

func updateConcurrent(t *testing.T, h Harness) {
	j := job(t, h, version(t, h, definition(t, h, "leaf", 0)), 1)
	const writers = 8
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			_, errs[i] = h.Store.UpdateJob(t.Context(), j.ID, func(j *train.Job) (*train.Model, error) {
				j.StatusMessage += "x"
				return nil, nil
			})
		})
	}
	wg.Wait()
	ok(t, errors.Join(errs...))
	if got := must(h.Store.Job(t.Context(), j.ID))(t).StatusMessage; got != strings.Repeat("x", writers) {
		t.Errorf("message = %q: a change was lost", got)
	}
}

// updateStateMachine asks for random changes and compares the store with a model
// of it: a state may become only what the table has, a terminal one nothing, and
// the outbox tells the path, no more and no less. Archiving goes its own way.
func updateStateMachine(t *testing.T, h Harness) {
	v := version(t, h, definition(t, h, "leaf", 0))
	all := []train.Status{train.Pending, train.Active, train.Complete, train.Failed, train.Stopped}
	allowed := map[string]bool{ // written out here: the table in the code must not judge itself
		"Pending Active": true, "Pending Failed": true, "Pending Stopped": true,
		"Active Complete": true, "Active Failed": true, "Active Stopped": true,
	}
	var cursor outbox.Cursor
	rapid.Check(t, func(r *rapid.T) {
		j := job(t, h, v, 1)
		path, state, archived := []string{"created"}, train.Pending, false
		for range rapid.IntRange(1, 6).Draw(r, "steps") {
			next, flip := rapid.SampledFrom(all).Draw(r, "next"), rapid.Bool().Draw(r, "flip archived")
			got, err := h.Store.UpdateJob(t.Context(), j.ID, func(j *train.Job) (*train.Model, error) {
				j.Status = next
				j.Archived = j.Archived != flip
				return nil, nil
			})
			switch {
			case next != state && !allowed[string(state)+" "+string(next)]:
				if !errors.Is(err, plat.ErrConflict) {
					r.Fatalf("%s → %s = %v, want ErrConflict", state, next, err)
				}
				continue
			case err != nil:
				r.Fatalf("%s → %s: %v", state, next, err)
			}
			if next != state {
				path = append(path, string(next))
			}
			state, archived = next, archived != flip
			if got.Status != state || got.Archived != archived {
				r.Fatalf("answer = %s archived %v, want %s %v", got.Status, got.Archived, state, archived)
			}
		}
		stored, err := h.Store.Job(t.Context(), j.ID)
		if err != nil || stored.Status != state || stored.Archived != archived {
			r.Fatalf("stored = %+v, %v; want %s archived %v", stored, err, state, archived)
		}
		// On PostgreSQL an event can be behind the horizon for a moment.
		var what []string
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			what = told(r, func() ([]outbox.Event, error) { return h.Events.Read(t.Context(), train.TopicJob, cursor, 1000) }, string(j.ID))
			if len(what) >= len(path) || time.Now().After(deadline) {
				break
			}
		}
		if !slices.Equal(what, path) {
			r.Fatalf("events = %v, want %v", what, path)
		}
		if evs, err := h.Events.Read(t.Context(), train.TopicJob, cursor, 1000); err == nil && len(evs) > 0 {
			cursor = evs[len(evs)-1].Pos
		}
	})
}

func updateModel(t *testing.T, h Harness) {
	ctx, d := t.Context(), definition(t, h, "leaf", 0)
	j := job(t, h, version(t, h, d), 1)
	finish := func(id plat.ModelID, s train.Status) error {
		_, err := h.Store.UpdateJob(ctx, j.ID, func(j *train.Job) (*train.Model, error) {
			j.Status, j.CompletedAt = s, at(7)
			return train.ModelOf(*j, id), nil
		})
		return err
	}
	become(t, h, j.ID, train.Active)
	must(h.Store.AddReport(ctx, j.ID, train.Report{Time: at(2), Statistics: json.RawMessage(`{"acc":0.910,"epoch":3,"stages":{"train":{"loss":"NaN"}}}`)}))(t)
	ok(t, finish("1720000000055", train.Complete))
	ok(t, finish("1720000000056", train.Complete)) // a repeat after a crash
	isKind(t, "another end", finish("1720000000057", train.Failed), plat.ErrConflict)
	list, total, err := h.Store.Models(ctx, d.ID, train.Page{})
	ok(t, err)
	want := train.Model{
		ID: "1720000000055", Org: h.Org, Definition: d.ID, Job: j.ID, Environment: j.Environment, Description: j.Description,
		Metrics: train.Metrics{"acc": json.RawMessage("0.910"), "train_loss": json.RawMessage(`"NaN"`)},
		ExecEnv: train.ExecCloud, User: j.Creator, Object: j.ResultKey(), FromResult: true, CreatedAt: at(7), ModifiedAt: at(7),
	}
	diff(t, "models", []train.Model{want}, list)
	if total != 1 {
		t.Errorf("total = %d", total)
	}
	// Uploaded models of the same job are others, as many as there are.
	for _, id := range []plat.ModelID{"1720000000061", "1720000000062"} {
		ok(t, h.Store.CreateModel(ctx, train.Model{ID: id, Org: h.Org, Definition: d.ID, Job: j.ID, CreatedAt: at(8), ModifiedAt: at(8)}))
	}
}

func reports(t *testing.T, h Harness) {
	ctx := t.Context()
	j := job(t, h, version(t, h, definition(t, h, "leaf", 0)), 1)
	var want []train.Report
	for i, s := range []string{`{"epoch":1}`, `{"epoch":2,"x":"\u0000é"}`, `{"epoch":3}`} {
		want = append(want, train.Report{Time: at(i), Statistics: json.RawMessage(s)})
		got := must(h.Store.AddReport(ctx, j.ID, want[i]))(t)
		if string(got.Statistics) != s || got.ID != j.ID || got.InstanceType != "cpu-1" {
			t.Errorf("answer = %+v", got)
		}
	}
	diff(t, "history", want, must(h.Store.Reports(ctx, j.ID))(t))
	if got := must(h.Store.Job(ctx, j.ID))(t); string(got.Statistics) != `{"epoch":3}` {
		t.Errorf("statistics = %s", got.Statistics)
	}
	_, err := h.Store.AddReport(ctx, "1", want[0])
	isKind(t, "of a missing job", err, plat.ErrNotFound)
}

func models(t *testing.T, h Harness) {
	ctx, d := t.Context(), definition(t, h, "leaf", 0)
	var all []train.Model
	for i := range 3 {
		m := train.Model{
			ID: plat.ModelID(plat.NewDecimalID()), Org: h.Org, Definition: d.ID, Environment: map[string]string{"E": "5"},
			Metrics: train.Metrics{"acc": json.RawMessage("1e-3")}, Description: "d", ExecEnv: train.ExecNone, User: "1",
			Object: "train/m", CreatedAt: at(i), ModifiedAt: at(i),
		}
		ok(t, h.Store.CreateModel(ctx, m))
		diff(t, "Model", m, must(h.Store.Model(ctx, m.ID))(t))
		all = append(all, m)
	}
	all[1].Description, all[1].Archived, all[1].ModifiedAt = "new", true, at(9)
	ok(t, h.Store.UpdateModel(ctx, all[1]))
	slices.Reverse(all)
	list, total, err := h.Store.Models(ctx, d.ID, train.Page{})
	ok(t, err)
	diff(t, "all", all, list)
	list, total2, err := h.Store.Models(ctx, d.ID, train.Page{ExcludeArchived: true, Offset: 1})
	ok(t, err)
	diff(t, "page", all[2:], list)
	if total != 3 || total2 != 2 {
		t.Errorf("totals = %d, %d", total, total2)
	}
	isKind(t, "edit a missing one", h.Store.UpdateModel(ctx, train.Model{ID: "1"}), plat.ErrNotFound)
	isKind(t, "of a missing definition", h.Store.CreateModel(ctx, train.Model{ID: "1", Definition: "1", CreatedAt: at(1)}), plat.ErrNotFound)
}

func nonsense(t *testing.T, h Harness) {
	for _, s := range []string{"", "x", "\x00", "\xff", strings.Repeat("9", 4000)} {
		_, err := h.Store.Definition(t.Context(), h.Org, s)
		isKind(t, "Definition", err, plat.ErrNotFound)
		_, err = h.Store.Job(t.Context(), plat.JobID(s))
		isKind(t, "Job", err, plat.ErrNotFound)
		_, err = h.Store.Model(t.Context(), plat.ModelID(s))
		isKind(t, "Model", err, plat.ErrNotFound)
	}
}
