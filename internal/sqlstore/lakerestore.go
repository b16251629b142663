// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"time"

	"panal/internal/lake"
	"panal/internal/lake/journal"
	"panal/internal/plat"
)

var _ journal.Index = (*Lake)(nil)

// AllChannels implements journal.Index.
func (s *Lake) AllChannels(ctx context.Context, after plat.ChannelID, limit int) ([]lake.Channel, error) {
	return scanAll(ctx, s.db, s.db.Read(), scanChannel,
		`SELECT `+channelColumns+` FROM channel WHERE id > $1 ORDER BY id LIMIT $2`, string(after), limit)
}

// Rows implements journal.Index.
func (s *Lake) Rows(ctx context.Context, channel plat.ChannelID, after plat.FileID, limit int) ([]lake.File, error) {
	return scanAll(ctx, s.db, s.db.Read(), scanFile(channel),
		`SELECT `+fileColumns+` FROM file f WHERE f.channel = (SELECT num FROM channel WHERE id = $1) AND f.id > $2 ORDER BY f.id LIMIT $3`,
		string(channel), string(after), limit)
}

// RowsOf implements journal.Index.
func (s *Lake) RowsOf(ctx context.Context, channel plat.ChannelID, ids []plat.FileID) ([]lake.File, error) {
	var all []lake.File
	for chunk := range slices.Chunk(ids, 500) {
		var a sqlArgs
		var q strings.Builder
		q.WriteString(`SELECT ` + fileColumns + ` FROM file f WHERE f.channel = (SELECT num FROM channel WHERE id = ` + a.add(string(channel)) + `) AND f.id IN (`)
		for i, id := range chunk {
			if i > 0 {
				q.WriteByte(',')
			}
			q.WriteString(a.add(string(id)))
		}
		found, err := scanAll(ctx, s.db, s.db.Read(), scanFile(channel), q.String()+`)`, a.list...)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// Changed implements journal.Index. Events that are added meanwhile may be left out.
func (s *Lake) Changed(ctx context.Context, since time.Time, each func(topic, subject, what string) error) error {
	type event struct {
		at, txid, seq        int64
		topic, subject, what string
	}
	scan := func(r interface{ Scan(...any) error }) (e event, err error) {
		err = r.Scan(&e.at, &e.txid, &e.seq, &e.topic, &e.subject, &e.what)
		return e, err
	}
	const page = 2000
	last := event{at: micros(since), txid: -1}
	for {
		events, err := scanAll(ctx, s.db, s.db.Read(), scan,
			`SELECT time, txid, seq, topic, subject, what FROM event WHERE (time, txid, seq) > ($1, $2, $3) AND topic IN ('channel', 'file')
			 ORDER BY time, txid, seq LIMIT $4`, last.at, last.txid, last.seq, page)
		if err != nil {
			return err
		}
		for _, e := range events {
			if err := each(e.topic, e.subject, e.what); err != nil {
				return err
			}
		}
		if len(events) < page {
			return nil
		}
		last = events[page-1]
	}
}

// RestoreChannel implements journal.Index.
func (s *Lake) RestoreChannel(ctx context.Context, c lake.Channel) error {
	err := s.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.ExecContext(ctx,
			`INSERT INTO channel (id, org_id, name, description, storage, archived, created_at, updated_at, rev) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			string(c.ID), string(c.Org), c.Name, c.Description, string(c.Storage), c.Archived, micros(c.CreatedAt), micros(c.UpdatedAt), c.Rev)
		return err
	})
	if errors.Is(err, plat.ErrExists) {
		return nil
	}
	return err
}

// RestoreFiles implements journal.Index.
func (s *Lake) RestoreFiles(ctx context.Context, channel plat.ChannelID, files []lake.File) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		num, err := s.channelNum(ctx, tx, channel)
		if err != nil {
			return err
		}
		if err := tx.postLate(ctx); err != nil { // a late file whose row is missing would get its postings twice
			return err
		}
		var fileRows []any
		var postings []postingRow
		var sum lake.Usage
		for _, f := range newestOfPaths(files) {
			var there int
			if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM file WHERE channel = $1 AND id = $2`, num, string(f.ID)).Scan(&there); err != nil {
				return err
			}
			if there > 0 {
				continue
			}
			if f.Path != "" {
				newer, err := s.yield(ctx, tx, num, f)
				if err != nil {
					return err
				}
				if newer {
					continue
				}
			}
			at, expires := micros(f.UploadedAt), micros(f.ExpiresAt)
			fileRows = append(fileRows, num, at, string(f.ID), f.Size, f.ETag, f.ContentType, toJSON(f.Metadata), string(f.Lifetime), expires, f.Rev, f.Path)
			postings = appendPostings(postings, num, at, expires, lake.Terms(f.ContentType, f.Metadata))
			sum.Files, sum.Bytes = sum.Files+1, sum.Bytes+f.Size
		}
		if sum.Files == 0 {
			return nil
		}
		if err := tx.insert(ctx, "file (channel, at, id, size, etag, content_type, metadata, lifetime, expires_at, rev, path)", "", 11, fileRows); err != nil {
			return err
		}
		if err := insertPostings(ctx, tx, postings); err != nil {
			return err
		}
		return s.addDelta(ctx, tx, num, sum)
	})
}

// RenewFile implements journal.Index.
func (s *Lake) RenewFile(ctx context.Context, f lake.File) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		num, err := s.channelNum(ctx, tx, f.Channel)
		if err != nil {
			return err
		}
		if err := tx.postLate(ctx); err != nil { // its postings are about to be exchanged
			return err
		}
		old, err := scanFile(f.Channel)(tx.QueryRowContext(ctx,
			`UPDATE file SET size = size WHERE channel = $1 AND id = $2 AND rev < $3 RETURNING `+returning, num, string(f.ID), f.Rev))
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		at, expires := micros(old.UploadedAt), micros(f.ExpiresAt)
		terms := lake.Terms(old.ContentType, f.Metadata)
		for _, there := range [][]lake.Term{lake.Terms(old.ContentType, old.Metadata), terms} { // the latter, too: what is repaired may be half there
			if err := deletePostings(ctx, tx, num, at, there); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, `UPDATE file SET metadata = $1, lifetime = $2, expires_at = $3, rev = $4 WHERE channel = $5 AND id = $6`,
			toJSON(f.Metadata), string(f.Lifetime), expires, f.Rev, num, string(f.ID)); err != nil {
			return err
		}
		return insertPostings(ctx, tx, appendPostings(nil, num, at, expires, terms))
	})
}
