// SPDX-License-Identifier: Apache-2.0

package procrunner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"panal/internal/plat"
)

// envCache keeps finished environments: DIR/<organization>/<key>/site, read-only
// and the server's own. For each key at most one workload builds at a time;
// the others wait for it, and one of them takes its place when it gives up.
type envCache struct {
	dir      string
	maxBytes int64
	log      *slog.Logger

	mu    sync.Mutex
	locks map[envID]*envLock
	users map[plat.WorkloadID]envID // environments in use by running workloads
}

type envID struct {
	org plat.OrgID
	key string
}

type envLock struct {
	builder plat.WorkloadID
	waiting map[plat.WorkloadID]func() // wakes the one who waits
}

// Bounds of one environment.
const (
	maxEnvFiles = 400_000
	maxEnvDepth = 64
)

const (
	envSite  = "site"
	envMeta  = "meta.json"
	envTmp   = ".new-"
	envTrash = ".old-"
)

var envKeyPattern = regexp.MustCompile(`^[0-9a-f]{16,128}$`)

type envInfo struct {
	Bytes int64 `json:"bytes"`
}

func openEnvCache(dir string, maxBytes int64, log *slog.Logger) (*envCache, error) {
	c := &envCache{dir: dir, maxBytes: maxBytes, log: log, locks: map[envID]*envLock{}, users: map[plat.WorkloadID]envID{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list environments: %w", err)
	}
	for _, e := range entries {
		// What a crash cut short.
		if strings.HasPrefix(e.Name(), envTmp) || strings.HasPrefix(e.Name(), envTrash) {
			if err := removeTree(dir, e.Name()); err != nil {
				return nil, fmt.Errorf("remove the rest of an environment: %w", err)
			}
		}
	}
	return c, nil
}

// prepare makes the directory that an organization's workloads see.
func (c *envCache) prepare(org plat.OrgID) error {
	dir := filepath.Join(c.dir, string(org))
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		return fmt.Errorf("environment directory: %w", err)
	}
	return nil
}

func (c *envCache) path(id envID) string {
	return filepath.Join(c.dir, string(id.org), id.key, envSite)
}

// request answers a workload that needs an environment: its path when it is
// there (it is then in use until release), or build when the workload shall
// build it. Neither means that another builds; wake is called when to ask again.
func (c *envCache) request(org plat.OrgID, key string, w plat.WorkloadID, wake func()) (path string, build bool) {
	id := envID{org, key}
	c.mu.Lock()
	defer c.mu.Unlock()
	if fi, err := os.Lstat(c.path(id)); err == nil && fi.IsDir() {
		c.users[w] = id
		now := time.Now()
		_ = os.Chtimes(filepath.Dir(c.path(id)), now, now) // for collection; a miss only costs a rebuild
		return c.path(id), false
	}
	l := c.locks[id]
	if l == nil {
		l = &envLock{builder: w, waiting: map[plat.WorkloadID]func(){}}
		c.locks[id] = l
	}
	if l.builder == "" {
		l.builder = w
	}
	if l.builder == w {
		delete(l.waiting, w)
		return "", true
	}
	l.waiting[w] = wake
	return "", false
}

// use marks an environment as in use by a workload that was taken back.
func (c *envCache) use(org plat.OrgID, key string, w plat.WorkloadID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.users[w] = envID{org, key}
}

// abandon gives up a build, or ends one that is done: all who wait ask again,
// and find it, or the first of them builds.
func (c *envCache) abandon(org plat.OrgID, key string, w plat.WorkloadID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave(envID{org, key}, w)
}

// release lets go of all that an ended workload holds.
func (c *envCache) release(w plat.WorkloadID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.users, w)
	for id := range c.locks {
		c.leave(id, w)
	}
}

func (c *envCache) leave(id envID, w plat.WorkloadID) {
	l := c.locks[id]
	if l == nil {
		return
	}
	delete(l.waiting, w)
	if l.builder == w {
		l.builder = ""
		for _, wake := range l.waiting {
			wake()
		}
	}
	if l.builder == "" && len(l.waiting) == 0 {
		delete(c.locks, id)
	}
}

// adopt copies what a workload built at work/name into the cache. The tree is
// hostile, and its owner may change it meanwhile: it is copied file by file, never
// moved. An environment that is there already stays as it is.
func (c *envCache) adopt(ctx context.Context, org plat.OrgID, key, work, name string) error {
	id := envID{org, key}
	if _, err := os.Lstat(c.path(id)); err == nil {
		return nil
	}
	root, err := os.OpenRoot(work)
	if err != nil {
		return fmt.Errorf("open environment: %w", err)
	}
	defer func() { _ = root.Close() }()
	src, err := root.OpenRoot(name)
	if err != nil {
		return plat.Errorf(plat.ErrInvalid, "there is no directory %s in it", name)
	}
	defer func() { _ = src.Close() }()
	tmp, err := os.MkdirTemp(c.dir, envTmp)
	if err != nil {
		return fmt.Errorf("make environment: %w", err)
	}
	defer func() { _ = removeTree(c.dir, filepath.Base(tmp)) }()
	site := filepath.Join(tmp, envSite)
	if err := errors.Join(os.Mkdir(site, 0o755), os.Chmod(site, 0o755)); err != nil {
		return fmt.Errorf("make environment: %w", err)
	}
	dst, err := os.OpenRoot(site)
	if err != nil {
		return fmt.Errorf("make environment: %w", err)
	}
	defer func() { _ = dst.Close() }()
	cp := &treeCopy{ctx: ctx, src: src, dst: dst, maxBytes: c.maxBytes}
	if err := cp.dir(".", 0); err != nil {
		return err
	}
	if err := saveJSON(filepath.Join(tmp, envMeta), envInfo{Bytes: cp.bytes}); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return fmt.Errorf("make environment: %w", err)
	}
	if err := c.prepare(org); err != nil {
		return err
	}
	// One sync for all files, then the name: a crash leaves all of it or nothing.
	if err := syncFS(tmp); err != nil {
		return fmt.Errorf("sync environment: %w", err)
	}
	if err := os.Rename(tmp, filepath.Dir(c.path(id))); err != nil {
		if _, serr := os.Lstat(c.path(id)); serr == nil {
			return nil // another was faster
		}
		return fmt.Errorf("keep environment: %w", err)
	}
	// The builder's copy has served.
	if err := removeTree(work, name); err != nil {
		c.log.Warn("remove the build of an environment", slog.String(plat.LogError, err.Error()))
	}
	c.collect(id)
	return nil
}

func syncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// collect removes the least recently used environments until the rest fits. One
// in use stays, and so does keep.
func (c *envCache) collect(keep envID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	type entry struct {
		id    envID
		bytes int64
		used  time.Time
	}
	busy := map[envID]bool{keep: true}
	for _, id := range c.users {
		busy[id] = true
	}
	var all []entry
	var sum int64
	metas, _ := filepath.Glob(filepath.Join(c.dir, "[0-9]*", "*", envMeta))
	for _, path := range metas {
		var info envInfo
		dir := filepath.Dir(path)
		if found, err := loadJSON(path, &info); err != nil || !found {
			continue
		}
		fi, err := os.Stat(dir)
		if err != nil {
			continue
		}
		sum += info.Bytes
		all = append(all, entry{envID{plat.OrgID(filepath.Base(filepath.Dir(dir))), filepath.Base(dir)}, info.Bytes, fi.ModTime()})
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.id.key, b.id.key)) })
	for _, e := range all {
		if sum <= c.maxBytes {
			return
		}
		if busy[e.id] {
			continue
		}
		// Out of sight in one step, so that nobody is given half of it.
		trash := envTrash + string(e.id.org) + "-" + e.id.key
		if err := os.Rename(filepath.Dir(c.path(e.id)), filepath.Join(c.dir, trash)); err != nil {
			c.log.Warn("collect environment", slog.String(plat.LogError, err.Error()))
			continue
		}
		if err := removeTree(c.dir, trash); err != nil {
			c.log.Warn("collect environment", slog.String(plat.LogError, err.Error()))
		}
		sum -= e.bytes
	}
}

// treeCopy copies a hostile tree into one of our own.
type treeCopy struct {
	ctx      context.Context
	src, dst *os.Root
	maxBytes int64
	bytes    int64
	files    int
}

func (t *treeCopy) dir(path string, depth int) error {
	if depth > maxEnvDepth {
		return plat.Errorf(plat.ErrInvalid, "its directories are nested too deep")
	}
	if err := t.ctx.Err(); err != nil {
		return err
	}
	d, err := t.src.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("read environment: %w", err)
	}
	defer func() { _ = d.Close() }()
	for {
		entries, err := d.ReadDir(256)
		for _, e := range entries {
			if t.files++; t.files > maxEnvFiles {
				return plat.Errorf(plat.ErrInvalid, "it has more than %d files", maxEnvFiles)
			}
			if err := t.entry(filepath.Join(path, e.Name()), depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read environment: %w", err)
		}
	}
}

func (t *treeCopy) entry(path string, depth int) error {
	fi, err := t.src.Lstat(path)
	if err != nil {
		return fmt.Errorf("read environment: %w", err)
	}
	switch mode := fi.Mode(); {
	case mode.IsDir():
		err := t.dst.Mkdir(path, 0o755)
		if err == nil {
			err = t.dst.Chmod(path, 0o755) // whatever the server's umask
		}
		if err != nil {
			return fmt.Errorf("copy environment: %w", err)
		}
		return t.dir(path, depth+1)
	case mode.IsRegular():
		return t.file(path)
	case mode&fs.ModeSymlink != 0:
		target, err := t.src.Readlink(path)
		if err != nil {
			return fmt.Errorf("read environment: %w", err)
		}
		if !staysInside(target, depth) {
			return plat.Errorf(plat.ErrInvalid, "the link %s leads outside", path)
		}
		if err := t.dst.Symlink(target, path); err != nil {
			return fmt.Errorf("copy environment: %w", err)
		}
		return nil
	default:
		return plat.Errorf(plat.ErrInvalid, "%s is no file, directory or link", path)
	}
}

func (t *treeCopy) file(path string) error {
	in, err := t.src.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("read environment: %w", err)
	}
	defer func() { _ = in.Close() }()
	fi, err := in.Stat() // of what was opened: it may have been swapped meanwhile
	if err != nil {
		return fmt.Errorf("read environment: %w", err)
	}
	if !fi.Mode().IsRegular() {
		return plat.Errorf(plat.ErrInvalid, "%s is no file, directory or link", path)
	}
	perm := fs.FileMode(0o644)
	if fi.Mode()&0o111 != 0 {
		perm = 0o755
	}
	out, err := t.dst.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return fmt.Errorf("copy environment: %w", err)
	}
	n, err := io.Copy(out, io.LimitReader(in, t.maxBytes-t.bytes+1))
	t.bytes += n
	if err := errors.Join(err, out.Chmod(perm), out.Close()); err != nil {
		return fmt.Errorf("copy environment: %w", err)
	}
	if t.bytes > t.maxBytes {
		return plat.Errorf(plat.ErrInvalid, "it is larger than %s", showGiB(t.maxBytes))
	}
	return nil
}

// staysInside tells whether a relative link in a directory depth levels below
// the top can only lead inside: some ".." at most to the top, then only down. A
// ".." further on could step out of wherever another link led.
func staysInside(target string, depth int) bool {
	if target == "" || filepath.IsAbs(target) {
		return false
	}
	down := false
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; down || depth < 0 {
				return false
			}
		default:
			down = true
		}
	}
	return true
}
