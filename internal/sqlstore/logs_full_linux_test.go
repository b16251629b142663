// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"panal/internal/sqlstore"
)

// TestLogsFullDisk does it on a real file system that is full, write-ahead log
// and all.
func TestLogsFullDisk(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") != "true" {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 20<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := sqlstore.OpenLogFiles(t.Context(), filepath.Join(dir, "logs"), openLogFile)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	fill(t, store, func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	})
}
