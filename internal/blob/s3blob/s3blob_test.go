// SPDX-License-Identifier: Apache-2.0

package s3blob_test

import (
	"crypto/rand"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"panal/internal/blob"
	"panal/internal/blob/blobtest"
	"panal/internal/blob/s3blob"
)

// server returns how to reach the S3 server that scripts/with-s3 started.
func server(tb testing.TB) s3blob.Options {
	tb.Helper()
	u, err := url.Parse(os.Getenv("PANAL_TEST_S3"))
	if err != nil || u.Scheme != "s3" {
		if os.Getenv("CI") == "" {
			tb.Skip("PANAL_TEST_S3 is not set: scripts/with-s3 go test … starts a server")
		}
		tb.Fatal("PANAL_TEST_S3 is not set: run the tests under scripts/with-s3 (make test does)")
	}
	return s3blob.Options{
		Bucket: u.Host, Endpoint: u.Query().Get("endpoint"), Region: u.Query().Get("region"),
		AccessKey: os.Getenv("PANAL_S3_ACCESS_KEY"), SecretKey: os.Getenv("PANAL_S3_SECRET_KEY"),
	}
}

// raw is the bucket as others see it.
func raw(tb testing.TB, opt s3blob.Options) minio.Core {
	tb.Helper()
	c, err := minio.NewCore(strings.TrimPrefix(opt.Endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(opt.AccessKey, opt.SecretKey, ""), Region: opt.Region, BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return *c
}

// bucket makes a bucket of the test's own.
func bucket(tb testing.TB) s3blob.Options {
	tb.Helper()
	opt := server(tb)
	opt.Bucket = "t-" + strings.ToLower(rand.Text())
	if err := raw(tb, opt).MakeBucket(tb.Context(), opt.Bucket, minio.MakeBucketOptions{}); err != nil {
		tb.Fatal(err)
	}
	return opt
}

func open(tb testing.TB, opt s3blob.Options) *s3blob.Driver {
	tb.Helper()
	d, err := s3blob.Open(tb.Context(), opt)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = d.Close() })
	return d
}

func harness() blobtest.Harness {
	return blobtest.Harness{
		New: func(tb testing.TB) blob.Driver {
			tb.Helper()
			opt := bucket(tb)
			opt.Prefix = "p/"
			return open(tb, opt)
		},
		Caps: blobtest.Caps{
			NeverFull: true, // the server's disk is the machine's
			Tree:      true, // the server of the tests keeps objects in a directory
			MaxKey:    blob.MaxKeyLen - len("p/"),
		},
	}
}

func TestContract(t *testing.T) { blobtest.Run(t, harness()) }

func BenchmarkContract(b *testing.B) { blobtest.Bench(b, harness()) }
