// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Frames between agent and runtime (compute.md §13.4): AB E9 A0, version 01,
// length, JSON.
const frameHead = "\xAB\xE9\xA0\x01"

const maxFrame = 16 << 20

// runtimeRequest is the JSON of a request frame.
type runtimeRequest struct {
	Method      string           `json:"method"`
	ContentType string           `json:"content_type"`
	Headers     []runtimeHeader  `json:"headers"`
	Contents    []runtimeContent `json:"contents"`

	small []byte // follows the frame: the content that says "inline"
}

type runtimeHeader struct {
	Key    string   `json:"key"`
	Values []string `json:"values"`
}

type runtimeContent struct {
	Path string `json:"path"`
	// Inline, of our own runtime, is the length of a body that follows the frame
	// instead of being a file.
	Inline      *int   `json:"inline,omitempty"`
	ContentType string `json:"content_type,omitempty"`
	FileName    string `json:"file_name,omitempty"`
	FormName    string `json:"form_name,omitempty"`
}

// runtimeResponse is the JSON of a response frame.
type runtimeResponse struct {
	StatusCode   *int              `json:"status_code"`
	ContentType  *string           `json:"content_type"`
	Metadata     map[string]string `json:"metadata"`
	Path         *string           `json:"path"`
	ErrorMessage string            `json:"error_message"`
	// Of our own runtime: a body of so many bytes follows the frame, or the pieces
	// of one that a generator makes (stream).
	Inline int  `json:"inline"`
	Stream bool `json:"stream"`

	small []byte // the inline body
}

func (r runtimeResponse) status() int {
	if r.StatusCode == nil {
		return http.StatusOK
	}
	return *r.StatusCode
}

// kind is the answer's Content-Type. It is never empty: net/http would guess one.
func (r runtimeResponse) kind() string {
	if r.ContentType == nil {
		return "application/json"
	}
	return orDefault(strings.Map(printable, *r.ContentType), "application/octet-stream")
}

// bare tells that the answer has no body whatever user code says.
func (r runtimeResponse) bare() bool {
	return r.status() == http.StatusNoContent || r.status() == http.StatusNotModified
}

// maxInline bounds a body that follows its frame, either way.
const maxInline = 64 << 10

// stopFrame tells the runtime that nobody wants the rest of a stream. It ignores
// one that comes too late.
type stopFrame struct {
	Stop bool `json:"stop"`
}

// pingFrame asks the runtime for a sign of life, which is the same frame.
type pingFrame struct {
	Ping bool `json:"ping"`
}

func writeFrame(w io.Writer, v any, after []byte) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	if len(body) > maxFrame {
		return fmt.Errorf("write frame: %d bytes are too many", len(body))
	}
	frame := binary.BigEndian.AppendUint32(append(make([]byte, 0, 8+len(body)+len(after)), frameHead...), uint32(len(body)))
	if _, err := w.Write(append(append(frame, body...), after...)); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	return nil
}

// readFrame reads one frame into v. It trusts nothing of what it reads.
func readFrame(r *bufio.Reader, v any) error {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	size := binary.BigEndian.Uint32(head[4:])
	if string(head[:4]) != frameHead || size > maxFrame {
		return fmt.Errorf("read frame: bad head % x", head)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	return nil
}
