// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"panal/internal/authn"
	"panal/internal/backup"
	"panal/internal/blob"
	"panal/internal/blob/dirblob"
	"panal/internal/org"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlite"
	"panal/internal/x/keyring"
)

const (
	// restoreWriters put small objects at once: their fsyncs are shared.
	restoreWriters = 16
	// smallObject is held in memory while it is written.
	smallObject = 256 << 10
)

// RestoreOptions say where to.
type RestoreOptions struct {
	Data    string // must not exist, or be empty
	KeyFile string // copied to its place; empty: left to the operator
	// Progress is called after each entry with the bytes so far.
	Progress func(bytes int64)
}

// Restored is what a restore has made.
type Restored struct {
	backup.End
	Header  backup.Header `json:"header"`
	Data    string        `json:"data"`
	KeyFile string        `json:"key_file"` // where it is, or has to be put
	HasKeys bool          `json:"has_keys"`
	// HasAdmin: admin.json was written, with a new token.
	HasAdmin bool `json:"has_admin"`
}

// Restore makes a data directory from a backup. It appears whole, or not at all:
// everything is written, checked and made durable beside it first.
func Restore(ctx context.Context, r io.Reader, opt RestoreOptions) (_ Restored, err error) {
	target, err := filepath.Abs(opt.Data)
	if err != nil {
		return Restored{}, err
	}
	if err := restorable(target); err != nil {
		return Restored{}, err
	}
	in, err := backup.NewReader(r)
	if err != nil {
		return Restored{}, err
	}
	newest, err := sqlite.Newest()
	if err != nil {
		return Restored{}, err
	}
	if err := notNewer(in.Header().Schema, newest, in.Header().Panal); err != nil {
		return Restored{}, err
	}
	out := Restored{Header: in.Header(), Data: target, KeyFile: filepath.Join(target, fileKey), HasKeys: opt.KeyFile != ""}
	var keys []byte
	if out.HasKeys {
		if keys, err = readKeys(opt.KeyFile, in.Header().KeyIDs); err != nil {
			return Restored{}, err
		}
	}
	temp := filepath.Join(filepath.Dir(target), "."+filepath.Base(target)+".restoring")
	held, err := restoreDir(temp)
	if err != nil {
		return Restored{}, err
	}
	defer func() {
		_ = held.Close()
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temp))
		}
	}()
	if err := unpack(ctx, in, temp, opt.Progress); err != nil {
		return Restored{}, err
	}
	out.End = in.End()
	if err := checkDatabases(ctx, temp, newest, in.Header().Panal); err != nil {
		return Restored{}, err
	}
	if out.HasKeys {
		if err := writePrivate(filepath.Join(temp, fileKey), keys); err != nil {
			return Restored{}, err
		}
	}
	if out.HasAdmin, err = newAdmin(ctx, temp); err != nil {
		return Restored{}, err
	}
	for _, dir := range []string{filepath.Join(temp, dirLogs), temp} {
		if err := syncDir(dir); err != nil {
			return Restored{}, err
		}
	}
	if err := unix.Rename(temp, target); err != nil { // os.Rename takes no empty directory's place
		return Restored{}, fmt.Errorf("restore: %w", err)
	}
	return out, syncDir(filepath.Dir(target))
}

// VerifyBackup reads a backup to its end and writes nothing.
func VerifyBackup(r io.Reader, progress func(bytes int64)) (backup.Header, backup.End, error) {
	in, err := backup.NewReader(r)
	if err != nil {
		return backup.Header{}, backup.End{}, err
	}
	n := int64(0)
	for {
		e, _, err := in.Next()
		if errors.Is(err, io.EOF) {
			return in.Header(), in.End(), nil
		}
		if err != nil {
			return backup.Header{}, backup.End{}, err
		}
		n += e.Size
		progress(n)
	}
}

// restorable says whether a directory can take the place of target.
func restorable(target string) error {
	entries, err := os.ReadDir(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return os.MkdirAll(filepath.Dir(target), 0o755)
	case err != nil:
		return plat.InvalidField("data", "%v", err)
	case len(entries) > 0:
		return plat.Errorf(plat.ErrConflict, "%s is not empty: a backup is restored into a directory that is new or empty; name another, or move this one away", target)
	}
	var a, b unix.Stat_t
	if err := errors.Join(unix.Stat(target, &a), unix.Stat(filepath.Dir(target), &b)); err != nil {
		return plat.InvalidField("data", "%v", err)
	}
	if a.Dev != b.Dev {
		return plat.InvalidField("data", "%s is a mount point, and what is restored takes the place of the whole directory: name one below it, such as %s", target, filepath.Join(target, "data"))
	}
	return nil
}

// restoreDir makes the directory that is restored into, or empties what a restore has
// left that was killed.
func restoreDir(temp string) (*os.File, error) {
	err := os.Mkdir(temp, 0o700)
	fresh := err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("restore: %w", err)
	}
	if _, err := os.Stat(filepath.Join(temp, fileLock)); !fresh && err != nil {
		return nil, plat.Errorf(plat.ErrConflict, "%s is there and no restore has made it; move it away", temp)
	}
	held, err := lock(temp, alone)
	if err != nil {
		return nil, plat.Errorf(plat.ErrConflict, "another restore is at work in %s", temp)
	}
	entries, err := os.ReadDir(temp)
	for _, e := range entries {
		if e.Name() != fileLock {
			err = errors.Join(err, os.RemoveAll(filepath.Join(temp, e.Name())))
		}
	}
	if err = errors.Join(err, os.Mkdir(filepath.Join(temp, dirLogs), 0o700)); err != nil {
		return nil, errors.Join(err, held.Close())
	}
	return held, nil
}

// notNewer refuses databases that a newer program has made.
func notNewer(have, known map[string]int64, version string) error {
	for concern, n := range have {
		if n > known[concern] {
			return plat.Errorf(plat.ErrUnsupported, "the backup was made by a newer Panal (%.40q): its %.40q records have schema %d and this Panal (%s) knows up to %d; restore with that version or a newer one", version, concern, n, plat.Version, known[concern])
		}
	}
	return nil
}

// unpack writes objects and databases below dir, and returns when the whole backup was
// read and is durable.
func unpack(ctx context.Context, in *backup.Reader, dir string, progress func(int64)) (err error) {
	driver, err := dirblob.Open(ctx, filepath.Join(dir, dirBlobs))
	if err != nil {
		return err
	}
	p := &putter{blobs: blob.New(driver), turns: make(chan struct{}, restoreWriters)}
	defer func() {
		p.wg.Wait()
		err = errors.Join(err, p.failed(), p.blobs.Close())
	}()
	n := int64(0)
	for {
		e, body, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = errors.Join(ctx.Err(), p.failed())
		}
		if err != nil {
			return err
		}
		if e.Database != "" {
			err = writeFile(filepath.Join(dir, filepath.FromSlash(e.Database)), body)
		} else {
			err = p.put(ctx, e, body)
		}
		if err != nil {
			return fmt.Errorf("restore %s: %w", e.Name(), err)
		}
		n += e.Size
		progress(n)
	}
}

// putter stores objects, small ones several at once.
type putter struct {
	blobs *blob.Store
	turns chan struct{}
	wg    sync.WaitGroup
	mu    sync.Mutex
	err   error
}

func (p *putter) put(ctx context.Context, e backup.Entry, body io.Reader) error {
	if e.Size > smallObject {
		_, err := p.blobs.Put(ctx, e.Object, body, e.Size, blob.PutOptions{IfNoneMatch: true})
		return err
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	p.turns <- struct{}{}
	p.wg.Go(func() {
		defer func() { <-p.turns }()
		if _, err := p.blobs.Put(ctx, e.Object, bytes.NewReader(raw), e.Size, blob.PutOptions{IfNoneMatch: true}); err != nil {
			p.mu.Lock()
			p.err = errors.Join(p.err, err)
			p.mu.Unlock()
		}
	})
	return nil
}

func (p *putter) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// writeFile makes a file of the server's alone, durably.
func writeFile(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// checkDatabases reads every database: sound, and of no newer schema, whatever the
// header says.
func checkDatabases(ctx context.Context, dir string, newest map[string]int64, version string) error {
	entries, err := os.ReadDir(filepath.Join(dir, dirLogs))
	if err != nil {
		return err
	}
	var files []string
	for _, d := range entries {
		if filepath.Ext(d.Name()) == ".db" {
			files = append(files, filepath.Join(dir, dirLogs, d.Name()))
		}
	}
	for _, name := range []string{fileControl, fileLake} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err != nil {
			return plat.Errorf(plat.ErrInvalid, "the backup can't be used: it has no %s", name)
		}
		files = append(files, path)
	}
	for _, path := range files {
		have, err := sqlite.Check(ctx, path)
		if err == nil {
			err = notNewer(have, newest, version)
		}
		if err != nil {
			return fmt.Errorf("restore %s: %w", filepath.Base(path), err)
		}
	}
	return nil
}

// readKeys reads a key file, once it is seen to be the right one.
func readKeys(path string, ids []string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, plat.InvalidField("key-file", "%v", err)
	}
	ring, err := keyring.Open(path)
	if err != nil {
		return nil, plat.InvalidField("key-file", "%s is no key file: %v", path, err)
	}
	for _, id := range ids {
		if !slices.Contains(ring.IDs(), id) {
			return nil, plat.InvalidField("key-file", "%s holds the keys %s, and the backup was made with %s", path, strings.Join(ring.IDs(), ", "), strings.Join(ids, ", "))
		}
	}
	return raw, nil
}

// newAdmin makes a token for an admin of the first organization and writes admin.json:
// the one of the old directory is a credential and not in the backup. Whoever can
// restore owns the directory. False: no admin can be given another token; the admins sign
// in with those that they have.
func newAdmin(ctx context.Context, dir string) (made bool, err error) {
	db, err := sqlite.Open(ctx, filepath.Join(dir, fileControl), "outbox", "control")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	store := sqlstore.NewOrgs(db)
	orgs := org.NewService(store, store, plat.SystemClock, "")
	id, err := orgs.Operator(ctx)
	if err != nil {
		return false, fmt.Errorf("restore: find the first organization: %w", err)
	}
	for page := (org.Page{Limit: 1000}); ; page.Offset += page.Limit {
		users, more, err := orgs.Users(ctx, id, page)
		if err != nil {
			return false, err
		}
		for _, u := range users {
			if u.Role != authn.RoleAdmin {
				continue
			}
			_, secret, err := orgs.CreateToken(ctx, id, u.ID, org.NewToken{Name: "made by panal restore"})
			if errors.Is(err, plat.ErrConflict) || errors.Is(err, plat.ErrExhausted) || errors.Is(err, plat.ErrInvalid) { // it has as many as there may be
				continue
			}
			if err != nil {
				return false, err
			}
			return true, writeAdmin(dir, Admin{OrganizationID: string(id), UserID: string(u.ID), Token: secret})
		}
		if !more {
			return false, nil
		}
	}
}
