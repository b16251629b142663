// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"panal/internal/deploy"
	"panal/internal/org"
	"panal/internal/plat"
	"panal/internal/sqlstore"
)

// Ids are made of numbers, in no order: those of real ones are random.

func mix(n uint64) uint64 { // SplitMix64
	n += 0x9e3779b97f4a7c15
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}

func depID(n int) plat.DeploymentID {
	return plat.DeploymentID(fmt.Sprintf("%013d", 1_000_000_000_000+mix(uint64(n))%9_000_000_000_000))
}

func serviceID(n int) plat.ServiceID {
	return plat.ServiceID(fmt.Sprintf("ser-%016x", mix(uint64(n)|1<<40)))
}

func workloadID(n int) plat.WorkloadID {
	return plat.WorkloadID(fmt.Sprintf("wl-%016x", mix(uint64(n)|1<<41)))
}

func versionID(n int) string { return fmt.Sprintf("ver-%016x", mix(uint64(n)|1<<42)) }

const user = plat.UserID("1650000000031")

// fill writes the records: one of each through the store, the others as its copies, with
// ids of their own, many to a transaction.
func fill(ctx context.Context, o options) (err error) {
	db, err := o.open(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := db.Close(); err == nil {
			err = cerr
		}
	}()
	store, orgs := sqlstore.NewDeploys(db), sqlstore.NewOrgs(db)
	owner, err := org.NewService(orgs, orgs, plat.SystemClock, "").Create(ctx, "bench")
	if err != nil {
		return err
	}
	now := plat.SystemClock()
	d := deploy.Deployment{ID: "0000000000001", Org: owner.ID, Name: "pattern", Environment: map[string]string{"STAGE": "prod"}, Creator: user, CreatedAt: now, ModifiedAt: now}
	v := deploy.Version{
		ID: plat.VersionID(plat.NewHexID("ver")), Org: owner.ID, Deployment: d.ID, Label: "1.0.0", Handler: "main:handler",
		Image: "abeja-inc/all-cpu:19.10", Environment: map[string]string{"MODEL": "resnet"}, Creator: user, CreatedAt: now, ModifiedAt: now,
	}
	s := deploy.Service{
		ID: plat.ServiceID(plat.NewHexID("ser")), Org: owner.ID, Deployment: d.ID, Version: v.ID, VersionLabel: v.Label, Status: deploy.Ready,
		InstanceType: deploy.DefaultInstanceType, Number: o.instances, Min: o.instances, Max: max(1, 2*o.instances), Desired: o.instances, Autoscale: true,
		Environment: map[string]string{"THREADS": "1"}, Merged: map[string]string{"STAGE": "prod", "MODEL": "resnet", "THREADS": "1"},
		Creator: user, CreatedAt: now, ModifiedAt: now, Generation: 1, ReadyGeneration: 1,
	}
	e := deploy.Endpoint{ID: plat.EndpointID(plat.NewHexID("pnt")), Org: owner.ID, Deployment: d.ID, Alias: "default", Service: s.ID, CreatedAt: now, ModifiedAt: now}
	i := deploy.Instance{
		Workload: plat.WorkloadID(plat.NewHexID("wl")), Org: owner.ID, Deployment: d.ID, Service: s.ID, Generation: 1,
		State: deploy.InstanceUp, CreatedAt: now, ReadyAt: now,
	}
	for _, create := range []func() error{
		func() error { return store.CreateDeployment(ctx, d) }, func() error { return store.CreateVersion(ctx, v) },
		func() error { return store.CreateService(ctx, s) },
		func() error { return store.CreateEndpoint(ctx, e, user, func(deploy.Service) error { return nil }) },
		func() error { return store.CreateInstance(ctx, i) }, func() error { return store.UpdateInstance(ctx, i) },
	} {
		if err := create(); err != nil {
			return err
		}
	}
	deps := (o.services + o.each - 1) / o.each
	for _, t := range []struct {
		name, key, like string
		n               int
		columns         []string // that differ; key is the first
		values          func(n int) []any
	}{
		{"deployment", "id", string(d.ID), deps, []string{"id"}, func(n int) []any { return []any{string(depID(n))} }},
		{"code_version", "id", string(v.ID), deps, []string{"id", "deployment_id"}, func(n int) []any { return []any{versionID(n), string(depID(n))} }},
		{"service", "id", string(s.ID), o.services, []string{"id", "deployment_id", "version_id"}, func(n int) []any {
			return []any{string(serviceID(n)), string(depID(n / o.each)), versionID(n / o.each)}
		}},
		{"endpoint", "id", string(e.ID), deps, []string{"id", "deployment_id", "service_id"}, func(n int) []any {
			return []any{fmt.Sprintf("pnt-%016x", mix(uint64(n)|1<<43)), string(depID(n)), string(serviceID(n * o.each))}
		}},
		{"instance", "workload", string(i.Workload), o.services * o.instances, []string{"workload", "deployment_id", "service_id"}, func(n int) []any {
			s := n / o.instances
			return []any{string(workloadID(n)), string(depID(s / o.each)), string(serviceID(s))}
		}},
	} {
		if err := copies(ctx, db, t.name, t.key, t.like, t.n, t.columns, t.values); err != nil {
			return fmt.Errorf("fill %s: %w", t.name, err)
		}
	}
	// The patterns go again: their ids are like no others.
	return db.Write(ctx, func(tx *sqlstore.Tx) error {
		for _, del := range []struct{ table, key, id string }{
			{"instance", "workload", string(i.Workload)},
			{"endpoint", "id", string(e.ID)},
			{"service", "id", string(s.ID)},
			{"code_version", "id", string(v.ID)},
			{"endpoint_change", "deployment_id", string(d.ID)},
			{"deployment", "id", string(d.ID)},
		} {
			if _, err := tx.ExecContext(ctx, "DELETE FROM "+del.table+" WHERE "+del.key+" = $1", del.id); err != nil {
				return err
			}
		}
		return nil
	})
}

// copies writes n copies of a row.
func copies(ctx context.Context, db *sqlstore.DB, table, key, like string, n int, columns []string, values func(int) []any) error {
	rows, err := db.Read().QueryContext(ctx, "SELECT * FROM "+table+" LIMIT 0")
	if err != nil {
		return err
	}
	all, err := rows.Columns()
	if err == nil {
		err = rows.Err()
	}
	if cerr := rows.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	var rest []string
	for _, c := range all {
		own := false
		for _, o := range columns {
			own = own || o == c
		}
		if !own {
			rest = append(rest, c)
		}
	}
	var marks strings.Builder
	for i := range columns {
		fmt.Fprintf(&marks, "CAST($%d AS TEXT), ", i+1)
	}
	text := fmt.Sprintf("INSERT INTO %s (%s) SELECT %s%s FROM %s WHERE %s = $%d",
		table, strings.Join(append(append([]string{}, columns...), rest...), ", "), marks.String(), strings.Join(rest, ", "), table, key, len(columns)+1)
	for from := 0; from < n; from += 10_000 {
		if err := db.Write(ctx, func(tx *sqlstore.Tx) error {
			stmt, err := tx.PrepareContext(ctx, text)
			if err != nil {
				return err
			}
			defer func(s *sql.Stmt) { _ = s.Close() }(stmt)
			for i := from; i < min(n, from+10_000); i++ {
				if _, err := stmt.ExecContext(ctx, append(values(i), like)...); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// waitFor asks until it is so, for a minute at most.
func waitFor(ctx context.Context, so func() bool) bool {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(100 * time.Microsecond) {
		if so() {
			return true
		}
	}
	return false
}
