// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"panal/internal/plat"
)

// CreateEndpoint makes an alias in front of a service. The service may still be
// starting: requests wait for it.
func (m *Manager) CreateEndpoint(ctx context.Context, org plat.OrgID, by plat.UserID, dep plat.DeploymentID, alias string, target plat.ServiceID, limits Limits) (Endpoint, error) {
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
	if err := limits.apply(&e); err != nil {
		return Endpoint{}, err
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

// Limits are those of an endpoint that change; nil keeps, 0 ends one.
type Limits struct {
	Rate  *float64 // calls a second
	Calls *int     // calls under way
}

func (l Limits) apply(e *Endpoint) error {
	if l.Rate != nil {
		e.RateLimit = *l.Rate
	}
	if l.Calls != nil {
		e.CallLimit = *l.Calls
	}
	return checkLimits(e.RateLimit, e.CallLimit)
}

// LimitEndpoint changes what an endpoint takes, whatever it points to.
func (m *Manager) LimitEndpoint(ctx context.Context, org plat.OrgID, dep plat.DeploymentID, idOrAlias string, limits Limits) (Endpoint, error) {
	if _, err := m.Store.Deployment(ctx, org, dep); err != nil {
		return Endpoint{}, err
	}
	return m.change(ctx, dep, idOrAlias, nil, limits, func(e *Endpoint, _ Service, _ []Service) (*Change, error) {
		e.ModifiedAt = m.Now()
		return nil, nil //nolint:nilnil // it points to what it did
	})
}

// SwitchEndpoint points an endpoint to another service of the deployment. When
// that answers requests, the switch is routed before SwitchEndpoint returns. When
// it is still starting, the old service goes on answering until the new one is
// READY; should that end FAILED, the old one stays. (Where the old one answers
// nothing, there is nothing to keep, and the switch is made at once.) Limits change with it, at once.
func (m *Manager) SwitchEndpoint(ctx context.Context, org plat.OrgID, by plat.UserID, dep plat.DeploymentID, idOrAlias string, target plat.ServiceID, limits Limits) (Endpoint, error) {
	if _, err := m.Store.Deployment(ctx, org, dep); err != nil {
		return Endpoint{}, err
	}
	if target == "" {
		return Endpoint{}, plat.InvalidField("service_id", "is required: the ser-… id of a service")
	}
	return m.change(ctx, dep, idOrAlias, []plat.ServiceID{target}, limits, func(e *Endpoint, current Service, targets []Service) (*Change, error) {
		if err := checkTarget(targets[0]); err != nil {
			return nil, err
		}
		return e.aim(current, targets[0], by, m.Now()), nil
	})
}

// change changes where an endpoint points to and what it takes, and routes it before it returns.
func (m *Manager) change(ctx context.Context, dep plat.DeploymentID, idOrAlias string, targets []plat.ServiceID, limits Limits,
	change func(e *Endpoint, current Service, targets []Service) (*Change, error),
) (Endpoint, error) {
	if _, err := m.Store.Endpoint(ctx, dep, idOrAlias); err != nil {
		return Endpoint{}, err
	}
	e, err := m.Store.UpdateEndpoint(ctx, dep, idOrAlias, targets, func(e *Endpoint, current Service, targets []Service) (*Change, error) {
		if err := limits.apply(e); err != nil {
			return nil, err
		}
		return change(e, current, targets)
	})
	switch {
	case errors.Is(err, plat.ErrNotFound) && len(targets) > 0:
		return Endpoint{}, notOfDeployment(m.stranger(ctx, dep, targets))
	case err != nil:
		return Endpoint{}, err
	}
	// Unlike a create, a switch may be repeated: rather tell the caller to do so
	// than let it believe that no request goes to the old service any more.
	if err := m.Publisher.Publish(ctx, dep); err != nil {
		return Endpoint{}, &plat.Error{Kind: plat.ErrUnavailable, Public: "the change is recorded but not routed yet; repeat the request to be sure", Err: err}
	}
	return e, nil
}

// stranger returns the first of some services that is not of the deployment.
func (m *Manager) stranger(ctx context.Context, dep plat.DeploymentID, ids []plat.ServiceID) plat.ServiceID {
	for _, id := range ids {
		if s, err := m.Store.Service(ctx, id); err != nil || s.Deployment != dep {
			return id
		}
	}
	return ids[0]
}

// SplitEndpoint shares an endpoint's requests among services that answer. One
// part with all of them is a switch.
func (m *Manager) SplitEndpoint(ctx context.Context, org plat.OrgID, by plat.UserID, dep plat.DeploymentID, idOrAlias string, parts []Part, limits Limits) (Endpoint, error) {
	if err := checkParts(parts); err != nil {
		return Endpoint{}, err
	}
	if len(parts) == 1 {
		return m.SwitchEndpoint(ctx, org, by, dep, idOrAlias, parts[0].Service, limits)
	}
	if _, err := m.Store.Deployment(ctx, org, dep); err != nil {
		return Endpoint{}, err
	}
	return m.change(ctx, dep, idOrAlias, partServices(parts), limits, func(e *Endpoint, _ Service, targets []Service) (*Change, error) {
		if err := checkAnswering("split", targets); err != nil {
			return nil, err
		}
		return e.point(Splitted, largest(parts), slices.Clone(parts), by, m.Now()), nil
	})
}

// checkAnswering returns ErrInvalid unless all services answer requests.
func checkAnswering(field string, all []Service) error {
	for _, s := range all {
		if !s.Answering() {
			return plat.InvalidField(field, "service %s is %s; it must be %s", s.ID, s.Status, Ready)
		}
	}
	return nil
}

// RollBackEndpoint points an endpoint to what it pointed to before its last
// change, or after the change with the given number. All services must answer.
// Without a number, a switch that still waits for its service is taken back and
// nothing else.
func (m *Manager) RollBackEndpoint(ctx context.Context, org plat.OrgID, by plat.UserID, dep plat.DeploymentID, idOrAlias string, number int64) (Endpoint, error) {
	e, err := m.Endpoint(ctx, org, dep, idOrAlias)
	if err != nil {
		return Endpoint{}, err
	}
	if e.Pending != "" && number == 0 {
		return m.change(ctx, dep, string(e.ID), []plat.ServiceID{e.Service}, Limits{}, func(now *Endpoint, _ Service, _ []Service) (*Change, error) {
			now.stay(m.Now())
			return nil, nil
		})
	}
	newest, err := m.Store.Changes(ctx, dep, string(e.ID), 0, 2)
	if err != nil {
		return Endpoint{}, err
	}
	if len(newest) == 0 {
		return Endpoint{}, fmt.Errorf("endpoint %s has no history", e.ID)
	}
	var to Change
	switch {
	case number == 0 && (len(newest) < 2 || newest[1].Endpoint != e.ID):
		return Endpoint{}, plat.Errorf(plat.ErrConflict, "endpoint %s has not changed since it was created; there is nothing to roll back to", e.ID)
	case number == 0:
		to = newest[1]
	default:
		if to, err = m.numbered(ctx, e, number); err != nil {
			return Endpoint{}, err
		}
	}
	parts := to.parts()
	for _, p := range parts {
		if s, err := m.Store.Service(ctx, p.Service); errors.Is(err, plat.ErrNotFound) || err == nil && s.Deployment != dep {
			return Endpoint{}, plat.Errorf(plat.ErrConflict, "change %d pointed to service %s, which was deleted since", to.Number, p.Service)
		}
	}
	return m.change(ctx, dep, string(e.ID), partServices(parts), Limits{}, func(now *Endpoint, _ Service, targets []Service) (*Change, error) {
		if now.Service != e.Service || !slices.Equal(now.Split, e.Split) {
			return nil, plat.Errorf(plat.ErrConflict, "endpoint %s was changed by someone else meanwhile; look at its history and repeat", e.ID)
		}
		if err := checkAnswering("endpoint", targets); err != nil {
			return nil, err
		}
		return now.point(RolledBack, to.To, to.Split, by, m.Now()), nil
	})
}

// numbered returns one line of an endpoint's history that something can be rolled
// back to.
func (m *Manager) numbered(ctx context.Context, e Endpoint, number int64) (Change, error) {
	if number < 1 || number == math.MaxInt64 {
		return Change{}, plat.InvalidField("number", "must be the number of a change in the endpoint's history")
	}
	found, err := m.Store.Changes(ctx, e.Deployment, string(e.ID), number+1, 1)
	switch {
	case err != nil:
		return Change{}, err
	case len(found) == 0 || found[0].Number != number:
		return Change{}, plat.InvalidField("number", "%d is no change in the history of endpoint %s", number, e.Alias)
	case found[0].Kind == Deleted:
		return Change{}, plat.InvalidField("number", "change %d deleted the endpoint; choose the one before it", number)
	}
	return found[0], nil
}

// DeleteEndpoint deletes an endpoint and returns it as it was.
func (m *Manager) DeleteEndpoint(ctx context.Context, org plat.OrgID, by plat.UserID, dep plat.DeploymentID, idOrAlias string) (Endpoint, error) {
	if _, err := m.Store.Deployment(ctx, org, dep); err != nil {
		return Endpoint{}, err
	}
	e, err := m.Store.DeleteEndpoint(ctx, dep, idOrAlias, by, m.Now())
	if err != nil {
		return Endpoint{}, err
	}
	m.publish(ctx, dep)
	return e, nil
}

// Changes returns up to limit lines of the history of an alias, newest first, with
// numbers below before (0: from the newest); also of an endpoint that was deleted.
func (m *Manager) Changes(ctx context.Context, org plat.OrgID, dep plat.DeploymentID, idOrAlias string, before int64, limit int) ([]Change, error) {
	if _, err := m.Store.Deployment(ctx, org, dep); err != nil {
		return nil, err
	}
	found, err := m.Store.Changes(ctx, dep, idOrAlias, before, limit)
	if err == nil && len(found) == 0 && before == 0 {
		return nil, plat.NotFound("endpoint", idOrAlias)
	}
	return found, err
}

// ChangeAt returns the line that tells what an alias pointed to at a moment.
func (m *Manager) ChangeAt(ctx context.Context, org plat.OrgID, dep plat.DeploymentID, idOrAlias string, at time.Time) (Change, error) {
	if _, err := m.Changes(ctx, org, dep, idOrAlias, 0, 1); err != nil {
		return Change{}, err
	}
	c, err := m.Store.ChangeAt(ctx, dep, idOrAlias, at)
	if errors.Is(err, plat.ErrNotFound) || err == nil && c.Kind == Deleted {
		return Change{}, plat.Errorf(plat.ErrNotFound, "there was no endpoint %.80s at %s", idOrAlias, at.Format(time.RFC3339))
	}
	return c, err
}

// Switches returns the newest lines of an endpoint's own history, newest first.
func (m *Manager) Switches(ctx context.Context, e Endpoint) ([]Change, error) {
	all, err := m.Store.Changes(ctx, e.Deployment, string(e.ID), 0, 100)
	return slices.DeleteFunc(all, func(c Change) bool { return c.Endpoint != e.ID }), err
}
