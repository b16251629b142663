// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"panal/internal/authn"
	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/fakerunner"
	"panal/internal/sqlstore"
)

// compute.md §12.1: the catalogue, and what of it this installation has room for.
func TestInstanceTypes(t *testing.T) {
	const gib = int64(1) << 30
	run := fakerunner.New(fakerunner.Config{
		Total:    plat.Resources{MilliCPU: 4000, Memory: 8 * gib},
		JobShare: plat.Resources{MilliCPU: 3000, Memory: 6 * gib},
	})
	w := newWorld(t, func(w *world, _ *sqlstore.DB) { w.deps.Capacity = run.Capacity })
	const path = "/organizations/acme/instance_types"
	ask := func(as string) object {
		t.Helper()
		status, body := w.do(http.MethodGet, path, as, nil)
		return (&trainWorld{world: w}).decode("GET "+path, status, body)
	}
	show := func(v any) string { return fmt.Sprint(v) }
	fits := func(what string, want map[string][3]bool) {
		t.Helper()
		got := map[string][3]bool{}
		for _, e := range ask("acme/regular")["entries"].([]any) {
			it := e.(object)
			got[it["name"].(string)] = [3]bool{it["fits"].(bool), it["job_fits_now"].(bool), it["service_fits_now"].(bool)}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	all, service, no := [3]bool{true, true, true}, [3]bool{true, false, true}, [3]bool{}
	want := map[string][3]bool{
		"cpu-0.25": all, "cpu-1": all, "cpu-2": all, "cpu-4": all,
		"cpu-8": no, "cpu-16": no, "gpu-1": no, "gpu:a-1": no, "gpu:b-1": no, "gpu:b-4": no, "gpu:b-8": no,
	}
	fits("nothing runs", want) // a job that is alone may take all

	answer := ask("acme/admin")
	if n := show(answer["total"]); n != "11" {
		t.Errorf("total %s", n)
	}
	for i, want := range []map[string]string{
		{"name": "cpu-0.25", "vcpus": "0.25", "memory": "536870912", "gpus": "0"},
		{"name": "cpu-1", "vcpus": "1", "memory": "2147483648", "gpus": "0"},
	} {
		entry := answer["entries"].([]any)[i].(object)
		for k, v := range want {
			if got := show(entry[k]); got != v {
				t.Errorf("entry %d: %s = %s, want %s", i, k, got, v)
			}
		}
	}

	start := func(kind runner.Kind, milli int64) {
		t.Helper()
		if err := run.Start(t.Context(), runner.Spec{
			ID: plat.WorkloadID(plat.NewHexID("wl")), Org: "1000000000001", Kind: kind, Image: "x", Reserve: kind == runner.KindService,
			Resources: plat.Resources{MilliCPU: milli, Memory: milli * 2 * gib / 1000}, LogStream: "s", Token: "t",
		}); err != nil {
			t.Fatal(err)
		}
	}
	start(runner.KindTraining, 2000)
	want["cpu-2"] = service // 1 of the jobs' 3 is left; the rest is kept for services
	want["cpu-4"] = [3]bool{true, false, false}
	fits("a job runs", want)
	start(runner.KindService, 2000)
	for _, name := range []string{"cpu-0.25", "cpu-1", "cpu-2"} {
		want[name] = [3]bool{true, false, false}
	}
	fits("the machine is full", want)
	capacity := ask("acme/regular")["capacity"].(object)
	for k, v := range map[string]string{"total": "4", "job_share": "3", "used": "4"} {
		if got := show(capacity[k].(object)["vcpus"]); got != v {
			t.Errorf("capacity.%s.vcpus = %s, want %s", k, got, v)
		}
	}

	for _, c := range []struct {
		as, path string
		status   int
		code     string
	}{
		{"", path, 401, "unauthorized"},
		{"acme/regular", "/organizations/other/instance_types", 403, "forbidden"},
	} {
		status, body := w.do(http.MethodGet, c.path, c.as, nil)
		isError(t, c.path, status, body, c.status, c.code)
	}
}

// A runner that can't tell is not a machine without room.
func TestInstanceTypesWithoutCapacity(t *testing.T) {
	w := newWorld(t, func(w *world, _ *sqlstore.DB) {
		w.deps.Capacity = func(context.Context) (runner.Capacity, error) {
			return runner.Capacity{}, plat.Errorf(plat.ErrUnavailable, "the cluster does not answer")
		}
	})
	status, body := w.do(http.MethodGet, "/organizations/acme/instance_types", "acme/"+string(authn.RoleAdmin), nil)
	isError(t, "capacity", status, body, 503, "service_unavailable")
}
