// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"panal/internal/feed"
	"panal/internal/feed/webhookfeed"
	"panal/internal/plat"
)

var _ webhookfeed.Queue = (*Links)(nil)

// Push implements webhookfeed.Queue.
func (s *Links) Push(ctx context.Context, id plat.ChannelID, body []byte) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		if body == nil {
			body = []byte{}
		}
		res, err := tx.ExecContext(ctx,
			`INSERT INTO feed_message (channel, body, sent, until, receipts) SELECT num, $2, $3, 0, 0 FROM channel WHERE id = $1`,
			string(id), body, micros(s.lake.now()))
		if err != nil {
			return err
		}
		return mustAffect(res, "feed", id)
	})
}

// handle names one receipt of a message.
func handle(id, receipts int64) string {
	return strconv.FormatInt(id, 10) + "." + strconv.FormatInt(receipts, 10)
}

// Take implements webhookfeed.Queue.
func (s *Links) Take(ctx context.Context, id plat.ChannelID, limit int, lease time.Duration) ([]feed.Message, error) {
	now := s.lake.now()
	// Nearly every question of an idle feed ends here, without the only writer of SQLite.
	var there bool
	if err := s.db.Read().QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM feed_message`+ofFeed+` AND until <= $2)`, string(id), micros(now)).Scan(&there); err != nil || !there {
		return nil, s.db.translate(err)
	}
	type taken struct {
		id int64
		m  feed.Message
	}
	scan := func(r interface{ Scan(...any) error }) (t taken, err error) {
		var receipts, sent int64
		err = r.Scan(&t.id, &t.m.Body, &receipts, &sent)
		t.m.Handle, t.m.Receipts, t.m.Sent = handle(t.id, receipts), int(receipts), fromMicros(sent)
		return t, err
	}
	var all []taken
	err := s.db.Write(ctx, func(tx *Tx) (err error) {
		all, err = scanAll(ctx, s.db, tx, scan,
			`UPDATE feed_message SET until = $3, receipts = receipts + 1 WHERE id IN
			 (SELECT id FROM (SELECT id, SUM(size) OVER (ORDER BY id) - size AS before FROM
			   (SELECT id, length(body) AS size FROM feed_message`+ofFeed+` AND until <= $2 ORDER BY id LIMIT $4`+s.db.dialect.SkipLocked+`) AS m
			  ) AS n WHERE before < $5)
			 RETURNING id, body, receipts, sent`, string(id), micros(now), micros(now.Add(lease)), limit, feed.MaxReceive)
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b taken) int { return int(a.id - b.id) })
	out := make([]feed.Message, len(all))
	for i, t := range all {
		out[i] = t.m
	}
	return out, nil
}

// each runs a statement whose $1 is the channel on handles, some hundred at a time:
// where names them, by id alone or with the receipt.
func (s *Links) each(ctx context.Context, id plat.ChannelID, handles []string, exact bool, stmt string, args ...any) error {
	handles = slices.Sorted(slices.Values(handles)) // rows are locked in one order
	return s.db.Write(ctx, func(tx *Tx) error {
		for chunk := range slices.Chunk(handles, 500) {
			a := sqlArgs{list: append([]any{string(id)}, args...)}
			var which []string
			for _, h := range chunk {
				num, receipts, ok := parseHandle(h)
				switch {
				case !ok: // not of this feed
				case exact:
					which = append(which, `id = `+a.add(num)+` AND receipts = `+a.add(receipts))
				default:
					which = append(which, `id = `+a.add(num))
				}
			}
			if len(which) == 0 {
				continue
			}
			if _, err := tx.ExecContext(ctx, stmt+ofFeed+` AND (`+strings.Join(which, " OR ")+`)`, a.list...); err != nil {
				return err
			}
		}
		return nil
	})
}

func parseHandle(h string) (id, receipts int64, ok bool) {
	a, b, _ := strings.Cut(h, ".")
	id, err := strconv.ParseInt(a, 10, 64)
	receipts, err2 := strconv.ParseInt(b, 10, 64)
	return id, receipts, err == nil && err2 == nil
}

// End implements webhookfeed.Queue.
func (s *Links) End(ctx context.Context, id plat.ChannelID, handles []string) error {
	return s.each(ctx, id, handles, false, `DELETE FROM feed_message`)
}

// Lease implements webhookfeed.Queue.
func (s *Links) Lease(ctx context.Context, id plat.ChannelID, handles []string, d time.Duration) error {
	return s.each(ctx, id, handles, true, `UPDATE feed_message SET until = $2`, micros(s.lake.now().Add(d)))
}

// Waiting implements webhookfeed.Queue.
func (s *Links) Waiting(ctx context.Context, id plat.ChannelID) (feed.Backlog, error) {
	var b feed.Backlog
	var oldest int64
	err := s.db.Read().QueryRowContext(ctx, `SELECT COUNT(*), COALESCE(MIN(sent), 0) FROM feed_message`+ofFeed, string(id)).Scan(&b.Messages, &oldest)
	b.Oldest = fromMicros(oldest)
	return b, s.db.translate(err)
}
