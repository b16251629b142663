// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"panal/internal/x/rawio"
)

// Bounds on what an instance may send before the body.
const (
	maxAnswerHead = 1 << 20 // status line and headers of one answer
	maxInterim    = 8       // 1xx answers before the final one
)

var (
	errHeadTooLong = errors.New("the head of the answer is too long")
	errInterim     = errors.New("too many interim answers")
	errSwitched    = errors.New("the answer switches protocols, which nobody asked for")
	errStatus      = errors.New("the status of the answer is out of range")
)

// conn is a connection to an instance. One call uses it at a time; close may be
// called by anyone. Heads are parsed by net/http (http.ReadResponse), which
// knows the rules on framing; everything else is here, without goroutines.
type conn struct {
	nc   net.Conn
	raw  *rawio.Conn // over nc
	src  boundedReader
	br   *bufio.Reader
	head []byte // reused for each request's head

	// peek is made once, so that looking at a kept connection allocates nothing.
	peek  func(fd uintptr)
	quiet bool // peek's answer
	kept  bool // has served a call before

	// ask is sendAndWait's step, made once, and out, asked, wrote and wroteErr are its.
	ask      func(fd uintptr) bool
	out      []byte
	asked    bool
	wrote    int
	wroteErr error

	by time.Time // of both deadlines, as far as that is known
}

// boundedReader reads the connection. While bounded it gives out at most left
// bytes, which bounds what http.ReadResponse can make us keep.
type boundedReader struct {
	from    io.Reader
	bounded bool
	left    int
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if !b.bounded {
		return b.from.Read(p)
	}
	if b.left <= 0 {
		return 0, errHeadTooLong
	}
	n, err := b.from.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

func newConn(nc net.Conn) (*conn, error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		_ = nc.Close() // it was never used
		return nil, errors.New("the connection has no descriptor")
	}
	raw, err := rawio.New(sc)
	if err != nil {
		_ = nc.Close() // it was never used
		return nil, err
	}
	c := &conn{nc: nc, raw: raw, src: boundedReader{from: raw}}
	c.br = bufio.NewReaderSize(&c.src, 4096)
	c.peek = func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		c.quiet = err == syscall.EAGAIN || err == syscall.EINTR
	}
	c.ask = func(fd uintptr) bool {
		if c.asked {
			return true
		}
		c.asked = true
		c.wrote, c.wroteErr = rawio.Write(fd, c.out)
		return c.wroteErr != nil || c.wrote < len(c.out)
	}
	return c, nil
}

// alive tells whether a kept connection can take a request: the other side has
// neither closed it nor said anything unasked. This is what makes the death of
// an instance cost no call that was not under way on it.
func (c *conn) alive() bool {
	c.quiet = false
	return c.br.Buffered() == 0 && c.raw.Raw().Control(c.peek) == nil && c.quiet
}

// close ends the connection and everything that waits on it. Its error tells
// nothing that the read or write has not told.
func (c *conn) close() { _ = c.nc.Close() }

// readAnswer reads the head of the answer to r, past interim ones. Its body
// reads from the connection and must not be closed: closing it would read on. An
// answer 101 is final, and is only taken when upgrade says that it was asked for. An
// ordinary answer's headers, those that are for the caller, are in h already.
func (c *conn) readAnswer(r *http.Request, upgrade bool, h http.Header) (*http.Response, error) {
	c.src.bounded, c.src.left = true, maxAnswerHead
	defer func() { c.src.bounded = false }()
	if resp := readOrdinary(c.br, r.Method, h); resp != nil {
		return resp, nil
	}
	for range maxInterim {
		resp, err := http.ReadResponse(c.br, r)
		if err != nil {
			return nil, err
		}
		switch {
		case resp.StatusCode == http.StatusSwitchingProtocols && upgrade:
			return resp, nil
		case resp.StatusCode == http.StatusSwitchingProtocols:
			return nil, errSwitched
		case resp.StatusCode < 100:
			return nil, fmt.Errorf("%w: %d", errStatus, resp.StatusCode)
		case resp.StatusCode >= 200:
			return resp, nil
		}
	}
	return nil, errInterim
}

// send writes head and body. sent tells whether any byte may have left.
func (c *conn) send(head, body []byte) (sent bool, err error) {
	if len(body) == 0 {
		n, err := c.nc.Write(head)
		return n > 0, err
	}
	bufs := net.Buffers{head, body}
	n, err := bufs.WriteTo(c.nc)
	return n > 0, err
}

// sendAndWait is send for a call whose body is whole, and waits for the answer's first
// byte. It asks the poller before it writes, so that the answer can be waited for
// without a read that finds nothing; what went wrong with waiting shows at the next read.
func (c *conn) sendAndWait(head, body []byte) (sent bool, err error) {
	if len(body) > maxCopied {
		return c.send(head, body)
	}
	c.head = append(head, body...)
	c.out, c.asked, c.wrote, c.wroteErr = c.head, false, 0, nil
	err = c.raw.Raw().Read(c.ask)
	n := c.wrote
	switch {
	case !c.asked:
		return false, err
	case c.wroteErr != nil && !errors.Is(c.wroteErr, syscall.EAGAIN):
		return n > 0, os.NewSyscallError("write", c.wroteErr)
	case n < len(c.out):
		more, err := c.nc.Write(c.out[n:])
		return n+more > 0, err
	}
	return true, nil
}

// maxCopied is the longest body that is copied behind its head, to be written with it.
const maxCopied = 4 << 10

// chunkRoom is the space for a chunk's size line before its data; two bytes
// follow it.
const chunkRoom = 8

// sendChunk writes buf[chunkRoom:chunkRoom+n] as one chunk; buf has room for the
// line end after it.
func (c *conn) sendChunk(buf []byte, n int) error {
	const digits = "0123456789abcdef"
	i := chunkRoom
	i--
	buf[i] = '\n'
	i--
	buf[i] = '\r'
	for v := n; v > 0; v >>= 4 {
		i--
		buf[i] = digits[v&15]
	}
	end := chunkRoom + n
	buf[end], buf[end+1] = '\r', '\n'
	_, err := c.nc.Write(buf[i : end+2])
	return err
}

// sendLastChunk ends a body in chunks, with the trailers that came after it.
func (c *conn) sendLastChunk(trailers http.Header) error {
	if len(trailers) == 0 {
		_, err := io.WriteString(c.nc, "0\r\n\r\n")
		return err
	}
	b := []byte("0")
	for name, values := range trailers {
		if !passesAsTrailer(name) {
			continue
		}
		for _, v := range values {
			b = appendField(b, name, v)
		}
	}
	_, err := c.nc.Write(append(b, "\r\n\r\n"...))
	return err
}

// bothBy bounds reads and writes by limit from now, or some more: most calls then find
// the deadline of the one before good enough.
func (c *conn) bothBy(limit time.Duration) {
	least := time.Now().Add(limit)
	if most := least.Add(limit / 4); c.by.Before(least) || c.by.After(most) {
		c.by = most
		_ = c.nc.SetDeadline(most)
	}
}

// deadline helpers: an error means that the connection is closed, which the next
// read or write will tell.
func (c *conn) readBy(t time.Time)  { _ = c.nc.SetReadDeadline(t) }
func (c *conn) writeBy(t time.Time) { _ = c.nc.SetWriteDeadline(t) }
