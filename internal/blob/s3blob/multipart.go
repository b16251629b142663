// SPDX-License-Identifier: Apache-2.0

package s3blob

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"

	"panal/internal/blob"
	"panal/internal/plat"
)

const (
	// partSize is the part of a body of unknown length: S3's smallest, so that many
	// uploads at once stay small. 10,000 of them are the longest such body.
	partSize = 5 << 20
	maxParts = 10_000
	// maxBuffered bounds the part buffers in use at once; further uploads of unknown length wait.
	maxBuffered = 32
	// longPart is the part of a body of more than 5 GiB. It is streamed, not buffered.
	longPart = 1 << 30
)

// putUnknown stores a body of unknown length: what fits one part as one PUT, else in
// parts. It holds one buffer.
func (d *Driver) putUnknown(s *source, name string, opt blob.PutOptions) error {
	select {
	case d.parts <- struct{}{}:
	case <-s.ctx.Done():
		return s.ctx.Err()
	case <-d.base.Done():
		return errClosed()
	}
	defer func() { <-d.parts }()
	buf, _ := d.bufs.Get().(*[]byte)
	defer d.bufs.Put(buf)
	n, end, err := s.fill(*buf)
	if err != nil {
		return err
	}
	if end {
		return d.putBytes(s, name, (*buf)[:n], opt)
	}
	return d.multipart(s, name, opt, func(ctx context.Context, id string, no int) (minio.ObjectPart, bool, error) {
		if no > 1 {
			if n, end, err = s.fill(*buf); err != nil {
				return minio.ObjectPart{}, false, err
			}
		}
		if no == maxParts && !end {
			return minio.ObjectPart{}, false, plat.Errorf(plat.ErrInvalid, "the body has more than %d bytes; send so long a one with Content-Length", int64(partSize)*maxParts)
		}
		part, err := d.core.PutObjectPart(ctx, d.opt.Bucket, name, id, no, bytes.NewReader((*buf)[:n]), int64(n), minio.PutObjectPartOptions{
			DisableContentSha256: true, CustomHeader: http.Header{headerChecksum: {checksum((*buf)[:n])}},
		})
		return part, end, err
	})
}

// putLong stores a body of known length that is too long for one PUT, in streamed parts.
func (d *Driver) putLong(s *source, name string, opt blob.PutOptions) error {
	step := d.longPart
	for s.size > step*maxParts {
		step *= 2
	}
	left := s.size
	return d.multipart(s, name, opt, func(ctx context.Context, id string, no int) (minio.ObjectPart, bool, error) {
		n := min(left, step)
		var part minio.ObjectPart
		err := d.once(s, s.count, func() error {
			var err error
			body := &summed{r: &stream{s: s, left: n}, trailer: http.Header{headerChecksum: {checksum(nil)}}}
			part, err = d.core.PutObjectPart(ctx, d.opt.Bucket, name, id, no, body, n, minio.PutObjectPartOptions{DisableContentSha256: true, Trailer: body.trailer})
			return err
		})
		left -= n
		return part, left == 0, err
	})
}

// multipart stores a body in parts. send sends the next one and tells whether it was
// the last. When anything fails nothing is left.
func (d *Driver) multipart(s *source, name string, opt blob.PutOptions, send func(ctx context.Context, id string, no int) (minio.ObjectPart, bool, error)) (err error) {
	ctx, end := s.request()
	defer end()
	create := putOptions(blob.PutOptions{ContentType: opt.ContentType})
	create.UserMetadata = map[string]string{"x-amz-checksum-algorithm": "CRC32C"}
	id, err := d.core.NewMultipartUpload(ctx, d.opt.Bucket, name, create)
	if err != nil {
		return d.putError(s, name, opt, err)
	}
	d.setLive(id, true)
	defer func() {
		if err != nil {
			d.abort(name, id)
		}
		d.setLive(id, false)
	}()
	var parts []minio.CompletePart
	for last := false; !last; {
		var part minio.ObjectPart
		if part, last, err = send(ctx, id, len(parts)+1); err != nil {
			return d.putError(s, name, opt, err)
		}
		parts = append(parts, minio.CompletePart{PartNumber: len(parts) + 1, ETag: part.ETag, ChecksumCRC32C: part.ChecksumCRC32C})
	}
	if err := s.ends(); err != nil {
		return err
	}
	if err := s.committed(); err != nil {
		return err
	}
	_, err = d.core.CompleteMultipartUpload(ctx, d.opt.Bucket, name, id, parts, putOptions(blob.PutOptions{IfNoneMatch: opt.IfNoneMatch}))
	return d.putError(s, name, opt, err)
}

// summed sets the checksum in the trailer of its request when the body has ended.
type summed struct {
	r       io.Reader
	sum     uint32
	trailer http.Header
}

func (b *summed) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.sum = crc32.Update(b.sum, castagnoli(), p[:n])
	if errors.Is(err, io.EOF) {
		b.trailer.Set(headerChecksum, encodeSum(b.sum))
	}
	return n, err
}

// ends returns an error unless the caller's reader has ended.
func (s *source) ends() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	end, err := s.atEnd()
	if err == nil && !end {
		err = plat.Errorf(plat.ErrInvalid, "the body is longer than the declared %d bytes", s.size)
	}
	return err
}

func (d *Driver) setLive(id string, on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if on {
		d.live[id] = struct{}{}
	} else {
		delete(d.live, id)
	}
}

// abort gives an unfinished upload's bytes back, also after the caller has gone or while
// the driver closes. What it can't end now, the sweeper ends later.
func (d *Driver) abort(name, id string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := d.core.AbortMultipartUpload(ctx, d.opt.Bucket, name, id); err != nil && minio.ToErrorResponse(err).Code != "NoSuchUpload" {
		d.opt.Log.LogAttrs(ctx, slog.LevelWarn, "an unfinished upload stays in the object storage until the next sweep",
			slog.String(plat.LogKey, name), slog.String(plat.LogError, err.Error()))
	}
}

// sweepEvery is how often uploads that crashes left are looked for, sweepMax how many of
// them one look ends.
const (
	sweepEvery = 6 * time.Hour
	sweepMax   = 1000
)

func (d *Driver) sweepNowAndThen() {
	for {
		if n, err := d.sweep(d.base); err != nil && d.base.Err() == nil {
			d.opt.Log.LogAttrs(d.base, slog.LevelWarn, "unfinished uploads in the object storage were not all looked for; next time", slog.String(plat.LogError, err.Error()))
		} else if n > 0 {
			d.opt.Log.LogAttrs(d.base, slog.LevelInfo, "ended uploads that a crash left unfinished in the object storage", slog.Int(plat.LogCount, n))
		}
		select {
		case <-d.base.Done():
			return
		case <-time.After(sweepEvery):
		}
	}
}

// sweep aborts the multipart uploads under the prefix that are older than AbandonAfter
// and not this process's, and returns how many.
func (d *Driver) sweep(ctx context.Context) (n int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	before := d.opt.Clock().Add(-d.opt.AbandonAfter)
	uploads := d.client.ListIncompleteUploads(ctx, d.opt.Bucket, d.opt.Prefix, true)
	defer func() { // the lister's goroutine ends when its channel is drained
		cancel()
		for range uploads {
		}
	}()
	for u := range uploads {
		if u.Err != nil {
			return n, u.Err
		}
		d.mu.Lock()
		_, live := d.live[u.UploadID]
		d.mu.Unlock()
		if live || !u.Initiated.Before(before) {
			continue
		}
		if err := d.core.AbortMultipartUpload(ctx, d.opt.Bucket, u.Key, u.UploadID); err != nil && minio.ToErrorResponse(err).Code != "NoSuchUpload" {
			return n, err
		}
		if n++; n == sweepMax {
			return n, nil
		}
	}
	return n, nil
}
