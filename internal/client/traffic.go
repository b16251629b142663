// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// ServiceTraffic is what a service does right now, as the asked server sees it.
type ServiceTraffic struct {
	Service    string  `json:"service_id"`
	Deployment string  `json:"deployment_id"`
	Version    string  `json:"model_version"`
	Status     string  `json:"status"`
	Requests   int     `json:"requests"`
	Errors     int     `json:"errors"`
	PerSecond  float64 `json:"requests_per_second"`
	P50        float64 `json:"p50_ms"`
	P99        float64 `json:"p99_ms"`
	InFlight   int     `json:"in_flight"`
	Waiting    int     `json:"waiting"`
	Ready      int     `json:"instances_ready"`
	Wanted     int     `json:"instances_wanted"`
}

// Traffic is the busiest services of an organization, busiest first.
type Traffic struct {
	Window  float64          `json:"window_seconds"`
	Entries []ServiceTraffic `json:"entries"`
}

// Traffic returns what the organization's services do, at most limit of them.
func (c *Client) Traffic(ctx context.Context, limit int) (Traffic, error) {
	var out Traffic
	err := c.JSON(ctx, http.MethodGet, c.OrgPath("traffic"), url.Values{"limit": {strconv.Itoa(limit)}}, nil, &out)
	return out, err
}
