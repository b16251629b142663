// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"panal/internal/config"
	"panal/internal/plat"
	"panal/internal/secret"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlite"
	"panal/internal/sqlstore/sqlstoretest"
)

// A server that is told of another place of the files starts, for they may have been moved, and says
// so once; other commands refuse.
func TestFilesElsewhere(t *testing.T) {
	cfg := config.Server{Data: filepath.Join(t.TempDir(), "data"), Blob: "dir:" + filepath.Join(t.TempDir(), "files")}
	before := cfg.Blob
	open := func() string {
		t.Helper()
		var said bytes.Buffer
		a := &App{cfg: cfg, log: slog.New(slog.NewTextHandler(&said, nil)), now: plat.SystemClock}
		if err := errors.Join(a.openData(t.Context()), a.close()); err != nil {
			t.Fatal(err)
		}
		return said.String()
	}
	for i, want := range []string{"", "", "before=" + before + ` now="the data directory"`, ""} {
		if i == 2 {
			cfg.Blob = ""
			if err := checkBlob(cfg); !errors.Is(err, plat.ErrInvalid) || !strings.Contains(err.Error(), before) {
				t.Errorf("without --blob: %v", err)
			}
		}
		if said := open(); want == "" && said != "" || !strings.Contains(said, want) {
			t.Errorf("start %d said %q, want %q", i, said, want)
		}
	}
	one, err := enginesOf(config.Server{Blob: "s3://bucket?prefix=a"})
	other, err2 := enginesOf(config.Server{Blob: "s3://bucket?prefix=b"})
	if err = errors.Join(err, err2); err != nil || one == other {
		t.Errorf("two folders of a bucket: %v, %v, %v", one, other, err)
	}
}

// A lost key file is not made anew by commands, or a server would start with it.
func TestKeysLost(t *testing.T) {
	cfg := installed(t)
	lost := keyFile(cfg)
	if err := os.Remove(lost); err != nil {
		t.Fatal(err)
	}
	_, err := Keys(t.Context(), cfg)
	_, err2 := PruneKeys(t.Context(), cfg)
	_, err3 := RotateKey(cfg)
	if !errors.Is(err, plat.ErrNotFound) || !errors.Is(err2, plat.ErrNotFound) || !errors.Is(err3, plat.ErrNotFound) || !strings.Contains(err.Error(), lost) {
		t.Errorf("list %v; prune %v; rotate %v", err, err2, err3)
	}
	if _, err := os.Stat(lost); err == nil {
		t.Error("a key file was made")
	}
}

// Beside a database that is not the server's every key looks unused: none is pruned.
func TestKeysOfAnotherDatabase(t *testing.T) {
	cfg := config.Server{Data: installed(t).Data, Database: sqlstoretest.PostgresURL(t)}
	if _, err := RotateKey(cfg); err != nil {
		t.Fatal(err)
	}
	gone, err := PruneKeys(t.Context(), cfg)
	if !errors.Is(err, plat.ErrInvalid) || !strings.Contains(err.Error(), "--database") || len(gone) > 0 {
		t.Errorf("prune %q, %v", gone, err)
	}
}

// Beside secrets that another installation's keys have sealed none of ours is pruned.
func TestKeysOfAnotherInstallation(t *testing.T) {
	cfg, other := installed(t), installed(t)
	db, err := sqlite.Open(t.Context(), filepath.Join(cfg.Data, fileControl), "outbox", "control")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	ring, err := openKeys(cfg)
	if err != nil {
		t.Fatal(err)
	}
	orgs, err := sqlstore.NewOrgs(db).Organizations(t.Context())
	if err != nil || len(orgs) == 0 {
		t.Fatalf("%v, %v", orgs, err)
	}
	secrets := secret.NewService(sqlstore.NewSecrets(db), ring, plat.SystemClock)
	if _, err := secrets.Create(t.Context(), orgs[0].ID, "1", secret.New{Name: "sealed", Value: "dmFsdWU="}); err != nil {
		t.Fatal(err)
	}
	cfg.KeyFile = keyFile(other)
	if _, err := RotateKey(cfg); err != nil {
		t.Fatal(err)
	}
	gone, err := PruneKeys(t.Context(), cfg)
	if !errors.Is(err, plat.ErrConflict) || !strings.Contains(err.Error(), "--key-file") || len(gone) > 0 {
		t.Errorf("prune %q, %v", gone, err)
	}
}

// A directory may be called anything.
func TestDataDirPattern(t *testing.T) {
	cfg := config.Server{Data: filepath.Join(t.TempDir(), "[data]*")}
	if err := CheckDataDir(cfg); !errors.Is(err, plat.ErrNotFound) {
		t.Errorf("none: %v", err)
	}
	if err := os.Rename(installed(t).Data, cfg.Data); err != nil {
		t.Fatal(err)
	}
	if err := CheckDataDir(cfg); err != nil {
		t.Errorf("one: %v", err)
	}
	if out, err := restore(t, wholeBackup(t, cfg), filepath.Join(filepath.Dir(cfg.Data), "[new]"), ""); err != nil || out.Objects < 40 {
		t.Errorf("restored: %+v, %v", out, err)
	}
}

// What goes wrong with the database names the flag.
func TestDatabaseNamed(t *testing.T) {
	cfg := config.Server{Data: t.TempDir(), Database: "postgres://u:secret@127.0.0.1:1/d"}
	a := &App{cfg: cfg, log: slog.New(slog.DiscardHandler), now: plat.SystemClock}
	err := errors.Join(a.openData(t.Context()), a.close())
	if !errors.Is(err, plat.ErrUnavailable) || !strings.HasPrefix(err.Error(), "--database: ") || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}
