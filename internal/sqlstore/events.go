// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"time"

	"panal/internal/outbox"
)

// Event adds an event to the transaction. Its topic's watchers wake after commit.
func (tx *Tx) Event(ctx context.Context, topic, subject, what string, at time.Time) error {
	_, err := tx.exec(ctx,
		`INSERT INTO event (txid, time, topic, subject, what) VALUES (`+tx.db.dialect.EventXID+`, $1, $2, $3, $4)`,
		micros(at), topic, subject, what)
	if err != nil {
		return err
	}
	if tx.topics == nil {
		tx.topics = map[string]bool{}
	}
	tx.topics[topic] = true
	return nil
}

// Events adds the same event about many subjects, in one statement or a few.
func (tx *Tx) Events(ctx context.Context, topic, what string, at time.Time, subjects []string) error {
	if len(subjects) == 0 {
		return nil
	}
	rows := make([]any, 0, len(subjects)*4)
	for _, s := range subjects {
		rows = append(rows, micros(at), topic, s, what)
	}
	if err := tx.insert(ctx, "event (txid, time, topic, subject, what)", tx.db.dialect.EventXID+", ", 4, rows); err != nil {
		return err
	}
	if tx.topics == nil {
		tx.topics = map[string]bool{}
	}
	tx.topics[topic] = true
	return nil
}

// Events reads the outbox of one database. It implements outbox.Log.
type Events struct{ db *DB }

var _ outbox.Log = (*Events)(nil)

// NewEvents returns the outbox of db.
func NewEvents(db *DB) *Events { return &Events{db: db} }

// Read implements outbox.Log. On PostgreSQL rows are ordered by (transaction id,
// serial) and only those of transactions below the oldest one still running are
// returned; ordering by the serial alone would not do, because a transaction can
// take a serial before it takes its id. On SQLite there is one writer, so rows
// commit in serial order.
func (e *Events) Read(ctx context.Context, topic string, after outbox.Cursor, limit int) ([]outbox.Event, error) {
	scan := func(r interface{ Scan(...any) error }) (outbox.Event, error) {
		var ev outbox.Event
		var at int64
		err := r.Scan(&ev.Pos.TxID, &ev.Pos.Seq, &at, &ev.Topic, &ev.Subject, &ev.What)
		ev.Time = fromMicros(at)
		return ev, err
	}
	return scanAll(ctx, e.db, e.db.Read(), scan,
		`SELECT txid, seq, time, topic, subject, what FROM event
		 WHERE (txid, seq) > ($1, $2) AND ($3 = '' OR topic = $3) AND `+e.db.dialect.EventVisible+`
		 ORDER BY txid, seq LIMIT $4`,
		after.TxID, after.Seq, topic, limit)
}

// Trim implements outbox.Log.
func (e *Events) Trim(ctx context.Context, t time.Time) error {
	return e.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM event WHERE time < $1`, micros(t))
		return err
	})
}
