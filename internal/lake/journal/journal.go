// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"panal/internal/blob"
	"panal/internal/plat"
)

// Where the journal's objects are.
const (
	Prefix        = "journal/"
	batchPrefix   = Prefix + "batch/"
	segmentPrefix = Prefix + "segment/"
	markPrefix    = Prefix + "mark/"
	wholeKey      = Prefix + "whole" // there when every row has been journaled
)

const (
	// maxBatch is how many entries one object takes; a group of commits has fewer.
	maxBatch = 2000
	// writers is how many objects are written at once: while one is being made
	// durable, the next is under way.
	writers = 2
	// writeLimit ends a write that the storage does not answer.
	writeLimit = 30 * time.Second
)

// Journal writes entries. It is safe for concurrent use, and so are several on one
// storage.
type Journal struct {
	blobs *blob.Store
	now   plat.Clock
	name  string // of this writer, in the keys of its objects
	n     atomic.Int64

	began  time.Time
	tended atomic.Bool // once at least

	turn chan struct{} // holds a token for each object that may be under way

	mu   sync.Mutex
	open *batch // still gathering, or nil
	owed []Entry
	// unsure is when the oldest change was made of which the index did not say
	// whether it holds; zero: there is none.
	unsure time.Time
}

// batch is the entries of concurrent calls that become one object.
type batch struct {
	entries []Entry
	err     error
	done    chan struct{}
}

// New returns a writer to the journal beside the blobs.
func New(b *blob.Store, now plat.Clock) *Journal {
	j := &Journal{blobs: b, now: now, began: now(), name: strings.ReplaceAll(plat.NewUUID(), "-", "")[:12], turn: make(chan struct{}, writers)}
	for range writers {
		j.turn <- struct{}{}
	}
	return j
}

// Append makes entries durable, with those of the calls beside it in one object. Like
// a commit it does not end early with ctx. When it fails, the entries are owed: the
// next Append or Flush writes them, and until then Ready says no.
func (j *Journal) Append(ctx context.Context, entries ...Entry) error {
	if len(entries) == 0 {
		return nil
	}
	j.mu.Lock()
	b, leader := j.open, false
	if b == nil {
		b, leader = &batch{done: make(chan struct{})}, true
		j.open = b
	}
	b.entries = append(b.entries, entries...)
	if len(b.entries) >= maxBatch {
		j.open = nil
	}
	j.mu.Unlock()
	if leader {
		j.lead(ctx, b)
	}
	<-b.done
	return b.err
}

func (j *Journal) lead(ctx context.Context, b *batch) {
	<-j.turn
	runtime.Gosched() // whoever is about to bring entries comes along: fewer and larger groups (ADR 13)
	j.mu.Lock()
	if j.open == b {
		j.open = nil
	}
	owed := j.owed
	j.owed = nil
	j.mu.Unlock()
	all := b.entries
	if len(owed) > 0 {
		all = append(owed, b.entries...)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeLimit)
	b.err = j.write(ctx, all)
	cancel()
	if b.err != nil {
		j.mu.Lock()
		j.owed = append(all, j.owed...)
		j.mu.Unlock()
	}
	j.turn <- struct{}{}
	close(b.done)
}

func (j *Journal) write(ctx context.Context, entries []Entry) error {
	raw, err := encodeBatch(entries)
	if err != nil {
		return err
	}
	if _, err := j.blobs.Put(ctx, j.key(batchPrefix), bytes.NewReader(raw), int64(len(raw)), blob.PutOptions{New: true}); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// key is that of the next object: by the hour, so that a directory store does not
// keep them all in one directory, and in the order of time.
func (j *Journal) key(prefix string) string {
	now := j.now().UTC()
	return fmt.Sprintf("%s%s/%016x-%s-%06x", prefix, now.Format("20060102T15"), now.UnixMicro(), j.name, j.n.Add(1))
}

// owe has entries written by the next Append or Flush.
func (j *Journal) owe(entries ...Entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.owed = append(j.owed, entries...)
}

// Flush writes what is owed.
func (j *Journal) Flush(ctx context.Context) error {
	j.mu.Lock()
	owed := j.owed
	j.owed = nil
	j.mu.Unlock()
	if len(owed) == 0 {
		return nil
	}
	return j.Append(ctx, owed...)
}

// Ready returns ErrUnavailable while entries are owed that can't be written: a change
// that could not be journaled is better not made. A deletion is let through when the
// storage is full: it is what makes room, and it takes the object with it.
func (j *Journal) Ready(ctx context.Context, deletion bool) error {
	j.mu.Lock()
	owed := len(j.owed)
	j.mu.Unlock()
	if owed == 0 {
		return nil
	}
	err := j.Flush(ctx)
	if err == nil || deletion && errors.Is(err, plat.ErrExhausted) {
		return nil
	}
	return unavailable(err)
}

// doubt remembers a change that the index may have made without saying so, and
// returns err. Tend looks at what became of it.
func (j *Journal) doubt(err error) error {
	if kind := plat.KindOf(err); kind == nil || errors.Is(err, plat.ErrUnavailable) {
		j.mu.Lock()
		if j.unsure.IsZero() {
			j.unsure = j.now()
		}
		j.mu.Unlock()
	}
	return err
}

// unavailable is what callers see of a journal that can't be written. It is never a
// definite no: the change may be made.
func unavailable(err error) error {
	return &plat.Error{Kind: plat.ErrUnavailable, Public: "the change journal can't be written now; try again later", Err: errors.New(err.Error())}
}

// BackupOrder lists prefixes in which a backup copies the journal, before it takes its
// snapshot of the index: first what says how far the rest goes. A change whose entry is
// not in the copy is then younger than the copied mark, and the server that is started
// on the copy journals it from the index, as after a crash.
func BackupOrder() []string { return []string{wholeKey, markPrefix, batchPrefix, segmentPrefix} }

// BackupMark is the mark for a copy of a journal that has none: it owed nothing at a time.
func BackupMark(at time.Time) (key, content string) {
	return markPrefix + "backup", strconv.FormatInt(at.UnixMicro(), 10)
}
