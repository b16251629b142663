// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"slices"
	"time"

	"panal/internal/deploy"
	"panal/internal/plat"
)

// routeColumns are those of deploy.Brief. What only recording needs is left out of the
// rows of services that record nothing, the environment too unless it says how long a
// handler may take.
const routeColumns = `deployment_id, org_id, id, status, generation, ready_generation, number, min_number, max_number, desired,
	target_concurrency, idle_timeout, autoscale, command, status_message <> '', rate_limit, call_limit,
	record_channel, record_channel <> '' AND record_outputs, CASE WHEN record_channel = '' THEN '' ELSE version_label END, CASE WHEN record_channel = '' AND merged NOT LIKE '%` + deploy.PatienceVariable + `%' THEN '' ELSE merged END`

// briefRow is a service on its way into its deployment.
type briefRow struct {
	dep plat.DeploymentID
	org plat.OrgID
	deploy.Brief
}

func scanBrief(r scanner) (briefRow, error) {
	var b briefRow
	var idle, number, least, most, desired, calls int64
	var merged string
	// As in scanInstance.
	if err := r.Scan((*string)(&b.dep), (*string)(&b.org), (*string)(&b.ID), (*string)(&b.Status), &b.Generation, &b.ReadyGeneration, &number, &least, &most, &desired,
		&b.Target, &idle, &b.Autoscale, &b.Command, &b.Messages, &b.RateLimit, &calls, (*string)(&b.RecordChannel), &b.RecordOutputs, &b.VersionLabel, &merged); err != nil {
		return b, err
	}
	b.Number, b.Min, b.Max, b.Desired, b.CallLimit = int(number), int(least), int(most), int(desired), int(calls)
	for s := range deploy.Transitions() { // one text for all of that status
		if s == b.Status {
			b.Status = s
		}
	}
	b.IdleTimeout = time.Duration(idle) * time.Microsecond
	if merged == "" {
		return b, nil
	}
	of := deploy.Service{Command: b.Command}
	err := fromJSON(merged, &of.Merged)
	b.Patience = of.Patience()
	if b.RecordChannel != "" {
		b.RecordPercent = of.RecordPercent()
	}
	return b, err
}

type aliasRow struct {
	dep plat.DeploymentID
	deploy.Alias
}

func scanAlias(r scanner) (aliasRow, error) {
	var a aliasRow
	var split string
	if err := r.Scan(&a.dep, &a.Name, &a.Service, &split, &a.RateLimit, &a.CallLimit); err != nil {
		return a, err
	}
	return a, fromSplit(split, &a.Split)
}

const (
	routedServices = `SELECT ` + routeColumns + ` FROM service WHERE deployment_id = $1 ORDER BY created_at, id`
	routedAliases  = `SELECT deployment_id, alias, service_id, split, rate_limit, call_limit FROM endpoint WHERE deployment_id = $1 ORDER BY alias`

	pageServices = `SELECT ` + routeColumns + ` FROM service WHERE deployment_id > $1 ORDER BY deployment_id, created_at, id LIMIT $2`

	// The second of each is for the last page, which has no end.
	pageAliases   = `SELECT deployment_id, alias, service_id, split, rate_limit, call_limit FROM endpoint WHERE deployment_id > $1 AND deployment_id <= $2 ORDER BY deployment_id, alias`
	lastAliases   = `SELECT deployment_id, alias, service_id, split, rate_limit, call_limit FROM endpoint WHERE deployment_id > $1 ORDER BY deployment_id, alias`
	pageInstances = `SELECT ` + instanceColumns + ` FROM instance WHERE deployment_id > $1 AND deployment_id <= $2 ORDER BY deployment_id, service_id, created_at, workload`
	lastInstances = `SELECT ` + instanceColumns + ` FROM instance WHERE deployment_id > $1 ORDER BY deployment_id, service_id, created_at, workload`
)

// Routed implements deploy.Store.
func (s *Deploys) Routed(ctx context.Context, dep plat.DeploymentID) (deploy.Routed, error) {
	d := deploy.Routed{ID: dep}
	services, err := keptAll(ctx, s.db, s.db, scanBrief, routedServices, string(dep))
	if err != nil {
		return d, err
	}
	aliases, err := keptAll(ctx, s.db, s.db, scanAlias, routedAliases, string(dep))
	if err != nil {
		return d, err
	}
	for _, b := range services {
		d.Org = b.org
		d.Services = append(d.Services, b.Brief)
	}
	for _, a := range aliases {
		d.Aliases = append(d.Aliases, a.Alias)
	}
	return d, nil
}

// RoutedPage implements deploy.Store.
func (s *Deploys) RoutedPage(ctx context.Context, after plat.DeploymentID, n int) ([]deploy.Routed, plat.DeploymentID, error) {
	services, err := keptAll(ctx, s.db, s.db, scanBrief, pageServices, string(after), n)
	if err != nil {
		return nil, "", err
	}
	through := plat.DeploymentID("")
	if n > 0 && len(services) >= n { // the last one may not be whole
		through = services[len(services)-1].dep
		services = slices.DeleteFunc(services, func(b briefRow) bool { return b.dep == through })
		if len(services) > 0 {
			through = services[len(services)-1].dep
		} else if services, err = keptAll(ctx, s.db, s.db, scanBrief, routedServices, string(through)); err != nil {
			return nil, "", err
		}
	}
	qAliases, qInstances, bounds := lastAliases, lastInstances, []any{string(after)}
	if through != "" {
		qAliases, qInstances, bounds = pageAliases, pageInstances, []any{string(after), string(through)}
	}
	aliases, err := keptAll(ctx, s.db, s.db, scanAlias, qAliases, bounds...)
	if err != nil {
		return nil, "", err
	}
	instances, err := keptAll(ctx, s.db, s.db, scanInstance, qInstances, bounds...)
	if err != nil {
		return nil, "", err
	}
	return assemble(services, aliases, instances), through, nil
}

// assemble makes deployments of rows that are in the order of their ids. Equal ids
// share one text: there are very many of them.
func assemble(services []briefRow, aliases []aliasRow, instances []deploy.Instance) []deploy.Routed {
	var out []deploy.Routed
	for len(services) > 0 || len(instances) > 0 {
		d := deploy.Routed{}
		if len(services) > 0 {
			d.ID = services[0].dep
		}
		if len(instances) > 0 && (d.ID == "" || instances[0].Deployment < d.ID) {
			d.ID = instances[0].Deployment
		}
		n := 0
		for n < len(services) && services[n].dep == d.ID {
			n++
		}
		if n > 0 {
			d.Org, d.Services = services[0].org, make([]deploy.Brief, n)
			for i := range n {
				d.Services[i] = services[i].Brief
			}
			services = services[n:]
		}
		for len(aliases) > 0 && aliases[0].dep <= d.ID {
			if aliases[0].dep == d.ID {
				d.Aliases = append(d.Aliases, aliases[0].Alias)
			}
			aliases = aliases[1:]
		}
		n = 0
		for n < len(instances) && instances[n].Deployment == d.ID {
			n++
		}
		if n > 0 {
			d.Instances, instances = instances[:n:n], instances[n:]
		}
		if out != nil && out[len(out)-1].Org == d.Org {
			d.Org = out[len(out)-1].Org
		}
		for i := range d.Instances {
			in := &d.Instances[i]
			in.Deployment = d.ID
			if d.Org == in.Org {
				in.Org = d.Org
			}
			if i > 0 && d.Instances[i-1].Service == in.Service {
				in.Service = d.Instances[i-1].Service
			}
		}
		out = append(out, d)
	}
	return out
}

// keptAll is scanAll by a statement that is kept prepared where that pays. query is a
// constant.
func keptAll[T any](ctx context.Context, db *DB, q asker, scan func(interface{ Scan(...any) error }) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.rows(ctx, query, args...)
	if err != nil {
		return nil, db.translate(err)
	}
	return collect(db, rows, scan)
}
