// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"panal/internal/lake"
	"panal/internal/plat"
)

// Lake keeps channels and the index of files. It implements lake.Store.
//
// The index is the table posting: one row for each term of each file, ordered by
// upload time within a term, so that a page of any term is a short range. The
// upload time is unique in a channel and stands for the file there.
type Lake struct {
	db  *DB
	now plat.Clock

	mu    sync.Mutex
	last  int64         // the newest stamp given
	folds map[int64]int // channel → commits since its deltas were folded
}

var _ lake.Store = (*Lake)(nil)

// NewLake returns the store on the lake database.
func NewLake(db *DB, now plat.Clock) *Lake {
	return &Lake{db: db, now: now, folds: map[int64]int{}}
}

// CreateChannel implements lake.Store.
func (s *Lake) CreateChannel(ctx context.Context, c lake.Channel) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.ExecContext(ctx,
			`INSERT INTO channel (id, org_id, name, description, storage, archived, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			string(c.ID), string(c.Org), c.Name, c.Description, string(c.Storage), c.Archived, micros(c.CreatedAt), micros(c.UpdatedAt))
		if err != nil {
			return err
		}
		return tx.Event(ctx, "channel", string(c.ID), "created", c.CreatedAt)
	})
}

const (
	isLinked       = `EXISTS (SELECT 1 FROM link WHERE link.channel = num)`
	channelColumns = `id, org_id, name, description, storage, archived, created_at, updated_at, rev, ` + isLinked
)

func scanChannel(r interface{ Scan(...any) error }) (lake.Channel, error) {
	var c lake.Channel
	var created, updated int64
	err := r.Scan(&c.ID, &c.Org, &c.Name, &c.Description, &c.Storage, &c.Archived, &created, &updated, &c.Rev, &c.Linked)
	c.CreatedAt, c.UpdatedAt = fromMicros(created), fromMicros(updated)
	return c, err
}

// Channel implements lake.Store.
func (s *Lake) Channel(ctx context.Context, id plat.ChannelID) (lake.Channel, error) {
	c, err := scanChannel(s.db.row(ctx, `SELECT `+channelColumns+` FROM channel WHERE id = $1`, string(id)))
	if errors.Is(err, sql.ErrNoRows) {
		return lake.Channel{}, plat.NotFound("channel", id)
	}
	return c, s.db.translate(err)
}

// Channels implements lake.Store.
func (s *Lake) Channels(ctx context.Context, org plat.OrgID, page lake.ChannelPage) ([]lake.Channel, bool, error) {
	all, err := scanAll(ctx, s.db, s.db.Read(), scanChannel,
		`SELECT `+channelColumns+` FROM channel WHERE org_id = $1 AND (archived = $2 OR archived = $3) AND (storage = $4) = $5
		 ORDER BY created_at DESC, id LIMIT $6 OFFSET $7`,
		string(org), false, page.IncludeArchived, string(lake.StorageBucket), page.Buckets, page.Limit+1, page.Offset)
	if err != nil || len(all) <= page.Limit {
		return all, false, err
	}
	return all[:page.Limit], true, nil
}

// UpdateChannel implements lake.Store.
func (s *Lake) UpdateChannel(ctx context.Context, c lake.Channel) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE channel SET name = $1, description = $2, archived = $3, updated_at = $4, rev = rev + 1 WHERE id = $5`,
			c.Name, c.Description, c.Archived, micros(c.UpdatedAt), string(c.ID))
		if err != nil {
			return err
		}
		if err := mustAffect(res, "channel", c.ID); err != nil {
			return err
		}
		return tx.Event(ctx, "channel", string(c.ID), "updated", c.UpdatedAt)
	})
}

// channelNum returns the number by which the index knows a channel.
func (s *Lake) channelNum(ctx context.Context, q Querier, id plat.ChannelID) (int64, error) {
	var num int64
	err := s.db.one(q.QueryRowContext(ctx, `SELECT num FROM channel WHERE id = $1`, string(id)), "channel", id, &num)
	return num, err
}

const fileColumns = `f.at, f.id, f.size, f.etag, f.content_type, f.metadata, f.lifetime, f.expires_at, f.rev, f.path`

func scanFile(channel plat.ChannelID) func(interface{ Scan(...any) error }) (lake.File, error) {
	return func(r interface{ Scan(...any) error }) (lake.File, error) {
		f := lake.File{Channel: channel}
		var at, expires int64
		var meta string
		if err := r.Scan(&at, &f.ID, &f.Size, &f.ETag, &f.ContentType, &meta, &f.Lifetime, &expires, &f.Rev, &f.Path); err != nil {
			return lake.File{}, err
		}
		f.UploadedAt, f.ExpiresAt = fromMicros(at), fromMicros(expires)
		return f, fromJSON(meta, &f.Metadata)
	}
}

// live is the predicate of expiry, which every read has.
func live(alias, now string) string {
	return "(" + alias + ".expires_at = 0 OR " + alias + ".expires_at > " + now + ")"
}

// File implements lake.Store.
func (s *Lake) File(ctx context.Context, channel plat.ChannelID, id plat.FileID, now time.Time) (lake.File, error) {
	f, err := scanFile(channel)(s.db.row(ctx,
		`SELECT `+fileColumns+` FROM file f WHERE f.channel = (SELECT num FROM channel WHERE id = $1) AND f.id = $2 AND `+live("f", "$3"),
		string(channel), string(id), micros(now)))
	if errors.Is(err, sql.ErrNoRows) {
		return lake.File{}, plat.NotFound("file", id)
	}
	return f, s.db.translate(err)
}

// FileWith implements lake.Store.
func (s *Lake) FileWith(ctx context.Context, channel plat.ChannelID, key, value string, now time.Time) (lake.File, error) {
	t := lake.Term{Key: lake.TermKey(key), Token: lake.WholeToken(value), Whole: true}
	if s.db.dialect.Late {
		return s.lateFileWith(ctx, channel, key, t, now)
	}
	f, err := scanFile(channel)(s.db.row(ctx,
		`SELECT `+fileColumns+` FROM posting p CROSS JOIN file f
		 WHERE p.channel = (SELECT num FROM channel WHERE id = $1) AND p.key = $2 AND p.token = $3 AND p.whole AND `+live("p", "$4")+`
		 AND f.channel = p.channel AND f.at = p.at ORDER BY p.at LIMIT 1`,
		string(channel), t.Key, t.Token, micros(now)))
	if errors.Is(err, sql.ErrNoRows) {
		return lake.File{}, noFileWith(key)
	}
	return f, s.db.translate(err)
}

// lateFileWith is FileWith where files may be late.
func (s *Lake) lateFileWith(ctx context.Context, channel plat.ChannelID, key string, t lake.Term, now time.Time) (found lake.File, err error) {
	err = s.db.snapshot(ctx, func(read Querier) error {
		num, err := s.channelNum(ctx, read, channel)
		if err != nil {
			return err
		}
		q := &search{lake: s, read: read, f: lake.Filter{Channel: channel}, num: num, now: micros(now), arms: []arm{{term: &t}}, exact: true}
		has := func(f lake.File) bool { return slices.Contains(lake.Terms(f.ContentType, f.Metadata), t) }
		if err := q.findLate(ctx, has); err != nil {
			return err
		}
		none := noFileWith(key)
		if err := q.each(ctx, span{limit: 1}, func(f lake.File) bool {
			found, none = f, nil
			return false
		}); err != nil {
			return err
		}
		return none
	})
	return found, err
}

func noFileWith(key string) error { return plat.Errorf(plat.ErrNotFound, "no file has that %s", key) }

// Usage implements lake.Store.
func (s *Lake) Usage(ctx context.Context, channel plat.ChannelID, now time.Time) (lake.Usage, error) {
	return s.usage(ctx, s.db.Read(), channel, now)
}

func (s *Lake) usage(ctx context.Context, read Querier, channel plat.ChannelID, now time.Time) (lake.Usage, error) {
	var u lake.Usage
	// What has expired and is not reaped yet is still in the deltas.
	row := read.QueryRowContext(ctx,
		`SELECT CAST((SELECT COALESCE(SUM(files), 0) FROM file_delta WHERE channel = c.num)
		   - (SELECT COUNT(*) FROM file WHERE channel = c.num AND expires_at > 0 AND expires_at <= $2) AS BIGINT),
		 CAST((SELECT COALESCE(SUM(bytes), 0) FROM file_delta WHERE channel = c.num)
		   - (SELECT COALESCE(SUM(size), 0) FROM file WHERE channel = c.num AND expires_at > 0 AND expires_at <= $2) AS BIGINT)
		 FROM channel c WHERE c.id = $1`, string(channel), micros(now))
	return u, s.db.one(row, "channel", channel, &u.Files, &u.Bytes)
}

// Total implements lake.Store.
func (s *Lake) Total(ctx context.Context) (lake.Usage, error) {
	var u lake.Usage
	row := s.db.Read().QueryRowContext(ctx, `SELECT CAST(COALESCE(SUM(files), 0) AS BIGINT), CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM file_delta`)
	err := row.Scan(&u.Files, &u.Bytes)
	return u, s.db.translate(err)
}

// stamps gives n upload times: about now, and none twice in this process. After a
// collision with another one it leaps a random bit ahead, further each time.
func (s *Lake) stamps(n, attempt int) []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := micros(s.now())
	if attempt > 0 {
		s.last = max(now, s.last) + rand.Int64N(int64(n)<<attempt)
	}
	out := make([]int64, n)
	for i := range out {
		s.last = max(now, s.last+1)
		out[i] = s.last
	}
	return out
}

// Commit implements lake.Store.
func (s *Lake) Commit(ctx context.Context, files []lake.NewFile) ([]lake.Outcome, error) {
	for attempt := 0; ; attempt++ {
		c := &commit{lake: s, files: files, attempt: attempt}
		err := s.db.Write(ctx, func(tx *Tx) error { return c.run(ctx, tx) })
		switch {
		case err == nil:
			return c.out, nil
		case errors.Is(err, plat.ErrExists) && attempt < 12:
			// Another process gave the same microsecond of a channel: stamp anew.
		default:
			return nil, err
		}
	}
}

// claim is a metadata value that a conflict target may ask for.
type claim struct {
	channel    int64
	key, token string // as in the index
}

func (c claim) lock() int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(strconv.FormatInt(c.channel, 10) + "\x00" + c.key + "\x00" + c.token))
	return int64(h.Sum64())
}

// commit is one transaction of Lake.Commit.
type commit struct {
	lake  *Lake
	files []lake.NewFile
	out   []lake.Outcome

	rows    commitRows
	attempt int
	late    bool  // the files get their postings later
	linked  int64 // the files are a foreign bucket's objects: only the linked channel with this number takes them, archived or not; 0: they are our own
}

type commitChannel struct {
	num      int64
	archived bool
	linked   bool
}

func (c *commit) run(ctx context.Context, tx *Tx) error {
	c.out = make([]lake.Outcome, len(c.files))
	c.late = c.lake.db.dialect.Late && len(c.files) <= lateFiles
	channels, err := c.channels(ctx, tx)
	if err != nil {
		return err
	}
	taken, err := c.claims(ctx, tx, channels) // nil when no file has a conflict target
	if err != nil {
		return err
	}
	stamps := c.lake.stamps(len(c.files), c.attempt)
	c.rows = commitRows{delta: map[int64]lake.Usage{}, paths: map[claim]bool{}}
	r := &c.rows
	for i, f := range c.files {
		ch, ok := channels[f.Channel]
		switch {
		case !ok:
			c.out[i].Err = plat.NotFound("channel", f.Channel)
			continue
		case (c.linked != 0) != ch.linked:
			c.out[i].Err = lake.ErrLinked(f.Channel)
			continue
		case c.linked != 0 && c.linked != ch.num: // unlinked and linked again meanwhile
			c.out[i].Err = plat.NotFound("link of channel", f.Channel)
			continue
		case ch.archived && c.linked == 0:
			c.out[i].Err = plat.Errorf(plat.ErrForbidden, "channel %s is archived and takes no uploads; unarchive it first", f.Channel)
			continue
		}
		if f.Conflict != "" {
			if there, ok := taken[claimOf(ch.num, f.Metadata, f.Conflict)]; ok {
				c.out[i].Err = &lake.ConflictError{Target: f.Conflict, File: there}
				continue
			}
		}
		if f.Pending {
			switch kept, err := takePending(ctx, tx, ch.num, f.ID); {
			case err != nil:
				return err
			case !kept:
				c.out[i].Err = plat.Errorf(plat.ErrConflict, "the upload of file %s was not promised, or is done already", f.ID)
				continue
			}
		}
		if f.Fresh {
			there, err := c.atPath(ctx, tx, ch.num, f.File)
			if err != nil {
				return err
			}
			if there != nil {
				c.out[i].Err = &lake.ConflictError{Target: "file", File: *there}
				continue
			}
		}
		if f.Path != "" {
			old, err := c.replace(ctx, tx, ch.num, f.File)
			if err != nil {
				return err
			}
			c.out[i].Replaced = old
		}
		stored := f.File
		stored.UploadedAt = fromMicros(stamps[i])
		stored.ExpiresAt = stored.Lifetime.Expiry(stored.UploadedAt)
		c.out[i].File = stored
		if taken != nil {
			for raw := range stored.Metadata {
				taken[claimOf(ch.num, stored.Metadata, lake.IndexKey(raw))] = stored
			}
		}
		expires := micros(stored.ExpiresAt)
		meta := "{}"
		if len(stored.Metadata) > 0 {
			meta = toJSON(stored.Metadata)
		}
		r.files = append(r.files, ch.num, stamps[i], string(stored.ID), stored.Size, stored.ETag, stored.ContentType, meta, string(stored.Lifetime), expires, stored.Path)
		if c.late {
			r.late = append(r.late, ch.num, stamps[i])
		} else {
			r.postings = appendPostings(r.postings, ch.num, stamps[i], expires, lake.Terms(stored.ContentType, stored.Metadata))
		}
		r.subjects = append(r.subjects, string(stored.Channel)+"/"+string(stored.ID))
		u := r.delta[ch.num]
		r.delta[ch.num] = lake.Usage{Files: u.Files + 1, Bytes: u.Bytes + stored.Size}
		if stored.Path != "" {
			r.paths[pathClaim(ch.num, stored.Path)] = true
		}
	}
	return c.flush(ctx, tx)
}

// commitRows are what a commit is about to insert.
type commitRows struct {
	files    []any
	postings []postingRow
	late     []any // places of files without postings
	subjects []string
	delta    map[int64]lake.Usage
	paths    map[claim]bool
}

// flush inserts what was gathered.
func (c *commit) flush(ctx context.Context, tx *Tx) error {
	r := c.rows
	c.rows = commitRows{delta: map[int64]lake.Usage{}, paths: map[claim]bool{}}
	if len(r.subjects) == 0 {
		return nil
	}
	if err := tx.insert(ctx, "file (channel, at, id, size, etag, content_type, metadata, lifetime, expires_at, path)", "", 10, r.files); err != nil {
		return err
	}
	if err := insertPostings(ctx, tx, r.postings); err != nil {
		return err
	}
	if len(r.late) > 0 {
		if err := c.lake.leave(ctx, tx, r.late); err != nil {
			return err
		}
	}
	for num, u := range r.delta {
		if err := c.lake.addDelta(ctx, tx, num, u); err != nil {
			return err
		}
	}
	return tx.Events(ctx, "file", "created", fromMicros(r.files[1].(int64)), r.subjects)
}

func (c *commit) channels(ctx context.Context, tx *Tx) (map[plat.ChannelID]commitChannel, error) {
	found := map[plat.ChannelID]commitChannel{}
	asked := map[plat.ChannelID]bool{}
	for _, f := range c.files {
		if asked[f.Channel] {
			continue
		}
		asked[f.Channel] = true
		var ch commitChannel
		err := tx.row(ctx, `SELECT num, archived, `+isLinked+` FROM channel WHERE id = $1`, string(f.Channel)).Scan(&ch.num, &ch.archived, &ch.linked)
		switch {
		case err == nil:
			found[f.Channel] = ch
		case !errors.Is(err, sql.ErrNoRows):
			return nil, err
		}
	}
	return found, nil
}

func claimOf(num int64, m lake.Metadata, key string) claim {
	value, _ := m.Get(key)
	return claim{channel: num, key: lake.TermKey(key), token: lake.WholeToken(value)}
}

// claims locks the values that the files' conflict targets ask for and returns
// the live files that have them.
func (c *commit) claims(ctx context.Context, tx *Tx, channels map[plat.ChannelID]commitChannel) (map[claim]lake.File, error) {
	wanted := map[claim]plat.ChannelID{}
	for _, f := range c.files {
		ch, ok := channels[f.Channel]
		if ok && f.Conflict != "" {
			wanted[claimOf(ch.num, f.Metadata, f.Conflict)] = f.Channel
		}
		if ok && f.Path != "" {
			wanted[pathClaim(ch.num, f.Path)] = f.Channel
		}
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	if err := tx.postLate(ctx); err != nil {
		return nil, err
	}
	all := make([]claim, 0, len(wanted))
	for cl := range wanted {
		all = append(all, cl)
	}
	// Sorted, so that two processes that want the same never wait for each other.
	slices.SortFunc(all, func(a, b claim) int { return cmp.Compare(a.lock(), b.lock()) })
	if lock := c.lake.db.dialect.AdvisoryLock; lock != "" {
		for _, cl := range all {
			if _, err := tx.ExecContext(ctx, lock, cl.lock()); err != nil {
				return nil, err
			}
		}
	}
	taken := map[claim]lake.File{}
	now := micros(c.lake.now())
	for _, cl := range all {
		if cl.key == pathKey { // whoever has it is replaced
			continue
		}
		f, err := scanFile(wanted[cl])(tx.QueryRowContext(ctx,
			`SELECT `+fileColumns+` FROM posting p CROSS JOIN file f
			 WHERE p.channel = $1 AND p.key = $2 AND p.token = $3 AND p.whole AND `+live("p", "$4")+`
			 AND f.channel = p.channel AND f.at = p.at ORDER BY p.at LIMIT 1`, cl.channel, cl.key, cl.token, now))
		switch {
		case err == nil:
			taken[cl] = f
		case !errors.Is(err, sql.ErrNoRows):
			return nil, err
		}
	}
	return taken, nil
}

// foldEvery is how many deltas a process adds to a channel before it folds them.
const foldEvery = 64

// addDelta changes what a channel holds. Rows are only added, so that writers do
// not wait for each other, and folded into one from time to time.
func (s *Lake) addDelta(ctx context.Context, tx *Tx, num int64, u lake.Usage) error {
	s.mu.Lock()
	s.folds[num]++
	fold := s.folds[num] >= foldEvery
	if fold {
		delete(s.folds, num)
	}
	s.mu.Unlock()
	if fold {
		scan := func(r interface{ Scan(...any) error }) (lake.Usage, error) {
			var d lake.Usage
			err := r.Scan(&d.Files, &d.Bytes)
			return d, err
		}
		old, err := scanAll(ctx, s.db, tx, scan,
			`DELETE FROM file_delta WHERE id IN (SELECT id FROM file_delta WHERE channel = $1 ORDER BY id LIMIT 1000`+s.db.dialect.SkipLocked+`)
			 RETURNING files, bytes`, num)
		if err != nil {
			return err
		}
		for _, d := range old {
			u.Files, u.Bytes = u.Files+d.Files, u.Bytes+d.Bytes
		}
	}
	_, err := tx.exec(ctx, `INSERT INTO file_delta (channel, files, bytes) VALUES ($1, $2, $3)`, num, u.Files, u.Bytes)
	return err
}

// SetMetadata implements lake.Store.
func (s *Lake) SetMetadata(ctx context.Context, channel plat.ChannelID, id plat.FileID, m lake.Metadata, now time.Time) (lake.File, error) {
	return s.changeMetadata(ctx, channel, id, now, func(lake.Metadata) (lake.Metadata, error) { return m, nil })
}

// PatchMetadata implements lake.Store.
func (s *Lake) PatchMetadata(ctx context.Context, channel plat.ChannelID, id plat.FileID, p lake.Patch, lim lake.Limits, now time.Time) (lake.File, error) {
	return s.changeMetadata(ctx, channel, id, now, func(m lake.Metadata) (lake.Metadata, error) { return m.With(p, lim) })
}

func (s *Lake) changeMetadata(ctx context.Context, channel plat.ChannelID, id plat.FileID, now time.Time, change func(lake.Metadata) (lake.Metadata, error)) (lake.File, error) {
	var f lake.File
	err := s.db.Write(ctx, func(tx *Tx) error {
		if err := tx.postLate(ctx); err != nil {
			return err
		}
		num, err := s.channelNum(ctx, tx, channel)
		if err != nil {
			return err
		}
		if f, err = lockFile(ctx, tx, num, channel, id, now); err != nil {
			return err
		}
		at := micros(f.UploadedAt)
		m, err := change(f.Metadata)
		if err != nil {
			return err
		}
		if err := deletePostings(ctx, tx, num, at, lake.Terms(f.ContentType, f.Metadata)); err != nil {
			return err
		}
		f.Metadata, f.Rev = m, f.Rev+1
		if _, err := tx.ExecContext(ctx, `UPDATE file SET metadata = $1, rev = rev + 1 WHERE channel = $2 AND at = $3`, toJSON(m), num, at); err != nil {
			return err
		}
		if err := insertPostings(ctx, tx, appendPostings(nil, num, at, micros(f.ExpiresAt), lake.Terms(f.ContentType, m))); err != nil {
			return err
		}
		return tx.Event(ctx, "file", string(channel)+"/"+string(id), "metadata", now)
	})
	return f, err
}

// returning is fileColumns where SQLite takes no alias.
var returning = strings.ReplaceAll(fileColumns, "f.", "") //nolint:gochecknoglobals // a constant

// DeleteFile implements lake.Store.
func (s *Lake) DeleteFile(ctx context.Context, channel plat.ChannelID, id plat.FileID, now time.Time) (lake.File, error) {
	var f lake.File
	err := s.db.WriteFreeing(ctx, func(tx *Tx) error {
		num, err := s.channelNum(ctx, tx, channel)
		if err != nil {
			return err
		}
		f, err = scanFile(channel)(tx.QueryRowContext(ctx,
			`DELETE FROM file WHERE channel = $1 AND id = $2 AND `+live("file", "$3")+` RETURNING `+returning, num, string(id), micros(now)))
		if errors.Is(err, sql.ErrNoRows) {
			return plat.NotFound("file", id)
		}
		if err != nil {
			return err
		}
		return s.forget(ctx, tx, num, f, "deleted", now)
	})
	return f, err
}

// forget removes what is left of a file whose row is gone.
func (s *Lake) forget(ctx context.Context, tx *Tx, num int64, f lake.File, what string, now time.Time) error {
	if err := deletePostings(ctx, tx, num, micros(f.UploadedAt), lake.Terms(f.ContentType, f.Metadata)); err != nil {
		return err
	}
	if err := s.addDelta(ctx, tx, num, lake.Usage{Files: -1, Bytes: -f.Size}); err != nil {
		return err
	}
	return tx.Event(ctx, "file", string(f.Channel)+"/"+string(f.ID), what, now)
}

// DeleteExpired implements lake.Store.
func (s *Lake) DeleteExpired(ctx context.Context, now time.Time, limit int) ([]lake.File, error) {
	type place struct {
		num, at int64
		channel plat.ChannelID
	}
	var gone []lake.File
	err := s.db.WriteFreeing(ctx, func(tx *Tx) error {
		gone = nil
		scan := func(r interface{ Scan(...any) error }) (place, error) {
			var p place
			err := r.Scan(&p.num, &p.at, &p.channel)
			return p, err
		}
		places, err := scanAll(ctx, s.db, tx, scan,
			`SELECT f.channel, f.at, c.id FROM file f JOIN channel c ON c.num = f.channel WHERE f.expires_at > 0 AND f.expires_at <= $1
			 ORDER BY f.expires_at LIMIT $2`, micros(now), limit)
		if err != nil {
			return err
		}
		for _, p := range places {
			f, err := scanFile(p.channel)(tx.QueryRowContext(ctx, `DELETE FROM file WHERE channel = $1 AND at = $2 RETURNING `+returning, p.num, p.at))
			if errors.Is(err, sql.ErrNoRows) { // another process was faster
				continue
			}
			if err != nil {
				return err
			}
			if err := s.forget(ctx, tx, p.num, f, "expired", now); err != nil {
				return err
			}
			gone = append(gone, f)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return gone, nil
}

// Known implements lake.Store.
func (s *Lake) Known(ctx context.Context, channel plat.ChannelID, ids []plat.FileID) (map[plat.FileID]bool, error) {
	known := map[plat.FileID]bool{}
	scan := func(r interface{ Scan(...any) error }) (plat.FileID, error) {
		var id plat.FileID
		err := r.Scan(&id)
		return id, err
	}
	for chunk := range slices.Chunk(ids, 500) {
		texts := make([]string, len(chunk))
		for i, id := range chunk {
			texts[i] = string(id)
		}
		var a sqlArgs
		within := `channel = (SELECT num FROM channel WHERE id = ` + a.add(string(channel)) + `)`
		found, err := scanAll(ctx, s.db, s.db.Read(), scan, `SELECT f.id FROM `+a.probe(&s.db.dialect, "file", "f", within, "id", texts), a.list...)
		if err != nil {
			return nil, err
		}
		for _, id := range found {
			known[id] = true
		}
	}
	return known, nil
}
