// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// NewLink is what a channel is linked to.
type NewLink struct {
	Endpoint       string `json:"endpoint"`
	Region         string `json:"region,omitempty"`
	Bucket         string `json:"bucket"`
	Prefix         string `json:"prefix,omitempty"`
	AccessKey      string `json:"access_key,omitempty"`
	SecretKey      string `json:"secret_key,omitempty"`
	Feed           string `json:"feed,omitempty"`
	QueueURL       string `json:"queue_url,omitempty"`
	QueueAccessKey string `json:"queue_access_key,omitempty"`
	QueueSecretKey string `json:"queue_secret_key,omitempty"`
}

// Link is a channel's link to a bucket, and how it's doing.
type Link struct {
	Channel     string  `json:"channel_id"`
	Endpoint    string  `json:"endpoint"`
	Region      string  `json:"region"`
	Bucket      string  `json:"bucket"`
	Prefix      string  `json:"prefix"`
	Feed        string  `json:"feed"`
	QueueURL    string  `json:"queue_url,omitempty"`
	FeedURL     string  `json:"feed_url,omitempty"`
	FeedSecret  string  `json:"feed_secret,omitempty"` // of a new link only
	Paused      bool    `json:"paused"`
	ImportedAt  *string `json:"imported_at"` // nil until the first whole pass is through
	Listed      int64   `json:"listed"`
	Drift       int64   `json:"drift"`
	Waiting     int64   `json:"waiting"`
	Oldest      *string `json:"oldest"`
	Dead        int64   `json:"dead"`
	FeedError   string  `json:"feed_error,omitempty"`
	Messages    int64   `json:"messages"`
	LastBatch   int64   `json:"last_batch"`
	Rate        float64 `json:"rate"`
	Concurrency int64   `json:"concurrency"`
	LagSeconds  float64 `json:"lag_seconds"`
}

// DeadLetter is a message that led to nothing.
type DeadLetter struct {
	ID     int64  `json:"id"`
	Reason string `json:"reason"`
	Body   string `json:"body"`
	At     string `json:"at"`
}

func (c *Client) linkPath(channel string, more ...string) string {
	return c.OrgPath(append([]string{"channels", channel, "link"}, more...)...)
}

// LinkChannel links an empty channel to a bucket.
func (c *Client) LinkChannel(ctx context.Context, channel string, in NewLink) (Link, error) {
	var out Link
	err := c.JSON(ctx, http.MethodPost, c.linkPath(channel), nil, in, &out)
	return out, err
}

// Link tells how a channel's link is doing.
func (c *Client) Link(ctx context.Context, channel string) (Link, error) {
	var out Link
	err := c.JSON(ctx, http.MethodGet, c.linkPath(channel), nil, nil, &out)
	return out, err
}

// Unlinked is what a channel had by its link.
type Unlinked struct {
	Channel  string `json:"channel_id"`
	Bucket   string `json:"bucket"`
	Prefix   string `json:"prefix"`
	Files    int64  `json:"files"`
	Waiting  int64  `json:"waiting"`
	Dead     int64  `json:"dead"`
	Unlinked bool   `json:"unlinked"`
}

// UnlinkChannel ends a channel's link; with dry it only tells what would go.
func (c *Client) UnlinkChannel(ctx context.Context, channel string, dry bool) (Unlinked, error) {
	var out Unlinked
	err := c.JSON(ctx, http.MethodDelete, c.linkPath(channel), url.Values{"dry_run": {strconv.FormatBool(dry)}}, nil, &out)
	return out, err
}

// PauseLink lets a link rest, or go on.
func (c *Client) PauseLink(ctx context.Context, channel string, paused bool) (Link, error) {
	verb := "resume"
	if paused {
		verb = "pause"
	}
	var out Link
	err := c.JSON(ctx, http.MethodPost, c.linkPath(channel, verb), nil, nil, &out)
	return out, err
}

// DeadLetters returns a page of a link's dead letters after an id, and whether more follow.
func (c *Client) DeadLetters(ctx context.Context, channel string, after int64) ([]DeadLetter, bool, error) {
	var out struct {
		Letters []DeadLetter `json:"letters"`
		HasNext bool         `json:"has_next"`
	}
	err := c.JSON(ctx, http.MethodGet, c.linkPath(channel, "dead"), url.Values{"after": {strconv.FormatInt(after, 10)}}, nil, &out)
	return out.Letters, out.HasNext, err
}

// ReplayDead tries dead letters again, and DropDead removes them; no ids are all.
func (c *Client) ReplayDead(ctx context.Context, channel string, ids []int64) (int64, error) {
	return c.dead(ctx, channel, "replay", ids)
}

// DropDead removes dead letters; no ids are all.
func (c *Client) DropDead(ctx context.Context, channel string, ids []int64) (int64, error) {
	return c.dead(ctx, channel, "drop", ids)
}

func (c *Client) dead(ctx context.Context, channel, verb string, ids []int64) (int64, error) {
	var out struct {
		Letters int64 `json:"letters"`
	}
	err := c.JSON(ctx, http.MethodPost, c.linkPath(channel, "dead", verb), nil, map[string]any{"ids": append([]int64{}, ids...)}, &out)
	return out.Letters, err
}
