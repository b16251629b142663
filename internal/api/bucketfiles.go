// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"panal/internal/authz"
	"panal/internal/lake"
	"panal/internal/lake/pagequery"
	"panal/internal/plat"
)

// BucketUploaded is the answer to an upload to a bucket (data.md §15.2).
type BucketUploaded struct {
	FileID      string            `json:"file_id" doc:"the key, without a slash in front" example:"img/a.jpg"`
	ContentType string            `json:"content_type"`
	Lifetime    *string           `json:"lifetime" doc:"null, 1day, 1week, 1month, 6months or 1year"`
	UploadedAt  string            `json:"uploaded_at"`
	Metadata    map[string]string `json:"metadata"`
	BucketID    string            `json:"bucket_id"`
	Size        int64             `json:"size" doc:"bytes"`
	ETag        string            `json:"etag" doc:"S3 style over chunks of 5 MiB, without quotes"`
}

// BucketEntry is a file of a bucket, or a directory (data.md §15.1).
type BucketEntry struct {
	FileID       string            `json:"file_id" doc:"the key with a slash in front; of a directory, one at its end too" example:"/img/a.jpg"`
	IsFile       bool              `json:"is_file" doc:"false: a directory"`
	Size         int64             `json:"size" doc:"bytes; 0 for a directory"`
	ETag         *string           `json:"etag" doc:"S3 style over chunks of 5 MiB, without quotes; null for a directory, as all that follows"`
	Metadata     map[string]string `json:"metadata" doc:"empty for a directory"`
	ContentType  *string           `json:"content_type"`
	Lifetime     *string           `json:"lifetime" doc:"null, 1day, 1week, 1month, 6months or 1year"`
	LastModified *string           `json:"last_modified"`
	UploadedAt   *string           `json:"uploaded_at"`
	DownloadURI  *string           `json:"download_uri" doc:"absolute, signed, good for an hour"`
	DownloadURL  *string           `json:"download_url" doc:"the same under its older name"`
	URLExpiresOn *string           `json:"url_expires_on"`
}

// BucketEntriesAnswer is a page of a directory.
type BucketEntriesAnswer struct {
	Files          []BucketEntry `json:"files"`
	NextStartAfter *string       `json:"next_start_after" doc:"where the next page begins; null only on the empty page at the end"`
	LastFileID     *string       `json:"last_file_id" doc:"the same under its other name"`
}

func (a *API) bucketFileWire(ctx context.Context, f lake.File, presign bool) (BucketEntry, error) {
	link, expires, err := a.fileURL(ctx, f, presign)
	if err != nil {
		return BucketEntry{}, err
	}
	at, until := f.UploadedAt.Format(plat.TimeSecOffset), expires.Format(plat.TimeSecOffset)
	return BucketEntry{
		FileID: "/" + f.Path, IsFile: true, Size: f.Size, ETag: &f.ETag, Metadata: f.Metadata.Wire(caller(ctx).Org), ContentType: &f.ContentType,
		Lifetime: orNull(string(f.Lifetime)), LastModified: &at, UploadedAt: &at, DownloadURI: &link, DownloadURL: &link, URLExpiresOn: &until,
	}, nil
}

func (a *API) addBucketFiles() {
	const files, one = bucketPath + "/files", bucketPath + "/files/{key}"
	rest := func(o operation) operation {
		o.Rest = "key"
		return o
	}
	a.raw(bucketOp("upload-bucket-file", http.MethodPost, files,
		"Upload a file as multipart/form-data: its key is the filename of the part file; x-abeja-meta-* headers are its metadata", authz.BucketFileUpload), a.uploadBucketFile)
	a.raw(rest(bucketOp("get-bucket-file", http.MethodGet, one, "Get a file with a fresh download URL", authz.BucketRead)), a.getBucketFile)
	a.raw(rest(bucketOp("delete-bucket-file", http.MethodDelete, one, "Delete a file", authz.BucketFileDelete)), a.deleteBucketFile)

	type listIn struct {
		BucketPath
		TargetDir  string `query:"target_dir" doc:"/ (default) or a directory's file_id"`
		PageSize   string `query:"items_per_page" doc:"1 to 1000, default 100"`
		StartAfter string `query:"start_after" doc:"next_start_after of the page before"`
		LastFileID string `query:"last_file_id" doc:"the same as start_after"`
		Q          string `query:"q" doc:"JMESPath over {Contents: [{Key, Size, LastModified, ETag}], CommonPrefixes: [{Prefix}]} of each page, for example Contents[?Size > 100]"`
		Presign    string `query:"presign" doc:"false: download URLs of Panal's own, whatever the storage has; default true"`
	}
	register(a, bucketOp("list-bucket-files", http.MethodGet, files, "List one level of a bucket's directories; an empty page is the end", authz.BucketRead), func(ctx context.Context, in *listIn) (*BucketEntriesAnswer, error) {
		d := lake.Directory{Bucket: plat.ChannelID(in.Bucket)}
		var err error
		if d.Limit, err = a.pageSize("items_per_page", in.PageSize, 100); err != nil {
			return nil, err
		}
		if dir := strings.Trim(in.TargetDir, "/"); dir != "" {
			d.Prefix = dir + "/"
		}
		if in.StartAfter == "" {
			in.StartAfter = in.LastFileID
		}
		d.After = strings.TrimPrefix(in.StartAfter, "/")
		storages, err := presigned(in.Presign)
		if err != nil {
			return nil, err
		}
		var q *pagequery.Query
		if in.Q != "" {
			if q, err = pagequery.Parse(in.Q); err != nil {
				return nil, err
			}
		}
		page, last, err := a.Lake.BucketEntries(ctx, caller(ctx).Org, d, q)
		if err != nil {
			return nil, err
		}
		out := &BucketEntriesAnswer{Files: make([]BucketEntry, len(page))}
		if len(page) > 0 {
			last = "/" + last
			out.NextStartAfter, out.LastFileID = &last, &last
		}
		for i, e := range page {
			if e.File == nil {
				out.Files[i] = BucketEntry{FileID: "/" + e.Path, Metadata: map[string]string{}}
				continue
			}
			if out.Files[i], err = a.bucketFileWire(ctx, *e.File, storages); err != nil {
				return nil, err
			}
		}
		return out, nil
	})
}

// bucketKey is the key that the path of a request names (data.md §15.3): with slashes,
// and perhaps one in front, as it stands in lists.
func bucketKey(r *http.Request) (string, error) {
	seg := strings.SplitN(r.URL.EscapedPath(), "/", 7) // "", organizations, its id, buckets, its id, files, the rest
	key, err := url.PathUnescape(seg[len(seg)-1])
	if err != nil {
		return "", plat.Errorf(plat.ErrInvalid, "the key is not percent-encoded")
	}
	return strings.TrimPrefix(key, "/"), nil
}

func (a *API) getBucketFile(w http.ResponseWriter, r *http.Request) {
	key, err := bucketKey(r)
	storages := false
	if err == nil {
		storages, err = presigned(r.URL.Query().Get("presign"))
	}
	var f lake.File
	if err == nil {
		f, err = a.Lake.BucketFile(r.Context(), caller(r.Context()).Org, plat.ChannelID(param(r, "bucket_id")), key)
	}
	var out BucketEntry
	if err == nil {
		out, err = a.bucketFileWire(r.Context(), f, storages)
	}
	if err != nil {
		a.fail(w, r, familyLake, err)
		return
	}
	writeJSON(w, http.StatusOK, out)
}

func (a *API) deleteBucketFile(w http.ResponseWriter, r *http.Request) {
	key, err := bucketKey(r)
	if err == nil {
		_, err = a.Lake.DeleteBucketFile(r.Context(), caller(r.Context()).Org, plat.ChannelID(param(r, "bucket_id")), key)
	}
	if err != nil {
		a.fail(w, r, familyLake, err)
		return
	}
	writeJSON(w, http.StatusOK, Message{Message: "deleted file (" + key + ")"})
}

// uploadBucketFile is POST …/buckets/{bucket_id}/files (data.md §15.2). The part file
// is streamed to the storage as it comes; what follows it may still refuse it.
func (a *API) uploadBucketFile(w http.ResponseWriter, r *http.Request) {
	f, err := a.receiveBucketFile(w, r)
	if err != nil {
		a.failUpload(w, r, http.StatusPreconditionFailed, err)
		return
	}
	w.Header().Set("ETag", `"`+f.ETag+`"`)
	writeJSON(w, http.StatusOK, BucketUploaded{
		FileID: f.Path, ContentType: f.ContentType, Lifetime: orNull(string(f.Lifetime)), UploadedAt: f.UploadedAt.Format(plat.TimeSecOffset),
		Metadata: f.Metadata.Wire(caller(r.Context()).Org), BucketID: string(f.Channel), Size: f.Size, ETag: f.ETag,
	})
}

func (a *API) receiveBucketFile(w http.ResponseWriter, r *http.Request) (lake.File, error) {
	in := lake.BucketUpload{Org: caller(r.Context()).Org, Bucket: plat.ChannelID(param(r, "bucket_id")), Size: -1}
	// What needs no body first: whether there is such a bucket at all.
	if _, err := a.Lake.Bucket(r.Context(), in.Org, in.Bucket); err != nil {
		return lake.File{}, err
	}
	if len(r.Header.Values("If-Match")) > 0 { // a condition must not be ignored (ADR 10)
		return lake.File{}, plat.InvalidField("if-match", "a bucket's upload replaces the file under its key, or with If-None-Match: * no file; it takes no other condition")
	}
	if none := r.Header.Values("If-None-Match"); len(none) > 0 {
		if in.Fresh = strings.TrimSpace(strings.Join(none, ",")) == "*"; !in.Fresh {
			return lake.File{}, plat.InvalidField("if-none-match", "an upload takes only *: refuse it when there is a file under its key")
		}
	}
	var err error
	if in.Metadata, err = headerMetadata(r.Header); err != nil {
		return lake.File{}, err
	}
	form, err := openForm(w, r)
	if err != nil {
		return lake.File{}, err
	}
	file, err := form.untilFile()
	if err != nil {
		return lake.File{}, err
	}
	in.Path, in.ContentType, in.Body, in.Lifetime = file.name, file.contentType, file.body, form.params.lifetime()
	if err := lake.CheckPath("file", in.Path); err != nil {
		return lake.File{}, err
	}
	touched(r.Context(), "key", in.Path)
	in.After = func() (string, error) {
		if again, err := form.untilFile(); err != nil || again != nil {
			if err == nil {
				err = plat.InvalidField("file", "is there twice; send one file a request")
			}
			return "", err
		}
		return form.params.lifetime(), nil
	}
	return a.Lake.PutBucketFile(r.Context(), in)
}
