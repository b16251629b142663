// SPDX-License-Identifier: Apache-2.0

package dirblob_test

import (
	"bytes"
	"slices"
	"sync"
	"testing"
	"testing/iotest"

	"panal/internal/blob"
	"panal/internal/blob/dirblob/crashfs"
	"panal/internal/blob/dirblob/vfs"
)

// writesFS notes the lengths of all writes.
type writesFS struct {
	*crashfs.FS
	mu      sync.Mutex
	lengths []int
}

func (s *writesFS) Create(name string) (vfs.File, error) {
	f, err := s.FS.Create(name)
	return &writesFile{f, s}, err
}

type writesFile struct {
	vfs.File
	of *writesFS
}

func (f *writesFile) Write(p []byte) (int, error) {
	f.of.mu.Lock()
	defer f.of.mu.Unlock()
	f.of.lengths = append(f.of.lengths, len(p))
	return f.File.Write(p)
}

// However a body comes, it is written in whole buffers, so that each write starts at a
// border of the page cache's large pages. Downloads of 16 MiB cost an eighth more where it
// does not.
func TestWritesAreWhole(t *testing.T) {
	const whole = 128 << 10
	body := bytes.Repeat([]byte("0123456789"), (2*whole+5000)/10)
	for _, size := range []int64{int64(len(body)), -1} {
		fsys := &writesFS{FS: crashfs.New()}
		d := open(t, fsys)
		fsys.lengths = nil
		if err := d.Put(t.Context(), "k", iotest.HalfReader(bytes.NewReader(body)), size, blob.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if want := []int{whole, whole, len(body) - 2*whole}; !slices.Equal(fsys.lengths, want) {
			t.Errorf("a body of %d bytes, %d declared, was written in %v, want %v", len(body), size, fsys.lengths, want)
		}
		mustRead(t, d, "k", string(body))
	}
}
