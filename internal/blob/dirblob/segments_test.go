// SPDX-License-Identifier: Apache-2.0

package dirblob_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"panal/internal/blob"
	"panal/internal/blob/dirblob"
	"panal/internal/blob/dirblob/crashfs"
	"panal/internal/blob/dirblob/vfs"
	"panal/internal/plat"
)

// TestOneFailingOperationInAHistory fails each operation of a random history in turn,
// those of maintenance too: a put that fails changes nothing, and what was seen after
// the last change is there after a restart, and without the index.
func TestOneFailingOperationInAHistory(t *testing.T) {
	for name, opt := range layouts {
		for seed := range uint64(2 * thorough()) {
			for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
				for step, hit := 0, true; hit; step++ {
					var err error
					if hit, err = failOnce(t, opt, seed, step, errno); err != nil {
						t.Fatalf("%s, seed %d, %v at step %d: %v", name, seed, errno, step, err)
					}
				}
			}
		}
	}
}

func failOnce(t *testing.T, opt dirblob.Options, seed uint64, step int, errno syscall.Errno) (hit bool, err error) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 7))
	h := drawHistory(rnd.IntN, 14)
	fsys, s := crashfs.New(), state{}
	d := openAs(t, fsys, opt)
	n := 0
	fsys.SetHook(func(op crashfs.Op, _ string) error {
		if n++; n == step+1 {
			hit = true
			return &os.PathError{Op: string(op), Path: "x", Err: errno}
		}
		return nil
	})
	for _, c := range h {
		if c.kind == "restart" {
			continue
		}
		before := slices.Clone(s.of(c.key))
		err := c.apply(t.Context(), d, s)
		if err != nil && !errors.Is(err, errno) {
			return hit, fmt.Errorf("%+v: %w", c, err)
		}
		if c.kind == "maintain" {
			continue
		}
		if err != nil && c.kind != "delete" {
			s[c.key] = before
		}
		got, err := read(t.Context(), d, c.key)
		if errors.Is(err, plat.ErrNotFound) {
			got, err = absent, nil
		}
		if err != nil || !slices.Contains(s.of(c.key), got) {
			return hit, fmt.Errorf("after %+v: %q, %w; want one of %q", c, got, err, s.of(c.key))
		}
		s[c.key] = []string{got}
	}
	fsys.SetHook(nil)
	if err := d.Close(); err != nil {
		return hit, err
	}
	if err := verify(t.Context(), fsys, opt, s); err != nil {
		return hit, err
	}
	if err := loseIndex(fsys, rnd.IntN); err != nil {
		return hit, err
	}
	return hit, verify(t.Context(), fsys, opt, s)
}

// TestBitRotIsAnError flips a bit of each byte of a segment in turn: an object is
// read whole or with an error, with the index and without, and is never just missing.
// Only the last write may be taken for one that a power cut left half-written.
func TestBitRotIsAnError(t *testing.T) {
	opt := dirblob.Options{Reserve: -1, Ahead: 4 << 10, Manual: true}
	texts := map[string]string{}
	build := func() *crashfs.FS {
		fsys := crashfs.New()
		d := openAs(t, fsys, opt)
		for _, key := range []string{"a", "b/c", "d"} {
			texts[key] = strings.Repeat(key, 9)
			if err := putText(t, d, key, texts[key]); err != nil {
				t.Fatal(err)
			}
		}
		if err := putText(t, d, "last", "x"); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		return fsys
	}
	fi, err := build().Stat("segments/1.seg")
	if err != nil {
		t.Fatal(err)
	}
	for at := range fi.Size() {
		fsys := build()
		if err := fsys.Rot("segments/1.seg", at); err != nil {
			t.Fatal(err)
		}
		d, err := dirblob.OpenFS(t.Context(), fsys, opt)
		if err != nil {
			if !strings.Contains(err.Error(), "segment 1") {
				t.Errorf("byte %d: Open = %v: which segment?", at, err)
			}
			continue
		}
		for key, want := range texts {
			got, err := read(t.Context(), d, key)
			if err == nil && got != want || errors.Is(err, plat.ErrNotFound) {
				t.Errorf("byte %d: %q holds %q, %v", at, key, got, err)
			}
		}
		_ = d.Close()
	}
}

// withRuns returns a store that has runs of two tiers and a log behind them.
func withRuns(t *testing.T, opt dirblob.Options) (*crashfs.FS, state) {
	t.Helper()
	fsys, s := crashfs.New(), state{}
	d := openAs(t, fsys, opt)
	put := func(i int) {
		key := fmt.Sprintf("key/%02d", i)
		s[key] = []string{strings.Repeat(key, 3)}
		if err := putText(t, d, key, s[key][0]); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 30 {
		put(i)
		if i == 10 || i == 20 {
			if err := d.Maintain(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 5 {
		key := fmt.Sprintf("key/%02d", i*5)
		s[key] = []string{absent}
		if err := d.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return fsys, s
}

func runsOf(t *testing.T, fsys *crashfs.FS) (runs []string) {
	t.Helper()
	for _, n := range names(t, fsys, "segments") {
		if strings.HasSuffix(n, ".run") {
			runs = append(runs, n)
		}
	}
	if len(runs) < 2 {
		t.Fatalf("runs: %q", runs)
	}
	slices.Sort(runs)
	return runs
}

// TestRotInARun flips a bit of bytes all over the runs: what is read is right or an
// error, nothing is just missing, and a restart puts it right.
// A segment that somebody took away is no reason to begin again as if it had never been: the
// store does not open, and says what to do. Nothing is lost when it is put back.
func TestMissingSegment(t *testing.T) {
	dir := t.TempDir()
	opt := dirblob.Options{SegmentBytes: 2000, MemEntries: 4, Reserve: -1, Manual: true}
	d := openDir(t, dir, opt)
	for i := range 20 {
		if err := putText(t, d, fmt.Sprint("k", i), strings.Repeat("x", 300)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(d.Maintain(t.Context()), d.Close()); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "segments", "2.seg")
	if err := os.Rename(name, name+".away"); err != nil {
		t.Fatal(err)
	}
	fsys, err := vfs.NewOS(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := dirblob.OpenFS(t.Context(), fsys, opt); err == nil || !errors.Is(err, blob.ErrDamaged) || !strings.Contains(err.Error(), "segments/2.seg is missing") {
		if err == nil {
			_ = d.Close()
		}
		t.Fatalf("Open without a segment = %v", err)
	}
	if err := os.Rename(name+".away", name); err != nil {
		t.Fatal(err)
	}
	d = openDir(t, dir, opt)
	for i := range 20 {
		mustRead(t, d, fmt.Sprint("k", i), strings.Repeat("x", 300))
	}
	if err := errors.Join(d.Close(), os.Remove(name), os.Remove(filepath.Join(dir, "segments", "manifest"))); err != nil {
		t.Fatal(err)
	}
	d = openDir(t, dir, opt)
	left := 0
	for i := range 20 {
		if _, err := d.Stat(t.Context(), fmt.Sprint("k", i)); err == nil {
			left++
		}
	}
	if left < 10 || left == 20 {
		t.Errorf("%d of 20 objects without one segment and the manifest", left)
	}
}

func TestRotInARun(t *testing.T) {
	opt := dirblob.Options{MemEntries: 8, Reserve: -1, Ahead: 4 << 10, Manual: true}
	for which := range 2 {
		stride := int64(5)
		if thorough() > 1 {
			stride = 1
		}
		for at, more := int64(which), true; more; at += stride {
			fsys, s := withRuns(t, opt)
			name := runsOf(t, fsys)[which]
			fi, err := fsys.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			more = at+stride < fi.Size()
			if err := fsys.Rot(name, at); err != nil {
				t.Fatal(err)
			}
			d := openAs(t, fsys, opt)
			for key, want := range s {
				got, err := read(t.Context(), d, key)
				switch {
				case err == nil && got != want[0],
					errors.Is(err, plat.ErrNotFound) && want[0] != absent:
					t.Fatalf("%s, byte %d: %q holds %q, %v", name, at, key, got, err)
				}
			}
			if infos, _, err := d.List(t.Context(), "", "", 100); err == nil && len(infos) != 25 {
				t.Fatalf("%s, byte %d: %d are listed", name, at, len(infos))
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if err := verify(t.Context(), fsys, opt, s); err != nil {
				t.Fatalf("%s, byte %d: %v", name, at, err)
			}
		}
	}
}

// TestIndexMadeAnewIsCutAnywhere cuts the power at each step of Open while it makes the
// index anew, because of each of the runs, and of the manifest.
func TestIndexMadeAnewIsCutAnywhere(t *testing.T) {
	opt := dirblob.Options{MemEntries: 8, SegmentBytes: 700, Reserve: -1, Ahead: 2000, Manual: true}
	fsys, _ := withRuns(t, opt)
	for _, lost := range append(runsOf(t, fsys), "segments/manifest") {
		for step, cut := 0, true; cut; step++ {
			for seed := range uint64(thorough()) {
				rnd := rand.New(rand.NewPCG(seed, uint64(step)))
				fsys, s := withRuns(t, opt)
				if err := fsys.Rot(lost, 3); err != nil { // the first block
					t.Fatal(err)
				}
				if err := fsys.Truncate(lost, 20); err != nil {
					t.Fatal(err)
				}
				fsys.CrashAt(step)
				_, err := dirblob.OpenFS(t.Context(), fsys, opt)
				if cut = err != nil; cut && !errors.Is(err, crashfs.ErrCrashed) {
					t.Fatal(err)
				}
				if err := verify(t.Context(), fsys.Crash(rnd.IntN), opt, s); err != nil {
					t.Fatalf("%s, cut at step %d: %v", lost, step, err)
				}
			}
		}
	}
}

// TestCompactionKeepsWhatIsBesideDamage: a damaged record is an error that names the
// object, and all that lies in the same segment stays.
func TestCompactionKeepsWhatIsBesideDamage(t *testing.T) {
	const size = 20 + 32 + 2 + 50
	for at := int64(20); at < size; at++ {
		fsys := crashfs.New()
		d := openAs(t, fsys, dirblob.Options{SegmentBytes: 600, MemEntries: 4, Reserve: -1, Ahead: 2000, Manual: true})
		for round := range 3 {
			for i := range 6 {
				if round > 0 && i < 2 {
					continue // k0, k1 stay in the first segment
				}
				if err := putText(t, d, fmt.Sprint("k", i), strings.Repeat("x", 50)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := fsys.Rot("segments/1.seg", at); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := d.Maintain(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, _, err := blob.New(d).Open(t.Context(), "k0", 0, -1)
			if !errors.Is(err, blob.ErrDamaged) || !strings.Contains(err.Error(), "k0") {
				t.Fatalf("byte %d: Open of a damaged object = %v", at, err)
			}
			for i := 1; i < 6; i++ {
				mustRead(t, d, fmt.Sprint("k", i), strings.Repeat("x", 50))
			}
		}
	}
}

// TestOlderLayout: a directory of one file each, as the first version left it, is read
// and goes on.
func TestOlderLayout(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"format": "dirblob 1\n", "objects/a.o": "A", "objects/b.d/c.o": "C", "objects/d.o": "D"} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 3 {
		d, err := dirblob.Open(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"a": "A2", "b/c": "C", "d": absent, "e": "E"}
		if round == 0 {
			for key, text := range map[string]string{"a": "A", "b/c": "C", "d": "D"} {
				mustRead(t, d, key, text)
			}
			if err := d.Put(t.Context(), "b/c", strings.NewReader("x"), 1, blob.PutOptions{IfNoneMatch: true}); !errors.Is(err, plat.ErrExists) {
				t.Errorf("put if none match = %v", err)
			}
			if err := errors.Join(putText(t, d, "a", "A2"), putText(t, d, "e", "E"), d.Delete(t.Context(), "d")); err != nil {
				t.Fatal(err)
			}
		}
		for key, text := range want {
			mustRead(t, d, key, text)
		}
		infos, _, err := d.List(t.Context(), "", "", 10)
		if err != nil || len(infos) != 3 {
			t.Errorf("List = %+v, %v", infos, err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if round == 1 { // the index lost
			if err := os.Remove(filepath.Join(dir, "segments", "manifest")); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "format")); err != nil || string(b) != "dirblob 2\n" {
		t.Errorf("format: %q, %v", b, err)
	}
}
