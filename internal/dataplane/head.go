// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"

	"panal/internal/x/httpx"
)

// maxOrdinaryFields is more than instances send.
const maxOrdinaryFields = 32

// readOrdinary reads the head of an answer to a request of that method when it is in the
// buffer as a whole and of the plainest kind: a final answer of known length, in lines on
// which no two readers can disagree, that says nothing of the connection. What of it the
// caller may see is then in h. For any other head it returns nil, and has read nothing:
// that is http.ReadResponse's to understand.
func readOrdinary(br *bufio.Reader, method string, h http.Header) *http.Response {
	if _, err := br.Peek(1); err != nil || method == http.MethodHead {
		return nil
	}
	b, _ := br.Peek(br.Buffered()) // no error: it is there
	size := bytes.Index(b, []byte("\r\n\r\n")) + 4
	if size < 4 {
		return nil
	}
	line, rest, _ := strings.Cut(string(b[:size-2]), "\r\n") // rest: each line with its end
	const version = "HTTP/1.1 "
	if len(line) < len(version)+4 || line[:len(version)] != version || line[len(version)+3] != ' ' || !httpx.IsText(line) {
		return nil
	}
	status, err := strconv.Atoi(line[len(version) : len(version)+3])
	if err != nil || status < 200 || status == http.StatusNoContent || status == http.StatusNotModified {
		return nil
	}
	var fields [maxOrdinaryFields]struct{ name, value string }
	n, length, typed := 0, int64(-1), false
	for rest != "" {
		line, rest, _ = strings.Cut(rest, "\r\n")
		name, value, _ := strings.Cut(line, ":")
		name, ok := httpx.FieldName(name)
		value = strings.Trim(value, " \t")
		if !ok || len(name) == len(line) || n == len(fields) || !httpx.IsText(value) {
			return nil
		}
		switch name {
		case "Content-Type":
			typed = true
		case "Content-Length":
			if value == "" || len(value) > 18 || strings.Trim(value, "0123456789") != "" {
				return nil
			}
			if length, err = strconv.ParseInt(value, 10, 64); err != nil {
				return nil
			}
		case "Transfer-Encoding", "Connection", "Trailer", "Upgrade", "Pragma", headerUnhandled, headerFailed:
			return nil
		}
		for _, f := range fields[:n] {
			if f.name == name {
				return nil
			}
		}
		fields[n].name, fields[n].value = name, value
		n++
	}
	if length < 0 {
		return nil
	}
	_, _ = br.Discard(size) // no error: it is there
	if !typed {
		h["Content-Type"] = nil
	}
	values := make([]string, 0, n)
	for _, f := range fields[:n] {
		if f.name != "Content-Length" && hopByHop(f.name) || platformOnly(f.name) {
			continue
		}
		values = append(values, f.value)
		h[f.name] = values[len(values)-1 : len(values) : len(values)]
	}
	resp := &http.Response{StatusCode: status, Header: h, Body: http.NoBody, ContentLength: length}
	if length > 0 {
		resp.Body = &knownBody{br: br, left: length}
	}
	return resp
}

// knownBody is a body of known length. Its last bytes come with io.EOF.
type knownBody struct {
	br   *bufio.Reader
	left int64
}

// Read implements io.Reader.
func (b *knownBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.br.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0:
		return n, io.EOF
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Close implements io.Closer.
func (b *knownBody) Close() error { return nil }
