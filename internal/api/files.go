// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	_ "time/tzdata" // time zones of file lists, also on machines that have none

	"panal/internal/api/compat"
	"panal/internal/authn"
	"panal/internal/authz"
	"panal/internal/lake"
	"panal/internal/plat"
	"panal/internal/x/httpx"
)

// Uploaded is the answer to an upload (data.md §10.2).
type Uploaded struct {
	FileID      string            `json:"file_id" example:"20240315T081502-5f0d9c1e-7a43-4b7e-9f53-0c2e6a1d8b11"`
	ContentType string            `json:"content_type"`
	Lifetime    *string           `json:"lifetime" doc:"null, 1day, 1week, 1month, 6months or 1year"`
	UploadedAt  string            `json:"uploaded_at"`
	Metadata    map[string]string `json:"metadata"`
	ChannelID   string            `json:"channel_id"`
	Size        int64             `json:"size" doc:"bytes"`
	ETag        string            `json:"etag" doc:"S3 style over chunks of 5 MiB, without quotes"`
}

// File is the wire's file (data.md §10.1).
type File struct {
	Uploaded
	DownloadURI  string `json:"download_uri" doc:"absolute, signed, good for an hour"`
	DownloadURL  string `json:"download_url" doc:"the same under its older name"`
	URLExpiresOn string `json:"url_expires_on"`
}

// FilesAnswer is a page of files.
type FilesAnswer struct {
	NextPageToken *string `json:"next_page_token" doc:"null on the last page"`
	Files         []File  `json:"files"`
}

// CountAnswer is a number of files.
type CountAnswer struct {
	Count int64 `json:"count"`
}

func uploadedWire(org plat.OrgID, f lake.File) Uploaded {
	return Uploaded{
		FileID: string(f.ID), ContentType: f.ContentType, Lifetime: orNull(string(f.Lifetime)),
		UploadedAt: f.UploadedAt.Format(plat.TimeSecOffset), Metadata: f.Metadata.Wire(org), ChannelID: string(f.Channel),
		Size: f.Size, ETag: f.ETag,
	}
}

func (a *API) fileWire(ctx context.Context, f lake.File, presign bool) (File, error) {
	url, expires, err := a.fileURL(ctx, f, presign)
	if err != nil {
		return File{}, err
	}
	return File{Uploaded: uploadedWire(caller(ctx).Org, f), DownloadURI: url, DownloadURL: url, URLExpiresOn: expires.Format(plat.TimeSecOffset)}, nil
}

// FilePath is the path parameters of everything below a file.
type FilePath struct {
	Channel string `path:"channel_id"`
	File    string `path:"file_id"`
}

func (a *API) addFiles() {
	const base, one = "/channels/{channel_id}", "/channels/{channel_id}/{file_id}"
	op := func(id, method, path, summary string, row authz.Op) operation {
		return operation{ID: id, Method: method, Path: path, Summary: summary, Tag: "file", Family: familyLake, Op: row}
	}

	a.raw(op("upload-file", http.MethodPost, base+"/upload", "Upload a file: the body is its bytes, x-abeja-meta-* headers its metadata", authz.FileUpload), a.upload)

	type listIn struct {
		Channel   string `path:"channel_id"`
		Start     string `query:"start" doc:"first day, YYYYMMDD"`
		End       string `query:"end" doc:"last day, YYYYMMDD"`
		Timezone  string `query:"timezone" doc:"of start and end; default UTC"`
		PageSize  string `query:"items_per_page" doc:"1 to 1000, default 100"`
		Sort      string `query:"sort" doc:"comma list of uploaded_at, file_id, content_type, x-abeja-meta-<key>; - in front descends"`
		Q         string `query:"q" doc:"search, for example label:cat AND NOT split:test"`
		Query     string `query:"query" doc:"the same as q"`
		PageToken string `query:"next_page_token" doc:"of the page before; replaces all others but presign"`
		Presign   string `query:"presign" doc:"false: download URLs of Panal's own, whatever the storage has; default true"`
	}
	search := func(in *listIn) (s lake.Search, err error) {
		channel := plat.ChannelID(in.Channel)
		if in.PageToken != "" {
			return lake.ParseToken(channel, in.PageToken)
		}
		s.Channel = channel
		if s.Limit, err = a.pageSize("items_per_page", in.PageSize, 100); err != nil {
			return s, err
		}
		if s.From, s.To, err = lake.ParseDays(in.Start, in.End, in.Timezone); err != nil {
			return s, err
		}
		if s.Sort, err = lake.ParseSort(in.Sort); err != nil {
			return s, err
		}
		if in.Q == "" {
			in.Q = in.Query
		}
		s.Query, err = lake.ParseQuery(in.Q)
		return s, err
	}
	register(a, op("list-files", http.MethodGet, base, "List or search a channel's files", authz.FileRead), func(ctx context.Context, in *listIn) (*FilesAnswer, error) {
		s, err := search(in)
		if err != nil {
			return nil, err
		}
		storages, err := presigned(in.Presign)
		if err != nil {
			return nil, err
		}
		s.Limit = min(s.Limit, a.Limits.Page) // a token is no more than what could be asked for
		files, next, err := a.Lake.Files(ctx, caller(ctx).Org, s)
		if err != nil {
			return nil, err
		}
		out := &FilesAnswer{Files: make([]File, len(files))}
		if next != "" {
			out.NextPageToken = &next
		}
		for i, f := range files {
			if out.Files[i], err = a.fileWire(ctx, f, storages); err != nil {
				return nil, err
			}
		}
		return out, nil
	})

	register(a, op("count-files", http.MethodGet, base+"/count", "Count a channel's files, exactly", authz.FileRead), func(ctx context.Context, in *listIn) (*CountAnswer, error) {
		in.PageToken = ""
		s, err := search(in)
		if err != nil {
			return nil, err
		}
		n, err := a.Lake.Count(ctx, caller(ctx).Org, s.Filter)
		return &CountAnswer{Count: n}, err
	})

	type getIn struct {
		FilePath
		Presign string `query:"presign" doc:"false: a download URL of Panal's own, whatever the storage has; default true"`
	}
	register(a, op("get-file", http.MethodGet, one, "Get a file with a fresh download URL", authz.FileRead), func(ctx context.Context, in *getIn) (*File, error) {
		storages, err := presigned(in.Presign)
		if err != nil {
			return nil, err
		}
		return a.fileAnswer(ctx, storages)(a.Lake.File(ctx, caller(ctx).Org, plat.ChannelID(in.Channel), plat.FileID(in.File)))
	})

	register(a, op("delete-file", http.MethodDelete, one, "Delete a file", authz.FileDelete), func(ctx context.Context, in *FilePath) (*Message, error) {
		err := a.Lake.DeleteFile(ctx, caller(ctx).Org, plat.ChannelID(in.Channel), plat.FileID(in.File))
		return &Message{Message: "deleted file (" + in.File + ")"}, err
	})

	type metadataIn struct {
		FilePath
		Body *compat.Any `doc:"object of x-abeja-meta-<key> to text; replaces all of them"`
	}
	register(a, op("put-file-metadata", http.MethodPut, one+"/metadata", "Replace a file's metadata", authz.FileUpdate), func(ctx context.Context, in *metadataIn) (*File, error) {
		m, err := metadataOf(in.Body, a.Limits.Metadata)
		if err != nil {
			return nil, err
		}
		return a.fileAnswer(ctx, true)(a.Lake.SetMetadata(ctx, caller(ctx).Org, plat.ChannelID(in.Channel), plat.FileID(in.File), m))
	})
}

func (a *API) fileAnswer(ctx context.Context, presign bool) func(lake.File, error) (*File, error) {
	return func(f lake.File, err error) (*File, error) {
		if err != nil {
			return nil, err
		}
		out, err := a.fileWire(ctx, f, presign)
		return &out, err
	}
}

// metadataOf reads a JSON object of prefixed names to texts (data.md §10.5).
func metadataOf(raw *compat.Any, limits lake.Limits) (lake.Metadata, error) {
	var fields map[string]any
	if raw == nil || json.Unmarshal(*raw, &fields) != nil || fields == nil {
		return nil, plat.InvalidField("body", "must be an object of %s<key> to text", lake.MetaPrefix)
	}
	for name, v := range fields {
		if _, ok := v.(string); !ok && !strings.HasPrefix(strings.ToLower(name), lake.SysPrefix) {
			return nil, plat.InvalidField(name, "must be a string")
		}
	}
	return lake.FromWire(func(yield func(name, value string) bool) {
		for name, v := range fields {
			if s, ok := v.(string); ok && !yield(name, s) {
				return
			}
		}
	}, true, limits)
}

// clientBody marks what goes wrong while reading the client's body, so that it is
// told from what goes wrong while storing it.
type clientBody struct{ r io.Reader }

// Read implements io.Reader.
func (b clientBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF {
		err = &httpx.BodyError{Err: err}
	}
	return n, err
}

// headerMetadata reads the metadata of an upload's headers.
func headerMetadata(h http.Header) (lake.Metadata, error) {
	return lake.FromWire(func(yield func(name, value string) bool) {
		for name, values := range h {
			if !yield(name, strings.Join(values, ", ")) {
				return
			}
		}
	}, false)
}

// uploadOf reads everything of an upload but its body.
func uploadOf(r *http.Request) (lake.Upload, error) {
	meta, err := headerMetadata(r.Header)
	// A ; is an ordinary character, which net/url drops a parameter for.
	query, _ := url.ParseQuery(strings.ReplaceAll(r.URL.RawQuery, ";", "%3B")) // checkQuery has found it good
	option := func(name string) string {
		if v := query.Get(name); v != "" || !query.Has(name) {
			return v
		}
		err = errors.Join(err, plat.InvalidField(name, "is given and empty; leave it out"))
		return ""
	}
	in := lake.Upload{
		Org: caller(r.Context()).Org, Channel: plat.ChannelID(param(r, "channel_id")), ContentType: r.Header.Get("Content-Type"), Metadata: meta,
		Lifetime: option("lifetime"), ConflictTarget: option("conflict_target"),
	}
	return in, err
}

// upload is POST /channels/{channel_id}/upload (data.md §10.2).
func (a *API) upload(w http.ResponseWriter, r *http.Request) {
	body := httpx.IdleReader(w, r.Body, idleLimit)
	in, err := uploadOf(r)
	taken := http.StatusConflict
	if err == nil && len(r.Header.Values("If-None-Match")) > 0 {
		taken, err = ifNoneMatch(r.Header, &in)
	}
	var f lake.File
	if err == nil {
		in.Body, in.Size = clientBody{body}, r.ContentLength
		f, err = a.Lake.Upload(r.Context(), in)
	}
	if err != nil {
		a.failUpload(w, r, taken, err)
		return
	}
	touched(r.Context(), "file_id", string(f.ID))
	w.Header().Set("ETag", `"`+f.ETag+`"`)
	writeJSON(w, http.StatusOK, uploadedWire(in.Org, f))
}

// ifNoneMatch makes If-None-Match: * a condition on the file's name (ADR 10): RFC
// 9110's way to say conflict_target=filename. It returns the status of a conflict;
// an explicit conflict_target keeps its own.
func ifNoneMatch(h http.Header, in *lake.Upload) (taken int, err error) {
	if strings.TrimSpace(strings.Join(h.Values("If-None-Match"), ",")) != "*" {
		return 0, plat.InvalidField("if-none-match", "an upload takes only *: refuse it when a live file has the same x-abeja-meta-filename")
	}
	if in.ConflictTarget != "" {
		return http.StatusConflict, nil
	}
	in.ConflictTarget = "filename"
	if _, ok := in.Metadata.Get(in.ConflictTarget); !ok {
		return 0, plat.InvalidField("if-none-match", "needs the name that must be free in x-abeja-meta-filename")
	}
	return http.StatusPreconditionFailed, nil
}

// failUpload answers a refused upload: a conflict tells which file is there.
func (a *API) failUpload(w http.ResponseWriter, r *http.Request, taken int, err error) {
	conflict, ok := errors.AsType[*lake.ConflictError](err)
	if !ok {
		a.fail(w, r, familyLake, err)
		return
	}
	org := plat.OrgID("")
	if id, ok := authn.FromContext(r.Context()); ok {
		org = id.Org
	}
	id := string(conflict.File.ID)
	if conflict.File.Path != "" { // a bucket's file, whose id is its key (data.md §15.1)
		id = conflict.File.Path
	}
	writeJSON(w, taken, struct {
		*ErrorBody
		FileID   string            `json:"file_id"`
		Metadata map[string]string `json:"metadata"`
	}{newError(taken, conflict.Error(), nil), id, conflict.File.Metadata.Wire(org)})
}
