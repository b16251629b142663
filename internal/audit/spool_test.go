// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"panal/internal/audit"
	"panal/internal/plat"
)

// away is a store whose database comes and goes.
type away struct {
	audit.Store
	mu   sync.Mutex
	gone bool
	rows map[string]audit.Row
}

// Append implements audit.Store.
func (s *away) Append(_ context.Context, rows []audit.Row) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return plat.Errorf(plat.ErrUnavailable, "the database is away")
	}
	for _, r := range rows {
		s.rows[r.ID] = r
	}
	return nil
}

func (s *away) List(context.Context, audit.Query) ([]audit.Row, bool, error) { return nil, false, nil }

func (s *away) set(gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = gone
}

// TestRowsOutliveTheDatabase: calls made while it is away leave their rows, also over a
// restart and a line that a crash has cut.
func TestRowsOutliveTheDatabase(t *testing.T) {
	store := &away{rows: map[string]audit.Row{}}
	path := filepath.Join(t.TempDir(), "audit.spool")
	row := func(n int) audit.Row {
		return audit.Row{Org: "1", Time: time.UnixMicro(int64(n)).UTC(), ID: fmt.Sprint("r", n), Operation: "upload-file", Targets: map[string]string{"a": "ü\n"}}
	}
	s := audit.New(audit.Config{Store: store, Spool: path})
	settled := func(want int) {
		t.Helper()
		if n, err := s.Settle(t.Context()); err != nil || n != want {
			t.Errorf("settled %d, %v; want %d", n, err, want)
		}
	}
	settled(0)
	s.Record(t.Context(), row(0))
	store.set(true)
	var calls sync.WaitGroup
	for n := 1; n <= 5; n++ {
		calls.Go(func() { s.Record(t.Context(), row(n)) })
	}
	calls.Wait()
	if _, err := s.Settle(t.Context()); err == nil {
		t.Error("settled while the database was away")
	}
	s.Record(t.Context(), row(6)) // while a part is on its way

	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"Org":"1","ID":"cut`); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	s = audit.New(audit.Config{Store: store, Spool: path}) // a restart
	s.Record(t.Context(), row(7))
	store.set(false)
	settled(7)
	settled(0)
	for n := range 8 {
		got, want := store.rows[fmt.Sprint("r", n)], row(n)
		if got.ID != want.ID || !got.Time.Equal(want.Time) || got.Targets["a"] != want.Targets["a"] {
			t.Errorf("row %d is %+v", n, got)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) > 0 || len(store.rows) != 8 {
		t.Errorf("left %v, %v; %d rows", left, err, len(store.rows))
	}
}

// TestSpoolFirst: rows are durable in the file, listed at once, and handed on many at a
// time, also by who comes after a crash.
func TestSpoolFirst(t *testing.T) {
	store := &away{rows: map[string]audit.Row{}}
	path := filepath.Join(t.TempDir(), "audit.spool")
	s := audit.New(audit.Config{Store: store, Spool: path, SpoolFirst: true})
	row := func(n int) audit.Row {
		return audit.Row{Org: "1", Time: time.UnixMicro(int64(n)).UTC(), ID: fmt.Sprint("r", n), Operation: "upload-file"}
	}
	var calls sync.WaitGroup
	for n := range 50 {
		calls.Go(func() {
			s.Record(t.Context(), row(n))
			if n%10 == 0 { // others drain meanwhile
				_, _ = s.Settle(t.Context())
			}
		})
	}
	calls.Wait()
	s.Record(t.Context(), row(50))
	if len(store.rows) == 51 {
		t.Error("the last row did not wait in the file")
	}
	if _, _, err := s.List(t.Context(), audit.Query{Org: "1"}); err != nil || len(store.rows) != 51 {
		t.Errorf("after a listing %d rows are stored, %v; want 51", len(store.rows), err)
	}
	s.Record(t.Context(), row(51))
	s = audit.New(audit.Config{Store: store, Spool: path, SpoolFirst: true}) // a crash
	if n, err := s.Settle(t.Context()); n != 1 || err != nil {
		t.Errorf("settled %d, %v after a crash; want 1", n, err)
	}
	if err := os.Mkdir(path, 0o700); err != nil { // the file can't be written
		t.Fatal(err)
	}
	if s.Record(t.Context(), row(52)); len(store.rows) != 53 {
		t.Errorf("%d rows are stored, want 53: without the file the store takes them", len(store.rows))
	}
}
