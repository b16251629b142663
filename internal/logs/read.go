// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"panal/internal/plat"
)

// Limits of a read.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
	// MaxContains bounds the text filter.
	MaxContains = 256

	pageText   = 4 << 20  // a page ends early at so much text
	scanText   = 64 << 20 // and when so much was looked at for it
	scanAtOnce = 32       // records asked for at once
)

// Query asks for lines of a stream.
type Query struct {
	Org    plat.OrgID
	Stream string
	// From and To bound the lines' times: From inclusive, To exclusive; zero: open.
	From, To time.Time
	// Contains selects lines with this text in the message, case counts.
	Contains string
	// Cursor is a token of an earlier page. It carries the times and the text of the
	// query that it came from; those of this one are ignored.
	Cursor string
	// Descending reads newest first, with two-way tokens.
	Descending bool
	// Limit is the page size: 0 is DefaultLimit, at most MaxLimit.
	Limit int
}

// Page is what a Query finds. A page may hold fewer lines than the limit, even
// none, without being the last: the tokens tell.
type Page struct {
	// Lines are in the order of the query.
	Lines []Line
	// Next goes on after the last line (ascending); empty at the end.
	Next string
	// Forward reads what is newer than this page, Backward what is older
	// (descending). Both are always set; a page without lines repeats the place.
	Forward, Backward string
}

// Read returns a page. Lines of one workload come in the order written, lines of
// several in the order of ingest. ErrInvalid for a token that is damaged, of
// another stream, or of the other direction.
func (s *Service) Read(ctx context.Context, q Query) (Page, error) {
	key := streamKey(q.Org, q.Stream)
	c := cursor{kind: kindNext, from: math.MinInt64, to: math.MaxInt64, contains: q.Contains}
	if q.Descending {
		c.kind, c.pos = kindBackward, MaxPos
	}
	if !q.From.IsZero() {
		c.from = q.From.UnixMicro()
	}
	if !q.To.IsZero() {
		c.to = q.To.UnixMicro()
	}
	if q.Cursor != "" {
		var err error
		if c, err = openToken(q.Cursor, key); err != nil {
			return Page{}, err
		}
		if (c.kind == kindNext) == q.Descending {
			return Page{}, plat.Errorf(plat.ErrInvalid, "the token is of the other order: next_token belongs to logs, the two-way tokens to recentlogs")
		}
	}
	limit := cmp.Or(q.Limit, DefaultLimit)
	switch {
	case limit < 1 || limit > MaxLimit:
		return Page{}, plat.InvalidField("limit", "%d is not between 1 and %d", limit, MaxLimit)
	case len(c.contains) > MaxContains:
		return Page{}, plat.InvalidField("q", "is longer than %d bytes", MaxContains)
	}
	f := &finder{s: s, key: key, cursor: c, limit: limit}
	if err := f.run(ctx); err != nil {
		return Page{}, err
	}
	return f.page(), nil
}

// finder collects one page.
type finder struct {
	cursor

	s       *Service
	key     string
	limit   int
	lines   []Line
	text    int // bytes of messages taken
	scanned int // bytes of lines decoded
	place   Pos // everything up to here (in scan order) has been looked at
	top     Pos // the highest position looked at
	more    bool
}

// maxMisses bounds how often one read starts over because records were repacked
// under its eyes.
const maxMisses = 100

// run walks records in scan order: ascending, but descending for kindBackward.
func (f *finder) run(ctx context.Context) error {
	desc := f.kind == kindBackward
	f.place = f.pos
	scan := Scan{Stream: f.key, After: -1, Before: MaxPos, From: f.from, To: f.to, Descending: desc, Limit: scanAtOnce}
	for range maxMisses {
		for {
			if desc {
				scan.Before = f.place
			} else if f.place > 0 {
				scan.After = f.place
			}
			found, err := f.s.store.Find(ctx, scan)
			if err != nil {
				return err
			}
			err = f.records(ctx, found, desc)
			if errors.Is(err, plat.ErrNotFound) {
				break // repacked since, or expired: look again from where we are
			}
			if err != nil || f.more || len(found) < scanAtOnce {
				return err
			}
		}
	}
	return plat.Errorf(plat.ErrUnavailable, "the lines are being moved; ask again")
}

// records looks at found records in their order, until the page is full.
func (f *finder) records(ctx context.Context, found []Record, desc bool) error {
	for _, r := range found {
		data, err := f.s.store.Load(ctx, r)
		if err != nil {
			return err
		}
		lines, err := f.s.codec.decode(data, r.First)
		if err != nil {
			return fmt.Errorf("record at %d: %w", r.First, err)
		}
		if f.take(lines, desc) {
			f.more = true
			return nil
		}
		if f.place = r.Last; desc {
			f.place = r.First
		}
		f.top = max(f.top, r.Last)
		if f.scanned > scanText {
			f.more = true
			return nil
		}
	}
	return nil
}

// take adds a record's matching lines beyond the place; true when the page is full
// and something is left.
func (f *finder) take(lines []Line, desc bool) (full bool) {
	for i := range lines {
		l := &lines[i]
		if desc {
			l = &lines[len(lines)-1-i]
		}
		f.scanned += len(l.Message) + lineOverhead
		if l.Stream != f.key || desc && l.Pos >= f.place || !desc && f.place > 0 && l.Pos <= f.place {
			continue
		}
		if l.Time >= f.from && l.Time < f.to && strings.Contains(l.Message, f.contains) {
			if len(f.lines) == f.limit || len(f.lines) > 0 && f.text+len(l.Message) > pageText {
				return true
			}
			f.lines, f.text = append(f.lines, *l), f.text+len(l.Message)
		}
		f.place, f.top = l.Pos, max(f.top, l.Pos)
	}
	return false
}

// page makes the tokens. A place is a position that has been looked at, so going
// on beyond it neither skips nor repeats.
func (f *finder) page() Page {
	p := Page{Lines: f.lines}
	at := func(kind byte, pos Pos) string {
		c := f.cursor
		c.kind, c.pos = kind, max(pos, 0)
		return c.token(f.key)
	}
	switch f.kind {
	case kindNext:
		if f.more {
			p.Next = at(kindNext, f.place)
		}
	case kindForward: // found oldest first, shown newest first
		p.Forward = at(kindForward, f.place)
		p.Backward = at(kindBackward, min(f.pos, MaxPos-1)+1)
		if len(f.lines) > 0 {
			p.Backward = at(kindBackward, f.lines[0].Pos)
		}
		slices.Reverse(p.Lines)
	case kindBackward:
		p.Backward, p.Forward = at(kindBackward, f.place), at(kindForward, f.pos-1)
		if f.pos == MaxPos { // the first page: what nobody has looked at yet is newer
			p.Forward = at(kindForward, f.top)
		}
		if f.place == MaxPos { // and nothing is older
			p.Backward = at(kindBackward, 0)
		}
	}
	return p
}
