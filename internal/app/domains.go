// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"

	"panal/internal/api"
	"panal/internal/authn"
)

// addDomains builds the domain services and their machines.
func (a *App) addDomains(_ context.Context, _ *api.Deps, _ authn.Store) error { return nil }
