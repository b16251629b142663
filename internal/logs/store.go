// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"context"
	"time"

	"panal/internal/plat"
)

// Pos is a line's global position: the day of its ingest (days since 1970, UTC)
// in the high bits, a serial within that day in the low ones. Later commits have
// higher positions. A position names the day that holds it, and positions go on
// growing when every older line has been dropped, without anything to remember.
type Pos int64

const posDayBits = 40

// MaxPos is above every position.
const MaxPos = Pos(1<<63 - 1)

// Day returns the day of ingest: days since 1970-01-01 UTC.
func (p Pos) Day() int64 { return int64(p >> posDayBits) }

// DayStart returns the first position of a day.
func DayStart(day int64) Pos { return Pos(day << posDayBits) }

// DayOf returns the day that t lies in, counted as Pos does.
func DayOf(t time.Time) int64 {
	s := t.Unix()
	if s < 0 {
		return 0
	}
	return s / 86_400
}

// Line is a stored log line.
type Line struct {
	Pos       Pos
	Stream    string // streamKey: organization and stream
	Workload  string
	Time      int64 // Unix microseconds
	Level     string
	Message   string
	RequestID string
}

// When returns the line's time.
func (l Line) When() time.Time { return time.UnixMicro(l.Time).UTC() }

// Record is a run of packed lines: hot ones hold a whole flush, packed ones lines
// of one stream. Records never change; Repack replaces them.
type Record struct {
	// First and Last are the positions of the first and last line. The positions
	// between need not all be the record's own.
	First, Last Pos
	// MinTime and MaxTime bound the lines' times, both inclusive.
	MinTime, MaxTime int64
	Count            int
	// Stream is the key of a packed record's stream; empty for a hot record.
	Stream string
	// Streams are the keys of a hot record's streams.
	Streams []string
	// Data is the encoded lines. Find and Tail leave it out.
	Data []byte
}

// Hot tells whether the record is a flush that has not been repacked yet.
func (r Record) Hot() bool { return r.Stream == "" }

// Flush is what one Append commits. The store sets the record's positions.
type Flush struct {
	Record Record
	// Last holds the new highest number of each workload that the record has lines of.
	Last map[string]int64
}

// Scan selects records of a stream.
type Scan struct {
	Stream string
	// After and Before bound positions, both exclusive.
	After, Before Pos
	// From and To bound times: From inclusive, To exclusive.
	From, To int64
	// Descending asks for the highest positions first.
	Descending bool
	Limit      int
}

// Store keeps records and what each workload has been acknowledged. It is safe for
// concurrent use, also by several processes where the engine allows that.
type Store interface {
	// Append commits one flush durably. In one transaction, which no other Append
	// of any process overlaps, it reads the highest number of each given workload
	// (0 for an unknown one), calls build with them, gives the record that build
	// returned the next positions and stores it. A nil Flush commits nothing; an
	// error from build is returned and commits nothing. Positions become visible to
	// readers in order. ErrExhausted when the disk is full: then nothing has changed.
	Append(ctx context.Context, now time.Time, workloads []string, build func(last map[string]int64) (*Flush, error)) error
	// Find returns, in order of position, up to Limit records that may hold lines
	// of the scan, all from one moment: no line is missing because it was being
	// repacked. Ranges [First, Last] of one answer don't overlap.
	Find(ctx context.Context, s Scan) ([]Record, error)
	// Load returns a found record's data; ErrNotFound when it has been repacked or
	// dropped since.
	Load(ctx context.Context, r Record) ([]byte, error)
	// Hot returns the oldest hot records with their data, all of one day, in order,
	// at most about maxBytes of data (but one at least).
	Hot(ctx context.Context, maxBytes int64) ([]Record, error)
	// Tail returns the last packed record of a stream on the day of before that
	// starts before it; ErrNotFound when there is none.
	Tail(ctx context.Context, stream string, before Pos) (Record, error)
	// Replace removes and adds records of one day in one transaction. ErrConflict,
	// with nothing changed, when one of drop is there no longer.
	Replace(ctx context.Context, drop, add []Record) error
	// Expire drops every day that ended at or before t and returns how many. What
	// workloads have been acknowledged is kept.
	Expire(ctx context.Context, t time.Time) (int, error)
	// DeletePacked removes the packed records of every stream whose key begins with
	// prefix, and returns how many there were.
	DeletePacked(ctx context.Context, prefix string) (int64, error)
	// PackedBytes returns the bytes of data of the packed records of those streams.
	PackedBytes(ctx context.Context, prefix string) (int64, error)
	// Size returns the bytes that the lines take on disk.
	Size(ctx context.Context) (int64, error)
}

// streamKey is a stream's name in the store: unique over all organizations.
func streamKey(org plat.OrgID, stream string) string { return string(org) + "/" + stream }
