// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"panal/internal/plat"
)

// spoolPiece is what a spool takes of the disk at a time.
const spoolPiece = 1 << 20

var errSpoolEnded = errors.New("the call has ended")

// spool is a body that arrives while its call waits for a service's first instance,
// or by HTTP/2 for any: the caller sends without being held up, and is missed when it leaves. It goes to a
// file without a name, and from there on as soon as an instance is there, while the
// rest arrives. When the disk has no more room for it, the caller is read no further
// until what is there has gone on; over HTTP/2 the call is refused, for its body would
// hold up others of its connection, unless it has an instance by then.
type spool struct {
	x      *exchange
	file   *os.File
	failed chan struct{} // closed when the body can't be had whole
	done   chan struct{} // closed when nothing reads the caller any more

	mu       sync.Mutex
	moved    sync.Cond
	r, w     int64 // of the file: read and written up to here
	reserved int64 // of the disk
	end      error // io.EOF, or why the body ends before its end
	going    bool  // to an instance
	closed   bool
}

// startSpool begins to take a call's body. Its end is close.
func startSpool(x *exchange) (*spool, error) {
	s := &spool{x: x, failed: make(chan struct{}), done: make(chan struct{})}
	s.moved.L = &s.mu
	if !s.reserve() {
		return nil, errSpoolFull
	}
	f, err := os.CreateTemp(x.p.opt.SpoolDir, "body-*")
	if err == nil {
		s.file = f
		err = os.Remove(f.Name()) // nothing of it outlives the process
	}
	if err != nil {
		s.release(s.reserved)
		if f != nil {
			_ = f.Close() // the first error tells
		}
		return nil, spoolError(err)
	}
	_ = x.rc.EnableFullDuplex() // the body is read while the call may be answered, as in startPump
	go s.run()
	return s, nil
}

// shared tells whether the caller's connection has other calls.
func (x *exchange) shared() bool { return x.r.ProtoMajor > 1 }

var errSpoolFull = &plat.Error{Kind: plat.ErrUnavailable, Public: "too many bytes wait for an instance"}

func spoolError(err error) error {
	return &plat.Error{Kind: plat.ErrUnavailable, Public: "the body can't be kept until an instance is ready", Err: fmt.Errorf("spool body: %w", err)}
}

// reserve takes a piece more of the disk, if there is one. The caller holds s.mu, or
// nobody else knows s.
func (s *spool) reserve() bool {
	if !take(&s.x.p.table.spooled, s.x.ticket.tenant.disk(), spoolPiece, s.x.p.opt.MaxSpool) {
		return false
	}
	s.reserved += spoolPiece
	return true
}

func (s *spool) release(n int64) {
	s.reserved -= n
	giveBack(&s.x.p.table.spooled, s.x.ticket.tenant.disk(), n)
}

// run reads the caller.
func (s *spool) run() {
	defer close(s.done)
	buf := s.x.p.bufs.Get().(*[]byte)
	defer s.x.p.bufs.Put(buf)
	for s.next() {
		n, err := s.x.r.Body.Read((*buf)[:smallBody])
		s.put((*buf)[:n], err)
	}
}

// next tells whether to read on, and until when.
func (s *spool) next() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.end != nil {
		return false
	}
	s.x.callerSendsBy(time.Now().Add(s.x.p.opt.Idle))
	return true
}

// put takes what was read, waiting for room.
func (s *spool) put(b []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.closed && s.w+int64(len(b)) > s.reserved && !s.reserve() {
		if s.x.shared() && !s.going {
			b, err = nil, errSpoolFull
			break
		}
		s.moved.Wait()
	}
	if s.closed {
		return
	}
	if len(b) > 0 {
		if _, werr := s.file.WriteAt(b, s.w); werr != nil {
			err = spoolError(werr)
		} else {
			s.w += int64(len(b))
		}
	}
	s.end = err
	switch {
	case errors.Is(err, io.EOF):
		s.x.callerSendsBy(time.Time{}) // net/http watches for the caller's leaving
	case err != nil:
		close(s.failed)
	}
	s.moved.Broadcast()
}

// Read implements io.Reader for the one who sends the body on.
func (s *spool) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.going = true
	for s.r == s.w && s.end == nil && !s.closed {
		s.moved.Wait()
	}
	switch {
	case s.closed:
		return 0, errSpoolEnded
	case s.r == s.w:
		return 0, s.end
	}
	n, err := s.file.ReadAt(p[:min(int64(len(p)), s.w-s.r)], s.r)
	if err != nil {
		return 0, spoolError(err)
	}
	if s.r += int64(n); s.r == s.w {
		s.r, s.w = 0, 0
		if s.reserved > spoolPiece {
			if err := s.file.Truncate(0); err != nil {
				return n, spoolError(err)
			}
			s.release(s.reserved - spoolPiece)
		}
		s.moved.Broadcast()
	}
	return n, nil
}

// whole tells whether the body was read to its end.
func (s *spool) whole() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Is(s.end, io.EOF)
}

// interrupt ends all that waits for the spool, and the reading of the caller.
func (s *spool) interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	if s.end == nil {
		s.x.callerSendsBy(time.Unix(1, 0)) // long ago
	}
	s.moved.Broadcast()
}

// close ends the spool and gives back what it took.
func (s *spool) close() {
	s.interrupt()
	<-s.done
	_ = s.file.Close() // it has no name and nobody reads it again
	s.release(s.reserved)
}
