// SPDX-License-Identifier: Apache-2.0

// Package accesslog writes a line of JSON per request to a file that rotates by size.
//
// A request never waits for it: lines go through a bounded queue, and what does not
// fit, or can't be written, is counted as dropped. A line holds names and figures
// alone: no query string, no header but the request id, no body.
package accesslog

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"panal/internal/plat"
)

const (
	queued     = 4096    // lines that wait for the disk, some MiB at most
	maxText    = 1 << 10 // bytes of one text; what is longer is cut
	flushAfter = time.Second
	retryAfter = 5 * time.Second // without a file
)

// Options shape a Log.
type Options struct {
	// Path is the file; older ones beside it are Path.1 (the newest) and so on.
	Path string
	// MaxBytes is when the file rotates, Keep how many older ones stay.
	MaxBytes int64
	Keep     int
	// Sample is the part of the requests that is written, 0 to 1. Those that the
	// server failed (5xx) are always written.
	Sample float64
}

// Entry is one request.
type Entry struct {
	Time      time.Time
	Took      time.Duration
	Request   string // its id
	Operation string
	Method    string
	Path      string // without the query
	Proto     string
	Status    int // 0: there was no answer
	Received  int64
	Sent      int64
	Peer      netip.Addr
	Org       plat.OrgID
	User      plat.UserID
	Async     string // the id of the asynchronous call that it began
}

// Log is an access log. The nil Log takes everything and writes nothing. Add is safe
// for concurrent use.
type Log struct {
	opt     Options
	lines   chan *[]byte
	bufs    sync.Pool
	written atomic.Int64
	dropped atomic.Int64
	over    atomic.Bool // Run has ended: what comes now is Carry's

	// Of Run alone.
	file *os.File
	out  *bufio.Writer
	size int64
	in   int64 // lines in out
}

// Open opens or makes the file.
func Open(opt Options) (*Log, error) {
	l := &Log{opt: opt, lines: make(chan *[]byte, queued)}
	l.bufs.New = func() any { b := make([]byte, 0, 512); return &b }
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

// Check tells whether Open could open the file, and makes it like Open. Another server may be
// writing to it.
func Check(path string) error {
	f, _, err := openFile(path)
	if err != nil {
		return err
	}
	return f.Close()
}

// Written and Dropped count lines.
func (l *Log) Written() int64 { return l.written.Load() }

// Dropped counts the lines that the queue had no room for, or that could not be written.
func (l *Log) Dropped() int64 { return l.dropped.Load() }

// Add writes e, or does not: see Options.Sample. It never waits.
func (l *Log) Add(e *Entry) {
	if l == nil || e.Status < 500 && l.opt.Sample < 1 && rand.Float64() >= l.opt.Sample {
		return
	}
	b := l.bufs.Get().(*[]byte)
	*b = e.append((*b)[:0], l.over.Load())
	select {
	case l.lines <- b:
	default:
		l.dropped.Add(1)
		l.bufs.Put(b)
	}
}

func (e *Entry) append(b []byte, carried bool) []byte {
	b = append(b, `{"time":"`...)
	b = e.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, '"')
	for _, f := range [...]struct{ name, value string }{
		{"request_id", e.Request},
		{"operation", e.Operation},
		{"method", e.Method},
		{"path", e.Path},
		{"proto", e.Proto},
		{"organization_id", string(e.Org)},
		{"user_id", string(e.User)},
	} {
		b = append(b, `,"`...)
		b = append(b, f.name...)
		b = append(b, `":`...)
		b = appendText(b, f.value)
	}
	b = append(b, `,"peer":"`...)
	if e.Peer.IsValid() {
		b = e.Peer.AppendTo(b)
	}
	b = append(b, `","status":`...)
	b = strconv.AppendInt(b, int64(e.Status), 10)
	b = append(b, `,"received":`...)
	b = strconv.AppendInt(b, e.Received, 10)
	b = append(b, `,"sent":`...)
	b = strconv.AppendInt(b, e.Sent, 10)
	b = append(b, `,"ms":`...)
	b = strconv.AppendFloat(b, float64(e.Took.Microseconds())/1000, 'f', 3, 64)
	if e.Async != "" {
		b = append(b, `,"async":`...)
		b = appendText(b, e.Async)
	}
	if carried {
		b = append(b, `,"carried":true`...)
	}
	return append(b, '}', '\n')
}

// appendText appends s as JSON. Most need no escape; a caller's may hold anything.
func appendText(b []byte, s string) []byte {
	if len(s) > maxText {
		s = s[:maxText]
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			quoted, err := json.Marshal(s) // also makes it valid UTF-8
			if err != nil {
				panic("BUG: accesslog: " + err.Error())
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// Run writes until ctx ends, and then what is queued. A file that can't be written
// costs its lines, which are counted; it is tried again. failed is told of it.
func (l *Log) Run(ctx context.Context, failed func(error)) error {
	tick := time.NewTicker(flushAfter)
	defer tick.Stop()
	var again time.Time
	put := func(b *[]byte) {
		if err := l.write(*b, &again); err != nil {
			failed(err)
		}
		l.bufs.Put(b)
	}
	for {
		select {
		case b := <-l.lines:
			put(b)
		case <-tick.C:
			if err := l.flush(); err != nil {
				failed(err)
			}
		case <-ctx.Done():
			l.over.Store(true)
			l.drain(put)
			return l.end()
		}
	}
}

// drain puts what is queued.
func (l *Log) drain(put func(b *[]byte)) {
	for {
		select {
		case b := <-l.lines:
			put(b)
		default:
			return
		}
	}
}

// Carry writes what comes after Run has ended, until ctx ends: the requests that outlive
// their server, marked as carried. The file is the next server's by then, which may
// rotate it at any time, so each line is put by itself at the end of what has the name.
func (l *Log) Carry(ctx context.Context, failed func(error)) {
	if l == nil {
		return
	}
	put := func(b *[]byte) {
		defer l.bufs.Put(b)
		f, err := os.OpenFile(l.opt.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.Write(*b)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			l.dropped.Add(1)
			failed(fmt.Errorf("write access log: %w", err))
			return
		}
		l.written.Add(1)
	}
	for {
		select {
		case b := <-l.lines:
			put(b)
		case <-ctx.Done():
			l.drain(put)
			return
		}
	}
}

// write puts one line into the file.
func (l *Log) write(line []byte, again *time.Time) error {
	if l.file == nil {
		if now := time.Now(); now.Before(*again) {
			l.dropped.Add(1)
			return nil
		} else if err := l.open(); err != nil {
			*again = now.Add(retryAfter)
			l.dropped.Add(1)
			return err
		}
	}
	if l.size > 0 && l.size+int64(len(line)) > l.opt.MaxBytes {
		if err := errors.Join(l.end(), l.rotate(), l.open()); err != nil {
			l.dropped.Add(1)
			return err
		}
	}
	if l.out.Available() < len(line) { // lines reach the file whole: others may append to it
		if err := l.flush(); err != nil {
			l.dropped.Add(1)
			return err
		}
	}
	l.size += int64(len(line))
	l.in++
	if _, err := l.out.Write(line); err != nil {
		return l.lose(err)
	}
	return nil
}

func (l *Log) flush() error {
	if l.file == nil || l.in == 0 {
		return nil
	}
	if err := l.out.Flush(); err != nil {
		return l.lose(err)
	}
	l.written.Add(l.in)
	l.in = 0
	return nil
}

// lose gives the file up with what was buffered; the next line opens it anew. A part
// of a line may be in it: it gets an end, so that the next one can be read.
func (l *Log) lose(err error) error {
	l.dropped.Add(l.in)
	l.in = 0
	_ = l.file.Close() // its error is the one we have
	l.file = nil
	return fmt.Errorf("write access log: %w", err)
}

func (l *Log) end() error {
	if l.file == nil {
		return nil
	}
	if err := l.flush(); err != nil {
		return err
	}
	err := l.file.Close()
	l.file = nil
	return err
}

func openFile(path string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: errors.New("is not a regular file")}
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

func (l *Log) open() error {
	f, info, err := openFile(l.opt.Path)
	if err != nil {
		return err
	}
	if info.Size() > 0 { // a crash, or a full disk, may have left half a line
		var last [1]byte
		if _, err = f.ReadAt(last[:], info.Size()-1); err == nil && last[0] != '\n' {
			_, err = f.WriteString("\n")
		}
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.file, l.size = f, info.Size()
	l.out = bufio.NewWriterSize(f, 64<<10)
	return nil
}

// rotate renames Path to Path.1, that to Path.2 and so on; the oldest one goes.
func (l *Log) rotate() error {
	name := func(i int) string {
		if i == 0 {
			return l.opt.Path
		}
		return l.opt.Path + "." + strconv.Itoa(i)
	}
	if err := os.Remove(name(l.opt.Keep)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for i := l.opt.Keep - 1; i >= 0; i-- {
		if err := os.Rename(name(i), name(i+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
