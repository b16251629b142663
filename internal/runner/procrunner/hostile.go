// SPDX-License-Identifier: Apache-2.0

package procrunner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"panal/internal/logs/spool"
	"panal/internal/plat"
	"panal/internal/runner"
	"panal/internal/runner/agentctl"
)

// This file reads what user code could have written. Every name may be a link
// out of the directory, a FIFO that never answers, or endless.

// readHostile returns the content of a regular file below root, at most limit
// bytes; more is an error. Links are not followed.
func readHostile(root *os.Root, name string, limit int64) ([]byte, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes", name, limit)
	}
	return data, nil
}

// readExit returns what the agent wrote last, if anything usable.
func readExit(work string, naive bool) (agentctl.Exit, bool) {
	var e agentctl.Exit
	data, err := func() ([]byte, error) {
		if naive { // the wall taken down by a test
			return os.ReadFile(filepath.Join(work, agentctl.ExitFile))
		}
		root, err := os.OpenRoot(work)
		if err != nil {
			return nil, err
		}
		defer func() { _ = root.Close() }()
		return readHostile(root, agentctl.ExitFile, agentctl.MaxExitBytes)
	}()
	if err != nil || json.Unmarshal(data, &e) != nil {
		return agentctl.Exit{}, false
	}
	e.Reason, e.Tail = clip(e.Reason, 1024), clip(e.Tail, 4096)
	return e, true
}

// clip keeps the end of a text, where a traceback says what happened, as valid
// UTF-8 without zero bytes (which PostgreSQL refuses).
func clip(s string, limit int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "�")
	if len(s) <= limit {
		return s
	}
	s = s[len(s)-limit:]
	for len(s) > 0 && !utf8.RuneStart(s[0]) {
		s = s[1:]
	}
	return s
}

// maxSpool bounds what is read of a spool; the agent's own bound is lower.
const maxSpool = 512 << 20

// readSpool returns the batches that were not shipped, in order. Lines that claim
// to be another workload's are left out: user code can write here.
func readSpool(work string, id plat.WorkloadID, stream string, naive bool) ([]runner.SpoolBatch, error) {
	root, err := os.OpenRoot(work)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	defer func() { _ = root.Close() }()
	dir, err := root.OpenRoot(agentctl.DirSpool)
	if err != nil {
		return nil, nil // no directory, or none that is one: nothing was spooled
	}
	defer func() { _ = dir.Close() }()
	read, err := spool.Read(dir, maxSpool)
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil // not root, and user code closed a file of its own: its loss
	}
	if err != nil {
		return nil, err
	}
	var batches []runner.SpoolBatch
	for _, b := range read {
		var head struct {
			Workload plat.WorkloadID `json:"workload_id"`
			Stream   string          `json:"stream"`
		}
		forged := json.Unmarshal(b.JSON, &head) != nil || head.Workload != id || head.Stream != stream
		if forged && !naive { // naive: the wall taken down by a test
			continue
		}
		batches = append(batches, runner.SpoolBatch(b.JSON))
	}
	return batches, nil
}

// errTooMany ends a walk that has seen enough.
var errTooMany = errors.New("too many files")

// diskUse adds up the blocks below dir, each file once however many names it
// has. It stops early with errTooMany past limit files.
func diskUse(dir string, limit int) (bytes int64, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer func() { _ = root.Close() }()
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	files := 0
	err = fs.WalkDir(root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it went away while we looked, or is closed to us
		}
		if files++; files > limit {
			return errTooMany
		}
		fi, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		st, ok := statOf(fi)
		if !ok {
			return nil
		}
		if st.Nlink > 1 && !d.IsDir() {
			key := inode{st.Dev, st.Ino}
			if seen[key] {
				return nil
			}
			seen[key] = true
		}
		bytes += st.Blocks * 512
		return nil
	})
	return bytes, err
}
