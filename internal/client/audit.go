// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// AuditRow is one mutating call of an organization.
type AuditRow struct {
	Time           string            `json:"time"`
	OrganizationID string            `json:"organization_id"`
	Actor          string            `json:"actor"`
	ActorID        string            `json:"actor_id"`
	Operation      string            `json:"operation"`
	Method         string            `json:"method"`
	Path           string            `json:"path"`
	Targets        map[string]string `json:"targets"`
	Status         int               `json:"status"`
	RequestID      string            `json:"request_id"`
	Source         string            `json:"source"`
	Missed         int64             `json:"missed"`
}

// AuditQuery says which rows are wanted; zero fields don't narrow.
type AuditQuery struct {
	Start, End       time.Time
	Actor, Operation string
}

// Audit calls f with the organization's audit rows, newest first, until it returns an
// error or there are no more.
func (c *Client) Audit(ctx context.Context, in AuditQuery, f func(AuditRow) error) error {
	q := url.Values{"limit": {strconv.Itoa(1000)}}
	for name, v := range map[string]string{"actor": in.Actor, "operation": in.Operation} {
		if v != "" {
			q.Set(name, v)
		}
	}
	for name, t := range map[string]time.Time{"start": in.Start, "end": in.End} {
		if !t.IsZero() {
			q.Set(name, t.UTC().Format(time.RFC3339Nano))
		}
	}
	for {
		var page struct {
			Rows []AuditRow `json:"rows"`
			Next *string    `json:"next_page_token"`
		}
		if err := c.JSON(ctx, http.MethodGet, c.OrgPath("audit"), q, nil, &page); err != nil {
			return err
		}
		for _, r := range page.Rows {
			if err := f(r); err != nil {
				return err
			}
		}
		if page.Next == nil {
			return nil
		}
		q = url.Values{"next_page_token": {*page.Next}}
	}
}
