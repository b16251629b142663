// SPDX-License-Identifier: Apache-2.0

package front

import (
	"bytes"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"panal/internal/x/httpx"
)

// maxBody is the longest body that the loop takes; longer ones are streamed, and
// streaming is net/http's.
const maxBody = 32 << 10

// head is the head of an ordinary request.
type head struct {
	method, target, host string
	url                  url.URL
	header               http.Header
	length               int // of the body
}

// verdict is what parse makes of bytes.
type verdict int

const (
	incomplete verdict = iota // so far nothing speaks against it
	ordinary
	other // net/http's
	over  // the loop's own: the connection has ended
)

// classes of bytes.
const (
	visible = 1 << iota // of targets
	plain               // of paths that need no look at their escapes
	hostish             // of Host
)

var classOf = func() (t [256]uint8) { //nolint:gochecknoglobals // a constant: Go has no constant arrays
	for c := range 256 {
		alnum := 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'
		if c > ' ' && c < 0x7f && c != '#' {
			t[c] |= visible
		}
		if alnum || strings.IndexByte("-._~/", byte(c)) >= 0 {
			t[c] |= plain
		}
		if alnum || strings.IndexByte("-.:[]", byte(c)) >= 0 {
			t[c] |= hostish
		}
	}
	return t
}()

func all(s string, class uint8) bool {
	for i := range len(s) {
		if classOf[s[i]]&class == 0 {
			return false
		}
	}
	return true
}

var endOfHead = []byte("\r\n\r\n") //nolint:gochecknoglobals // a constant

// parse reads the head at the beginning of b, of size bytes when it is ordinary. takes
// says which requests the loop serves.
func parse(b []byte, takes func(method, target string) bool, h *head) (v verdict, size int) {
	size = bytes.Index(b, endOfHead) + len(endOfHead)
	if size < len(endOfHead) {
		return begins(b), 0
	}
	line, rest, _ := strings.Cut(string(b[:size-2]), "\r\n") // rest: each line with its end
	var ok bool
	if h.method, line, ok = strings.Cut(line, " "); !ok || !ordinaryMethod(h.method) {
		return other, 0
	}
	var proto string
	if h.target, proto, ok = strings.Cut(line, " "); !ok || proto != "HTTP/1.1" || !all(h.target, visible) || !strings.HasPrefix(h.target, "/") || !takes(h.method, h.target) {
		return other, 0
	}
	if !h.parseTarget() {
		return other, 0
	}
	n := strings.Count(rest, "\n")
	if n > maxFields {
		return other, 0
	}
	h.header, h.length = make(http.Header, n), -1
	values := make([]string, 0, n)
	for rest != "" {
		line, rest, _ = strings.Cut(rest, "\r\n")
		name, value, _ := strings.Cut(line, ":")
		name, ok := httpx.FieldName(name)
		value = strings.Trim(value, " \t")
		if !ok || len(name) == len(line) || !httpx.IsText(value) {
			return other, 0
		}
		switch name {
		case "Host":
			if h.host != "" || value == "" || !all(value, hostish) {
				return other, 0
			}
			h.host = value
			continue
		case "Content-Length":
			if h.length >= 0 || !h.parseLength(value) {
				return other, 0
			}
		case "Connection":
			if !strings.EqualFold(value, "keep-alive") {
				return other, 0
			}
		case "Transfer-Encoding", "Trailer", "Te", "Expect", "Upgrade", "Http2-Settings", "Pragma":
			return other, 0
		}
		if had := h.header[name]; had != nil {
			h.header[name] = append(had, value)
			continue
		}
		values = append(values, value)
		h.header[name] = values[len(values)-1 : len(values) : len(values)]
	}
	if h.host == "" {
		return other, 0
	}
	h.length = max(h.length, 0)
	return ordinary, size
}

// begins tells whether b may be the beginning of an ordinary head: a line may also end
// in a lone LF, for which the loop would wait in vain.
func begins(b []byte) verdict {
	if len(b) > 0 && (b[0] < 'A' || b[0] > 'Z') {
		return other
	}
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			break
		}
		if i == 0 || b[i-1] != '\r' {
			return other
		}
		b = b[i+1:]
	}
	return incomplete
}

// maxFields is far above what callers send and far below what the server allows.
const maxFields = 64

func ordinaryMethod(m string) bool {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return true
	}
	return false
}

func (h *head) parseTarget() bool {
	path, query, asked := strings.Cut(h.target, "?")
	if all(path, plain) && asked == (query != "") {
		h.url = url.URL{Path: path, RawQuery: query}
		return true
	}
	u, err := url.ParseRequestURI(h.target)
	if err != nil {
		return false
	}
	h.url = *u
	return true
}

func (h *head) parseLength(s string) bool {
	if s == "" || len(s) > 5 || strings.Trim(s, "0123456789") != "" {
		return false
	}
	n, err := strconv.Atoi(s)
	h.length = n
	return err == nil && n <= maxBody
}
