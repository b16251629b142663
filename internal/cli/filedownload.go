// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"panal/internal/client"
	"panal/internal/plat"
	"panal/internal/x/etag"
)

type fileDownloadCmd struct {
	channelArg
	Files []string `arg:"" optional:"" help:"File ids; absent: those that --query finds, or with --to all of them."`
	Query string   `help:"Download what this finds; \"*\" for everything." short:"q"`
	To    string   `help:"Directory to write to; - for stdout (one file)." placeholder:"DIR"`
	Tree  bool     `help:"Make directories of the slashes in file names; without it they become dashes."`
	Force bool     `help:"Download also what is there already."`
	globs
	reportFlags
}

// Help implements kong's interface.
func (*fileDownloadCmd) Help() string {
	return `Files are named after their metadata "filename", or their id where that is no name; what is longer than 255 bytes is shortened, and keeps its extension; control characters, such as a newline, become dashes. Of several files with one name the oldest has it, and the others have their id in front, so that names don't change when more are uploaded; the newest is the first of file find CHANNEL 'filename:"NAME"', and comes with its id. What is there already (same name and bytes) is skipped, and a file that was cut goes on where it ended: after an interruption, run the command again. A full disk ends it, and leaves nothing of the files that were under way.

  panal file download digits --to ./digits --tree
  panal file download digits -q 'label:7 AND NOT split:test' --to ./sevens --include '**/*.png'

The exit code is 0 only when every file is there, with the bytes that were uploaded.`
}

// Run downloads files.
func (c *fileDownloadCmd) Run(e *env) error {
	if err := c.check(); err != nil {
		return err
	}
	id, err := c.id(e)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	c.Files = slices.DeleteFunc(c.Files, func(file string) bool { // named twice, it is one file
		twice := seen[file]
		seen[file] = true
		return twice
	})
	if len(c.Files) > 0 && c.Query != "" || len(c.Files) == 0 && c.Query == "" && c.To == "" {
		return plat.Errorf(plat.ErrInvalid, "name the files, or say which with --query (\"*\" for all), or where all of them go with --to")
	}
	if c.To == "-" {
		return c.stdout(e, id)
	}
	to := c.To
	if to == "" {
		to = "."
	}
	root, err := openTo(to)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	n, err := c.count(e, id)
	if err != nil {
		return err
	}
	if len(c.Include)+len(c.Exclude) > 0 {
		n = -1 // of those that the globs take
	}
	r := e.newTransfer(c.reportFlags, c.globs, "downloaded", n, e.progressBytes(-1, "downloading"))
	names := namer{tree: c.Tree, used: map[string]bool{}}
	err = c.each(e, id, func(f client.File) error {
		// Named before it is filtered: which of two gets the name must not depend on that.
		name, given := names.name(f), f.Meta()["filename"]
		if given == "" {
			given = f.ID
		}
		if !c.takes(given) {
			return nil
		}
		return r.do(func(ctx context.Context) (outcome, error) {
			d := download{bar: r.bar, root: root, file: f, name: name, force: c.Force, verify: "panal channel verify " + id}
			d.from = func(ctx context.Context, f client.File, off int64) (io.ReadCloser, int64, error) {
				return e.api.DownloadFrom(ctx, id, f, off)
			}
			skipped, err := d.run(ctx)
			o := outcome{Path: filepath.Join(to, filepath.FromSlash(name)), FileID: f.ID, Size: f.Size, Skipped: skipped}
			if skipped {
				o.Size = 0
			}
			return o, err
		})
	}, func(file string, err error) error {
		return r.do(func(context.Context) (outcome, error) {
			return outcome{FileID: file}, err
		})
	})
	return r.finish(err)
}

// query is empty for everything: that is counted and listed without a search.
func (c *fileDownloadCmd) query() string {
	if c.Query == "*" {
		return ""
	}
	return c.Query
}

// count says how many files there will be.
func (c *fileDownloadCmd) count(e *env, channel string) (int, error) {
	if len(c.Files) > 0 {
		return len(c.Files), nil
	}
	n, err := e.api.CountFiles(e.ctx, channel, c.query())
	return int(n), err
}

// each calls f for each file, oldest first: so the names that two files share stay
// with the same ones when more are uploaded. It calls lost for a named file that there is not.
func (c *fileDownloadCmd) each(e *env, channel string, f func(client.File) error, lost func(file string, err error) error) error {
	if len(c.Files) == 0 {
		return e.api.Files(e.ctx, channel, c.query(), false, 200, f)
	}
	for _, id := range c.Files {
		info, err := e.api.File(e.ctx, channel, id)
		switch {
		case err == nil:
			err = f(info)
		case errors.Is(err, plat.ErrNotFound):
			err = lost(id, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// stdout writes one file to standard output.
func (c *fileDownloadCmd) stdout(e *env, channel string) error {
	var files []client.File
	err := c.each(e, channel, func(f client.File) error {
		if files = append(files, f); len(files) > 1 {
			return client.ErrStop
		}
		return nil
	}, func(_ string, err error) error { return err })
	if err != nil && !errors.Is(err, client.ErrStop) {
		return err
	}
	if len(files) != 1 {
		return plat.InvalidField("to", "- takes exactly one file; this is none, or more than one")
	}
	rc, err := e.api.Download(e.ctx, channel, files[0])
	if err != nil {
		return err
	}
	defer func() { _ = rc.Close() }()
	sum := etag.New()
	if _, err := io.Copy(io.MultiWriter(e.stdout, sum), rc); err != nil {
		return err
	}
	return checkSum(sum, files[0])
}

func checkSum(sum *etag.Sum, f client.File) error {
	if size := sum.Size(); size != f.Size {
		return fmt.Errorf("%d of %d bytes arrived: %w", size, f.Size, io.ErrUnexpectedEOF)
	}
	if tag := sum.ETag(); f.ETag != "" && tag != f.ETag {
		return fmt.Errorf("the bytes that arrived are not those that were uploaded (ETag %s instead of %s)", tag, f.ETag)
	}
	return nil
}

// download is one file on its way to the directory.
type download struct {
	bar   progress // of bytes
	root  *os.Root
	file  client.File // its id stands for its bytes
	name  string      // with slashes, below root
	force bool
	// verify is the command that looks into what is wrong in the storage.
	verify string
	// from returns the bytes from an offset on, and where they really begin.
	from func(ctx context.Context, f client.File, off int64) (io.ReadCloser, int64, error)
}

// run downloads the file, unless it is there.
func (d download) run(ctx context.Context) (skipped bool, err error) {
	defer func() { err = d.local(err) }()
	if !d.force && d.there() {
		return true, nil
	}
	if dir := path.Dir(d.name); dir != "." {
		if err := d.root.MkdirAll(dir, 0o755); err != nil {
			return false, err
		}
	}
	return false, again(ctx, func(err error) bool { return passing(err) || errors.Is(err, io.ErrUnexpectedEOF) }, func() error { return d.fetch(ctx) })
}

// local makes what the file system refused, and will refuse of any other file too, an
// error that ends the command.
func (d download) local(err error) error {
	kind := error(nil)
	switch {
	case noRoom(err):
		kind = plat.ErrExhausted
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission) && d.denied():
		kind = plat.ErrForbidden
	default:
		return err
	}
	return &plat.Error{Kind: kind, Public: "can't write to " + d.root.Name(), Err: err}
}

// noRoom tells whether a disk or its quota is full.
func noRoom(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// denied tells whether no file may be made in the directory at all: a permission may
// also lack for one file, or below one directory.
func (d download) denied() bool {
	probe := ".panal-" + d.file.ID + ".probe"
	f, err := d.root.OpenFile(probe, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return errors.Is(err, fs.ErrPermission)
	}
	_ = errors.Join(f.Close(), d.root.Remove(probe)) // that it could be made is what counts
	return false
}

// there tells whether the directory has the file's bytes under its name.
func (d download) there() bool {
	info, err := d.root.Lstat(d.name)
	if err != nil || !info.Mode().IsRegular() || info.Size() != d.file.Size {
		return false
	}
	f, err := d.root.Open(d.name)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	sum := etag.New()
	_, err = io.Copy(sum, f)
	return err == nil && checkSum(sum, d.file) == nil
}

// fetch goes on with what an earlier try has left under a name of its own, and gives
// the file its name when it is whole.
func (d download) fetch(ctx context.Context) (err error) {
	// A file's bytes never change under its id: what there is of them stays good.
	part := ".panal-" + d.file.ID + ".part"
	tmp, err := d.root.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		_ = tmp.Close() // closed before the rename too, where it matters
		// Of a full disk no part keeps the rest from whoever else writes to it, also no
		// part of a file that was only under way then. Any other part waits for the next run.
		if err != nil && (noRoom(err) || noRoom(context.Cause(ctx))) {
			_ = d.root.Remove(part)
		}
	}()
	sum := etag.New()
	have, err := io.Copy(sum, io.LimitReader(tmp, d.file.Size))
	if err != nil {
		return err
	}
	if have < d.file.Size || have == 0 {
		rc, at, err := d.from(ctx, d.file, have)
		if e, ok := errors.AsType[*client.Error](err); ok && e.Status == http.StatusRequestedRangeNotSatisfiable {
			err = fmt.Errorf("the object in the storage is shorter than the file: %d of %d bytes; %s tells more", have, d.file.Size, d.verify)
			return errors.Join(err, d.root.Remove(part))
		}
		if errors.Is(err, plat.ErrNotFound) { // the file may have been deleted meanwhile, or its object be lost
			err = fmt.Errorf("%w; %s tells whether the storage has lost it", err, d.verify)
		}
		if err != nil {
			return d.drop(part, have, err)
		}
		defer func() { _ = rc.Close() }()
		if at == 0 && have > 0 {
			sum = etag.New()
		}
		if _, err := tmp.Seek(at, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.Copy(io.MultiWriter(tmp, sum, barWriter{d.bar}), rc); err != nil {
			return fmt.Errorf("write %s: %w", d.name, err) // the part stays for the next try
		}
	}
	if err := checkSum(sum, d.file); err != nil {
		if sum.Size() < d.file.Size { // the part stays for the next try
			return err
		}
		err = errors.Join(err, tmp.Close(), d.root.Remove(part))
		if have > 0 { // perhaps what was left of the earlier try is at fault
			return d.fetch(ctx)
		}
		return err
	}
	if err := errors.Join(tmp.Truncate(d.file.Size), tmp.Close()); err != nil {
		return err
	}
	return d.root.Rename(part, d.name)
}

// drop leaves no empty part behind a download that did not begin.
func (d download) drop(part string, have int64, err error) error {
	if have == 0 {
		return errors.Join(err, d.root.Remove(part))
	}
	return err
}

// namer names each file after its metadata, safely: "/" becomes "-" or, in a tree, a
// directory, and where two would be equal, or one is no name, the file id tells them
// apart. A file and a directory of one name are two that are equal.
type namer struct {
	tree bool
	used map[string]bool // true of a file, false of a directory
}

// What file systems take: bytes of a name, and of a path with room for where it lies.
const (
	maxFileName = 255
	maxFilePath = 3000
)

// shorten makes a name fit. It keeps the extension, and puts in the sum of the whole,
// so that names that differ only where they are cut stay apart.
func shorten(name string) string {
	if len(name) <= maxFileName {
		return name
	}
	const maxExt = 32
	ext := path.Ext(name)
	if len(ext) > maxExt {
		ext = ""
	}
	end := "-" + shortID(name)[:8] + ext
	return strings.ToValidUTF8(name[:maxFileName-len(end)], "") + end // a character cut in half goes
}

func (n *namer) name(f client.File) string { return n.unique(f.Meta()["filename"], f.ID) }

func (n *namer) unique(given, id string) string {
	parts := []string{given}
	if n.tree {
		parts = strings.Split(given, "/")
	}
	kept := parts[:0]
	for _, p := range parts {
		p = strings.Map(func(r rune) rune {
			if r == '/' || r == '\\' || r < 0x20 || r == 0x7f {
				return '-'
			}
			return r
		}, p)
		if p == "" || n.tree && p == "." {
			continue
		}
		if strings.Trim(p, ".") == "" || strings.HasPrefix(p, ".panal-") {
			kept = nil // no name: the id is one
			break
		}
		kept = append(kept, shorten(p))
	}
	if i := n.clash(kept); i >= 0 {
		kept = append(kept[:i], shorten(id+"-"+strings.Join(kept[i:], "-")))
	}
	name := strings.Join(kept, "/")
	if name == "" || n.clash(kept) >= 0 || len(name) > maxFilePath {
		name = id
	}
	n.used[name] = true
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		n.used[dir] = false
	}
	return name
}

// clash returns which of the parts of a name a file has already, or, of the last one,
// a directory; -1 for none.
func (n *namer) clash(parts []string) int {
	for i := range parts {
		if file, there := n.used[strings.Join(parts[:i+1], "/")]; file || there && i == len(parts)-1 {
			return i
		}
	}
	return -1
}
