// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"panal/bench/proc"
	"panal/internal/blob"
	"panal/internal/blob/memblob"
	"panal/internal/lake"
	"panal/internal/plat"
)

// commitRate is what one way to commit reaches. CPU is per commit: ours is this
// process's (service, store and driver, and the drawing of the metadata), the server's
// is that of all PostgreSQL processes, by /proc, also those that write for it later.
type commitRate struct {
	Name      string  `json:"name"`
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	CPU       float64 `json:"cpu_ms"`
	ServerCPU float64 `json:"postgres_cpu_ms"`
}

// commits uploads small files through the service: checked, hashed, indexed, and
// answered when PostgreSQL has the commit on disk. Beside it, inserts of the same
// metadata into the bare table, one transaction each, as nothing gathers them there.
func (b *bench) commits(ctx context.Context) ([]commitRate, error) {
	svc := lake.NewService(b.store, blob.New(memblob.New()), plat.SystemClock)
	panal := func(ctx context.Context, r *rand.Rand, n int) error {
		_, err := svc.Upload(ctx, lake.Upload{Org: org, Channel: channel, ContentType: "image/jpeg", Metadata: draw(r, n), Body: strings.NewReader(payload), Size: int64(len(payload))})
		return err
	}
	bare := func(ctx context.Context, r *rand.Rand, n int) error {
		m, err := json.Marshal(draw(r, n))
		if err != nil {
			return err
		}
		_, err = b.db.Read().ExecContext(ctx, `INSERT INTO bare VALUES ($1, $2, $3, $4, $5, $6::jsonb)`,
			int64(1<<60)+int64(n), string(plat.NewFileID(plat.SystemClock())), len(payload), "d41d8cd98f00b204e9800998ecf8427e", "image/jpeg", string(m))
		return err
	}
	var out []commitRate
	for _, w := range []struct {
		name string
		op   func(context.Context, *rand.Rand, int) error
	}{{"Panal's service", panal}, {"bare JSONB + GIN", bare}} {
		c, err := b.commitTurn(ctx, w.op)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
		c.Name = w.name
		out = append(out, c)
	}
	return out, nil
}

var payload = strings.Repeat("x", 200)

func (b *bench) commitTurn(ctx context.Context, op func(context.Context, *rand.Rand, int) error) (commitRate, error) {
	var c commitRate
	var next atomic.Int64
	next.Store(int64(b.o.files))
	own0, server0, err := b.cpu()
	if err != nil {
		return c, err
	}
	start := time.Now()
	var mu sync.Mutex
	var each []time.Duration
	var failed error
	var wg sync.WaitGroup
	for w := range b.o.clients {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 11))
			var mine []time.Duration
			var err error
			for err == nil && time.Since(start) < b.o.commits {
				began := time.Now()
				err = op(ctx, r, int(next.Add(1)))
				mine = append(mine, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			each = append(each, mine...)
			if failed == nil {
				failed = err
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	n := float64(len(each))
	c.PerSecond = n / took.Seconds()
	c.P50, c.P99 = quantile(each, 0.5), quantile(each, 0.99)
	own, server, err := b.cpu()
	if err != nil {
		return c, err
	}
	c.CPU = float64((own - own0).Microseconds()) / 1000 / n
	c.ServerCPU = float64((server - server0).Microseconds()) / 1000 / n
	return c, failed
}

// cpu returns the CPU time of this process and of PostgreSQL so far.
func (b *bench) cpu() (own, server time.Duration, err error) {
	if own, err = proc.CPU(os.Getpid()); err != nil {
		return 0, 0, err
	}
	server, err = proc.FamilyCPU(b.pid)
	return own, server, err
}

// postmaster is the parent of all of the server's processes.
func (b *bench) postmaster(ctx context.Context) (int, error) {
	var backend int
	if err := b.db.Read().QueryRowContext(ctx, `SELECT pg_backend_pid()`).Scan(&backend); err != nil {
		return 0, err
	}
	pid, err := proc.Parent(backend)
	if err != nil {
		return 0, fmt.Errorf("PostgreSQL must run on this machine: %w", err)
	}
	return pid, nil
}

func (r result) print(w io.Writer) {
	fmt.Fprintf(w, "%d files, loaded at %.0f/s;", r.Files, r.Load)
	for _, s := range r.Sizes {
		fmt.Fprintf(w, " %s %d MB", s.Name, s.Bytes>>20)
	}
	fmt.Fprintf(w, "\n%-32s %9s %9s %7s %10s %10s %7s %10s\n", "ms", "p50", "p95", "bar", "JSONB p50", "JSONB p95", "ratio", "rows")
	for _, q := range r.Queries {
		bar, gin, ratio := "", [2]string{}, ""
		if q.Bar > 0 {
			bar = fmt.Sprintf("<%.0f", q.Bar)
			if q.P95 >= q.Bar {
				bar += " NO"
			}
		}
		if q.GinP95 > 0 {
			gin = [2]string{fmt.Sprintf("%.2f", q.GinP50), fmt.Sprintf("%.2f", q.GinP95)}
			ratio = fmt.Sprintf("%.2f", q.P95/q.GinP95)
		}
		fmt.Fprintf(w, "%-32s %9.2f %9.2f %7s %10s %10s %7s %10.0f\n", q.Name, q.P50, q.P95, bar, gin[0], gin[1], ratio, q.Rows)
	}
}

func printCommits(w io.Writer, all []commitRate) {
	fmt.Fprintf(w, "%-24s %8s %9s %9s %14s %18s\n", "commits", "per s", "p50 ms", "p99 ms", "CPU ms, Panal", "CPU ms, PostgreSQL")
	for _, c := range all {
		fmt.Fprintf(w, "%-24s %8.0f %9.1f %9.1f %14.3f %18.3f\n", c.Name, c.PerSecond, c.P50, c.P99, c.CPU, c.ServerCPU)
	}
}
