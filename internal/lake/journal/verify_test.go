// SPDX-License-Identifier: Apache-2.0

package journal_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"panal/internal/blob"
	"panal/internal/blob/faultblob"
	"panal/internal/lake"
	"panal/internal/lake/journal"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
)

// TestVerify makes each kind of damage, finds it, mends what can be mended, and finds
// the rest again.
func TestVerify(t *testing.T) {
	const etag = "841a2d689ad86bd1611447453c22c6fc" // of "body"
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		w := newWorld(t, db)
		c := w.channel(t)
		w.now = time.Now().UTC().Add(-2 * time.Hour)
		f := make([]lake.File, 10)
		for i := range f {
			n := lake.File{ID: plat.NewFileID(w.now), Channel: c.ID, Size: 4, ETag: etag, ContentType: "text/plain", Metadata: lake.Metadata{"label": "black cat"}}
			if _, err := w.blobs.Put(t.Context(), lake.BlobKey(org, c.ID, n.ID), strings.NewReader("body"), 4, blob.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			out, err := w.store.Commit(t.Context(), []lake.NewFile{{File: n}})
			if err != nil {
				t.Fatal(err)
			}
			f[i] = out[0].File
		}
		w.now = w.now.Add(30 * time.Hour)
		verify := func(repair bool) map[journal.Kind]journal.Finding {
			t.Helper()
			r, err := w.j.Verify(t.Context(), w.index, c, journal.VerifyOptions{Deep: true, Repair: repair})
			if err != nil {
				t.Fatal(err)
			}
			out := map[journal.Kind]journal.Finding{}
			for _, x := range r.Findings {
				out[x.Kind] = x
			}
			return out
		}
		if found := verify(false); len(found) != 0 {
			t.Fatalf("a sound channel: %+v", found)
		}
		if err := w.index.PostLate(t.Context()); err != nil { // what is damaged below must be there
			t.Fatal(err)
		}
		do := func(stmt string, args ...any) {
			t.Helper()
			if err := db.Write(t.Context(), func(tx *sqlstore.Tx) error {
				_, err := tx.ExecContext(t.Context(), stmt, args...)
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		put := func(id plat.FileID, body string) {
			t.Helper()
			if _, err := w.blobs.Put(t.Context(), lake.BlobKey(org, c.ID, id), strings.NewReader(body), int64(len(body)), blob.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.blobs.Delete(t.Context(), lake.BlobKey(org, c.ID, f[0].ID)); err != nil { // missing
			t.Fatal(err)
		}
		put(f[1].ID, "bod")  // short
		put(f[2].ID, "evil") // altered
		w.faults.SetScript(
			faultblob.Fault{Op: faultblob.OpOpen, Prefix: lake.BlobKey(org, c.ID, f[7].ID), Err: blob.ErrDamaged},
			faultblob.Fault{Op: faultblob.OpRead, Prefix: lake.BlobKey(org, c.ID, f[8].ID), Err: blob.ErrDamaged, AfterBytes: 1},
		)
		do(`DELETE FROM file WHERE id = $1`, string(f[3].ID))
		do(`DELETE FROM posting WHERE at = $1`, f[3].UploadedAt.UnixMicro())
		do(`DELETE FROM file WHERE id = $1`, string(f[9].ID)) // its terms stay, in the way of its return
		do(`DELETE FROM posting WHERE at = $1 AND token = 'cat'`, f[4].UploadedAt.UnixMicro())
		do(`INSERT INTO posting (channel, key, token, at, whole, expires_at) SELECT channel, 'label', 'dog', at, whole, expires_at FROM posting WHERE at = $1 AND token = 'black'`,
			f[5].UploadedAt.UnixMicro())
		do(`UPDATE posting SET sig = 0 WHERE at = $1 AND token = 'cat'`, f[6].UploadedAt.UnixMicro()) // seems to have no other term
		do(`INSERT INTO file_delta (channel, files, bytes) SELECT num, 7, 7 FROM channel WHERE id = $1`, string(c.ID))
		orphan := plat.NewFileID(w.now)
		put(orphan, "nobody's")
		bare := lake.File{ID: plat.NewFileID(w.now), Channel: c.ID, Size: 4, ETag: etag}
		put(bare.ID, "body")
		if _, err := w.index.Commit(t.Context(), []lake.NewFile{{File: bare}}); err != nil { // not journaled
			t.Fatal(err)
		}
		gone, err := w.put(t, c.ID, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.j.Append(t.Context(), journal.Entry{Org: org, Channel: c.ID, File: gone.ID, Gone: 1}); err != nil {
			t.Fatal(err)
		}
		// Tags of gone are not its bytes'.
		if r, err := w.j.Verify(t.Context(), w.index, c, journal.VerifyOptions{}); err != nil || r.Young != 1 { // orphan
			t.Errorf("%d young, %v; want what may still be on its way", r.Young, err)
		}
		w.now = w.now.Add(30 * time.Hour)

		all := []journal.Kind{
			journal.KindObjectMissing, journal.KindObjectSize, journal.KindObjectContent, journal.KindRowMissing, journal.KindRowDeleted,
			journal.KindJournal, journal.KindOrphan, journal.KindCount, journal.KindTerms, journal.KindStrayTerms,
		}
		found := verify(false)
		for _, k := range all {
			if found[k].Found == 0 || found[k].Repaired != 0 {
				t.Errorf("%s: %+v", k, found[k])
			}
		}
		if n := found[journal.KindObjectContent].Found; n != 4 { // altered, damaged twice, and gone's
			t.Errorf("%d objects of other bytes, want 4", n)
		}
		for _, k := range all[3:] {
			if x := verify(true)[k]; k != journal.KindRowDeleted && x.Found != 0 && x.Repaired != x.Found {
				t.Errorf("%s was not repaired: %+v", k, x)
			}
		}
		found = verify(false)
		for _, k := range all {
			stays := k == journal.KindObjectMissing || k == journal.KindObjectSize || k == journal.KindObjectContent || k == journal.KindRowDeleted
			if (found[k].Found > 0) != stays {
				t.Errorf("after the repair, %s: %+v", k, found[k])
			}
		}
		query, err := lake.ParseQuery("label:cat AND label:black")
		if err != nil {
			t.Fatal(err)
		}
		if n, err := w.index.Count(t.Context(), lake.Filter{Channel: c.ID, Query: query}, w.now); err != nil || n != 10 {
			t.Errorf("%d files of %q, %v; want 10", n, "label:cat AND label:black", err)
		}
		if got, err := w.index.File(t.Context(), c.ID, f[3].ID, w.now); err != nil || got.Metadata["label"] != "black cat" {
			t.Errorf("the row that was brought back: %+v, %v", got, err)
		}
	})
}

// meanwhile is an index that is changed before its rows, and before its terms, are read.
type meanwhile struct {
	journal.Index
	rows, terms func()
}

func (m *meanwhile) Rows(ctx context.Context, channel plat.ChannelID, after plat.FileID, limit int) ([]lake.File, error) {
	m.rows()
	return m.Index.Rows(ctx, channel, after, limit)
}

func (m *meanwhile) CheckTerms(ctx context.Context, channel plat.ChannelID, files []lake.File) ([]plat.FileID, error) {
	m.terms()
	return m.Index.CheckTerms(ctx, channel, files)
}

// TestVerifyBesideChanges: what is changed while the listings are read is no damage, and what is
// not in the journal yet is too young to be called that.
func TestVerifyBesideChanges(t *testing.T) {
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		w := newWorld(t, db)
		c := w.channel(t)
		var f [4]lake.File
		for i := range f {
			var err error
			if f[i], err = w.put(t, c.ID, lake.Metadata{"label": "old"}, ""); err != nil {
				t.Fatal(err)
			}
		}
		label := func(s lake.Store, id plat.FileID, as string) {
			t.Helper()
			if _, err := s.SetMetadata(t.Context(), c.ID, id, lake.Metadata{"label": as}, w.now); err != nil {
				t.Fatal(err)
			}
		}
		none := func() {}
		verify := func(rows, terms func()) journal.Report {
			t.Helper()
			r, err := w.j.Verify(t.Context(), &meanwhile{w.index, rows, terms}, c, journal.VerifyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		changes := []string{"a", "b", "c"} // while the terms are read, and read again
		r := verify(func() {
			label(w.store, f[0].ID, "new")
			if _, err := w.store.DeleteFile(t.Context(), c.ID, f[1].ID, w.now); err != nil {
				t.Fatal(err)
			}
			if err := w.blobs.Delete(t.Context(), lake.BlobKey(org, c.ID, f[1].ID)); err != nil {
				t.Fatal(err)
			}
			if _, err := w.put(t, c.ID, nil, ""); err != nil {
				t.Fatal(err)
			}
		}, func() {
			if len(changes) > 0 {
				label(w.store, f[2].ID, changes[0])
				changes = changes[1:]
			}
		})
		if r.Young != 0 || len(r.Findings) > 0 {
			t.Errorf("beside changes: %+v", r)
		}
		r = verify(func() {
			label(w.index, f[0].ID, "newer")
			if _, err := w.index.DeleteFile(t.Context(), c.ID, f[3].ID, w.now); err != nil {
				t.Fatal(err)
			}
		}, none)
		if r.Young != 2 || len(r.Findings) > 0 {
			t.Errorf("beside changes that are not in the journal yet: %+v", r)
		}
		w.now = w.now.Add(2 * time.Hour)
		found := map[journal.Kind]int64{}
		for _, x := range verify(none, none).Findings {
			found[x.Kind] = x.Found
		}
		if want := map[journal.Kind]int64{journal.KindJournal: 1, journal.KindRowMissing: 1}; !maps.Equal(found, want) {
			t.Errorf("what the journal never got: %v, want %v", found, want)
		}
	})
}

// TestVerifyOlderIndex: an index that was put back to an earlier state gets the journal's later
// ones; and what was changed in it since then, with a revision that the journal has already, is
// not lost in the next rebuild.
func TestVerifyOlderIndex(t *testing.T) {
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		w := newWorld(t, db)
		c := w.channel(t)
		f, err := w.put(t, c.ID, lake.Metadata{"label": "old"}, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.SetMetadata(t.Context(), c.ID, f.ID, lake.Metadata{"label": "new"}, w.now); err != nil {
			t.Fatal(err)
		}
		back := func(stmt string) {
			t.Helper()
			if err := db.Write(t.Context(), func(tx *sqlstore.Tx) error {
				_, err := tx.ExecContext(t.Context(), stmt, string(f.ID))
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		repair := func(kind journal.Kind) {
			t.Helper()
			r, err := w.j.Verify(t.Context(), w.index, c, journal.VerifyOptions{Repair: true})
			if err != nil || !slices.ContainsFunc(r.Findings, func(f journal.Finding) bool { return f.Kind == kind && f.Found == 1 && f.Repaired == 1 }) {
				t.Errorf("%+v, %v; want %s repaired", r, err, kind)
			}
			if r, err = w.j.Verify(t.Context(), w.index, c, journal.VerifyOptions{}); err != nil || len(r.Findings) > 0 {
				t.Errorf("after the repair: %+v, %v", r, err)
			}
		}
		label := func(index *sqlstore.Lake, want string) {
			t.Helper()
			q, err := lake.ParseQuery("label:" + want)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := index.Count(t.Context(), lake.Filter{Channel: c.ID, Query: q}, w.now); err != nil || n != 1 {
				t.Errorf("%d files of label %s, %v", n, want, err)
			}
		}
		back(`UPDATE file SET metadata = '{"label":"old"}', rev = 0 WHERE id = $1`)
		repair(journal.KindRowOld)
		label(w.index, "new")

		back(`UPDATE file SET metadata = '{"label":"since"}' WHERE id = $1`)
		repair(journal.KindJournal)
		label(w.index, "since")
		to := empty(t, db, w.clock)
		if _, err := journal.Rebuild(t.Context(), w.blobs, to, false, nil); err != nil {
			t.Fatal(err)
		}
		label(to, "since")
	})
}
