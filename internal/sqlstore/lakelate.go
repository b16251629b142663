// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"sync/atomic"
	"time"

	"panal/internal/lake"
)

const (
	// lateFiles is how many files of a commit at most get their postings later: those of
	// more are neighbours enough among themselves.
	lateFiles = 127
	// lateMost is with how many late files a commit makes all their postings.
	lateMost = 512
)

// late tells whether the database has files without postings (table file_late,
// docs/adr/0029). Each posting lies on another page of the index, so a small commit that
// makes its own writes six pages a file; together with hundreds of others it is less than
// one. So where the writer is a single one (Dialect.Late) small commits leave their files
// in file_late, and whoever comes first makes the postings of all: a read that needs the
// index, a change of such a file, or the commit that finds lateMost of them.
type late struct {
	// left counts commits that leave files, up from before they commit; made is the count
	// of left whose files have their postings. Equal: none are late.
	left, made atomic.Int64
	files      int // left since the last time; the writer's
}

// leave puts files of a commit off, by their channels' numbers and stamps.
func (s *Lake) leave(ctx context.Context, tx *Tx, places []any) error {
	if err := tx.insert(ctx, "file_late (channel, at)", "", 2, places); err != nil {
		return err
	}
	l := &s.db.late
	l.left.Add(1)
	if l.files += len(places) / 2; l.files < lateMost {
		return nil
	}
	return s.postLate(ctx, tx)
}

// settle returns when all files that are committed have their postings. Every read of
// postings begins with it.
func (s *Lake) settle(ctx context.Context) error {
	if l := &s.db.late; !s.db.dialect.Late || l.made.Load() == l.left.Load() {
		return nil
	}
	return s.db.Write(ctx, func(tx *Tx) error { return s.postLate(ctx, tx) })
}

// postLate makes the postings of all late files in a transaction. Every change of
// postings that are there already begins with it.
func (s *Lake) postLate(ctx context.Context, tx *Tx) error {
	l := &s.db.late
	if !s.db.dialect.Late || l.made.Load() == l.left.Load() {
		return nil
	}
	left := l.left.Load() // the writer is ours: whoever adds to it now will commit after us
	type place struct {
		num  int64
		file lake.File
	}
	files, err := scanAll(ctx, s.db, tx, func(r interface{ Scan(...any) error }) (p place, err error) {
		p.file, err = scanFile("")(scanTail{r, &p.num})
		return p, err
	}, `SELECT `+fileColumns+`, f.channel FROM file_late l CROSS JOIN file f WHERE f.channel = l.channel AND f.at = l.at`)
	if err != nil {
		return err
	}
	var postings []postingRow
	for _, p := range files {
		postings = appendPostings(postings, p.num, micros(p.file.UploadedAt), micros(p.file.ExpiresAt), lake.Terms(p.file.ContentType, p.file.Metadata))
	}
	if err := insertPostings(ctx, tx, postings); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM file_late`); err != nil {
		return err
	}
	l.files = 0 // if this is rolled back: the next time comes later, or with a read
	tx.onCommit(func() {
		for {
			made := l.made.Load()
			if made >= left || l.made.CompareAndSwap(made, left) {
				return
			}
		}
	})
	return nil
}

// countLate counts a filter's files that have no postings, whatever its query says.
func (s *Lake) countLate(ctx context.Context, read Querier, f lake.Filter, now time.Time) (n int64, err error) {
	if !s.db.dialect.Late {
		return 0, nil
	}
	var a sqlArgs
	where := `l.channel = (SELECT num FROM channel WHERE id = ` + a.add(string(f.Channel)) + `) AND ` + live("f", a.add(micros(now)))
	if !f.From.IsZero() {
		where += ` AND l.at >= ` + a.add(micros(f.From))
	}
	if !f.To.IsZero() {
		where += ` AND l.at < ` + a.add(micros(f.To))
	}
	row := read.QueryRowContext(ctx, `SELECT COUNT(*) FROM file_late l CROSS JOIN file f WHERE f.channel = l.channel AND f.at = l.at AND `+where, a.list...)
	return n, s.db.translate(row.Scan(&n))
}

// scanTail scans one more column than its caller knows of.
type scanTail struct {
	row interface{ Scan(...any) error }
	to  any
}

// Scan implements the interface of a row.
func (t scanTail) Scan(to ...any) error { return t.row.Scan(append(to, t.to)...) }
