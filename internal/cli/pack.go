// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"panal/internal/plat"
)

// maxPack bounds what a directory may hold before it is packed.
const maxPack = 1 << 30

// skipped tells whether a directory never belongs into an archive of code.
func skipped(name string) bool { return name == ".git" || name == "__pycache__" }

// source returns a function that writes the code at name: a directory as tar.gz,
// a zip or tar.gz file as it is.
func source(name string) (func(io.Writer) error, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, plat.InvalidField("source", "%v", err)
	}
	if info.IsDir() {
		return func(w io.Writer) error { return packTarGz(w, name) }, nil
	}
	return file(name), nil
}

// artifact is source for models: a directory becomes a zip.
func artifact(name string) (func(io.Writer) error, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, plat.InvalidField("source", "%v", err)
	}
	if info.IsDir() {
		return func(w io.Writer) error { return packZip(w, name) }, nil
	}
	return file(name), nil
}

func file(name string) func(io.Writer) error {
	return func(w io.Writer) error {
		f, err := os.Open(filepath.Clean(name))
		if err != nil {
			return plat.InvalidField("source", "%v", err)
		}
		defer func() { _ = f.Close() }()
		_, err = io.Copy(w, f)
		return err
	}
}

// walk calls add for every file and link below dir, in byte order of the path, and
// holds them to maxPack. Two walks of the same tree are the same: what is packed
// depends on names, contents and the executable bit only.
func walk(dir string, add func(name string, info fs.FileInfo, body io.Reader, link string) error) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return plat.InvalidField("source", "%v", err)
	}
	defer func() { _ = root.Close() }()
	total, files := int64(0), 0
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return plat.InvalidField("source", "%v", err)
		case d.IsDir():
			if skipped(d.Name()) {
				return fs.SkipDir
			}
			return nil
		case d.Type() == fs.ModeSymlink:
			to, err := root.Readlink(name)
			if err != nil {
				return plat.InvalidField("source", "%v", err)
			}
			if target := path.Join(path.Dir(name), to); filepath.IsAbs(to) || target == ".." || strings.HasPrefix(target, "../") {
				return plat.InvalidField("source", "the link %s leads out of %s; put a copy in its place", name, dir)
			}
			return add(name, nil, nil, to)
		case !d.Type().IsRegular():
			return plat.InvalidField("source", "%s is neither file, directory nor link", name)
		}
		f, err := root.Open(name)
		if err != nil {
			return plat.InvalidField("source", "%v", err)
		}
		defer func() { _ = f.Close() }()
		info, err := f.Stat()
		if err != nil {
			return plat.InvalidField("source", "%v", err)
		}
		files++
		if total += info.Size(); total > maxPack {
			return plat.InvalidField("source", "%s holds more than %d MiB; leave data out of the code (use a dataset)", dir, maxPack>>20)
		}
		return add(name, info, f, "")
	})
	if err == nil && files == 0 {
		return plat.InvalidField("source", "%s holds no file", dir)
	}
	return err
}

// exact copies a file's length and no more: it may grow meanwhile.
func exact(w io.Writer, name string, body io.Reader, size int64) error {
	if _, err := io.CopyN(w, body, size); errors.Is(err, io.EOF) {
		return plat.InvalidField("source", "%s became shorter while it was read", name)
	} else if err != nil {
		return err
	}
	return nil
}

func perm(info fs.FileInfo) fs.FileMode {
	if info.Mode()&0o100 != 0 {
		return 0o755
	}
	return 0o644
}

// packTarGz writes the tree as tar.gz, the same bytes each time.
func packTarGz(w io.Writer, dir string) error {
	gz := gzip.NewWriter(w)
	tw := tar.NewWriter(gz)
	err := walk(dir, func(name string, info fs.FileInfo, body io.Reader, link string) error {
		h := &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: link, Mode: 0o777, ModTime: time.Unix(0, 0)}
		if link == "" {
			h.Typeflag, h.Size, h.Mode = tar.TypeReg, info.Size(), int64(perm(info))
		}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("pack %s: %w", name, err)
		}
		if link != "" {
			return nil
		}
		return exact(tw, name, body, info.Size())
	})
	if err != nil {
		return err
	}
	return errors.Join(tw.Close(), gz.Close())
}

// packZip writes the tree as zip, the same bytes each time.
func packZip(w io.Writer, dir string) error {
	zw := zip.NewWriter(w)
	err := walk(dir, func(name string, info fs.FileInfo, body io.Reader, link string) error {
		if link != "" {
			return plat.InvalidField("source", "%s is a link; a model holds files only", name)
		}
		h := &zip.FileHeader{Name: name, Method: zip.Deflate}
		h.SetMode(perm(info))
		f, err := zw.CreateHeader(h)
		if err != nil {
			return fmt.Errorf("pack %s: %w", name, err)
		}
		return exact(f, name, body, info.Size())
	})
	if err != nil {
		return err
	}
	return zw.Close()
}

// save writes body to the file named to; "-" is stdout. A file appears whole or
// not at all.
func (e *env) save(to string, body io.Reader, size int64) error {
	if to == "-" {
		_, err := io.Copy(e.stdout, body)
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(to), ".panal-*")
	if err != nil {
		return plat.InvalidField("to", "%v", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already when all went well
	n, err := io.Copy(tmp, body)
	if err == nil && size >= 0 && n != size {
		err = plat.Errorf(plat.ErrUnavailable, "the download ended after %d of %d bytes; try again", n, size)
	}
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), to); err != nil {
		return plat.InvalidField("to", "%v", err)
	}
	e.say("wrote %s (%d bytes)", to, n)
	return nil
}
