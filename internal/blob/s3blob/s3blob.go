// SPDX-License-Identifier: Apache-2.0

package s3blob

import (
	"cmp"
	"context"
	"crypto/md5" //nolint:gosec // what ETags are; it protects nothing
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"panal/internal/blob"
	"panal/internal/plat"
)

// Options says which bucket, where, and as whom.
type Options struct {
	Bucket string
	Prefix string // before every key; empty, or ending in "/"
	// Endpoint is the service's base URL; empty: Amazon's for Region.
	Endpoint string
	// PublicEndpoint is the base URL in presigned URLs, where clients reach the service
	// at another address than Panal does; empty: Endpoint.
	PublicEndpoint string
	Region         string // empty: us-east-1
	// VirtualHost names the bucket in the host (bucket.host) instead of in the path.
	VirtualHost bool

	AccessKey, SecretKey, SessionToken string

	// AbandonAfter is the age from which an unfinished multipart upload counts as left
	// behind by a crash; 0: a week, longer than an upload that still moves should take.
	AbandonAfter time.Duration
	// Clock is asked for that age; nil: the system's.
	Clock plat.Clock
	// Log hears of what runs by itself; nil: nowhere.
	Log *slog.Logger
}

// Driver is an object store in a bucket.
type Driver struct {
	opt       Options
	client    *minio.Client // to the service
	core      minio.Core    // its single calls
	public    *minio.Client // signs with the public address
	transport *http.Transport

	maxPut, longPart int64 // the constants, but in tests

	md5Tags bool // the service's ETags are MD5s, as Amazon's are without KMS
	canCopy bool // the service copies on a condition

	parts chan struct{} // one for each upload of unknown length under way
	bufs  sync.Pool     // *[]byte of partSize
	small sync.Pool     // *[]byte of smallBody

	copies sync.Pool // *[]byte of copyBuffer

	base   context.Context // ends when the driver closes
	cancel context.CancelFunc
	owned  sync.WaitGroup // the sweeper

	mu      sync.Mutex
	closed  bool
	commits sync.WaitGroup      // what must end before Close returns
	live    map[string]struct{} // multipart uploads of this process, by id
}

var (
	_ blob.Driver    = (*Driver)(nil)
	_ blob.Presigner = (*Driver)(nil)
	_ blob.Copier    = (*Driver)(nil)
)

const (
	defaultRegion  = "us-east-1"
	defaultAbandon = 7 * 24 * time.Hour
	// copyBuffer is the step in which an object's bytes are handed on.
	copyBuffer = 256 << 10
	// closeGrace bounds how long Close waits for what the service is just storing.
	closeGrace = 30 * time.Second
)

// Open connects to the bucket and proves that it takes, guards and deletes objects,
// so that what is wrong shows at the start.
func Open(ctx context.Context, opt Options) (*Driver, error) {
	opt.Region = cmp.Or(opt.Region, defaultRegion)
	opt.Endpoint = cmp.Or(opt.Endpoint, "https://s3."+opt.Region+".amazonaws.com")
	opt.PublicEndpoint = cmp.Or(opt.PublicEndpoint, opt.Endpoint)
	opt.AbandonAfter = cmp.Or(opt.AbandonAfter, defaultAbandon)
	if opt.Clock == nil {
		opt.Clock = plat.SystemClock
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Prefix != "" && !strings.HasSuffix(opt.Prefix, "/") {
		return nil, plat.Errorf(plat.ErrInvalid, "the prefix %q must end in \"/\"", opt.Prefix)
	}
	d := &Driver{
		opt: opt, transport: newTransport(), parts: make(chan struct{}, maxBuffered),
		live: map[string]struct{}{}, maxPut: maxPut, longPart: longPart,
	}
	d.bufs.New = func() any { b := make([]byte, partSize); return &b }
	d.copies.New = func() any { b := make([]byte, copyBuffer); return &b }
	d.small.New = func() any { b := make([]byte, smallBody); return &b }
	var err error
	if d.client, err = newClient(opt, opt.Endpoint, &outbound{d.transport, opt}); err != nil {
		return nil, err
	}
	if d.public, err = newClient(opt, opt.PublicEndpoint, d.transport); err != nil {
		return nil, err
	}
	d.core = minio.Core{Client: d.client}
	d.base, d.cancel = context.WithCancel(context.Background())
	if err := d.probe(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("bucket %s at %s: %w", opt.Bucket, opt.Endpoint, err), d.Close())
	}
	d.owned.Go(d.sweepNowAndThen)
	return d, nil
}

func newClient(opt Options, endpoint string, rt http.RoundTripper) (*minio.Client, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, plat.Errorf(plat.ErrInvalid, "the endpoint %q is not http(s)://HOST[:PORT]", endpoint)
	}
	lookup := minio.BucketLookupPath
	if opt.VirtualHost {
		lookup = minio.BucketLookupDNS
	}
	c, err := minio.New(u.Host, &minio.Options{
		Creds:        credentials.NewStaticV4(opt.AccessKey, opt.SecretKey, opt.SessionToken),
		Secure:       u.Scheme == "https",
		Transport:    rt,
		Region:       opt.Region, // known, so that nothing asks for it
		BucketLookup: lookup,
		// Streamed bodies end with their checksum. Besides what the wire may do to them, it
		// tells a body from one that was cut off: a server that trusts the end of a
		// connection stores half an upload (versitygw does).
		TrailingHeaders: true,
		MaxRetries:      3, // of what can be repeated: calls without a body, and bodies in memory
	})
	if err != nil {
		return nil, plat.Errorf(plat.ErrInvalid, "the endpoint %q: %v", endpoint, err)
	}
	return c, nil
}

// probe writes, overwrites conditionally and deletes an object of its own. A service that
// ignores the condition would let two uploads of one key both win. It also learns what
// the service's ETags are.
func (d *Driver) probe(ctx context.Context) error {
	key := "panal-probe-" + rand.Text()
	streamed := strings.Repeat(".", smallBody+1)
	if err := d.Put(ctx, key, strings.NewReader(streamed), int64(len(streamed)), blob.PutOptions{}); err != nil {
		return err
	}
	err := d.Put(ctx, key, strings.NewReader("."), 1, blob.PutOptions{IfNoneMatch: true})
	if errors.Is(err, plat.ErrExists) {
		if failed := d.learn(ctx, key, streamed); failed != nil {
			return failed
		}
	}
	if del := d.Delete(ctx, key); del != nil {
		return del
	}
	switch {
	case err == nil:
		return plat.Errorf(plat.ErrUnsupported, "the service ignores If-None-Match on PUT, so uploads could replace each other")
	case errors.Is(err, plat.ErrExists):
		return nil
	default:
		return err
	}
}

// learn asks what the service's ETags are, and whether it copies on a condition, of an
// object of the probe's.
func (d *Driver) learn(ctx context.Context, key, body string) error {
	info, tag, err := d.Tagged(ctx, key)
	if err != nil {
		return err
	}
	sum := md5.Sum([]byte(body)) //nolint:gosec // see import
	d.md5Tags = tag == hex.EncodeToString(sum[:])
	_, err = d.Copy(ctx, info, strings.Repeat("0", 32), key+"-copy", "")
	if d.canCopy = errors.Is(err, plat.ErrConflict); d.canCopy {
		return nil
	}
	d.opt.Log.LogAttrs(ctx, slog.LevelWarn, "the object storage does not copy on a condition: signed uploads pass this server", slog.Any(plat.LogError, err))
	return d.Delete(ctx, key+"-copy")
}

// name is the object's key in the bucket.
func (d *Driver) name(key string) (string, error) {
	name := d.opt.Prefix + key
	switch {
	case len(name) > blob.MaxKeyLen:
		return "", plat.Errorf(plat.ErrInvalid, "the object key has %d bytes with its prefix; S3 takes %d", len(name), blob.MaxKeyLen)
	case strings.TrimSpace(name) == "": // the library takes no such name
		return "", plat.Errorf(plat.ErrInvalid, "the object key is nothing but spaces; give the bucket a prefix")
	}
	return name, nil
}

// begin registers a step that changes the bucket: Close waits until done was called.
// After Close it is refused.
func (d *Driver) begin() (done func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errClosed()
	}
	d.commits.Add(1)
	return d.commits.Done, nil
}

func errClosed() error { return plat.Errorf(plat.ErrUnavailable, "the object store is closed") }

// call returns a context for one call that ends with ctx and with the driver. The caller calls end.
func (d *Driver) call(ctx context.Context) (c context.Context, end func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if d.base.Err() != nil {
		return nil, nil, errClosed()
	}
	c, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(d.base, cancel)
	return c, func() { stop(); cancel() }, nil
}

// Close implements blob.Driver. What the service is just storing is waited for.
func (d *Driver) Close() error {
	d.mu.Lock()
	first := !d.closed
	d.closed = true
	d.mu.Unlock()
	if !first {
		return nil
	}
	d.cancel() // bodies still on their way, reads, the sweeper
	d.owned.Wait()
	ended := make(chan struct{})
	go func() { d.commits.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(closeGrace):
		// The service hangs. Its connections end, and with them what waits for it.
	}
	d.transport.CloseIdleConnections()
	return nil
}

// What servers that keep objects in directories say of a key that is below or above
// another; and for a moment when a directory comes or goes under the put's feet.
const (
	codeBelowFile   = "ObjectParentIsFile"
	codeIsDirectory = "ExistingObjectIsDirectory"
)

// translate gives an error of the library its kind. ctx is the caller's: its own error
// comes first, as it is.
func (d *Driver) translate(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if d.base.Err() != nil {
		return errClosed()
	}
	var e minio.ErrorResponse
	if !errors.As(err, &e) {
		return failed(plat.ErrUnavailable, "the object storage does not answer", err.Error())
	}
	switch e.Code {
	case "NoSuchKey":
		return plat.Errorf(plat.ErrNotFound, "no such object")
	case "NoSuchBucket":
		return failed(plat.ErrUnavailable, "the object storage can't be used", fmt.Sprintf("it has no bucket %q; create it", d.opt.Bucket))
	case "PreconditionFailed":
		return plat.Errorf(plat.ErrExists, "the object already exists")
	case "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded":
		return failed(plat.ErrExhausted, "the object storage is full", e.Message)
	case "KeyTooLongError", "KeyTooLong", codeBelowFile, codeIsDirectory, "XMinioInvalidObjectName", "XMinioParentIsObject":
		return failed(plat.ErrInvalid, "the object storage can't hold this key", e.Message)
	}
	switch e.StatusCode {
	case http.StatusInsufficientStorage:
		return failed(plat.ErrExhausted, "the object storage is full", e.Message)
	case http.StatusForbidden, http.StatusUnauthorized:
		return failed(plat.ErrUnavailable, "the object storage refuses Panal's credentials", e.Code+": "+e.Message)
	}
	return failed(plat.ErrUnavailable, "the object storage failed", fmt.Sprintf("it answered %d %s: %s", e.StatusCode, e.Code, e.Message))
}

// failed keeps addresses, buckets and a service's own words for the log. The cause is
// text only: what it was (a deadline, an end too early) must not be taken for the
// caller's own.
func failed(kind error, public, cause string) error {
	return &plat.Error{Kind: kind, Public: public, Err: errors.New(cause)}
}
