// SPDX-License-Identifier: Apache-2.0

package s3blob

import (
	"context"
	"crypto/md5" //nolint:gosec // the wire's ETag is MD5 by definition; it protects nothing
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"panal/internal/blob"
	"panal/internal/plat"
	"panal/internal/x/etag"
)

// copyParts is how many parts of one object are copied at a time.
const copyParts = 8

// CanCopy implements blob.Copier: a service that ignores the condition can't be relied on.
func (d *Driver) CanCopy() bool { return d.canCopy }

// Tagged implements blob.Copier. The tag is the object's ETag.
func (d *Driver) Tagged(ctx context.Context, key string) (blob.Info, string, error) {
	name, err := d.name(key)
	if err != nil {
		return blob.Info{}, "", err
	}
	c, end, err := d.call(ctx)
	if err != nil {
		return blob.Info{}, "", err
	}
	defer end()
	o, err := d.client.StatObject(c, d.opt.Bucket, name, minio.StatObjectOptions{})
	if err != nil {
		return blob.Info{}, "", d.translate(ctx, err)
	}
	return blob.Info{Key: key, Size: o.Size, ModTime: o.LastModified.UTC().Truncate(time.Second)}, o.ETag, nil
}

// Copy implements blob.Copier. An object of more than one chunk is copied in parts of a
// chunk each, so that the service itself makes the ETag that the wire has.
func (d *Driver) Copy(ctx context.Context, from blob.Info, tag, to, contentType string) (string, error) {
	src, err := d.name(from.Key)
	if err != nil {
		return "", err
	}
	dst, err := d.name(to)
	if err != nil {
		return "", err
	}
	if !printable(contentType) { // no header can have it; see Put
		contentType = "application/octet-stream"
	}
	done, err := d.begin()
	if err != nil {
		return "", err
	}
	defer done()
	c, end, err := d.call(ctx)
	if err != nil {
		return "", err
	}
	defer end()
	var sum string
	if from.Size <= etag.ChunkSize {
		var o minio.ObjectInfo
		o, err = d.core.CopyObject(c, d.opt.Bucket, src, d.opt.Bucket, dst, map[string]string{
			headerIfMatch: tag, "x-amz-metadata-directive": "REPLACE", "Content-Type": contentType,
		}, minio.CopySrcOptions{}, minio.PutObjectOptions{})
		// A tag that is no MD5, as that of encrypted objects, is another one for the copy.
		if md5Hex.MatchString(o.ETag) && o.ETag == tag {
			sum = o.ETag
		}
	} else {
		sum, err = d.copyLong(c, from.Size, tag, src, dst, contentType)
	}
	if err != nil {
		err = d.translate(ctx, err)
		if errors.Is(err, plat.ErrExists) {
			err = plat.Errorf(plat.ErrConflict, "the object is another one by now")
		}
		return "", err
	}
	if !d.md5Tags {
		sum = ""
	}
	return sum, nil
}

const headerIfMatch = "x-amz-copy-source-if-match"

var md5Hex = regexp.MustCompile(`^[0-9a-f]{32}$`)

func (d *Driver) copyLong(ctx context.Context, size int64, tag, src, dst, contentType string) (sum string, err error) {
	id, err := d.core.NewMultipartUpload(ctx, d.opt.Bucket, dst, minio.PutObjectOptions{ContentType: contentType})
	if err != nil {
		return "", err
	}
	d.setLive(id, true)
	defer func() {
		if err != nil {
			d.abort(dst, id)
		}
		d.setLive(id, false)
	}()
	parts := make([]minio.CompletePart, (size+etag.ChunkSize-1)/etag.ChunkSize)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(copyParts)
	for i := range parts {
		off := int64(i) * etag.ChunkSize
		g.Go(func() (err error) {
			parts[i], err = d.core.CopyObjectPart(gctx, d.opt.Bucket, src, d.opt.Bucket, dst, id, i+1, off, min(etag.ChunkSize, size-off), map[string]string{headerIfMatch: tag})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	o, err := d.core.CompleteMultipartUpload(ctx, d.opt.Bucket, dst, id, parts, minio.PutObjectOptions{})
	if err != nil {
		return "", err
	}
	all := md5.New() //nolint:gosec // see import
	for _, p := range parts {
		one, err := hex.DecodeString(p.ETag)
		if err != nil || len(one) != md5.Size {
			return "", nil // the service has tags of its own
		}
		_, _ = all.Write(one)
	}
	if want := fmt.Sprintf("%s-%d", hex.EncodeToString(all.Sum(nil)), len(parts)); o.ETag == want {
		return want, nil
	}
	return "", nil
}
