// SPDX-License-Identifier: Apache-2.0

package app

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"panal/internal/authn"
	"panal/internal/backup"
	"panal/internal/blob"
	"panal/internal/config"
	"panal/internal/org"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/x/keyring"
)

// installed makes a data directory as a server leaves it, with an admin, some objects
// and a key file.
func installed(t *testing.T) config.Server {
	t.Helper()
	ctx, cfg := t.Context(), config.Server{Data: filepath.Join(t.TempDir(), "data")}
	a := &App{cfg: cfg, log: slog.New(slog.DiscardHandler), now: plat.SystemClock}
	defer func() {
		if err := a.close(); err != nil {
			t.Error(err)
		}
	}()
	if err := a.openData(ctx); err != nil {
		t.Fatal(err)
	}
	store := sqlstore.NewOrgs(a.control)
	orgs := org.NewService(store, store, a.now, "")
	o, err := orgs.Create(ctx, "default")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := orgs.AddUser(ctx, o.ID, "admin@example.com", "admin", authn.RoleAdmin); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		body := strings.Repeat(fmt.Sprint(i), 3000)
		if _, err := a.blobs.Put(ctx, fmt.Sprintf("train/%02d", i), strings.NewReader(body), int64(len(body)), blob.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := keyring.Open(keyFile(cfg)); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func backupOf(ctx context.Context, cfg config.Server, w io.Writer) error {
	return BackupOffline(ctx, cfg, slog.New(slog.DiscardHandler), w)
}

// wholeBackup is one of an installation.
func wholeBackup(t *testing.T, cfg config.Server) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := backupOf(t.Context(), cfg, &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// failing takes so many bytes and then calls and returns an error.
type failing struct {
	left int
	call func()
}

var errNoRoom = errors.New("no room")

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		f.call()
		return 0, errNoRoom
	}
	return len(p), nil
}

// TestBackupRefused: what can't be backed up is said before the first byte.
func TestBackupRefused(t *testing.T) {
	cfg := installed(t)
	for name, c := range map[string]struct {
		change func(*config.Server)
		kind   error
		says   string
	}{
		"no data directory":    {func(c *config.Server) { c.Data += "-not" }, plat.ErrNotFound, "no data directory"},
		"records elsewhere":    {func(c *config.Server) { c.Database, c.KeyFile = "postgres://x", "k" }, plat.ErrUnsupported, "pg_dump"},
		"files elsewhere":      {func(c *config.Server) { c.Blob = "s3://bucket?endpoint=http://localhost:1" }, plat.ErrUnsupported, "in the bucket bucket"},
		"a wrong --blob":       {func(c *config.Server) { c.Blob = "ftp://x" }, plat.ErrInvalid, "blob"},
		"a key file of no key": {func(c *config.Server) { c.KeyFile = filepath.Join(c.Data, fileControl) }, nil, "key file"},
	} {
		with := cfg
		c.change(&with)
		var out bytes.Buffer
		err := backupOf(t.Context(), with, &out)
		if err == nil || c.kind != nil && !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) || out.Len() > 0 {
			t.Errorf("%s: %v after %d bytes, want %v that says %q", name, err, out.Len(), c.kind, c.says)
		}
	}
	held, err := lock(cfg.Data, alone)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := backupOf(ctx, cfg, io.Discard); err == nil {
		t.Error("a backup of a directory that a server has went on")
	}
}

// TestBackupInterrupted: a backup that ends anywhere says so, leaves nothing in the data
// directory, and what came of it is refused; the next one is whole.
func TestBackupInterrupted(t *testing.T) {
	cfg := installed(t)
	raw := wholeBackup(t, cfg)
	for n := 0; n < len(raw)-4096; n += len(raw) / 6 {
		for name, broken := range map[string]bool{"write": false, "context": true} {
			ctx, cancel := context.WithCancel(t.Context())
			w := &failing{n, func() {}}
			if broken {
				w.call = cancel
			}
			if err := backupOf(ctx, cfg, w); !errors.Is(err, errNoRoom) && !errors.Is(err, context.Canceled) {
				t.Errorf("%s ends after %d bytes: %v", name, n, err)
			}
			if left, err := os.ReadDir(filepath.Join(cfg.Data, dirUploads)); err != nil || len(left) > 0 {
				t.Errorf("%s ends after %d bytes: %v is left, %v", name, n, left, err)
			}
			cancel()
		}
		target := filepath.Join(t.TempDir(), "restored")
		if _, err := restore(t, raw[:n], target, ""); !errors.Is(err, plat.ErrInvalid) {
			t.Errorf("restored from the first %d of %d bytes: %v", n, len(raw), err)
		}
		nothingBeside(t, target)
	}
	if again := wholeBackup(t, cfg); len(again) < len(raw)/2 {
		t.Errorf("the next backup has %d bytes, the first had %d", len(again), len(raw))
	}
}

// TestBackupOfDamage: an object that is damaged in the installation is left out and
// counted; everything else is saved.
func TestBackupOfDamage(t *testing.T) {
	cfg := installed(t)
	sound, err := restore(t, wholeBackup(t, cfg), filepath.Join(t.TempDir(), "restored"), "")
	if err != nil {
		t.Fatal(err)
	}
	segments, err := filepath.Glob(filepath.Join(cfg.Data, "blobs", "segments", "*.seg"))
	if err != nil || len(segments) != 1 {
		t.Fatalf("segments %v, %v", segments, err)
	}
	raw, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	raw[bytes.Index(raw, []byte(strings.Repeat("17", 3000)))+99] ^= 1 // of the body: its key ends in 17, too
	if err := os.WriteFile(segments[0], raw, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := restore(t, wholeBackup(t, cfg), filepath.Join(t.TempDir(), "restored"), "")
	if err != nil || got.Missing != 1 || got.Objects != sound.Objects-1 {
		t.Errorf("restored %+v, %v; want one object less than %d, and 1 that is missing", got.End, err, sound.Objects)
	}
}

func restore(t *testing.T, raw []byte, target, keys string) (Restored, error) {
	return Restore(t.Context(), bytes.NewReader(raw), RestoreOptions{Data: target, KeyFile: keys, Progress: func(int64) {}})
}

// nothingBeside sees that neither the target is there nor what becomes it.
func nothingBeside(t *testing.T, target string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(target))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.Contains(e.Name(), filepath.Base(target)) {
			t.Errorf("%s is left", e.Name())
		}
	}
}

// TestRestoreTarget: a backup takes the place of nothing that is somebody's.
func TestRestoreTarget(t *testing.T) {
	cfg := installed(t)
	raw, root := wholeBackup(t, cfg), t.TempDir()
	put := func(name string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o700), os.WriteFile(filepath.Join(root, name), []byte("mine"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	put("full/file")
	put("file")
	put(".foreign.restoring/file")
	put(".busy.restoring/" + fileLock)
	put(".killed.restoring/" + fileLock)
	put(".killed.restoring/" + fileLake)
	if err := os.Mkdir(filepath.Join(root, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	held, err := lock(filepath.Join(root, ".busy.restoring"), alone)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()
	for name, want := range map[string]error{"full": plat.ErrConflict, "file": plat.ErrInvalid, "foreign": plat.ErrConflict, "busy": plat.ErrConflict} {
		if _, err := restore(t, raw, filepath.Join(root, name), ""); !errors.Is(err, want) {
			t.Errorf("restore into %s: %v, want %v", name, err, want)
		}
	}
	for _, name := range []string{"full/file", "file", ".foreign.restoring/file", ".busy.restoring/" + fileLock} {
		if b, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(b) != "mine" && !strings.HasSuffix(name, fileLock) {
			t.Errorf("%s has %q, %v after what was refused", name, b, err)
		}
	}
	for _, name := range []string{"empty", "killed", "new/below"} {
		out, err := restore(t, raw, filepath.Join(root, name), keyFile(cfg))
		if err != nil || !out.HasAdmin || !out.HasKeys || out.Objects < 40 {
			t.Errorf("restore into %s: %+v, %v", name, out, err)
			continue
		}
		again, err := restoredObjects(t.Context(), filepath.Join(root, name))
		if err != nil || again < 40 {
			t.Errorf("%s holds %d objects, %v", name, again, err)
		}
	}
}

// restoredObjects counts those of a backup that is made of a restored directory.
func restoredObjects(ctx context.Context, dir string) (int64, error) {
	var out bytes.Buffer
	if err := backupOf(ctx, config.Server{Data: dir}, &out); err != nil {
		return 0, err
	}
	_, end, err := VerifyBackup(&out, func(int64) {})
	return end.Objects, err
}

// TestRestoreKeys: a key file that is not there, is none, or another one, is refused
// with its name, and nothing appears.
func TestRestoreKeys(t *testing.T) {
	cfg := installed(t)
	raw, root := wholeBackup(t, cfg), t.TempDir()
	none, other := filepath.Join(root, "none.key"), filepath.Join(root, "other.key")
	if err := os.WriteFile(none, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.Open(other); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(root, "restored")
	for _, keys := range []string{filepath.Join(root, "missing.key"), none, other, root} {
		if _, err := restore(t, raw, target, keys); !errors.Is(err, plat.ErrInvalid) || !strings.Contains(err.Error(), keys) {
			t.Errorf("with the key file %s: %v", keys, err)
		}
		nothingBeside(t, target)
	}
	if out, err := restore(t, raw, target, ""); err != nil || out.HasKeys || out.KeyFile != filepath.Join(target, fileKey) {
		t.Errorf("without a key file: %+v, %v", out, err)
	}
}

// archive writes a backup that is whole, of the given parts.
func archive(t *testing.T, h backup.Header, parts map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := backup.NewWriter(&out, h)
	if err != nil {
		t.Fatal(err)
	}
	var all []backup.Entry
	for name, body := range parts {
		e := backup.Entry{Object: name, Size: int64(len(body))}
		if strings.HasSuffix(name, ".db") {
			e = backup.Entry{Database: name, Size: int64(len(body))}
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b backup.Entry) int {
		if a.Less(b) {
			return -1
		}
		return 1
	})
	for _, e := range all {
		if err := w.Add(e, strings.NewReader(parts[e.Object+e.Database])); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(backup.End{}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestRestoreHostile: names that lead elsewhere, links, and backups that hold no
// installation are refused; nothing is written outside, and nothing appears.
func TestRestoreHostile(t *testing.T) {
	tarOf := func(h tar.Header, body string) []byte {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		head := `{"format":1,"panal":"9"}`
		h.Size = int64(len(body))
		if err := errors.Join(w.WriteHeader(&tar.Header{Name: "panal-backup.json", Size: int64(len(head))}), writeAll(w, head), w.WriteHeader(&h), writeAll(w, body), w.Close()); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	root := t.TempDir()
	target := filepath.Join(root, "deep", "restored")
	outside := filepath.Join(root, "outside")
	for name, c := range map[string]struct {
		raw  []byte
		kind error
	}{
		"object above":         {tarOf(tar.Header{Name: "objects/../../../outside"}, "x"), plat.ErrInvalid},
		"object absolute":      {tarOf(tar.Header{Name: "objects/" + outside}, "x"), plat.ErrInvalid},
		"absolute":             {tarOf(tar.Header{Name: outside}, "x"), plat.ErrInvalid},
		"database above":       {tarOf(tar.Header{Name: "databases/../../../outside"}, "x"), plat.ErrInvalid},
		"database above, .db":  {tarOf(tar.Header{Name: "databases/logs/../../../../outside.db"}, "x"), plat.ErrInvalid},
		"symbolic link":        {tarOf(tar.Header{Name: "objects/a", Typeflag: tar.TypeSymlink, Linkname: outside}, ""), plat.ErrInvalid},
		"hard link":            {tarOf(tar.Header{Name: "databases/lake.db", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}, ""), plat.ErrInvalid},
		"a directory":          {tarOf(tar.Header{Name: "databases/logs/", Typeflag: tar.TypeDir}, ""), plat.ErrInvalid},
		"no database":          {archive(t, backup.Header{}, map[string]string{"train/a": "x"}), plat.ErrInvalid},
		"one database":         {archive(t, backup.Header{}, map[string]string{"control.db": ""}), plat.ErrInvalid},
		"no databases' bytes":  {archive(t, backup.Header{}, map[string]string{"control.db": "no", "lake.db": "database"}), plat.ErrInvalid},
		"of a newer program":   {archive(t, backup.Header{Panal: "99", Schema: map[string]int64{"lake": 1 << 40}}, nil), plat.ErrUnsupported},
		"of an unknown schema": {archive(t, backup.Header{Schema: map[string]int64{"else": 1}}, nil), plat.ErrUnsupported},
		"nothing":              {nil, plat.ErrInvalid},
		"no tar":               {[]byte(strings.Repeat("text ", 1000)), plat.ErrInvalid},
	} {
		if _, err := restore(t, c.raw, target, ""); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v, want %v", name, err, c.kind)
		}
		nothingBeside(t, target)
		if all, err := filepath.Glob(outside + "*"); err != nil || len(all) > 0 {
			t.Fatalf("%s: %v was made, %v", name, all, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	raw := archive(t, backup.Header{}, map[string]string{"train/a": "x"})
	if _, err := Restore(ctx, bytes.NewReader(raw), RestoreOptions{Data: target, Progress: func(int64) {}}); !errors.Is(err, context.Canceled) {
		t.Errorf("a restore that is broken off: %v", err)
	}
	nothingBeside(t, target)
}

func writeAll(w io.Writer, s string) error {
	_, err := io.WriteString(w, s)
	return err
}
