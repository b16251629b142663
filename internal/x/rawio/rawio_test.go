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

// quietUnix is a Unix connection whose ends are quiet.
const quietUnix = "quiet"

// pair returns the two ends of a connection of each kind.
func pair(t *testing.T, network string) (a, b net.Conn) {
	t.Helper()
	quiet := network == quietUnix
	address := "127.0.0.1:0"
	if network != "tcp" {
		network, address = "unix", filepath.Join(t.TempDir(), "s")
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
	if quiet {
		a, b = rawio.Quiet(a.(*net.UnixConn)), rawio.Quiet(b.(*net.UnixConn))
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
	for _, network := range []string{"tcp", "unix", quietUnix} {
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
	for _, network := range []string{"tcp", quietUnix} {
		a, _ := pair(t, network)
		r := raw(t, a)
		_ = a.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_ = a.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		for range 2 {
			if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: read: %d, %v", network, n, err)
			}
			if n, err := r.Write(make([]byte, 64<<20)); n == 64<<20 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: write: %d, %v", network, n, err)
			}
		}
		// They may be moved while somebody waits.
		_ = a.SetDeadline(time.Now().Add(patience))
		var waiting sync.WaitGroup
		waiting.Go(func() {
			if _, err := r.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: read with a deadline that moved: %v", network, err)
			}
		})
		waiting.Go(func() {
			if _, err := r.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: write with a deadline that moved: %v", network, err)
			}
		})
		time.Sleep(20 * time.Millisecond) // most often they wait by then
		_ = a.SetDeadline(time.Now())
		waiting.Wait()

		_ = a.SetDeadline(time.Now().Add(patience))
		ended := make(chan error, 2)
		go func() { _, err := r.Read(make([]byte, 1)); ended <- err }()
		go func() { _, err := r.Write(make([]byte, 64<<20)); ended <- err }()
		time.Sleep(20 * time.Millisecond) // as above
		_ = a.Close()
		for range 2 {
			if err := <-ended; err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: call of a closed connection: %v", network, err)
			}
		}
		if _, err := r.Write([]byte("x")); err == nil {
			t.Errorf("%s: a closed connection was written to", network)
		}
		if _, err := r.Read(make([]byte, 1)); err == nil || err == io.EOF { //nolint:errorlint // the reader contract says this very value
			t.Errorf("%s: read of a closed connection: %v", network, err)
		}
		if a.SetDeadline(time.Now()) == nil || a.Close() == nil {
			t.Errorf("%s: a closed connection took a deadline, or another close", network)
		}
	}
}

// TestEnds: the other side's end is io.EOF; its abrupt end is an error of both calls.
func TestEnds(t *testing.T) {
	for _, network := range []string{"tcp", quietUnix} {
		a, b := pair(t, network)
		r := raw(t, a)
		if n, err := r.Read(nil); n != 0 || err != nil {
			t.Errorf("%s: a read of nothing: %d, %v", network, n, err)
		}
		if n, err := r.Write(nil); n != 0 || err != nil {
			t.Errorf("%s: a write of nothing: %d, %v", network, n, err)
		}
		_, _ = b.Write([]byte("last"))
		_ = b.(interface{ CloseWrite() error }).CloseWrite()
		if got, err := io.ReadAll(r); !bytes.Equal(got, []byte("last")) || err != nil {
			t.Errorf("%s: %q, %v", network, got, err)
		}
		if _, err := r.Read(make([]byte, 1)); err != io.EOF { //nolint:errorlint // the reader contract says this very value
			t.Errorf("%s: behind the end: %v", network, err)
		}
		if tcp, ok := b.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = b.Close()
		var err error
		for range 100 {
			if _, err = r.Write([]byte("x")); err != nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("%s: a write to nobody: %v", network, err)
		}
	}
}

// TestCloseBesideAll: a connection may be closed at any moment of its use, and no descriptor
// is left or used by a later connection's name.
func TestCloseBesideAll(t *testing.T) {
	before := descriptors(t)
	for i := range 300 {
		a, b := pair(t, quietUnix)
		r := raw(t, a)
		var all sync.WaitGroup
		all.Go(func() { _, _ = r.Write(make([]byte, 1<<20)) })
		all.Go(func() { _, _ = io.Copy(io.Discard, r) })
		all.Go(func() { _, _ = b.Write(make([]byte, 64<<10)); _, _ = io.CopyN(io.Discard, b, int64(i)<<10) })
		all.Go(func() { _ = a.SetDeadline(time.Now().Add(patience)) })
		if i%3 > 0 {
			time.Sleep(time.Duration(i) * time.Microsecond)
		}
		all.Go(func() { _ = a.Close() })
		_ = a.Close()
		_ = b.Close()
		all.Wait()
	}
	if after := descriptors(t); after > before+5 {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

// TestNoObjects: neither call makes any.
func TestNoObjects(t *testing.T) {
	for _, network := range []string{"unix", quietUnix} {
		a, b := pair(t, network)
		from, to := raw(t, a), raw(t, b)
		p, q := []byte("some bytes"), make([]byte, 64)
		if n := testing.AllocsPerRun(100, func() {
			_, _ = from.Write(p)
			_, _ = to.Read(q)
		}); n > 0 {
			t.Errorf("%s: %v objects", network, n)
		}
	}
}
