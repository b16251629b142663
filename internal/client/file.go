// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// UpdateChannel changes a channel's name and description; nil stays.
func (c *Client) UpdateChannel(ctx context.Context, id string, name, description *string) (Channel, error) {
	in := map[string]string{}
	if name != nil {
		in["name"] = *name
	}
	if description != nil {
		in["description"] = *description
	}
	var out channelAnswer
	err := c.JSON(ctx, http.MethodPatch, c.OrgPath("channels", id), nil, in, &out)
	return out.Channel, err
}

// DeleteChannel deletes a channel with all its files.
func (c *Client) DeleteChannel(ctx context.Context, id string) (Channel, error) {
	var out channelAnswer
	err := c.JSON(ctx, http.MethodDelete, c.OrgPath("channels", id), nil, nil, &out)
	return out.Channel, err
}

// PatchFileMetadata sets single names of a file's metadata (given plain) and, where
// the value is nil, removes them.
func (c *Client) PatchFileMetadata(ctx context.Context, channel, id string, patch map[string]*string) (File, error) {
	in := map[string]*string{}
	for k, v := range patch {
		if v != nil {
			escaped := Escape(*v)
			v = &escaped
		}
		in[metaPrefix+Escape(k)] = v
	}
	var f File
	err := c.JSON(ctx, http.MethodPatch, Path("channels", channel, id, "metadata"), nil, in, &f)
	return f, err
}

// SetFileLifetime changes a file's lifetime.
func (c *Client) SetFileLifetime(ctx context.Context, channel, id, lifetime string) error {
	return c.JSON(ctx, http.MethodPut, Path("channels", channel, id, "lifetime"), nil, map[string]string{"lifetime": lifetime}, nil)
}

// FileDeletion is what a deletion by query would do, or one step of it has done.
type FileDeletion struct {
	DryRun       bool    `json:"dry_run"`
	Count        int64   `json:"count"`
	Sample       []File  `json:"sample"`
	Deleted      int64   `json:"deleted"`
	DeletedBytes int64   `json:"deleted_bytes"`
	Remaining    int64   `json:"remaining"`
	Confirm      *string `json:"confirm"`
}

// PlanDeletion asks what a deletion by query would delete.
func (c *Client) PlanDeletion(ctx context.Context, channel, q string) (FileDeletion, error) {
	var out FileDeletion
	err := c.JSON(ctx, http.MethodPost, Path("channels", channel, "delete"), nil, map[string]any{"q": q, "dry_run": true}, &out)
	return out, err
}

// DeleteFiles does one step of a deletion that was planned: confirm is of the plan or
// of the step before. Repeat it until nothing remains.
func (c *Client) DeleteFiles(ctx context.Context, channel, q, confirm string) (FileDeletion, error) {
	var out FileDeletion
	err := c.JSON(ctx, http.MethodPost, Path("channels", channel, "delete"), nil, map[string]any{"q": q, "dry_run": false, "confirm": confirm}, &out)
	return out, err
}

// Download returns a file's bytes; the caller closes them. A signed URL that has
// expired is replaced by a fresh one.
func (c *Client) Download(ctx context.Context, channel string, f File) (io.ReadCloser, error) {
	rc, _, err := c.DownloadFrom(ctx, channel, f, 0)
	return rc, err
}

// DownloadFrom is Download from the byte off on. It returns where the bytes begin:
// off, or 0 where the server sends all of them.
func (c *Client) DownloadFrom(ctx context.Context, channel string, f File, off int64) (rc io.ReadCloser, at int64, err error) {
	header := http.Header{}
	if off > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", off))
	}
	for fresh := f.DownloadURI == ""; ; fresh = true {
		if fresh {
			if f, err = c.File(ctx, channel, f.ID); err != nil {
				return nil, 0, err
			}
		}
		res, err := c.Do(ctx, Request{Method: http.MethodGet, Path: f.DownloadURI, Header: header})
		var e *Error
		if errors.As(err, &e) && e.Status == http.StatusForbidden && !fresh {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		if res.StatusCode == http.StatusPartialContent {
			return res.Body, off, nil
		}
		return res.Body, 0, nil
	}
}
