// SPDX-License-Identifier: Apache-2.0

package s3blob

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"

	"panal/internal/blob"
	"panal/internal/plat"
)

const (
	// smallBody is the longest body that is read before it is sent: it can be sent twice.
	smallBody = 64 << 10
	// maxPut is the longest body of one PUT (S3's own limit).
	maxPut = 5 << 30
)

// Put implements blob.Driver.
func (d *Driver) Put(ctx context.Context, key string, r io.Reader, size int64, opt blob.PutOptions) error {
	name, err := d.name(key)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.base.Err() != nil {
		return errClosed()
	}
	if opt.IfNoneMatch && (size < 0 || size > smallBody) {
		// Said before the body is sent; the condition on the put itself decides.
		if _, err := d.Stat(ctx, key); err == nil {
			return plat.Errorf(plat.ErrExists, "the object already exists")
		} else if !errors.Is(err, plat.ErrNotFound) {
			return err
		}
	}
	s := d.newSource(ctx, r, size)
	defer s.finish()
	switch {
	case size < 0:
		return d.putUnknown(s, name, opt)
	case size <= smallBody:
		return d.putSmall(s, name, opt)
	case size <= d.maxPut:
		return d.putStream(s, name, opt)
	default:
		return d.putLong(s, name, opt)
	}
}

func (d *Driver) putSmall(s *source, name string, opt blob.PutOptions) error {
	buf, _ := d.small.Get().(*[]byte)
	defer d.small.Put(buf)
	n, _, err := s.fill((*buf)[:s.size]) // it ends there, or fill has said so
	if err != nil {
		return err
	}
	return d.putBytes(s, name, (*buf)[:n], opt)
}

// putBytes stores a whole body that is in memory.
func (d *Driver) putBytes(s *source, name string, data []byte, opt blob.PutOptions) error {
	if err := s.committed(); err != nil {
		return err
	}
	ctx, end := s.request()
	defer end()
	put := func(body io.Reader) error {
		o := putOptions(opt)
		o.UserMetadata = map[string]string{headerChecksum: checksum(data)}
		_, err := d.core.PutObject(ctx, d.opt.Bucket, name, body, int64(len(data)), "", "", o)
		return err
	}
	for try := 0; ; try++ {
		var err error
		if opt.IfNoneMatch {
			// A second try would meet the first one's object, if only the answer was lost.
			body := &counted{r: bytes.NewReader(data)}
			err = d.once(s, body.count, func() error { return put(body) })
		} else {
			err = put(bytes.NewReader(data)) // the library repeats what can seek
		}
		if code := minio.ToErrorResponse(err).Code; err == nil || try == 4 || (code != codeIsDirectory && code != codeBelowFile) {
			return d.putError(s, name, opt, err)
		}
		time.Sleep(time.Duration(try+1) * 10 * time.Millisecond) // nothing was stored
	}
}

// putStream stores a body of known length in one request, as it arrives.
func (d *Driver) putStream(s *source, name string, opt blob.PutOptions) error {
	ctx, end := s.request()
	defer end()
	err := d.once(s, s.count, func() error {
		_, err := d.core.PutObject(ctx, d.opt.Bucket, name, &stream{s: s, left: s.size, last: true}, s.size, "", "", putOptions(opt))
		return err
	})
	return d.putError(s, name, opt, err)
}

// once sends what can't be sent twice. Only if nothing of it was read (the server had
// closed the kept connection: see outbound) is it tried again.
func (d *Driver) once(s *source, read func() int64, send func() error) error {
	for try := 0; ; try++ {
		before := read()
		err := send()
		var e minio.ErrorResponse
		if err == nil || try == 2 || read() != before || errors.As(err, &e) || s.failure() != nil || s.ctx.Err() != nil || d.base.Err() != nil {
			return err
		}
	}
}

func (s *source) count() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read
}

// counted counts what is read of r. It can't seek.
type counted struct {
	r io.Reader
	n atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func (c *counted) count() int64 { return c.n.Load() }

// putError gives the error of a put its kind. What the body had against it comes first.
func (d *Driver) putError(s *source, name string, opt blob.PutOptions, err error) error {
	if err == nil {
		return nil
	}
	if own := s.failure(); own != nil {
		return own
	}
	var e minio.ErrorResponse
	if errors.As(err, &e) && opt.IfNoneMatch && e.StatusCode == http.StatusConflict {
		// Two conditional puts met. If the other has won, the key is there now.
		ctx, end := context.WithTimeout(context.WithoutCancel(s.ctx), idleLimit)
		defer end()
		if _, stat := d.client.StatObject(ctx, d.opt.Bucket, name, minio.StatObjectOptions{}); stat == nil {
			return plat.Errorf(plat.ErrExists, "the object already exists")
		}
	}
	return d.translate(s.ctx, err)
}

func putOptions(opt blob.PutOptions) minio.PutObjectOptions {
	o := minio.PutObjectOptions{
		// The signature covers the headers; the body is guarded by its checksum and, where
		// it matters, by TLS. Signed chunks would hash every byte again with SHA-256.
		DisableContentSha256: true,
	}
	if printable(opt.ContentType) {
		o.ContentType = opt.ContentType
	}
	if opt.IfNoneMatch {
		o.SetMatchETagExcept("*")
	}
	return o
}

// headerChecksum guards a body from us to the disk: the service stores nothing that does not match.
const headerChecksum = "X-Amz-Checksum-Crc32c"

// castagnoli is the table of CRC-32C, made once by the standard library.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func checksum(data []byte) string { return encodeSum(crc32.Checksum(data, castagnoli())) }

func encodeSum(sum uint32) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum))
}

// printable tells whether every service takes s as a header's value. The index row
// holds the content type; the copy beside the object may be missing.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}
