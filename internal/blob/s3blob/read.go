// SPDX-License-Identifier: Apache-2.0

package s3blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/minio/minio-go/v7"

	"panal/internal/blob"
	"panal/internal/plat"
)

// Open implements blob.Driver.
func (d *Driver) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, blob.Info, error) {
	name, err := d.name(key)
	if err != nil {
		return nil, blob.Info{}, err
	}
	if n == 0 {
		return d.openEmpty(ctx, key)
	}
	var opt minio.GetObjectOptions
	ranged := off > 0 || n > 0
	if ranged {
		to := ""
		if n > 0 && off <= math.MaxInt64-n {
			to = strconv.FormatInt(off+n-1, 10)
		}
		opt.Set("Range", "bytes="+strconv.FormatInt(off, 10)+"-"+to)
	}
	c, end, err := d.call(ctx)
	if err != nil {
		return nil, blob.Info{}, err
	}
	rc, o, h, err := d.core.GetObject(c, d.opt.Bucket, name, opt)
	if err != nil {
		end()
		if e := minio.ToErrorResponse(err); ranged && (e.StatusCode == http.StatusRequestedRangeNotSatisfiable || e.Code == "InvalidRange") {
			return d.openEmpty(ctx, key) // the range starts at the end or later
		}
		return nil, blob.Info{}, d.translate(ctx, err)
	}
	info := blob.Info{Key: key, Size: o.Size, ModTime: o.LastModified.UTC().Truncate(time.Second)}
	if ranged {
		_, total, _ := strings.Cut(h.Get("Content-Range"), "/")
		if info.Size, err = strconv.ParseInt(total, 10, 64); err != nil {
			_ = rc.Close()
			end()
			return nil, blob.Info{}, plat.Errorf(plat.ErrUnavailable, "the object storage answers a range without Content-Range")
		}
	}
	r := &reader{d: d, ctx: ctx, rc: rc, end: end}
	r.idle = time.AfterFunc(idleLimit, end)
	r.idle.Stop()
	return r, info, nil
}

func (d *Driver) openEmpty(ctx context.Context, key string) (io.ReadCloser, blob.Info, error) {
	info, err := d.Stat(ctx, key)
	if err != nil {
		return nil, blob.Info{}, err
	}
	return io.NopCloser(bytes.NewReader(nil)), info, nil
}

// reader is an object's bytes as they arrive. A service that sends nothing for
// idleLimit ends it; a caller that takes its time does not.
type reader struct {
	d    *Driver
	ctx  context.Context // the caller's
	rc   io.ReadCloser
	end  func()
	idle *time.Timer
}

func (r *reader) Read(p []byte) (int, error) {
	r.idle.Reset(idleLimit)
	n, err := r.rc.Read(p)
	r.idle.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("read object: %w", r.d.translate(r.ctx, err))
	}
	return n, err
}

// WriteTo implements io.WriterTo for io.Copy: larger steps, fewer calls to the kernel.
func (r *reader) WriteTo(w io.Writer) (total int64, err error) {
	buf, _ := r.d.copies.Get().(*[]byte)
	defer r.d.copies.Put(buf)
	for {
		n, err := r.Read(*buf)
		if n > 0 {
			k, werr := w.Write((*buf)[:n])
			total += int64(k)
			if werr != nil {
				return total, werr
			}
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func (r *reader) Close() error {
	r.idle.Stop()
	err := r.rc.Close()
	r.end()
	return err
}

// Stat implements blob.Driver.
func (d *Driver) Stat(ctx context.Context, key string) (blob.Info, error) {
	name, err := d.name(key)
	if err != nil {
		return blob.Info{}, err
	}
	c, end, err := d.call(ctx)
	if err != nil {
		return blob.Info{}, err
	}
	defer end()
	o, err := d.client.StatObject(c, d.opt.Bucket, name, minio.StatObjectOptions{})
	if err != nil {
		return blob.Info{}, d.translate(ctx, err)
	}
	return blob.Info{Key: key, Size: o.Size, ModTime: o.LastModified.UTC().Truncate(time.Second)}, nil
}

// Delete implements blob.Driver.
func (d *Driver) Delete(ctx context.Context, key string) error {
	name, err := d.name(key)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	done, err := d.begin()
	if err != nil {
		return err
	}
	defer done()
	err = d.translate(ctx, d.client.RemoveObject(ctx, d.opt.Bucket, name, minio.RemoveObjectOptions{}))
	if errors.Is(err, plat.ErrNotFound) {
		return nil
	}
	return err
}

// List implements blob.Driver. S3 lists in byte order of the key.
func (d *Driver) List(ctx context.Context, prefix, after string, limit int) ([]blob.Info, bool, error) {
	c, end, err := d.call(ctx)
	if err != nil {
		return nil, false, err
	}
	defer end()
	if len(d.opt.Prefix)+len(prefix) > blob.MaxKeyLen || (after > prefix && !strings.HasPrefix(after, prefix)) {
		return nil, false, nil // no key is there
	}
	opt := minio.ListObjectsOptions{
		// A text that no request can carry is cut to one that comes before it; what that
		// lets in is left out below.
		Prefix: head(d.opt.Prefix + prefix), Recursive: true, FetchOwner: new(bool),
		MaxKeys: min(limit, 999) + 1, // one more tells whether others follow
	}
	if after > prefix {
		opt.StartAfter = head(d.opt.Prefix + after)
	}
	var infos []blob.Info
	for o := range d.client.ListObjectsIter(c, d.opt.Bucket, opt) {
		if o.Err != nil {
			return nil, false, d.translate(ctx, o.Err)
		}
		key := strings.TrimPrefix(o.Key, d.opt.Prefix)
		if key <= after || !strings.HasPrefix(key, prefix) || blob.CheckKey(key) != nil {
			continue // before the start, or not Panal's: a console's folder marker
		}
		if len(infos) == limit {
			return infos, true, nil
		}
		infos = append(infos, blob.Info{Key: key, Size: o.Size, ModTime: o.LastModified.UTC().Truncate(time.Second)})
	}
	if err := c.Err(); err != nil { // the iterator ends in silence
		return nil, false, d.translate(ctx, err)
	}
	return infos, false, nil
}

// head is the longest beginning of s that a request can carry.
func head(s string) string {
	s = s[:min(len(s), blob.MaxKeyLen)]
	for i, r := range s {
		if r < 0x20 || r == 0x7f {
			return s[:i]
		}
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(s[i:]); n < 2 {
				return s[:i]
			}
		}
	}
	return s
}
