// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"panal/internal/runner/agentctl"
)

// Bounds of a request.
const (
	ioIdle   = 30 * time.Second // between two pieces of a body, either way
	maxParts = 1000
)

// httpError is an answer of the agent's own.
type httpError struct {
	code int
	text string
}

func (e *httpError) Error() string { return e.text }

// body holds the files that carry a request to the runtime.
type body struct {
	dir    string
	inline bool  // a small one may go with the frame: nobody keeps many of them
	left   int64 // bytes that may still come
	paths  []string
}

// only makes r the one content of req.
func (b *body) only(req *runtimeRequest, r io.Reader) error {
	content := runtimeContent{ContentType: req.ContentType}
	if b.inline {
		src := &failReader{r: r}
		buf, err := io.ReadAll(io.LimitReader(src, maxInline+1))
		if err != nil {
			return &httpError{http.StatusBadRequest, "the request body could not be read"}
		}
		if len(buf) <= maxInline {
			n := len(buf)
			if int64(n) > b.left {
				return errTooLarge
			}
			content.Inline = &n
			req.small, req.Contents = buf, []runtimeContent{content}
			return nil
		}
		r = io.MultiReader(bytes.NewReader(buf), r)
	}
	var err error
	content.Path, err = b.add(r)
	req.Contents = []runtimeContent{content}
	return err
}

var errTooLarge = &httpError{http.StatusRequestEntityTooLarge, "the request body is too large"}

func (b *body) remove() {
	for _, p := range b.paths {
		_ = os.Remove(p)
	}
}

// add copies r to a new file.
func (b *body) add(r io.Reader) (string, error) {
	f, err := os.CreateTemp(b.dir, "in-")
	if err != nil {
		return "", diskError(err)
	}
	b.paths = append(b.paths, f.Name())
	defer func() { _ = f.Close() }()
	src := &failReader{r: r}
	n, err := io.Copy(f, io.LimitReader(src, b.left+1))
	b.left -= n
	switch {
	case src.err != nil:
		return "", &httpError{http.StatusBadRequest, "the request body could not be read"}
	case err != nil:
		return "", diskError(err)
	case b.left < 0:
		return "", errTooLarge
	}
	return f.Name(), nil
}

func diskError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &httpError{http.StatusInsufficientStorage, "no space left for the request body"}
	}
	return err
}

// readRequest turns an HTTP request into the frame's form (compute.md §8.1,
// §13.4). The files stay until remove.
func readRequest(w http.ResponseWriter, r *http.Request, dir string, limit int64, inline bool) (runtimeRequest, *body, error) {
	b := &body{dir: dir, left: limit, inline: inline}
	req := runtimeRequest{Method: r.Method, ContentType: r.Header.Get("Content-Type")}
	for key, values := range r.Header {
		key = strings.ToLower(key)
		if key != strings.ToLower(agentctl.HeaderInstanceKey) && !isHopHeader(key) && !strings.HasPrefix(key, prefixAsync) {
			req.Headers = append(req.Headers, runtimeHeader{Key: key, Values: values})
		}
	}
	slices.SortFunc(req.Headers, func(a, b runtimeHeader) int { return strings.Compare(a.Key, b.Key) })
	switch r.Method {
	case http.MethodGet:
		req.ContentType = "application/x-www-form-urlencoded"
		err := b.only(&req, strings.NewReader(r.URL.RawQuery))
		return req, b, err
	case http.MethodPost, http.MethodPut:
	default:
		return req, b, &httpError{http.StatusNotImplemented, "the method " + r.Method + " is not implemented"}
	}
	media, params, err := mime.ParseMediaType(req.ContentType)
	if err != nil {
		return req, b, &httpError{http.StatusNotImplemented, "the request has no Content-Type that can be parsed"}
	}
	if r.ContentLength > limit {
		return req, b, errTooLarge
	}
	in := &deadlineReader{r: r.Body, rc: http.NewResponseController(w)}
	defer in.clear()
	if media != "multipart/form-data" {
		err := b.only(&req, in)
		return req, b, err
	}
	if params["boundary"] == "" {
		return req, b, &httpError{http.StatusBadRequest, "the multipart body has no boundary"}
	}
	mr := multipart.NewReader(in, params["boundary"])
	for {
		part, err := mr.NextRawPart()
		if err == io.EOF { //nolint:errorlint // wrapped, it is a body that ended before its last boundary
			return req, b, nil
		}
		if err != nil {
			return req, b, &httpError{http.StatusBadRequest, "the multipart body can't be parsed"}
		}
		if len(req.Contents) == maxParts {
			return req, b, &httpError{http.StatusBadRequest, fmt.Sprintf("the multipart body has more than %d parts", maxParts)}
		}
		path, err := b.add(part)
		if err != nil {
			return req, b, err
		}
		req.Contents = append(req.Contents, runtimeContent{
			Path: path, ContentType: part.Header.Get("Content-Type"), FileName: part.FileName(), FormName: part.FormName(),
		})
	}
}

// deadlineReader bounds the time between two pieces, not the whole.
type deadlineReader struct {
	r  io.Reader
	rc *http.ResponseController
	n  int
}

func (d *deadlineReader) Read(p []byte) (int, error) {
	// Setting a deadline costs a timer: once per 64 KiB is often enough.
	if d.n <= 0 {
		_ = d.rc.SetReadDeadline(time.Now().Add(ioIdle))
		d.n = 64 << 10
	}
	n, err := d.r.Read(p)
	d.n -= n
	return n, err
}

func (d *deadlineReader) clear() { _ = d.rc.SetReadDeadline(time.Time{}) }

// isHopHeader tells whether a header belongs to one connection only (RFC 9110).
func isHopHeader(lower string) bool {
	switch lower {
	case "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade":
		return true
	}
	return false
}
