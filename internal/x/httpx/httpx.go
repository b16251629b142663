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
	w     io.Writer
	flush func() error
}

// Write implements io.Writer.
func (w *idleWriter) Write(p []byte) (int, error) {
	w.progress()
	return w.w.Write(p)
}

const (
	// fileChunk is how much of a file the kernel is asked to send at once.
	fileChunk = 4 << 20
	// fileShort is what fits a connection's buffers at any rate: how long it takes need not
	// be watched closely.
	fileShort = 64 << 10
)

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
	w.progress()
	if part.N <= fileShort {
		return to.ReadFrom(part)
	}
	return w.sendFile(to, part)
}

// sendFile sends a long part, in tries of half the limit at most: the kernel tells how much
// it has sent, not when, and in a longer try a client that stopped early would be taken for
// one that moves. A client is slow as long as tries with nothing sent don't add up to the limit.
func (w *idleWriter) sendFile(to io.ReaderFrom, part *io.LimitedReader) (sent int64, err error) {
	// The head first: a try in which it does not leave can't be repeated.
	if err := w.flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	defer func() { w.next = time.Time{} }() // the deadline that stands is none of progress
	moved, by := time.Now(), time.Time{}
	for part.N > 0 {
		if now := time.Now(); now.Add(w.limit / 4).After(by) {
			by = now.Add(w.limit / 2)
			_ = w.set(by) // not supported: no deadline then
		}
		chunk := &io.LimitedReader{R: part.R, N: min(part.N, fileChunk)}
		asked := chunk.N
		n, err := to.ReadFrom(chunk)
		sent, part.N = sent+n, part.N-n
		now := time.Now()
		if n > 0 {
			moved = now
		}
		// A deadline that ends before ours is somebody else's word that it is over.
		switch ours := errors.Is(err, os.ErrDeadlineExceeded) && !now.Before(by); {
		case ours && now.Sub(moved) < w.limit:
			by = time.Time{} // another try
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
	c := http.NewResponseController(w)
	return &idleWriter{idle{limit: limit, set: c.SetWriteDeadline}, w, c.Flush}
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
