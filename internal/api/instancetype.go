// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"

	"panal/internal/authz"
	"panal/internal/plat"
)

// Resources is an amount of machine.
type Resources struct {
	VCPUs  float64 `json:"vcpus" example:"1"`
	Memory int64   `json:"memory" doc:"bytes" example:"2147483648"`
	GPUs   int     `json:"gpus" doc:"exclusive slots" example:"0"`
}

// InstanceType is one size that jobs and services can ask for (compute.md §12.1).
type InstanceType struct {
	Name string `json:"name" example:"cpu-1"`
	Resources
	Fits           bool `json:"fits" doc:"the installation is large enough for one"`
	JobFitsNow     bool `json:"job_fits_now" doc:"a job of it would start at once"`
	ServiceFitsNow bool `json:"service_fits_now" doc:"an instance of a service of it would start at once"`
}

// Capacity is what the installation has, and what is taken.
type Capacity struct {
	Total    Resources `json:"total"`
	JobShare Resources `json:"job_share" doc:"how much of it jobs may use together; the rest is kept for services"`
	Used     Resources `json:"used" doc:"what workloads of all organizations have reserved"`
}

// InstanceTypeList is the catalogue.
type InstanceTypeList struct {
	Entries  []InstanceType `json:"entries"`
	Total    int            `json:"total"`
	Capacity Capacity       `json:"capacity"`
}

func wireResources(r plat.Resources) Resources {
	return Resources{VCPUs: float64(r.MilliCPU) / 1000, Memory: r.Memory, GPUs: r.GPUs}
}

func (a *API) addInstanceTypes() {
	register(a, operation{
		ID: "list-instance-types", Method: http.MethodGet, Path: "/organizations/{organization_id}/instance_types",
		Summary: "List the instance types, and which of them there is room for", Tag: "instance type", Family: familyCompute, Op: authz.InstanceTypeRead,
	}, func(ctx context.Context, _ *orgPath) (*InstanceTypeList, error) {
		c, err := a.Capacity(ctx)
		if err != nil {
			return nil, err
		}
		out := &InstanceTypeList{Entries: []InstanceType{}, Capacity: Capacity{
			Total: wireResources(c.Total), JobShare: wireResources(c.JobShare), Used: wireResources(c.Used),
		}}
		for _, it := range plat.InstanceTypes() {
			r := it.Resources
			out.Entries = append(out.Entries, InstanceType{
				Name: it.Name, Resources: wireResources(r),
				Fits:       r.MilliCPU <= c.Total.MilliCPU && r.Memory <= c.Total.Memory && r.GPUs <= c.Total.GPUs,
				JobFitsNow: c.Admit(r, false) == nil, ServiceFitsNow: c.Admit(r, true) == nil,
			})
		}
		out.Total = len(out.Entries)
		return out, nil
	})
}
