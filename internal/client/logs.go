// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/url"
	"slices"
	"time"
)

// LogEvent is one log line.
type LogEvent struct {
	Message   string `json:"message"`
	Timestamp string `json:"timestamp"`
	Level     string `json:"level,omitempty"`
	RequestID string `json:"request_id,omitempty"`
}

// LogQuery selects log lines. Zero times are open ends.
type LogQuery struct {
	Since, Until time.Time
	Text         string
}

// JobPath returns the path of a job, to read its log under.
func (c *Client) JobPath(definition, job string) string {
	return c.OrgPath("training", "definitions", definition, "jobs", job)
}

// ServicePath returns the path of a service, to read its log under.
func (c *Client) ServicePath(deployment, service string) string {
	return c.OrgPath("deployments", deployment, "services", service)
}

func (q LogQuery) values() url.Values {
	v := url.Values{"limit": {"1000"}}
	if !q.Since.IsZero() {
		v.Set("start_time", q.Since.UTC().Format(time.RFC3339Nano))
	}
	if !q.Until.IsZero() {
		v.Set("end_time", q.Until.UTC().Format(time.RFC3339Nano))
	}
	if q.Text != "" {
		v.Set("q", q.Text)
	}
	return v
}

// Logs calls each for every line of the log under path (JobPath, ServicePath),
// oldest first, page by page.
func (c *Client) Logs(ctx context.Context, path string, q LogQuery, each func([]LogEvent) error) error {
	for v := q.values(); ; {
		var page struct {
			Events []LogEvent `json:"events"`
			Next   string     `json:"next_token"`
		}
		if err := c.JSON(ctx, "GET", path+"/logs", v, nil, &page); err != nil {
			return err
		}
		if err := each(page.Events); err != nil || page.Next == "" {
			return err
		}
		v = url.Values{"limit": v["limit"], "next_token": {page.Next}}
	}
}

// recentPage is a page newest first.
type recentPage struct {
	Events   []LogEvent `json:"events"`
	Forward  string     `json:"next_forward_token"`
	Backward string     `json:"next_backward_token"`
}

// RecentLogs returns the last 100 lines, or all since q.Since, oldest first, and
// the token that FollowLogs goes on from.
func (c *Client) RecentLogs(ctx context.Context, path string, q LogQuery) (events []LogEvent, token string, err error) {
	v := q.values()
	if q.Since.IsZero() {
		v.Set("limit", "100")
	}
	for {
		var page recentPage
		if err := c.JSON(ctx, "GET", path+"/recentlogs", v, nil, &page); err != nil {
			return nil, "", err
		}
		if token == "" {
			token = page.Forward
		}
		events = append(events, page.Events...)
		if q.Since.IsZero() || len(page.Events) == 0 {
			slices.Reverse(events)
			return events, token, nil
		}
		v = url.Values{"limit": v["limit"], "next_backward_token": {page.Backward}}
	}
}

// FollowLogs returns what came after the token, oldest first (nothing: an empty
// list), and the token to ask with next.
func (c *Client) FollowLogs(ctx context.Context, path, token string) ([]LogEvent, string, error) {
	var page recentPage
	v := url.Values{"limit": {"1000"}, "next_forward_token": {token}}
	if err := c.JSON(ctx, "GET", path+"/recentlogs", v, nil, &page); err != nil {
		return nil, "", err
	}
	slices.Reverse(page.Events)
	return page.Events, page.Forward, nil
}
