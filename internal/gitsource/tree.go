// SPDX-License-Identifier: Apache-2.0

package gitsource

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"panal/internal/plat"
)

const (
	// cached is how much of the objects is kept in memory.
	cached = 16 << 20
	// maxDepth bounds directories in directories.
	maxDepth = 64
	// maxLink bounds the target of a link.
	maxLink = 4096
)

func (f *Fetcher) tooLarge() error {
	return plat.InvalidField(fieldURL, "the repository has more than %d files, a file of more than %d MiB, or more than %d MiB in all",
		f.Limits.Entries, f.Limits.File>>20, f.Limits.Total>>20)
}

// check reads the whole pack before the library holds any of its objects in
// memory: it counts what they really are, deltas too.
func (f *Fetcher) check(ctx context.Context, pack *os.File) error {
	if _, err := pack.Seek(0, io.SeekStart); err != nil {
		return err
	}
	scanner := packfile.NewScanner(pack)
	_, n, err := scanner.Header()
	if err != nil {
		return err
	}
	if int64(n) > int64(f.Limits.Entries) {
		return f.tooLarge()
	}
	total := int64(0)
	for range n {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := scanner.NextObjectHeader()
		if err != nil {
			return err
		}
		if h.Length > f.Limits.File {
			return f.tooLarge()
		}
		total += h.Length
		head := &headWriter{}
		if _, _, err := scanner.NextObject(head); err != nil { // no more than it says
			return err
		}
		if h.Type == plumbing.OFSDeltaObject || h.Type == plumbing.REFDeltaObject {
			size, ok := deltaResult(head.b)
			if !ok || size > uint64(f.Limits.File) {
				return f.tooLarge()
			}
			total += int64(size)
		}
		if total > f.Limits.Total {
			return f.tooLarge()
		}
	}
	return nil
}

// headWriter keeps the first bytes.
type headWriter struct{ b []byte }

func (h *headWriter) Write(p []byte) (int, error) {
	h.b = append(h.b, p[:min(len(p), 2*binary.MaxVarintLen64-len(h.b))]...)
	return len(p), nil
}

// deltaResult returns the length of what a delta makes: a delta begins with that of
// its base and that of its result.
func deltaResult(b []byte) (uint64, bool) {
	_, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, false
	}
	size, n := binary.Uvarint(b[n:])
	return size, n > 0
}

// archive writes the tree of a commit as a tar.gz.
func (f *Fetcher) archive(ctx context.Context, dir string, pack *os.File, git plat.Git) (*Source, error) {
	if _, err := pack.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	store := filesystem.NewStorage(osfs.New(filepath.Join(dir, "objects")), cache.NewObjectLRU(cached))
	defer func() { _ = store.Close() }()
	if err := packfile.UpdateObjectStorage(store, pack); err != nil {
		return nil, err
	}
	commit, err := object.GetCommit(store, plumbing.NewHash(git.Commit))
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return nil, plat.InvalidField(fieldRef, "%s is no commit", git.Commit)
	}
	if err != nil {
		return nil, err
	}
	tree, err := commit.Tree()
	if err != nil {
		return nil, err
	}
	out, err := os.OpenFile(filepath.Join(dir, "source.tar.gz"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	gz, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return nil, errors.Join(err, out.Close())
	}
	w := &treeWriter{f: f, ctx: ctx, tar: tar.NewWriter(gz), at: when(commit.Committer.When), entries: f.Limits.Entries, left: f.Limits.Total}
	if err = w.tree(tree, "", 0); err == nil && w.files == 0 {
		err = plat.InvalidField(fieldURL, "the commit %s has no files", git.Commit)
	}
	size := int64(0)
	if err = errors.Join(err, w.tar.Close(), gz.Close()); err == nil {
		size, err = out.Seek(0, io.SeekCurrent)
	}
	if err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return &Source{File: out, Git: git, size: size, dir: dir}, nil
}

// when keeps a time of the repository's within what any archive can hold.
func when(t time.Time) time.Time {
	if t.Unix() < 0 || t.Unix() > 1<<32 {
		return time.Unix(0, 0)
	}
	return t
}

// treeWriter copies a tree. The same directory or file may be in it any number of
// times, so what comes out is counted.
type treeWriter struct {
	f       *Fetcher
	ctx     context.Context
	tar     *tar.Writer
	at      time.Time
	entries int
	left    int64
	files   int
}

func (w *treeWriter) tree(t *object.Tree, prefix string, depth int) error {
	if depth > maxDepth {
		return plat.InvalidField(fieldURL, "the repository has directories %d deep", depth)
	}
	for i := range t.Entries {
		e := &t.Entries[i]
		if w.entries--; w.entries < 0 {
			return w.f.tooLarge()
		}
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if !goodName(e.Name) {
			return plat.InvalidField(fieldURL, "the repository has an entry of the name %q", printable(e.Name))
		}
		name := path.Join(prefix, e.Name)
		var err error
		switch e.Mode {
		case filemode.Dir:
			var sub *object.Tree
			if sub, err = t.Tree(e.Name); err == nil {
				err = w.tree(sub, name, depth+1)
			}
		case filemode.Regular, filemode.Deprecated:
			err = w.file(t, e, name, 0o644)
		case filemode.Executable:
			err = w.file(t, e, name, 0o755)
		case filemode.Symlink:
			err = w.link(t, e, name)
		case filemode.Submodule, filemode.Empty: // another repository is not fetched
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// goodName tells whether a name is one file's, and not git's own.
func goodName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.EqualFold(name, ".git") && !strings.ContainsAny(name, "/\\\x00") && len(name) <= 255
}

func (w *treeWriter) file(t *object.Tree, e *object.TreeEntry, name string, mode int64) error {
	file, err := t.TreeEntryFile(e)
	if err != nil {
		return err
	}
	if w.left -= file.Size; file.Size > w.f.Limits.File || w.left < 0 {
		return w.f.tooLarge()
	}
	r, err := file.Reader()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	if err := w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: file.Size, ModTime: w.at}); err != nil {
		return err
	}
	w.files++
	_, err = io.Copy(w.tar, r)
	return err
}

func (w *treeWriter) link(t *object.Tree, e *object.TreeEntry, name string) error {
	file, err := t.TreeEntryFile(e)
	if err != nil {
		return err
	}
	if file.Size > maxLink {
		return plat.InvalidField(fieldURL, "the link %s has a target of %d bytes", printable(name), file.Size)
	}
	target, err := file.Contents()
	if err != nil {
		return err
	}
	if path.IsAbs(target) || !filepath.IsLocal(path.Join(path.Dir(name), target)) {
		return plat.InvalidField(fieldURL, "the link %s leads out of the repository", printable(name))
	}
	return w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, ModTime: w.at})
}
