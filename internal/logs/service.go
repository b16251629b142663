// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/semaphore"

	"panal/internal/plat"
)

// Config is a Service's settings; the zero value of each field is its default.
type Config struct {
	// TTL is how long lines stay, in whole days of ingest (30 days).
	TTL time.Duration
	// Ceiling is how many bytes on disk lines may take; at it ingest answers
	// ErrExhausted (10 GiB).
	Ceiling int64
	// Flush is the least time between two commits (50 ms): a batch that finds the
	// store idle is committed at once.
	Flush time.Duration
	// FlushBytes ends the gathering of a flush early (1 MiB).
	FlushBytes int64
	// MaxWaiting bounds the bytes of batches in memory (64 MiB); beyond it callers
	// wait for AdmitWait (2 s), then get ErrUnavailable.
	MaxWaiting int64
	AdmitWait  time.Duration
	// Repack is how often hot records are repacked (15 s).
	Repack time.Duration
	// Now is the clock (plat.SystemClock).
	Now plat.Clock
	// Log takes what background work has to say (nothing).
	Log *slog.Logger
}

const (
	lineOverhead  = 64 // what a line costs in memory beside its text, about
	repackAfter   = 8 << 20
	expireEvery   = 10 * time.Minute
	sizeFresh     = time.Second
	commitTimeout = 60 * time.Second
	commitBytes   = 64 << 10 // what a commit adds to the files beside its data, at most about
	// maxFlushBatches bounds the workloads, and with them the parameters, of a flush.
	maxFlushBatches = 4096
)

// Service ingests and reads log lines. Run must be running for Ingest to answer.
type Service struct {
	store Store
	cfg   Config
	codec *codec
	room  *semaphore.Weighted
	in    chan *waiting
	full  chan struct{} // wakes the repacker before its time
	ended chan struct{} // closed when Run has returned

	sizeMu sync.Mutex
	size   int64 // measured at sizeAt
	grown  int64 // what commits have added since, at most
	sizeAt time.Time
}

// waiting is a batch on its way to a commit.
type waiting struct {
	Batch
	key  string
	size int64
	ack  Ack
	err  error
	done chan struct{}
}

// New returns a Service over s.
func New(s Store, cfg Config) (*Service, error) {
	c, err := newCodec()
	if err != nil {
		return nil, err
	}
	cfg.TTL = cmp.Or(cfg.TTL, 30*24*time.Hour)
	cfg.Ceiling = cmp.Or(cfg.Ceiling, 10<<30)
	cfg.Flush = cmp.Or(cfg.Flush, 50*time.Millisecond)
	cfg.FlushBytes = cmp.Or(cfg.FlushBytes, 1<<20)
	cfg.MaxWaiting = max(cmp.Or(cfg.MaxWaiting, 64<<20), 4*MaxBatchBytes)
	cfg.AdmitWait = cmp.Or(cfg.AdmitWait, 2*time.Second)
	cfg.Repack = cmp.Or(cfg.Repack, 15*time.Second)
	if cfg.Now == nil {
		cfg.Now = plat.SystemClock
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{
		store: s, cfg: cfg, codec: c, room: semaphore.NewWeighted(cfg.MaxWaiting),
		in: make(chan *waiting, 256), full: make(chan struct{}, 1), ended: make(chan struct{}),
	}, nil
}

// Admit takes n bytes of the memory that batches may use, waiting a while for it;
// ErrUnavailable when there is none. The caller calls release when it is done.
// An edge does it before it reads a body.
func (s *Service) Admit(ctx context.Context, n int64) (release func(), err error) {
	n = min(n, s.cfg.MaxWaiting)
	wait, cancel := context.WithTimeout(ctx, s.cfg.AdmitWait)
	defer cancel()
	if err := s.room.Acquire(wait, n); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, plat.Errorf(plat.ErrUnavailable, "too many log lines are waiting to be written; send the batch again later")
	}
	return sync.OnceFunc(func() { s.room.Release(n) }), nil
}

// Ingest stores a batch of a workload and returns once it is durable. Lines that
// are there already are left out. ErrConflict on a gap: then the Ack says what is
// durable, and the batch belongs after it. ErrExhausted at the ceiling or when the
// disk is full, ErrUnavailable when too much waits; in both cases, and when ctx
// ends, sending the batch again is right, and stores it once.
func (s *Service) Ingest(ctx context.Context, org plat.OrgID, b Batch) (Ack, error) {
	w := &waiting{Batch: b, key: streamKey(org, b.Stream), done: make(chan struct{})}
	if err := w.check(org); err != nil {
		return Ack{}, err
	}
	release, err := s.Admit(ctx, w.size)
	if err != nil {
		return Ack{}, err
	}
	stopped := plat.Errorf(plat.ErrUnavailable, "the server is stopping; send the batch again")
	select {
	case <-s.ended:
		release()
		return Ack{}, stopped
	default:
	}
	select {
	case s.in <- w:
	case <-ctx.Done():
		release()
		return Ack{}, ctx.Err()
	case <-s.ended:
		release()
		return Ack{}, stopped
	}
	defer release()
	select {
	case <-w.done:
	case <-s.ended: // done may be closed too: the last flush came first
		select {
		case <-w.done:
		default:
			return Ack{}, stopped
		}
	}
	return w.ack, w.err
}

// check refuses what no agent of ours sends.
func (w *waiting) check(org plat.OrgID) error {
	switch {
	case !validName(string(org)) || !validName(w.Workload):
		return plat.InvalidField("workload_id", "%q is not a workload", w.Workload)
	case !validName(w.Stream):
		return plat.InvalidField("stream", "%q is not a stream", w.Stream)
	case w.FirstSeq < 1 || w.FirstSeq > 1<<60:
		return plat.InvalidField("first_seq", "lines are numbered from 1")
	}
	w.size = lineOverhead
	for i := range w.Entries {
		e := &w.Entries[i]
		switch {
		case len(e.Message) > MaxMessageBytes:
			return plat.InvalidField("entries", "the message of line %d is longer than %d bytes", w.FirstSeq+int64(i), MaxMessageBytes)
		case e.Time < 0 || e.Time >= 253402300800_000_000: // the year 10000
			return plat.InvalidField("entries", "the time of line %d is outside the years 1970 to 9999", w.FirstSeq+int64(i))
		case len(e.RequestID) > 128 || len(e.Level) > 16:
			return plat.InvalidField("entries", "the request id or level of line %d is too long", w.FirstSeq+int64(i))
		}
		if !utf8.ValidString(e.Message) {
			return plat.InvalidField("entries", "line %d is not UTF-8", w.FirstSeq+int64(i))
		}
		w.size += int64(len(e.Message)) + lineOverhead
	}
	if w.size > 8*MaxBatchBytes || len(w.Entries) > maxRecordLines {
		return plat.InvalidField("entries", "the batch is too large")
	}
	return nil
}

// validName accepts what ids and stream names are made of.
func validName(s string) bool {
	return s != "" && len(s) <= 200 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// Run commits batches and does the background work until ctx ends; batches that
// wait then are still committed.
func (s *Service) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { s.maintain(ctx) })
	s.commitLoop(ctx)
	close(s.ended)
	wg.Wait()
	return nil
}

func (s *Service) commitLoop(ctx context.Context) {
	var started time.Time // when the last flush began
	var held *waiting     // did not fit into the last flush
	hot := int64(0)       // bytes since the repacker was woken
	for {
		first := held
		if first == nil {
			select {
			case first = <-s.in:
			case <-ctx.Done():
				select { // what came before the end is still committed
				case first = <-s.in:
				default:
					return
				}
			}
		}
		var batches []*waiting
		var size int64
		batches, size, held = s.gather(ctx, first, started.Add(s.cfg.Flush))
		started = time.Now()
		s.flush(context.WithoutCancel(ctx), batches)
		if hot += size; hot >= repackAfter {
			hot = 0
			select {
			case s.full <- struct{}{}:
			default:
			}
		}
	}
}

// gather adds to first what waits already, and what comes until the given time,
// up to the size of a flush. A batch that would make it too large is held back.
func (s *Service) gather(ctx context.Context, first *waiting, until time.Time) (batches []*waiting, size int64, held *waiting) {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	for w := first; ; w = nil {
		if w == nil {
			select {
			case w = <-s.in:
			default:
				select {
				case w = <-s.in:
				case <-timer.C:
					return batches, size, nil
				case <-ctx.Done():
					return batches, size, nil
				}
			}
		}
		if len(batches) > 0 && (size+w.size > 2*s.cfg.FlushBytes || len(batches) >= maxFlushBatches) {
			return batches, size, w
		}
		if batches, size = append(batches, w), size+w.size; size >= s.cfg.FlushBytes {
			return batches, size, nil
		}
	}
}

// flush commits batches as one record and answers each.
func (s *Service) flush(ctx context.Context, batches []*waiting) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	err := s.commit(ctx, batches)
	for _, w := range batches {
		if err != nil {
			w.ack, w.err = Ack{}, err
		}
		close(w.done)
	}
}

func (s *Service) commit(ctx context.Context, batches []*waiting) error {
	used, err := s.Used(ctx)
	if err != nil {
		return err
	}
	if used >= s.cfg.Ceiling {
		return plat.Errorf(plat.ErrExhausted, "the log store is at its ceiling of %d MiB; send the batch again later: lines make room when they expire", s.cfg.Ceiling>>20)
	}
	names := make([]string, 0, len(batches))
	seen := map[string]bool{}
	for _, w := range batches {
		if !seen[w.Workload] {
			seen[w.Workload] = true
			names = append(names, w.Workload)
		}
	}
	grown := 0
	defer func() {
		s.sizeMu.Lock()
		defer s.sizeMu.Unlock()
		s.grown += int64(grown)
	}()
	return s.store.Append(ctx, s.cfg.Now(), names, func(last map[string]int64) (*Flush, error) {
		lines, now := admit(batches, last)
		if len(lines) == 0 {
			return nil, nil //nolint:nilnil // nothing new is no error: see Store.Append
		}
		data, err := s.codec.encode(lines, 0, false)
		if err != nil {
			return nil, err
		}
		r := summary(lines)
		r.Data = data
		grown = 2*len(data) + commitBytes // once in the write-ahead log, once in the table
		streams := map[string]bool{}
		for i := range lines {
			if k := lines[i].Stream; !streams[k] {
				streams[k] = true
				r.Streams = append(r.Streams, k)
			}
		}
		return &Flush{Record: r, Last: now}, nil
	})
}

// admit decides, batch by batch, what is new: it sets each batch's answer and
// returns the lines to store, positions from 0, with the workloads' new numbers.
func admit(batches []*waiting, last map[string]int64) ([]Line, map[string]int64) {
	n := 0
	for _, w := range batches {
		n += len(w.Entries)
	}
	lines, now := make([]Line, 0, n), map[string]int64{}
	for _, w := range batches {
		have, ok := now[w.Workload]
		if !ok {
			have = last[w.Workload]
		}
		w.ack, w.err = Ack{LastSeq: have}, nil
		switch skip := have + 1 - w.FirstSeq; {
		case skip < 0:
			w.err = plat.Errorf(plat.ErrConflict, "line %d is expected next, the batch starts at %d", have+1, w.FirstSeq)
		case skip < int64(len(w.Entries)):
			for _, e := range w.Entries[skip:] {
				lines = append(lines, Line{
					Pos: Pos(len(lines)), Stream: w.key, Workload: w.Workload,
					Time: e.Time, Level: cmp.Or(e.Level, "info"), Message: e.Message, RequestID: e.RequestID,
				})
			}
			w.ack.LastSeq = w.FirstSeq + int64(len(w.Entries)) - 1
			now[w.Workload] = w.ack.LastSeq
		}
	}
	return lines, now
}

// summary returns the record of lines without its data and names.
func summary(lines []Line) Record {
	r := Record{First: lines[0].Pos, Last: lines[len(lines)-1].Pos, MinTime: lines[0].Time, MaxTime: lines[0].Time, Count: len(lines)}
	for i := range lines {
		r.MinTime, r.MaxTime = min(r.MinTime, lines[i].Time), max(r.MaxTime, lines[i].Time)
	}
	return r
}

// Used returns how many bytes lines take: measured lately, plus at most what came
// since. An estimate alone never says that the ceiling is reached.
func (s *Service) Used(ctx context.Context) (int64, error) {
	s.sizeMu.Lock()
	defer s.sizeMu.Unlock()
	now := time.Now()
	if s.sizeAt.IsZero() || now.Sub(s.sizeAt) > sizeFresh || s.grown > 0 && s.size+s.grown >= s.cfg.Ceiling {
		n, err := s.store.Size(ctx)
		if err != nil {
			return 0, fmt.Errorf("measure log store: %w", err)
		}
		s.size, s.grown, s.sizeAt = n, 0, now
	}
	return s.size + s.grown, nil
}

// maintain repacks and expires.
func (s *Service) maintain(ctx context.Context) {
	repack := time.NewTicker(s.cfg.Repack)
	defer repack.Stop()
	var expired time.Time
	for {
		if time.Since(expired) >= expireEvery {
			expired = time.Now()
			s.report(ctx, "expire log days", s.Expire(ctx))
		}
		select {
		case <-ctx.Done():
			return
		case <-repack.C:
		case <-s.full:
		}
		s.report(ctx, "repack log records", s.Repack(ctx))
	}
}

func (s *Service) report(ctx context.Context, what string, err error) {
	if err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		s.cfg.Log.LogAttrs(ctx, slog.LevelError, "background work on logs failed", slog.String(plat.LogActor, what), slog.String(plat.LogError, err.Error()))
	}
}

// Expire drops the days that are past their time to live.
func (s *Service) Expire(ctx context.Context) error {
	n, err := s.store.Expire(ctx, s.cfg.Now().Add(-s.cfg.TTL))
	if err != nil {
		return err
	}
	if n > 0 {
		s.sizeMu.Lock()
		s.sizeAt = time.Time{}
		s.sizeMu.Unlock()
		s.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "log days dropped", slog.Int(plat.LogCount, n))
	}
	return nil
}
