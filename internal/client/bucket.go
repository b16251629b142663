// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"panal/internal/plat"
)

// Bucket is a store of files by path.
type Bucket struct {
	ID          string  `json:"bucket_id"`
	Name        string  `json:"name"`
	Description *string `json:"description"`
	Archived    bool    `json:"archived"`
	CreatedAt   string  `json:"created_at"`
}

type bucketAnswer struct {
	Bucket Bucket `json:"bucket"`
}

func (c *Client) bucket(ctx context.Context, method string, in any, segments ...string) (Bucket, error) {
	var out bucketAnswer
	err := c.JSON(ctx, method, c.OrgPath(append([]string{"buckets"}, segments...)...), nil, in, &out)
	return out.Bucket, err
}

// CreateBucket makes a bucket.
func (c *Client) CreateBucket(ctx context.Context, name, description string) (Bucket, error) {
	in := map[string]string{"name": name}
	if description != "" {
		in["description"] = description
	}
	return c.bucket(ctx, http.MethodPost, in)
}

// Bucket returns a bucket.
func (c *Client) Bucket(ctx context.Context, id string) (Bucket, error) {
	return c.bucket(ctx, http.MethodGet, nil, id)
}

// UpdateBucket changes a bucket's name and description; nil stays.
func (c *Client) UpdateBucket(ctx context.Context, id string, name, description *string) (Bucket, error) {
	in := map[string]string{}
	if name != nil {
		in["name"] = *name
	}
	if description != nil {
		in["description"] = *description
	}
	return c.bucket(ctx, http.MethodPatch, in, id)
}

// ArchiveBucket archives a bucket, or takes it back.
func (c *Client) ArchiveBucket(ctx context.Context, id string, archived bool) (Bucket, error) {
	verb := "archive"
	if !archived {
		verb = "unarchive"
	}
	return c.bucket(ctx, http.MethodPost, nil, id, verb)
}

// DeleteBucket deletes a bucket with all its files.
func (c *Client) DeleteBucket(ctx context.Context, id string) (Bucket, error) {
	return c.bucket(ctx, http.MethodDelete, nil, id)
}

// Buckets returns all buckets, newest first.
func (c *Client) Buckets(ctx context.Context, archived bool) ([]Bucket, error) {
	const limit = 1000
	all := []Bucket{}
	for {
		q := url.Values{"limit": {strconv.Itoa(limit)}, "offset": {strconv.Itoa(len(all))}}
		if archived {
			q.Set("filter_archived", "include_archived")
		}
		var page struct {
			Buckets []Bucket `json:"buckets"`
			HasNext bool     `json:"has_next"`
		}
		if err := c.JSON(ctx, http.MethodGet, c.OrgPath("buckets"), q, nil, &page); err != nil {
			return nil, err
		}
		if all = append(all, page.Buckets...); !page.HasNext || len(page.Buckets) == 0 {
			return all, nil
		}
	}
}

// BucketUsage returns how many files a bucket holds, and their bytes.
func (c *Client) BucketUsage(ctx context.Context, id string) (files, bytes int64, err error) {
	var out struct {
		Files int64 `json:"files"`
		Bytes int64 `json:"bytes"`
	}
	err = c.JSON(ctx, http.MethodGet, c.OrgPath("buckets", id, "usage"), nil, nil, &out)
	return out.Files, out.Bytes, err
}

// VerifyBucket compares a bucket's index with its storage and its journal.
func (c *Client) VerifyBucket(ctx context.Context, id string, deep, repair bool) (Verified, error) {
	var out Verified
	q := url.Values{"deep": {strconv.FormatBool(deep)}, "repair": {strconv.FormatBool(repair)}}
	err := c.JSON(ctx, http.MethodPost, c.OrgPath("buckets", id, "verify"), q, nil, &out)
	return out, err
}

// BucketFile is a file of a bucket, or a directory.
type BucketFile struct {
	// ID is its key: with a slash in front, of a directory with one at its end too.
	ID     string `json:"file_id"`
	IsFile bool   `json:"is_file"`
	File
}

// Key is the key as uploads name it.
func (f BucketFile) Key() string { return strings.TrimPrefix(f.ID, "/") }

// UnmarshalJSON implements json.Unmarshaler: a directory has nulls.
func (f *BucketFile) UnmarshalJSON(raw []byte) error {
	var is struct {
		ID     string `json:"file_id"`
		IsFile bool   `json:"is_file"`
	}
	if err := errors.Join(json.Unmarshal(raw, &is), json.Unmarshal(raw, &f.File)); err != nil {
		return err
	}
	f.ID, f.IsFile = is.ID, is.IsFile
	return nil
}

// filePath is the path of a key's file, its slashes as they are.
func (c *Client) filePath(bucket, key string) string {
	return c.OrgPath(append([]string{"buckets", bucket, "files"}, strings.Split(key, "/")...)...)
}

// UploadBucketFile stores a file under a key; one that is there is replaced.
func (c *Client) UploadBucketFile(ctx context.Context, bucket, key string, n NewFile) (File, error) {
	if strings.ContainsFunc(key+n.ContentType, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return File{}, plat.InvalidField("file", "the key %q holds a control character", key)
	}
	random := make([]byte, 16)
	_, _ = rand.Read(random) // never fails
	boundary := "panal" + hex.EncodeToString(random)
	params := map[string]string{}
	if n.Lifetime != "" {
		params["lifetime"] = n.Lifetime
	}
	raw, err := json.Marshal(params)
	if err != nil {
		return File{}, fmt.Errorf("encode request: %w", err)
	}
	var head strings.Builder
	// First what is short: a wrong lifetime is refused before the bytes are sent.
	fmt.Fprintf(&head, "--%s\r\nContent-Disposition: form-data; name=\"parameters\"; filename=\"params.json\"\r\nContent-Type: application/json\r\n\r\n%s\r\n", boundary, raw)
	fmt.Fprintf(&head, "--%s\r\nContent-Disposition: form-data; name=\"file\"; filename=\"%s\"\r\n", boundary, strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key))
	if n.ContentType != "" {
		fmt.Fprintf(&head, "Content-Type: %s\r\n", n.ContentType)
	}
	head.WriteString("\r\n")
	tail := "\r\n--" + boundary + "--\r\n"
	r := Request{
		Method: http.MethodPost, Path: c.OrgPath("buckets", bucket, "files"), Header: http.Header{"Content-Type": {"multipart/form-data; boundary=" + boundary}},
		Body: io.MultiReader(strings.NewReader(head.String()), n.Body, strings.NewReader(tail)), Size: -1,
	}
	if n.Size >= 0 {
		r.Size = int64(head.Len()) + n.Size + int64(len(tail))
	}
	for k, v := range n.Metadata {
		r.Header[metaPrefix+Escape(k)] = []string{Escape(v)}
	}
	res, err := c.Do(ctx, r)
	if err != nil {
		return File{}, err
	}
	defer func() { _ = res.Body.Close() }()
	var f File
	err = json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&f)
	return f, err
}

// BucketFile returns one file with a fresh download URL.
func (c *Client) BucketFile(ctx context.Context, bucket, key string) (BucketFile, error) {
	var f BucketFile
	err := c.JSON(ctx, http.MethodGet, c.filePath(bucket, key), nil, nil, &f)
	return f, err
}

// DeleteBucketFile deletes a file.
func (c *Client) DeleteBucketFile(ctx context.Context, bucket, key string) error {
	return c.JSON(ctx, http.MethodDelete, c.filePath(bucket, key), nil, nil, nil)
}

// BucketFiles calls each for what is in a directory ("" is the root), in byte order:
// files and directories; with deep, for the files below it at any depth. q is a JMESPath
// expression over each page of a directory, "" for none; it does not go with deep.
func (c *Client) BucketFiles(ctx context.Context, bucket, dir, q string, deep bool, each func(BucketFile) error) error {
	const pageSize = "1000"
	for dirs := []string{"/" + strings.Trim(dir, "/")}; len(dirs) > 0; {
		query := url.Values{"target_dir": {dirs[0]}, "items_per_page": {pageSize}}
		if q != "" {
			query.Set("q", q)
		}
		dirs = dirs[1:]
		var below []string
		for {
			var page struct {
				Files []BucketFile `json:"files"`
				Next  *string      `json:"next_start_after"`
			}
			if err := c.JSON(ctx, http.MethodGet, c.OrgPath("buckets", bucket, "files"), query, nil, &page); err != nil {
				return err
			}
			for _, f := range page.Files {
				if deep && !f.IsFile {
					below = append(below, f.ID)
					continue
				}
				if err := each(f); err != nil {
					return stopped(err)
				}
			}
			if len(page.Files) == 0 || page.Next == nil {
				break
			}
			query.Set("start_after", *page.Next)
		}
		dirs = append(below, dirs...) // depth first: what waits stays few
	}
	return nil
}

// DownloadBucketFile returns a file's bytes from off on, and where they begin: off, or 0
// where the server sends all of them. ErrConflict when another file has taken its place.
func (c *Client) DownloadBucketFile(ctx context.Context, bucket string, f BucketFile, off int64) (rc io.ReadCloser, at int64, err error) {
	header := http.Header{}
	if off > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", off))
	}
	for fresh := f.DownloadURI == ""; ; fresh = true {
		if fresh {
			now, err := c.BucketFile(ctx, bucket, f.Key())
			if err != nil {
				return nil, 0, err
			}
			if now.ETag != f.ETag || now.Size != f.Size {
				return nil, 0, plat.Errorf(plat.ErrConflict, "%s has been replaced since it was listed; run the command again", f.Key())
			}
			f = now
		}
		res, err := c.Do(ctx, Request{Method: http.MethodGet, Path: f.DownloadURI, Header: header})
		// Its time is over, or the file was replaced: its bytes are gone then.
		if e, ok := errors.AsType[*Error](err); ok && (e.Status == http.StatusForbidden || e.Status == http.StatusNotFound) && !fresh {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		if res.StatusCode == http.StatusPartialContent {
			return res.Body, off, nil
		}
		return res.Body, 0, nil
	}
}
