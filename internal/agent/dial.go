// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"panal/internal/plat"
	"panal/internal/runner/agentctl"
)

// A workload that runs a command has a loopback network of its own, so that
// nobody else can reach the command's port. What its agent needs of the world
// (code, model, logs, packages) goes through connections that a helper makes on
// the machine's network and passes over: `panal agent dial`, started by the runner
// with the agent's own identity and walls. It gives a workload nothing that one
// without such a network does not have.
//
// A request is one message: network, space, address; with it comes the socket that
// the answer goes to, one message too: empty with the connection, or the reason why
// there is none.
const (
	maxDialMessage = 512
	dialTimeout    = 30 * time.Second
	// maxDials bounds the connections that are being made at a time.
	maxDials = 64
)

// dialMain is the helper. It ends when the agent has.
func dialMain(environ []string, stderr io.Writer) int {
	// Its memory holds nothing of worth, but a process that can be traced is one
	// more thing to reason about.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return notBegun(nil, stderr, err)
	}
	conn, err := dialSocketOf(environ)
	if err == nil && conn == nil {
		err = plat.Errorf(plat.ErrInvalid, "panal agent dial is started by the runner alone")
	}
	if err != nil {
		return notBegun(nil, stderr, err)
	}
	defer func() { _ = conn.Close() }()
	room := make(chan struct{}, maxDials)
	for {
		msg, files, err := receive(conn)
		if err != nil {
			return 0
		}
		if len(files) != 1 {
			closeFiles(files)
			continue
		}
		room <- struct{}{}
		go func() {
			defer func() { <-room }()
			answerDial(string(msg), files[0])
		}()
	}
}

// answerDial makes one connection and hands it over.
func answerDial(msg string, reply *os.File) {
	defer func() { _ = reply.Close() }()
	network, address, _ := strings.Cut(msg, " ")
	conn, err := dialTCP(network, address)
	var rights []byte
	text := []byte{0}
	if err == nil {
		defer func() { _ = conn.Close() }()
		var f *os.File
		if f, err = conn.File(); err == nil {
			defer func() { _ = f.Close() }()
			rights = unix.UnixRights(int(f.Fd()))
		}
	}
	if err != nil {
		text = []byte(err.Error())
		text = text[:min(len(text), maxDialMessage)]
	}
	_ = unix.Sendmsg(int(reply.Fd()), text, rights, nil, unix.MSG_NOSIGNAL) // the agent may have given up
}

func dialTCP(network, address string) (*net.TCPConn, error) {
	if network != "tcp" && network != "tcp4" && network != "tcp6" {
		return nil, plat.Errorf(plat.ErrInvalid, "network %q is none of the helper's", network)
	}
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.Dial(network, address)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// dialer asks the helper for connections. A nil one dials by itself.
type dialer struct{ conn *net.UnixConn }

// dialSocketOf returns the socket between agent and helper that the environment
// names; nil when it names none.
func dialSocketOf(environ []string) (*net.UnixConn, error) {
	for _, kv := range environ {
		text, ok := strings.CutPrefix(kv, agentctl.EnvDialFD+"=")
		if !ok {
			continue
		}
		fd, err := strconv.Atoi(text)
		if err != nil || fd < 3 {
			return nil, plat.Errorf(plat.ErrInvalid, "%s is no file descriptor", agentctl.EnvDialFD)
		}
		return unixConn(os.NewFile(uintptr(fd), "dial"))
	}
	return nil, nil
}

// unixConn takes a file over as a connection.
func unixConn(f *os.File) (*net.UnixConn, error) {
	if f == nil {
		return nil, errors.New("the file descriptor is not open")
	}
	defer func() { _ = f.Close() }()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("the file descriptor is no Unix socket"), c.Close())
	}
	return uc, nil
}

// DialContext has the helper make a connection.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if d == nil {
		var own net.Dialer
		return own.DialContext(ctx, network, address)
	}
	msg := network + " " + address
	if len(msg) > maxDialMessage {
		return nil, plat.Errorf(plat.ErrInvalid, "the address is too long")
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	mine, err := unixConn(os.NewFile(uintptr(ends[0]), "reply"))
	if err != nil {
		return nil, errors.Join(err, unix.Close(ends[1]))
	}
	defer func() { _ = mine.Close() }()
	_, _, err = d.conn.WriteMsgUnix([]byte(msg), unix.UnixRights(ends[1]), nil)
	if err = errors.Join(err, unix.Close(ends[1])); err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	if err := mine.SetReadDeadline(time.Now().Add(dialTimeout + 5*time.Second)); err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = mine.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	text, files, err := receive(mine)
	switch {
	case ctx.Err() != nil:
		closeFiles(files)
		return nil, ctx.Err()
	case err != nil:
		return nil, fmt.Errorf("dial %s: %w", address, err)
	case len(files) != 1:
		closeFiles(files)
		return nil, fmt.Errorf("dial %s: %s", address, text)
	}
	defer closeFiles(files)
	return net.FileConn(files[0])
}

// receive reads one message and the files that came with it.
func receive(c *net.UnixConn) ([]byte, []*os.File, error) {
	msg, oob := make([]byte, maxDialMessage), make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := c.ReadMsgUnix(msg, oob)
	if err != nil {
		return nil, nil, err
	}
	var files []*os.File
	if cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil {
		for _, m := range cmsgs {
			fds, err := unix.ParseUnixRights(&m)
			if err != nil {
				continue
			}
			for _, fd := range fds {
				syscall.CloseOnExec(fd)
				files = append(files, os.NewFile(uintptr(fd), "passed"))
			}
		}
	}
	if n == 0 && len(files) == 0 {
		return nil, nil, io.EOF
	}
	return msg[:n], files, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
