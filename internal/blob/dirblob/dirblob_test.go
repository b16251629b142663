// SPDX-License-Identifier: Apache-2.0

package dirblob_test

import (
	"testing"

	"panal/internal/blob"
	"panal/internal/blob/blobtest"
	"panal/internal/blob/dirblob"
	"panal/internal/blob/dirblob/crashfs"
	"panal/internal/blob/dirblob/vfs"
)

func open(tb testing.TB, fsys vfs.FS) *dirblob.Driver {
	tb.Helper()
	d, err := dirblob.OpenFS(tb.Context(), fsys)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = d.Close() })
	return d
}

// full returns a store whose disk has little space left.
func full(tb testing.TB) blob.Driver {
	tb.Helper()
	fsys := crashfs.New()
	d := open(tb, fsys)
	fsys.SetQuota(64 << 10)
	return d
}

func osHarness() blobtest.Harness {
	return blobtest.Harness{
		New: func(tb testing.TB) blob.Driver {
			tb.Helper()
			d, err := dirblob.Open(tb.Context(), tb.TempDir())
			if err != nil {
				tb.Fatal(err)
			}
			tb.Cleanup(func() { _ = d.Close() })
			return d
		},
		Full: full,
	}
}

func TestContract(t *testing.T) { blobtest.Run(t, osHarness()) }

func TestContractOnCrashfs(t *testing.T) {
	blobtest.Run(t, blobtest.Harness{
		New:  func(tb testing.TB) blob.Driver { return open(tb, crashfs.New()) },
		Full: full,
		Caps: blobtest.Caps{BuffersBody: true}, // the file layer is memory
	})
}

func BenchmarkContract(b *testing.B) { blobtest.Bench(b, osHarness()) }
