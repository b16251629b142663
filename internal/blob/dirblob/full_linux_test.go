// SPDX-License-Identifier: Apache-2.0

package dirblob_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"panal/internal/blob/dirblob"
	"panal/internal/plat"
)

// TestDeleteOnAFullDisk: a disk without a free byte takes no more objects, but gives
// them up, small ones too, and has room again afterwards.
func TestDeleteOnAFullDisk(t *testing.T) {
	dir := smallDisk(t, "size=4m")
	d, err := dirblob.Open(t.Context(), filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	key := func(i int) string { return "key" + strings.Repeat("-", i) }
	for i := range 300 {
		if err := putText(t, d, key(i), "small"); err != nil {
			t.Fatal(err)
		}
	}
	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	for size := 64 << 10; size > 0; {
		if _, err := ballast.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	if err := ballast.Close(); err != nil {
		t.Fatal(err)
	}
	for err, i := error(nil), 0; !errors.Is(err, plat.ErrExhausted); i++ {
		if err = putText(t, d, "more", strings.Repeat("x", 1000)); i > 2000 { // the zeros of a segment take some
			t.Fatalf("the disk is not full: %v", err)
		}
	}
	for i := range 300 {
		if err := d.Delete(t.Context(), key(i)); err != nil {
			t.Fatalf("delete %d: %v", i, err)
		}
		mustRead(t, d, key(i), absent)
	}
	if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
		t.Fatal(err)
	}
	if err := putText(t, d, "more", "text"); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "blobs", "segments", "reserve")); err != nil || fi.Size() != 1<<20 {
		t.Errorf("the reserve is not back: %v", err)
	}
}

func smallDisk(t *testing.T, size string) string {
	t.Helper()
	if os.Getuid() != 0 && os.Getenv("CI") != "true" {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, size); err != nil {
		t.Fatalf("mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestRealDiskFull fills a small file system of the kernel's.
func TestRealDiskFull(t *testing.T) {
	dir := smallDisk(t, "size=3m")
	d, err := dirblob.Open(t.Context(), filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if err := putText(t, d, "old", "old"); err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("x", 4<<20)
	for _, key := range []string{"old", "new/one"} {
		if err := putText(t, d, key, big); !errors.Is(err, plat.ErrExhausted) {
			t.Errorf("Put(%q) = %v, want ErrExhausted", key, err)
		}
	}
	mustRead(t, d, "old", "old")
	mustRead(t, d, "new/one", absent)
	if left, err := os.ReadDir(filepath.Join(dir, "blobs", "tmp")); err != nil || len(left) > 0 {
		t.Errorf("tmp/ holds %v, %v", left, err)
	}
	if err := putText(t, d, "new/one", strings.Repeat("x", 256<<10)); err != nil {
		t.Errorf("a body that fits: %v", err)
	}
}
