// SPDX-License-Identifier: Apache-2.0

package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"panal/internal/plat"
	"panal/internal/x/archive"
)

// JobParams is what a caller says of a new job; zero values take the version's.
type JobParams struct {
	Environment  map[string]string
	Datasets     map[string]plat.DatasetID
	InstanceType string
	Premounts    Premounts
	ExportLog    bool
	Description  string
	ExecEnv      ExecEnv
}

// CreateJob queues a job of a version.
func (s *Service) CreateJob(ctx context.Context, org plat.OrgID, idOrName string, n int, by plat.UserID, p JobParams) (Job, error) {
	v, err := s.Version(ctx, org, idOrName, n)
	if err != nil {
		return Job{}, err
	}
	switch p.ExecEnv {
	case "", ExecCloud:
		p.ExecEnv = ExecCloud
	case ExecLocal:
		return Job{}, plat.Errorf(plat.ErrUnsupported, "exec_env local is not built yet in this version; leave it out to run the job here")
	default:
		return Job{}, plat.InvalidField("exec_env", "%.60q must be left out, or \"cloud\"", string(p.ExecEnv))
	}
	if p.InstanceType == "" {
		p.InstanceType = DefaultInstanceType(v.Image)
	}
	_, badType := plat.ParseInstanceType(p.InstanceType)
	j := Job{
		Org: org, Definition: v.Definition, Version: n, Status: Pending,
		InstanceType: p.InstanceType, ExecEnv: p.ExecEnv,
		Environment: MergeEnvironment(v.Environment, p.Environment), Datasets: MergeDatasets(v.Datasets, p.Datasets),
		Premounts: p.Premounts, ExportLog: p.ExportLog, Description: p.Description, Creator: by,
	}
	for _, err := range []error{
		badType, CheckEnvironment("environment", j.Environment), CheckDatasets(j.Datasets), CheckDescription(p.Description), checkPremounts(p.Premounts),
	} {
		if err != nil {
			return Job{}, err
		}
	}
	for range 3 { // ids are random: a clash is next to impossible, and not the caller's fault
		j.ID = plat.JobID(plat.NewDecimalID())
		j.CreatedAt = s.now()
		j.ModifiedAt = j.CreatedAt
		if err = s.store.CreateJob(ctx, j); !errors.Is(err, plat.ErrExists) {
			break
		}
	}
	if err != nil {
		return Job{}, fmt.Errorf("create job of %s:%d: %w", v.Definition, n, err)
	}
	return j, nil
}

// Job returns one job of a definition.
func (s *Service) Job(ctx context.Context, org plat.OrgID, idOrName string, id plat.JobID) (Job, error) {
	d, err := s.store.Definition(ctx, org, idOrName)
	if err != nil {
		return Job{}, err
	}
	j, err := s.store.Job(ctx, id)
	if err != nil {
		return Job{}, err
	}
	if j.Definition != d.ID {
		return Job{}, plat.NotFound("training job", id)
	}
	return j, nil
}

// Jobs returns a page of a definition's jobs, newest first, and how many there are.
func (s *Service) Jobs(ctx context.Context, org plat.OrgID, idOrName string, p Page) ([]Job, int, error) {
	d, err := s.store.Definition(ctx, org, idOrName)
	if err != nil {
		return nil, 0, err
	}
	return s.store.Jobs(ctx, d.ID, p)
}

// StopJob stops a job: the record at once, the workload soon after. ErrConflict
// when it has ended.
func (s *Service) StopJob(ctx context.Context, org plat.OrgID, idOrName string, id plat.JobID) (Job, error) {
	if _, err := s.Job(ctx, org, idOrName, id); err != nil {
		return Job{}, err
	}
	now := s.now()
	return s.store.UpdateJob(ctx, id, func(j *Job) (*Model, error) {
		if j.Status.Terminal() {
			return nil, plat.Errorf(plat.ErrConflict, "training job %s is %s already", j.ID, j.Status)
		}
		j.Status, j.CompletedAt, j.ModifiedAt = Stopped, now, now
		j.StatusMessage = ""
		return nil, nil
	})
}

// ArchiveJob sets the archived flag of a job that has ended.
func (s *Service) ArchiveJob(ctx context.Context, org plat.OrgID, idOrName string, id plat.JobID, archived bool) (Job, error) {
	if _, err := s.Job(ctx, org, idOrName, id); err != nil {
		return Job{}, err
	}
	now := s.now()
	return s.store.UpdateJob(ctx, id, func(j *Job) (*Model, error) {
		if archived && !j.Status.Terminal() {
			return nil, plat.Errorf(plat.ErrConflict, "training job %s is %s; only a job that has ended can be archived", j.ID, j.Status)
		}
		j.Archived, j.ModifiedAt = archived, now
		return nil, nil
	})
}

// Report replaces the job's statistics and keeps the history.
func (s *Service) Report(ctx context.Context, org plat.OrgID, idOrName string, id plat.JobID, statistics json.RawMessage) (Job, error) {
	if _, err := s.Job(ctx, org, idOrName, id); err != nil {
		return Job{}, err
	}
	compact, err := checkStatistics(statistics)
	if err != nil {
		return Job{}, err
	}
	return s.store.AddReport(ctx, id, Report{Time: s.now(), Statistics: compact})
}

// Reports returns the history of a job's statistics, oldest first.
func (s *Service) Reports(ctx context.Context, org plat.OrgID, idOrName string, id plat.JobID) ([]Report, error) {
	if _, err := s.Job(ctx, org, idOrName, id); err != nil {
		return nil, err
	}
	return s.store.Reports(ctx, id)
}

// Result returns the key of the job's result; ErrNotFound when there is none.
func (s *Service) Result(ctx context.Context, org plat.OrgID, idOrName string, id plat.JobID) (string, error) {
	j, err := s.Job(ctx, org, idOrName, id)
	if err != nil {
		return "", err
	}
	switch _, err := s.blobs.Stat(ctx, j.ResultKey()); {
	case errors.Is(err, plat.ErrNotFound):
		return "", plat.Errorf(plat.ErrNotFound, "training job %s (%s) has no result", id, j.Status)
	case err != nil:
		return "", err
	}
	return j.ResultKey(), nil
}

// ResultUpload returns the key under which the job's result is to be stored.
// ErrConflict once the job is Complete: its result has become a model.
func (s *Service) ResultUpload(ctx context.Context, org plat.OrgID, idOrName string, id plat.JobID) (string, error) {
	j, err := s.Job(ctx, org, idOrName, id)
	if err != nil {
		return "", err
	}
	if j.Status == Complete {
		return "", plat.Errorf(plat.ErrConflict, "training job %s is Complete; its result is final", id)
	}
	return j.ResultKey(), nil
}

// ModelParams is what a caller says of a new model.
type ModelParams struct {
	Job         plat.JobID
	Environment map[string]string
	Metrics     Metrics
	Description string
}

// CreateModel checks and stores a zip and makes a model of it.
func (s *Service) CreateModel(ctx context.Context, org plat.OrgID, idOrName string, by plat.UserID, p ModelParams, data Upload) (Model, error) {
	d, err := s.store.Definition(ctx, org, idOrName)
	if err != nil {
		return Model{}, err
	}
	// The environment is a record of what the model was made with, not one to run
	// with: reserved names are fine in it.
	for _, err := range []error{checkRecord(p.Environment), CheckMetrics(p.Metrics), CheckDescription(p.Description)} {
		if err != nil {
			return Model{}, err
		}
	}
	execEnv := ExecNone
	if p.Job != "" {
		j, err := s.store.Job(ctx, p.Job)
		if errors.Is(err, plat.ErrNotFound) || err == nil && j.Definition != d.ID {
			return Model{}, plat.InvalidField("training_job_id", "%s is no job of this definition", p.Job)
		}
		if err != nil {
			return Model{}, err
		}
		execEnv = j.ExecEnv
	}
	kind, err := checkArchive("model_data", data, archive.Limits{})
	if err != nil {
		return Model{}, err
	}
	if kind != "application/zip" {
		return Model{}, plat.InvalidField("model_data", "must be a zip archive")
	}
	now := s.now()
	m := Model{
		ID: plat.ModelID(plat.NewDecimalID()), Org: org, Definition: d.ID, Job: p.Job, Environment: p.Environment,
		Metrics: p.Metrics, Description: p.Description, ExecEnv: execEnv, User: by, CreatedAt: now, ModifiedAt: now,
	}
	m.Object = modelKey(m)
	if err := s.put(ctx, m.Object, kind, data); err != nil {
		return Model{}, err
	}
	if err := s.store.CreateModel(ctx, m); err != nil {
		return Model{}, errors.Join(fmt.Errorf("create model of %s: %w", d.ID, err), s.drop(ctx, m.Object, err))
	}
	return m, nil
}

func checkRecord(env map[string]string) error {
	plain := make(map[string]string, len(env))
	for k, v := range env {
		if !envPattern.MatchString(k) {
			return plat.InvalidField("user_parameters", "%.60q is not the name of a variable", k)
		}
		plain["x_"+k] = v
	}
	return CheckEnvironment("environment", plain)
}

// ModelOf returns the model that is registered from the result of a job which
// completes now. It shares the result's object.
func ModelOf(j Job, id plat.ModelID) *Model {
	return &Model{
		ID: id, Org: j.Org, Definition: j.Definition, Job: j.ID, Environment: j.Environment, Metrics: MetricsOf(j.Statistics),
		Description: j.Description, ExecEnv: j.ExecEnv, User: j.Creator, Object: j.ResultKey(), FromResult: true,
		CreatedAt: j.CompletedAt, ModifiedAt: j.CompletedAt,
	}
}

// Model returns one model of a definition.
func (s *Service) Model(ctx context.Context, org plat.OrgID, idOrName string, id plat.ModelID) (Model, error) {
	d, err := s.store.Definition(ctx, org, idOrName)
	if err != nil {
		return Model{}, err
	}
	m, err := s.store.Model(ctx, id)
	if err != nil {
		return Model{}, err
	}
	if m.Definition != d.ID {
		return Model{}, plat.NotFound("training model", id)
	}
	return m, nil
}

// Models returns a page of a definition's models, newest first, and how many there are.
func (s *Service) Models(ctx context.Context, org plat.OrgID, idOrName string, p Page) ([]Model, int, error) {
	d, err := s.store.Definition(ctx, org, idOrName)
	if err != nil {
		return nil, 0, err
	}
	return s.store.Models(ctx, d.ID, p)
}

// UpdateModel edits a model.
func (s *Service) UpdateModel(ctx context.Context, org plat.OrgID, idOrName string, id plat.ModelID, e Edit) (Model, error) {
	m, err := s.Model(ctx, org, idOrName, id)
	if err != nil {
		return Model{}, err
	}
	if err := e.apply(&m.Description, &m.Archived); err != nil {
		return Model{}, err
	}
	m.ModifiedAt = s.now()
	return m, s.store.UpdateModel(ctx, m)
}
