// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"panal/internal/client"
	"panal/internal/plat"
)

type fileUploadCmd struct {
	channelArg
	Paths          []string          `arg:"" help:"Files and directories; - for stdin."`
	Metadata       map[string]string `help:"Metadata for every file, as key=value; give it once per key." short:"m" mapsep:"none" placeholder:"KEY=VALUE"`
	ContentType    string            `help:"Content type; absent: by the file name."`
	Lifetime       string            `help:"Delete after 1day, 1week, 1month, 6months or 1year."`
	SkipDuplicates bool              `help:"Leave out files whose name is in the channel already."`
	Jobs           int               `help:"How many at a time." default:"8" short:"j"`
}

// local is a file to upload under a name.
type local struct {
	path, name string
	size       int64
}

// Run uploads files. The name of a file is its base name, or for a single one what
// the metadata says; below a directory it is the path within, so that a label folder
// stays visible.
func (c *fileUploadCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	files, err := c.files()
	if err != nil {
		return err
	}
	var done uploads
	start := time.Now()
	bar := e.progress(len(files), "uploading", "files")
	g, ctx := errgroup.WithContext(e.ctx)
	g.SetLimit(max(1, c.Jobs))
	for _, f := range files {
		g.Go(func() error {
			defer bar.add(1)
			if err := c.upload(ctx, e, id, f, &done); err != nil {
				return fmt.Errorf("%s: %w", f.path, err)
			}
			return nil
		})
	}
	err = g.Wait()
	bar.done()
	slices.SortFunc(done.Files, func(a, b uploaded) int { return strings.Compare(a.Path, b.Path) })
	rows := make([][]string, len(done.Files))
	for i, f := range done.Files {
		rows[i] = []string{f.FileID, f.Path}
		if f.Skipped {
			rows[i][1] += " (skipped)"
		}
	}
	if perr := e.print(&done, []string{"FILE", "PATH"}, rows); perr != nil {
		return errors.Join(err, perr)
	}
	e.say("%d uploaded, %d skipped, %.1f MB in %.1fs", len(done.Files)-done.Skipped, done.Skipped, float64(done.Bytes)/1e6, time.Since(start).Seconds())
	return err
}

// files lists what is to be uploaded.
func (c *fileUploadCmd) files() ([]local, error) {
	var all []local
	for _, root := range c.Paths {
		if root == "-" {
			all = append(all, local{path: "-", name: c.Metadata["filename"], size: -1})
			continue
		}
		info, err := os.Stat(root)
		if err != nil {
			return nil, plat.Errorf(plat.ErrInvalid, "%v", err)
		}
		if !info.IsDir() {
			name := filepath.Base(root)
			if given := c.Metadata["filename"]; given != "" && len(c.Paths) == 1 {
				name = given
			}
			all = append(all, local{path: root, name: name, size: info.Size()})
			continue
		}
		err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			all = append(all, local{path: path, name: filepath.ToSlash(rel), size: info.Size()})
			return nil
		})
		if err != nil {
			return nil, plat.Errorf(plat.ErrInvalid, "%v", err)
		}
	}
	return all, nil
}

// attempts is how often an upload is tried while the server says "later".
const attempts = 5

func (c *fileUploadCmd) upload(ctx context.Context, e *env, channel string, f local, done *uploads) error {
	meta := maps.Clone(c.Metadata)
	if meta == nil {
		meta = map[string]string{}
	}
	if f.name != "" {
		meta["filename"] = f.name
	}
	n := client.NewFile{ContentType: c.ContentType, Metadata: meta, Lifetime: c.Lifetime, Size: f.size}
	if n.ContentType == "" {
		n.ContentType = mime.TypeByExtension(filepath.Ext(f.name))
	}
	if c.SkipDuplicates {
		n.ConflictTarget = "filename"
	}
	for try := 1; ; try++ {
		file, err := c.send(ctx, e, channel, f, n)
		if err == nil {
			done.add(f.path, file, max(f.size, 0), false)
			return nil
		}
		if there, ok := client.ConflictFile(err); ok && c.SkipDuplicates {
			done.add(f.path, there, 0, true)
			return nil
		}
		// Only an answer that says "not now" is safe to repeat: after a broken
		// connection the file may be there.
		var ae *client.Error
		if !errors.As(err, &ae) || ae.Status != http.StatusServiceUnavailable || try == attempts || f.path == "-" {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(try) * time.Second):
		}
	}
}

func (c *fileUploadCmd) send(ctx context.Context, e *env, channel string, f local, n client.NewFile) (client.File, error) {
	if f.path == "-" {
		n.Body = io.NopCloser(e.stdin)
		return e.api.Upload(ctx, channel, n)
	}
	file, err := os.Open(f.path)
	if err != nil {
		return client.File{}, err
	}
	defer func() { _ = file.Close() }()
	n.Body = io.NopCloser(file) // ours to close, also when the server has stopped reading
	return e.api.Upload(ctx, channel, n)
}
