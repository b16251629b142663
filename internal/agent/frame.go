// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
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
}

type runtimeHeader struct {
	Key    string   `json:"key"`
	Values []string `json:"values"`
}

type runtimeContent struct {
	Path        string `json:"path"`
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
}

func writeFrame(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	if len(body) > maxFrame {
		return fmt.Errorf("write frame: %d bytes are too many", len(body))
	}
	frame := binary.BigEndian.AppendUint32(append(make([]byte, 0, 8+len(body)), frameHead...), uint32(len(body)))
	if _, err := w.Write(append(frame, body...)); err != nil {
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
