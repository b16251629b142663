// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"fmt"
	"time"

	"panal/internal/plat"
)

// Deployment groups code versions, services and endpoints.
type Deployment struct {
	ID          plat.DeploymentID
	Org         plat.OrgID
	Name        string // not unique
	Description string
	Environment map[string]string // default_environment
	Creator     plat.UserID
	CreatedAt   time.Time
	ModifiedAt  time.Time
}

// Version is code with an image and defaults. It never changes; its source is
// uploaded after it was created, and nothing confirms the upload; or it comes from git,
// and is there before the version is.
type Version struct {
	ID          plat.VersionID
	Org         plat.OrgID
	Deployment  plat.DeploymentID
	Label       string // the user's name for it, unique in the deployment
	Handler     string
	Image       string
	Environment map[string]string // user_parameters
	Description string
	// Command is the words of a program that listens on $PORT, for a version that
	// is one instead of a handler; HealthPath is where it is asked whether it works.
	Command    []string
	HealthPath string
	Git        plat.Git // where its source came from; zero: it is uploaded
	Creator    plat.UserID
	CreatedAt  time.Time
	ModifiedAt time.Time
}

// SourceKey is where the version's archive is in blob.
func (v Version) SourceKey() string {
	return fmt.Sprintf("deploy/%s/%s/%s/source.tgz", v.Org, v.Deployment, v.ID)
}

// Service is a number of instances of one version.
type Service struct {
	ID            plat.ServiceID
	Org           plat.OrgID
	Deployment    plat.DeploymentID
	Version       plat.VersionID
	VersionLabel  string
	Command       bool                    // the version names a command
	Models        map[string]plat.ModelID // by alias; at most one
	Status        Status
	StatusMessage string // why it is not READY; empty means null
	InstanceType  string
	Number        int // instances to begin with; all that there are without Autoscale
	Min, Max      int // bounds of Desired; a Min of 0 lets it sleep
	Autoscale     bool
	Target        float64       // requests at a time per instance; 0: by its workers
	IdleTimeout   time.Duration // without a request before it sleeps; 0: the installation's
	RateLimit     float64       // calls a second that it takes; 0: no limit
	CallLimit     int           // calls that may be under way; 0: no limit
	RecordChannel plat.ChannelID
	RecordOutputs bool              // there, the answers too
	Environment   map[string]string // its own
	Merged        map[string]string // what user code gets; see MergeEnvironment
	Creator       plat.UserID
	CreatedAt     time.Time
	ModifiedAt    time.Time

	// Generation counts the changes that need new instances, from 1.
	Generation int64
	// ReadyGeneration is the last generation that was READY; 0 before the first.
	// While it is behind Generation, a roll is under way.
	ReadyGeneration int64
	// Failures counts the rounds of failed instances in a row, LastFailure is the
	// last one's time and RetryAt when the next instance may start.
	Failures    int
	LastFailure time.Time
	RetryAt     time.Time

	// Desired is how many instances the scaler wants, ScaledAt and ScaleMessage since
	// when and why.
	Desired      int
	ScaledAt     time.Time
	ScaleMessage string
}

// Rolled tells that the current generation has been READY: whatever fails later
// is restarted for ever instead of ending FAILED.
func (s Service) Rolled() bool { return s.ReadyGeneration == s.Generation }

// Answering tells that the service is meant to answer requests right now: it was
// READY since it was last started. It may be short of instances for the moment.
func (s Service) Answering() bool {
	return s.ReadyGeneration > 0 && s.Status != Stopped && s.Status != Failed
}

// Goal is how many instances are meant to be up. A generation that was never READY
// has at least one, so that it shows whether it works before it may sleep.
func (s Service) Goal() int {
	n := s.Number
	if s.Autoscale {
		n = min(max(s.Desired, s.Min), s.Max)
	}
	if !s.Rolled() {
		n = max(n, 1)
	}
	return n
}

// Wanted is how many healthy instances make the service READY. A service that
// sleeps is READY with none.
func (s Service) Wanted() int {
	n := s.Min
	if !s.Rolled() {
		n = max(n, 1)
	}
	return min(n, s.Goal())
}

// MaxBackoff is the longest that the next instance waits after one that failed.
const MaxBackoff = time.Minute

// BacksOff tells for how long the next instance still waits. A RetryAt that is further
// away than any is one of a clock that was set back since.
func (s Service) BacksOff(now time.Time) time.Duration {
	if d := s.RetryAt.Sub(now); d > 0 && d <= MaxBackoff {
		return d
	}
	return 0
}

// Asleep tells that the service has no instances because nobody calls it: the next
// request brings one.
func (s Service) Asleep() bool { return s.Answering() && s.Goal() == 0 }

// InstanceState is what is meant to happen to an instance. It only moves forward.
type InstanceState string

// States of an instance.
const (
	// InstanceUp: it starts or answers requests.
	InstanceUp InstanceState = "up"
	// InstanceDraining: it gets no new requests and ends when those it has are done.
	InstanceDraining InstanceState = "draining"
	// InstanceStopping: it was told to end.
	InstanceStopping InstanceState = "stopping"
)

// Instance is one workload of a service. Its record outlives the service's.
type Instance struct {
	Workload   plat.WorkloadID
	Org        plat.OrgID
	Deployment plat.DeploymentID
	Service    plat.ServiceID
	Generation int64
	State      InstanceState
	CreatedAt  time.Time
	ReadyAt    time.Time // first time it was healthy; zero before
}

// Endpoint is a stable alias in front of a service.
type Endpoint struct {
	ID         plat.EndpointID
	Org        plat.OrgID
	Deployment plat.DeploymentID
	Alias      string         // unique in the deployment
	Service    plat.ServiceID // the one that answers; of a split, the one with the largest share
	Split      []Part         // how requests are shared; empty: all go to Service
	RateLimit  float64        // calls a second that it takes; 0: no limit
	CallLimit  int            // calls that may be under way; 0: no limit
	// Pending is the service that it switches to once that is READY; empty when none.
	Pending       plat.ServiceID
	PendingBy     plat.UserID
	StatusMessage string // what became of the last switch; empty means null
	CreatedAt     time.Time
	ModifiedAt    time.Time
}

// ModelRef is what deploy needs to know of a training model.
type ModelRef struct {
	ID             plat.ModelID
	DefinitionName string
	Job            plat.JobID                // empty for an uploaded model
	Datasets       map[string]plat.DatasetID // of its training job, by alias
}
