// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"panal/bench/proc"
	"panal/internal/blob"
	"panal/internal/blob/memblob"
	"panal/internal/control/service"
	"panal/internal/dataplane"
	"panal/internal/deploy"
	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/sqlstore"
)

// world is a server without its edges.
type world struct {
	o       options
	org     plat.OrgID
	db      *sqlstore.DB
	store   *committed
	table   *dataplane.Table
	machine *machine
	control *service.Controller
	manager *deploy.Manager
	stop    func()
	report  report

	deps     []plat.DeploymentID
	services []plat.ServiceID
	second   []atomic.Bool // by deployment: its alias leads to the second service
	deleted  atomic.Int64
	out      chan plat.WorkloadID // instances that are sick
}

// committed notes when the last change of a deployment was committed: visibility counts
// from there.
type committed struct {
	deploy.Store
	at sync.Map // of plat.DeploymentID: time.Time
}

func (c *committed) UpdateEndpoint(ctx context.Context, dep plat.DeploymentID, idOrAlias string, targets []plat.ServiceID,
	change func(*deploy.Endpoint, deploy.Service, []deploy.Service) (*deploy.Change, error),
) (deploy.Endpoint, error) {
	e, err := c.Store.UpdateEndpoint(ctx, dep, idOrAlias, targets, change)
	c.at.Store(dep, time.Now())
	return e, err
}

func (c *committed) DeleteService(ctx context.Context, id plat.ServiceID) error {
	s, err := c.Service(ctx, id)
	if err != nil {
		return err
	}
	err = c.Store.DeleteService(ctx, id)
	c.at.Store(s.Deployment, time.Now())
	return err
}

func (c *committed) CreateService(ctx context.Context, s deploy.Service) error {
	err := c.Store.CreateService(ctx, s)
	c.at.Store(s.Deployment, time.Now())
	return err
}

func (c *committed) since(dep plat.DeploymentID) time.Duration {
	at, _ := c.at.Load(dep)
	return time.Since(at.(time.Time))
}

type noModels struct{}

func (noModels) ModelRef(_ context.Context, _ plat.OrgID, id plat.ModelID) (deploy.ModelRef, error) {
	return deploy.ModelRef{}, plat.NotFound("model", id)
}

// open starts the server, as app does, and measures it.
func open(ctx context.Context, o options) (*world, error) {
	w := &world{o: o, table: dataplane.NewTable(), machine: &machine{other: map[plat.WorkloadID]condition{}}}
	began := time.Now()
	before, err := proc.CPU(os.Getpid())
	if err != nil {
		return nil, err
	}
	if w.db, err = o.open(ctx); err != nil {
		return nil, err
	}
	w.store = &committed{Store: sqlstore.NewDeploys(w.db)}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	w.control = service.New(service.Config{
		Log: log, Now: plat.SystemClock, Store: w.store, Models: noModels{}, Runner: w.machine, Tokens: sqlstore.NewOrgs(w.db), Routes: w.table,
		IngestSpool: func(context.Context, runner.Status, []runner.SpoolBatch) error { return nil }, APIURL: "http://127.0.0.1:8600",
	})
	if err := w.control.Prime(ctx); err != nil {
		return nil, err
	}
	w.report.Start = time.Since(began).Seconds()
	after, err := proc.CPU(os.Getpid())
	if err != nil {
		return nil, err
	}
	w.report.StartCPU = (after - before).Seconds()
	w.report.Services, w.report.Instances = o.services, o.services*o.instances
	w.manager = deploy.NewManager(deploy.Config{Store: w.store, Blobs: blob.New(memblob.New()), Models: noModels{}, Publisher: w.control, Now: plat.SystemClock, Log: log})
	run, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.control.Run(run) // ends with its context
	}()
	w.stop = func() {
		cancel()
		<-done
	}
	if w.report.Ready, err = proc.RSS(os.Getpid()); err != nil {
		return nil, err
	}
	for i := range o.services {
		if i%o.each == 0 {
			w.deps = append(w.deps, depID(i/o.each))
		}
		w.services = append(w.services, serviceID(i))
	}
	w.second, w.out = make([]atomic.Bool, len(w.deps)), make(chan plat.WorkloadID, int(o.duration.Seconds()+1)*o.changes)
	d, err := w.store.Service(ctx, w.services[0])
	w.org = d.Org
	return w, err
}

func (w *world) close() {
	w.stop()
	_ = w.db.Close()
}

// target returns a random one, by service or by alias.
func (w *world) target(r *rand.Rand) (dataplane.Target, plat.ServiceID) {
	i := r.IntN(len(w.services))
	to := dataplane.Target{Org: w.org, Deployment: w.deps[i/w.o.each]}
	if r.IntN(2) == 0 && i%w.o.each < w.o.each-1 { // the last one may be deleted
		to.Service = w.services[i]
	}
	return to, to.Service
}

// lookup looks n random targets up and says what that took; every is called
// between hundreds.
func (w *world) lookup(n int, every func(done int)) (lookups, error) {
	const batch = 100
	r := rand.New(rand.NewPCG(1, 2))
	var targets [batch]dataplane.Target
	var wants [batch]plat.ServiceID
	var routes [batch]*dataplane.Route
	var errs [batch]error
	took := make([]time.Duration, 0, n/batch+1)
	var sum time.Duration
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	done, read := 0, 0
	for ; done < n; done += batch {
		every(done)
		for i := range targets { // made apart: only the lookup is measured
			targets[i], wants[i] = w.target(r)
			// A call's names have just been read from its head.
			read += strings.Count(string(targets[i].Deployment), "0") + strings.Count(string(targets[i].Service), "0")
		}
		began := time.Now()
		for i := range targets {
			routes[i], errs[i] = w.table.Lookup(targets[i])
		}
		d := time.Since(began)
		for i := range targets {
			if errs[i] != nil {
				return lookups{}, fmt.Errorf("lookup of %+v: %w", targets[i], errs[i])
			}
			if got := routes[i].Service(); wants[i] != "" && got != wants[i] {
				return lookups{}, fmt.Errorf("lookup of %+v led to %s", targets[i], got) //nolint:err113 // for the reader
			}
		}
		took, sum = append(took, d/batch), sum+d
	}
	runtime.ReadMemStats(&after)
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	return lookups{
		Count: done, Mean: us(sum / time.Duration(done)), P99: us(percentile(took, 99)),
		Allocs: float64(after.Mallocs-before.Mallocs) / float64(done),
	}, nil
}

func (w *world) measure(ctx context.Context) (err error) {
	pid := os.Getpid()
	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	w.report.Heap = float64(mem.HeapAlloc) / 1e6
	if w.report.Lookup, err = w.lookup(w.o.lookups, func(int) {}); err != nil {
		return err
	}
	before, err := proc.CPU(pid)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(w.o.idle):
	}
	after, err := proc.CPU(pid)
	if err != nil {
		return err
	}
	if w.o.idle > 0 {
		w.report.Idle = (after - before).Seconds() / w.o.idle.Minutes()
	}
	if err := w.change(ctx); err != nil {
		return err
	}
	if w.report.Peak, err = proc.Peak(pid); err != nil {
		return err
	}
	w.report.print()
	return w.compare(ctx)
}

// kinds of changes, and how many of a hundred each is.
var kinds = []struct {
	name  string
	share int
	do    func(*world, context.Context, int, *rand.Rand) (time.Duration, error)
}{
	{"alias switched", 28, (*world).switchAlias},
	{"instance out or in", 70, (*world).flipInstance},
	{"service created", 1, (*world).createService},
	{"service deleted", 1, (*world).deleteService},
}

// change makes changes at the rate, and looks targets up meanwhile.
func (w *world) change(ctx context.Context) error {
	const workers = 32
	n := int(w.o.duration.Seconds() * float64(w.o.changes))
	took := make([]struct {
		kind int
		d    time.Duration
	}, n)
	errs := make([]error, workers+1)
	var next atomic.Int64
	before, err := proc.CPU(os.Getpid())
	if err != nil {
		return err
	}
	start := time.Now()
	var wg sync.WaitGroup
	for k := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(k), 3))
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(w.o.changes))))
				kind, lot := 0, r.IntN(100)
				for lot >= kinds[kind].share {
					lot, kind = lot-kinds[kind].share, kind+1
				}
				d, err := kinds[kind].do(w, ctx, i, r)
				if err != nil {
					errs[k] = fmt.Errorf("%s: %w", kinds[kind].name, err)
					return
				}
				took[i].kind, took[i].d = kind, d
			}
		})
	}
	wg.Go(func() {
		w.report.Busy, errs[workers] = w.lookup(w.o.lookups, func(done int) {
			time.Sleep(time.Until(start.Add(w.o.duration * time.Duration(done) / time.Duration(w.o.lookups))))
		})
	})
	wg.Wait()
	if err := errors.Join(errors.Join(errs...), ctx.Err()); err != nil {
		return err
	}
	lasted := time.Since(start)
	after, err := proc.CPU(os.Getpid())
	if err != nil {
		return err
	}
	w.report.Changes, w.report.CPU = float64(n)/lasted.Seconds(), (after-before).Seconds()/lasted.Seconds()
	all := make([]time.Duration, 0, n)
	for kind, k := range kinds {
		var of []time.Duration
		for _, t := range took {
			if t.kind == kind {
				of = append(of, t.d)
			}
		}
		all = append(all, of...)
		w.report.Visible = append(w.report.Visible, figures(k.name, of))
	}
	w.report.Visible = append(w.report.Visible, figures("all changes", all))
	return nil
}

func figures(name string, all []time.Duration) seen {
	return seen{Change: name, Count: len(all), P50: ms(percentile(all, 50)), P99: ms(percentile(all, 99)), Max: ms(percentile(all, 100))}
}

// switchAlias has a deployment's alias lead to the other of two services.
func (w *world) switchAlias(ctx context.Context, i int, _ *rand.Rand) (time.Duration, error) {
	n := i % len(w.deps)
	dep, to := w.deps[n], 1
	if w.second[n].Load() {
		to = 0
	}
	want := w.services[min(n*w.o.each+to, len(w.services)-1)]
	if _, err := w.manager.SwitchEndpoint(ctx, w.org, user, dep, "default", want, deploy.Limits{}); err != nil {
		return 0, err
	}
	w.second[n].Store(to == 1)
	return w.visible(ctx, dep, dataplane.Target{Org: w.org, Deployment: dep}, want)
}

// visible waits until a lookup leads to a service, and says how long after the commit
// that is.
func (w *world) visible(ctx context.Context, dep plat.DeploymentID, to dataplane.Target, want plat.ServiceID) (time.Duration, error) {
	if !waitFor(ctx, func() bool {
		route, err := w.table.Lookup(to)
		return err == nil && route.Service() == want
	}) {
		return 0, plat.Errorf(plat.ErrUnavailable, "a change of %s does not become visible", dep)
	}
	return w.store.since(dep), nil
}

// createService makes a service with one instance.
func (w *world) createService(ctx context.Context, i int, _ *rand.Rand) (time.Duration, error) {
	n := i % len(w.deps)
	v := deploy.Version{ID: plat.VersionID(versionID(n)), Org: w.org, Deployment: w.deps[n]}
	if _, err := w.manager.Blobs.Put(ctx, v.SourceKey(), strings.NewReader("x"), 1, blob.PutOptions{}); err != nil {
		return 0, err
	}
	number := 1
	s, err := w.manager.CreateService(ctx, w.org, user, v.Deployment, v.ID, deploy.ServiceSpec{Number: &number})
	if err != nil {
		return 0, err
	}
	return w.visible(ctx, v.Deployment, dataplane.Target{Org: w.org, Deployment: v.Deployment, Service: s.ID}, s.ID)
}

// deleteService deletes a service with its instances: the last of a deployment, which
// nothing else here asks for.
func (w *world) deleteService(ctx context.Context, i int, r *rand.Rand) (time.Duration, error) {
	n := int(w.deleted.Add(1)) - 1
	if (n+1)*w.o.each > len(w.services) {
		return w.flipInstance(ctx, i, r) // there is none left
	}
	dep, id := w.deps[n], w.services[(n+1)*w.o.each-1]
	if err := w.manager.DeleteService(ctx, w.org, dep, id); err != nil {
		return 0, err
	}
	if !waitFor(ctx, func() bool {
		_, err := w.table.Lookup(dataplane.Target{Org: w.org, Deployment: dep, Service: id})
		return errors.Is(err, plat.ErrNotFound)
	}) {
		return 0, plat.Errorf(plat.ErrUnavailable, "service %s does not disappear", id)
	}
	return w.store.since(dep), nil
}

// flipInstance has an instance fail its health check, or one that does pass it again.
func (w *world) flipInstance(ctx context.Context, i int, r *rand.Rand) (time.Duration, error) {
	if w.o.instances == 0 {
		return w.switchAlias(ctx, i, r)
	}
	var id plat.WorkloadID
	healthy := false
	select {
	case id = <-w.out:
		healthy = true
	default:
		n := i * 7 % len(w.services)
		if n%w.o.each == w.o.each-1 { // it may be deleted
			n--
		}
		id = workloadID(n*w.o.instances + i%w.o.instances)
	}
	began := time.Now()
	w.machine.set(id, healthy)
	if !waitFor(ctx, func() bool { return w.takes(id) == healthy }) {
		return 0, plat.Errorf(plat.ErrUnavailable, "instance %s: healthy is %t, and it stays otherwise in the routes", id, healthy)
	}
	d := time.Since(began)
	if !healthy {
		w.out <- id
	}
	return d, nil
}

// takes tells whether an instance is in the routes.
func (w *world) takes(id plat.WorkloadID) bool {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	return w.table.Drained(over, id) != nil
}

// compare holds the routes to the records, all of them.
func (w *world) compare(ctx context.Context) error {
	for len(w.out) > 0 {
		w.machine.set(<-w.out, true)
	}
	problem := ""
	if waitFor(ctx, func() bool {
		var err error
		problem, err = w.differs(ctx)
		if err != nil {
			problem = err.Error()
		}
		return problem == ""
	}) {
		return nil
	}
	return plat.Errorf(plat.ErrConflict, "the routes are not as the records: %s", problem)
}

func (w *world) differs(ctx context.Context) (string, error) {
	services, instances := 0, 0
	for after := plat.DeploymentID(""); ; {
		page, last, err := w.store.RoutedPage(ctx, after, 5000)
		if err != nil {
			return "", err
		}
		for _, d := range page {
			for _, s := range d.Services {
				services++
				if _, err := w.table.Lookup(dataplane.Target{Org: d.Org, Deployment: d.ID, Service: s.ID}); err != nil || s.Status != deploy.Ready {
					return fmt.Sprintf("service %s is %s: %v", s.ID, s.Status, err), nil
				}
			}
			for _, a := range d.Aliases {
				if route, err := w.table.Lookup(dataplane.Target{Org: d.Org, Deployment: d.ID, Alias: a.Name}); err != nil || route.Service() != a.Service {
					return fmt.Sprintf("alias %s of %s: %v", a.Name, d.ID, err), nil
				}
			}
			for _, i := range d.Instances {
				instances++
				if !w.takes(i.Workload) {
					return fmt.Sprintf("instance %s (%s) of %s is not routed", i.Workload, i.State, i.Service), nil
				}
			}
		}
		if after = last; after == "" {
			break
		}
	}
	if services < w.o.services/2 || instances < services {
		return fmt.Sprintf("%d services with %d instances", services, instances), nil
	}
	return "", nil
}
