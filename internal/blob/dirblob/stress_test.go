// SPDX-License-Identifier: Apache-2.0

package dirblob_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"panal/internal/blob"
	"panal/internal/blob/dirblob"
	"panal/internal/blob/dirblob/vfs"
	"panal/internal/plat"
)

// lazyFS is the operating system's without the syncs, which are most of the time.
type lazyFS struct{ *vfs.OS }

type lazyFile struct{ vfs.File }

func (f lazyFS) Create(name string) (vfs.File, error) {
	file, err := f.OS.Create(name)
	return lazyFile{file}, err
}
func (lazyFS) SyncDir(string) error { return nil }
func (lazyFile) Sync() error        { return nil }

// TestStress has writers with a model each, readers, a lister and maintenance in a
// store whose segments, runs and memory are tiny, and restarts it, now and then
// without its index. PANAL_STRESS=10m makes it long.
func TestStress(t *testing.T) {
	long, err := time.ParseDuration(os.Getenv("PANAL_STRESS"))
	if err != nil && os.Getenv("PANAL_STRESS") != "" {
		t.Fatal(err)
	}
	dir := t.TempDir()
	osfs, err := vfs.NewOS(dir)
	if err != nil {
		t.Fatal(err)
	}
	opt := dirblob.Options{Small: 400, Inline: 120, Budget: 900, SegmentBytes: 8 << 10, MemEntries: 40, MemLog: 32 << 10}
	s := &stress{opt: opt, dir: dir}
	for w := range 6 {
		s.writers = append(s.writers, &stressWriter{id: w, model: map[string]string{}})
	}
	began := time.Now()
	for round := 0; round < 4 || time.Since(began) < long; round++ {
		if s.d, err = dirblob.OpenFS(t.Context(), lazyFS{osfs}, opt); err != nil {
			t.Fatal(err)
		}
		s.check(t)
		s.round(t, uint64(round))
		s.check(t)
		if err := s.d.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
		s.settle(t, lazyFS{osfs})
		if round%2 == 1 {
			if err := os.Remove(filepath.Join(dir, "segments", "manifest")); err != nil {
				t.Fatal(err) // there must be one by now
			}
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "segments", "1.seg")); err == nil {
		t.Error("the first segment is still there: nothing was compacted")
	}
}

type stress struct {
	d       *dirblob.Driver
	dir     string
	opt     dirblob.Options
	writers []*stressWriter
}

// stressWriter owns the keys of its number.
type stressWriter struct {
	id    int
	n     int
	model map[string]string
}

func (w *stressWriter) key(rnd *rand.Rand) string {
	if n := rnd.IntN(60); n < 50 {
		return fmt.Sprintf("k%02d/%d", n, w.id)
	}
	return fmt.Sprintf("%d/%s/%d", w.id, strings.Repeat("long", 60), rnd.IntN(4))
}

func (s *stress) round(t *testing.T, seed uint64) {
	t.Helper()
	var writing, others sync.WaitGroup
	var done atomic.Bool
	for _, w := range s.writers {
		rnd := rand.New(rand.NewPCG(seed, uint64(w.id)))
		writing.Go(func() {
			for range 100 {
				if err := w.step(t.Context(), s.d, rnd); err != nil {
					t.Errorf("writer %d: %v", w.id, err)
					return
				}
			}
		})
	}
	for r := range 2 {
		rnd := rand.New(rand.NewPCG(seed, uint64(100+r)))
		others.Go(func() {
			for !done.Load() {
				key := s.writers[rnd.IntN(len(s.writers))].key(rnd)
				got, err := read(t.Context(), s.d, key)
				if err == nil && !strings.HasPrefix(got, key+"#") || err != nil && !errors.Is(err, plat.ErrNotFound) {
					t.Errorf("%q holds %.60q, %v", key, got, err)
					return
				}
			}
		})
	}
	others.Go(func() {
		for !done.Load() {
			if _, err := s.list(t.Context(), "k"); err != nil {
				t.Error(err)
				return
			}
		}
	})
	writing.Wait()
	done.Store(true)
	others.Wait()
}

// step makes one change and now and then looks at one of the own keys.
func (w *stressWriter) step(ctx context.Context, d *dirblob.Driver, rnd *rand.Rand) error {
	key := w.key(rnd)
	w.n++
	switch op := rnd.IntN(10); {
	case op < 6:
		text := fmt.Sprintf("%s#%d#%s", key, w.n, strings.Repeat("x", rnd.IntN(450))) // some are files
		err := d.Put(ctx, key, strings.NewReader(text), -1, blob.PutOptions{IfNoneMatch: op == 0})
		switch {
		case op == 0 && w.model[key] != "":
			if !errors.Is(err, plat.ErrExists) {
				return fmt.Errorf("put if none match of %q: %w", key, err)
			}
		case err != nil:
			return err
		default:
			w.model[key] = text
		}
	case op < 8:
		if err := d.Delete(ctx, key); err != nil {
			return err
		}
		delete(w.model, key)
	}
	return w.compare(ctx, d, key)
}

func (w *stressWriter) compare(ctx context.Context, d *dirblob.Driver, key string) error {
	got, err := read(ctx, d, key)
	if errors.Is(err, plat.ErrNotFound) {
		got, err = absent, nil
	}
	if err != nil {
		return err
	}
	if got != w.model[key] {
		return fmt.Errorf("%q holds %.60q, want %.60q", key, got, w.model[key])
	}
	info, err := d.Stat(ctx, key)
	if (err == nil) != (got != absent) || err == nil && info.Size != int64(len(got)) {
		return fmt.Errorf("stat %q: %+v, %w", key, info, err)
	}
	return nil
}

// list pages through what begins with prefix and sees to its order.
func (s *stress) list(ctx context.Context, prefix string) (all []blob.Info, err error) {
	after := ""
	for more := true; more; {
		var page []blob.Info
		if page, more, err = s.d.List(ctx, prefix, after, 17); err != nil {
			return nil, err
		}
		if more && len(page) != 17 {
			return nil, fmt.Errorf("a page of %d", len(page))
		}
		for _, i := range page {
			if i.Key <= after {
				return nil, fmt.Errorf("%q is listed after %q", i.Key, after)
			}
			after = i.Key
		}
		all = append(all, page...)
	}
	return all, nil
}

// settle does what maintenance may have had no time for.
func (s *stress) settle(t *testing.T, fsys vfs.FS) {
	t.Helper()
	opt := s.opt
	opt.Manual = true
	d, err := dirblob.OpenFS(t.Context(), fsys, opt)
	if err == nil {
		err = errors.Join(d.Maintain(t.Context()), d.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// check compares the whole store with the models.
func (s *stress) check(t *testing.T) {
	t.Helper()
	want := 0
	for _, w := range s.writers {
		want += len(w.model)
		for key := range w.model {
			if err := w.compare(t.Context(), s.d, key); err != nil {
				t.Error(err)
			}
		}
	}
	all, err := s.list(t.Context(), "")
	if err != nil || len(all) != want {
		t.Errorf("%d objects are listed, want %d; %v", len(all), want, err)
	}
}

// TestKillNine kills a process that writes, with the real signal, and finds all that
// it had said was stored, some rounds on one directory. The test's own binary is the
// process.
func TestKillNine(t *testing.T) {
	if dir := os.Getenv("PANAL_DIRBLOB_VICTIM"); dir != "" {
		victim(t, dir)
	}
	dir := t.TempDir()
	acked := map[string]string{} // the last acknowledged
	tried := map[string]string{} // what came after, unanswered
	for round := range 6 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKillNine$")
		cmd.Env = append(os.Environ(), "PANAL_DIRBLOB_VICTIM="+dir, "PANAL_DIRBLOB_ROUND="+strconv.Itoa(round))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		most := 150 + rand.IntN(300)
		lines := 0
		for in := bufio.NewScanner(out); in.Scan(); {
			word, rest, _ := strings.Cut(in.Text(), " ")
			key, text, _ := strings.Cut(rest, " ")
			switch word {
			case "try":
				tried[key] = text
			case "ack":
				acked[key] = tried[key]
				delete(tried, key)
			default:
				continue // of the test framework
			}
			if lines++; lines == most {
				_ = cmd.Process.Kill()
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the victim ended by itself")
		}
		if lines < most {
			t.Fatalf("the victim died by itself after %d lines", lines)
		}
		d, err := dirblob.Open(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		for key, want := range acked {
			got, err := read(t.Context(), d, key)
			if errors.Is(err, plat.ErrNotFound) {
				got, err = "-", nil
			}
			if text, ok := tried[key]; ok && got == text {
				want = text // it was done, but not answered
			}
			if err != nil || got != want {
				t.Errorf("round %d: %q holds %.40q, %v; want %.40q", round, key, got, err, want)
			}
			acked[key] = want
		}
		clear(tried)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// victim writes until it is killed, and tells before and after each change.
func victim(t *testing.T, dir string) {
	t.Helper()
	fsys, err := vfs.NewOS(dir)
	if err != nil {
		t.Fatal(err)
	}
	d, err := dirblob.OpenFS(t.Context(), fsys, dirblob.Options{Small: 300, Inline: 90, SegmentBytes: 4 << 10, MemEntries: 16, MemLog: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	var out sync.Mutex
	say := func(words ...any) {
		out.Lock()
		defer out.Unlock()
		fmt.Println(words...)
	}
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%d/%d", w, rand.IntN(30))
				text, err := "-", error(nil)
				if rand.IntN(4) == 0 {
					say("try", key, text)
					err = d.Delete(t.Context(), key)
				} else {
					text = fmt.Sprint(os.Getenv("PANAL_DIRBLOB_ROUND"), ".", w, ".", i, strings.Repeat(".", rand.IntN(400)))
					text = strings.ReplaceAll(text, " ", "")
					say("try", key, text)
					err = d.Put(t.Context(), key, strings.NewReader(text), -1, blob.PutOptions{})
				}
				if err != nil {
					say("failed", err)
					os.Exit(3)
				}
				say("ack", key)
			}
		}()
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	select {}
}
