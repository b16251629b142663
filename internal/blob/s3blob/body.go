// SPDX-License-Identifier: Apache-2.0

package s3blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"panal/internal/plat"
)

// source reads a caller's body of known length, and gives out its last byte only when
// the caller's reader has ended there: until then nothing that was sent can become an
// object. What the caller's context or a Close ends, it ends before that byte; after
// it, the put is being stored and is waited for.
type source struct {
	d    *Driver
	ctx  context.Context // the caller's
	r    io.Reader
	size int64 // declared; -1: unknown

	mu     sync.Mutex // held while r is read
	read   int64      // bytes taken from r
	eof    bool       // r has ended
	peeked bool       // one byte of r, next, is ahead
	next   [1]byte
	err    error // why the body must not be stored
	ended  bool  // the put has returned: r is the caller's again

	state    sync.Mutex
	commit   func() // ends the stage in which Close waits; nil before it
	canceled bool
	cancel   context.CancelFunc // of the request that carries the body
}

func (d *Driver) newSource(ctx context.Context, r io.Reader, size int64) *source {
	return &source{d: d, ctx: ctx, r: r, size: size, cancel: func() {}}
}

// request returns a context for a request that carries bytes of the body: it ends with
// the caller's context or the driver, but not once the body is committed.
func (s *source) request() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.ctx))
	s.state.Lock()
	s.cancel = cancel
	s.state.Unlock()
	end := func() {
		s.state.Lock()
		defer s.state.Unlock()
		if s.commit == nil {
			s.canceled = true
			s.cancel()
		}
	}
	stopCaller, stopDriver := context.AfterFunc(s.ctx, end), context.AfterFunc(s.d.base, end)
	return ctx, func() { stopCaller(); stopDriver(); cancel() }
}

// committed enters the last stage: from here on only the service decides.
func (s *source) committed() error {
	s.state.Lock()
	defer s.state.Unlock()
	if s.commit != nil {
		return nil
	}
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if s.canceled {
		return errClosed()
	}
	done, err := s.d.begin()
	if err != nil {
		return err
	}
	s.commit = done
	return nil
}

// finish returns the reader to the caller and leaves the last stage. It waits for a
// read under way.
func (s *source) finish() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.state.Lock()
	defer s.state.Unlock()
	if s.commit != nil {
		s.commit()
	}
}

// failure is what the body, the caller or a Close had against the put.
func (s *source) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// raw reads from r, one byte ahead included. The caller holds mu.
func (s *source) raw(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	if s.d.base.Err() != nil {
		return 0, errClosed()
	}
	if s.peeked && len(p) > 0 {
		p[0], s.peeked = s.next[0], false
		return 1, nil
	}
	if s.eof {
		return 0, io.EOF
	}
	n, err := s.r.Read(p)
	s.read += int64(n)
	switch {
	case s.size >= 0 && s.read > s.size:
		return 0, plat.Errorf(plat.ErrInvalid, "the body is longer than the declared %d bytes", s.size)
	case err == io.EOF:
		s.eof = true
		if s.size >= 0 && s.read < s.size {
			return 0, plat.Errorf(plat.ErrInvalid, "the body ended after %d of the declared %d bytes", s.read, s.size)
		}
		if n > 0 {
			return n, nil
		}
		return 0, io.EOF
	case err != nil:
		return 0, fmt.Errorf("read body: %w", err)
	}
	return n, nil
}

// fill reads into p until it is full or the body ends, and tells whether it has ended.
// It looks one byte ahead, so that a body that ends with p is known to.
func (s *source) fill(p []byte) (n int, end bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n < len(p) {
		k, err := s.raw(p[n:])
		n += k
		if errors.Is(err, io.EOF) {
			return n, true, nil
		}
		if err != nil {
			s.err = err
			return n, false, err
		}
	}
	end, err = s.atEnd()
	return n, end, err
}

// atEnd looks one byte ahead. The caller holds mu.
func (s *source) atEnd() (bool, error) {
	for !s.eof && !s.peeked {
		n, err := s.raw(s.next[:])
		if n > 0 {
			s.peeked = true
		} else if err != nil && !errors.Is(err, io.EOF) {
			s.err = err
			return false, err
		}
	}
	return !s.peeked, nil
}

// stream is the body of one request: the next n bytes of a source. Where last is set
// its last byte commits the source.
type stream struct {
	s    *source
	left int64
	last bool
}

// Read implements io.Reader.
func (b *stream) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return 0, s.err
	case s.ended:
		return 0, errClosed()
	}
	n, err := s.raw(p[:min(int64(len(p)), b.left)])
	if err == nil && int64(n) == b.left && b.last {
		var end bool
		if end, err = s.atEnd(); err == nil && !end {
			err = plat.Errorf(plat.ErrInvalid, "the body is longer than the declared %d bytes", s.size)
		}
		if err == nil {
			err = s.committed()
		}
	}
	if err != nil {
		s.err = err
		return 0, err
	}
	b.left -= int64(n)
	return n, nil
}
