// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Asynchronous requests (compute.md §8.3): taken with 202, answered by user code
// when their turn comes, without a time limit, and brought to the API.
const (
	// asyncQueue is how many may wait. Their bodies are files: memory stays small.
	asyncQueue = 10_000
	// asyncLimit is how long user code may take: as long as a result is waited for.
	asyncLimit = 24 * time.Hour
	// asyncTries is how often a result is brought while the server is away: with the
	// pauses of retry that is about ten minutes, a restart and more.
	asyncTries = 45
	// asyncEnd is how long an ending service goes on bringing failures.
	asyncEnd         = 5 * time.Second
	headerAsyncID    = "X-Abeja-Arms-Async-Request-Id"
	headerAsyncToken = "X-Abeja-Arms-Async-Request-Token" //nolint:gosec // the name of a header
	prefixAsync      = "x-abeja-arms-"
)

// asyncJob is a request whose answer nobody waits for here.
type asyncJob struct {
	id, token, requestID string
	req                  runtimeRequest
	files                *body
}

// asyncs are the asynchronous requests of a service.
type asyncs struct {
	s     *service
	ctx   context.Context // of bringing results; ends a while after stop
	end   context.CancelFunc
	queue chan *asyncJob
	stop  chan struct{} // closed: no job is begun any more
	loops sync.WaitGroup
}

func (s *service) startAsync() {
	ctx, cancel := context.WithCancel(s.a.sink.ctx)
	s.async = &asyncs{s: s, ctx: ctx, end: cancel, queue: make(chan *asyncJob, asyncQueue), stop: make(chan struct{})}
	for range s.a.cfg.workers {
		s.async.loops.Go(s.async.loop)
	}
}

// accept reads a request and queues it.
func (q *asyncs) accept(w http.ResponseWriter, r *http.Request, requestID string) error {
	j := &asyncJob{id: r.Header.Get(headerAsyncID), token: r.Header.Get(headerAsyncToken), requestID: requestID}
	if len(j.id) > 128 || strings.Map(printable, j.id) != j.id || j.token == "" {
		return &httpError{http.StatusBadRequest, "the asynchronous request has no usable id or token"}
	}
	if len(q.queue) == cap(q.queue) {
		return &httpError{http.StatusServiceUnavailable, textUnavailable}
	}
	var err error
	j.req, j.files, err = readRequest(w, r, q.s.bodies, q.s.a.cfg.maxRequest, false)
	if err != nil {
		j.files.remove()
		return err
	}
	select {
	case <-q.stop:
		j.files.remove()
		return errUnhandled
	default:
	}
	select {
	case q.queue <- j:
		w.WriteHeader(http.StatusAccepted)
		return nil
	default:
		j.files.remove()
		return &httpError{http.StatusServiceUnavailable, textUnavailable}
	}
}

func (q *asyncs) loop() {
	for {
		select {
		case <-q.stop:
			return
		default:
		}
		select {
		case <-q.stop:
			return
		case j := <-q.queue:
			q.work(j)
		}
	}
}

// work has a job answered and brings the result.
func (q *asyncs) work(j *asyncJob) {
	s := q.s
	defer j.files.remove()
	var wk *worker
	select {
	case wk = <-s.pool.idle:
	case <-q.stop:
		q.fail(j, textUnavailable)
		return
	}
	wk.child.tag(j.requestID)
	resp, err := wk.call(j.req, asyncLimit)
	if err != nil {
		wk.child.tag("")
		_ = s.lost(wk, j.requestID, err)
		q.fail(j, textLost)
		return
	}
	out, err := s.open(resp)
	if resp.Stream && err == nil {
		out, err = s.collect(wk, j.requestID)
	} else {
		s.release(wk, resp)
	}
	if resp.ErrorMessage != "" || err != nil { // the runtime has logged the traceback
		q.fail(j, textRaised)
		return
	}
	if out != nil {
		defer func() { _ = out.Close() }()
	}
	q.bring(j, resp, out)
}

// bring stores an answer of user code as the result.
func (q *asyncs) bring(j *asyncJob, resp runtimeResponse, out *os.File) {
	kind := "application/json"
	if resp.ContentType != nil {
		kind = strings.Map(printable, *resp.ContentType)
	}
	headers := map[string]string{}
	for name := range q.s.common {
		headers[strings.ToLower(name)] = q.s.common.Get(name)
	}
	for k, v := range resp.Metadata {
		headers[strings.ToLower(k)] = v
	}
	if kind != "" {
		headers["content-type"] = kind
	}
	text, err := json.Marshal(headers)
	if err != nil {
		q.fail(j, textRaised)
		return
	}
	var head bytes.Buffer
	mw := multipart.NewWriter(&head)
	part := func(name, kind, content string) {
		// Without quotes, as the original agent writes it.
		w, err := mw.CreatePart(textproto.MIMEHeader{"Content-Disposition": {"form-data; name=" + name}, "Content-Type": {kind}})
		if err == nil {
			_, err = io.WriteString(w, content)
		}
		if err != nil {
			panic("BUG: agent: writing to memory fails: " + err.Error())
		}
	}
	part("status", "text/plain", strconv.Itoa(resp.status()))
	part("headers", "application/json", string(text))
	part("body", orDefault(kind, "application/octet-stream"), "")
	tail := "\r\n--" + mw.Boundary() + "--\r\n"
	size := int64(len(resp.small))
	if out != nil {
		info, err := out.Stat()
		if err != nil {
			q.fail(j, textRaised)
			return
		}
		size = info.Size()
	}
	q.put(j, mw.FormDataContentType(), int64(head.Len())+size+int64(len(tail)), func() (io.Reader, error) {
		parts := []io.Reader{bytes.NewReader(head.Bytes()), bytes.NewReader(resp.small)}
		if out != nil {
			parts = append(parts, io.NewSectionReader(out, 0, size))
		}
		return io.MultiReader(append(parts, strings.NewReader(tail))...), nil
	})
}

// fail stores a failure as the result.
func (q *asyncs) fail(j *asyncJob, text string) {
	data, err := json.Marshal(map[string]any{
		"status": http.StatusBadGateway, "headers": map[string]string{"content-type": "application/json"},
		"body": map[string]string{"error": "internal_server_error", "error_description": text},
	})
	if err != nil {
		panic("BUG: agent: a failure does not encode: " + err.Error())
	}
	q.put(j, "application/json", int64(len(data)), func() (io.Reader, error) { return bytes.NewReader(data), nil })
}

// put brings a result, again while the server is away.
func (q *asyncs) put(j *asyncJob, kind string, size int64, open func() (io.Reader, error)) {
	c := q.s.a.api
	path := fmt.Sprintf("organizations/%s/deployments/%s/results/%s", url.PathEscape(q.s.a.cfg.org), url.PathEscape(q.s.a.cfg.deployment), url.PathEscape(j.id))
	err := retry(q.ctx, asyncTries, func(ctx context.Context) error {
		r, err := open()
		if err != nil {
			return err
		}
		return c.putResult(ctx, path, j.token, kind, size, r)
	})
	if err != nil {
		q.s.a.sink.sayFor(j.requestID, "error", "the result of an asynchronous request could not be brought: %v", err)
	}
}

// putResult does one try.
func (c *apiClient) putResult(ctx context.Context, path, token, kind string, size int64, r io.Reader) error {
	const what = "bring result"
	ctx, touch, done := watchdog(ctx)
	defer done()
	target, err := c.url(path)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, target, progressReader{r, touch})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	req.ContentLength = size
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", kind)
	resp, err := c.http.Do(req)
	if err != nil {
		return networkError(what, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return statusError(what, resp)
	}
	return nil
}

// halt begins no job any more.
func (q *asyncs) halt() { close(q.stop) }

// finish tells of all that is left that it failed. The workers are gone by now, so
// those under way have failed, too.
func (q *asyncs) finish() {
	timer := time.AfterFunc(asyncEnd, q.end)
	defer timer.Stop()
	defer q.end()
	var failing sync.WaitGroup
	room := make(chan struct{}, 32)
	for {
		select {
		case j := <-q.queue:
			room <- struct{}{}
			failing.Go(func() {
				defer func() { <-room }()
				q.fail(j, textUnavailable)
				j.files.remove()
			})
			continue
		default:
		}
		break
	}
	failing.Wait()
	q.loops.Wait()
}

var errAsyncCommand = &httpError{http.StatusNotImplemented, "asynchronous requests need a handler; this service runs a command"}

// asksAsync tells whether a request is to be answered later.
func asksAsync(r *http.Request) bool { return r.Header.Get(headerAsyncID) != "" }
