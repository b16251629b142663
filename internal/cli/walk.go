// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"panal/internal/plat"
)

// walkFlags are of the commands that read directories.
type walkFlags struct {
	NoFollowLinks bool `help:"Pass over symbolic links below directories."`
}

// local is a file to upload under a name.
type local struct {
	path, name string
	size       int64
	single     bool // not found below a directory
}

// finder lists files to upload.
type finder struct {
	walkFlags
	globs
	root  string
	files []local
	over  map[string][]string // why, and what
}

// Why a finder passes something over.
const (
	overLink    = "links"
	overBroken  = "links to nothing"
	overLoop    = "links to a directory that they are in"
	overSpecial = "no regular files"
)

// files lists what there is at the paths, and says what it passed over.
func (f walkFlags) files(e *env, paths []string, g globs) ([]local, error) {
	w := finder{walkFlags: f, globs: g, over: map[string][]string{}}
	for _, path := range paths {
		if path == "-" {
			w.files = append(w.files, local{path: "-", size: -1, single: true})
			continue
		}
		info, err := os.Stat(path)
		switch {
		case err != nil:
			return nil, plat.Errorf(plat.ErrInvalid, "%v", err)
		case info.IsDir():
			w.root = path
			above, err := upFrom(path)
			if err == nil {
				err = w.dir(path, above)
			}
			if err != nil {
				return nil, plat.Errorf(plat.ErrInvalid, "%v", err)
			}
		case !info.Mode().IsRegular():
			return nil, plat.Errorf(plat.ErrInvalid, "%s is no regular file; a pipe goes to standard input, as -", path)
		case g.takes(filepath.Base(path)):
			w.files = append(w.files, local{path: path, name: filepath.Base(path), size: info.Size(), single: true})
		}
	}
	for _, why := range []string{overLink, overBroken, overLoop, overSpecial} {
		if all := w.over[why]; len(all) > 0 {
			e.say("passed over %s: %d, the first is %s", why, len(all), clean(all[0]))
		}
	}
	return w.files, nil
}

// upFrom returns a directory and all that it is in.
func upFrom(path string) ([]fs.FileInfo, error) {
	path, err := filepath.EvalSymlinks(path)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	all := []fs.FileInfo{}
	for err == nil {
		var info fs.FileInfo
		if info, err = os.Stat(path); err == nil {
			all = append(all, info)
		}
		if filepath.Dir(path) == path {
			break
		}
		path = filepath.Dir(path)
	}
	return all, err
}

// dir lists one directory; above are it, those that it is in, and those that the way to it
// led through.
func (w *finder) dir(path string, above []fs.FileInfo) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, d := range entries {
		path := filepath.Join(path, d.Name())
		rel, err := filepath.Rel(w.root, path)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if w.excludes(name) {
			continue
		}
		link := d.Type()&fs.ModeSymlink != 0
		info, err := d.Info()
		if err == nil && link && !w.NoFollowLinks {
			info, err = os.Stat(path)
		}
		wanted := w.takes(name)
		switch {
		case link && err != nil:
			w.pass(overBroken, path, wanted)
		case err != nil:
			return err
		case link && w.NoFollowLinks:
			w.pass(overLink, path, wanted)
		case info.IsDir() && slices.ContainsFunc(above, func(a fs.FileInfo) bool { return os.SameFile(a, info) }):
			w.pass(overLoop, path, true)
		case info.IsDir():
			if err := w.dir(path, append(slices.Clip(above), info)); err != nil {
				return err
			}
		case !info.Mode().IsRegular():
			w.pass(overSpecial, path, wanted)
		case wanted:
			w.files = append(w.files, local{path: path, name: name, size: info.Size()})
		}
	}
	return nil
}

func (w *finder) pass(why, path string, wanted bool) {
	if wanted {
		w.over[why] = append(w.over[why], path)
	}
}
