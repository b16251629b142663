// SPDX-License-Identifier: Apache-2.0

package service

import (
	"slices"
	"sync"
	"time"

	"panal/internal/deploy"
	"panal/internal/plat"
)

const (
	// endsKept is how many ends are remembered of a service, and endServices of how many
	// services: those whose instances ended last.
	endsKept    = 5
	endServices = 1000
)

// ends remembers how instances ended, for whoever asks why a service is as it is. The
// records hold what the platform needs of it; this is for people, and begins anew with the
// process.
type ends struct {
	mu  sync.Mutex
	all map[plat.ServiceID][]deploy.End // newest first
}

func (e *ends) add(i deploy.Instance, at time.Time, code int, reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.all == nil {
		e.all = map[plat.ServiceID][]deploy.End{}
	}
	list := e.all[i.Service]
	if len(list) > 0 && list[0].Workload == i.Workload { // noted twice
		return
	}
	end := deploy.End{Workload: i.Workload, At: at, Lived: max(at.Sub(i.CreatedAt), 0), ExitCode: code, Reason: message(reason)}
	list = slices.Insert(list, 0, end)
	e.all[i.Service] = list[:min(len(list), endsKept)]
	if len(e.all) > endServices {
		oldest := i.Service
		for id, l := range e.all {
			if l[0].At.Before(e.all[oldest][0].At) {
				oldest = id
			}
		}
		delete(e.all, oldest)
	}
}

// Ends implements deploy.Config.Ends.
func (c *Controller) Ends(id plat.ServiceID) []deploy.End {
	c.ends.mu.Lock()
	defer c.ends.mu.Unlock()
	return slices.Clone(c.ends.all[id])
}
