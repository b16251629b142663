// SPDX-License-Identifier: Apache-2.0

package accesslog_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"panal/internal/x/accesslog"
)

func entry(id string, status int) *accesslog.Entry {
	return &accesslog.Entry{
		Time: time.Unix(1e9, 5e6), Took: 1234567 * time.Nanosecond, Request: id, Operation: "infer-alias", Method: "POST", Path: "/deployments/1/a",
		Proto: "HTTP/1.1", Status: status, Received: 3, Sent: 5, Peer: netip.MustParseAddr("192.0.2.1"), Org: "o", User: "u",
	}
}

// run runs l until the returned function is called, which gives what failed.
func run(t *testing.T, l *accesslog.Log) func() []error {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	var errs []error
	go func() { done <- l.Run(ctx, func(err error) { errs = append(errs, err) }) }()
	stop := sync.OnceValue(func() []error {
		cancel()
		if err := <-done; err != nil {
			errs = append(errs, err)
		}
		return errs
	})
	t.Cleanup(func() { stop() })
	return stop
}

func read(t *testing.T, path string) (ids []string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var e struct {
			ID string `json:"request_id"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		ids = append(ids, e.ID)
	}
	return ids
}

func open(t *testing.T, opt accesslog.Options) *accesslog.Log {
	t.Helper()
	l, err := accesslog.Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.log")
	l := open(t, accesslog.Options{Path: path, MaxBytes: 1 << 20, Sample: 1})
	stop := run(t, l)
	l.Add(entry("1", 200))
	e := entry("2", 0)
	e.Path, e.Peer = "/\"\n\xff\x00"+strings.Repeat("x", 5000), netip.Addr{}
	l.Add(e)
	if errs := stop(); len(errs) > 0 || l.Written() != 2 {
		t.Errorf("%d lines, %v", l.Written(), errs)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first, second, _ := strings.Cut(string(b), "\n")
	want := `{"time":"2001-09-09T01:46:40.005Z","request_id":"1","operation":"infer-alias","method":"POST","path":"/deployments/1/a","proto":"HTTP/1.1",` +
		`"organization_id":"o","user_id":"u","peer":"192.0.2.1","status":200,"received":3,"sent":5,"ms":1.234}`
	if first != want {
		t.Errorf("line %s\nwant %s", first, want)
	}
	var hostile struct{ Path, Peer string }
	if err := json.Unmarshal([]byte(second), &hostile); err != nil || !strings.HasPrefix(hostile.Path, "/\"\n") || len(hostile.Path) > 1100 || hostile.Peer != "" {
		t.Errorf("hostile path: %v, %.60q", err, hostile.Path)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestCarry: what comes after Run has ended is written by Carry, marked, to the file that
// has the name by then, whole lines between those of the next server that rotates it.
func TestCarry(t *testing.T) {
	const each = 500
	path := filepath.Join(t.TempDir(), "a.log")
	opt := accesslog.Options{Path: path, MaxBytes: 100_000, Keep: 9, Sample: 1}
	old := open(t, opt)
	stop := run(t, old)
	old.Add(entry("before", 200))
	if errs := stop(); len(errs) > 0 {
		t.Fatal(errs)
	}
	old.Add(entry("between", 202))
	next := open(t, opt)
	end := run(t, next)
	ctx, cancel := context.WithCancel(t.Context())
	var carrier, adders sync.WaitGroup
	carrier.Go(func() { old.Carry(ctx, func(err error) { t.Error(err) }) })
	for what, l := range map[string]*accesslog.Log{"old": old, "next": next} {
		adders.Go(func() {
			for i := range each {
				e := entry(fmt.Sprint(what, i), 200)
				e.Async = "id-of-" + e.Request
				l.Add(e)
			}
		})
	}
	adders.Wait()
	cancel()
	carrier.Wait()
	if errs := end(); len(errs) > 0 || old.Dropped() != 0 || old.Written() != each+2 || next.Written() != each {
		t.Errorf("%d lines by the old one, %d by the next, %d dropped, %v", old.Written(), next.Written(), old.Dropped(), errs)
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) < 2 {
		t.Fatalf("%s, %v: nothing was rotated", files, err)
	}
	seen := map[string]bool{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			var e struct {
				ID      string `json:"request_id"`
				Async   string
				Carried bool
			}
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			carried := strings.HasPrefix(e.ID, "old") || e.ID == "between"
			if seen[e.ID] || e.Carried != carried || e.Async != "" && e.Async != "id-of-"+e.ID {
				t.Errorf("seen: %t, %s", seen[e.ID], line)
			}
			seen[e.ID] = true
		}
	}
	if len(seen) != 2*each+2 {
		t.Errorf("%d lines", len(seen))
	}
	(*accesslog.Log)(nil).Carry(ctx, nil) // no log, nothing to carry
}

// TestRotation: files stay within their size and number, and hold the newest lines,
// in order, each whole.
func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.log")
	if err := os.WriteFile(path, []byte(`{"request_id":"old"}`+"\n"+`{"half":`), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, accesslog.Options{Path: path, MaxBytes: 2000, Keep: 2, Sample: 1})
	stop := run(t, l)
	for i := range 100 {
		l.Add(entry(fmt.Sprint(i), 200))
	}
	if errs := stop(); len(errs) > 0 || l.Written() != 100 || l.Dropped() != 0 {
		t.Errorf("%d lines, %d dropped, %v", l.Written(), l.Dropped(), errs)
	}
	var ids []string
	for _, name := range []string{path + ".2", path + ".1", path} {
		ids = append(ids, read(t, name)...)
		if info, err := os.Stat(name); err != nil || info.Size() > 2000 {
			t.Errorf("%s: %v, %v", name, info.Size(), err)
		}
	}
	for i, id := range ids {
		if want := fmt.Sprint(100 - len(ids) + i); id != want {
			t.Fatalf("line %d is of %s, want %s", i, id, want)
		}
	}
	if _, err := os.Stat(path + ".3"); err == nil || len(ids) < 10 {
		t.Errorf("%d lines are kept; %s.3: %v", len(ids), path, err)
	}
}

// TestSample: part of the good ones, all that the server failed.
func TestSample(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.log")
	l := open(t, accesslog.Options{Path: path, MaxBytes: 1 << 20, Sample: 0.1})
	stop := run(t, l)
	for range 1000 {
		l.Add(entry("good", 200))
	}
	for range 100 {
		l.Add(entry("bad", 503))
	}
	stop()
	n := map[string]int{}
	for _, id := range read(t, path) {
		n[id]++
	}
	if n["bad"] != 100 || n["good"] < 30 || n["good"] > 250 { // some 10 σ
		t.Errorf("%v lines of 1000 good and 100 bad requests", n)
	}
}

// TestNeverBlocks: without anybody who writes, requests go on; what was lost is known.
func TestNeverBlocks(t *testing.T) {
	l := open(t, accesslog.Options{Path: filepath.Join(t.TempDir(), "a.log"), MaxBytes: 1 << 30, Sample: 1})
	const n = 20_000
	for range n {
		l.Add(entry("x", 200))
	}
	lost := l.Dropped()
	if errs := run(t, l)(); len(errs) > 0 || lost == 0 || l.Written()+l.Dropped() != n {
		t.Errorf("%d written, %d dropped of %d; %v", l.Written(), l.Dropped(), n, errs)
	}
}

// TestADiskThatIsFull: what can't be written is counted, and the server is told.
func TestADiskThatIsFull(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.log")
	l := open(t, accesslog.Options{Path: path, MaxBytes: 100, Keep: 1, Sample: 1})
	if err := os.RemoveAll(dir); err != nil { // the next rotation fails
		t.Fatal(err)
	}
	stop := run(t, l)
	for range 10 {
		l.Add(entry("x", 200))
	}
	if errs := stop(); len(errs) == 0 || l.Written()+l.Dropped() != 10 || l.Dropped() == 0 {
		t.Errorf("%d written, %d dropped of 10; %v", l.Written(), l.Dropped(), errs)
	}
	var none *accesslog.Log
	none.Add(entry("x", 200)) // an access log that is off
}

func TestOpen(t *testing.T) {
	for _, path := range []string{filepath.Join(t.TempDir(), "missing", "a.log"), t.TempDir(), "/dev/null"} {
		if _, err := accesslog.Open(accesslog.Options{Path: path}); err == nil {
			t.Errorf("%s was opened", path)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	l, err := accesslog.Open(accesslog.Options{Path: filepath.Join(b.TempDir(), "a.log"), MaxBytes: 64 << 20, Keep: 1, Sample: 1})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, func(err error) { b.Error(err) }) }()
	e := entry("5c8f9b9e-0f5a-4f1e-8f55-1d2f3a4b5c6d", 200)
	b.ReportAllocs()
	for b.Loop() {
		l.Add(e)
	}
	cancel()
	<-done
	b.ReportMetric(float64(l.Dropped())/float64(b.N), "dropped/op")
}
