// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"slices"
	"time"

	"panal/internal/deploy"
	"panal/internal/plat"
)

const endpointColumns = `id, org_id, deployment_id, alias, service_id, pending_id, pending_by, status_message, created_at, modified_at, split, rate_limit, call_limit`

func scanEndpoint(r scanner) (deploy.Endpoint, error) {
	var e deploy.Endpoint
	var split string
	var created, modified int64
	if err := r.Scan(&e.ID, &e.Org, &e.Deployment, &e.Alias, &e.Service, &e.Pending, &e.PendingBy, &e.StatusMessage, &created, &modified, &split, &e.RateLimit, &e.CallLimit); err != nil {
		return e, err
	}
	e.CreatedAt, e.ModifiedAt = fromMicros(created), fromMicros(modified)
	return e, fromSplit(split, &e.Split)
}

// noSplit is how an endpoint without one is stored.
const noSplit = "[]"

func splitJSON(parts []deploy.Part) string {
	if len(parts) == 0 {
		return noSplit
	}
	return toJSON(parts)
}

func fromSplit(text string, parts *[]deploy.Part) error {
	if text == noSplit {
		return nil
	}
	return fromJSON(text, parts)
}

// endpoints reads endpoints. where is a constant.
func (s *Deploys) endpoints(ctx context.Context, q asker, where string, args ...any) ([]deploy.Endpoint, error) {
	return keptAll(ctx, s.db, q, scanEndpoint, `SELECT `+endpointColumns+` FROM endpoint WHERE `+where+` ORDER BY created_at, id`, args...)
}

func (s *Deploys) endpoint(ctx context.Context, q asker, dep plat.DeploymentID, idOrAlias string) (deploy.Endpoint, error) {
	return first(s.endpoints(ctx, q, `deployment_id = $1 AND (id = $2 OR alias = $2)`, string(dep), idOrAlias))(endpointNoun, idOrAlias)
}

// member locks and returns a service of the deployment.
func (s *Deploys) member(ctx context.Context, tx *Tx, dep plat.DeploymentID, id plat.ServiceID) (deploy.Service, error) {
	if err := lock(ctx, tx, serviceNoun, string(id)); err != nil {
		return deploy.Service{}, err
	}
	return first(s.services(ctx, tx, `id = $1 AND deployment_id = $2`, string(id), string(dep)))(serviceNoun, id)
}

// members is member for several services, in the order of ids. It locks them in
// the order of their names, so that two changes never wait for each other.
func (s *Deploys) members(ctx context.Context, tx *Tx, dep plat.DeploymentID, ids []plat.ServiceID) ([]deploy.Service, error) {
	for _, id := range slices.Sorted(slices.Values(ids)) {
		if err := lock(ctx, tx, serviceNoun, string(id)); err != nil {
			return nil, err
		}
	}
	all := make([]deploy.Service, len(ids))
	for i, id := range ids {
		var err error
		if all[i], err = s.member(ctx, tx, dep, id); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func lockEndpoint(ctx context.Context, tx *Tx, dep plat.DeploymentID, idOrAlias string) error {
	_, err := tx.exec(ctx, `UPDATE endpoint SET id = id WHERE deployment_id = $1 AND (id = $2 OR alias = $2)`, string(dep), idOrAlias)
	return err
}

// CreateEndpoint implements deploy.Store.
func (s *Deploys) CreateEndpoint(ctx context.Context, e deploy.Endpoint, by plat.UserID, check func(deploy.Service) error) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		v, err := s.member(ctx, tx, e.Deployment, e.Service)
		if err != nil {
			return err
		}
		if err := check(v); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO endpoint (`+endpointColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
			string(e.ID), string(e.Org), string(e.Deployment), e.Alias, string(e.Service), string(e.Pending), string(e.PendingBy),
			e.StatusMessage, micros(e.CreatedAt), micros(e.ModifiedAt), splitJSON(e.Split), e.RateLimit, e.CallLimit); err != nil {
			return err
		}
		if err := storeChange(ctx, tx, e, deploy.Change{Kind: deploy.Created, To: e.Service, Split: e.Split, By: by, At: e.CreatedAt}); err != nil {
			return err
		}
		return tx.Event(ctx, deploy.TopicEndpoint, string(e.ID), "created", e.CreatedAt)
	})
}

// storeEndpoint writes a changed endpoint, its history line and the event.
func (s *Deploys) storeEndpoint(ctx context.Context, tx *Tx, e deploy.Endpoint, c *deploy.Change) error {
	if _, err := tx.exec(ctx, `UPDATE endpoint SET service_id = $1, pending_id = $2, pending_by = $3, status_message = $4, modified_at = $5, split = $6, rate_limit = $7, call_limit = $8 WHERE id = $9`,
		string(e.Service), string(e.Pending), string(e.PendingBy), e.StatusMessage, micros(e.ModifiedAt), splitJSON(e.Split), e.RateLimit, e.CallLimit, string(e.ID)); err != nil {
		return err
	}
	what := "changed"
	if c != nil {
		what = "switched"
		if err := storeChange(ctx, tx, e, *c); err != nil {
			return err
		}
	}
	return tx.Event(ctx, deploy.TopicEndpoint, string(e.ID), what, e.ModifiedAt)
}

// Endpoint implements deploy.Store.
func (s *Deploys) Endpoint(ctx context.Context, dep plat.DeploymentID, idOrAlias string) (deploy.Endpoint, error) {
	return s.endpoint(ctx, s.db, dep, idOrAlias)
}

// Endpoints implements deploy.Store.
func (s *Deploys) Endpoints(ctx context.Context, dep plat.DeploymentID) ([]deploy.Endpoint, error) {
	if dep == "" {
		return s.endpoints(ctx, s.db, `1 = 1`)
	}
	return s.endpoints(ctx, s.db, `deployment_id = $1`, string(dep))
}

// UpdateEndpoint implements deploy.Store.
func (s *Deploys) UpdateEndpoint(ctx context.Context, dep plat.DeploymentID, idOrAlias string, targets []plat.ServiceID,
	change func(e *deploy.Endpoint, current deploy.Service, targets []deploy.Service) (*deploy.Change, error),
) (deploy.Endpoint, error) {
	var e deploy.Endpoint
	err := s.db.Write(ctx, func(tx *Tx) error {
		to, err := s.members(ctx, tx, dep, targets)
		if err != nil {
			return err
		}
		if err := lockEndpoint(ctx, tx, dep, idOrAlias); err != nil {
			return err
		}
		if e, err = s.endpoint(ctx, tx, dep, idOrAlias); err != nil {
			return err
		}
		current, err := first(s.services(ctx, tx, `id = $1`, string(e.Service)))(serviceNoun, e.Service)
		if err != nil {
			return err
		}
		c, err := change(&e, current, to)
		if err != nil {
			return err
		}
		return s.storeEndpoint(ctx, tx, e, c)
	})
	if err != nil {
		return deploy.Endpoint{}, err
	}
	return e, nil
}

// DeleteEndpoint implements deploy.Store.
func (s *Deploys) DeleteEndpoint(ctx context.Context, dep plat.DeploymentID, idOrAlias string, by plat.UserID, at time.Time) (deploy.Endpoint, error) {
	var e deploy.Endpoint
	err := s.db.Write(ctx, func(tx *Tx) (err error) {
		if err := lockEndpoint(ctx, tx, dep, idOrAlias); err != nil {
			return err
		}
		if e, err = s.endpoint(ctx, tx, dep, idOrAlias); err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `DELETE FROM endpoint WHERE id = $1`, string(e.ID))
		if err != nil {
			return err
		}
		if err := mustAffect(res, endpointNoun, idOrAlias); err != nil {
			return err
		}
		if err := storeChange(ctx, tx, e, deploy.Change{Kind: deploy.Deleted, From: e.Service, By: by, At: at}); err != nil {
			return err
		}
		return tx.Event(ctx, deploy.TopicEndpoint, string(e.ID), "deleted", at)
	})
	if err != nil {
		return deploy.Endpoint{}, err
	}
	return e, nil
}

const changeColumns = `number, endpoint_id, kind, from_id, to_id, split, changed_by, changed_at`

func scanChange(r scanner) (deploy.Change, error) {
	var c deploy.Change
	var split string
	var at int64
	if err := r.Scan(&c.Number, &c.Endpoint, &c.Kind, &c.From, &c.To, &split, &c.By, &at); err != nil {
		return c, err
	}
	c.At = fromMicros(at)
	return c, fromSplit(split, &c.Split)
}

// storeChange writes the next line of an alias' history, and drops the one that is
// too many. The caller holds the endpoint's lock, or has just made it.
func storeChange(ctx context.Context, tx *Tx, e deploy.Endpoint, c deploy.Change) error {
	var last int64
	if err := tx.row(ctx, `SELECT COALESCE(MAX(number), 0) FROM endpoint_change WHERE deployment_id = $1 AND alias = $2`,
		string(e.Deployment), e.Alias).Scan(&last); err != nil {
		return err
	}
	if _, err := tx.exec(ctx, `INSERT INTO endpoint_change (deployment_id, alias, `+changeColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		string(e.Deployment), e.Alias, last+1, string(e.ID), string(c.Kind), string(c.From), string(c.To), splitJSON(c.Split), string(c.By), micros(c.At)); err != nil {
		return err
	}
	_, err := tx.exec(ctx, `DELETE FROM endpoint_change WHERE deployment_id = $1 AND alias = $2 AND number <= $3`,
		string(e.Deployment), e.Alias, last+1-deploy.MaxChanges)
	return err
}

// ofAlias finds the lines of an alias, by it or by the id of an endpoint that had it.
const ofAlias = `deployment_id = $1 AND alias = COALESCE((SELECT MAX(alias) FROM endpoint_change WHERE endpoint_id = $2 AND deployment_id = $1), $2)`

// Changes implements deploy.Store.
func (s *Deploys) Changes(ctx context.Context, dep plat.DeploymentID, idOrAlias string, before int64, limit int) ([]deploy.Change, error) {
	return scanAll(ctx, s.db, s.db.Read(), scanChange,
		`SELECT `+changeColumns+` FROM endpoint_change WHERE `+ofAlias+` AND ($3 = 0 OR number < $3) ORDER BY number DESC LIMIT $4`,
		string(dep), idOrAlias, before, limit)
}

// ChangeAt implements deploy.Store.
func (s *Deploys) ChangeAt(ctx context.Context, dep plat.DeploymentID, idOrAlias string, at time.Time) (deploy.Change, error) {
	return first(scanAll(ctx, s.db, s.db.Read(), scanChange,
		`SELECT `+changeColumns+` FROM endpoint_change WHERE `+ofAlias+` AND changed_at <= $3 ORDER BY number DESC LIMIT 1`,
		string(dep), idOrAlias, micros(at)))(endpointNoun, idOrAlias)
}
