// SPDX-License-Identifier: Apache-2.0

package blobtest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"panal/internal/blob"
	"panal/internal/plat"
)

// bigBody is large enough that buffering it would show, small enough for a
// loaded machine's disk.
const bigBody = 48 << 20

func roundTripCases() []Case {
	return []Case{
		{"Put/known_size", nil, on(func(t *testing.T, d blob.Driver) {
			put(t, d, "a/b", "hello")
			wantObject(t, d, "a/b", "hello")
		})},
		{"Put/unknown_size", nil, on(func(t *testing.T, d blob.Driver) {
			if err := d.Put(t.Context(), "k", body("hello"), -1, blob.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			wantObject(t, d, "k", "hello")
		})},
		{"Put/empty_body", nil, on(func(t *testing.T, d blob.Driver) {
			put(t, d, "known", "")
			if err := d.Put(t.Context(), "unknown", body(""), -1, blob.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			wantObject(t, d, "known", "")
			wantObject(t, d, "unknown", "")
		})},
		{"Put/sizes_around_buffers", nil, on(func(t *testing.T, d blob.Driver) {
			for _, n := range []int{1, 4095, 4096, 32<<10 - 1, 32 << 10, 32<<10 + 1, 64 << 10, 128<<10 - 1, 128 << 10, 128<<10 + 1, 1<<20 + 7} {
				text := random(n)
				put(t, d, "k", text)
				wantObject(t, d, "k", text)
			}
		})},
		{"Put/a_reader_that_dribbles", nil, on(func(t *testing.T, d blob.Driver) {
			text := random(1000)
			r := iotest.DataErrReader(iotest.OneByteReader(strings.NewReader(text)))
			if err := d.Put(t.Context(), "k", r, 1000, blob.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			wantObject(t, d, "k", text)
		})},
		{"Put/body_too_short_is_ErrInvalid_and_leaves_nothing", nil, on(func(t *testing.T, d blob.Driver) {
			wantErr(t, "Put(short)", d.Put(t.Context(), "k", body("four"), 5, blob.PutOptions{}), plat.ErrInvalid)
			wantErr(t, "Put(empty)", d.Put(t.Context(), "k", body(""), 5, blob.PutOptions{}), plat.ErrInvalid)
			wantMissing(t, d, "k")
		})},
		{"Put/body_too_long_is_ErrInvalid_and_leaves_nothing", nil, on(func(t *testing.T, d blob.Driver) {
			wantErr(t, "Put(long)", d.Put(t.Context(), "k", body("sixsix"), 5, blob.PutOptions{}), plat.ErrInvalid)
			wantErr(t, "Put(not empty)", d.Put(t.Context(), "k", body("x"), 0, blob.PutOptions{}), plat.ErrInvalid)
			long := random(1 << 20)
			wantErr(t, "Put(much longer)", d.Put(t.Context(), "k", body(long), 1<<19, blob.PutOptions{}), plat.ErrInvalid)
			wantMissing(t, d, "k")
		})},
		{"Put/an_error_of_the_body_is_returned_and_leaves_nothing", nil, on(func(t *testing.T, d blob.Driver) {
			broken := errors.New("the line broke")
			for _, size := range []int64{-1, 100} {
				r := io.MultiReader(strings.NewReader("some"), iotest.ErrReader(broken))
				wantErr(t, "Put(broken body)", d.Put(t.Context(), "k", r, size, blob.PutOptions{}), broken)
			}
			wantMissing(t, d, "k")
		})},
		{"Put/a_failed_put_keeps_what_was_there", nil, on(func(t *testing.T, d blob.Driver) {
			put(t, d, "k", "old")
			wantErr(t, "Put(short)", d.Put(t.Context(), "k", body("x"), 5, blob.PutOptions{}), plat.ErrInvalid)
			wantErr(t, "Put(long)", d.Put(t.Context(), "k", body("xxxxxx"), 5, blob.PutOptions{}), plat.ErrInvalid)
			r := io.MultiReader(strings.NewReader("some"), iotest.ErrReader(io.ErrUnexpectedEOF))
			wantErr(t, "Put(broken)", d.Put(t.Context(), "k", r, -1, blob.PutOptions{}), io.ErrUnexpectedEOF)
			wantObject(t, d, "k", "old")
		})},
		{"Put/does_not_close_the_body", nil, on(func(t *testing.T, d blob.Driver) {
			r := &closeSpy{Reader: strings.NewReader("x")}
			if err := d.Put(t.Context(), "k", r, 1, blob.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			if r.closed {
				t.Error("Put closed the body")
			}
		})},
		{"Put/memory_does_not_depend_on_size", func(c Caps) bool { return c.BuffersBody }, on(checkFlat)},
		{"Stat/mod_time_is_that_of_the_put_in_UTC_microseconds", nil, on(func(t *testing.T, d blob.Driver) {
			before := time.Now().Add(-time.Minute)
			put(t, d, "k", "x")
			info, err := d.Stat(t.Context(), "k")
			if err != nil {
				t.Fatal(err)
			}
			if m := info.ModTime; m.Before(before) || m.After(time.Now().Add(time.Minute)) || m.Location() != time.UTC || m.Nanosecond()%1000 != 0 {
				t.Errorf("ModTime = %v", m)
			}
		})},
		{"Delete/removes_the_object", nil, func(t *testing.T, h Harness) {
			d, other := h.New(t), h.Caps.holds("a/b", "a", "a/c")[1]
			put(t, d, "a/b", "x")
			put(t, d, other, "y")
			if err := d.Delete(t.Context(), "a/b"); err != nil {
				t.Fatal(err)
			}
			wantMissing(t, d, "a/b")
			wantObject(t, d, other, "y")
			put(t, d, "a/b", "again")
			wantObject(t, d, "a/b", "again")
		}},
		{"Delete/missing_key_is_not_an_error", nil, on(func(t *testing.T, d blob.Driver) {
			put(t, d, "a/b", "x")
			for _, key := range []string{"nope", "a", "a/b/c", "a/c"} {
				if err := d.Delete(t.Context(), key); err != nil {
					t.Errorf("Delete(%q) = %v", key, err)
				}
			}
			wantObject(t, d, "a/b", "x")
		})},
	}
}

type closeSpy struct {
	io.Reader
	closed bool
}

func (c *closeSpy) Close() error {
	c.closed = true
	return nil
}

func random(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return string(b)
}

// checkFlat puts and reads a body from a generator and watches what is allocated.
func checkFlat(t *testing.T, d blob.Driver) {
	for _, size := range []int64{bigBody, -1} {
		in := sha256.New()
		src := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), bigBody), in)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if err := d.Put(t.Context(), "big", unseekable{src}, size, blob.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		rc, info, err := d.Open(t.Context(), "big", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		out := sha256.New()
		_, err = io.Copy(out, rc)
		runtime.ReadMemStats(&after)
		if err := errors.Join(err, rc.Close()); err != nil {
			t.Fatal(err)
		}
		if string(in.Sum(nil)) != string(out.Sum(nil)) || info.Size != bigBody {
			t.Errorf("the body came back changed (%d bytes)", info.Size)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > bigBody/4 {
			t.Errorf("%d bytes were allocated for a body of %d", used, bigBody)
		}
	}
}

func rangeCases() []Case {
	const text = "0123456789"
	return []Case{
		{"Open/ranges", nil, on(func(t *testing.T, d blob.Driver) {
			put(t, d, "k", text)
			for _, c := range []struct {
				off, n int64
				want   string
			}{
				{0, -1, text},
				{0, 10, text},
				{0, 0, ""},
				{0, 3, "012"},
				{3, 4, "3456"},
				{3, -1, "3456789"},
				{9, 1, "9"},
				{5, 0, ""},
				{0, 11, text},                 // cut at the end
				{8, 100, "89"},                // cut at the end
				{3, math.MaxInt64, "3456789"}, // off+n overflows
				{10, -1, ""},                  // starts at the end
				{10, 5, ""},
				{11, -1, ""}, // starts past the end
				{1 << 40, 5, ""},
			} {
				got, info, err := get(t.Context(), d, "k", c.off, c.n)
				if err != nil || got != c.want {
					t.Errorf("Open(%d, %d) read %q, %v; want %q", c.off, c.n, got, err, c.want)
				}
				if info.Size != int64(len(text)) || info.Key != "k" {
					t.Errorf("Open(%d, %d) = info %+v, which must describe the whole object", c.off, c.n, info)
				}
			}
		})},
		{"Open/ranges_of_an_empty_object", nil, on(func(t *testing.T, d blob.Driver) {
			put(t, d, "k", "")
			for _, n := range []int64{-1, 0, 1} {
				if got, _, err := get(t.Context(), d, "k", 0, n); err != nil || got != "" {
					t.Errorf("Open(0, %d) read %q, %v", n, got, err)
				}
			}
		})},
		{"Open/small_reads_and_a_range_across_buffers", nil, on(func(t *testing.T, d blob.Driver) {
			long := random(300 << 10)
			put(t, d, "k", long)
			rc, _, err := d.Open(t.Context(), "k", 1000, 200<<10)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = rc.Close() }()
			if err := iotest.TestReader(unseekable{rc}, []byte(long[1000:1000+200<<10])); err != nil {
				t.Error(err)
			}
		})},
	}
}

func overwriteCases() []Case {
	ifNone := blob.PutOptions{IfNoneMatch: true}
	return []Case{
		{"Put/overwrites", nil, on(func(t *testing.T, d blob.Driver) {
			put(t, d, "k", "a longer first version")
			put(t, d, "k", "second")
			wantObject(t, d, "k", "second")
			if keys := keysOf(t, d, "", 10); len(keys) != 1 {
				t.Errorf("List = %q", keys)
			}
		})},
		{"Put/new_of_a_key_that_is_used_overwrites_all_the_same", nil, on(func(t *testing.T, d blob.Driver) {
			put(t, d, "k", random(2<<20))
			if err := d.Put(t.Context(), "k", body("x"), 1, blob.PutOptions{New: true}); err != nil {
				t.Fatal(err)
			}
			wantObject(t, d, "k", "x")
			if keys := keysOf(t, d, "", 10); len(keys) != 1 {
				t.Errorf("List = %q", keys)
			}
			if err := d.Delete(t.Context(), "k"); err != nil {
				t.Fatal(err)
			}
			if keys := keysOf(t, d, "", 10); len(keys) != 0 {
				t.Errorf("List after the deletion = %q", keys)
			}
		})},
		{"Open/a_reader_keeps_its_version_when_the_key_is_overwritten", nil, on(func(t *testing.T, d blob.Driver) {
			checkVersion(t, d, func(key string) { put(t, d, key, random(1<<20)) })
		})},
		{"Open/a_reader_keeps_its_version_when_the_key_is_deleted", nil, on(func(t *testing.T, d blob.Driver) {
			checkVersion(t, d, func(key string) {
				if err := d.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			})
		})},
		{"Put/if_none_match_stores_a_new_key", nil, on(func(t *testing.T, d blob.Driver) {
			if err := d.Put(t.Context(), "k", body("x"), 1, ifNone); err != nil {
				t.Fatal(err)
			}
			wantObject(t, d, "k", "x")
		})},
		{"Put/if_none_match_of_an_existing_key_is_ErrExists_and_keeps_it", nil, on(func(t *testing.T, d blob.Driver) {
			put(t, d, "k", "old")
			wantErr(t, "Put", d.Put(t.Context(), "k", body("new"), 3, ifNone), plat.ErrExists)
			wantErr(t, "Put", d.Put(t.Context(), "k", body("new"), -1, ifNone), plat.ErrExists)
			wantObject(t, d, "k", "old")
		})},
		{"Put/if_none_match_works_again_after_a_delete", nil, on(func(t *testing.T, d blob.Driver) {
			put(t, d, "k", "old")
			if err := d.Delete(t.Context(), "k"); err != nil {
				t.Fatal(err)
			}
			if err := d.Put(t.Context(), "k", body("new"), 3, ifNone); err != nil {
				t.Fatal(err)
			}
			wantObject(t, d, "k", "new")
		})},
		{"Put/if_none_match_does_not_mistake_a_longer_key", nil, func(t *testing.T, h Harness) {
			d := h.New(t)
			put(t, d, "k/x", "old")
			for _, key := range h.Caps.holds("k/x", "k", "K", "k/x/y", "k/X")[1:] {
				if err := d.Put(t.Context(), key, body("new"), 3, ifNone); err != nil {
					t.Errorf("Put(%q) = %v", key, err)
				}
			}
		}},
	}
}

func checkVersion(t *testing.T, d blob.Driver, change func(key string)) {
	t.Helper()
	first := random(1 << 20)
	put(t, d, "k", first)
	rc, _, err := d.Open(t.Context(), "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rc.Close() }()
	half := make([]byte, 100)
	if _, err := io.ReadFull(rc, half); err != nil {
		t.Fatal(err)
	}
	change("k")
	rest, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	if string(half)+string(rest) != first {
		t.Error("the reader saw bytes of another version")
	}
}

func errorCases() []Case {
	return []Case{
		{"Open/missing_key_is_ErrNotFound", nil, on(func(t *testing.T, d blob.Driver) {
			put(t, d, "a/b", "x")
			for _, key := range []string{"nope", "a", "a/b/c", "A/b", "a/B"} {
				_, _, err := d.Open(t.Context(), key, 0, -1)
				wantErr(t, fmt.Sprintf("Open(%q)", key), err, plat.ErrNotFound)
			}
		})},
		{"Stat/missing_key_is_ErrNotFound", nil, on(func(t *testing.T, d blob.Driver) {
			put(t, d, "a/b", "x")
			for _, key := range []string{"nope", "a", "a/b/c", "A/b", "a/B"} {
				_, err := d.Stat(t.Context(), key)
				wantErr(t, fmt.Sprintf("Stat(%q)", key), err, plat.ErrNotFound)
			}
		})},
		{"Put/out_of_space_is_ErrExhausted_and_leaves_nothing", func(c Caps) bool { return c.NeverFull }, func(t *testing.T, h Harness) {
			d := h.Full(t)
			text := random(256 << 10)
			for _, size := range []int64{-1, int64(len(text))} {
				wantErr(t, "Put", d.Put(t.Context(), "k", body(text), size, blob.PutOptions{}), plat.ErrExhausted)
				wantMissing(t, d, "k")
			}
		}},
		{"Errors/match_at_most_one_kind", nil, on(func(t *testing.T, d blob.Driver) {
			put(t, d, "k", "x")
			_, _, open := d.Open(t.Context(), "nope", 0, -1)
			for _, err := range []error{
				open,
				d.Put(t.Context(), "k", body("x"), 1, blob.PutOptions{IfNoneMatch: true}),
				d.Put(t.Context(), "k", body("x"), 2, blob.PutOptions{}),
			} {
				n := 0
				for _, kind := range plat.Kinds() {
					if errors.Is(err, kind) {
						n++
					}
				}
				if n != 1 {
					t.Errorf("%v matches %d kinds", err, n)
				}
			}
		})},
	}
}

func closeCases() []Case {
	return []Case{
		{"Close/later_calls_are_ErrUnavailable", nil, on(func(t *testing.T, d blob.Driver) {
			put(t, d, "k", "x")
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			_, _, err := d.Open(t.Context(), "k", 0, -1)
			wantErr(t, "Open", err, plat.ErrUnavailable)
			_, err = d.Stat(t.Context(), "k")
			wantErr(t, "Stat", err, plat.ErrUnavailable)
			_, _, err = d.List(t.Context(), "", "", 1)
			wantErr(t, "List", err, plat.ErrUnavailable)
			wantErr(t, "Put", d.Put(t.Context(), "k", body("x"), 1, blob.PutOptions{}), plat.ErrUnavailable)
			wantErr(t, "Delete", d.Delete(t.Context(), "k"), plat.ErrUnavailable)
		})},
		{"Close/twice_does_nothing", nil, on(func(t *testing.T, d blob.Driver) {
			for range 2 {
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})},
		{"Close/a_put_under_way_fails", nil, on(func(t *testing.T, d blob.Driver) {
			pr, pw := io.Pipe()
			done := make(chan error, 1)
			go func() { done <- d.Put(t.Context(), "k", pr, -1, blob.PutOptions{}) }()
			if _, err := pw.Write([]byte("the put has begun")); err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			_ = pw.Close()
			wantErr(t, "Put", <-done, plat.ErrUnavailable)
		})},
	}
}
