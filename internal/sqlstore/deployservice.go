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
	target_concurrency, idle_timeout, desired, scaled_at, scale_message, record_outputs, rate_limit, call_limit`

func scanService(r scanner) (deploy.Service, error) {
	var s deploy.Service
	var models, env, merged string
	var created, modified, failed, retry, idle, scaled int64
	if err := r.Scan(&s.ID, &s.Org, &s.Deployment, &s.Version, &s.VersionLabel, &models, &s.Status, &s.StatusMessage, &s.InstanceType,
		&s.Number, &s.Min, &s.Max, &s.Autoscale, &s.RecordChannel, &env, &merged, &s.Creator, &created, &modified,
		&s.Generation, &s.ReadyGeneration, &s.Failures, &failed, &retry, &s.Command,
		&s.Target, &idle, &s.Desired, &scaled, &s.ScaleMessage, &s.RecordOutputs, &s.RateLimit, &s.CallLimit); err != nil {
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

// services reads services. where is a constant.
func (s *Deploys) services(ctx context.Context, q asker, where string, args ...any) ([]deploy.Service, error) {
	return keptAll(ctx, s.db, q, scanService, `SELECT `+serviceColumns+` FROM service WHERE `+where+` ORDER BY created_at, id`, args...)
}

// CreateService implements deploy.Store.
func (s *Deploys) CreateService(ctx context.Context, v deploy.Service) error {
	err := s.db.Write(ctx, func(tx *Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO service (`+serviceColumns+`)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33)`,
			string(v.ID), string(v.Org), string(v.Deployment), string(v.Version), v.VersionLabel, modelsJSON(v.Models),
			string(v.Status), v.StatusMessage, v.InstanceType, v.Number, v.Min, v.Max, v.Autoscale, string(v.RecordChannel),
			toJSON(v.Environment), toJSON(v.Merged), string(v.Creator), micros(v.CreatedAt), micros(v.ModifiedAt),
			v.Generation, v.ReadyGeneration, v.Failures, micros(v.LastFailure), micros(v.RetryAt), v.Command,
			v.Target, v.IdleTimeout.Microseconds(), v.Desired, micros(v.ScaledAt), v.ScaleMessage, v.RecordOutputs, v.RateLimit, v.CallLimit); err != nil {
			return err
		}
		return tx.Event(ctx, deploy.TopicService, string(v.ID), "created", v.CreatedAt)
	})
	return missing(err, versionNoun, v.Version)
}

// Service implements deploy.Store.
func (s *Deploys) Service(ctx context.Context, id plat.ServiceID) (deploy.Service, error) {
	return first(s.services(ctx, s.db, `id = $1`, string(id)))(serviceNoun, id)
}

// Services implements deploy.Store.
func (s *Deploys) Services(ctx context.Context, dep plat.DeploymentID) ([]deploy.Service, error) {
	if dep == "" { // a text of its own: "all or this one" would read all in either case
		return s.services(ctx, s.db, `1 = 1`)
	}
	return s.services(ctx, s.db, `deployment_id = $1`, string(dep))
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
		if _, err := tx.exec(ctx, `UPDATE service SET models = $1, status = $2, status_message = $3, instance_type = $4,
			number = $5, min_number = $6, max_number = $7, autoscale = $8, record_channel = $9, environment = $10, merged = $11,
			modified_at = $12, generation = $13, ready_generation = $14, failures = $15, last_failure = $16, retry_at = $17,
			target_concurrency = $18, idle_timeout = $19, desired = $20, scaled_at = $21, scale_message = $22, record_outputs = $23, rate_limit = $24, call_limit = $25 WHERE id = $26`,
			modelsJSON(v.Models), string(v.Status), v.StatusMessage, v.InstanceType, v.Number, v.Min, v.Max, v.Autoscale,
			string(v.RecordChannel), toJSON(v.Environment), toJSON(v.Merged), micros(v.ModifiedAt),
			v.Generation, v.ReadyGeneration, v.Failures, micros(v.LastFailure), micros(v.RetryAt),
			v.Target, v.IdleTimeout.Microseconds(), v.Desired, micros(v.ScaledAt), v.ScaleMessage, v.RecordOutputs, v.RateLimit, v.CallLimit, string(id)); err != nil {
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

// pendingOn says what the partial index of switches that wait says: without that no
// engine takes it, and reads every endpoint there is.
const pendingOn = `pending_id = $1 AND pending_id <> ''`

// settle decides the switches that wait for a service.
func (s *Deploys) settle(ctx context.Context, tx *Tx, v deploy.Service) error {
	if v.Status == deploy.InProgress {
		return nil
	}
	if _, err := tx.exec(ctx, `UPDATE endpoint SET id = id WHERE `+pendingOn, string(v.ID)); err != nil {
		return err
	}
	waiting, err := s.endpoints(ctx, tx, pendingOn, string(v.ID))
	if err != nil {
		return err
	}
	for _, e := range waiting {
		c, changed := e.Settle(v, v.ModifiedAt)
		if !changed {
			continue
		}
		if err := s.storeEndpoint(ctx, tx, e, c); err != nil {
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
		users, err := s.endpoints(ctx, tx, `deployment_id = $2 AND (service_id = $1 OR pending_id = $1 OR split LIKE '%"' || $1 || '"%')`, string(id), string(v.Deployment))
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

// OrgServices implements deploy.Store.
func (s *Deploys) OrgServices(ctx context.Context, org plat.OrgID, limit int) ([]deploy.Service, error) {
	return scanAll(ctx, s.db, s.db.Read(), scanService,
		`SELECT `+serviceColumns+` FROM service WHERE org_id = $1 ORDER BY created_at DESC, id DESC LIMIT $2`, string(org), limit)
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
	all, err := s.services(ctx, s.db, `models <> '{}' AND org_id = $1 AND models LIKE $2`, string(org), `%"`+string(model)+`"%`)
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

const (
	instanceColumns = `workload, org_id, deployment_id, service_id, generation, state, created_at, ready_at`
	instanceOf      = `SELECT ` + instanceColumns + ` FROM instance WHERE workload = $1`
	instancesOf     = `SELECT ` + instanceColumns + ` FROM instance WHERE service_id = $1 ORDER BY created_at, workload`
)

func scanInstance(r scanner) (deploy.Instance, error) {
	var i deploy.Instance
	var created, ready int64
	// Into the driver's own types: a named one costs a conversion by reflection, and a server that
	// starts reads very many rows.
	err := r.Scan((*string)(&i.Workload), (*string)(&i.Org), (*string)(&i.Deployment), (*string)(&i.Service), &i.Generation, (*string)(&i.State), &created, &ready)
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

// Instance implements deploy.Store.
func (s *Deploys) Instance(ctx context.Context, id plat.WorkloadID) (deploy.Instance, error) {
	return first(keptAll(ctx, s.db, s.db, scanInstance, instanceOf, string(id)))("instance", id)
}

// CountInstances implements deploy.Store.
func (s *Deploys) CountInstances(ctx context.Context, org plat.OrgID) (int64, error) {
	var n int64
	err := s.db.Read().QueryRowContext(ctx, `SELECT COUNT(*) FROM instance WHERE org_id = $1`, string(org)).Scan(&n)
	return n, s.db.translate(err)
}

// Instances implements deploy.Store.
func (s *Deploys) Instances(ctx context.Context, service plat.ServiceID) ([]deploy.Instance, error) {
	return keptAll(ctx, s.db, s.db, scanInstance, instancesOf, string(service))
}

// UpdateInstance implements deploy.Store.
func (s *Deploys) UpdateInstance(ctx context.Context, i deploy.Instance) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.exec(ctx, `UPDATE instance SET state = $1, ready_at = $2 WHERE workload = $3`,
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
