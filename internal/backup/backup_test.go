// SPDX-License-Identifier: Apache-2.0

package backup_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"panal/internal/backup"
	"panal/internal/plat"
)

func entries() []backup.Entry {
	var all []backup.Entry
	for _, db := range []string{"control.db", "lake.db", "logs/2026-11-26.db", "logs/index.db"} {
		all = append(all, backup.Entry{Database: db, Size: 700})
	}
	for i, key := range []string{"journal/whole", "journal/mark/a", "journal/batch/h/1", "journal/segment/00/s", "lake/1/2/h/ü file", "zz/" + strings.Repeat("long/", 150) + "x"} {
		all = append(all, backup.Entry{Object: key, Size: int64(i * 300)})
	}
	for i := range 2500 { // several files of sums
		all = append(all, backup.Entry{Object: fmt.Sprintf("train/%06d", i), Size: 3})
	}
	slices.SortFunc(all, func(a, b backup.Entry) int {
		if a.Less(b) {
			return -1
		}
		return 1
	})
	return all
}

func content(e backup.Entry) []byte { return bytes.Repeat([]byte{byte(len(e.Name()))}, int(e.Size)) }

func write(t testing.TB, all []backup.Entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := backup.NewWriter(&out, backup.Header{Panal: "test", KeyIDs: []string{"k"}})
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range all {
		if i%700 == 0 {
			if err := w.Alive(); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Add(e, bytes.NewReader(content(e))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(backup.End{Files: 7}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func read(raw []byte, each func(backup.Entry, []byte)) error {
	r, err := backup.NewReader(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	for {
		e, body, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		b, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		each(e, b)
	}
}

func TestRoundTrip(t *testing.T) {
	want, got := entries(), []backup.Entry{}
	err := read(write(t, want), func(e backup.Entry, b []byte) {
		got = append(got, e)
		if !bytes.Equal(b, content(e)) {
			t.Errorf("%s has other bytes", e.Name())
		}
	})
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("read = %v; %d entries, want %d", err, len(got), len(want))
	}
}

// What was cut or changed anywhere is refused, with a kind that says so.
func TestDamage(t *testing.T) {
	raw := write(t, entries()[:12])
	none := func(backup.Entry, []byte) {}
	end := bytes.LastIndex(raw, []byte(`"sums":`)) // what follows is the tar's own padding
	for n := 0; n < end; n += 97 {
		if err := read(raw[:n], none); !errors.Is(err, plat.ErrInvalid) {
			t.Fatalf("cut after %d bytes = %v, want ErrInvalid", n, err)
		}
	}
	for i, at := range []int{bytes.Index(raw, content(backup.Entry{Database: "control.db", Size: 50})), bytes.Index(raw, []byte(`{"n":`)) + 8} {
		bad := bytes.Clone(raw)
		bad[at] ^= 1
		if err := read(bad, none); !errors.Is(err, plat.ErrInvalid) {
			t.Errorf("change %d at %d = %v, want ErrInvalid", i, at, err)
		}
	}
}

// hostile writes a tar whose header entry is true, and then what h says.
func hostile(t *testing.T, format int, hs ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	head := fmt.Sprintf(`{"format":%d,"panal":"9"}`, format)
	for _, h := range append([]tar.Header{{Name: "panal-backup.json", Size: int64(len(head))}}, hs...) {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Name == "panal-backup.json" {
			_, _ = io.WriteString(w, head)
		} else if h.Size > 0 && h.Size < 1000 {
			_, _ = w.Write(make([]byte, h.Size))
		}
	}
	_ = w.Flush()
	return out.Bytes()
}

func TestHostile(t *testing.T) {
	for name, hs := range map[string][]tar.Header{
		"traversal":        {{Name: "objects/../../etc/passwd"}},
		"absolute":         {{Name: "/etc/passwd"}},
		"database path":    {{Name: "databases/../x.db"}},
		"other database":   {{Name: "databases/logs/../control.db"}},
		"symbolic link":    {{Name: "objects/a", Typeflag: tar.TypeSymlink, Linkname: "/etc"}},
		"hard link":        {{Name: "objects/a", Typeflag: tar.TypeLink, Linkname: "b"}},
		"device":           {{Name: "objects/a", Typeflag: tar.TypeChar}},
		"directory":        {{Name: "objects/a/", Typeflag: tar.TypeDir}},
		"twice":            {{Name: "objects/a"}, {Name: "objects/a"}},
		"out of order":     {{Name: "objects/b"}, {Name: "objects/a"}},
		"huge sums":        {{Name: "sums/00000001", Size: 1 << 40}},
		"huge end":         {{Name: "end.json", Size: 1 << 40}},
		"huge object, cut": {{Name: "objects/a", Size: 1 << 50}},
		"sums of nothing":  {{Name: "sums/00000007"}},
		"unknown record":   {{Name: "objects/a", PAXRecords: map[string]string{"VENDOR.x": "1"}, Format: tar.FormatPAX}},
		"unknown name":     {{Name: "secret.key"}},
		"no end":           {{Name: "objects/a"}},
		"second header":    {{Name: "panal-backup.json", Size: 25}},
		"empty":            nil,
	} {
		if err := read(hostile(t, 1, hs...), func(backup.Entry, []byte) {}); !errors.Is(err, plat.ErrInvalid) {
			t.Errorf("%s = %v, want ErrInvalid", name, err)
		}
	}
	if err := read(hostile(t, 2), nil); !errors.Is(err, plat.ErrUnsupported) {
		t.Errorf("a newer format = %v, want ErrUnsupported", err)
	}
	if err := read(nil, nil); !errors.Is(err, plat.ErrInvalid) {
		t.Errorf("nothing = %v, want ErrInvalid", err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(write(f, entries()[:6]))
	f.Add([]byte("no tar"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		err := read(raw, func(e backup.Entry, b []byte) {
			if int64(len(b)) != e.Size || strings.Contains(e.Name(), "..") {
				t.Fatalf("%q with %d of %d bytes", e.Name(), len(b), e.Size)
			}
		})
		if err != nil && plat.KindOf(err) == nil {
			t.Fatalf("error without a kind: %v", err)
		}
	})
}
