// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"panal/internal/logs"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/postgres"
	"panal/internal/sqlstore/sqlstoretest"
)

const (
	envCrashStore = "PANAL_TEST_LOG_CRASH" // a directory or a postgres:// URL
	envCrashFrom  = "PANAL_TEST_LOG_FROM"  // what each workload has been acknowledged
	crashOrg      = plat.OrgID("1480000000017")
	crashWorkers  = 4
)

func openCrashStore(ctx context.Context, place string) (logs.Store, func() error, error) {
	if !strings.HasPrefix(place, "postgres") {
		s, err := sqlstore.OpenLogFiles(ctx, place, openLogFile)
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	}
	db, err := postgres.Open(ctx, place, 8, "logs")
	if err != nil {
		return nil, nil, err
	}
	return sqlstore.NewLogs(db), db.Close, nil
}

// TestLogCrashHelper is no test: it is the process that TestLogsSurviveKill kills.
// Four workloads of two streams ingest as fast as they can, while records are
// repacked; each acknowledgement is told on stdout.
func TestLogCrashHelper(t *testing.T) {
	place := os.Getenv(envCrashStore)
	if place == "" {
		return
	}
	ctx := context.Background()
	store, _, err := openCrashStore(ctx, place)
	if err != nil {
		t.Fatal(err)
	}
	svc, err := logs.New(store, logs.Config{Flush: time.Millisecond, Repack: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = svc.Run(ctx) }()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w, from := range strings.Split(os.Getenv(envCrashFrom), ",") {
		acked, err := strconv.ParseInt(from, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for next := max(1, acked-3); ; { // some of it is there already
				b := logs.Batch{Workload: fmt.Sprintf("wl-%d", w), Stream: logs.JobStream(strconv.Itoa(w % 2)), FirstSeq: next}
				for i := range int64(1 + rand.IntN(40)) {
					b.Entries = append(b.Entries, logs.Entry{Time: 1, Message: fmt.Sprintf("wl-%d %d", w, next+i)})
				}
				ack, err := svc.Ingest(ctx, crashOrg, b)
				if err != nil {
					panic(err) // the parent sees that nothing comes
				}
				mu.Lock()
				fmt.Printf("ack %d %d\n", w, ack.LastSeq)
				mu.Unlock()
				next = ack.LastSeq + 1
			}
		})
	}
	wg.Wait()
}

// TestLogsSurviveKill kills a server in the middle of its work, again and again.
// Every line that it acknowledged is there once, in order.
func TestLogsSurviveKill(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { survive(t, filepath.Join(t.TempDir(), "logs"), 10) })
	t.Run("postgres", func(t *testing.T) { survive(t, sqlstoretest.PostgresURL(t), 5) })
}

func survive(t *testing.T, place string, rounds int) {
	acked := make([]int64, crashWorkers)
	for range rounds {
		runAndKill(t, place, acked)
	}
	ctx := t.Context()
	store, done, err := openCrashStore(ctx, place)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = done() }()
	svc, err := logs.New(store, logs.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, repacked := range []bool{false, true} {
		if repacked {
			if err := svc.Repack(ctx); err != nil {
				t.Fatal(err)
			}
		}
		have := make([]int64, crashWorkers)
		for stream := range 2 {
			q := logs.Query{Org: crashOrg, Stream: logs.JobStream(strconv.Itoa(stream)), Limit: 1000}
			for more := true; more; more = q.Cursor != "" {
				p, err := svc.Read(ctx, q)
				if err != nil {
					t.Fatal(err)
				}
				for _, l := range p.Lines {
					var w int
					var n int64
					if _, err := fmt.Sscanf(l.Message, "wl-%d %d", &w, &n); err != nil {
						t.Fatalf("%q: %v", l.Message, err)
					}
					if have[w]++; n != have[w] {
						t.Fatalf("repacked %v: workload %d has line %d where %d belongs", repacked, w, n, have[w])
					}
				}
				q.Cursor = p.Next
			}
		}
		for w := range have {
			if have[w] < acked[w] {
				t.Errorf("repacked %v: workload %d: %d lines are there, %d were acknowledged", repacked, w, have[w], acked[w])
			}
		}
		t.Logf("lines there %v, acknowledged %v", have, acked)
	}
}

// runAndKill runs the helper for a moment and raises acked to what it told.
func runAndKill(t *testing.T, place string, acked []int64) {
	t.Helper()
	from := make([]string, len(acked))
	for i, n := range acked {
		from[i] = strconv.FormatInt(n, 10)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestLogCrashHelper$", "-test.count=1")
	cmd.Env = append(os.Environ(), envCrashStore+"="+place, envCrashFrom+"="+strings.Join(from, ","))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var timer *time.Timer
	seen := 0
	for sc := bufio.NewScanner(out); sc.Scan(); {
		var w int
		var n int64
		if _, err := fmt.Sscanf(sc.Text(), "ack %d %d", &w, &n); err != nil {
			continue
		}
		if n < acked[w] {
			t.Errorf("workload %d: acknowledged %d after %d", w, n, acked[w])
		}
		acked[w] = n
		if seen++; timer == nil {
			timer = time.AfterFunc(time.Duration(20+rand.IntN(300))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		}
	}
	if timer == nil {
		_ = cmd.Process.Kill()
	}
	_ = cmd.Wait() // killed
	if timer == nil || seen == 0 {
		t.Fatalf("the helper acknowledged nothing: %s", stderr.String())
	}
	timer.Stop()
}

// TestLogsFullDatabase fills the day's file to a limit that SQLite holds (what a
// full disk is to it), then lifts the limit: nothing acknowledged is missing, and
// the batch that did not fit is stored when it is sent again.
func TestLogsFullDatabase(t *testing.T) {
	ctx := t.Context()
	pages := 100
	var files []*sqlstore.DB
	limit := func(db *sqlstore.DB) error {
		return db.Write(ctx, func(tx *sqlstore.Tx) error {
			_, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA max_page_count = %d`, pages))
			return err
		})
	}
	store, err := sqlstore.OpenLogFiles(ctx, t.TempDir(), func(ctx context.Context, path string) (*sqlstore.DB, error) {
		db, err := openLogFile(ctx, path)
		if err != nil {
			return nil, err
		}
		files = append(files, db)
		return db, limit(db)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	fill(t, store, func() {
		pages = 1 << 20
		for _, db := range files {
			if err := limit(db); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// fill ingests until ErrExhausted, makes room, goes on, and checks what is there.
func fill(t *testing.T, store logs.Store, makeRoom func()) {
	t.Helper()
	ctx := t.Context()
	svc, err := logs.New(store, logs.Config{Flush: time.Nanosecond, Repack: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	run, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = svc.Run(run)
	}()
	defer func() {
		cancel()
		<-ended
	}()
	acked, full := int64(0), 0
	for full < 3 || acked < 200 {
		b := logs.Batch{Workload: "wl-1", Stream: logs.JobStream("1"), FirstSeq: acked + 1}
		noise := make([]byte, 2000)
		for i := range 5 {
			for k := range noise {
				noise[k] = byte(' ' + rand.IntN(90))
			}
			b.Entries = append(b.Entries, logs.Entry{Time: 1, Message: fmt.Sprintf("%d %s", acked+int64(i)+1, noise)})
		}
		ack, err := svc.Ingest(ctx, crashOrg, b)
		switch {
		case err == nil:
			acked = ack.LastSeq
		case errors.Is(err, plat.ErrExhausted):
			if full++; full == 3 {
				makeRoom()
			}
		default:
			t.Fatalf("after %d lines: %v", acked, err)
		}
		if acked > 100_000 {
			t.Fatal("it never was full")
		}
	}
	if err := svc.Repack(ctx); err != nil {
		t.Fatal(err)
	}
	n, q := int64(0), logs.Query{Org: crashOrg, Stream: logs.JobStream("1")}
	for more := true; more; more = q.Cursor != "" {
		p, err := svc.Read(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range p.Lines {
			if n++; !strings.HasPrefix(l.Message, fmt.Sprint(n, " ")) {
				t.Fatalf("line %d is %.10q", n, l.Message)
			}
		}
		q.Cursor = p.Next
	}
	if n != acked {
		t.Errorf("%d lines are there, %d were acknowledged", n, acked)
	}
}
