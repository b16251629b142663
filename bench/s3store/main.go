// SPDX-License-Identifier: Apache-2.0

// Command s3store measures the store in a bucket: what Panal in front of an S3 server
// (versitygw) does, beside that server driven directly, in one run, on one disk. The S3
// server is pinned to one core and the generator to the other; Panal takes what they leave of
// both, as they are different machines where it matters (-panal-core 1: it shares the
// generator's). Phases take turns, and the disk is synced between them, so that none pays for
// what another left in the page cache. It talks to loopback only and is bounded in time and count.
//
//	scripts/setup && make build && go run ./bench/s3store
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"panal/bench/proc"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sys/unix"
)

type options struct {
	panal, gateway, dir     string
	records                 string
	size, big               int64
	clients, rounds, bigN   int
	perRound                int
	serverCore, clientsCore string
	panalCore               string
}

func main() {
	var o options
	flag.StringVar(&o.panal, "panal", "bin/panal", "Panal's binary")
	flag.StringVar(&o.gateway, "versitygw", ".cache/tools/versitygw", "the S3 server's binary")
	flag.StringVar(&o.dir, "dir", os.TempDir(), "where the data goes: the disk that is measured")
	flag.StringVar(&o.records, "records", "", "where Panal's records go; empty: beside the objects. The S3 server syncs nothing, Panal its records: on one ext4 that makes Panal wait for the server's bytes")
	flag.Int64Var(&o.size, "size", 16<<20, "bytes of an object")
	flag.IntVar(&o.clients, "clients", 4, "clients at once")
	flag.IntVar(&o.perRound, "per-round", 60, "operations of a phase")
	flag.IntVar(&o.rounds, "rounds", 5, "how often each phase has its turn")
	flag.Int64Var(&o.big, "big", 1<<30, "bytes of each upload of the memory test; 0: none")
	flag.IntVar(&o.bigN, "big-uploads", 8, "uploads in flight in the memory test")
	flag.StringVar(&o.serverCore, "server-core", "0", "the S3 server's core")
	flag.StringVar(&o.clientsCore, "clients-core", "1", "the generator's core")
	flag.StringVar(&o.panalCore, "panal-core", "0,1", "Panal's cores, or core")
	flag.Parse()
	if err := pin(o.clientsCore); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	err := run(ctx, o)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// bench is everything that runs.
type bench struct {
	o       options
	gateway *proc.Process
	// Two servers on one bucket, the idle one costs nothing: one that streams, one
	// whose downloads are storage's own URLs.
	stream, presign *panal
	s3              *minio.Client
	http            *http.Client
	body            []byte
}

const bucketName = "bench"

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp(o.dir, "panal-s3store-")
	if err != nil {
		return err
	}
	records := dir
	if o.records != "" {
		if records, err = os.MkdirTemp(o.records, "panal-s3store-"); err != nil {
			return err
		}
	}
	b := &bench{o: o, body: make([]byte, o.size), http: &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 64, WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10, DisableCompression: true,
	}}}
	_, _ = rand.Read(b.body)
	defer func() {
		for _, p := range []*proc.Process{b.stream.process(), b.presign.process(), b.gateway} {
			p.Stop()
		}
		err = errors.Join(err, os.RemoveAll(dir), os.RemoveAll(records))
	}()
	if err := b.start(ctx, dir, records); err != nil {
		return err
	}
	phases := []*phase{
		{name: "PUT  direct", op: b.putDirect},
		{name: "PUT  Panal", op: b.putPanal, base: 0},
		{name: "GET  direct", op: b.getDirect},
		{name: "GET  Panal, streamed", op: b.getStreamed, base: 2},
		{name: "GET  Panal, presigned", op: b.getPresigned, base: 2},
	}
	for range o.rounds {
		for _, p := range phases {
			if err := b.turn(ctx, p); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
		b.stream.forget(ctx, b) // the disk is given back
		b.presign.forget(ctx, b)
		b.dropDirect(ctx)
	}
	fmt.Printf("%d KiB x %d clients, %d operations each in %d turns\n", o.size>>10, o.clients, o.perRound*o.rounds, o.rounds)
	fmt.Printf("%-24s %8s %7s %9s %9s %16s %16s\n", "", "MB/s", "ratio", "p50 ms", "p99 ms", "CPU ms/op Panal", "CPU ms/op S3")
	for i, p := range phases {
		base := phases[p.base]
		if strings.Contains(p.name, "direct") {
			base = phases[i]
		}
		p.print(o, base)
	}
	peakStream, err1 := proc.Peak(b.stream.p.PID)
	peakPresign, err2 := proc.Peak(b.presign.p.PID)
	peakS3, err3 := proc.Peak(b.gateway.PID)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	fmt.Printf("peak RSS: Panal %.0f MB (streams), %.0f MB (presigns), S3 server %.0f MB\n", peakStream, peakPresign, peakS3)
	if o.big > 0 {
		return b.memory(ctx)
	}
	return nil
}

// phase is one way to do one thing.
type phase struct {
	name string
	op   func(ctx context.Context, i int) error
	base int // the phase that its ratio is over

	took     time.Duration
	each     []time.Duration
	panalCPU time.Duration
	s3CPU    time.Duration
}

// turn runs one turn of a phase.
func (b *bench) turn(ctx context.Context, p *phase) error {
	unix.Sync() // nobody pays for what another left in the page cache
	panal0, s30, err := b.cpu()
	if err != nil {
		return err
	}
	var next atomic.Int64
	var mu sync.Mutex
	var failed error
	var wg sync.WaitGroup
	start := time.Now()
	for range b.o.clients {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= b.o.perRound {
					return
				}
				began := time.Now()
				err := p.op(ctx, i)
				took := time.Since(began)
				mu.Lock()
				p.each = append(p.each, took)
				failed = errors.Join(failed, err)
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	p.took += time.Since(start)
	panal1, s31, err := b.cpu()
	failed = errors.Join(failed, err)
	p.panalCPU += panal1 - panal0
	p.s3CPU += s31 - s30
	return failed
}

// cpu returns the CPU time of Panal's servers and of the S3 server so far.
func (b *bench) cpu() (panal, s3 time.Duration, err error) {
	stream, err1 := proc.CPU(b.stream.p.PID)
	presign, err2 := proc.CPU(b.presign.p.PID)
	s3, err3 := proc.CPU(b.gateway.PID)
	return stream + presign, s3, errors.Join(err1, err2, err3)
}

func (p *phase) rate(o options) float64 {
	return float64(len(p.each)) * float64(o.size) / 1e6 / p.took.Seconds()
}

func (p *phase) print(o options, base *phase) {
	slices.Sort(p.each)
	at := func(q float64) float64 { return float64(p.each[int(q*float64(len(p.each)-1))].Microseconds()) / 1000 }
	ops := float64(len(p.each))
	fmt.Printf("%-24s %8.0f %7.2f %9.1f %9.1f %16.1f %16.1f\n", p.name, p.rate(o), p.rate(o)/base.rate(o), at(0.5), at(0.99),
		float64(p.panalCPU.Microseconds())/1000/ops, float64(p.s3CPU.Microseconds())/1000/ops)
}

// -- operations

func (b *bench) putDirect(ctx context.Context, i int) error {
	core := minio.Core{Client: b.s3}
	_, err := core.PutObject(ctx, bucketName, fmt.Sprintf("direct/%d", i), bytes.NewReader(b.body), b.o.size, "", "", minio.PutObjectOptions{DisableContentSha256: true})
	return err
}

func (b *bench) getDirect(ctx context.Context, i int) error {
	core := minio.Core{Client: b.s3}
	rc, _, _, err := core.GetObject(ctx, bucketName, fmt.Sprintf("direct/%d", i), minio.GetObjectOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = rc.Close() }()
	return b.drain(rc)
}

func (b *bench) drain(r io.Reader) error {
	buf := make([]byte, 256<<10)
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, buf)
	if err == nil && n != b.o.size {
		err = fmt.Errorf("%d bytes came of %d", n, b.o.size)
	}
	return err
}

func (b *bench) dropDirect(ctx context.Context) {
	for i := range b.o.perRound {
		_ = b.s3.RemoveObject(ctx, bucketName, fmt.Sprintf("direct/%d", i), minio.RemoveObjectOptions{})
	}
}

// putPanal uploads to one server and then to the other, so that both have files to serve.
func (b *bench) putPanal(ctx context.Context, i int) error {
	p := b.stream
	if i >= b.o.perRound/2 {
		p = b.presign
	}
	return p.upload(ctx, b.http, bytes.NewReader(b.body), b.o.size)
}

func (b *bench) getStreamed(ctx context.Context, i int) error  { return b.get(ctx, b.stream, i) }
func (b *bench) getPresigned(ctx context.Context, i int) error { return b.get(ctx, b.presign, i) }

// get is what a client does: ask for the file, then fetch its download_uri.
func (b *bench) get(ctx context.Context, p *panal, i int) error {
	res, err := p.do(ctx, b.http, http.MethodGet, "/channels/"+p.channel+"/"+p.file(i), nil, 0)
	if err != nil {
		return err
	}
	var f struct {
		URI string `json:"download_uri"`
	}
	err = json.NewDecoder(res.Body).Decode(&f)
	_ = res.Body.Close()
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.URI, nil)
	if err != nil {
		return err
	}
	if res, err = b.http.Do(req); err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", f.URI, res.Status)
	}
	return b.drain(res.Body)
}

// memory puts many large uploads at once and watches the server's memory grow.
func (b *bench) memory(ctx context.Context) error {
	before, err := proc.RSS(b.stream.p.PID)
	if err != nil {
		return err
	}
	done := make(chan struct{})
	highest := before
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			if now, err := proc.RSS(b.stream.p.PID); err == nil { // else the uploads tell
				highest = max(highest, now)
			}
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	start := time.Now()
	errs := make(chan error, b.o.bigN)
	for range b.o.bigN {
		go func() {
			errs <- b.stream.upload(ctx, b.http, io.LimitReader(&endless{b: b.body}, b.o.big), b.o.big)
		}()
	}
	var failed error
	for range b.o.bigN {
		failed = errors.Join(failed, <-errs)
	}
	close(done)
	watch.Wait()
	fmt.Printf("%d uploads of %d MiB at once: RSS of Panal %.0f MB before, %.0f MB at most, grown by %.0f MB; %.0f MB/s\n",
		b.o.bigN, b.o.big>>20, before, highest, highest-before, float64(b.o.bigN)*float64(b.o.big)/1e6/time.Since(start).Seconds())
	return failed
}

// endless repeats its bytes.
type endless struct {
	b  []byte
	at int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.b[e.at:])
	e.at = (e.at + n) % len(e.b)
	return n, nil
}

// start starts the S3 server and Panal.
func (b *bench) start(ctx context.Context, dir, records string) error {
	const access, secret = "bench", "bench-secret-key"
	port, err := proc.FreeAddr()
	if err != nil {
		return err
	}
	root := filepath.Join(dir, "s3")
	if err := os.MkdirAll(filepath.Join(root, bucketName), 0o700); err != nil {
		return err
	}
	b.gateway, err = proc.Start("versitygw", b.o.serverCore, filepath.Join(dir, "versitygw.log"), []string{"ROOT_ACCESS_KEY=" + access, "ROOT_SECRET_KEY=" + secret},
		b.o.gateway, "--port", port, "--quiet", "--keep-alive", "--health", "/health", "posix", root)
	if err != nil {
		return err
	}
	if err := ready(ctx, "http://"+port+"/health"); err != nil {
		return err
	}
	if b.s3, err = minio.New(port, &minio.Options{Creds: credentials.NewStaticV4(access, secret, ""), Region: "us-east-1", BucketLookup: minio.BucketLookupPath}); err != nil {
		return err
	}
	creds := []string{"PANAL_S3_ACCESS_KEY=" + access, "PANAL_S3_SECRET_KEY=" + secret}
	where := "s3://" + bucketName + "?endpoint=http://" + port + "&prefix="
	if b.stream, err = b.startPanal(ctx, filepath.Join(records, "stream"), where+"stream&presign=false", creds); err != nil {
		return err
	}
	b.presign, err = b.startPanal(ctx, filepath.Join(records, "presign"), where+"presign", creds)
	return err
}
