// SPDX-License-Identifier: Apache-2.0

package dirblob_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"panal/internal/blob"
	"panal/internal/blob/dirblob"
	"panal/internal/blob/dirblob/crashfs"
	"panal/internal/blob/dirblob/vfs"
	"panal/internal/plat"
)

// names returns every name below dir, as paths.
func names(t *testing.T, fsys vfs.FS, dir string) []string {
	t.Helper()
	var all []string
	err := fsys.ReadNames(dir, func(batch []string) error {
		for _, n := range batch {
			n = dir + "/" + n
			all = append(all, n)
			if fi, err := fsys.Stat(n); err == nil && fi.IsDir() {
				all = append(all, names(t, fsys, n)...)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func putText(t *testing.T, d *dirblob.Driver, key, text string) error {
	t.Helper()
	return d.Put(t.Context(), key, strings.NewReader(text), int64(len(text)), blob.PutOptions{})
}

func mustRead(t *testing.T, d *dirblob.Driver, key, want string) {
	t.Helper()
	got, err := read(t.Context(), d, key)
	if errors.Is(err, plat.ErrNotFound) {
		got, err = absent, nil
	}
	if err != nil || got != want {
		t.Errorf("%q holds %.20q (%d bytes), %v; want %.20q", key, got, len(got), err, want)
	}
}

// TestDiskFullAnywhere runs out of space after every possible number of bytes.
func TestDiskFullAnywhere(t *testing.T) {
	for name, opt := range layouts {
		t.Run(name, func(t *testing.T) { diskFullAnywhere(t, opt) })
	}
}

func diskFullAnywhere(t *testing.T, opt dirblob.Options) {
	t.Helper()
	text := strings.Repeat("x", 40)
	for quota := range int64(len(text)) {
		fsys := crashfs.New()
		d := openAs(t, fsys, opt)
		if err := putText(t, d, "old", "old"); err != nil {
			t.Fatal(err)
		}
		fsys.SetQuota(quota)
		for _, key := range []string{"old", "new", "some/where/new"} {
			if err := putText(t, d, key, text); !errors.Is(err, plat.ErrExhausted) {
				t.Fatalf("quota %d: Put(%q) = %v, want ErrExhausted", quota, key, err)
			}
		}
		if left := names(t, fsys, "tmp"); len(left) > 0 {
			t.Errorf("quota %d: left in tmp/: %q", quota, left)
		}
		mustRead(t, d, "old", "old")
		mustRead(t, d, "new", absent)
		fsys.SetQuota(-1)
		if err := putText(t, d, "some/where/new", text); err != nil {
			t.Errorf("Put with space again = %v", err)
		}
		mustRead(t, d, "some/where/new", text)
	}
}

// TestOneFailingOperation fails each operation of a put in turn: the put fails
// and leaves what was there, or the failure did not matter and it is stored.
func TestOneFailingOperation(t *testing.T) {
	for name, opt := range layouts {
		t.Run(name, func(t *testing.T) { oneFailingOperation(t, opt) })
	}
}

func oneFailingOperation(t *testing.T, opt dirblob.Options) {
	t.Helper()
	for _, c := range []struct {
		name string
		errs syscall.Errno
		kind error
	}{
		{"disk full", syscall.ENOSPC, plat.ErrExhausted},
		{"quota", syscall.EDQUOT, plat.ErrExhausted},
		{"too many files", syscall.EMFILE, plat.ErrUnavailable},
		{"disk broken", syscall.EIO, nil},
	} {
		for _, before := range []string{absent, "old"} {
			for step, passed := 0, false; !passed; step++ {
				fsys := crashfs.New()
				d := openAs(t, fsys, opt)
				if before != absent {
					if err := putText(t, d, "a/b", before); err != nil {
						t.Fatal(err)
					}
				}
				n, hit := 0, crashfs.Op("")
				fsys.SetHook(func(op crashfs.Op, _ string) error {
					if n++; n == step+1 {
						hit = op
						return &os.PathError{Op: string(op), Path: "x", Err: c.errs}
					}
					return nil
				})
				err := putText(t, d, "a/b", "new")
				fsys.SetHook(nil)
				passed = hit == ""
				if err == nil {
					mustRead(t, d, "a/b", "new")
					zeros := hit == crashfs.OpWrite && c.kind == plat.ErrExhausted && opt.Ahead > 0 //nolint:errorlint // the sentinel itself
					if hit != "" && hit != crashfs.OpLink && hit != crashfs.OpRemove && !zeros {
						t.Errorf("%s: Put succeeded although %s failed", c.name, hit)
					}
					continue
				}
				if !errors.Is(err, c.errs) || plat.KindOf(err) != c.kind { //nolint:errorlint // KindOf returns the sentinel itself, or nil
					t.Errorf("%s in %s: Put = %v, want kind %v", c.name, hit, err, c.kind)
				}
				mustRead(t, d, "a/b", before)
				if left := names(t, fsys, "tmp"); len(left) > 0 {
					t.Errorf("%s in %s: left in tmp/: %q", c.name, hit, left)
				}
				if err := putText(t, d, "a/b", "later"); err != nil {
					t.Errorf("%s in %s: a later Put = %v", c.name, hit, err)
				}
			}
		}
	}
}

func TestOpenRemovesWhatWasLeft(t *testing.T) {
	dir := t.TempDir()
	d, err := dirblob.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := putText(t, d, "k", "x"); err != nil {
		t.Fatal(err)
	}
	// A process that ends in the middle of a put.
	if err := os.WriteFile(filepath.Join(dir, "tmp", "abandoned"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = dirblob.Open(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	mustRead(t, d, "k", "x")
	if left, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("tmp/ holds %v, %v", left, err)
	}
}

func TestOpenMakesParents(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b", "c")
	d, err := dirblob.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := putText(t, d, "k", "x"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dir, dir + "/objects", dir + "/segments", dir + "/segments/1.seg"} {
		fi, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v: others may enter", name, fi.Mode())
		}
	}
}

func TestOpenRefusesAnotherFormat(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "format"), []byte("dirblob 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := dirblob.Open(t.Context(), dir); !errors.Is(err, plat.ErrUnsupported) {
		t.Errorf("Open = %v, want ErrUnsupported", err)
	}
	file := filepath.Join(dir, "format")
	if _, err := dirblob.Open(t.Context(), file); err == nil {
		t.Error("Open of a file succeeded")
	}
}

func TestDeleteLeavesNoDirectories(t *testing.T) {
	fsys := crashfs.New()
	d := open(t, fsys)
	keys := []string{"a/b/c/d", "a/b/x", strings.Repeat("y", 900) + "/z"}
	for _, key := range keys {
		if err := putText(t, d, key, "x"); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range keys {
		if err := d.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if left := names(t, fsys, "objects"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestNamesFitAnyFileSystem: short enough, ASCII, and the same in lower case.
func TestNamesFitAnyFileSystem(t *testing.T) {
	fsys := crashfs.New()
	d := open(t, fsys)
	for _, key := range []string{
		strings.Repeat("X", 1024), strings.Repeat("x", 1024), strings.Repeat("日", 341), "ÀÉ/Z", "a\\b:c*d?e", " ", "con/A.b",
		strings.Repeat("aA", 512), strings.Repeat("é/", 341) + "a",
	} {
		if err := putText(t, d, key, "x"); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range names(t, fsys, "objects") {
		name := filepath.Base(path)
		if len(name) > 242 || strings.ToLower(name) != name || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.=%") != "" {
			t.Errorf("name %q", name)
		}
		if len(path) > 3200 {
			t.Errorf("a path has %d bytes", len(path))
		}
	}
}

// TestForeignNamesAreNotObjects: what is not ours is neither listed nor touched.
func TestForeignNamesAreNotObjects(t *testing.T) {
	dir := t.TempDir()
	d, err := dirblob.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := putText(t, d, "a", "x"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"A.o", "lost+found", "a", "a.o~", ".DS_Store", "%2.o", "%zz.o", "%2F.o", "%41.o", "%61.o", "=.o", "=A.o", "o", "",
		strings.Repeat("x", 238) + ".o", "x.c", strings.Repeat("x", 239) + ".c", "\xff.o",
	} {
		if name == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "objects", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	infos, more, err := d.List(t.Context(), "", "", 100)
	if err != nil || more {
		t.Fatal(more, err)
	}
	var keys []string
	for _, i := range infos {
		keys = append(keys, i.Key)
	}
	if diff := cmp.Diff([]string{"a"}, keys); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
}

// TestATruncatedFileIsNotAnEnd: bytes lost under us are an error of the read.
func TestATruncatedFileIsNotAnEnd(t *testing.T) {
	dir := t.TempDir()
	fsys, err := vfs.NewOS(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := open(t, fsys)
	if err := putText(t, d, "k", "0123456789"); err != nil {
		t.Fatal(err)
	}
	for name, copyOut := range map[string]func(io.Reader) error{
		"Read":    func(r io.Reader) error { _, err := io.ReadAll(r); return err },
		"WriteTo": func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err },
	} {
		rc, _, err := d.Open(t.Context(), "k", 2, -1)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(dir, "objects", "k.o"), 5); err != nil {
			t.Fatal(err)
		}
		if err := copyOut(rc); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s = %v, want ErrUnexpectedEOF", name, err)
		}
		_ = rc.Close()
		if err := putText(t, d, "k", "0123456789"); err != nil {
			t.Fatal(err)
		}
	}
}
