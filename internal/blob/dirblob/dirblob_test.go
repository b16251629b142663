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

// open opens a store of files alone; openAs one of another layout.
func open(tb testing.TB, fsys vfs.FS) *dirblob.Driver {
	tb.Helper()
	return openAs(tb, fsys, layouts["files"])
}

func openAs(tb testing.TB, fsys vfs.FS, opt dirblob.Options) *dirblob.Driver {
	tb.Helper()
	d, err := dirblob.OpenFS(tb.Context(), fsys, opt)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = d.Close() })
	return d
}

// full returns a store whose disk has little space left.
func full(opt dirblob.Options) func(testing.TB) blob.Driver {
	return func(tb testing.TB) blob.Driver {
		tb.Helper()
		fsys := crashfs.New()
		d := openAs(tb, fsys, opt)
		fsys.SetQuota(64 << 10)
		return d
	}
}

func osHarness() blobtest.Harness {
	return blobtest.Harness{
		New: func(tb testing.TB) blob.Driver {
			tb.Helper()
			fsys, err := vfs.NewOS(tb.TempDir())
			if err != nil {
				tb.Fatal(err)
			}
			return openAs(tb, fsys, dirblob.Options{Reserve: 4 << 10})
		},
		Full: full(dirblob.Options{}),
		Caps: blobtest.Caps{NoCopy: true},
	}
}

func TestContract(t *testing.T) { blobtest.Run(t, osHarness()) }

// TestContractOnCrashfs runs the suite on each layout. Segments and what is kept in
// memory are so small that maintenance goes on all the time.
func TestContractOnCrashfs(t *testing.T) {
	for name, opt := range layouts {
		opt.Manual = false
		t.Run(name, func(t *testing.T) {
			blobtest.Run(t, blobtest.Harness{
				New:  func(tb testing.TB) blob.Driver { return openAs(tb, crashfs.New(), opt) },
				Full: full(opt),
				Caps: blobtest.Caps{BuffersBody: true, NoCopy: true}, // the file layer is memory
			})
		})
	}
}

func BenchmarkContract(b *testing.B) { blobtest.Bench(b, osHarness()) }
