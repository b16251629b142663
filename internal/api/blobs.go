// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"panal/internal/blob"
	"panal/internal/lake"
	"panal/internal/plat"
	"panal/internal/x/httpx"
	"panal/internal/x/signedurl"
)

// urlLife is how long a signed URL works (data.md §10.6).
const urlLife = time.Hour

// idleLimit ends a transfer that makes no progress. There is no total limit.
const idleLimit = 60 * time.Second

// downloadURL returns an absolute, self-authorising URL that answers GET with the
// object under key: storage's own where it has them, else ours. It always has a "?".
func (a *API) downloadURL(ctx context.Context, key, contentType string) (string, error) {
	now := a.Now()
	return a.signedURL(ctx, signedurl.Grant{Method: http.MethodGet, Key: key, ContentType: contentType, Expires: now.Add(urlLife)}, now, true)
}

// fileURL is downloadURL of a file, which never changes: the URL itself says its ETag and
// size, so that a download asks no database. It does not outlive the file.
func (a *API) fileURL(ctx context.Context, f lake.File, presign bool) (string, time.Time, error) {
	now := a.Now()
	g := signedurl.Grant{
		Method: http.MethodGet, Key: lake.BlobKey(caller(ctx).Org, f.Channel, f.ID), ContentType: f.ContentType,
		ETag: f.ETag, Bytes: f.Size, Expires: now.Add(urlLife),
	}
	if !f.ExpiresAt.IsZero() && f.ExpiresAt.Before(g.Expires) {
		g.Expires = f.ExpiresAt
	}
	if _, _, linked := a.linkedFile(g.Key); linked { // the object is not in our storage, and may change
		g.Bytes, presign = 0, false
	}
	u, err := a.signedURL(ctx, g, now, presign)
	return u, g.Expires, err
}

// signedURL returns a URL for what g grants: with presign storage's own, where it has one.
func (a *API) signedURL(ctx context.Context, g signedurl.Grant, now time.Time, presign bool) (string, error) {
	if presign {
		if u, ok, err := a.Blobs.PresignGet(ctx, g.Key, g.ContentType, g.Expires.Sub(now)); ok || err != nil {
			return u, err
		}
	}
	return baseURL(ctx) + "/blobs/" + escapeKey(g.Key) + "?" + a.Signer.Query(g), nil
}

// presigned reads the query presign: whether a download URL may be storage's own. Ours takes
// HEAD, answers with the file's ETag, and ends with the organization.
func presigned(text string) (bool, error) {
	switch text {
	case "", "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, plat.InvalidField("presign", textNoFlag)
}

// uploadURL returns a URL for one PUT of at most maxBytes under key. It binds no
// content type: known clients send none, or one of several (compute.md §5.2). With
// once it does not replace an object that is there: 409. Storage's own URL can promise
// neither: it is given where whoever uses the object looks at its length, never with once.
func (a *API) uploadURL(ctx context.Context, key string, maxBytes int64, once bool) (string, error) {
	if !once {
		if u, ok, err := a.Blobs.PresignPut(ctx, key, urlLife); ok || err != nil {
			return u, err
		}
	}
	g := signedurl.Grant{Method: http.MethodPut, Key: key, Bytes: maxBytes, Once: once, Expires: a.Now().Add(urlLife)}
	return baseURL(ctx) + "/blobs/" + escapeKey(key) + "?" + a.Signer.Query(g), nil
}

func escapeKey(key string) string {
	segs := strings.Split(key, "/")
	for i, s := range segs {
		segs[i] = url.PathEscape(s)
	}
	return strings.Join(segs, "/")
}

func (a *API) addBlobs() {
	for _, m := range []string{http.MethodGet, http.MethodHead} {
		a.raw(operation{
			ID: strings.ToLower(m) + "-blob", Method: m, Path: "/blobs/{key}", Rest: "key", Public: true,
			Summary: "Download an object by signed URL", Tag: "blob", Family: familyLake,
		}, a.getBlob)
	}
	a.raw(operation{
		ID: "put-blob", Method: http.MethodPut, Path: "/blobs/{key}", Rest: "key", Public: true,
		Summary: "Upload an object by signed URL", Tag: "blob", Family: familyLake,
	}, a.putBlob)
}

func (a *API) grant(r *http.Request) (signedurl.Grant, error) {
	key, err := url.PathUnescape(strings.TrimPrefix(r.URL.EscapedPath(), "/blobs/"))
	if err != nil {
		return signedurl.Grant{}, plat.Errorf(plat.ErrInvalid, "the object key is not percent-encoded")
	}
	g, ok := a.Signer.Verify(r.Method, key, r.URL.Query(), a.Now())
	if !ok {
		return signedurl.Grant{}, plat.Errorf(plat.ErrForbidden, "the signed URL has expired or was changed; ask for a new one")
	}
	kind, rest, _ := strings.Cut(g.Key, "/")
	org, _, inOrg := strings.Cut(rest, "/")
	actsBySignature(r.Context(), plat.OrgID(org))
	// What workloads fetch and store (code, models, results) goes on, as with their tokens.
	if !inOrg || kind == "train" || kind == "deploy" {
		return g, nil
	}
	return g, a.blobStanding(r.Context(), plat.OrgID(org))
}

func (a *API) getBlob(w http.ResponseWriter, r *http.Request) {
	g, err := a.grant(r)
	if err != nil {
		a.fail(w, r, familyLake, err)
		return
	}
	a.serveBlob(w, r, g)
}

// serveBlob streams an object, a range of it, or (HEAD) its headers, as its
// preconditions and Range ask for.
func (a *API) serveBlob(w http.ResponseWriter, r *http.Request, g signedurl.Grant) {
	// The whole is one question to the store; what a range or a precondition gives
	// must be known first.
	var rc io.ReadCloser
	var info blob.Info
	var err error
	if r.Method == http.MethodGet && httpx.Unconditional(r.Header) {
		rc, info, err = a.openObject(r.Context(), g.Key, 0, -1)
	} else {
		info, err = a.statObject(r.Context(), g.Key)
	}
	if err == nil && g.Bytes > 0 && info.Size != g.Bytes {
		err = fmt.Errorf("object %s has %d bytes, not %d: %w", g.Key, info.Size, g.Bytes, blob.ErrDamaged)
		if rc != nil {
			_ = rc.Close()
		}
	}
	if err != nil {
		a.fail(w, r, familyLake, err)
		return
	}
	h, etag := w.Header(), ""
	if g.ETag != "" {
		etag = `"` + g.ETag + `"`
		h.Set("ETag", etag)
	}
	h.Set("Accept-Ranges", "bytes")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox") // a user's HTML is no page of ours
	asked := r.Header
	if r.Method == http.MethodHead { // ranges are of GET alone (RFC 9110 §14.2)
		asked = asked.Clone()
		asked.Del("Range")
	}
	sel := httpx.Select(asked, etag, info.Size)
	if cr := sel.ContentRange(info.Size); cr != "" {
		h.Set("Content-Range", cr)
	}
	switch sel.Status {
	case http.StatusNotModified:
		w.WriteHeader(sel.Status)
		return
	case http.StatusPreconditionFailed:
		writeError(w, newError(sel.Status, "the object has another ETag than If-Match names", nil))
		return
	case http.StatusRequestedRangeNotSatisfiable:
		writeError(w, newError(sel.Status, "the range is past the end of the object", nil))
		return
	}
	h.Set("Content-Type", g.ContentType) // exactly as stored, no charset added (data.md §10.6)
	h.Set("Content-Length", strconv.FormatInt(sel.N, 10))
	if r.Method == http.MethodHead {
		w.WriteHeader(sel.Status)
		return
	}
	if rc == nil {
		if rc, _, err = a.openObject(r.Context(), g.Key, sel.Off, sel.N); err != nil {
			for _, name := range []string{"Content-Length", "Content-Range", "ETag", "Accept-Ranges"} {
				h.Del(name)
			}
			a.fail(w, r, familyLake, err)
			return
		}
	}
	defer func() { _ = rc.Close() }()
	w.WriteHeader(sel.Status)
	// A failed copy means that the client is gone or the store broke; the length
	// that was announced tells the client either way.
	dst := httpx.IdleWriter(w, idleLimit)
	if r.TLS != nil || r.ProtoMajor != 1 {
		dst = struct{ io.Writer }{dst} // no file can go by the kernel, so in small steps
	}
	_, _ = io.Copy(dst, rc)
}

func (a *API) putBlob(w http.ResponseWriter, r *http.Request) {
	g, err := a.grant(r)
	if err != nil {
		a.fail(w, r, familyLake, err)
		return
	}
	if r.ContentLength > g.Bytes {
		a.fail(w, r, familyLake, &http.MaxBytesError{Limit: g.Bytes})
		return
	}
	src := httpx.IdleReader(w, http.MaxBytesReader(w, r.Body, g.Bytes), idleLimit)
	got, err := a.Blobs.Put(r.Context(), g.Key, src, r.ContentLength, blob.PutOptions{IfNoneMatch: g.Once})
	if err != nil {
		a.fail(w, r, familyLake, httpx.Body(err))
		return
	}
	w.Header().Set("ETag", `"`+got.ETag+`"`)
	writeJSON(w, http.StatusOK, struct{}{})
}
