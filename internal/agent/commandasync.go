// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"io"
	"maps"
	"net/http"
	"os"
	"strings"
)

// asyncMaxAnswer is the longest answer of a command that is taken as a result: what
// the API stores.
const asyncMaxAnswer = 1 << 30

// textCommandFailed is told of a request that the command was given and did not answer.
const textCommandFailed = "the command failed while it handled the request"

// readAsync reads an asynchronous request to the command: as it is, with its body in
// a file.
func (c *command) readAsync(w http.ResponseWriter, r *http.Request, requestID string) (asyncTurn, *body, error) {
	limit := c.s.a.cfg.maxRequest
	files := &body{dir: c.s.bodies, left: limit}
	if r.ContentLength > limit {
		return nil, files, &httpError{http.StatusRequestEntityTooLarge, "the request body is too large"}
	}
	in := &deadlineReader{r: r.Body, rc: http.NewResponseController(w)}
	defer in.clear()
	path, err := files.add(in)
	if err != nil {
		return nil, files, err
	}
	target := *r.URL
	target.Scheme, target.Host = "http", c.addr
	// The context is that of bringing results, which outlives this request.
	req, err := http.NewRequest(r.Method, target.String(), nil) //nolint:noctx // gets it when its turn comes
	if err != nil {
		return nil, files, &httpError{http.StatusBadRequest, "the request can't be repeated as it is"}
	}
	req.Host = r.Host
	for name, values := range r.Header {
		lower := strings.ToLower(name)
		if !isHopHeader(lower) && !strings.HasPrefix(lower, prefixAsync) && !strings.HasPrefix(name, "X-Panal-") {
			req.Header[name] = values
		}
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header["User-Agent"] = nil // not Go's own
	}
	return func() (asyncAnswer, string) { return c.answerAsync(req, path, requestID) }, files, nil
}

// answerAsync gives the command a request when it has room, and keeps its answer in
// a file without a name. A request is sent once: what the command did with one that
// it did not answer, nobody knows.
func (c *command) answerAsync(req *http.Request, path, requestID string) (asyncAnswer, string) {
	select {
	case c.taking <- struct{}{}:
	case <-c.s.async.stop:
		return asyncAnswer{}, c.s.async.blame(textUnavailable)
	}
	defer c.begin(&c.later)()
	ctx, cancel := context.WithTimeout(c.s.async.ctx, asyncLimit)
	defer cancel()
	a, err := c.roundTrip(req.WithContext(ctx), path)
	if err != nil {
		c.s.a.sink.sayFor(requestID, "error", "request: %v", err)
		return a, c.s.async.blame(textCommandFailed)
	}
	return a, ""
}

func (c *command) roundTrip(req *http.Request, path string) (a asyncAnswer, err error) {
	in, err := os.Open(path)
	if err != nil {
		return a, err
	}
	defer func() { _ = in.Close() }()
	info, err := in.Stat()
	if err != nil {
		return a, err
	}
	if req.ContentLength = info.Size(); req.ContentLength > 0 {
		req.Body = io.NopCloser(in)
	}
	resp, err := c.client.RoundTrip(req)
	if err != nil {
		return a, err
	}
	defer func() { _ = resp.Body.Close() }()
	c.sign()
	a = asyncAnswer{status: resp.StatusCode, headers: map[string]string{}}
	for name, values := range resp.Header {
		lower := strings.ToLower(name)
		if !isHopHeader(lower) && lower != "content-length" && !strings.HasPrefix(name, "X-Panal-") {
			a.headers[lower] = strings.Join(values, ", ")
		}
	}
	maps.Copy(a.headers, c.s.commonAsync())
	if a.body, err = os.CreateTemp(c.s.bodies, "out-"); err != nil {
		return a, diskError(err)
	}
	if err := os.Remove(a.body.Name()); err != nil { // gone with the file handle, whatever happens
		return a, err
	}
	n, err := io.Copy(a.body, io.LimitReader(resp.Body, asyncMaxAnswer+1))
	if err == nil && n > asyncMaxAnswer {
		err = &httpError{http.StatusBadGateway, "the answer is longer than a result may be (1 GiB)"}
	}
	return a, err
}
