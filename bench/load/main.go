// SPDX-License-Identifier: Apache-2.0

// Command load puts the load on a server that Panal was designed from: uploads of
// 0.8 MB with metadata at 109 a second, then files as small as their metadata as
// fast as they go, then those at a steady part of that rate. It prints commits a
// second, the server's CPU time per commit, latencies and memory, checks that every
// acknowledged file is counted, and writes a report.
//
// Where the rate is given the loop is open: an upload's latency counts from when it
// was due, not from when there was room to send it, so a server that stalls can't
// hide it (coordinated omission). The command is bounded in time and in count, and
// talks to loopback only.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"panal/bench/proc"
	"panal/internal/client"
	"panal/internal/plat"
)

type options struct {
	api, org, user, token string
	pid                   int
	duration, small       time.Duration
	rate                  float64
	size, smallSize       int
	workers, maxFiles     int
	report                string
}

func main() {
	var o options
	flag.StringVar(&o.api, "api-url", os.Getenv("ABEJA_API_URL"), "API base URL; loopback only")
	flag.StringVar(&o.org, "organization", os.Getenv("ABEJA_ORGANIZATION_ID"), "organization id")
	flag.StringVar(&o.user, "user", os.Getenv("ABEJA_PLATFORM_USER_ID"), "user id")
	flag.IntVar(&o.pid, "pid", 0, "process id of the server, for its CPU time and memory")
	flag.DurationVar(&o.duration, "duration", time.Minute, "length of the first part")
	flag.Float64Var(&o.rate, "rate", 109, "uploads a second in the first part")
	flag.IntVar(&o.size, "size", 800_000, "bytes of an upload in the first part")
	flag.DurationVar(&o.small, "small-duration", 20*time.Second, "length of each part with small files")
	flag.IntVar(&o.smallSize, "small-size", 200, "bytes of a small file")
	flag.IntVar(&o.workers, "workers", 64, "connections at full rate")
	flag.IntVar(&o.maxFiles, "max-files", 1_000_000, "stop a part after so many uploads")
	flag.StringVar(&o.report, "report", "load-report.json", "where to write the figures")
	flag.Parse()
	o.token = os.Getenv("ABEJA_PLATFORM_PERSONAL_ACCESS_TOKEN")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to defer for
	}
}

// report is what load-report.json holds.
type report struct {
	CPUs        int     `json:"cpus"`
	Parts       []*part `json:"parts"`
	DaysFor170M float64 `json:"days_for_170_million"`
	Counted     int64   `json:"files_counted"`
	Expected    int64   `json:"files_acknowledged"`
}

func run(ctx context.Context, o options) error {
	u, err := url.Parse(o.api)
	if err != nil || u.Hostname() == "" {
		return plat.InvalidField("api-url", "is required: eval \"$(panal env)\"")
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return plat.InvalidField("api-url", "%s is not loopback; this is no tool to aim at others", u.Hostname())
	}
	if o.rate <= 0 || o.workers < 1 || o.size < 0 || o.smallSize < 0 {
		return plat.InvalidField("rate", "rate and workers must be positive, sizes not negative")
	}
	api := client.New(o.api, o.org, o.user, o.token)
	ch, err := api.CreateChannel(ctx, "load "+time.Now().UTC().Format(time.RFC3339), "made by bench/load")
	if err != nil {
		return err
	}
	l := &loader{o: o, api: api, channel: ch.ID, body: noise(max(o.size, o.smallSize) + 4096)}
	rep := report{CPUs: runtime.NumCPU()}

	fmt.Printf("%d CPUs, shared by the server and this generator\n\n", rep.CPUs)
	steady := &part{Name: "steady", Size: o.size, Rate: o.rate}
	full := &part{Name: "small, full rate", Size: o.smallSize}
	gentle := &part{Name: "small, 70 % of it", Size: o.smallSize}
	for _, p := range []*part{steady, full, gentle} {
		d := o.small
		if p == steady {
			d = o.duration
		}
		if p == gentle {
			p.Rate = 0.7 * full.Commits
		}
		if err := l.run(ctx, p, d); err != nil {
			return err
		}
		rep.Parts = append(rep.Parts, p)
		p.print()
	}
	rep.DaysFor170M = 170e6 / full.Commits / 86400
	fmt.Printf("\n170 M would take %.1f days here at full rate (they took 18 days)\n", rep.DaysFor170M)

	rep.Expected = l.acknowledged.Load()
	if rep.Counted, err = api.CountFiles(ctx, ch.ID, ""); err != nil {
		return err
	}
	var byLabel int64
	for i := range labels {
		n, err := api.CountFiles(ctx, ch.ID, fmt.Sprintf("label:%d", i))
		if err != nil {
			return err
		}
		byLabel += n
	}
	fmt.Printf("acknowledged %d, counted %d, counted by label %d\n", rep.Expected, rep.Counted, byLabel)
	b, err := json.MarshalIndent(rep, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(o.report, append(b, '\n'), 0o644); err != nil {
		return err
	}
	if rep.Counted != rep.Expected || byLabel != rep.Expected {
		return fmt.Errorf("the counts differ from what was acknowledged")
	}
	for _, p := range rep.Parts {
		if p.Failed > 0 {
			return fmt.Errorf("%d uploads failed in part %q, the first: %s", p.Failed, p.Name, p.FirstError)
		}
	}
	return nil
}

// part is one load and what came of it.
type part struct {
	Name       string  `json:"name"`
	Size       int     `json:"bytes"`
	Rate       float64 `json:"rate"` // 0: as fast as it goes
	Files      int     `json:"files"`
	Failed     int     `json:"failed"`
	FirstError string  `json:"first_error,omitempty"`
	Seconds    float64 `json:"seconds"`
	Commits    float64 `json:"commits_per_second"`
	CPUPerFile float64 `json:"server_cpu_ms_per_commit"`
	P50        float64 `json:"p50_ms"`
	P99        float64 `json:"p99_ms"`
	Max        float64 `json:"max_ms"`
	RSS        float64 `json:"server_rss_mb"`
}

func (p *part) print() {
	fmt.Printf("%-18s %7d B: %8.0f commits/s  %6.2f ms CPU each  p50 %7.1f ms  p99 %7.1f ms  max %7.1f ms  RSS %4.0f MB  (%d files, %d failed)\n",
		p.Name, p.Size, p.Commits, p.CPUPerFile, p.P50, p.P99, p.Max, p.RSS, p.Files, p.Failed)
}

const labels = 10

type loader struct {
	o            options
	api          *client.Client
	channel      string
	body         []byte
	acknowledged atomic.Int64
	n            atomic.Int64
}

// noise returns bytes that don't compress.
func noise(n int) []byte {
	r := rand.NewChaCha8([32]byte{7})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

func (l *loader) upload(ctx context.Context, size int) error {
	n := l.n.Add(1)
	meta := map[string]string{
		"filename": fmt.Sprintf("line-%d/IMG_%07d.jpg", n%7, n), "label": fmt.Sprint(n % labels), "split": []string{"train", "train", "train", "test"}[n%4],
	}
	off := int(n % 4096)
	_, err := l.api.Upload(ctx, l.channel, client.NewFile{
		Body: bytes.NewReader(l.body[off : off+size]), Size: int64(size), ContentType: "image/jpeg", Metadata: meta,
	})
	if err == nil {
		l.acknowledged.Add(1)
	}
	return err
}

// run does one part. Workers take turns at a schedule: with a rate, upload i is due
// at i/rate; without one, at once.
func (l *loader) run(ctx context.Context, p *part, d time.Duration) error {
	workers := l.o.workers
	if p.Rate > 0 {
		workers = 4 * l.o.workers // more than the load needs, so that the schedule holds
	}
	cpu, err := proc.CPU(l.o.pid)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var latencies []time.Duration
	var next atomic.Int64
	start := time.Now()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := next.Add(1) - 1
				due := time.Now()
				if p.Rate > 0 {
					due = start.Add(time.Duration(float64(i) / p.Rate * float64(time.Second)))
				}
				if int(i) >= l.o.maxFiles || due.Sub(start) >= d {
					return
				}
				if !sleepUntil(ctx, due) {
					return
				}
				err := l.upload(ctx, p.Size)
				took := time.Since(due)
				mu.Lock()
				if latencies = append(latencies, took); err != nil {
					if p.Failed++; p.FirstError == "" {
						p.FirstError = err.Error()
					}
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	p.Seconds = time.Since(start).Seconds()
	p.Files = len(latencies)
	after, err := proc.CPU(l.o.pid)
	if err != nil {
		return err
	}
	if p.RSS, err = proc.RSS(l.o.pid); err != nil {
		return err
	}
	if p.Files == 0 {
		return fmt.Errorf("part %q did nothing", p.Name)
	}
	p.Commits = float64(p.Files-p.Failed) / p.Seconds
	p.CPUPerFile = (after - cpu).Seconds() * 1000 / float64(p.Files)
	slices.Sort(latencies)
	at := func(q float64) float64 {
		return latencies[int(q*float64(len(latencies)-1))].Seconds() * 1000
	}
	p.P50, p.P99, p.Max = at(0.5), at(0.99), at(1)
	return nil
}

func sleepUntil(ctx context.Context, t time.Time) bool {
	wait := time.Until(t)
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
