// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"panal/internal/api"
	"panal/internal/audit"
	"panal/internal/dataplane"
	"panal/internal/lake"
	"panal/internal/org"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/x/accesslog"
	"panal/internal/x/quota"
)

const (
	// purgeEvery is how often organizations that are being deleted are looked at.
	purgeEvery = 2 * time.Second
	// orgsEvery is how often all are looked at without anything having told to.
	orgsEvery = 30 * time.Second
)

// addOrgs registers what each domain deletes of an organization, and the duty that
// does it. Workloads end first, bytes and whatever rows are left go last: those two
// sweeps find also what no purge above them knows.
func (a *App) addOrgs(ctx context.Context, deps *api.Deps) {
	for _, p := range []org.Purge{
		{Name: "deployments", Run: deps.Deploy.Purge},
		{Name: "training", Run: deps.Train.Purge},
		{Name: "datasets", Run: deps.Datasets.Purge},
		{Name: "files", Run: deps.Lake.Purge},
		{Name: "logs", Run: deps.Logs.Purge},
		{Name: "objects", Run: a.sweepObjects},
		{Name: "records", Run: a.sweepRecords},
		{Name: "bytes", Run: func(context.Context, plat.OrgID) error { a.blobs.Reclaim(); return nil }},
	} {
		a.orgs.OnDelete(p)
	}
	changed := a.control.Hub().Watch(ctx, org.TopicOrganization)
	a.group.Add("organization", func(ctx context.Context) error { return a.keepOrgs(ctx, changed) })
}

// addLimits tells the domains and the API what one call may ask for.
func (a *App) addLimits(deps *api.Deps) {
	deps.Limits = api.Limits{
		HeaderBytes: a.cfg.HeaderBytes, Page: a.cfg.PageSize, Rate: a.cfg.Rate, Burst: a.cfg.RateBurst,
		Metadata: lake.Limits{Key: a.cfg.MetadataKey, Value: a.cfg.MetadataValue, Total: a.cfg.MetadataBytes},
	}
	deps.Lake.LimitMetadata(deps.Limits.Metadata)
	deps.Datasets.LimitItems(a.cfg.ItemsPerCall)
}

// inferLimits are those of inference calls.
func (a *App) inferLimits() dataplane.Limits {
	return dataplane.Limits{
		Calls:   a.cfg.Calls,
		Token:   dataplane.Limit{Rate: a.cfg.TokenRate, Calls: a.cfg.TokenCalls},
		Org:     dataplane.Limit{Rate: a.cfg.OrgRate, Calls: a.cfg.OrgCalls},
		Service: dataplane.Limit{Rate: a.cfg.ServiceRate, Calls: a.cfg.ServiceCalls},
	}
}

// accessLogKeep is how many older files of the access log stay.
const accessLogKeep = 4

// addAccessLog opens the access log, where one is asked for. Like the listener, a
// file that can't be opened is an error of the start.
func (a *App) addAccessLog(deps *api.Deps) error {
	if a.cfg.AccessLog == "" {
		return nil
	}
	lines, err := accesslog.Open(accesslog.Options{
		Path: a.cfg.AccessLog, MaxBytes: a.cfg.AccessLogMB << 20, Keep: accessLogKeep, Sample: a.cfg.AccessSample,
	})
	if err != nil {
		return plat.InvalidField("access-log", "%v", err)
	}
	a.metrics.MustRegister(
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "panal_access_log_lines_total", Help: "Lines in the access log."},
			func() float64 { return float64(lines.Written()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "panal_access_log_dropped_total", Help: "Lines that the access log had no room or no disk for."},
			func() float64 { return float64(lines.Dropped()) }))
	a.group.Add("access log", func(ctx context.Context) error {
		return lines.Run(ctx, func(err error) { a.warn(ctx, "access log", err) })
	})
	a.lines, deps.AccessLog = lines, lines
	return nil
}

// settleEvery is how long audit rows wait at most once the database is back.
const settleEvery = 5 * time.Second

// openAudit returns the audit of the control database.
func (a *App) openAudit() *audit.Service {
	return audit.New(audit.Config{
		Store: sqlstore.NewAudit(a.control), Now: a.now, TTL: a.cfg.AuditTTL,
		Log: a.log.With(slog.String(plat.LogComponent, "audit")), Spool: filepath.Join(a.cfg.Data, "audit.spool"),
		SpoolFirst: a.cfg.Database == "", // a file is as durable as the database beside it, and a tenth of the work
	})
}

// addAudit keeps the audit of mutating calls, and drops what is past its time.
func (a *App) addAudit(deps *api.Deps) {
	rows := a.openAudit()
	deps.Audit, a.audits = rows, rows
	a.group.Add("audit", func(ctx context.Context) error {
		return a.every(ctx, collectEvery, func(int) {
			if _, err := rows.Trim(ctx); err != nil {
				a.warn(ctx, "drop old audit rows", err)
			}
		})
	})
	a.group.Add("owed audit rows", func(ctx context.Context) error {
		settle := func(int) {
			switch n, err := rows.Settle(ctx); {
			case err != nil:
				a.warn(ctx, "store audit rows that were kept while the database was away", err)
			case n > 0 && a.cfg.Database != "":
				a.log.LogAttrs(ctx, slog.LevelInfo, "audit rows that were kept while the database was away are stored", slog.Int("count", n))
			}
		}
		settle(0)
		return a.every(ctx, settleEvery, settle)
	})
}

// limitStorage makes uploads keep to the organizations' quotas.
func (a *App) limitStorage(files *lake.Service) {
	limit := func(ctx context.Context, id plat.OrgID) (int64, error) {
		o, err := a.orgs.Standing(ctx, id)
		return o.Quota, err
	}
	files.LimitBy(quota.New(a.now, limit, func(ctx context.Context, id plat.OrgID) (int64, error) {
		u, err := files.OrgUsage(ctx, id)
		return u.Bytes, err
	}))
}

// held tells why an organization's jobs are not started.
func (a *App) held(ctx context.Context, id plat.OrgID) (string, error) {
	o, err := a.orgs.Standing(ctx, id)
	if err != nil || o.State == org.Active {
		return "", err
	}
	return "waiting: organization " + o.Name + " is " + string(o.State), nil
}

// keepOrgs deletes organizations that are marked for it, however often it has to
// begin again.
func (a *App) keepOrgs(ctx context.Context, changed <-chan struct{}) error {
	for wait := time.Duration(0); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(wait):
		}
		wait = orgsEvery
		left, err := a.orgs.PurgeDeleted(ctx)
		if err != nil {
			a.warn(ctx, "delete organizations", err)
		}
		if left > 0 || err != nil {
			wait = purgeEvery
		}
	}
}

// sweepObjects deletes every object whose key's second part is the organization,
// whatever the first one: all of an organization's objects are named so.
func (a *App) sweepObjects(ctx context.Context, id plat.OrgID) error {
	for after := ""; ; {
		infos, _, err := a.blobs.List(ctx, "", after, 1)
		if err != nil {
			return fmt.Errorf("list objects: %w", err)
		}
		if len(infos) == 0 {
			return nil
		}
		top, _, below := strings.Cut(infos[0].Key, "/")
		if !below {
			after = infos[0].Key
			continue
		}
		if err := a.deleteObjects(ctx, top+"/"+string(id)+"/"); err != nil {
			return err
		}
		after = top + "0" // the first key after all below top: "0" follows "/"
	}
}

func (a *App) deleteObjects(ctx context.Context, prefix string) error {
	for after, more := "", true; more; {
		infos, next, err := a.blobs.List(ctx, prefix, after, 1000)
		if err != nil {
			return fmt.Errorf("list objects: %w", err)
		}
		for _, info := range infos {
			if err := a.blobs.Delete(ctx, info.Key); err != nil {
				return fmt.Errorf("delete objects: %w", err)
			}
			after = info.Key
		}
		more = next
	}
	return nil
}

// sweepRecords deletes what rows are left of an organization, and gives the space
// back.
func (a *App) sweepRecords(ctx context.Context, id plat.OrgID) error {
	dbs := []*sqlstore.DB{a.control}
	if a.lakeDB != a.control {
		dbs = append(dbs, a.lakeDB)
	}
	for _, db := range dbs {
		if err := sqlstore.SweepOrg(ctx, db, id); err != nil {
			return err
		}
		if err := db.Shrink(ctx); err != nil {
			return err
		}
	}
	return nil
}
