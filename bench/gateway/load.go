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
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"panal/bench/proc"
	"panal/internal/plat"
	"panal/internal/runner/agentctl"
)

// smallBody is the request that is measured: 100 bytes.
var smallBody = `{"text":"` + strings.Repeat("b", 89) + `"}`

// request returns a POST of smallBody through p.
func (p *proxy) request() []byte {
	return []byte(p.head(http.MethodPost, "/predict", int64(len(smallBody))) + smallBody)
}

func (p *proxy) head(method, path string, length int64) string {
	more, host := "", p.addr
	if p.auth != "" {
		more = "Authorization: " + p.auth + "\r\n"
	}
	if p.key != "" {
		more += agentctl.HeaderInstanceKey + ": " + p.key + "\r\n"
	}
	if p.unix {
		host = "agent"
	}
	return fmt.Sprintf("%s %s%s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: */*\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n",
		method, p.path, path, host, more, length)
}

// throughput drives p by wrk as fast as it goes.
func (b *bench) throughput(ctx context.Context, p *proxy) (figures, error) {
	f := figures{Proxy: p.Name, Part: "full rate"}
	script := filepath.Join(b.dir, p.Name+".lua")
	lua := fmt.Sprintf("wrk.method=%q\nwrk.body=%q\nwrk.headers[\"Content-Type\"]=\"application/json\"\n", http.MethodPost, smallBody)
	if p.auth != "" {
		lua += fmt.Sprintf("wrk.headers[\"Authorization\"]=%q\n", p.auth)
	}
	if err := os.WriteFile(script, []byte(lua), 0o600); err != nil {
		return f, fmt.Errorf("script: %w", err)
	}
	before, err := proc.CPU(p.PID)
	if err != nil {
		return f, err
	}
	argv := []string{"-t1", "-c", strconv.Itoa(b.o.connections), "-d", strconv.Itoa(int(b.o.duration.Seconds())) + "s", "--latency", "-s", script, "http://" + p.addr + p.path + "/predict"}
	if b.o.clientCPU != "" {
		argv = append([]string{"-c", b.o.clientCPU, b.o.wrk}, argv...)
	}
	out, err := exec.CommandContext(ctx, "taskset", argv...).CombinedOutput()
	if err != nil {
		return f, fmt.Errorf("wrk: %s: %w", out, err)
	}
	after, err := proc.CPU(p.PID)
	if err != nil {
		return f, err
	}
	requests, err := number(out, `(\d+) requests in`)
	if err != nil {
		return f, err
	}
	f.Rate, err = number(out, `Requests/sec:\s+([\d.]+)`)
	if err != nil {
		return f, err
	}
	if f.P50, err = duration(out, `(?m)^\s*50%\s+(\S+)`); err != nil {
		return f, err
	}
	if f.P99, err = duration(out, `(?m)^\s*99%\s+(\S+)`); err != nil {
		return f, err
	}
	if bad := regexp.MustCompile(`(Non-2xx|Socket errors).*`).Find(out); bad != nil {
		f.Problem = string(bad)
	}
	f.CPU = float64((after - before).Microseconds()) / requests
	f.RSS, err = proc.RSS(p.PID)
	return f, err
}

func number(out []byte, pattern string) (float64, error) {
	m := regexp.MustCompile(pattern).FindSubmatch(out)
	if m == nil {
		return 0, plat.Errorf(plat.ErrInvalid, "wrk did not print %s:\n%s", pattern, out)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// duration returns what wrk printed in ms.
func duration(out []byte, pattern string) (float64, error) {
	m := regexp.MustCompile(pattern).FindSubmatch(out)
	if m == nil {
		return 0, plat.Errorf(plat.ErrInvalid, "wrk did not print %s:\n%s", pattern, out)
	}
	d, err := time.ParseDuration(string(m[1]))
	return float64(d.Microseconds()) / 1000, err
}

// fixed sends at a fixed rate over the connections and measures each answer from the
// moment at which its request was due: a proxy that stalls makes the requests behind it
// late, and they count (no coordinated omission).
func (b *bench) fixed(ctx context.Context, p *proxy) (figures, error) {
	f := figures{Proxy: p.Name, Part: fmt.Sprintf("%d/s", b.o.rate)}
	n := int(b.o.duration.Seconds() * float64(b.o.rate))
	workers := min(b.o.connections, n)
	took := make([]time.Duration, n)
	errs := make([]error, workers)
	before := time.Duration(0)
	if p.Process != nil {
		var err error
		if before, err = proc.CPU(p.PID); err != nil {
			return f, err
		}
	}
	start := time.Now().Add(200 * time.Millisecond)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			c, err := dial(ctx, p)
			if err != nil {
				errs[w] = err
				return
			}
			defer c.close()
			request := p.request()
			for i := w; i < n && ctx.Err() == nil; i += workers {
				due := start.Add(time.Duration(i) * time.Second / time.Duration(b.o.rate))
				time.Sleep(time.Until(due))
				if err := c.do(request); err != nil {
					errs[w] = err
					return
				}
				took[i] = time.Since(due)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errors.Join(errs...), ctx.Err()); err != nil {
		return f, fmt.Errorf("%s: %w", p.Name, err)
	}
	f.Rate = float64(n) / time.Since(start).Seconds()
	slices.Sort(took)
	f.P50, f.P99 = ms(took[n/2]), ms(took[n*99/100])
	if p.Process != nil {
		after, err := proc.CPU(p.PID)
		if err != nil {
			return f, err
		}
		f.CPU = float64((after - before).Microseconds()) / float64(n)
	}
	return f, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// big sends a body of so many bytes up, or asks for one.
func (b *bench) big(ctx context.Context, p *proxy, up bool) (figures, error) {
	f := figures{Proxy: p.Name, Part: "1 body down"}
	if up {
		f.Part = "1 body up"
	}
	before, err := proc.CPU(p.PID)
	if err != nil {
		return f, err
	}
	if err := proc.ResetPeak(p.PID); err != nil {
		return f, err
	}
	c, err := dial(ctx, p)
	if err != nil {
		return f, err
	}
	defer c.close()
	start := time.Now()
	if up {
		err = c.upload(p.head(http.MethodPut, "/big", b.o.big), b.o.big)
	} else {
		err = c.download(p.head(http.MethodGet, "/big?bytes="+strconv.FormatInt(b.o.big, 10), 0), b.o.big)
	}
	if err != nil {
		return f, fmt.Errorf("%s, %s: %w", p.Name, f.Part, err)
	}
	f.MB = float64(b.o.big) / 1e6 / time.Since(start).Seconds()
	after, err := proc.CPU(p.PID)
	if err != nil {
		return f, err
	}
	f.CPU = float64((after - before).Microseconds())
	f.RSS, err = proc.Peak(p.PID)
	return f, err
}

// idle opens many connections that have had one answer each, and measures what they cost.
func (b *bench) idle(ctx context.Context, p *proxy) (figures, error) {
	f := figures{Proxy: p.Name, Part: fmt.Sprintf("%d idle", b.o.idle)}
	before, err := proc.RSS(p.PID)
	if err != nil {
		return f, err
	}
	var all []*conn
	defer func() {
		for _, c := range all {
			c.close()
		}
	}()
	request := p.request()
	for range b.o.idle {
		c, err := dial(ctx, p)
		if err != nil {
			return f, err
		}
		all = append(all, c)
		if err := c.do(request); err != nil {
			return f, fmt.Errorf("%s, connection %d: %w", p.Name, len(all), err)
		}
	}
	after, err := proc.RSS(p.PID)
	f.RSS, f.PerConn = after, (after-before)*1000/float64(b.o.idle)
	return f, err
}

// conn is a connection that sends requests one after another.
type conn struct {
	c net.Conn
	r *bufio.Reader
}

func dial(ctx context.Context, p *proxy) (*conn, error) {
	var d net.Dialer
	network := "tcp"
	if p.unix {
		network = "unix"
	}
	c, err := d.DialContext(ctx, network, p.addr)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	return &conn{c: c, r: bufio.NewReaderSize(c, 2048)}, nil
}

func (c *conn) close() { _ = c.c.Close() }

func (c *conn) do(request []byte) error {
	_ = c.c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.c.Write(request); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return c.answer(int64(len(smallAnswer)))
}

func (c *conn) answer(length int64) error {
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	n, err := io.Copy(io.Discard, res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if res.StatusCode != http.StatusOK || length >= 0 && n != length {
		return plat.Errorf(plat.ErrUnavailable, "%s with %d bytes", res.Status, n)
	}
	return nil
}

func (c *conn) download(head string, length int64) error {
	_ = c.c.SetDeadline(time.Now().Add(10 * time.Minute))
	if _, err := io.WriteString(c.c, head); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return c.answer(length)
}

func (c *conn) upload(head string, length int64) error {
	_ = c.c.SetDeadline(time.Now().Add(10 * time.Minute))
	if _, err := io.WriteString(c.c, head); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	piece := make([]byte, 64<<10)
	for left := length; left > 0; {
		n, err := c.c.Write(piece[:min(left, int64(len(piece)))])
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
		left -= int64(n)
	}
	return c.answer(-1)
}
