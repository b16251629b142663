// SPDX-License-Identifier: Apache-2.0

package train

import (
	"context"
	"encoding/json"
	"time"

	"panal/internal/plat"
)

// Page selects a part of a list.
type Page struct {
	Offset          int
	Limit           int // 0: no limit
	ExcludeArchived bool
}

// Topics of the events that the store writes with its changes. The subject is the
// id; the job's "what" is "created" or the state that it entered.
const (
	TopicDefinition = "definition"
	TopicJob        = "job"
	TopicModel      = "model"
)

// Store keeps definitions, versions, jobs and models. Implemented by sqlstore; the
// suite is traintest. All methods are safe for concurrent use. Lookups of what
// does not exist are ErrNotFound. Maps and slices are never shared with the caller.
type Store interface {
	DefinitionStore
	JobStore
	ModelStore
}

// DefinitionStore keeps definitions and versions.
type DefinitionStore interface {
	// CreateDefinition stores d; ErrExists when the organization has that name.
	CreateDefinition(ctx context.Context, d Definition) error
	// Definition returns the organization's definition with that id or name.
	Definition(ctx context.Context, org plat.OrgID, idOrName string) (Definition, error)
	// Definitions returns a page of them, newest first, and how many there are.
	Definitions(ctx context.Context, org plat.OrgID, p Page) ([]Definition, int, error)
	// ArchiveDefinition sets the archived flag.
	ArchiveDefinition(ctx context.Context, id plat.JobDefinitionID, archived bool, at time.Time) error
	// DeleteDefinition deletes the definition with its versions, jobs and models,
	// and notes prefix in the trash. ErrConflict while a job is Pending or Active.
	DeleteDefinition(ctx context.Context, id plat.JobDefinitionID, prefix string, at time.Time) error

	// NextVersion takes the next version number of a definition. A number is given
	// once, ever; one that is not used leaves a gap.
	NextVersion(ctx context.Context, id plat.JobDefinitionID) (int, error)
	// CreateVersion stores v under a number of NextVersion; ErrNotFound when its
	// definition is gone.
	CreateVersion(ctx context.Context, v Version) error
	// Version returns one version.
	Version(ctx context.Context, def plat.JobDefinitionID, number int) (Version, error)
	// Versions returns all versions of the definitions, by definition in no
	// particular order, by number within one.
	Versions(ctx context.Context, excludeArchived bool, defs ...plat.JobDefinitionID) ([]Version, error)
	// UpdateVersion stores v's description and archived flag.
	UpdateVersion(ctx context.Context, v Version) error
	// DeleteVersion deletes a version and notes prefix in the trash. ErrConflict
	// while a job refers to it.
	DeleteVersion(ctx context.Context, def plat.JobDefinitionID, number int, prefix string, at time.Time) error
}

// JobStore keeps jobs.
type JobStore interface {
	// CreateJob stores j; ErrNotFound when its version is gone.
	CreateJob(ctx context.Context, j Job) error
	// Job returns one job.
	Job(ctx context.Context, id plat.JobID) (Job, error)
	// Jobs returns a page of a definition's jobs, newest first, and how many there are.
	Jobs(ctx context.Context, def plat.JobDefinitionID, p Page) ([]Job, int, error)
	// Unsettled returns every job that is not settled, oldest first: the queue and
	// what runs.
	Unsettled(ctx context.Context) ([]Job, error)
	// JobCounts returns how many jobs that are not settled are in each status; one
	// that none is in may be missing.
	JobCounts(ctx context.Context) (map[Status]int, error)
	// CountJobs returns how many jobs an organization has.
	CountJobs(ctx context.Context, org plat.OrgID) (int64, error)
	// UpdateJob changes one job atomically: change gets the record as it is, edits
	// it, and may return a model to register in the same transaction. Status,
	// message, workload, times, archived and settled are stored; the rest of a job
	// never changes. A change of the status that the state machine does not have is
	// ErrConflict and stores nothing, as does an error of change. A second model
	// with FromResult for the job is left out silently. change may be called again
	// when another writer was faster; it must only edit.
	UpdateJob(ctx context.Context, id plat.JobID, change func(j *Job) (*Model, error)) (Job, error)
	// AddReport replaces the job's statistics and adds them to its history, of
	// which the last MaxReports are kept.
	AddReport(ctx context.Context, id plat.JobID, r Report) (Job, error)
	// Reports returns the history, oldest first.
	Reports(ctx context.Context, id plat.JobID) ([]Report, error)
}

// MaxReports is how many statistics of a job are kept.
const MaxReports = 10_000

// ModelStore keeps models and the trash.
type ModelStore interface {
	// CreateModel stores m; ErrNotFound when its definition is gone.
	CreateModel(ctx context.Context, m Model) error
	// Model returns one model.
	Model(ctx context.Context, id plat.ModelID) (Model, error)
	// Models returns a page of a definition's models, newest first, and how many there are.
	Models(ctx context.Context, def plat.JobDefinitionID, p Page) ([]Model, int, error)
	// UpdateModel stores m's description and archived flag.
	UpdateModel(ctx context.Context, m Model) error
	// Trash returns up to limit prefixes whose objects are to be deleted.
	Trash(ctx context.Context, limit int) ([]string, error)
	// Emptied forgets a prefix of the trash.
	Emptied(ctx context.Context, prefix string) error
}

// Metrics are the numbers of a model: JSON numbers, or the strings NaN, Infinity
// and -Infinity, as they were sent.
type Metrics map[string]json.RawMessage
