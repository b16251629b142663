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
	"path/filepath"
	"sync"

	"panal/internal/plat"
)

const (
	// maxSpool bounds the file of rows that the store could not take.
	maxSpool = 256 << 20
	// ahead is how many zeros the file is lengthened by: to sync rows that are written over
	// them costs half as much as to sync a longer file.
	ahead = 256 << 10
)

//nolint:gochecknoglobals // zeros that nobody changes
var zeros [ahead]byte

// spool is a file of rows, a line of JSON each, for rows that the store is to get many
// at a time, and for the time in which it does not answer: a call that was done leaves its
// row also when the database went away between the two. Appending a row twice does no
// harm, so nothing has to be exact about the end of one.
type spool struct {
	path string

	mu   sync.Mutex
	file *os.File // open while rows are added to it
	at   int64    // where the next rows go
	end  int64    // of the zeros behind that, or less

	draining sync.Mutex
}

// add makes rows durable.
func (s *spool) add(rows []Row) error {
	var b bytes.Buffer
	b.WriteByte('\n') // ends a line that a crash has cut, which is no row
	enc := json.NewEncoder(&b)
	for _, r := range rows {
		if err := enc.Encode(r); err != nil {
			return fmt.Errorf("encode audit row: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(); err != nil {
		return fmt.Errorf("open audit spool: %w", err)
	}
	if s.at+int64(b.Len()) > maxSpool {
		return plat.Errorf(plat.ErrExhausted, "%s is longer than %d bytes", s.path, int64(maxSpool))
	}
	if s.at+int64(b.Len()) > s.end {
		// Where there is no room for zeros there may be some for the rows.
		if _, err := s.file.WriteAt(zeros[:], s.at); err == nil {
			s.end = s.at + ahead
		}
	}
	_, err := s.file.WriteAt(b.Bytes(), s.at)
	s.at += int64(b.Len())
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil { // after a failed sync nobody knows what of the file is durable: begin it anew
		err = errors.Join(err, s.close())
		return fmt.Errorf("write audit spool: %w", err)
	}
	return nil
}

// open makes the file ready for rows, and its name durable.
func (s *spool) open() error {
	if s.file != nil {
		return nil
	}
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err == nil {
		err = syncDir(filepath.Dir(s.path))
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	s.file, s.at, s.end = f, fi.Size(), fi.Size()
	return nil
}

func (s *spool) close() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return err
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// drain hands the rows that were added before the call to store, oldest first, and
// returns how many there were.
func (s *spool) drain(ctx context.Context, store func(context.Context, []Row) error) (int, error) {
	s.draining.Lock()
	defer s.draining.Unlock()
	old := s.path + ".old" // what a call before this one could not hand on is there still
	n, err := s.hand(ctx, old, store)
	if err != nil {
		return n, err
	}
	switch err := s.turn(old); {
	case errors.Is(err, fs.ErrNotExist):
		return n, nil
	case err != nil:
		return n, fmt.Errorf("turn audit spool: %w", err)
	}
	more, err := s.hand(ctx, old, store)
	return n + more, err
}

// hand hands the rows of a file to store and removes it. A file that is not there has none.
func (s *spool) hand(ctx context.Context, old string, store func(context.Context, []Row) error) (n int, err error) {
	f, err := os.Open(old)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
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
			continue // an empty line, zeros, or one that was cut and never acknowledged
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
	return errors.Join(s.close(), os.Rename(s.path, to))
}
