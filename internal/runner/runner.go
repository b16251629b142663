// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"context"
	"strconv"
	"time"

	"panal/internal/plat"
)

// Runner starts, watches and stops workloads. All methods are safe for
// concurrent use.
type Runner interface {
	// Start starts the workload and returns once its agent runs (not once it is
	// ready). ErrExhausted: it does not fit now (the text says which resource and
	// how much is free); ErrInvalid: it can never fit, or its image is no known
	// profile (the text names the configuration key). After any error no process
	// of it is left. A known id is nil and starts nothing.
	Start(ctx context.Context, spec Spec) error
	// Stop asks the workload to end (SIGTERM to the agent) and kills what is left
	// after grace. It returns at once; the end arrives as a Status. Unknown or
	// ended ids are not errors.
	Stop(ctx context.Context, id plat.WorkloadID, grace time.Duration) error
	// List returns the status of every workload that was started and not removed,
	// ended ones included.
	List(ctx context.Context) ([]Status, error)
	// Watch returns a channel on which an id arrives soon (< 100 ms) after the
	// status of that workload changed. It is a wake-up, not the truth: ids may be
	// coalesced or repeated; call Get. The channel closes when ctx ends.
	Watch(ctx context.Context) <-chan plat.WorkloadID
	// Get returns the status of one workload; ErrNotFound when it is unknown.
	Get(ctx context.Context, id plat.WorkloadID) (Status, error)
	// Spool returns the log lines that an ended workload's agent could not ship,
	// or nil. The caller stores them before Remove.
	Spool(ctx context.Context, id plat.WorkloadID) ([]SpoolBatch, error)
	// Remove forgets an ended workload and deletes its work directory.
	// ErrConflict while it runs; unknown ids are not errors.
	Remove(ctx context.Context, id plat.WorkloadID) error
	// Capacity tells what the machine (or cluster) has and what is taken.
	Capacity(ctx context.Context) (Capacity, error)
	// Isolation names the wall between user code and the platform: "uid",
	// "landlock", … or "none". Reason says why it is none.
	Isolation() (level, reason string)
	// Close stops watching. Workloads go on.
	Close() error
}

// PortWaller is a Runner that knows whether it can give a workload a loopback
// network of its own. One that isn't can't.
type PortWaller interface {
	// WallsPorts tells whether a port that a Command listens on can be reached by
	// nothing but its own workload; otherwise reason says what is missing.
	WallsPorts() (ok bool, reason string)
}

// Kind is what an agent does with the user's code.
type Kind string

// Kinds of workload; each is the agent command of that name (compute.md §13.1).
const (
	KindTraining Kind = "training"
	KindService  Kind = "service"
)

// Spec describes a workload. It holds a secret (Token): a runner never logs it.
type Spec struct {
	ID    plat.WorkloadID
	Org   plat.OrgID
	Kind  Kind
	Image string // profile name, e.g. "abeja-inc/all-cpu:19.10"
	// Resources is the limit and the reservation: it counts against Capacity.
	Resources plat.Resources
	// Env is the complete environment of the agent as compute.md §13.2 wants it,
	// user variables included, without PLATFORM_AUTH_TOKEN.
	Env map[string]string
	// Token is the container's bearer token, injected as PLATFORM_AUTH_TOKEN.
	Token string
	// LogStream is the stream that the workload's lines belong to (logs.Stream).
	LogStream string
	// Command is the words of the program that a service runs instead of a handler;
	// it listens on a TCP port of 127.0.0.1. Where the runner walls ports
	// (PortWaller), that port is the workload's own. HealthPath tells its health.
	Command    []string
	HealthPath string
	// Reserve marks work that may use the share of the machine that is kept for
	// services (true for services, false for jobs).
	Reserve bool
}

// Phase is where in its life a workload is. It only moves forward.
type Phase string

// Phases.
const (
	// PhaseStarting: the agent runs; code, environment or import are not done yet.
	PhaseStarting Phase = "starting"
	// PhaseRunning: user code runs (training) or answers requests (service).
	PhaseRunning Phase = "running"
	// PhaseExited: the agent is gone, and so is every process of the workload.
	PhaseExited Phase = "exited"
)

// Status is what a runner knows of a workload.
type Status struct {
	ID        plat.WorkloadID
	Org       plat.OrgID
	Kind      Kind
	LogStream string
	Phase     Phase
	// Healthy is true while a running service's runtime answers its health check.
	Healthy bool
	// Suspect is true while a healthy service has requests and answers neither them nor
	// its health check: it may be at work on them, or hang. New ones should go elsewhere
	// if there is anywhere.
	Suspect bool
	// Problem says why a service that goes on is not healthy, or suspect, with the last lines of
	// its log after a newline; empty when it is well, or that is not known.
	Problem   string
	PID       int // of the agent, on this machine; 0 elsewhere
	StartedAt time.Time
	// Addr is where the gateway reaches a service instance; zero for training.
	Addr Addr

	// The rest is set once Phase is PhaseExited.
	EndedAt  time.Time
	ExitCode int // of the agent: 0 success, 1 failure of any kind; 137 when it was killed
	// Reason says in a sentence why it did not end well ("killed: memory limit
	// 2.0 GiB reached", "handler raised on import"), with the last lines of its
	// log (a traceback) after a newline. Empty on success.
	Reason string
	// Stopped tells that Stop had been called.
	Stopped bool
}

// Addr is the address of a service instance.
type Addr struct {
	Network string // "unix" or "tcp"
	Address string // path or host:port
	// Key is a per-instance secret that the gateway sends in X-Panal-Instance-Key
	// and the agent demands, so that nobody else on the machine can call the
	// instance. Empty when the network itself is walled.
	Key string
	// Limit is how many requests the instance takes at a time; 0 means that its
	// agent did not say.
	Limit int
}

// EnvHandlerStyle is "old" for handlers of compute.md §13.11. A user may set it, for an
// image that does not say.
const EnvHandlerStyle = "PANAL_HANDLER_STYLE"

// EnvHandlerTimeout is how long a handler may take, a duration such as 30s.
const EnvHandlerTimeout = "PANAL_HANDLER_TIMEOUT"

// MaxLimit bounds Addr.Limit: it is the word of an agent, which user code can
// have replaced.
const MaxLimit = 1024

// SpoolBatch is a run of log lines as the agent spooled them: encoded
// logs.Batch JSON, one per element.
type SpoolBatch []byte

// Capacity is what there is, and what started workloads have reserved of it.
type Capacity struct {
	Total plat.Resources
	// JobShare is how much of Total jobs may use; the rest is kept for services.
	JobShare plat.Resources
	Used     plat.Resources
	// JobUsed is the part of Used that jobs (Spec.Reserve false) hold.
	JobUsed plat.Resources
}

// Admit is the one rule of admission, the same for every runner. It returns nil
// when need fits now; ErrInvalid when it is more than there is at all;
// ErrExhausted, naming what is needed and what is free, when it must wait.
//
// What uses the reserve (services) may take all that is free. A job stays within
// JobShare together with the other jobs, except that a job that is alone may
// take all that is free: otherwise one larger than the share could never run.
func (c Capacity) Admit(need plat.Resources, reserve bool) error {
	type row struct {
		name                            string
		need, total, used, share, taken int64
		show                            func(int64) string
	}
	rows := []row{
		{"CPU", need.MilliCPU, c.Total.MilliCPU, c.Used.MilliCPU, c.JobShare.MilliCPU, c.JobUsed.MilliCPU, showCPU},
		{"memory", need.Memory, c.Total.Memory, c.Used.Memory, c.JobShare.Memory, c.JobUsed.Memory, showBytes},
		{"GPU slots", int64(need.GPUs), int64(c.Total.GPUs), int64(c.Used.GPUs), int64(c.JobShare.GPUs), int64(c.JobUsed.GPUs), showCount},
	}
	for _, r := range rows {
		if r.need < 0 {
			return plat.Errorf(plat.ErrInvalid, "%s: a negative amount is needed", r.name)
		}
		if r.need > r.total {
			return plat.Errorf(plat.ErrInvalid, "%s: %s are needed, but there are only %s at all; choose a smaller instance type",
				r.name, r.show(r.need), r.show(r.total))
		}
	}
	alone := c.JobUsed == plat.Resources{}
	for _, r := range rows {
		free := r.total - r.used
		if !reserve && !alone {
			free = min(free, r.share-r.taken)
		}
		if r.need > 0 && r.need > free {
			kept := ""
			if free < r.total-r.used {
				kept = " for jobs (the rest is kept for services)"
			}
			return plat.Errorf(plat.ErrExhausted, "waiting for %s: %s needed, %s of %s free%s",
				r.name, r.show(r.need), r.show(max(free, 0)), r.show(r.total), kept)
		}
	}
	return nil
}

func showCPU(n int64) string {
	return plat.Digits(float64(n)/1000) + " vCPU"
}

func showBytes(n int64) string {
	return strconv.FormatFloat(float64(n)/(1<<30), 'f', 2, 64) + " GiB"
}

func showCount(n int64) string { return strconv.FormatInt(n, 10) }
