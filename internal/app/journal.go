// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"panal/internal/config"
	"panal/internal/lake/journal"
	"panal/internal/org"
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
func RebuildLake(ctx context.Context, cfg config.Server, log *slog.Logger, again bool, progress func(channels, files, bytes int64)) (out Rebuilt, err error) {
	if _, err := os.Stat(cfg.Data); errors.Is(err, fs.ErrNotExist) && cfg.Database == "" {
		return out, plat.Errorf(plat.ErrNotFound, "there is no data directory %s", cfg.Data)
	}
	if err := errors.Join(checkEngines(cfg), checkBlob(cfg)); err != nil {
		return out, err
	}
	a := &App{cfg: cfg, log: log, now: plat.SystemClock}
	defer func() { err = errors.Join(err, a.close()) }()
	if err := a.openData(ctx); err != nil {
		return out, err
	}
	index := sqlstore.NewLake(a.lakeDB, a.now)
	if out.Rebuilt, err = journal.Rebuild(ctx, a.blobs, index, again, func(r journal.Rebuilt) { progress(r.Channels, r.Files, r.Bytes) }); err != nil {
		return out, err
	}
	out.Organizations, err = a.recoverOrgs(ctx, index)
	return out, err
}

// Rebuilt is what RebuildLake has done.
type Rebuilt struct {
	journal.Rebuilt
	// Organizations are those that own channels and were in no database any more.
	Organizations []RecoveredOrg `json:"organizations"`
}

// RecoveredOrg is an organization made anew under its id, with an admin.
type RecoveredOrg struct {
	ID    plat.OrgID  `json:"organization_id"`
	Name  string      `json:"name"`
	Admin plat.UserID `json:"user_id"`
	Token string      `json:"personal_access_token"`
}

// recoverOrgs makes anew the organizations of channels whose record was lost with the index, or
// nobody could reach the channels. When there was none left the first one's admin is noted
// in admin.json, as at a first start.
func (a *App) recoverOrgs(ctx context.Context, index *sqlstore.Lake) ([]RecoveredOrg, error) {
	const page = 1000
	oldest := map[plat.OrgID]time.Time{}
	for after := plat.ChannelID(""); ; {
		channels, err := index.AllChannels(ctx, after, page)
		if err != nil {
			return nil, err
		}
		for _, c := range channels {
			if at, ok := oldest[c.Org]; !ok || c.CreatedAt.Before(at) {
				oldest[c.Org] = c.CreatedAt
			}
			after = c.ID
		}
		if len(channels) < page {
			break
		}
	}
	store := sqlstore.NewOrgs(a.control)
	orgs := org.NewService(store, store, a.now, "")
	all, err := orgs.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, o := range all {
		delete(oldest, o.ID)
	}
	out := []RecoveredOrg{}
	for _, id := range slices.SortedFunc(maps.Keys(oldest), func(a, b plat.OrgID) int { return oldest[a].Compare(oldest[b]) }) {
		o, err := orgs.Recover(ctx, id)
		if err != nil {
			return out, fmt.Errorf("recover organization %s: %w", id, err)
		}
		adm, err := firstAdmin(ctx, orgs, o.ID)
		if err != nil {
			return out, err
		}
		out = append(out, RecoveredOrg{ID: o.ID, Name: o.Name, Admin: plat.UserID(adm.UserID), Token: adm.Token})
	}
	if len(all) > 0 || len(out) == 0 {
		return out, nil
	}
	first := out[0] // the server adds its URL
	return out, writeAdmin(a.cfg.Data, Admin{OrganizationID: string(first.ID), UserID: string(first.Admin), Token: first.Token})
}
