// SPDX-License-Identifier: Apache-2.0

package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"panal/internal/api"
	"panal/internal/control/job"
	"panal/internal/control/service"
	"panal/internal/dataplane"
	"panal/internal/dataset"
	"panal/internal/deploy"
	"panal/internal/gitsource"
	"panal/internal/lake"
	"panal/internal/lake/journal"
	"panal/internal/logs"
	"panal/internal/plat"
	"panal/internal/registry"
	"panal/internal/runner"
	"panal/internal/secret"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlite"
	"panal/internal/train"
)

// addDomains builds the domain services and their machines: what is added to the
// group first stops last.
func (a *App) addDomains(ctx context.Context, deps *api.Deps, orgs *sqlstore.Orgs) error {
	lines, lineStore, err := a.openLogs(ctx)
	if err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	a.group.Add("logs", lines.Run)
	spool := func(ctx context.Context, st runner.Status, batches []runner.SpoolBatch) error {
		return a.ingestSpool(ctx, lines, st, batches)
	}

	index := sqlstore.NewLake(a.lakeDB, a.now)
	changes := journal.New(a.blobs, a.now)
	files := lake.NewService(journal.NewStore(index, changes), a.blobs, a.now)
	files.RecordedBy(changes)
	a.limitStorage(files)
	a.group.Add("lake", func(ctx context.Context) error { return a.keepLake(ctx, files) })
	a.group.Add("late postings", func(ctx context.Context) error { return a.keepPostings(ctx, index) })
	a.group.Add("journal", func(ctx context.Context) error { return a.keepJournal(ctx, changes, index) })
	a.closers = append(a.closers, func() error { return endJournal(changes) })

	training, deploys := sqlstore.NewTraining(a.control), sqlstore.NewDeploys(a.control)
	trainSvc := train.NewService(train.Options{Store: training, Blobs: a.blobs, Now: a.now, ModelUsers: modelUsers(deploys), HasOrg: hasOrg(orgs)})
	jobs := job.New(job.Config{
		Log: a.log.With(slog.String(plat.LogComponent, "job")), Now: a.now, Store: training, Runner: a.runner,
		Tokens: orgs, Blobs: a.blobs, IngestSpool: spool, APIURL: a.agents, Wake: a.control.Hub().Watch(ctx, train.TopicJob), Held: a.held,
	})
	a.group.Add("job", jobs.Run)
	a.group.Add("training", func(ctx context.Context) error {
		return a.every(ctx, collectEvery, func(int) {
			if _, err := trainSvc.Collect(ctx, collectGrace); err != nil {
				a.warn(ctx, "collect garbage of training", err)
			}
		})
	})

	table := dataplane.NewTable()
	services := service.New(service.Config{
		Log: a.log.With(slog.String(plat.LogComponent, "service")), Now: a.now, Store: deploys, Models: modelRefs{training},
		Runner: a.runner, Tokens: orgs, Routes: table, Commands: a.commands, IngestSpool: spool, APIURL: a.agents,
		SleepAfter: a.cfg.SleepAfter, ScaleWindow: a.cfg.ScaleWindow, DrainLimit: a.cfg.StreamGrace, Metrics: a.metrics,
	})
	if err := services.Prime(ctx); err != nil {
		return fmt.Errorf("routes: %w", err)
	}
	a.group.Add("service", services.Run)
	a.orgs.OneWhile(a.openPorts(deploys))
	manager := deploy.NewManager(deploy.Config{
		Store: deploys, Blobs: a.blobs, Models: modelRefs{training}, Publisher: services, Commands: a.commands, Now: a.now,
		Taking: services.Taking, Ends: services.Ends,
		RecordChannel: func(ctx context.Context, org plat.OrgID, id plat.ChannelID) error {
			return recordChannel(ctx, files, org, id)
		},
		RecordResult: func(ctx context.Context, c deploy.AsyncCall, body io.Reader) error {
			return storeResult(ctx, files, c, body)
		},
		Log: a.log.With(slog.String(plat.LogComponent, "deploy")),
	})
	a.group.Add("results", func(ctx context.Context) error {
		return a.every(ctx, asyncEvery, func(int) {
			if _, _, err := manager.SweepAsync(ctx); err != nil {
				a.warn(ctx, "sweep asynchronous calls", err)
			}
		})
	})
	a.group.Add("recorded results", func(ctx context.Context) error {
		return a.every(ctx, recordEvery, func(int) {
			if _, err := manager.RecordResults(ctx); err != nil {
				a.warn(ctx, "record results of asynchronous calls", err)
			}
		})
	})
	proxy := dataplane.NewProxy(table, dataplane.Options{
		FirstByte: a.cfg.IdleTimeout, Idle: a.cfg.IdleTimeout, TunnelIdle: a.cfg.TunnelIdle, Hold: a.cfg.HoldTimeout, SlowStart: a.cfg.SlowStart,
		SpoolDir: filepath.Join(a.cfg.Data, dirUploads), MaxSpool: a.cfg.SpoolMB << 20,
		Log: a.log.With(slog.String(plat.LogComponent, "gateway")), Metrics: a.metrics, Limits: a.inferLimits(),
	})
	a.streams = func() { proxy.EndStreams(dataplane.EndGateway) }
	a.group.Add("recordings", func(ctx context.Context) error {
		proxy.StoreRecordings(ctx, func(ctx context.Context, r *dataplane.Recording) error { return storeRecording(ctx, files, manager, r) })
		return nil
	})
	a.leaving.carried, a.leaving.countRound, a.drainTunnels = proxy.Carried, proxy.CountRound, proxy.Drain
	a.group.Add("tunnels", func(ctx context.Context) error {
		<-ctx.Done()
		if a.leaving.over.Load() { // they are carried
			return nil
		}
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.cfg.Drain)
		defer cancel()
		proxy.Drain(limited)
		return nil
	})
	a.group.Add("housekeeping", func(ctx context.Context) error { return a.keepTokens(ctx, orgs) })

	a.metrics.MustRegister(newGauges(a.log, a.now, gaugeSources{
		capacity: a.runner.Capacity, jobs: training.JobCounts, services: deploys.ServiceCounts, logBytes: lines.Used, lake: index.Total,
	}))

	secrets := secret.NewService(sqlstore.NewSecrets(a.control), a.keys, a.now)
	a.group.Add("secrets", func(ctx context.Context) error { return a.keepSealed(ctx, secrets, deps.Datasources, deps.Links) })
	deps.Secrets, deps.Registry = secrets, registry.NewService(sqlstore.NewRegistry(a.control), a.now)

	deps.Metrics = a.metrics
	deps.TempDir = filepath.Join(a.cfg.Data, dirUploads)
	deps.Git = gitsource.New(gitsource.Config{Dir: deps.TempDir, AllowPrivate: a.cfg.GitPrivate})
	deps.Lake, deps.Datasets = files, dataset.NewService(sqlstore.NewDatasets(a.lakeDB), a.now)
	a.addLinks(deps, files, index)
	if err := a.addIncoming(deps, files); err != nil {
		return err
	}
	deps.Verify = func(ctx context.Context, c lake.Channel, opt journal.VerifyOptions) (journal.Report, error) {
		return changes.Verify(ctx, index, c, opt)
	}
	deps.Backup = func(ctx context.Context, w io.Writer, flush func()) error { return a.Backup(ctx, lineStore, w, flush) }
	deps.Train, deps.Logs = trainSvc, lines
	deps.Deploy, deps.Gateway, deps.Capacity = manager, proxy, a.runner.Capacity
	a.addLimits(deps)
	if err := a.addAccessLog(deps); err != nil {
		return err
	}
	a.addAudit(deps)
	a.addOrgs(ctx, deps)
	deps.LogStreams = api.LogStreams{
		Job: func(ctx context.Context, org plat.OrgID, definition string, id plat.JobID) error {
			_, err := trainSvc.Job(ctx, org, definition, id)
			return err
		},
		Service: func(ctx context.Context, org plat.OrgID, dep plat.DeploymentID, id plat.ServiceID) error {
			_, err := manager.Service(ctx, org, dep, id)
			return err
		},
	}
	return nil
}

// modelRefs tells serving of training's models. It implements deploy.Models.
type modelRefs struct{ store train.Store }

// ModelRef implements deploy.Models.
func (m modelRefs) ModelRef(ctx context.Context, org plat.OrgID, id plat.ModelID) (deploy.ModelRef, error) {
	model, err := m.store.Model(ctx, id)
	if err != nil {
		return deploy.ModelRef{}, err
	}
	if model.Org != org {
		return deploy.ModelRef{}, plat.NotFound("training model", id)
	}
	def, err := m.store.Definition(ctx, org, string(model.Definition))
	if err != nil {
		return deploy.ModelRef{}, err
	}
	ref := deploy.ModelRef{ID: id, DefinitionName: def.Name, Job: model.Job}
	if model.Job != "" {
		j, err := m.store.Job(ctx, model.Job)
		if err != nil && !errors.Is(err, plat.ErrNotFound) { // a deleted job's model serves on
			return deploy.ModelRef{}, err
		}
		ref.Datasets = j.Datasets
	}
	return ref, nil
}

// modelUsers tells training which services use its models, so that none is deleted
// from under them.
func modelUsers(store deploy.Store) func(context.Context, plat.OrgID, []plat.ModelID) ([]string, error) {
	return func(ctx context.Context, org plat.OrgID, models []plat.ModelID) ([]string, error) {
		var users []string
		for _, m := range models {
			ids, err := store.ServicesOfModel(ctx, org, m)
			if err != nil {
				return nil, err
			}
			for _, id := range ids {
				users = append(users, "service "+string(id))
			}
		}
		return users, nil
	}
}

// openLogs opens the log store: a file per day beside SQLite, partitions on PostgreSQL.
func (a *App) openLogs(ctx context.Context) (*logs.Service, *sqlstore.Logs, error) {
	var store *sqlstore.Logs
	if a.cfg.Database != "" {
		store = sqlstore.NewLogs(a.control)
	} else {
		var err error
		store, err = sqlstore.OpenLogFiles(ctx, filepath.Join(a.cfg.Data, dirLogs), func(ctx context.Context, path string) (*sqlstore.DB, error) {
			return sqlite.Open(ctx, path, "logs")
		})
		if err != nil {
			return nil, nil, err
		}
	}
	a.closers = append(a.closers, store.Close)
	lines, err := logs.New(store, logs.Config{
		TTL: a.cfg.LogTTL, Ceiling: a.cfg.LogCeilingMB << 20, Now: a.now,
		Log: a.log.With(slog.String(plat.LogComponent, "logs")),
	})
	return lines, store, err
}

// ingestSpool stores the lines that a dead workload's agent could not ship. Its own
// user can have written them: they are held to the workload's id and stream, what is
// no batch is left out, and a gap in the numbers is closed instead of losing lines.
func (a *App) ingestSpool(ctx context.Context, lines *logs.Service, st runner.Status, batches []runner.SpoolBatch) error {
	for _, raw := range batches {
		var b logs.Batch
		if err := json.Unmarshal(raw, &b); err != nil {
			a.log.LogAttrs(ctx, slog.LevelWarn, "a workload left something that is no log batch", slog.String(plat.LogWorkload, string(st.ID)))
			continue
		}
		b.Workload, b.Stream = string(st.ID), st.LogStream
		ack, err := lines.Ingest(ctx, st.Org, b)
		if errors.Is(err, plat.ErrConflict) {
			b.FirstSeq = ack.LastSeq + 1
			_, err = lines.Ingest(ctx, st.Org, b)
		}
		if errors.Is(err, plat.ErrInvalid) {
			a.log.LogAttrs(ctx, slog.LevelWarn, "a workload left a log batch that can't be stored", slog.String(plat.LogWorkload, string(st.ID)), slog.String(plat.LogError, err.Error()))
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

const (
	reapEvery    = time.Minute
	postEvery    = time.Second
	collectEvery = time.Hour
	// asyncEvery is how often calls whose instance died are given up.
	asyncEvery = 15 * time.Second
	// recordEvery is how often results that are to be recorded are looked for.
	recordEvery = 5 * time.Second
	// collectGrace is older than any upload that may still be running.
	collectGrace = 24 * time.Hour
	tokensEvery  = 10 * time.Minute
	// eventsKept is how long events stay for readers.
	eventsKept = 7 * 24 * time.Hour
)

// keepLake deletes expired files, and objects that no row refers to.
func (a *App) keepLake(ctx context.Context, files *lake.Service) error {
	grace := cmp.Or(a.cfg.CollectGrace, collectGrace)
	collect := min(collectEvery, max(grace, time.Second)) // a short grace asks for it to be felt
	reap := min(reapEvery, collect)
	return a.every(ctx, reap, func(n int) {
		if _, err := files.Reap(ctx); err != nil {
			a.warn(ctx, "delete expired files", err)
		}
		if every := int(collect / reap); every == 1 || n%every == 1 {
			if _, err := files.Collect(ctx, grace); err != nil {
				a.warn(ctx, "collect garbage", err)
			}
		}
	})
}

// keepPostings makes the index of small uploads whole once there are no more of them.
func (a *App) keepPostings(ctx context.Context, index *sqlstore.Lake) error {
	again := 0
	return a.every(ctx, postEvery, func(n int) {
		if n < again {
			return
		}
		if err := index.PostLate(ctx); err != nil { // searches do without
			a.warn(ctx, "index small uploads", err)
			again = n + 30
		}
	})
}

// keepTokens forgets expired tokens and old events.
func (a *App) keepTokens(ctx context.Context, orgs *sqlstore.Orgs) error {
	return a.every(ctx, tokensEvery, func(int) {
		if err := orgs.DeleteExpiredTokens(ctx, a.now()); err != nil {
			a.warn(ctx, "delete expired tokens", err)
		}
		for _, db := range []*sqlstore.DB{a.control, a.lakeDB} {
			if err := sqlstore.NewEvents(db).Trim(ctx, a.now().Add(-eventsKept)); err != nil {
				a.warn(ctx, "delete old events", err)
			}
		}
	})
}

// every calls f at each tick, with the tick's number from 1, until ctx ends.
func (a *App) every(ctx context.Context, d time.Duration, f func(n int)) error {
	t := time.NewTicker(d)
	defer t.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			f(n)
		}
	}
}

// warn logs a failure of background work.
func (a *App) warn(ctx context.Context, what string, err error) {
	if ctx.Err() == nil {
		a.log.LogAttrs(ctx, slog.LevelWarn, "background work failed; it is tried again", slog.String("work", what), slog.String(plat.LogError, err.Error()))
	}
}

// hasOrg tells whether the records have an organization.
func hasOrg(orgs *sqlstore.Orgs) func(context.Context, plat.OrgID) (bool, error) {
	return func(ctx context.Context, id plat.OrgID) (bool, error) {
		_, err := orgs.Organization(ctx, string(id))
		if errors.Is(err, plat.ErrNotFound) {
			return false, nil
		}
		return err == nil, err
	}
}
