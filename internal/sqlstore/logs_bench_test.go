// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"panal/internal/logs"
	"panal/internal/sqlstore"
)

// benchLine is a JSON line of 198 bytes, of the kind a training job prints.
func benchLine(r *rand.Rand, n int) string {
	s := fmt.Sprintf(`{"level":"info","time":"2026-02-03T04:%02d:%02d.%06dZ","logger":"trainer","epoch":%d,"step":%d,"loss":%.6f,"accuracy":%.4f,"lr":0.00%d,"device":"cpu:%d","msg":"`,
		n/60%60, n%60, r.IntN(1e6), n/1000, n, r.Float64(), r.Float64(), r.IntN(9), r.IntN(4))
	for len(s) < 196 {
		s += "finished a step of training"[:min(27, 196-len(s))]
	}
	return s[:196] + `"}`
}

func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkLogIngest stores 198-byte JSON lines as agents send them: 8 workloads
// of 4 jobs, batches of 500 lines as JSON, committed durably, repacked at the end.
//
//	go test -run xxx -bench LogIngest -benchtime 200000x ./internal/sqlstore
func BenchmarkLogIngest(b *testing.B) {
	const workloads, per = 8, 500
	dir := b.TempDir()
	store, err := sqlstore.OpenLogFiles(b.Context(), dir, openLogFile)
	if err != nil {
		b.Fatal(err)
	}
	svc, err := logs.New(store, logs.Config{Repack: 2 * time.Second})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = svc.Run(ctx)
	}()
	bodies := make([][][]byte, workloads) // made before the clock starts
	each := max(b.N/workloads, per)
	for w := range bodies {
		r := rand.New(rand.NewPCG(uint64(w), 1))
		for first := 1; first <= each; first += per {
			batch := logs.Batch{Workload: fmt.Sprint("wl-", w), Stream: logs.JobStream(fmt.Sprint(w % 4)), FirstSeq: int64(first)}
			for i := range per {
				batch.Entries = append(batch.Entries, logs.Entry{Time: 1_770_000_000_000_000 + int64(first+i)*1000 + int64(r.IntN(999)), Level: "info", Message: benchLine(r, first+i)})
			}
			body, err := json.Marshal(batch)
			if err != nil {
				b.Fatal(err)
			}
			bodies[w] = append(bodies[w], body)
		}
	}
	before := cpu(b)
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range bodies {
		wg.Go(func() {
			for _, body := range bodies[w] {
				batch, err := svc.ReadBatch(ctx, bytes.NewReader(body), int64(len(body)), "")
				if err == nil {
					_, err = svc.Ingest(ctx, crashOrg, batch)
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := svc.Repack(ctx); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	n := 0
	for _, list := range bodies {
		n += len(list) * per
	}
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(n), "cpu-µs/line")

	from := time.UnixMicro(1_770_000_000_000_000 + int64(each/2)*1000)
	start := time.Now()
	page, err := svc.Read(ctx, logs.Query{Org: crashOrg, Stream: logs.JobStream("1"), From: from, To: from.Add(time.Second), Limit: 1000})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(time.Since(start).Microseconds())/1000, fmt.Sprintf("ms/page-of-%d", len(page.Lines)))
	cancel()
	<-ended
	if err := store.Close(); err != nil { // the write-ahead log goes into the file
		b.Fatal(err)
	}
	size := dirSize(b, dir)
	b.ReportMetric(float64(size)/float64(n), "bytes/line")
}

func dirSize(b *testing.B, dir string) int64 {
	b.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	n := int64(0)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			b.Fatal(err)
		}
		n += info.Size()
	}
	return n
}
