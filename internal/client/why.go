// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/http"
)

// Why explains a service.
type Why struct {
	Service    string         `json:"service_id"`
	Deployment string         `json:"deployment_id"`
	Status     string         `json:"status"`
	Because    []string       `json:"because"`
	Desired    int            `json:"desired_instance_number"`
	Ready      int            `json:"ready_instance_number"`
	Instances  []WhyInstance  `json:"instances"`
	Ends       []WhyEnd       `json:"ends"`
	Failures   int            `json:"failures_in_a_row"`
	RetryAt    *string        `json:"retry_at"`
	Room       *string        `json:"room"`
	Scale      WhyScale       `json:"scale"`
	Endpoints  []WhyEndpoint  `json:"endpoints"`
	Traffic    ServiceTraffic `json:"traffic"`
	TurnedAway map[string]int `json:"turned_away"`
	Log        []LogEvent     `json:"log"`
}

// WhyInstance is an instance of it.
type WhyInstance struct {
	Instance
	InFlight     int     `json:"in_flight"`
	Limit        int     `json:"limit"`
	SkippedUntil *string `json:"skipped_until"`
	Failures     int     `json:"failures_in_a_row"`
	Suspect      bool    `json:"suspect"`
}

// WhyEnd is how an instance ended that was not meant to.
type WhyEnd struct {
	Instance string  `json:"instance_id"`
	At       string  `json:"at"`
	Lived    float64 `json:"lived_seconds"`
	ExitCode *int    `json:"exit_code"` // nil: the server ended it
	Reason   string  `json:"reason"`
}

// WhyScale is what the scaler decided.
type WhyScale struct {
	Autoscale bool    `json:"enable_autoscale"`
	Min       int     `json:"min_instance_number"`
	Max       int     `json:"max_instance_number"`
	Asleep    bool    `json:"asleep"`
	Message   *string `json:"message"`
	At        *string `json:"at"`
}

// WhyEndpoint is an endpoint that has to do with it.
type WhyEndpoint struct {
	Alias   string  `json:"custom_alias"`
	Percent int     `json:"percent"`
	Pending bool    `json:"pending"`
	Message *string `json:"status_message"`
}

// Why asks why a service is as it is.
func (c *Client) Why(ctx context.Context, dep, id string) (Why, error) {
	var out Why
	err := c.JSON(ctx, http.MethodGet, c.deployments(dep, "services", id, "why"), nil, nil, &out)
	return out, err
}
