// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"panal/internal/plat"
)

// maxSpool bounds the file of rows that the store could not take.
const maxSpool = 256 << 20

// spool is a file of rows, a line of JSON each, for the time in which the store does
// not answer: a call that was done leaves its row also when the database went away
// between the two. Appending a row twice does no harm, so nothing has to be exact about
// the end of one.
type spool struct {
	path string

	mu   sync.Mutex
	size int64 // -1: not looked yet
}

// add makes rows durable.
func (s *spool) add(rows []Row) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, r := range rows {
		if err := enc.Encode(r); err != nil {
			return fmt.Errorf("encode audit row: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size < 0 {
		s.size = 0
		if fi, err := os.Stat(s.path); err == nil {
			s.size = fi.Size()
		}
	}
	if s.size+int64(b.Len()) > maxSpool {
		return plat.Errorf(plat.ErrExhausted, "%s is longer than %d bytes", s.path, int64(maxSpool))
	}
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open audit spool: %w", err)
	}
	// A line that a crash has cut is ended by the line break, and is no row.
	_, err = f.Write(append([]byte("\n"), b.Bytes()...))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write audit spool: %w", err)
	}
	s.size += int64(b.Len()) + 1
	return nil
}

// drain hands the rows to store, oldest first, and returns how many there were. Rows
// that are added meanwhile wait for the next call. One call at a time.
func (s *spool) drain(ctx context.Context, store func(context.Context, []Row) error) (n int, err error) {
	old := s.path + ".old" // what a call before this one could not hand on is there still
	f, err := os.Open(old)
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.turn(old); errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		} else if err != nil {
			return 0, fmt.Errorf("turn audit spool: %w", err)
		}
		f, err = os.Open(old)
	}
	if err != nil {
		return 0, fmt.Errorf("open audit spool: %w", err)
	}
	defer func() { _ = f.Close() }()
	var batch []Row
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, storeLimit)
		defer cancel()
		if err := store(ctx, batch); err != nil {
			return err
		}
		n += len(batch)
		batch = nil
		return nil
	}
	lines := bufio.NewReader(f)
	for more := true; more; {
		line, err := lines.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return n, fmt.Errorf("read audit spool: %w", err)
		}
		more = err == nil
		var r Row
		if json.Unmarshal(line, &r) != nil || r.ID == "" {
			continue // an empty line, or one that was cut and never acknowledged
		}
		if batch = append(batch, r); len(batch) == maxBatch {
			if err := flush(); err != nil {
				return n, err
			}
		}
	}
	if err := flush(); err != nil {
		return n, err
	}
	if err := os.Remove(old); err != nil {
		return n, fmt.Errorf("remove audit spool: %w", err)
	}
	return n, nil
}

// turn gives the file another name, so that rows are added to a new one.
func (s *spool) turn(to string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := os.Rename(s.path, to)
	if err == nil {
		s.size = 0
	}
	return err
}
