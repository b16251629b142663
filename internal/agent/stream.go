// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

// An answer that a generator makes is sent on as it comes. The first part of it
// is held back for a moment: an answer that is complete by then goes out whole,
// with a Content-Length, and an exception is still a 500 (compute.md §13.10).
const (
	holdBytes = 64 << 10
	holdTime  = 100 * time.Millisecond // after the first piece
	maxPiece  = 1 << 20
)

// streamFailed stands instead of a piece's length when the generator raised.
const streamFailed = 1<<32 - 1

// errRaised is the end of a stream whose generator raised.
var errRaised = errors.New("the generator raised an exception")

// pieces reads the body that a worker streams. A read that the deadline of the
// connection ends can be repeated: nothing is lost.
type pieces struct {
	wk   *worker
	left int   // of the piece that is being read
	err  error // how the stream ended: io.EOF or errRaised
}

func (p *pieces) Read(buf []byte) (int, error) {
	if p.err != nil {
		return 0, p.err
	}
	if p.left == 0 {
		head, err := p.wk.in.Peek(4)
		if err != nil {
			return 0, noEnd(err)
		}
		n := binary.BigEndian.Uint32(head)
		_, _ = p.wk.in.Discard(4)
		switch {
		case n == 0:
			p.err = io.EOF
		case n == streamFailed:
			p.err = errRaised
		case n > maxPiece:
			return 0, fmt.Errorf("read stream: a piece of %d bytes", n)
		}
		if p.err != nil {
			return 0, p.err
		}
		p.left = int(n)
	}
	n, err := p.wk.in.Read(buf[:min(len(buf), p.left)])
	p.left -= n
	return n, noEnd(err)
}

// noEnd keeps the end of the connection apart from that of the stream.
func noEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// quiet tells that nothing more has arrived yet.
func (p *pieces) quiet() bool { return p.wk.in.Buffered() == 0 }

// errUnread is the end of a stream that nobody wants any more.
var errUnread = errors.New("nobody reads the answer")

// relay answers with what the worker streams, and gives the worker back.
func (s *service) relay(ctx context.Context, w http.ResponseWriter, wk *worker, resp runtimeResponse, id string) error {
	from := &pieces{wk: wk}
	if resp.bare() {
		s.recall(from)
		w.WriteHeader(begin(w, resp))
		return nil
	}
	// A caller that leaves ends the wait for the next piece.
	hooked := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		defer close(hooked)
		_ = wk.conn.SetReadDeadline(time.Unix(1, 0))
	})
	begun, err := s.forward(ctx, w, from, resp)
	if !unhook() {
		<-hooked
	}
	switch {
	case err == nil:
		s.free(wk)
	case errors.Is(err, errRaised): // the runtime has logged the traceback
		s.free(wk)
		err = &httpError{http.StatusInternalServerError, textRaised}
	case errors.Is(err, errUnread):
		s.recall(from)
		err = &httpError{http.StatusServiceUnavailable, textUnavailable} // nobody reads it
	default:
		wk.child.tag("")
		err = s.lost(wk, id, err)
	}
	if err != nil && begun {
		panic(http.ErrAbortHandler) // the caller must see that it is cut
	}
	return err
}

// forward copies a stream to the caller. It returns whether the answer was begun,
// and how it ended: nil is the good end.
func (s *service) forward(ctx context.Context, w http.ResponseWriter, from *pieces, resp runtimeResponse) (begun bool, err error) {
	// read waits for a part of the body until a time.
	read := func(buf []byte, until time.Time) (int, error) {
		_ = from.wk.conn.SetReadDeadline(until)
		if ctx.Err() != nil { // before the line above
			return 0, errUnread
		}
		n, err := from.Read(buf)
		if err != nil && ctx.Err() != nil {
			err = errUnread
		}
		return n, err
	}
	limit := s.a.cfg.handlerTimeout
	buf := make([]byte, holdBytes)
	n, err := read(buf, time.Now().Add(limit))
	for until := time.Now().Add(holdTime); err == nil && n < len(buf); {
		var m int
		m, err = read(buf[n:], until)
		n += m
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil
			break
		}
	}
	whole := errors.Is(err, io.EOF)
	if err != nil && !whole {
		return false, err
	}
	code := begin(w, resp)
	if whole {
		w.Header().Set("Content-Length", strconv.Itoa(n))
	}
	w.WriteHeader(code)
	if whole {
		_, _ = w.Write(buf[:n]) // fits into the buffers
		return true, nil
	}
	rc := http.NewResponseController(w)
	for err == nil {
		_ = rc.SetWriteDeadline(time.Now().Add(ioIdle))
		_, werr := w.Write(buf[:n])
		if werr == nil && from.quiet() {
			werr = rc.Flush()
		}
		if werr != nil { // the caller is gone, or does not read
			return true, errUnread
		}
		n, err = read(buf, time.Now().Add(limit))
	}
	_ = rc.SetWriteDeadline(time.Time{})
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return true, err
}

// free makes a worker available whose answer is complete.
func (s *service) free(wk *worker) {
	wk.child.tag("")
	s.pool.give(wk)
}

// recall makes a worker available whose stream nobody wants: it is told to stop,
// and what it has sent by then is dropped. One that does not listen is replaced.
func (s *service) recall(from *pieces) {
	s.a.tasks.Go(func() {
		wk := from.wk
		_ = wk.conn.SetDeadline(time.Now().Add(s.a.cfg.handlerTimeout))
		err := writeFrame(wk.conn, stopFrame{Stop: true}, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, from)
		}
		if err == nil || errors.Is(err, errRaised) {
			s.free(wk)
			return
		}
		wk.child.tag("")
		_ = s.lost(wk, "", err)
	})
}

// collect stores what the worker streams in a file without a name, and gives the
// worker back.
func (s *service) collect(wk *worker, id string) (*os.File, error) {
	from := &pieces{wk: wk}
	f, err := os.CreateTemp(s.bodies, "out-")
	if err != nil {
		s.recall(from)
		return nil, err
	}
	_ = os.Remove(f.Name())
	var full *os.PathError
	switch _, err = io.Copy(f, from); {
	case err == nil:
		s.free(wk)
		return f, nil
	case errors.Is(err, errRaised):
		s.free(wk)
	case errors.As(err, &full):
		s.recall(from)
	default:
		wk.child.tag("")
		_ = s.lost(wk, id, err)
	}
	return nil, errors.Join(err, f.Close())
}
