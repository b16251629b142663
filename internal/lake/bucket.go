// SPDX-License-Identifier: Apache-2.0

package lake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"panal/internal/blob"
	"panal/internal/lake/pagequery"
	"panal/internal/plat"
)

// A bucket is a channel whose files have paths (data.md §14, §15; docs/adr/0011):
// what holds for a channel's files holds for its own, but that one of the same path
// takes the place of the one before.

// maxPath bounds the path of a bucket's file, in bytes; S3's limit.
const maxPath = 1024

// CheckPath returns ErrInvalid, naming the field, unless p can be a file's path in a
// bucket: segments between single slashes, none of them "." or "..".
func CheckPath(field, p string) error {
	switch {
	case p == "":
		return plat.InvalidField(field, "the key is empty")
	case len(p) > maxPath:
		return plat.InvalidField(field, "the key has %d bytes; the limit is %d", len(p), maxPath)
	case !utf8.ValidString(p):
		return plat.InvalidField(field, "the key is not UTF-8")
	case strings.HasPrefix(p, "/"):
		return plat.InvalidField(field, "the key begins with a slash")
	case strings.ContainsFunc(p, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return plat.InvalidField(field, "the key holds a control character")
	}
	for seg := range strings.SplitSeq(p, "/") {
		if seg == "" || seg == "." || seg == ".." {
			return plat.InvalidField(field, "the key %q has the segment %q; segments can't be empty, . or ..", p, seg)
		}
	}
	return nil
}

// Directory says which entries of a bucket are wanted.
type Directory struct {
	Bucket plat.ChannelID
	Prefix string // "" or ends with a slash
	After  string // the path of an entry; "" or Prefix: from the first
	Limit  int    // at least 1
}

// DirEntry is a file or a directory just below another one.
type DirEntry struct {
	Path string // of a directory: with a slash at the end
	File *File  // nil: a directory
}

// bucket returns a bucket of the organization; ErrNotFound for another's.
func (s *Service) bucket(ctx context.Context, org plat.OrgID, id plat.ChannelID) (Channel, error) {
	c, err := s.store.Channel(ctx, id)
	if errors.Is(err, plat.ErrNotFound) || err == nil && (c.Org != org || c.Storage != StorageBucket) {
		return Channel{}, plat.NotFound("bucket", id)
	}
	return c, err
}

// CreateBucket makes a bucket of the organization. in.Storage is not looked at.
func (s *Service) CreateBucket(ctx context.Context, org plat.OrgID, in NewChannel) (Channel, error) {
	in.Storage = StorageBucket
	return s.create(ctx, org, in)
}

// Bucket returns a bucket of the organization.
func (s *Service) Bucket(ctx context.Context, org plat.OrgID, id plat.ChannelID) (Channel, error) {
	return s.bucket(ctx, org, id)
}

// Buckets lists the organization's buckets, newest first.
func (s *Service) Buckets(ctx context.Context, org plat.OrgID, page ChannelPage) (all []Channel, more bool, err error) {
	page.Buckets = true
	return s.store.Channels(ctx, org, page)
}

// UpdateBucket is UpdateChannel of a bucket.
func (s *Service) UpdateBucket(ctx context.Context, org plat.OrgID, id plat.ChannelID, ch ChannelChange) (Channel, error) {
	c, err := s.bucket(ctx, org, id)
	if err != nil {
		return Channel{}, err
	}
	return s.update(ctx, c, ch)
}

// DeleteBucket is DeleteChannel of a bucket.
func (s *Service) DeleteBucket(ctx context.Context, org plat.OrgID, id plat.ChannelID) (Channel, error) {
	c, err := s.bucket(ctx, org, id)
	if err != nil {
		return Channel{}, err
	}
	return s.drop(ctx, c)
}

// BucketUsage returns what a bucket holds.
func (s *Service) BucketUsage(ctx context.Context, org plat.OrgID, id plat.ChannelID) (Usage, error) {
	if _, err := s.bucket(ctx, org, id); err != nil {
		return Usage{}, err
	}
	return s.store.Usage(ctx, id, s.now())
}

// BucketUpload is a request to store a file under a path.
type BucketUpload struct {
	Org         plat.OrgID
	Bucket      plat.ChannelID
	Path        string
	ContentType string // empty: application/octet-stream
	Metadata    Metadata
	Lifetime    string // as on the wire
	Body        io.Reader
	Size        int64 // of Body; -1 when unknown
	Fresh       bool  // *ConflictError when there is a file under the path, which stays
	// After, where set, is called once the body is stored and before the file is there:
	// what follows a body may say its lifetime. An error leaves nothing behind.
	After func() (lifetime string, err error)
}

// PutBucketFile stores a file under its path, with the promises of Upload; the one
// that had it before is gone, with its bytes, when this returns. Errors are those of
// Upload.
func (s *Service) PutBucketFile(ctx context.Context, in BucketUpload) (File, error) {
	if err := CheckPath("file", in.Path); err != nil {
		return File{}, err
	}
	c, err := s.bucket(ctx, in.Org, in.Bucket)
	if err != nil {
		return File{}, err
	}
	f, err := s.prepareIn(ctx, c, Upload{ContentType: in.ContentType, Metadata: in.Metadata, Lifetime: in.Lifetime})
	if err != nil {
		return File{}, err
	}
	f.Path, f.Fresh = in.Path, in.Fresh
	if in.Fresh { // before the body; the commit decides
		switch there, err := s.store.PathFile(ctx, c.ID, in.Path, s.now()); {
		case err == nil:
			return File{}, &ConflictError{Target: "file", File: there}
		case !errors.Is(err, plat.ErrNotFound):
			return File{}, err
		}
	}
	room, err := s.quota.Reserve(ctx, in.Org, in.Size)
	if err != nil {
		return File{}, err
	}
	defer room.Drop()
	key := BlobKey(in.Org, f.Channel, f.ID)
	stored, err := s.blobs.Put(ctx, key, room.Reader(in.Body, in.Size), in.Size, blob.PutOptions{ContentType: f.ContentType, New: true})
	if err != nil {
		return File{}, fmt.Errorf("upload to bucket %s: %w", c.ID, err)
	}
	if in.After != nil {
		if err := s.after(&f, in.After); err != nil {
			cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitLimit)
			defer cancel()
			return File{}, errors.Join(err, s.blobs.Delete(cleanup, key))
		}
	}
	f.Size, f.ETag = stored.Size, stored.ETag
	return s.commit(ctx, key, f, room)
}

func (s *Service) after(f *NewFile, after func() (string, error)) error {
	lifetime, err := after()
	if err == nil && lifetime != "" {
		f.Lifetime, err = ParseLifetime(lifetime)
	}
	return err
}

// BucketFile returns the file under a path.
func (s *Service) BucketFile(ctx context.Context, org plat.OrgID, id plat.ChannelID, path string) (File, error) {
	if _, err := s.bucket(ctx, org, id); err != nil {
		return File{}, err
	}
	if CheckPath("file", path) != nil {
		return File{}, plat.NotFound("file", shorten(path)) // no file can have it
	}
	return s.store.PathFile(ctx, id, path, s.now())
}

// shorten makes a text that a stranger sent fit for a message.
func shorten(s string) string {
	if len(s) > 100 {
		s = s[:100] + "…"
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "�"), "\x00", "�")
}

// DeleteBucketFile deletes the file under a path and returns its bytes to the storage.
func (s *Service) DeleteBucketFile(ctx context.Context, org plat.OrgID, id plat.ChannelID, path string) (File, error) {
	const tries = 10
	for try := 1; ; try++ {
		f, err := s.BucketFile(ctx, org, id, path)
		if err != nil {
			return File{}, err
		}
		switch _, err := s.store.DeleteFile(ctx, id, f.ID, s.now()); {
		case errors.Is(err, plat.ErrNotFound) && try < tries: // another has taken its place
			continue
		case err != nil:
			return File{}, err
		}
		// As in DeleteFile: what the storage keeps now the collector finds.
		if err := s.blobs.Delete(ctx, BlobKey(org, id, f.ID)); err != nil && !later(err) {
			return File{}, fmt.Errorf("delete file %s: %w", f.ID, err)
		}
		return f, nil
	}
}

// queryTime bounds how long a listing looks for something that its query takes.
const queryTime = 20 * time.Second

// BucketEntries returns a page of a directory's entries, in the byte order of their
// paths, and the path of the last one that was looked at: where the next page begins.
// A page without entries is the end. With a query, pages of the directory that hold
// nothing it takes are passed by.
func (s *Service) BucketEntries(ctx context.Context, org plat.OrgID, d Directory, q *pagequery.Query) (page []DirEntry, last string, err error) {
	if _, err := s.bucket(ctx, org, d.Bucket); err != nil {
		return nil, "", err
	}
	for _, text := range []struct{ field, s string }{{"target_dir", d.Prefix}, {"start_after", d.After}} {
		if !plain(text.s) || len(text.s) > maxPath+1 {
			return nil, "", plat.InvalidField(text.field, "is the path of no entry of a bucket")
		}
	}
	until := time.Now().Add(queryTime) // of work, which no test's clock tells
	for {
		page, more, err := s.store.Entries(ctx, d, s.now())
		if err != nil {
			return nil, "", fmt.Errorf("list bucket %s: %w", d.Bucket, err)
		}
		if len(page) == 0 {
			return nil, "", nil
		}
		last := page[len(page)-1].Path
		if q == nil {
			return page, last, nil
		}
		if page, err = selected(q, page); err != nil || len(page) > 0 {
			return page, last, err
		}
		if !more {
			return nil, "", nil
		}
		if time.Now().After(until) {
			return nil, "", pagequery.Invalid("takes nothing of what was looked at in %s; go on with start_after=/%s", queryTime, last)
		}
		d.After = last
	}
}

func plain(s string) bool { return utf8.ValidString(s) && printable(s) }

// selected returns those entries of a page that q gives, in the page's order.
func selected(q *pagequery.Query, page []DirEntry) ([]DirEntry, error) {
	var view pagequery.Page
	var files, dirs []int
	for i, e := range page {
		if e.File == nil {
			view.CommonPrefixes, dirs = append(view.CommonPrefixes, e.Path), append(dirs, i)
			continue
		}
		view.Contents = append(view.Contents, pagequery.Object{
			Key: e.Path, Size: e.File.Size, ETag: e.File.ETag, LastModified: e.File.UploadedAt.Format(plat.TimeSecOffset),
		})
		files = append(files, i)
	}
	contents, prefixes, err := q.Select(view)
	if err != nil {
		return nil, err
	}
	var at []int
	for _, i := range contents {
		at = append(at, files[i])
	}
	for _, i := range prefixes {
		at = append(at, dirs[i])
	}
	slices.Sort(at)
	out := make([]DirEntry, len(at))
	for i, j := range at {
		out[i] = page[j]
	}
	return out, nil
}
