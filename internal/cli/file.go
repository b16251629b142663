// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"slices"
	"strings"

	"panal/internal/client"
)

type fileCmd struct {
	Upload   fileUploadCmd   `cmd:"" help:"Upload files or whole directories."`
	List     fileListCmd     `cmd:"" help:"List a channel's files, newest first."`
	Find     fileFindCmd     `cmd:"" help:"Find files by metadata, for example: panal file find CHANNEL 'label:7 AND split:train'."`
	Count    fileCountCmd    `cmd:"" help:"Count files, exactly."`
	Facets   fileFacetsCmd   `cmd:"" help:"Count files by the values of a metadata name, for example: panal file facets CHANNEL label."`
	Get      fileGetCmd      `cmd:"" help:"Show a file."`
	Download fileDownloadCmd `cmd:"" help:"Download files, or a whole channel."`
	Delete   fileDeleteCmd   `cmd:"" help:"Delete files: by id, or all that a query finds."`

	SetMetadata fileSetMetadataCmd `cmd:"" help:"Set or remove metadata of files."`
	SetLifetime fileSetLifetimeCmd `cmd:"" help:"Change how long files live, from their upload on."`
}

func fileHeader() []string { return []string{"FILE", "UPLOADED", "SIZE", "TYPE", "METADATA"} }

func fileRow(f client.File) []string {
	meta := f.Meta()
	parts := make([]string, 0, len(meta))
	for k, v := range meta {
		parts = append(parts, k+"="+v)
	}
	slices.Sort(parts)
	return []string{f.ID, f.UploadedAt, fmt.Sprint(f.Size), f.ContentType, strings.Join(parts, " ")}
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
	Query string `arg:"" help:"field:value, with AND, OR, NOT, parentheses, \"quoted text\", * and ?; \"*\" alone for everything."`
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
	size := 1000
	if c.Limit > 0 {
		size = min(c.Limit, size)
	}
	files := newList(e, fileHeader(), fileRow)
	if err := e.api.Files(e.ctx, id, fileQuery(c.Query), true, size, func(f client.File) error { return files.add(f, c.Limit) }); err != nil {
		return err
	}
	return files.end()
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
	n, err := e.api.CountFiles(e.ctx, id, fileQuery(c.Query))
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
