// SPDX-License-Identifier: Apache-2.0

package dirblob

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"testing"

	"panal/internal/blob/dirblob/crashfs"
)

// FuzzScanRecords: whatever a segment holds, reading it ends, and what it yields is
// what the bytes say. Checksums are made right where mend says so, else nothing would
// get past them.
func FuzzScanRecords(f *testing.F) {
	const salt = 42
	var two []byte
	for i, r := range []record{{key: "a", body: []byte("body")}, {key: "b/c", gone: true}} {
		at := len(two)
		two = append(appendHead(two, r, int64(len(two))), r.body...)
		place(two[at:], salt, int64(at))
		f.Add(bytes.Clone(two), i == 0)
	}
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if n := len(b); mend && n >= recordHeader {
			if h := headLength(b); h > 0 && h <= n {
				binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:h], castagnoli)^placeMask(salt, 0))
			}
		}
		size, at := int64(len(b)), int64(0)
		good, err := scanRecords(bytes.NewReader(b), salt, 0, size, func(off int64, h recordHead, whole bool) error {
			n := recordSize(h.key, int(h.size))
			if off != at || off+n > size {
				t.Fatalf("a record of %d bytes at %d; %d were expected to be next, of %d", n, off, at, size)
			}
			at += n
			if rec, err := parseRecord(b[off:at], salt, off); (err == nil) != whole || whole && (rec.key != h.key || !bytes.Equal(rec.body, h.body)) {
				t.Fatalf("whole is %v, but parseRecord says %v", whole, err)
			}
			return nil
		})
		if err != nil || good != at {
			t.Fatalf("%d, %v; want %d", good, err, at)
		}
		if end, err := goodEnd(bytes.NewReader(b), salt, 0, size); err != nil || end < 0 || end > size {
			t.Fatalf("goodEnd = %d, %v", end, err)
		}
	})
}

// FuzzRun: a run of any bytes, with the checksum of its footer and of one block made
// right, is read or refused, and reading it ends.
func FuzzRun(f *testing.F) {
	for _, n := range []int{1, 40, 300} {
		fsys, mem := crashfs.New(), memtable{}
		for i := range n {
			mem[fmt.Sprintf("%05d-some-key", i*7)] = entry{segment: 3, offset: int64(i), size: uint32(i)}
		}
		tier, err := writeRuns(fsys, merged{newMemSource("", n, mem.smallest)}, int64(n), true, func() string { return "r" }, func() error { return nil })
		if err != nil {
			f.Fatal(err)
		}
		b := make([]byte, 1<<20)
		k, _ := tier[0].file.ReadAt(b, 0)
		f.Add(b[:k], uint16(0), "00007-some-key")
		f.Add(b[:k], uint16(0), "")
	}
	f.Fuzz(func(t *testing.T, b []byte, block uint16, key string) {
		if len(b) > 1<<20 {
			return
		}
		if n := len(b); n >= runFooter {
			foot := b[n-runFooter:]
			binary.LittleEndian.PutUint32(foot, runMagic)
			binary.LittleEndian.PutUint32(foot[4:], crc32.Checksum(foot[8:], castagnoli))
		}
		if at := int(block); at+blockHeader <= len(b) {
			if n := int(binary.LittleEndian.Uint32(b[at:])); n <= len(b)-at-blockHeader {
				binary.LittleEndian.PutUint32(b[at+4:], crc32.Checksum(b[at+blockHeader:at+blockHeader+n], castagnoli))
			}
		}
		fsys := crashfs.New()
		file, err := fsys.Create("r")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Write(b); err != nil {
			t.Fatal(err)
		}
		r, err := openRun(fsys, "r")
		if err != nil {
			if !errors.Is(err, errRun) {
				t.Fatalf("open: %v", err)
			}
			return
		}
		if _, _, err := r.find(key, hashKey(key)); err != nil && !errors.Is(err, errRun) {
			t.Fatalf("find: %v", err)
		}
		it := r.iterator()
		err = it.seek(key)
		for n := 0; err == nil && it.ok; err = it.next() {
			if n++; n > len(b) {
				t.Fatal("the walk has no end")
			}
		}
		if err != nil && !errors.Is(err, errRun) {
			t.Fatalf("walk: %v", err)
		}
	})
}

// FuzzManifest: a manifest of any content, also with a right checksum, doesn't stop
// the store from opening.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"tiers":[["1.run"]],"next_run":2,"segment":1,"offset":20,"segments":{"1":{"size":57}}}`))
	f.Add([]byte(`{"tiers":null,"next_run":2,"segment":4000000000,"offset":-1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		fsys := crashfs.New()
		s := &small{fs: fsys}
		if err := fsys.Mkdir(segmentsDir); err != nil {
			t.Fatal(err)
		}
		file, err := fsys.Create(manifestFile)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Write(append([]byte(manifestSum(text)+"\n"), text...)); err != nil {
			t.Fatal(err)
		}
		_, _ = s.loadManifest() // must not panic
	})
}
