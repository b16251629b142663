// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"strings"
	"time"

	"panal/internal/deploy"
	"panal/internal/plat"
)

const serviceColumns = `id, org_id, deployment_id, version_id, version_label, models, status, status_message, instance_type,
	number, min_number, max_number, autoscale, record_channel, environment, merged, creator, created_at, modified_at,
	generation, ready_generation, failures, last_failure, retry_at, command,
	target_concurrency, idle_timeout, desired, scaled_at, scale_message`

func scanService(r scanner) (deploy.Service, error) {
	var s deploy.Service
	var models, env, merged string
	var created, modified, failed, retry, idle, scaled int64
	if err := r.Scan(&s.ID, &s.Org, &s.Deployment, &s.Version, &s.VersionLabel, &models, &s.Status, &s.StatusMessage, &s.InstanceType,
		&s.Number, &s.Min, &s.Max, &s.Autoscale, &s.RecordChannel, &env, &merged, &s.Creator, &created, &modified,
		&s.Generation, &s.ReadyGeneration, &s.Failures, &failed, &retry, &s.Command,
		&s.Target, &idle, &s.Desired, &scaled, &s.ScaleMessage); err != nil {
		return s, err
	}
	s.CreatedAt, s.ModifiedAt, s.LastFailure, s.RetryAt = fromMicros(created), fromMicros(modified), fromMicros(failed), fromMicros(retry)
	s.IdleTimeout, s.ScaledAt = time.Duration(idle)*time.Microsecond, fromMicros(scaled)
	for _, col := range []struct {
		text string
		into any
	}{{models, &s.Models}, {env, &s.Environment}, {merged, &s.Merged}} {
		if err := fromJSON(col.text, col.into); err != nil {
			return s, err
		}
	}
	return s, nil
}

// modelsJSON stores no models as {}: an index leaves those rows out.
func modelsJSON(m map[string]plat.ModelID) string {
	if len(m) == 0 {
		return "{}"
	}
	return toJSON(m)
}

func (s *Deploys) services(ctx context.Context, q Querier, where string, args ...any) ([]deploy.Service, error) {
	return scanAll(ctx, s.db, q, scanService, `SELECT `+serviceColumns+` FROM service WHERE `+where+` ORDER BY created_at, id`, args...)
}

// CreateService implements deploy.Store.
func (s *Deploys) CreateService(ctx context.Context, v deploy.Service) error {
	err := s.db.Write(ctx, func(tx *Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO service (`+serviceColumns+`)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30)`,
			string(v.ID), string(v.Org), string(v.Deployment), string(v.Version), v.VersionLabel, modelsJSON(v.Models),
			string(v.Status), v.StatusMessage, v.InstanceType, v.Number, v.Min, v.Max, v.Autoscale, string(v.RecordChannel),
			toJSON(v.Environment), toJSON(v.Merged), string(v.Creator), micros(v.CreatedAt), micros(v.ModifiedAt),
			v.Generation, v.ReadyGeneration, v.Failures, micros(v.LastFailure), micros(v.RetryAt), v.Command,
			v.Target, v.IdleTimeout.Microseconds(), v.Desired, micros(v.ScaledAt), v.ScaleMessage); err != nil {
			return err
		}
		return tx.Event(ctx, deploy.TopicService, string(v.ID), "created", v.CreatedAt)
	})
	return missing(err, versionNoun, v.Version)
}

// Service implements deploy.Store.
func (s *Deploys) Service(ctx context.Context, id plat.ServiceID) (deploy.Service, error) {
	return first(s.services(ctx, s.db.Read(), `id = $1`, string(id)))(serviceNoun, id)
}

// Services implements deploy.Store.
func (s *Deploys) Services(ctx context.Context, dep plat.DeploymentID) ([]deploy.Service, error) {
	return s.services(ctx, s.db.Read(), `($1 = '' OR deployment_id = $1)`, string(dep))
}

// ServiceCounts implements deploy.Store.
func (s *Deploys) ServiceCounts(ctx context.Context) (map[deploy.Status]int, error) {
	return countBy[deploy.Status](ctx, s.db, `SELECT status, COUNT(*) FROM service GROUP BY status`)
}

// CountServices implements deploy.Store.
func (s *Deploys) CountServices(ctx context.Context, org plat.OrgID) (int64, error) {
	var n int64
	err := s.db.Read().QueryRowContext(ctx, `SELECT COUNT(*) FROM service WHERE org_id = $1`, string(org)).Scan(&n)
	return n, s.db.translate(err)
}

// UpdateService implements deploy.Store.
func (s *Deploys) UpdateService(ctx context.Context, id plat.ServiceID, change func(*deploy.Service) error) (deploy.Service, error) {
	var v deploy.Service
	err := s.db.Write(ctx, func(tx *Tx) (err error) {
		if err := lock(ctx, tx, serviceNoun, string(id)); err != nil {
			return err
		}
		if v, err = first(s.services(ctx, tx, `id = $1`, string(id)))(serviceNoun, id); err != nil {
			return err
		}
		before := v.Status
		if err := change(&v); err != nil {
			return err
		}
		if err := deploy.CheckChange(id, before, v.Status); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE service SET models = $1, status = $2, status_message = $3, instance_type = $4,
			number = $5, min_number = $6, max_number = $7, autoscale = $8, record_channel = $9, environment = $10, merged = $11,
			modified_at = $12, generation = $13, ready_generation = $14, failures = $15, last_failure = $16, retry_at = $17,
			target_concurrency = $18, idle_timeout = $19, desired = $20, scaled_at = $21, scale_message = $22 WHERE id = $23`,
			modelsJSON(v.Models), string(v.Status), v.StatusMessage, v.InstanceType, v.Number, v.Min, v.Max, v.Autoscale,
			string(v.RecordChannel), toJSON(v.Environment), toJSON(v.Merged), micros(v.ModifiedAt),
			v.Generation, v.ReadyGeneration, v.Failures, micros(v.LastFailure), micros(v.RetryAt),
			v.Target, v.IdleTimeout.Microseconds(), v.Desired, micros(v.ScaledAt), v.ScaleMessage, string(id)); err != nil {
			return err
		}
		what := "changed"
		if v.Status != before {
			what = string(v.Status)
		}
		if err := tx.Event(ctx, deploy.TopicService, string(id), what, v.ModifiedAt); err != nil {
			return err
		}
		return s.settle(ctx, tx, v)
	})
	if err != nil {
		return deploy.Service{}, err
	}
	return v, nil
}

// settle decides the switches that wait for a service.
func (s *Deploys) settle(ctx context.Context, tx *Tx, v deploy.Service) error {
	if v.Status == deploy.InProgress {
		return nil
	}
	if _, err := tx.ExecContext(ctx, `UPDATE endpoint SET id = id WHERE pending_id = $1`, string(v.ID)); err != nil {
		return err
	}
	waiting, err := s.endpoints(ctx, tx, `pending_id = $1`, string(v.ID))
	if err != nil {
		return err
	}
	for _, e := range waiting {
		sw, changed := e.Settle(v, v.ModifiedAt)
		if !changed {
			continue
		}
		if err := s.storeEndpoint(ctx, tx, e, sw); err != nil {
			return err
		}
	}
	return nil
}

// DeleteService implements deploy.Store.
func (s *Deploys) DeleteService(ctx context.Context, id plat.ServiceID) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		if err := lock(ctx, tx, serviceNoun, string(id)); err != nil {
			return err
		}
		v, err := first(s.services(ctx, tx, `id = $1`, string(id)))(serviceNoun, id)
		if err != nil {
			return err
		}
		users, err := s.endpoints(ctx, tx, `service_id = $1 OR pending_id = $1`, string(id))
		if err != nil {
			return err
		}
		if len(users) > 0 {
			names := make([]string, len(users))
			for i, e := range users {
				names[i] = e.Alias + " (" + string(e.ID) + ")"
			}
			return inUse("service "+string(id), "is used by endpoints", names)
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM service WHERE id = $1`, string(id)); err != nil {
			return err
		}
		return tx.Event(ctx, deploy.TopicService, string(id), "deleted", v.ModifiedAt)
	})
}

// CommandServices implements deploy.Store.
func (s *Deploys) CommandServices(ctx context.Context, limit int) ([]plat.ServiceID, error) {
	scan := func(r scanner) (id plat.ServiceID, err error) { err = r.Scan(&id); return id, err }
	return scanAll(ctx, s.db, s.db.Read(), scan, `SELECT id FROM service WHERE command ORDER BY org_id LIMIT $1`, limit)
}

// ServicesOfModel implements deploy.Store. Ids are decimal, so a quoted one in
// the JSON is that id and nothing else, unless it is an alias; those are rechecked.
func (s *Deploys) ServicesOfModel(ctx context.Context, org plat.OrgID, model plat.ModelID) ([]plat.ServiceID, error) {
	if strings.ContainsAny(string(model), `%_"\`) {
		return nil, nil // no id
	}
	all, err := s.services(ctx, s.db.Read(), `models <> '{}' AND org_id = $1 AND models LIKE $2`, string(org), `%"`+string(model)+`"%`)
	if err != nil {
		return nil, err
	}
	var ids []plat.ServiceID
	for _, v := range all {
		for _, id := range v.Models {
			if id == model {
				ids = append(ids, v.ID)
				break
			}
		}
	}
	return ids, nil
}

const instanceColumns = `workload, org_id, deployment_id, service_id, generation, state, created_at, ready_at`

func scanInstance(r scanner) (deploy.Instance, error) {
	var i deploy.Instance
	var created, ready int64
	err := r.Scan(&i.Workload, &i.Org, &i.Deployment, &i.Service, &i.Generation, &i.State, &created, &ready)
	i.CreatedAt, i.ReadyAt = fromMicros(created), fromMicros(ready)
	return i, err
}

// CreateInstance implements deploy.Store.
func (s *Deploys) CreateInstance(ctx context.Context, i deploy.Instance) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO instance (`+instanceColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			string(i.Workload), string(i.Org), string(i.Deployment), string(i.Service), i.Generation, string(i.State), micros(i.CreatedAt), micros(i.ReadyAt))
		return err
	})
}

// Instances implements deploy.Store.
func (s *Deploys) Instances(ctx context.Context, service plat.ServiceID) ([]deploy.Instance, error) {
	return scanAll(ctx, s.db, s.db.Read(), scanInstance,
		`SELECT `+instanceColumns+` FROM instance WHERE ($1 = '' OR service_id = $1) ORDER BY created_at, workload`, string(service))
}

// UpdateInstance implements deploy.Store.
func (s *Deploys) UpdateInstance(ctx context.Context, i deploy.Instance) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE instance SET state = $1, ready_at = $2 WHERE workload = $3`,
			string(i.State), micros(i.ReadyAt), string(i.Workload))
		if err != nil {
			return err
		}
		return mustAffect(res, "instance", i.Workload)
	})
}

// DeleteInstance implements deploy.Store.
func (s *Deploys) DeleteInstance(ctx context.Context, id plat.WorkloadID) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM instance WHERE workload = $1`, string(id))
		return err
	})
}

const endpointColumns = `id, org_id, deployment_id, alias, service_id, pending_id, pending_by, status_message, created_at, modified_at`

func scanEndpoint(r scanner) (deploy.Endpoint, error) {
	var e deploy.Endpoint
	var created, modified int64
	err := r.Scan(&e.ID, &e.Org, &e.Deployment, &e.Alias, &e.Service, &e.Pending, &e.PendingBy, &e.StatusMessage, &created, &modified)
	e.CreatedAt, e.ModifiedAt = fromMicros(created), fromMicros(modified)
	return e, err
}

func (s *Deploys) endpoints(ctx context.Context, q Querier, where string, args ...any) ([]deploy.Endpoint, error) {
	return scanAll(ctx, s.db, q, scanEndpoint, `SELECT `+endpointColumns+` FROM endpoint WHERE `+where+` ORDER BY created_at, id`, args...)
}

func (s *Deploys) endpoint(ctx context.Context, q Querier, dep plat.DeploymentID, idOrAlias string) (deploy.Endpoint, error) {
	return first(s.endpoints(ctx, q, `deployment_id = $1 AND (id = $2 OR alias = $2)`, string(dep), idOrAlias))(endpointNoun, idOrAlias)
}

// member locks and returns a service of the deployment.
func (s *Deploys) member(ctx context.Context, tx *Tx, dep plat.DeploymentID, id plat.ServiceID) (deploy.Service, error) {
	if err := lock(ctx, tx, serviceNoun, string(id)); err != nil {
		return deploy.Service{}, err
	}
	return first(s.services(ctx, tx, `id = $1 AND deployment_id = $2`, string(id), string(dep)))(serviceNoun, id)
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
		if _, err := tx.ExecContext(ctx, `INSERT INTO endpoint (`+endpointColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
			string(e.ID), string(e.Org), string(e.Deployment), e.Alias, string(e.Service), string(e.Pending), string(e.PendingBy),
			e.StatusMessage, micros(e.CreatedAt), micros(e.ModifiedAt)); err != nil {
			return err
		}
		if err := storeSwitch(ctx, tx, deploy.Switch{Endpoint: e.ID, To: e.Service, By: by, At: e.CreatedAt}); err != nil {
			return err
		}
		return tx.Event(ctx, deploy.TopicEndpoint, string(e.ID), "created", e.CreatedAt)
	})
}

func storeSwitch(ctx context.Context, tx *Tx, sw deploy.Switch) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO endpoint_switch (endpoint_id, from_id, to_id, switched_by, switched_at) VALUES ($1, $2, $3, $4, $5)`,
		string(sw.Endpoint), string(sw.From), string(sw.To), string(sw.By), micros(sw.At))
	return err
}

// storeEndpoint writes a changed endpoint, its history line and the event.
func (s *Deploys) storeEndpoint(ctx context.Context, tx *Tx, e deploy.Endpoint, sw *deploy.Switch) error {
	if _, err := tx.ExecContext(ctx, `UPDATE endpoint SET service_id = $1, pending_id = $2, pending_by = $3, status_message = $4, modified_at = $5 WHERE id = $6`,
		string(e.Service), string(e.Pending), string(e.PendingBy), e.StatusMessage, micros(e.ModifiedAt), string(e.ID)); err != nil {
		return err
	}
	what := "changed"
	if sw != nil {
		what = "switched"
		if err := storeSwitch(ctx, tx, *sw); err != nil {
			return err
		}
	}
	return tx.Event(ctx, deploy.TopicEndpoint, string(e.ID), what, e.ModifiedAt)
}

// Endpoint implements deploy.Store.
func (s *Deploys) Endpoint(ctx context.Context, dep plat.DeploymentID, idOrAlias string) (deploy.Endpoint, error) {
	return s.endpoint(ctx, s.db.Read(), dep, idOrAlias)
}

// Endpoints implements deploy.Store.
func (s *Deploys) Endpoints(ctx context.Context, dep plat.DeploymentID) ([]deploy.Endpoint, error) {
	return s.endpoints(ctx, s.db.Read(), `($1 = '' OR deployment_id = $1)`, string(dep))
}

// UpdateEndpoint implements deploy.Store.
func (s *Deploys) UpdateEndpoint(ctx context.Context, dep plat.DeploymentID, idOrAlias string, target plat.ServiceID,
	change func(e *deploy.Endpoint, current, target deploy.Service) (*deploy.Switch, error),
) (deploy.Endpoint, error) {
	var e deploy.Endpoint
	err := s.db.Write(ctx, func(tx *Tx) error {
		to, err := s.member(ctx, tx, dep, target)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE endpoint SET id = id WHERE deployment_id = $1 AND (id = $2 OR alias = $2)`, string(dep), idOrAlias); err != nil {
			return err
		}
		if e, err = s.endpoint(ctx, tx, dep, idOrAlias); err != nil {
			return err
		}
		current, err := first(s.services(ctx, tx, `id = $1`, string(e.Service)))(serviceNoun, e.Service)
		if err != nil {
			return err
		}
		sw, err := change(&e, current, to)
		if err != nil {
			return err
		}
		return s.storeEndpoint(ctx, tx, e, sw)
	})
	if err != nil {
		return deploy.Endpoint{}, err
	}
	return e, nil
}

// DeleteEndpoint implements deploy.Store.
func (s *Deploys) DeleteEndpoint(ctx context.Context, dep plat.DeploymentID, idOrAlias string) (deploy.Endpoint, error) {
	var e deploy.Endpoint
	err := s.db.Write(ctx, func(tx *Tx) (err error) {
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
		return tx.Event(ctx, deploy.TopicEndpoint, string(e.ID), "deleted", e.ModifiedAt)
	})
	if err != nil {
		return deploy.Endpoint{}, err
	}
	return e, nil
}

// Switches implements deploy.Store.
func (s *Deploys) Switches(ctx context.Context, id plat.EndpointID, limit int) ([]deploy.Switch, error) {
	scan := func(r scanner) (deploy.Switch, error) {
		var sw deploy.Switch
		var at int64
		err := r.Scan(&sw.Endpoint, &sw.From, &sw.To, &sw.By, &at)
		sw.At = fromMicros(at)
		return sw, err
	}
	return scanAll(ctx, s.db, s.db.Read(), scan,
		`SELECT endpoint_id, from_id, to_id, switched_by, switched_at FROM endpoint_switch WHERE endpoint_id = $1 ORDER BY seq DESC LIMIT $2`,
		string(id), limit)
}
