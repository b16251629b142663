// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"panal/internal/blob"
	"panal/internal/lake"
	"panal/internal/plat"
)

// Index is what this package asks of an index beyond lake.Store: whole contents, in
// order, whatever has expired. Implemented by sqlstore.
type Index interface {
	Channel(ctx context.Context, id plat.ChannelID) (lake.Channel, error)
	Gone(ctx context.Context, before time.Time) ([]lake.GoneChannel, error)
	Known(ctx context.Context, channel plat.ChannelID, ids []plat.FileID) (map[plat.FileID]bool, error)

	// AllChannels returns up to limit channels of all organizations after an id, by id.
	AllChannels(ctx context.Context, after plat.ChannelID, limit int) ([]lake.Channel, error)
	// Rows returns up to limit files of a channel after an id, by id, expired or not.
	Rows(ctx context.Context, channel plat.ChannelID, after plat.FileID, limit int) ([]lake.File, error)
	// RowsOf returns those of the files that there are, expired or not.
	RowsOf(ctx context.Context, channel plat.ChannelID, ids []plat.FileID) ([]lake.File, error)
	// Changed calls each for the events of topic channel and file since a time. A
	// file has gone when it was deleted, expired or replaced.
	Changed(ctx context.Context, since time.Time, each func(topic, subject, what string) error) error
	// RestoreChannel stores a channel as it is, unless it is there.
	RestoreChannel(ctx context.Context, c lake.Channel) error
	// RestoreFiles stores files of a channel as they are, without those that are there.
	RestoreFiles(ctx context.Context, channel plat.ChannelID, files []lake.File) error
	// RenewFile gives a file's row the metadata, lifetime and revision of a later one.
	RenewFile(ctx context.Context, f lake.File) error
	// CheckCounts returns what the channel's rows add up to, and what the kept sums say.
	CheckCounts(ctx context.Context, channel plat.ChannelID) (rows, sums lake.Usage, err error)
	// Recount makes the sums what the rows add up to.
	Recount(ctx context.Context, channel plat.ChannelID) error
	// CheckTerms returns which of the rows the search index does not hold as they are.
	CheckTerms(ctx context.Context, channel plat.ChannelID, files []lake.File) ([]plat.FileID, error)
	// StrayTerms returns how many entries of the search index belong to no row, or not
	// to the row that they name; with remove it removes them.
	StrayTerms(ctx context.Context, channel plat.ChannelID, remove bool) (int64, error)
	// RepairTerms makes the search index hold the rows as they are.
	RepairTerms(ctx context.Context, channel plat.ChannelID, ids []plat.FileID) error
}

const (
	// slack is how long before a mark a change may have been made that its writer had
	// not journaled then: longer than a commit and a write together, and than clocks differ.
	slack = 5 * time.Minute
	// lateCommits is how long after its start a writer looks at the others' marks: what a
	// killed process had sent to a database server may be committed there after its end.
	lateCommits = 2 * time.Minute
	// staleMark is how old a mark is whose writer has died.
	staleMark = 10 * time.Minute
)

// Tend keeps the journal whole, and is called at start and then every minute or so:
// what a writer that died had committed and not journaled is journaled from the
// index, and so are rows that are older than the journal itself. single says that
// there is no other writer, so that every foreign mark is a dead one's.
//
// Each writer has a mark: an object with the time at which it last owed nothing.
func (j *Journal) Tend(ctx context.Context, index Index, single bool) error {
	now := j.now()
	since := time.Time{}
	older := func(t time.Time) {
		if since.IsZero() || t.Before(since) {
			since = t
		}
	}
	j.mu.Lock()
	unsure := j.unsure
	j.unsure = time.Time{}
	j.mu.Unlock()
	if !unsure.IsZero() {
		older(unsure)
	}
	young := !j.tended.Load() || !single && now.Sub(j.began) < lateCommits
	dead, err := j.deadMarks(ctx, single, young, older)
	if err == nil && !since.IsZero() {
		err = j.rejournal(ctx, index, since.Add(-slack))
	}
	if err == nil {
		err = j.Flush(ctx)
	}
	if err == nil {
		err = j.backfill(ctx, index)
	}
	if err != nil {
		if !unsure.IsZero() {
			j.mu.Lock()
			j.unsure = unsure
			j.mu.Unlock()
		}
		return fmt.Errorf("tend journal: %w", err)
	}
	stamp := strconv.FormatInt(now.UnixMicro(), 10)
	if _, err := j.blobs.Put(ctx, markPrefix+j.name, strings.NewReader(stamp), int64(len(stamp)), blob.PutOptions{}); err != nil {
		return fmt.Errorf("tend journal: %w", err)
	}
	j.tended.Store(true)
	return j.remove(ctx, dead)
}

func (j *Journal) deadMarks(ctx context.Context, single, young bool, older func(time.Time)) ([]string, error) {
	marks, err := list(ctx, j.blobs, markPrefix, 0)
	if err != nil {
		return nil, err
	}
	var dead []string
	for _, key := range marks {
		if key == markPrefix+j.name {
			continue
		}
		rc, _, err := j.blobs.Open(ctx, key, 0, 32)
		if errors.Is(err, plat.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(rc)
		if err = errors.Join(err, rc.Close()); err != nil {
			return nil, err
		}
		us, err := strconv.ParseInt(string(text), 10, 64)
		if err != nil {
			return nil, plat.Errorf(plat.ErrInvalid, "%s is no mark of the journal", key)
		}
		at := time.UnixMicro(us)
		isDead := single || j.now().Sub(at) > staleMark
		if isDead || young { // journaling a living writer's changes twice does no harm
			older(at)
		}
		if isDead {
			dead = append(dead, key)
		}
	}
	return dead, nil
}

// End takes the writer's mark away: it owes nothing and writes no more.
func (j *Journal) End(ctx context.Context) error {
	if err := j.Flush(ctx); err != nil {
		return err
	}
	j.mu.Lock()
	unsure := !j.unsure.IsZero()
	j.mu.Unlock()
	if unsure { // the next start looks at it
		return nil
	}
	return j.blobs.Delete(ctx, markPrefix+j.name)
}

// rejournal writes the state of everything that has events since a time.
func (j *Journal) rejournal(ctx context.Context, index Index, since time.Time) error {
	p := &stateWriter{j: j, index: index, channels: map[plat.ChannelID]*lake.Channel{}}
	files := map[plat.ChannelID]map[plat.FileID]bool{}
	n := 0
	flush := func() error {
		for channel, ids := range files {
			if err := p.files(ctx, channel, ids); err != nil {
				return err
			}
		}
		clear(files)
		n = 0
		return nil
	}
	err := index.Changed(ctx, since, func(topic, subject, what string) error {
		channel, file, _ := strings.Cut(subject, "/")
		id := plat.ChannelID(channel)
		if topic == "channel" {
			return p.channel(ctx, id)
		}
		if files[id] == nil {
			files[id] = map[plat.FileID]bool{}
		}
		f := plat.FileID(file)
		files[id][f] = files[id][f] || hasGone(what) // the upload's time may be ahead of the clock, and later than the end
		if n++; n >= maxBatch {
			return flush()
		}
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// hasGone tells whether an event took its file out of the index.
func hasGone(what string) bool { return what == "deleted" || what == "expired" || what == "replaced" }

// stateWriter journals what the index holds now.
type stateWriter struct {
	j        *Journal
	index    Index
	channels map[plat.ChannelID]*lake.Channel // nil: there is none
}

// find returns a channel, or nil when there is none any more. The organization of a
// channel that was deleted is in the journal already, or nothing of it ever was.
func (w *stateWriter) find(ctx context.Context, id plat.ChannelID) (*lake.Channel, error) {
	if c, ok := w.channels[id]; ok {
		return c, nil
	}
	c, err := channelOf(ctx, w.index, id)
	if err != nil {
		return nil, err
	}
	w.channels[id] = c
	return c, nil
}

func channelOf(ctx context.Context, index Index, id plat.ChannelID) (*lake.Channel, error) {
	c, err := index.Channel(ctx, id)
	if errors.Is(err, plat.ErrNotFound) {
		return nil, nil //nolint:nilnil // see find
	}
	return &c, err
}

func (w *stateWriter) channel(ctx context.Context, id plat.ChannelID) error {
	delete(w.channels, id)
	c, err := w.find(ctx, id)
	if err != nil {
		return err
	}
	if c != nil {
		return w.j.Append(ctx, channelEntry(*c))
	}
	gone, err := w.index.Gone(ctx, w.j.now().Add(slack))
	if err != nil {
		return err
	}
	for _, one := range gone {
		if one.ID == id {
			return w.j.Append(ctx, ended(one.Org, id, "", one.DeletedAt))
		}
	}
	return nil
}

// files journals those of a channel; true: an event of one was its end.
func (w *stateWriter) files(ctx context.Context, channel plat.ChannelID, ids map[plat.FileID]bool) error {
	c, err := w.find(ctx, channel)
	if err != nil || c == nil || c.Linked { // linked files are in their bucket whole (docs/adr/0017)
		return err
	}
	all := make([]plat.FileID, 0, len(ids))
	for id := range ids {
		all = append(all, id)
	}
	rows, err := w.index.RowsOf(ctx, channel, all)
	if err != nil {
		return err
	}
	var entries []Entry
	for _, f := range rows {
		entries = append(entries, fileEntry(c.Org, f))
		delete(ids, f.ID)
	}
	for id, gone := range ids {
		if gone { // else its row is lost, which is no reason to lose it here, too
			entries = append(entries, ended(c.Org, channel, id, w.j.now()))
		}
	}
	return w.j.Append(ctx, entries...)
}

// backfill journals every row, once: of an index that is older than the journal.
func (j *Journal) backfill(ctx context.Context, index Index) error {
	switch _, err := j.blobs.Stat(ctx, wholeKey); {
	case err == nil:
		return nil
	case !errors.Is(err, plat.ErrNotFound):
		return err
	}
	for after := plat.ChannelID(""); ; {
		channels, err := index.AllChannels(ctx, after, listPage)
		if err != nil {
			return err
		}
		for _, c := range channels {
			after = c.ID
			if err := j.backfillChannel(ctx, index, c); err != nil {
				return err
			}
		}
		if len(channels) < listPage {
			break
		}
	}
	_, err := j.blobs.Put(ctx, wholeKey, strings.NewReader(""), 0, blob.PutOptions{})
	return err
}

func (j *Journal) backfillChannel(ctx context.Context, index Index, c lake.Channel) error {
	if err := j.Append(ctx, channelEntry(c)); err != nil || c.Linked {
		return err
	}
	for after := plat.FileID(""); ; {
		rows, err := index.Rows(ctx, c.ID, after, listPage)
		if err != nil || len(rows) == 0 {
			return err
		}
		entries := make([]Entry, len(rows))
		for i, f := range rows {
			entries[i] = fileEntry(c.Org, f)
		}
		if err := j.Append(ctx, entries...); err != nil {
			return err
		}
		after = rows[len(rows)-1].ID
	}
}
