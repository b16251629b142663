// SPDX-License-Identifier: Apache-2.0

package sqlite_test

import (
	"os"
	"path/filepath"
	"testing"

	"panal/internal/sqlstore/sqlite"
)

// TestFilesArePrivate: tokens' hashes and everybody's metadata are in there; the mode
// must not depend on the directory's or on the umask.
func TestFilesArePrivate(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(dir, "old.db")
	if err := os.WriteFile(old, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "new.db"), old} {
		db, err := sqlite.Open(t.Context(), path, "outbox")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
	}
	all, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(all) < 4 { // each with its journal
		t.Fatal(all, err)
	}
	for _, path := range all {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, fi.Mode())
		}
	}
}
