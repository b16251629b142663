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
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"panal/internal/plat"
	"panal/internal/x/handed"
)

// Names in the data directory.
const (
	fileLock    = "lock"
	fileAdmin   = "admin.json"
	fileKey     = "secret.key"
	fileEngines = "engines.json"
	fileControl = "control.db"
	fileLake    = "lake.db"
	dirBlobs    = "blobs"
	dirLogs     = "logs"
	dirRun      = "run"
	dirEnvs     = "environments"
	// dirUploads holds archives while they are checked; emptied at start.
	dirUploads = "uploads"
)

// Admin is the content of admin.json: how to reach this installation as its
// first user.
type Admin struct {
	APIURL         string `json:"api_url"`
	OrganizationID string `json:"organization_id"`
	UserID         string `json:"user_id"`
	Token          string `json:"personal_access_token"`
}

// ReadAdmin reads admin.json of a data directory.
func ReadAdmin(data string) (Admin, error) {
	var a Admin
	b, err := os.ReadFile(filepath.Join(data, fileAdmin))
	if errors.Is(err, fs.ErrNotExist) {
		return a, plat.Errorf(plat.ErrNotFound, "%s has no %s; start a server there first: panal serve --data %s", data, fileAdmin, data)
	}
	if err != nil {
		return a, fmt.Errorf("read %s: %w", fileAdmin, err)
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return a, plat.Errorf(plat.ErrInvalid, "%s is not what panal wrote: %v", filepath.Join(data, fileAdmin), err)
	}
	return a, nil
}

func writeAdmin(data string, adm Admin) error {
	b, err := json.MarshalIndent(adm, "", "  ")
	if err != nil {
		return err
	}
	return writePrivate(filepath.Join(data, fileAdmin), append(b, '\n'))
}

// writePrivate writes a file that only its owner may read, atomically and durably.
func writePrivate(path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// alone is the supervisor of a process that has none.
const alone = 0

// lock takes the data directory for this process, and notes in it what ServerPIDs is to
// return. The kernel gives it back when the process ends, however it ends.
func lock(data string, supervisor int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(data, fileLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		pid, _, _ := owners(f)
		_ = f.Close()
		return nil, plat.Errorf(plat.ErrConflict, "%s is in use by another panal serve (pid %d); one server owns a data directory", data, pid)
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.WriteAt(fmt.Appendf(nil, "%d\n%d\n", os.Getpid(), supervisor), 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// lockPoll is how often a server looks whether the one before it has gone: its callers
// wait meanwhile.
const lockPoll = 2 * time.Millisecond

// takeData takes the data directory, and waits for a server that has it if it is told to.
func (a *App) takeData(ctx context.Context) (*os.File, error) {
	start := time.Now()
	for tries := 0; ; tries++ {
		f, err := lock(a.cfg.Data, a.starter.Supervisor)
		if !errors.Is(err, plat.ErrConflict) || time.Since(start) >= a.cfg.LockWait {
			return f, err
		}
		if tries == 0 {
			a.log.LogAttrs(ctx, slog.LevelInfo, "waiting for the server before this one to give the data directory up")
			a.tell(ctx, handed.Waiting)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

// ServerPID returns the process that owns the data directory; ErrNotFound when none does.
func ServerPID(data string) (int, error) {
	pid, _, err := ServerPIDs(data)
	return pid, err
}

// ServerPIDs is ServerPID, and the process that is to be told to end for the server to be gone
// for good: its supervisor, or itself.
func ServerPIDs(data string) (pid, stop int, err error) {
	notRunning := plat.Errorf(plat.ErrNotFound, "no server runs on %s", data)
	f, err := os.Open(filepath.Join(data, fileLock))
	if err != nil {
		return 0, 0, notRunning
	}
	defer func() { _ = f.Close() }()
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
		return 0, 0, notRunning // nobody holds it
	}
	if pid, stop, err = owners(f); stop == alone {
		stop = pid
	}
	return pid, stop, err
}

// owners reads what lock has noted. A server of before 2026-11-28 has noted itself alone.
func owners(f *os.File) (pid, supervisor int, err error) {
	b := make([]byte, 64)
	n, _ := f.ReadAt(b, 0) // the error is io.EOF: the file is shorter
	if _, err := fmt.Sscan(string(b[:n]), &pid, &supervisor); pid <= 0 {
		return 0, 0, plat.Errorf(plat.ErrInvalid, "%s holds no process id: %v", f.Name(), err)
	}
	return pid, supervisor, nil
}
