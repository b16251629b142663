// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"crypto/md5" //nolint:gosec // a short name for a long one, not a promise
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"os"
	"path"
	"path/filepath"
	"strings"

	"panal/internal/client"
	"panal/internal/plat"
	"panal/internal/x/etag"
)

type bucketUploadCmd struct {
	bucketArg
	Paths       []string          `arg:"" help:"Files and directories; - for stdin. Below a directory, a file's key is its path within."`
	To          string            `help:"Directory of the bucket to put them in; absent: its root." placeholder:"DIR"`
	Name        string            `help:"Name of a single file, or of stdin."`
	Metadata    map[string]string `help:"Metadata for every file, as key=value; give it once per key." short:"m" aliases:"meta" mapsep:"none" placeholder:"KEY=VALUE"`
	ContentType contentType       `help:"Content type; absent: by the file name."`
	Lifetime    lifetime          `help:"Delete after 1day, 1week, 1month, 6months or 1year."`
	Force       bool              `help:"Upload also what is there already: the same key, bytes and metadata."`
	walkFlags
	globs
	reportFlags
}

// Help implements kong's interface.
func (*bucketUploadCmd) Help() string {
	return `What is in the bucket already (same key, same bytes, the metadata that you give) is skipped: after an interruption, run the command again. A file of other bytes under the same key is replaced.

  panal bucket upload models ./out --to run-7 --include '**/*.pt' --exclude '.git'
  tar c data | panal bucket upload models - --name data.tar

Links are followed, but not into a directory that they are in themselves. What is no regular file (a pipe, a device) and links to nothing are passed over, and named on stderr; --no-follow-links passes over every link. The exit code is 0 only when every file is there; where --include and --exclude leave none it is 2.`
}

// Run uploads files.
func (c *bucketUploadCmd) Run(e *env) error {
	if err := c.check(); err != nil {
		return err
	}
	var err error
	if c.Metadata, err = metadata(c.Metadata); err != nil {
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
	if c.Name != "" {
		if len(c.Paths) != 1 || len(files) == 1 && !files[0].single || len(files) > 1 {
			return plat.InvalidField("name", "is for a single file")
		}
		for i := range files {
			files[i].name = c.Name
		}
	}
	total, from := int64(0), map[string]string{}
	for i, f := range files {
		if f.name == "" {
			return plat.InvalidField("name", "is required for stdin")
		}
		if other, twice := from[f.name]; twice { // one would replace the other, nobody knows which
			return plat.Errorf(plat.ErrInvalid, "%s and %s would have the same key, %s; upload them apart, each with its --to", other, f.path, f.name)
		}
		from[f.name] = f.path
		if dir := strings.Trim(c.To, "/"); dir != "" {
			files[i].name = dir + "/" + f.name
		}
		total += max(f.size, 0)
	}
	r := e.newTransfer(c.reportFlags, c.globs, "uploaded", len(files), e.progressBytes(total, "uploading"))
	return r.finish(r.all(len(files), func(ctx context.Context, i int) (outcome, error) {
		o, err := c.upload(ctx, e, id, files[i], r.bar)
		o.Path, o.FileID = files[i].path, files[i].name
		return o, err
	}))
}

// upload brings one file, unless it is there.
func (c *bucketUploadCmd) upload(ctx context.Context, e *env, bucket string, f local, bar progress) (outcome, error) {
	n := client.NewFile{ContentType: string(c.ContentType), Metadata: c.Metadata, Lifetime: string(c.Lifetime), Size: f.size}
	if n.ContentType == "" {
		n.ContentType = mime.TypeByExtension(filepath.Ext(f.name))
	}
	stdin := f.path == "-"
	out := outcome{Size: max(f.size, 0)}
	later := passing // to upload twice what one wants under one key does no harm
	if stdin {
		later = func(error) bool { return false } // it can't be read again
	}
	look, sends := !c.Force && !stdin, 0
	unknown := look
	err := again(ctx, later, func() error {
		if unknown {
			there, err := c.there(ctx, e, bucket, f)
			if err != nil || there {
				out.Skipped = sends == 0
				return err
			}
		}
		sends++
		file, err := c.send(ctx, e, bucket, f, n, bar)
		if err == nil && stdin {
			out.Size = file.Size
		}
		unknown = look && !notNow(err) // what was refused need not be looked for: each request counts
		return err
	})
	return out.sent(bar, "bucket "+bucket, err)
}

// there tells whether the key has f's bytes and the metadata that was given. The bytes
// are read only when all else is equal.
func (c *bucketUploadCmd) there(ctx context.Context, e *env, bucket string, f local) (bool, error) {
	found, err := e.api.BucketFile(ctx, bucket, f.name)
	if errors.Is(err, plat.ErrNotFound) {
		return false, nil
	}
	if err != nil || found.Size != f.size {
		return false, err
	}
	if !hasAll(found.Meta(), c.Metadata) || c.Lifetime != "" && (found.Lifetime == nil || *found.Lifetime != string(c.Lifetime)) {
		return false, nil
	}
	tag, err := fileTag(f.path)
	return err == nil && tag == found.ETag, err
}

// send uploads the bytes once and compares what arrived.
func (c *bucketUploadCmd) send(ctx context.Context, e *env, bucket string, f local, n client.NewFile, bar progress) (client.File, error) {
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
	n.Body = io.TeeReader(src, io.MultiWriter(sum, barWriter{bar}))
	file, err := e.api.UploadBucketFile(ctx, bucket, f.name, n)
	if err != nil {
		bar.add(int(-sum.Size()))
		return client.File{}, err
	}
	if tag := sum.ETag(); file.ETag != "" && file.ETag != tag {
		return client.File{}, fmt.Errorf("the server stored other bytes than were sent (%s instead of %s); upload it again with --force", file.ETag, tag)
	}
	return file, nil
}

func bucketFileHeader() []string { return []string{"KEY", "UPLOADED", "SIZE", "TYPE", "METADATA"} }

func bucketFileRow(f client.BucketFile) []string {
	if !f.IsFile {
		return []string{f.Key(), "", "", "", ""}
	}
	row := fileRow(f.File)
	row[0] = f.Key()
	return row
}

type bucketLsCmd struct {
	bucketArg
	Dir       string `arg:"" optional:"" help:"Directory; absent: the root."`
	Recursive bool   `help:"All files below it, at any depth." short:"r"`
	Query     string `help:"JMESPath over {Contents: [{Key, Size, LastModified, ETag}], CommonPrefixes: [{Prefix}]}, for example 'Contents[?Size > 100]'. In the shell, numbers of the standard language are in backquotes." short:"q"`
	Limit     int    `help:"At most so many; 0 for all." default:"1000"`
}

// Run lists a directory.
func (c *bucketLsCmd) Run(e *env) error {
	if c.Recursive && c.Query != "" {
		return plat.InvalidField("query", "is about one directory; it does not go with --recursive")
	}
	id, err := c.id(e)
	if err != nil {
		return err
	}
	files := newList(e, bucketFileHeader(), bucketFileRow)
	err = e.api.BucketFiles(e.ctx, id, c.Dir, c.Query, c.Recursive, func(f client.BucketFile) error { return files.add(f, c.Limit) })
	if err != nil {
		return err
	}
	return files.end()
}

type bucketGetCmd struct {
	bucketArg
	Key string `arg:"" help:"The file's key."`
}

// Run shows a file.
func (c *bucketGetCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	f, err := e.api.BucketFile(e.ctx, id, strings.TrimPrefix(c.Key, "/"))
	if err != nil {
		return err
	}
	return e.print(f, bucketFileHeader(), [][]string{bucketFileRow(f)})
}

type bucketDownloadCmd struct {
	bucketArg
	Keys  []string `arg:"" optional:"" help:"Files or directories; absent: the whole bucket."`
	To    string   `help:"Directory to write to; - for stdout (one file)." default:"." placeholder:"DIR"`
	Force bool     `help:"Download also what is there already."`
	globs
	reportFlags
}

// Help implements kong's interface.
func (*bucketDownloadCmd) Help() string {
	return `Files come to lie below the directory as they do in the bucket; what is below a directory that you name, as it lies within it. What is there already (same name and bytes) is skipped, and a file that was cut goes on where it ended: after an interruption, run the command again. A full disk ends it, and leaves nothing of the files that were under way.

  panal bucket download models --to ./models
  panal bucket download models run-7 --to ./run-7 --include '**/*.pt'

The exit code is 0 only when every file is there, with the bytes that were uploaded.`
}

// Run downloads files.
func (c *bucketDownloadCmd) Run(e *env) error {
	if err := c.check(); err != nil {
		return err
	}
	id, err := c.id(e)
	if err != nil {
		return err
	}
	if c.To == "-" {
		return c.stdout(e, id)
	}
	root, err := openTo(c.To)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	r := e.newTransfer(c.reportFlags, c.globs, "downloaded", -1, e.progressBytes(-1, "downloading"))
	names, seen := namer{tree: true, used: map[string]bool{}}, map[string]bool{}
	err = c.each(e, id, func(f client.BucketFile, within string) error {
		if seen[f.Key()] { // named twice, or below a directory that is named too
			return nil
		}
		seen[f.Key()] = true
		name := names.unique(within, shortID(f.Key()))
		if !c.takes(within) {
			return nil
		}
		return r.do(func(ctx context.Context) (outcome, error) {
			d := download{bar: r.bar, root: root, file: f.File, name: name, force: c.Force, verify: "panal bucket verify " + id}
			d.file.ID = shortID(f.Key() + "\x00" + f.ETag) // of its part: bytes change under a key
			d.from = func(ctx context.Context, _ client.File, off int64) (io.ReadCloser, int64, error) {
				return e.api.DownloadBucketFile(ctx, id, f, off)
			}
			skipped, err := d.run(ctx)
			o := outcome{Path: filepath.Join(c.To, filepath.FromSlash(name)), FileID: f.Key(), Size: f.Size, Skipped: skipped}
			if skipped {
				o.Size = 0
			}
			return o, err
		})
	})
	return r.finish(err)
}

// shortID stands for a key where a name is wanted.
func shortID(key string) string {
	sum := md5.Sum([]byte(key)) //nolint:gosec // see the import
	return hex.EncodeToString(sum[:])
}

// each calls f for each file, with its path within what was named.
func (c *bucketDownloadCmd) each(e *env, bucket string, f func(file client.BucketFile, within string) error) error {
	below := func(dir string) (n int, err error) {
		prefix := ""
		if dir != "" {
			prefix = dir + "/"
		}
		err = e.api.BucketFiles(e.ctx, bucket, dir, "", true, func(file client.BucketFile) error {
			n++
			return f(file, strings.TrimPrefix(file.Key(), prefix))
		})
		return n, err
	}
	if len(c.Keys) == 0 {
		_, err := below("")
		return err
	}
	for _, key := range c.Keys {
		key = strings.TrimPrefix(key, "/")
		dir := strings.Trim(key, "/")
		if dir == key && key != "" {
			file, err := e.api.BucketFile(e.ctx, bucket, key)
			if err == nil {
				err = f(file, path.Base(key))
			}
			if !errors.Is(err, plat.ErrNotFound) {
				if err != nil {
					return err
				}
				continue
			}
		}
		n, err := below(dir)
		if err != nil {
			return err
		}
		if n == 0 {
			return plat.NotFound("file or directory", key)
		}
	}
	return nil
}

// stdout writes one file to standard output.
func (c *bucketDownloadCmd) stdout(e *env, bucket string) error {
	if len(c.Keys) != 1 {
		return plat.InvalidField("to", "- takes exactly one file")
	}
	f, err := e.api.BucketFile(e.ctx, bucket, strings.TrimPrefix(c.Keys[0], "/"))
	if err != nil {
		return err
	}
	rc, _, err := e.api.DownloadBucketFile(e.ctx, bucket, f, 0)
	if err != nil {
		return err
	}
	defer func() { _ = rc.Close() }()
	sum := etag.New()
	if _, err := io.Copy(io.MultiWriter(e.stdout, sum), rc); err != nil {
		return err
	}
	return checkSum(sum, f.File)
}

type bucketRmCmd struct {
	bucketArg
	Keys      []string `arg:"" help:"Files, or with --recursive directories; / is everything."`
	Recursive bool     `help:"Everything below the directories." short:"r"`
	Yes       bool     `help:"Really delete what --recursive finds."`
	reportFlags
}

// Run deletes files.
func (c *bucketRmCmd) Run(e *env) error {
	id, err := c.id(e)
	if err != nil {
		return err
	}
	keys := []string{}
	for _, key := range c.Keys {
		if !c.Recursive {
			keys = append(keys, strings.TrimPrefix(key, "/"))
			continue
		}
		if err := e.api.BucketFiles(e.ctx, id, key, "", true, func(f client.BucketFile) error {
			keys = append(keys, f.Key())
			return nil
		}); err != nil {
			return err
		}
	}
	if c.Recursive && !c.Yes {
		e.say("%d files would be deleted; nothing was done: add --yes to delete them", len(keys))
		return e.print(map[string]any{"dry_run": true, "count": len(keys)}, []string{"COUNT"}, [][]string{{fmt.Sprint(len(keys))}})
	}
	r := e.newTransfer(c.reportFlags, globs{}, "deleted", len(keys), e.progress(len(keys), "deleting", "files"))
	return r.finish(r.all(len(keys), func(ctx context.Context, i int) (outcome, error) {
		defer r.bar.add(1)
		return outcome{FileID: keys[i]}, again(ctx, passing, func() error { return c.delete(ctx, e, id, keys[i]) })
	}))
}

// delete deletes one file, and says how to delete a directory.
func (c *bucketRmCmd) delete(ctx context.Context, e *env, bucket, key string) error {
	err := e.api.DeleteBucketFile(ctx, bucket, key)
	if c.Recursive || !errors.Is(err, plat.ErrNotFound) {
		return err
	}
	isDir := false
	if e.api.BucketFiles(ctx, bucket, key, "", false, func(client.BucketFile) error { isDir = true; return client.ErrStop }) == nil && isDir {
		return plat.Errorf(plat.ErrNotFound, "there is no file %s, but a directory; --recursive deletes what is below it", key)
	}
	return err
}
