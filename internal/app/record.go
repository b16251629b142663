// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"context"
	"strconv"
	"time"

	"panal/internal/dataplane"
	"panal/internal/lake"
	"panal/internal/plat"
)

// recordChannel returns ErrNotFound unless inputs can be recorded to the channel.
func recordChannel(ctx context.Context, files *lake.Service, org plat.OrgID, id plat.ChannelID) error {
	c, err := files.Channel(ctx, org, id)
	if err == nil && (c.Archived || c.Linked) {
		return plat.NotFound("channel", id)
	}
	return err
}

// storeRecording makes a recorded input a file of its channel.
func storeRecording(ctx context.Context, files *lake.Service, r *dataplane.Recording) error {
	recorded := "whole"
	if r.Cut {
		recorded = "cut"
	}
	kind := r.ContentType
	if len(kind) > 255 {
		kind = ""
	}
	_, err := files.Upload(ctx, lake.Upload{
		Org: r.Org, Channel: r.Channel, ContentType: kind, Body: bytes.NewReader(r.Body), Size: int64(len(r.Body)),
		Metadata: lake.Metadata{
			"deployment": string(r.Deployment), "service": string(r.Service), "version": r.Version, "request": r.RequestID, "method": r.Method,
			"status": strconv.Itoa(r.Status), "latency-ms": strconv.FormatInt(r.Took.Milliseconds(), 10),
			"time": r.At.UTC().Format(time.RFC3339Nano), "recorded": recorded,
		},
	})
	return err
}
