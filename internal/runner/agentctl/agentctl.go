// SPDX-License-Identifier: Apache-2.0

// Package agentctl is the protocol between a runner and the agent it started:
// what is inherited, the environment names, and the messages on the control
// socket. Both sides import it; it holds types only.
//
// The runner makes both sockets and passes the listeners on (as systemd socket
// activation does), so that user code can neither open nor replace them: they
// lie in a directory that only the runner can enter. The agent serves HTTP/1.1 on
// the control listener:
//
//	GET  /v1/status          the current State as JSON
//	GET  /v1/watch           one State per line, at once, on each change, and while healthy every BeatMS, until the agent ends
//	POST /v1/stop            begin to end (same as SIGTERM); 202
//	POST /v1/environment     an EnvReply to the EnvRequest of the current State; 200
//
// Every request, on the control listener as on that for inference, carries
// HeaderInstanceKey; the agent answers 403 without it. Where a workload has no
// user of its own, the socket's name is all that others need to connect.
//
// A runner that restarts connects again and reads the State: nothing is lost
// while it is away, the agent just waits (for an environment) or goes on.
package agentctl

// Environment variables that the runner sets for the agent and that the agent
// removes before it starts user code.
const (
	// EnvControlFD is the number of the inherited control listener.
	EnvControlFD = "PANAL_AGENT_CONTROL_FD"
	// EnvServeFD is the number of the inherited listener for requests (service).
	EnvServeFD = "PANAL_AGENT_SERVE_FD"
	// EnvInstanceKey is the secret that requests carry in X-Panal-Instance-Key, on
	// both listeners.
	EnvInstanceKey = "PANAL_AGENT_INSTANCE_KEY"
	// EnvDialFD is the number of an inherited socket to a helper that makes
	// connections on the machine's network, for an agent that has only a loopback
	// network of its own (see the agent's command dial).
	EnvDialFD = "PANAL_AGENT_DIAL_FD"
	// EnvWorkloadID and EnvLogStream label the shipped log lines.
	EnvWorkloadID = "PANAL_AGENT_WORKLOAD_ID"
	EnvLogStream  = "PANAL_AGENT_LOG_STREAM"
	// EnvWorkDir is the workload's own directory, writable by it, holding code/,
	// result/, tmp/, spool/, env/ and ExitFile.
	EnvWorkDir = "PANAL_AGENT_WORK_DIR"
	// EnvPython is the profile's interpreter, an absolute path.
	EnvPython = "PANAL_AGENT_PYTHON"
	// EnvPipArgs is a JSON array of extra pip arguments (index URL, wheel directory).
	EnvPipArgs = "PANAL_AGENT_PIP_ARGS"
	// EnvCommand is a JSON array: the words of the command of a version that has
	// one instead of a handler; EnvHealthPath is the path that tells its health.
	EnvCommand    = "PANAL_COMMAND"
	EnvHealthPath = "PANAL_HEALTH_PATH"
)

// HeaderInstanceKey carries the instance key from gateway or runner to agent.
const HeaderInstanceKey = "X-Panal-Instance-Key"

// HeaderUnhandled marks an agent's answer 503 to a request that user code has not
// seen, so that it is safe to send it to another instance.
const HeaderUnhandled = "X-Panal-Unhandled"

// HeaderFailed marks an agent's answer to a request that user code was given and gave no
// answer to: it broke off, or took too long.
const HeaderFailed = "X-Panal-Failed"

// Names inside the work directory.
const (
	DirCode   = "code"
	DirResult = "result"
	DirTmp    = "tmp"
	DirSpool  = "spool" // log lines not acknowledged yet: package logs/spool
	DirEnv    = "env"   // an environment being built
	ExitFile  = "exit.json"
)

// State is what the agent says of itself.
type State struct {
	// Phase is "starting", "running" or "exited" (runner.Phase).
	Phase string `json:"phase"`
	// Healthy tells that a service's runtime answers.
	Healthy bool `json:"healthy"`
	// Suspect tells that it doesn't now, and that this may be because of the requests
	// that it works on: new ones should go elsewhere if there is anywhere.
	Suspect bool `json:"suspect,omitempty"`
	// Limit is how many requests a service takes at a time, on connections that may be
	// kept; 0: it does not say, so one on each connection.
	Limit int `json:"limit,omitempty"`
	// Step says in a word what a starting agent does: download, environment, import.
	Step string `json:"step,omitempty"`
	// Problem says why a service that goes on is not healthy, or suspect, with the last lines of its
	// log after a newline; empty when it is well, or that is not known yet.
	Problem string `json:"problem,omitempty"`
	// EnvRequest is set while the agent waits for an environment.
	EnvRequest *EnvRequest `json:"env_request,omitempty"`
	// BeatMS is after how many milliseconds the watch repeats a state that did not
	// change; 0: it does not. Whoever watches takes an agent that is silent for longer
	// as one that hangs.
	BeatMS int `json:"beat_ms,omitempty"`
	// Exit is set once Phase is "exited".
	Exit *Exit `json:"exit,omitempty"`
}

// EnvRequest asks the runner for the Python environment that the user's
// requirements need. The key is the hash of interpreter, platform and
// requirements; the runner adds the organization.
type EnvRequest struct {
	Key string `json:"key"`
	// Built is true when the agent has built it in DirEnv, on the runner's word.
	Built bool `json:"built"`
	// Error says why the build failed, for those who wait for the same key.
	Error string `json:"error,omitempty"`
}

// EnvReply answers an EnvRequest. Exactly one field is set.
type EnvReply struct {
	Key string `json:"key"`
	// Path is a finished, read-only site directory to put on the module path.
	Path string `json:"path,omitempty"`
	// Build tells the agent to build into DirEnv; it holds the build lock.
	Build bool `json:"build,omitempty"`
}

// Exit is how the workload ended. The agent writes it to ExitFile (atomically)
// before it exits; a missing file means that the agent was killed. The file is
// written by the workload's own user: whoever reads it with more rights opens it
// without following links, takes a regular file only, and bounds the length.
type Exit struct {
	Code   int    `json:"code"`             // the agent's exit code: 0 or 1
	Reason string `json:"reason,omitempty"` // a sentence; empty on success
	// Tail is the last log lines, at most 4 KiB; a traceback ends it.
	Tail string `json:"tail,omitempty"`
}

// MaxExitBytes bounds ExitFile.
const MaxExitBytes = 64 << 10
