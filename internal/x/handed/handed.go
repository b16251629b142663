// SPDX-License-Identifier: Apache-2.0

// Package handed speaks the two protocols between a server and who started it:
// listening sockets that the starter holds (systemd's socket activation: LISTEN_FDS,
// LISTEN_FDNAMES, LISTEN_PID), and what the server tells of itself (sd_notify). Both
// ends are here, as panal supervise is a starter too.
//
// It is not go-systemd's activation: that demands LISTEN_PID, which a starter that
// forks and executes in one step can't know, and its sockets have no close-on-exec flag
// before they are asked for.
package handed

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The variables of both protocols.
const (
	envFDs    = "LISTEN_FDS"
	envNames  = "LISTEN_FDNAMES"
	envPID    = "LISTEN_PID"
	envNotify = "NOTIFY_SOCKET"

	firstFD = 3
	maxFDs  = 16
)

// Sockets are listening sockets by name.
type Sockets map[string]net.Listener

// Take returns the listening sockets that the starter holds for this process; none
// when there is no such starter. Of a single one the name does not matter: it is
// called alone. It takes the variables out of the environment, so that no child
// of this process takes them for its own. Call it before anything opens files.
func Take(alone string) (Sockets, error) {
	text, pid, names := os.Getenv(envFDs), os.Getenv(envPID), os.Getenv(envNames)
	for _, name := range []string{envFDs, envPID, envNames} {
		if err := os.Unsetenv(name); err != nil {
			return nil, err
		}
	}
	if text == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) { // another process's
		return nil, nil //nolint:nilnil // no sockets
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxFDs {
		return nil, fmt.Errorf("%s=%q is no number of sockets from 0 to %d", envFDs, text, maxFDs)
	}
	named := strings.Split(names, ":")
	for fd := firstFD; fd < firstFD+n; fd++ {
		unix.CloseOnExec(fd)
	}
	all := Sockets{}
	for i := range n {
		name := alone
		if n > 1 {
			if i >= len(named) || named[i] == "" {
				return nil, fmt.Errorf("%s=%q does not name all of the %d sockets", envNames, names, n)
			}
			name = named[i]
		}
		l, err := listener(firstFD+i, name)
		if err != nil {
			return nil, err
		}
		if all[name] != nil {
			return nil, fmt.Errorf("%s=%q has the name %q twice", envNames, names, name)
		}
		all[name] = l
	}
	return all, nil
}

func listener(fd int, name string) (net.Listener, error) {
	if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on == 0 {
		return nil, fmt.Errorf("descriptor %d (%s) of %s is no listening socket", fd, name, envFDs)
	}
	f := os.NewFile(uintptr(fd), name)
	l, err := net.FileListener(f) // has a descriptor of its own
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("descriptor %d (%s) of %s: %w", fd, name, envFDs, err)
	}
	if _, ok := l.(*net.TCPListener); !ok {
		return nil, fmt.Errorf("descriptor %d (%s) of %s is no TCP socket", fd, name, envFDs)
	}
	return l, nil
}

// Env returns the variables that hand sockets of these names, in this order, to a
// child: its descriptors 3 and on (exec.Cmd.ExtraFiles).
func Env(names []string) []string {
	return []string{envFDs + "=" + strconv.Itoa(len(names)), envNames + "=" + strings.Join(names, ":"), envPID + "="}
}

// What a server tells its starter.
const (
	// Ready: it answers requests.
	Ready = "READY=1"
	// Stopping: it has begun to end.
	Stopping = "STOPPING=1"
	// Waiting: it would be ready but for the server before it, which still has the
	// data directory.
	Waiting = "X_PANAL_WAITING=1"
)

// Notifier tells the starter. The zero value tells nobody.
type Notifier struct{ to string }

// NewNotifier takes the starter's address out of the environment.
func NewNotifier() (Notifier, error) {
	n := Notifier{os.Getenv(envNotify)}
	return n, os.Unsetenv(envNotify)
}

// Tell tells the starter, if it wants to know. A starter that has gone is no error
// of the server.
func (n Notifier) Tell(state string) error {
	if n.to == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.to, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify %s: %w", n.to, err)
	}
	_, err = c.Write([]byte(state))
	if cerr := c.Close(); err == nil {
		err = cerr
	}
	return err
}

// Ear is the starter's end.
type Ear struct{ c *net.UnixConn }

// Listen opens a starter's end at a path.
func Listen(path string) (*Ear, error) {
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	return &Ear{c}, nil
}

// Env is the variable that tells a child of it.
func (e *Ear) Env() string { return envNotify + "=" + e.c.LocalAddr().String() }

// Next returns the next thing that was told, one state at a time.
func (e *Ear) Next() ([]string, error) {
	b := make([]byte, 4096)
	n, err := e.c.Read(b)
	return strings.Split(strings.TrimSpace(string(b[:n])), "\n"), err
}

// Close ends Next.
func (e *Ear) Close() error { return e.c.Close() }
