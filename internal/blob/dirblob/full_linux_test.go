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

// TestRealDiskFull fills a small file system of the kernel's.
func TestRealDiskFull(t *testing.T) {
	if os.Getuid() != 0 && os.Getenv("CI") != "true" {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	d, err := dirblob.Open(t.Context(), filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if err := putText(t, d, "old", "old"); err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("x", 2<<20)
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
