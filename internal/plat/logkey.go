// SPDX-License-Identifier: Apache-2.0

package plat

// Keys of structured log lines. One spelling each, so that one query finds all.
const (
	LogError     = "error"
	LogRequest   = "request_id"
	LogOrg       = "organization_id"
	LogUser      = "user_id"
	LogWorkload  = "workload_id"
	LogJob       = "job_id"
	LogService   = "service_id"
	LogChannel   = "channel_id"
	LogFile      = "file_id"
	LogMethod    = "method"
	LogPath      = "path"
	LogStatus    = "status"
	LogDuration  = "duration"
	LogActor     = "actor"
	LogComponent = "component"
	LogAddress   = "address"
	LogPID       = "pid"
	LogCount     = "count"
	LogReason    = "reason"
	LogKey       = "key"
)
