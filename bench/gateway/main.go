// SPDX-License-Identifier: Apache-2.0

// Command gateway measures Panal's gateway beside nginx, HAProxy, Caddy and a bare
// httputil.ReverseProxy in one run: the proxy on one core, the load and the upstream
// on another.
//
// Panal authenticates each request (Basic) and looks its route up among -services
// services; the peers just pass on. All of them reach the upstream through the agent of
// Panal's instance, by its Unix socket: what a request costs depends on how fast the
// other side is, so that has to be the same for all. (With -direct the peers go straight to
// an upstream of their own, by TCP. Their core is then busier, and batches more.) wrk measures the
// full rate; a generator of its own sends at a fixed rate and counts from when each
// request was due.
//
// Judge by the CPU time per request. The command is bounded in time, talks to loopback
// only and removes what it made.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"panal/bench/proc"
)

type options struct {
	panal, caddy, nginx, haproxy, wrk string
	dir                               string
	proxyCPU, clientCPU               string
	duration                          time.Duration
	rounds, connections, rate         int
	services, idle                    int
	big                               int64
	only, also, pprof, report         string
	direct                            bool
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gateway:", err)
		os.Exit(1)
	}
}

func run() error {
	switch { // the programs that this one starts
	case len(os.Args) == 3 && os.Args[1] == "upstream":
		return upstream(os.Args[2])
	case len(os.Args) == 6 && os.Args[1] == "floor":
		return floor(os.Args[2], way{network: os.Args[3], addr: os.Args[4], key: os.Args[5]})
	}
	var o options
	flag.StringVar(&o.panal, "panal", "bin/panal", "Panal's binary")
	flag.StringVar(&o.caddy, "caddy", ".cache/tools/caddy", "Caddy's binary")
	flag.StringVar(&o.nginx, "nginx", "/usr/sbin/nginx", "nginx")
	flag.StringVar(&o.haproxy, "haproxy", "/usr/sbin/haproxy", "HAProxy")
	flag.StringVar(&o.wrk, "wrk", "wrk", "the load generator")
	flag.StringVar(&o.dir, "dir", ".cache", "where to put the servers' files")
	flag.StringVar(&o.proxyCPU, "proxy-cpu", "0", "core of the proxies")
	flag.StringVar(&o.clientCPU, "client-cpu", "1", "core of the load and the upstream")
	flag.DurationVar(&o.duration, "duration", 2*time.Second, "length of each part")
	flag.IntVar(&o.rounds, "rounds", 9, "how often each is measured, in turns; the median counts")
	flag.IntVar(&o.connections, "connections", 64, "connections of the load")
	flag.IntVar(&o.rate, "rate", 1000, "requests a second of the part with a fixed rate")
	flag.IntVar(&o.services, "services", 10_000, "routes in Panal's table")
	flag.IntVar(&o.idle, "idle", 10_000, "idle connections to Panal")
	flag.Int64Var(&o.big, "big", 1<<30, "bytes of the long bodies")
	flag.StringVar(&o.only, "only", "", "these proxies alone, comma separated: panal,nginx")
	flag.StringVar(&o.also, "also", "", "one proxy more: a program that takes its address and network, address and key of the upstream")
	flag.BoolVar(&o.direct, "direct", false, "let the peers reach the upstream by TCP, without the agent in between")
	flag.StringVar(&o.pprof, "pprof", "", "Panal's --admin-listen, for a profile meanwhile")
	flag.StringVar(&o.report, "report", "bench-gateway.json", "where to write the figures")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	return measure(ctx, o)
}

// figures are what one proxy did in one part.
type figures struct {
	Proxy   string  `json:"proxy"`
	Part    string  `json:"part"`
	Rate    float64 `json:"requests_per_second,omitempty"`
	MB      float64 `json:"mb_per_second,omitempty"`
	P50     float64 `json:"p50_ms,omitempty"`
	P99     float64 `json:"p99_ms,omitempty"`
	CPU     float64 `json:"cpu_us_per_request"`
	RSS     float64 `json:"rss_mb,omitempty"`
	PerConn float64 `json:"kb_per_connection,omitempty"`
	Problem string  `json:"problem,omitempty"`
}

type bench struct {
	o        options
	dir      string
	proxies  []*proxy
	workload []int // processes of Panal's instances
	all      []figures
}

func (b *bench) wanted(name string) bool {
	return b.o.only == "" || slices.Contains(strings.Split(b.o.only, ","), name)
}

func measure(ctx context.Context, o options) (err error) {
	var limit syscall.Rlimit // both ends of the idle connections need descriptors
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil && limit.Cur < limit.Max {
		limit.Cur = limit.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	for _, p := range []*string{&o.dir, &o.panal, &o.caddy} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	b := &bench{o: o}
	if b.dir, err = os.MkdirTemp(o.dir, "bench-gateway-"); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	if err := proc.Pin(os.Getpid(), o.clientCPU); err != nil {
		return err
	}
	var panal *ours
	var up *proc.Process
	defer func() {
		for _, p := range b.proxies {
			p.Stop()
		}
		up.Stop()
		for _, pid := range b.workload {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err == nil {
			err = os.RemoveAll(b.dir)
		}
	}()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("own path: %w", err)
	}
	upAddr, err := proc.FreeAddr()
	if err != nil {
		return err
	}
	if up, err = proc.Start("upstream", o.clientCPU, filepath.Join(b.dir, "upstream.log"), nil, self, "upstream", upAddr); err != nil {
		return err
	}
	if err := up.Listens(ctx, upAddr); err != nil {
		return err
	}
	to := way{network: "tcp", addr: upAddr}
	fmt.Printf("%-14s %-12s %10s %9s %9s %9s %12s %8s %8s\n", "proxy", "part", "requests/s", "MB/s", "p50 ms", "p99 ms", "CPU us/req", "RSS MB", "KB/conn")
	if b.wanted("panal") {
		panal, err = b.install(ctx)
		if panal != nil && panal.running != nil {
			defer func() { panal.running.Stop() }()
		}
		if err != nil {
			return err
		}
		if !o.direct {
			to = panal.way
		}
		if err := panal.fill(ctx, servicesEach); err != nil {
			return err
		}
		few := panal.asProxy()
		few.Name = "panal, 11"
		if err := b.median(ctx, []*proxy{few}, b.fixed); err != nil {
			return err
		}
		if err := panal.fill(ctx, o.services-1); err != nil {
			return err
		}
	}
	if err := b.peers(ctx, to); err != nil {
		return err
	}
	if panal != nil {
		b.proxies = append([]*proxy{panal.asProxy()}, b.proxies...)
		defer func() { b.proxies = b.proxies[1:] }() // stopped above
	}
	// What a proxy adds is counted from what is behind it.
	behind := &proxy{Process: up, addr: upAddr}
	if to.network == "unix" {
		behind = &proxy{Process: &proc.Process{Name: "agent alone"}, addr: to.addr, unix: true, key: to.key}
	}
	for _, part := range []struct {
		on  []*proxy
		run func(context.Context, *proxy) (figures, error)
	}{
		{b.proxies, b.throughput},
		{append([]*proxy{behind}, b.proxies...), b.fixed},
		{b.proxies, func(ctx context.Context, p *proxy) (figures, error) { return b.big(ctx, p, true) }},
		{b.proxies, func(ctx context.Context, p *proxy) (figures, error) { return b.big(ctx, p, false) }},
	} {
		if err := b.median(ctx, part.on, part.run); err != nil {
			return err
		}
	}
	if panal != nil && o.idle > 0 {
		f, err := b.idle(ctx, panal.asProxy())
		if err != nil {
			return err
		}
		b.add(f)
	}
	b.ratios(behind.Name)
	if o.report == "" {
		return nil
	}
	out, err := json.MarshalIndent(b.all, "", "  ")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return os.WriteFile(o.report, append(out, '\n'), 0o600)
}

// median measures every proxy in turns, and keeps of each the round whose CPU is in the
// middle.
func (b *bench) median(ctx context.Context, on []*proxy, part func(context.Context, *proxy) (figures, error)) error {
	rounds := make([][]figures, len(on))
	for range b.o.rounds {
		for i, p := range on {
			f, err := part(ctx, p)
			if err != nil {
				return errors.Join(err, fmt.Errorf("the logs are in %s", b.dir)) //nolint:err113 // for the reader
			}
			rounds[i] = append(rounds[i], f)
		}
	}
	for _, all := range rounds {
		slices.SortFunc(all, func(x, y figures) int { return cmp.Compare(x.CPU, y.CPU) })
		b.add(all[len(all)/2])
	}
	return nil
}

func (b *bench) add(f figures) {
	b.all = append(b.all, f)
	cell := func(v float64, format string) string {
		if v == 0 {
			return ""
		}
		return fmt.Sprintf(format, v)
	}
	fmt.Printf("%-14s %-12s %10s %9s %9s %9s %12.1f %8s %8s %s\n", f.Proxy, f.Part, cell(f.Rate, "%.0f"), cell(f.MB, "%.0f"),
		cell(f.P50, "%.2f"), cell(f.P99, "%.2f"), f.CPU, cell(f.RSS, "%.0f"), cell(f.PerConn, "%.1f"), f.Problem)
}

// ratios prints Panal's figures beside each peer's, and what each adds to what is behind.
func (b *bench) ratios(behind string) {
	for _, f := range b.all {
		for _, other := range b.all {
			switch {
			case f.Proxy == behind || other.Part != f.Part || other.Proxy == f.Proxy:
			case other.Proxy == behind:
				fmt.Printf("%-14s %-12s adds p50 %.2f ms, p99 %.2f ms\n", f.Proxy, f.Part, f.P50-other.P50, f.P99-other.P99)
			case other.Proxy == "panal":
				fmt.Printf("panal / %-14s %-12s CPU %.2fx", f.Proxy, f.Part, other.CPU/f.CPU)
				if f.MB > 0 {
					fmt.Printf(", MB/s %.2fx", other.MB/f.MB)
				}
				fmt.Println()
			}
		}
	}
}
