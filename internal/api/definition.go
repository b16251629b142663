// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"panal/internal/api/compat"
	"panal/internal/authz"
	"panal/internal/plat"
	"panal/internal/train"
)

// JobDefinition is the wire's job definition (compute.md §2.1).
type JobDefinition struct {
	JobDefinitionID  string                 `json:"job_definition_id" example:"1701000000012"`
	OrganizationID   string                 `json:"organization_id"`
	Name             string                 `json:"name" example:"leaf-classifier"`
	Archived         bool                   `json:"archived"`
	VersionCount     int                    `json:"version_count"`
	ModelCount       int                    `json:"model_count"`
	NotebookCount    int                    `json:"notebook_count"`
	TensorboardCount int                    `json:"tensorboard_count"`
	Versions         []JobDefinitionVersion `json:"versions"`
	Jobs             []Job                  `json:"jobs" doc:"null but in the answer to a single GET with include_jobs"`
	CreatedAt        string                 `json:"created_at"`
	ModifiedAt       string                 `json:"modified_at"`
}

// JobDefinitionVersion is the wire's version (compute.md §2.3).
type JobDefinitionVersion struct {
	JobDefinitionID      string           `json:"job_definition_id"`
	JobDefinitionVersion int              `json:"job_definition_version" example:"1"`
	Handler              string           `json:"handler" example:"train:handler"`
	Image                string           `json:"image" example:"abeja-inc/all-cpu:19.10"`
	Environment          compat.StringMap `json:"environment"`
	UserParameters       compat.StringMap `json:"user_parameters" doc:"mirror of environment"`
	Datasets             compat.StringMap `json:"datasets" doc:"alias to dataset id"`
	Datalakes            []string         `json:"datalakes"`
	Buckets              []string         `json:"buckets"`
	DatasetPremounted    bool             `json:"dataset_premounted"`
	Description          *string          `json:"description"`
	Archived             bool             `json:"archived"`
	CreatedAt            string           `json:"created_at"`
	ModifiedAt           string           `json:"modified_at"`
	GitURL               string           `json:"git_url,omitempty" doc:"extension: the repository, for a version from git"`
	GitBranch            string           `json:"git_branch,omitempty" doc:"extension: the branch, tag or commit that was asked for"`
	GitCommit            string           `json:"git_commit,omitempty" doc:"extension: the commit that it was"`
}

// Message is the answer of operations that have nothing else to say.
type Message struct {
	Message string `json:"message"`
}

// DownloadURI is the answer of operations that hand out a signed URL.
type DownloadURI struct {
	DownloadURI string `json:"download_uri" doc:"works without credentials until it expires"`
}

// list is a whole list with its length.
type list[T any] struct {
	Entries []T `json:"entries"`
	Total   int `json:"total"`
}

// page is a part of a list (compute.md §1.6, offset style).
type page[T any] struct {
	Entries []T `json:"entries"`
	Offset  int `json:"offset"`
	Limit   int `json:"limit"`
	Total   int `json:"total"`
}

// OrgPath is orgPath for inputs that embed it: huma sees only exported fields.
type OrgPath struct {
	Org string `path:"organization_id" doc:"organization id or name"`
}

// DefinitionPath is the path parameter of everything below a definition.
type DefinitionPath struct {
	OrgPath
	Definition string `path:"job_definition" doc:"job definition id or name"`
}

// VersionPath is the path parameters of everything below a version.
type VersionPath struct {
	DefinitionPath
	Version int `path:"version" doc:"version number"`
}

// Paging is the query parameters of the offset style.
type Paging struct {
	Offset int `query:"offset" minimum:"0" maximum:"1000000000"`
	Limit  int `query:"limit" minimum:"0" doc:"at most 1000"`
	ArchivedFilter
}

// ArchivedFilter is how lists leave out what is archived; absent means all.
type ArchivedFilter struct {
	Filter string `query:"filter_archived" doc:"exclude_archived or include_archived (the default)"`
}

func (f ArchivedFilter) exclude() bool { return strings.EqualFold(f.Filter, "exclude_archived") }

const maxPage = 1000

func (p Paging) page(def int) train.Page {
	limit := p.Limit
	if limit == 0 {
		limit = def
	}
	return train.Page{Offset: p.Offset, Limit: min(limit, maxPage), ExcludeArchived: p.exclude()}
}

const (
	pathDefinitions = "/organizations/{organization_id}/training/definitions"
	pathDefinition  = pathDefinitions + "/{job_definition}"
	pathVersion     = pathDefinition + "/versions/{version}"
)

func micro(t time.Time) string { return t.Format(plat.TimeMicroZ) }

// orNull is a text that is null on the wire when it is empty.
func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func datasetMap(in map[string]plat.DatasetID) compat.StringMap {
	out := make(compat.StringMap, len(in))
	for k, v := range in {
		out[k] = string(v)
	}
	return out
}

func datasetIDs(in compat.StringMap) map[string]plat.DatasetID {
	out := make(map[string]plat.DatasetID, len(in))
	for k, v := range in {
		out[k] = plat.DatasetID(v)
	}
	return out
}

func wireVersion(v train.Version) JobDefinitionVersion {
	return JobDefinitionVersion{
		JobDefinitionID: string(v.Definition), JobDefinitionVersion: v.Number, Handler: v.Handler, Image: v.Image,
		Environment: v.Environment, UserParameters: v.Environment, Datasets: datasetMap(v.Datasets),
		Datalakes: orEmpty(v.Premounts.Datalakes), Buckets: orEmpty(v.Premounts.Buckets), DatasetPremounted: v.Premounts.DatasetPremounted,
		Description: orNull(v.Description), Archived: v.Archived, CreatedAt: micro(v.CreatedAt), ModifiedAt: micro(v.ModifiedAt),
		GitURL: v.Git.URL, GitBranch: v.Git.Ref, GitCommit: v.Git.Commit,
	}
}

// wireDefinitions fills in the versions of all definitions with one query.
func (a *API) wireDefinitions(ctx context.Context, defs ...train.Definition) ([]JobDefinition, error) {
	ids := make([]plat.JobDefinitionID, len(defs))
	for i, d := range defs {
		ids[i] = d.ID
	}
	versions, err := a.Train.Versions(ctx, false, ids...)
	if err != nil {
		return nil, err
	}
	of := map[plat.JobDefinitionID][]JobDefinitionVersion{}
	for _, v := range versions {
		of[v.Definition] = append(of[v.Definition], wireVersion(v))
	}
	out := make([]JobDefinition, len(defs))
	for i, d := range defs {
		out[i] = JobDefinition{
			JobDefinitionID: string(d.ID), OrganizationID: string(d.Org), Name: d.Name, Archived: d.Archived,
			VersionCount: d.VersionCount, ModelCount: d.ModelCount, Versions: orEmpty(of[d.ID]),
			CreatedAt: micro(d.CreatedAt), ModifiedAt: micro(d.ModifiedAt),
		}
	}
	return out, nil
}

func (a *API) addDefinitions() {
	const tag = "training"
	type newJobDefinition struct {
		Name string `json:"name" example:"leaf-classifier"`
	}
	type createInput struct {
		OrgPath
		Body *newJobDefinition
	}
	register(a, operation{
		ID: "create-job-definition", Method: http.MethodPost, Path: pathDefinitions,
		Summary: "Create a job definition", Tag: tag, Family: familyCompute, Op: authz.DefinitionCreate,
	}, func(ctx context.Context, in *createInput) (*JobDefinition, error) {
		if in.Body == nil {
			in.Body = &newJobDefinition{}
		}
		d, err := a.Train.CreateDefinition(ctx, caller(ctx).Org, in.Body.Name)
		if err != nil {
			return nil, err
		}
		touched(ctx, "job_definition", string(d.ID))
		out, err := a.wireDefinitions(ctx, d)
		if err != nil {
			return nil, err
		}
		return &out[0], nil
	})

	type listInput struct {
		OrgPath
		Paging
	}
	register(a, operation{
		ID: "list-job-definitions", Method: http.MethodGet, Path: pathDefinitions,
		Summary: "List job definitions, newest first", Tag: tag, Family: familyCompute, Op: authz.DefinitionRead,
	}, func(ctx context.Context, in *listInput) (*page[JobDefinition], error) {
		p := in.page(50)
		defs, total, err := a.Train.Definitions(ctx, caller(ctx).Org, p)
		if err != nil {
			return nil, err
		}
		out, err := a.wireDefinitions(ctx, defs...)
		if err != nil {
			return nil, err
		}
		return &page[JobDefinition]{Entries: out, Offset: p.Offset, Limit: p.Limit, Total: total}, nil
	})

	type getInput struct {
		DefinitionPath
		IncludeJobs string `query:"include_jobs" doc:"true (the default) or false: with the newest 1000 jobs"`
	}
	register(a, operation{
		ID: "get-job-definition", Method: http.MethodGet, Path: pathDefinition,
		Summary: "Get a job definition", Tag: tag, Family: familyCompute, Op: authz.DefinitionRead,
	}, func(ctx context.Context, in *getInput) (*JobDefinition, error) {
		withJobs := compat.Bool(true)
		if in.IncludeJobs != "" {
			if err := withJobs.UnmarshalText([]byte(in.IncludeJobs)); err != nil {
				return nil, plat.InvalidField("include_jobs", "%v", err)
			}
		}
		d, err := a.Train.Definition(ctx, caller(ctx).Org, in.Definition)
		if err != nil {
			return nil, err
		}
		out, err := a.wireDefinitions(ctx, d)
		if err != nil {
			return nil, err
		}
		if withJobs {
			jobs, _, err := a.Train.Jobs(ctx, d.Org, string(d.ID), train.Page{Limit: maxPage})
			if err != nil {
				return nil, err
			}
			if out[0].Jobs, err = a.wireJobs(ctx, jobs...); err != nil {
				return nil, err
			}
		}
		return &out[0], nil
	})

	register(a, operation{
		ID: "delete-job-definition", Method: http.MethodDelete, Path: pathDefinition,
		Summary: "Delete a job definition with its versions, jobs and models", Tag: tag, Family: familyCompute, Op: authz.DefinitionDelete,
	}, func(ctx context.Context, in *DefinitionPath) (*Message, error) {
		d, err := a.Train.DeleteDefinition(ctx, caller(ctx).Org, in.Definition)
		return &Message{Message: d.Name + " deleted"}, err
	})

	for _, verb := range []string{"archive", "unarchive"} {
		register(a, operation{
			ID: verb + "-job-definition", Method: http.MethodPost, Path: pathDefinition + "/" + verb,
			Summary: strings.ToUpper(verb[:1]) + verb[1:] + " a job definition", Tag: tag, Family: familyCompute, Op: authz.DefinitionUpdate,
		}, func(ctx context.Context, in *DefinitionPath) (*Message, error) {
			d, err := a.Train.ArchiveDefinition(ctx, caller(ctx).Org, in.Definition, verb == "archive")
			return &Message{Message: d.Name + " " + verb + "d"}, err
		})
	}
	a.addVersions(tag)
}

// VersionParameters is what is said of a new version, the JSON part of an upload (compute.md §2.4).
type VersionParameters struct {
	Handler           *string          `json:"handler"`
	Image             *string          `json:"image"`
	Environment       compat.StringMap `json:"environment"`
	UserParameters    compat.StringMap `json:"user_parameters"`
	Datasets          compat.StringMap `json:"datasets"`
	Description       *string          `json:"description"`
	Datalakes         []string         `json:"datalakes"`
	Buckets           []string         `json:"buckets"`
	DatasetPremounted compat.Bool      `json:"dataset_premounted"`
}

// environment is the variables that a body gives under either name; the older
// one counts when the other is absent.
func environment(env, userParameters compat.StringMap) map[string]string {
	if env == nil {
		return userParameters
	}
	return env
}

func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

func (p VersionParameters) params() train.VersionParams {
	return train.VersionParams{
		Handler: value(p.Handler), Image: value(p.Image), Environment: environment(p.Environment, p.UserParameters),
		Datasets: datasetIDs(p.Datasets), Description: value(p.Description),
		Premounts: train.Premounts{Datalakes: p.Datalakes, Buckets: p.Buckets, DatasetPremounted: bool(p.DatasetPremounted)},
	}
}

func (a *API) addVersions(tag string) {
	a.raw(operation{
		ID: "create-job-definition-version", Method: http.MethodPost, Path: pathDefinition + "/versions",
		Summary: "Create a version: multipart/form-data with source_code (zip or tar.gz) and parameters (JSON)", Tag: tag,
		Family: familyCompute, Op: authz.DefinitionUpdate,
	}, func(w http.ResponseWriter, r *http.Request) {
		var p VersionParameters
		src, err := a.readForm(w, r, "source_code", train.MaxSourceBytes, &p)
		if err != nil {
			a.fail(w, r, familyCompute, err)
			return
		}
		defer src.close()
		v, err := a.Train.CreateVersion(r.Context(), caller(r.Context()).Org, param(r, "job_definition"), p.params(), trainUpload(src))
		if err != nil {
			a.fail(w, r, familyCompute, err)
			return
		}
		touched(r.Context(), "version", strconv.Itoa(v.Number))
		writeJSON(w, http.StatusOK, wireVersion(v))
	})

	type newGitVersion struct {
		GitSource
		VersionParameters
	}
	type gitInput struct {
		DefinitionPath
		Body *newGitVersion
	}
	register(a, operation{
		ID: "create-job-definition-version-from-git", Method: http.MethodPost, Path: pathDefinition + "/git/versions",
		Summary: "Create a version from a git repository", Tag: tag, Family: familyCompute, Op: authz.DefinitionUpdate,
	}, func(ctx context.Context, in *gitInput) (*JobDefinitionVersion, error) {
		b := value(in.Body)
		fetch, done := a.fetching(b.GitSource)
		defer done()
		v, err := a.Train.CreateVersionFromGit(ctx, caller(ctx).Org, in.Definition, b.params(), fetch)
		if err != nil {
			return nil, err
		}
		touched(ctx, "version", strconv.Itoa(v.Number))
		out := wireVersion(v)
		return &out, nil
	})

	type listInput struct {
		DefinitionPath
		ArchivedFilter
	}
	register(a, operation{
		ID: "list-job-definition-versions", Method: http.MethodGet, Path: pathDefinition + "/versions",
		Summary: "List the versions of a job definition", Tag: tag, Family: familyCompute, Op: authz.DefinitionRead,
	}, func(ctx context.Context, in *listInput) (*list[JobDefinitionVersion], error) {
		d, err := a.Train.Definition(ctx, caller(ctx).Org, in.Definition)
		if err != nil {
			return nil, err
		}
		versions, err := a.Train.Versions(ctx, in.exclude(), d.ID)
		if err != nil {
			return nil, err
		}
		out := &list[JobDefinitionVersion]{Entries: make([]JobDefinitionVersion, len(versions)), Total: len(versions)}
		for i, v := range versions {
			out.Entries[i] = wireVersion(v)
		}
		return out, nil
	})

	register(a, operation{
		ID: "get-job-definition-version", Method: http.MethodGet, Path: pathVersion,
		Summary: "Get a version", Tag: tag, Family: familyCompute, Op: authz.DefinitionRead,
	}, func(ctx context.Context, in *VersionPath) (*JobDefinitionVersion, error) {
		v, err := a.Train.Version(ctx, caller(ctx).Org, in.Definition, in.Version)
		out := wireVersion(v)
		return &out, err
	})

	type patchInput struct {
		VersionPath
		Body *newDescription
	}
	register(a, operation{
		ID: "update-job-definition-version", Method: http.MethodPatch, Path: pathVersion,
		Summary: "Change a version's description", Tag: tag, Family: familyCompute, Op: authz.DefinitionUpdate,
	}, func(ctx context.Context, in *patchInput) (*JobDefinitionVersion, error) {
		v, err := a.Train.UpdateVersion(ctx, caller(ctx).Org, in.Definition, in.Version, in.Body.edit())
		out := wireVersion(v)
		return &out, err
	})

	register(a, operation{
		ID: "delete-job-definition-version", Method: http.MethodDelete, Path: pathVersion,
		Summary: "Delete a version that no job refers to", Tag: tag, Family: familyCompute, Op: authz.DefinitionUpdate,
	}, func(ctx context.Context, in *VersionPath) (*Message, error) {
		return &Message{Message: "deleted"}, a.Train.DeleteVersion(ctx, caller(ctx).Org, in.Definition, in.Version)
	})

	for _, verb := range []string{"archive", "unarchive"} {
		archived := verb == "archive"
		register(a, operation{
			ID: verb + "-job-definition-version", Method: http.MethodPost, Path: pathVersion + "/" + verb,
			Summary: strings.ToUpper(verb[:1]) + verb[1:] + " a version", Tag: tag, Family: familyCompute, Op: authz.DefinitionUpdate,
		}, func(ctx context.Context, in *VersionPath) (*Message, error) {
			_, err := a.Train.UpdateVersion(ctx, caller(ctx).Org, in.Definition, in.Version, train.Edit{Archived: &archived})
			return &Message{Message: verb + "d"}, err
		})
	}

	register(a, operation{
		ID: "get-job-definition-version-source", Method: http.MethodGet, Path: pathVersion + "/source",
		Summary: "Get a URL of a version's source code", Tag: tag, Family: familyCompute, Op: authz.SourceDownload,
	}, func(ctx context.Context, in *VersionPath) (*DownloadURI, error) {
		v, err := a.Train.Version(ctx, caller(ctx).Org, in.Definition, in.Version)
		if err != nil {
			return nil, err
		}
		u, err := a.downloadURL(ctx, v.Source, v.SourceType)
		return &DownloadURI{DownloadURI: u}, err
	})
}

// trainUpload keeps a missing file a nil interface.
func trainUpload(u *upload) train.Upload {
	if u == nil {
		return nil
	}
	return u
}

// newDescription is the body of a PATCH; {} and null change nothing.
type newDescription struct {
	Description *string `json:"description"`
}

func (b *newDescription) edit() train.Edit {
	if b == nil {
		return train.Edit{}
	}
	return train.Edit{Description: b.Description}
}
