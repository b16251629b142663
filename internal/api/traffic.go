// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"panal/internal/authz"
	"panal/internal/deploy"
)

// ServiceTraffic is what a service does right now, as this server sees it.
type ServiceTraffic struct {
	ServiceID       string  `json:"service_id"`
	DeploymentID    string  `json:"deployment_id"`
	VersionLabel    string  `json:"model_version"`
	Status          string  `json:"status"`
	Requests        int     `json:"requests" doc:"that ended within the window, without those that limits turned away"`
	Errors          int     `json:"errors" doc:"of those, answered 5xx or cut off"`
	PerSecond       float64 `json:"requests_per_second"`
	P50             float64 `json:"p50_ms" doc:"0 without requests; at most a quarter too high"`
	P99             float64 `json:"p99_ms"`
	InFlight        int     `json:"in_flight" doc:"requests that instances have"`
	Waiting         int     `json:"waiting" doc:"requests that wait for an instance"`
	InstancesReady  int     `json:"instances_ready"`
	InstancesWanted int     `json:"instances_wanted" doc:"now; the scaler moves it"`
}

// Traffic is the busiest services of an organization, busiest first.
type Traffic struct {
	Window  float64          `json:"window_seconds"`
	Entries []ServiceTraffic `json:"entries"`
}

func (a *API) addTraffic() {
	type input struct {
		OrgPath
		Limit string `query:"limit" doc:"1 to 1000, default 100"`
	}
	register(a, operation{
		ID: "get-traffic", Method: http.MethodGet, Path: "/organizations/{organization_id}/traffic", Tag: "service", Family: familyCompute, Op: authz.ServiceRead,
		Summary: "Tell the busiest services among the organization's newest 1000, with their requests of the last half minute on this server",
	}, func(ctx context.Context, in *input) (*Traffic, error) {
		limit, err := a.pageSize("limit", in.Limit, 100)
		if err != nil {
			return nil, err
		}
		services, err := a.Deploy.OrgServices(ctx, caller(ctx).Org)
		if err != nil {
			return nil, err
		}
		out := &Traffic{Entries: make([]ServiceTraffic, 0, len(services))}
		for _, s := range services {
			t, window := a.traffic(s)
			out.Window = window.Seconds()
			out.Entries = append(out.Entries, t)
		}
		slices.SortStableFunc(out.Entries, func(x, y ServiceTraffic) int {
			return cmp.Or(cmp.Compare(y.Requests, x.Requests), cmp.Compare(y.InFlight+y.Waiting, x.InFlight+x.Waiting), cmp.Compare(y.InstancesReady, x.InstancesReady))
		})
		out.Entries = out.Entries[:min(limit, len(out.Entries))]
		return out, nil
	})
}

func (a *API) traffic(s deploy.Service) (ServiceTraffic, time.Duration) {
	f := a.Gateway.Figures(s.Deployment, s.ID)
	millis := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	t := ServiceTraffic{
		ServiceID: string(s.ID), DeploymentID: string(s.Deployment), VersionLabel: s.VersionLabel, Status: string(s.Status),
		Requests: f.Calls, Errors: f.Errors, PerSecond: float64(f.Calls) / f.Window.Seconds(), P50: millis(f.P50), P99: millis(f.P99),
		InFlight: f.InFlight, Waiting: f.Waiting, InstancesReady: f.Ready, InstancesWanted: s.Goal(),
	}
	if s.Status == deploy.Stopped {
		t.InstancesWanted = 0
	}
	return t, f.Window
}
