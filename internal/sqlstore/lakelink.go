// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"panal/internal/feed"
	"panal/internal/lake"
	"panal/internal/lake/link"
	"panal/internal/plat"
)

// Links keeps the links of channels to foreign buckets and what is known of their keys,
// beside the index that their files are in. It implements link.Store.
type Links struct {
	lake *Lake
	db   *DB
	only int64 // not 0: see Bound
}

var _ link.Store = (*Links)(nil)

// NewLinks returns the links of a lake.
func NewLinks(l *Lake) *Links { return &Links{lake: l, db: l.db} }

// num returns the number of a linked channel.
func (s *Links) num(ctx context.Context, q Querier, channel plat.ChannelID) (int64, error) {
	var num int64
	err := s.db.one(q.QueryRowContext(ctx, `SELECT c.num FROM channel c JOIN link l ON l.channel = c.num WHERE c.id = $1`, string(channel)),
		"link of channel", channel, &num)
	if err == nil && s.only != 0 && num != s.only {
		err = plat.NotFound("link of channel", channel)
	}
	return num, err
}

// Bound implements link.Store. The number of a link is its channel's.
func (s *Links) Bound(num int64) link.Rows { return &Links{lake: s.lake, db: s.db, only: num} }

// Unlink implements link.Store. The channel gets another number, so that all that the link
// has left belongs to nobody, at once and whatever it is: what is swept of deleted channels.
func (s *Links) Unlink(ctx context.Context, channel plat.ChannelID, now time.Time) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		num, err := s.num(ctx, tx, channel)
		if err != nil {
			return err
		}
		// No channel has such an id, and no object such a key.
		if _, err := tx.ExecContext(ctx,
			`INSERT INTO channel_gone (num, id, org_id, deleted_at) SELECT num, $1, org_id, $2 FROM channel WHERE num = $3`,
			fmt.Sprintf("%s.%d", channel, num), micros(now), num); err != nil {
			return err
		}
		var c lake.Channel
		var created, updated int64
		if err := tx.QueryRowContext(ctx,
			`DELETE FROM channel WHERE num = $1 RETURNING id, org_id, name, description, storage, archived, created_at, updated_at, rev`, num).
			Scan(&c.ID, &c.Org, &c.Name, &c.Description, &c.Storage, &c.Archived, &created, &updated, &c.Rev); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx,
			`INSERT INTO channel (id, org_id, name, description, storage, archived, created_at, updated_at, rev) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			string(c.ID), string(c.Org), c.Name, c.Description, string(c.Storage), c.Archived, created, updated, c.Rev); err != nil {
			return err
		}
		// Few rows: credentials, and what the channel's count was made of.
		for _, table := range []string{"link", "file_delta"} {
			if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE channel = $1`, num); err != nil {
				return err
			}
		}
		return tx.Event(ctx, "channel", string(channel), "unlinked", now)
	})
}

// CreateLink implements link.Store.
func (s *Links) CreateLink(ctx context.Context, l link.Link) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		num, err := s.lake.channelNum(ctx, tx, l.Channel)
		if err != nil {
			return err
		}
		var linked, full bool
		if err := tx.QueryRowContext(ctx,
			`SELECT EXISTS (SELECT 1 FROM link WHERE channel = $1),
			 EXISTS (SELECT 1 FROM file WHERE channel = $1) OR EXISTS (SELECT 1 FROM file_pending WHERE channel = $1)`, num).Scan(&linked, &full); err != nil {
			return err
		}
		switch {
		case linked:
			return plat.Errorf(plat.ErrExists, "channel %s is linked already", l.Channel)
		case full:
			return plat.Errorf(plat.ErrConflict, "channel %s has files or promised uploads of its own; only an empty channel can be linked", l.Channel)
		}
		if _, err := tx.ExecContext(ctx,
			`INSERT INTO link (channel, endpoint, region, bucket, prefix, credentials, feed, queue, secret_hash, paused, created_at)
			 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
			num, l.Place.Endpoint, l.Place.Region, l.Place.Bucket, l.Place.Prefix, l.Place.Credentials,
			string(l.Feed.Kind), l.Feed.Queue, l.Feed.SecretHash, l.Paused, micros(l.CreatedAt)); err != nil {
			return err
		}
		return tx.Event(ctx, "channel", string(l.Channel), "linked", l.CreatedAt)
	})
}

const linkColumns = `c.id, c.num, c.org_id, l.endpoint, l.region, l.bucket, l.prefix, l.credentials, l.feed, l.queue, l.secret_hash,
	l.paused, l.created_at, l.walk_after, l.walk_seen, l.walk_found, l.drift, l.passed_at`

func scanLink(r interface{ Scan(...any) error }) (link.Link, error) {
	var l link.Link
	var created, passed int64
	err := r.Scan(&l.Channel, &l.Num, &l.Org, &l.Place.Endpoint, &l.Place.Region, &l.Place.Bucket, &l.Place.Prefix, &l.Place.Credentials,
		&l.Feed.Kind, &l.Feed.Queue, &l.Feed.SecretHash, &l.Paused, &created,
		&l.Walk.After, &l.Walk.Seen, &l.Walk.Found, &l.Walk.Drift, &passed)
	l.CreatedAt, l.Walk.PassedAt = fromMicros(created), fromMicros(passed)
	return l, err
}

// Link implements link.Store.
func (s *Links) Link(ctx context.Context, channel plat.ChannelID) (link.Link, error) {
	l, err := scanLink(s.db.Read().QueryRowContext(ctx,
		`SELECT `+linkColumns+` FROM channel c JOIN link l ON l.channel = c.num WHERE c.id = $1`, string(channel)))
	if errors.Is(err, sql.ErrNoRows) {
		return link.Link{}, plat.NotFound("link of channel", channel)
	}
	return l, s.db.translate(err)
}

// Links implements link.Store.
func (s *Links) Links(ctx context.Context) ([]link.Link, error) {
	return scanAll(ctx, s.db, s.db.Read(), scanLink, `SELECT `+linkColumns+` FROM link l JOIN channel c ON c.num = l.channel ORDER BY c.id`)
}

// Pause implements link.Store.
func (s *Links) Pause(ctx context.Context, channel plat.ChannelID, paused bool) error {
	return s.set(ctx, channel, `paused = $2`, paused)
}

// SetCredentials implements link.Store.
func (s *Links) SetCredentials(ctx context.Context, channel plat.ChannelID, sealed string) error {
	return s.set(ctx, channel, `credentials = $2`, sealed)
}

// LinkKeys returns how many links' credentials each key has sealed.
func LinkKeys(ctx context.Context, db *DB) (map[string]int, error) {
	all, err := NewLinks(NewLake(db, plat.SystemClock)).Links(ctx)
	keys := map[string]int{}
	for _, l := range all {
		if key := l.KeyOf(); key != "" {
			keys[key]++
		}
	}
	return keys, err
}

// SetWalk implements link.Store.
func (s *Links) SetWalk(ctx context.Context, channel plat.ChannelID, w link.Walk) error {
	return s.set(ctx, channel, `walk_after = $2, walk_seen = $3, walk_found = $4, drift = $5, passed_at = $6`,
		w.After, w.Seen, w.Found, w.Drift, micros(w.PassedAt))
}

func (s *Links) set(ctx context.Context, channel plat.ChannelID, what string, args ...any) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		num, err := s.num(ctx, tx, channel)
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `UPDATE link SET `+what+` WHERE channel = $1`, append([]any{num}, args...)...)
		if err != nil {
			return err
		}
		return mustAffect(res, "link of channel", channel)
	})
}

const rowColumns = `o.key, o.gen, o.sequencer, o.file, o.version, o.etag, o.size, o.modified, o.mark, o.written_at`

func scanRow(r interface{ Scan(...any) error }) (link.Row, error) {
	var row link.Row
	var seq string
	var modified, written int64
	err := r.Scan(&row.Key, &row.Gen, &seq, &row.File, &row.Version, &row.ETag, &row.Size, &modified, &row.Mark, &written)
	row.Sequencer, row.Modified, row.WrittenAt = feed.Sequencer(seq), fromMicros(modified), fromMicros(written)
	return row, err
}

// ofLinked joins the rows of a channel ($1) that is there.
const ofLinked = ` FROM link_object o WHERE o.channel = (SELECT num FROM channel WHERE id = $1)`

// Rows implements link.Store.
func (s *Links) Rows(ctx context.Context, channel plat.ChannelID, keys []string) (map[string]link.Row, error) {
	out := make(map[string]link.Row, len(keys))
	for chunk := range slices.Chunk(keys, 500) {
		rows, err := s.rows(ctx, channel, chunk)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			out[r.Key] = r
		}
	}
	return out, nil
}

func (s *Links) rows(ctx context.Context, channel plat.ChannelID, keys []string) ([]link.Row, error) {
	stmt, args := s.rowsStatement(channel, keys)
	return scanAll(ctx, s.db, s.db.Read(), scanRow, stmt, args...)
}

func (s *Links) rowsStatement(channel plat.ChannelID, keys []string) (stmt string, args []any) {
	var a sqlArgs
	num := `(SELECT num FROM channel WHERE id = ` + a.add(string(channel)) + `)`
	from := a.probe(&s.db.dialect, "link_object", "o", `channel = `+num, "key", keys)
	return `SELECT ` + rowColumns + ` FROM ` + from, a.list
}

// Live implements link.Store.
func (s *Links) Live(ctx context.Context, channel plat.ChannelID, after, upTo string, limit int) ([]link.Row, error) {
	where, args := "", []any{string(channel), after, limit}
	if upTo != "" {
		where, args = ` AND o.key <= $4`, append(args, upTo)
	}
	return scanAll(ctx, s.db, s.db.Read(), scanRow, `SELECT `+rowColumns+ofLinked+` AND o.key > $2`+where+` AND o.file <> '' ORDER BY o.key LIMIT $3`, args...)
}

// OfFile implements link.Store.
func (s *Links) OfFile(ctx context.Context, channel plat.ChannelID, id plat.FileID) (link.Row, error) {
	r, err := scanRow(s.db.Read().QueryRowContext(ctx, `SELECT `+rowColumns+ofLinked+` AND o.file = $2 AND o.file <> ''`, string(channel), string(id)))
	if errors.Is(err, sql.ErrNoRows) {
		return link.Row{}, plat.NotFound("file", id)
	}
	return r, s.db.translate(err)
}

// Write implements link.Store.
func (s *Links) Write(ctx context.Context, channel plat.ChannelID, all []link.Observation) ([]link.Outcome, error) {
	for attempt := 0; ; attempt++ {
		w := linkWrite{links: s, channel: channel, all: all, attempt: attempt}
		err := s.db.Write(ctx, func(tx *Tx) error { return w.run(ctx, tx) })
		switch {
		case err == nil:
			return w.out, nil
		case errors.Is(err, plat.ErrExists) && attempt < 12: // see Lake.Commit
		default:
			return nil, err
		}
	}
}

// linkWrite is one transaction of Links.Write.
type linkWrite struct {
	links   *Links
	channel plat.ChannelID
	all     []link.Observation
	attempt int
	out     []link.Outcome
}

func (w *linkWrite) run(ctx context.Context, tx *Tx) error {
	num, err := w.links.num(ctx, tx, w.channel)
	if err != nil {
		return err
	}
	now := w.links.lake.now()
	w.out = make([]link.Outcome, len(w.all))
	order := make([]int, len(w.all)) // of locks
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(w.all[a].Was.Key, w.all[b].Was.Key) })
	files := map[string]*lake.File{}
	rows := map[string]link.Row{}
	var args []any
	for _, i := range order {
		r, f := w.all[i].Writing(w.channel, now)
		rows[r.Key], files[r.Key] = r, f
		args = append(args, num, r.Key, r.Gen, string(r.Sequencer), string(r.File), r.Version, r.ETag, r.Size, micros(r.Modified), r.Mark, micros(r.WrittenAt))
	}
	written, err := upsertObjects(ctx, tx, args)
	if err != nil {
		return err
	}
	var add []lake.NewFile
	var end []plat.FileID
	for _, i := range order {
		o := w.all[i]
		if !written[o.Was.Key] {
			continue
		}
		w.out[i].Written = true
		if f := files[o.Was.Key]; f != nil {
			add = append(add, lake.NewFile{File: *f})
			w.out[i].Changed = true
		}
		if o.Was.File != "" && o.Was.File != rows[o.Was.Key].File {
			end = append(end, o.Was.File)
			w.out[i].Changed = true
		}
	}
	if err := w.end(ctx, tx, num, end, now); err != nil {
		return err
	}
	if len(add) == 0 {
		return nil
	}
	c := &commit{lake: w.links.lake, files: add, attempt: w.attempt, linked: num}
	if err := c.run(ctx, tx); err != nil {
		return err
	}
	for _, out := range c.out {
		if out.Err != nil { // the channel went meanwhile
			return out.Err
		}
	}
	return nil
}

// upsertObjects writes rows whose generation is the one after what is there, and
// returns the keys of those.
func upsertObjects(ctx context.Context, tx *Tx, args []any) (map[string]bool, error) {
	const width = 11
	written := map[string]bool{}
	if len(args) == 0 {
		return written, nil
	}
	scan := func(r interface{ Scan(...any) error }) (string, error) {
		var key string
		err := r.Scan(&key)
		return key, err
	}
	upsert := func(rows string, args []any) error {
		keys, err := scanAll(ctx, tx.db, tx, scan,
			`INSERT INTO link_object (channel, key, gen, sequencer, file, version, etag, size, modified, mark, written_at) `+rows+`
			 ON CONFLICT (channel, key) DO UPDATE SET gen = excluded.gen, sequencer = excluded.sequencer, file = excluded.file,
			 version = excluded.version, etag = excluded.etag, size = excluded.size, modified = excluded.modified, mark = excluded.mark,
			 written_at = excluded.written_at WHERE link_object.gen = excluded.gen - 1 RETURNING key`, args...)
		for _, k := range keys {
			written[k] = true
		}
		return err
	}
	if tx.db.dialect.Unnest {
		cols, marks := columns(width, args)
		return written, upsert(`SELECT u.* FROM unnest(`+marks+`) AS u`, cols)
	}
	return written, inPowers(args, width, func(rows int, args []any) error {
		return upsert(`VALUES `+tx.db.dialect.values("", rows, width), args)
	})
}

// end removes files whose objects are gone or others now.
func (w *linkWrite) end(ctx context.Context, tx *Tx, num int64, ids []plat.FileID, now time.Time) error {
	var gone lake.Usage
	var subjects []string
	for chunk := range slices.Chunk(ids, 256) {
		stmt, args := deleteFilesStatement(&w.links.db.dialect, num, chunk)
		files, err := scanAll(ctx, w.links.db, tx, scanFile(w.channel), stmt, args...)
		if err != nil {
			return err
		}
		var postings []postingRow
		for _, f := range files {
			postings = appendPostings(postings, num, micros(f.UploadedAt), 0, lake.Terms(f.ContentType, f.Metadata))
			gone.Files, gone.Bytes = gone.Files-1, gone.Bytes-f.Size
			subjects = append(subjects, string(w.channel)+"/"+string(f.ID))
		}
		if err := deletePostingRows(ctx, tx, postings); err != nil {
			return err
		}
	}
	if len(subjects) == 0 {
		return nil
	}
	if err := w.links.lake.addDelta(ctx, tx, num, gone); err != nil {
		return err
	}
	return tx.Events(ctx, "file", "deleted", now, subjects)
}

// deleteFilesStatement deletes and returns files of a channel. Their places are found
// first, by the ids' index, then they are deleted by these.
func deleteFilesStatement(d *Dialect, num int64, ids []plat.FileID) (stmt string, args []any) {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = string(id)
	}
	var a sqlArgs
	within := `channel = ` + a.add(num)
	found := `SELECT f.at FROM ` + a.probe(d, "file", "f", within, "id", texts)
	if d.Unnest {
		found = `at = ANY (ARRAY(` + found + `))`
	} else {
		found = `at IN (` + found + `)`
	}
	return `DELETE FROM file WHERE ` + within + ` AND ` + found + ` RETURNING ` + returning, a.list
}

// DropTombstones implements link.Store.
func (s *Links) DropTombstones(ctx context.Context, before time.Time, limit int) (int, error) {
	var n int64
	err := s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx,
			`DELETE FROM link_object WHERE file = '' AND written_at < $1 AND (channel, key) IN
			 (SELECT channel, key FROM link_object WHERE file = '' AND written_at < $1 ORDER BY written_at LIMIT $2)`, micros(before), limit)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	return int(n), err
}
