// SPDX-License-Identifier: Apache-2.0

package journal_test

import (
	"testing"
	"time"

	"panal/internal/lake/journal"
	"panal/internal/lake/link"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
)

// TestLinkedFilesAreNotJournaled: neither healing nor the first writing down of an index
// takes what a linked channel holds into the journal: a rebuild finds the channel, empty.
func TestLinkedFilesAreNotJournaled(t *testing.T) {
	w := newWorld(t, sqlstoretest.SQLite(t))
	links := sqlstore.NewLinks(w.index)
	object := func(key string) {
		t.Helper()
		o := link.Observation{Was: link.Row{Key: key}, Object: &link.Object{Key: key, ETag: "e", Size: 1}}
		out, err := links.Write(t.Context(), w.channelOfLink(t, links), []link.Observation{o})
		if err != nil || !out[0].Written {
			t.Fatal(out, err)
		}
	}
	object("before the journal") // backfilled, if it were
	if err := w.j.Tend(t.Context(), w.index, true); err != nil {
		t.Fatal(err)
	}
	object("after it") // healed, if it were
	w.now = w.now.Add(time.Hour)
	if err := journal.New(w.blobs, w.clock).Tend(t.Context(), w.index, true); err != nil {
		t.Fatal(err)
	}
	got, err := journal.Rebuild(t.Context(), w.blobs, sqlstore.NewLake(sqlstoretest.SQLite(t), w.clock), false, func(journal.Rebuilt) {})
	if err != nil || got.Channels != 2 || got.Files != 0 || got.Missing != 0 {
		t.Errorf("Rebuild = %+v, %v, want two channels and nothing else", got, err)
	}
}

// channelOfLink makes a linked channel.
func (w *world) channelOfLink(t *testing.T, links *sqlstore.Links) plat.ChannelID {
	t.Helper()
	c := w.channel(t)
	if err := links.CreateLink(t.Context(), link.Link{Channel: c.ID, Org: org, CreatedAt: w.now}); err != nil {
		t.Fatal(err)
	}
	return c.ID
}
