// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"panal/internal/config"
	"panal/internal/lake/link"
	"panal/internal/org"
	"panal/internal/plat"
	"panal/internal/secret"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlite"
	"panal/internal/x/keyring"
)

// keyFile is where the keys are.
func keyFile(cfg config.Server) string {
	if cfg.KeyFile != "" {
		return cfg.KeyFile
	}
	return filepath.Join(cfg.Data, fileKey)
}

// checkKeyFile refuses to make a new key file where secrets were sealed with keys that
// are not there: whoever restored the records has to bring the file along.
func (a *App) checkKeyFile(ctx context.Context) error {
	path := keyFile(a.cfg)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil // what else is wrong with it, opening it says
	}
	sealed, err := sealedIn(ctx, a.control)
	if err != nil || len(sealed) == 0 {
		return err
	}
	return plat.Errorf(plat.ErrConflict, "there is no key file %s, and secrets are sealed with %s: put the file in its place (chmod 600). If it is lost for ever: panal key rotate --data %s makes a new one; then set every secret anew",
		path, strings.Join(slices.Sorted(maps.Keys(sealed)), ", "), a.cfg.Data)
}

const keysEvery = 5 * time.Second

// keepSealed notices that the keys were turned, and then, as at the start, seals anew
// what an older key has sealed.
func (a *App) keepSealed(ctx context.Context, secrets *secret.Service, sources *org.Datasources, links *link.Manager) error {
	reseal := func() {
		n, err := secrets.Reseal(ctx, a.log)
		m, more := sources.Reseal(ctx)
		k, most := links.Reseal(ctx)
		switch n, err := n+m+k, errors.Join(err, more, most); {
		case err != nil:
			a.warn(ctx, "seal secrets with the new key", err)
		case n > 0:
			a.log.LogAttrs(ctx, slog.LevelInfo, "secrets were sealed with the new key", slog.Int("count", n), slog.String("key", a.keys.Active()))
		}
	}
	reseal()
	return a.every(ctx, keysEvery, func(n int) {
		changed, err := a.keys.Reload()
		if err != nil {
			a.warn(ctx, "read the key file", err)
		}
		if changed || n%int(time.Hour/keysEvery) == 0 {
			reseal()
		}
	})
}

// Key is a key of the key file and how many values it has sealed.
type Key struct {
	ID     string `json:"key"`
	Active bool   `json:"active"`
	Sealed int    `json:"sealed"`
}

// Keys lists the keys of a server's key file, and what they have sealed in its
// database. The server may be running.
func Keys(ctx context.Context, cfg config.Server) ([]Key, error) {
	ring, err := openKeys(cfg)
	if err != nil {
		return nil, err
	}
	sealed, err := sealedBy(ctx, cfg)
	if err != nil {
		return nil, err
	}
	var all []Key
	for i, id := range ring.IDs() {
		all = append(all, Key{ID: id, Active: i == 0, Sealed: sealed[id]})
		delete(sealed, id)
	}
	for _, id := range slices.Sorted(maps.Keys(sealed)) { // what no key here opens
		all = append(all, Key{ID: id + " (missing)", Sealed: sealed[id]})
	}
	return all, nil
}

// openKeys opens a key file that is there. One that is lost must not be made anew by who only
// asks: a server would take it, and nothing would tell any more that secrets need the lost one.
func openKeys(cfg config.Server) (*keyring.Ring, error) {
	path := keyFile(cfg)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, plat.Errorf(plat.ErrNotFound, "there is no key file %s", path)
	}
	return keyring.Open(path)
}

// RotateKey puts a new key in front of the key file; a server that runs takes it up
// within seconds.
func RotateKey(cfg config.Server) (id string, err error) {
	ring, err := openKeys(cfg)
	if err != nil {
		return "", err
	}
	return ring.Rotate()
}

// PruneKeys removes the keys that have nothing sealed any more, but for the active
// one, and returns their ids.
func PruneKeys(ctx context.Context, cfg config.Server) (gone []string, err error) {
	ring, err := openKeys(cfg)
	if err != nil {
		return nil, err
	}
	sealed, err := sealedBy(ctx, cfg)
	if err != nil {
		return nil, err
	}
	for i, id := range ring.IDs() {
		if i > 0 && sealed[id] == 0 {
			gone = append(gone, id)
		}
		delete(sealed, id)
	}
	// Beside another installation's database, or an old copy of the file, what looks unused
	// may be all that opens secrets elsewhere.
	if missing := slices.Sorted(maps.Keys(sealed)); len(missing) > 0 {
		return nil, plat.Errorf(plat.ErrConflict, "the database has secrets sealed by the key %s, which %s has not; nothing was removed: give the server's own --database and --key-file ('panal key list' tells what each key has sealed)", missing[0], keyFile(cfg))
	}
	if len(gone) == 0 {
		return nil, nil
	}
	return gone, ring.Drop(gone...)
}

func sealedBy(ctx context.Context, cfg config.Server) (map[string]int, error) {
	var db, files *sqlstore.DB
	var err error
	if cfg.Database != "" {
		db, err = openPostgres(ctx, cfg.Database, 2)
		files = db
	} else {
		db, err = sqlite.Open(ctx, filepath.Join(cfg.Data, fileControl), "outbox", "control")
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }() // it was only read
	// An installation has an organization from its first start on. Without this, every key would
	// look unused beside a database that is not the server's.
	if all, err := sqlstore.NewOrgs(db).Organizations(ctx); err != nil {
		return nil, err
	} else if len(all) == 0 {
		return nil, plat.InvalidField("database", "has no organization, so it is not the server's; give the server's --database (PANAL_DATABASE)")
	}
	if files == nil {
		if files, err = sqlite.Open(ctx, filepath.Join(cfg.Data, fileLake), "outbox", "lake"); err != nil {
			return nil, err
		}
		defer func() { _ = files.Close() }()
	}
	sealed, err := sealedIn(ctx, db)
	if err != nil {
		return nil, err
	}
	links, err := sqlstore.LinkKeys(ctx, files)
	for id, n := range links {
		sealed[id] += n
	}
	return sealed, err
}

func sealedIn(ctx context.Context, db *sqlstore.DB) (map[string]int, error) {
	sealed, err := sqlstore.SealedBy(ctx, db)
	if err != nil {
		return nil, err
	}
	sources, err := sqlstore.NewOrgs(db).DatasourceKeys(ctx)
	for id, n := range sources {
		sealed[id] += n
	}
	return sealed, err
}

// CheckDataDir says so when there is no data directory, so that a command does not make one,
// and when its records are elsewhere than the command was told.
func CheckDataDir(cfg config.Server) error {
	if cfg.Database != "" && cfg.KeyFile != "" {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(cfg.Data, fileLock)); err != nil {
		return plat.Errorf(plat.ErrNotFound, "there is no data directory %s", cfg.Data)
	}
	return checkEngines(cfg)
}
