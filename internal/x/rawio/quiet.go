// SPDX-License-Identifier: Apache-2.0

package rawio

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Quiet makes of c a connection that wakes nobody in vain.
//
// The runtime's poller asks for news of both ways of each connection, and a Unix socket has
// news each time that the other side has read something: who waits for an answer was woken
// when the request had been taken, for nothing, and once more for the answer. A quiet
// connection is not in that poller. There is one of its own there, which holds nothing but
// the input of this connection, and one for its output from the first write on that has to
// wait. So it costs a descriptor more.
//
// One goroutine may read and another one write; anyone may set deadlines and close. From
// here on c is not its caller's. Where the system has no such poller to give, c itself is
// returned.
func Quiet(c *net.UnixConn) net.Conn {
	s := &socket{fd: -1}
	s.try = func(uintptr) { s.done = s.f(uintptr(s.fd)) }
	raw, err := c.SyscallConn()
	if err != nil {
		return c
	}
	if cerr := raw.Control(func(fd uintptr) { s.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil || err != nil {
		return c
	}
	if s.in, err = s.way(unix.EPOLLIN | unix.EPOLLRDHUP); err != nil {
		_ = unix.Close(s.fd)
		return c
	}
	q := &quiet{Conn: over(s), socket: s, local: c.LocalAddr(), remote: c.RemoteAddr()}
	_ = c.Close() // one of two names; by that the socket leaves the runtime's poller
	return q
}

// quiet implements net.Conn and syscall.Conn.
type quiet struct {
	*Conn
	*socket
	local, remote net.Addr
}

// Read and Write implement net.Conn.
func (q *quiet) Read(p []byte) (int, error)  { return q.Conn.Read(p) }
func (q *quiet) Write(p []byte) (int, error) { return q.Conn.Write(p) }

// SyscallConn implements syscall.Conn.
func (q *quiet) SyscallConn() (syscall.RawConn, error) { return q.socket, nil }

// LocalAddr and RemoteAddr implement net.Conn.
func (q *quiet) LocalAddr() net.Addr  { return q.local }
func (q *quiet) RemoteAddr() net.Addr { return q.remote }

// SetDeadline implements net.Conn.
func (q *quiet) SetDeadline(t time.Time) error {
	if err := q.SetReadDeadline(t); err != nil {
		return err
	}
	return q.SetWriteDeadline(t)
}

// CloseWrite tells the other side that nothing more comes.
func (q *quiet) CloseWrite() error {
	var err error
	if cerr := q.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_WR) }); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("shutdown", err)
}

// socket implements syscall.RawConn for a descriptor that is in no poller of the runtime's.
type socket struct {
	fd int
	in *way // every use of fd is one of in or out, so that nobody closes it meanwhile

	// try is the first step of a write, made once; f and done are its.
	try  func(uintptr)
	f    func(uintptr) bool
	done bool

	mu      sync.Mutex
	closed  bool
	out     *way
	writeBy time.Time
}

// way is a poller that holds one way of a socket, and is in the runtime's.
type way struct {
	file *os.File
	raw  syscall.RawConn
	step func(uintptr) bool // made once; it calls f with the socket
	f    func(uintptr) bool // of the call under way
}

func (s *socket) way(events uint32) (*way, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	err = unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, s.fd, &unix.EpollEvent{Events: events})
	if err == nil {
		err = unix.SetNonblock(fd, true) // else os would keep it out of the runtime's poller
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	w := &way{file: os.NewFile(uintptr(fd), "poller")}
	w.step = func(uintptr) bool { return w.f(uintptr(s.fd)) }
	if w.raw, err = w.file.SyscallConn(); err == nil {
		err = w.file.SetReadDeadline(time.Time{}) // fails when it is in no poller
	}
	if err != nil {
		_ = w.file.Close()
		return nil, err
	}
	return w, nil
}

// until calls f until it returns true: now, and each time that there is news.
func (w *way) until(f func(uintptr) bool) error {
	w.f = f
	return told(w.raw.Read(w.step))
}

// told makes an error of a way one of a connection.
func told(err error) error {
	if err == nil || os.IsTimeout(err) {
		return err
	}
	return net.ErrClosed
}

// Control implements syscall.RawConn.
func (s *socket) Control(f func(uintptr)) error {
	return told(s.in.raw.Control(func(uintptr) { f(uintptr(s.fd)) }))
}

// Read implements syscall.RawConn.
func (s *socket) Read(f func(uintptr) bool) error { return s.in.until(f) }

// Write implements syscall.RawConn.
func (s *socket) Write(f func(uintptr) bool) error {
	s.mu.Lock()
	out, by := s.out, s.writeBy
	s.mu.Unlock()
	if out == nil {
		if !by.IsZero() && !time.Now().Before(by) {
			return os.ErrDeadlineExceeded
		}
		s.f, s.done = f, false
		if err := told(s.in.raw.Control(s.try)); err != nil || s.done {
			return err
		}
		var err error
		if out, err = s.output(); err != nil {
			return err
		}
	}
	return out.until(f)
}

// output opens the poller of the output.
func (s *socket) output() (*way, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	out, err := s.way(unix.EPOLLOUT)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create", err)
	}
	if s.out = out; !s.writeBy.IsZero() {
		err = told(out.file.SetReadDeadline(s.writeBy))
	}
	return out, err
}

// SetReadDeadline implements net.Conn.
func (s *socket) SetReadDeadline(t time.Time) error { return told(s.in.file.SetReadDeadline(t)) }

// SetWriteDeadline implements net.Conn.
func (s *socket) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if s.writeBy = t; s.out == nil {
		return nil
	}
	return told(s.out.file.SetReadDeadline(t))
}

// Close implements net.Conn. It ends what waits.
func (s *socket) Close() error {
	s.mu.Lock()
	closed, out := s.closed, s.out
	s.closed = true
	s.mu.Unlock()
	if closed {
		return net.ErrClosed
	}
	_ = s.in.file.Close() // both wait for the calls under way
	if out != nil {
		_ = out.file.Close()
	}
	return os.NewSyscallError("close", unix.Close(s.fd))
}
