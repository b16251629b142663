// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"context"
	"errors"
	"fmt"

	"panal/internal/plat"
)

// A packed record holds at most so much, so that reading a little decodes little.
const (
	packedLines = 4096
	packedText  = 1 << 20
	// repackStep is how many bytes of hot records one step takes; times ten or so
	// it is what the step needs in memory.
	repackStep = 2 << 20
)

// Repack turns all hot records into packed ones. A crash between steps, or a
// second process doing the same, leaves everything readable and in place.
func (s *Service) Repack(ctx context.Context) error {
	for conflicts := 0; ctx.Err() == nil; {
		hot, err := s.store.Hot(ctx, repackStep)
		if err != nil {
			return err
		}
		if len(hot) == 0 {
			return nil
		}
		switch err := s.repackStep(ctx, hot); {
		case err == nil:
			conflicts = 0
		case errors.Is(err, plat.ErrConflict), errors.Is(err, plat.ErrNotFound):
			if conflicts++; conflicts > 3 { // another process is at it, let it
				return nil
			}
		default:
			return err
		}
	}
	return ctx.Err()
}

// repackStep replaces hot records, the oldest of their day, by packed ones.
func (s *Service) repackStep(ctx context.Context, hot []Record) error {
	byStream, order := map[string][]Line{}, []string{}
	for _, r := range hot {
		lines, err := s.codec.decode(r.Data, r.First)
		if err != nil {
			return fmt.Errorf("hot record at %d: %w", r.First, err)
		}
		for i := range lines {
			k := lines[i].Stream
			if _, ok := byStream[k]; !ok {
				order = append(order, k)
			}
			byStream[k] = append(byStream[k], lines[i])
		}
	}
	drop := make([]Record, 0, len(hot))
	for _, r := range hot {
		r.Data = nil
		drop = append(drop, r)
	}
	var add []Record
	for _, k := range order {
		lines, old, err := s.mergeTails(ctx, k, byStream[k])
		if err != nil {
			return err
		}
		delete(byStream, k)
		drop = append(drop, old...)
		for len(lines) > 0 {
			n := fit(lines)
			r := summary(lines[:n])
			r.Stream = k
			if r.Data, err = s.codec.encode(lines[:n], r.First, true); err != nil {
				return err
			}
			add, lines = append(add, r), lines[n:]
		}
	}
	return s.store.Replace(ctx, drop, add)
}

// mergeTails puts the stream's last packed records in front of lines while they
// are at most twice as long as what follows them: so a slow stream ends with few
// records, and each line is rewritten about log(n) times.
func (s *Service) mergeTails(ctx context.Context, stream string, lines []Line) ([]Line, []Record, error) {
	var old []Record
	for text := textOf(lines); ; {
		t, err := s.store.Tail(ctx, stream, lines[0].Pos)
		if errors.Is(err, plat.ErrNotFound) {
			return lines, old, nil
		}
		if err != nil {
			return nil, nil, err
		}
		if t.Count > 2*len(lines) || t.Count+len(lines) > packedLines {
			return lines, old, nil
		}
		data, err := s.store.Load(ctx, t)
		if err != nil {
			return nil, nil, err
		}
		head, err := s.codec.decode(data, t.First)
		if err != nil {
			return nil, nil, fmt.Errorf("packed record at %d: %w", t.First, err)
		}
		n := textOf(head)
		if n+text > packedText {
			return lines, old, nil
		}
		text += n
		lines, old = append(head, lines...), append(old, t)
	}
}

func textOf(lines []Line) int {
	n := 0
	for i := range lines {
		n += len(lines[i].Message)
	}
	return n
}

// fit returns how many of lines make the next packed record: at least one.
func fit(lines []Line) int {
	text := 0
	for i := range lines {
		if text += len(lines[i].Message); i > 0 && (i == packedLines || text > packedText) {
			return i
		}
	}
	return len(lines)
}
