// SPDX-License-Identifier: Apache-2.0

// Package s3link reads foreign buckets through the S3 API. It only reads.
package s3link

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"panal/internal/lake/link"
	"panal/internal/plat"
)

// Options says which bucket, where, and as whom.
type Options struct {
	Endpoint, Region, Bucket string
	AccessKey, SecretKey     string // both empty: as nobody
}

// Bucket is a foreign bucket.
type Bucket struct {
	name      string
	core      minio.Core
	transport *http.Transport
}

var _ link.Bucket = (*Bucket)(nil)

// idleLimit ends a question that the service does not answer, and a transfer in which it
// sends nothing.
const idleLimit = time.Minute

// Open returns the bucket. It asks nothing.
func Open(opt Options) (*Bucket, error) {
	u, err := url.Parse(opt.Endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, plat.InvalidField("endpoint", "must be http(s)://HOST[:PORT]")
	}
	creds := credentials.NewStaticV4(opt.AccessKey, opt.SecretKey, "")
	if opt.AccessKey == "" {
		creds = credentials.NewStatic("", "", "", credentials.SignatureAnonymous)
	}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: idleLimit,
		DisableCompression:    true,
		// An object's metadata is in its headers: S3 allows 2 KB of it.
		MaxResponseHeaderBytes: 32 << 10,
	}
	lookup := minio.BucketLookupPath
	if strings.HasSuffix(u.Hostname(), ".amazonaws.com") {
		lookup = minio.BucketLookupAuto
	}
	c, err := minio.NewCore(u.Host, &minio.Options{
		Creds: creds, Secure: u.Scheme == "https", Region: cmp.Or(opt.Region, "us-east-1"), BucketLookup: lookup, MaxRetries: 3,
		Transport: stay{t},
	})
	if err != nil {
		return nil, plat.InvalidField("endpoint", "can't be used: %v", err)
	}
	return &Bucket{name: opt.Bucket, core: *c, transport: t}, nil
}

// stay follows no redirect: the endpoint is on the administrator's list, where it sends
// us isn't.
type stay struct{ next http.RoundTripper }

func (s stay) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := s.next.RoundTrip(r)
	if err == nil && res.StatusCode >= 300 && res.StatusCode < 400 && res.StatusCode != http.StatusNotModified {
		_ = res.Body.Close()
		return nil, errRedirect
	}
	return res, err
}

var errRedirect = errors.New("the storage redirects elsewhere; link its own endpoint")

// Close ends kept connections.
func (b *Bucket) Close() { b.transport.CloseIdleConnections() }

// Look implements link.Bucket.
func (b *Bucket) Look(ctx context.Context, key string) (link.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, idleLimit)
	defer cancel()
	if strings.TrimSpace(key) == "" { // the library takes no such name
		return link.Object{}, plat.Errorf(plat.ErrInvalid, "an object whose key is nothing but spaces can't be read")
	}
	o, err := b.core.StatObject(ctx, b.name, key, minio.StatObjectOptions{})
	if err != nil {
		return link.Object{}, translate(err)
	}
	out := object(o)
	out.ContentType, out.Version, out.Metadata = o.ContentType, o.VersionID, o.UserMetadata
	if out.Version == "null" { // written before the bucket had versions
		out.Version = ""
	}
	return out, nil
}

func object(o minio.ObjectInfo) link.Object {
	return link.Object{Key: o.Key, ETag: strings.Trim(o.ETag, `"`), Size: o.Size, Modified: o.LastModified.UTC()}
}

// List implements link.Bucket.
func (b *Bucket) List(ctx context.Context, prefix, after string, limit int) ([]link.Object, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, idleLimit)
	defer cancel()
	res, err := b.core.ListObjectsV2(b.name, prefix, after, "", "", limit)
	if ctx.Err() != nil {
		return nil, false, ctx.Err()
	}
	if err != nil {
		return nil, false, translate(err)
	}
	page := make([]link.Object, 0, len(res.Contents))
	for _, o := range res.Contents {
		if o.Key <= after { // servers that list directories may begin a little early
			continue
		}
		page = append(page, object(o))
	}
	return page, res.IsTruncated, nil
}

// Open implements link.Bucket.
func (b *Bucket) Open(ctx context.Context, of link.Row, off, n int64) (io.ReadCloser, error) {
	if n == 0 || of.Size == 0 {
		n = 0
	}
	opt := minio.GetObjectOptions{VersionID: of.Version}
	if err := opt.SetMatchETag(of.ETag); err != nil {
		return nil, translate(err)
	}
	if off > 0 || n > 0 {
		to := ""
		if n > 0 && off <= math.MaxInt64-n {
			to = strconv.FormatInt(off+n-1, 10)
		}
		opt.Set("Range", "bytes="+strconv.FormatInt(off, 10)+"-"+to)
	}
	if n == 0 || off >= of.Size {
		if _, err := b.core.StatObject(ctx, b.name, of.Key, minio.StatObjectOptions(opt0(of))); err != nil {
			return nil, translate(err)
		}
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	ctx, cancel := context.WithCancel(ctx)
	rc, _, _, err := b.core.GetObject(ctx, b.name, of.Key, opt)
	if err != nil {
		cancel()
		return nil, translate(err)
	}
	idle := time.AfterFunc(idleLimit, cancel)
	idle.Stop()
	return &reader{rc: rc, cancel: cancel, idle: idle}, nil
}

func opt0(of link.Row) minio.GetObjectOptions {
	opt := minio.GetObjectOptions{VersionID: of.Version}
	_ = opt.SetMatchETag(of.ETag) // it was taken before
	return opt
}

// reader ends a transfer in which the service sends nothing; a caller may take its time.
type reader struct {
	rc     io.ReadCloser
	cancel func()
	idle   *time.Timer
}

func (r *reader) Read(p []byte) (int, error) {
	r.idle.Reset(idleLimit)
	n, err := r.rc.Read(p)
	r.idle.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		err = translate(err)
	}
	return n, err
}

func (r *reader) Close() error {
	r.idle.Stop()
	defer r.cancel()
	return r.rc.Close()
}

// translate gives an error its kind. What a service says of itself is for the log.
func translate(err error) error {
	var e minio.ErrorResponse
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case !errors.As(err, &e):
		return failed(plat.ErrUnavailable, "the linked bucket's storage does not answer", err)
	}
	switch e.Code {
	case "PreconditionFailed":
		return overwritten()
	case "NoSuchKey", "NoSuchVersion":
		return plat.Errorf(plat.ErrNotFound, "the object is not in the linked bucket any more")
	case "NoSuchBucket":
		return link.ErrNoBucket
	case "MethodNotAllowed": // the newest version is a delete marker
		return plat.Errorf(plat.ErrNotFound, "the object is deleted")
	case "KeyTooLongError", "XMinioInvalidObjectName", "XMinioInvalidObjectNameError":
		return failed(plat.ErrInvalid, "the storage refuses this key", err)
	}
	switch e.StatusCode {
	case http.StatusPreconditionFailed:
		return overwritten()
	case http.StatusNotFound:
		return plat.Errorf(plat.ErrNotFound, "the object is not in the linked bucket any more")
	case http.StatusForbidden, http.StatusUnauthorized:
		return failed(plat.ErrForbidden, "the linked bucket's storage refuses the credentials", err)
	case http.StatusBadRequest:
		return failed(plat.ErrInvalid, "the linked bucket's storage refuses the request", err)
	}
	return failed(plat.ErrUnavailable, "the linked bucket's storage failed", err)
}

func overwritten() error {
	return plat.Errorf(plat.ErrNotFound, "the object was overwritten, and the linked bucket keeps no versions: its earlier bytes are gone")
}

func failed(kind error, public string, err error) error {
	return &plat.Error{Kind: kind, Public: public, Err: errors.New(err.Error())}
}
