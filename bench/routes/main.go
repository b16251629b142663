// SPDX-License-Identifier: Apache-2.0

// Command routes measures the gateway's routes at a size: how long a start takes until
// all of them are there, what memory the process has, what a lookup costs, and how soon
// a change is visible while many are made.
//
// What is measured is the product's own: records in SQLite (or, with -postgres, in
// PostgreSQL), control's registry and reconciler, the gateway's table, and changes through
// deploy.Manager, as the API makes them. Only the instances don't run: the runner says
// of each that it is healthy until it is told otherwise. The records are written by a
// process of its own, so that the memory is that of serving.
//
//	make bench-routes BENCHFLAGS='-services 10000'
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	_ "net/http/pprof"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"panal/internal/sqlstore"
	"panal/internal/sqlstore/postgres"
	"panal/internal/sqlstore/sqlite"
	"panal/internal/x/goruntime"
)

type options struct {
	services, each, instances int
	lookups, changes          int
	duration, idle            time.Duration
	postgres, dir             string
	pprof, report             string
}

func main() {
	var o options
	flag.IntVar(&o.services, "services", 100_000, "services")
	flag.IntVar(&o.each, "each", 10, "services of a deployment")
	flag.IntVar(&o.instances, "instances", 3, "instances of a service")
	flag.IntVar(&o.lookups, "lookups", 1_000_000, "lookups of random targets, once at rest and once during the changes")
	flag.IntVar(&o.changes, "changes", 1000, "changes a second")
	flag.DurationVar(&o.duration, "duration", 10*time.Second, "how long changes are made")
	flag.DurationVar(&o.idle, "idle", 20*time.Second, "how long nothing happens, to see what that costs")
	flag.StringVar(&o.postgres, "postgres", os.Getenv("PANAL_TEST_POSTGRES"), "URL of an empty PostgreSQL database; empty: SQLite")
	flag.StringVar(&o.dir, "dir", ".cache", "where to put SQLite's file")
	flag.StringVar(&o.pprof, "pprof", "", "address of a profiler, meanwhile")
	flag.StringVar(&o.report, "report", "bench-routes.json", "where to write the figures")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "routes:", err)
		os.Exit(1)
	}
}

func (o options) open(ctx context.Context) (*sqlstore.DB, error) {
	if o.postgres != "" {
		return postgres.Open(ctx, o.postgres, 16, "outbox", "control")
	}
	return sqlite.Open(ctx, filepath.Join(o.dir, "control.db"), "outbox", "control")
}

func run(ctx context.Context, o options) (err error) {
	if flag.Arg(0) == "fill" {
		return fill(ctx, o)
	}
	if o.services < 1 || o.each < 3 || o.instances < 0 || o.changes < 1 || o.lookups < 1 {
		return errors.New("-services, -changes and -lookups must be at least 1, -each at least 3 and -instances at least 0") //nolint:err113 // for the reader
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	if o.dir, err = os.MkdirTemp(o.dir, "bench-routes-"); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	defer func() {
		if rerr := os.RemoveAll(o.dir); err == nil {
			err = rerr
		}
	}()
	if o.pprof != "" {
		go func() { _ = http.ListenAndServe(o.pprof, nil) }()
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("own path: %w", err)
	}
	began := time.Now()
	child := exec.CommandContext(ctx, self, "-services", fmt.Sprint(o.services), "-each", fmt.Sprint(o.each), "-instances", fmt.Sprint(o.instances),
		"-postgres", o.postgres, "-dir", o.dir, "fill")
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	if err := child.Run(); err != nil {
		return fmt.Errorf("fill the database: %w", err)
	}
	engine := "SQLite"
	if o.postgres != "" {
		engine = "PostgreSQL"
	}
	fmt.Printf("%d services x %d instances in %d deployments on %s, written in %.0f s\n",
		o.services, o.instances, (o.services+o.each-1)/o.each, engine, time.Since(began).Seconds())
	goruntime.Tune() // as panal serve does
	w, err := open(ctx, o)
	if err != nil {
		return err
	}
	defer w.close()
	if err := w.measure(ctx); err != nil {
		return err
	}
	if o.report == "" {
		return nil
	}
	out, err := json.MarshalIndent(w.report, "", "  ")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return os.WriteFile(o.report, append(out, '\n'), 0o600)
}

// report is what was measured; bars are the issue's.
type report struct {
	Services  int     `json:"services"`
	Instances int     `json:"instances"`
	Start     float64 `json:"start_seconds"`
	StartCPU  float64 `json:"start_cpu_seconds"`
	Ready     float64 `json:"ready_rss_mb"`
	Peak      float64 `json:"peak_rss_mb"`
	Heap      float64 `json:"live_heap_mb"`
	Idle      float64 `json:"idle_cpu_seconds_per_minute"`
	Lookup    lookups `json:"lookups_at_rest"`
	Busy      lookups `json:"lookups_during_changes"`
	Changes   float64 `json:"changes_per_second"`
	CPU       float64 `json:"cpu_seconds_per_second_during_changes"`
	Visible   []seen  `json:"visible"`
}

type lookups struct {
	Count  int     `json:"count"`
	Mean   float64 `json:"mean_us"`
	P99    float64 `json:"p99_us"` // of means over 100
	Allocs float64 `json:"allocations_per_lookup"`
}

type seen struct {
	Change string  `json:"change"`
	Count  int     `json:"count"`
	P50    float64 `json:"p50_ms"`
	P99    float64 `json:"p99_ms"`
	Max    float64 `json:"max_ms"`
}

func row(what, figure, bar string) { fmt.Printf("%-46s %14s  %s\n", what, figure, bar) }

func percentile(all []time.Duration, percent int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.SortFunc(all, cmp.Compare)
	return all[min(len(all)-1, len(all)*percent/100)]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (r report) print() {
	row("start from the database until all are routed", fmt.Sprintf("%.2f s", r.Start), "< 5 s")
	row("  CPU of it", fmt.Sprintf("%.2f s", r.StartCPU), "")
	row("memory when ready", fmt.Sprintf("%.0f MB", r.Ready), "< 400 MB")
	row("memory, most of the whole run", fmt.Sprintf("%.0f MB", r.Peak), "< 400 MB")
	row("of it Go's live heap", fmt.Sprintf("%.0f MB", r.Heap), "")
	row("CPU when nothing happens", fmt.Sprintf("%.2f s/min", r.Idle), "")
	for _, l := range []struct {
		name string
		lookups
	}{{"at rest", r.Lookup}, {"during the changes", r.Busy}} {
		row(fmt.Sprintf("%d lookups %s", l.Count, l.name), fmt.Sprintf("%.2f us", l.Mean), "< 1 us")
		row("  p99 of means over 100", fmt.Sprintf("%.2f us", l.P99), "")
	}
	row("  allocations of a lookup at rest", fmt.Sprintf("%.3f", r.Lookup.Allocs), "0")
	row("changes made", fmt.Sprintf("%.0f /s", r.Changes), "")
	row("CPU meanwhile, lookups included", fmt.Sprintf("%.2f cores", r.CPU), "")
	for _, s := range r.Visible {
		row(strings.ToLower(s.Change)+fmt.Sprintf(" (%d) visible, p50 / p99", s.Count), fmt.Sprintf("%.1f / %.1f ms", s.P50, s.P99), "p99 < 100 ms")
	}
}
