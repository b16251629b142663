// SPDX-License-Identifier: Apache-2.0

package dirblob_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"panal/internal/blob"
	"panal/internal/blob/dirblob"
	"panal/internal/blob/dirblob/crashfs"
	"panal/internal/blob/dirblob/vfs"
	"panal/internal/plat"
)

func openDir(t *testing.T, dir string, opt dirblob.Options) *dirblob.Driver {
	t.Helper()
	fsys, err := vfs.NewOS(dir)
	if err != nil {
		t.Fatal(err)
	}
	return openAs(t, fsys, opt)
}

func segmentFiles(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "segments", "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Bodies of every length around the borders, of a known length and of an unknown one, many
// at once: each range is read as it was written, before a restart and after, with
// the index and without.
func TestBodiesAroundTheBorders(t *testing.T) {
	const inline, small = 64 << 10, 1 << 20
	dir := t.TempDir()
	noise := make([]byte, small+2)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	lengths := []int{0, 1, inline - 1, inline, inline + 1, small / 2, small - 1, small, small + 1}
	body := func(i, n int) []byte { return noise[i%(len(noise)-n):][:n] }
	key := func(i, n int) string { return fmt.Sprintf("k%d/%d", i, n) }
	d := openDir(t, dir, dirblob.Options{})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for _, n := range lengths {
				size := int64(n)
				if i%2 == 1 {
					size = -1
				}
				if err := d.Put(t.Context(), key(i, n), bytes.NewReader(body(i, n)), size, blob.PutOptions{}); err != nil {
					t.Errorf("put %d bytes, %d declared: %v", n, size, err)
				}
			}
		})
	}
	wg.Wait()
	check := func() {
		t.Helper()
		for i := range 8 {
			for _, n := range lengths {
				for _, r := range [][2]int64{{0, -1}, {0, int64(n)}, {int64(n) / 3, 7}, {int64(n), -1}, {int64(n) / 2, 1 << 40}, {int64(n) + 5, -1}} {
					want := body(i, n)
					want = want[min(r[0], int64(n)):]
					if r[1] >= 0 {
						want = want[:min(r[1], int64(len(want)))]
					}
					rc, info, err := d.Open(t.Context(), key(i, n), r[0], r[1])
					if err != nil {
						t.Fatalf("%d bytes, range %v: %v", n, r, err)
					}
					got, err := io.ReadAll(rc)
					if err = errors.Join(err, rc.Close()); err != nil || !bytes.Equal(got, want) || info.Size != int64(n) {
						t.Errorf("%d bytes, range %v: %d bytes read, size %d, %v", n, r, len(got), info.Size, err)
					}
				}
			}
		}
	}
	check()
	files := 0
	err := filepath.WalkDir(filepath.Join(dir, "objects"), func(_ string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files++
		}
		return err
	})
	if err != nil || files != 8 {
		t.Errorf("%d files, %v; want those of more than 1 MiB alone", files, err)
	}
	for _, lose := range []bool{false, true} {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if lose {
			_ = os.Remove(filepath.Join(dir, "segments", "manifest"))
		}
		d = openDir(t, dir, dirblob.Options{})
		check()
	}
}

// Memory for bodies is bounded: an upload that finds none left, because others are slow,
// becomes a file and is not held up.
func TestSlowBodiesDoNotHoldOthers(t *testing.T) {
	opt := dirblob.Options{Small: 100, Inline: 10, Budget: 250, Manual: true}
	d := openDir(t, t.TempDir(), opt)
	text := strings.Repeat("x", 100)
	var slow []*io.PipeWriter
	var wg sync.WaitGroup
	for i := range 4 {
		pr, pw := io.Pipe()
		slow = append(slow, pw)
		wg.Go(func() {
			if err := d.Put(t.Context(), fmt.Sprint("slow", i), pr, 100, blob.PutOptions{}); err != nil {
				t.Error(err)
			}
		})
		if _, err := pw.Write([]byte(text[:50])); err != nil { // it has been taken up
			t.Fatal(err)
		}
	}
	for i := range 10 {
		if err := putText(t, d, fmt.Sprint("quick", i), text); err != nil {
			t.Fatal(err)
		}
		mustRead(t, d, fmt.Sprint("quick", i), text)
	}
	for _, pw := range slow {
		if _, err := pw.Write([]byte(text[50:])); err != nil {
			t.Fatal(err)
		}
		_ = pw.Close()
	}
	wg.Wait()
	for i := range slow {
		mustRead(t, d, fmt.Sprint("slow", i), text)
	}
}

// A body that stands apart stays readable to who has opened it, also when it was
// deleted and compaction has removed its segment.
func TestApartReaderOutlivesItsSegment(t *testing.T) {
	dir := t.TempDir()
	d := openDir(t, dir, dirblob.Options{Inline: 10, SegmentBytes: 2000, Reserve: -1, Manual: true})
	text := strings.Repeat("0123456789", 60)
	for _, k := range []string{"a", "b", "c", "d"} {
		if err := putText(t, d, k, text); err != nil {
			t.Fatal(err)
		}
	}
	rc, _, err := d.Open(t.Context(), "a", 5, 200)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"a", "b", "c"} {
		if err := d.Delete(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	if err := putText(t, d, "e", text); err != nil {
		t.Fatal(err)
	}
	if err := d.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "segments", "1.seg")); !os.IsNotExist(err) {
		t.Fatalf("the segment is still there: %v", err)
	}
	got, err := io.ReadAll(rc)
	if err = errors.Join(err, rc.Close()); err != nil || string(got) != text[5:205] {
		t.Errorf("%q, %v", got, err)
	}
	mustRead(t, d, "d", text)
	mustRead(t, d, "a", absent)
}

// What is deleted takes room until most of its segment is dead, but when it is to go at once:
// then it goes from each segment, also from the one that is written to, and all else stays.
func TestReclaim(t *testing.T) {
	dir := t.TempDir()
	d := openDir(t, dir, dirblob.Options{SegmentBytes: 20_000, Reserve: -1, Manual: true})
	text := func(i int) string { return strings.Repeat(fmt.Sprintf("%03d;", i), 100) }
	const n = 200
	for i := range n {
		if err := putText(t, d, fmt.Sprint("k", i), text(i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < n; i += 5 {
		if err := d.Delete(t.Context(), fmt.Sprint("k", i)); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (found int) {
		for _, f := range segmentFiles(t, dir) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < n; i += 5 {
				found += bytes.Count(b, []byte(text(i)))
			}
		}
		return found
	}
	maintain := func() {
		if err := d.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if maintain(); left() != n/5 {
		t.Errorf("%d deleted bodies are on disk, of %d: there is nothing to test", left(), n/5)
	}
	d.Reclaim()
	if maintain(); left() != 0 {
		t.Errorf("%d deleted bodies are still on disk", left())
	}
	check := func() {
		for i := range n {
			want := text(i)
			if i%5 == 0 {
				want = absent
			}
			mustRead(t, d, fmt.Sprint("k", i), want)
		}
	}
	check()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = openDir(t, dir, dirblob.Options{SegmentBytes: 20_000, Reserve: -1, Manual: true})
	check()
}

// Damage of what stands before a body apart is an error that names the object. Damage
// of the body is found by compaction, which leaves the segment.
func TestRotApart(t *testing.T) {
	const head = int64(20 + 32 + len("k0"))
	text := strings.Repeat("x", 50)
	for at := int64(20); at < head+3; at++ {
		fsys := crashfs.New()
		d := openAs(t, fsys, dirblob.Options{Inline: 8, SegmentBytes: 600, MemEntries: 4, Reserve: -1, Ahead: 2000, Manual: true})
		for i := range 8 {
			if err := putText(t, d, fmt.Sprint("k", i), text); err != nil {
				t.Fatal(err)
			}
		}
		if err := fsys.Rot("segments/1.seg", at); err != nil {
			t.Fatal(err)
		}
		for i := 2; i < 8; i++ { // so that the first segment is mostly dead
			if err := d.Delete(t.Context(), fmt.Sprint("k", i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustRead(t, d, "k1", text)
		_, _, err := blob.New(d).Open(t.Context(), "k0", 0, -1)
		if at < head && (err == nil || errors.Is(err, plat.ErrNotFound) || !strings.Contains(err.Error(), "k0")) {
			t.Fatalf("byte %d: Open of a damaged object = %v", at, err)
		}
		if _, err := fsys.Stat("segments/1.seg"); err != nil {
			t.Errorf("byte %d: the damaged segment is gone: %v", at, err)
		}
	}
}
