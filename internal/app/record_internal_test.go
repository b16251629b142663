// SPDX-License-Identifier: Apache-2.0

package app

import (
	"strings"
	"testing"

	"panal/internal/lake"
)

// TestRecordedPath: whatever stands in a request line can be a file's metadata.
func TestRecordedPath(t *testing.T) {
	const limit = 40
	long := strings.Repeat("x", limit-2)
	for _, c := range []struct {
		path, want string
		cut        bool
	}{
		{"/v1/users?id=5&name=caf%C3%A9", "/v1/users?id=5&name=caf%C3%A9", false},
		{"/a?b=%00", "/a?b=%2500", false},
		{"/a?b=\xff", "/a?b=%EF%BF%BD", false},
		{"/" + long + "x", "/" + long + "x", false},
		{"/" + long + "xx", "/" + long + "x", true},
		{"/" + long + "é", "/" + long, true},
	} {
		got, cut := recordedPath(c.path, limit)
		if got != c.want || cut != c.cut {
			t.Errorf("recordedPath(%q) = %q, %t; want %q, %t", c.path, got, cut, c.want, c.cut)
		}
		if err := (lake.Metadata{"path": got}).Check(lake.Limits{Value: limit}); err != nil {
			t.Errorf("%q: %v", got, err)
		}
	}
}
