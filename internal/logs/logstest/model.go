// SPDX-License-Identifier: Apache-2.0

package logstest

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"panal/internal/logs"
	"panal/internal/plat"
)

// modelLine is what the naive model remembers of a line.
type modelLine struct {
	Stream, Workload, Message string
	Time                      int64
	day                       int64
}

// follower holds a forward token through everything that happens.
type follower struct {
	stream, token string
	got           []modelLine
	from          int // how many lines the stream's list had when it began
}

// machine runs a service against the naive model.
type machine struct {
	t         *testing.T
	o         Opener
	store     logs.Store
	svc       *logs.Service
	stop      func()
	now       *atomic.Int64 // Unix seconds
	org       plat.OrgID
	lines     []modelLine
	expired   int64 // days before this are gone
	last      map[string]int64
	followers []*follower
}

const modelTTL = 3 * 24 * time.Hour

// model checks the service against a list of lines: random batches, duplicates,
// overlaps, gaps, repacks, restarts, days that pass and expire, and all ways of
// paging, with tokens kept through all of it.
func model(t *testing.T, h Harness) {
	o := h.New(t)
	var now atomic.Int64
	now.Store(day0().Unix())
	round := 0
	fewer(t)
	rapid.Check(t, func(rt *rapid.T) {
		round++
		m := &machine{t: t, o: o, now: &now, org: plat.OrgID(fmt.Sprintf("%013d", round)), last: map[string]int64{}}
		m.start(rt)
		defer func() { m.stop() }()
		rt.Repeat(map[string]func(*rapid.T){
			"ingest": m.ingest,
			"more":   m.ingest,
			"repack": m.repack,
			"restart": func(rt *rapid.T) {
				m.stop()
				m.start(rt)
			},
			"time":   m.pass,
			"read":   m.read,
			"recent": m.recent,
			"follow": m.follow,
			"":       func(*rapid.T) {},
		})
		m.check(rt)
	})
}

// fewer lowers rapid's default number of checks, each of which commits to a real
// disk some dozen times. A number given on the command line stays.
func fewer(t *testing.T) {
	t.Helper()
	if f := flag.Lookup("rapid.checks"); f != nil && f.Value.String() == f.DefValue {
		_ = f.Value.Set("12")
		t.Cleanup(func() { _ = f.Value.Set(f.DefValue) })
	}
}

func (m *machine) start(rt *rapid.T) {
	s, done, err := m.o()
	if err != nil {
		rt.Fatal(err)
	}
	// The background's own expiry would come at a moment that the model can't know.
	svc, stop := serve(m.t, s, logs.Config{Now: m.clock, TTL: 100 * 365 * 24 * time.Hour})
	m.svc, m.store = svc, s
	m.stop = func() {
		stop()
		if done != nil {
			if err := done(); err != nil {
				rt.Error(err)
			}
		}
		done = nil
	}
}

func (m *machine) clock() time.Time { return time.Unix(m.now.Load(), 0).UTC() }

func (m *machine) streamOf(w int) string {
	return []string{"job/1", "job/2", "service/ser-1"}[w%3]
}

func (m *machine) ingest(rt *rapid.T) {
	w := rapid.IntRange(0, 4).Draw(rt, "workload")
	name := fmt.Sprintf("wl-%s-%d", m.org, w)
	last := m.last[name]
	first := max(1, last+1+int64(rapid.IntRange(-4, 1).Draw(rt, "first")))
	n := rapid.IntRange(0, 12).Draw(rt, "n")
	b := logs.Batch{Workload: name, Stream: m.streamOf(w), FirstSeq: first}
	for i := range n {
		seq := first + int64(i)
		// Every number has one text for ever; its time depends on it alone too.
		at := day0().Add(time.Duration(seq%17-8) * 7 * time.Hour)
		b.Entries = append(b.Entries, logs.Entry{
			Time: at.UnixMicro(), Level: []string{"", "warning", "error"}[seq%3],
			Message: fmt.Sprintf("w%d n%d %s", w, seq, strings.Repeat("é", int(seq%5))),
		})
	}
	ack, err := m.svc.Ingest(m.t.Context(), m.org, b)
	if first > last+1 {
		if !errors.Is(err, plat.ErrConflict) || ack.LastSeq != last {
			rt.Fatalf("gap: %+v, %v, want ErrConflict and %d", ack, err, last)
		}
		return
	}
	want := max(last, first+int64(n)-1)
	if err != nil || ack.LastSeq != want {
		rt.Fatalf("ingest %d..%d after %d: %+v, %v", first, first+int64(n)-1, last, ack, err)
	}
	for i, e := range b.Entries {
		if seq := first + int64(i); seq > last {
			m.lines = append(m.lines, modelLine{Stream: b.Stream, Workload: name, Message: e.Message, Time: e.Time, day: logs.DayOf(m.clock())})
		}
	}
	m.last[name] = want
}

func (m *machine) repack(rt *rapid.T) {
	if err := m.svc.Repack(m.t.Context()); err != nil {
		rt.Fatal(err)
	}
}

func (m *machine) pass(rt *rapid.T) {
	m.now.Add(int64(rapid.IntRange(1, 40).Draw(rt, "hours")) * 3600)
	if rapid.Bool().Draw(rt, "expire") {
		for _, f := range m.followers { // what they have not seen yet would be gone
			m.poll(rt, f)
		}
		end := m.clock().Add(-modelTTL)
		if _, err := m.store.Expire(m.t.Context(), end); err != nil {
			rt.Fatal(err)
		}
		m.expired = logs.DayOf(end)
	}
}

// want is what the stream should hold.
func (m *machine) want(stream string, q logs.Query) []modelLine {
	out := []modelLine{}
	for _, l := range m.lines {
		if l.Stream == stream && l.day >= m.expired && strings.Contains(l.Message, q.Contains) &&
			(q.From.IsZero() || l.Time >= q.From.UnixMicro()) && (q.To.IsZero() || l.Time < q.To.UnixMicro()) {
			l.day = 0
			out = append(out, l)
		}
	}
	return out
}

func (m *machine) query(rt *rapid.T) logs.Query {
	q := logs.Query{Org: m.org, Stream: m.streamOf(rapid.IntRange(0, 2).Draw(rt, "stream")), Limit: rapid.IntRange(1, 20).Draw(rt, "limit")}
	if rapid.Bool().Draw(rt, "range") {
		q.From = day0().Add(time.Duration(rapid.IntRange(-60, 60).Draw(rt, "from")) * time.Hour)
		q.To = q.From.Add(time.Duration(rapid.IntRange(0, 80).Draw(rt, "to")) * time.Hour)
	}
	if rapid.Bool().Draw(rt, "text") {
		q.Contains = rapid.SampledFrom([]string{"n1", "é", "w2", "nothing"}).Draw(rt, "contains")
	}
	return q
}

func modelLines(list []logs.Line) []modelLine {
	out := []modelLine{}
	for _, l := range list {
		_, stream, _ := strings.Cut(l.Stream, "/")
		out = append(out, modelLine{Stream: stream, Workload: l.Workload, Message: l.Message, Time: l.Time})
	}
	return out
}

// read pages through ascending, sometimes repacking between two pages.
func (m *machine) read(rt *rapid.T) {
	q := m.query(rt)
	want, got := m.want(q.Stream, q), []modelLine{}
	for {
		p, err := m.svc.Read(m.t.Context(), q)
		if err != nil {
			rt.Fatal(err)
		}
		got = append(got, modelLines(p.Lines)...)
		if p.Next == "" {
			break
		}
		if len(p.Lines) != q.Limit {
			rt.Fatalf("a page of %d of %d with a token", len(p.Lines), q.Limit)
		}
		if len(got) > len(want) {
			break
		}
		q = logs.Query{Org: q.Org, Stream: q.Stream, Limit: q.Limit, Cursor: p.Next}
		if rapid.IntRange(0, 3).Draw(rt, "disturb") == 0 {
			m.repack(rt)
		}
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(modelLine{})); diff != "" {
		rt.Fatalf("ascending: %s", diff)
	}
}

// recent pages newest first to the oldest, and starts a follower at the top.
func (m *machine) recent(rt *rapid.T) {
	q := m.query(rt)
	want, got := m.want(q.Stream, q), []modelLine{}
	first := true
	for {
		p, err := m.svc.Read(m.t.Context(), logs.Query{Org: q.Org, Stream: q.Stream, From: q.From, To: q.To, Contains: q.Contains, Cursor: q.Cursor, Limit: q.Limit, Descending: true})
		if err != nil {
			rt.Fatal(err)
		}
		if p.Forward == "" || p.Backward == "" {
			rt.Fatal("a token is missing")
		}
		if first && q.From.IsZero() && q.Contains == "" && len(m.followers) < 3 {
			m.followers = append(m.followers, &follower{stream: q.Stream, token: p.Forward, from: len(m.all(q.Stream))})
		}
		first = false
		got = append(got, modelLines(p.Lines)...)
		if len(p.Lines) == 0 || len(got) > len(want) {
			break
		}
		// Forward from this page is the page before it.
		q.Cursor = p.Backward
		if rapid.IntRange(0, 3).Draw(rt, "disturb") == 0 {
			m.repack(rt)
		}
	}
	slices.Reverse(got)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(modelLine{})); diff != "" {
		rt.Fatalf("newest first: %s", diff)
	}
}

// all is every line a stream ever had.
func (m *machine) all(stream string) []modelLine {
	out := []modelLine{}
	for _, l := range m.lines {
		if l.Stream == stream {
			l.day = 0
			out = append(out, l)
		}
	}
	return out
}

func (m *machine) follow(rt *rapid.T) {
	for _, f := range m.followers {
		m.poll(rt, f)
	}
}

func (m *machine) poll(rt *rapid.T, f *follower) {
	for {
		p, err := m.svc.Read(m.t.Context(), logs.Query{Org: m.org, Stream: f.stream, Descending: true, Cursor: f.token, Limit: 5})
		if err != nil {
			rt.Fatal(err)
		}
		page := modelLines(p.Lines)
		slices.Reverse(page)
		f.got = append(f.got, page...)
		f.token = p.Forward
		if len(page) == 0 {
			break
		}
	}
	if diff := cmp.Diff(m.all(f.stream)[f.from:], append([]modelLine{}, f.got...), cmp.AllowUnexported(modelLine{})); diff != "" {
		rt.Fatalf("follower: %s", diff)
	}
}

func (m *machine) check(rt *rapid.T) {
	m.read(rt)
	m.recent(rt)
	m.follow(rt)
}
