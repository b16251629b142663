// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"

	"panal/internal/plat"
)

// Definition is a job definition.
type Definition struct {
	ID           string    `json:"job_definition_id"`
	Name         string    `json:"name"`
	Archived     bool      `json:"archived"`
	VersionCount int       `json:"version_count"`
	ModelCount   int       `json:"model_count"`
	Versions     []Version `json:"versions"`
	CreatedAt    string    `json:"created_at"`
	ModifiedAt   string    `json:"modified_at"`
}

// Version is a version of a job definition.
type Version struct {
	Definition  string            `json:"job_definition_id"`
	Number      int               `json:"job_definition_version"`
	Handler     string            `json:"handler"`
	Image       string            `json:"image"`
	Environment map[string]string `json:"environment"`
	Datasets    map[string]string `json:"datasets"`
	Description string            `json:"description"`
	Archived    bool              `json:"archived"`
	GitURL      string            `json:"git_url,omitempty"`
	GitRef      string            `json:"git_branch,omitempty"`
	GitCommit   string            `json:"git_commit,omitempty"`
	CreatedAt   string            `json:"created_at"`
	ModifiedAt  string            `json:"modified_at"`
}

// VersionParams describes a new version.
type VersionParams struct {
	Handler     string            `json:"handler"`
	Image       string            `json:"image"`
	Environment map[string]string `json:"environment,omitempty"`
	Datasets    map[string]string `json:"datasets,omitempty"`
	Description string            `json:"description,omitempty"`
}

// Job is a training job.
type Job struct {
	ID            string            `json:"id"`
	Definition    string            `json:"job_definition_id"`
	Version       int               `json:"job_definition_version"`
	Status        string            `json:"status"`
	StatusMessage string            `json:"status_message"`
	InstanceType  string            `json:"instance_type"`
	ExecEnv       string            `json:"exec_env"`
	Environment   map[string]string `json:"environment"`
	Datasets      map[string]string `json:"datasets"`
	Statistics    *Statistics       `json:"statistics"`
	Description   string            `json:"description"`
	Archived      bool              `json:"archived"`
	StartTime     string            `json:"start_time"`
	CompletedAt   string            `json:"completion_time"`
	CreatedAt     string            `json:"created_at"`
	ModifiedAt    string            `json:"modified_at"`
}

// Ended tells whether the job has reached a state that is final.
func (j Job) Ended() bool {
	return j.Status == "Complete" || j.Status == "Failed" || j.Status == "Stopped"
}

// Statistics is what a job reports of its progress: the whole object, and the
// fields that are common to all.
type Statistics struct {
	NumEpochs int
	Epoch     int
	Progress  float64 // 0 to 1
	Stages    map[string]map[string]any
	raw       json.RawMessage
}

// UnmarshalJSON implements json.Unmarshaler. What user code reports in another
// shape is left out of the fields, not refused.
func (s *Statistics) UnmarshalJSON(b []byte) error {
	s.raw = append(json.RawMessage(nil), b...)
	var top map[string]json.RawMessage
	if err := json.Unmarshal(b, &top); err != nil {
		return err
	}
	for key, field := range map[string]any{
		"num_epochs": &s.NumEpochs, "epoch": &s.Epoch, "progress_percentage": &s.Progress, "stages": &s.Stages,
	} {
		if raw, ok := top[key]; ok {
			_ = json.Unmarshal(raw, field) // see above
		}
	}
	return nil
}

// MarshalJSON implements json.Marshaler: the object as the server sent it.
func (s Statistics) MarshalJSON() ([]byte, error) {
	if s.raw == nil {
		return []byte("null"), nil
	}
	return s.raw, nil
}

// JobParams describes a new job; empty fields take the version's values.
type JobParams struct {
	Environment  map[string]string `json:"environment,omitempty"`
	Datasets     map[string]string `json:"datasets,omitempty"`
	InstanceType string            `json:"instance_type,omitempty"`
	Description  string            `json:"description,omitempty"`
}

// Report is one entry of a job's history of statistics.
type Report struct {
	Time       string          `json:"time"`
	Statistics json.RawMessage `json:"statistics"`
}

// Model is a training model.
type Model struct {
	ID          string                     `json:"id"`
	Definition  string                     `json:"job_definition_id"`
	Job         string                     `json:"training_job_id"`
	Environment map[string]string          `json:"environment"`
	Metrics     map[string]json.RawMessage `json:"metrics"`
	Description string                     `json:"description"`
	ExecEnv     string                     `json:"exec_env"`
	Archived    bool                       `json:"archived"`
	CreatedAt   string                     `json:"created_at"`
	ModifiedAt  string                     `json:"modified_at"`
}

// ModelParams describes an uploaded model.
type ModelParams struct {
	Job         string                     `json:"training_job_id,omitempty"`
	Environment map[string]string          `json:"user_parameters,omitempty"`
	Metrics     map[string]json.RawMessage `json:"metrics,omitempty"`
	Description string                     `json:"description,omitempty"`
}

func (c *Client) definition(name string, segments ...string) string {
	return c.OrgPath(append([]string{"training", "definitions", name}, segments...)...)
}

// all walks the pages of an offset list.
func all[T any](ctx context.Context, c *Client, path string, q url.Values) ([]T, error) {
	const size = 1000
	out := []T{}
	if q == nil {
		q = url.Values{}
	}
	for {
		q.Set("offset", strconv.Itoa(len(out)))
		q.Set("limit", strconv.Itoa(size))
		var p struct {
			Entries []T `json:"entries"`
			Total   int `json:"total"`
		}
		if err := c.JSON(ctx, http.MethodGet, path, q, nil, &p); err != nil {
			return nil, err
		}
		out = append(out, p.Entries...)
		if len(p.Entries) == 0 || len(out) >= p.Total {
			return out, nil
		}
	}
}

func archivedQuery(include bool) url.Values {
	if include {
		return nil
	}
	return url.Values{"filter_archived": {"exclude_archived"}}
}

// CreateDefinition makes a job definition.
func (c *Client) CreateDefinition(ctx context.Context, name string) (Definition, error) {
	var d Definition
	err := c.JSON(ctx, http.MethodPost, c.OrgPath("training", "definitions"), nil, map[string]string{"name": name}, &d)
	return d, err
}

// Definitions lists all job definitions, newest first.
func (c *Client) Definitions(ctx context.Context, archived bool) ([]Definition, error) {
	return all[Definition](ctx, c, c.OrgPath("training", "definitions"), archivedQuery(archived))
}

// Definition returns a job definition by id or name, with its versions.
func (c *Client) Definition(ctx context.Context, name string) (Definition, error) {
	var d Definition
	err := c.JSON(ctx, http.MethodGet, c.definition(name), url.Values{"include_jobs": {"false"}}, nil, &d)
	return d, err
}

// DeleteDefinition deletes a job definition with all that it holds.
func (c *Client) DeleteDefinition(ctx context.Context, name string) error {
	return c.JSON(ctx, http.MethodDelete, c.definition(name), nil, nil, nil)
}

// CreateVersion makes a version of the archive (zip or tar.gz) that write writes.
func (c *Client) CreateVersion(ctx context.Context, def string, p VersionParams, write func(io.Writer) error) (Version, error) {
	var v Version
	err := c.form(ctx, c.definition(def, "versions"), "source_code", "source.tar.gz", "application/gzip", p, write, &v)
	return v, err
}

// VersionFromGit makes a version of a job definition from a repository.
func (c *Client) VersionFromGit(ctx context.Context, def string, git Git, p VersionParams) (Version, error) {
	return call[Version](ctx, c, http.MethodPost, c.definition(def, "git", "versions"), struct {
		Git
		VersionParams
	}{git, p})
}

// form posts a file and its parameters as multipart/form-data. The file is
// streamed: it is never held whole.
func (c *Client) form(ctx context.Context, path, field, file, contentType string, params any, write func(io.Writer) error, out any) error {
	pr, pw := io.Pipe()
	mw := multipart.NewWriter(pw)
	done := make(chan error, 1)
	part := func(name, file, contentType string, write func(io.Writer) error) error {
		h := textproto.MIMEHeader{}
		h.Set("Content-Disposition", fmt.Sprintf(`form-data; name=%q; filename=%q`, name, file))
		h.Set("Content-Type", contentType)
		w, err := mw.CreatePart(h)
		if err != nil {
			return err
		}
		return write(w)
	}
	go func() {
		err := part("parameters", "params.json", "application/json", func(w io.Writer) error { return json.NewEncoder(w).Encode(params) })
		if err == nil {
			err = part(field, file, contentType, write)
		}
		if err == nil {
			err = mw.Close()
		}
		_ = pw.CloseWithError(err) // never fails
		done <- err
	}()
	res, err := c.Do(ctx, Request{Method: http.MethodPost, Path: path, Header: http.Header{"Content-Type": {mw.FormDataContentType()}}, Body: pr, Size: -1})
	_ = pr.CloseWithError(io.ErrClosedPipe) // the writer may still be at it when the server has answered already
	if werr := <-done; werr != nil && plat.KindOf(werr) != nil {
		if res != nil {
			_ = res.Body.Close()
		}
		return werr // what can't be read here is the better reason
	}
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("POST %s: decode answer: %w", path, err)
	}
	return nil
}

// Versions lists the versions of a definition.
func (c *Client) Versions(ctx context.Context, def string, archived bool) ([]Version, error) {
	var l struct {
		Entries []Version `json:"entries"`
	}
	err := c.JSON(ctx, http.MethodGet, c.definition(def, "versions"), archivedQuery(archived), nil, &l)
	return l.Entries, err
}

// CreateJob queues a job of a version.
func (c *Client) CreateJob(ctx context.Context, def string, version int, p JobParams) (Job, error) {
	var j Job
	err := c.JSON(ctx, http.MethodPost, c.definition(def, "versions", strconv.Itoa(version), "jobs"), nil, p, &j)
	return j, err
}

// Jobs lists the jobs of a definition, newest first.
func (c *Client) Jobs(ctx context.Context, def string, archived bool) ([]Job, error) {
	return all[Job](ctx, c, c.definition(def, "jobs"), archivedQuery(archived))
}

// Job returns one job.
func (c *Client) Job(ctx context.Context, def, id string) (Job, error) {
	var j Job
	err := c.JSON(ctx, http.MethodGet, c.definition(def, "jobs", id), nil, nil, &j)
	return j, err
}

// StopJob stops a job.
func (c *Client) StopJob(ctx context.Context, def, id string) error {
	return c.JSON(ctx, http.MethodPost, c.definition(def, "jobs", id, "stop"), nil, nil, nil)
}

// JobResult opens the job's result, a zip. The caller closes it.
func (c *Client) JobResult(ctx context.Context, def, id string) (io.ReadCloser, int64, error) {
	return c.download(ctx, c.definition(def, "jobs", id, "result"))
}

// JobReports returns what the job has reported so far, oldest first.
func (c *Client) JobReports(ctx context.Context, def, id string) ([]Report, error) {
	var l struct {
		Entries []Report `json:"entries"`
	}
	err := c.JSON(ctx, http.MethodGet, c.definition(def, "jobs", id, "statistics"), nil, nil, &l)
	return l.Entries, err
}

// download follows an answer's download_uri.
func (c *Client) download(ctx context.Context, path string) (io.ReadCloser, int64, error) {
	var where struct {
		URI string `json:"download_uri"`
	}
	if err := c.JSON(ctx, http.MethodGet, path, nil, nil, &where); err != nil {
		return nil, 0, err
	}
	res, err := c.Do(ctx, Request{Method: http.MethodGet, Path: where.URI})
	if err != nil {
		return nil, 0, err
	}
	return res.Body, res.ContentLength, nil
}

// CreateModel uploads a model, a zip that write writes.
func (c *Client) CreateModel(ctx context.Context, def string, p ModelParams, write func(io.Writer) error) (Model, error) {
	var m Model
	err := c.form(ctx, c.definition(def, "models"), "model_data", "model.zip", "application/zip", p, write, &m)
	return m, err
}

// Models lists the models of a definition, newest first.
func (c *Client) Models(ctx context.Context, def string, archived bool) ([]Model, error) {
	var l struct {
		Entries []Model `json:"entries"`
	}
	err := c.JSON(ctx, http.MethodGet, c.definition(def, "models"), archivedQuery(archived), nil, &l)
	return l.Entries, err
}

// Model returns one model.
func (c *Client) Model(ctx context.Context, def, id string) (Model, error) {
	var m Model
	err := c.JSON(ctx, http.MethodGet, c.definition(def, "models", id), nil, nil, &m)
	return m, err
}

// DescribeModel changes a model's description.
func (c *Client) DescribeModel(ctx context.Context, def, id, description string) (Model, error) {
	var m Model
	err := c.JSON(ctx, http.MethodPatch, c.definition(def, "models", id), nil, map[string]string{"description": description}, &m)
	return m, err
}

// ArchiveModel archives a model, or takes it back.
func (c *Client) ArchiveModel(ctx context.Context, def, id string, archived bool) error {
	verb := "archive"
	if !archived {
		verb = "unarchive"
	}
	return c.JSON(ctx, http.MethodPost, c.definition(def, "models", id, verb), nil, nil, nil)
}

// DownloadModel opens a model's zip. The caller closes it.
func (c *Client) DownloadModel(ctx context.Context, def, id string) (io.ReadCloser, int64, error) {
	return c.download(ctx, c.definition(def, "models", id, "download"))
}
