// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"archive/zip"
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"panal/internal/plat"
	"panal/internal/x/archive"
)

func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if to, ok := strings.CutPrefix(text, "-> "); ok {
			if err := os.Symlink(to, p); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestPackIsTheSameEachTime: what is packed depends on names and contents, not on
// times, owners or the order in which a directory lists its files.
func TestPackIsTheSameEachTime(t *testing.T) {
	files := map[string]string{"train.py": "x", "pkg/a.py": "a", "pkg/b.py": "b", "link.py": "-> train.py"}
	skip := map[string]string{".git/config": "secret", "pkg/__pycache__/a.pyc": "c"}
	var packed [2]bytes.Buffer
	for i := range packed {
		dir := tree(t, files)
		if i == 1 {
			maps.Copy(files, skip)
			dir = tree(t, files)
			if err := os.Chtimes(filepath.Join(dir, "train.py"), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
		}
		if err := packTarGz(&packed[i], dir); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(packed[0].Bytes(), packed[1].Bytes()) {
		t.Error("two trees of the same files make different archives (or .git and __pycache__ are in)")
	}
	out := t.TempDir()
	root, err := os.OpenRoot(out)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	if err := archive.Unpack(root, bytes.NewReader(packed[1].Bytes()), int64(packed[1].Len()), archive.Limits{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"train.py": "x", "pkg/a.py": "a", "link.py": "x"} {
		if got, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(got) != want {
			t.Errorf("%s = %q, %v", name, got, err)
		}
	}
}

func TestPackRefuses(t *testing.T) {
	for what, dir := range map[string]string{
		"a link that leads out":   tree(t, map[string]string{"a": "x", "b": "-> ../../etc/passwd"}),
		"an absolute link":        tree(t, map[string]string{"a": "x", "b": "-> /etc/passwd"}),
		"nothing":                 tree(t, map[string]string{".git/config": "x"}),
		"a directory that is not": filepath.Join(t.TempDir(), "missing"),
	} {
		if err := packTarGz(&bytes.Buffer{}, dir); !errors.Is(err, plat.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	big := tree(t, map[string]string{"a": "x"})
	if err := os.Truncate(filepath.Join(big, "a"), maxPack+1); err != nil { // a hole: no disk is used
		t.Fatal(err)
	}
	if err := packTarGz(&bytes.Buffer{}, big); !errors.Is(err, plat.ErrInvalid) {
		t.Errorf("a tree that is too large: %v", err)
	}
}

func TestPackZip(t *testing.T) {
	var b bytes.Buffer
	if err := packZip(&b, tree(t, map[string]string{"m/weights": "w", "meta.json": "{}"})); err != nil {
		t.Fatal(err)
	}
	zr, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil || len(zr.File) != 2 || zr.File[0].Name != "m/weights" {
		t.Errorf("zip = %+v, %v", zr, err)
	}
}
