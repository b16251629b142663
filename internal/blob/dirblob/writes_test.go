// SPDX-License-Identifier: Apache-2.0

package dirblob_test

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"panal/internal/blob"
	"panal/internal/blob/dirblob"
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

// Short records go over zeros that the segment has already; none are left behind a segment
// that is followed by another, or of a store that is closed.
func TestRecordsGoOverZeros(t *testing.T) {
	dir := t.TempDir()
	const ahead, body = 64 << 10, 1 << 10
	d := openDir(t, dir, dirblob.Options{Ahead: ahead, SegmentBytes: 16 << 10, Manual: true})
	lengths := func() (all []int64) {
		for _, n := range segmentFiles(t, dir) {
			fi, err := os.Stat(n)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, fi.Size())
		}
		return all
	}
	text := strings.Repeat("x", body)
	var whole int64
	for i := range 40 {
		if err := putText(t, d, strconv.Itoa(i), text); err != nil {
			t.Fatal(err)
		}
		switch now := lengths(); {
		case i == 1:
			whole = now[0]
		case i > 1 && len(now) == 1 && now[0] != whole:
			t.Errorf("%d records have made the segment %d bytes long, it had %d", i+1, now[0], whole)
		}
	}
	if whole < ahead {
		t.Errorf("the segment has %d bytes, %d of zeros were to come", whole, ahead)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	got := lengths()
	if len(got) < 2 {
		t.Fatalf("%d segments, want several", len(got))
	}
	for _, n := range got {
		if n > 20<<10 {
			t.Errorf("segments of %d bytes after Close, want none above 20 KiB", got)
		}
	}
	d = openDir(t, dir, dirblob.Options{Manual: true})
	for i := range 40 {
		mustRead(t, d, strconv.Itoa(i), text)
	}
}
