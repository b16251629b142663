// SPDX-License-Identifier: Apache-2.0

package etag_test

import (
	"bytes"
	"testing"

	"panal/internal/x/etag"
)

// Known values (data.md §13); blob's tests compare with the document word by word.
func TestSum(t *testing.T) {
	const chunk = 5 << 20
	for _, c := range []struct {
		size int
		want string
	}{
		{0, "d41d8cd98f00b204e9800998ecf8427e"},
		{chunk, "5f363e0e58a95f06cbe9bbc662c5dfb6"},
		{chunk + 1, "92f3a08aa3b1d7eb318ab9c2fc4a6ec3-2"},
	} {
		e := etag.New()
		for p := range bytes.Lines(bytes.Repeat([]byte{0}, c.size)) {
			_, _ = e.Write(p)
		}
		if e.Size() != int64(c.size) {
			t.Errorf("size %d, want %d", e.Size(), c.size)
		}
		if got := e.ETag(); got != c.want {
			t.Errorf("ETag of %d zeros = %s, want %s", c.size, got, c.want)
		}
	}
}
