// SPDX-License-Identifier: Apache-2.0

package blob_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"panal/internal/blob"
	"panal/internal/blob/memblob"
	"panal/internal/plat"
)

// naiveETag is data.md §13 word by word.
func naiveETag(body []byte) string {
	const chunk = 5 * 1024 * 1024
	if len(body) <= chunk {
		sum := md5.Sum(body)
		return hex.EncodeToString(sum[:])
	}
	var sums []byte
	n := 0
	for part := range slices.Chunk(body, chunk) {
		sum := md5.Sum(part)
		sums = append(sums, sum[:]...)
		n++
	}
	whole := md5.Sum(sums)
	return fmt.Sprintf("%s-%d", hex.EncodeToString(whole[:]), n)
}

func TestPutReturnsSizeAndETag(t *testing.T) {
	s := blob.New(memblob.New())
	const chunk = 5 << 20
	for _, n := range []int{0, 1, 1000, chunk - 1, chunk, chunk + 1, 2 * chunk, 2*chunk + 1, 3*chunk - 1} {
		body := bytes.Repeat([]byte("panal"), n/5+1)[:n]
		for name, r := range map[string]io.Reader{"whole": bytes.NewReader(body), "halves": iotest.HalfReader(bytes.NewReader(body))} {
			got, err := s.Put(t.Context(), "k", r, int64(n), blob.PutOptions{})
			if want := (blob.Written{Size: int64(n), ETag: naiveETag(body)}); err != nil || got != want {
				t.Errorf("%d bytes, %s: Put = %+v, %v; want %+v", n, name, got, err, want)
			}
		}
	}
	// A known value, so that naiveETag and the code cannot be wrong alike.
	if got, _ := s.Put(t.Context(), "k", strings.NewReader(""), 0, blob.PutOptions{}); got.ETag != "d41d8cd98f00b204e9800998ecf8427e" {
		t.Errorf("ETag of nothing = %s", got.ETag)
	}
}

func TestInvalidKeysAreRefused(t *testing.T) {
	s := blob.New(memblob.New())
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/.", "a/../b", "./a", "\x00", "a\nb", "a\x7f", "\xff", "a\xc3", "\xed\xa0\x80",
		strings.Repeat("x", blob.MaxKeyLen+1), strings.Repeat("é", 513),
	} {
		_, put := s.Put(t.Context(), key, strings.NewReader("x"), 1, blob.PutOptions{})
		_, _, open := s.Open(t.Context(), key, 0, -1)
		_, stat := s.Stat(t.Context(), key)
		for name, err := range map[string]error{"Put": put, "Open": open, "Stat": stat, "Delete": s.Delete(t.Context(), key)} {
			if !errors.Is(err, plat.ErrInvalid) {
				t.Errorf("%s(%q) = %v, want ErrInvalid", name, key, err)
			}
		}
	}
}

func TestBadRangesAndLimitsAreRefused(t *testing.T) {
	s := blob.New(memblob.New())
	if _, err := s.Put(t.Context(), "k", strings.NewReader("0123"), 4, blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{-1, 5, 1 << 40} {
		if _, _, err := s.Open(t.Context(), "k", off, -1); !errors.Is(err, plat.ErrInvalid) {
			t.Errorf("Open at %d = %v, want ErrInvalid", off, err)
		}
	}
	rc, _, err := s.Open(t.Context(), "k", 4, -1)
	if err != nil {
		t.Fatalf("Open at the end = %v", err)
	}
	_ = rc.Close()
	for _, limit := range []int{0, -1} {
		if _, _, err := s.List(t.Context(), "", "", limit); !errors.Is(err, plat.ErrInvalid) {
			t.Errorf("List of %d = %v, want ErrInvalid", limit, err)
		}
	}
}

func TestErrorsNameTheKeyAndKeepTheKind(t *testing.T) {
	s := blob.New(memblob.New())
	_, err := s.Stat(t.Context(), "some/key")
	if !errors.Is(err, plat.ErrNotFound) || !strings.Contains(err.Error(), "stat some/key") {
		t.Errorf("Stat = %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Stat(ctx, "some/key"); !errors.Is(err, context.Canceled) {
		t.Errorf("Stat = %v", err)
	}
}

func TestPresignIsOptional(t *testing.T) {
	s := blob.New(memblob.New())
	if url, ok, err := s.PresignGet(t.Context(), "k", "text/plain", time.Hour); url != "" || ok || err != nil {
		t.Errorf("PresignGet = %q, %v, %v", url, ok, err)
	}
	if url, ok, err := s.PresignPut(t.Context(), "k", time.Hour); url != "" || ok || err != nil {
		t.Errorf("PresignPut = %q, %v, %v", url, ok, err)
	}
}

// TestAcceptedKeysListAndRead: whatever CheckKey lets through works as a key.
func TestAcceptedKeysListAndRead(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		key := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a./%é]{0,8}`)).Draw(rt, "key")
		s := blob.New(memblob.New())
		_, err := s.Put(t.Context(), key, strings.NewReader("x"), 1, blob.PutOptions{})
		if (err == nil) != (blob.CheckKey(key) == nil) {
			rt.Fatalf("Put(%q) = %v, CheckKey = %v", key, err, blob.CheckKey(key))
		}
		if err != nil {
			return
		}
		infos, more, err := s.List(t.Context(), "", "", 5)
		if err != nil || more || len(infos) != 1 || infos[0].Key != key {
			rt.Fatalf("List = %+v, %v, %v", infos, more, err)
		}
	})
}
