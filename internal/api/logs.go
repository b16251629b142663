// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"panal/internal/authn"
	"panal/internal/authz"
	"panal/internal/logs"
	"panal/internal/plat"
)

// LogStreams tells whether what a log belongs to exists.
type LogStreams struct {
	// Job returns nil for a job of the definition (id or name); ErrNotFound otherwise.
	Job func(ctx context.Context, org plat.OrgID, definition string, job plat.JobID) error
	// Service returns nil for a service of the deployment; ErrNotFound otherwise.
	Service func(ctx context.Context, org plat.OrgID, deployment plat.DeploymentID, service plat.ServiceID) error
}

// bodyDeadline is how long an agent may take to send a batch.
const bodyDeadline = 30 * time.Second

// LogEvent is a log line on the wire (compute.md §11).
type LogEvent struct {
	Message   string `json:"message" example:"epoch 1"`
	Timestamp string `json:"timestamp" example:"2026-02-03T03:01:02.345000Z"`
	Level     string `json:"level,omitempty" doc:"info, warning, error or debug (extension)"`
	RequestID string `json:"request_id,omitempty" doc:"the request that a service's line belongs to, when known (extension)"`
}

// LogPage is a page oldest first. NextToken is absent at the end.
type LogPage struct {
	Events    []LogEvent `json:"events"`
	NextToken string     `json:"next_token,omitempty"`
}

// RecentLogPage is a page newest first. Both tokens are always present.
type RecentLogPage struct {
	Events   []LogEvent `json:"events"`
	Backward string     `json:"next_backward_token"`
	Forward  string     `json:"next_forward_token"`
}

// LogRange is what selects lines. (huma fills exported structs only.)
type LogRange struct {
	Start string `query:"start_time" doc:"earliest time, inclusive; RFC 3339, or without a zone for UTC"`
	End   string `query:"end_time" doc:"latest time, exclusive"`
	Limit int    `query:"limit" doc:"page size: 100, at most 1000 (extension)"`
	Text  string `query:"q" doc:"only lines with this text (extension)"`
}

// LogNextToken is the token of a page oldest first.
type LogNextToken struct {
	Next string `query:"next_token" doc:"goes on after an earlier page; its times and text count"`
}

// LogTwoWayTokens are the tokens of a page newest first.
type LogTwoWayTokens struct {
	Forward  string `query:"next_forward_token" doc:"what is newer than an earlier page"`
	Backward string `query:"next_backward_token" doc:"what is older than an earlier page"`
}

// LogJobPath names a job.
type LogJobPath struct {
	Org        string `path:"organization_id" doc:"organization id or name"`
	Definition string `path:"job_definition" doc:"definition id or name"`
	Job        string `path:"training_job_id"`
}

// LogServicePath names a service.
type LogServicePath struct {
	Org        string `path:"organization_id" doc:"organization id or name"`
	Deployment string `path:"deployment_id"`
	Service    string `path:"service_id"`
}

func (a *API) addLogs() {
	a.raw(operation{
		ID: "ingest-logs", Method: http.MethodPost, Path: logs.IngestPath, MaxBody: logs.MaxBatchBytes,
		Summary: "Store a batch of a workload's log lines", Tag: "log", Family: familyLogs, Op: authz.LogIngest,
	}, a.ingestLogs)

	const job = "/organizations/{organization_id}/training/definitions/{job_definition}/jobs/{training_job_id}"
	const service = "/organizations/{organization_id}/deployments/{deployment_id}/services/{service_id}"
	op := func(id, path, summary string) operation {
		return operation{ID: id, Method: http.MethodGet, Path: path, Summary: summary, Tag: "log", Family: familyLogs, Op: authz.LogRead}
	}
	register(a, op("list-job-logs", job+"/logs", "Read a job's log lines, oldest first"), func(ctx context.Context, in *struct {
		LogJobPath
		LogRange
		LogNextToken
	},
	) (*LogPage, error) {
		stream, err := a.jobStream(ctx, in.LogJobPath)
		if err != nil {
			return nil, err
		}
		return a.logPage(ctx, stream, in.LogRange, in.LogNextToken)
	})
	register(a, op("list-recent-job-logs", job+"/recentlogs", "Read a job's log lines, newest first"), func(ctx context.Context, in *struct {
		LogJobPath
		LogRange
		LogTwoWayTokens
	},
	) (*RecentLogPage, error) {
		stream, err := a.jobStream(ctx, in.LogJobPath)
		if err != nil {
			return nil, err
		}
		return a.recentLogPage(ctx, stream, in.LogRange, in.LogTwoWayTokens)
	})
	register(a, op("list-service-logs", service+"/logs", "Read a service's log lines, oldest first"), func(ctx context.Context, in *struct {
		LogServicePath
		LogRange
		LogNextToken
	},
	) (*LogPage, error) {
		stream, err := a.serviceStream(ctx, in.LogServicePath)
		if err != nil {
			return nil, err
		}
		return a.logPage(ctx, stream, in.LogRange, in.LogNextToken)
	})
	register(a, op("list-recent-service-logs", service+"/recentlogs", "Read a service's log lines, newest first"), func(ctx context.Context, in *struct {
		LogServicePath
		LogRange
		LogTwoWayTokens
	},
	) (*RecentLogPage, error) {
		stream, err := a.serviceStream(ctx, in.LogServicePath)
		if err != nil {
			return nil, err
		}
		return a.recentLogPage(ctx, stream, in.LogRange, in.LogTwoWayTokens)
	})
}

func (a *API) jobStream(ctx context.Context, p LogJobPath) (string, error) {
	err := a.LogStreams.Job(ctx, caller(ctx).Org, p.Definition, plat.JobID(p.Job))
	return logs.JobStream(p.Job), err
}

func (a *API) serviceStream(ctx context.Context, p LogServicePath) (string, error) {
	err := a.LogStreams.Service(ctx, caller(ctx).Org, plat.DeploymentID(p.Deployment), plat.ServiceID(p.Service))
	return logs.ServiceStream(p.Service), err
}

func (a *API) logPage(ctx context.Context, stream string, r LogRange, t LogNextToken) (*LogPage, error) {
	page, err := a.readLogs(ctx, logs.Query{Stream: stream, Cursor: t.Next}, r)
	if err != nil {
		return nil, err
	}
	return &LogPage{Events: logEvents(page.Lines), NextToken: page.Next}, nil
}

func (a *API) recentLogPage(ctx context.Context, stream string, r LogRange, t LogTwoWayTokens) (*RecentLogPage, error) {
	if t.Forward != "" && t.Backward != "" {
		return nil, plat.InvalidField("next_backward_token", "send one of the two tokens")
	}
	page, err := a.readLogs(ctx, logs.Query{Stream: stream, Cursor: cmp.Or(t.Forward, t.Backward), Descending: true}, r)
	if err != nil {
		return nil, err
	}
	return &RecentLogPage{Events: logEvents(page.Lines), Forward: page.Forward, Backward: page.Backward}, nil
}

func (a *API) readLogs(ctx context.Context, q logs.Query, r LogRange) (logs.Page, error) {
	q.Org, q.Limit, q.Contains = caller(ctx).Org, r.Limit, r.Text
	for _, x := range []struct {
		name, text string
		to         *time.Time
	}{{"start_time", r.Start, &q.From}, {"end_time", r.End, &q.To}} {
		if x.text == "" {
			continue
		}
		var err error
		if *x.to, err = plat.ParseTime(x.text); err != nil {
			return logs.Page{}, plat.InvalidField(x.name, "%q is not a time; write it like 2026-01-02T15:04:05Z", x.text)
		}
	}
	return a.Logs.Read(ctx, q)
}

func logEvents(lines []logs.Line) []LogEvent {
	out := make([]LogEvent, 0, len(lines))
	for i := range lines {
		l := &lines[i]
		out = append(out, LogEvent{Message: l.Message, Timestamp: l.When().Format(plat.TimeMicroZ), Level: l.Level, RequestID: l.RequestID})
	}
	return out
}

// logGap is the answer to a batch that left lines out: it says what is durable.
type logGap struct {
	Code        string              `json:"error"`
	Description string              `json:"error_description"`
	Detail      map[string][]string `json:"error_detail"`
	LastSeq     int64               `json:"last_seq"`
}

// ingestLogs takes a batch. The stream is the token's, not the sender's word.
func (a *API) ingestLogs(w http.ResponseWriter, r *http.Request) {
	id := caller(r.Context())
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyDeadline)) // a test's recorder has none
	b, err := a.Logs.ReadBatch(r.Context(), r.Body, r.ContentLength, r.Header.Get("Content-Encoding"))
	switch {
	case errors.Is(err, logs.ErrTooLarge):
		writeError(w, newError(http.StatusRequestEntityTooLarge, "the batch is larger than 2 MiB", nil))
		return
	case errors.Is(err, plat.ErrUnsupported):
		writeError(w, newError(http.StatusUnsupportedMediaType, err.Error(), nil))
		return
	case err != nil:
		a.fail(w, r, familyLogs, err)
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if b.Workload != string(id.Scope.Workload) || b.Stream != streamOf(id.Scope) {
		a.fail(w, r, familyLogs, plat.Errorf(plat.ErrForbidden, "the batch is of workload %q and stream %q, which are not this token's", b.Workload, b.Stream))
		return
	}
	ack, err := a.Logs.Ingest(r.Context(), id.Org, b)
	switch {
	case errors.Is(err, plat.ErrConflict):
		e := a.body(r.Context(), familyLogs, err)
		writeJSON(w, http.StatusConflict, logGap{e.Code, e.Description, e.Detail, ack.LastSeq})
	case err != nil:
		a.fail(w, r, familyLogs, err)
	default:
		writeJSON(w, http.StatusOK, ack)
	}
}

func streamOf(s authn.Scope) string {
	switch {
	case s.Job != "":
		return logs.JobStream(string(s.Job))
	case s.Service != "":
		return logs.ServiceStream(string(s.Service))
	}
	return ""
}
