// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"panal/internal/logs"
	"panal/internal/logs/spool"
)

// labels say in printed lines what they belong to.
type labels struct {
	Service    string `json:"service_id,omitempty"`
	Job        string `json:"training_job_id,omitempty"`
	Org        string `json:"organization_id,omitempty"`
	Deployment string `json:"deployment_id,omitempty"`
}

// sink is where all lines go: the spool, or standard output when nobody takes
// log lines over the network (a container without workload id).
type sink struct {
	spool *spool.Spool // nil: out
	out   io.Writer
	labels
	// ctx ends waiting for room; what is left then is written to the reserve.
	ctx context.Context

	mu     sync.Mutex
	tail   []string
	size   int
	export *os.File // job flag export_log; nil if off
	lost   int      // lines of the agent that found no room
}

// maxTail bounds the lines that go with an exit.
const maxTail = 4 << 10

// user takes lines of user code, and waits while there is no room.
func (s *sink) user(entries []logs.Entry) {
	s.remember(entries)
	if s.spool == nil {
		s.print(entries)
		return
	}
	for {
		n, err := s.spool.Append(s.ctx, entries...)
		entries = entries[n:]
		if err == nil {
			return
		}
		if s.ctx.Err() != nil || errors.Is(err, os.ErrClosed) {
			_ = s.spool.AppendNow(entries...) // at the end: as much as there is room for
			return
		}
		select { // a full disk: user code waits, as with a full spool
		case <-time.After(500 * time.Millisecond):
		case <-s.ctx.Done():
		}
	}
}

// say takes a line of the agent itself; it never waits.
func (s *sink) say(level, format string, args ...any) {
	s.sayFor("", level, format, args...)
}

func (s *sink) sayFor(requestID, level, format string, args ...any) {
	var entries []logs.Entry
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		if msg := message([]byte(strings.TrimSuffix(line, "\n"))); msg != "" {
			entries = append(entries, logs.Entry{Time: time.Now().UnixMicro(), Level: level, Message: msg[:min(len(msg), logs.MaxMessageBytes)], RequestID: requestID})
		}
	}
	s.remember(entries)
	if s.spool == nil {
		s.print(entries)
		return
	}
	if s.spool.AppendNow(entries...) != nil {
		s.mu.Lock()
		s.lost += len(entries)
		s.mu.Unlock()
	}
}

// remember keeps the last lines for the exit, and copies lines to the export.
func (s *sink) remember(entries []logs.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.export != nil {
		for _, e := range entries {
			_, _ = fmt.Fprintln(s.export, e.Message)
		}
	}
	for _, e := range entries[max(0, len(entries)-maxTail/2):] {
		msg := e.Message
		if len(msg) > 1000 {
			msg = strings.ToValidUTF8(msg[:1000], "") + "…"
		}
		s.tail = append(s.tail, msg)
		s.size += len(msg) + 1
		for s.size > maxTail {
			s.size -= len(s.tail[0]) + 1
			s.tail = s.tail[1:]
		}
	}
}

func (s *sink) lastLines() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.tail, "\n")
}

// print writes lines in the form of compute.md §13.12.
func (s *sink) print(entries []logs.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	enc := json.NewEncoder(s.out)
	enc.SetEscapeHTML(false)
	for _, e := range entries {
		_ = enc.Encode(struct {
			Time    string `json:"timestamp"`
			Level   string `json:"log_level"`
			Message string `json:"message"`
			Version string `json:"version"`
			labels
			RequestID string `json:"request_id,omitempty"`
		}{e.When().Format("2006-01-02T15:04:05.000-07:00"), e.Level, e.Message, protocolVersion, s.labels, e.RequestID})
	}
}

// exportTo copies all lines to a file in the result directory from now on.
func (s *sink) exportTo(f *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.export = f
}

func (s *sink) endExport() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.export != nil {
		_ = s.export.Close()
		s.export = nil
	}
}

// lastError returns the last line that says ERROR, else the last line.
func (s *sink) lastError() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range slices.Backward(s.tail) {
		if strings.Contains(v, "ERROR") {
			return v
		}
	}
	if len(s.tail) == 0 {
		return ""
	}
	return s.tail[len(s.tail)-1]
}
