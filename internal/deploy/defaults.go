// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"maps"
	"time"
)

// Defaults of compute.md §5–7.
const (
	DefaultHandler      = "main:handler"
	DefaultInstanceType = "cpu-0.25"
	DefaultAlias        = "default"
	DefaultNumber       = 1
	// DefaultHealthPath is where a command is asked whether it works.
	DefaultHealthPath = "/"
	// MaxNumber is the most instances of a service.
	MaxNumber = 300
	// MinTarget is the least target concurrency of a service.
	MinTarget = 0.01
	// MaxTarget is the most.
	MaxTarget = 10_000
	// MinIdle is the least that a service idles before it sleeps.
	MinIdle = time.Second
	// MaxIdle is the most.
	MaxIdle = 30 * 24 * time.Hour
	// MinRate is the least rate limit of a service: a call in a quarter of an hour.
	MinRate = 1e-3
	// MaxRate is the most.
	MaxRate = 1e6
	// MaxCalls is the most that a service's concurrency limit may be.
	MaxCalls = 1_000_000
	// MaxSourceBytes is the most that a version's archive may have.
	MaxSourceBytes = 5 << 30
)

// MergeEnvironment lays the code version's values over the deployment's, and the
// service's own over both (compute.md §12.3).
func MergeEnvironment(deployment, version, own map[string]string) map[string]string {
	out := make(map[string]string, len(deployment)+len(version)+len(own))
	maps.Copy(out, deployment)
	maps.Copy(out, version)
	maps.Copy(out, own)
	return out
}
