// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"panal/internal/config"
	"panal/internal/lake/journal"
	"panal/internal/plat"
	"panal/internal/sqlstore"
)

const (
	tendEvery = time.Minute
	// endLimit bounds the journal's last write.
	endLimit = 5 * time.Second
)

// keepJournal heals and compacts the change journal.
func (a *App) keepJournal(ctx context.Context, j *journal.Journal, index journal.Index) error {
	tend := func(int) {
		if err := j.Tend(ctx, index, a.cfg.Database == ""); err != nil {
			a.warn(ctx, "tend the change journal", err)
		}
		if _, err := j.Compact(ctx, false); err != nil {
			a.warn(ctx, "compact the change journal", err)
		}
	}
	tend(0)
	if a.cfg.Database != "" { // where a killed server's last commits may yet land
		for _, wait := range []time.Duration{5 * time.Second, 15 * time.Second} {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
				tend(0)
			}
		}
	}
	return a.every(ctx, tendEvery, tend)
}

// endJournal runs when nothing changes any more and the storage is still open.
func endJournal(j *journal.Journal) error {
	ctx, cancel := context.WithTimeout(context.Background(), endLimit)
	defer cancel()
	return j.End(ctx)
}

// RebuildLake makes the index of the DataLake anew from the object store, on a data
// directory that no server has, and whose index is empty.
func RebuildLake(ctx context.Context, cfg config.Server, log *slog.Logger, again bool, progress func(channels, files, bytes int64)) (_ journal.Rebuilt, err error) {
	if _, err := os.Stat(cfg.Data); errors.Is(err, fs.ErrNotExist) && cfg.Database == "" {
		return journal.Rebuilt{}, plat.Errorf(plat.ErrNotFound, "there is no data directory %s", cfg.Data)
	}
	a := &App{cfg: cfg, log: log, now: plat.SystemClock}
	defer func() { err = errors.Join(err, a.close()) }()
	if err := a.openData(ctx); err != nil {
		return journal.Rebuilt{}, err
	}
	return journal.Rebuild(ctx, a.blobs, sqlstore.NewLake(a.lakeDB, a.now), again,
		func(r journal.Rebuilt) { progress(r.Channels, r.Files, r.Bytes) })
}
