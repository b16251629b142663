// SPDX-License-Identifier: Apache-2.0

// Package archive reads zip and tar(.gz) archives that come from outside: the
// server checks uploads with it, the agent unpacks with it. Every archive is
// taken to be hostile.
//
// Invariants: nothing is written outside the given root; only directories,
// regular files and links that stay inside the tree are made; a set-id bit or a
// device never is; limits count the bytes that really come out, not what headers
// claim; memory does not grow with the size of the archive.
package archive

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// ErrRefused is what every error wraps that is the archive's own fault: it can't
// be read, is hostile, or is over a limit. Other errors are the destination's.
var ErrRefused = errors.New("archive refused")

// Limits bound an archive. A zero field takes the value of DefaultLimits.
type Limits struct {
	Entries    int   // entries of any kind
	FileBytes  int64 // one file, unpacked
	TotalBytes int64 // all files, unpacked
	// RefuseEmpty refuses an archive without a single file.
	RefuseEmpty bool
}

// DefaultLimits suit source code and models.
func DefaultLimits() Limits {
	return Limits{Entries: 100_000, FileBytes: 16 << 30, TotalBytes: 32 << 30}
}

// Bounds of a name and of what is read before the first entry.
const (
	maxNameBytes      = 1024
	maxComponentBytes = 255
	maxDepth          = 64
	maxLinkBytes      = 4096
	// maxZipDirectoryBytes bounds a zip's central directory, which the zip reader
	// holds in memory whole.
	maxZipDirectoryBytes = 32 << 20
	// maxPadding bounds what may follow a tar in its gzip stream; tar programs fill
	// up their last record with zeros.
	maxPadding = 16 << 20
)

// Check reads the whole archive and says whether Unpack would take it.
func Check(r io.ReaderAt, size int64, lim Limits) error {
	return read(nil, r, size, lim)
}

// Unpack writes the archive's files under root, which should be empty: a file
// that exists already is an error. Links that lead out of the tree, to another
// link or to nothing are left out; in-tree links are made last, so that no file
// is ever written through one. After an error, what was written so far stays.
func Unpack(root *os.Root, r io.ReaderAt, size int64, lim Limits) error {
	return read(root, r, size, lim)
}

func read(root *os.Root, r io.ReaderAt, size int64, lim Limits) error {
	def := DefaultLimits()
	if lim.Entries == 0 {
		lim.Entries = def.Entries
	}
	if lim.FileBytes == 0 {
		lim.FileBytes = def.FileBytes
	}
	if lim.TotalBytes == 0 {
		lim.TotalBytes = def.TotalBytes
	}
	w := &walker{root: root, lim: lim, seen: map[string]kind{".": isDir}}
	head := make([]byte, 4)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read archive: %w", err)
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("PK\x05\x06")):
		err = w.zip(r, size)
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		var gz *gzip.Reader
		if gz, err = gzip.NewReader(bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 64<<10)); err != nil {
			return refuse("it is no readable gzip file: %v", err)
		}
		if err = w.tar(gz); err == nil {
			err = w.end(gz)
		}
	case n == 0:
		return refuse("it is empty")
	default:
		err = w.tar(bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 64<<10))
	}
	if err != nil {
		return err
	}
	if lim.RefuseEmpty && w.files == 0 {
		return refuse("it holds no file")
	}
	return w.makeLinks()
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

type kind byte

const (
	isDir kind = iota + 1
	isFile
	isLink
)

type link struct{ name, target string }

// walker takes entries one by one, whatever the format. A nil root only checks.
type walker struct {
	root    *os.Root
	lim     Limits
	entries int
	files   int
	total   int64
	seen    map[string]kind
	links   []link
}

func (w *walker) count() error {
	if w.entries++; w.entries > w.lim.Entries {
		return refuse("more than %d entries", w.lim.Entries)
	}
	return nil
}

func (w *walker) zip(r io.ReaderAt, size int64) error {
	budget := &budgetReaderAt{r: r, left: maxZipDirectoryBytes}
	zr, err := zip.NewReader(budget, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return refuse("it is no readable zip file: %v", err)
	}
	budget.left = -1 // no bound from here on: contents are bounded one by one
	for _, f := range zr.File {
		if err := w.count(); err != nil {
			return err
		}
		mode := f.Mode()
		isDirName := strings.HasSuffix(f.Name, "/")
		if !mode.IsRegular() && !mode.IsDir() && mode&fs.ModeSymlink == 0 {
			return refuse("%.200q is neither file, directory nor link", f.Name)
		}
		if mode.IsDir() || isDirName {
			if err := w.dir(f.Name); err != nil {
				return err
			}
			continue
		}
		body, err := f.Open()
		if err != nil {
			return refuse("%.200q can't be read: %v", f.Name, err)
		}
		if mode&fs.ModeSymlink != 0 {
			var target []byte
			target, err = io.ReadAll(io.LimitReader(body, maxLinkBytes+1))
			if err != nil || len(target) > maxLinkBytes {
				err = refuse("the link %.200q can't be read", f.Name)
			} else {
				err = w.symlink(f.Name, string(target))
			}
		} else {
			err = w.file(f.Name, mode, body)
		}
		_ = body.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) tar(r io.Reader) error {
	// Headers come on top of contents; a stream of nothing but headers ends here.
	tr := tar.NewReader(io.LimitReader(r, w.lim.TotalBytes+int64(w.lim.Entries)*8192))
	for first := true; ; first = false {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			if first {
				return refuse("it is neither zip nor tar nor tar.gz: %v", err)
			}
			return refuse("it is no readable tar file: %v", err)
		}
		if err := w.count(); err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeXGlobalHeader:
			err = nil
		case tar.TypeDir:
			err = w.dir(h.Name)
		case tar.TypeReg, tar.TypeGNUSparse:
			err = w.file(h.Name, h.FileInfo().Mode(), tr)
		case tar.TypeSymlink:
			err = w.symlink(h.Name, h.Linkname)
		case tar.TypeLink:
			err = w.hardlink(h.Name, h.Linkname)
		default:
			err = refuse("%.200q is neither file, directory nor link", h.Name)
		}
		if err != nil {
			return err
		}
	}
}

// end reads what follows the tar in a gzip stream: only its last bytes tell whether
// it is whole.
func (w *walker) end(gz *gzip.Reader) error {
	switch n, err := io.Copy(io.Discard, io.LimitReader(gz, maxPadding)); {
	case err != nil:
		return refuse("it is no readable gzip file: %v", err)
	case n == maxPadding:
		return refuse("more than %d bytes follow its end", maxPadding)
	}
	return nil
}

// clean returns the name below the root, or refuses it.
func clean(name string) (string, error) {
	switch {
	case len(name) > maxNameBytes:
		return "", refuse("the name %.60q… is longer than %d bytes", name, maxNameBytes)
	case strings.ContainsRune(name, 0):
		return "", refuse("the name %.200q holds a NUL", name)
	case strings.ContainsRune(name, '\\'):
		return "", refuse("the name %.200q holds a backslash; separate with /", name)
	case strings.HasPrefix(name, "/"):
		return "", refuse("the name %.200q is absolute", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", refuse("the name %.200q leads out of the archive", name)
		}
		if len(part) > maxComponentBytes {
			return "", refuse("the name %.60q… has a part longer than %d bytes", name, maxComponentBytes)
		}
	}
	c := path.Clean(name)
	if strings.Count(c, "/") >= maxDepth {
		return "", refuse("the name %.60q… is deeper than %d levels", name, maxDepth)
	}
	return c, nil
}

// claim notes a new entry and its parents; a name that was there as something
// else, or twice as a file, is refused.
func (w *walker) claim(raw string, k kind) (string, error) {
	name, err := clean(raw)
	if err != nil {
		return "", err
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		old, ok := w.seen[dir]
		if ok && old != isDir {
			return "", refuse("%.200q lies under %.200q, which is no directory", raw, dir)
		}
		if ok {
			break // its parents are known, too
		}
		w.seen[dir] = isDir
	}
	if old, ok := w.seen[name]; ok && (old != isDir || k != isDir) {
		return "", refuse("%.200q is there twice", raw)
	}
	w.seen[name] = k
	return name, nil
}

func (w *walker) dir(raw string) error {
	name, err := w.claim(strings.TrimRight(raw, "/"), isDir)
	if raw == "" || err != nil {
		return err
	}
	if w.root == nil || name == "." {
		return nil
	}
	return w.root.MkdirAll(name, 0o755)
}

func (w *walker) file(raw string, mode fs.FileMode, body io.Reader) (err error) {
	name, err := w.claim(raw, isFile)
	if err != nil {
		return err
	}
	w.files++
	out := io.Discard
	if w.root != nil {
		if err := w.parent(name); err != nil {
			return err
		}
		perm := fs.FileMode(0o644)
		if mode&0o100 != 0 {
			perm = 0o755
		}
		f, err := w.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, perm)
		if err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		out = f
	}
	limit := min(w.lim.FileBytes, w.lim.TotalBytes-w.total)
	src := &errReader{r: body}
	n, err := io.Copy(out, io.LimitReader(src, limit+1))
	w.total += n
	switch {
	case src.err != nil:
		return refuse("%.200q can't be read: %v", raw, src.err)
	case err != nil:
		return fmt.Errorf("unpack: %w", err)
	case n > w.lim.FileBytes:
		return refuse("%.200q is larger than %d bytes", raw, w.lim.FileBytes)
	case n > limit:
		return refuse("it holds more than %d bytes", w.lim.TotalBytes)
	}
	return nil
}

func (w *walker) parent(name string) error {
	dir := path.Dir(name)
	if dir == "." {
		return nil
	}
	if err := w.root.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	return nil
}

func (w *walker) symlink(raw, target string) error {
	name, err := w.claim(raw, isLink)
	if err != nil {
		return err
	}
	w.links = append(w.links, link{name: name, target: target})
	return nil
}

// hardlink is a second name for a file that came before it. No symbolic link
// exists yet at this point, so both names are what they seem.
func (w *walker) hardlink(raw, target string) error {
	old, err := clean(target)
	if err != nil {
		return err
	}
	if w.seen[old] != isFile {
		return refuse("%.200q is a second name of %.200q, which is no file before it", raw, target)
	}
	name, err := w.claim(raw, isFile)
	if err != nil || w.root == nil {
		return err
	}
	if err := w.parent(name); err != nil {
		return err
	}
	if err := w.root.Link(old, name); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	return nil
}

// makeLinks makes the symbolic links whose target is a real file or directory of
// this archive. The target is written anew, from real names only: a chain such as
// a → .., b → a/.. can't lead out.
func (w *walker) makeLinks() error {
	if w.root == nil {
		return nil
	}
	for _, l := range w.links {
		if l.target == "" || strings.HasPrefix(l.target, "/") || strings.ContainsAny(l.target, "\\\x00") {
			continue
		}
		dir := path.Dir(l.name)
		to := path.Join(dir, l.target)
		if k := w.seen[to]; k != isFile && k != isDir {
			continue
		}
		rel, err := filepath.Rel(dir, to)
		if err != nil {
			continue
		}
		if err := w.parent(l.name); err != nil {
			return err
		}
		if err := w.root.Symlink(rel, l.name); err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
	}
	return nil
}

// errReader keeps the error of the source apart from those of the destination.
type errReader struct {
	r   io.Reader
	err error
}

func (e *errReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		e.err = err
	}
	return n, err
}

// budgetReaderAt bounds how much the zip reader reads (and keeps) of the central
// directory; a negative budget is none.
type budgetReaderAt struct {
	r    io.ReaderAt
	left int64
}

func (b *budgetReaderAt) ReadAt(p []byte, off int64) (int, error) {
	if b.left >= 0 {
		if b.left < int64(len(p)) {
			return 0, fmt.Errorf("its directory is larger than %d bytes", maxZipDirectoryBytes)
		}
		b.left -= int64(len(p))
	}
	return b.r.ReadAt(p, off)
}
