// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"panal/internal/plat"
)

// CreateEndpoint makes an alias in front of a service. The service may still be
// starting: requests wait for it.
func (m *Manager) CreateEndpoint(ctx context.Context, org plat.OrgID, by plat.UserID, dep plat.DeploymentID, alias string, target plat.ServiceID) (Endpoint, error) {
	if _, err := m.Store.Deployment(ctx, org, dep); err != nil {
		return Endpoint{}, err
	}
	if alias == "" {
		alias = DefaultAlias
	}
	if err := checkAlias(alias); err != nil {
		return Endpoint{}, err
	}
	if target == "" {
		return Endpoint{}, plat.InvalidField("service_id", "is required: the ser-… id of a service")
	}
	now := m.Now()
	e := Endpoint{
		ID: plat.EndpointID(plat.NewHexID("pnt")), Org: org, Deployment: dep, Alias: alias, Service: target,
		CreatedAt: now, ModifiedAt: now,
	}
	switch err := m.Store.CreateEndpoint(ctx, e, by, checkTarget); {
	case errors.Is(err, plat.ErrNotFound):
		return Endpoint{}, notOfDeployment(target)
	case errors.Is(err, plat.ErrExists):
		return Endpoint{}, &plat.Error{
			Kind: plat.ErrExists, Public: fmt.Sprintf("the deployment has an endpoint %q already; PATCH it to switch it", alias),
			Detail: map[string][]string{"custom_alias": {"exists already"}}, Err: err,
		}
	case err != nil:
		return Endpoint{}, err
	}
	m.publish(ctx, dep)
	return e, nil
}

func notOfDeployment(id plat.ServiceID) error {
	return plat.InvalidField("service_id", "service %.60s was not found in this deployment", id)
}

// checkTarget returns ErrInvalid unless an endpoint may point to s.
func checkTarget(s Service) error {
	if s.Status == Failed || s.Status == Stopped {
		return plat.InvalidField("service_id", "service %s is %s; start it first", s.ID, s.Status)
	}
	return nil
}

// Endpoint returns an endpoint by id or alias.
func (m *Manager) Endpoint(ctx context.Context, org plat.OrgID, dep plat.DeploymentID, idOrAlias string) (Endpoint, error) {
	if _, err := m.Store.Deployment(ctx, org, dep); err != nil {
		return Endpoint{}, err
	}
	return m.Store.Endpoint(ctx, dep, idOrAlias)
}

// Endpoints returns a deployment's endpoints, oldest first.
func (m *Manager) Endpoints(ctx context.Context, org plat.OrgID, dep plat.DeploymentID) ([]Endpoint, error) {
	if _, err := m.Store.Deployment(ctx, org, dep); err != nil {
		return nil, err
	}
	return m.Store.Endpoints(ctx, dep)
}

// SwitchEndpoint points an endpoint to another service of the deployment. When
// that answers requests, the switch is routed before SwitchEndpoint returns. When
// it is still starting, the old service goes on answering until the new one is
// READY; should that end FAILED, the old one stays. (Where the old one answers
// nothing, there is nothing to keep, and the switch is made at once.)
func (m *Manager) SwitchEndpoint(ctx context.Context, org plat.OrgID, by plat.UserID, dep plat.DeploymentID, idOrAlias string, target plat.ServiceID) (Endpoint, error) {
	if _, err := m.Store.Deployment(ctx, org, dep); err != nil {
		return Endpoint{}, err
	}
	if target == "" {
		return Endpoint{}, plat.InvalidField("service_id", "is required: the ser-… id of a service")
	}
	if _, err := m.Store.Endpoint(ctx, dep, idOrAlias); err != nil {
		return Endpoint{}, err
	}
	e, err := m.Store.UpdateEndpoint(ctx, dep, idOrAlias, target, func(e *Endpoint, current, target Service) (*Switch, error) {
		if err := checkTarget(target); err != nil {
			return nil, err
		}
		return e.aim(current, target, by, m.Now()), nil
	})
	switch {
	case errors.Is(err, plat.ErrNotFound):
		return Endpoint{}, notOfDeployment(target)
	case err != nil:
		return Endpoint{}, err
	}
	// Unlike a create, a switch may be repeated: rather tell the caller to do so
	// than let it believe that no request goes to the old service any more.
	if err := m.Publisher.Publish(ctx, dep); err != nil {
		return Endpoint{}, &plat.Error{Kind: plat.ErrUnavailable, Public: "the switch is recorded but not routed yet; repeat the request to be sure", Err: err}
	}
	return e, nil
}

// aim points e to target now, or once target is READY.
func (e *Endpoint) aim(current, target Service, by plat.UserID, at time.Time) *Switch {
	switch {
	case target.ID == e.Service: // also takes a pending switch back
		e.Pending, e.PendingBy, e.StatusMessage, e.ModifiedAt = "", "", "", at
		return nil
	case target.Answering() || current.Status == Failed || current.Status == Stopped:
		return e.point(target.ID, by, at)
	}
	e.Pending, e.PendingBy, e.ModifiedAt = target.ID, by, at
	e.StatusMessage = fmt.Sprintf("switches to %s when it is %s; until then %s answers", target.ID, Ready, e.Service)
	return nil
}

// DeleteEndpoint deletes an endpoint and returns it as it was.
func (m *Manager) DeleteEndpoint(ctx context.Context, org plat.OrgID, dep plat.DeploymentID, idOrAlias string) (Endpoint, error) {
	if _, err := m.Store.Deployment(ctx, org, dep); err != nil {
		return Endpoint{}, err
	}
	e, err := m.Store.DeleteEndpoint(ctx, dep, idOrAlias)
	if err != nil {
		return Endpoint{}, err
	}
	m.publish(ctx, dep)
	return e, nil
}

// Switches returns the history of an endpoint, newest first.
func (m *Manager) Switches(ctx context.Context, e Endpoint) ([]Switch, error) {
	return m.Store.Switches(ctx, e.ID, 100)
}
