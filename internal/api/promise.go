// SPDX-License-Identifier: Apache-2.0

package api

import (
	"io"
	"net/http"
	"net/url"

	"panal/internal/authz"
	"panal/internal/lake"
	"panal/internal/lake/link"
	"panal/internal/plat"
	"panal/internal/x/httpx"
	"panal/internal/x/signedurl"
)

// Promised is the answer to a request for an upload URL (data.md §10.3).
type Promised struct {
	FileID       string            `json:"file_id"`
	ContentType  string            `json:"content_type"`
	Lifetime     *string           `json:"lifetime"`
	UploadedAt   *string           `json:"uploaded_at" doc:"null: the bytes have not arrived"`
	Metadata     map[string]string `json:"metadata"`
	ChannelID    string            `json:"channel_id"`
	URLExpiresOn string            `json:"url_expires_on"`
	UploadURL    string            `json:"upload_url" doc:"takes one PUT of the bytes, without credentials"`
}

func (a *API) addPromises() {
	a.raw(operation{
		ID: "promise-file", Method: http.MethodPost, Path: "/channels/{channel_id}", Tag: "file", Family: familyLake, Op: authz.FileUpload,
		Summary: "Ask for a signed URL to upload a file by; headers as for an upload, no body",
	}, a.promise)
	a.raw(operation{
		ID: "put-file", Method: http.MethodPut, Path: "/uploads/{channel_id}/{file_id}", Tag: "file", Family: familyLake, Public: true,
		Summary: "Upload a file by its signed URL, once",
	}, a.putFile)
	a.raw(operation{
		ID: "post-upload-events", Method: http.MethodPost, Path: "/feeds/uploads/s3", Tag: "file", Family: familyLake, Public: true,
		Summary: "Take a storage event of the platform's own bucket, with the secret of --upload-secret; what it names is taken in when this answers",
	}, a.postUploadEvents)
}

// postUploadEvents takes what the storage posts. It may be lost: listings find what it told of.
func (a *API) postUploadEvents(w http.ResponseWriter, r *http.Request) {
	if a.Incoming == nil {
		a.fail(w, r, familyLake, plat.Errorf(plat.ErrUnauthenticated, "this server's files are in no bucket: no storage has events for it"))
		return
	}
	if err := a.Incoming.Allowed(feedSecret(r)); err != nil { // before the body is taken
		a.fail(w, r, familyLake, err)
		return
	}
	body, err := io.ReadAll(httpx.ShortReader(w, http.MaxBytesReader(w, r.Body, link.MaxMessage), idleLimit))
	if err == nil {
		err = a.Incoming.Post(r.Context(), body)
	}
	if err != nil {
		a.fail(w, r, familyLake, httpx.Body(err))
		return
	}
	writeJSON(w, http.StatusOK, struct{}{})
}

// promiseKey is what the signature of an upload URL is about. It is no key of an
// object (those don't begin with a slash): the URL is good for nothing else.
func promiseKey(channel plat.ChannelID, file plat.FileID) string {
	return "/uploads/" + string(channel) + "/" + string(file)
}

// promise is POST /channels/{channel_id}. The URL is the storage's own where clients reach
// it (docs/adr/0028), else ours.
func (a *API) promise(w http.ResponseWriter, r *http.Request) {
	in, err := uploadOf(r)
	var p lake.Promised
	if err == nil {
		p, err = a.Lake.Promise(r.Context(), in)
	}
	if err != nil {
		a.failUpload(w, r, http.StatusConflict, err)
		return
	}
	f := p.File
	touched(r.Context(), "file_id", string(f.ID)) // the PUT may go to the storage, past us
	to := p.URL
	if to == "" {
		g := signedurl.Grant{Method: http.MethodPut, Key: promiseKey(f.Channel, f.ID), Once: true, Expires: p.Until}
		to = baseURL(r.Context()) + "/uploads/" + url.PathEscape(string(f.Channel)) + "/" + url.PathEscape(string(f.ID)) + "?" + a.Signer.Query(g)
	}
	writeJSON(w, http.StatusOK, Promised{
		FileID: string(f.ID), ContentType: f.ContentType, Lifetime: orNull(string(f.Lifetime)), Metadata: f.Metadata.Wire(in.Org), ChannelID: string(f.Channel),
		URLExpiresOn: p.Until.Format(plat.TimeSecOffset),
		UploadURL:    to,
	})
}

// putFile is PUT upload_url. Content type and metadata are those of the promise,
// whatever this request says.
func (a *API) putFile(w http.ResponseWriter, r *http.Request) {
	channel, id := plat.ChannelID(param(r, "channel_id")), plat.FileID(param(r, "file_id"))
	if _, ok := a.Signer.Verify(r.Method, promiseKey(channel, id), r.URL.Query(), a.Now()); !ok {
		a.fail(w, r, familyLake, plat.Errorf(plat.ErrForbidden, "the upload URL has expired or was changed; ask for a new one"))
		return
	}
	org, err := a.Lake.Owner(r.Context(), channel)
	actsBySignature(r.Context(), org)
	if err != nil {
		a.fail(w, r, familyLake, err)
		return
	}
	f, err := a.Lake.Fulfil(r.Context(), channel, id, clientBody{httpx.IdleReader(w, r.Body, idleLimit)}, r.ContentLength)
	if err != nil {
		a.failUpload(w, r, http.StatusConflict, err)
		return
	}
	w.Header().Set("ETag", `"`+f.ETag+`"`)
	writeJSON(w, http.StatusOK, struct {
		FileID string `json:"file_id"`
		Size   int64  `json:"size"`
		ETag   string `json:"etag"`
	}{string(f.ID), f.Size, f.ETag})
}
