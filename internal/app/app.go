// SPDX-License-Identifier: Apache-2.0

// Package app wires everything together: the only importer of adapters. Build
// makes every part from the configuration, Run runs them in order and stops them
// in reverse: listener, control, stores.
package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"panal/internal/api"
	"panal/internal/audit"
	"panal/internal/authn"
	"panal/internal/blob"
	"panal/internal/config"
	"panal/internal/org"
	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/sqlstore"
	"panal/internal/x/accesslog"
	"panal/internal/x/handed"
	"panal/internal/x/keyring"
	"panal/internal/x/outage"
	"panal/internal/x/rungroup"
	"panal/internal/x/signedurl"
)

// App is a built platform.
type App struct {
	cfg      config.Server
	log      *slog.Logger
	now      plat.Clock
	lock     *os.File
	listener net.Listener
	door     *door
	metrics  *prometheus.Registry
	draining atomic.Bool
	starter  Starter
	cert     *certificate // of the listener for the world; nil: there is none
	leaving  leaving
	carrying carrying       // servers of listeners that outlive the hand-over
	lines    *accesslog.Log // nil: none was asked for

	drainTunnels func(ctx context.Context) // waits for WebSockets
	streams      func()                    // ends the streams of events under way
	closers      []func() error            // what Build opened, to be closed in reverse order

	control *sqlstore.DB // organizations, tokens, jobs, services
	lakeDB  *sqlstore.DB // files and datasets; the same as control on PostgreSQL
	orgs    *org.Service
	blobs   *blob.Store
	runner  runner.Runner
	keys    *keyring.Ring
	audits  *audit.Service
	agents  string // base URL at which workloads reach the API

	releasing sync.WaitGroup // ends of backups that delete what was held

	group   rungroup.Group
	handler http.Handler
}

// Build makes the platform. The listener is open when it returns, so that a port
// that is taken is an error of the start.
func Build(ctx context.Context, cfg config.Server, log *slog.Logger, starter Starter) (_ *App, err error) {
	a := &App{cfg: cfg, log: log, now: plat.SystemClock, metrics: prometheus.NewRegistry(), starter: starter}
	defer func() {
		if err != nil {
			_ = a.close() // the first error is the one to tell
		}
	}()
	a.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := a.checkSockets(); err != nil {
		return nil, err
	}
	if err := a.preflight(ctx); err != nil {
		return nil, err
	}
	if err := a.openData(ctx); err != nil {
		return nil, err
	}
	if err := a.checkKeyFile(ctx); err != nil {
		return nil, err
	}
	if a.keys, err = keyring.Open(keyFile(cfg)); err != nil {
		return nil, err
	}
	if err := a.listen(ctx); err != nil {
		return nil, err
	}
	if a.runner, err = openRunner(cfg, log); err != nil {
		return nil, fmt.Errorf("runner: %w", err)
	}
	a.closers = append(a.closers, a.runner.Close)
	level, reason := a.runner.Isolation()
	single := ""
	if level == "none" {
		single = reason
		log.LogAttrs(ctx, slog.LevelWarn, "user code runs WITHOUT ISOLATION: it can read and change everything that this server can",
			slog.String(plat.LogReason, reason))
	}
	if _, err := os.Stat(cfg.Python); err != nil {
		log.LogAttrs(ctx, slog.LevelWarn, "the interpreter of abeja-inc/* images is missing: jobs and services that use them will fail; see --python",
			slog.String(plat.LogPath, cfg.Python), slog.String(plat.LogReason, err.Error()))
	}
	orgStore := sqlstore.NewOrgs(a.control)
	a.orgs = org.NewService(orgStore, orgStore, a.now, single)
	if err := a.firstStart(ctx); err != nil {
		return nil, fmt.Errorf("first start: %w", err)
	}
	proxies, err := cfg.Proxies()
	if err != nil {
		return nil, err
	}
	deps := api.Deps{
		Log: log, Now: a.now, Version: plat.Version, PublicURL: cfg.PublicURL, TrustedProxies: proxies,
		Datasources: org.NewDatasources(orgStore, a.keys, a.now), IPRules: org.NewIPRules(orgStore, a.now),
		Auth: authn.New(orgStore, a.now), Orgs: a.orgs, Blobs: a.blobs, Signer: signedurl.NewRing(a.keys.URLKeys),
	}
	// What callers are and may do is asked of one database, which one watch watches.
	watch := &outage.Watch{Grace: a.cfg.OutageGrace}
	deps.Auth.Share(watch)
	deps.IPRules.Share(watch)
	a.orgs.Share(watch)
	if err := a.addDomains(ctx, &deps, orgStore); err != nil {
		return nil, err
	}
	a.handler = a.leaving.counted(a.front(api.New(deps).Handler()))
	return a, nil
}

// listen opens the listener and settles the URL at which workloads find the API.
func (a *App) listen(ctx context.Context) error {
	l, err := a.open(ctx, socketHTTP, a.cfg.Listen)
	if err != nil {
		return plat.Errorf(plat.ErrConflict, "can't listen on %s: %v", a.cfg.Listen, errors.Unwrap(err))
	}
	proxies, err := a.cfg.Proxies()
	if err != nil {
		return err
	}
	a.door = newDoor(cmp.Or(a.cfg.Connections, 20_000), cmp.Or(a.cfg.AddrConns, 2000), proxies, a.metrics)
	l = a.door.limit(l, true)
	a.listener = l
	a.closers = append(a.closers, func() error {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	a.agents = a.cfg.AgentURL
	if a.agents == "" {
		host, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return err
		}
		if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
			host = "127.0.0.1"
		}
		a.agents = "http://" + net.JoinHostPort(host, port)
	}
	return nil
}

// firstStart makes organization, admin and token when there are none, and keeps
// admin.json's URL true.
func (a *App) firstStart(ctx context.Context) error {
	all, err := a.orgs.List(ctx)
	if err != nil {
		return err
	}
	path := filepath.Join(a.cfg.Data, fileAdmin)
	var adm Admin
	if len(all) > 0 {
		if adm, err = ReadAdmin(a.cfg.Data); err != nil {
			a.log.LogAttrs(ctx, slog.LevelInfo, "no readable admin.json; going on without it", slog.String(plat.LogReason, err.Error()))
			return nil
		}
		if adm.APIURL == a.agents {
			return nil
		}
		adm.APIURL = a.agents
	} else {
		o, err := a.orgs.Create(ctx, "default")
		if err != nil {
			return err
		}
		if adm, err = firstAdmin(ctx, a.orgs, o.ID); err != nil {
			return err
		}
		adm.APIURL = a.agents
		a.log.LogAttrs(ctx, slog.LevelInfo, "first start: made organization default and its admin", slog.String(plat.LogPath, path))
	}
	return writeAdmin(a.cfg.Data, adm)
}

// firstAdmin makes an admin with a token for an organization that has none.
func firstAdmin(ctx context.Context, orgs *org.Service, id plat.OrgID) (Admin, error) {
	u, err := orgs.AddUser(ctx, id, "admin@localhost.localdomain", "admin", authn.RoleAdmin)
	if err != nil {
		return Admin{}, err
	}
	token, err := orgs.NewToken(ctx, u)
	return Admin{OrganizationID: string(id), UserID: string(u.ID), Token: token}, err
}

// Run serves until ctx ends, then drains and stops everything in order. Workloads
// go on. A signal on handOver asks it to give its place to the next server, which waits
// for the data directory, and to stay only for the calls that instances have.
func (a *App) Run(ctx context.Context, handOver <-chan os.Signal) error {
	if a.cfg.Admin != "" {
		if err := a.addAdminListener(ctx); err != nil {
			return errors.Join(err, a.close())
		}
	}
	if a.cfg.TLSListen != "" {
		if err := a.addTLS(ctx); err != nil {
			return errors.Join(err, a.close())
		}
	}
	a.group.Add("http", a.serve(func(ctx context.Context, drain func() time.Duration) error {
		return serveHTTP(ctx, a.log, a.listener, a.handler, a.cfg.HeaderBytes, drain, &a.draining, nil, isHot)
	}))
	a.group.Add("end", a.awaitEnd(ctx, handOver))
	level, _ := a.runner.Isolation()
	a.log.LogAttrs(ctx, slog.LevelInfo, "panal is up", slog.String(plat.LogAddress, "http://"+a.listener.Addr().String()),
		slog.String("data", a.cfg.Data), slog.String("isolation", level), slog.String("version", plat.Version))
	a.tell(ctx, handed.Ready)
	err := a.group.Run(context.WithoutCancel(ctx))
	err = errors.Join(err, a.close())
	if a.leaving.over.Load() {
		a.carry(ctx)
	}
	a.log.LogAttrs(ctx, slog.LevelInfo, "panal has stopped; workloads go on")
	return err
}

func (a *App) addAdminListener(ctx context.Context) error {
	l, err := a.open(ctx, socketAdmin, a.cfg.Admin)
	if err != nil {
		return fmt.Errorf("admin listener: %w", err)
	}
	var draining atomic.Bool
	a.group.Add("admin", func(ctx context.Context) error {
		return serveHTTP(ctx, a.log, l, pprofHandler(), a.cfg.HeaderBytes, func() time.Duration { return a.cfg.Drain }, &draining, nil, isNothing)
	})
	return nil
}

// close closes what Build opened, newest first.
func (a *App) close() error {
	a.releasing.Wait()
	var errs []error
	for _, f := range slices.Backward(a.closers) {
		errs = append(errs, f())
	}
	a.closers = nil
	return errors.Join(errs...)
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return `""`
	}
	return string(b)
}
