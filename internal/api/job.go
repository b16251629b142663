// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"panal/internal/api/compat"
	"panal/internal/authz"
	"panal/internal/plat"
	"panal/internal/train"
)

// Job is the wire's training job (compute.md §2.5).
type Job struct {
	TrainingJobID        string           `json:"training_job_id" example:"1712000000044"`
	ID                   string           `json:"id" doc:"mirror of training_job_id"`
	JobDefinitionID      string           `json:"job_definition_id"`
	JobDefinitionVersion int              `json:"job_definition_version"`
	Status               string           `json:"status" doc:"Pending, Active, Complete, Failed or Stopped"`
	StatusMessage        *string          `json:"status_message" doc:"why it waits or failed"`
	InstanceType         string           `json:"instance_type" example:"cpu-1"`
	ExecEnv              string           `json:"exec_env"`
	Environment          compat.StringMap `json:"environment" doc:"merged: version, then job"`
	UserParameters       compat.StringMap `json:"user_parameters" doc:"mirror of environment"`
	Datasets             compat.StringMap `json:"datasets" doc:"alias to dataset id; merged: version, then job"`
	Statistics           compat.Any       `json:"statistics" doc:"the last report, or null"`
	Description          *string          `json:"description"`
	Creator              *User            `json:"creator"`
	Archived             bool             `json:"archived"`
	ExportLog            bool             `json:"export_log"`
	StartTime            *string          `json:"start_time"`
	CompletionTime       *string          `json:"completion_time"`
	CreatedAt            string           `json:"created_at"`
	ModifiedAt           string           `json:"modified_at"`
}

// JobResult is the answer to GET …/result.
type JobResult struct {
	Artifacts struct {
		Complete struct {
			URI string `json:"uri" doc:"a zip; works without credentials until it expires"`
		} `json:"complete"`
	} `json:"artifacts"`
	DownloadURI string `json:"download_uri" doc:"the same URL"`
}

// UploadURI is the answer of operations that hand out a signed URL for a PUT.
type UploadURI struct {
	URI string `json:"uri"`
}

// StatisticsReport is one entry of a job's history of statistics.
type StatisticsReport struct {
	Time       string     `json:"time"`
	Statistics compat.Any `json:"statistics"`
}

// JobPath is the path parameters of everything below a job.
type JobPath struct {
	DefinitionPath
	Job string `path:"training_job_id"`
}

const (
	pathJobs = pathDefinition + "/jobs"
	pathJob  = pathJobs + "/{training_job_id}"
)

func timeOrNull(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	s := micro(t)
	return &s
}

func (a *API) wireJobs(ctx context.Context, jobs ...train.Job) ([]Job, error) {
	who := a.users(ctx)
	out := make([]Job, len(jobs))
	for i, j := range jobs {
		creator, err := who.get(j.Creator)
		if err != nil {
			return nil, err
		}
		out[i] = Job{
			TrainingJobID: string(j.ID), ID: string(j.ID), JobDefinitionID: string(j.Definition), JobDefinitionVersion: j.Version,
			Status: string(j.Status), StatusMessage: orNull(j.StatusMessage), InstanceType: j.InstanceType, ExecEnv: string(j.ExecEnv),
			Environment: j.Environment, UserParameters: j.Environment, Datasets: datasetMap(j.Datasets), Statistics: compat.Any(j.Statistics),
			Description: orNull(j.Description), Creator: creator, Archived: j.Archived, ExportLog: j.ExportLog,
			StartTime: timeOrNull(j.StartTime), CompletionTime: timeOrNull(j.CompletedAt),
			CreatedAt: micro(j.CreatedAt), ModifiedAt: micro(j.ModifiedAt),
		}
	}
	return out, nil
}

func (a *API) wireJob(ctx context.Context, j train.Job, err error) (*Job, error) {
	if err != nil {
		return nil, err
	}
	out, err := a.wireJobs(ctx, j)
	if err != nil {
		return nil, err
	}
	return &out[0], nil
}

func (a *API) addJobs() {
	const tag = "training"
	type newJob struct {
		Environment       compat.StringMap `json:"environment,omitempty"`
		UserParameters    compat.StringMap `json:"user_parameters,omitempty" doc:"older name of environment"`
		Datasets          compat.StringMap `json:"datasets,omitempty" doc:"alias to dataset id"`
		InstanceType      *string          `json:"instance_type,omitempty" doc:"default gpu-1 when the image's name contains -gpu, else cpu-1"`
		Description       *string          `json:"description,omitempty"`
		ExportLog         compat.Bool      `json:"export_log,omitempty"`
		DatasetPremounted compat.Bool      `json:"dataset_premounted,omitempty"`
		Datalakes         []string         `json:"datalakes,omitempty"`
		Buckets           []string         `json:"buckets,omitempty"`
		ExecEnv           *string          `json:"exec_env,omitempty"`
	}
	type createInput struct {
		VersionPath
		Body *newJob
	}
	register(a, operation{
		ID: "create-job", Method: http.MethodPost, Path: pathVersion + "/jobs",
		Summary: "Create a job of a version; it starts when there is room", Tag: tag, Family: familyCompute, Op: authz.JobCreate,
	}, func(ctx context.Context, in *createInput) (*Job, error) {
		b := value(in.Body)
		id := caller(ctx)
		j, err := a.Train.CreateJob(ctx, id.Org, in.Definition, in.Version, id.User, train.JobParams{
			Environment: environment(b.Environment, b.UserParameters), Datasets: datasetIDs(b.Datasets),
			InstanceType: value(b.InstanceType), Description: value(b.Description), ExportLog: bool(b.ExportLog), ExecEnv: train.ExecEnv(value(b.ExecEnv)),
			Premounts: train.Premounts{Datalakes: b.Datalakes, Buckets: b.Buckets, DatasetPremounted: bool(b.DatasetPremounted)},
		})
		touched(ctx, "training_job_id", string(j.ID))
		return a.wireJob(ctx, j, err)
	})

	type listInput struct {
		DefinitionPath
		Paging
	}
	register(a, operation{
		ID: "list-jobs", Method: http.MethodGet, Path: pathJobs,
		Summary: "List the jobs of a definition, newest first", Tag: tag, Family: familyCompute, Op: authz.DefinitionRead,
	}, func(ctx context.Context, in *listInput) (*page[Job], error) {
		p := in.page(10)
		jobs, total, err := a.Train.Jobs(ctx, caller(ctx).Org, in.Definition, p)
		if err != nil {
			return nil, err
		}
		out, err := a.wireJobs(ctx, jobs...)
		if err != nil {
			return nil, err
		}
		return &page[Job]{Entries: out, Offset: p.Offset, Limit: p.Limit, Total: total}, nil
	})

	register(a, operation{
		ID: "get-job", Method: http.MethodGet, Path: pathJob,
		Summary: "Get a job", Tag: tag, Family: familyCompute, Op: authz.JobRead,
	}, func(ctx context.Context, in *JobPath) (*Job, error) {
		j, err := a.Train.Job(ctx, caller(ctx).Org, in.Definition, plat.JobID(in.Job))
		return a.wireJob(ctx, j, err)
	})

	// The three verbs answer "<definition name>:<job id> <verb>ed".
	say := func(ctx context.Context, in *JobPath, j train.Job, what string, err error) (*Message, error) {
		if err != nil {
			return nil, err
		}
		d, err := a.Train.Definition(ctx, caller(ctx).Org, in.Definition)
		return &Message{Message: d.Name + ":" + string(j.ID) + " " + what}, err
	}
	register(a, operation{
		ID: "stop-job", Method: http.MethodPost, Path: pathJob + "/stop",
		Summary: "Stop a job", Tag: tag, Family: familyCompute, Op: authz.JobUpdate,
	}, func(ctx context.Context, in *JobPath) (*Message, error) {
		j, err := a.Train.StopJob(ctx, caller(ctx).Org, in.Definition, plat.JobID(in.Job))
		return say(ctx, in, j, "stopped", err)
	})
	for _, verb := range []string{"archive", "unarchive"} {
		register(a, operation{
			ID: verb + "-job", Method: http.MethodPost, Path: pathJob + "/" + verb,
			Summary: strings.ToUpper(verb[:1]) + verb[1:] + " a job", Tag: tag, Family: familyCompute, Op: authz.JobUpdate,
		}, func(ctx context.Context, in *JobPath) (*Message, error) {
			j, err := a.Train.ArchiveJob(ctx, caller(ctx).Org, in.Definition, plat.JobID(in.Job), verb == "archive")
			return say(ctx, in, j, verb+"d", err)
		})
	}

	register(a, operation{
		ID: "get-job-result", Method: http.MethodGet, Path: pathJob + "/result",
		Summary: "Get a URL of a job's result", Tag: tag, Family: familyCompute, Op: authz.JobResultRead,
	}, func(ctx context.Context, in *JobPath) (*JobResult, error) {
		key, err := a.Train.Result(ctx, caller(ctx).Org, in.Definition, plat.JobID(in.Job))
		if err != nil {
			return nil, err
		}
		u, err := a.downloadURL(ctx, key, "application/zip")
		out := &JobResult{DownloadURI: u}
		out.Artifacts.Complete.URI = u
		return out, err
	})
	register(a, operation{
		ID: "put-job-result", Method: http.MethodPost, Path: pathJob + "/result",
		Summary: "Get a URL to PUT the job's result (a zip) to; for its own container", Tag: tag, Family: familyCompute, Op: authz.JobResultWrite,
	}, func(ctx context.Context, in *JobPath) (*UploadURI, error) {
		key, err := a.Train.ResultUpload(ctx, caller(ctx).Org, in.Definition, plat.JobID(in.Job))
		if err != nil {
			return nil, err
		}
		// Once: the model is this object, and user code may have kept the URL.
		u, err := a.uploadURL(ctx, key, train.MaxModelBytes, true)
		return &UploadURI{URI: u}, err
	})

	type newStatistics struct {
		Statistics compat.Any `json:"statistics"`
	}
	type statisticsInput struct {
		JobPath
		Body *newStatistics
	}
	register(a, operation{
		ID: "report-job-statistics", Method: http.MethodPost, Path: pathJob + "/statistics",
		Summary: "Replace a job's statistics; the history is kept", Tag: tag, Family: familyCompute, Op: authz.JobReport,
	}, func(ctx context.Context, in *statisticsInput) (*Job, error) {
		j, err := a.Train.Report(ctx, caller(ctx).Org, in.Definition, plat.JobID(in.Job), json.RawMessage(value(in.Body).Statistics))
		return a.wireJob(ctx, j, err)
	})
	register(a, operation{
		ID: "list-job-statistics", Method: http.MethodGet, Path: pathJob + "/statistics",
		Summary: "List the statistics that a job has reported, oldest first", Tag: tag, Family: familyCompute, Op: authz.JobRead,
	}, func(ctx context.Context, in *JobPath) (*list[StatisticsReport], error) {
		reports, err := a.Train.Reports(ctx, caller(ctx).Org, in.Definition, plat.JobID(in.Job))
		if err != nil {
			return nil, err
		}
		out := &list[StatisticsReport]{Entries: make([]StatisticsReport, len(reports)), Total: len(reports)}
		for i, r := range reports {
			out.Entries[i] = StatisticsReport{Time: micro(r.Time), Statistics: compat.Any(r.Statistics)}
		}
		return out, nil
	})
}
