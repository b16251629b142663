// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"panal/internal/client"
	"panal/internal/plat"
	"panal/internal/x/etag"
)

type fileUploadCmd struct {
	channelArg
	Paths          []string          `arg:"" help:"Files and directories; - for stdin. Below a directory, a file's name is its path within."`
	Metadata       map[string]string `help:"Metadata for every file, as key=value; give it once per key." short:"m" aliases:"meta" mapsep:"none" placeholder:"KEY=VALUE"`
	ContentType    contentType       `help:"Content type; absent: by the file name."`
	Lifetime       lifetime          `help:"Delete after 1day, 1week, 1month, 6months or 1year."`
	SkipDuplicates bool              `help:"Leave out files whose name is in the channel already, whatever they hold."`
	Force          bool              `help:"Upload also what is there already: the same name, bytes and metadata."`
	walkFlags
	globs
	reportFlags
}

// Help implements kong's interface.
func (*fileUploadCmd) Help() string {
	return `What is in the channel already (same name, same bytes, the metadata that you give) is skipped, but gets the lifetime that you give: after an interruption, run the command again. What has other bytes or other metadata becomes another file of the same name (file set-metadata changes one that is there). The older one stays, and keeps the name when both are downloaded, so that names don't change under anybody; the newest is the first of file find CHANNEL 'filename:"NAME"'.

  panal file upload digits ./photos --include '**/*.jpg' --exclude '.git' -m split=train
  tar c data | panal file upload digits - -m filename=data.tar

Links are followed, but not into a directory that they are in themselves. What is no regular file (a pipe, a device) and links to nothing are passed over, and named on stderr; --no-follow-links passes over every link. Names are stored as they are, but come back from a download with "-" for a control character, such as a newline. The exit code is 0 only when every file is there; where --include and --exclude leave none it is 2.`
}

// Run uploads files. The name of a file is its base name, or for a single one what
// the metadata says; below a directory it is the path within, so that a label folder
// stays visible.
func (c *fileUploadCmd) Run(e *env) error {
	if err := c.check(); err != nil {
		return err
	}
	name, named, err := c.name()
	if err != nil {
		return err
	}
	id, err := c.id(e)
	if err != nil {
		return err
	}
	files, err := c.files(e, c.Paths, c.globs)
	if err != nil {
		return err
	}
	there := &presence{e: e, channel: id}
	if !c.Force {
		if err := there.prepare(len(files)); err != nil {
			return err
		}
	}
	total := int64(0)
	for _, f := range files {
		total += max(f.size, 0)
	}
	for i := range files {
		if named && (len(c.Paths) == 1 || files[i].path == "-") {
			files[i].name = name
		}
	}
	r := e.newTransfer(c.reportFlags, c.globs, "uploaded", len(files), e.progressBytes(total, "uploading"))
	return r.finish(r.all(len(files), func(ctx context.Context, i int) (outcome, error) {
		o, err := c.upload(ctx, e, id, files[i], there, r.bar)
		o.Path = files[i].path
		return o, err
	}))
}

// name takes the name that a single file is given out of the metadata of every file.
func (c *fileUploadCmd) name() (name string, given bool, err error) {
	if c.Metadata, err = metadata(c.Metadata); err != nil {
		return "", false, err
	}
	if name, given = c.Metadata["filename"]; !given {
		return "", false, nil
	}
	delete(c.Metadata, "filename")
	for _, path := range c.Paths {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return "", false, plat.InvalidField("metadata", "filename=%s does not go with the directory %s: the name of a file below it is its path within", name, path)
		}
	}
	if len(c.Paths) > 1 && !slices.Contains(c.Paths, "-") {
		return "", false, plat.InvalidField("metadata", "filename=%s is for a single file", name)
	}
	return name, true, nil
}

// upload brings one file, unless it is there.
func (c *fileUploadCmd) upload(ctx context.Context, e *env, channel string, f local, there *presence, bar progress) (outcome, error) {
	meta := maps.Clone(c.Metadata)
	if f.name != "" {
		meta["filename"] = f.name
	}
	n := client.NewFile{ContentType: string(c.ContentType), Metadata: meta, Lifetime: string(c.Lifetime), Size: f.size}
	if n.ContentType == "" {
		n.ContentType = mime.TypeByExtension(filepath.Ext(f.name))
	}
	if c.SkipDuplicates {
		n.ConflictTarget = "filename"
	}
	stdin := f.path == "-"
	look := !c.Force && !stdin
	later := notNow
	if look { // after a broken connection the file may be there: the next try looks
		later = passing
	}
	if stdin {
		later = func(error) bool { return false } // it can't be read again
	}
	out, sends, unknown := outcome{Size: max(f.size, 0)}, 0, look
	err := again(ctx, later, func() error {
		if unknown {
			found, ok, err := there.has(ctx, f, meta, sends > 0)
			if err == nil && ok && n.Lifetime != "" && (found.Lifetime == nil || *found.Lifetime != n.Lifetime) {
				err = e.api.SetFileLifetime(ctx, channel, found.ID, n.Lifetime)
			}
			if err != nil || ok {
				out.FileID, out.Skipped = found.ID, sends == 0
				return err
			}
		}
		sends++
		file, err := c.send(ctx, e, channel, f, n, bar)
		unknown = look && !notNow(err) // what was refused need not be looked for: each request counts
		if old, ok := client.ConflictFile(err); ok && c.SkipDuplicates {
			file, err, out.Skipped = old, nil, true
		}
		out.FileID = file.ID
		if err == nil && stdin {
			out.Size = file.Size
		}
		return err
	})
	return out.sent(bar, "channel "+channel, err)
}

// send uploads the bytes once and compares what arrived.
func (c *fileUploadCmd) send(ctx context.Context, e *env, channel string, f local, n client.NewFile, bar progress) (client.File, error) {
	src := e.stdin
	if f.path != "-" {
		file, err := os.Open(f.path)
		if err != nil {
			return client.File{}, err
		}
		defer func() { _ = file.Close() }()
		src = file
	}
	sum := etag.New()
	n.Body = io.NopCloser(io.TeeReader(src, io.MultiWriter(sum, barWriter{bar}))) // ours to close, also when the server has stopped reading
	file, err := e.api.Upload(ctx, channel, n)
	if err != nil {
		bar.add(int(-sum.Size()))
		return client.File{}, err
	}
	if tag := sum.ETag(); file.ETag != "" && file.ETag != tag {
		err := fmt.Errorf("the server stored other bytes than were sent (%s instead of %s)", file.ETag, tag)
		return client.File{}, errors.Join(err, e.api.DeleteFile(ctx, channel, file.ID))
	}
	return file, nil
}

// barWriter counts what is written to it.
type barWriter struct{ bar progress }

// Write implements io.Writer.
func (w barWriter) Write(p []byte) (int, error) {
	w.bar.add(len(p))
	return len(p), nil
}

// presence tells what is in the channel already.
type presence struct {
	e       *env
	channel string

	mu     sync.Mutex
	byName map[string][]client.File // nil: ask for each name
}

// prepare reads the channel's list at once where that is cheaper than to ask for
// each of n files.
func (p *presence) prepare(n int) error {
	const perPage = 1000
	count, err := p.e.api.CountFiles(p.e.ctx, p.channel, "")
	if err != nil || count > perPage*int64(n)/4 || count > 1<<20 {
		return err
	}
	p.byName = map[string][]client.File{}
	return p.e.api.Files(p.e.ctx, p.channel, "", false, perPage, func(f client.File) error {
		name := f.Meta()["filename"]
		f.DownloadURI = "" // not needed, and long
		p.byName[name] = append(p.byName[name], f)
		return nil
	})
}

// named returns the files of a name, as they are now when fresh.
func (p *presence) named(ctx context.Context, name string, fresh bool) ([]client.File, error) {
	if p.byName != nil && !fresh {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.byName[name], nil
	}
	var found []client.File
	err := p.e.api.Files(ctx, p.channel, "filename:"+quoteQuery(name), false, 100, func(f client.File) error {
		found = append(found, f)
		return nil
	})
	if ae, ok := errors.AsType[*client.Error](err); ok && errors.Is(ae, plat.ErrInvalid) {
		return nil, nil // no query can hold such a name
	}
	return found, err
}

// has tells whether a file with f's name, bytes and metadata is there. The bytes are
// read only when all else is equal.
func (p *presence) has(ctx context.Context, f local, meta map[string]string, fresh bool) (client.File, bool, error) {
	if f.name == "" {
		return client.File{}, false, nil
	}
	found, err := p.named(ctx, f.name, fresh)
	if err != nil {
		return client.File{}, false, err
	}
	tag := ""
	for _, there := range found {
		if there.Size != f.size || !hasAll(there.Meta(), meta) {
			continue
		}
		if tag == "" {
			if tag, err = fileTag(f.path); err != nil {
				return client.File{}, false, err
			}
		}
		if there.ETag == tag {
			return there, true, nil
		}
	}
	return client.File{}, false, nil
}

func fileTag(path string) (string, error) {
	file, err := os.Open(filepath.Clean(path))
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	sum := etag.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", err
	}
	return sum.ETag(), nil
}
