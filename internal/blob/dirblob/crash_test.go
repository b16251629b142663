// SPDX-License-Identifier: Apache-2.0

package dirblob_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"panal/internal/blob"
	"panal/internal/blob/dirblob"
	"panal/internal/blob/dirblob/crashfs"
	"panal/internal/plat"
)

// choose returns an arbitrary number in [0, n).
type choose func(n int) int

// absent is the state of a key without an object.
const absent = ""

// layouts are the ways to keep small objects: as files, in segments, and some of them
// here, some there, in segments so small that they fill, are indexed and compacted all
// the time.
var layouts = map[string]dirblob.Options{
	"files":    {Small: -1, Manual: true},
	"segments": {SegmentBytes: 300, MemEntries: 2, Reserve: -1, Ahead: -1, Manual: true},
	"both":     {Small: 24, SegmentBytes: 150, MemEntries: 2, Reserve: 30, Ahead: 2000, Manual: true},
	"apart":    {Inline: 12, SegmentBytes: 300, MemEntries: 2, Reserve: -1, Ahead: 2000, Manual: true},
}

// history is a plan of changes, the same for every place of the power cut.
type history []change

type change struct {
	kind string // put, new (put if none match), delete, maintain, restart (the process is killed and started again)
	key  string
	text string
}

var crashKeys = []string{"a", "a/b", "a/b/c", "a/d", "e/f/g/h", "e/f/i", "B", strings.Repeat("x", 300)}

func drawHistory(pick choose, n int) history {
	h := make(history, n)
	for i := range h {
		c := change{
			kind: []string{"put", "put", "put", "new", "delete", "delete", "restart", "maintain"}[pick(8)],
			key:  crashKeys[pick(len(crashKeys))],
		}
		c.text = strings.Repeat(fmt.Sprintf("<%d>", i), 1+pick(20))
		h[i] = c
	}
	return h
}

// state is what may be found under each key: one text once a change was
// acknowledged, several while one may or may not have happened.
type state map[string][]string

func (s state) of(key string) []string {
	if got, ok := s[key]; ok {
		return got
	}
	return []string{absent}
}

// run opens the store and carries the history out until an error, which it
// returns, and keeps s.
func (h history) run(ctx context.Context, fsys *crashfs.FS, opt dirblob.Options, s state) error {
	for {
		d, err := dirblob.OpenFS(ctx, fsys, opt)
		if err != nil {
			return fmt.Errorf("open: %w", err)
		}
		i := slices.IndexFunc(h, func(c change) bool { return c.kind == "restart" })
		if i < 0 {
			return h.runOn(ctx, d, s)
		}
		if err := h[:i].runOn(ctx, d, s); err != nil {
			return err
		}
		h = h[i+1:]
	}
}

func (h history) runOn(ctx context.Context, d *dirblob.Driver, s state) error {
	for _, c := range h {
		if err := c.apply(ctx, d, s); err != nil {
			return err
		}
	}
	return nil
}

// apply makes one change; while it is under way s allows both outcomes.
func (c change) apply(ctx context.Context, d *dirblob.Driver, s state) error {
	before := s.of(c.key)
	switch c.kind {
	case "restart":
		return nil
	case "maintain":
		return d.Maintain(ctx)
	case "delete":
		s[c.key] = append(slices.Clone(before), absent)
		if err := d.Delete(ctx, c.key); err != nil {
			return err
		}
		s[c.key] = []string{absent}
		return nil
	}
	s[c.key] = append(slices.Clone(before), c.text)
	err := d.Put(ctx, c.key, strings.NewReader(c.text), -1, blob.PutOptions{IfNoneMatch: c.kind == "new"})
	switch {
	case c.kind == "new" && errors.Is(err, plat.ErrExists):
		// We were told that there is an object: from now on it must stay.
		s[c.key] = slices.DeleteFunc(slices.Clone(before), func(text string) bool { return text == absent })
		return nil
	case err != nil:
		return err
	case c.kind == "new" && !slices.Contains(before, absent):
		return fmt.Errorf("put if none match of %q succeeded over one of %q", c.key, before)
	}
	s[c.key] = []string{c.text}
	return nil
}

// verify opens the store as it is after a power cut and compares it with s,
// which afterwards holds what was found.
func verify(ctx context.Context, fsys *crashfs.FS, opt dirblob.Options, s state) error {
	d, err := dirblob.OpenFS(ctx, fsys, opt)
	if err != nil {
		return fmt.Errorf("open after the power cut: %w", err)
	}
	infos, _, err := d.List(ctx, "", "", 1000)
	if err != nil {
		return err
	}
	listed := map[string]bool{}
	for _, i := range infos {
		listed[i.Key] = true
	}
	for key := range listed {
		if _, ok := s[key]; !ok {
			return fmt.Errorf("%q is listed but was never put", key)
		}
	}
	for key, allowed := range s {
		got, err := read(ctx, d, key)
		if errors.Is(err, plat.ErrNotFound) {
			got, err = absent, nil
		}
		if err != nil {
			return err
		}
		if !slices.Contains(allowed, got) {
			return fmt.Errorf("%q holds %q, want one of %q", key, got, allowed)
		}
		if listed[key] != (got != absent) {
			return fmt.Errorf("%q: listed %v, holds %q", key, listed[key], got)
		}
		s[key] = []string{got}
	}
	return fsys.ReadNames("tmp", func(names []string) error {
		return fmt.Errorf("left in tmp/ after Open: %q", names)
	})
}

func read(ctx context.Context, d *dirblob.Driver, key string) (string, error) {
	rc, _, err := d.Open(ctx, key, 0, -1)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(rc)
	return string(b), errors.Join(err, rc.Close())
}

// crashEverywhere carries out first with the power cut, or the process killed, at
// each step in turn, then second on what is left with a cut at some step, and
// verifies after each cut.
func crashEverywhere(ctx context.Context, opt dirblob.Options, first, second history, seed uint64, hook func(crashfs.Op, string) error) error {
	whole := crashfs.New()
	if err := first.run(ctx, whole, opt, state{}); err != nil {
		return fmt.Errorf("without a power cut: %w", err)
	}
	for k := range whole.Steps() + 1 {
		rnd := rand.New(rand.NewPCG(seed, uint64(k)))
		if err := crashTwice(ctx, opt, first, second, k, rnd, hook); err != nil {
			return fmt.Errorf("power cut at step %d: %w", k, err)
		}
	}
	return nil
}

func crashTwice(ctx context.Context, opt dirblob.Options, first, second history, step int, rnd *rand.Rand, hook func(crashfs.Op, string) error) error {
	fsys, s := crashfs.New(), state{}
	fsys.SetHook(hook)
	fsys.CrashAt(step)
	if err := first.run(ctx, fsys, opt, s); err != nil && !errors.Is(err, crashfs.ErrCrashed) {
		return err
	}
	if rnd.IntN(3) == 0 {
		fsys.Revive()
	} else {
		fsys = fsys.Crash(rnd.IntN)
		if err := verify(ctx, fsys, opt, s); err != nil {
			return err
		}
	}

	if rnd.IntN(3) == 0 {
		if err := loseIndex(fsys, rnd.IntN); err != nil {
			return err
		}
	}
	fsys.SetHook(hook)
	fsys.CrashAt(rnd.IntN(60))
	if err := second.run(ctx, fsys, opt, s); err != nil && !errors.Is(err, crashfs.ErrCrashed) {
		return err
	}
	fsys = fsys.Crash(rnd.IntN)
	if err := verify(ctx, fsys, opt, s); err != nil {
		return fmt.Errorf("and a second time: %w", err)
	}
	// What was found is found again: opening must not rest on anything unsynced.
	fsys = fsys.Crash(rnd.IntN)
	if err := verify(ctx, fsys, opt, s); err != nil {
		return fmt.Errorf("and a third time: %w", err)
	}
	if err := loseIndex(fsys, rnd.IntN); err != nil {
		return err
	}
	if err := verify(ctx, fsys, opt, s); err != nil {
		return fmt.Errorf("and without the index: %w", err)
	}
	return nil
}

// loseIndex removes the manifest or the runs, or makes nonsense of one of them.
func loseIndex(fsys *crashfs.FS, pick choose) error {
	const manifest = "segments/manifest"
	var runs []string
	err := fsys.ReadNames("segments", func(names []string) error {
		for _, n := range names {
			if strings.HasSuffix(n, ".run") {
				runs = append(runs, "segments/"+n)
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	slices.Sort(runs)
	victims := append(runs, manifest)
	name := victims[pick(len(victims))]
	fi, err := fsys.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || fi.Size() == 0 {
		return err
	}
	switch pick(3) {
	case 0:
		return fsys.Remove(name)
	case 1:
		return fsys.Truncate(name, int64(pick(int(fi.Size()))))
	}
	// Any of the manifest's bits counts; of a run Open reads the footer.
	at := fi.Size() - 1 - int64(pick(min(40, int(fi.Size()))))
	return fsys.Rot(name, at)
}

func TestAcknowledgedChangesSurviveAPowerCut(t *testing.T) {
	for name, opt := range layouts {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(15 * thorough()) {
				rnd := rand.New(rand.NewPCG(seed, 3))
				first, second := drawHistory(rnd.IntN, 1+rnd.IntN(8)), drawHistory(rnd.IntN, rnd.IntN(5))
				if err := crashEverywhere(t.Context(), opt, first, second, seed, nil); err != nil {
					t.Fatalf("seed %d: %v\nfirst: %+v\nsecond: %+v", seed, err, first, second)
				}
			}
		})
	}
}

// thorough is how much more the tests of random histories do when PANAL_STRESS is set.
func thorough() int {
	if os.Getenv("PANAL_STRESS") != "" {
		return 40
	}
	return 1
}

// TestPowerCutTestNoticesAMissingSync takes away one kind of sync at a time; the
// test above would be worth nothing if it passed without. A run that was not synced is
// found damaged and made anew: nothing is to be noticed there.
func TestPowerCutTestNoticesAMissingSync(t *testing.T) {
	type forgotten func(op crashfs.Op, name string) bool
	inSegments := func(op crashfs.Op, name string) bool {
		return op == crashfs.OpSync && strings.HasSuffix(name, ".seg")
	}
	for name, c := range map[string]struct {
		layout string
		forgot forgotten
	}{
		// The first temporary file is the format file.
		"of bodies": {"files", func(op crashfs.Op, name string) bool {
			return op == crashfs.OpSync && strings.HasPrefix(name, "tmp/") && !strings.HasSuffix(name, "-1")
		}},
		"of every directory": {"files", func(op crashfs.Op, _ string) bool { return op == crashfs.OpSyncDir }},
		"of the root":        {"files", func(op crashfs.Op, name string) bool { return op == crashfs.OpSyncDir && name == "." }},
		"of new parents":     {"files", func(op crashfs.Op, name string) bool { return op == crashfs.OpSyncDir && name == "objects/e.d" }},
		"of a single leaf":   {"files", func(op crashfs.Op, name string) bool { return op == crashfs.OpSyncDir && name == "objects/a.d" }},
		"of segments":        {"segments", inSegments},
		"of segments' names": {"segments", func(op crashfs.Op, name string) bool { return op == crashfs.OpSyncDir && name == "segments" }},
		"of files beside segments": {"both", func(op crashfs.Op, name string) bool {
			return op == crashfs.OpSyncDir && strings.HasPrefix(name, "objects")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			hook := func(op crashfs.Op, name string) error {
				if c.forgot(op, name) {
					return crashfs.ErrSkip
				}
				return nil
			}
			for seed := range uint64(300) {
				rnd := rand.New(rand.NewPCG(seed, 0))
				first, second := drawHistory(rnd.IntN, 8), drawHistory(rnd.IntN, 4)
				if err := crashEverywhere(t.Context(), layouts[c.layout], first, second, seed, hook); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error("nothing noticed")
		})
	}
}

// TestConcurrentChangesSurviveAPowerCut has several callers share directories,
// and so syncs, when the power goes.
func TestConcurrentChangesSurviveAPowerCut(t *testing.T) {
	for name, opt := range layouts {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(100) {
				concurrentCrash(t, opt, seed)
			}
		})
	}
}

func concurrentCrash(t *testing.T, opt dirblob.Options, seed uint64) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	fsys := crashfs.New()
	d, err := dirblob.OpenFS(t.Context(), fsys, opt)
	if err != nil {
		t.Fatal(err)
	}
	const workers = 6
	plans := make([]history, workers)
	states := make([]state, workers)
	for w := range plans {
		plans[w], states[w] = drawHistory(rnd.IntN, 6), state{}
		for i := range plans[w] {
			plans[w][i].key += fmt.Sprint(w) // its own keys, in the shared directories
			if plans[w][i].kind == "maintain" {
				plans[w][i].kind = "put"
			}
		}
	}
	fsys.CrashAt(rnd.IntN(200))
	var wg sync.WaitGroup
	run := func(f func() error) {
		wg.Go(func() {
			if err := f(); err != nil && !errors.Is(err, crashfs.ErrCrashed) {
				t.Error(err)
			}
		})
	}
	for w := range workers {
		run(func() error { return plans[w].runOn(t.Context(), d, states[w]) })
	}
	run(func() error {
		return errors.Join(d.Maintain(t.Context()), d.Maintain(t.Context()), d.Maintain(t.Context()))
	})
	wg.Wait()
	all := state{}
	for _, s := range states {
		maps.Copy(all, s)
	}
	if err := verify(t.Context(), fsys.Crash(rnd.IntN), opt, all); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
}
