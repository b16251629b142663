// SPDX-License-Identifier: Apache-2.0

// Package httpx holds small HTTP helpers: ranges, and streams that are bounded by
// idle progress instead of total time.
package httpx

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"
)

// idle moves a connection's deadline ahead at most every quarter of its limit,
// so that a fast stream does not pay a system call per read.
type idle struct {
	limit time.Duration
	next  time.Time
	end   time.Time // where not zero, all must be over by then
	set   func(time.Time) error
}

func (i *idle) progress() {
	if now := time.Now(); now.After(i.next) {
		i.next = now.Add(i.limit / 4)
		by := now.Add(i.limit + i.limit/4)
		if !i.end.IsZero() && by.After(i.end) {
			by = i.end
		}
		_ = i.set(by) // not supported (a test's recorder): no deadline then
	}
}

type idleReader struct {
	idle
	r io.Reader
}

// Read implements io.Reader.
func (r *idleReader) Read(p []byte) (int, error) {
	r.progress()
	return r.r.Read(p)
}

// IdleReader returns a reader over a request's body that fails when the client
// sends nothing for about limit.
func IdleReader(w http.ResponseWriter, body io.Reader, limit time.Duration) io.Reader {
	return &idleReader{idle{limit: limit, set: http.NewResponseController(w).SetReadDeadline}, body}
}

// ShortReader is IdleReader for a body that is small enough to be kept in memory: all of
// it must come within ten limits, else a byte at a time would take days.
func ShortReader(w http.ResponseWriter, body io.Reader, limit time.Duration) io.Reader {
	return &idleReader{idle{limit: limit, end: time.Now().Add(10 * limit), set: http.NewResponseController(w).SetReadDeadline}, body}
}

type idleWriter struct {
	idle
	w io.Writer
}

// Write implements io.Writer.
func (w *idleWriter) Write(p []byte) (int, error) {
	w.progress()
	return w.w.Write(p)
}

// fileChunk is how much of a file the kernel is asked to send at once.
const fileChunk = 4 << 20

// ReadFrom implements io.ReaderFrom. Of a part of a file the connection has the kernel
// send the bytes; all else is copied in small steps.
func (w *idleWriter) ReadFrom(r io.Reader) (sent int64, err error) {
	to, ok := w.w.(io.ReaderFrom)
	part, limited := r.(*io.LimitedReader)
	if !ok || !limited {
		return io.Copy(writerOnly{w}, r)
	}
	if _, isFile := part.R.(*os.File); !isFile {
		return io.Copy(writerOnly{w}, r)
	}
	for part.N > 0 {
		w.progress()
		chunk := &io.LimitedReader{R: part.R, N: min(part.N, fileChunk)}
		asked := chunk.N
		n, err := to.ReadFrom(chunk)
		sent, part.N = sent+n, part.N-n
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && n > 0:
			w.next = time.Time{} // slow, but moving
		case err != nil:
			return sent, err
		case n < asked:
			return sent, nil // the file's end
		}
	}
	return sent, nil
}

// writerOnly hides ReadFrom from io.Copy.
type writerOnly struct{ io.Writer }

// IdleWriter returns a writer to a response that fails when the client takes
// nothing for about limit.
func IdleWriter(w http.ResponseWriter, limit time.Duration) io.Writer {
	return &idleWriter{idle{limit: limit, set: http.NewResponseController(w).SetWriteDeadline}, w}
}

// BodyError marks an error that comes from the client's body.
type BodyError struct{ Err error }

// Error implements error.
func (e *BodyError) Error() string { return "request body: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *BodyError) Unwrap() error { return e.Err }

// Body returns err wrapped in a BodyError when it says that the client's body
// ended early or stalled, else err itself.
func Body(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, os.ErrDeadlineExceeded) {
		return &BodyError{Err: err}
	}
	return err
}
