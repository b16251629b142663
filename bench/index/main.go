// SPDX-License-Identifier: Apache-2.0

// Command index measures the file index on PostgreSQL: searches, counts and pages in a
// channel of many files, and commits that are answered when they are durable; beside it
// the bare JSONB table with a GIN index, on the same server, with the same files, in the
// same run. It calls the product's own store and service; the bytes of a file are kept
// in memory, so that the index alone is measured.
//
//	make bench-index BENCHFLAGS='-files 1000000'
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"panal/internal/lake"
	"panal/internal/lake/query"
	"panal/internal/plat"
	"panal/internal/sqlstore"
	"panal/internal/sqlstore/postgres"
)

type options struct {
	files, queries, clients int
	commits                 time.Duration
	json                    string
}

func main() {
	var o options
	flag.IntVar(&o.files, "files", 1_000_000, "files in the channel")
	flag.IntVar(&o.queries, "queries", 200, "how often each query runs, with other values each time")
	flag.IntVar(&o.clients, "clients", 256, "uploads at once")
	flag.DurationVar(&o.commits, "commits", 20*time.Second, "how long commits are measured")
	flag.StringVar(&o.json, "json", "", "also write the figures to this file")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Hour)
	err := run(ctx, o)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const channel, org = plat.ChannelID("1000000000001"), plat.OrgID("1000000000000")

type bench struct {
	o     options
	db    *sqlstore.DB
	store *sqlstore.Lake
	pid   int // the PostgreSQL server's first process
	r     *rand.Rand
	mid   []int64 // upload times about the middle
}

// row is one line of the result.
type row struct {
	Name   string  `json:"name"`
	P50    float64 `json:"p50_ms"`
	P95    float64 `json:"p95_ms"`
	Bar    float64 `json:"bar_ms,omitempty"`       // on P95
	GinP50 float64 `json:"jsonb_p50_ms,omitempty"` // 0: not asked
	GinP95 float64 `json:"jsonb_p95_ms,omitempty"`
	Rows   float64 `json:"mean_rows"` // listed or counted
}

type result struct {
	Files   int          `json:"files"`
	Load    float64      `json:"load_files_per_second"`
	Sizes   []tableSize  `json:"tables"`
	Queries []row        `json:"queries"`
	Commits []commitRate `json:"commits"`
}

type tableSize struct {
	Name  string `json:"table"`
	Bytes int64  `json:"bytes"` // with its indexes
}

func run(ctx context.Context, o options) (err error) {
	dsn := os.Getenv("PANAL_TEST_POSTGRES")
	if dsn == "" {
		return errors.New("PANAL_TEST_POSTGRES is not set: run under scripts/with-postgres, as make bench-index does")
	}
	db, err := postgres.Open(ctx, dsn, 16, "outbox", "lake")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	b := &bench{o: o, db: db, store: sqlstore.NewLake(db, plat.SystemClock), r: rand.New(rand.NewPCG(1, 2))}
	if b.pid, err = b.postmaster(ctx); err != nil {
		return err
	}
	if err := b.store.CreateChannel(ctx, lake.Channel{ID: channel, Org: org, CreatedAt: plat.SystemClock()}); err != nil {
		return err
	}
	res := result{Files: o.files}
	if res.Load, err = b.load(ctx); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	if err := b.loadJSONB(ctx); err != nil {
		return fmt.Errorf("load JSONB: %w", err)
	}
	if res.Sizes, err = b.sizes(ctx); err != nil {
		return err
	}
	if res.Queries, err = b.measure(ctx); err != nil {
		return err
	}
	res.print(os.Stdout)
	if res.Commits, err = b.commits(ctx); err != nil {
		return err
	}
	printCommits(os.Stdout, res.Commits)
	if o.json == "" {
		return nil
	}
	out, err := json.MarshalIndent(res, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.json, append(out, '\n'), 0o600)
}

// -- the files

var words = strings.Fields("blurred night rain dirty lens overexposed scratch dent crack belt left right upper lower corner edge shadow glare dust oil fiber pin hole bent short long clean rework checked twice operator shift early late warm cold loud stopped slow fast")

// draw makes the metadata of the n-th file: keys with 3, 10, 200 and about 1,000
// values, one that is unique and one of free text.
func draw(r *rand.Rand, n int) lake.Metadata {
	split := "train"
	switch r.IntN(10) {
	case 0:
		split = "val"
	case 1:
		split = "test"
	}
	return lake.Metadata{
		"filename": fmt.Sprintf("line-%d/IMG_%07d.jpg", n%7, n),
		"label":    fmt.Sprint(r.IntN(10)),
		"split":    split,
		"camera":   fmt.Sprintf("cam%03d", r.IntN(200)),
		"score":    fmt.Sprintf("0.%03d", r.IntN(1000)),
		"note":     words[r.IntN(len(words))] + " " + words[r.IntN(len(words))] + " " + words[r.IntN(len(words))],
	}
}

// load commits all files through the store, in batches as the service makes them under
// load, and returns how many a second.
func (b *bench) load(ctx context.Context) (float64, error) {
	start := time.Now()
	const batch, writers = 500, 2
	type chunk struct{ from, to int }
	work := make(chan chunk)
	errs := make(chan error, writers)
	for w := range writers {
		r := rand.New(rand.NewPCG(uint64(w), 7))
		go func() {
			for c := range work {
				files := make([]lake.NewFile, 0, batch)
				for n := c.from; n < c.to; n++ {
					files = append(files, lake.NewFile{File: lake.File{
						ID: plat.NewFileID(plat.SystemClock()), Channel: channel, Size: 200,
						ETag: "d41d8cd98f00b204e9800998ecf8427e", ContentType: "image/jpeg", Metadata: draw(r, n),
					}})
				}
				if _, err := b.store.Commit(ctx, files); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	var failed error
	left := writers
feed:
	for from := 0; from < b.o.files; from += batch {
		select {
		case work <- chunk{from, min(from+batch, b.o.files)}:
		case failed = <-errs:
			left--
			break feed
		}
		if from%100_000 == 0 && from > 0 {
			fmt.Fprintf(os.Stderr, "loaded %d files, %.0f/s\n", from, float64(from)/time.Since(start).Seconds())
		}
	}
	close(work)
	for range left {
		failed = errors.Join(failed, <-errs)
	}
	rate := float64(b.o.files) / time.Since(start).Seconds()
	if failed != nil {
		return 0, failed
	}
	// What autovacuum does in time, so that the plans are those of a table that has stood a while.
	if err := b.exec(ctx, `VACUUM ANALYZE file`, `VACUUM ANALYZE posting`, `VACUUM ANALYZE file_delta`); err != nil {
		return 0, err
	}
	rows, err := b.db.Read().QueryContext(ctx, `SELECT at FROM file ORDER BY at LIMIT $1 OFFSET $2`, b.o.queries, b.o.files/2)
	if err != nil {
		return 0, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var at int64
		if err := rows.Scan(&at); err != nil {
			return 0, err
		}
		b.mid = append(b.mid, at)
	}
	return rate, rows.Err()
}

// loadJSONB makes what one would write without Panal.
func (b *bench) loadJSONB(ctx context.Context) error {
	return b.exec(ctx,
		`CREATE TABLE bare (at BIGINT PRIMARY KEY, id TEXT NOT NULL, size BIGINT NOT NULL, etag TEXT NOT NULL, content_type TEXT NOT NULL, metadata JSONB NOT NULL)`,
		`INSERT INTO bare SELECT at, id, size, etag, content_type, metadata::jsonb FROM file`,
		`CREATE INDEX bare_metadata ON bare USING gin (metadata jsonb_path_ops)`,
		`VACUUM ANALYZE bare`)
}

func (b *bench) exec(ctx context.Context, stmts ...string) error {
	for _, s := range stmts {
		if _, err := b.db.Read().ExecContext(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

func (b *bench) sizes(ctx context.Context) ([]tableSize, error) {
	var all []tableSize
	for _, t := range []string{"file", "posting", "bare"} {
		s := tableSize{Name: t}
		if err := b.db.Read().QueryRowContext(ctx, `SELECT pg_total_relation_size($1)`, t).Scan(&s.Bytes); err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// -- the queries

// shape is one kind of question: ask draws one and answers how many rows it gave.
type shape struct {
	name string
	bar  float64
	q    func(i int) (text, gin string) // gin "": not asked
	ask  func(ctx context.Context, q query.Node, i int) (int64, error)
	bare string // $1 is gin
}

func (b *bench) list(ctx context.Context, q query.Node, after *lake.Position) (int64, error) {
	page, _, err := b.store.Files(ctx, lake.Search{Filter: lake.Filter{Channel: channel, Query: q}, After: after, Limit: 100}, time.Now())
	return int64(len(page)), err
}

func (b *bench) measure(ctx context.Context) ([]row, error) {
	first := func(ctx context.Context, q query.Node, _ int) (int64, error) { return b.list(ctx, q, nil) }
	middle := func(ctx context.Context, q query.Node, i int) (int64, error) {
		return b.list(ctx, q, &lake.Position{At: b.mid[i%len(b.mid)]})
	}
	count := func(ctx context.Context, q query.Node, _ int) (int64, error) {
		return b.store.Count(ctx, lake.Filter{Channel: channel, Query: q}, time.Now())
	}
	all := func(int) (string, string) { return "", "{}" }
	label := func(int) (string, string) {
		l := b.r.IntN(10)
		return fmt.Sprintf("label:%d", l), fmt.Sprintf(`{"label":"%d"}`, l)
	}
	camera := func(int) (string, string) {
		c := b.r.IntN(200)
		return fmt.Sprintf("camera:cam%03d", c), fmt.Sprintf(`{"camera":"cam%03d"}`, c)
	}
	three := func(int) (string, string) {
		c, l := b.r.IntN(200), b.r.IntN(10)
		return fmt.Sprintf("label:%d AND camera:cam%03d AND split:val", l, c), fmt.Sprintf(`{"label":"%d","camera":"cam%03d","split":"val"}`, l, c)
	}
	dense := func(int) (string, string) {
		l := b.r.IntN(10)
		return fmt.Sprintf("split:train AND label:%d", l), fmt.Sprintf(`{"split":"train","label":"%d"}`, l)
	}
	name := func(int) (string, string) {
		n := b.r.IntN(b.o.files)
		file := fmt.Sprintf("line-%d/IMG_%07d.jpg", n%7, n)
		return fmt.Sprintf("filename:%q", file), fmt.Sprintf(`{"filename":%q}`, file)
	}
	not := func(int) (string, string) {
		return fmt.Sprintf("camera:cam%03d AND NOT split:train", b.r.IntN(200)), ""
	}
	const page, counted = ` ORDER BY at LIMIT 101`, `SELECT count(*) FROM bare WHERE metadata @> $1::jsonb`
	const listed = `SELECT id, size, etag, content_type, metadata, at FROM bare WHERE metadata @> $1::jsonb`
	shapes := []shape{
		{"search, one file by its name", 20, name, first, listed + page},
		{"search, 3 terms, 1 in 20,000", 20, three, first, listed + page},
		{"search, camera, 1 in 200", 20, camera, first, listed + page},
		{"search, camera AND NOT split", 20, not, first, ""},
		{"search, text, 2 words", 20, func(int) (string, string) {
			return "note:" + words[b.r.IntN(len(words))] + " AND note:" + words[b.r.IntN(len(words))], ""
		}, first, ""},
		{"search, label, 1 in 10", 0, label, first, listed + page},
		{"search, 2 dense terms", 0, dense, first, listed + page},
		{"count, 3 terms, 1 in 20,000", 100, three, count, counted},
		{"count, camera, 1 in 200", 100, camera, count, counted},
		{"count, camera AND NOT split", 100, not, count, ""},
		{"count, label, 1 in 10", 0, label, count, counted},
		{"count, 2 dense terms", 0, dense, count, counted},
		{"count, unfiltered", 5, all, count, `SELECT count(*) FROM bare WHERE $1::jsonb IS NOT NULL`},
		{"page in the middle, unfiltered", 20, all, middle, `SELECT id, size, etag, content_type, metadata, at FROM bare WHERE $1::jsonb IS NOT NULL AND at > $2` + page},
		{"page in the middle, label", 20, label, middle, listed + ` AND at > $2` + page},
		{"page in the middle, camera", 20, camera, middle, listed + ` AND at > $2` + page},
	}
	var out []row
	for _, s := range shapes {
		r, err := b.shape(ctx, s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// shape asks both sides the same question in turns, so that both meet the same machine.
func (b *bench) shape(ctx context.Context, s shape) (row, error) {
	out := row{Name: s.name, Bar: s.bar}
	var ours, gin []time.Duration
	rows := int64(0)
	n, spent := 0, time.Now()
	for i := 0; i < b.o.queries && (i < 20 || time.Since(spent) < time.Minute); i++ {
		text, bare := s.q(i)
		q, err := lake.ParseQuery(text)
		if err != nil {
			return out, err
		}
		start := time.Now()
		got, err := s.ask(ctx, q, i)
		if err != nil {
			return out, err
		}
		took := time.Since(start)
		n++
		rows += got
		var bareTook time.Duration
		if s.bare != "" {
			args := []any{bare}
			if strings.Contains(s.bare, "$2") {
				args = append(args, b.mid[i%len(b.mid)])
			}
			start = time.Now()
			if err := b.drain(ctx, s.bare, args...); err != nil {
				return out, err
			}
			bareTook = time.Since(start)
		}
		if i < 3 { // the first meet a cold cache and unprepared statements
			continue
		}
		ours = append(ours, took)
		if s.bare != "" {
			gin = append(gin, bareTook)
		}
	}
	out.P50, out.P95 = quantile(ours, 0.5), quantile(ours, 0.95)
	out.GinP50, out.GinP95 = quantile(gin, 0.5), quantile(gin, 0.95)
	out.Rows = float64(rows) / float64(n)
	return out, nil
}

func (b *bench) drain(ctx context.Context, stmt string, args ...any) error {
	rows, err := b.db.Read().QueryContext(ctx, stmt, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	cols, err := rows.Columns()
	if err != nil {
		return err
	}
	into := make([]any, len(cols))
	for i := range into {
		into[i] = new(any)
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
	}
	return rows.Err()
}

func quantile(d []time.Duration, q float64) float64 {
	if len(d) == 0 {
		return 0
	}
	d = slices.Clone(d)
	slices.Sort(d)
	return float64(d[int(q*float64(len(d)-1)+0.5)].Microseconds()) / 1000
}
