// SPDX-License-Identifier: Apache-2.0

// Command serving measures the whole path of a call: gateway, agent and a Python handler
// that returns at once, beside a plain Python HTTP server that does the same. CPU per
// request is told for each process, as is how long answers take: as fast as it goes, and at
// a fixed rate, counted from when a request was due. It listens on loopback only and
// removes what it made.
//
//	make bench-serving BENCHFLAGS='-workers 2 -rate 500'
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
	"time"

	"panal/bench/proc"
)

type options struct {
	panal, python, dir, report    string
	workers, rounds               int
	connections, rate, bodyLength int
	duration                      time.Duration
	pprof                         string
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "serving:", err)
		os.Exit(1)
	}
}

func run() error {
	var o options
	flag.StringVar(&o.panal, "panal", "bin/panal", "Panal's binary")
	flag.StringVar(&o.python, "python", "/usr/bin/python3", "the interpreter of both")
	flag.StringVar(&o.dir, "dir", ".cache", "where to put the servers' files")
	flag.StringVar(&o.report, "report", "bench-serving.json", "where to write the figures; empty: nowhere")
	flag.StringVar(&o.pprof, "pprof", "", "Panal's --admin-listen, for a profile meanwhile")
	flag.IntVar(&o.workers, "workers", 1, "Python processes of the service")
	flag.IntVar(&o.rounds, "rounds", 3, "how often each is measured, in turns; the median of the CPU counts")
	flag.IntVar(&o.connections, "connections", 8, "kept connections of the load")
	flag.IntVar(&o.rate, "rate", 200, "requests a second of the part with a fixed rate")
	flag.IntVar(&o.bodyLength, "body", 100, "bytes of a request's body")
	flag.DurationVar(&o.duration, "duration", 5*time.Second, "length of each part")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	return measure(ctx, o)
}

// figures are what one server did in one part.
type figures struct {
	Server string             `json:"server"`
	Part   string             `json:"part"`
	Rate   float64            `json:"requests_per_second"`
	P50    float64            `json:"p50_ms"`
	P99    float64            `json:"p99_ms"`
	CPU    float64            `json:"cpu_us_per_request"`
	By     map[string]float64 `json:"cpu_us_per_request_by_process"`
}

// server is what is measured.
type server struct {
	name, addr, path, auth string
	*proc.Process
	kind func(pid int) string // what a process of it is
}

func measure(ctx context.Context, o options) (err error) {
	for _, p := range []*string{&o.dir, &o.panal} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	dir, err := os.MkdirTemp(o.dir, "bench-serving-")
	if err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	b := &bench{o: o, dir: dir}
	defer func() {
		b.stop()
		if err == nil {
			err = os.RemoveAll(dir)
		} else {
			err = errors.Join(err, fmt.Errorf("the logs are in %s", dir)) //nolint:err113 // for the reader
		}
	}()
	plain, err := b.plain(ctx)
	if err != nil {
		return err
	}
	panal, err := b.panal(ctx)
	if err != nil {
		return err
	}
	servers := []*server{plain, panal}
	var all []figures
	fmt.Printf("%-8s %-10s %11s %8s %8s %12s  %s\n", "server", "part", "requests/s", "p50 ms", "p99 ms", "CPU us/req", "of which")
	for _, rate := range []int{0, o.rate} {
		rounds := make([][]figures, len(servers))
		for range o.rounds {
			for i, s := range servers {
				f, err := b.load(ctx, s, rate)
				if err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
				rounds[i] = append(rounds[i], f)
			}
		}
		for _, of := range rounds {
			slices.SortFunc(of, func(x, y figures) int { return cmp.Compare(x.CPU, y.CPU) })
			f := of[len(of)/2]
			all = append(all, f)
			fmt.Printf("%-8s %-10s %11.0f %8.2f %8.2f %12.1f  %s\n", f.Server, f.Part, f.Rate, f.P50, f.P99, f.CPU, parts(f.By))
		}
		mine, theirs := all[len(all)-1], all[len(all)-2]
		fmt.Printf("panal / plain: CPU %.2fx, p50 %+.2f ms, p99 %+.2f ms\n", mine.CPU/theirs.CPU, mine.P50-theirs.P50, mine.P99-theirs.P99)
	}
	if o.report == "" {
		return nil
	}
	out, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return os.WriteFile(o.report, append(out, '\n'), 0o600)
}

func parts(by map[string]float64) string {
	var out strings.Builder
	for _, name := range []string{"gateway", "agent", "python", "other"} {
		if v, ok := by[name]; ok {
			_, _ = fmt.Fprintf(&out, "%s %.1f  ", name, v)
		}
	}
	return out.String()
}
