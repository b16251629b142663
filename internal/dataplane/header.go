// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
)

// Headers that the gateway sets, as they go over the wire.
const (
	headerRequestID    = "x-abeja-request-id"
	canonicalRequestID = "X-Abeja-Request-Id"
	headerRequesterID  = "x-abeja-requester-id"
	headerInstanceKey  = "X-Panal-Instance-Key"
	// headerUnhandled marks an agent's 503 for a call that no user code has seen:
	// its instance is ending, and the call is safe to send to another.
	headerUnhandled = "X-Panal-Unhandled"
	// headerFailed marks an answer that an agent gave in the place of user code that broke off
	// or took too long.
	headerFailed = "X-Panal-Failed"
)

// hopByHop tells whether a header speaks of one connection only, or of the
// framing of the message, which each side makes anew (RFC 9110 §7.6.1, RFC 9112
// §6). The name is in canonical form.
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Expect", "Http2-Settings":
		return true
	}
	return strings.HasPrefix(name, "Proxy-")
}

// private tells whether a request header must not reach user code: credentials,
// cookies, what only the platform may say, and where the call came from (only the
// edge knows which proxy to believe). An underscore counts as a dash: servers
// that map headers to variables can't tell them apart.
func private(name string) bool {
	if name == "" {
		return true
	}
	switch name[0] | 0x20 {
	case 'a':
		return fold(name, "authorization")
	case 'c':
		return fold(name, "cookie") || fold(name, "cookie2")
	case 'f':
		return fold(name, "forwarded")
	case 'h':
		return fold(name, "host")
	case 'p':
		return foldPrefix(name, "proxy-")
	case 'x':
		return foldPrefix(name, "x-abeja-arms-") || foldPrefix(name, "x-panal-") || foldPrefix(name, "x-forwarded-") ||
			fold(name, headerRequestID) || fold(name, headerRequesterID) || fold(name, "x-real-ip")
	}
	return false
}

// platformOnly tells whether an answer's header must not reach the caller. User
// code shares its host name with the platform and with other organizations, so
// it may not set the state that a browser keeps for a whole host.
func platformOnly(name string) bool {
	switch name {
	case "Set-Cookie", "Set-Cookie2", "Clear-Site-Data", "Strict-Transport-Security", "Alt-Svc",
		"Public-Key-Pins", "Service-Worker-Allowed", canonicalRequestID:
		return true
	}
	return strings.HasPrefix(name, "X-Panal-")
}

// foldPrefix tells whether name begins with prefix, which is in lower case.
func foldPrefix(name, prefix string) bool {
	return len(name) >= len(prefix) && fold(name[:len(prefix)], prefix)
}

func fold(name, want string) bool {
	if len(name) != len(want) {
		return false
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		case c == '_':
			c = '-'
		}
		if c != want[i] {
			return false
		}
	}
	return true
}

// named returns the headers that Connection names, in canonical form; nil for
// the usual keep-alive and close.
func named(h http.Header) []string {
	var out []string
	for _, v := range h["Connection"] {
		for token := range strings.SplitSeq(v, ",") {
			token = textproto.TrimString(token)
			if token != "" && !strings.EqualFold(token, "close") && !strings.EqualFold(token, "keep-alive") {
				out = append(out, textproto.CanonicalMIMEHeaderKey(token))
			}
		}
	}
	return out
}

// appendHead appends the head of the request to the instance. length is the
// body's, -1 when it is sent in chunks.
func appendHead(b []byte, r *http.Request, c *Call, rt *Route, in *instance, length int64) []byte {
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = appendTarget(b, r, c, rt)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = appendValue(b, r.Host)
	drop := named(r.Header)
	for name, values := range r.Header {
		if hopByHop(name) || private(name) || slices.Contains(drop, name) {
			continue
		}
		for _, v := range values {
			b = appendField(b, name, v)
		}
	}
	b = appendField(b, headerRequestID, c.RequestID)
	b = appendField(b, headerRequesterID, string(c.User))
	if in.key != "" {
		b = appendField(b, headerInstanceKey, in.key)
	}
	if in.once {
		b = appendField(b, "Connection", "close")
	}
	if c.Async != nil {
		b = appendField(b, "x-abeja-arms-async-request-id", c.Async.ID)
		b = appendField(b, "x-abeja-arms-async-request-token", c.Async.Token)
	}
	if rt.command {
		if to := upgradeOf(r); to != "" && !in.once {
			b = appendField(b, "Connection", "Upgrade")
			b = appendField(b, "Upgrade", to)
		}
	}
	switch {
	case length < 0:
		b = append(b, "\r\nTransfer-Encoding: chunked"...)
		for name := range r.Trailer {
			if passesAsTrailer(name) {
				b = appendField(b, "Trailer", name)
			}
		}
	case length > 0 || r.Method != http.MethodGet && r.Method != http.MethodHead:
		b = append(b, "\r\nContent-Length: "...)
		b = strconv.AppendInt(b, length, 10)
	}
	return append(b, "\r\n\r\n"...)
}

// passesAsTrailer tells whether a caller's trailer reaches the instance: those that
// would not as a header don't, nor does what tells how to read the message (RFC
// 9110 §6.5.1).
func passesAsTrailer(name string) bool {
	switch name {
	case "Content-Type", "Content-Encoding", "Content-Range", "Cache-Control", "Max-Forwards", "Range":
		return false
	}
	return !hopByHop(name) && !private(name) && tokenText(name) && !strings.Contains(name, "/")
}

// appendField appends a line break, the name and the value. The name is a token
// (net/http refuses others), the value may hold anything.
func appendField(b []byte, name, value string) []byte {
	b = append(b, "\r\n"...)
	b = append(b, name...)
	b = append(b, ": "...)
	return appendValue(b, value)
}

// appendValue appends v with control characters as spaces, so that no value can
// end its line.
func appendValue(b []byte, v string) []byte {
	for i := range len(v) {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			b = append(b, ' ')
		} else {
			b = append(b, c)
		}
	}
	return b
}

// appendTarget appends path and query. What could end the request line is
// escaped: HTTP/2 lets through what HTTP/1 would not.
func appendTarget(b []byte, r *http.Request, c *Call, rt *Route) []byte {
	path := c.Path
	if !rt.command {
		path = ""
	}
	if !strings.HasPrefix(path, "/") {
		b = append(b, '/')
	}
	b = appendEscaped(b, path, true)
	if r.URL.RawQuery != "" {
		b = append(b, '?')
		b = appendEscaped(b, r.URL.RawQuery, false)
	}
	return b
}

func appendEscaped(b []byte, s string, path bool) []byte {
	const digits = "0123456789ABCDEF"
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f || c == '#' || path && c == '?' {
			b = append(b, '%', digits[c>>4], digits[c&15])
		} else {
			b = append(b, c)
		}
	}
	return b
}

// copyHeaders copies an answer's headers to the caller, without those of the
// connection and those that only the platform may set. Content-Length stays: it
// is what http.ReadResponse found true, and net/http holds us to it. Without a
// Content-Type none is guessed: user code's text would become HTML of our host.
func copyHeaders(dst http.Header, resp *http.Response) {
	dst["Content-Type"] = nil
	drop := named(resp.Header)
	for name, values := range resp.Header {
		if name != "Content-Length" && hopByHop(name) || platformOnly(name) || slices.Contains(drop, name) && name != "Content-Length" {
			continue
		}
		dst[name] = values
	}
}

// AnswerHeaders sets the headers of a stored answer of user code, as those of one
// that comes straight from an instance.
func AnswerHeaders(dst http.Header, stored map[string]string) {
	resp := &http.Response{Header: http.Header{}}
	for name, v := range stored {
		if tokenText(name) && !strings.Contains(name, "/") && !strings.EqualFold(name, "Content-Length") {
			resp.Header.Set(name, v) // what could end its line is net/http's to clean
		}
	}
	copyHeaders(dst, resp)
}

// copyTrailers sets the trailers that came after the body.
func copyTrailers(dst http.Header, resp *http.Response) {
	drop := named(resp.Header)
	for name, values := range resp.Trailer {
		if hopByHop(name) || platformOnly(name) || slices.Contains(drop, name) || len(values) == 0 {
			continue
		}
		dst[http.TrailerPrefix+name] = values
	}
}
