// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"panal/internal/lake"
	"panal/internal/plat"
)

// pathKey marks claims of paths. No index key holds NUL.
const pathKey = "\x00path"

func pathClaim(num int64, path string) claim { return claim{channel: num, key: pathKey, token: path} }

// replace removes the file whose path f takes, and returns it. The caller holds the
// claim of the path: nobody else commits to it meanwhile.
func (c *commit) replace(ctx context.Context, tx *Tx, num int64, f lake.File) (*lake.File, error) {
	if c.rows.paths[pathClaim(num, f.Path)] { // it is in this very commit
		if err := c.flush(ctx, tx); err != nil {
			return nil, err
		}
	}
	return c.lake.dropPath(ctx, tx, num, f)
}

// atPath returns the live file whose path f wants, or nil, as replace would find it.
func (c *commit) atPath(ctx context.Context, tx *Tx, num int64, f lake.File) (*lake.File, error) {
	if c.rows.paths[pathClaim(num, f.Path)] {
		if err := c.flush(ctx, tx); err != nil {
			return nil, err
		}
	}
	there, err := scanFile(f.Channel)(tx.QueryRowContext(ctx,
		`SELECT `+fileColumns+` FROM file f WHERE f.channel = $1 AND f.path = $2 AND f.path <> '' AND `+live("f", "$3"), num, f.Path, micros(c.lake.now())))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil //nolint:nilnil // there is none
	case err != nil:
		return nil, err
	}
	return &there, nil
}

// dropPath removes the file that has f's path in f's channel, expired or not.
func (s *Lake) dropPath(ctx context.Context, tx *Tx, num int64, f lake.File) (*lake.File, error) {
	old, err := scanFile(f.Channel)(tx.QueryRowContext(ctx,
		`DELETE FROM file WHERE channel = $1 AND path = $2 AND path <> '' RETURNING `+returning, num, f.Path))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // there is none
	}
	if err != nil {
		return nil, err
	}
	return &old, s.forget(ctx, tx, num, old, "replaced", s.now())
}

// yield makes the path of a file that is restored free, or tells that a newer file
// has it: of two files whose end the journal does not know the later one holds.
func (s *Lake) yield(ctx context.Context, tx *Tx, num int64, f lake.File) (newer bool, err error) {
	var at int64
	err = tx.QueryRowContext(ctx, `SELECT at FROM file WHERE channel = $1 AND path = $2 AND path <> ''`, num, f.Path).Scan(&at)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err != nil:
		return false, err
	case at >= micros(f.UploadedAt):
		return true, nil
	}
	_, err = s.dropPath(ctx, tx, num, f)
	return false, err
}

// newestOfPaths leaves out files whose path a later one of the list has.
func newestOfPaths(files []lake.File) []lake.File {
	newest := map[string]time.Time{}
	for _, f := range files {
		if f.Path != "" && f.UploadedAt.After(newest[f.Path]) {
			newest[f.Path] = f.UploadedAt
		}
	}
	if len(newest) == 0 {
		return files
	}
	out := make([]lake.File, 0, len(files))
	for _, f := range files {
		if f.Path == "" || f.UploadedAt.Equal(newest[f.Path]) {
			out = append(out, f)
		}
	}
	return out
}

// PathFile implements lake.Store.
func (s *Lake) PathFile(ctx context.Context, bucket plat.ChannelID, path string, now time.Time) (lake.File, error) {
	f, err := scanFile(bucket)(s.db.Read().QueryRowContext(ctx,
		`SELECT `+fileColumns+` FROM file f WHERE f.channel = (SELECT num FROM channel WHERE id = $1) AND f.path = $2 AND f.path <> '' AND `+live("f", "$3"),
		string(bucket), path, micros(now)))
	if errors.Is(err, sql.ErrNoRows) {
		return lake.File{}, plat.NotFound("file", path)
	}
	return f, s.db.translate(err)
}

// Pages of the scan behind Entries: small ones after a directory, whose files are
// passed by; large ones while files follow files.
const (
	leastEntries = 16
	mostEntries  = 512
)

// Entries implements lake.Store. A directory is as long as one look at the index,
// however much is in it: the next look begins behind it.
func (s *Lake) Entries(ctx context.Context, d lake.Directory, now time.Time) ([]lake.DirEntry, bool, error) {
	num, err := s.channelNum(ctx, s.db.Read(), d.Bucket)
	if err != nil {
		return nil, false, err
	}
	from, op, ok := begin(d)
	out := []lake.DirEntry{}
	for size := leastEntries; ok; {
		q, args := entriesSQL(num, d.Prefix, from, op, size, now)
		files, err := scanAll(ctx, s.db, s.db.Read(), scanFile(d.Bucket), q, args...)
		if err != nil {
			return nil, false, err
		}
		skip := ""
		for i := range files {
			f := files[i]
			if skip != "" && strings.HasPrefix(f.Path, skip) {
				continue
			}
			if len(out) == d.Limit {
				return out, true, nil
			}
			skip = ""
			from, op = f.Path, ">"
			if dir, ok := subdirectory(f.Path, d.Prefix); ok {
				out = append(out, lake.DirEntry{Path: dir})
				skip = dir
				from, op = behind(dir), ">="
				continue
			}
			out = append(out, lake.DirEntry{Path: f.Path, File: &f})
		}
		if len(files) < size {
			break
		}
		if size = min(2*size, mostEntries); skip != "" {
			size = leastEntries
		}
	}
	return out, false, nil
}

// entriesSQL is one look at the index by path.
func entriesSQL(num int64, prefix, from, op string, size int, now time.Time) (string, []any) {
	var a sqlArgs
	q := `SELECT ` + fileColumns + ` FROM file f WHERE f.channel = ` + a.add(num) + ` AND f.path <> '' AND f.path ` + op + ` ` + a.add(from)
	if prefix != "" {
		q += ` AND f.path < ` + a.add(behind(prefix))
	}
	q += ` AND ` + live("f", a.add(micros(now))) + ` ORDER BY f.path LIMIT ` + a.add(size)
	return q, a.list
}

// begin returns where a listing goes on; not ok where nothing can follow.
func begin(d lake.Directory) (from, op string, ok bool) {
	switch {
	case d.After == "" || d.After == d.Prefix:
		return d.Prefix, ">", true
	case !strings.HasPrefix(d.After, d.Prefix):
		return d.Prefix, ">", d.After < d.Prefix
	}
	if dir, ok := subdirectory(d.After, d.Prefix); ok {
		return behind(dir), ">=", true
	}
	return d.After, ">", true
}

// subdirectory returns the directory just below prefix that a path is in.
func subdirectory(path, prefix string) (string, bool) {
	i := strings.IndexByte(path[len(prefix):], '/')
	if i < 0 {
		return "", false
	}
	return path[:len(prefix)+i+1], true
}

// behind is the first text after everything in a directory: "0" follows "/".
func behind(dir string) string { return strings.TrimSuffix(dir, "/") + "0" }
