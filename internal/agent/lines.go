// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"panal/internal/logs"
)

// lineReader turns one output pipe of a child into log entries.
//
// It knows which request a line belongs to by position: tag notes how many bytes
// had been written when the request began or ended, and a line belongs to the
// request in whose span it begins. That is exact while the program writes what
// it prints at once, which PYTHONUNBUFFERED makes it do.
type lineReader struct {
	file  *os.File
	conn  syscall.RawConn
	level string
	sink  *sink

	mu    sync.Mutex // of reading and of what follows
	read  int64      // bytes taken from the pipe
	spans []span

	line    []byte // the unfinished line
	start   int64  // where it begins
	dropped int64  // bytes of it that were thrown away
	entries []logs.Entry
}

type span struct {
	from int64
	id   string
}

// idleAfterExit is how long a pipe that outlives its program (some orphan holds
// it) may be silent before it is given up.
const idleAfterExit = 2 * time.Second

func newLineReader(f *os.File, level string, s *sink) (*lineReader, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &lineReader{file: f, conn: conn, level: level, sink: s}, nil
}

func (l *lineReader) tag(id string) {
	_ = l.conn.Control(func(fd uintptr) {
		l.mu.Lock()
		defer l.mu.Unlock()
		waiting, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		if err != nil {
			waiting = 0
		}
		l.spans = addSpan(l.spans, span{from: l.read + int64(waiting), id: id})
	})
}

// addSpan adds a span. One in which nothing was printed is forgotten, so that a
// program that is silent costs no memory.
func addSpan(all []span, s span) []span {
	if n := len(all); n > 0 && all[n-1].from == s.from {
		all[n-1] = s
		return all
	}
	return append(all, s)
}

// finish tells that the program ended: what is in the pipe is still read.
func (l *lineReader) finish() { _ = l.file.SetReadDeadline(time.Now().Add(idleAfterExit)) }

// run reads until the end of the pipe. It takes no more while the spool is full,
// so a program that prints too much waits.
func (l *lineReader) run() {
	defer func() { _ = l.file.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := l.take(buf, l.conn.Read)
		if n > 0 {
			l.feed(buf[:n])
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// The program is gone: what it had written is still there to take.
			for range 64 {
				if n, err = l.take(buf, l.control); n <= 0 || err != nil {
					break
				}
				l.feed(buf[:n])
			}
		} else if n > 0 && err == nil {
			continue
		}
		break
	}
	if len(l.line) > 0 || l.dropped > 0 {
		l.end()
		l.flush()
	}
}

// take reads once without blocking inside the system call, so that the lock is
// only held for the moment of reading.
func (l *lineReader) take(buf []byte, with func(func(uintptr) bool) error) (int, error) {
	n := 0
	var rerr error
	err := with(func(fd uintptr) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		n, rerr = unix.Read(int(fd), buf)
		if n > 0 {
			l.read += int64(n)
		}
		return !errors.Is(rerr, unix.EAGAIN) && !errors.Is(rerr, unix.EINTR)
	})
	return max(n, 0), errors.Join(err, rerr)
}

func (l *lineReader) control(f func(uintptr) bool) error {
	return l.conn.Control(func(fd uintptr) { f(fd) })
}

func (l *lineReader) feed(p []byte) {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			l.add(p)
			break
		}
		l.add(p[:i])
		l.end()
		l.start++
		p = p[i+1:]
	}
	l.flush()
}

func (l *lineReader) add(p []byte) {
	// One byte over the limit is kept to know that the line is too long.
	room := min(len(p), logs.MaxMessageBytes+1-len(l.line))
	l.line = append(l.line, p[:room]...)
	l.dropped += int64(len(p) - room)
}

// end makes an entry of the line.
func (l *lineReader) end() {
	size := int64(len(l.line)) + l.dropped
	id := l.owner(l.start)
	l.start += size
	msg, level := message(l.line), l.level
	if l.dropped > 0 || len(msg) > logs.MaxMessageBytes {
		msg, level = fmt.Sprintf("a line of %d bytes was left out: the limit is %d KiB", size, logs.MaxMessageBytes>>10), "warning"
	} else if msg != "" {
		level = lineLevel(msg, level)
	}
	l.line, l.dropped = l.line[:0], 0
	if msg != "" {
		l.entries = append(l.entries, logs.Entry{Time: time.Now().UnixMicro(), Level: level, Message: msg, RequestID: id})
	}
}

func (l *lineReader) flush() {
	if len(l.entries) > 0 {
		l.sink.user(l.entries)
		clear(l.entries)
		l.entries = l.entries[:0]
	}
	if cap(l.line) > 64<<10 && len(l.line) == 0 {
		l.line = nil
	}
}

// owner returns the request of a line that begins at the position, and forgets
// the spans before it.
func (l *lineReader) owner(at int64) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.spans) > 1 && l.spans[1].from <= at {
		l.spans = l.spans[1:]
	}
	if len(l.spans) == 0 || l.spans[0].from > at {
		return ""
	}
	return l.spans[0].id
}

// message cleans a line: valid UTF-8, no NUL, no carriage return; empty if blank.
func message(line []byte) string {
	s := strings.TrimSuffix(string(line), "\r")
	if strings.TrimSpace(s) == "" {
		return ""
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// lineLevel honours the log_level of a line that is a JSON object.
func lineLevel(msg, level string) string {
	if msg[0] != '{' || !strings.Contains(msg, `"log_level"`) {
		return level
	}
	var l struct {
		Level string `json:"log_level"`
	}
	if json.Unmarshal([]byte(msg), &l) != nil {
		return level
	}
	switch strings.ToLower(l.Level) {
	case "debug", "trace":
		return "debug"
	case "info", "notice":
		return "info"
	case "warning", "warn":
		return "warning"
	case "error", "critical", "fatal", "panic":
		return "error"
	}
	return level
}
