// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"context"
	"errors"
	"fmt"

	"panal/internal/plat"
)

// Purge deletes the endpoints, services, versions and deployments of an
// organization. It can be repeated; nil means that there was nothing left,
// ErrUnavailable that instances still have to end.
func (m *Manager) Purge(ctx context.Context, org plat.OrgID) error {
	all, err := m.Store.Deployments(ctx, org)
	if err != nil {
		return fmt.Errorf("list deployments: %w", err)
	}
	for _, d := range all {
		if err := m.purgeDeployment(ctx, d); err != nil {
			return fmt.Errorf("purge deployment %s: %w", d.ID, err)
		}
	}
	switch n, err := m.Store.CountInstances(ctx, org); {
	case err != nil:
		return fmt.Errorf("count instances: %w", err)
	case n > 0:
		return plat.Errorf(plat.ErrUnavailable, "%d instances still have to end", n)
	}
	return nil
}

func (m *Manager) purgeDeployment(ctx context.Context, d Deployment) error {
	endpoints, err := m.Store.Endpoints(ctx, d.ID)
	if err != nil {
		return err
	}
	gone := func(err error) error {
		if errors.Is(err, plat.ErrNotFound) {
			return nil
		}
		return err
	}
	for _, e := range endpoints {
		if _, err := m.Store.DeleteEndpoint(ctx, d.ID, string(e.ID), "", m.Now()); gone(err) != nil {
			return err
		}
	}
	services, err := m.Store.Services(ctx, d.ID)
	if err != nil {
		return err
	}
	for _, s := range services {
		if err := m.Store.DeleteService(ctx, s.ID); gone(err) != nil {
			return err
		}
	}
	m.publish(ctx, d.ID)
	return gone(m.DeleteDeployment(ctx, d.Org, d.ID))
}

// CountServices returns how many services an organization has.
func (m *Manager) CountServices(ctx context.Context, org plat.OrgID) (int64, error) {
	n, err := m.Store.CountServices(ctx, org)
	if err != nil {
		return 0, fmt.Errorf("count services of organization %s: %w", org, err)
	}
	return n, nil
}
