// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"panal/internal/plat"
)

// TestBackupDestination: a backup is written beside its installation, replaces nothing,
// and appears when it is whole.
func TestBackupDestination(t *testing.T) {
	root := t.TempDir()
	data := filepath.Join(root, "data")
	if err := errors.Join(os.MkdirAll(filepath.Join(data, "uploads"), 0o700), os.Mkdir(filepath.Join(root, "data-copies"), 0o700),
		os.Symlink(data, filepath.Join(root, "link"))); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]error{
		"data/b.tar": plat.ErrInvalid, "data/uploads/b.tar": plat.ErrInvalid, "data-copies/../data/b.tar": plat.ErrInvalid,
		"link/uploads/b.tar": plat.ErrInvalid, "missing/b.tar": plat.ErrInvalid, "b.tar": nil, "data-copies/b.tar": nil,
	} {
		for _, of := range []string{data, filepath.Join(root, "link")} {
			if err := outside(filepath.Join(root, file), of); !errors.Is(err, want) {
				t.Errorf("to %s of %s: %v, want %v", file, of, err, want)
			}
		}
	}
	if err := outside(filepath.Join(root, "b.tar"), filepath.Join(root, "no data")); err != nil {
		t.Errorf("beside a directory that is not there: %v", err)
	}

	broken := errors.New("broken off")
	to := filepath.Join(root, "data-copies", "b.tar")
	half := func(err error) error {
		return newFile(to, func(w io.Writer) error {
			_, failed := io.WriteString(w, "half")
			return errors.Join(failed, err)
		})
	}
	if err := half(broken); !errors.Is(err, broken) {
		t.Errorf("a backup that is broken off: %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(to)); err != nil || len(left) > 0 {
		t.Errorf("%v is left of it, %v", left, err)
	}
	if err := half(nil); err != nil {
		t.Error(err)
	}
	if err := half(nil); !errors.Is(err, plat.ErrConflict) {
		t.Errorf("over one that is there: %v", err)
	}
	if b, err := os.ReadFile(to); err != nil || string(b) != "half" {
		t.Errorf("it has %q then, %v", b, err)
	}
}
