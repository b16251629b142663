// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"panal/internal/plat"
	"panal/internal/x/accesslog"
	"panal/internal/x/httpx"
)

// HeaderRequestID carries the id of a request, from the edge to user code.
const HeaderRequestID = "X-Abeja-Request-Id"

// requestInfo is what the middleware knows of a request.
type requestInfo struct {
	id string
	// base is the base of absolute URLs, without a slash at the end; where it is empty,
	// they are on the host that the request names.
	base, host string
	secure     bool
	// peer is from where it comes.
	peer httpx.Peer
	// org and user are who is asking, once that is known.
	org  plat.OrgID
	user plat.UserID
	// operation is what the request turned out to ask for.
	operation *operationMetrics
	// audit is the row that the request leaves, until its answer begins; nil: none.
	audit *audited
	// async is the id of the asynchronous call that it began.
	async string
	// switched tells that it became a tunnel, which carried so many bytes.
	switched       bool
	received, sent int64
}

// tunnelled notes that the request was one that switched protocols, at its end.
func (i *requestInfo) tunnelled(received, sent int64) {
	i.switched, i.received, i.sent = true, received, sent
}

// tracked is what the middleware keeps of a request, in one piece.
type tracked struct {
	requestInfo
	body     countedBody
	watched  watchedBody
	recorder recorder
}

type ctxKey struct{}

// infoOf returns nil outside of a request.
func infoOf(ctx context.Context) *requestInfo {
	info, _ := ctx.Value(ctxKey{}).(*requestInfo)
	return info
}

// requestID returns the request's id.
func requestID(ctx context.Context) string {
	if info := infoOf(ctx); info != nil {
		return info.id
	}
	return ""
}

// baseURL returns the base of absolute URLs for this request, without a slash at the end.
func baseURL(ctx context.Context) string {
	if info := infoOf(ctx); info != nil {
		switch {
		case info.base != "":
			return info.base
		case info.secure:
			return "https://" + info.host
		default:
			return "http://" + info.host
		}
	}
	return ""
}

func (a *API) middleware(next http.Handler) http.Handler {
	base := strings.TrimSuffix(a.PublicURL, "/")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		id, path := plat.NewUUID(), ""
		if a.AccessLog != nil {
			path = plat.HideTokens(r.URL.EscapedPath()) // as it was sent, without the query
		}
		t := &tracked{requestInfo: requestInfo{
			id: id, base: base, host: r.Host, secure: r.TLS != nil, peer: httpx.PeerOf(r, a.TrustedProxies), operation: a.metrics.none,
		}}
		info := &t.requestInfo
		ctx := context.WithValue(r.Context(), ctxKey{}, info)
		r = r.WithContext(ctx)
		body := &t.body
		body.ReadCloser = r.Body
		if r.Body != http.NoBody { // whose identity says that there is nothing to read
			r.Body = body
		}
		w.Header().Set(HeaderRequestID, id)
		rec := &t.recorder
		rec.ResponseWriter, rec.before = w, func(status int) { a.answering(ctx, info, status) }
		defer func() {
			defer func() {
				a.answering(ctx, info, rec.status) // a call that ends without an answer leaves its row all the same
				took, status, received, sent := time.Since(start), rec.status, body.n.Load(), rec.sent
				if info.switched {
					status, received, sent = http.StatusSwitchingProtocols, received+info.received, sent+info.sent
				}
				info.operation.done(status, took, received, sent)
				if a.AccessLog != nil {
					a.AccessLog.Add(&accesslog.Entry{
						Time: start, Took: took, Request: id, Operation: info.operation.id, Method: r.Method, Path: path, Proto: r.Proto,
						Status: status, Received: received, Sent: sent, Peer: info.peer.Addr, Org: info.org, User: info.user, Async: info.async,
					})
				}
			}()
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler { //nolint:errorlint // net/http's own sentinel, by identity
					panic(p)
				}
				a.log.LogAttrs(ctx, slog.LevelError, "request panicked", slog.String(plat.LogRequest, id),
					slog.String(plat.LogError, fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
				if rec.status == 0 {
					writeError(rec, newError(http.StatusInternalServerError, "something went wrong on the server; its log has the details under this request id", nil))
				}
			}
			if !a.log.Enabled(ctx, slog.LevelDebug) {
				return
			}
			a.log.LogAttrs(ctx, slog.LevelDebug, "request", slog.String(plat.LogRequest, id), slog.String(plat.LogMethod, r.Method),
				slog.String(plat.LogPath, plat.HideTokens(r.URL.Path)), slog.Int(plat.LogStatus, rec.status), slog.Duration(plat.LogDuration, time.Since(start)))
		}()
		if e := a.checkHeaders(r); e != nil {
			writeError(rec, e)
			return
		}
		normalize(r)
		if r.Body != nil && r.Body != http.NoBody {
			b := &t.watched
			b.ReadCloser, b.r = r.Body, r
			r.Body, rec.body = b, b
			next.ServeHTTP(rec, r)
			patience := drainTime
			if rec.status < http.StatusBadRequest {
				patience = 0 // whoever reads and answers side by side has answered before the end on purpose
			}
			b.drain(rec, patience)
			return
		}
		next.ServeHTTP(rec, r)
	})
}

// answering comes before the first byte of an answer.
func (a *API) answering(ctx context.Context, info *requestInfo, status int) {
	if w := info.audit; w != nil {
		info.audit = nil
		a.record(ctx, w, status)
	}
}

// watchedBody knows whether a body can be read on.
type watchedBody struct {
	io.ReadCloser
	r     *http.Request
	begun bool // somebody has asked for it
	done  bool // it has ended, well or not, or is not waited for any more
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	b.begun = true
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.done = true
	}
	return n, err
}

// Close implements io.Closer. Closing is left to the server, after drain.
func (b *watchedBody) Close() error { return nil }

const (
	maxDrain  = 64 << 20
	drainTime = 30 * time.Second
)

// drain reads the rest of a body that the handler left: a client that is still sending
// when the connection closes sees a broken pipe, never the answer, and tries again. The
// server would read on too, with no limit in time; so whatever is not read here leaves a
// deadline behind.
func (b *watchedBody) drain(w http.ResponseWriter, patience time.Duration) {
	if b.done {
		return
	}
	b.done = true
	if !b.begun && b.r.Header.Get("Expect") != "" || b.r.ContentLength > maxDrain || b.r.Context().Err() != nil {
		patience = 0 // nobody was told to send it, or it is too much to wait for
	}
	c := http.NewResponseController(w)
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil || patience == 0 {
		return // hijacked, or a test's recorder
	}
	_, _ = io.CopyN(io.Discard, b.ReadCloser, maxDrain) // at the body's end net/http takes the deadline away
}

// normalize makes trailing and doubled slashes equivalent to single ones
// (compute.md §1.5), without a redirect: that would turn a POST into a GET. Paths
// whose tail belongs to somebody else keep it: objects' keys and what follows the
// service or alias of an inference path.
func normalize(r *http.Request) {
	path := r.URL.EscapedPath()
	if !strings.Contains(path, "//") && (path == "/" || !strings.HasSuffix(path, "/")) {
		return
	}
	var segs []string
	rest := path
	for rest != "" {
		rest = strings.TrimLeft(rest, "/")
		if rest == "" {
			break
		}
		var seg string
		if i := strings.IndexByte(rest, '/'); i < 0 {
			seg, rest = rest, ""
		} else {
			seg, rest = rest[:i], rest[i:]
		}
		segs = append(segs, seg)
		if opaqueTail(segs) {
			break
		}
	}
	clean := "/" + strings.Join(segs, "/")
	if opaqueTail(segs) && (segs[0] != "organizations" || strings.Trim(rest, "/") != "") { // …/files/ is the list
		clean += rest
	}
	u, err := r.URL.Parse(clean)
	if err != nil {
		return
	}
	r.URL.Path, r.URL.RawPath = u.Path, u.RawPath
}

// opaqueTail tells whether what follows segs is not ours to touch.
func opaqueTail(segs []string) bool {
	switch {
	case len(segs) == 1 && segs[0] == "blobs":
		return true
	case len(segs) >= 3 && segs[0] == "deployments" && segs[2] == "services":
		return len(segs) == 4
	case len(segs) == 3 && segs[0] == "deployments":
		return true
	case len(segs) == 5 && segs[0] == "organizations" && segs[2] == "buckets" && segs[4] == "files":
		return true
	}
	return false
}

// recorder remembers the status and how much was written. It passes Flush, Hijack and deadlines through
// (http.ResponseController unwraps it).
type recorder struct {
	http.ResponseWriter
	status int
	sent   int64
	// before, where set, is called once, before an answer's status goes out.
	before func(status int)
	// body, where set, is what must be read before that.
	body *watchedBody
}

// EnableFullDuplex is what http.ResponseController looks for: the handler reads the body
// while it answers, so nobody else may.
func (r *recorder) EnableFullDuplex() error {
	r.body = nil
	return http.NewResponseController(r.ResponseWriter).EnableFullDuplex()
}

// Unwrap implements the contract of http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.begin(status)
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) begin(status int) {
	r.status = status
	if r.before != nil {
		r.before(status)
	}
	if r.body != nil && r.body.r.ProtoMajor == 1 { // HTTP/2 has answers and bodies side by side
		r.body.drain(r, drainTime)
	}
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.begin(http.StatusOK)
	}
	n, err := r.ResponseWriter.Write(p)
	r.sent += int64(n)
	return n, err
}

// ReadFrom implements io.ReaderFrom: what is under it may have the kernel send a file.
func (r *recorder) ReadFrom(src io.Reader) (int64, error) {
	if r.status == 0 {
		r.begin(http.StatusOK)
	}
	n, err := io.Copy(r.ResponseWriter, src)
	r.sent += n
	return n, err
}

// Flush implements http.Flusher.
func (r *recorder) Flush() {
	if f, ok := r.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}
