// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"panal/internal/backup"
	"panal/internal/blob"
	"panal/internal/config"
	"panal/internal/lake"
	"panal/internal/lake/journal"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlite"
	"panal/internal/x/keyring"
)

// aliveEvery is how often a backup that has nothing to send says that it is at work.
const aliveEvery = 5 * time.Second

// backupJob is one backup of an installation.
type backupJob struct {
	a    *App
	logs *sqlstore.Logs
	w    *backup.Writer
	hold *blob.Hold
	temp string

	flush func() // sends what was written
	sent  time.Time
	end   backup.End
}

// Backup writes a backup of a running installation to w; flush sends what was written.
// An error before the first byte says that there is none, one after it that what was
// written is not whole.
func (a *App) Backup(ctx context.Context, lines *sqlstore.Logs, w io.Writer, flush func()) (err error) {
	if err := embedded(a.cfg); err != nil {
		return err
	}
	hold, err := a.blobs.Hold()
	if err != nil {
		return err
	}
	defer func() {
		// Deletions wait until here, whatever became of the backup and of who asked for it.
		a.releasing.Go(func() {
			if err := hold.Release(context.WithoutCancel(ctx)); err != nil {
				a.warn(ctx, "delete what a backup has held", err)
			}
		})
	}()
	temp, err := os.MkdirTemp(filepath.Join(a.cfg.Data, dirUploads), "backup-")
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	j := &backupJob{a: a, logs: lines, hold: hold, temp: temp, flush: flush, sent: time.Now()}
	begun := time.Now()
	if err := j.run(ctx, w); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	a.log.LogAttrs(ctx, slog.LevelInfo, "a backup was made", slog.Int64("objects", j.end.Objects), slog.Int64("files", j.end.Files),
		slog.Int64("bytes", j.end.Bytes), slog.Int64("missing", j.end.Missing), slog.Duration(plat.LogDuration, time.Since(begun)))
	return nil
}

// embedded refuses an installation whose parts have backup tools of their own.
func embedded(cfg config.Server) error {
	where, err := config.ParseBlob(cfg.Blob)
	switch {
	case err != nil:
		return err
	case cfg.Database != "":
		return plat.Errorf(plat.ErrUnsupported, "this installation's records are in PostgreSQL, which has tools of its own: pg_dump first, then copy the bucket (replication, or rclone), and the key file %s apart from both; after restoring them run panal channel verify --repair on each channel (docs/operations.md)", keyFile(cfg))
	case where.Bucket != "":
		return plat.Errorf(plat.ErrUnsupported, "this installation's files are in the bucket %s: copy the records first (panal stop, then the *.db files of %s), then the bucket (replication, or rclone), and the key file %s apart from both; after restoring them run panal channel verify --repair on each channel (docs/operations.md)", where.Bucket, cfg.Data, keyFile(cfg))
	}
	return nil
}

func (j *backupJob) run(ctx context.Context, w io.Writer) error {
	index := sqlstore.NewLake(j.a.lakeDB, j.a.now)
	u, err := index.Total(ctx)
	if err != nil {
		return err
	}
	schema, err := sqlite.Newest()
	if err != nil {
		return err
	}
	h := backup.Header{Begun: j.a.now().UTC(), Panal: plat.Version, Schema: schema, KeyFile: keyFile(j.a.cfg), Files: u.Files, Bytes: u.Bytes}
	if abs, err := filepath.Abs(h.KeyFile); err == nil {
		h.KeyFile = abs
	}
	if j.a.keys != nil {
		h.KeyIDs = j.a.keys.IDs()
	}
	if j.w, err = backup.NewWriter(w, h); err != nil {
		return err
	}
	if err := j.journal(ctx, h.Begun); err != nil {
		return err
	}
	if err := j.databases(ctx); err != nil {
		return err
	}
	if err := j.objects(ctx); err != nil {
		return err
	}
	j.end, err = j.w.Close(j.end)
	j.flush()
	return err
}

// alive says that the backup is at work, when there was nothing to send for a while.
func (j *backupJob) alive() error {
	if time.Since(j.sent) < aliveEvery {
		return nil
	}
	j.sent = time.Now()
	if err := j.w.Alive(); err != nil {
		return err
	}
	j.flush()
	return nil
}

// journal copies the change journal, which is older than the databases then.
func (j *backupJob) journal(ctx context.Context, begun time.Time) error {
	marks := false
	for _, prefix := range journal.BackupOrder() {
		if strings.HasSuffix(prefix, "batch/") && !marks {
			key, content := journal.BackupMark(begun)
			if err := j.w.Add(backup.Entry{Object: key, Size: int64(len(content))}, strings.NewReader(content)); err != nil {
				return err
			}
		}
		err := j.each(ctx, prefix, "", func(infos []blob.Info) error {
			for _, info := range infos {
				marks = marks || strings.HasSuffix(prefix, "mark/")
				if _, err := j.object(ctx, info.Key); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// databases copies the databases: control plane and DataLake as of one moment, then
// the logs.
func (j *backupJob) databases(ctx context.Context) error {
	if _, err := j.a.audits.Settle(ctx); err != nil {
		return err
	}
	snaps, err := sqlstore.Freeze(ctx, j.a.control, j.a.lakeDB)
	if err != nil {
		return err
	}
	j.end.At = j.a.now().UTC()
	for i, name := range []string{fileControl, fileLake} {
		if err == nil {
			err = j.database(ctx, snaps[i], name)
		}
		snaps[i].Close()
	}
	if err != nil {
		return err
	}
	return j.logs.EachFile(ctx, func(name string, db *sqlstore.DB) error {
		s, err := sqlstore.Freeze(ctx, db)
		if err != nil {
			return err
		}
		defer s[0].Close()
		return j.database(ctx, s[0], dirLogs+"/"+name)
	})
}

func (j *backupJob) database(ctx context.Context, s *sqlstore.Snapshot, name string) error {
	path := filepath.Join(j.temp, filepath.Base(name))
	if err := s.CopyTo(ctx, path, j.alive); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := j.w.Add(backup.Entry{Database: name, Size: info.Size()}, f); err != nil {
		return err
	}
	j.sent = time.Now()
	if name == fileLake { // objects are looked up in it
		return nil
	}
	return os.Remove(path)
}

// objects copies all objects but the journal's. Of files those that the snapshot
// names: what came later is not of this backup, and what the snapshot names is still
// there, since deletions are held.
func (j *backupJob) objects(ctx context.Context) (err error) {
	db, err := sqlite.Open(ctx, filepath.Join(j.temp, fileLake))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	index := sqlstore.NewLake(db, j.a.now)
	rows, err := index.CountFiles(ctx)
	if err != nil {
		return err
	}
	copyAll := func(infos []blob.Info) error {
		known, err := knownFiles(ctx, index, infos)
		if err != nil {
			return err
		}
		for _, info := range infos {
			id, isFile := fileOf(info.Key)
			if isFile && !known[id] {
				continue
			}
			there, err := j.object(ctx, info.Key)
			if err != nil {
				return err
			}
			if isFile && there {
				j.end.Files++
			}
		}
		return nil
	}
	before := true // the journal, which can be long and is copied already
	err = j.each(ctx, "", "", func(infos []blob.Info) error {
		for i, info := range infos {
			if strings.HasPrefix(info.Key, journal.Prefix) {
				before = false
				infos = infos[:i]
				break
			}
		}
		if err := copyAll(infos); err != nil || before {
			return err
		}
		return errStop
	})
	if errors.Is(err, errStop) {
		err = j.each(ctx, "", strings.TrimSuffix(journal.Prefix, "/")+"0", copyAll) // "0" follows "/"
	}
	if err != nil {
		return err
	}
	j.end.Missing += max(rows-j.end.Files, 0)
	return nil
}

var errStop = errors.New("that is enough")

// each lists what the hold has, page by page.
func (j *backupJob) each(ctx context.Context, prefix, after string, f func([]blob.Info) error) error {
	for more := true; more; {
		infos, next, err := j.hold.List(ctx, prefix, after, 1000)
		if err != nil {
			return fmt.Errorf("list objects: %w", err)
		}
		if len(infos) > 0 {
			after = infos[len(infos)-1].Key
		}
		if err := f(infos); err != nil {
			return err
		}
		if err := j.alive(); err != nil {
			return err
		}
		more = next
	}
	return nil
}

// object copies one object and tells whether it was there.
func (j *backupJob) object(ctx context.Context, key string) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	rc, info, err := j.hold.Open(ctx, key)
	if errors.Is(err, plat.ErrNotFound) {
		return false, nil
	}
	if errors.Is(err, blob.ErrDamaged) {
		// All the rest must be kept the more. What is left of it is of no use.
		j.a.log.LogAttrs(ctx, slog.LevelError, "an object is damaged: the backup is without it", slog.String(plat.LogError, err.Error()))
		if _, isFile := fileOf(key); !isFile {
			j.end.Missing++
		}
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open %s: %w", key, err)
	}
	defer func() { _ = rc.Close() }()
	if err := j.w.Add(backup.Entry{Object: key, Size: info.Size}, rc); err != nil {
		return false, err
	}
	return true, nil
}

// fileOf returns the file whose object has the key.
func fileOf(key string) (plat.FileID, bool) {
	if !strings.HasPrefix(key, lake.ObjectPrefix) || strings.Count(key, "/") != 4 {
		return "", false
	}
	return plat.FileID(key[strings.LastIndexByte(key, '/')+1:]), true
}

// knownFiles returns which files of the objects the index has.
func knownFiles(ctx context.Context, index *sqlstore.Lake, infos []blob.Info) (map[plat.FileID]bool, error) {
	ids := map[plat.ChannelID][]plat.FileID{}
	for _, info := range infos {
		if id, ok := fileOf(info.Key); ok {
			channel := plat.ChannelID(strings.Split(info.Key, "/")[2])
			ids[channel] = append(ids[channel], id)
		}
	}
	all := map[plat.FileID]bool{}
	for channel, list := range ids {
		known, err := index.Known(ctx, channel, list)
		if err != nil {
			return nil, err
		}
		for id := range known {
			all[id] = true
		}
	}
	return all, nil
}

// BackupOffline is Backup of a data directory that no server has.
func BackupOffline(ctx context.Context, cfg config.Server, log *slog.Logger, w io.Writer) (err error) {
	if err := CheckDataDir(cfg); err != nil {
		return err
	}
	if err := errors.Join(embedded(cfg), checkBlob(cfg)); err != nil {
		return err
	}
	a := &App{cfg: cfg, log: log, now: plat.SystemClock}
	defer func() { err = errors.Join(err, a.close()) }()
	if err := a.openData(ctx); err != nil {
		return err
	}
	if _, err := os.Stat(keyFile(cfg)); err == nil {
		if a.keys, err = keyring.Open(keyFile(cfg)); err != nil {
			return err
		}
	}
	a.audits = a.openAudit()
	lines, err := sqlstore.OpenLogFiles(ctx, filepath.Join(cfg.Data, dirLogs), func(ctx context.Context, path string) (*sqlstore.DB, error) {
		return sqlite.Open(ctx, path, "logs")
	})
	if err != nil {
		return err
	}
	a.closers = append(a.closers, lines.Close)
	return a.Backup(ctx, lines, w, func() {})
}
