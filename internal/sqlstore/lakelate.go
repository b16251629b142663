// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"panal/internal/lake"
	"panal/internal/plat"
)

const (
	// lateFiles is how many files of a commit at most get their postings later: those of
	// more are neighbours enough among themselves.
	lateFiles = 127
	// lateMost is with how many late files a round of their postings begins.
	lateMost = 512
	// lateShare is of how many files a commit makes the postings in a round, for each file
	// of its own. So a search looks at no more than lateMost + lateMost/lateShare +
	// 2*lateFiles late files.
	lateShare = 8
	// lateStep is of how many files PostLate makes them at once, while uploads wait.
	lateStep = 64
)

// late counts the files without postings (table file_late, docs/adr/0029). Each posting
// lies on another page of the index, so a small commit that makes its own writes six
// pages a file; together with hundreds of others it is less than one. So where the
// writer is a single one (Dialect.Late) small commits leave their files in file_late.
// Searches look at those one by one; their postings are made in rounds: by the commits
// from lateMost files on, by PostLate now and then, by a change of such a file.
type late struct {
	counted bool         // files holds what the process before left; the writer's, as the next two are
	whole   bool         // no round that ended early can have left postings
	round   *round       // nil: none is under way
	files   atomic.Int64 // that are committed
}

// round is the postings of all files that were late when it began, in the order of the
// index: a part is made with each commit, so that none waits for all, and hundreds of
// files still share pages. Until the last part is made its files are late, and searches
// pass over those of their postings that are there.
type round struct {
	rows   []*postingRow // that are not made yet
	each   int           // rows of a file, about
	places []any         // channel and stamp of its files
}

// leave puts files of a commit off, by their channels' numbers and stamps.
func (s *Lake) leave(ctx context.Context, tx *Tx, places []any) error {
	l := &s.db.late
	if !l.counted {
		var n int64
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM file_late`).Scan(&n); err != nil {
			return err
		}
		l.files.Store(n)
		l.counted = true
	}
	if err := tx.insert(ctx, "file_late (channel, at)", "", 2, places); err != nil {
		return err
	}
	n := len(places) / 2
	tx.onCommit(func() { l.files.Add(int64(n)) })
	if l.round == nil && l.files.Load()+int64(n) < lateMost {
		return nil
	}
	return tx.postPart(ctx, lateShare*n)
}

// PostLate makes the postings of all late files, if there are any, in parts; while uploads
// go on, those of the files that were late when it began.
func (s *Lake) PostLate(ctx context.Context) error {
	if !s.db.dialect.Late {
		return nil
	}
	var some bool
	err := s.db.Read().QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM file_late)`).Scan(&some)
	if err != nil || !some {
		return s.db.translate(err)
	}
	for range 2 { // the round that is under way, and one of the files that it left out
		for more := true; more; {
			err := s.db.Write(ctx, func(tx *Tx) error {
				err := tx.postPart(ctx, lateStep)
				more = tx.db.late.round != nil
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// postLate makes the postings of all late files. Every change of postings that are there
// already begins with it.
func (tx *Tx) postLate(ctx context.Context) error {
	if !tx.db.dialect.Late {
		return nil
	}
	if err := tx.endRound(ctx); err != nil {
		return err
	}
	return tx.postPart(ctx, math.MaxInt32)
}

// endRound makes the rest of a round, before postings are deleted: later it would make
// them again.
func (tx *Tx) endRound(ctx context.Context) error {
	if tx.db.late.round == nil {
		return nil
	}
	return tx.postPart(ctx, math.MaxInt32)
}

// postPart makes the postings of about so many files, of a new round where none is under
// way.
func (tx *Tx) postPart(ctx context.Context, files int) error {
	l := &tx.db.late
	tx.onRollback(func() { l.round, l.whole = nil, false })
	if l.round == nil {
		if err := tx.beginRound(ctx); err != nil || l.round == nil {
			return err
		}
	}
	r := l.round
	n := min(len(r.rows), min(len(r.rows), files)*r.each)
	if err := insertSorted(ctx, tx, r.rows[:n]); err != nil {
		return err
	}
	if r.rows = r.rows[n:]; len(r.rows) > 0 {
		return nil
	}
	l.round = nil
	tx.onCommit(func() { l.files.Add(-int64(len(r.places) / 2)) })
	return tx.delete(ctx, "file_late", "channel, at", 2, r.places)
}

// beginRound begins one of all late files; without any there is none.
func (tx *Tx) beginRound(ctx context.Context) error {
	type place struct {
		num, at int64
		file    lake.File
	}
	late, err := scanAll(ctx, tx.db, tx, func(r interface{ Scan(...any) error }) (p place, err error) {
		return p, r.Scan(&p.num, &p.at)
	}, `SELECT channel, at FROM file_late`)
	if err != nil || len(late) == 0 {
		return err
	}
	files, err := scanAll(ctx, tx.db, tx, func(r interface{ Scan(...any) error }) (p place, err error) {
		p.file, err = scanFile("")(scanTail{r, &p.num})
		return p, err
	}, `SELECT `+fileColumns+`, f.channel FROM file_late l CROSS JOIN file f WHERE f.channel = l.channel AND f.at = l.at`)
	if err != nil {
		return err
	}
	r := &round{places: make([]any, 0, 2*len(late))}
	for _, p := range late { // also of files that are gone
		r.places = append(r.places, p.num, p.at)
	}
	var rows []postingRow
	for _, p := range files {
		rows = appendPostings(rows, p.num, micros(p.file.UploadedAt), micros(p.file.ExpiresAt), lake.Terms(p.file.ContentType, p.file.Metadata))
	}
	l := &tx.db.late
	if !l.whole {
		if err := deletePostingRows(ctx, tx, rows); err != nil {
			return err
		}
	}
	l.whole = true
	r.rows, r.each = inOrder(rows), len(rows)/len(late)+1
	l.round = r
	return nil
}

// lateOf returns the late files of a channel, in order of the upload time.
func (s *Lake) lateOf(ctx context.Context, read Querier, channel plat.ChannelID, num int64) ([]lake.File, error) {
	if !s.db.dialect.Late {
		return nil, nil
	}
	return scanAll(ctx, s.db, read, scanFile(channel),
		`SELECT `+fileColumns+` FROM file_late l CROSS JOIN file f WHERE l.channel = $1 AND f.channel = l.channel AND f.at = l.at ORDER BY l.at`, num)
}

// lateFound is what a search, which reads from a snapshot, knows of late files.
type lateFound struct {
	from  int64       // the first one's stamp; 0: there are none
	files []lake.File // that it finds, in order of the upload time
}

// findLate looks at the late files.
func (q *search) findLate(ctx context.Context, match func(lake.File) bool) error {
	all, err := q.lake.lateOf(ctx, q.read, q.f.Channel, q.num)
	if err != nil || len(all) == 0 {
		return err
	}
	q.late.from = micros(all[0].UploadedAt)
	q.late.files = slices.DeleteFunc(all, func(f lake.File) bool {
		at, expires := micros(f.UploadedAt), micros(f.ExpiresAt)
		return expires != 0 && expires <= q.now || at < q.from || q.to != 0 && at >= q.to || !match(f)
	})
	return nil
}

// without writes that the row alias is no late file's.
func (l *lateFound) without(a *sqlArgs, alias string) string {
	if l.from == 0 {
		return ""
	}
	return " AND (" + alias + ".at < " + a.add(l.from) +
		" OR NOT EXISTS (SELECT 1 FROM file_late l WHERE l.channel = " + alias + ".channel AND l.at = " + alias + ".at))"
}

// in returns the first sp.limit files of a span, in ascending order.
func (l *lateFound) in(sp span) []lake.File {
	files := l.files
	if sp.after != nil {
		i, found := slices.BinarySearchFunc(files, *sp.after, func(f lake.File, at int64) int { return cmp.Compare(micros(f.UploadedAt), at) })
		switch {
		case sp.desc:
			files = files[:i]
		case found:
			files = files[i+1:]
		default:
			files = files[i:]
		}
	}
	n := min(len(files), sp.limit)
	if sp.desc {
		return files[len(files)-n:]
	}
	return files[:n]
}

// values writes rows of token and stamp: the files' values of an index key. Empty where
// none has one.
func (l *lateFound) values(a *sqlArgs, key string) string {
	var rows []string
	for _, f := range l.files {
		for _, t := range lake.Terms(f.ContentType, f.Metadata) {
			if t.Key == key && t.Whole {
				rows = append(rows, "("+a.add(t.Token)+", "+a.add(micros(f.UploadedAt))+")")
			}
		}
	}
	return strings.Join(rows, ", ")
}

// scanTail scans one more column than its caller knows of.
type scanTail struct {
	row interface{ Scan(...any) error }
	to  any
}

// Scan implements the interface of a row.
func (t scanTail) Scan(to ...any) error { return t.row.Scan(append(to, t.to)...) }
