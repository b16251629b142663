// SPDX-License-Identifier: Apache-2.0

package deploytest

import (
	"cmp"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"panal/internal/deploy"
	"panal/internal/plat"
)

func routed(t *testing.T, h Harness) {
	ctx, d := t.Context(), h.deployment(t, 1)
	same(t, "nothing", deploy.Routed{ID: d.ID}, get(h.Store.Routed(ctx, d.ID))(t))
	v := h.version(t, d, "1")
	a, b := h.service(t, v, 1), h.service(t, v, 2)
	a = get(h.Store.UpdateService(ctx, a.ID, func(s *deploy.Service) error {
		s.Merged, s.StatusMessage, s.ReadyGeneration = map[string]string{deploy.RecordPercentVariable: "7"}, "", 1
		s.RecordOutputs, s.RateLimit, s.CallLimit = true, 2.5, 3
		return nil
	}))(t)
	b = get(h.Store.UpdateService(ctx, b.ID, func(s *deploy.Service) error {
		s.RecordChannel, s.Autoscale, s.Merged = "", false, map[string]string{deploy.PatienceVariable: "2m"}
		return nil
	}))(t)
	e, f := h.endpoint(t, a, "default"), h.endpoint(t, b, "canary")
	parts := []deploy.Part{{Service: a.ID, Weight: 40}, {Service: b.ID, Weight: 60}}
	get(h.Store.UpdateEndpoint(ctx, d.ID, f.Alias, []plat.ServiceID{b.ID}, func(e *deploy.Endpoint, _ deploy.Service, _ []deploy.Service) (*deploy.Change, error) {
		e.Split, e.RateLimit, e.CallLimit = parts, 0, 4
		return nil, nil
	}))(t)
	want := deploy.Routed{
		ID: d.ID, Org: h.Org, Services: []deploy.Brief{a.Brief(), b.Brief()},
		Aliases: []deploy.Alias{{Name: f.Alias, Service: b.ID, Split: parts, CallLimit: 4}, {Name: e.Alias, Service: a.ID, RateLimit: 1.5, CallLimit: 9}},
	}
	if p := want.Services[0]; want.Services[1].Patience != 125*time.Second || p.RecordPercent != 7 || !p.RecordOutputs || p.RateLimit != 2.5 || p.CallLimit != 3 || p.VersionLabel != "1" || p.Messages || want.Services[1].VersionLabel != "" {
		t.Errorf("brief %+v", p)
	}
	same(t, "Routed", want, get(h.Store.Routed(ctx, d.ID))(t))
	i := deploy.Instance{Workload: "wl-1", Org: h.Org, Deployment: d.ID, Service: a.ID, Generation: 1, State: deploy.InstanceUp, CreatedAt: at(1)}
	ok(t, h.Store.CreateInstance(ctx, i))
	same(t, "Routed, with an instance", want, get(h.Store.Routed(ctx, d.ID))(t))
	want.Instances = []deploy.Instance{i}
	page, last, err := h.Store.RoutedPage(ctx, "", 10)
	ok(t, err)
	same(t, "page", []deploy.Routed{want}, page)
	same(t, "its end", plat.DeploymentID(""), last)
}

// routedPages: whatever the sizes of deployments and pages, the pages together are what
// the deployments are one by one; instances whose service is gone are not missed.
func routedPages(t *testing.T, h Harness) {
	ctx := t.Context()
	want := map[plat.DeploymentID]deploy.Routed{}
	for n := range 12 {
		d := h.deployment(t, n)
		v := h.version(t, d, "1")
		services := []plat.ServiceID{"ser-0000000000000000"}
		for k := range []int{0, 1, 5, 2}[n%4] {
			s := h.service(t, v, k)
			services = append(services, s.ID)
			for range k {
				ok(t, h.Store.CreateInstance(ctx, deploy.Instance{
					Workload: plat.WorkloadID(plat.NewHexID("wl")), Org: h.Org, Deployment: d.ID, Service: s.ID, State: deploy.InstanceUp, CreatedAt: at(k),
				}))
			}
			if k == 3 {
				ok(t, h.Store.DeleteService(ctx, s.ID))
			}
			if k == 0 {
				h.endpoint(t, s, "default")
			}
		}
		if n%8 == 0 { // only an instance is left
			ok(t, h.Store.CreateInstance(ctx, deploy.Instance{
				Workload: plat.WorkloadID(plat.NewHexID("wl")), Org: h.Org, Deployment: d.ID, Service: "ser-0000000000000000", State: deploy.InstanceUp, CreatedAt: at(1),
			}))
		}
		r := get(h.Store.Routed(ctx, d.ID))(t)
		for _, id := range services {
			for _, i := range get(h.Store.Instances(ctx, id))(t) {
				if i.Deployment == d.ID {
					r.Instances = append(r.Instances, i)
				}
			}
		}
		slices.SortStableFunc(r.Instances, func(a, b deploy.Instance) int { return cmp.Compare(a.Service, b.Service) })
		if len(r.Services)+len(r.Instances) > 0 {
			want[d.ID] = r
		}
	}
	ids := slices.Sorted(maps.Keys(want))
	rapid.Check(t, func(r *rapid.T) {
		size := rapid.IntRange(1, 40).Draw(r, "size")
		var all []deploy.Routed
		for after := plat.DeploymentID(""); ; {
			page, last, err := h.Store.RoutedPage(ctx, after, size)
			if err != nil {
				r.Fatal(err)
			}
			all = append(all, page...)
			if last == "" {
				break
			}
			if last <= after {
				r.Fatalf("page after %q ends at %q", after, last)
			}
			for _, d := range page {
				if d.ID <= after || d.ID > last {
					r.Fatalf("page (%q, %q] has %q", after, last, d.ID)
				}
			}
			after = last
		}
		if len(all) != len(ids) {
			r.Fatalf("%d deployments, want %d", len(all), len(ids))
		}
		for i, id := range ids {
			same(t, "deployment", want[id], all[i])
		}
	})
}
