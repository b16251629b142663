// SPDX-License-Identifier: Apache-2.0

package sqlstore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"panal/internal/authn"
	"panal/internal/org"
	"panal/internal/outbox"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/sqlstoretest"
)

func TestOrgs(t *testing.T) {
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		ctx, s := t.Context(), sqlstore.NewOrgs(db)
		svc := org.NewService(s, s, plat.SystemClock, "")
		o, err := svc.Create(ctx, "acme")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := svc.Create(ctx, "acme"); !errors.Is(err, plat.ErrExists) {
			t.Errorf("second acme = %v, want ErrExists", err)
		}
		for _, name := range []string{string(o.ID), "acme"} {
			if got, err := svc.Get(ctx, name); err != nil || got != o {
				t.Errorf("Get(%s) = %v, %v, want %v", name, got, err, o)
			}
		}
		if _, err := svc.Get(ctx, "nobody"); !errors.Is(err, plat.ErrNotFound) {
			t.Errorf("Get(nobody) = %v", err)
		}
		u, err := svc.AddUser(ctx, o.ID, "a@example.com", "A", authn.RoleDeveloper)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := svc.NewToken(ctx, u)
		if err != nil {
			t.Fatal(err)
		}
		tok, role, err := s.TokenByHash(ctx, authn.HashToken(secret))
		if err != nil || role != authn.RoleDeveloper || tok.User != u.ID || tok.Org != o.ID {
			t.Errorf("TokenByHash = %+v, %s, %v", tok, role, err)
		}
		if _, _, err := s.TokenByHash(ctx, authn.HashToken("x")); !errors.Is(err, plat.ErrNotFound) {
			t.Errorf("unknown token = %v", err)
		}
	})
}

func TestContainerTokenEndsAndExpires(t *testing.T) {
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		ctx, s := t.Context(), sqlstore.NewOrgs(db)
		o, err := org.NewService(s, s, plat.SystemClock, "").Create(ctx, "acme")
		if err != nil {
			t.Fatal(err)
		}
		want := authn.Token{
			Hash: "h", Kind: authn.KindContainer, Org: o.ID, CreatedAt: time.UnixMicro(5).UTC(),
			Scope: authn.Scope{Workload: "wl-1", Job: "17", Models: []plat.ModelID{"9"}},
		}
		if err := s.CreateToken(ctx, want); err != nil {
			t.Fatal(err)
		}
		if err := s.EndWorkloadTokens(ctx, "wl-1", time.UnixMicro(7), time.UnixMicro(9)); err != nil {
			t.Fatal(err)
		}
		got, role, err := s.TokenByHash(ctx, "h")
		if err != nil || role != "" || !got.EndedAt.Equal(time.UnixMicro(7)) || !got.ExpiresAt.Equal(time.UnixMicro(9)) || got.Scope.Job != "17" {
			t.Errorf("got %+v %q %v", got, role, err)
		}
		if err := s.DeleteExpiredTokens(ctx, time.UnixMicro(10)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.TokenByHash(ctx, "h"); !errors.Is(err, plat.ErrNotFound) {
			t.Errorf("after expiry: %v", err)
		}
	})
}

func readAll(t *testing.T, l outbox.Log, after outbox.Cursor) []outbox.Event {
	t.Helper()
	evs, err := l.Read(context.Background(), "", after, 100)
	if err != nil {
		t.Fatal(err)
	}
	return evs
}

func TestOutboxIsPartOfTheChange(t *testing.T) {
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		ctx, l := t.Context(), sqlstore.NewEvents(db)
		woken := db.Hub().Watch(ctx, "job")
		boom := errors.New("boom")
		err := db.Write(ctx, func(tx *sqlstore.Tx) error {
			if err := tx.Event(ctx, "job", "1", "created", plat.SystemClock()); err != nil {
				return err
			}
			return boom
		})
		if !errors.Is(err, boom) {
			t.Fatalf("Write = %v", err)
		}
		if evs := readAll(t, l, outbox.Cursor{}); len(evs) != 0 {
			t.Errorf("a rolled back change told of itself: %v", evs)
		}
		select {
		case <-woken:
			t.Error("a rolled back change woke its topic")
		default:
		}
		for _, what := range []string{"created", "Active", "Complete"} {
			if err := db.Write(ctx, func(tx *sqlstore.Tx) error { return tx.Event(ctx, "job", "1", what, plat.SystemClock()) }); err != nil {
				t.Fatal(err)
			}
		}
		<-woken
		evs := readAll(t, l, outbox.Cursor{})
		if len(evs) != 3 || evs[0].What != "created" || evs[2].What != "Complete" {
			t.Fatalf("events = %v", evs)
		}
		if rest := readAll(t, l, evs[1].Pos); len(rest) != 1 || rest[0].What != "Complete" {
			t.Errorf("after the second: %v", rest)
		}
		if err := l.Trim(ctx, plat.SystemClock().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if evs := readAll(t, l, outbox.Cursor{}); len(evs) != 0 {
			t.Errorf("after Trim: %v", evs)
		}
	})
}

// TestOutboxNeverPassesAnOpenTransaction holds a transaction open that has taken
// its place before another one commits. A cursor by the highest serial seen would
// skip the first writer's event for ever.
func TestOutboxNeverPassesAnOpenTransaction(t *testing.T) {
	db := sqlstoretest.Postgres(t) // SQLite has one writer: the case can't arise
	ctx, l := t.Context(), sqlstore.NewEvents(db)
	inside, release, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- db.Write(ctx, func(tx *sqlstore.Tx) error {
			if err := tx.Event(ctx, "job", "slow", "created", plat.SystemClock()); err != nil {
				return err
			}
			close(inside)
			<-release
			return nil
		})
	}()
	<-inside
	if err := db.Write(ctx, func(tx *sqlstore.Tx) error { return tx.Event(ctx, "job", "fast", "created", plat.SystemClock()) }); err != nil {
		t.Fatal(err)
	}
	var cursor outbox.Cursor
	var seen []string
	take := func() {
		for _, ev := range readAll(t, l, cursor) {
			seen, cursor = append(seen, ev.Subject), ev.Pos
		}
	}
	take()
	if len(seen) != 0 {
		t.Fatalf("read %v past an open transaction", seen)
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// Any other transaction of the server (autovacuum) may hold the horizon for a moment.
	for deadline := time.Now().Add(20 * time.Second); len(seen) < 2 && time.Now().Before(deadline); take() {
		time.Sleep(10 * time.Millisecond)
	}
	if len(seen) != 2 || seen[0] != "slow" || seen[1] != "fast" {
		t.Fatalf("seen %v, want slow then fast", seen)
	}
}

// What a transaction did before its caller gave up is not kept, and nothing more of it runs.
func TestWriteGivenUp(t *testing.T) {
	sqlstoretest.Each(t, func(t *testing.T, db *sqlstore.DB) {
		ctx, cancel := context.WithCancel(t.Context())
		const add = `INSERT INTO organization (id, name, created_at, updated_at) VALUES ($1, $2, 0, 0)`
		err := db.Write(ctx, func(tx *sqlstore.Tx) error {
			if _, err := tx.ExecContext(ctx, add, "1", "kept by nobody"); err != nil {
				t.Fatal(err)
			}
			cancel()
			_, err := tx.ExecContext(ctx, add, "2", "never begun")
			return err
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Write = %v, want context.Canceled", err)
		}
		if err := db.Write(ctx, func(*sqlstore.Tx) error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("Write of a context that has ended = %v, want context.Canceled", err)
		}
		if _, err := sqlstore.NewOrgs(db).Organization(t.Context(), "kept by nobody"); !errors.Is(err, plat.ErrNotFound) {
			t.Errorf("the row = %v, want ErrNotFound", err)
		}
	})
}
