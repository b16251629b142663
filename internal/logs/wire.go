// SPDX-License-Identifier: Apache-2.0

package logs

import "time"

// Batch is what an agent ships and what the ingest route takes: a run of lines
// of one workload, in the order they were written.
//
// Lines are numbered from 1 within a workload. Ingest keeps, per workload, the
// highest number it made durable; a batch that overlaps it loses the lines that
// are there already, so that sending a batch twice stores it once. A batch that
// would leave a gap (FirstSeq > last+1) is refused with ErrConflict and the
// expected number, and the agent resends from there.
type Batch struct {
	Workload string  `json:"workload_id"`
	Stream   string  `json:"stream"`
	FirstSeq int64   `json:"first_seq"`
	Entries  []Entry `json:"entries"`
}

// Entry is one log line.
type Entry struct {
	// Time is when the line was read from the process, Unix microseconds, UTC.
	Time int64 `json:"t"`
	// Level is info, warning, error or debug: stdout is info, stderr warning
	// unless the line is JSON that says otherwise (compute.md §13.12).
	Level string `json:"l,omitempty"`
	// Message is the line without its newline, at most 250 KiB of UTF-8 (invalid
	// bytes replaced).
	Message string `json:"m"`
	// RequestID links a service's lines to the request, when known.
	RequestID string `json:"r,omitempty"`
}

// Ack answers a Batch: everything up to LastSeq is durable.
type Ack struct {
	LastSeq int64 `json:"last_seq"`
}

// When returns the entry's time.
func (e Entry) When() time.Time { return time.UnixMicro(e.Time).UTC() }

// IngestPath is the route that takes a Batch as JSON (optionally
// Content-Encoding: zstd) from a container token whose workload is the batch's.
// Answers: 200 Ack; 409 with {"last_seq":n} beside the error fields on a gap;
// 503 with Retry-After when the store is at its ceiling or the disk is full (the
// agent keeps spooling); 413 for a body over MaxBatchBytes.
const IngestPath = "/organizations/{organization_id}/workloads/{workload_id}/logs"

// Limits of a batch.
const (
	MaxBatchBytes   = 2 << 20
	MaxMessageBytes = 250 << 10
)

// JobStream names the stream of a training job. A stream is what readers ask for:
// the lines of all workloads of one job or service.
func JobStream(jobID string) string { return "job/" + jobID }

// ServiceStream names the stream of a service.
func ServiceStream(serviceID string) string { return "service/" + serviceID }
