// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"fmt"

	"panal/internal/deploy"
	"panal/internal/plat"
	"panal/internal/runner"
)

// A command listens on a port of loopback. Where the runner can't give it a
// network of its own, every workload of the machine can connect to that port past
// the gateway: fine among the workloads of one organization, and never beyond it.
// So commands and a second organization exclude each other there, whichever comes
// first.

// openPort tells why the ports of commands are open to other workloads; "" when
// they are walled.
func (a *App) openPort() string {
	w, ok := a.runner.(runner.PortWaller)
	if !ok {
		return ""
	}
	if ok, reason := w.WallsPorts(); !ok {
		return reason
	}
	return ""
}

// commands returns why services can't run commands now, if they can't.
func (a *App) commands(ctx context.Context) error {
	why := a.openPort()
	if why == "" {
		return nil
	}
	all, err := a.orgs.List(ctx)
	if err != nil {
		return err
	}
	if len(all) > 1 {
		return plat.Errorf(plat.ErrForbidden, "the port of a command would be open to the workloads of every organization, and there are %d: %s; use a handler instead", len(all), why)
	}
	return nil
}

// openPorts returns what tells why there may be only one organization for now.
func (a *App) openPorts(services deploy.Store) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		why := a.openPort()
		if why == "" {
			return "", nil
		}
		some, err := services.CommandServices(ctx, 1)
		if err != nil || len(some) == 0 {
			return "", err
		}
		return fmt.Sprintf("service %s runs a command, whose port would be open to the workloads of every organization (%s); delete such services first", some[0], why), nil
	}
}
