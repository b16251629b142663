// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/http"
	"strings"

	"panal/internal/authz"
)

// notBuilt lists the operations of the documents that this version does not do
// yet. Each answers 501 with the API's error body, to whoever may read.
func notBuilt() []string {
	const o, d, p = "/organizations/{organization_id}", "/organizations/{organization_id}/training/definitions/{job_definition}", "/organizations/{organization_id}/deployments/{deployment_id}"
	return []string{
		"PUT " + d + "/jobs/{training_job_id}/status", "POST " + d + "/jobs/{training_job_id}/logs",
		"POST " + d + "/notebooks", "GET " + d + "/notebooks",
		"GET " + d + "/notebooks/{notebook_id}", "PUT " + d + "/notebooks/{notebook_id}", "DELETE " + d + "/notebooks/{notebook_id}",
		"POST " + d + "/notebooks/{notebook_id}/start", "POST " + d + "/notebooks/{notebook_id}/stop",
		"GET " + d + "/notebooks/{notebook_id}/recentlogs",
		"POST " + d + "/tensorboards", "GET " + d + "/tensorboards",
		"GET " + d + "/tensorboards/{tensorboard_id}", "PUT " + d + "/tensorboards/{tensorboard_id}", "DELETE " + d + "/tensorboards/{tensorboard_id}",
		"POST " + d + "/tensorboards/{tensorboard_id}/start", "POST " + d + "/tensorboards/{tensorboard_id}/stop",
		"POST " + p + "/runs", "GET " + p + "/runs", "GET " + p + "/runs/{run_id}",
		"GET " + p + "/runs/{run_id}/logs", "GET " + p + "/runs/{run_id}/recentlogs",
		"POST " + p + "/triggers", "GET " + p + "/triggers", "GET " + p + "/triggers/{trigger_id}", "DELETE " + p + "/triggers/{trigger_id}",
		"GET " + p + "/triggers/{trigger_id}/runs",
		"GET " + o + "/models", "POST " + o + "/models",
	}
}

func (a *API) addNotBuilt() {
	for _, route := range notBuilt() {
		method, path, _ := strings.Cut(route, " ")
		o := operation{Method: method, Path: path, Op: authz.NotBuilt, Family: familyCompute}
		a.router.Method(method, path, a.metrics.counting(operationNotBuilt, func(w http.ResponseWriter, r *http.Request) {
			if _, err := a.admit(r.Context(), o, r.Header.Get("Authorization"), func(name string) string {
				if name != "organization_id" {
					return ""
				}
				return param(r, name)
			}); err != nil {
				a.fail(w, r, o.Family, err)
				return
			}
			writeError(w, newError(http.StatusNotImplemented, r.Method+" on this path is not built yet in this version", nil))
		}))
	}
}
