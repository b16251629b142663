// SPDX-License-Identifier: Apache-2.0

// Command objects measures Panal's uploads and downloads beside versitygw's, an S3
// server over a directory, in one run: each pinned to one core in turn, the generator
// on another, both on the same disk.
//
// Panal is driven through its own API: each upload is authenticated (Basic), hashed,
// indexed under three metadata keys, and durable when it is answered; downloads go by
// the signed URL of the file. versitygw gets S3 requests with a SigV4 Authorization
// header and an unsigned payload, which spares it the SHA-256 of the body. It does not
// sync what it stores (v1.8.0: no fsync anywhere in backend/posix). One lean client of
// this package drives both.
//
// Judge by the CPU time per operation: it is the server process's own, from
// /proc/PID/stat, and hardly depends on what else the machine does. The command is
// bounded in time and bytes, talks to loopback only and removes what it made, at its end:
// ext4 gives no inode out again in the first minute after its file was removed, and
// a search past thousands of such inodes costs whoever creates a file a millisecond.
// So wait five minutes between two runs, or give another -dir.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"panal/bench/proc"
	"panal/internal/plat"
)

type options struct {
	panal, versity       string
	dir                  string
	serverCPU, clientCPU string
	duration             time.Duration
	cases                string
	maxBytes             int64
	rounds               int
	pprof, only          string
	report               string
}

func main() {
	var o options
	flag.StringVar(&o.panal, "panal", "bin/panal", "the server under test")
	flag.StringVar(&o.versity, "versitygw", ".cache/tools/versitygw", "the server beside it")
	flag.StringVar(&o.dir, "dir", ".cache/bench-objects", "where both store; emptied before and after")
	flag.StringVar(&o.serverCPU, "server-cpu", "0", "core of the servers; empty: any")
	flag.StringVar(&o.clientCPU, "client-cpu", "1", "core of this generator; empty: any")
	flag.DurationVar(&o.duration, "duration", 5*time.Second, "length of each part (a started upload is finished)")
	flag.StringVar(&o.cases, "cases", "4KiB:16,1MiB:16,16MiB:4,1GiB:8", "SIZE:CLIENTS, comma separated")
	flag.Int64Var(&o.maxBytes, "max-bytes", 8<<30, "end a part after so many bytes")
	flag.IntVar(&o.rounds, "rounds", 1, "how often each case is measured, the servers in turn; the medians count")
	flag.StringVar(&o.pprof, "pprof", "", "Panal's --admin-listen, for a profile meanwhile")
	flag.StringVar(&o.only, "only", "", "panal or versitygw: that one alone")
	flag.StringVar(&o.report, "report", "bench-objects.json", "where to write the figures")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "objects:", err)
		os.Exit(1)
	}
}

// kase is one size with so many clients.
type kase struct {
	Size    int64  `json:"size"`
	Name    string `json:"name"`
	Clients int    `json:"clients"`
}

func parseCases(s string) ([]kase, error) {
	var all []kase
	for part := range strings.SplitSeq(s, ",") {
		size, clients, _ := strings.Cut(part, ":")
		k := kase{Name: size}
		digits := strings.TrimRight(size, "KMGiB")
		n, err := strconv.ParseInt(digits, 10, 64)
		shift, ok := map[string]int{"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30}[size[len(digits):]]
		if err != nil || !ok || n < 1 {
			return nil, plat.InvalidField("cases", "%q is not a size such as 4KiB", size)
		}
		k.Size = n << shift
		if k.Clients, err = strconv.Atoi(clients); err != nil || k.Clients < 1 {
			return nil, plat.InvalidField("cases", "%q needs a number of clients, as in 4KiB:16", part)
		}
		all = append(all, k)
	}
	return all, nil
}

// figures are what one server did in one part of a case.
type figures struct {
	Server  string  `json:"server"`
	Case    string  `json:"case"`
	Part    string  `json:"part"` // PUT or GET
	Ops     int64   `json:"ops"`
	OpsSec  float64 `json:"ops_per_second"`
	MBSec   float64 `json:"mb_per_second"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	CPU     float64 `json:"cpu_us_per_op"`
	PeakMB  float64 `json:"peak_rss_mb"`
	Growth  float64 `json:"rss_growth_mb"` // peak above what was resident before the part
	Failed  int64   `json:"failed"`
	Problem string  `json:"problem,omitempty"`
}

type report struct {
	At      time.Time          `json:"at"`
	CPUs    int                `json:"cpus"`
	Command string             `json:"command"`
	Idle    map[string]float64 `json:"idle_rss_mb"`
	Figures []figures          `json:"figures"`
	Ratios  []ratio            `json:"ratios"` // Panal to versitygw
}

type ratio struct {
	Case string  `json:"case"`
	Part string  `json:"part"`
	Rate float64 `json:"rate"`
	CPU  float64 `json:"cpu"`
}

func run(ctx context.Context, o options) error {
	cases, err := parseCases(o.cases)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(o.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return err
	}
	for _, p := range []*string{&o.dir, &o.panal, &o.versity} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	defer func() { _ = os.RemoveAll(o.dir) }()
	var servers []*server
	defer func() {
		for _, s := range servers {
			s.Stop()
		}
	}()
	for name, start := range map[string]func(options) (*server, error){"panal": startPanal, "versitygw": startVersity} {
		if o.only != "" && o.only != name {
			continue
		}
		s, err := start(o)
		if err != nil {
			return err
		}
		servers = append(servers, s)
	}
	slices.SortFunc(servers, func(a, b *server) int { return strings.Compare(a.Name, b.Name) })
	if o.clientCPU != "" {
		if out, err := exec.Command("taskset", "-acp", o.clientCPU, strconv.Itoa(os.Getpid())).CombinedOutput(); err != nil {
			return fmt.Errorf("taskset: %s: %w", out, err)
		}
	}
	rep := report{At: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(), Command: strings.Join(os.Args, " "), Idle: map[string]float64{}}
	for _, s := range servers {
		rep.Idle[s.Name] = s.idle
	}
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	fmt.Printf("%-10s %-8s %-4s %10s %10s %9s %9s %11s %9s %8s\n", "server", "case", "part", "ops/s", "MB/s", "p50 ms", "p99 ms", "CPU µs/op", "peak MB", "growth")
	for _, k := range cases {
		var got []figures
		for round := range o.rounds {
			for i := range servers {
				s := servers[(i+round)%len(servers)] // each as often first as second
				both, err := measure(ctx, o, s, k, round, noise)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", s.Name, k.Name, err)
				}
				got = append(got, both...)
			}
		}
		for _, part := range []string{"PUT", "GET"} {
			of := map[string]figures{}
			for _, s := range servers {
				f := median(got, s.Name, part)
				of[s.Name] = f
				rep.Figures = append(rep.Figures, f)
				fmt.Printf("%-10s %-8s %-4s %10.0f %10.1f %9.2f %9.2f %11.0f %9.1f %8.1f\n", s.Name, f.Case, part, f.OpsSec, f.MBSec, f.P50, f.P99, f.CPU, f.PeakMB, f.Growth)
				if f.Failed > 0 {
					return fmt.Errorf("%s, %s %s: %d failed, the first: %s", s.Name, k.Name, part, f.Failed, f.Problem)
				}
			}
			if len(of) == 2 {
				r := ratio{Case: k.Name, Part: part, Rate: of["panal"].OpsSec / of["versitygw"].OpsSec, CPU: of["panal"].CPU / of["versitygw"].CPU}
				rep.Ratios = append(rep.Ratios, r)
				fmt.Printf("%-10s %-8s %-4s rate %.2fx, CPU %.2fx\n", "ratio", r.Case, r.Part, r.Rate, r.CPU)
			}
		}
	}
	b, err := json.MarshalIndent(rep, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.report, append(b, '\n'), 0o600)
}

// median returns the middle of each figure over a server's rounds, and the worst of what
// is bounded: memory and failures.
func median(all []figures, server, part string) figures {
	var mine []figures
	for _, f := range all {
		if f.Server == server && f.Part == part {
			mine = append(mine, f)
		}
	}
	m := mine[0]
	for _, f := range mine[1:] {
		m.Ops += f.Ops
		m.PeakMB, m.Growth = max(m.PeakMB, f.PeakMB), max(m.Growth, f.Growth)
		if m.Failed += f.Failed; m.Problem == "" {
			m.Problem = f.Problem
		}
	}
	for _, of := range []func(*figures) *float64{
		func(f *figures) *float64 { return &f.OpsSec },
		func(f *figures) *float64 { return &f.MBSec },
		func(f *figures) *float64 { return &f.P50 },
		func(f *figures) *float64 { return &f.P99 },
		func(f *figures) *float64 { return &f.CPU },
	} {
		var each []float64
		for i := range mine {
			each = append(each, *of(&mine[i]))
		}
		slices.Sort(each)
		*of(&m) = each[len(each)/2]
	}
	return m
}

// maxRead bounds the objects that the GET part draws from.
const maxRead = 5000

func measure(ctx context.Context, o options, s *server, k kase, round int, noise []byte) ([]figures, error) {
	if err := s.begin(ctx, fmt.Sprintf("%s-%d", strings.ToLower(k.Name), round)); err != nil {
		return nil, err
	}
	settle()
	var serial atomic.Int64
	most := max(o.maxBytes/k.Size, int64(k.Clients))
	put, err := part(ctx, o, s, k, "PUT", most, func(c *conn, worker int) (int, error) {
		status, body, _, err := c.do(s.put(worker, serial.Add(1), k.Size), noise, k.Size, false)
		if err == nil && status != 200 {
			err = fmt.Errorf("%d %.200s", status, body)
		}
		return status, err
	})
	if err != nil {
		return nil, err
	}
	settle()
	heads, err := s.paths(ctx, maxRead)
	if err != nil {
		return nil, err
	}
	if len(heads) == 0 {
		return nil, plat.Errorf(plat.ErrUnavailable, "nothing was stored: %s", put.Problem)
	}
	get, err := part(ctx, o, s, k, "GET", most, func(c *conn, _ int) (int, error) {
		head := heads[int(serial.Add(1))%len(heads)]()
		status, body, n, err := c.do(head, nil, 0, false)
		if err == nil && (status != 200 || n != k.Size) {
			err = fmt.Errorf("%d, %d bytes: %.200s", status, n, body)
		}
		return status, err
	})
	if err != nil {
		return nil, err
	}
	return []figures{put, get}, nil
}

// settle writes to disk what the servers left in the page cache, so that none pays for
// another's bytes: Panal's are on disk when it answers, versitygw's are not.
func settle() { unix.Sync() }

// part runs one kind of call by all clients for a while.
func part(ctx context.Context, o options, s *server, k kase, name string, most int64, call func(c *conn, worker int) (int, error)) (figures, error) {
	f := figures{Server: s.Name, Case: k.Name, Part: name}
	before, err := proc.RSS(s.PID)
	if err != nil {
		return f, err
	}
	if err := proc.ResetPeak(s.PID); err != nil {
		return f, err
	}
	cpu, err := proc.CPU(s.PID)
	if err != nil {
		return f, err
	}
	var started, failed atomic.Int64
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	begin := time.Now()
	for w := range k.Clients {
		wg.Go(func() {
			c := &conn{addr: s.addr}
			defer c.close()
			var mine []time.Duration
			for time.Since(begin) < o.duration && ctx.Err() == nil && started.Add(1) <= most {
				t := time.Now()
				if _, err := call(c, w); err != nil {
					if failed.Add(1) == 1 {
						mu.Lock()
						f.Problem = err.Error()
						mu.Unlock()
					}
					continue
				}
				mine = append(mine, time.Since(t))
			}
			mu.Lock()
			took = append(took, mine...)
			mu.Unlock()
		})
	}
	wg.Wait()
	took0 := time.Since(begin)
	after, err := proc.CPU(s.PID)
	if err != nil {
		return f, err
	}
	if f.PeakMB, err = proc.Peak(s.PID); err != nil {
		return f, err
	}
	f.Growth = max(f.PeakMB-before, 0)
	f.Ops, f.Failed = int64(len(took)), failed.Load()
	if f.Ops == 0 {
		return f, plat.Errorf(plat.ErrUnavailable, "no %s succeeded: %s", name, f.Problem)
	}
	f.OpsSec = float64(f.Ops) / took0.Seconds()
	f.MBSec = f.OpsSec * float64(k.Size) / 1e6
	f.CPU = float64((after - cpu).Microseconds()) / float64(f.Ops)
	slices.Sort(took)
	f.P50 = float64(took[len(took)/2].Microseconds()) / 1000
	f.P99 = float64(took[len(took)*99/100].Microseconds()) / 1000
	return f, ctx.Err()
}
