// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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
	"sync/atomic"
	"time"

	"panal/internal/plat"
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
	textEnded        = "the service was ended before it had answered the request"
	headerAsyncID    = "X-Abeja-Arms-Async-Request-Id"
	headerAsyncToken = "X-Abeja-Arms-Async-Request-Token" //nolint:gosec // the name of a header
	prefixAsync      = "x-abeja-arms-"
)

// asyncJob is a request whose answer nobody waits for here.
type asyncJob struct {
	id, token, requestID string
	files                *body
	answer               asyncTurn
}

// asyncTurn has a request answered when its turn comes. failure, when it is not empty,
// tells the caller why there is no answer.
type asyncTurn func() (a asyncAnswer, failure string)

// asyncAnswer is what user code answered. body may be nil; it is closed by whoever
// got the answer.
type asyncAnswer struct {
	status  int
	headers map[string]string // in lower case
	small   []byte            // the body, unless it is in a file
	body    *os.File
}

// asyncs are the asynchronous requests of a service.
type asyncs struct {
	s     *service
	read  func(w http.ResponseWriter, r *http.Request, requestID string) (asyncTurn, *body, error)
	ctx   context.Context // of bringing results; ends a while after stop
	end   context.CancelFunc
	queue chan *asyncJob
	stop  chan struct{} // closed: no job is begun any more
	asked atomic.Bool   // the service ends because it was asked to, not by its runtime's end
	loops sync.WaitGroup
}

// startAsync takes asynchronous requests, of which so many are answered at a time.
func (s *service) startAsync(atATime int, read func(w http.ResponseWriter, r *http.Request, requestID string) (asyncTurn, *body, error)) {
	ctx, cancel := context.WithCancel(s.a.sink.ctx)
	s.async = &asyncs{s: s, read: read, ctx: ctx, end: cancel, queue: make(chan *asyncJob, asyncQueue), stop: make(chan struct{})}
	for range atATime {
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
	j.answer, j.files, err = q.read(w, r, requestID)
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
	defer j.files.remove()
	a, failure := j.answer()
	if a.body != nil {
		defer func() { _ = a.body.Close() }()
	}
	if failure != "" {
		q.fail(j, failure)
		return
	}
	q.bring(j, a)
}

// readAsync reads an asynchronous request to a handler.
func (s *service) readAsync(w http.ResponseWriter, r *http.Request, requestID string) (asyncTurn, *body, error) {
	req, files, err := readRequest(w, r, s.bodies, s.a.cfg.maxRequest, false)
	return func() (asyncAnswer, string) { return s.answerAsync(req, requestID) }, files, err
}

// answerAsync has a worker answer.
func (s *service) answerAsync(req runtimeRequest, requestID string) (asyncAnswer, string) {
	var wk *worker
	select {
	case wk = <-s.pool.idle:
	case <-s.async.stop:
		return asyncAnswer{}, s.async.blame(textUnavailable)
	}
	wk.child.tag(requestID)
	resp, err := wk.call(req, asyncLimit)
	if err != nil {
		wk.child.tag("")
		_ = s.lost(wk, requestID, err)
		return asyncAnswer{}, s.async.blame(textLost)
	}
	out, err := s.open(resp)
	if resp.Stream && err == nil {
		out, err = s.collect(wk, requestID)
	} else {
		s.release(wk, resp)
	}
	a := asyncAnswer{status: resp.status(), headers: s.commonAsync(), small: resp.small, body: out}
	if resp.ErrorMessage != "" || err != nil { // the runtime has logged the traceback
		return a, textRaised
	}
	for k, v := range resp.Metadata {
		k = strings.ToLower(k)
		if _, ours := a.headers[k]; !ours {
			a.headers[k] = v
		}
	}
	a.headers["content-type"] = resp.kind()
	return a, ""
}

// commonAsync returns the headers of every answer.
func (s *service) commonAsync() map[string]string {
	headers := map[string]string{}
	for name := range s.common {
		headers[strings.ToLower(name)] = s.common.Get(name)
	}
	return headers
}

// bring stores an answer of user code as the result. One that the API refuses (it is
// too long, say) becomes a failure.
func (q *asyncs) bring(j *asyncJob, a asyncAnswer) {
	text, err := json.Marshal(a.headers)
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
	part("status", "text/plain", strconv.Itoa(a.status))
	part("headers", "application/json", string(text))
	part("body", orDefault(a.headers["content-type"], "application/octet-stream"), "")
	tail := "\r\n--" + mw.Boundary() + "--\r\n"
	size := int64(len(a.small))
	if a.body != nil {
		info, err := a.body.Stat()
		if err != nil {
			q.fail(j, textRaised)
			return
		}
		size = info.Size()
	}
	err = q.put(j, mw.FormDataContentType(), int64(head.Len())+size+int64(len(tail)), func() (io.Reader, error) {
		parts := []io.Reader{bytes.NewReader(head.Bytes()), bytes.NewReader(a.small)}
		if a.body != nil {
			parts = append(parts, io.NewSectionReader(a.body, 0, size))
		}
		return io.MultiReader(append(parts, strings.NewReader(tail))...), nil
	})
	if errors.Is(err, plat.ErrInvalid) {
		q.fail(j, "the result was refused: "+err.Error())
	}
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
	_ = q.put(j, "application/json", int64(len(data)), func() (io.Reader, error) { return bytes.NewReader(data), nil }) // it has said so
}

// put brings a result, again while the server is away. It logs its error.
func (q *asyncs) put(j *asyncJob, kind string, size int64, open func() (io.Reader, error)) error {
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
	return err
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

// halt begins no job any more. asked tells that the service was asked to end.
func (q *asyncs) halt(asked bool) {
	q.asked.Store(asked)
	close(q.stop)
}

// blame is why a request has no answer: text, unless the service was asked to end.
func (q *asyncs) blame(text string) string {
	if q.asked.Load() {
		return textEnded
	}
	return text
}

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
				q.fail(j, q.blame(textUnavailable))
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

// asksAsync tells whether a request is to be answered later.
func asksAsync(r *http.Request) bool { return r.Header.Get(headerAsyncID) != "" }
