// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"panal/bench/proc"
	"panal/internal/plat"
)

// cpu is the CPU time of a server's processes so far, by what they are.
func (s *server) cpu() (map[string]time.Duration, error) {
	pids, err := proc.Children(s.PID)
	if err != nil {
		return nil, err
	}
	sum := map[string]time.Duration{}
	for _, pid := range append(pids, s.PID) {
		if d, err := proc.CPU(pid); err == nil { // it may have ended
			sum[s.kind(pid)] += d
		}
	}
	return sum, nil
}

// load sends requests over the connections: as fast as they are answered, or at a fixed
// rate, each answer then measured from when its request was due, so that a server that
// stalls makes those behind it late (no coordinated omission).
func (b *bench) load(ctx context.Context, s *server, rate int) (figures, error) {
	f := figures{Server: s.name, Part: "full rate", By: map[string]float64{}}
	if rate > 0 {
		f.Part = fmt.Sprintf("%d/s", rate)
	}
	ctx, cancel := context.WithTimeout(ctx, b.o.duration+time.Minute)
	defer cancel()
	before, err := s.cpu()
	if err != nil {
		return f, err
	}
	request := s.request(b.o.bodyLength)
	took := make([][]time.Duration, b.o.connections)
	errs := make([]error, b.o.connections)
	start := time.Now()
	end := start.Add(b.o.duration)
	var next atomic.Int64
	var wg sync.WaitGroup
	for w := range b.o.connections {
		wg.Go(func() { took[w], errs[w] = calls(ctx, s.addr, request, start, end, rate, &next) })
	}
	wg.Wait()
	elapsed := time.Since(start)
	if err := errors.Join(errs...); err != nil {
		return f, err
	}
	after, err := s.cpu()
	if err != nil {
		return f, err
	}
	all := slices.Concat(took...)
	if len(all) == 0 {
		return f, plat.Errorf(plat.ErrUnavailable, "no request was answered in %v", b.o.duration)
	}
	slices.Sort(all)
	n := float64(len(all))
	f.Rate = n / elapsed.Seconds()
	f.P50, f.P99 = ms(all[len(all)/2]), ms(all[len(all)*99/100])
	for kind, d := range after {
		f.By[kind] = float64((d - before[kind]).Microseconds()) / n
		f.CPU += f.By[kind]
	}
	return f, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// calls is what one connection does.
func calls(ctx context.Context, addr string, request []byte, start, end time.Time, rate int, next *atomic.Int64) (took []time.Duration, err error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if by, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(by); err != nil {
			return nil, fmt.Errorf("deadline: %w", err)
		}
	}
	r := bufio.NewReader(c)
	for {
		due := time.Now()
		if rate > 0 {
			due = start.Add(time.Duration(next.Add(1)-1) * time.Second / time.Duration(rate))
			time.Sleep(time.Until(due))
		}
		if due.After(end) || ctx.Err() != nil {
			return took, ctx.Err()
		}
		if _, err := c.Write(request); err != nil {
			return took, fmt.Errorf("send: %w", err)
		}
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return took, fmt.Errorf("answer: %w", err)
		}
		body, err := io.ReadAll(res.Body)
		if err = errors.Join(err, res.Body.Close()); err != nil {
			return took, fmt.Errorf("answer: %w", err)
		}
		if res.StatusCode != http.StatusOK || string(body) != answer {
			return took, plat.Errorf(plat.ErrUnavailable, "%s: %.200s", res.Status, body)
		}
		took = append(took, time.Since(due))
	}
}
