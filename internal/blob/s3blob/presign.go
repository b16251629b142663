// SPDX-License-Identifier: Apache-2.0

package s3blob

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// maxPresign is the longest life of a presigned URL (S3's own limit).
const maxPresign = 7 * 24 * time.Hour

// PresignGet implements blob.Presigner.
func (d *Driver) PresignGet(ctx context.Context, key, contentType string, expiry time.Duration) (string, error) {
	return d.presign(ctx, http.MethodGet, key, expiry, url.Values{"response-content-type": {contentType}})
}

// PresignPut implements blob.Presigner.
func (d *Driver) PresignPut(ctx context.Context, key string, expiry time.Duration) (string, error) {
	return d.presign(ctx, http.MethodPut, key, expiry, nil)
}

// presign makes a URL at the public address. It asks nobody.
func (d *Driver) presign(ctx context.Context, method, key string, expiry time.Duration, params url.Values) (string, error) {
	name, err := d.name(key)
	if err != nil {
		return "", err
	}
	if d.base.Err() != nil {
		return "", errClosed()
	}
	// S3 counts in whole seconds, at least one. A URL must not outlive what bounds it.
	expiry = min(expiry, maxPresign).Truncate(time.Second)
	if expiry < time.Second {
		return "", nil
	}
	u, err := d.public.PresignHeader(ctx, method, d.opt.Bucket, name, expiry, params, nil)
	if err != nil {
		return "", d.translate(ctx, err)
	}
	return u.String(), nil
}
