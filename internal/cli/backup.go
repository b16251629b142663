// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"panal/internal/app"
	"panal/internal/backup"
	"panal/internal/client"
	"panal/internal/config"
	"panal/internal/plat"
)

// backupIdle is how long a server may send nothing: it says every few seconds that it
// is at work.
const backupIdle = 2 * time.Minute

type backupCmd struct {
	Output  string `help:"File to write, which must not exist; - is stdout." short:"f" name:"to" required:"" placeholder:"FILE"`
	Data    string `help:"Data directory: of a server on this machine, or of none that runs. Without it, the server at --api-url with the credentials given." env:"PANAL_DATA" type:"path"`
	Blob    string `help:"The server's --blob, if it has one; used when none runs." env:"PANAL_BLOB"`
	KeyFile string `name:"key-file" help:"The server's --key-file, if it has one; used when none runs." env:"PANAL_KEY_FILE" type:"path"`
}

// Help is shown by panal backup --help.
func (backupCmd) Help() string {
	return `Writes everything of an embedded installation (organizations, users, files, datasets,
jobs, models, deployments, logs) as it was at one moment into a tar, while uploads,
deletes and jobs go on. Only an operator may: it is the data of every organization.

NOT in it: the key file that opens secrets (the command says where it is; keep a copy
of it apart), admin.json, running workloads, Python environments, the configuration.
Secrets are sealed in it; everything else is in clear, so encrypt it where you keep it.

  panal backup --data ./panal-data --to /backup/panal-$(date +%F).tar
  panal backup --to - | zstd | ssh vault 'cat > panal.tar.zst'
  panal restore /backup/panal-2026-11-26.tar --verify

FILE appears only when it is whole and was checked. With PostgreSQL or a bucket, use
pg_dump and the bucket's replication: docs/operations.md.`
}

// backupAnswer is what the command tells as JSON.
type backupAnswer struct {
	backup.End
	File    string   `json:"file"`
	KeyFile string   `json:"key_file"`
	KeyIDs  []string `json:"keys"`
}

// Run makes a backup.
func (c *backupCmd) Run(e *env) error {
	src, err := c.source(e)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	var h backup.Header
	var end backup.End
	check := func(w io.Writer) (err error) {
		bar := e.progressBytes(-1, "backing up")
		defer bar.done()
		r := io.TeeReader(src, w)
		last := int64(0)
		if h, end, err = app.VerifyBackup(r, func(n int64) { bar.add(int(n - last)); last = n }); err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		return err
	}
	if c.Output == "-" {
		err = check(e.stdout)
	} else {
		if err := outside(c.Output, c.Data); err != nil {
			return err
		}
		err = newFile(c.Output, check)
	}
	if err != nil {
		return err
	}
	if c.Output != "-" {
		row := []string{c.Output, fmt.Sprint(end.Bytes), fmt.Sprint(end.Objects), fmt.Sprint(end.Files), fmt.Sprint(end.Databases), end.At.Format(plat.TimeSecZ)}
		if err := e.print(backupAnswer{end, c.Output, h.KeyFile, h.KeyIDs}, []string{"FILE", "BYTES", "OBJECTS", "FILES", "DATABASES", "AS OF"}, [][]string{row}); err != nil {
			return err
		}
	}
	if len(h.KeyIDs) > 0 {
		e.say("The key file is NOT in the backup: %s (keys %s). Without it no secret can be opened: keep a copy of it, apart from the backup.", h.KeyFile, strings.Join(h.KeyIDs, ", "))
	} else {
		e.say("There is no key file %s. It is not in the backup either, and without it no secret can be opened: find it.", h.KeyFile)
	}
	if end.Missing > 0 {
		return fmt.Errorf("the backup has all that there is, but %d objects are missing or damaged in the installation itself: panal channel verify --deep and the server's log tell which", end.Missing)
	}
	return nil
}

// outside refuses a backup in the directory that it is of: it would be lost with it, and
// the server empties some of what is there.
func outside(file, data string) error {
	if data == "" {
		return nil
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(file))
	if err != nil {
		return plat.InvalidField("to", "%v", err)
	}
	root, err := filepath.EvalSymlinks(data)
	if err != nil {
		return nil //nolint:nilerr // there is none: the backup says so
	}
	if dir, err = filepath.Abs(dir); err == nil {
		root, err = filepath.Abs(root)
	}
	if err != nil {
		return plat.InvalidField("to", "%v", err)
	}
	if rel, err := filepath.Rel(root, dir); err == nil && filepath.IsLocal(rel) {
		return plat.InvalidField("to", "%s is inside the data directory %s, with which it would be lost; name a file elsewhere", file, data)
	}
	return nil
}

// source is the stream of the backup: from the server, or made here when none runs.
func (c *backupCmd) source(e *env) (io.ReadCloser, error) {
	api := e.api
	if c.Data != "" {
		if _, err := app.ServerPID(c.Data); errors.Is(err, plat.ErrNotFound) {
			cfg := config.Server{Data: c.Data, Blob: c.Blob, KeyFile: c.KeyFile}
			if err := app.CheckDataDir(cfg); err != nil {
				return nil, err
			}
			pr, pw := io.Pipe()
			log := slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
			go func() { pw.CloseWithError(app.BackupOffline(e.ctx, cfg, log, pw)) }()
			return pr, nil
		}
		switch adm, err := app.ReadAdmin(c.Data); {
		case err == nil:
			api = client.New(adm.APIURL, adm.OrganizationID, adm.UserID, adm.Token)
		case !errors.Is(err, plat.ErrNotFound): // then with the credentials given
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(e.ctx)
	body, err := api.Backup(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	return &idleBody{body: body, cancel: cancel, timer: time.AfterFunc(backupIdle, cancel), ctx: e.ctx}, nil
}

// idleBody ends a stream that makes no progress.
type idleBody struct {
	body   io.ReadCloser
	cancel context.CancelFunc
	timer  *time.Timer
	ctx    context.Context //nolint:containedctx // of the one command
}

// Read implements io.Reader.
func (b *idleBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	b.timer.Reset(backupIdle)
	if errors.Is(err, context.Canceled) && b.ctx.Err() == nil {
		err = plat.Errorf(plat.ErrUnavailable, "the server sent nothing for %s", backupIdle)
	}
	return n, err
}

// Close implements io.Closer.
func (b *idleBody) Close() error {
	b.timer.Stop()
	b.cancel()
	return b.body.Close()
}

// newFile makes a file that appears under its name when write is done and everything is
// on disk. It is its owner's alone.
func newFile(path string, write func(io.Writer) error) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return plat.Errorf(plat.ErrConflict, "%s is there already; name another file, or move it away", path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return plat.InvalidField("to", "%v", err)
	}
	f, err := newPartial(path)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	// Link and not rename: it does not replace what came meanwhile.
	if err := os.Link(f.Name(), path); err != nil {
		if err := os.Rename(f.Name(), path); err != nil {
			return plat.InvalidField("to", "%v", err)
		}
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

const partial = ".partial"

// newPartial makes a file for what is to become path, with a lock on it, and removes
// what was left of others. One command does so at a time: between its making and its lock a
// file looks as if it had been left.
func newPartial(path string) (*os.File, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, plat.InvalidField("to", "%v", err)
	}
	defer func() { _ = dir.Close() }() // ends the lock
	if err := flock(dir, syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir.Name(), err)
	}
	if err := removePartials(path); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir.Name(), "."+filepath.Base(path)+".*"+partial) // 0600
	if err != nil {
		return nil, plat.InvalidField("to", "%v", err)
	}
	if err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close(), os.Remove(f.Name()))
	}
	return f, nil
}

// flock is the system call, again when a signal ends it.
func flock(f *os.File, how int) error {
	for {
		if err := syscall.Flock(int(f.Fd()), how); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// removePartials removes what commands that were killed have left of path. One that is
// at work has a lock on its own.
func removePartials(path string) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return plat.InvalidField("to", "%v", err)
	}
	for _, d := range entries {
		middle, ok := strings.CutPrefix(d.Name(), "."+filepath.Base(path)+".")
		number, ok2 := strings.CutSuffix(middle, partial)
		if _, err := strconv.ParseUint(number, 10, 64); !ok || !ok2 || err != nil || !d.Type().IsRegular() {
			continue
		}
		name := filepath.Join(filepath.Dir(path), d.Name())
		f, err := os.Open(name)
		if err != nil { // it is gone, or somebody else's
			continue
		}
		if flock(f, syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.Remove(name) // a directory in which it can't be removed takes no backup either
		}
		_ = f.Close()
	}
	return nil
}

type restoreCmd struct {
	File    string `arg:"" help:"A backup; - is stdin."`
	Data    string `help:"Data directory to make; it must be new or empty." default:"./panal-data" env:"PANAL_DATA" type:"path"`
	KeyFile string `name:"key-file" help:"The key file, kept apart from the backup: checked, and copied to secret.key in the data directory." type:"path"`
	Verify  bool   `help:"Only read the backup and check that it is whole and undamaged."`
}

// Help is shown by panal restore --help.
func (restoreCmd) Help() string {
	return `Makes a data directory that appears whole or not at all: everything is written beside
it, every checksum compared and every database checked first. A backup of an older
Panal is brought up to date; one of a newer is refused.

  panal restore panal.tar --data ./restored --key-file /vault/secret.key
  panal serve --data ./restored

Tokens work as before, and admin.json gets a new one for an admin of the first
organization. Jobs that ran are Failed, and services start again. Restore only what you
made yourself: checksums tell damage, not forgery.`
}

// Run restores, or verifies.
func (c *restoreCmd) Run(e *env) error {
	in := e.stdin
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return plat.InvalidField("file", "%v", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	bar, last := e.progressBytes(-1, "reading"), int64(0)
	defer bar.done()
	progress := func(n int64) { bar.add(int(n - last)); last = n }
	header := []string{"OBJECTS", "FILES", "DATABASES", "BYTES", "AS OF", "MADE BY"}
	row := func(h backup.Header, end backup.End) [][]string {
		return [][]string{{strconv.FormatInt(end.Objects, 10), strconv.FormatInt(end.Files, 10), strconv.FormatInt(end.Databases, 10), strconv.FormatInt(end.Bytes, 10), end.At.Format(plat.TimeSecZ), h.Panal}}
	}
	if c.Verify {
		h, end, err := app.VerifyBackup(in, progress)
		if err != nil {
			return err
		}
		return e.print(backupAnswer{end, c.File, h.KeyFile, h.KeyIDs}, header, row(h, end))
	}
	out, err := app.Restore(e.ctx, in, app.RestoreOptions{Data: c.Data, KeyFile: c.KeyFile, Progress: progress})
	if err != nil {
		return err
	}
	if err := e.print(out, header, row(out.Header, out.End)); err != nil {
		return err
	}
	if !out.HasKeys {
		e.say("Now put the key file in its place, else no secret can be opened (keys %s; it was %s):\n  install -m 600 YOUR-COPY %s", strings.Join(out.Header.KeyIDs, ", "), out.Header.KeyFile, out.KeyFile)
	}
	if !out.HasAdmin {
		e.say("No admin.json was written: the first organization has no admin that can be given another token (each has as many as there may be). Sign in with a token of before (--user, --token or PANAL_USER_ID, PANAL_PERSONAL_ACCESS_TOKEN).")
	}
	e.say("Then: panal serve --data %s", out.Data)
	return nil
}
