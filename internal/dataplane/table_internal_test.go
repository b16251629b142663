// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"panal/internal/plat"
)

// TestEqualHashes: ids of one hash are told apart, whatever came and went.
func TestEqualHashes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := NewTable()
		kinds := rapid.Uint64Range(1, 3).Draw(t, "hashes")
		table.snap.Store(&snapshot{hash: func(id string) uint64 { return uint64(id[len(id)-1]) % kinds }})
		deployment := func(id plat.DeploymentID, n int) Deployment {
			d := Deployment{ID: id, Org: "o", Aliases: map[string]plat.ServiceID{}}
			for i := range n {
				service := plat.ServiceID(fmt.Sprintf("%s-%d", id, i))
				d.Services = append(d.Services, Service{ID: service})
				d.Aliases[fmt.Sprint("a", i)] = service
			}
			return d
		}
		want := map[plat.DeploymentID]int{}     // how many services
		name := func(i int) plat.DeploymentID { // some are too long for a name
			return plat.DeploymentID(fmt.Sprint("d", strings.Repeat("-", i%3*15), i))
		}
		id := func() plat.DeploymentID { return name(rapid.IntRange(0, 7).Draw(t, "id")) }
		count := func() int { return rapid.SampledFrom([]int{0, 1, 3, maxNames, maxNames + 1}).Draw(t, "services") }
		version := uint64(1)
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			version++
			before, was := table.snap.Load(), maps.Clone(want)
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				d := id()
				table.Apply(Delta{Version: version, Deployment: Deployment{ID: d}, Deleted: true})
				delete(want, d)
			case 1, 2:
				d := deployment(id(), count())
				table.Apply(Delta{Version: version, Deployment: d})
				want[d.ID] = len(d.Services)
			default:
				s := Snapshot{Version: version}
				for d, n := range want { // some change, some go
					if n = rapid.SampledFrom([]int{n, n, -1, 2}).Draw(t, "now"); n >= 0 {
						s.Deployments = append(s.Deployments, deployment(d, n))
					}
				}
				clear(want)
				for _, d := range s.Deployments {
					want[d.ID] = len(d.Services)
				}
				table.Replace(s)
			}
			for i := range 8 {
				d := name(i)
				if old, n := before.get(d), was[d]; (old != nil) != (n > 0 || hasKey(was, d)) || old != nil && len(old.services) != n {
					t.Fatalf("the snapshot before changed: %s", d)
				}
				n, known := want[d]
				for k := range n + 1 {
					service := plat.ServiceID(fmt.Sprintf("%s-%d", d, k))
					for _, to := range []Target{{Org: "o", Deployment: d, Service: service}, {Org: "o", Deployment: d, Alias: fmt.Sprint("a", k)}} {
						r, err := table.Lookup(to)
						if found := known && k < n; found != (err == nil) || found && r.Service() != service {
							t.Fatalf("%+v: %v, want %v", to, err, found)
						}
					}
				}
			}
		}
	})
}

func hasKey(m map[plat.DeploymentID]int, id plat.DeploymentID) bool {
	_, ok := m[id]
	return ok
}
