// SPDX-License-Identifier: Apache-2.0

package blobtest

import (
	"strings"
	"testing"
	"time"

	"panal/internal/blob"
	"panal/internal/plat"
	"panal/internal/x/etag"
)

func copyCases() []Case {
	lacks := func(c Caps) bool { return c.NoCopy }
	both := func(check func(t *testing.T, d blob.Driver, c blob.Copier)) func(*testing.T, Harness) {
		return on(func(t *testing.T, d blob.Driver) {
			c, ok := d.(blob.Copier)
			if !ok || !c.CanCopy() {
				t.Fatal("the driver is no Copier: declare NoCopy")
			}
			check(t, d, c)
		})
	}
	return []Case{
		{"Copy/stores_the_same_bytes_and_knows_their_ETag_or_says_nothing", lacks, both(func(t *testing.T, d blob.Driver, c blob.Copier) {
			for _, n := range []int{0, 1, 1000, etag.ChunkSize, etag.ChunkSize + 1, 2*etag.ChunkSize + 7} {
				text := random(n)
				put(t, d, "from/a", text)
				put(t, d, "to/b", "something else")
				info, tag, err := c.Tagged(t.Context(), "from/a")
				if err != nil || info.Key != "from/a" || info.Size != int64(n) || tag == "" || time.Since(info.ModTime) > time.Hour {
					t.Fatalf("Tagged = %+v, %q, %v", info, tag, err)
				}
				sum, err := c.Copy(t.Context(), info, tag, "to/b", "text/plain")
				if err != nil {
					t.Fatalf("Copy of %d bytes: %v", n, err)
				}
				wantObject(t, d, "to/b", text)
				wantObject(t, d, "from/a", text)
				want := etag.New()
				_, _ = want.Write([]byte(text))
				if w := want.ETag(); sum != "" && sum != w {
					t.Errorf("ETag of %d bytes = %s, want %s or none", n, sum, w)
				}
			}
		})},
		{"Copy/another_tag_is_ErrConflict_and_nothing_is_stored", lacks, both(func(t *testing.T, d blob.Driver, c blob.Copier) {
			for _, n := range []int{3, etag.ChunkSize + 1} {
				put(t, d, "from", strings.Repeat("a", n))
				info, tag, err := c.Tagged(t.Context(), "from")
				if err != nil {
					t.Fatal(err)
				}
				put(t, d, "from", strings.Repeat("b", n))
				_, err = c.Copy(t.Context(), info, tag, "to", "text/plain")
				wantErr(t, "Copy", err, plat.ErrConflict)
				_, err = d.Stat(t.Context(), "to")
				wantErr(t, "Stat of what was not copied", err, plat.ErrNotFound)
			}
		})},
		{"Copy/any_content_type_will_do", lacks, both(func(t *testing.T, d blob.Driver, c blob.Copier) {
			put(t, d, "from", "hello")
			info, tag, err := c.Tagged(t.Context(), "from")
			if err != nil {
				t.Fatal(err)
			}
			for _, typ := range []string{"", `text/plain; x="a  b/c+é%"`, "image/蜂", "a\nb", "\x00", strings.Repeat("x", 1024)} {
				if _, err := c.Copy(t.Context(), info, tag, "to", typ); err != nil {
					t.Errorf("Copy as %.20q: %v", typ, err)
				}
			}
		})},
		{"Copy/a_missing_object_is_ErrNotFound", lacks, both(func(t *testing.T, d blob.Driver, c blob.Copier) {
			_, _, err := c.Tagged(t.Context(), "nope")
			wantErr(t, "Tagged", err, plat.ErrNotFound)
			put(t, d, "from", "hello")
			info, tag, err := c.Tagged(t.Context(), "from")
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Delete(t.Context(), "from"); err != nil {
				t.Fatal(err)
			}
			_, err = c.Copy(t.Context(), info, tag, "to", "text/plain")
			wantErr(t, "Copy", err, plat.ErrNotFound)
		})},
		{"Copy/of_a_closed_store_is_ErrUnavailable", lacks, both(func(t *testing.T, d blob.Driver, c blob.Copier) {
			put(t, d, "from", "hello")
			info, tag, err := c.Tagged(t.Context(), "from")
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			_, err = c.Copy(t.Context(), info, tag, "to", "text/plain")
			wantErr(t, "Copy", err, plat.ErrUnavailable)
		})},
	}
}
