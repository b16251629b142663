// SPDX-License-Identifier: Apache-2.0

package linktest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"panal/internal/lake"
	"panal/internal/lake/link"
	"panal/internal/plat"
)

// Mem is a link.Store in memory, written to be obviously right. Tests of the subscriber
// use it; the suite holds it to the contract like any other.
type Mem struct {
	now plat.Clock

	mu      sync.Mutex
	full    map[plat.ChannelID]bool // channels there are, and whether they have files of their own
	links   map[plat.ChannelID]*memLink
	letters []link.Letter
	letter  int64
	num     int64 // of the last link
}

type memLink struct {
	link  link.Link
	rows  map[string]link.Row
	files map[plat.FileID]lake.File
}

var _ link.Store = (*Mem)(nil)

// NewMem returns a store with no channels.
func NewMem(now plat.Clock) *Mem {
	return &Mem{now: now, full: map[plat.ChannelID]bool{}, links: map[plat.ChannelID]*memLink{}}
}

// AddChannel adds a channel; full says that it has files of its own.
func (m *Mem) AddChannel(id plat.ChannelID, full bool) { m.full[id] = full }

// Files returns the files of a linked channel.
func (m *Mem) Files(channel plat.ChannelID) []lake.File {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []lake.File
	for _, f := range m.links[channel].files {
		out = append(out, f)
	}
	return out
}

// CreateLink implements link.Store.
func (m *Mem) CreateLink(_ context.Context, l link.Link) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	full, ok := m.full[l.Channel]
	switch {
	case !ok:
		return plat.NotFound("channel", l.Channel)
	case m.links[l.Channel] != nil:
		return plat.Errorf(plat.ErrExists, "channel %s is linked", l.Channel)
	case full:
		return plat.Errorf(plat.ErrConflict, "channel %s has files", l.Channel)
	}
	m.num++
	l.Num = m.num
	m.links[l.Channel] = &memLink{link: l, rows: map[string]link.Row{}, files: map[plat.FileID]lake.File{}}
	return nil
}

func (m *Mem) of(channel plat.ChannelID) (*memLink, error) {
	if l := m.links[channel]; l != nil {
		return l, nil
	}
	return nil, plat.NotFound("link of channel", channel)
}

// Link implements link.Store.
func (m *Mem) Link(_ context.Context, channel plat.ChannelID) (link.Link, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, err := m.of(channel)
	if err != nil {
		return link.Link{}, err
	}
	return l.link, nil
}

// Links implements link.Store.
func (m *Mem) Links(context.Context) ([]link.Link, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []link.Link
	for _, l := range m.links {
		out = append(out, l.link)
	}
	slices.SortFunc(out, func(a, b link.Link) int { return strings.Compare(string(a.Channel), string(b.Channel)) })
	return out, nil
}

// Unlink implements link.Store.
func (m *Mem) Unlink(_ context.Context, channel plat.ChannelID, _ time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, err := m.of(channel)
	delete(m.links, channel)
	m.letters = slices.DeleteFunc(m.letters, func(l link.Letter) bool { return l.Channel == channel })
	return err
}

// bound is the rows of one link.
type bound struct {
	*Mem
	num int64
}

// Bound implements link.Store.
func (m *Mem) Bound(num int64) link.Rows { return bound{m, num} }

// is tells whether the channel has that link. Nothing unlinks while tests write.
func (b bound) is(channel plat.ChannelID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, err := b.of(channel)
	if err == nil && l.link.Num != b.num {
		return plat.NotFound("link of channel", channel)
	}
	return err
}

// Write implements link.Rows.
func (b bound) Write(ctx context.Context, channel plat.ChannelID, all []link.Observation) ([]link.Outcome, error) {
	if err := b.is(channel); err != nil {
		return nil, err
	}
	return b.Mem.Write(ctx, channel, all)
}

// SetWalk implements link.Rows.
func (b bound) SetWalk(ctx context.Context, channel plat.ChannelID, w link.Walk) error {
	if err := b.is(channel); err != nil {
		return err
	}
	return b.Mem.SetWalk(ctx, channel, w)
}

// Bury implements link.Rows.
func (b bound) Bury(ctx context.Context, all []link.Letter) error {
	return b.Mem.Bury(ctx, slices.DeleteFunc(slices.Clone(all), func(l link.Letter) bool { return b.is(l.Channel) != nil }))
}

func (m *Mem) change(channel plat.ChannelID, f func(*link.Link)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, err := m.of(channel)
	if err == nil {
		f(&l.link)
	}
	return err
}

// Pause implements link.Store.
func (m *Mem) Pause(_ context.Context, channel plat.ChannelID, paused bool) error {
	return m.change(channel, func(l *link.Link) { l.Paused = paused })
}

// SetCredentials implements link.Store.
func (m *Mem) SetCredentials(_ context.Context, channel plat.ChannelID, sealed string) error {
	return m.change(channel, func(l *link.Link) { l.Place.Credentials = sealed })
}

// SetWalk implements link.Store.
func (m *Mem) SetWalk(_ context.Context, channel plat.ChannelID, w link.Walk) error {
	return m.change(channel, func(l *link.Link) { l.Walk = w })
}

// Rows implements link.Store.
func (m *Mem) Rows(_ context.Context, channel plat.ChannelID, keys []string) (map[string]link.Row, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]link.Row{}
	if l := m.links[channel]; l != nil {
		for _, k := range keys {
			if r, ok := l.rows[k]; ok {
				out[k] = r
			}
		}
	}
	return out, nil
}

// Live implements link.Store.
func (m *Mem) Live(_ context.Context, channel plat.ChannelID, after, upTo string, limit int) ([]link.Row, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []link.Row
	if l := m.links[channel]; l != nil {
		for k, r := range l.rows {
			if r.File != "" && k > after && (upTo == "" || k <= upTo) {
				out = append(out, r)
			}
		}
	}
	slices.SortFunc(out, func(a, b link.Row) int { return strings.Compare(a.Key, b.Key) })
	return out[:min(limit, len(out))], nil
}

// OfFile implements link.Store.
func (m *Mem) OfFile(_ context.Context, channel plat.ChannelID, id plat.FileID) (link.Row, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.links[channel]; l != nil && id != "" {
		for _, r := range l.rows {
			if r.File == id {
				return r, nil
			}
		}
	}
	return link.Row{}, plat.NotFound("file", id)
}

// Write implements link.Store.
func (m *Mem) Write(_ context.Context, channel plat.ChannelID, all []link.Observation) ([]link.Outcome, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, err := m.of(channel)
	if err != nil {
		return nil, err
	}
	out := make([]link.Outcome, len(all))
	for i, o := range all {
		if l.rows[o.Was.Key].Gen != o.Was.Gen {
			continue
		}
		row, add := o.Writing(channel, m.now())
		l.rows[o.Was.Key] = row
		out[i].Written = true
		if add != nil {
			l.files[add.ID] = *add
			out[i].Changed = true
		}
		if o.Was.File != "" && o.Was.File != row.File {
			delete(l.files, o.Was.File)
			out[i].Changed = true
		}
	}
	return out, nil
}

// Bury implements link.Store.
func (m *Mem) Bury(_ context.Context, all []link.Letter) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range all {
		m.letter++
		l.ID = m.letter
		m.letters = append(m.letters, l)
	}
	return nil
}

// Letters implements link.Store.
func (m *Mem) Letters(_ context.Context, channel plat.ChannelID, after int64, limit int) ([]link.Letter, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []link.Letter
	for _, l := range m.letters {
		if l.Channel == channel && l.ID > after && len(out) < limit {
			out = append(out, l)
		}
	}
	return out, nil
}

// Lettered implements link.Store.
func (m *Mem) Lettered(ctx context.Context, channel plat.ChannelID) (int64, error) {
	all, err := m.Letters(ctx, channel, 0, len(m.letters))
	return int64(len(all)), err
}

// DropLetters implements link.Store.
func (m *Mem) DropLetters(_ context.Context, channel plat.ChannelID, ids []int64) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := len(m.letters)
	m.letters = slices.DeleteFunc(m.letters, func(l link.Letter) bool {
		return l.Channel == channel && (len(ids) == 0 || slices.Contains(ids, l.ID))
	})
	return int64(before - len(m.letters)), nil
}

// DropTombstones implements link.Store.
func (m *Mem) DropTombstones(_ context.Context, before time.Time, limit int) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, l := range m.links {
		for k, r := range l.rows {
			if r.File == "" && r.WrittenAt.Before(before) && n < limit {
				delete(l.rows, k)
				n++
			}
		}
	}
	return n, nil
}
