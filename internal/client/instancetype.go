// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/http"
)

// Resources is an amount of machine.
type Resources struct {
	VCPUs  float64 `json:"vcpus"`
	Memory int64   `json:"memory"` // bytes
	GPUs   int     `json:"gpus"`
}

// InstanceType is one size that jobs and services can ask for.
type InstanceType struct {
	Name string `json:"name"`
	Resources
	// Fits tells whether the installation is large enough for one; the other two,
	// whether a job or an instance of a service would start at once.
	Fits           bool `json:"fits"`
	JobFitsNow     bool `json:"job_fits_now"`
	ServiceFitsNow bool `json:"service_fits_now"`
}

// InstanceTypes is the catalogue with what the installation has, what jobs may use
// of it together, and what is taken.
type InstanceTypes struct {
	Entries  []InstanceType `json:"entries"`
	Total    int            `json:"total"`
	Capacity struct {
		Total    Resources `json:"total"`
		JobShare Resources `json:"job_share"`
		Used     Resources `json:"used"`
	} `json:"capacity"`
}

// InstanceTypes lists the instance types.
func (c *Client) InstanceTypes(ctx context.Context) (InstanceTypes, error) {
	var l InstanceTypes
	err := c.JSON(ctx, http.MethodGet, c.OrgPath("instance_types"), nil, nil, &l)
	return l, err
}
