// SPDX-License-Identifier: Apache-2.0

package archive_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"panal/internal/x/archive"
)

type entry struct {
	name, body, link string
	kind             byte // a tar type flag; 0 is a file
	mode             int64
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: e.mode, Size: int64(len(e.body)), Format: tar.FormatPAX}
		if e.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if e.mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzOf(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zipOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		mode := fs.FileMode(e.mode)
		if mode == 0 {
			mode = 0o644
		}
		switch e.kind {
		case tar.TypeSymlink:
			mode |= fs.ModeSymlink
			e.body = e.link
		case tar.TypeChar:
			mode |= fs.ModeDevice
		case tar.TypeDir:
			mode |= fs.ModeDir
		}
		h.SetMode(mode)
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if e.kind != tar.TypeDir {
			if _, err := io.WriteString(f, e.body); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func check(b []byte, lim archive.Limits) error {
	return archive.Check(bytes.NewReader(b), int64(len(b)), lim)
}

// unpack unpacks into a directory of its own inside an outer one, and fails when
// anything but that directory appears in the outer one.
func unpack(t testing.TB, b []byte, lim archive.Limits) (string, error) {
	t.Helper()
	outer := t.TempDir()
	dir := filepath.Join(outer, "in")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	err = archive.Unpack(root, bytes.NewReader(b), int64(len(b)), lim)
	names, rerr := os.ReadDir(outer)
	if rerr != nil || len(names) != 1 {
		t.Fatalf("outside the root there is now %v (%v)", names, rerr)
	}
	return dir, err
}

func TestUnpackGood(t *testing.T) {
	entries := []entry{
		{name: "./train.py", body: "print(1)"},
		{name: "pkg", kind: tar.TypeDir},
		{name: "pkg/__init__.py"},
		{name: "deep/er/x.bin", body: strings.Repeat("x", 100_000), mode: 0o755},
		{name: "deep/link", kind: tar.TypeSymlink, link: "../pkg/__init__.py"},
		{name: "suid", body: "s", mode: 0o4755},
		{name: "A.py", body: "upper"},
		{name: "a.py", body: "lower"},
	}
	for name, b := range map[string][]byte{
		"tar": tarOf(t, entries...), "tar.gz": gzOf(t, tarOf(t, entries...)), "zip": zipOf(t, entries...),
	} {
		t.Run(name, func(t *testing.T) {
			if err := check(b, archive.Limits{RefuseEmpty: true}); err != nil {
				t.Fatal(err)
			}
			dir, err := unpack(t, b, archive.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			for file, want := range map[string]string{"train.py": "print(1)", "pkg/__init__.py": "", "deep/link": "", "A.py": "upper", "a.py": "lower"} {
				got, err := os.ReadFile(filepath.Join(dir, file))
				if err != nil || string(got) != want {
					t.Errorf("%s = %q, %v; want %q", file, got, err, want)
				}
			}
			info, err := os.Stat(filepath.Join(dir, "suid"))
			if err != nil || info.Mode() != 0o755 {
				t.Errorf("suid has mode %v, %v; want 0755 and no set-id bit", info.Mode(), err)
			}
			if info, err = os.Lstat(filepath.Join(dir, "deep/link")); err != nil || info.Mode()&fs.ModeSymlink == 0 {
				t.Errorf("deep/link is %v, %v; want a link", info, err)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	small := archive.Limits{Entries: 5, FileBytes: 1000, TotalBytes: 2000}
	long := strings.Repeat("a", 300)
	cases := map[string][]entry{
		"absolute":         {{name: "/etc/x", body: "x"}},
		"dotdot":           {{name: "../x", body: "x"}},
		"dotdot inside":    {{name: "a/../../x", body: "x"}},
		"dotdot harmless":  {{name: "a/../x", body: "x"}},
		"backslash":        {{name: `..\x`, body: "x"}},
		"long part":        {{name: long, body: "x"}},
		"long name":        {{name: strings.Repeat("abcdefghi/", 110) + "x", body: "x"}},
		"deep":             {{name: strings.Repeat("a/", 70) + "x", body: "x"}},
		"twice":            {{name: "x", body: "1"}, {name: "x", body: "2"}},
		"twice by dot":     {{name: "x", body: "1"}, {name: "./x", body: "2"}},
		"file as dir":      {{name: "x", body: "1"}, {name: "x/y", body: "2"}},
		"dir as file":      {{name: "x/y", body: "1"}, {name: "x", body: "2"}},
		"through link":     {{name: "l", kind: tar.TypeSymlink, link: "/tmp"}, {name: "l/x", body: "x"}},
		"over link":        {{name: "l", kind: tar.TypeSymlink, link: "/tmp/x"}, {name: "l", body: "x"}},
		"device":           {{name: "null", kind: tar.TypeChar}},
		"one large file":   {{name: "x", body: strings.Repeat("0", 1001)}},
		"large altogether": {{name: "x", body: strings.Repeat("0", 900)}, {name: "y", body: strings.Repeat("0", 900)}, {name: "z", body: strings.Repeat("0", 900)}},
		"too many":         {{name: "1"}, {name: "2"}, {name: "3"}, {name: "4"}, {name: "5"}, {name: "6"}},
	}
	for name, entries := range cases {
		for format, b := range map[string][]byte{"tgz": gzOf(t, tarOf(t, entries...)), "zip": zipOf(t, entries...)} {
			t.Run(name+"/"+format, func(t *testing.T) {
				if err := check(b, small); !errors.Is(err, archive.ErrRefused) {
					t.Errorf("Check = %v, want ErrRefused", err)
				}
				if _, err := unpack(t, b, small); !errors.Is(err, archive.ErrRefused) {
					t.Errorf("Unpack = %v, want ErrRefused", err)
				}
			})
		}
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "text": []byte("hello, I am no archive at all"), "cut gzip": gzOf(t, tarOf(t, entry{name: "x", body: "xyz"}))[:40],
		"cut zip":       zipOf(t, entry{name: "x", body: "xyz"})[:30],
		"hard link out": tarOf(t, entry{name: "h", kind: tar.TypeLink, link: "../../etc/passwd"}),
		"hard link to a link": tarOf(t, entry{name: "l", kind: tar.TypeSymlink, link: "/etc/passwd"},
			entry{name: "h", kind: tar.TypeLink, link: "l"}),
		"fifo": tarOf(t, entry{name: "f", kind: tar.TypeFifo}),
	} {
		t.Run(name, func(t *testing.T) {
			if err := check(b, archive.Limits{}); !errors.Is(err, archive.ErrRefused) {
				t.Errorf("Check = %v, want ErrRefused", err)
			}
		})
	}
}

func TestLinksThatLeadOutAreLeftOut(t *testing.T) {
	b := tarOf(t,
		entry{name: "d/real", body: "x"},
		entry{name: "abs", kind: tar.TypeSymlink, link: "/etc/passwd"},
		entry{name: "up", kind: tar.TypeSymlink, link: "../../x"},
		entry{name: "d/x", kind: tar.TypeSymlink, link: ".."},       // the root itself: inside
		entry{name: "chain", kind: tar.TypeSymlink, link: "d/x/.."}, // by the letter inside, by the kernel outside
		entry{name: "tolink", kind: tar.TypeSymlink, link: "chain"},
		entry{name: "dangling", kind: tar.TypeSymlink, link: "nothing"},
		entry{name: "hard", kind: tar.TypeLink, link: "d/real"},
	)
	dir, err := unpack(t, b, archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"abs", "up", "tolink", "dangling"} {
		if _, err := os.Lstat(filepath.Join(dir, gone)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was made (%v)", gone, err)
		}
	}
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		real, err := filepath.EvalSymlinks(p)
		if err != nil {
			return err
		}
		if real != dir && !strings.HasPrefix(real, dir+"/") {
			t.Errorf("%s leads to %s", p, real)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "hard")); err != nil || string(got) != "x" {
		t.Errorf("hard link = %q, %v", got, err)
	}
}

// A small archive that claims little and inflates to much is stopped by what
// really comes out.
// TestGzipIsWhole: a tar ends before its gzip stream does, and what is cut or broken
// there shows only to who reads on.
func TestGzipIsWhole(t *testing.T) {
	tarred := tarOf(t, entry{name: "a.py", body: strings.Repeat("x", 5000)})
	whole := gzOf(t, tarred)
	flipped := bytes.Clone(whole)
	flipped[len(flipped)-8] ^= 1 // the checksum
	for what, b := range map[string][]byte{
		"cut": whole[:len(whole)-4], "flipped": flipped, "garbage behind": append(bytes.Clone(whole), "garbage"...),
		"a bomb behind": gzOf(t, append(bytes.Clone(tarred), make([]byte, 17<<20)...)),
	} {
		if err := archive.Check(bytes.NewReader(b), int64(len(b)), archive.Limits{}); !errors.Is(err, archive.ErrRefused) {
			t.Errorf("%s: %v, want ErrRefused", what, err)
		}
	}
	padded := gzOf(t, append(bytes.Clone(tarred), make([]byte, 10<<10)...))
	for what, b := range map[string][]byte{"whole": whole, "padded": padded} {
		if err := archive.Check(bytes.NewReader(b), int64(len(b)), archive.Limits{}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestZipBomb(t *testing.T) {
	zeros := string(make([]byte, 8<<20))
	for name, b := range map[string][]byte{"zip": zipOf(t, entry{name: "bomb", body: zeros}), "tgz": gzOf(t, tarOf(t, entry{name: "bomb", body: zeros}))} {
		if len(b) > 100_000 {
			t.Fatalf("%s: the bomb is %d bytes itself", name, len(b))
		}
		dir, err := unpack(t, b, archive.Limits{FileBytes: 1 << 20})
		if !errors.Is(err, archive.ErrRefused) {
			t.Errorf("%s: %v, want ErrRefused", name, err)
		}
		if info, err := os.Stat(filepath.Join(dir, "bomb")); err != nil || info.Size() > 1<<20+1 {
			t.Errorf("%s: wrote %v bytes (%v)", name, info.Size(), err)
		}
	}
}

func TestEmpty(t *testing.T) {
	for name, b := range map[string][]byte{"zip": zipOf(t), "tgz": gzOf(t, tarOf(t))} {
		if err := check(b, archive.Limits{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := check(b, archive.Limits{RefuseEmpty: true}); !errors.Is(err, archive.ErrRefused) {
			t.Errorf("%s: %v, want ErrRefused", name, err)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	es := []entry{{name: "a/b.py", body: "x"}, {name: "l", kind: tar.TypeSymlink, link: "a"}, {name: "c", mode: 0o4755}}
	f.Add(tarOf(f, es...))
	f.Add(gzOf(f, tarOf(f, es...)))
	f.Add(zipOf(f, es...))
	f.Fuzz(func(t *testing.T, b []byte) {
		lim := archive.Limits{Entries: 50, FileBytes: 1 << 16, TotalBytes: 1 << 18}
		cerr := check(b, lim)
		dir, err := unpack(t, b, lim)
		if (cerr == nil) != (err == nil) && errors.Is(err, archive.ErrRefused) {
			t.Fatalf("Check says %v, Unpack %v", cerr, err)
		}
		var total int64
		_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Lstat(p)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeDevice|fs.ModeNamedPipe) != 0 {
				t.Fatalf("%s has mode %v", p, info.Mode())
			}
			if info.Mode().IsRegular() {
				total += info.Size()
			}
			if real, err := filepath.EvalSymlinks(p); err == nil && real != dir && !strings.HasPrefix(real, dir+"/") {
				t.Fatalf("%s leads to %s", p, real)
			}
			return nil
		})
		if total > 50*(1<<18) {
			t.Fatalf("wrote %d bytes", total)
		}
	})
}
