// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"cmp"
	"context"
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
	// lateMost is with how many late files a commit makes all their postings. So a search
	// looks at no more than lateMost + lateFiles of them.
	lateMost = 512
)

// late counts the files without postings (table file_late, docs/adr/0029). Each posting
// lies on another page of the index, so a small commit that makes its own writes six
// pages a file; together with hundreds of others it is less than one. So where the
// writer is a single one (Dialect.Late) small commits leave their files in file_late.
// Searches look at those one by one; their postings are made by a change of such a file,
// by the commit that finds lateMost of them, and by PostLate now and then.
type late struct {
	counted bool         // files holds what the process before left; the writer's
	files   atomic.Int64 // that are committed
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
	n := int64(len(places) / 2)
	tx.onCommit(func() { l.files.Add(n) })
	if l.files.Load()+n < lateMost {
		return nil
	}
	return s.postLate(ctx, tx)
}

// PostLate makes the postings of all late files, if there are any.
func (s *Lake) PostLate(ctx context.Context) error {
	if !s.db.dialect.Late {
		return nil
	}
	var some bool
	err := s.db.Read().QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM file_late)`).Scan(&some)
	if err != nil || !some {
		return s.db.translate(err)
	}
	return s.db.Write(ctx, func(tx *Tx) error { return s.postLate(ctx, tx) })
}

// postLate makes the postings of all late files in a transaction. Every change of
// postings that are there already begins with it.
func (s *Lake) postLate(ctx context.Context, tx *Tx) error {
	if !s.db.dialect.Late {
		return nil
	}
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
	res, err := tx.ExecContext(ctx, `DELETE FROM file_late`)
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	tx.onCommit(func() { s.db.late.files.Add(-n) })
	return err
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
