// SPDX-License-Identifier: Apache-2.0

package train

import (
	"encoding/json"
	"fmt"
	"time"

	"panal/internal/plat"
)

// Definition groups the versions, jobs and models of one training task.
type Definition struct {
	ID         plat.JobDefinitionID
	Org        plat.OrgID
	Name       string
	Archived   bool
	CreatedAt  time.Time
	ModifiedAt time.Time

	// VersionCount and ModelCount are counted by the store on every read.
	VersionCount int
	ModelCount   int
}

// Premounts are the alpha fields that are kept and echoed (compute.md §12.5).
type Premounts struct {
	Datalakes         []string `json:"datalakes,omitempty"`
	Buckets           []string `json:"buckets,omitempty"`
	DatasetPremounted bool     `json:"dataset_premounted,omitempty"`
}

// Version is code with an image and defaults. Only its description and its
// archived flag ever change.
type Version struct {
	Org         plat.OrgID
	Definition  plat.JobDefinitionID
	Number      int // from 1, per definition
	Handler     string
	Image       string
	Environment map[string]string
	Datasets    map[string]plat.DatasetID // by alias
	Premounts   Premounts
	Description string
	Archived    bool
	Source      string // key of the archive in blob
	SourceType  string // its content type
	Git         plat.Git
	CreatedAt   time.Time
	ModifiedAt  time.Time
}

// ExecEnv is where a job ran.
type ExecEnv string

// Execution environments. This build makes ExecCloud jobs; ExecNone is a model's
// that came from no job.
const (
	ExecCloud ExecEnv = "cloud"
	ExecLocal ExecEnv = "local"
	ExecNone  ExecEnv = "none"
)

// Job is one run of a version.
type Job struct {
	ID            plat.JobID
	Org           plat.OrgID
	Definition    plat.JobDefinitionID
	Version       int
	Status        Status
	StatusMessage string // why it waits or failed; empty means null
	InstanceType  string
	ExecEnv       ExecEnv
	Environment   map[string]string         // merged: version, then job
	Datasets      map[string]plat.DatasetID // merged: version, then job
	Premounts     Premounts
	ExportLog     bool
	Description   string
	Creator       plat.UserID
	Archived      bool
	Statistics    json.RawMessage // the last report; nil when there was none
	StartTime     time.Time
	CompletedAt   time.Time
	CreatedAt     time.Time
	ModifiedAt    time.Time

	// Workload is the one workload of this job. It is stored before the workload
	// is started, so that no crash can start a second one. Empty until then.
	Workload plat.WorkloadID
	// Settled tells that the reconciler is done with the job: it is terminal, its
	// workload is gone, its log and result are recorded.
	Settled bool
}

// ResultKey is where the job's result (a zip of what it left) is in blob.
func (j Job) ResultKey() string {
	return fmt.Sprintf("%sjobs/%s/result.zip", definitionPrefix(j.Org, j.Definition), j.ID)
}

// Model is a stored artifact of a definition.
type Model struct {
	ID          plat.ModelID
	Org         plat.OrgID
	Definition  plat.JobDefinitionID
	Job         plat.JobID // empty for an uploaded model
	Environment map[string]string
	Metrics     Metrics
	Description string
	ExecEnv     ExecEnv
	Archived    bool
	User        plat.UserID
	Object      string // key of the zip in blob
	// FromResult marks the model that was registered from its job's result: at
	// most one per job.
	FromResult bool
	CreatedAt  time.Time
	ModifiedAt time.Time
}

// Report is one entry of a job's history of statistics.
type Report struct {
	Time       time.Time
	Statistics json.RawMessage
}

// definitionPrefix is the prefix of everything that a definition has in blob.
func definitionPrefix(org plat.OrgID, def plat.JobDefinitionID) string {
	return fmt.Sprintf("train/%s/%s/", org, def)
}

func sourceKey(org plat.OrgID, def plat.JobDefinitionID, n int) string {
	return fmt.Sprintf("%s%d/source", definitionPrefix(org, def), n)
}

func modelKey(m Model) string {
	return fmt.Sprintf("%smodels/%s/model.zip", definitionPrefix(m.Org, m.Definition), m.ID)
}
