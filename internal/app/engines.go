// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"

	"panal/internal/config"
	"panal/internal/plat"
)

// engines is where an installation keeps what it has. Its data directory notes it: a command
// that is told less than the server was would make databases of its own there, find nothing in
// them, and prune the keys of secrets that are elsewhere, or back nothing up.
type engines struct {
	Database string `json:"database"` // one of the names below
	Blob     string `json:"blob"`     // s3://BUCKET, with /PREFIX, or dir:/PATH; empty: in the data directory
}

const (
	inSQLite   = "sqlite"
	inPostgres = "postgres"
)

func enginesOf(cfg config.Server) (engines, error) {
	where, err := config.ParseBlob(cfg.Blob)
	if err != nil {
		return engines{}, err
	}
	e := engines{Database: inSQLite}
	if cfg.Database != "" {
		e.Database = inPostgres
	}
	switch {
	case where.Bucket != "":
		e.Blob = "s3://" + path.Join(where.Bucket, where.Prefix)
	case where.Dir != "":
		e.Blob = "dir:" + where.Dir
	}
	return e, nil
}

// files is Blob for people.
func (e engines) files() string {
	if e.Blob == "" {
		return "the data directory"
	}
	return e.Blob
}

// noted returns what the data directory notes; of one without a note it knows nothing.
func noted(data string) (e engines, known bool, err error) {
	b, err := os.ReadFile(filepath.Join(data, fileEngines))
	if errors.Is(err, fs.ErrNotExist) {
		return e, false, nil
	}
	if err != nil {
		return e, false, fmt.Errorf("read %s: %w", fileEngines, err)
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return e, false, plat.Errorf(plat.ErrInvalid, "%s is not what panal wrote: %v", filepath.Join(data, fileEngines), err)
	}
	return e, true, nil
}

// checkEngines refuses a configuration whose records are elsewhere than the data
// directory's.
func checkEngines(cfg config.Server) error {
	e, known, err := noted(cfg.Data)
	if err != nil || !known {
		return err
	}
	switch now, err := enginesOf(cfg); {
	case err != nil:
		return err
	case e.Database == inPostgres && now.Database == inSQLite:
		return plat.InvalidField("database", "is missing: the installation of %s has its records in PostgreSQL; give the server's --database (PANAL_DATABASE), or another --data", cfg.Data)
	case e.Database == inSQLite && now.Database == inPostgres:
		return plat.InvalidField("database", "is not where the installation of %s has its records, which are in that directory (SQLite); leave it out, or give another --data", cfg.Data)
	}
	return nil
}

// checkBlob refuses a configuration whose files are elsewhere than the data directory's. A
// server may move them.
func checkBlob(cfg config.Server) error {
	e, known, err := noted(cfg.Data)
	if err != nil || !known {
		return err
	}
	now, err := enginesOf(cfg)
	if err == nil && now.Blob != e.Blob {
		err = plat.InvalidField("blob", "is not where the installation of %s has its files, which are in %s; give the server's --blob (PANAL_BLOB)", cfg.Data, e.files())
	}
	return err
}

// noteEngines notes the configuration's. That the files are elsewhere than before is said:
// they may have been moved, or --blob forgotten.
func (a *App) noteEngines(ctx context.Context) error {
	now, err := enginesOf(a.cfg)
	if err != nil {
		return err
	}
	e, known, err := noted(a.cfg.Data)
	if err != nil || known && e == now {
		return err
	}
	if known && e.Blob != now.Blob {
		a.log.LogAttrs(ctx, slog.LevelWarn, "files are looked for elsewhere than before (--blob); those that were not moved there can't be read", slog.String("before", e.files()), slog.String("now", now.files()))
	}
	b, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return writePrivate(filepath.Join(a.cfg.Data, fileEngines), append(b, '\n'))
}
