// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"panal/internal/client"
	"panal/internal/plat"
)

type fileCmd struct {
	Upload   fileUploadCmd   `cmd:"" help:"Upload files or whole directories."`
	List     fileListCmd     `cmd:"" help:"List a channel's files, newest first."`
	Find     fileFindCmd     `cmd:"" help:"Find files by metadata, for example: panal file find CHANNEL 'label:7 AND split:train'."`
	Count    fileCountCmd    `cmd:"" help:"Count files, exactly."`
	Get      fileGetCmd      `cmd:"" help:"Show a file."`
	Download fileDownloadCmd `cmd:"" help:"Download files."`
	Delete   fileDeleteCmd   `cmd:"" help:"Delete files."`
}

func fileHeader() []string { return []string{"FILE", "UPLOADED", "TYPE", "METADATA"} }

func fileRow(f client.File) []string {
	meta := f.Meta()
	parts := make([]string, 0, len(meta))
	for k, v := range meta {
		parts = append(parts, k+"="+v)
	}
	slices.Sort(parts)
	return []string{f.ID, f.UploadedAt, f.ContentType, strings.Join(parts, " ")}
}

func (e *env) printFiles(files []client.File) error {
	rows := make([][]string, len(files))
	for i, f := range files {
		rows[i] = fileRow(f)
	}
	return e.print(files, fileHeader(), rows)
}

// listFiles reads up to limit files (0: all).
func (e *env) listFiles(channel, q string, limit int) ([]client.File, error) {
	files := []client.File{}
	size := 1000
	if limit > 0 {
		size = min(limit, size)
	}
	err := e.api.Files(e.ctx, channel, q, true, size, func(f client.File) error {
		if files = append(files, f); len(files) == limit {
			return client.ErrStop
		}
		return nil
	})
	return files, err
}

type fileListCmd struct {
	channelArg
	Limit int `help:"At most so many; 0 for all." default:"100"`
}

// Run lists files.
func (c *fileListCmd) Run(e *env) error {
	return (&fileFindCmd{channelArg: c.channelArg, Limit: c.Limit}).Run(e)
}

type fileFindCmd struct {
	channelArg
	Query string `arg:"" help:"field:value, with AND, OR, NOT, parentheses, \"quoted text\", * and ?."`
	Limit int    `help:"At most so many; 0 for all." default:"100"`
	Count bool   `help:"Only say how many there are."`
}

// Run finds files.
func (c *fileFindCmd) Run(e *env) error {
	if c.Count {
		return (&fileCountCmd{channelArg: c.channelArg, Query: c.Query}).Run(e)
	}
	id, err := c.id(e)
	if err != nil {
		return err
	}
	files, err := e.listFiles(id, c.Query, c.Limit)
	if err != nil {
		return err
	}
	return e.printFiles(files)
}

type fileCountCmd struct {
	channelArg
	Query string `arg:"" optional:"" help:"As for find; absent counts all."`
}

// Run counts files.
func (c *fileCountCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	n, err := e.api.CountFiles(e.ctx, id, c.Query)
	if err != nil {
		return err
	}
	return e.print(map[string]int64{"count": n}, []string{"COUNT"}, [][]string{{fmt.Sprint(n)}})
}

type fileGetCmd struct {
	channelArg
	File string `arg:"" help:"File id."`
}

// Run shows a file.
func (c *fileGetCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	f, err := e.api.File(e.ctx, id, c.File)
	if err != nil {
		return err
	}
	return e.print(f, fileHeader(), [][]string{fileRow(f)})
}

type fileDeleteCmd struct {
	channelArg
	Files []string `arg:"" help:"File ids."`
}

// Run deletes files.
func (c *fileDeleteCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	for _, f := range c.Files {
		if err := e.api.DeleteFile(e.ctx, id, f); err != nil {
			return err
		}
	}
	return e.print(map[string][]string{"deleted": c.Files}, []string{"DELETED"}, [][]string{{fmt.Sprint(len(c.Files))}})
}

type fileDownloadCmd struct {
	channelArg
	Files []string `arg:"" optional:"" help:"File ids; absent: those that --query finds."`
	Query string   `help:"Download what this finds; \"*\" for everything." short:"q"`
	To    string   `help:"Directory to write to; - for stdout (one file)." default:"." type:"path"`
	Jobs  int      `help:"How many at a time." default:"8" short:"j"`
}

// Run downloads files.
func (c *fileDownloadCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	if (len(c.Files) == 0) == (c.Query == "") {
		return plat.Errorf(plat.ErrInvalid, "name the files, or say which with --query (\"*\" for all)")
	}
	var files []client.File
	for _, f := range c.Files {
		info, err := e.api.File(e.ctx, id, f)
		if err != nil {
			return err
		}
		files = append(files, info)
	}
	if c.Query != "" {
		if files, err = e.listFiles(id, strings.TrimSpace(strings.TrimPrefix(c.Query, "*")), 0); err != nil {
			return err
		}
	}
	if filepath.Base(c.To) == "-" && len(files) == 1 {
		rc, err := e.api.Download(e.ctx, id, files[0])
		if err != nil {
			return err
		}
		defer func() { _ = rc.Close() }()
		_, err = io.Copy(e.stdout, rc)
		return err
	}
	if err := os.MkdirAll(c.To, 0o755); err != nil {
		return plat.InvalidField("to", "%v", err)
	}
	names := downloadNames(files)
	bar := e.progress(len(files), "downloading", "files")
	defer bar.done()
	g, ctx := errgroup.WithContext(e.ctx)
	g.SetLimit(max(1, c.Jobs))
	for i, f := range files {
		g.Go(func() error {
			rc, err := e.api.Download(ctx, id, f)
			if err != nil {
				return fmt.Errorf("%s: %w", f.ID, err)
			}
			defer func() { _ = rc.Close() }()
			defer bar.add(1)
			return writeFile(filepath.Join(c.To, names[i]), rc)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	e.say("%d files in %s", len(files), c.To)
	return nil
}

// downloadNames names each file after its metadata, safely: "/" becomes "-", and
// where two would be equal, or one is no name, the file id tells them apart.
func downloadNames(files []client.File) []string {
	names := make([]string, len(files))
	used := map[string]bool{}
	for i, f := range files {
		name := strings.Map(func(r rune) rune {
			if r == '/' || r == '\\' || r < 0x20 || r == 0x7f {
				return '-'
			}
			return r
		}, f.Meta()["filename"])
		if len(name) > 200 {
			name = ""
		}
		if used[name] && name != "" {
			name = f.ID + "-" + name
		}
		if strings.Trim(name, ".") == "" || used[name] {
			name = f.ID
		}
		used[name], names[i] = true, name
	}
	return names
}

// writeFile writes all of r to a file that appears only when it is whole.
func writeFile(path string, r io.Reader) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".panal-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tmp.Close(), os.Remove(tmp.Name()))
		}
	}()
	if _, err := io.Copy(tmp, r); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := errors.Join(tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// uploads gathers what an upload command did.
type uploads struct {
	mu      sync.Mutex
	Files   []uploaded `json:"files"`
	Skipped int        `json:"skipped"`
	Bytes   int64      `json:"bytes"`
}

type uploaded struct {
	Path    string `json:"path"`
	FileID  string `json:"file_id"`
	Skipped bool   `json:"skipped,omitempty"`
}

func (u *uploads) add(path string, f client.File, size int64, skipped bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.Files = append(u.Files, uploaded{Path: path, FileID: f.ID, Skipped: skipped})
	if skipped {
		u.Skipped++
	} else {
		u.Bytes += size
	}
}
