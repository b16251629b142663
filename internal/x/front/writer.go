// SPDX-License-Identifier: Apache-2.0

package front

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"panal/internal/x/httpx"
)

// pendingSize is how much of an answer is gathered before it is sent.
const pendingSize = 4096

// maxKept is the largest scratch space that is kept for another answer.
const maxKept = 32 << 10

// buffers are what an answer needs until it is sent.
type buffers struct {
	head    []byte
	pending []byte // of the body; never more than its capacity
}

var pool = sync.Pool{New: func() any { //nolint:gochecknoglobals // a pool of scratch space
	return &buffers{head: make([]byte, 0, 1024), pending: make([]byte, 0, pendingSize)}
}}

// writer is the http.ResponseWriter of a call. It also takes flushes and deadlines
// (http.ResponseController).
type writer struct {
	c      *conn
	head   bool // the request is HEAD: the answer has no body
	header http.Header
	status int
	length int64 // of the body as announced; -1: it is not
	sent   int64 // of the body, what is pending included
	*buffers
	begun   bool // the head is sent
	chunked bool
	last    bool // nothing may follow on the connection
	ended   bool // the handler is through
	err     error

	readBy, writeBy, applied time.Time
}

// Header implements http.ResponseWriter.
func (w *writer) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header, 14) // the usual ones of an answer fit
	}
	return w.header
}

// WriteHeader implements http.ResponseWriter. Interim answers are not sent.
func (w *writer) WriteHeader(status int) {
	if w.status != 0 || status < 200 {
		return
	}
	w.status = status
	if v := w.header["Content-Length"]; len(v) > 0 && bodyAllowed(status) {
		if n, err := strconv.ParseInt(v[0], 10, 64); err == nil && n >= 0 {
			w.length = n
		}
	}
}

// bodyAllowed tells whether an answer of this status may have a body.
func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// Write implements http.ResponseWriter.
func (w *writer) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	switch {
	case w.err != nil:
		return 0, w.err
	case w.ended:
		return 0, http.ErrBodyNotAllowed // a handler that has returned has nothing to say
	case len(p) == 0:
		return 0, nil
	case !bodyAllowed(w.status):
		return 0, http.ErrBodyNotAllowed
	}
	w.sent += int64(len(p))
	if w.length >= 0 && w.sent > w.length {
		return 0, http.ErrContentLength
	}
	w.scratch()
	if len(w.pending)+len(p) <= cap(w.pending) {
		w.pending = append(w.pending, p...)
		return len(p), nil
	}
	if w.send(p, false) != nil {
		return 0, w.err
	}
	return len(p), nil
}

// ReadFrom implements io.ReaderFrom. What is not short and has its length announced goes
// out as the connection can: a part of a file by the kernel. It never sends more than that.
func (w *writer) ReadFrom(src io.Reader) (int64, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	left := w.length - w.sent
	_, typed := w.header["Content-Type"] // else the type is to be told from the bytes
	if left <= pendingSize || !typed && !w.begun || w.head || w.err != nil || w.ended || !bodyAllowed(w.status) {
		return io.Copy(writerOnly{w}, src)
	}
	if err := w.FlushError(); err != nil {
		return 0, err
	}
	if err := w.bound(); err != nil {
		return 0, err
	}
	// A reader of one's own would hide the file.
	part, ok := src.(*io.LimitedReader)
	if !ok || part.N > left {
		part = &io.LimitedReader{R: src, N: left}
	}
	n, err := w.c.nc.ReadFrom(part)
	w.sent += n
	return n, err // after a deadline there may be another try; whoever gives up has not sent all
}

// writerOnly hides ReadFrom from io.Copy.
type writerOnly struct{ io.Writer }

// bound has the deadline for writes hold. Once the server is closed nothing more is sent:
// what a handler says whose call was cut is no answer.
func (w *writer) bound() error {
	if w.c.s.cut.Load() {
		return net.ErrClosed
	}
	if !w.writeBy.Equal(w.applied) {
		w.applied = w.writeBy
		_ = w.c.nc.SetWriteDeadline(w.writeBy) // fails only when closed, and then so does the write
	}
	return nil
}

func (w *writer) scratch() {
	if w.buffers == nil {
		w.buffers = pool.Get().(*buffers)
	}
}

// send sends what is pending, and p after it; the head before, if it is still to come.
// last tells that the answer ends here.
func (w *writer) send(p []byte, last bool) error {
	if w.err != nil {
		return w.err
	}
	w.scratch()
	out := w.buffers.head[:0]
	if !w.begun {
		w.begun = true
		out = w.appendHead(out, p, last)
	}
	if w.head {
		p, w.pending = nil, w.pending[:0]
	}
	n := len(w.pending) + len(p)
	if w.chunked && n > 0 {
		out = strconv.AppendInt(out, int64(n), 16)
		out = append(out, "\r\n"...)
	}
	tail := ""
	if w.chunked && n > 0 {
		tail = "\r\n"
	}
	if w.chunked && last {
		tail += "0\r\n" + w.trailers() + "\r\n"
	}
	if w.err = w.bound(); w.err != nil {
		return w.err
	}
	if len(p) <= pendingSize {
		out = append(out, w.pending...)
		out = append(out, p...)
		out = append(out, tail...)
		if len(out) > 0 {
			_, w.err = w.c.raw.Write(out)
		}
	} else {
		bufs := net.Buffers{append(out, w.pending...), p}
		if tail != "" {
			bufs = append(bufs, []byte(tail))
		}
		_, w.err = bufs.WriteTo(w.c.nc)
	}
	w.buffers.head, w.pending = out[:0], w.pending[:0]
	return w.err
}

// appendHead makes the answer's head. The framing is ours alone; p is the piece of the
// body behind what is pending.
func (w *writer) appendHead(b, p []byte, last bool) []byte {
	h := w.header
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(w.status), 10)
	b = append(b, ' ')
	if text := http.StatusText(w.status); text != "" {
		b = append(b, text...)
	} else {
		b = append(b, "status code "...)
		b = strconv.AppendInt(b, int64(w.status), 10)
	}
	trailers, closes := false, false
	for name, values := range h {
		switch name {
		case "Content-Length", "Transfer-Encoding", "Trailer":
			continue
		case "Content-Type":
			if w.status == http.StatusNotModified {
				continue
			}
		case "Connection":
			for _, v := range values {
				closes = closes || strings.EqualFold(v, "close")
			}
			continue
		}
		if strings.HasPrefix(name, http.TrailerPrefix) {
			trailers = true
			continue
		}
		b = appendFields(b, name, values)
	}
	start := w.pending
	if len(start) == 0 {
		start = p
	}
	if _, has := h["Content-Type"]; !has && len(start) > 0 && len(h["Content-Encoding"]) == 0 {
		b = append(b, "\r\nContent-Type: "...)
		b = append(b, http.DetectContentType(start)...)
	}
	if _, has := h["Date"]; !has {
		b = append(b, "\r\nDate: "...)
		b = w.c.s.date(b)
	}
	switch {
	case !bodyAllowed(w.status):
	case w.length >= 0:
		b = append(b, "\r\nContent-Length: "...)
		b = strconv.AppendInt(b, w.length, 10)
	case last && !trailers && (!w.head || w.sent > 0):
		b = append(b, "\r\nContent-Length: "...)
		b = strconv.AppendInt(b, w.sent, 10)
		w.length = w.sent
	case w.head:
	default:
		w.chunked = true
		b = append(b, "\r\nTransfer-Encoding: chunked"...)
	}
	if closes || w.c.s.closing.Load() {
		w.last = true
		b = append(b, "\r\nConnection: close"...)
	}
	return append(b, "\r\n\r\n"...)
}

// appendFields appends lines, each after a line break. A name that is none is left out,
// and no value can end its line.
func appendFields(b []byte, name string, values []string) []byte {
	if _, ok := httpx.FieldName(name); !ok {
		return b
	}
	for _, v := range values {
		b = append(b, "\r\n"...)
		b = append(b, name...)
		b = append(b, ": "...)
		v = strings.TrimSpace(v)
		for i := range len(v) {
			if c := v[i]; c == '\r' || c == '\n' {
				b = append(b, ' ')
			} else {
				b = append(b, c)
			}
		}
	}
	return b
}

// trailers returns the lines behind the last chunk.
func (w *writer) trailers() string {
	var b []byte
	for name, values := range w.header {
		if name, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			if l := appendFields(nil, name, values); len(l) > 0 {
				b = append(append(b, l[2:]...), "\r\n"...)
			}
		}
	}
	return string(b)
}

// finish sends the rest. It reports whether the connection may go on.
func (w *writer) finish() bool {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.ended = true
	if !w.begun || w.chunked || w.buffers != nil && len(w.pending) > 0 {
		_ = w.send(nil, true) // its error is w.err
	}
	if !w.applied.IsZero() {
		_ = w.c.nc.SetWriteDeadline(time.Time{}) // fails only when closed
	}
	whole := w.length < 0 || w.sent == w.length || w.head
	return w.err == nil && whole && !w.last
}

// end gives back what the answer needed, sent or not.
func (w *writer) end() {
	w.ended = true
	if b := w.buffers; b != nil {
		w.buffers = nil
		if cap(b.head) > maxKept {
			return
		}
		b.head, b.pending = b.head[:0], b.pending[:0]
		pool.Put(b)
	}
}

// Flush implements http.Flusher.
func (w *writer) Flush() { _ = w.FlushError() }

// FlushError is what http.ResponseController calls.
func (w *writer) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.ended || w.begun && (w.buffers == nil || len(w.pending) == 0) {
		return w.err
	}
	return w.send(nil, false)
}

// SetReadDeadline, SetWriteDeadline and EnableFullDuplex are what
// http.ResponseController calls. Deadlines count from the next read or write that needs
// the connection: most bodies came with their head, and most answers leave at once.
func (w *writer) SetReadDeadline(t time.Time) error {
	w.readBy = t
	return nil
}

// SetWriteDeadline bounds the writes from here on.
func (w *writer) SetWriteDeadline(t time.Time) error {
	w.writeBy = t
	return nil
}

// EnableFullDuplex does nothing: the answer never waits for the body here.
func (w *writer) EnableFullDuplex() error { return nil }
