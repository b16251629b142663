// SPDX-License-Identifier: Apache-2.0

package httpx

import (
	"net/http"
	"strconv"
	"strings"
)

// ParseRange reads a Range header against an object of size bytes and returns
// the offset and length to send. An absent, malformed or multi-part range means
// the whole object (RFC 9110 §14.2 lets a server ignore it); ok is false when
// the range starts past the end (416).
func ParseRange(h string, size int64) (off, n int64, ok bool) {
	off, n, _, ok = parseRange(h, size)
	return off, n, ok
}

// parseRange also tells whether the header is a range that is honoured.
func parseRange(h string, size int64) (off, n int64, part, ok bool) {
	spec, found := strings.CutPrefix(h, "bytes=")
	first, last, dash := strings.Cut(strings.TrimSpace(spec), "-")
	if !found || !dash || strings.Contains(spec, ",") {
		return 0, size, false, true
	}
	if first == "" { // the last n bytes
		k, valid := position(last)
		switch {
		case !valid:
			return 0, size, false, true
		case k == 0 || size == 0:
			return 0, 0, true, false
		}
		k = min(k, size)
		return size - k, k, true, true
	}
	from, valid := position(first)
	if !valid {
		return 0, size, false, true
	}
	to := size - 1
	if last != "" {
		// A last position that is no number, or before the first, makes the header
		// invalid, also when the first is past the end.
		t, valid := position(last)
		if !valid || t < from {
			return 0, size, false, true
		}
		to = min(t, to)
	}
	if from >= size {
		return 0, 0, true, false
	}
	return from, to - from + 1, true, true
}

// position reads a position or a length, which has digits alone (RFC 9110 §14.1.1). One
// that no int64 holds is past the end of any object, as MaxInt64 is.
func position(s string) (n int64, valid bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, _ = strconv.ParseInt(s, 10, 64) // of digits alone it only fails to hold them, and is MaxInt64 then
	return n, true
}

// Selection is which answer a GET or HEAD gets.
type Selection struct {
	// Status is 200, 206, 304, 412 or 416.
	Status int
	// Off and N are the bytes of a 200 or 206.
	Off, N int64
}

// ContentRange is the value of that header for a 206 or 416 of an object of size
// bytes, "" for any other status.
func (s Selection) ContentRange(size int64) string {
	total := strconv.FormatInt(size, 10)
	switch s.Status {
	case http.StatusPartialContent:
		return "bytes " + strconv.FormatInt(s.Off, 10) + "-" + strconv.FormatInt(s.Off+s.N-1, 10) + "/" + total
	case http.StatusRequestedRangeNotSatisfiable:
		return "bytes */" + total
	}
	return ""
}

// Select evaluates the preconditions and the range of a GET or HEAD, in the order
// of RFC 9110 §13.2.2, for an object of size bytes whose entity tag is etag
// (quoted; "" where it has none: then tags never match and "*" always does). There
// are no dates here: an If-Range that is one counts as changed.
func Select(h http.Header, etag string, size int64) Selection {
	if v := h.Values("If-Match"); len(v) > 0 && !matchTag(strings.Join(v, ","), etag, true) {
		return Selection{Status: http.StatusPreconditionFailed}
	}
	if v := h.Values("If-None-Match"); len(v) > 0 && matchTag(strings.Join(v, ","), etag, false) {
		return Selection{Status: http.StatusNotModified}
	}
	whole := Selection{Status: http.StatusOK, N: size}
	if v := strings.TrimSpace(h.Get("If-Range")); v != "" && (v != etag || etag == "") {
		return whole
	}
	off, n, part, ok := parseRange(h.Get("Range"), size)
	switch {
	case !ok:
		return Selection{Status: http.StatusRequestedRangeNotSatisfiable}
	case !part:
		return whole
	}
	return Selection{Status: http.StatusPartialContent, Off: off, N: n}
}

// Unconditional tells whether a request asks for the whole, whatever it is: Select
// would answer 200.
func Unconditional(h http.Header) bool {
	return h.Get("Range") == "" && len(h.Values("If-Match")) == 0 && len(h.Values("If-None-Match")) == 0
}

// matchTag tells whether a list of entity tags (or "*") names etag. The strong
// comparison refuses weak tags; ours are never weak.
func matchTag(list, etag string, strong bool) bool {
	if strings.TrimSpace(list) == "*" {
		return true
	}
	for list != "" {
		list = strings.TrimLeft(list, " \t,")
		weak := strings.HasPrefix(list, "W/")
		tag := strings.TrimPrefix(list, "W/")
		if !strings.HasPrefix(tag, `"`) {
			return false // not a list of tags: nothing after it can be trusted
		}
		end := strings.IndexByte(tag[1:], '"')
		if end < 0 {
			return false
		}
		if tag[:end+2] == etag && (!weak || !strong) {
			return true
		}
		list = tag[end+2:]
	}
	return false
}
