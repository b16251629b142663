// SPDX-License-Identifier: Apache-2.0

package dirblob

import (
	"errors"
	"io/fs"
	"strings"
	"sync"

	"panal/internal/blob/dirblob/vfs"
)

// maxDirs bounds the directories that are remembered without being in use.
// Forgetting one costs a sync that was not needed.
const maxDirs = 4096

// dirs makes, syncs and removes object directories. Concurrent calls for one
// directory share syncs. A directory in use (acquired) is never removed.
type dirs struct {
	fs vfs.FS

	mu    sync.Mutex
	state map[string]*dirState
}

// dirState is what is known of a directory. refs is guarded by dirs.mu, the
// rounds by mu.
type dirState struct {
	refs int

	mu      sync.Mutex
	durable bool   // its name, and its parents', were synced by this process
	running *round // the sync that is under way
	waiting *round // the one that starts when running ends
}

// round is one sync of a directory, shared by all that waited for it to start.
type round struct {
	done chan struct{}
	err  error
}

func newDirs(fsys vfs.FS) *dirs {
	return &dirs{fs: fsys, state: map[string]*dirState{}}
}

// lineage returns name and the directories above it, from objects/ down.
func lineage(name string) []string {
	var out []string
	for i := len(objectsDir); i < len(name); i++ {
		if name[i] == '/' {
			out = append(out, name[:i])
		}
	}
	return append(out, name)
}

// acquire keeps name and the directories above it from being removed until release.
func (d *dirs) acquire(name string) (line []string) {
	line = lineage(name)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range line {
		s := d.state[n]
		if s == nil {
			s = &dirState{}
			d.state[n] = s
		}
		s.refs++
	}
	return line
}

func (d *dirs) release(line []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range line {
		d.state[n].refs--
	}
	if len(d.state) <= maxDirs {
		return
	}
	for n, s := range d.state {
		if s.refs == 0 {
			delete(d.state, n)
		}
		if len(d.state) <= maxDirs/2 {
			return
		}
	}
}

func (d *dirs) get(name string) *dirState {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state[name]
}

// make sees that the acquired directories exist and that their names are
// durable. That a directory exists does not say that its name is: an earlier
// process may have been killed before it synced.
func (d *dirs) make(line []string) error {
	first := len(line) - 1
	for ; first > 0; first-- {
		s := d.get(line[first])
		s.mu.Lock()
		durable := s.durable
		s.mu.Unlock()
		if durable {
			break
		}
	}
	// line[0] is objects/, which Open made.
	for i := first + 1; i < len(line); i++ {
		if err := d.fs.Mkdir(line[i]); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := d.sync(line[i-1]); err != nil {
			return err
		}
		s := d.get(line[i])
		s.mu.Lock()
		s.durable = true
		s.mu.Unlock()
	}
	return nil
}

// sync makes the entries that an acquired directory has now durable. The sync
// it returns from has started after the call.
func (d *dirs) sync(name string) error {
	s := d.get(name)
	s.mu.Lock()
	if r := s.waiting; r != nil {
		s.mu.Unlock()
		<-r.done
		return r.err
	}
	r, before := &round{done: make(chan struct{})}, s.running
	s.waiting = r
	s.mu.Unlock()
	if before != nil {
		<-before.done
	}

	s.mu.Lock()
	s.waiting, s.running = nil, r
	s.mu.Unlock()
	r.err = d.fs.SyncDir(name)
	s.mu.Lock()
	if s.running == r {
		s.running = nil
	}
	s.mu.Unlock()
	close(r.done)
	return r.err
}

// prune removes name and the directories above it that are empty and unused.
// Whatever was removed from them must be synced before.
func (d *dirs) prune(name string) {
	for name != objectsDir {
		if !d.removeUnused(name) {
			return
		}
		name = name[:strings.LastIndexByte(name, '/')]
	}
}

func (d *dirs) removeUnused(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.state[name]; s != nil && s.refs > 0 {
		return false
	}
	// Under the lock: nobody may acquire a directory that is about to go.
	if d.fs.Remove(name) != nil {
		return false
	}
	delete(d.state, name)
	return true
}
