// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"panal/internal/logs"
	"panal/internal/plat"
)

// maxOpenDays is how many files of past days stay open.
const maxOpenDays = 6

// logFiles keeps days as SQLite files DIR/2006-01-02.db, beside index.db, which
// remembers the workloads' last numbers of days that were dropped.
type logFiles struct {
	dir    string
	opener func(ctx context.Context, path string) (*DB, error)
	index  *DB

	mu    sync.Mutex
	days  []int64 // sorted
	files map[int64]*dayFile
	tick  int64
}

type dayFile struct {
	db      *DB
	refs    int
	used    int64         // tick of the last use
	dropped chan struct{} // closed by the last user; nil while the day lives
}

func openLogFiles(ctx context.Context, dir string, open func(ctx context.Context, path string) (*DB, error)) (*logFiles, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make log directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list log directory: %w", err)
	}
	f := &logFiles{dir: dir, opener: open, files: map[int64]*dayFile{}}
	for _, e := range entries {
		if t, err := time.Parse("2006-01-02.db", e.Name()); err == nil {
			f.days = append(f.days, logs.DayOf(t))
		}
	}
	slices.Sort(f.days)
	if f.index, err = open(ctx, filepath.Join(dir, "index.db")); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *logFiles) path(day int64) string {
	return filepath.Join(f.dir, dayTime(day).Format("2006-01-02")+".db")
}

// ensure never goes back before the newest file: positions only grow, whatever the
// clock does.
func (f *logFiles) ensure(ctx context.Context, day int64) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.days); n > 0 && f.days[n-1] >= day {
		return f.days[n-1], nil
	}
	if _, err := f.get(ctx, day); err != nil {
		return 0, err
	}
	f.days = append(f.days, day)
	return day, nil
}

// get returns the open file of a day, opening it. Called with the lock held.
func (f *logFiles) get(ctx context.Context, day int64) (*dayFile, error) {
	f.tick++
	if d := f.files[day]; d != nil {
		d.used = f.tick
		return d, nil
	}
	db, err := f.opener(ctx, f.path(day))
	if err != nil {
		return nil, full(err)
	}
	d := &dayFile{db: db, used: f.tick}
	f.files[day] = d
	return d, nil
}

func (f *logFiles) spans(_ context.Context, lo, hi int64) ([]daySpan, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []daySpan
	for _, d := range f.days {
		if d >= lo && d <= hi {
			out = append(out, daySpan{d, d})
		}
	}
	return out, nil
}

func (f *logFiles) open(ctx context.Context, day int64) (*DB, func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := slices.BinarySearch(f.days, day); !ok {
		return nil, nil, plat.NotFound("log day", day)
	}
	d, err := f.get(ctx, day)
	if err != nil {
		return nil, nil, err
	}
	d.refs++
	return d.db, sync.OnceFunc(func() { f.release(d) }), nil
}

func (f *logFiles) release(d *dayFile) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d.refs--; d.refs > 0 {
		return
	}
	if d.dropped != nil {
		close(d.dropped)
		return
	}
	// Of the past days that nobody uses, only those used lately stay open.
	var oldest int64
	idle := 0
	for day, x := range f.files {
		if x.refs > 0 || len(f.days) == 0 || day == f.days[len(f.days)-1] {
			continue
		}
		if idle++; oldest == 0 || x.used < f.files[oldest].used {
			oldest = day
		}
	}
	if idle > maxOpenDays {
		_ = f.files[oldest].db.Close() // it was only read, or all was committed
		delete(f.files, oldest)
	}
}

func (f *logFiles) older(ctx context.Context, day int64, workload string) (int64, error) {
	all, err := f.spans(ctx, 0, day-1)
	if err != nil {
		return 0, err
	}
	for _, d := range slices.Backward(all) {
		db, release, err := f.open(ctx, d.hi)
		if errors.Is(err, plat.ErrNotFound) {
			continue
		}
		if err != nil {
			return 0, err
		}
		n, err := lastSeq(ctx, db, workload)
		release()
		if err != nil || n > 0 {
			return n, err
		}
	}
	return lastSeq(ctx, f.index, workload)
}

func lastSeq(ctx context.Context, db *DB, workload string) (int64, error) {
	var n int64
	row := db.Read().QueryRowContext(ctx, `SELECT COALESCE(max(last_seq), 0) FROM log_workload WHERE workload = $1`, workload)
	err := db.one(row, "workload", workload, &n)
	return n, err
}

// dropBefore drops days one by one: first the workloads' numbers go to the index,
// then the file is deleted. A crash in between repeats the first, which changes
// nothing. When even the newest day goes, an empty one takes its place first:
// positions must not start again below what was there.
func (f *logFiles) dropBefore(ctx context.Context, day int64) (int, error) {
	all, err := f.spans(ctx, 0, day-1)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	if _, err := f.ensure(ctx, day); err != nil {
		return 0, err
	}
	for i, d := range all {
		if err := f.drop(ctx, d.hi); err != nil {
			return i, fmt.Errorf("drop log day: %w", err)
		}
	}
	return len(all), f.index.Write(ctx, func(tx *Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM log_workload WHERE updated_at < $1`, micros(dayTime(day).Add(-workloadMemory)))
		return err
	})
}

func (f *logFiles) drop(ctx context.Context, day int64) error {
	if err := f.remember(ctx, day); err != nil {
		return err
	}
	f.mu.Lock()
	d, err := f.get(ctx, day)
	if err != nil {
		f.mu.Unlock()
		return err
	}
	f.days = slices.DeleteFunc(slices.Clone(f.days), func(x int64) bool { return x == day })
	delete(f.files, day)
	idle := make(chan struct{})
	if d.dropped = idle; d.refs == 0 {
		close(idle)
	}
	f.mu.Unlock()
	<-idle // readers are done within a query
	err = d.db.Close()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if e := os.Remove(f.path(day) + suffix); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// remember copies a day's workload numbers to the index.
func (f *logFiles) remember(ctx context.Context, day int64) error {
	db, release, err := f.open(ctx, day)
	if err != nil {
		return err
	}
	defer release()
	type row struct {
		workload      string
		last, updated int64
	}
	all, err := scanAll(ctx, db, db.Read(), func(r interface{ Scan(...any) error }) (row, error) {
		var x row
		err := r.Scan(&x.workload, &x.last, &x.updated)
		return x, err
	}, `SELECT workload, last_seq, updated_at FROM log_workload`)
	if err != nil {
		return err
	}
	return f.index.Write(ctx, func(tx *Tx) error {
		for _, x := range all {
			_, err := tx.ExecContext(ctx, `INSERT INTO log_workload (workload, last_seq, updated_at) VALUES ($1, $2, $3)
				ON CONFLICT (workload) DO UPDATE SET last_seq = max(last_seq, excluded.last_seq), updated_at = max(updated_at, excluded.updated_at)`,
				x.workload, x.last, x.updated)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (f *logFiles) size(context.Context) (int64, error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return 0, fmt.Errorf("measure log directory: %w", err)
	}
	n := int64(0)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && strings.Contains(e.Name(), ".db") { // gone meanwhile: nothing to count
			n += info.Size()
		}
	}
	return n, nil
}

func (f *logFiles) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.index.Close()
	for _, d := range f.files {
		err = errors.Join(err, d.db.Close())
	}
	f.files, f.days = map[int64]*dayFile{}, nil
	return err
}

// isNoSpace tells whether the file system said that it is full.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
