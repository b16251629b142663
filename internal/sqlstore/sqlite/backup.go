// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strconv"
	"strings"

	"modernc.org/sqlite"

	"panal/internal/plat"
)

// stepPages is how many pages are copied between two looks at whether to go on.
const stepPages = 256

// copyTo copies what a connection sees to a new file. It need not survive a power
// cut: it is on its way into an archive.
func copyTo(raw any, path string, step func() error) error {
	c, ok := raw.(interface {
		NewBackup(dst string) (*sqlite.Backup, error)
	})
	if !ok {
		return errors.New("the connection makes no backups")
	}
	b, err := c.NewBackup("file:" + (&url.URL{Path: path}).EscapedPath() + "?_pragma=synchronous(OFF)&_pragma=journal_mode(OFF)")
	if err != nil {
		return err
	}
	for more := true; more && err == nil; {
		if more, err = b.Step(stepPages); err == nil {
			err = step()
		}
	}
	return errors.Join(err, b.Finish())
}

// Newest returns the newest migration that this program knows, by concern.
func Newest() (map[string]int64, error) {
	out := map[string]int64{}
	err := fs.WalkDir(migrations, "migrations", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		concern := strings.Split(path, "/")[1]
		digits, _, _ := strings.Cut(d.Name(), "_")
		n, err := strconv.ParseInt(digits, 10, 64)
		out[concern] = max(out[concern], n)
		return err
	})
	return out, err
}

// Check reads a whole database file and says whether it is sound. It returns the
// newest migration that it has had, by concern. Nothing is migrated.
func Check(ctx context.Context, path string) (_ map[string]int64, err error) {
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?_pragma=query_only(1)")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var verdict string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return nil, plat.Errorf(plat.ErrInvalid, "it is no readable database: %v", err)
	}
	if verdict != "ok" {
		return nil, plat.Errorf(plat.ErrInvalid, "the database is damaged: %s", verdict)
	}
	newest, err := Newest()
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for concern := range newest {
		var there int
		if err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = $1", "goose_"+concern).Scan(&there); err != nil {
			return nil, fmt.Errorf("read schema: %w", err)
		}
		if there == 0 {
			continue
		}
		var n int64
		if err := db.QueryRowContext(ctx, "SELECT COALESCE(max(version_id), 0) FROM goose_"+concern).Scan(&n); err != nil {
			return nil, fmt.Errorf("read schema: %w", err)
		}
		out[concern] = n
	}
	return out, nil
}
