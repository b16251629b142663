// SPDX-License-Identifier: Apache-2.0

package httpx_test

import (
	"net/http"
	"testing"

	"panal/internal/x/httpx"
)

// RFC 9110 §13 and §14, as a table.
func TestSelect(t *testing.T) {
	const tag = `"abc-2"`
	for _, c := range []struct {
		header []string // name, value, …
		etag   string
		status int
		off, n int64
	}{
		{nil, tag, 200, 0, 10},
		{[]string{"Range", "bytes=2-3"}, tag, 206, 2, 2},
		{[]string{"Range", "bytes=0-"}, tag, 206, 0, 10}, // all of it, as a part
		{[]string{"Range", "bytes=0-99"}, tag, 206, 0, 10},
		{[]string{"Range", "bytes=-3"}, tag, 206, 7, 3},
		{[]string{"Range", "bytes=10-"}, tag, 416, 0, 0},
		{[]string{"Range", "bytes=0-1,4-5"}, tag, 200, 0, 10},
		{[]string{"Range", "bytes=12-11"}, tag, 200, 0, 10},                // invalid, not unsatisfiable
		{[]string{"Range", "bytes=99999999999999999999-"}, tag, 416, 0, 0}, // no int64 holds these
		{[]string{"Range", "bytes=9223372036854775808-"}, tag, 416, 0, 0},
		{[]string{"Range", "bytes=0-99999999999999999999"}, tag, 206, 0, 10},
		{[]string{"Range", "bytes=-99999999999999999999"}, tag, 206, 0, 10},
		{[]string{"Range", "bytes=99999999999999999999-1"}, tag, 200, 0, 10},
		{[]string{"Range", "bytes=+1-2"}, tag, 200, 0, 10}, // a position has no sign
		{[]string{"Range", "bytes=-+2"}, tag, 200, 0, 10},
		{[]string{"If-None-Match", tag}, tag, 304, 0, 0},
		{[]string{"If-None-Match", "W/" + tag}, tag, 304, 0, 0},
		{[]string{"If-None-Match", `"x", ` + tag}, tag, 304, 0, 0},
		{[]string{"If-None-Match", `"x"`, "If-None-Match", tag}, tag, 304, 0, 0},
		{[]string{"If-None-Match", "*"}, tag, 304, 0, 0},
		{[]string{"If-None-Match", `"x"`}, tag, 200, 0, 10},
		{[]string{"If-None-Match", `abc-2`}, tag, 200, 0, 10},                  // not a tag
		{[]string{"If-None-Match", `"abc-2`}, tag, 200, 0, 10},                 // cut
		{[]string{"If-None-Match", `""`}, "", 200, 0, 10},                      // none of ours
		{[]string{"If-None-Match", tag, "Range", "bytes=10-"}, tag, 304, 0, 0}, // before the range
		{[]string{"If-Match", tag}, tag, 200, 0, 10},
		{[]string{"If-Match", "*"}, "", 200, 0, 10},
		{[]string{"If-Match", "W/" + tag}, tag, 412, 0, 0},
		{[]string{"If-Match", `"x"`}, tag, 412, 0, 0},
		{[]string{"If-Match", `"x"`, "If-None-Match", tag}, tag, 412, 0, 0},
		{[]string{"If-Range", tag, "Range", "bytes=2-3"}, tag, 206, 2, 2},
		{[]string{"If-Range", `"x"`, "Range", "bytes=2-3"}, tag, 200, 0, 10},
		{[]string{"If-Range", "W/" + tag, "Range", "bytes=2-3"}, tag, 200, 0, 10},
		{[]string{"If-Range", "Fri, 15 Mar 2024 08:15:02 GMT", "Range", "bytes=2-3"}, tag, 200, 0, 10},
		{[]string{"If-Range", `"x"`, "Range", "bytes=99-"}, tag, 200, 0, 10},
	} {
		h := http.Header{}
		for i := 0; i < len(c.header); i += 2 {
			h.Add(c.header[i], c.header[i+1])
		}
		got := httpx.Select(h, c.etag, 10)
		if want := (httpx.Selection{Status: c.status, Off: c.off, N: c.n}); got != want {
			t.Errorf("%q: %+v, want %+v", c.header, got, want)
		}
	}
	if got := (httpx.Selection{Status: 206, Off: 2, N: 3}).ContentRange(10); got != "bytes 2-4/10" {
		t.Error(got)
	}
	if got := (httpx.Selection{Status: 416}).ContentRange(10); got != "bytes */10" {
		t.Error(got)
	}
}

// FuzzSelect: whatever the headers say, the bytes are within the object.
func FuzzSelect(f *testing.F) {
	f.Add("bytes=0-3", `"a"`, `"b", W/"a"`, `"a"`, int64(10))
	f.Add("bytes=-9223372036854775808", "*", "", "", int64(1))
	f.Fuzz(func(t *testing.T, rng, match, none, ifRange string, size int64) {
		if size < 0 {
			return
		}
		h := http.Header{}
		for name, v := range map[string]string{"Range": rng, "If-Match": match, "If-None-Match": none, "If-Range": ifRange} {
			if v != "" {
				h.Set(name, v)
			}
		}
		got := httpx.Select(h, `"a"`, size)
		bad := got.Off < 0 || got.N < 0 || got.Off+got.N > size
		switch got.Status {
		case 200:
			bad = bad || got.Off != 0 || got.N != size
		case 206:
			bad = bad || got.N == 0
		default:
			bad = bad || got.N != 0
		}
		if bad {
			t.Errorf("Select(%q, %d) = %+v", h, size, got)
		}
	})
}
