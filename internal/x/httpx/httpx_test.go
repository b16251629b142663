// SPDX-License-Identifier: Apache-2.0

package httpx_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"panal/internal/x/httpx"
)

func TestParseRange(t *testing.T) {
	for _, c := range []struct {
		h      string
		size   int64
		off, n int64
		ok     bool
	}{
		{"", 10, 0, 10, true},
		{"bytes=0-3", 10, 0, 4, true},
		{"bytes=3-", 10, 3, 7, true},
		{"bytes=-4", 10, 6, 4, true},
		{"bytes=-40", 10, 0, 10, true},
		{"bytes=8-40", 10, 8, 2, true},
		{"bytes=10-", 10, 0, 0, false},
		{"bytes=-0", 10, 0, 0, false},
		{"bytes=0-", 0, 0, 0, false},
		{"bytes=-1", 0, 0, 0, false},
		{"", 0, 0, 0, true},
		{"bytes=5-3", 10, 0, 10, true},                   // malformed: ignored
		{"bytes=0-1,3-4", 10, 0, 10, true},               // several: ignored
		{"lines=0-1", 10, 0, 10, true},                   // unknown unit: ignored
		{"bytes=x-1", 10, 0, 10, true},                   // nonsense: ignored
		{"bytes=--1", 10, 0, 10, true},                   // nonsense: ignored
		{"bytes=99999999999999999999-", 10, 0, 0, false}, // past the end, though no int64 holds it
	} {
		if off, n, ok := httpx.ParseRange(c.h, c.size); off != c.off || n != c.n || ok != c.ok {
			t.Errorf("ParseRange(%q, %d) = %d, %d, %v, want %d, %d, %v", c.h, c.size, off, n, ok, c.off, c.n, c.ok)
		}
	}
}

func FuzzParseRange(f *testing.F) {
	f.Add("bytes=0-3", int64(10))
	f.Fuzz(func(t *testing.T, h string, size int64) {
		if size < 0 {
			return
		}
		off, n, ok := httpx.ParseRange(h, size)
		if off < 0 || n < 0 || off+n > size || !ok && n != 0 {
			t.Errorf("ParseRange(%q, %d) = %d, %d, %v", h, size, off, n, ok)
		}
	})
}

// TestIdleReaderEndsAStalledBody: a client that sends nothing is cut, one that is
// slow but moves is not.
func TestIdleReaderEndsAStalledBody(t *testing.T) {
	got := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(httpx.IdleReader(w, r.Body, 200*time.Millisecond))
		got <- httpx.Body(err)
	}))
	defer srv.Close()
	send := func(pause time.Duration) error {
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n")
		for range 8 {
			time.Sleep(pause)
			if _, err := c.Write([]byte("x")); err != nil {
				break
			}
		}
		return <-got
	}
	if err := send(60 * time.Millisecond); err != nil { // longer in all than the limit
		t.Errorf("a slow body that moves: %v", err)
	}
	var be *httpx.BodyError
	if err := send(2 * time.Second); !errors.As(err, &be) {
		t.Errorf("a stalled body: %v, want a BodyError", err)
	}
}

// kernel takes files in pieces: each ends with the deadline.
type kernel struct {
	http.ResponseWriter
	got       bytes.Buffer
	piece     int64
	deadline  time.Time
	deadlines int
}

// ReadFrom implements io.ReaderFrom.
func (k *kernel) ReadFrom(r io.Reader) (int64, error) {
	if _, ok := r.(*io.LimitedReader).R.(*os.File); !ok {
		return 0, errors.New("no file")
	}
	n, err := k.got.ReadFrom(io.LimitReader(r, k.piece))
	if err == nil && n == k.piece {
		time.Sleep(time.Until(k.deadline))
		err = fmt.Errorf("send: %w", os.ErrDeadlineExceeded)
	}
	return n, err
}

// Write implements io.Writer.
func (k *kernel) Write(p []byte) (int, error) { return k.got.Write(p) }

// SetWriteDeadline implements the contract of http.ResponseController.
func (k *kernel) SetWriteDeadline(t time.Time) error {
	k.deadline = t
	k.deadlines++
	return nil
}

// TestFilesGoByTheKernel: a part of a file is handed on as such, and goes on
// after a deadline within which something moved; all else is written.
func TestFilesGoByTheKernel(t *testing.T) { synctest.Test(t, filesGoByTheKernel) }

func filesGoByTheKernel(t *testing.T) {
	const size = 3<<20 + 17
	content := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(content)
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		src  func(*os.File) io.Reader
		want []byte
	}{
		{"file", func(f *os.File) io.Reader { return &io.LimitedReader{R: f, N: size} }, content},
		{"part", func(f *os.File) io.Reader { return &io.LimitedReader{R: f, N: size - 100} }, content[:size-100]},
		{"more than there is", func(f *os.File) io.Reader { return &io.LimitedReader{R: f, N: size + 100} }, content},
		{"other", func(f *os.File) io.Reader { return struct{ io.Reader }{f} }, content},
	} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		k := &kernel{piece: 300_000}
		n, err := io.Copy(httpx.IdleWriter(k, time.Hour), c.src(f))
		if err != nil || n != int64(len(c.want)) || !bytes.Equal(k.got.Bytes(), c.want) {
			t.Errorf("%s: %d of %d bytes, %v", c.name, n, len(c.want), err)
		}
		if c.name == "file" && k.deadlines < size/300_000 {
			t.Errorf("%s: %d deadlines", c.name, k.deadlines)
		}
		// Nothing moved within the deadline: that is the end.
		k = &kernel{}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(httpx.IdleWriter(k, time.Hour), &io.LimitedReader{R: f, N: size}); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: a client that stands still: %d, %v", c.name, n, err)
		}
		_ = f.Close()
	}
}

// slow is a connection whose client takes a byte when a pause is over, and the first piece
// at once. A try ends with its deadline.
type slow struct {
	http.ResponseWriter
	deadline time.Time
	piece    int64
	pause    time.Duration // 0: nothing is taken any more
	next     time.Time
	flushed  int
}

// ReadFrom implements io.ReaderFrom.
func (s *slow) ReadFrom(r io.Reader) (sent int64, err error) {
	for {
		if s.piece > 0 {
			n, err := io.CopyN(io.Discard, r, s.piece)
			sent += n
			if errors.Is(err, io.EOF) { // the next try goes on
				s.piece -= n
				return sent, nil
			}
			s.piece, s.next = 0, time.Now().Add(s.pause)
		}
		if s.pause == 0 || s.next.After(s.deadline) {
			time.Sleep(time.Until(s.deadline))
			return sent, os.ErrDeadlineExceeded
		}
		time.Sleep(time.Until(s.next))
		s.piece = 1
	}
}

// FlushError implements the contract of http.ResponseController.
func (s *slow) FlushError() error {
	s.flushed++
	return nil
}

// SetWriteDeadline implements the contract of http.ResponseController.
func (s *slow) SetWriteDeadline(t time.Time) error {
	s.deadline = t
	return nil
}

// TestFilesOfThoseWhoStop: whoever stops taking a file is let go after the limit, whatever
// was sent before in the same try; whoever takes a byte now and then is not.
func TestFilesOfThoseWhoStop(t *testing.T) {
	const limit, size = time.Minute, 8 << 20
	send := func(s *slow, n int64) (sent int64, took time.Duration, err error) {
		f, err := os.Create(filepath.Join(t.TempDir(), "file"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		sent, err = io.Copy(httpx.IdleWriter(s, limit), &io.LimitedReader{R: f, N: n})
		return sent, time.Since(start), err
	}
	synctest.Test(t, func(t *testing.T) {
		for _, piece := range []int64{1 << 20, 5 << 20} {
			s := &slow{piece: piece}
			sent, took, err := send(s, size)
			if sent != piece || !errors.Is(err, os.ErrDeadlineExceeded) || took < limit || took > limit*3/2 {
				t.Errorf("a client that stops after %d bytes: %d sent in %v, %v", piece, sent, took, err)
			}
			if s.flushed != 1 {
				t.Errorf("%d flushes: the head must have left before what may be tried again", s.flushed)
			}
		}
		// Five bytes are left, each of them taken just within the limit.
		if sent, took, err := send(&slow{piece: size - 5, pause: limit - time.Second}, size); sent != size || err != nil {
			t.Errorf("a client that is slow: %d sent in %v, %v", sent, took, err)
		}
		s := &slow{piece: 1}
		if _, took, err := send(s, 100); !errors.Is(err, os.ErrDeadlineExceeded) || took > 3*limit || s.flushed != 0 {
			t.Errorf("a short file: %v, %v, %d flushes", took, err, s.flushed)
		}
	})
}
