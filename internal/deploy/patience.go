// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"time"

	"panal/internal/runner"
)

// PatienceVariable of a service's environment is how long its handler may take.
const PatienceVariable = runner.EnvHandlerTimeout

// usualPatience is what a handler has without a limit of its own (compute.md §13.5).
const usualPatience = 30 * time.Second

// Patience is how long the gateway waits for the answer of a handler, and for each
// further piece of it, that may take longer than is usual: a little longer still, so
// that it is the agent that says what happened. 0 means the usual.
func (s Service) Patience() time.Duration {
	limit, err := time.ParseDuration(s.Merged[PatienceVariable])
	if err != nil || limit <= usualPatience || s.Command {
		return 0
	}
	return limit + 5*time.Second
}
