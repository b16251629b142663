// SPDX-License-Identifier: Apache-2.0

package rawio_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"panal/internal/x/rawio"
)

const patience = 20 * time.Second

// pair returns the two ends of a connection of each kind.
func pair(t *testing.T, network string) (a, b net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if a, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{a, b} {
		_ = c.SetDeadline(time.Now().Add(patience))
		t.Cleanup(func() { _ = c.Close() })
	}
	return a, b
}

func raw(t *testing.T, c net.Conn) *rawio.Conn {
	t.Helper()
	r, err := rawio.New(c.(syscall.Conn))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestBothWays: what goes in at one end comes out at the other, more than the kernel keeps,
// both ways at once, to its end.
func TestBothWays(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		a, b := pair(t, network)
		ends := []*rawio.Conn{raw(t, a), raw(t, b)}
		bodies := [2][]byte{make([]byte, 20<<20), make([]byte, 7<<20+1)}
		var all sync.WaitGroup
		for i, c := range []net.Conn{a, b} {
			_, _ = rand.Read(bodies[i])
			all.Go(func() {
				if n, err := ends[i].Write(bodies[i]); n != len(bodies[i]) || err != nil {
					t.Errorf("%s: wrote %d, %v", network, n, err)
				}
				_ = c.(interface{ CloseWrite() error }).CloseWrite()
			})
			all.Go(func() {
				got, err := io.ReadAll(ends[i])
				if want := bodies[1-i]; err != nil || sha256.Sum256(got) != sha256.Sum256(want) {
					t.Errorf("%s: read %d of %d, %v", network, len(got), len(want), err)
				}
			})
		}
		all.Wait()
	}
}

// TestDeadlines: a read and a write that wait end when the connection's deadline comes, or
// with the connection; so do those that begin after.
func TestDeadlines(t *testing.T) {
	a, _ := pair(t, "tcp")
	r := raw(t, a)
	_ = a.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	_ = a.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	for range 2 {
		if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %d, %v", n, err)
		}
		if n, err := r.Write(make([]byte, 64<<20)); n == 64<<20 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %d, %v", n, err)
		}
	}
	_ = a.SetDeadline(time.Now().Add(patience))
	read := make(chan error, 1)
	go func() { _, err := r.Read(make([]byte, 1)); read <- err }()
	time.Sleep(20 * time.Millisecond) // most often it waits by then
	_ = a.Close()
	if err := <-read; err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read of a closed connection: %v", err)
	}
	if _, err := r.Write([]byte("x")); err == nil {
		t.Error("a closed connection was written to")
	}
}

// TestEnds: the other side's end is io.EOF; its abrupt end is an error of both calls.
func TestEnds(t *testing.T) {
	a, b := pair(t, "tcp")
	r := raw(t, a)
	if n, err := r.Read(nil); n != 0 || err != nil {
		t.Errorf("a read of nothing: %d, %v", n, err)
	}
	if n, err := r.Write(nil); n != 0 || err != nil {
		t.Errorf("a write of nothing: %d, %v", n, err)
	}
	_, _ = b.Write([]byte("last"))
	_ = b.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(r); !bytes.Equal(got, []byte("last")) || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := r.Read(make([]byte, 1)); err != io.EOF { //nolint:errorlint // the reader contract says this very value
		t.Errorf("behind the end: %v", err)
	}
	_ = b.(*net.TCPConn).SetLinger(0)
	_ = b.Close()
	var err error
	for range 100 {
		if _, err = r.Write([]byte("x")); err != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a write to nobody: %v", err)
	}
}

// TestNoObjects: neither call makes any.
func TestNoObjects(t *testing.T) {
	a, b := pair(t, "unix")
	from, to := raw(t, a), raw(t, b)
	p, q := []byte("some bytes"), make([]byte, 64)
	if n := testing.AllocsPerRun(100, func() {
		_, _ = from.Write(p)
		_, _ = to.Read(q)
	}); n > 0 {
		t.Errorf("%v objects", n)
	}
}
