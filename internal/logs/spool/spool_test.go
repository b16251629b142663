// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"panal/internal/logs"
	"panal/internal/logs/spool"
	"panal/internal/plat"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type tb interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func openRoot(t tb, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func openSpool(t tb, root *os.Root, opt spool.Options) *spool.Spool {
	t.Helper()
	opt.Workload, opt.Stream = "wl-1", "job/1"
	s, err := spool.Open(root, opt)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func lines(t tb, bs ...spool.Batch) []string {
	t.Helper()
	var out []string
	next := int64(0)
	for _, b := range bs {
		var l logs.Batch
		if err := json.Unmarshal(b.JSON, &l); err != nil {
			t.Fatalf("batch %d: %v\n%s", b.First, err, b.JSON)
		}
		if l.Workload != "wl-1" || l.Stream != "job/1" || l.FirstSeq != b.First || b.Last != b.First+int64(len(l.Entries))-1 {
			t.Fatalf("batch %d-%d says of itself %+v", b.First, b.Last, l)
		}
		if next != 0 && b.First != next {
			t.Fatalf("batch begins at %d, want %d", b.First, next)
		}
		next = b.Last + 1
		for i, e := range l.Entries {
			out = append(out, fmt.Sprintf("%d:%s", b.First+int64(i), e.Message))
		}
	}
	return out
}

func entry(msg string) logs.Entry { return logs.Entry{Time: 1, Level: "info", Message: msg} }

func TestOrderAndAck(t *testing.T) {
	root := openRoot(t, t.TempDir())
	defer func() { _ = root.Close() }()
	s := openSpool(t, root, spool.Options{FlushAfter: time.Millisecond})
	ctx := t.Context()
	if _, err := s.Append(ctx, entry("a"), entry("b <&> \u2028")); err != nil {
		t.Fatal(err)
	}
	b, err := s.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1:a", "2:b <&> \u2028"}, lines(t, b)); diff != "" {
		t.Fatal(diff)
	}
	if _, err := s.Append(ctx, entry("c")); err != nil {
		t.Fatal(err)
	}
	if again, err := s.Next(ctx); err != nil || again.First != 1 {
		t.Fatalf("Next before Ack = %d, %v; want the same batch", again.First, err)
	}
	if err := s.Ack(9); !errors.Is(err, plat.ErrInvalid) {
		t.Fatalf("Ack of a line never written: %v", err)
	}
	if err := s.Ack(2); err != nil {
		t.Fatal(err)
	}
	s.CloseInput()
	if b, err = s.Next(ctx); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"3:c"}, lines(t, b)); diff != "" {
		t.Fatal(diff)
	}
	if err := s.Ack(3); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Next(ctx); !errors.Is(err, io.EOF) {
		t.Fatalf("Next at the end = %v, want EOF", err)
	}
	if _, err := s.Append(ctx, entry("d")); !errors.Is(err, fs.ErrClosed) {
		t.Fatalf("Append after the end = %v", err)
	}
	// Numbers go on after a reopening, though every file is gone.
	s = openSpool(t, root, spool.Options{})
	if _, err := s.Append(ctx, entry("e")); err != nil {
		t.Fatal(err)
	}
	left, err := spool.Read(root, 0)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"4:e"}, lines(t, left...)); diff != "" {
		t.Fatal(diff)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A full spool makes Append wait, and lets AppendNow pass up to its reserve; no
// batch is larger than the wire takes, whatever the lines.
func TestFull(t *testing.T) {
	root := openRoot(t, t.TempDir())
	defer func() { _ = root.Close() }()
	s := openSpool(t, root, spool.Options{MaxBytes: 8 << 20})
	line := strings.Repeat("\x01", logs.MaxMessageBytes) // six bytes each in JSON
	const n = 20
	var wg sync.WaitGroup
	wg.Go(func() {
		for range n {
			if _, err := s.Append(t.Context(), entry(line), entry("small")); err != nil {
				t.Error(err)
			}
		}
		s.CloseInput()
	})
	deadline := time.Now().Add(10 * time.Second)
	for s.Pending() < 9 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for { // fill what is left
		if _, err := s.Append(short, entry(line)); err != nil {
			break
		}
	}
	if !errors.Is(short.Err(), context.DeadlineExceeded) {
		t.Fatal("Append into a full spool did not wait")
	}
	if err := s.AppendNow(entry("mine")); err != nil {
		t.Fatalf("AppendNow: %v", err)
	}
	var err error
	for i := 0; err == nil; i++ {
		if i > 100 {
			t.Fatal("AppendNow has no bound")
		}
		err = s.AppendNow(entry(line))
	}
	if !errors.Is(err, plat.ErrExhausted) {
		t.Fatal(err)
	}
	small := 0
	for {
		b, err := s.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(b.JSON) > logs.MaxBatchBytes {
			t.Fatalf("batch of %d bytes", len(b.JSON))
		}
		for _, l := range lines(t, b) {
			if strings.HasSuffix(l, ":small") {
				small++
			}
		}
		if err := s.Ack(b.Last); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if small != n {
		t.Fatalf("%d small lines of %d", small, n)
	}
}

func TestReadTrustsNothing(t *testing.T) {
	dir := t.TempDir()
	root := openRoot(t, dir)
	defer func() { _ = root.Close() }()
	s := openSpool(t, root, spool.Options{})
	if _, err := s.Append(t.Context(), entry("good")); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "secret")
	good, err := os.ReadFile(filepath.Join(dir, "00000000000000000001.open"))
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(outside, append(good, "]}\n"...), 0o600))
	must(os.Symlink(outside, filepath.Join(dir, "00000000000000000002.batch")))
	must(os.WriteFile(filepath.Join(dir, "00000000000000000003.batch"), []byte("junk"), 0o600))
	must(os.WriteFile(filepath.Join(dir, "00000000000000000004.batch"), append(good, "]}\n"...), 0o600)) // says 1
	must(os.Mkdir(filepath.Join(dir, "00000000000000000005.batch"), 0o700))
	must(os.WriteFile(filepath.Join(dir, "../x.batch"), nil, 0o600))
	f, err := os.Create(filepath.Join(dir, "00000000000000000006.batch"))
	must(err)
	must(f.Truncate(1 << 40))
	must(f.Close())
	left, err := spool.Read(root, 1<<20)
	must(err)
	if diff := cmp.Diff([]string{"1:good"}, lines(t, left...)); diff != "" {
		t.Fatal(diff)
	}
	must(s.Close())
}

// files is a directory's content, to crash in: a process that dies leaves some
// state between two of its steps.
type files map[string]string

func snapshot(t tb, dir string) files {
	t.Helper()
	out := files{}
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(b)
	}
	return out
}

func restore(t tb, dir string, fs files) {
	t.Helper()
	for name := range snapshot(t, dir) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, body := range fs {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// between draws a state that a crash between before and after can leave. Data
// files change in the order of their numbers, each by growing under .open and then
// being renamed; the mark of an acknowledgement is made before the removals.
func between(t *rapid.T, before, after files) files {
	out := maps.Clone(before)
	var grown []string // numbers of the data files that changed, in order
	for _, k := range slices.Sorted(maps.Keys(after)) {
		num, ext, _ := strings.Cut(k, ".")
		if ext != "acked" && before[k] != after[k] {
			grown = append(grown, num)
		}
	}
	if len(grown) > 0 {
		at := rapid.IntRange(0, len(grown)-1).Draw(t, "at")
		for i, num := range grown[:at+1] {
			was := before[num+".open"]
			is, sealed := after[num+".batch"]
			if !sealed {
				is = after[num+".open"]
			}
			how := 2
			if i == at {
				how = rapid.IntRange(0, 2).Draw(t, "how")
			}
			switch {
			case how == 0 || how == 2 && !sealed: // cut anywhere in what is new
				n := len(is)
				if how == 0 {
					n = rapid.IntRange(len(was), len(is)).Draw(t, "cut")
				}
				out[num+".open"] = is[:n]
			case how == 1 && sealed: // died in a reopening, between its rename and its remove
				out[num+".open"], out[num+".batch"] = strings.TrimSuffix(is, "]}\n"), is
			case sealed:
				delete(out, num+".open")
				out[num+".batch"] = is
			}
		}
	}
	for k := range after {
		if _, had := before[k]; !had && strings.HasSuffix(k, ".acked") && rapid.Bool().Draw(t, "marked") {
			out[k] = after[k]
			for g := range before {
				if _, stays := after[g]; !stays && rapid.Bool().Draw(t, "removed") {
					delete(out, g)
				}
			}
		}
	}
	return out
}

func TestCrashAnywhere(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		restore(t, dir, nil)
		root := openRoot(t, dir)
		defer func() { _ = root.Close() }()
		opt := spool.Options{BatchBytes: 300, FlushAfter: time.Nanosecond}
		s := openSpool(t, root, opt)
		ctx := context.Background()
		var promised, acked int64 // lines whose Append returned; lines the server has
		server := map[int64]string{}
		take := func(b spool.Batch) {
			for _, l := range lines(t, b) {
				var n int64
				var msg string
				if _, err := fmt.Sscanf(l, "%d:%s", &n, &msg); err != nil {
					t.Fatal(err)
				}
				if old, ok := server[n]; ok && old != msg {
					t.Fatalf("line %d was %q and is now %q", n, old, msg)
				}
				server[n] = msg
			}
		}
		written := int64(0)
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			before := snapshot(t, dir)
			pre := promised
			switch rapid.IntRange(0, 2).Draw(t, "op") {
			case 0:
				var es []logs.Entry
				for range rapid.IntRange(1, 6).Draw(t, "n") {
					written++
					es = append(es, entry(fmt.Sprintf("m%d-%s", written, strings.Repeat("y", rapid.IntRange(0, 60).Draw(t, "len")))))
				}
				if _, err := s.Append(ctx, es...); err != nil {
					t.Fatal(err)
				}
				promised += int64(len(es))
			case 1, 2:
				if s.Pending() == 0 {
					continue
				}
				b, err := s.Next(ctx)
				if err != nil {
					t.Fatal(err)
				}
				before = snapshot(t, dir) // Next may have sealed
				take(b)
				acked = b.Last
				if rapid.Bool().Draw(t, "partial") {
					acked = max(b.First, b.Last-1)
				}
				if err := s.Ack(acked); err != nil {
					t.Fatal(err)
				}
			}
			if !rapid.Bool().Draw(t, "crash") {
				continue
			}
			crashed := between(t, before, snapshot(t, dir))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			restore(t, dir, crashed)
			left, err := spool.Read(root, 0)
			if err != nil {
				t.Fatal(err)
			}
			reach := acked
			for _, b := range left {
				if b.First > reach+1 {
					t.Fatalf("after a crash lines %d to %d are missing", reach+1, b.First-1)
				}
				reach = max(reach, b.Last)
			}
			if reach < pre {
				t.Fatalf("after a crash the lines end at %d; %d were promised", reach, pre)
			}
			s = openSpool(t, root, opt)
			promised, written = reach, reach
			if got := promised - acked; s.Pending() < got {
				t.Fatalf("reopened with %d lines pending, want at least %d", s.Pending(), got)
			}
		}
		s.CloseInput()
		for {
			b, err := s.Next(ctx)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			take(b)
			if err := s.Ack(b.Last); err != nil {
				t.Fatal(err)
			}
		}
		if int64(len(server)) != promised {
			t.Fatalf("the server has %d lines, want %d", len(server), promised)
		}
		for n := int64(1); n <= promised; n++ {
			if !strings.HasPrefix(server[n], fmt.Sprintf("m%d-", n)) {
				t.Fatalf("line %d is %q", n, server[n])
			}
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	root := openRoot(b, b.TempDir())
	defer func() { _ = root.Close() }()
	s := openSpool(b, root, spool.Options{MaxBytes: 1 << 40})
	es := make([]logs.Entry, 300)
	for i := range es {
		es[i] = entry(strings.Repeat("z", 190))
	}
	b.SetBytes(300 * 200)
	for b.Loop() {
		if _, err := s.Append(b.Context(), es...); err != nil {
			b.Fatal(err)
		}
	}
}
