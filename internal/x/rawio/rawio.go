// SPDX-License-Identifier: Apache-2.0

// Package rawio reads and writes connections by system calls that the scheduler is not
// told of.
//
// A call that may block tells the scheduler so before and after, and the first one after
// the process was idle wakes the runtime's watcher (sysmon), which then looks around every
// 20 µs for a millisecond: a tenth of the CPU and more of a server whose calls come one by
// one. A connection of package net never blocks in the kernel: it is waited for in the
// poller, as before.
package rawio

import (
	"io"
	"os"
	"syscall"
	"unsafe"
)

// Read reads from a descriptor that does not block; syscall.EAGAIN: there is nothing yet.
// At the end it returns 0 and no error. It is for use in a syscall.RawConn's functions.
func Read(fd uintptr, p []byte) (int, error) {
	n, err := call(syscall.SYS_READ, fd, p)
	acquire()
	return n, err
}

// Write writes to a descriptor that does not block, what there is room for;
// syscall.EAGAIN: there is none. It is for use in a syscall.RawConn's functions.
func Write(fd uintptr, p []byte) (int, error) {
	release()
	return call(syscall.SYS_WRITE, fd, p)
}

func call(trap, fd uintptr, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p))) //nolint:gosec // p is the kernel's for this call only
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}

// Conn is a connection read and written so. Its deadlines are those of the connection
// below. One goroutine may read and another one write.
type Conn struct {
	raw syscall.RawConn

	// read and write are steps, made once so that a call allocates nothing; the rest is theirs.
	read, write func(fd uintptr) bool
	in, out     []byte
	got, sent   int
	rerr, werr  error
}

// New returns a Conn over a connection of package net, or what has such a one below.
func New(c syscall.Conn) (*Conn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	return over(raw), nil
}

func over(raw syscall.RawConn) *Conn {
	r := &Conn{raw: raw}
	r.read = func(fd uintptr) bool {
		r.got, r.rerr = Read(fd, r.in)
		return r.rerr != syscall.EAGAIN //nolint:errorlint // never wrapped
	}
	r.write = func(fd uintptr) bool {
		var n int
		for r.sent < len(r.out) {
			if n, r.werr = Write(fd, r.out[r.sent:]); r.werr != nil {
				return r.werr != syscall.EAGAIN //nolint:errorlint // never wrapped
			}
			r.sent += n
		}
		return true
	}
	return r
}

// Raw returns the connection's descriptor for other calls.
func (c *Conn) Raw() syscall.RawConn { return c.raw }

// Read implements io.Reader.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.in, c.got, c.rerr = p, 0, nil
	err := c.raw.Read(c.read)
	c.in = nil
	switch {
	case err != nil:
		return 0, err
	case c.rerr != nil:
		return 0, os.NewSyscallError("read", c.rerr)
	case c.got == 0:
		return 0, io.EOF
	}
	return c.got, nil
}

// Write implements io.Writer.
func (c *Conn) Write(p []byte) (int, error) {
	c.out, c.sent, c.werr = p, 0, nil
	err := c.raw.Write(c.write)
	c.out = nil
	switch {
	case err != nil:
		return c.sent, err
	case c.werr != nil:
		return c.sent, os.NewSyscallError("write", c.werr)
	}
	return c.sent, nil
}
