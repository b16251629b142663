// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"

	"panal/internal/logs"
	"panal/internal/plat"
)

func sortFiles(fs []file) {
	slices.SortFunc(fs, func(a, b file) int {
		if c := cmp.Compare(a.first, b.first); c != 0 {
			return c
		}
		return cmp.Compare(a.name, b.name) // .batch before .open
	})
}

// load reads one file. An open one is cut after its last whole line and ended as
// a batch. ErrInvalid: it is no batch.
func load(root *os.Root, f file) (Batch, error) {
	// O_NONBLOCK: a named pipe under this name must not hold us up.
	h, err := root.OpenFile(f.name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return Batch{}, fmt.Errorf("read spool: %w", err)
	}
	defer func() { _ = h.Close() }()
	info, err := h.Stat()
	if err != nil {
		return Batch{}, fmt.Errorf("read spool: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return Batch{}, plat.Errorf(plat.ErrInvalid, "spool file %s is no batch", f.name)
	}
	data, err := io.ReadAll(io.LimitReader(h, maxFile))
	if err != nil {
		return Batch{}, fmt.Errorf("read spool: %w", err)
	}
	if f.open && !bytes.HasSuffix(data, []byte(tail)) {
		end := bytes.LastIndexByte(data, '\n') + 1
		if end == 0 { // not even the head is whole
			return Batch{First: f.first, Last: f.first - 1}, nil
		}
		data = append(data[:end:end], tail...)
	}
	var b logs.Batch
	if err := json.Unmarshal(data, &b); err != nil || b.FirstSeq != f.first {
		return Batch{}, plat.Errorf(plat.ErrInvalid, "spool file %s is no batch", f.name)
	}
	return Batch{First: b.FirstSeq, Last: b.FirstSeq + int64(len(b.Entries)) - 1, JSON: data}, nil
}
