// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"panal/internal/dataplane"
	"panal/internal/deploy"
	"panal/internal/lake"
	"panal/internal/plat"
)

// recordChannel returns ErrNotFound unless calls can be recorded to the channel.
func recordChannel(ctx context.Context, files *lake.Service, org plat.OrgID, id plat.ChannelID) error {
	c, err := files.Channel(ctx, org, id)
	if err == nil && (c.Archived || c.Linked) {
		return plat.NotFound("channel", id)
	}
	return err
}

// storeRecording makes a recorded input a file of its channel, and so its output, which
// names the input's file. The result of an asynchronous call is noted to be recorded.
func storeRecording(ctx context.Context, files *lake.Service, services *deploy.Manager, r *dataplane.Recording) error {
	meta := lake.Metadata{"part": "input"}
	if r.Path != "" {
		var cut bool
		meta["path"], cut = recordedPath(r.Path, files.MaxValue())
		r.Input.Cut = r.Input.Cut || cut
	}
	in, err := storeRecorded(ctx, files, r, &r.Input, meta)
	switch {
	case err != nil:
		return err
	case r.Async != "":
		return services.RecordAsync(ctx, r.Async, deploy.AsyncRecord{
			Channel: r.Channel, Service: r.Service, Version: r.Version, Request: r.RequestID, Method: r.Method, At: r.At, Input: in.ID,
		})
	case r.Output == nil:
		return nil
	}
	return storeOutput(ctx, files, r, r.Output, in.ID)
}

// recordedPath is a path with its query as metadata takes it: UTF-8 of limited length, of
// which no escape makes a NUL.
func recordedPath(path string, limit int) (value string, cut bool) {
	path = strings.ReplaceAll(strings.ToValidUTF8(path, "%EF%BF%BD"), "%00", "%2500")
	if len(path) <= limit {
		return path, false
	}
	return strings.ToValidUTF8(path[:limit], ""), true
}

// storeResult makes the result of a recorded asynchronous call a file, as if it had been
// its answer.
func storeResult(ctx context.Context, files *lake.Service, c deploy.AsyncCall, body io.Reader) error {
	kept, err := io.ReadAll(io.LimitReader(body, dataplane.MaxRecordedBody))
	if err != nil {
		return fmt.Errorf("read result: %w", err)
	}
	h := http.Header{}
	dataplane.AnswerHeaders(h, c.Headers)
	r := &dataplane.Recording{
		Record: dataplane.Record{Channel: c.Record.Channel, Version: c.Record.Version}, Org: c.Org, Deployment: c.Deployment, Service: c.Record.Service,
		RequestID: c.Record.Request, Method: c.Record.Method, Status: c.Status, At: c.Record.At, Took: c.FinishedAt.Sub(c.Record.At),
	}
	return storeOutput(ctx, files, r, &dataplane.Recorded{
		ContentType: h.Get("Content-Type"), ContentEncoding: h.Get("Content-Encoding"), Body: kept, Cut: c.Size > int64(len(kept)),
	}, c.Record.Input)
}

func storeOutput(ctx context.Context, files *lake.Service, r *dataplane.Recording, body *dataplane.Recorded, input plat.FileID) error {
	_, err := storeRecorded(ctx, files, r, body, lake.Metadata{"part": "output", "input": string(input)})
	return err
}

func storeRecorded(ctx context.Context, files *lake.Service, r *dataplane.Recording, body *dataplane.Recorded, meta lake.Metadata) (lake.File, error) {
	maps.Copy(meta, lake.Metadata{
		"deployment": string(r.Deployment), "service": string(r.Service), "version": r.Version, "request": r.RequestID, "method": r.Method,
		"status": strconv.Itoa(r.Status), "latency-ms": strconv.FormatInt(r.Took.Milliseconds(), 10),
		"time": r.At.UTC().Format(time.RFC3339Nano), "recorded": "whole",
	})
	if body.Cut {
		meta["recorded"] = "cut"
	}
	if coding := body.ContentEncoding; coding != "" && len(coding) <= 255 {
		meta["encoding"] = coding
	}
	kind := body.ContentType
	if len(kind) > 255 {
		kind = ""
	}
	return files.Upload(ctx, lake.Upload{
		Org: r.Org, Channel: r.Channel, ContentType: kind, Body: bytes.NewReader(body.Body), Size: int64(len(body.Body)), Metadata: meta,
	})
}
