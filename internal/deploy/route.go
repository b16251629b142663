// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"time"

	"panal/internal/plat"
)

// Brief is what routing and scaling have to know of a service. It is kept in memory
// for every service there is, so it is little, and two can be compared by ==.
type Brief struct {
	ID                          plat.ServiceID
	Status                      Status
	Generation, ReadyGeneration int64
	Number, Min, Max, Desired   int
	Target                      float64
	IdleTimeout                 time.Duration
	Autoscale, Command          bool
	Messages                    bool // there is a status message
	RateLimit                   float64
	CallLimit                   int
	// RecordChannel is where its calls are recorded. The next three are only set when
	// it is.
	RecordChannel plat.ChannelID
	RecordOutputs bool
	RecordPercent int
	VersionLabel  string
	Patience      time.Duration // Service.Patience
}

// Service returns a service of which only the fields of b are set.
func (b Brief) Service() Service {
	return Service{
		ID: b.ID, Status: b.Status, Generation: b.Generation, ReadyGeneration: b.ReadyGeneration,
		Number: b.Number, Min: b.Min, Max: b.Max, Desired: b.Desired, Target: b.Target, IdleTimeout: b.IdleTimeout,
		Autoscale: b.Autoscale, Command: b.Command, RateLimit: b.RateLimit, CallLimit: b.CallLimit,
		RecordChannel: b.RecordChannel, RecordOutputs: b.RecordOutputs, VersionLabel: b.VersionLabel,
	}
}

// Brief returns what routing and scaling have to know of s.
func (s Service) Brief() Brief {
	b := Brief{
		ID: s.ID, Status: s.Status, Generation: s.Generation, ReadyGeneration: s.ReadyGeneration,
		Number: s.Number, Min: s.Min, Max: s.Max, Desired: s.Desired, Target: s.Target, IdleTimeout: s.IdleTimeout,
		Autoscale: s.Autoscale, Command: s.Command, RateLimit: s.RateLimit, CallLimit: s.CallLimit, Messages: s.StatusMessage != "", Patience: s.Patience(),
	}
	if s.RecordChannel != "" {
		b.RecordChannel, b.RecordOutputs, b.RecordPercent, b.VersionLabel = s.RecordChannel, s.RecordOutputs, s.RecordPercent(), s.VersionLabel
	}
	return b
}

// Goal is Service.Goal.
func (b Brief) Goal() int { return b.Service().Goal() }

// Asleep is Service.Asleep.
func (b Brief) Asleep() bool { return b.Service().Asleep() }

// Alias is where an endpoint leads.
type Alias struct {
	Name    string
	Service plat.ServiceID
	Split   []Part // empty: all goes to Service
	// RateLimit and CallLimit are Endpoint's.
	RateLimit float64
	CallLimit int
}

// Routed is what is on record of a deployment that has services or instances, as far
// as its routes go.
type Routed struct {
	ID        plat.DeploymentID
	Org       plat.OrgID // empty when only instances are left
	Services  []Brief
	Aliases   []Alias
	Instances []Instance // grouped by service
}
