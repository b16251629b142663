// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"context"
	"maps"
	"strconv"
	"time"

	"panal/internal/dataplane"
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
// names the input's file.
func storeRecording(ctx context.Context, files *lake.Service, r *dataplane.Recording) error {
	in, err := storeRecorded(ctx, files, r, &r.Input, lake.Metadata{"part": "input"})
	if err != nil || r.Output == nil {
		return err
	}
	_, err = storeRecorded(ctx, files, r, r.Output, lake.Metadata{"part": "output", "input": string(in.ID)})
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
