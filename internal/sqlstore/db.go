// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"panal/internal/outbox"
	"panal/internal/plat"
)

// Dialect is what differs between the engines.
type Dialect struct {
	// Name is "sqlite" or "postgres".
	Name string
	// SkipLocked is appended to a queue claim's SELECT (" FOR UPDATE SKIP LOCKED"
	// on PostgreSQL, empty on SQLite, which has one writer).
	SkipLocked string
	// Translate maps a driver's error to a plat kind, or returns it unchanged.
	Translate func(error) error
	// MaxParams is how many placeholders one statement takes.
	MaxParams int
	// Positional: placeholders of long statements are written "?" (SQLite looks
	// each $n up among all before it).
	Positional bool
	// Unnest: many rows are inserted as one array for each column.
	Unnest bool
	// Copy adds rows, as one array for each column, to "table (columns)" over a raw
	// connection, in its transaction: what pays for many. Nil where the engine has no such thing.
	Copy func(ctx context.Context, raw any, into string, cols []any) error
	// Fence at the end of a subquery keeps the planner from making a join of it:
	// each row is looked up on its own.
	Fence string
	// AdvisoryLock takes a lock on a number until the transaction ends; empty where
	// there is one writer.
	AdvisoryLock string
	// EventColumns and EventVisible are the outbox's: see events.go.
	EventXID     string
	EventVisible string
	// Keep: statements that come often are kept prepared by us (pgx does so itself).
	Keep bool
	// Whole: a statement that has begun is finished, whatever becomes of its context, in
	// transactions and look-ups by a key.
	Whole bool
	// Snapshot are the options of a transaction whose reads are all of one moment.
	Snapshot sql.TxOptions
	// Late: postings may be made some commits later (see late).
	Late bool
	// Checkpoint has what stands in the engine's log put where it belongs, so that the next
	// transaction is written over it; empty where there is no such log.
	Checkpoint string
	// Backup copies what a connection sees to a new file, calling step now and then; nil
	// where the engine has tools of its own.
	Backup func(raw any, path string, step func() error) error
}

// DB is one database (on SQLite one file, on PostgreSQL the whole database),
// migrated and ready. It is safe for concurrent use.
type DB struct {
	read    *sql.DB
	write   *sql.DB // one connection on SQLite; the same pool as read on PostgreSQL
	dialect Dialect
	hub     *outbox.Hub
	// keptRead and keptWrite are the pools' prepared statements; nil where the driver
	// keeps them.
	keptRead, keptWrite *kept
	late                late
}

// NewDB returns a DB over opened pools. Called by the engines' Open.
func NewDB(read, write *sql.DB, d Dialect) *DB {
	db := &DB{read: read, write: write, dialect: d, hub: outbox.NewHub()}
	if d.Keep {
		db.keptRead, db.keptWrite = newKept(read), newKept(write)
	}
	return db
}

// Dialect returns the engine's dialect.
func (db *DB) Dialect() Dialect { return db.dialect }

// Hub returns the wake-ups of this database's events.
func (db *DB) Hub() *outbox.Hub { return db.hub }

// Querier is what *sql.DB and *sql.Tx share.
type Querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Read returns the pool for reads.
func (db *DB) Read() Querier { return db.read }

// Tx is a write transaction. Events added to it commit with it, and wake their
// topics' watchers once they have.
type Tx struct {
	*sql.Tx
	db     *DB
	conn   *sql.Conn // that it is on
	topics map[string]bool
	fresh  []string // texts to keep prepared from now on
	after  []func() // called when it has committed
	undo   []func() // called when it has not, before another one begins
}

// Write runs fn in one transaction and commits it durably. fn must use only tx:
// on SQLite the writer is a single connection, and anything else would wait for
// itself. An error or panic rolls back.
func (db *DB) Write(ctx context.Context, fn func(tx *Tx) error) error {
	tx := &Tx{db: db}
	if err := db.transact(ctx, tx, fn); err != nil {
		return err
	}
	for _, f := range tx.after {
		f()
	}
	for topic := range tx.topics {
		db.hub.Wake(topic)
	}
	for _, text := range tx.fresh {
		db.keptWrite.add(ctx, text)
	}
	return nil
}

// WriteFreeing is Write of what deletes, once more on a full disk: the log's place, at
// least, can be had again. fn may be called twice.
func (db *DB) WriteFreeing(ctx context.Context, fn func(tx *Tx) error) error {
	err := db.Write(ctx, fn)
	if !errors.Is(err, plat.ErrExhausted) || db.dialect.Checkpoint == "" {
		return err
	}
	if _, failed := db.write.ExecContext(ctx, db.dialect.Checkpoint); failed != nil {
		return err
	}
	return db.Write(ctx, fn)
}

func (db *DB) transact(ctx context.Context, tx *Tx, fn func(tx *Tx) error) error {
	conn, err := db.write.Conn(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", db.translate(err))
	}
	defer func() { _ = conn.Close() }() // gives it back
	raw, err := conn.BeginTx(db.whole(ctx), nil)
	if err != nil {
		return fmt.Errorf("begin: %w", db.translate(err))
	}
	tx.Tx, tx.conn = raw, conn
	done := false
	defer func() {
		if !done {
			_ = raw.Rollback()
			for _, f := range tx.undo {
				f()
			}
		}
	}()
	if err := fn(tx); err != nil {
		return db.translate(err)
	}
	if err := raw.Commit(); err != nil {
		return fmt.Errorf("commit: %w", db.translate(err))
	}
	done = true
	return nil
}

// onCommit has f called when the transaction has committed.
func (tx *Tx) onCommit(f func()) { tx.after = append(tx.after, f) }

// onRollback has f called when the transaction ends without; by then it is still the
// only one of a single writer.
func (tx *Tx) onRollback(f func()) { tx.undo = append(tx.undo, f) }

// whole returns the context of a statement that is too short to be broken off where the
// engine would start a goroutine for each that could be (SQLite: on one core those kept
// everything else waiting for seconds). One whose context has ended does not begin.
func (db *DB) whole(ctx context.Context) context.Context {
	if !db.dialect.Whole || ctx.Err() != nil {
		return ctx
	}
	return context.WithoutCancel(ctx)
}

// ExecContext runs a statement in the transaction.
func (tx *Tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return tx.Tx.ExecContext(tx.db.whole(ctx), query, args...)
}

// QueryContext asks for rows in the transaction.
func (tx *Tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return tx.Tx.QueryContext(tx.db.whole(ctx), query, args...)
}

// QueryRowContext asks for one row in the transaction.
func (tx *Tx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return tx.Tx.QueryRowContext(tx.db.whole(ctx), query, args...)
}

// snapshot runs fn on the database as it is at one moment.
func (db *DB) snapshot(ctx context.Context, fn func(Querier) error) error {
	tx, err := db.read.BeginTx(ctx, &db.dialect.Snapshot)
	if err != nil {
		return fmt.Errorf("begin: %w", db.translate(err))
	}
	defer func() { _ = tx.Rollback() }() // it changed nothing
	return fn(tx)
}

// Ping checks that the database answers.
func (db *DB) Ping(ctx context.Context) error {
	return db.translate(db.read.PingContext(ctx))
}

// Close closes the pools.
func (db *DB) Close() error {
	err := db.write.Close()
	if db.read != db.write {
		err = errors.Join(err, db.read.Close())
	}
	return err
}

// translate maps driver errors to plat kinds. Errors that carry a kind already,
// context errors and nil pass unchanged.
func (db *DB) translate(err error) error {
	switch {
	case err == nil, plat.KindOf(err) != nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return db.dialect.Translate(err)
}

// one scans a single row; a missing one is ErrNotFound with the given noun.
func (db *DB) one(row *sql.Row, noun string, id any, dest ...any) error {
	err := row.Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return plat.NotFound(noun, id)
	}
	return db.translate(err)
}

// mustAffect turns an UPDATE or DELETE that hit no row into ErrNotFound.
func mustAffect(res sql.Result, noun string, id any) error {
	n, err := res.RowsAffected()
	if err != nil {
		return err
	}
	if n == 0 {
		return plat.NotFound(noun, id)
	}
	return nil
}

// micros is how a time is stored: Unix microseconds, 0 for the zero time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// fromMicros reads what micros wrote.
func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// toJSON encodes v for a TEXT column. Only values that always encode are stored.
func toJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("BUG: sqlstore: value does not encode: " + err.Error())
	}
	return string(b)
}

// fromJSON decodes a TEXT column that toJSON wrote.
func fromJSON(s string, v any) error {
	if s == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(s), v); err != nil {
		return fmt.Errorf("decode stored JSON: %w", err)
	}
	return nil
}

// countBy runs a query of names and how many there are of each.
func countBy[K ~string](ctx context.Context, db *DB, query string, args ...any) (map[K]int, error) {
	type count struct {
		name K
		n    int
	}
	all, err := scanAll(ctx, db, db.Read(), func(r interface{ Scan(...any) error }) (c count, err error) {
		err = r.Scan(&c.name, &c.n)
		return c, err
	}, query, args...)
	if err != nil {
		return nil, err
	}
	out := map[K]int{}
	for _, c := range all {
		out[c.name] = c.n
	}
	return out, nil
}

// scanAll runs a query and scans each row with scan.
func scanAll[T any](ctx context.Context, db *DB, q Querier, scan func(interface{ Scan(...any) error }) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, db.translate(err)
	}
	return collect(db, rows, scan)
}

// collect scans each row with scan.
func collect[T any](db *DB, rows *sql.Rows, scan func(interface{ Scan(...any) error }) (T, error)) ([]T, error) {
	defer func() { _ = rows.Close() }()
	out := []T{}
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, db.translate(err)
		}
		out = append(out, v)
	}
	return out, db.translate(rows.Err())
}
