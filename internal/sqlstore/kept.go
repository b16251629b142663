// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"database/sql"
	"sync"
	"time"
)

// maxKept bounds the texts of one pool that are kept prepared. Only constants of this
// package, and insert's and delete's texts of power-of-two lengths, come here: some dozens.
const maxKept = 128

// kept holds the prepared statements of a pool by their text. database/sql prepares
// each again on every connection that it opens. The engine prepares it anew by itself
// when the schema changes.
type kept struct {
	pool *sql.DB

	mu  sync.RWMutex
	all map[string]*sql.Stmt
}

func newKept(pool *sql.DB) *kept { return &kept{pool: pool, all: map[string]*sql.Stmt{}} }

func (k *kept) get(text string) *sql.Stmt {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.all[text]
}

// keepWait bounds how long a new text waits for a connection to be prepared on: it can
// also be kept next time.
const keepWait = 2 * time.Second

// add prepares a text. That it can't is no error: whoever runs it sees why. It holds no
// lock while it waits for a connection: who has that may be about to call get.
func (k *kept) add(ctx context.Context, text string) {
	k.mu.RLock()
	full := len(k.all) >= maxKept
	k.mu.RUnlock()
	if full {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepWait)
	defer cancel()
	stmt, err := k.pool.PrepareContext(ctx, text)
	if err != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.all[text] != nil { // another call was faster
		_ = stmt.Close() //nolint:sqlclosecheck // kept otherwise
		return
	}
	k.all[text] = stmt
}

// row asks for one row by a statement that is kept prepared where that pays. text is a
// constant.
func (db *DB) row(ctx context.Context, text string, args ...any) *sql.Row {
	if stmt := db.prepared(ctx, text); stmt != nil { //nolint:sqlclosecheck // kept as long as its pool
		return stmt.QueryRowContext(db.whole(ctx), args...)
	}
	return db.read.QueryRowContext(ctx, text, args...)
}

// rows is row for a question of many.
func (db *DB) rows(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	if stmt := db.prepared(ctx, text); stmt != nil { //nolint:sqlclosecheck // kept as long as its pool
		return stmt.QueryContext(ctx, args...)
	}
	return db.read.QueryContext(ctx, text, args...)
}

// prepared returns a statement for reads, or nil.
func (db *DB) prepared(ctx context.Context, text string) *sql.Stmt {
	if db.keptRead == nil {
		return nil
	}
	if stmt := db.keptRead.get(text); stmt != nil {
		return stmt
	}
	db.keptRead.add(ctx, text)
	return db.keptRead.get(text)
}

// exec runs a statement that is kept prepared where that pays. One that is new runs as
// it is, and is prepared after the transaction: this one has the only connection.
func (tx *Tx) exec(ctx context.Context, text string, args ...any) (sql.Result, error) {
	if tx.db.keptWrite != nil {
		if stmt := tx.db.keptWrite.get(text); stmt != nil {
			return tx.StmtContext(ctx, stmt).ExecContext(tx.db.whole(ctx), args...) //nolint:sqlclosecheck // ends with the transaction
		}
		tx.fresh = append(tx.fresh, text)
	}
	return tx.ExecContext(ctx, text, args...)
}

// rows is exec for a question of many.
func (tx *Tx) rows(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	if tx.db.keptWrite != nil {
		if stmt := tx.db.keptWrite.get(text); stmt != nil {
			return tx.StmtContext(ctx, stmt).QueryContext(ctx, args...) //nolint:sqlclosecheck // ends with the transaction
		}
		tx.fresh = append(tx.fresh, text)
	}
	return tx.QueryContext(ctx, text, args...)
}

// asker asks by statements that are kept prepared where that pays: a *DB, or a *Tx.
type asker interface {
	rows(ctx context.Context, text string, args ...any) (*sql.Rows, error)
}

// row is exec for a question of one row.
func (tx *Tx) row(ctx context.Context, text string, args ...any) *sql.Row {
	if tx.db.keptWrite != nil {
		if stmt := tx.db.keptWrite.get(text); stmt != nil {
			return tx.StmtContext(ctx, stmt).QueryRowContext(tx.db.whole(ctx), args...) //nolint:sqlclosecheck // ends with the transaction
		}
		tx.fresh = append(tx.fresh, text)
	}
	return tx.QueryRowContext(ctx, text, args...)
}
